"""What people would say of a scene: sentences of two annotators, from templates."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspbench.datasets.sprites import PACES, Scene

DISAGREEMENT: Final = 0.08  # of a segment's length: how far apart two annotators may see a boundary of it
NO_REST: Final = 0.5  # seconds before the end of the video that nobody takes for a rest
RESTS: Final = {"brief": 1.5, "middle": 4.0, "long": np.inf}  # seconds below which a rest between actions is so called
COUNTS: Final = {"one": 1, "two": 2, "three": 3, "few": 5, "many": 9, "most": np.inf}  # the most cycles so called
COLOURS: Final = {"red": 0.00, "yellow": 0.17, "green": 0.33, "cyan": 0.50, "blue": 0.67, "magenta": 0.83}  # hues


class Annotator(NamedTuple):
    """How somebody writes.

    Attributes:
        templates: sentences with slots, one as likely as another; a slot that is left out is a detail left out.
        words: slot → fact → the ways to say it, one as likely as another.
    """

    templates: tuple[str, ...]
    words: dict[str, dict[str, tuple[str, ...]]]


_ARTICLES: Final[dict[str, tuple[str, ...]]] = {"new": ("a",), "known": ("the",)}

ANNOTATORS: Final = (
    Annotator(
        ("{opening} {article} {colour} {shape} {motion} {pace} {count}{follows}.",),
        {
            "opening": {
                "only": ("",),
                "first": ("at first", "first"),
                "middle": ("then", "after that"),
                "last": ("finally",),
            },
            "article": _ARTICLES,
            "colour": {**{name: (name,) for name in COLOURS}, "magenta": ("pink",)},
            "shape": {name: (name,) for name in ("disc", "square", "triangle", "cross", "ring", "diamond")},
            "motion": {name: (name,) for name in ("bounces", "shakes", "circles", "pulses", "swings", "slides")},
            "pace": {"slow": ("slowly",), "quick": ("quickly",)},
            "count": {
                "one": ("once",),
                "two": ("twice",),
                "three": ("three times",),
                "few": ("a few times",),
                "many": ("many times",),
                "most": ("over and over",),
            },
            "follows": {
                "brief": (" and rests briefly",),
                "middle": (" and rests for a while",),
                "long": (" and rests for a long time",),
                "rest": (" and rests until the video ends",),
                "end": (" until the video ends",),
            },
        },
    ),
    Annotator(
        (
            "{opening}, {article} {colour} {shape} {pace} {motion} {count}{follows}.",
            "{opening}, {article} {colour} {shape} {motion} {pace} {count}{follows}.",
            "{pace}, {article} {colour} {shape} {motion} {count}{follows}.",
            "{opening}, {article} {colour} {shape} {motion} {count}{follows}.",
            "{opening}, {article} {colour} {shape} {pace} {motion}{follows}.",
            "{opening}, {article} {colour} {shape} {motion} {pace} {count}.",
        ),
        {
            "opening": {
                "only": ("here",),
                "first": ("to begin", "initially"),
                "middle": ("next", "later on", "afterwards"),
                "last": ("lastly", "eventually"),
            },
            "article": _ARTICLES,
            "colour": {**{name: (name,) for name in COLOURS}, "cyan": ("cyan", "turquoise"), "magenta": ("purple",)},
            "shape": {
                "disc": ("ball",),
                "square": ("square", "box"),
                "triangle": ("triangle",),
                "cross": ("cross", "plus"),
                "ring": ("ring", "hoop"),
                "diamond": ("diamond",),
            },
            "motion": {
                "bounces": ("hops", "jumps up and down"),
                "shakes": ("shakes sideways", "moves left and right"),
                "circles": ("turns in circles", "goes round"),
                "pulses": ("pulses", "grows and shrinks"),
                "swings": ("swings to and fro", "sways"),
                "slides": ("slides diagonally", "glides back and forth"),
            },
            "pace": {"slow": ("slowly", "calmly"), "quick": ("quickly", "rapidly")},
            "count": {
                "one": ("once", "one time"),
                "two": ("twice", "two times"),
                "three": ("three times",),
                "few": ("several times",),
                "many": ("many times",),
                "most": ("repeatedly",),
            },
            "follows": {
                "brief": (" before a short break", " and soon starts again"),
                "middle": (" before starting again", ", then pauses a while"),
                "long": (" before a long break", ", then rests at length"),
                "rest": (" before stopping for good", ", then rests"),
                "end": (" until the end", " until the video stops"),
            },
        },
    ),
)


def facts(scene: Scene, action: int) -> dict[str, str]:
    """Return what is to be said of an action, slot → fact."""
    start, end = scene.actions[action] / scene.frame_rate
    rate = scene.rates[action]
    last = action == len(scene.actions) - 1
    after = (scene.frames if last else scene.actions[action + 1, 0]) / scene.frame_rate - end
    place = ("only" if last else "first") if action == 0 else "last" if last else "middle"
    return {
        "opening": place,
        "article": "new" if action == 0 else "known",
        "colour": min(COLOURS, key=lambda name: abs(COLOURS[name] - scene.hue)),
        "shape": scene.shape,
        "motion": scene.motion,
        "pace": "slow" if rate <= PACES["slow"][1] else "quick",
        "count": next(name for name, most in COUNTS.items() if round(rate * (end - start)) <= most),
        "follows": ("rest" if after >= NO_REST else "end")
        if last
        else next(name for name, limit in RESTS.items() if after < limit),
    }


def sentence(scene: Scene, action: int, annotator: Annotator, rng: np.random.Generator) -> str:
    """Describe one action of a scene as an annotator would, in 6 to 16 words."""
    said = {slot: _any_of(annotator.words[slot][fact], rng) for slot, fact in facts(scene, action).items()}
    text = _any_of(annotator.templates, rng).format(**said).strip()
    return text[0].upper() + text[1:]


def describe(scene: Scene, annotator: Annotator, rng: np.random.Generator) -> dict[str, object]:
    """Describe a scene as an annotator would: its entry in a file in the ActivityNet Captions format."""
    return {
        "duration": scene.frames / scene.frame_rate,
        "timestamps": _boundaries(scene, rng).tolist(),
        "sentences": [sentence(scene, action, annotator, rng) for action in range(len(scene.actions))],
    }


def _boundaries(scene: Scene, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where somebody sees the actions, seconds (N, 2): a little beside the truth, in the same order."""
    edges = scene.actions.ravel() / scene.frame_rate
    parts = np.diff(edges, prepend=0.0, append=scene.frames / scene.frame_rate)  # gap, action, gap, …, action, gap
    reach = np.minimum(np.repeat(parts[1::2], 2) * DISAGREEMENT, np.minimum(parts[:-1], parts[1:])) / 2
    return np.round(edges + reach * rng.uniform(-1.0, 1.0, len(edges)), 2).reshape(-1, 2)


def _any_of(ways: tuple[str, ...], rng: np.random.Generator) -> str:
    return ways[rng.integers(len(ways))]
