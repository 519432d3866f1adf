"""Data sets: what each benchmark is, and a user's own folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

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
        annotations: file in ActivityNet JSON format; none: the set is for captioning alone.
        videos: folder of videos named after the annotation file's entries.
        protocol: key of `evaluation.protocols.DETECTION_PROTOCOLS`.
        splits: role ("training", "validation") → subset name in the annotation file.
        captions: role → files in the format of ActivityNet Captions; several of "validation" are as many references.
    """

    name: str
    annotations: str | None = None
    videos: str = "videos"
    protocol: str = "activitynet"
    splits: dict[str, str] = Field(default_factory=lambda: {"training": "training", "validation": "validation"})
    captions: dict[str, list[str]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A data set on disk."""

    folder: Path
    card: DatasetCard

    @property
    def name(self) -> str:
        """How tables call the set."""
        return self.card.name

    @property
    def protocol(self) -> str:
        """Key of `evaluation.protocols.DETECTION_PROTOCOLS`."""
        return self.card.protocol

    @property
    def videos(self) -> Path:
        """Folder of the videos."""
        return self.folder / self.card.videos

    @property
    def annotations(self) -> Path:
        """File in ActivityNet JSON format.

        Raises:
            UserError: the card names none.
        """
        if self.card.annotations is None:
            raise UserError(f'{self.folder / CARD}: expected an entry "annotations", found none: add the file\'s name.')
        return self.folder / self.card.annotations

    def subset(self, role: str) -> str:
        """Return the annotation file's name for the subset that plays ``role``.

        Raises:
            UserError: the card names no such split.
        """
        return self.card.splits[choose(f"split of {self.name}", role, self.card.splits)]

    def captions(self, role: str) -> tuple[Path, ...]:
        """Return the caption files of ``role``.

        Raises:
            UserError: the card names none.
        """
        files = self.card.captions.get(role)
        if not files:
            raise UserError(
                f"{self.folder / CARD}: expected caption files of {role!r}, found none: add a table [captions] with "
                f'{role} = ["FILE.json"].'
            )
        return tuple(self.folder / name for name in files)


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
    return Dataset(folder, card)


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
