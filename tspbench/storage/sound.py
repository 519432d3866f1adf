"""Features of the sound of videos: an H5 feature file, or a folder of .npy files that becomes one.

The .npy file of a video holds its (S, D) rows, such as VGGish's 128 numbers every 0.96 s. It is called VIDEO.npy or
VIDEO_vggish.npy; the ``v_`` that names of ActivityNet's videos begin with may be there or not. As in every feature file
without attributes, the rows are spread evenly over the video.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tspbench.errors import UserError
from tspbench.storage.atomic import replacing_h5
from tspbench.storage.feature_folders import finite_rows, npy_files, open_npy
from tspbench.storage.features import FeatureFiles
from tspbench.video_names import other_name

ENDINGS: Final = ("", "_vggish")
AGAIN: Final = "the sound of this video"
VGGISH_SECONDS: Final = 0.96  # what a row stands for
# How far the number of rows may be from what the video's length says; the greater of both.
SPARE_ROWS: Final = 3
SPARE_SHARE: Final = 0.1


def sound_h5(source: Path, out: Path, videos: Collection[str]) -> Path:
    """Return an H5 file of sound features: ``source`` itself, or ``out`` if that is a folder of .npy files.

    Files are read one after the other, and ``out`` is written atomically.

    Args:
        source: an H5 file, whatever it holds, or a folder.
        out: the H5 file that a folder becomes.
        videos: names, as in the visual features, of the videos that are taken; those that the folder lacks are left
            out.

    Raises:
        UserError: no such file, or a single .npy file; a folder without .npy files, without one of these videos, or
            with two of one video; a file that holds no (S, D) finite numbers, or rows of another width than the first.
    """
    if source.is_dir():
        files = _of_videos(source, videos)
        with replacing_h5(out) as target:
            width = 0
            for video, path in files.items():
                target[video] = rows = finite_rows(path, open_npy(path, "(S, D)", AGAIN), AGAIN)
                width = width or rows.shape[1]
                if rows.shape[1] != width:
                    raise UserError(
                        f"{path}: expected rows of {width} numbers as in {next(iter(files.values()))}, found "
                        f"{rows.shape[1]}; give the sound features of one network."
                    )
        return out
    if not source.is_file():
        raise UserError(f"{source} does not exist; give an H5 file of sound features or a folder of .npy files.")
    if source.suffix == ".npy":
        raise UserError(
            f"{source}: expected an H5 file of sound features or a folder of .npy files, one a video, found a single "
            ".npy file; give the folder that it lies in."
        )
    return source


def check_sound_lengths(
    sound: FeatureFiles, durations: Mapping[str, float], row_seconds: float = VGGISH_SECONDS
) -> None:
    """Raise an error unless the sound has about as many rows as the lengths of the videos say.

    Args:
        sound: the features; videos that it lacks are passed over.
        durations: video → its length in seconds, above 0.
        row_seconds: what a row stands for.

    Raises:
        UserError: a video has over `SPARE_ROWS` and over `SPARE_SHARE` more or fewer rows, or there is no sound of any
            video.
    """
    heard = sound.videos
    there = [video for video in durations if video in heard]
    where = " and ".join(map(str, sound.paths))
    if durations and not there:
        raise UserError(
            f"{where}: expected sound features of {len(durations):,} videos (such as {next(iter(durations))!r}), found "
            f"none of them, but {min(sound.videos)!r}; name the entries as in the visual features."
        )
    for video in there:
        found, expected = sound.count(video), durations[video] / row_seconds
        if abs(found - expected) > max(SPARE_ROWS, SPARE_SHARE * expected):
            raise UserError(
                f"{where}, entry {video!r}: expected about {max(1, round(expected)):,} rows, one each {row_seconds:g} "
                f"s of {durations[video]:g} s, found {found:,}; extract the whole sound of this video again, or leave "
                "its entry out."
            )


def _of_videos(folder: Path, videos: Collection[str]) -> dict[str, Path]:
    """Return the file of each video that has one, in the order of the videos' names."""
    there = npy_files(folder, "sound features")
    files: dict[str, Path] = {}
    for video in sorted(set(videos)):
        found = [there[name + end] for name in (video, other_name(video)) for end in ENDINGS if name + end in there]
        if len(found) > 1:
            raise UserError(
                f"{folder}: expected one file of the video {video!r}, found {found[0].name} and {found[1].name}; "
                "remove one of them."
            )
        if found:
            files[video] = found[0]
    if not files:
        example = f" (such as {min(videos)}.npy)" if videos else ""
        raise UserError(
            f"{folder}: expected a file of one of {len(videos):,} videos{example}, found none, but "
            f"{next(iter(there.values())).name}; name the files after the videos."
        )
    return files
