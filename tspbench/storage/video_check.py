"""What a video file really holds: decoded at its first, middle and last second."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from tspbench.clips import ROUNDING_SECONDS
from tspbench.storage.video import MISSING_SHARE, Problem, VideoError, open_video, scan_video

PROBED_SECONDS: Final = 1.0
CHUNK_BYTES: Final = 32 * 2**20  # frames decoded at once
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # how Matroska and WebM files, and their contents, begin
_FIRST_BOXES: Final = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
)  # with one of these begin mp4 and mov files


@dataclass(frozen=True)
class VideoFacts:
    """What a readable video is.

    Args:
        duration_seconds: from the first frame to the end of the last.
        frames: how many there are, counted in the packets.
        frame_rate: frames a second, on average.
        constant_rate: whether each frame is shown when an even rhythm has it, as nearly as the container can say.
        width: of an upright frame.
        height: of an upright frame.
        rotation: degrees, clockwise, by which players and this tool turn the stored frames.
        decoder: what decoded it, such as "decord 0.6.0".
        promised_frames: how many the header says there are; 0 where it does not say.
    """

    duration_seconds: float
    frames: int
    frame_rate: float
    constant_rate: bool
    width: int
    height: int
    rotation: int
    decoder: str
    promised_frames: int


def check_video(path: Path) -> VideoFacts:
    """Read every packet, and decode the first, the middle and the last second as training does.

    Decoders may hang or crash on damaged files: let a process do this that can be killed (`tspbench.stages.scan`).

    Raises:
        VideoError: the file cannot be used; it says which `Problem` it is.
    """
    try:
        if path.is_file():  # the scan says if it is not
            _check_whole(path)
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}): copy it again.", Problem.UNREADABLE) from error
    info = scan_video(path)
    reader = open_video(info)
    chosen = probed_frames(info.timestamps, info.duration)
    step = max(1, CHUNK_BYTES // info.frame_bytes)
    height = width = 0
    for first in range(0, len(chosen), step):
        height, width = reader.read(chosen[first : first + step]).shape[1:3]
    return VideoFacts(
        duration_seconds=info.duration,
        frames=info.frames,
        frame_rate=info.frames / info.duration,
        constant_rate=is_constant(info.timestamps, info.seconds_per_tick),
        width=width,
        height=height,
        rotation=-90 * info.turns % 360,
        decoder=reader.decoder,
        promised_frames=info.promised_frames,
    )


def probed_frames(timestamps: NDArray[np.float64], duration: float) -> NDArray[np.int64]:
    """Return which frames are decoded: those of the first, the middle and the last second, and the first and last."""
    wanted = timestamps < PROBED_SECONDS
    wanted |= np.abs(timestamps - duration / 2) <= PROBED_SECONDS / 2
    wanted |= timestamps >= duration - PROBED_SECONDS
    wanted[[0, -1]] = True
    return np.flatnonzero(wanted)


def is_constant(timestamps: NDArray[np.float64], seconds_per_tick: float) -> bool:
    """Tell whether each frame is shown when it would be at the mean rate, but for rounding to the container's ticks."""
    if len(timestamps) < 2:
        return True
    interval = timestamps[-1] / (len(timestamps) - 1)
    even = np.arange(len(timestamps)) * interval
    # Containers that count in frames (AVI) have long ticks: a frame left out of those must not pass for rounding.
    rounding = min(max(ROUNDING_SECONDS, seconds_per_tick), interval / 4)
    return bool(np.abs(timestamps - even).max() <= rounding)


def _check_whole(path: Path) -> None:
    """Find out from the container's own sizes whether the end of the file is missing.

    FFmpeg plays what is left of a Matroska file without a word, and of an mp4 file that lost its index, which mostly
    lies at the end, it only says that the data are invalid.
    """
    size = path.stat().st_size
    if size == 0:
        raise VideoError(f"{path} is empty: copy or download it again.", Problem.EMPTY)
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_EBML):
            file.seek(len(_EBML))
            end = _end_of_segment(file)
        elif start[4:] in _FIRST_BOXES:
            end, has_index = _end_of_boxes(file, size)
            if not has_index:
                raise _truncated(path, "the index of its frames is missing")
        else:
            return
    if end - size > MISSING_SHARE * end:
        raise _truncated(path, f"its header promises {end:,} bytes, {size:,} are there")


def _end_of_boxes(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Return where the last box of an mp4 file ends (ISO/IEC 14496-12, 4.2), and whether its index is there."""
    position, has_index = 0, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4]), header[4:8]
        has_index |= name == b"moov"
        if length == 1:  # too large for four bytes
            length = int.from_bytes(header[8:16])
        if length < 8:  # 0: up to the end of the file; no other is a box
            break
        position += length
    return position, has_index


def _end_of_segment(file: BinaryIO) -> int:
    """Return where the segment that holds all of a Matroska file ends (RFC 8794, 4 and 6); 0 where it does not say."""
    header = _element_size(file)
    file.seek(header or 0, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    length = _element_size(file)
    return file.tell() + length if length is not None else 0


def _element_size(file: BinaryIO) -> int | None:
    """Read a number whose first 1 bit tells how many bytes it has; all ones behind that bit say "unknown"."""
    first = int.from_bytes(file.read(1))
    length = 9 - first.bit_length()
    bits = 7 * length
    number = int.from_bytes(bytes([first]) + file.read(length - 1)) & ((1 << bits) - 1)
    return number if number != (1 << bits) - 1 else None


def _truncated(path: Path, why: str) -> VideoError:
    return VideoError(f"{path} is truncated ({why}): copy or download it again.", Problem.TRUNCATED)
