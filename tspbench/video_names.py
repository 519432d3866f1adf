"""Names of videos, which begin with ``v_`` in one place and not in another, as those of ActivityNet do."""

from collections.abc import Collection
from typing import Final

PREFIX: Final = "v_"


def other_name(video: str) -> str:
    """Return the name with the prefix if it lacks it, without if it has it."""
    return video.removeprefix(PREFIX) if video.startswith(PREFIX) else PREFIX + video


def known_name(video: str, there: Collection[str]) -> str | None:
    """Return what a video is called among ``there``: its name, or that with or without the prefix; None: it is not.

    The IDs of two of ActivityNet's videos begin like the prefix: their files begin with it twice.
    """
    return next((name for name in (video, other_name(video), PREFIX + video) if name in there), None)
