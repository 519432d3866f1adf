"""The rows of a finished run that can find something in a new video, and what their features were extracted with."""

from pathlib import Path
from typing import Any, Final

from baselines import REFINERS
from tspbench.errors import UserError
from tspbench.stages.known_encoders import KnownEncoders
from tspbench.stages.score import CAPTIONING
from tspbench.storage.features import FeatureFiles
from tspbench.storage.runs import Row, Run, TaskTable, feature_files

TASKS: Final = ("tal", "proposals", CAPTIONING)  # those that a row is asked for segments, the best first
RANDOM: Final = "random"  # encoder of random features


def features_encoder(folder: Path, row: Row) -> tuple[str, str, int, str]:
    """Return what a row's features were extracted with: encoder, its weights, frames from clip to clip, precision.

    Raises:
        UserError: a file is gone, or does not say it, as the released TSP features do not.
    """
    paths = feature_files(folder, row)
    if not paths:
        raise UserError(f"{folder}, row {row.name!r}: it is trained on no features: choose another row.")
    if gone := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{gone[0]}, the features of the row {row.name!r}, is gone: put it back, or run the experiment again with "
            f"the same --out ({folder})."
        )
    meaning: dict[str, Any] = FeatureFiles(paths).meaning()
    if missing := [key for key in ("encoder", "weights", "stride_frames") if not meaning.get(key)]:
        raise UserError(
            f"{paths[0]} does not say its {missing[0]}, so that nobody knows how to get the same features of another "
            "video: choose a row whose features `tspbench extract` wrote."
        )
    stride, precision = int(meaning["stride_frames"]), str(meaning.get("precision", "fp32"))
    return str(meaning["encoder"]), str(meaning["weights"]), stride, precision


def why_not(folder: Path, table: TaskTable, row: Row) -> str:
    """Return why a row of a table can find nothing in a new video; "" if it can."""
    if row.reference:
        return "no network is trained for it"
    if (name := table.facts.get("localizer")) in REFINERS:
        return f"{name} refines proposals of another localizer, which a new video does not come with"
    try:
        encoder = features_encoder(folder, row)[0]
    except UserError as error:
        return str(error).rstrip(".")
    return "its features are random, and a new video has none" if encoder == RANDOM else ""


def lacks(folder: Path, run: Run, name: str, given: KnownEncoders) -> str:
    """Return what the user has to give first for a row that can find something in a new video; "" if nothing.

    Cheap, and no code is run: a row is not tried to find out.

    Args:
        folder: of the run.
        run: its manifest.
        name: of the row.
        given: weights at hand, and names of encoders and localizers that the user has let in.
    """
    found = [(table, row) for table in run.tables for row in table.rows if row.name == name]
    for table, row in found:
        if why_not(folder, table, row):
            continue
        localizer = table.facts.get("localizer", "")
        if not given.names(localizer):
            return f"its localizer is somebody's own code: look at it, and add --localizer {localizer}"
        kind, weights, *_ = features_encoder(folder, row)
        try:
            given.promised(kind, weights)
        except UserError as error:
            return str(error).rstrip(".")
    return ""


def usable_tables(folder: Path, run: Run, name: str, given: KnownEncoders) -> list[tuple[TaskTable, Row]]:
    """Return what a row is in the tables that have it with the same features, those that say most of a video first.

    Args:
        folder: of the run.
        run: its manifest.
        name: of the row.
        given: see `lacks`; what a row lacks is no reason against it here, where it is named.

    Raises:
        UserError: there is no such row, or it finds nothing in new videos.
    """
    able = [row.name for table in run.tables for row in table.rows if not why_not(folder, table, row)]
    able = [each for each in dict.fromkeys(able) if not lacks(folder, run, each, given)]
    names = f"rows that can are {', '.join(map(repr, able))}" if able else "no row of this run can"
    found = [(table, row) for table in run.tables for row in table.rows if row.name == name]
    if not found:
        raise UserError(f"{folder} has no row {name!r} that could find something in new videos: {names}.")
    usable = [(table, row) for table, row in found if not why_not(folder, table, row)]
    if not usable:
        raise UserError(f"{folder}, row {name!r}: {why_not(folder, *found[0])}: {names}.")
    usable.sort(key=lambda each: TASKS.index(each[0].task))
    return [(table, row) for table, row in usable if row.features == usable[0][1].features]


def extractions(folder: Path, run: Run) -> dict[str, tuple[str, int]]:
    """Return the kind of each encoder by its weights, and the frames from clip to clip, as the run's rows have them."""
    found = {}
    for row in (row for table in run.tables for row in table.rows if row.files):
        try:
            kind, weights, stride, _ = features_encoder(folder, row)
        except UserError:
            continue
        found[weights] = kind, stride
    return found
