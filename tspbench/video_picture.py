"""What was found in a video as one picture: thumbnails over the time line, detections, captions, a curve.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. matplotlib is loaded when a picture is
drawn, and draws without a display.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tspbench.plots import INK, image_bytes

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
WIDTH, LEFT, RIGHT, TOP = 12.0, 1.2, 0.25, 0.62
LANE, CURVE, GAP, AXIS, LINE = 0.27, 0.95, 0.14, 0.5, 0.23
SCORE_WIDTH: Final = 0.034  # share of the time line that a written score takes
LONGEST_LABEL: Final = 40
LONGEST_CAPTION: Final = 130


@dataclass(frozen=True)
class Shown:
    """A labelled stretch of time: a detection's label and score, or a caption's sentence."""

    start_seconds: float
    end_seconds: float
    text: str
    score: float = 1.0


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
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure = draw(title, duration_seconds, thumbnails, detections, captions[:MOST_CAPTIONS], foreground)
        return image_bytes(figure)


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
    lanes = in_lanes(best, duration_seconds)
    classes = list(dict.fromkeys(each.text for each in best))
    columns = _columns(classes)
    legend_lines = -(-len(classes) // columns)
    heights = {
        "thumbnails": _strip_inches(thumbnails),
        "detections": LANE * max(1, max(lanes, default=0) + 1) + 0.1,
        **({"captions": LANE + 0.1} if captions else {}),
        **({"foreground": CURVE} if foreground is not None else {}),
    }
    below = AXIS + LINE * (legend_lines + len(captions)) + (0.12 if captions else 0.0)
    height = TOP + sum(heights.values()) + GAP * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, height))
    at = height - TOP
    panels: dict[str, Axes] = {}
    for name, inches in heights.items():
        at -= inches
        box = (LEFT / WIDTH, at / height, (WIDTH - LEFT - RIGHT) / WIDTH, inches / height)
        panels[name] = figure.add_axes(box)
        panels[name].set_xlim(0.0, duration_seconds)
        at -= GAP
    _head(figure, title, duration_seconds, len(best), len(detections))
    _thumbnails(panels["thumbnails"], thumbnails, duration_seconds)
    _detections(panels["detections"], best, lanes, classes, duration_seconds)
    if captions:
        _captions(panels["captions"], captions)
    if foreground is not None:
        _curve(panels["foreground"], *foreground)
    _ticks(list(panels.values()))
    bottom = height - TOP - sum(heights.values()) - GAP * (len(heights) - 1) - AXIS
    _legend(figure, classes, columns, bottom)
    for number, caption in enumerate(captions, start=1):
        line = f"{number}   {_span(caption)}   {_short(caption.text, LONGEST_CAPTION)}"
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


def in_lanes(shown: Sequence[Shown], duration_seconds: float) -> list[int]:
    """Return a lane for each detection, the first one in which it, and its score behind it, touch no other."""
    lanes: list[list[tuple[float, float]]] = []
    chosen = []
    for each in shown:
        first, last = each.start_seconds, max(each.end_seconds, _score_end(each, duration_seconds))
        free = (k for k, lane in enumerate(lanes) if all(last <= start or end <= first for start, end in lane))
        lane = next(free, len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((first, last))
        chosen.append(lane)
    return chosen


def _score_end(each: Shown, duration_seconds: float) -> float:
    """Return where the written score ends: within the bar, or behind it where the bar is too short."""
    room = SCORE_WIDTH * duration_seconds
    inside = each.end_seconds - each.start_seconds >= room
    return each.end_seconds if inside else each.end_seconds + 1.15 * room


def _strip_inches(thumbnails: Sequence[Frame | None]) -> float:
    """Return the height at which thumbnails side by side fill the width without being squeezed."""
    shape = next((each.shape for each in thumbnails if each is not None), (9, 16))
    inches = (WIDTH - LEFT - RIGHT) / max(1, len(thumbnails)) * shape[0] / shape[1]
    return float(np.clip(inches, 0.3, 2.5))


def _head(figure: "Figure", title: str, duration_seconds: float, shown: int, total: int) -> None:
    height = figure.get_size_inches()[1]
    figure.text(LEFT / WIDTH, 1 - 0.24 / height, _short(title, 110), fontsize=12, color=INK, va="center", weight="bold")
    many = f"the best {shown} of {total} detections" if shown < total else f"{total} detection(s)"
    told = f"{duration_seconds:.1f} s; {many}, with their scores: the fainter, the lower"
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
    axes: "Axes", best: Sequence[Shown], lanes: Sequence[int], classes: Sequence[str], duration_seconds: float
) -> None:
    top = max((each.score for each in best), default=1.0)
    for each, lane in zip(best, lanes, strict=True):
        style = _style(classes.index(each.text))
        share = each.score / top if top > 0 else 1.0
        opacity = 0.25 + 0.75 * float(np.clip(share, 0.0, 1.0))
        length = each.end_seconds - each.start_seconds
        axes.barh(lane, length, left=each.start_seconds, height=0.84, alpha=opacity, edgecolor="white", lw=0.6, **style)
        inside = _score_end(each, duration_seconds) == each.end_seconds
        x = each.start_seconds + length / 2 if inside else each.end_seconds + 0.1 * SCORE_WIDTH * duration_seconds
        place: dict[str, Any] = {"ha": "center" if inside else "left", "va": "center_baseline", "clip_on": False}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8} if inside else None
        axes.text(x, lane, score_text(each.score), fontsize=8, color=INK, bbox=box, **place)
    if not best:
        axes.text(duration_seconds / 2, 0, "nothing found", fontsize=9, color=INK, ha="center", va="center")
    axes.set_ylim(max(lanes, default=0) + 0.6, -0.6)
    axes.set_yticks([])
    axes.set_ylabel("detections", fontsize=9, color=INK, rotation=0, ha="right", va="center")


def _captions(axes: "Axes", captions: Sequence[Shown]) -> None:
    for number, each in enumerate(captions, start=1):
        length = each.end_seconds - each.start_seconds
        axes.barh(0, length, left=each.start_seconds, height=0.84, color="#E4E4E4", edgecolor="white", lw=0.6)
        middle = each.start_seconds + length / 2
        axes.text(middle, 0, str(number), fontsize=8, color=INK, ha="center", va="center_baseline")
    axes.set_ylim(0.6, -0.6)
    axes.set_yticks([])
    axes.set_ylabel("captions", fontsize=9, color=INK, rotation=0, ha="right", va="center")


def _curve(axes: "Axes", seconds: Floats, probabilities: Floats) -> None:
    axes.fill_between(seconds, probabilities, color=CURVE_COLOUR, alpha=0.18, lw=0)
    axes.plot(seconds, probabilities, color=CURVE_COLOUR, lw=1.4, marker="." if len(seconds) == 1 else "")
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0.0, 0.5, 1.0])
    axes.tick_params(axis="y", labelsize=8, colors=INK)
    axes.set_ylabel("foreground\nprobability", fontsize=9, color=INK, rotation=0, ha="right", va="center", labelpad=2)


def _ticks(panels: Sequence["Axes"]) -> None:
    """Give the lowest panel the seconds, and all the same lines at them."""
    for axes in panels[:-1]:
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
    panels[-1].tick_params(axis="x", labelsize=9, colors=INK)
    panels[-1].set_xlabel("seconds", fontsize=9, color=INK, labelpad=2)
    for axes in panels[1:]:
        axes.grid(axis="x", color="#E2E2E2", lw=0.7)
        axes.set_axisbelow(True)
    for axes in panels:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#BBBBBB")


def _columns(classes: Sequence[str]) -> int:
    """Return how many classes stand side by side in the legend."""
    longest = max((len(_short(name, LONGEST_LABEL)) for name in classes), default=1)
    return int(np.clip((WIDTH - LEFT - RIGHT) // (0.45 + 0.082 * longest), 1, max(1, len(classes))))


def _legend(figure: "Figure", classes: Sequence[str], columns: int, top_inches: float) -> None:
    """Draw by hand: matplotlib's own leaves out names that begin with an underscore."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - as above

    height = figure.get_size_inches()[1]
    longest = max((len(_short(name, LONGEST_LABEL)) for name in classes), default=1)
    for number, name in enumerate(classes):
        x = LEFT + (number % columns) * (0.45 + 0.082 * longest)
        y = top_inches - LINE * (number // columns + 0.5)
        box = (x / WIDTH, (y - 0.065) / height)
        patch = Rectangle(box, 0.2 / WIDTH, 0.13 / height, transform=figure.transFigure, edgecolor="white", lw=0.6)
        patch.set(**_style(number))
        figure.add_artist(patch)
        figure.text((x + 0.27) / WIDTH, y / height, _short(name, LONGEST_LABEL), fontsize=9, color=INK, va="center")


def _style(number: int) -> dict[str, Any]:
    return {"facecolor": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)]}


def _span(each: Shown) -> str:
    return f"{each.start_seconds:.1f}\N{EN DASH}{each.end_seconds:.1f} s"


def _short(text: str, longest: int) -> str:
    """Return a text in one line, cut off where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"
