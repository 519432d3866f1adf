"""Video files: which frames there are and when, reading by index, writing."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, cast

import av
import decord
import numpy as np
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.storage.atomic import replacing

Frames = NDArray[np.uint8]

# A header may promise a frame or two more than an edit list keeps; more than this share missing is a truncated file.
MISSING_SHARE = 0.01
# As these FFmpeg shows texts (by their suffix) and pictures as videos of a few frames.
NO_VIDEOS: Final = ("tty", "image2", "_pipe")


class Problem(StrEnum):
    """Why a file cannot be used as a video."""

    MISSING = "missing"
    EMPTY = "empty"
    UNREADABLE = "unreadable"  # the system does not give its content away
    NOT_A_VIDEO = "not a video"
    NO_VIDEO_STREAM = "no video stream"
    NO_FRAMES = "no frames"
    TRUNCATED = "truncated"
    BROKEN_FRAMES = "broken frames"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


class VideoError(UserError):
    """A video that cannot be used: the sentence, and which `Problem` it is."""

    def __init__(self, message: str, problem: Problem = Problem.BROKEN_FRAMES) -> None:
        super().__init__(message)
        self.problem = problem


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
        promised_frames: how many the header says there are; 0 where it does not say.
    """

    path: Path
    timestamps: NDArray[np.float64]
    duration: float
    stream: int
    frame_bytes: int
    turns: int
    first_tick: int
    seconds_per_tick: float
    promised_frames: int

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
        VideoError: no such file, not a video, no frame in it, or it ends long before its header says.
    """
    if not path.is_file():
        raise VideoError(f"{path} is not a file: give the path of a video.", Problem.MISSING)
    try:
        with av.open(str(path)) as container:
            if container.format.name.endswith(NO_VIDEOS):
                raise VideoError(f"{path} is a text or a picture: give a video.", Problem.NOT_A_VIDEO)
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError(
                    f"{path} holds no video stream: take it out of the list, or give a video.", Problem.NO_VIDEO_STREAM
                )
            ticks = [p.pts for p in container.demux(stream) if p.size and p.pts is not None and not p.is_discard]
            promised, base, index = stream.frames, float(stream.time_base), stream.index
            rate = float(stream.average_rate or 0)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(
            f"{path} cannot be read as a video ({_reason(error)}): copy or download it again.", _problem(error)
        ) from error
    _check_count(path, len(ticks), promised)
    size, turns = _first_frame(path, index)
    ordered = np.unique(np.array(ticks, dtype=np.int64))
    timestamps = (ordered - ordered[0]) * base
    interval = float(np.median(np.diff(timestamps))) if len(ordered) > 1 else 1.0 / rate if rate else 0.04
    return VideoInfo(
        path, timestamps, float(timestamps[-1]) + interval, index, size, turns, int(ordered[0]), base, promised
    )


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
        try:
            # Reading on is cheaper than a seek while the frame is near.
            if not self._next <= index < self._next + 64:
                self._seek(index)
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


def write_video(path: Path, frames: Iterable[Frames], frame_rate: int, comment: str = "") -> None:
    """Write (H, W, 3) uint8 RGB frames as H.264 with a key frame each second, whatever is in them.

    ``comment`` is for `read_comment`.

    A fixed rhythm of key frames and one thread make the file a function of its frames alone; so does encoding without
    x264's macroblock tree, which in small frames reads memory that it has not written.
    """
    options = {"crf": "18", "sc_threshold": "0", "preset": "veryfast", "threads": "1", "x264-params": "no-mbtree=1"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        if comment:
            container.metadata["comment"] = comment
        for array in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=frame_rate, options=options)
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt, stream.gop_size = "yuv420p", frame_rate
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))


def silence_decoders() -> None:
    """Keep FFmpeg from printing what it thinks of damaged files."""
    decord.logging.set_level(decord.logging.QUIET)


def read_comment(path: Path) -> str:
    """Return what a file's header says about it; "" where it says nothing or there is no such video."""
    try:
        with av.open(str(path)) as container:
            return str(container.metadata.get("comment", ""))
    except av.FFmpegError:
        return ""


def _check_count(path: Path, found: int, promised: int) -> None:
    if promised - found > max(2, MISSING_SHARE * promised):
        raise VideoError(
            f"{path} is truncated (its header promises {promised} frames, {found} are there): "
            "copy or download it again.",
            Problem.TRUNCATED,
        )
    if found == 0:
        raise VideoError(f"{path} holds no frame: copy or download it again.", Problem.NO_FRAMES)


def _first_frame(path: Path, stream: int) -> tuple[int, int]:
    """Return a frame's bytes, and the rotation that the file asks players for in counter-clockwise quarter turns."""
    try:
        with av.open(str(path)) as container:
            frame = next(iter(container.decode(container.streams[stream])), None)
    except av.FFmpegError as error:
        raise _broken_frame(path, 0, _reason(error)) from error
    if frame is None:
        raise VideoError(f"{path} holds no frame that can be decoded: copy or download it again.")
    return frame.width * frame.height * 3, round(frame.rotation / 90) % 4


def _broken_frame(path: Path, index: int, reason: str) -> VideoError:
    return VideoError(f"{path} breaks off at frame {index} ({reason}): copy or download it again.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _problem(error: Exception) -> Problem:
    """Return where FFmpeg's refusal to open a file comes from."""
    if isinstance(error, av.EOFError):
        return Problem.NO_FRAMES  # a header with nothing behind it
    # Of FFmpeg's errors those of the system are errors of the system to Python, too.
    return Problem.UNREADABLE if isinstance(error, OSError) else Problem.NOT_A_VIDEO
