"""A data set on disk: its card, its splits, its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field

from tspbench.config import Settings, choose, validated
from tspbench.errors import UserError
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.captions import read_caption_file
from tspbench.storage.formats import read_ground_truth
from tspbench.storage.hashes import hash_data, hash_file
from tspbench.storage.manifest import MANIFEST, Manifest, read_manifest
from tspbench.storage.runs import portable
from tspbench.storage.segment_table import VIDEO_SUFFIXES
from tspbench.video_names import known_name

CARD: Final = "dataset.toml"
LEFT_OUT: Final = "not in the trial"  # the subset of videos that a trial leaves out


class DatasetCard(Settings):
    """The content of ``dataset.toml``; paths are relative to its folder.

    Args:
        name: how tables call the set.
        benchmark: key of `tspbench.datasets.BENCHMARKS`, whose facts the set is compared with; none: one's own.
        annotations: ActivityNet JSON, THUMOS14 texts or a CSV; none: the set is for captioning alone.
        videos: folder of videos named after the annotation file's entries.
        protocol: key of `evaluation.protocols.DETECTION_PROTOCOLS`.
        splits: role ("training", "validation") → subset name in the annotation file.
        segments: role → ground truth in TSP's CSV format; where there is none, it is cut from the annotations.
        captions: role → files in the format of ActivityNet Captions; several of "validation" are as many references.
    """

    name: str
    benchmark: str | None = None
    annotations: str | None = None
    videos: str = "videos"
    protocol: str = "activitynet"
    splits: dict[str, str] = Field(default_factory=lambda: {"training": "training", "validation": "validation"})
    segments: dict[str, str] = Field(default_factory=dict)
    captions: dict[str, list[str]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A data set on disk.

    Attributes:
        folder: where its files lie.
        card: which files these are.
        trial: role → only so many of its videos; empty: all.
    """

    folder: Path
    card: DatasetCard
    trial: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_run(cls, folder: Path, described: Mapping[str, Any]) -> Self:
        """Return the data set of the run in ``folder``, as its manifest describes it, see `for_run`.

        Raises:
            UserError: the run was not made by this version of tspbench.
        """
        card = validated(DatasetCard, described.get("card", {}), f"the data set of {folder}")
        return cls(folder / str(described.get("folder", ".")), card, dict(described.get("trial", {})))

    def for_run(self, folder: Path) -> dict[str, Any]:
        """Return what the manifest of the run in ``folder`` says of this data set."""
        card = self.card.model_dump(mode="json", exclude_none=True)
        return {"folder": portable(folder, self.folder), "card": card, "trial": dict(self.trial)}

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
        """File or folder of annotations.

        Raises:
            UserError: the card names none.
        """
        if self.card.annotations is None:
            raise UserError(f'{self.folder / CARD}: expected an entry "annotations", found none: add the file\'s name.')
        return self.folder / self.card.annotations

    def read(self) -> Annotations:
        """Read the annotations; in a trial its videos alone are in their subsets, and all labels are known.

        Raises:
            UserError: the card names none, or a file does not fit its format.
        """
        annotations = read_ground_truth([self.annotations])
        kept = {name for role, count in self.trial.items() for name in self._chosen(annotations, role, count)}
        return replace(
            annotations,
            videos=tuple(
                replace(video, subset=LEFT_OUT) if self._tried(video.subset) and video.name not in kept else video
                for video in annotations.videos
            ),
        )

    def annotations_hash(self) -> str:
        """Return a hash of what `read` returns."""
        path = self.annotations
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        hashes = [hash_file(each) for each in files]
        if len(hashes) == 1 and not self.trial:
            return hashes[0]
        return hash_data([hashes, dict(self.trial)])

    def subset(self, role: str) -> str:
        """Return the annotation file's name for the subset that plays ``role``.

        Raises:
            UserError: the card names no such split.
        """
        return self.card.splits[choose(f"split of {self.name}", role, self.card.splits)]

    def segments(self, role: str) -> Path | None:
        """Return the ground truth of a role in TSP's CSV format; None: it is cut from the annotations."""
        name = self.card.segments.get(role)
        return None if name is None else self.folder / name

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

    def manifest(self) -> Manifest | None:
        """Return what a scan found of the videos, which lies beside them; None: nobody has scanned them.

        Raises:
            UserError: the manifest is damaged.
        """
        return scanned(self.videos)

    def lengths(self) -> dict[str, float]:
        """Return the lengths in seconds of the videos that a scan could read; empty where nobody has scanned them."""
        manifest = self.manifest()
        videos = manifest.videos.values() if manifest else ()
        return {video.name: video.facts.duration_seconds for video in videos if video.facts}

    def video_files(self) -> dict[str, Path]:
        """Return the videos on disk that can be used, see `usable_videos`."""
        return usable_videos(self.videos)

    def split_videos(self) -> dict[str, Path]:
        """Return the videos that can be used of those that a split, its trial or its captions name.

        Raises:
            UserError: what `usable_videos` says, or none of them is named.
        """
        files = self.video_files()
        named = self._named()
        found = {name: path for name, path in files.items() if known_name(name, named) is not None}
        if not found:
            first = min(named, default="none")
            raise UserError(
                f"{self.videos}: expected some of the {len(named):,} annotated videos (such as {first}), found "
                f"{len(files):,} others (such as {min(files)}): name the files as the annotations do."
            )
        return found

    def _named(self) -> set[str]:
        """Return the videos that a split names."""
        if self.card.annotations is not None:
            annotations = self.read()
            subsets = {self.card.splits[role] for role in self.card.splits}
            return {video.name for video in annotations.videos if video.subset in subsets}
        captions = [path for role in self.card.captions for path in self.captions(role)]
        return {name for path in captions for name in read_caption_file(path).captions.videos}

    def _tried(self, subset: str) -> bool:
        return any(self.card.splits.get(role) == subset for role in self.trial)

    def _chosen(self, annotations: Annotations, role: str, count: int) -> list[str]:
        """Return the videos of a trial: those with actions whose names come first by their hashes."""
        videos: list[VideoAnnotations] = annotations.subset(self.subset(role))
        return sorted((video.name for video in videos if video.labels), key=hash_data)[:count]


def scanned(folder: Path) -> Manifest | None:
    """Return what a scan found of the videos of a folder; None: nobody has scanned them.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    return read_manifest(path) if path.is_file() else None


def usable_videos(folder: Path) -> dict[str, Path]:
    """Return the videos of a folder by name, as `find_videos`, without those that a scan has quarantined.

    Raises:
        UserError: what `find_videos` says; a file has changed since it was scanned; or all are quarantined.
    """
    manifest, files = scanned(folder), find_videos(folder)
    if manifest is None:
        return files
    usable = manifest.readable(files)
    if not usable:
        first = next(iter(manifest.quarantined.values()))
        raise UserError(
            f"{folder}: all {len(files)} videos are quarantined (the first: {first.rstrip('.')}): mend them."
        )
    return usable


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
