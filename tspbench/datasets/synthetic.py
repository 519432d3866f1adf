"""The generated benchmark: videos, annotations, captions, trimmed clips, from one seed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tspbench.config import Settings
from tspbench.datasets.sentences import ANNOTATORS, describe
from tspbench.datasets.sprites import PACES, Scene, render
from tspbench.storage.atomic import write_json
from tspbench.storage.recipes import write_toml
from tspbench.storage.video import write_video

SIZE: Final = 56
FRAME_RATE: Final = 12
VIDEO_FRAMES: Final = 24 * FRAME_RATE
TRIMMED_FRAMES: Final = 32
SHORTEST_ACTION: Final = 1.0  # seconds; the longest is half the video
SHORTEST_GAP: Final = 0.5
FOREGROUND: Final = (0.25, 0.62)  # share of a video that its actions may cover together
MAX_ACTIONS: Final = 5
CAPTIONS: Final = {  # role → files
    "training": ["captions_training.json"],
    "validation": ["captions_validation_1.json", "captions_validation_2.json"],
}


class Kind(NamedTuple):
    """A class: what its sprite looks like and how it moves in its actions."""

    label: str
    shape: str
    hue: float
    motion: str


# Untrimmed: one look a class, so that a still frame is enough to tell the class.
UNTRIMMED_KINDS: Final = (
    Kind("Bouncing disc", "disc", 0.00, "bounces"),
    Kind("Shaking square", "square", 0.17, "shakes"),
    Kind("Circling triangle", "triangle", 0.33, "circles"),
    Kind("Pulsing cross", "cross", 0.50, "pulses"),
    Kind("Swinging ring", "ring", 0.67, "swings"),
    Kind("Sliding diamond", "diamond", 0.83, "slides"),
)
# Trimmed: other looks and motions, as Kinetics shows other things than ActivityNet; each look moves in two ways, so
# that these classes, as many of Kinetics, cannot be told from a still frame.
TRIMMED_KINDS: Final = (
    Kind("Nodding bar", "bar", 0.08, "nods"),
    Kind("Nodding frame", "frame", 0.42, "nods"),
    Kind("Nodding half", "half", 0.75, "nods"),
    Kind("Wobbling bar", "bar", 0.08, "wobbles"),
    Kind("Wobbling frame", "frame", 0.42, "wobbles"),
    Kind("Wobbling half", "half", 0.75, "wobbles"),
)


class SyntheticSettings(Settings):
    """How much to generate."""

    training_videos: int = Field(100, ge=1)
    validation_videos: int = Field(40, ge=1)
    trimmed_clips: int = Field(180, ge=2, description="of which every sixth is for validation")


def write_untrimmed(folder: Path, settings: SyntheticSettings, seed: int, report: Callable[[int, int], None]) -> None:
    """Write the untrimmed set: a data set folder of 24-second videos with several actions each.

    Args:
        folder: where; ``dataset.toml`` is written last and marks the folder as complete.
        settings: how much.
        seed: everything follows from it.
        report: called with (videos written, videos in all).
    """
    splits = {"training": settings.training_videos, "validation": settings.validation_videos}
    names = [(f"{split}_{k:04d}", split) for split, n in splits.items() for k in range(n)]
    scenes: list[tuple[str, str, str, Scene]] = []
    for index, (name, split) in enumerate(names):
        rng = np.random.default_rng([seed, 1, index])
        kind = UNTRIMMED_KINDS[index % len(UNTRIMMED_KINDS)]
        actions = draw_actions(rng)
        rates = draw_rates(np.random.default_rng([seed, 4, index]), len(actions))
        scenes.append((name, split, kind.label, _scene(kind, actions, rates, VIDEO_FRAMES)))
    _write_videos(folder, [(name, scene) for name, _, _, scene in scenes], [seed, 2], report)
    _write_annotations(folder, scenes)
    _write_captions(folder, scenes, seed)
    _write_card(folder, "synthetic", {"captions": CAPTIONS})


def write_trimmed(folder: Path, settings: SyntheticSettings, seed: int, report: Callable[[int, int], None]) -> None:
    """Write the trimmed set, the stand-in for Kinetics: short clips that are one action from end to end."""
    scenes: list[tuple[str, str, str, Scene]] = []
    for index in range(settings.trimmed_clips):
        kind = TRIMMED_KINDS[index % len(TRIMMED_KINDS)]
        split = "validation" if index // len(TRIMMED_KINDS) % 6 == 5 else "training"
        rates = draw_rates(np.random.default_rng([seed, 5, index]), 1)
        scene = _scene(kind, np.array([[0, TRIMMED_FRAMES]]), rates, TRIMMED_FRAMES)
        scenes.append((f"clip_{index:04d}", split, kind.label, scene))
    if not any(split == "validation" for _, split, _, _ in scenes):
        name, _, label, scene = scenes[-1]
        scenes[-1] = (name, "validation", label, scene)
    _write_videos(folder, [(name, scene) for name, _, _, scene in scenes], [seed, 3], report)
    _write_annotations(folder, scenes)
    _write_card(folder, "synthetic-trimmed", {})


def draw_actions(rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw where the actions of one video are: (N, 2) int64, first and one-past-last frame, in order of time.

    Lengths are log-uniform between `SHORTEST_ACTION` and half the video; what is left is shared out between the
    gaps at random, each inner gap at least `SHORTEST_GAP`. The class plays no part.
    """
    shortest, gap = int(SHORTEST_ACTION * FRAME_RATE), int(SHORTEST_GAP * FRAME_RATE)
    while True:
        count = int(rng.integers(1, MAX_ACTIONS + 1))
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(VIDEO_FRAMES // 2), count)).astype(np.int64)
        if FOREGROUND[0] <= lengths.sum() / VIDEO_FRAMES <= FOREGROUND[1]:
            break
    free = VIDEO_FRAMES - int(lengths.sum()) - gap * (count - 1)
    edges = np.sort(rng.integers(0, free + 1, count))
    starts = edges + np.concatenate([[0], np.cumsum(lengths[:-1] + gap)])
    return np.stack([starts, starts + lengths], axis=1).astype(np.int64)


def draw_rates(rng: np.random.Generator, actions: int) -> NDArray[np.float64]:
    """Draw how fast the actions of one video are, (N,) cycles a second; each pace is as likely for each action."""
    bands = np.array(list(PACES.values()))[rng.integers(len(PACES), size=actions)]
    return rng.uniform(bands[:, 0], bands[:, 1])


def _scene(kind: Kind, actions: NDArray[np.int64], rates: NDArray[np.float64], frames: int) -> Scene:
    return Scene(kind.shape, kind.hue, kind.motion, actions, rates, frames, SIZE, FRAME_RATE)


def _write_videos(
    folder: Path, scenes: list[tuple[str, Scene]], entropy: list[int], report: Callable[[int, int], None]
) -> None:
    """Render and encode what is not there yet; a file that is there is whole (it was written atomically)."""

    def write(index: int) -> None:
        name, scene = scenes[index]
        path = folder / "videos" / f"{name}.mp4"
        if not path.exists():
            write_video(path, render(scene, np.random.default_rng([*entropy, index])), FRAME_RATE)

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(write, range(len(scenes))), start=1):
            report(done, len(scenes))


def _write_annotations(folder: Path, scenes: list[tuple[str, str, str, Scene]]) -> None:
    database = {
        name: {
            "duration": scene.frames / FRAME_RATE,
            "subset": split,
            "annotations": [{"segment": [s / FRAME_RATE, e / FRAME_RATE], "label": label} for s, e in scene.actions],
        }
        for name, split, label, scene in scenes
    }
    write_json(folder / "annotations.json", {"version": "1.3", "taxonomy": [], "database": database})


def _write_captions(folder: Path, scenes: list[tuple[str, str, str, Scene]], seed: int) -> None:
    """Write the files of `CAPTIONS`: a training video is described by one of the annotators, the others by each."""
    (training,), validation = CAPTIONS["training"], CAPTIONS["validation"]
    told: dict[str, dict[str, object]] = {file: {} for file in (training, *validation)}
    for index, (name, split, _, scene) in enumerate(scenes):
        if split == "training":
            rng = np.random.default_rng([seed, 6, index])
            told[training][name] = describe(scene, ANNOTATORS[rng.integers(len(ANNOTATORS))], rng)
        else:
            for number, (file, annotator) in enumerate(zip(validation, ANNOTATORS, strict=True)):
                told[file][name] = describe(scene, annotator, np.random.default_rng([seed, 7 + number, index]))
    for file, entries in told.items():
        write_json(folder / file, entries)


def _write_card(folder: Path, name: str, tables: dict[str, dict[str, list[str]]]) -> None:
    card = {"name": name, "annotations": "annotations.json", "videos": "videos", "protocol": "activitynet"}
    splits = {"training": "training", "validation": "validation"}
    write_toml(folder / "dataset.toml", {**card, "splits": splits, **tables})
