"""Annotation files of others → one data set folder."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.stages.init_dataset import check_no_card, checked_splits, is_tsp_table, subset_in_name, write_card
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.atomic import write_bytes, write_json
from tspbench.storage.formats import is_csv, read_ground_truth
from tspbench.storage.json_files import read_content, read_json
from tspbench.storage.segment_table import SUBSETS
from tspbench.storage.tsp_segments import SegmentRow, read_segments

ANNOTATIONS: Final = "annotations.json"


@dataclass(frozen=True)
class Source:
    """A file to import.

    Attributes:
        path: file or folder.
        subset: what its videos are for, where the user says it.
    """

    path: Path
    subset: str | None = None


@dataclass(frozen=True)
class Sources:
    """The files to import by what they hold: annotations, ground truth of TSP, captions."""

    annotations: tuple[Source, ...]
    tables: tuple[Source, ...]
    captions: tuple[Source, ...]


def import_annotations(
    sources: Sequence[str],
    folder: Path,
    *,
    name: str | None = None,
    videos: Path | None = None,
    protocol: str | None = None,
) -> list[str]:
    """Write a data set folder from annotation files as they are published.

    Everything that `tspbench.storage.formats.read_ground_truth` reads becomes ``annotations.json``; a single
    ActivityNet file is copied as it is. Ground truth of TSP is copied and named in the card, so that pretraining takes
    its segments; the lengths of its videos, and its videos with their actions where no other file has them, go into
    ``annotations.json``, too. Captions are copied and named in the card.

    Args:
        sources: files or folders. Ground truth of TSP and captions do not say what their videos are for: a prefix
            ``training=`` or ``validation=`` does, or else a word in the file's name (train, val, test), or else the
            order, the first of a kind being for training.
        folder: to write; nothing in it is overwritten.
        name: how tables call the set; None: as ``folder`` is called.
        videos: folder of the videos, see `tspbench.stages.init_dataset.init_dataset`.
        protocol: see `tspbench.stages.init_dataset.write_card`.

    Returns:
        Sentences that say what is in the set.

    Raises:
        UserError: a source is missing or of no known kind; ``folder`` is a data set, or holds another file of the same
            name.
    """
    check_no_card(folder)
    if protocol is not None:
        choose("protocol", protocol, DETECTION_PROTOCOLS)
    kinds = _classified(sources)
    tables = [_told_subset(source, number) for number, source in enumerate(kinds.tables)]
    captions = [_told_subset(source, number) for number, source in enumerate(kinds.captions)]
    annotations, tables = _joined([source.path for source in kinds.annotations], tables)
    copies = _copies(folder, [*tables, *captions])
    segments: dict[str, Path] = {}
    told: list[str] = []
    written = None
    if annotations is not None:
        roles = {subset: role for role, subset in checked_splits(annotations, folder).items()}
        for source in tables:
            role = roles.get(source.subset or "")
            if role is None or role in segments:
                raise UserError(
                    f"{source.path}: expected one ground truth file of TSP for training and one for validation, found "
                    f"this one for {role or source.subset} beside them: say what it is for, as in "
                    f"training={source.path}, or leave it out."
                )
            segments[role] = copies[source.path]
            told.append(f"{source.path} is taken for {role}.")
        written = folder / ANNOTATIONS
        _write_annotations(written, annotations, kinds)
    named: dict[str, list[Path]] = {}
    for source in captions:
        role = "training" if source.subset == "training" else "validation"
        named.setdefault(role, []).append(copies[source.path])
        told.append(f"{source.path} is taken for {role}.")
    for source in [*tables, *captions]:
        _write_new(copies[source.path], source.path, read_content(source.path, "annotation"))
    card = write_card(
        folder,
        name=name,
        annotations=written,
        videos=videos,
        protocol=protocol,
        segments=segments,
        captions=named,
    )
    return [*told, *card]


def _classified(sources: Sequence[str]) -> Sources:
    """Sort the sources by what they hold.

    Raises:
        UserError: there is none, or one is of no known kind.
    """
    if not sources:
        raise UserError("Expected annotation files, found none: name the files to import.")
    kinds: dict[str, list[Source]] = {"annotations": [], "tables": [], "captions": []}
    for text in sources:
        source = _source(text)
        kind = _kind(source.path)
        if kind == "annotations" and source.subset is not None:
            raise UserError(
                f"{source.path} says itself which video is in which subset: name it without {text.partition('=')[0]}=."
            )
        kinds[kind].append(source)
    return Sources(**{kind: tuple(found) for kind, found in kinds.items()})


def _source(text: str) -> Source:
    role, equals, path = text.partition("=")
    return Source(Path(path), SUBSETS[role]) if equals and role in SUBSETS else Source(Path(text))


def _kind(path: Path) -> str:
    if path.is_dir():
        return "annotations"
    if is_csv(path):
        return "tables" if is_tsp_table(path) else "annotations"
    content = read_json(path, "annotation")
    if isinstance(content, dict) and "database" in content:
        return "annotations"
    if isinstance(content, dict) and any(
        isinstance(entry, dict) and "sentences" in entry for entry in content.values()
    ):
        return "captions"
    raise UserError(
        f"{path}: expected annotations (ActivityNet JSON, THUMOS14 texts or CSV, ground truth of TSP, a CSV of video, "
        "start, end and label) or captions (ActivityNet Captions JSON), found neither: name another file."
    )


def _told_subset(source: Source, number: int) -> Source:
    """Return the source with what its videos are for: said by the user, its name, or its place among its kind."""
    order = "validation" if number else "training"
    return replace(source, subset=source.subset or subset_in_name(source.path) or order)


def _joined(paths: Sequence[Path], tables: Sequence[Source]) -> tuple[Annotations | None, list[Source]]:
    """Join annotations with what tables of TSP add to them.

    Returns:
        The annotations, None where there is no file; and the tables with the subsets that their videos have there.
    """
    if not paths and not tables:
        return None, []
    videos = {video.name: video for video in read_ground_truth(paths).videos} if paths else {}
    spelled = {SUBSETS.get(video.subset.casefold(), video.subset): video.subset for video in videos.values()}
    placed: list[Source] = []
    own = set(videos)
    for source in tables:
        rows = _tsp_videos(source)
        common = Counter(videos[row.name].subset for row in rows if row.name in own)
        subset = common.most_common(1)[0][0] if common else spelled.get(str(source.subset), str(source.subset))
        placed.append(replace(source, subset=subset))
        for row in rows:
            if row.name not in videos:
                videos[row.name] = replace(row, subset=subset)
            elif row.name not in own:
                raise UserError(
                    f"{source.path}, video {row.name!r}: expected a video that no other file has, found it in another "
                    "ground truth file of TSP, too: name each file once."
                )
            elif videos[row.name].duration_seconds is None:
                videos[row.name] = replace(videos[row.name], duration_seconds=row.duration_seconds)
    first = paths[0] if paths else tables[0].path
    return Annotations(first, tuple(videos.values())), placed


def _tsp_videos(source: Source) -> list[VideoAnnotations]:
    """Return the videos of a ground truth file of TSP with their actions and lengths."""
    grouped: dict[str, list[SegmentRow]] = {}
    for row in read_segments(source.path):
        grouped.setdefault(row.video, []).append(row)
    videos = []
    for name, rows in grouped.items():
        actions = [row for row in rows if row.label is not None]
        videos.append(
            VideoAnnotations(
                name=name,
                subset=str(source.subset),
                duration_seconds=rows[0].file.duration_seconds,
                segments=np.array([(row.start, row.end) for row in actions], dtype=np.float64).reshape(-1, 2),
                labels=tuple(str(row.label) for row in actions),
            )
        )
    return videos


def _write_annotations(target: Path, annotations: Annotations, kinds: Sources) -> None:
    """Write annotations in ActivityNet format; a single file that is in it already is copied."""
    source = annotations.path
    if len(kinds.annotations) == 1 and not kinds.tables and source.is_file() and not is_csv(source):
        _write_new(target, source, read_content(source, "annotation"))
        return
    content = {"version": "1.3", "taxonomy": [], "database": dict(map(_entry, annotations.videos))}
    if not target.exists():
        write_json(target, content)
    elif read_json(target, "annotation") != content:
        raise UserError(f"{target} is there already, and says something else: choose another folder, or remove it.")


def _entry(video: VideoAnnotations) -> tuple[str, dict[str, object]]:
    duration = {} if video.duration_seconds is None else {"duration": video.duration_seconds}
    rows = [
        {"segment": segment, "label": label}
        for segment, label in zip(video.segments.tolist(), video.labels, strict=True)
    ]
    return video.name, {**duration, "subset": video.subset, "annotations": rows}


def _copies(folder: Path, sources: Iterable[Source]) -> dict[Path, Path]:
    """Return where each file goes: into ``folder``, under its own name, unpacked.

    Raises:
        UserError: two of them have one name.
    """
    copies: dict[Path, Path] = {}
    for source in sources:
        target = folder / (source.path.stem if source.path.suffix == ".gz" else source.path.name)
        if target in [*copies.values(), folder / ANNOTATIONS]:
            raise UserError(
                f"{source.path}: expected files of different names, found two that become {target}: rename one."
            )
        copies[source.path] = target
    return copies


def _write_new(target: Path, source: Path, content: bytes) -> None:
    """Write a file unless it is there with the same content.

    Raises:
        UserError: another file is there.
    """
    if not target.exists():
        write_bytes(target, content)
    elif read_content(target, "annotation") != content:
        raise UserError(f"{target} is there already, and differs from {source}: choose another folder, or remove it.")
