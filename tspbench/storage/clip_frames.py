"""Reading a few frames of a file without decoding what they do not need."""

from bisect import bisect_left, bisect_right
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from tspbench.storage.video import FrameReader, Frames, VideoInfo, open_video

# Where it is sure that nothing refers to the frames that are skipped, and that colours come out as decord's do.
CODEC: Final = "h264"
PIXELS: Final = "yuv420p"
FRAMES_PER_READ: Final = 32  # decord takes twice the time for a whole video at once


def open_for_clips(info: VideoInfo) -> FrameReader:
    """Open a scanned file for short clips at random places; their frames are those of `open_video`, to the bit."""
    try:
        reader = SkippingReader(info)
    except (av.FFmpegError, ValueError, IndexError):
        return open_video(info)
    return reader


def read_whole(info: VideoInfo, indices: NDArray[np.int64]) -> Frames:
    """Return frames of a whole scanned file, at ascending ``indices``."""
    reader = open_for_clips(info)
    if isinstance(reader, SkippingReader):
        return reader.read(indices)
    first = reader.read(indices[:1])
    frames = np.empty((len(indices), *first.shape[1:]), dtype=np.uint8)
    for start in range(0, len(indices), FRAMES_PER_READ):
        frames[start : start + FRAMES_PER_READ] = reader.read(indices[start : start + FRAMES_PER_READ])
    return frames


class SkippingReader:
    """Reads H.264 forward from the nearest key frame, leaving out frames that neither are asked for nor referred to.

    That is a third less work than to decode them all (tests/benchmarks/pretraining.py). Nothing is decoded while nobody
    reads, as decord does for a hundred frames behind every clip. Should a frame not come, `open_video` takes over.

    Raises:
        ValueError: the file is of another kind.
    """

    decoder = f"PyAV {av.__version__}"

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._fallback: FrameReader | None = None
        self._container = av.open(str(info.path))
        self._stream = self._container.streams[info.stream]
        context = self._stream.codec_context
        # Of odd sizes the last column's colour is interpolated in another way.
        if (context.name, context.pix_fmt, context.width % 2, context.height % 2) != (CODEC, PIXELS, 0, 0):
            raise ValueError(f"{info.path} is no H.264 of the common kind")
        context.thread_count = 1

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the frames at ascending ``indices`` as (n, H, W, 3) uint8 RGB, upright."""
        if self._fallback is None:
            try:
                frames = self._read([self._tick(int(index)) for index in indices])
                return np.ascontiguousarray(np.rot90(frames, self._info.turns, axes=(1, 2)))
            except (av.FFmpegError, EOFError):
                self._fallback = open_video(self._info)
        return self._fallback.read(indices)

    def _read(self, ticks: list[int]) -> Frames:
        context, missing = self._stream.codec_context, set(ticks)
        frames = np.empty((len(ticks), context.height, context.width, 3), dtype=np.uint8)
        self._container.seek(ticks[0], stream=self._stream)
        for packet in self._container.demux(self._stream):
            needed = packet.pts is None or packet.pts in missing
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                if frame.pts in missing:
                    first, end = bisect_left(ticks, frame.pts), bisect_right(ticks, frame.pts)
                    frames[first:end] = frame.to_ndarray(format="rgb24")
                    missing.remove(frame.pts)
            if not missing:
                return frames
        raise EOFError

    def _tick(self, index: int) -> int:
        return self._info.first_tick + round(float(self._info.timestamps[index]) / self._info.seconds_per_tick)
