"""Published numbers beside measured ones, and why a difference is not told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluation.protocols import PROTOCOLS, Protocol
from evaluation.video_sets import VIDEO_SETS
from tspbench.storage.published_numbers import PublishedCell, PublishedRow, published
from tspbench.storage.records import Record
from tspbench.storage.runs import AS_PUBLISHED, SETTINGS, TRIAL, Row, TaskTable

UNFINISHED: Final = "—"
HEADING: Final = "Published numbers beside measured ones"
NOTE: Final = "In percent; differences are measured less published, in points."


@dataclass(frozen=True)
class PublishedTable:
    """What is published of the rows of one task.

    Attributes:
        header: headings.
        cells: three lines a row: measured, published, difference.
        sentences: sources, why there are no differences, and of which rows nothing is published.
    """

    header: list[str]
    cells: list[list[str]]
    sentences: list[str]


def stated_rows(table: TaskTable) -> list[tuple[Row, PublishedRow]]:
    """Return the rows of a table that have published numbers, with them."""
    rows = [(row, published(row.published)) for row in table.rows if row.published]
    return [
        (row, stated)
        for row, stated in rows
        if (stated.task, stated.part) == (table.task, table.part)
        and table.facts.get("dataset", stated.dataset) == stated.dataset
    ]


def published_table(
    table: TaskTable, finished: Mapping[str, Record], columns: Mapping[str, str]
) -> PublishedTable | None:
    """Put what is published of the rows of a table beside what was measured.

    Args:
        table: of the run.
        finished: name of the row → record of its score.
        columns: metric → heading.

    Returns:
        None where no row of the table has published numbers.
    """
    rows = stated_rows(table)
    if not rows:
        return None
    cells: list[list[str]] = []
    sentences: list[str] = []
    for row, stated in rows:
        name, record = " ".join(row.name.split()), finished.get(row.name)
        reason = _incomparable(table, stated, record)
        cells += _lines(name, stated, record, columns, told=not reason)
        sentences += _sources(name, stated, columns)
        if reason:
            sentences.append(f"{name}: no differences, because {reason}.")
        elif not stated.video_set:
            sentences.append(f"{name}: the paper does not state on which videos.")
    without = [row.name for row in table.rows if not row.reference and row.name not in {row.name for row, _ in rows}]
    sentences += [f"No published number is known of: {', '.join(without)}."] if without else []
    return PublishedTable(["features", *columns.values()], cells, sentences)


def _lines(
    name: str, stated: PublishedRow, record: Record | None, columns: Mapping[str, str], *, told: bool
) -> list[list[str]]:
    """Return the three lines of a row; what is not measured, not published or not to be told is "—"."""
    metrics: Any = record.figures["metrics"] if record else {}
    measured = [metrics.get(metric) for metric in columns]
    theirs = [stated.cells.get(metric) for metric in columns]
    return [
        [f"{name}: measured", *(UNFINISHED if value is None else f"{100 * value:.2f}" for value in measured)],
        [f"{name}: published", *(cell.value if cell else UNFINISHED for cell in theirs)],
        [
            f"{name}: difference",
            *(_difference(value, cell) if told else UNFINISHED for value, cell in zip(measured, theirs, strict=True)),
        ],
    ]


def _difference(measured: float | None, cell: PublishedCell | None) -> str:
    """Return measured less published, with no more decimals than were published."""
    if measured is None or cell is None:
        return UNFINISHED
    decimals = len(cell.value.partition(".")[2])
    return f"{round(100 * measured - float(cell.value), decimals) + 0.0:+.{decimals}f}"  # + 0.0: there is no -0.00


def _sources(name: str, stated: PublishedRow, columns: Mapping[str, str]) -> list[str]:
    """Return a sentence for each source of a row; where there are several, it says of which numbers."""
    by_source: dict[str, list[str]] = {}
    for metric, cell in stated.cells.items():
        by_source.setdefault(cell.source, []).append(columns.get(metric, metric))
    if len(by_source) == 1:
        return [f"{name}: {source}" for source in by_source]
    return [f"{name}, {', '.join(headings)}: {source}" for source, headings in by_source.items()]


def _incomparable(table: TaskTable, stated: PublishedRow, record: Record | None) -> str:
    """Say why measured and published numbers do not mean the same; "" where nothing is known to differ."""
    counts: Any = record.figures.get("counts", {}) if record else {}
    reasons = [*_other_system(table, stated), *_other_videos(table, stated, counts)]
    return next(iter(reasons), "")


def _other_system(table: TaskTable, stated: PublishedRow) -> Iterator[str]:
    """Yield what was made or scored in another way than what is published."""
    facts, by = table.facts, "captioner" if table.task == "captioning" else "localizer"
    if TRIAL in facts:
        yield f"the run is a trial on part of the data ({facts[TRIAL]})"
    if facts.get(by, stated.localizer) != stated.localizer:
        yield f"the published ones are of the {by} {stated.localizer}, the measured ones of {facts[by]}"
    if facts.get(SETTINGS, AS_PUBLISHED) != AS_PUBLISHED:
        yield f"the {by} is set up or trained in another way than the published one"
    if facts.get("video-level labels", "").startswith("none"):
        yield "the measured ones are class-agnostic"
    if table.task == "captioning" and "sound" not in facts:
        yield "the published ones are of a captioner that hears the sound, the measured ones of one that does not"
    ours, theirs = (PROTOCOLS[table.task][name] for name in (facts.get("protocol", stated.protocol), stated.protocol))
    if _rules(ours) != _rules(theirs):
        yield f"the published ones are scored by the rules of {stated.protocol}, the measured ones by {ours.name}"


def _other_videos(table: TaskTable, stated: PublishedRow, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield in what the scored videos differ from those of the published numbers, or from every usual set."""
    ours = PROTOCOLS[table.task][table.facts.get("protocol", stated.protocol)].video_set
    if not counts or ours.name == stated.video_set:
        return
    if stated.video_set and counts["videos"] != VIDEO_SETS[stated.video_set].videos:
        theirs = VIDEO_SETS[stated.video_set].videos
        yield f"the published ones are of {theirs:,} videos, the measured ones of {counts['videos']:,}"
    usual = [each for name, each in VIDEO_SETS.items() if name.startswith(f"{stated.dataset}-")]
    # Videos without a segment may be counted: segments tell the sets apart, where they are known.
    known = [
        counts["ground_truth"] == each.segments if each.segments else counts["videos"] == each.videos for each in usual
    ]
    if ours.name not in VIDEO_SETS and usual and not any(known):
        yield f"the {counts['videos']:,} videos that were scored are none of the benchmark's usual sets"


def _rules(protocol: Protocol) -> Sequence[str]:
    """Return what a protocol scores by, without its name and the order of equal scores, which hardly matters."""
    return [rule for rule in protocol.rules() if not rule.startswith(("protocol:", "ties:"))]
