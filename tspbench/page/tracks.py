"""Pictures that stretch with the page: bars and marks along a line of time or of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from tspbench.page.contents import RowStyle

LANE: Final = 13
BAR: Final = 10
TALL_LANE: Final = 24
TALL_BAR: Final = 20
LETTER: Final = 1.1  # percent of a line that a letter takes on a desk
PHONE_LETTER: Final = 1.8  # and on a phone
MARGIN: Final = 2.0  # percent of a line, on both sides of a text together
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
    lane_height = TALL_LANE if tall else LANE
    inner = [_drawn(bar, place * lane_height, tall=tall) for bar, place in zip(bars, places, strict=True)]
    said = "; ".join(bar.text for bar in bars) or "nothing"
    if len(bars) > MOST_TOLD:
        said = f"{len(bars)} segments, {sum(bar.solid for bar in bars)} of them filled"
    return _svg(title, said, max(1, len(lanes)) * lane_height, Markup("").join(inner))


def _drawn(bar: Bar, top: float, *, tall: bool) -> Markup:
    """Draw a bar; the page's CSS keeps it wide enough to be seen. An outline is lower, for in a thin bar it fills."""
    y, height = (top + 1, TALL_BAR) if tall else (top + 1, BAR) if bar.solid else (top + 3, BAR - 4)
    drawn = Markup(
        '<rect class="{}" style="--x:{:.2f}%;--w:{:.2f}%" y="{}" height="{}" rx="2"><title>{}</title></rect>'
    ).format("solid" if bar.solid else "hollow", min(bar.start, 99.6), bar.end - bar.start, y, height, bar.text)
    room = bar.end - bar.start - MARGIN
    if room < LETTER * len(bar.shown) or not bar.shown:
        return drawn
    return drawn + Markup('<text class="{}" x="{:.2f}%" dx="6" y="{}">{}</text>').format(
        "short" if room >= PHONE_LETTER * len(bar.shown) else "long", bar.start, y + 14, bar.shown
    )


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
