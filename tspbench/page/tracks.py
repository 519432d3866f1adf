"""Pictures that stretch with the page: bars and marks along a line of time or of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from tspbench.page.contents import RowStyle

LANE: Final = 13
BAR: Final = 10
MOST_TOLD: Final = 20  # bars that a screen reader is told one by one


@dataclass(frozen=True)
class Bar:
    """A part of a line.

    Args:
        start: in percent of the line.
        end: likewise.
        text: what it is.
        solid: filled, or an outline.
        shown: what stands in it.
    """

    start: float
    end: float
    text: str
    solid: bool = True
    shown: str = ""


@dataclass(frozen=True)
class Track:
    """One line of several below each other.

    Args:
        name: of its row.
        style: of its row; None: of no row, and always shown.
        drawing: SVG.
        value: what stands beside it.
    """

    name: str
    style: RowStyle | None
    drawing: Markup
    value: str = ""


def bar_track(title: str, bars: Sequence[Bar], *, tall: bool = False) -> Markup:
    """Draw bars; those that would overlap go into lanes of their own, the first bars on top."""
    lanes: list[list[Bar]] = []
    places = []
    for bar in bars:
        free = (k for k, lane in enumerate(lanes) if all(bar.start >= b.end or bar.end <= b.start for b in lane))
        place = next(free, len(lanes))
        if place == len(lanes):
            lanes.append([])
        lanes[place].append(bar)
        places.append(place)
    high, lane_height = (20, 24) if tall else (BAR, LANE)
    height = max(1, len(lanes)) * lane_height
    inner = [
        Markup(
            '<svg x="{:.2f}%" y="{}" width="{:.2f}%" height="{}"><rect class="{}" x="1" y="1" width="100%" '
            'height="{}" rx="2"/>{}<title>{}</title></svg>'
        ).format(
            bar.start,
            place * lane_height,
            max(bar.end - bar.start, 0.4),
            high + 2,
            "solid" if bar.solid else "hollow",
            high,
            Markup('<text x="6" y="15">{}</text>').format(bar.shown) if bar.shown else "",
            bar.text,
        )
        for bar, place in zip(bars, places, strict=True)
    ]
    said = "; ".join(bar.text for bar in bars) or "nothing"
    if len(bars) > MOST_TOLD:
        said = f"{len(bars)} segments, {sum(bar.solid for bar in bars)} of them filled"
    return _svg(title, said, height, Markup("").join(inner))


def interval_track(title: str, value: float, low: float | None, high: float | None) -> Markup:
    """Draw a value and its interval; all in percent of the line."""
    inner = [Markup('<line class="base" x1="0" x2="100%" y1="9" y2="9"/>')]
    said = f"{value:.2f}"
    if low is not None and high is not None:
        inner.append(Markup('<line class="interval" x1="{:.2f}%" x2="{:.2f}%" y1="9" y2="9"/>').format(low, high))
        said += f", from {low:.2f} to {high:.2f}"
    inner.append(Markup('<circle cx="{:.2f}%" cy="9" r="5"/>').format(value))
    return _svg(title, said, 18, Markup("").join(inner))


def contrast_track(title: str, across: float, inside: float, background: float) -> Markup:
    """Draw three similarities from -1 to 1: across boundaries as a ring, inside as a disc, background as a tick."""
    a, i, b = (50 + 50 * value for value in (across, inside, background))
    inner = Markup(
        '<line class="base" x1="0" x2="100%" y1="9" y2="9"/><line class="interval" x1="{:.2f}%" x2="{:.2f}%" y1="9" '
        'y2="9"/><line class="tick" x1="{:.2f}%" x2="{:.2f}%" y1="2" y2="16"/><circle cx="{:.2f}%" cy="9" r="5"/>'
        '<circle class="ring" cx="{:.2f}%" cy="9" r="4.5"/>'
    ).format(min(a, i), max(a, i), b, b, i, a)
    return _svg(title, f"across {across:.3f}, inside {inside:.3f}, background {background:.3f}", 18, inner)


def _svg(title: str, description: str, height: int, inner: Markup) -> Markup:
    return Markup('<svg role="img" width="100%" height="{}" aria-label="{}"><title>{}</title>{}</svg>').format(
        height, f"{title}: {description}", title, inner
    )
