"""What a finished run, and features, tell: tables, the page, videos of one's own, the feature study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tspbench.api.inputs import (
    Place,
    Places,
    at_least,
    feature_rows,
    found,
    joined_device,
    needed,
    opened,
    paths,
    texts,
)
from tspbench.progress import progress
from tspbench.report import ResultTable, result_table
from tspbench.stages.study_tables import Study

if TYPE_CHECKING:
    from tspbench.video_prediction import VideoPredictions

# ruff: noqa: PLC0415 - `report` must not wait for torch, which the others load


def report(run: Place) -> ResultTable:
    """Return the table of a run from its records, finished or not; nothing is written.

    Raises:
        UserError: the folder is not a run, or its rows' scores do not mean the same.

    Example:
        >>> api.report("runs/table").header[:2]
        ['features', 'mAP@0.50']
    """
    return result_table(Path(run))


def page(runs: Places, out: Place | None = None) -> Path:
    """Write one HTML page of runs, which needs no server and no network, as `tspbench report --format html` does.

    Args:
        runs: folders of runs.
        out: the file; report.html if None, in the run's folder if it is one run, else here.

    Raises:
        UserError: a folder is not a run, or its rows' scores do not mean the same.

    Example:
        >>> api.page("runs/table").name
        'report.html'
    """
    from tspbench.page.build import PAGE_FILE, write_page

    folders = needed("runs", runs)
    return write_page(folders, Path(out) if out else (folders[0] if len(folders) == 1 else Path()) / PAGE_FILE)


def predict(
    videos: Places,
    run: Place,
    *,
    row: str | None = None,
    checkpoint: Places = (),
    encoder: str | Sequence[str] = (),
    localizer: str | None = None,
    out: Place | None = None,
    device: str = "auto",
) -> "VideoPredictions":
    """Find actions in videos with what a run has trained; segments (JSON, CSV), subtitles and a picture of each.

    Args:
        videos: files, and folders of such.
        run: folder of a finished run.
        row: of its table; the trained one that scores best if None.
        checkpoint: weights of encoders that do not lie in the run.
        encoder: one or several of your own (file.py:Name) that the run was made with, and that may be run.
        localizer: likewise a localizer of your own.
        out: folder for the files; predictions/ROW below ``run`` if None.
        device: see `tspbench.api`.

    Returns:
        What was found in each video, and in ``problems`` why nothing was found in the others.

    Raises:
        UserError: nothing can be done: no videos, no such run or row, weights that are missing.

    Example:
        >>> predicted = api.predict("my-videos/videos/validation_0000.mp4", "runs/smoke")
        >>> [video.name for video in predicted.videos], predicted.problems
        (['validation_0000'], {})
    """
    from tspbench.video_prediction import predict_videos

    return predict_videos(
        needed("videos", videos),
        Path(run),
        row=row,
        checkpoints=[file for place in paths(checkpoint) if (file := found(place)) is not None],
        encoders=texts(encoder),
        localizer=localizer,
        out=None if out is None else Path(out),
        device=joined_device(device),
    )


def study_features(
    features: Mapping[str, Places], dataset: Place, out: Place, *, seed: int = 0, json: Place | None = None
) -> Study:
    """Probe foreground and classes linearly, and compare neighbouring clips in actions and across their boundaries.

    Args:
        features: name of the set → its H5 file, or several that are one set.
        dataset: see `tspbench.api`.
        out: folder for tables, numbers and pictures.
        seed: of the drawn clips and of the resamples.
        json: where to write the numbers as well, if anywhere.

    Returns:
        Numbers as fractions: ``metrics[name]["foreground_AUC"]`` has ``estimate``, ``low`` and ``high``; each of
        ``differences`` has ``a``, ``b`` and such metrics with ``difference``, ``low``, ``high`` and ``p``.

    Raises:
        UserError: a file does not fit, the sets have no video in common, or a subset lacks foreground or background.

    Example:
        >>> study = api.study_features({"TAC": "tac.h5", "TSP": "tsp.h5"}, "my-videos", "runs/study")
        >>> list(study.metrics)
        ['TAC', 'TSP']
    """
    from tspbench.stages.study_features import study_features as study_sets

    seed = at_least(0, "--seed", seed)
    sets, data = feature_rows(features), opened(dataset, seed)
    with progress("study features") as advance:
        return study_sets(
            sets, data, Path(out), seed=seed, json_out=None if json is None else Path(json), report=advance
        )
