"""Figures of results, as bytes of a PNG or SVG.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. matplotlib is loaded when a figure is
drawn, and draws without a display.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from evaluation.characteristics import CharacteristicName
from evaluation.diagnosis import BucketScores, Diagnosis
from evaluation.error_kinds import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS: Final = dict(zip(KINDS, ("#009E73", "#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#999999"), strict=True))
BUCKET_COLOURS: Final[dict[CharacteristicName, str]] = {
    "coverage": "#0072B2",
    "length": "#CC79A7",
    "instances": "#E69F00",
}
INK: Final = "#333333"
# Of numbers, so that they stay readable where a line crosses them.
BACKGROUND: Final = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
DOTS_PER_INCH: Final = 150
LINE_LENGTH: Final = 200


def image_bytes(figure: "Figure", file_format: Literal["png", "svg"] = "png") -> bytes:
    """Render a figure; the same figure gives the same bytes."""
    import matplotlib as mpl  # noqa: PLC0415 - takes most of a second, which only a figure has a reason to wait for

    stream = io.BytesIO()
    # An SVG would hold the time and random names.
    with mpl.rc_context({"svg.hashsalt": "tspbench"}):
        metadata = {"Date": None} if file_format == "svg" else {}
        figure.savefig(stream, format=file_format, dpi=DOTS_PER_INCH, metadata=metadata)
    return stream.getvalue()


def diagnosis_figure(diagnosis: Diagnosis, title: str, footnote: str = "") -> "Figure":
    """Draw false positives by kind, sensitivity, and false negatives.

    Args:
        diagnosis: what to draw.
        title: what was diagnosed.
        footnote: stands below in small print, such as the signature.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    figure = Figure(figsize=(13, 12.5), layout=ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.08))
    grid = figure.add_gridspec(3, 2, width_ratios=(2.6, 1))
    _profile(figure.add_subplot(grid[0, 0]), diagnosis)
    _impact(figure.add_subplot(grid[0, 1]), diagnosis)
    sensitivity = figure.add_subplot(grid[1, 0])
    _bars(
        sensitivity,
        diagnosis,
        [scores.average_map for scores in diagnosis.buckets],
        diagnosis.average_map,
        title="Sensitivity: average-mAP$_N$ of the segments in each bucket",
        unit="average-mAP$_N$ (%)",
    )
    _relative(figure.add_subplot(grid[1, 1]), diagnosis)
    false_negatives = figure.add_subplot(grid[2, 0])
    _bars(
        false_negatives,
        diagnosis,
        [scores.false_negatives for scores in diagnosis.buckets],
        diagnosis.false_negatives,
        title="False negatives: segments that are not found",
        unit="share of the bucket (%)",
    )
    _key(figure.add_subplot(grid[2, 1]), diagnosis)
    figure.suptitle(title, fontsize=14, fontweight="bold", color=INK)
    if footnote:
        # Signatures have bars where a sentence has spaces.
        lines = textwrap.wrap(footnote.replace("|", "| "), LINE_LENGTH)
        figure.supxlabel("\n".join(lines), fontsize=7, color=INK)
    return figure


def _profile(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Stack the kinds of the best predictions, slice by slice."""
    shares = 100 * diagnosis.false_positives.shares
    slices = np.arange(1, len(shares) + 1)
    below = np.zeros(len(shares))
    for kind, colour, share in zip(KINDS, KIND_COLOURS.values(), np.nan_to_num(shares).T, strict=True):
        axes.bar(slices, share, bottom=below, color=colour, label=text_of(kind), width=0.86, edgecolor="white", lw=0.5)
        below = below + share
    for place, count in enumerate(diagnosis.false_positives.predictions.tolist(), start=1):
        axes.text(place, 101, f"{count:,}", ha="center", va="bottom", fontsize=7.5, color=INK)
    axes.set_xticks(slices, [f"{place}G" for place in slices])
    axes.set_ylim(0, 108)
    _label(
        axes,
        "False positive profile",
        "share of the slice (%)",
        "best predictions of each class, in slices of its G segments (above: predictions in the slice)",
    )
    axes.legend(ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, columnspacing=1.2)


def _impact(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Draw what average-mAP_N gains without each kind."""
    impact = diagnosis.false_positives.impact
    places, lengths = np.arange(len(impact)), 100 * np.array(list(impact.values()))
    bars = axes.barh(places, np.nan_to_num(lengths), color=[KIND_COLOURS[kind] for kind in impact], height=0.7)
    axes.bar_label(bars, [_number(length) for length in lengths], padding=3, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(np.nan_to_num(lengths).max(), 1.0))
    _label(axes, "Removing a kind of error", "", "gain in average-mAP$_N$ (percentage points)", grid="x")
    axes.set_yticks(places, [text_of(kind) for kind in impact])


def _bars(
    axes: "Axes", diagnosis: Diagnosis, values: Sequence[np.ndarray], base: float, *, title: str, unit: str
) -> None:
    """Draw a bar for each bucket of each characteristic, and a line for all segments."""
    place = 0
    ticks: list[int] = []
    names: list[str] = []
    for scores, heights in zip(diagnosis.buckets, values, strict=True):
        places = place + np.arange(len(heights))
        _numbered_bars(axes, places, 100 * heights, [BUCKET_COLOURS[scores.characteristic.name]] * len(heights))
        axes.text(
            places.mean(), 1.0, text_of(scores.characteristic.name), transform=axes.get_xaxis_transform(), ha="center",
            va="top", fontsize=10, fontweight="bold", color=INK,
        )  # fmt: skip
        ticks += places.tolist()
        names += list(scores.characteristic.buckets)
        place += len(heights) + 1
    if not np.isnan(base):
        axes.axhline(100 * base, color=INK, ls="--", lw=1.2, label=f"all segments: {100 * base:.1f}")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.07), frameon=False, borderpad=0)
    axes.set_xticks(ticks, names)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    _label(axes, title, unit, "")


def _relative(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Draw the lowest and highest bucket of each characteristic relative to all segments."""
    for place, scores in enumerate(diagnosis.buckets):
        colour = BUCKET_COLOURS[scores.characteristic.name]
        axes.plot([place, place], [scores.lowest, scores.highest], color=colour, lw=5, marker="_", ms=22, mew=4)
        for value in (scores.lowest, scores.highest):
            if not np.isnan(value):
                axes.annotate(
                    f"{value:.2f}", (place, value), (15, 0), textcoords="offset points", va="center", fontsize=9,
                    color=INK, bbox=BACKGROUND,
                )  # fmt: skip
    axes.axhline(1.0, color=INK, ls="--", lw=1.2)
    axes.set_xticks(range(len(diagnosis.buckets)), [text_of(s.characteristic.name) for s in diagnosis.buckets])
    axes.set_xlim(-0.6, len(diagnosis.buckets) - 0.4)
    axes.set_ylim(0, 1.2 * max([1.0, *(scores.highest for scores in diagnosis.buckets if scores.highest > 1.0)]))
    _label(axes, "Lowest and highest bucket", "average-mAP$_N$ relative to all segments", "")


def _key(axes: "Axes", diagnosis: Diagnosis) -> None:
    """Say what the buckets are and how many segments they hold."""
    axes.axis("off")
    height = 1.0
    for scores in diagnosis.buckets:
        axes.text(0.0, height, heading_of(scores, diagnosis), fontsize=9, fontweight="bold", color=INK)
        height -= 0.055
        rows = zip(scores.characteristic.buckets, scores.characteristic.ranges(), scores.shares, strict=True)
        for bucket, span, share in rows:
            for left, text in ((0.03, bucket), (0.17, span), (0.52, f"{percent(share)} % of the segments")):
                axes.text(left, height, text, fontsize=8.5, color=INK)
            height -= 0.05
        height -= 0.03


def text_of(name: str) -> str:
    """Return a kind of error or a characteristic as readers see it."""
    return name.replace("_", " ").capitalize()


def heading_of(scores: BucketScores, diagnosis: Diagnosis) -> str:
    """Return what the buckets of a characteristic are cut by, with its unit."""
    whose = "of the class in the video" if diagnosis.rules.instances_of == "class" else "of any class in the video"
    meaning = {"coverage": "fraction of the video", "length": "seconds", "instances": whose}
    return f"{text_of(scores.characteristic.name)} ({meaning[scores.characteristic.name]})"


def percent(value: float, digits: int = 1) -> str:
    """Return a fraction in percent, and "—" for nan."""
    return "—" if np.isnan(value) else f"{100 * value:.{digits}f}"


def _number(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:.1f}"


def _numbered_bars(axes: "Axes", places: np.ndarray, heights: np.ndarray, colours: Sequence[str]) -> None:
    """Draw bars with their heights above them; nan is a dash on the ground."""
    bars = axes.bar(places, np.nan_to_num(heights), color=colours, width=0.86)
    labels = axes.bar_label(bars, [_number(height) for height in heights], padding=2, fontsize=8.5, color=INK)
    for label in labels:
        label.set_bbox(BACKGROUND)


def _label(axes: "Axes", title: str, y: str, x: str, grid: Literal["x", "y"] = "y") -> None:
    axes.set_title(title, fontsize=11, color=INK, pad=8)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(axis=grid, color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
