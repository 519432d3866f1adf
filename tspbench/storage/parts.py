"""Texts that long work has found so far, in parts that survive a kill."""

from collections.abc import Mapping
from pathlib import Path

import orjson

from tspbench.storage.atomic import write_json


class Parts:
    """The texts of numbered places, in JSON files of a folder; each file appears whole or not at all.

    Args:
        folder: where the files lie.
        key: fingerprint of the work; parts of another one are not looked at.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def read(self) -> dict[int, str]:
        """Return what is there: place → text."""
        found: dict[int, str] = {}
        for path in self._folder.glob(f"{self._key}-*.json"):
            found |= {int(place): text for place, text in orjson.loads(path.read_bytes()).items()}
        return found

    def add(self, texts: Mapping[int, str]) -> None:
        """Keep the texts of some more places."""
        write_json(self._folder / f"{self._key}-{min(texts)}.json", {str(place): text for place, text in texts.items()})


def remove_parts(folder: Path) -> None:
    """Delete the parts in a folder, whatever work they are of; what they hold lies elsewhere now."""
    for path in folder.glob("*.json"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
