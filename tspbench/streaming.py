"""Whole videos as clips, each frame decoded and prepared once."""

import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspbench import watch
from tspbench.clips import frame_grid
from tspbench.errors import UserError
from tspbench.preprocessing import Preprocessing
from tspbench.storage.video import Problem, VideoError, VideoInfo, open_video, scan_video

FRAMES_PER_CHUNK: Final = 64
CHUNK_BYTES: Final = 32 * 2**20  # large frames come in smaller chunks
CHUNKS_AHEAD: Final = 2  # decoded and waiting, for each video in work
DECODER_SECONDS: Final = 60.0  # without a chunk, after which a decoder is taken to hang
STOP_SECONDS: Final = 10.0  # for decoders to come to the end of what they are at

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one or several videos, in order.

    Args:
        clips: (B, 3, F, H, W) float32.
        owners: (video, how many of the clips are its), in the order of the clips.
    """

    clips: Tensor
    owners: list[tuple[str, int]]


class DecodedVideo:
    """One video decoded in a thread of its own, a few chunks ahead of whoever reads them."""

    def __init__(self, path: Path, spec: Preprocessing, stop: threading.Event) -> None:
        self.path, self._spec, self._stop = path, spec, stop
        self._queue: queue.Queue[Frames | Exception | None] = queue.Queue(CHUNKS_AHEAD)
        self._moved = math.inf  # when the decoder gave the last sign of life; it has not begun
        self.duration = 0.0
        self.decoder = ""
        self.left_behind = False  # nobody waits for more

    def run(self) -> None:
        """Decode into the queue until the end, an error, or the stop."""
        try:
            self._moved = time.monotonic()
            info = scan_video(self.path)
            self.duration = info.duration
            self._moved = time.monotonic()
            reader = open_video(info)
            grid = padded_grid(info, self._spec)
            step = max(1, min(FRAMES_PER_CHUNK, CHUNK_BYTES // info.frame_bytes))
            for first in range(0, len(grid), step):
                self._put(reader.read(grid[first : first + step]))
                if self._stop.is_set() or self.left_behind:
                    return
            self.decoder = reader.decoder
            self._put(None)
        except Exception as error:  # it is raised again where the chunks are read
            self._put(error)

    def chunks(self) -> Iterator[Frames]:
        """Yield (n, H, W, 3) uint8 frames at the encoder's rate.

        Raises:
            UserError: the video cannot be read, or the decoder hangs; it is left behind, then.
        """
        while (item := self._next()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _next(self) -> Frames | Exception | None:
        waiting = time.monotonic()
        while True:
            # The decoder has a deadline of its own: who waits for it is not taken for stalled.
            watch.working_on(f"reading {self.path}")
            with suppress(queue.Empty):
                return self._queue.get(timeout=min(1.0, DECODER_SECONDS))
            if time.monotonic() - max(waiting, self._moved) > DECODER_SECONDS:
                self.left_behind = True
                return VideoError(
                    f"{self.path} gave no frame for {DECODER_SECONDS:g} s: copy or download it again.", Problem.TIMEOUT
                )

    def _put(self, item: Frames | Exception | None) -> None:
        while not (self._stop.is_set() or self.left_behind):
            self._moved = time.monotonic()
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue


@contextmanager
def decoding(videos: Mapping[str, Path], spec: Preprocessing, decoders: int) -> Iterator[dict[str, DecodedVideo]]:
    """Decode ``videos`` in their order, ``decoders`` at a time; threads end with the block, however it ends.

    A thread that hangs in a decoder is left behind: others take its turn, and it does not keep the program from ending.
    """
    stop = threading.Event()
    decoded = {name: DecodedVideo(path, spec, stop) for name, path in videos.items()}
    waiting = iter(decoded.values())
    turn = threading.Lock()

    def decode() -> None:
        while not stop.is_set():
            with turn:
                video = next(waiting, None)
            if video is None:
                return
            thread = threading.Thread(target=video.run, name="decode", daemon=True)
            thread.start()
            while thread.is_alive() and not video.left_behind:
                thread.join(0.1)

    turns = [threading.Thread(target=decode, name="decode next", daemon=True) for _ in range(decoders)]
    for thread in turns:
        thread.start()
    try:
        yield decoded
    finally:
        stop.set()
        end = time.monotonic() + STOP_SECONDS
        for thread in turns:
            thread.join(max(0.0, end - time.monotonic()))


def padded_grid(info: VideoInfo, spec: Preprocessing) -> NDArray[np.int64]:
    """Return the frame grid of a video; one shorter than a clip is continued with its last frame."""
    grid = frame_grid(info.timestamps, info.duration, spec.frame_rate)
    return np.pad(grid, (0, max(0, spec.clip_frames - len(grid))), mode="edge")


def clip_windows(chunks: Iterator[Tensor], clip_frames: int, stride_frames: int) -> Iterator[Tensor]:
    """Cut clips out of prepared frames (3, n, H, W) as they come: views (k, 3, clip_frames, H, W), nothing is copied.

    Between chunks only the frames that later clips need are held back.
    """
    held: Tensor | None = None
    skip = 0  # frames still to come that lie between two clips, when the stride is longer than the clip
    for chunk in chunks:
        drop = min(skip, chunk.shape[1])
        skip -= drop
        frames = chunk[:, drop:] if held is None else torch.cat([held, chunk[:, drop:]], dim=1)
        count = max(0, (frames.shape[1] - clip_frames) // stride_frames + 1)
        if count:
            yield frames.unfold(1, clip_frames, stride_frames).permute(1, 0, 4, 2, 3)
        used = count * stride_frames
        held, skip = frames[:, used:], skip + max(0, used - frames.shape[1])


def clip_batches(
    decoded: Mapping[str, DecodedVideo],
    spec: Preprocessing,
    stride_frames: int,
    batch_size: int,
    device: torch.device,
    unreadable: dict[str, UserError],
) -> Iterator[ClipBatch]:
    """Yield the clips of all videos in batches of ``batch_size`` that run on from one video into the next.

    A video that cannot be read is entered in ``unreadable``; clips of it may have been in earlier batches.
    """
    waiting: list[tuple[str, Tensor]] = []
    for name, video in decoded.items():
        prepared = (spec.apply(torch.from_numpy(frames).to(device)) for frames in video.chunks())
        try:
            for windows in clip_windows(prepared, spec.clip_frames, stride_frames):
                waiting.append((name, windows))
                while sum(len(clips) for _, clips in waiting) >= batch_size:
                    yield _take(waiting, batch_size)
        except UserError as error:
            unreadable[name] = error
    if waiting:
        yield _take(waiting, batch_size)


def _take(waiting: list[tuple[str, Tensor]], count: int) -> ClipBatch:
    """Remove up to ``count`` clips from the front of ``waiting``."""
    clips, owners = [], []
    while waiting and count:
        name, windows = waiting.pop(0)
        clips.append(windows[:count])
        owners.append((name, len(clips[-1])))
        if len(windows) > count:
            waiting.insert(0, (name, windows[count:]))
        count -= len(clips[-1])
    return ClipBatch(torch.cat(clips), owners)
