"""Reads clips of many videos, of which as many stay decoded as fit into memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from tspbench.clips import Clip, clip_frames_at
from tspbench.errors import UserError
from tspbench.preprocessing import Preprocessing
from tspbench.storage.clip_frames import open_for_clips, read_whole
from tspbench.storage.video import (
    FrameReader,
    Frames,
    Problem,
    VideoError,
    VideoInfo,
    scan_video,
    silence_decoders,
)
from tspbench.streaming import padded_grid
from tspbench.workers import is_worker

CACHE_BYTES: Final = 1 << 30  # for decoded videos, over all workers of a process
WHOLE_BYTES: Final = 1 << 29  # a video that takes more is not decoded as a whole, which has to be done in time

PreparedClip = NDArray[np.float32]  # (3, F, crop, crop)


class ClipReader:
    """Reads clips of many videos by time.

    Videos are decoded as a whole as long as there is room for them, in the order in which they are asked for: clips
    come in random order, so that to make room for one by dropping another would be of no use. Of the others clips are
    read one by one. Only the file that was read last stays open, as clips in order ask for it: others take memory, and
    decord decodes a hundred frames further in each.

    Args:
        videos: name → file.
        spec: what a clip is, and how it is prepared.
        cache_bytes: for decoded videos.
    """

    def __init__(self, videos: Mapping[str, Path], spec: Preprocessing, cache_bytes: int = CACHE_BYTES) -> None:
        self._videos, self._spec = videos, spec
        self._left_bytes = cache_bytes
        self._scanned: dict[str, VideoInfo | VideoError] = {}
        self._whole: dict[str, Frames] = {}
        self._open: tuple[str, FrameReader] | None = None

    def clip(self, clip: Clip) -> PreparedClip:
        """Return a clip as an encoder takes it.

        Raises:
            VideoError: the video cannot be read.
        """
        frames = torch.from_numpy(self.read(clip.video, clip.start_seconds))
        generator = None if clip.seed is None else torch.Generator().manual_seed(clip.seed)
        prepared: PreparedClip = self._spec.apply(frames, generator).numpy()
        return prepared

    def read(self, video: str, start: float) -> Frames:
        """Return the (clip_frames, H, W, 3) uint8 frames of the clip that starts at ``start`` seconds.

        Raises:
            VideoError: the video cannot be read.
        """
        try:
            return self._read(video, start)
        except UserError:
            raise
        except Exception as error:  # decoders raise what they like; it is about this file
            self._open = None
            what = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise VideoError(
                f"{self._videos[video]} crashed what decodes it ({what}): download it again.", Problem.CRASHED
            ) from error

    def _read(self, video: str, start: float) -> Frames:
        info = self._info(video)
        grid = padded_grid(info, self._spec)  # never asks past the frames that were found
        places = clip_frames_at(start, self._spec.clip_frames, self._spec.frame_rate, len(grid))
        needed = len(grid) * info.frame_bytes
        if video not in self._whole and needed <= min(self._left_bytes, WHOLE_BYTES):
            self._whole[video] = read_whole(info, grid)
            self._left_bytes -= needed
        if video in self._whole:
            return self._whole[video][places]
        return self._reader(video, info).read(grid[places])

    def _info(self, video: str) -> VideoInfo:
        if video not in self._scanned:
            try:
                self._scanned[video] = scan_video(self._videos[video])
            except VideoError as error:
                self._scanned[video] = error
        found = self._scanned[video]
        if isinstance(found, VideoError):
            raise found
        return found

    def _reader(self, video: str, info: VideoInfo) -> FrameReader:
        if self._open is None or self._open[0] != video:
            self._open = None  # closed before the next one is opened
            self._open = (video, open_for_clips(info))
        return self._open[1]


def clip_reader(videos: Mapping[str, Path], spec: Preprocessing, cache_bytes: int) -> Callable[[Clip], PreparedClip]:
    """Return what reads clips, in a worker or in this process."""
    silence_decoders()
    if is_worker():
        torch.set_num_threads(1)  # the cores belong to the other workers
    return ClipReader(videos, spec, cache_bytes).clip
