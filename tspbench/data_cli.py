"""The commands below `tspbench data`; each body is one call."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

# ruff: noqa: PLC0415 - `--help` of any command must not load torch: each command imports what it needs


class FeatureFormat(StrEnum):
    """How a feature set lies on disk."""

    TSPBENCH = "tspbench"
    TSP = "tsp"
    NPY = "npy"


class Layout(StrEnum):
    """Which axis of an .npy file is time."""

    TIME_FIRST = "time-first"
    CHANNELS_FIRST = "channels-first"


Target = Annotated[str, typer.Argument(metavar="DATASET", help="A folder with a dataset.toml, or a benchmark's name.")]
Videos = Annotated[Path | None, typer.Option("--videos", help="Folder of the videos; default: the one in the folder.")]
Name = Annotated[str | None, typer.Option("--name", help="How tables call the set; default: the folder's name.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Videos in work at once; default: all cores.")]
ClipSeconds = Annotated[
    float, typer.Option("--clip-seconds", min=0.001, help="Length of a clip; default: 16 frames at 15 a second.")
]
CLIP_SECONDS = 16 / 15

app = typer.Typer(invoke_without_command=True, help="Prepare and check data: your own, or a benchmark's.")


@app.callback()
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with videos and annotations.")],
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="CSV of video, start, end, label, or ActivityNet JSON.")
    ] = None,
    videos: Videos = None,
    name: Name = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="See `tspbench list protocols`; default: by the classes.")
    ] = None,
) -> None:
    """Make a folder of videos and annotations a data set: write its dataset.toml.

    Example: tspbench data init my-videos
    """
    from tspbench.data_verbs import init_data

    init_data(folder, annotations, videos, name, protocol)


@app.command("import")
def import_(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Files or folders; training=FILE says what a file is for.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set to write.")],
    name: Name = None,
    videos: Videos = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="See `tspbench list protocols`; default: by the classes.")
    ] = None,
) -> None:
    """Make a data set of published annotations: TSP's CSVs, THUMOS14's texts, ActivityNet, ActivityNet Captions.

    Example: tspbench data import training=train_tsp.csv validation=valid_tsp.csv --out data/activitynet
    """
    from tspbench.data_verbs import import_data

    import_data(sources, out, name, videos, protocol)


@app.command()
def scan(
    dataset: Target,
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds that a file may take.")] = 10.0,
    workers: Workers = None,
) -> None:
    """Decode the first, middle and last second of every video; write a manifest with a quarantine list.

    Example: tspbench data scan my-videos
    """
    from tspbench.data_verbs import scan_data

    raise typer.Exit(0 if scan_data(dataset, deadline, workers) else 1)


@app.command()
def lint(dataset: Target, clip_seconds: ClipSeconds = CLIP_SECONDS) -> None:
    """Find mistakes in annotations and splits before anything is trained.

    Example: tspbench data lint my-videos
    """
    from tspbench.data_verbs import lint_data

    raise typer.Exit(0 if lint_data(dataset, clip_seconds) else 1)


@app.command()
def segments(
    dataset: Target,
    out: Annotated[Path, typer.Option("--out", help="Folder for training.csv and validation.csv.")],
    shortest_gap_clips: Annotated[
        float | None,
        typer.Option("--shortest-gap-clips", min=0.0, help="Background lasts so long; default: 1 on THUMOS14, else 5."),
    ] = None,
    clip_seconds: ClipSeconds = CLIP_SECONDS,
    metadata: Annotated[
        list[Path] | None,
        typer.Option("--metadata", help="CSV of TSP with the lengths of the videos, in place of a scan; repeatable."),
    ] = None,
    as_released: Annotated[
        bool, typer.Option("--as-released", help="Repeat a slip of TSP's files where actions lie in others.")
    ] = False,
) -> None:
    """Write the ground truth of TSP: actions and the background between them, in its CSV columns.

    Example: tspbench data segments activitynet --out segments/
    """
    from tspbench.data_verbs import cut_segments

    cut_segments(dataset, out, shortest_gap_clips, clip_seconds, metadata or [], as_released=as_released)


@app.command()
def standardize(
    dataset: Target,
    out: Annotated[Path, typer.Option("--out", help="Folder for the new videos.")],
    workers: Workers = None,
) -> None:
    """Write the videos again as mp4 of constant 30 frames a second, as TSP's authors did; nothing here needs it.

    Example: tspbench data standardize my-videos --out my-videos-30fps
    """
    from tspbench.data_verbs import standardize_data

    raise typer.Exit(0 if standardize_data(dataset, out, workers) else 1)


@app.command()
def features(
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="H5 files of one set, or a folder of .npy.")
    ],
    out: Annotated[Path, typer.Option("--out", help="H5 file or folder to write.")],
    to: Annotated[FeatureFormat, typer.Option("--format", help="What to write.")] = FeatureFormat.TSPBENCH,
    layout: Annotated[Layout | None, typer.Option("--layout", help="Of .npy files: which axis is time.")] = None,
    prefix: Annotated[
        bool | None, typer.Option("--prefix/--no-prefix", help="Write names with v_ or without; default: as they are.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Check the rows against the lengths of its videos.")
    ] = None,
    row: Annotated[
        tuple[int, int, float] | None,
        typer.Option("--row", metavar="CLIP STRIDE RATE", help="What a row is: frames of a clip, stride, frames/s."),
    ] = None,
    row_seconds: Annotated[
        float | None, typer.Option("--row-seconds", help="Seconds between rows, to check the files by.")
    ] = None,
) -> None:
    """Convert features: H5 files of ours or TSP's, folders of .npy of ActionFormer and OpenTAD.

    Example: tspbench data features actionformer/ --layout time-first --out tsp.h5 --row 16 16 15
    """
    from tspbench.data_verbs import convert

    convert(
        source,
        out,
        to=to.value,
        layout=layout.value if layout else None,
        prefixed=prefix,
        dataset=dataset,
        row=row or (None, None, None),
        row_seconds=row_seconds,
    )
