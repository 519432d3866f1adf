"""Videos of one's own + a finished run → segments, subtitles and a picture of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tspbench.datasets import find_videos
from tspbench.encoders import named_encoder
from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.report import MAIN, MAIN_HEADING
from tspbench.stages.captioner_settings import GROUND_TRUTH
from tspbench.stages.known_encoders import KnownEncoders
from tspbench.stages.predict_video import VideoPrediction, VideoStage, check_out, written_name
from tspbench.stages.train import named_localizer
from tspbench.stages.trained_row import TrainedRow
from tspbench.stages.usable_rows import TASKS, lacks, why_not
from tspbench.storage.records import read_record
from tspbench.storage.runs import Row, Run, TaskTable, read_run, slug
from tspbench.storage.video import silence_decoders
from tspbench.video_picture import score_text

MOST_NAMES: Final = 5  # of videos that failed, in one sentence


@dataclass(frozen=True)
class VideoPredictions:
    """What was found in several videos.

    Attributes:
        row: of the run that was asked.
        out: where the files lie.
        videos: those that could be read, in the order they were given.
        problems: file → why nothing was found in it.
        notes: what is done otherwise than in the run, a sentence each.
    """

    row: str
    out: Path
    videos: list[VideoPrediction]
    problems: dict[Path, str]
    notes: list[str]


def predict_videos(
    videos: Sequence[Path],
    run: Path,
    *,
    row: str | None = None,
    checkpoints: Sequence[Path] = (),
    encoders: Sequence[str] = (),
    localizer: str | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> VideoPredictions:
    """Find labelled segments in videos with what a run has trained, and write them for people and for programs.

    A video whose files are there from the same row is not looked at again.

    Args:
        videos: files, and folders of such.
        run: folder of a finished run.
        row: name of one of its rows; None: the trained one with the best score.
        checkpoints: weights of encoders that do not lie in the run.
        encoders: the user's own encoders that the run was made with, and that may be run.
        localizer: likewise a localizer of theirs.
        out: folder for the files; None: that of the row in predictions below ``run``.
        device: torch device.

    Returns:
        What was found, and the videos that could not be read.

    Raises:
        UserError: nothing can be done: no videos, no such run or row, weights that are missing.
    """
    silence_decoders()  # what is wrong with a video is said in a sentence
    files = named_videos(videos)
    manifest = read_run(run)
    for encoder in encoders:
        named_encoder(encoder)
    localizers = [] if localizer is None else [localizer]
    for each in localizers:
        named_localizer(each)
    own = [*encoders, *localizers]
    name = best_row(run, manifest, KnownEncoders(run, checkpoints, own)) if row is None else row
    where = run / "predictions" / slug(name) if out is None else out
    check_out(where, name)
    trained = TrainedRow(run, manifest, name, checkpoints, device, own)
    for note in trained.notes:
        say(note)
    done: list[VideoPrediction] = []
    problems: dict[Path, str] = {}
    with progress(f"predict · {name}") as advance:
        for number, (video, path) in enumerate(files.items()):
            advance(number, len(files), video)
            try:
                _check_name(path)
                done.append(VideoStage(video, path, name, trained, where).run())
            except UserError as error:
                problems[path] = str(error)
                if len(files) > 1:  # of a single one it is the last word
                    say(f"Failed: {error}")
        advance(len(files), len(files))
    return VideoPredictions(name, where, done, problems, trained.notes)


def told(found: VideoPrediction) -> str:
    """Return what was found in a video in one line."""
    parts = [f"{len(found.detections)} detections"]
    if found.captions:
        parts.append(f"{len(found.captions)} captions")
    for best in found.detections[:1]:
        parts.append(f"best: {best.label} {best.start_seconds:.1f}-{best.end_seconds:.1f} s ({score_text(best.score)})")
    return _in_a_line(f"{found.name}: {', '.join(parts)}")


def told_problems(found: VideoPredictions) -> str:
    """Return in one sentence how many videos nothing was found in, and why the first."""
    first, total = next(iter(found.problems.values())), len(found.problems) + len(found.videos)
    if total == 1:
        return first
    names = [_in_a_line(_readable(path.name)) for path in found.problems]
    named = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
    kept = f", the files of the other {len(found.videos)} are in {found.out}" if found.videos else ""
    return f"{len(names)} of {total} videos failed ({named}){kept}; the first: {first}"


def named_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """Return videos by name: that of their file without its suffix.

    Args:
        paths: files, and folders of such; a file that is named twice counts once.

    Raises:
        UserError: a folder without videos, two files of one name (a disk may take "a" for "A"), or nothing at all.
    """
    found: dict[str, Path] = {}
    written: dict[str, Path] = {}
    for path in paths:
        for file in find_videos(path).values() if path.is_dir() else [path]:
            name = _readable(file.stem)
            found.setdefault(name, file)
            first = written.setdefault(written_name(name).casefold(), file)
            if first.resolve() != file.resolve():
                raise UserError(
                    f"{first} and {file} would both be written as {name!r}: rename one, or give them one after the "
                    "other with another --out."
                )
    if not found:
        raise UserError("No video was given: name files, or folders of such.")
    return found


def _in_a_line(text: str) -> str:
    """Return a text with a space for each character that ends a line or steers a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _readable(name: str) -> str:
    """Return a file's name with a mark for each byte that is no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _check_name(path: Path) -> None:
    if _readable(str(path)) != str(path):
        raise UserError(f"{_readable(str(path))}: expected a name in UTF-8, found other bytes: rename the file.")


def best_row(folder: Path, run: Run, given: KnownEncoders) -> str:
    """Return the row with the best score among those that can find something in a new video.

    Scores are those of the first task of `TASKS` that has such rows.

    Args:
        folder: of the run.
        run: its manifest.
        given: weights at hand, and names of encoders and localizers that the user has let in.

    Raises:
        UserError: there is none.
    """
    lacking: dict[str, str] = {}
    for task in TASKS:
        tables = [table for table in run.tables if table.task == task and table.part != GROUND_TRUTH]
        able = [(table, row) for table in tables for row in table.rows if not why_not(folder, table, row)]
        lacking |= {row.name: lacks(folder, run, row.name, given) for _, row in able if row.name not in lacking}
        able = [(table, row) for table, row in able if not lacking[row.name]]
        if able:
            scores = {row.name: _score(folder, table, row) for table, row in able}
            name = max(scores, key=scores.__getitem__)
            score = f" ({MAIN_HEADING[task]} {100 * scores[name]:.2f})" if scores[name] >= 0 else ""
            say(f"Row: {name}{score}, the best of {len(scores)} that can; --row names another.")
            return name
    every = {row.name: why_not(folder, table, row) for table in run.tables for row in table.rows}
    reasons = {**lacking, **{name: why for name, why in every.items() if name not in lacking}}
    why = next((f" ({name!r}: {why})" for name, why in reasons.items()), "")  # first what the user can mend
    raise UserError(f"{folder}: no row of this run can find anything in a new video{why}.")


def _score(folder: Path, table: TaskTable, row: Row) -> float:
    """Return a row's main metric, -1 where it has not been scored."""
    record = read_record(folder / row.folder / "score")
    metrics: Any = record.figures["metrics"] if record and record.settings.get("row") == row.key else {}
    return float(metrics.get(MAIN[table.task], -1.0))
