"""Video files: which frames there are and when, reading by index, writing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import av
import decord
import numpy as np
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.storage.atomic import replacing

Frames = NDArray[np.uint8]

# A header may promise a frame or two more than an edit list keeps; more than this share missing is a truncated file.
MISSING_SHARE = 0.01


@dataclass(frozen=True)
class VideoInfo:
    """What a scan of a file's packets found, without trusting its header.

    Args:
        path: the file.
        timestamps: (N,) float64, seconds at which each frame is shown, ascending, 0 for the first frame.
        duration: seconds from the first frame to the end of the last one.
        stream: index of the video stream in its container.
        frame_bytes: size of a decoded frame.
        turns: quarter turns, counter-clockwise, that bring a decoded frame upright.
        first_tick: presentation time of the first frame, in units of the stream's time base.
        seconds_per_tick: the stream's time base.
    """

    path: Path
    timestamps: NDArray[np.float64]
    duration: float
    stream: int
    frame_bytes: int
    turns: int
    first_tick: int
    seconds_per_tick: float

    @property
    def frames(self) -> int:
        """How many frames the file really holds."""
        return len(self.timestamps)


class FrameReader(Protocol):
    """Reads frames of one open file. Not for use by several threads or after a fork: open one in each worker."""

    @property
    def decoder(self) -> str:
        """Name of the library that decodes, for the record."""

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the frames at ascending ``indices`` as (n, H, W, 3) uint8 RGB, upright."""


def scan_video(path: Path) -> VideoInfo:
    """Read every packet's timestamp and decode the first frame; nothing else is decoded.

    Raises:
        UserError: no such file, not a video, no frame in it, or it ends long before its header says.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of a video.")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise UserError(f"{path} holds no video stream: take it out of the list, or give a video.")
            ticks = [p.pts for p in container.demux(stream) if p.size and p.pts is not None and not p.is_discard]
            promised, base, index = stream.frames, float(stream.time_base), stream.index
            rate = float(stream.average_rate or 0)
        _check_count(path, len(ticks), promised)
        size, turns = _first_frame(path, index)
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a video ({_reason(error)}): copy or download it again.") from error
    ordered = np.unique(np.array(ticks, dtype=np.int64))
    timestamps = (ordered - ordered[0]) * base
    interval = float(np.median(np.diff(timestamps))) if len(ordered) > 1 else 1.0 / rate if rate else 0.04
    return VideoInfo(path, timestamps, float(timestamps[-1]) + interval, index, size, turns, int(ordered[0]), base)


def open_video(info: VideoInfo) -> FrameReader:
    """Open a scanned file for reading frames: decord where it agrees with the scan, PyAV where it does not."""
    try:
        reader = decord.VideoReader(str(info.path), num_threads=1)
    except Exception:  # decord raises RuntimeError, DECORDError and others for the same cause: "not by me"
        return PyavReader(info)
    return DecordReader(info, reader) if len(reader) == info.frames else PyavReader(info)


class DecordReader:
    """Reads through decord; changes over to PyAV for good where decord gives up within a file."""

    def __init__(self, info: VideoInfo, reader: "decord.VideoReader") -> None:
        self._info = info
        self._reader = reader
        self._fallback: PyavReader | None = None

    @property
    def decoder(self) -> str:
        """Name of the library that decodes, for the record."""
        return self._fallback.decoder if self._fallback else f"decord {decord.__version__}"

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the frames at ascending ``indices`` as (n, H, W, 3) uint8 RGB, upright."""
        if self._fallback is None:
            try:
                return cast(Frames, self._reader.get_batch(indices).asnumpy())  # decord turns frames upright itself
            except decord.DECORDError:
                self._fallback = PyavReader(self._info)
        return self._fallback.read(indices)


class PyavReader:
    """Reads through PyAV, forward from the nearest key frame."""

    decoder = f"PyAV {av.__version__}"

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._container = av.open(str(info.path))
        self._stream = self._container.streams[info.stream]
        self._frames = iter(self._container.decode(self._stream))
        self._next = 0  # index of the frame that the iterator gives next
        self._last: tuple[int, Frames] | None = None

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the frames at ascending ``indices`` as (n, H, W, 3) uint8 RGB, upright."""
        frames = np.stack([self._frame(int(i)) for i in indices])
        return np.ascontiguousarray(np.rot90(frames, self._info.turns, axes=(1, 2)))

    def _frame(self, index: int) -> Frames:
        if self._last and self._last[0] == index:
            return self._last[1]
        # Reading on is cheaper than a seek while the frame is near.
        if not self._next <= index < self._next + 64:
            self._seek(index)
        try:
            for frame in self._frames:
                here = self._index(frame.pts)
                self._next = here + 1
                if here >= index:
                    self._last = (index, cast(Frames, frame.to_ndarray(format="rgb24")))
                    return self._last[1]
        except av.FFmpegError as error:
            raise _broken_frame(self._info.path, index, _reason(error)) from error
        raise _broken_frame(self._info.path, index, "the file ends before it")

    def _seek(self, index: int) -> None:
        seconds = self._info.timestamps[index]
        tick = self._info.first_tick + round(seconds / self._info.seconds_per_tick)
        self._container.seek(tick, stream=self._stream)
        self._frames = iter(self._container.decode(self._stream))

    def _index(self, tick: int | None) -> int:
        if tick is None:
            return self._next
        seconds = (tick - self._info.first_tick) * self._info.seconds_per_tick
        return int(np.searchsorted(self._info.timestamps, seconds + 1e-6) - 1)


def write_video(path: Path, frames: Iterable[Frames], frame_rate: int) -> None:
    """Write (H, W, 3) uint8 RGB frames as H.264 with a key frame each second, whatever is in them.

    A fixed rhythm of key frames and one thread make the file a function of its frames alone; so does encoding without
    x264's macroblock tree, which in small frames reads memory that it has not written.
    """
    options = {"crf": "18", "sc_threshold": "0", "preset": "veryfast", "threads": "1", "x264-params": "no-mbtree=1"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for array in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=frame_rate, options=options)
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt, stream.gop_size = "yuv420p", frame_rate
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))


def _check_count(path: Path, found: int, promised: int) -> None:
    if found == 0:
        raise UserError(f"{path} holds no frame: copy or download it again.")
    if promised - found > max(2, MISSING_SHARE * promised):
        raise UserError(
            f"{path} is truncated: its header promises {promised} frames, {found} are there: copy or download it again."
        )


def _first_frame(path: Path, stream: int) -> tuple[int, int]:
    """Return a frame's bytes, and the rotation that the file asks players for in counter-clockwise quarter turns."""
    with av.open(str(path)) as container:
        frame = next(iter(container.decode(container.streams[stream])), None)
    if frame is None:
        raise UserError(f"{path} holds no frame that can be decoded: copy or download it again.")
    return frame.width * frame.height * 3, round(frame.rotation / 90) % 4


def _broken_frame(path: Path, index: int, reason: str) -> UserError:
    return UserError(f"{path} breaks off at frame {index} ({reason}): copy or download it again.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
