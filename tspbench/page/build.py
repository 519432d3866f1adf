"""Runs → one HTML page that needs no server and no network."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation.error_kinds import KINDS
from tspbench import __version__
from tspbench.page.charts import Axis, Figure, round_up
from tspbench.page.contents import PageRun, RowStyle, Truth, heading_of, open_truth, page_runs, row_styles
from tspbench.page.curves import average_recall_figure, precision_recall_figure, training_figures
from tspbench.page.errors import error_figures, left_out, row_detections
from tspbench.page.similarity import similarity
from tspbench.page.tables import (
    Summary,
    Table,
    difference_table,
    published_numbers,
    sample_tables,
    summaries,
    task_table,
)
from tspbench.page.time_lines import VIDEOS, VideoTimeLine, time_lines
from tspbench.page.tracks import Track, interval_track
from tspbench.plots import KIND_COLOURS, text_of
from tspbench.report import DIFFERENCE_NOTE, INTERVAL_NOTE, MAIN, MAIN_HEADING, TaskResult
from tspbench.report_published import NOTE
from tspbench.storage.atomic import write_text
from tspbench.storage.records import Record

PAGE_FILE: Final = "report.html"
MOST_VIDEOS: Final = 8  # whose time lines are on a page, but for one of each run


@dataclass(frozen=True)
class TaskPart:
    """What the page says of one task of a run.

    Args:
        heading: of the part.
        metric: what the marks are of.
        result: the columns as text.
        table: the same as a table.
        tracks: the main metric of each row with its interval.
        ticks: (percent of the line, text) of their axis.
        highest: name of the trained row with the highest main metric, the metric, its interval; None without any.
        differences: between rows; None without any.
        published: numbers beside measured ones; None without any.
        samples: sentences of captioning rows.
        provenance: (what, value) of the first finished row.
    """

    heading: str
    metric: str
    result: TaskResult
    table: Table
    tracks: Sequence[Track]
    ticks: Sequence[tuple[float, str]]
    highest: tuple[str, str, str] | None
    differences: Table | None
    published: Table | None
    samples: Sequence[Table]
    provenance: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RunPart:
    """What the page says of one run.

    Args:
        run: of which.
        tasks: one a task.
        training: loss and accuracy by epoch.
        curves: precision-recall and average recall.
        errors: of DETAD.
        not_drawn: characteristics that are left out of ``errors``, and why.
        remarks: what else is left out, and why.
        videos: time lines.
        similarity: of neighbouring clips.
    """

    run: PageRun
    tasks: Sequence[TaskPart]
    training: Sequence[Figure]
    curves: Sequence[Figure]
    errors: Sequence[Figure]
    not_drawn: Sequence[str]
    remarks: Sequence[str]
    videos: Sequence[VideoTimeLine]
    similarity: tuple[list[Track], Table] | None


def write_page(folders: Sequence[Path], out: Path) -> Path:
    """Write the page of the runs in ``folders`` to ``out``, and return that.

    Raises:
        UserError: a folder is no run, rows of different signatures would stand in one table, or ``out`` cannot be
            written.
    """
    write_text(out, page(folders))
    return out


def page(folders: Sequence[Path]) -> str:
    """Return the page of the runs in ``folders`` as HTML."""
    runs = page_runs(folders)
    styles = row_styles(runs)
    environment = Environment(
        loader=PackageLoader("tspbench", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    # Both are files of this package, and the policy lets no other script run.
    script = Markup(environment.get_template("page.js").render())  # noqa: S704
    css = Markup(environment.get_template("page.css").render())  # noqa: S704
    digest = base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()
    titles = list(dict.fromkeys(run.result.run.title for run in runs))
    return environment.get_template("page.html").render(
        title=titles[0] if len(titles) == 1 else f"{len(runs)} runs",
        version=__version__,
        css=css,
        script=script,
        digest=digest,
        styles=styles,
        parts_of_run=[_run_part(run, styles, max(1, MOST_VIDEOS // len(runs))) for run in runs],
        summaries=_summaries(runs),
        kinds=[(text_of(kind), KIND_COLOURS[kind]) for kind in KINDS],
        notes={"interval": INTERVAL_NOTE, "difference": DIFFERENCE_NOTE, "published": NOTE},
    )


def _summaries(runs: Sequence[PageRun]) -> list[Summary]:
    return summaries(runs) if len(runs) > 1 else []


def _run_part(run: PageRun, styles: Mapping[str, RowStyle], most_videos: int) -> RunPart:
    (detecting, remarks), (proposing, said) = run.scored_rows("tal"), run.scored_rows("proposals")
    remarks += said
    if not (detecting or proposing or remarks) and any(table.task != "captioning" for table in run.tables):
        remarks.append("No detections or proposals were scored yet.")
    truth = open_truth(run)
    errors: list[Figure] = []
    not_drawn: list[str] = []
    videos: list[VideoTimeLine] = []
    alike = None
    if isinstance(truth, Truth):
        found, said = row_detections(run, detecting, truth)
        errors, not_drawn = error_figures(found, truth, styles), left_out(found, truth)
        lines, more = (found, []) if found else row_detections(run, proposing, truth)
        videos = time_lines(lines, truth, styles, min(VIDEOS, most_videos))
        alike, unlike = similarity(run, truth, styles)
        remarks += [*said, *more, *unlike]
    else:
        remarks.append(truth)
    curves = [precision_recall_figure(detecting, styles), average_recall_figure(proposing, styles)]
    return RunPart(
        run,
        [_task_part(task, scores, styles) for task, scores in zip(run.result.tasks, run.scores, strict=True)],
        training_figures(run, styles),
        [figure for figure in curves if figure],
        errors,
        not_drawn,
        remarks,
        videos,
        alike,
    )


def _task_part(task: TaskResult, scores: Mapping[str, Record], styles: Mapping[str, RowStyle]) -> TaskPart:
    main = MAIN[task.table.task]
    values = {name: 100 * value for name, record in scores.items() if (value := _metric(record, main)) is not None}
    intervals = {name: _interval(scores[name], main) for name in values}
    ends = [high for _, high in intervals.values() if high is not None]
    scale = min(100.0, round_up(max([*values.values(), *ends], default=100.0)))
    tracks = [
        Track(
            name,
            styles[name],
            interval_track(f"{task.heading} of {name}", *(_on(value, scale) for value in (values[name], *ends))),
            f"{values[name]:.2f}",
        )
        for name, ends in intervals.items()
    ]
    trained = [row.name for row in task.table.rows if row.name in values and not row.reference]
    best = max(trained, key=lambda name: values[name], default=None)
    return TaskPart(
        heading_of(task.table.task, task.table.part),
        MAIN_HEADING[task.table.task],
        task,
        task_table(task),
        tracks,
        [(100 * value / scale, text) for value, text in Axis("", 0, scale).ticks()],
        (best, f"{values[best]:.2f}", task.cells[best][-1]) if best else None,
        difference_table(task),
        published_numbers(task),
        sample_tables(task),
        _provenance(scores),
    )


def _on(value: float | None, scale: float) -> Any:
    return None if value is None else 100 * value / scale


def _metric(record: Record, main: str) -> float | None:
    metrics: Any = record.figures["metrics"]
    value: float | None = metrics.get(main)
    return value


def _interval(record: Record, main: str) -> tuple[float | None, float | None]:
    """Return the interval of a row in percent; None, None where it has none."""
    intervals: Any = record.figures.get("intervals") or {}
    low, high = intervals.get(main, (None, None))
    return (None, None) if low is None or high is None else (100 * low, 100 * high)


def _provenance(scores: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Return what the first finished score says of how it was made."""
    record = next(iter(scores.values()), None)
    if record is None:
        return []
    told: Any = record.provenance
    lines = [("git commit", told.get("git_commit")), ("Python", told.get("python"))]
    lines += list(told.get("machine", {}).items())
    lines += [(f"package {name}", version) for name, version in told.get("packages", {}).items()]
    return [(name, str(value)) for name, value in lines if value]
