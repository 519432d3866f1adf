"""Every command; each body is one call."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tspbench import __version__
from tspbench.cli_group import Group
from tspbench.cli_options import (
    Changes,
    ClassScores,
    DatasetName,
    Device,
    EncoderName,
    GroundTruthFiles,
    Kind,
    LocalizerName,
    OptionalGroundTruthFiles,
    Out,
    OwnEncoders,
    OwnLocalizer,
    Precision,
    ProposalFiles,
    ProtocolName,
    References,
    ReportFormat,
    Seed,
    Sound,
    Subset,
    TaskName,
    TrainedTaskName,
    Unknown,
    UnknownVideos,
)
from tspbench.data_cli import app as data_app
from tspbench.study_cli import app as study_app

# ruff: noqa: PLC0415 - `--help` of any command must not load torch: each command imports what it needs


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Does this way of pretraining a video encoder give better features for finding things in time?",
)


app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")


def main() -> None:
    """Run the command line."""
    # Threads that wait by spinning slow each other down many times over as soon as another program wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(out: Out = Path("runs/demo"), changes: Changes = None, device: Device = "auto") -> None:
    """Run the whole benchmark on generated videos, ending with the table.

    Example: tspbench demo --out runs/demo-seed1 --set seed=1
    """
    from tspbench.verbs import run_recipe

    run_recipe("demo", out, changes or [], device)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME.")] = None,
    changes: Changes = None,
    device: Device = "auto",
) -> None:
    """Run a whole experiment; what is finished is skipped.

    Example: tspbench run smoke --out runs/smoke
    """
    from tspbench.verbs import run_recipe

    run_recipe(recipe, out or Path("runs") / Path(recipe).stem, changes or [], device)


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME.")] = None,
    changes: Changes = None,
    device: Device = "auto",
) -> None:
    """Say what a recipe would do, what is missing and how to get it, and what it will cost here, without doing it.

    Example: tspbench check activitynet-tal --set data.videos=/videos/activitynet
    """
    from tspbench.verbs import check_recipe

    check_recipe(recipe, out or Path("runs") / Path(recipe).stem, changes or [], device)


@app.command()
def pretrain(
    dataset: DatasetName,
    method: Annotated[str, typer.Option("--method", help="tac, tsp or lofi; see `tspbench list methods`.")],
    encoder: Annotated[str, typer.Option("--encoder", help="See `tspbench list encoders`, or file.py:ClassName.")],
    out: Out,
    init: Annotated[
        str | None,
        typer.Option("--init", help="Initial weights: random, kinetics, imagenet or a file; default: published ones."),
    ] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option("--memory-budget", metavar="GIB", help="lofi: the finest fidelity whose step fits is taken."),
    ] = None,
    changes: Changes = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Pretrain an encoder on a data set's videos.

    Example: tspbench pretrain --dataset my-videos --method tsp --encoder r2plus1d_18 --out runs/tsp
    """
    from tspbench.verbs import pretrain_encoder

    pretrain_encoder(
        dataset,
        method,
        encoder,
        out,
        init=init,
        memory_gib=memory_budget,
        changes=changes or [],
        seed=seed,
        device=device,
    )


@app.command()
def extract(
    out: Annotated[Path, typer.Option("--out", help="H5 file to write.")],
    encoder: EncoderName = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights: ours, released TSP, or a state dict.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="A folder with a dataset.toml, or synthetic.")
    ] = None,
    videos: Annotated[
        list[Path] | None, typer.Option("--videos", help="A video or a folder of videos; repeatable.")
    ] = None,
    stride_frames: Annotated[
        int | None, typer.Option("--stride-frames", min=1, help="Frames between clips; default: the clip's length.")
    ] = None,
    class_scores: Annotated[
        Path | None, typer.Option("--class-scores", help="Also write the action head's scores of each video (JSON).")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave unreadable videos out, listed in the file.")
    ] = False,
    precision: Annotated[Precision, typer.Option("--precision", help="bf16 is faster on a GPU.")] = Precision.FP32,
    device: Device = "auto",
) -> None:
    """Extract H5 features from videos.

    Example: tspbench extract --checkpoint encoder.safetensors --videos clips/ --stride-frames 16 --out F.h5
    """
    from tspbench.verbs import extract_features

    extract_features(
        encoder,
        checkpoint,
        dataset,
        videos or [],
        out,
        stride_frames=stride_frames,
        class_scores_out=class_scores,
        skip_unreadable=skip_unreadable,
        precision=precision.value,
        device=device,
    )


@app.command()
def evaluate(
    task: TrainedTaskName,
    dataset: DatasetName,
    features: Annotated[
        list[str], typer.Option("--features", metavar="NAME=F.h5[,G.h5]", help="A row: name and H5 files; repeatable.")
    ],
    out: Out,
    localizer: LocalizerName = None,
    class_scores: ClassScores = None,
    proposals: ProposalFiles = None,
    sound: Sound = None,
    references: References = None,
    changes: Changes = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train, predict and score a localizer or captioner on each feature set; one table.

    Example: tspbench evaluate --task tal --dataset D --features tac=TAC.h5 --features tsp=TSP.h5 --out runs/table
    """
    from tspbench.verbs import evaluate_features

    evaluate_features(
        task.value,
        dataset,
        features,
        out,
        localizer=localizer,
        class_scores=class_scores,
        proposals=proposals or [],
        sound=sound,
        references=[reference.value for reference in references or []],
        changes=changes or [],
        seed=seed,
        device=device,
    )


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos, or folders of videos.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of a finished run, demo or evaluate.")],
    row: Annotated[str | None, typer.Option("--row", help="Row of its table; default: the best one.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="Weights of an encoder outside the run; repeatable.")
    ] = None,
    encoder: OwnEncoders = None,
    localizer: OwnLocalizer = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: RUN/predictions/ROW.")] = None,
    device: Device = "auto",
) -> None:
    """Find actions in videos of your own: segments (JSON, CSV), subtitles and a picture of each.

    Example: tspbench predict jump.mp4 clips/ --run runs/demo
    """
    from tspbench.verbs import predict_videos

    predict_videos(
        videos,
        run,
        row=row,
        checkpoints=checkpoint or [],
        encoders=encoder or [],
        localizer=localizer,
        out=out,
        device=device,
    )


@app.command()
def score(
    task: TaskName,
    predictions: Annotated[Path, typer.Option("--predictions", help="ActivityNet, THUMOS14 or densevid submission.")],
    ground_truth: GroundTruthFiles,
    subset: Subset = "validation",
    protocol: ProtocolName = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="List of the classes (JSON or text); default: the annotations'.")
    ] = None,
    unknown_videos: Unknown = UnknownVideos.REFUSE,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also the average precision of each class.")] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="Also 95 % intervals, by resampling videos.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")] = None,
) -> None:
    """Score a prediction file; needs no torch.

    Example: tspbench score --task tal --predictions P.json --ground-truth G.json --json score.json
    """
    from tspbench.scoring_verbs import score_predictions

    score_predictions(
        task.value,
        predictions,
        ground_truth,
        subset,
        protocol,
        labels=labels,
        unknown=unknown_videos.value,
        per_class=per_class,
        intervals=intervals,
        json_out=json,
    )


@app.command()
def compare(
    task: TaskName,
    a: Annotated[str, typer.Argument(metavar="A.json", help="Predictions; several seeds with commas between them.")],
    b: Annotated[str, typer.Argument(metavar="B.json", help="Predictions; several seeds with commas between them.")],
    ground_truth: OptionalGroundTruthFiles = None,
    subset: Subset = "validation",
    protocol: ProtocolName = None,
    unknown_videos: Unknown = UnknownVideos.REFUSE,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")] = None,
) -> None:
    """Say whether B is better than A: paired bootstrap over the videos, and over seeds where there are several.

    The statistics.npz of a finished run may stand for predictions, and then need no ground truth.

    Example: tspbench compare tac.json tsp.json --task tal --ground-truth G.json
    """
    from tspbench.scoring_verbs import compare_predictions

    compare_predictions(
        task.value, a, b, ground_truth or [], subset, protocol, unknown=unknown_videos.value, json_out=json
    )


@app.command()
def diagnose(
    predictions: Annotated[Path, typer.Option("--predictions", help="ActivityNet or THUMOS14 detections.")],
    ground_truth: GroundTruthFiles,
    out: Annotated[Path, typer.Option("--out", help="Folder for tables, numbers and figure.")],
    subset: Subset = "validation",
    protocol: ProtocolName = None,
    unknown_videos: Unknown = UnknownVideos.REFUSE,
) -> None:
    """Profile the errors of detections (DETAD): false positives by kind, sensitivity by length, coverage and number.

    Example: tspbench diagnose --predictions P.json --ground-truth G.json --out runs/diagnosis
    """
    from tspbench.scoring_verbs import diagnose_predictions

    diagnose_predictions(predictions, ground_truth, subset, protocol, out, unknown=unknown_videos.value)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    form: Annotated[
        ReportFormat, typer.Option("--format", help="Markdown tables, or one HTML page of all runs.")
    ] = ReportFormat.MD,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML page; default: report.html in the run's folder, of several here.")
    ] = None,
) -> None:
    """Write the tables of runs again from their records, finished or not, or show them on one HTML page.

    Example: tspbench report runs/demo --format html
    """
    from tspbench.verbs import report_runs

    report_runs(folders, form.value, out)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="See `tspbench list files`.")]) -> None:
    """Fetch released weights, features or annotations by name: resumed, and verified before use.

    Example: tspbench fetch r2plus1d_34-tsp_on_activitynet
    """
    from tspbench.data_verbs import fetch_entry

    fetch_entry(name)


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what there is of a kind.

    Example: tspbench list encoders
    """
    from tspbench.listing import list_kind

    list_kind(kind.value)


@app.command()
def doctor() -> None:
    """Check this machine; each line that fails comes with the command that mends it.

    Example: tspbench doctor
    """
    from tspbench.doctor import print_findings

    raise typer.Exit(0 if print_findings() else 1)
