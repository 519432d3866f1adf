"""What was found in a video as one picture: thumbnails over the time line, detections, captions, a curve.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. matplotlib is loaded when a picture is
drawn, and draws without a display.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspbench.plots import DOTS_PER_INCH, INK, image_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F")
HATCHES: Final = ("", "///", "...")  # of the classes that share a colour
CURVE_COLOUR: Final = "#555555"
MOST: Final = 15  # detections that are drawn
FAINTEST: Final = 0.05  # of the best one's score: what is less certain is not drawn
MOST_CAPTIONS: Final = 8
# Inches.
WIDTH, LEFT, RIGHT, TOP = 12.0, 1.2, 0.35, 0.62
LANE, CURVE, GAP, AXIS, LINE = 0.27, 0.95, 0.14, 0.5, 0.23
LINE_WIDTH: Final = WIDTH - LEFT - RIGHT
LONGEST_LABEL: Final = 3.3
# Shares of the time line: what a written score takes, what a number does, and what the shortest bar is drawn at, 3 px.
SCORE_WIDTH: Final = 0.034
NUMBER_WIDTH: Final = 0.012
LEAST_BAR: Final = 0.002
MOST_LETTERS: Final = 400  # of which more than a line can be filled
LONG_SECONDS: Final = 600.0  # longer videos have times such as 1:02:03
TICK_SECONDS: Final = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True)
class Shown:
    """A labelled stretch of time: a detection's label and score, or a caption's sentence."""

    start_seconds: float
    end_seconds: float
    text: str
    score: float = 1.0


class Place(NamedTuple):
    """Where a bar and its number are drawn, in seconds; number and bar lie between ``first`` and ``last``."""

    start: float
    end: float
    number: float
    side: Literal["center", "left", "right"]  # of the number that lies at ``number``: in, behind or before the bar
    first: float
    last: float


def video_picture(
    title: str,
    duration_seconds: float,
    thumbnails: Sequence[Frame | None],
    detections: Sequence[Shown],
    captions: Sequence[Shown] = (),
    foreground: tuple[Floats, Floats] | None = None,
) -> bytes:
    """Draw what was found in a video.

    Args:
        title: what it is of, in a line.
        duration_seconds: of the video.
        thumbnails: (H, W, 3) frames of equal parts of the video; None: one that cannot be decoded.
        detections: all of them; those `worth_showing` are drawn, the higher the score the less transparent.
        captions: that do not overlap; the first `MOST_CAPTIONS` are drawn.
        foreground: (T,) seconds and (T,) probabilities that something happens there.

    Returns:
        A PNG.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes most of a second, which only a picture has a reason to wait for

    # A dollar in a name is a dollar, and a letter that no font here has is no reason to write warnings.
    letters = "".join([title, *(each.text for each in [*detections, *captions])])
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mpl.rcParams["font.family"] = [*mpl.rcParams["font.family"], *fallback_families(letters)]
        figure = draw(title, duration_seconds, thumbnails, detections, captions[:MOST_CAPTIONS], foreground)
        return image_bytes(figure)


def fallback_families(text: str) -> list[str]:
    """Return families of installed fonts that have letters which matplotlib's own font lacks, as few as needed."""
    from matplotlib.font_manager import findfont, fontManager, get_font  # noqa: PLC0415 - as above

    missing = {ord(letter) for letter in text if letter.isprintable()} - {
        *get_font(findfont("DejaVu Sans")).get_charmap()
    }
    if not missing:
        return []
    # A family's upright fonts stand for it; the "last resort" has a box for every letter.
    files = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"}
    drawn = {name: _drawable(files[name], missing) for name in sorted(files) if "last resort" not in name.lower()}
    chosen = []
    while drawn and (best := max(drawn, key=lambda name: len(drawn[name] & missing))) and drawn[best] & missing:
        missing -= drawn[best]
        chosen.append(best)
    return chosen


def _drawable(file: str, letters: set[int]) -> set[int]:
    """Return those letters that a font can draw; coloured emoji, which are bitmaps of one size, are none."""
    from matplotlib.font_manager import get_font  # noqa: PLC0415 - as above

    try:
        font = get_font(file)
        has = letters & {*font.get_charmap()}
        font.set_size(9, DOTS_PER_INCH)
        for letter in has:
            font.load_char(letter)
    except (OSError, RuntimeError):
        return set()
    return has


def draw(
    title: str,
    duration_seconds: float,
    thumbnails: Sequence[Frame | None],
    detections: Sequence[Shown],
    captions: Sequence[Shown],
    foreground: tuple[Floats, Floats] | None,
) -> "Figure":
    """Return the figure of `video_picture`."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    best = worth_showing(detections)
    places = [placed(each, duration_seconds, SCORE_WIDTH) for each in best]
    numbers = [placed(each, duration_seconds, NUMBER_WIDTH) for each in captions]
    lanes, caption_lanes = in_lanes(places), in_lanes(numbers)
    classes = list(dict.fromkeys(each.text for each in best))
    labels = [_short(name, LONGEST_LABEL, 9) for name in classes]
    column = 0.45 + max((_inches(label, 9) for label in labels), default=0.0)
    columns = max(1, min(int(LINE_WIDTH // column), len(classes)))
    legend_lines = -(-len(classes) // columns)
    heights = {
        "thumbnails": _strip_inches(thumbnails),
        "detections": LANE * (max(lanes, default=0) + 1) + 0.1,
        **({"captions": LANE * (max(caption_lanes) + 1) + 0.1} if captions else {}),
        **({"foreground": CURVE} if foreground is not None else {}),
    }
    below = AXIS + LINE * (legend_lines + len(captions)) + (0.12 if captions else 0.0)
    height = TOP + sum(heights.values()) + GAP * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH)
    at = height - TOP
    panels: dict[str, Axes] = {}
    for name, inches in heights.items():
        at -= inches
        box = (LEFT / WIDTH, at / height, LINE_WIDTH / WIDTH, inches / height)
        panels[name] = figure.add_axes(box)
        panels[name].set_xlim(0.0, duration_seconds)
        at -= GAP
    _head(figure, title, duration_seconds, len(best), len(detections))
    _thumbnails(panels["thumbnails"], thumbnails, duration_seconds)
    _detections(panels["detections"], best, places, lanes, classes)
    if captions:
        _captions(panels["captions"], numbers, caption_lanes)
    if foreground is not None:
        _curve(panels["foreground"], *foreground)
    _ticks(list(panels.values()), duration_seconds)
    bottom = height - TOP - sum(heights.values()) - GAP * (len(heights) - 1) - AXIS
    _legend(figure, labels, column, columns, bottom)
    for number, caption in enumerate(captions, start=1):
        told = f"{number}   {_span(caption, duration_seconds)}   "
        line = told + _short(caption.text, LINE_WIDTH - _inches(told, 9), 9)
        y = (bottom - LINE * (legend_lines + number - 0.5) - 0.08) / height
        figure.text(LEFT / WIDTH, y, line, fontsize=9, color=INK, va="center")
    return figure


def worth_showing(detections: Sequence[Shown]) -> list[Shown]:
    """Return the best `MOST` detections, best first, without those that are far less certain than the best."""
    best = sorted(detections, key=lambda each: -each.score)[:MOST]
    return [each for each in best if each.score >= FAINTEST * best[0].score]


def score_text(score: float) -> str:
    """Return a score in at most five characters, which tell small ones from none."""
    return f"{score:.2f}" if score >= 0.01 or score == 0 else f"{score:.0e}"


def placed(each: Shown, duration_seconds: float, room: float) -> Place:
    """Return where something is drawn.

    Args:
        each: what; the bar of a very short one is longer than it, so that it can be seen.
        duration_seconds: of the video.
        room: share of the time line that the number takes: within the bar, behind it where that is too short, and
            before it at the end of the video.
    """
    width = room * duration_seconds
    start = min(each.start_seconds, (1 - LEAST_BAR) * duration_seconds)
    end = min(max(each.end_seconds, start + LEAST_BAR * duration_seconds), duration_seconds)
    if end - start >= width:
        return Place(start, end, (start + end) / 2, "center", start, end)
    if end + width <= duration_seconds:
        return Place(start, end, end + 0.1 * width, "left", start, end + 1.15 * width)
    return Place(start, end, start - 0.1 * width, "right", start - 1.15 * width, end)


def in_lanes(places: Sequence[Place]) -> list[int]:
    """Return a lane for each place, the first one in which its bar and number touch no other."""
    lanes: list[list[Place]] = []
    chosen = []
    for each in places:
        free = (k for k, lane in enumerate(lanes) if all(each.last <= o.first or o.last <= each.first for o in lane))
        lane = next(free, len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(each)
        chosen.append(lane)
    return chosen


def _strip_inches(thumbnails: Sequence[Frame | None]) -> float:
    """Return the height at which thumbnails side by side fill the width without being squeezed."""
    shape = next((each.shape for each in thumbnails if each is not None), (9, 16))
    inches = LINE_WIDTH / max(1, len(thumbnails)) * shape[0] / shape[1]
    return float(np.clip(inches, 0.3, 2.5))


def _head(figure: "Figure", title: str, duration_seconds: float, shown: int, total: int) -> None:
    height = figure.get_size_inches()[1]
    line = _short(title, LINE_WIDTH, 12, "bold")
    figure.text(LEFT / WIDTH, 1 - 0.24 / height, line, fontsize=12, color=INK, va="center", weight="bold")
    many = f"the best {shown} of {total} detections" if shown < total else f"{total} detection(s)"
    long = duration_seconds > LONG_SECONDS
    length = clock(duration_seconds, duration_seconds) if long else f"{duration_seconds:.1f} s"
    told = f"{length}; {many}, with their scores: the fainter, the lower"
    figure.text(LEFT / WIDTH, 1 - 0.46 / height, told, fontsize=9, color=INK, va="center")


def _thumbnails(axes: "Axes", thumbnails: Sequence[Frame | None], duration_seconds: float) -> None:
    part = duration_seconds / max(1, len(thumbnails))
    for number, frame in enumerate(thumbnails):
        if frame is not None:
            extent = (number * part, (number + 1) * part, 0.0, 1.0)
            axes.imshow(frame, extent=extent, aspect="auto", interpolation="antialiased")
    axes.set_xlim(0.0, duration_seconds)
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([])
    for number in range(1, len(thumbnails)):
        axes.axvline(number * part, color="white", lw=1.2)


def _detections(
    axes: "Axes", best: Sequence[Shown], places: Sequence[Place], lanes: Sequence[int], classes: Sequence[str]
) -> None:
    top = max((each.score for each in best), default=1.0)
    for each, place, lane in zip(best, places, lanes, strict=True):
        share = each.score / top if top > 0 else 1.0
        opacity = 0.25 + 0.75 * float(np.clip(share, 0.0, 1.0))
        _bar(axes, place, lane, score_text(each.score), alpha=opacity, **_style(classes.index(each.text)))
    if not best:
        axes.text(sum(axes.get_xlim()) / 2, 0, "nothing found", fontsize=9, color=INK, ha="center", va="center")
    _finish_lanes(axes, lanes, "detections")


def _captions(axes: "Axes", places: Sequence[Place], lanes: Sequence[int]) -> None:
    for number, (place, lane) in enumerate(zip(places, lanes, strict=True), start=1):
        _bar(axes, place, lane, str(number), facecolor="#CFCFCF")
    _finish_lanes(axes, lanes, "captions")


def _bar(axes: "Axes", place: Place, lane: int, number: str, **style: Any) -> None:
    inside = place.side == "center"
    # A white edge parts bars that touch; of a narrow one, which has its number beside it, it would leave little.
    edge = {"edgecolor": "white", "lw": 0.6} if inside else {"lw": 0.0}
    axes.barh(lane, place.end - place.start, left=place.start, height=0.84, **edge, **style)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8} if inside else None
    axes.text(place.number, lane, number, fontsize=8, color=INK, bbox=box, ha=place.side, va="center_baseline")


def _finish_lanes(axes: "Axes", lanes: Sequence[int], name: str) -> None:
    axes.set_ylim(max(lanes, default=0) + 0.6, -0.6)
    axes.set_yticks([])
    axes.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")


def _curve(axes: "Axes", seconds: Floats, probabilities: Floats) -> None:
    axes.fill_between(seconds, probabilities, color=CURVE_COLOUR, alpha=0.18, lw=0)
    axes.plot(seconds, probabilities, color=CURVE_COLOUR, lw=1.4, marker="." if len(seconds) == 1 else "")
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0.0, 0.5, 1.0])
    axes.tick_params(axis="y", labelsize=8, colors=INK)
    axes.set_ylabel("foreground\nprobability", fontsize=9, color=INK, rotation=0, ha="right", va="center", labelpad=2)


def _ticks(panels: Sequence["Axes"], duration_seconds: float) -> None:
    """Give the lowest panel the times, and all the same lines at them."""
    if duration_seconds > LONG_SECONDS:
        days = 86400 * math.ceil(duration_seconds / 864000)
        step = next((step for step in TICK_SECONDS if duration_seconds <= 10 * step), days)
        ticks = np.arange(0.0, duration_seconds + 1e-6, step)
        for axes in panels:
            axes.set_xticks(ticks, [clock(tick, duration_seconds) for tick in ticks])
    unit = "seconds" if duration_seconds <= LONG_SECONDS else "m:ss" if duration_seconds < 3600 else "h:mm:ss"
    for axes in panels[:-1]:
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
    panels[-1].tick_params(axis="x", labelsize=9, colors=INK)
    panels[-1].set_xlabel(unit, fontsize=9, color=INK, labelpad=2)
    for axes in panels[1:]:
        axes.grid(axis="x", color="#E2E2E2", lw=0.7)
        axes.set_axisbelow(True)
    for axes in panels:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#BBBBBB")


def _legend(figure: "Figure", labels: Sequence[str], column: float, columns: int, top_inches: float) -> None:
    """Draw by hand: matplotlib's own leaves out names that begin with an underscore."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - as above

    height = figure.get_size_inches()[1]
    for number, label in enumerate(labels):
        x = LEFT + (number % columns) * column
        y = top_inches - LINE * (number // columns + 0.5)
        box = (x / WIDTH, (y - 0.065) / height)
        patch = Rectangle(box, 0.2 / WIDTH, 0.13 / height, transform=figure.transFigure, edgecolor="white", lw=0.6)
        patch.set(**_style(number))
        figure.add_artist(patch)
        figure.text((x + 0.27) / WIDTH, y / height, label, fontsize=9, color=INK, va="center")


def _style(number: int) -> dict[str, Any]:
    return {"facecolor": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)]}


def clock(seconds: float, duration_seconds: float) -> str:
    """Return a time as m:ss, or as h:mm:ss in a video of an hour or more."""
    minutes, rest = divmod(round(seconds), 60)
    if duration_seconds < 3600:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _span(each: Shown, duration_seconds: float) -> str:
    if duration_seconds > LONG_SECONDS:
        return "\N{EN DASH}".join(clock(end, duration_seconds) for end in (each.start_seconds, each.end_seconds))
    return f"{each.start_seconds:.1f}\N{EN DASH}{each.end_seconds:.1f} s"


def _short(text: str, longest_inches: float, size: int, weight: str = "normal") -> str:
    """Return a text in one line, cut off where it is too long."""
    line = " ".join(text.split())
    if len(line) <= MOST_LETTERS and _inches(line, size, weight) <= longest_inches:
        return line
    cut = [f"{line[:kept].rstrip()}…" for kept in range(min(len(line), MOST_LETTERS))]
    return cut[bisect_left(cut, True, lo=1, key=lambda each: _inches(each, size, weight) > longest_inches) - 1]


def _inches(text: str, size: int, weight: str = "normal") -> float:
    """Return how wide a line is drawn."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    line = Figure(figsize=(1, 1), dpi=DOTS_PER_INCH).text(0, 0, text, fontsize=size, weight=weight)
    return float(line.get_window_extent().width) / DOTS_PER_INCH
