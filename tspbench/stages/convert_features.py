"""Feature files → feature files of another format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Literal

from tspbench.errors import UserError
from tspbench.progress import Advance
from tspbench.storage.feature_folders import FeatureFolder, Layout, npy_files, write_npy
from tspbench.storage.features import FORMAT, FeatureFiles, Rows, write_entries
from tspbench.storage.row_clips import RowClips, read_row_clips
from tspbench.video_names import PREFIX, known_name, other_name

Format = Literal["tspbench", "tsp", "npy"]
FORMATS: Final[dict[Format, str]] = {
    "tspbench": "an H5 file that says what a row means, where that is known",
    "tsp": "an H5 file of datasets only, as TSP's released features",
    "npy": "a folder of .npy files, one a video, as ActionFormer and OpenTAD read them",
}
# How far the number of rows may be from what the spacing says; the greater of both. Clips longer than their stride
# leave rows out at the end: those of I3D, 64 frames every 8, leave out 7.
SPARE_ROWS: Final = 8
SPARE_SHARE: Final = 0.1
# So many videos may have a length that their rows do not fit: 8 of ActivityNet's 14,375 annotated lengths are wrong.
DOUBTFUL_SHARE: Final = 0.01
STATED_SHARE: Final = 0.01  # how far two statements of the spacing may be apart
RESCALED_RATIO: Final = 1.5  # videos of so different lengths have different numbers of rows, unless they are rescaled


@dataclass(frozen=True)
class Conversion:
    """How features are converted.

    Args:
        to: key of `FORMATS`.
        layout: which axis of the folder's files is time, be it source or target; None where there is no folder.
        prefixed: whether the names to write begin with ``v_``; None: as they are.
        row_seconds: what the user says the starts of two rows lie apart (16/15 s: TSP's features of ActivityNet).
        clip_frames: what the user says a row is, see `RowClips`; all three or none.
        stride_frames: see there.
        frame_rate: see there.
    """

    to: Format
    layout: Layout | None = None
    prefixed: bool | None = None
    row_seconds: float | None = None
    clip_frames: int | None = None
    stride_frames: int | None = None
    frame_rate: float | None = None


def convert_features(
    source: Sequence[Path], out: Path, how: Conversion, durations: Mapping[str, float | None], advance: Advance
) -> list[str]:
    """Write a feature set in another format, one video after the other; every number stays what it is.

    A file appears whole or not at all. In a folder each .npy file does, and those of an interrupted run are kept.

    Args:
        source: H5 files that are one set, or one folder of .npy files.
        out: the H5 file or the folder to write.
        how: see `Conversion`.
        durations: video of the data set, with the prefix ``v_`` or without → its length in seconds, if it is known;
            empty: there is no data set to compare with.
        advance: told how many videos are done.

    Returns:
        Sentences to say aloud.

    Raises:
        UserError: a source that cannot be read, does not fit the settings or holds no video of the data set, a value
            that is not finite, rows that do not fit the lengths of the videos, or a target that cannot be written.
    """
    features = _open(source, how)
    if out.resolve() in {path.resolve() for path in source}:
        raise UserError(f"{out} is what is read; choose another place to write to.")
    where, names = source[0], _renamed(features.videos, how.prefixed, source[0])
    attributes = _attributes(features, how)
    sentences = _check_lengths(where, features, durations, how.row_seconds, read_row_clips(str(where), attributes))
    if how.to == "npy":
        _write_folder(out, _entries(features, names, advance), names, how)
    else:
        plain = how.to == "tsp"
        entries = ((name, rows, {} if plain else its) for name, rows, its in _entries(features, names, advance))
        write_entries(out, entries, {} if plain else attributes)
    return sentences


def _open(source: Sequence[Path], how: Conversion) -> FeatureFiles | FeatureFolder:
    folders = [path for path in source if path.is_dir()]
    if (folders or how.to == "npy") and how.layout is None:
        raise UserError(
            f"{folders[0] if folders else source[0]}: the .npy files do not say which axis is time; give --layout "
            "time-first for (T, C) or --layout channels-first for (C, T)."
        )
    if folders and (len(source) > 1 or how.to == "npy"):
        raise UserError(
            f"{folders[0]}: a folder of .npy files is converted alone, and to an H5 file; give one folder and --format "
            "tspbench or tsp."
        )
    if folders and how.layout is not None:
        return FeatureFolder(folders[0], how.layout)
    for path in source:
        if path.suffix == ".npy":
            raise UserError(
                f"{path}: expected H5 files or a folder of .npy files, found one .npy file; give its folder."
            )
    files = FeatureFiles(source)
    if files.is_vectors():
        raise UserError(f"{source[0]} holds one vector a video, not rows along time; give a file of (T, C) features.")
    if how.to != "npy" and how.layout is not None:
        raise UserError(
            f"{source[0]}: --layout is for .npy files, and from H5 to H5 there are none; leave it out, or give "
            "--format npy."
        )
    return files


def _attributes(features: FeatureFiles | FeatureFolder, how: Conversion) -> dict[str, object]:
    """Return what the file to write says of its rows: what the source says, and what the user does."""
    found: dict[str, object] = {}
    skipped: list[object] = []
    for number, path in enumerate(features.paths if isinstance(features, FeatureFiles) else ()):
        its = FeatureFiles([path]).meaning()
        left_out = its.pop("skipped", [])
        skipped += left_out if isinstance(left_out, list) else [left_out]
        if number and its != found:
            key = next(key for key in [*found, *its] if found.get(key) != its.get(key))
            raise UserError(
                f"{path}: expected the attribute {key} {found.get(key)!r} as in {features.paths[0]}, found "
                f"{its.get(key)!r}; convert files of different rows one by one."
            )
        found = its
    stated = {"clip_frames": how.clip_frames, "stride_frames": how.stride_frames, "frame_rate": how.frame_rate}
    if read_row_clips("the options", stated) is not None:
        for key, value in stated.items():
            if found.get(key, value) != value:
                raise UserError(
                    f"{features.paths[0]} says that {key} is {found[key]!r}, the options say {value!r}; leave them out."
                )
        found = {"format": FORMAT, "feature_dim": features.feature_dim, **found, **stated}
    return {**found, "skipped": sorted(map(str, skipped))} if skipped else found


def _renamed(videos: frozenset[str], prefixed: bool | None, where: Path) -> dict[str, str]:
    """Return the name that each video is written under → its name in the source."""
    names: dict[str, str] = {}
    for video in sorted(videos):
        name = video if prefixed is None or video.startswith(PREFIX) == prefixed else other_name(video)
        if name in names:
            raise UserError(
                f"{where}: the videos {names[name]!r} and {video!r} would both be called {name!r}; leave one of them "
                "out, or keep the names as they are."
            )
        names[name] = video
    return names


def _entries(
    features: FeatureFiles | FeatureFolder, names: Mapping[str, str], advance: Advance
) -> Iterator[tuple[str, Rows, Mapping[str, object]]]:
    """Read one video after the other: the name to write, rows, and what the source says of this video."""
    for done, (name, video) in enumerate(names.items(), start=1):
        yield name, features.rows(video), features.attributes(video) if isinstance(features, FeatureFiles) else {}
        advance(done, len(names))


def _write_folder(
    out: Path, entries: Iterator[tuple[str, Rows, Mapping[str, object]]], names: Mapping[str, str], how: Conversion
) -> None:
    there = npy_files(out, "features") if out.is_dir() and any(out.glob("*.npy")) else {}
    if strangers := sorted(there.keys() - names.keys()):
        raise UserError(
            f"{out}: expected no .npy files but those of this conversion, found {len(strangers):,} others such as "
            f"{strangers[0]}.npy; choose another folder."
        )
    assert how.layout is not None  # noqa: S101 - `_open` has seen to it
    for name, rows, _ in entries:
        write_npy(out, name, rows, how.layout)


def _check_lengths(
    where: Path,
    features: FeatureFiles | FeatureFolder,
    durations: Mapping[str, float | None],
    row_seconds: float | None,
    clips: RowClips | None,
) -> list[str]:
    """Check the number of rows against the lengths of the videos; return sentences to say aloud."""
    if durations and not any(known_name(video, durations) for video in features.videos):
        raise UserError(
            f"{where}: expected videos of the data set, such as {next(iter(durations))!r}, found none of them but "
            f"{min(features.videos, default='none')!r} and others; name the data set that these features are of."
        )
    lengths = {video: durations.get(video) or durations.get(other_name(video)) for video in sorted(features.videos)}
    known = {video: seconds for video, seconds in lengths.items() if seconds}
    sentences = []
    if unknown := [video for video in lengths if video not in known]:
        sentences.append(
            f"{where}: no length is known of {len(unknown):,} of {len(lengths):,} videos (such as {unknown[0]!r}); the "
            "number of their rows is not checked."
        )
    if known:
        counts = {video: features.count(video) for video in known}
        sentences += _check_spacing(where, counts, known, row_seconds, clips)
    return sentences


def _check_spacing(
    where: Path,
    counts: Mapping[str, int],
    lengths: Mapping[str, float],
    row_seconds: float | None,
    clips: RowClips | None,
) -> list[str]:
    """Raise an error unless rows lie equally far apart in all videos, and as is stated.

    Returns:
        A sentence about features rescaled to one number of rows, which have no spacing, or about up to `DOUBTFUL_SHARE`
        of the videos that do not fit.
    """
    found = median(seconds / max(1, counts[video]) for video, seconds in lengths.items())
    rescaled = len(set(counts.values())) == 1 and max(lengths.values()) > RESCALED_RATIO * min(lengths.values())
    if rescaled and clips is None and row_seconds is None:
        rows = next(iter(counts.values()))
        return [f"{where}: all videos have {rows:,} rows, whatever their length; they are spread evenly over each."]
    spacing = clips.stride_frames / clips.frame_rate if clips else row_seconds or found
    if row_seconds is not None and abs(spacing - row_seconds) > STATED_SHARE * row_seconds:
        raise UserError(
            f"{where}: stride_frames and frame_rate make a row each {spacing:.4g} s, --row-seconds says "
            f"{row_seconds:g}; correct one of them."
        )
    expected = {video: clips.count(seconds) if clips else seconds / spacing for video, seconds in lengths.items()}
    unlike = [
        video for video, rows in expected.items() if abs(counts[video] - rows) > max(SPARE_ROWS, SPARE_SHARE * rows)
    ]
    if not unlike:
        return []
    first = unlike[0]
    told = (
        f"{where}: expected a row each {spacing:.4g} s, found otherwise in {len(unlike):,} of {len(lengths):,} videos, "
        f"such as {counts[first]:,} rows of {first!r} instead of about {expected[first]:,.0f} in {lengths[first]:g} s"
    )
    if len(unlike) <= DOUBTFUL_SHARE * len(lengths):
        return [f"{told}; their segments may lie elsewhere."]
    raise UserError(
        f"{told}; half of all videos have a row each {found:.4g} s or less: correct the layout, what is stated of the "
        "rows or the annotated lengths, or extract these videos again."
    )
