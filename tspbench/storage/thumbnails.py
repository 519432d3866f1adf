"""A few small frames of a video, evenly over its time."""

from pathlib import Path

import numpy as np

from tspbench.errors import UserError
from tspbench.storage.video import Frames, PyavReader, scan_video


def read_thumbnails(path: Path, count: int, height_pixels: int) -> list[Frames | None]:
    """Return the frames in the middle of ``count`` equal parts of a video.

    Args:
        path: the video.
        count: how many.
        height_pixels: frames are thinned to at least this height, as far as whole numbers of rows and columns go.

    Returns:
        (H, W, 3) uint8 RGB frames, upright; None for one that cannot be decoded.

    Raises:
        UserError: the file is no video.
    """
    info = scan_video(path)
    reader = PyavReader(info)  # it never holds Python's lock while it waits
    middles = (np.arange(count) + 0.5) * (info.duration / count)
    places = np.clip(np.searchsorted(info.timestamps, middles, side="right") - 1, 0, info.frames - 1)
    found: list[Frames | None] = []
    for place in places:
        try:
            frame = reader.read(np.array([place]))[0]
        except UserError:
            found.append(None)
            continue
        step = max(1, frame.shape[0] // height_pixels)
        found.append(np.ascontiguousarray(frame[step // 2 :: step, step // 2 :: step]))
    return found
