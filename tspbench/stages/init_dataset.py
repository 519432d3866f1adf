"""A folder of videos and annotations → data set card."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.config import choose
from tspbench.datasets import CARD, find_videos
from tspbench.errors import UserError
from tspbench.stages.lint_actions import counted
from tspbench.storage.annotations import Annotations
from tspbench.storage.formats import is_csv, is_thumos_csv, read_ground_truth
from tspbench.storage.json_files import read_json
from tspbench.storage.recipes import write_toml
from tspbench.storage.segment_table import COLUMNS, SPLITS, SUBSETS, VIDEO_SUFFIXES, columns
from tspbench.storage.thumos import AMBIGUOUS, CLASS_NUMBERS
from tspbench.storage.tsp_segments import COLUMNS as TSP_COLUMNS
from tspbench.video_names import known_name

ROLES: Final = ("training", "validation")
USUAL_PROTOCOL: Final = "activitynet"
# What THUMOS14's annotation texts are called.
_THUMOS_TEXTS: Final = frozenset(
    f"{label}_{part}.txt" for label in (*CLASS_NUMBERS, AMBIGUOUS) for part in ("val", "test")
)


def init_dataset(
    folder: Path,
    annotations: Path | None = None,
    videos: Path | None = None,
    name: str | None = None,
    protocol: str | None = None,
) -> tuple[Path, list[str]]:
    """Write the card of a folder, which makes it a data set.

    Args:
        folder: of the videos and their annotations.
        annotations: file or folder of the annotations; None: the one in ``folder``.
        videos: folder of the videos; None: "videos" in ``folder``, ``folder`` itself, or its only folder that holds
            some. A set without any is one for features that are there already.
        name: how tables call the set; None: as ``folder`` is called.
        protocol: see `write_card`.

    Returns:
        The card, and sentences that say what is in the set.

    Raises:
        UserError: there is a card; none or several files may be meant; the annotations are no annotations, or speak
            of other videos than those in the folder.
    """
    check_no_card(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that holds the videos and their annotations.")
    if protocol is not None:
        choose("protocol", protocol, DETECTION_PROTOCOLS)
    tables = _tsp_tables(folder)
    annotations = annotations or _only_annotations(folder, tables)
    words = {subset_in_name(path): path for path in tables}
    segments = {role: words[word] for role, word in split_roles([word for word in words if word]).items()}
    unclear = [path for path in tables if path not in segments.values()]
    told = [
        f"{path} is ground truth of TSP, but its name does not say of which split: name it in a table [segments] of "
        f"{folder / CARD}."
        for path in unclear
    ]
    sentences = write_card(
        folder, name=name, annotations=annotations, videos=videos, protocol=protocol, segments=segments
    )
    return folder / CARD, [*sentences, *told]


def write_card(
    folder: Path,
    *,
    name: str | None,
    annotations: Path | None,
    videos: Path | None,
    protocol: str | None,
    segments: Mapping[str, Path],
    captions: Mapping[str, Sequence[Path]] | None = None,
) -> list[str]:
    """Check what a card is to name, write it into ``folder``, and return sentences that say what is in the set.

    Args:
        folder: of the data set; files outside of it are named by absolute paths.
        name: None: as ``folder`` is called.
        annotations: file or folder of any format; None: a set for captioning alone.
        videos: folder; None: it is looked for.
        protocol: key of `evaluation.protocols.DETECTION_PROTOCOLS`; None: that of THUMOS14 where all classes are
            among its own, else that of ActivityNet.
        segments: role → ground truth in TSP's CSV format.
        captions: role → caption files.

    Raises:
        UserError: annotations without a split to train on, or without a video in common with the folder.
    """
    videos = videos or _videos_folder(folder)
    card: dict[str, Any] = {"name": name or folder.resolve().name}
    told: list[str] = []
    if annotations is not None:
        content = read_ground_truth([annotations])
        splits = checked_splits(content, folder)
        usual = _usual_protocol(content)
        told = [*_described(content, splits, protocol or usual), *_matched(content, videos)]
        if protocol is None and usual != USUAL_PROTOCOL:
            told.append(f"All classes are of THUMOS14, so it is scored as {usual}; --protocol names another protocol.")
        protocol = protocol or usual
        card |= {"annotations": _inside(folder, annotations)}
    if videos is None:
        told.append(
            f"No video was found: put them into {folder / 'videos'} to train encoders and to extract features; "
            "localizers and captioners need features alone."
        )
    card |= {"videos": "videos" if videos is None else _inside(folder, videos), "protocol": protocol or USUAL_PROTOCOL}
    tables = {
        "splits": splits if annotations is not None else {},
        "segments": {role: _inside(folder, path) for role, path in segments.items()},
        "captions": {role: [_inside(folder, path) for path in paths] for role, paths in (captions or {}).items()},
    }
    write_toml(folder / CARD, card | {key: table for key, table in tables.items() if table})
    return [*told, f"Wrote {folder / CARD}."]


def check_no_card(folder: Path) -> None:
    """Raise unless the folder may become a data set.

    Raises:
        UserError: it is one.
    """
    if (folder / CARD).exists():
        raise UserError(f"{folder / CARD} is there already: change it by hand, or remove it to have it written anew.")


def split_roles(subsets: Collection[str]) -> dict[str, str]:
    """Return role → subset by what the subsets are called: what is trained on, and what is scored.

    A set with videos for validation and testing alone is trained on the former, as THUMOS14 is. Empty where the names
    say nothing.
    """
    known = {SUBSETS.get(name.casefold(), name): name for name in sorted(subsets)}
    there = [known[name] for name in ("training", "validation", "testing") if name in known]
    if "training" not in known and len(there) < len(ROLES):
        return {}
    return dict(zip(ROLES, there, strict=False))


def checked_splits(annotations: Annotations, folder: Path) -> dict[str, str]:
    """Return role → subset, as `split_roles`, for the card of ``folder``.

    Raises:
        UserError: the names of the subsets say nothing.
    """
    splits = split_roles({video.subset for video in annotations.videos})
    if not splits:
        found = ", ".join(sorted({repr(video.subset) for video in annotations.videos})) or "no video"
        raise UserError(
            f"{annotations.path}: expected subsets called training and validation (or train, val, test), found "
            f"{found}: call them so, or write {folder / CARD} with a table [splits] by hand, as the README shows."
        )
    return splits


def subset_in_name(path: Path) -> str | None:
    """Return the subset that a file's name speaks of, such as "validation" for ``val_1.json``."""
    words = re.findall("[a-z]+", path.name.casefold())
    return next((SUBSETS[word] for word in words if word in SUBSETS), None)


def is_tsp_table(path: Path) -> bool:
    """Tell whether a file is ground truth in TSP's CSV format."""
    return is_csv(path) and set(TSP_COLUMNS) <= set(columns(path))


def _usual_protocol(annotations: Annotations) -> str:
    """Return the protocol of THUMOS14 where all classes are among its own, else that of ActivityNet."""
    labels = set(annotations.labels)
    return "thumos14" if labels and labels <= {*CLASS_NUMBERS, AMBIGUOUS} else USUAL_PROTOCOL


def _tsp_tables(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if is_tsp_table(path)]


def _only_annotations(folder: Path, tsp_tables: Sequence[Path]) -> Path:
    """Return the one annotation file of a folder, or its one folder of THUMOS14 texts.

    Raises:
        UserError: there is none, or there are several.
    """
    tables = [path for path in _visible(folder) if is_csv(path) and path not in tsp_tables]
    found = [path for path in tables if set(COLUMNS) <= set(columns(path)) or is_thumos_csv(path)]
    for path in _visible(folder):
        if path.name.lower().endswith((".json", ".json.gz")):
            content = read_json(path, "annotation")
            found += [path] if isinstance(content, dict) and "database" in content else []
    found += [path for path in sorted(folder.iterdir()) if _holds_thumos_texts(path)]
    # Of a single table that does not fit, its reader says what is wrong.
    found = found or (tables if len(tables) == 1 else [])
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{folder}: expected one annotation file, found {', '.join(path.name for path in found)}: name the one "
            "that is meant with --annotations, or join them with `tspbench data import`."
        )
    if tsp_tables:
        raise UserError(
            f"{folder}: expected an annotation file, found ground truth of TSP alone ({tsp_tables[0].name}): run "
            "`tspbench data import` with these files, which makes annotations of them."
        )
    raise UserError(
        f"{folder}: expected an annotation file, found none: add a CSV with the columns {', '.join(COLUMNS)}, or "
        "ActivityNet JSON, or a folder of THUMOS14 texts, or name the file with --annotations."
    )


def _videos_folder(folder: Path) -> Path | None:
    """Return the folder of the videos, None if there is no video.

    Raises:
        UserError: there are several.
    """
    for usual in (folder / "videos", folder):
        if _holds_videos(usual):
            return usual
    found = [path for path in sorted(folder.iterdir()) if _holds_videos(path)] if folder.is_dir() else []
    if len(found) > 1:
        raise UserError(
            f"{folder}: expected one folder of videos, found {', '.join(path.name for path in found)}: name the one "
            "that is meant with --videos."
        )
    return found[0] if found else None


def _holds_videos(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir())


def _holds_thumos_texts(folder: Path) -> bool:
    return folder.is_dir() and any(path.name in _THUMOS_TEXTS for path in folder.iterdir())


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _described(annotations: Annotations, splits: Mapping[str, str], protocol: str) -> list[str]:
    """Say what is annotated, and what each split is for."""
    ignored = DETECTION_PROTOCOLS[protocol].ignored_label
    shares = []
    for role, subset in splits.items():
        videos = annotations.subset(subset)
        actions = sum(label != ignored for video in videos for label in video.labels)
        called = f" (subset {subset!r})" if subset != role else ""
        shares.append(f"{len(videos):,} with {counted(actions, 'action')} for {role}{called}")
    path, classes = annotations.path, len(set(annotations.labels) - {ignored})
    every, kinds = counted(len(annotations.videos), "video"), counted(classes, "class")
    told = [f"{path}: {every}, {kinds}; videos: {', '.join(shares)}."]
    if (
        "validation" in splits
        and path.is_file()
        and is_csv(path)
        and set(COLUMNS) <= set(names := columns(path))
        and set(SPLITS).isdisjoint(names)
    ):
        told.append(
            f"{path} has no column split: a quarter of the videos was chosen for validation by their names; add the "
            "column to choose yourself."
        )
    if "validation" not in splits:
        told.append(f"{path} has no subset for validation: nothing can be scored on this set.")
    return told


def _matched(annotations: Annotations, folder: Path | None) -> list[str]:
    """Say how many annotated videos have a file, and how many files have annotations; a leading v_ does not count.

    Raises:
        UserError: no video has.
    """
    if folder is None:
        return []
    files = find_videos(folder)
    names = {video.name for video in annotations.videos}
    missing = sorted(name for name in names if known_name(name, files) is None)
    unknown = sorted(name for name in files if known_name(name, names) is None)
    if len(missing) == len(names):
        raise UserError(
            f"{folder}: expected videos named as in {annotations.path}, such as {missing[0]!r}, found "
            f"{files[unknown[0]].name!r} and others, none of which is annotated: rename one of the two."
        )
    have = "video has" if len(names) == 1 else "videos have"
    told = f"{len(names) - len(missing):,} of {len(names):,} annotated {have} a file in {folder}"
    if missing:
        told += f", first without: {missing[0]}"
    if unknown:
        told += f"; {len(unknown):,} of {len(files):,} files without annotations, first: {files[unknown[0]].name}"
    return [f"{told}."]


def _inside(folder: Path, path: Path) -> str:
    """Return how a card in ``folder`` names a path: relative to it where it lies inside."""
    inner, outer = path.absolute(), folder.absolute()
    return inner.relative_to(outer).as_posix() if inner.is_relative_to(outer) else str(inner)
