"""Data sets: what each benchmark is, and a user's own folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.config import Settings, choose, validated
from tspbench.datasets.synthetic import SyntheticSettings, write_trimmed, write_untrimmed
from tspbench.errors import UserError
from tspbench.storage.recipes import read_toml

CARD: Final = "dataset.toml"
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"})

Report = Callable[[int, int], None]
# Data sets that the project can make itself: name → how to write the folder.
DATASETS: Final[dict[str, Callable[[Path, SyntheticSettings, int, Report], None]]] = {
    "synthetic": write_untrimmed,
    "synthetic-trimmed": write_trimmed,
}


class DatasetCard(Settings):
    """The content of ``dataset.toml``; paths are relative to its folder.

    Args:
        name: how tables call the set.
        annotations: file in ActivityNet JSON format.
        videos: folder of videos named after the annotation file's entries.
        protocol: key of `evaluation.protocols.DETECTION_PROTOCOLS`.
        splits: role ("training", "validation") → subset name in the annotation file.
    """

    name: str
    annotations: str
    videos: str
    protocol: str
    splits: dict[str, str]


@dataclass(frozen=True)
class Dataset:
    """A data set on disk."""

    name: str
    folder: Path
    annotations: Path
    videos: Path
    protocol: str
    splits: dict[str, str]

    def subset(self, role: str) -> str:
        """Return the annotation file's name for the subset that plays ``role``.

        Raises:
            UserError: the card names no such split.
        """
        return self.splits[choose(f"split of {self.name}", role, self.splits)]


def open_dataset(name_or_folder: str, seed: int = 0, report: Report | None = None) -> Dataset:
    """Return the data set of a folder that holds a ``dataset.toml``, or one of `DATASETS`, written when absent.

    Args:
        name_or_folder: a folder, or a name; named sets live below ``runs/data``.
        seed: of a generated set.
        report: called with (videos written, videos in all) while a set is generated.

    Raises:
        UserError: neither a folder with a card nor a known name, or a card that does not fit.
    """
    folder = Path(name_or_folder)
    if not (folder / CARD).is_file():
        if folder.is_dir():
            raise UserError(f"{folder} holds no {CARD}: add one (the README shows it), or name another folder.")
        choose("data set, nor a folder", name_or_folder, DATASETS)
        folder = Path("runs") / "data" / f"{name_or_folder}-seed{seed}"
        generate(name_or_folder, folder, SyntheticSettings(), seed, report or _silent)
    card = validated(DatasetCard, read_toml(folder / CARD), str(folder / CARD))
    choose(f"protocol in {folder / CARD}", card.protocol, DETECTION_PROTOCOLS)
    return Dataset(card.name, folder, folder / card.annotations, folder / card.videos, card.protocol, card.splits)


def generate(name: str, folder: Path, settings: SyntheticSettings, seed: int, report: Report) -> None:
    """Write one of `DATASETS` into ``folder`` unless it is complete there already."""
    if not (folder / CARD).is_file():
        DATASETS[choose("data set", name, DATASETS)](folder, settings, seed, report)


def _silent(_done: int, _total: int) -> None:
    pass


def find_videos(folder: Path) -> dict[str, Path]:
    """Return the videos of a folder by name, without suffix and without the ``v_`` of ActivityNet's files.

    Raises:
        UserError: the folder does not exist, holds no video, or two of one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that holds the videos.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}): give another folder.")
    found: dict[str, Path] = {}
    for path in paths:
        name = path.stem.removeprefix("v_")
        if found.setdefault(name, path) != path:
            raise UserError(f"{found[name]} and {path} are both the video {name!r}: take one out of the folder.")
    return found
