"""Small videos whose frames tell their own number, and other inputs that several tests share."""

import json
import re
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tspbench.datasets import Dataset, open_dataset
from tspbench.errors import UserError
from tspbench.storage.recipes import write_toml
from tspbench.storage.video import write_video

BITS = 10


def numbered(k: int, size: int = 56) -> np.ndarray:
    """Return a (size, size, 3) frame with the number k as stripes, black for 0 and white for 1, on a grey ground."""
    frame = np.full((size, size, 3), 96, dtype=np.uint8)
    stripe = size // BITS
    for bit in range(BITS):
        frame[: size // 2, bit * stripe : (bit + 1) * stripe] = 235 * (k >> bit & 1)
    return frame


def number(frame: np.ndarray) -> int:
    """Read the number of a frame off its stripes."""
    size = frame.shape[1]
    stripe = size // BITS
    bits = [frame[: size // 2, b * stripe : (b + 1) * stripe].mean() > 118 for b in range(BITS)]
    return sum(bit << b for b, bit in enumerate(bits))


def numbers(frames: Iterable[np.ndarray]) -> list[int]:
    return [number(frame) for frame in frames]


def numbered_video(path: Path, frames: int, frame_rate: int = 12, first: int = 0) -> Path:
    """Write a video of constant rate whose frame k shows the number first + k."""
    write_video(path, (numbered(first + k) for k in range(frames)), frame_rate)
    return path


def timed_video(path: Path, milliseconds: Sequence[int], options: Mapping[str, str] | None = None) -> Path:
    """Write a video whose frame k is shown at ``milliseconds[k]``, whatever the rhythm and the start."""
    with av.open(str(path), "w", container_options=dict(options or {})) as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        stream.width = stream.height = 56
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for k, tick in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(numbered(k), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut(source: Path, target: Path, share: float) -> Path:
    """Write the first part of a file, as a broken download leaves it."""
    content = source.read_bytes()
    target.write_bytes(content[: int(share * len(content))])
    return target


def small_dataset(folder: Path, training: int = 3, validation: int = 2, seconds: int = 4) -> Dataset:
    """Write a data set folder of numbered videos at 12 fps; video k has the class "even" or "odd" from 1 to 2.5 s."""
    database = {}
    for k in range(training + validation):
        name = f"v{k}"
        numbered_video(folder / "videos" / f"{name}.mp4", seconds * 12, first=100 * k)
        database[name] = {
            "duration": float(seconds),
            "subset": "train" if k < training else "val",
            "annotations": [{"segment": [1.0, 2.5], "label": ("even", "odd")[k % 2]}],
        }
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    card = {"name": "small", "annotations": "annotations.json", "videos": "videos", "protocol": "activitynet"}
    write_toml(folder / "dataset.toml", {**card, "splits": {"training": "train", "validation": "val"}})
    return open_dataset(str(folder))


@contextmanager
def one_sentence(*parts: str | Path) -> Iterator[None]:
    """Expect a `UserError` of one line that holds every part."""
    with pytest.raises(UserError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"[.)\]]$", text), text
    for part in parts:
        assert str(part) in text, text


@contextmanager
def full_disk(free: int = 8192) -> Iterator[None]:
    """Let every file of this process grow to ``free`` bytes and no further, as on a disk that runs full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    """Return the names of everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def silent(*_args: object, **_kwargs: object) -> None:
    """Stand in for a progress display."""


def with_card(dataset: Dataset, **changes: object) -> Dataset:
    """Return a data set whose card says something else."""
    return replace(dataset, card=dataset.card.model_copy(update=changes))
