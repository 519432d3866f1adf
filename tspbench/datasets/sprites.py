"""Moving sprites: appearance tells the class, only motion tells an action from background."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

FADE_FRAMES: Final = 3  # an action's amplitude rises and falls over this many frames, inside its segment
WOBBLE_PIXELS: Final = 4.0  # how far the background wanders
NOISE: Final = 10.0  # standard deviation of the pixel noise, in grey levels
AMPLITUDE: Final = 0.75  # of the motions below: full amplitude saturates the benchmark, half hides the effect
RADIUS_PIXELS: Final = (7.0, 10.0)
# Cycles a second of an action. The gap makes a pace visible; paces further apart make slow actions hard to find at all.
PACES: Final = {"slow": (1.1, 1.25), "quick": (1.45, 1.6)}
DRIFT_PIXELS_PER_SECOND: Final = 6.0


@dataclass(frozen=True)
class Scene:
    """Everything that one video is rendered from.

    Args:
        shape: name of the sprite's shape, a key of `SHAPES`.
        hue: its hue, from 0 to 1; a video's own sprite differs a little.
        motion: name of the action's motion, a key of `MOTIONS`.
        actions: (N, 2) int64, first and one-past-last frame of each action.
        rates: (N,) float64, how many cycles of its motion each action makes a second.
        frames: length of the video in frames.
        size: height and width in pixels.
        frame_rate: frames a second.
    """

    shape: str
    hue: float
    motion: str
    actions: NDArray[np.int64]
    rates: NDArray[np.float64]
    frames: int
    size: int
    frame_rate: float


def _triangle(u: Floats, v: Floats) -> Floats:
    return np.maximum(0.87 * np.abs(u) - 0.5 * v, v) - 0.55


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.35, b - 1.0), np.maximum(a - 1.0, b - 0.35))


# Signed distance to the outline (negative inside), of points (u, v) measured in radii from the sprite's centre.
SHAPES: Final[dict[str, Callable[[Floats, Floats], Floats]]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.8,
    "triangle": _triangle,
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.22,
    "diamond": lambda u, v: 0.7 * (np.abs(u) + np.abs(v)) - 0.7,
    "bar": lambda u, v: np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.4),
    "pillar": lambda u, v: np.maximum(np.abs(u) - 0.4, np.abs(v) - 1.0),
    "frame": lambda u, v: np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.7) - 0.18,
    "half": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, v),
}

# Offset (x and y in pixels) and relative change of size of a sprite at a phase of its motion.
MOTIONS: Final[dict[str, Callable[[Floats], tuple[Floats, Floats, Floats]]]] = {
    "bounces": lambda p: (0 * p, 3.0 - 7.0 * np.abs(np.sin(0.5 * p)), 0 * p),
    "shakes": lambda p: (4.5 * np.sin(p), 0 * p, 0 * p),
    "circles": lambda p: (4.0 * np.cos(p), 4.0 * np.sin(p), 0 * p),
    "pulses": lambda p: (0 * p, 0 * p, 0.45 * np.sin(p)),
    "swings": lambda p: (4.5 * np.sin(p), 2.0 * np.cos(2 * p), 0 * p),
    "slides": lambda p: (3.2 * np.sin(p), 3.2 * np.sin(p), 0 * p),
    "nods": lambda p: (0 * p, 4.5 * np.sin(p), 0 * p),
    "wobbles": lambda p: (3.0 * np.cos(p), 0 * p, 0.3 * np.sin(p)),
}


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw every frame of a scene.

    The sprite idles, drifts and pauses for the whole video, by the same law inside and outside its actions; an
    action adds its motion on top, and nothing else in a frame knows of it.

    Returns:
        (frames, size, size, 3) uint8, RGB.
    """
    x, y = _wander(scene, rng)
    offset_x, offset_y, growth = _action_motion(scene, rng)
    radius = rng.uniform(*RADIUS_PIXELS) * (1.0 + growth)
    grid = np.arange(scene.size, dtype=np.float32)
    u = ((grid[None, None, :] - (x + offset_x)[:, None, None]) / radius[:, None, None]).astype(np.float32)
    v = ((grid[None, :, None] - (y + offset_y)[:, None, None]) / radius[:, None, None]).astype(np.float32)
    distance = SHAPES[scene.shape](u, v) * radius[:, None, None].astype(np.float32)
    cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]  # one pixel of antialiasing
    colour = _colour(scene.hue + rng.uniform(-0.04, 0.04), rng.uniform(0.6, 0.9), rng.uniform(170, 230))
    frames = _background(scene, rng)
    frames += cover * (colour - frames)
    frames += NOISE * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _wander(scene: Scene, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the sprite's resting place in each frame: idle (it trembles), drift (it glides) or pause, in turns."""
    position = np.empty((scene.frames, 2), dtype=np.float32)
    here, frame = rng.uniform(0.35, 0.65, 2) * scene.size, 0
    low, high = 0.28 * scene.size, 0.72 * scene.size
    while frame < scene.frames:
        length = min(int(rng.uniform(0.8, 3.0) * scene.frame_rate), scene.frames - frame)
        kind = rng.integers(3)
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * DRIFT_PIXELS_PER_SECOND
        step = np.array([np.cos(angle), np.sin(angle)]) * (speed / scene.frame_rate if kind == 1 else 0.0)
        tremble = 0.35 if kind == 0 else 0.0
        for k in range(frame, frame + length):
            here = here + step
            step = np.where((here < low) & (step < 0) | (here > high) & (step > 0), -step, step)
            position[k] = here + tremble * rng.standard_normal(2)
        frame += length
    return position[:, 0], position[:, 1]


def _action_motion(scene: Scene, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return what the actions add to x, y (pixels) and relative size, (frames,) each, zero outside the actions."""
    total = np.zeros((3, scene.frames), dtype=np.float32)
    for (start, end), rate in zip(scene.actions, scene.rates, strict=True):
        k = np.arange(start, end)
        phase = 2 * np.pi * (rate * (k - start) / scene.frame_rate + rng.uniform())
        fade = np.minimum(1.0, np.minimum(k - start + 1, end - k) / (FADE_FRAMES + 1))
        total[:, start:end] = AMPLITUDE * fade * np.stack(MOTIONS[scene.motion](phase))
    return total[0], total[1], total[2]


def _background(scene: Scene, rng: np.random.Generator) -> Floats:
    """Return a texture that wanders and changes its brightness slowly, (frames, size, size, 3) float32."""
    size, margin = scene.size, int(WOBBLE_PIXELS) + 2
    texture = np.zeros((size + 2 * margin, size + 2 * margin, 3), dtype=np.float32)
    for cells, strength in ((5, 35.0), (13, 18.0)):
        coarse = rng.standard_normal((cells, cells, 1)) + 0.4 * rng.standard_normal((cells, cells, 3))
        texture += strength * _enlarge(coarse.astype(np.float32), texture.shape[0])
    texture += rng.uniform(70, 130, 3).astype(np.float32)
    seconds = np.arange(scene.frames) / scene.frame_rate
    shifts = [_slow_wave(seconds, rng) * WOBBLE_PIXELS + margin for _ in range(2)]
    light = 1.0 + 0.08 * _slow_wave(seconds, rng)
    out = np.empty((scene.frames, size, size, 3), dtype=np.float32)
    for k, (top, left) in enumerate(zip(*shifts, strict=True)):
        i, j = int(top), int(left)
        a, b = top - i, left - j
        rows = (1 - a) * texture[i : i + size] + a * texture[i + 1 : i + 1 + size]
        out[k] = light[k] * ((1 - b) * rows[:, j : j + size] + b * rows[:, j + 1 : j + 1 + size])
    return out


def _slow_wave(seconds: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Return a smooth curve in [-1, 1] with periods of 6 s and longer."""
    periods, phases = rng.uniform(6.0, 14.0, 2), rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * seconds[:, None] / periods + phases)
    return np.asarray(waves.mean(axis=1), dtype=np.float32)


def _enlarge(coarse: Floats, size: int) -> Floats:
    """Return (n, n, 3) values enlarged to (size, size, 3), linearly between the cells."""
    cells = coarse.shape[0]
    places = np.linspace(0, cells - 1.001, size)
    low, part = places.astype(int), (places % 1).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    return np.asarray(rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None])


def _colour(hue: float, saturation: float, value: float) -> Floats:
    """Return (3,) RGB in grey levels of a hue (any real), a saturation (0 to 1) and a value (0 to 255)."""
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue) % 6.0
    weight = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return (value * (1.0 - saturation * weight)).astype(np.float32)
