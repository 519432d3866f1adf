"""Pictures of a feature study: similarity over time, and what the probes tell with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.significance import Interval
from tspbench.plots import BACKGROUND, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

ACTION: Final = "#E69F00"
COLOURS: Final = {"inside": "#0072B2", "background": "#999999", "across": "#D55E00"}
STRIP: Final = 0.035  # thickness of the marks of actions, as a share of a panel
GAP: Final = 0.015
LONGEST_NAME: Final = 24


@dataclass(frozen=True, eq=False)
class PicturedVideo:
    """One column of the picture.

    Attributes:
        name: of the video.
        segments_seconds: its actions, (N, 2).
        matrices: of each feature set in turn, (T, T).
        spans_seconds: of each feature set in turn: where its first clip's share of time begins and its last one's ends.
    """

    name: str
    segments_seconds: Floats
    matrices: Sequence[Floats]
    spans_seconds: Sequence[tuple[float, float]]


def similarity_figure(names: Sequence[str], videos: Sequence[PicturedVideo], footnote: str) -> "Figure":
    """Draw how alike the clips of some videos are: a row for each feature set, a column for each video.

    Args:
        names: of the feature sets.
        videos: at least one.
        footnote: stands below in small print.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes most of a second, as in plots.py
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    figure = Figure(
        figsize=(1.6 + 2.5 * len(videos), 1.3 + 2.4 * len(names)),
        layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09),
    )
    grid: Any = figure.subplots(len(names), len(videos), squeeze=False)
    for row, name in enumerate(names):
        for column, video in enumerate(videos):
            axes = grid[row, column]
            image = axes.imshow(
                video.matrices[row], cmap=_colours(), vmin=-1, vmax=1, interpolation="nearest", origin="upper",
                extent=(*video.spans_seconds[row], *reversed(video.spans_seconds[row])),
            )  # fmt: skip
            _mark_actions(axes, video.segments_seconds, video.spans_seconds[row])
            axes.tick_params(labelsize=8, colors=INK)
            axes.locator_params(nbins=5)
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(_short(video.name), fontsize=10, color=INK, pad=14, parse_math=False)
            if row == len(names) - 1:
                axes.set_xlabel("seconds", fontsize=8, color=INK)
            if column == 0:
                axes.set_ylabel(_short(name), fontsize=11, fontweight="bold", color=INK, labelpad=8, parse_math=False)
    bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 2.2 / len(names)), aspect=28, pad=0.015)
    bar.set_label("cosine similarity of centred features", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    figure.suptitle("Which clips of a video look alike; orange: actions", fontsize=13, fontweight="bold", color=INK)
    figure.supxlabel(footnote, fontsize=7.5, color=INK)
    return figure


def probes_figure(results: Mapping[str, Mapping[str, Interval]], footnote: str) -> "Figure":
    """Draw the metrics of each feature set with their intervals.

    Args:
        results: feature set → metric of `feature_study.StudyScore` → its interval.
        footnote: stands below in small print.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    names = list(results)
    probes = {"foreground_AUC": "AUC of foreground against background (%)", "class_accuracy": "Accuracy of classes (%)"}
    shown = [name for name in probes if name in results[names[0]]]
    figure = Figure(
        figsize=(3.4 + 3.1 * len(shown) + 1.2, 1.9 + 0.5 * len(names)),
        layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12),
    )
    grid: Any = figure.subplots(1, len(shown) + 1, sharey=True)
    for axes, metric in zip(grid, shown, strict=False):
        _intervals(axes, [results[name][metric] for name in names], COLOURS["inside"], 0.0, scale=100, numbers=True)
        axes.set_title(probes[metric], fontsize=10, color=INK)
    grid[0].axvline(50, color=INK, ls="--", lw=1)
    for place, (kind, colour) in enumerate(COLOURS.items()):
        found = [results[name][f"similarity_{kind}"] for name in names]
        _intervals(grid[-1], found, colour, 0.2 * (place - 1), scale=1, numbers=False)
        grid[-1].plot([], [], "o", color=colour, label={"inside": "in an action", "across": "across"}.get(kind, kind))
    grid[-1].set_title("Similarity of neighbouring clips", fontsize=10, color=INK)
    grid[-1].legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1), handletextpad=0)
    grid[0].set_yticks(range(len(names)), [_short(name) for name in names], fontsize=10, color=INK, parse_math=False)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    for axes in grid:
        axes.tick_params(axis="x", labelsize=8, colors=INK)
        axes.grid(axis="x", color="#DDDDDD", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(footnote, fontsize=7.5, color=INK)
    return figure


def _intervals(
    axes: "Axes", found: Sequence[Interval], colour: str, shift: float, *, scale: float, numbers: bool
) -> None:
    """Draw a dot with its interval for each feature set, one below the other; what is undefined is left out."""
    for place, interval in enumerate(found):
        height = place + shift
        if np.isnan(interval.estimate):
            continue
        if not np.isnan(interval.low):
            axes.plot([scale * interval.low, scale * interval.high], [height, height], color=colour, lw=2.5)
        axes.plot(scale * interval.estimate, height, "o", color=colour, ms=7)
        if numbers:
            axes.annotate(
                f"{scale * interval.estimate:.1f}", (scale * interval.estimate, height), (0, 7),
                textcoords="offset points", ha="center", fontsize=8, color=INK, bbox=BACKGROUND,
            )  # fmt: skip


def _mark_actions(axes: "Axes", segments: Floats, span: tuple[float, float]) -> None:
    """Mark the actions above and to the left of a panel."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - as above

    above, left = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    for start, end in np.clip(segments, *span).tolist():
        top = Rectangle((start, 1 + GAP), end - start, STRIP, transform=above, color=ACTION, lw=0, clip_on=False)
        side = Rectangle((-GAP - STRIP, start), STRIP, end - start, transform=left, color=ACTION, lw=0, clip_on=False)
        axes.add_patch(top)
        axes.add_patch(side)
    axes.tick_params(axis="y", length=0, pad=11)


def _colours() -> Any:
    """Return the colours of similarities: undefined ones are grey."""
    import matplotlib as mpl  # noqa: PLC0415 - as above

    return mpl.colormaps["RdBu_r"].with_extremes(bad="#BBBBBB")


def _short(name: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable if len(printable) <= LONGEST_NAME else printable[: LONGEST_NAME - 1] + "…"
