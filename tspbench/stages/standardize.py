"""Videos → constant-rate mp4, as the TSP reference prepared them."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from tspbench.clips import frame_grid
from tspbench.errors import UserError
from tspbench.progress import Advance
from tspbench.storage.hashes import hash_data
from tspbench.storage.manifest import file_stamp
from tspbench.storage.video import Frames, VideoError, open_video, read_comment, scan_video, write_video

FRAME_RATE: Final = 30  # what the TSP reference trained and extracted on
CHUNK_BYTES: Final = 32 * 2**20  # frames decoded at once
FORMAT: Final = "tspbench standardize 1"


def standardize(
    videos: Mapping[str, Path], out_folder: Path, *, workers: int, advance: Advance, frame_rate: int = FRAME_RATE
) -> dict[str, str]:
    """Write each video as ``out_folder``/name.mp4: H.264 of a constant rate, upright, without sound.

    Frames are chosen by the time at which they are shown, so that segments in seconds stay where they are. A row or
    column too many for H.264, which wants even sizes, is cut off. A file appears whole or not at all and says in its
    header what it was made from: after an interruption finished ones are not made again.

    Args:
        videos: name → file; those of a manifest that can be used.
        out_folder: where to write.
        workers: videos in work at the same time.
        advance: told how many videos are done.
        frame_rate: frames a second.

    Returns:
        The videos left out, because they cannot be read to their end → why.

    Raises:
        UserError: ``out_folder`` holds one of the videos or a file of somebody else's, or cannot be written.
    """
    targets = {name: out_folder / f"{name}.mp4" for name in videos}
    for path in videos.values():
        if path.resolve().parent == out_folder.resolve():
            raise UserError(f"{out_folder} holds {path.name}, which is to be read: choose another folder to write to.")
    left_out: dict[str, str] = {}
    stop = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="standardize")
    advance(0, len(videos))
    try:
        running = {pool.submit(_write, path, targets[name], frame_rate, stop): name for name, path in videos.items()}
        for done, future in enumerate(as_completed(running), 1):
            try:
                future.result()
            except VideoError as error:
                left_out[running[future]] = str(error)
            advance(done, len(videos))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return dict(sorted(left_out.items()))


def _write(source: Path, target: Path, frame_rate: int, stop: threading.Event) -> None:
    """Write one video, unless it is there already, made from the same file in the same way."""
    mark = f"{FORMAT} {hash_data([source.name, *file_stamp(source), frame_rate])}"
    if target.exists():
        its_mark = read_comment(target)
        if its_mark == mark:
            return
        if not its_mark.startswith(FORMAT):
            raise UserError(f"{target} is there, and not from tspbench: choose another folder to write to, or move it.")
        target.unlink()  # of another file: it must not stay should this one break off
    write_video(target, _frames(source, frame_rate, stop), frame_rate, comment=mark)


def _frames(source: Path, frame_rate: int, stop: threading.Event) -> Iterator[Frames]:
    """Yield the (H, W, 3) frames of a video at a constant rate, a chunk of them in memory."""
    info = scan_video(source)
    reader = open_video(info)
    grid = frame_grid(info.timestamps, info.duration, frame_rate)
    step = max(1, CHUNK_BYTES // info.frame_bytes)
    for first in range(0, len(grid), step):
        for frame in reader.read(grid[first : first + step]):
            if stop.is_set():
                raise CancelledError  # nothing is left of a file that is not whole
            height, width = frame.shape[:2]
            yield frame[: height - height % 2, : width - width % 2]
