"""Curves of the page: training, precision over recall, average recall over the number of proposals."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluation import detection, proposals
from tspbench.page.charts import Axis, Figure, Series, line_chart, round_up, rows_of
from tspbench.page.contents import COLOURS, DASHES, PageRun, RowStyle, ScoredRow, heading_of
from tspbench.page.tables import Table
from tspbench.report_published import UNFINISHED
from tspbench.storage.records import Record, read_record

THRESHOLD: Final = 0.5  # tIoU of the precision-recall curves, or the nearest that a protocol has
LOSS: Final = "total_loss"
ACCURACY: Final = "mean_accuracy"
NOT_A_ROW: Final = 1000  # number of a style that is no row's; no checkbox hides it
Named = Mapping[str, tuple[RowStyle, Sequence[Mapping[str, float]]]]


def training_figures(run: PageRun, styles: Mapping[str, RowStyle]) -> list[Figure]:
    """Draw loss and accuracy by epoch of all that was trained in a run."""
    encoders = _encoders(run, styles)
    figures = [
        _epochs("Pretraining: loss", encoders, LOSS, "Each method has a loss of its own: compare shapes, not heights."),
        _epochs("Pretraining: accuracy", encoders, ACCURACY, "Mean accuracy of the heads on the validation clips."),
    ]
    for table in run.tables:
        by = table.facts.get("captioner" if table.task == "captioning" else "localizer", table.task)
        rows = [row for row in table.rows if not row.reference]
        # The captioner is trained once for both of its tables.
        parents = {row.name: run.folder / (str(Path(row.folder).parent) if table.part else row.folder) for row in rows}
        heading = heading_of(table.task, "")
        for stage, what in (("train", by), ("generator", "proposal generator")):
            found = {
                name: (styles[name], epochs) for name, folder in parents.items() if (epochs := _read(folder / stage))
            }
            title = f"{heading}, {what}: loss"
            if all(each is None or each.title != title for each in figures):
                figures.append(_epochs(title, found, LOSS, "Mean over the training batches of an epoch."))
    return [figure for figure in figures if figure]


def precision_recall_figure(rows: Sequence[ScoredRow], styles: Mapping[str, RowStyle]) -> Figure | None:
    """Draw the mean precision-recall curve of the classes, of each row with detections; None without any."""
    series, thresholds = [], set()
    for each in rows:
        recall, precision = detection.precision_recall(each.statistics)
        known = each.statistics.protocol.thresholds
        k = min(range(len(known)), key=lambda k: abs(known[k] - THRESHOLD))
        thresholds.add(known[k])
        points = list(zip((100 * recall).tolist(), (100 * precision[k]).tolist(), strict=True))
        series.append(Series(each.row.name, styles[each.row.name], points))
    if not series:
        return None
    at = ", ".join(f"{threshold:g}" for threshold in sorted(thresholds))
    title = f"Precision over recall at tIoU {at}"
    x, y = Axis("recall (%)", 0, 100), Axis("precision (%)", 0, 100)
    return Figure(
        title,
        "Mean over the classes; at each recall the highest precision there or beyond, as in average precision.",
        [line_chart(title, series, x, y)],
        _numbers(f"{title}: precision in percent", "recall (%)", series, lambda value: value % 10 == 0),
        rows_of(series),
    )


def average_recall_figure(rows: Sequence[ScoredRow], styles: Mapping[str, RowStyle]) -> Figure | None:
    """Draw average recall over the average number of proposals, of each row with proposals; None without any."""
    series, budgets = [], [1.0]
    for each in rows:
        result = proposals.score(each.statistics)
        budgets.append(float(result.number[-1]))
        points = list(zip(result.number.tolist(), (100 * result.average_recall).tolist(), strict=True))
        series.append(Series(each.row.name, styles[each.row.name], points))
    if not series:
        return None
    title = "Average recall over the number of proposals"
    x, y = Axis("proposals a video, on average (AN)", 0, max(budgets)), Axis("AR (%)", 0, 100)
    return Figure(
        title,
        "Mean recall over the protocol's tIoU thresholds; the area below is the AUC.",
        [line_chart(title, series, x, y)],
        _numbers(f"{title}: AR in percent", "AN", series, lambda value: value in (1, 5) or value % 10 == 0),
        rows_of(series),
    )


def _encoders(run: PageRun, styles: Mapping[str, RowStyle]) -> Named:
    """Return the epochs of every pretraining below the run; one whose features a row has is drawn as that row."""
    rows = {row.files[0]: row.name for table in run.tables for row in table.rows if len(row.files) == 1}
    weights: dict[object, str] = {}
    for file, name in rows.items():
        features = read_record((run.folder / file).parent)
        weights |= {features.inputs["encoder"]: name} if features and "encoder" in features.inputs else {}
    found: dict[str, tuple[RowStyle, Sequence[Mapping[str, float]]]] = {}
    for number, path in enumerate(sorted((run.folder / "pretrain").glob("*/record.json"))):
        record, other = read_record(path.parent), RowStyle(NOT_A_ROW, COLOURS[number % len(COLOURS)], DASHES[1])
        name = next((weights[sha] for sha in record.outputs.values() if sha in weights), "") if record else ""
        if epochs := _of(record):
            found[name or path.parent.name] = (styles.get(name, other), epochs)
    order = list(styles)
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order)))


def _epochs(title: str, found: Named, figure: str, note: str) -> Figure | None:
    """Draw one figure of all epochs; None where nothing has it."""
    series = [
        Series(name, style, [(k + 1.0, _number(epoch.get(figure))) for k, epoch in enumerate(epochs)])
        for name, (style, epochs) in found.items()
        if any(math.isfinite(_number(epoch.get(figure))) for epoch in epochs)
    ]
    if not series:
        return None
    share = figure == ACCURACY
    scaled = [
        Series(each.name, each.style, [(k, 100 * value if share else value) for k, value in each.points])
        for each in series
    ]
    highest = max(value for each in scaled for _, value in each.points if math.isfinite(value))
    last = max(len(each.points) for each in scaled)
    x, y = Axis("epoch", 1 if last > 1 else 0, last), Axis("accuracy (%)", 0, 100)
    if not share:
        y = Axis("loss", 0, round_up(highest))
    few = last <= 15
    drawing = line_chart(title, scaled, x, y, dots=few)
    return Figure(title, note, [drawing], _numbers(title, "epoch", scaled, _every), rows_of(scaled))


def _numbers(caption: str, head: str, series: Sequence[Series], shown: Callable[[float], bool]) -> Table:
    """Return the points of several lines as a table, those whose rounded x is ``shown``."""
    places = sorted({round(x, 9) for each in series for x, _ in each.points})
    values = [{round(x, 9): y for x, y in each.points} for each in series]
    cells = [[f"{place:g}", *(_text(line.get(place, math.nan)) for line in values)] for place in places if shown(place)]
    return Table(caption, [head, *(each.name for each in series)], cells)


def _text(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else UNFINISHED


def _every(_: float) -> bool:
    return True


def _read(folder: Path) -> Sequence[Mapping[str, float]]:
    return _of(read_record(folder))


def _of(record: Record | None) -> Sequence[Mapping[str, float]]:
    epochs: Any = record.figures.get("epochs", []) if record else []
    return [epoch for epoch in epochs if isinstance(epoch, dict)]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
