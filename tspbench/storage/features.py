"""H5 feature files: one (T, D) dataset a video, attributes that say what a row means."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import orjson
from numpy.typing import NDArray

from tspbench.clips import clip_centres
from tspbench.errors import UserError
from tspbench.storage.atomic import replacing

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
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["stamps"] = orjson.dumps({name: stamps[name] for name in features}).decode()
        for name, video in features.items():
            _write_video(file, name, video)


def finished_videos(folder: Path, stamps: Mapping[str, str]) -> dict[str, Path]:
    """Return the videos whose rows lie in a part in ``folder``, made from what their stamp says → that part."""
    found: dict[str, Path] = {}
    for part in sorted(folder.glob("*.h5")):
        with _open_file(part) as file:
            its_stamps = orjson.loads(file.attrs["stamps"])
        found |= {name: part for name, stamp in its_stamps.items() if stamps.get(name) == stamp}
    return found


def assemble(path: Path, parts: Mapping[str, Path], meaning: RowMeaning, skipped: Mapping[str, str]) -> None:
    """Join parts into the feature file, atomically.

    Args:
        path: the file to write.
        parts: video → the part that holds it.
        meaning: what every row is.
        skipped: videos left out → why.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        _write_meaning(file, meaning)
        file.attrs["skipped"] = sorted(f"{name}: {reason}" for name, reason in skipped.items())
        for part in sorted(set(parts.values())):
            with h5py.File(part, "r") as source:
                for name in source:
                    if parts.get(name) == part:
                        source.copy(name, file)


def write_features(path: Path, features: Mapping[str, VideoFeatures], meaning: RowMeaning) -> None:
    """Write a whole feature file atomically."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        _write_meaning(file, meaning)
        for name, video in features.items():
            _write_video(file, name, video)


class FeatureFiles:
    """One feature set in one or several H5 files (the released ones come as one file a subset).

    Files are opened at the first read, so that each worker opens its own.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._files: list[h5py.File] | None = None
        self._where: dict[str, h5py.File] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_files": None, "_where": {}}

    @property
    def videos(self) -> frozenset[str]:
        """Names of the videos that have features."""
        self._open()
        return frozenset(self._where)

    @property
    def feature_dim(self) -> int:
        """D, read off the first video."""
        self._open()
        return int(self._numbers(min(self._where)).shape[-1])

    def is_vectors(self) -> bool:
        """Whether this is a file of one (D,) vector a video, such as the released global video features."""
        self._open()
        return bool(self._numbers(min(self._where)).ndim == 1)

    def meaning(self) -> dict[str, object]:
        """Return the first file's attributes; empty for files without, such as the released TSP features."""
        attributes = self._open()[0].attrs
        return {key: _plain(attributes[key]) for key in attributes}

    def rows(self, video: str) -> Rows:
        """Return the (T, D) float32 features of ``video``.

        Raises:
            UserError: no such video, another shape, no row, or a value that is not finite.
        """
        file = self._file(video)
        rows: Rows = np.asarray(self._numbers(video), dtype=np.float32)
        if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != self.feature_dim:
            raise UserError(
                f"{file.filename}, entry {video!r}: expected (T, {self.feature_dim}) with T of at least 1, found shape "
                f"{rows.shape}: extract this video again."
            )
        if not np.isfinite(rows).all():
            raise UserError(f"{file.filename}, entry {video!r} holds NaN or infinity: extract this video again.")
        return rows

    def duration(self, video: str, annotated: float | None) -> float:
        """Return the length of ``video`` in seconds: as annotated (and not 0), else as decoded.

        Raises:
            UserError: neither is known.
        """
        decoded = self._file(video)[video].attrs.get("duration")
        if not annotated and decoded is None:
            raise UserError(
                f"{self.paths[0]}, entry {video!r}: neither the annotations nor the features say how long the video "
                'is: add "duration" to the annotation file.'
            )
        return float(annotated or decoded)

    def centres(self, video: str, count: int, duration: float) -> NDArray[np.float64]:
        """Return the (count,) instants in seconds that the rows stand for.

        With attributes: the middle of each clip. Without: ``count`` rows evenly over the whole video, which is what
        interpolating the rows along time means.
        """
        attributes = self._file(video).attrs
        if "stride_frames" not in attributes:
            return (np.arange(count, dtype=np.float64) + 0.5) * (duration / count)
        return clip_centres(
            count, int(attributes["clip_frames"]), int(attributes["stride_frames"]), float(attributes["frame_rate"])
        )

    def _file(self, video: str) -> h5py.File:
        self._open()
        if video not in self._where:
            raise UserError(f"{self.paths[0]} has no features of video {video!r}: extract it, or leave it out.")
        return self._where[video]

    def _numbers(self, video: str) -> h5py.Dataset:
        """Return an entry that holds numbers; other people's files hold groups and strings, too."""
        file = self._file(video)
        entry = file[video]
        if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in "fiu" or not entry.shape:
            found = f"{entry.dtype} {entry.shape}" if isinstance(entry, h5py.Dataset) else "a group"
            raise UserError(
                f"{file.filename}, entry {video!r}: expected (T, D) numbers, found {found}: write one dataset a video."
            )
        return entry

    def _open(self) -> list[h5py.File]:
        if self._files is None:
            self._files = [_open_file(path) for path in self.paths]
            for file in self._files:
                self._where |= dict.fromkeys(file, file)
            if not self._where:
                raise UserError(f"{self.paths[0]} holds no features: expected one dataset a video.")
        return self._files


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


def _write_meaning(file: h5py.File, meaning: RowMeaning) -> None:
    file.attrs["format"] = FORMAT
    for key, value in asdict(meaning).items():
        file.attrs[key] = value


def _write_video(file: h5py.File, name: str, video: VideoFeatures) -> None:
    dataset = file.create_dataset(name, data=video.rows.astype(np.float32, copy=False))
    dataset.attrs["duration"] = video.duration
    dataset.attrs["decoder"] = video.decoder


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
