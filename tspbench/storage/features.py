"""H5 feature files: one (T, D) dataset a video, attributes that say what a row means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import orjson
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.progress import Advance
from tspbench.storage.atomic import replacing_h5
from tspbench.storage.row_clips import RowClips, is_positive, read_row_clips
from tspbench.timeline import Timeline
from tspbench.video_names import known_name

Rows = NDArray[np.float32]
FORMAT: Final = "tspbench features 1"


@dataclass(frozen=True)
class RowMeaning:
    """What a row of a feature file is: row k is the clip [k * stride_frames, k * stride_frames + clip_frames).

    Args:
        encoder: name of the encoder.
        weights: SHA-256 of its weight file, or where published weights come from.
        clip_frames: frames in a clip.
        stride_frames: frames between the starts of neighbouring clips.
        frame_rate: frames a second that both are counted in.
        feature_dim: D.
        precision: arithmetic of the forward pass.
    """

    encoder: str
    weights: str
    clip_frames: int
    stride_frames: int
    frame_rate: float
    feature_dim: int
    precision: str


@dataclass(frozen=True)
class VideoFeatures:
    """The rows of one video (T, D), its duration in seconds and what decoded it."""

    rows: Rows
    duration: float
    decoder: str


def write_part(path: Path, features: Mapping[str, VideoFeatures], stamps: Mapping[str, str]) -> None:
    """Write the features of a few videos atomically: HDF5 itself does not survive a kill in mid-write.

    Args:
        path: the file to write.
        features: video → its features.
        stamps: video → what its rows were made from; `finished_videos` finds them again by it.
    """
    with replacing_h5(path) as file:
        file.attrs["stamps"] = orjson.dumps({name: stamps[name] for name in features}).decode()
        for name, video in features.items():
            entry = file.create_dataset(name, data=video.rows.astype(np.float32, copy=False))
            entry.attrs.update(_video_attributes(video))


def finished_videos(folder: Path, stamps: Mapping[str, str]) -> dict[str, Path]:
    """Return the videos whose rows lie in a part in ``folder``, made from what their stamp says → that part."""
    found: dict[str, Path] = {}
    for part in sorted(folder.glob("*.h5")):
        with _open_file(part) as file:
            its_stamps = orjson.loads(file.attrs["stamps"])
        found |= {name: part for name, stamp in its_stamps.items() if stamps.get(name) == stamp}
    return found


def assemble(path: Path, parts: Mapping[str, Path], meaning: RowMeaning, skipped: Mapping[str, str]) -> None:
    """Join parts into the feature file, atomically; its bytes do not tell which video was in which part.

    Args:
        path: the file to write.
        parts: video → the part that holds it.
        meaning: what every row is.
        skipped: videos left out → why.
    """
    with replacing_h5(path) as file:
        file.attrs.update(_meaning_attributes(meaning))
        file.attrs["skipped"] = sorted(f"{name}: {reason}" for name, reason in skipped.items())
        for part, names in groupby(sorted(parts), parts.__getitem__):
            with h5py.File(part, "r") as source:
                for name in names:
                    source.copy(name, file)


def write_features(path: Path, features: Mapping[str, VideoFeatures], meaning: RowMeaning) -> None:
    """Write a whole feature file atomically."""
    entries = ((name, video.rows, _video_attributes(video)) for name, video in features.items())
    write_entries(path, entries, _meaning_attributes(meaning))


def write_entries(
    path: Path, entries: Iterable[tuple[str, Rows, Mapping[str, object]]], attributes: Mapping[str, object]
) -> None:
    """Write a feature file atomically, one video after the other.

    Args:
        path: the file to write.
        entries: video, its (T, D) rows and its attributes; the rows of one video are held at a time.
        attributes: of the file; none for a file such as TSP's.
    """
    with replacing_h5(path) as file:
        file.attrs.update(attributes)
        for name, rows, its_attributes in entries:
            file.create_dataset(name, data=rows.astype(np.float32, copy=False)).attrs.update(its_attributes)


class FeatureFiles:
    """One feature set in one or several H5 files (the released ones come as one file a subset).

    Files are opened at the first read, so that each worker opens its own.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._files: list[h5py.File] = []
        self._clips: dict[str, RowClips | None] = {}  # by path
        self._where: dict[str, h5py.File] = {}
        self._dim: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return FeatureFiles, (self.paths,)

    @property
    def videos(self) -> frozenset[str]:
        """Names of the videos that have features, as the files have them."""
        self._open()
        return frozenset(self._where)

    def __contains__(self, video: str) -> bool:
        """Whether ``video`` has features; here and in every method its name may have the prefix ``v_`` or lack it."""
        self._open()
        return known_name(video, self._where) is not None

    @property
    def feature_dim(self) -> int:
        """D, read off the first video of each file.

        Raises:
            UserError: the files do not agree.
        """
        if self._dim is None:
            firsts = [(file, next(iter(file))) for file in self._open() if len(file)]
            dims = [int(_numbers(file, name).shape[-1]) for file, name in firsts]
            for (file, name), dim in zip(firsts, dims, strict=True):
                if dim != dims[0]:
                    raise UserError(
                        f"{file.filename}, entry {name!r}: expected rows of {dims[0]} numbers as in "
                        f"{firsts[0][0].filename}, found {dim}: give the files of one feature set."
                    )
            self._dim = dims[0]
        return self._dim

    def is_vectors(self) -> bool:
        """Whether this is a file of one (D,) vector a video, such as the released global video features."""
        file = next(file for file in self._open() if len(file))
        return bool(_numbers(file, next(iter(file))).ndim == 1)

    def meaning(self) -> dict[str, object]:
        """Return the first file's attributes; empty for files without, such as the released TSP features."""
        return _attributes(self._open()[0])

    def attributes(self, video: str) -> dict[str, object]:
        """Return what the file says of ``video`` alone, such as its duration; empty for files without attributes."""
        return _attributes(self._entry(video))

    def check(self, videos: Mapping[str, float | None], report: Advance) -> list[str]:
        """Read every row of some videos once, so that what is wrong with them is said before anything is trained.

        With attributes the number of rows is known, but for the few that `RowClips.explain` forgives.

        Args:
            videos: video → its annotated length in seconds, if it has one; each has to have features.
            report: told how many videos are done.

        Returns:
            Sentences to say aloud: about annotated lengths far from the decoded ones, which published data sets have
            (8 of 14,375 videos of ActivityNet), and which therefore stop nobody.

        Raises:
            UserError: what `rows` and `duration` say, or another number of rows than the attributes tell.
        """
        doubtful: list[str] = []
        for done, (video, annotated) in enumerate(videos.items(), start=1):
            entry = self._entry(video)
            found, decoded = len(self._read(entry, 0, None)), _decoded(entry)
            if decoded is None:
                self.duration(video, annotated)
            else:
                self._check_count(video, found, decoded)
                if annotated and _far(annotated, decoded):
                    doubtful.append(f"{video!r}: {annotated:g} s and {decoded:g} s")
            report(done, len(videos))
        if not doubtful:
            return []
        return [
            f"{self.paths[0]}: {len(doubtful)} of {len(videos)} videos have another length in the annotations than in "
            f"the video file (first {doubtful[0]}); their segments may lie elsewhere."
        ]

    def count(self, video: str) -> int:
        """Return how many rows ``video`` has, without reading them."""
        return int(self._entry(video).shape[0])

    def rows(self, video: str, first: int = 0, end: int | None = None) -> Rows:
        """Return the (T, D) float32 features of ``video``, or its rows [first, end).

        Raises:
            UserError: no such video, another shape, no row, a value that is not finite, or a damaged file.
        """
        return self._read(self._entry(video), first, end)

    def duration(self, video: str, annotated: float | None) -> float:
        """Return the length of ``video`` in seconds: as annotated (and not 0), else as decoded.

        Raises:
            UserError: neither is known.
        """
        duration = annotated or _decoded(self._entry(video))
        if duration is None:
            raise UserError(
                f"{self.paths[0]}, entry {video!r}: neither the annotations nor the features say how long the video "
                'is: add "duration" to the annotation file.'
            )
        return float(duration)

    def centres(self, video: str, count: int, duration: float) -> NDArray[np.float64]:
        """Return the (count,) instants in seconds that the rows stand for.

        With attributes: the middle of each clip. Without: ``count`` rows evenly over the whole video, which is what
        interpolating the rows along time means.
        """
        clips = self._clips_of(video)
        if clips is None:
            return (np.arange(count, dtype=np.float64) + 0.5) * (duration / count)
        return clips.centres(count)

    def row_timeline(self, video: str, duration: float) -> Timeline:
        """Return the time line whose steps are the rows: the middle of step k is what row k stands for."""
        count, clips = self.count(video), self._clips_of(video)
        return Timeline.whole(duration, count) if clips is None else clips.timeline(count)

    def _read(self, entry: h5py.Dataset, first: int, end: int | None) -> Rows:
        shape = entry.shape
        if len(shape) != 2 or shape[0] == 0 or shape[1] != self.feature_dim:
            raise UserError(
                f"{_place(entry)}: expected (T, {self.feature_dim}) with T of at least 1, found shape {shape}: extract "
                "this video again."
            )
        try:
            rows: Rows = np.asarray(entry[first:end], dtype=np.float32)
        except OSError as error:
            raise UserError(f"{_place(entry)} cannot be read ({error}): make or copy the file again.") from error
        if not np.isfinite(rows).all():
            raise UserError(f"{_place(entry)} holds NaN or infinity: extract this video again.")
        return rows

    def _check_count(self, video: str, found: int, decoded: float) -> None:
        clips = self._clips_of(video)
        if clips is not None and not clips.explain(found, decoded):
            raise UserError(
                f"{_place(self._entry(video))}: expected about {clips.count(decoded)} rows, as clips of "
                f"{clips.clip_frames} frames every {clips.stride_frames} at {clips.frame_rate:g} frames a second make "
                f"in {decoded:g} s, found {found}: correct the attributes of the file, or extract this video again."
            )

    def _clips_of(self, video: str) -> RowClips | None:
        return self._clips[self._file(video).filename]

    def _name(self, video: str) -> str:
        self._open()
        name = known_name(video, self._where)
        if name is None:
            raise UserError(f"{self.paths[0]} has no features of video {video!r}: extract it, or leave it out.")
        return name

    def _file(self, video: str) -> h5py.File:
        return self._where[self._name(video)]

    def _entry(self, video: str) -> h5py.Dataset:
        return _numbers(self._file(video), self._name(video))

    def _open(self) -> list[h5py.File]:
        if not self._files:
            files = [_open_file(path) for path in self.paths]
            self._clips = {file.filename: read_row_clips(file.filename, _attributes(file)) for file in files}
            for file in files:
                for name in file:
                    if name in self._where:
                        raise UserError(
                            f"{file.filename}, entry {name!r}: the same video is in {self._where[name].filename}, too: "
                            "give each video's features once."
                        )
                    self._where[name] = file
            if not self._where:
                raise UserError(f"{self.paths[0]} holds no features: expected one dataset a video.")
            self._files = files
        return self._files


def _decoded(entry: h5py.Dataset) -> float | None:
    """Return the length in seconds that the extraction found, if the entry has it."""
    decoded = _plain(entry.attrs.get("duration"))
    if decoded is None:
        return None
    if not is_positive(decoded):
        raise UserError(
            f'{_place(entry)}: expected a "duration" in seconds above 0, found {decoded!r}: extract this video again.'
        )
    return decoded


def _far(annotated: float, decoded: float) -> bool:
    """Whether two lengths of one video differ by more than containers and rounding explain."""
    return abs(annotated - decoded) > max(2.0, 0.1 * max(annotated, decoded))


def _place(entry: h5py.Dataset) -> str:
    return f"{entry.file.filename}, entry {entry.name[1:]!r}"


def _numbers(file: h5py.File, name: str) -> h5py.Dataset:
    """Return an entry that holds numbers; other people's files hold groups and strings, too."""
    entry = file[name]
    if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in "fiu" or not entry.shape:
        found = f"{entry.dtype} {entry.shape}" if isinstance(entry, h5py.Dataset) else "a group"
        raise UserError(
            f"{file.filename}, entry {name!r}: expected (T, D) numbers, found {found}: write one dataset a video."
        )
    return entry


def write_like(
    path: Path, template: FeatureFiles, encoder: str, weights: str, make: Callable[[tuple[int, ...]], Rows]
) -> None:
    """Write other rows for the videos of a feature set, with its attributes but for who made them; atomically.

    Args:
        path: the file to write.
        template: whose videos, shapes and durations are taken over.
        encoder: see `RowMeaning`.
        weights: see `RowMeaning`.
        make: (T, D) → rows; called for one video after the other, in the order of their names.
    """
    entries = ((name, make(template._entry(name).shape), template.attributes(name)) for name in sorted(template.videos))
    write_entries(path, entries, {**template.meaning(), "encoder": encoder, "weights": weights})


def read_vectors(path: Path) -> dict[str, Rows]:
    """Read a file of one (D,) vector a video, such as the released global video features (GVF)."""
    with _open_file(path) as file:
        vectors = {name: np.asarray(file[name], dtype=np.float32) for name in file}
    for name, vector in vectors.items():
        if vector.ndim != 1:
            raise UserError(f"{path}, entry {name!r}: expected one vector a video, found shape {vector.shape}.")
    return vectors


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of an H5 feature file.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is not a readable H5 file ({error}): make or copy it again.") from error


def _meaning_attributes(meaning: RowMeaning) -> dict[str, object]:
    return {"format": FORMAT, **asdict(meaning)}


def _video_attributes(video: VideoFeatures) -> dict[str, object]:
    return {"duration": video.duration, "decoder": video.decoder}


def _attributes(where: h5py.File | h5py.Dataset) -> dict[str, object]:
    return {key: _plain(value) for key, value in where.attrs.items()}


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
