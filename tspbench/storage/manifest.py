"""Which videos of a folder can be used: what a scan found, and a quarantine list with reasons."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json
from tspbench.storage.hashes import hash_data
from tspbench.storage.json_files import read_entries, read_json
from tspbench.storage.video import Problem
from tspbench.storage.video_check import VideoFacts

MANIFEST: Final = "manifest.json"
FORMAT: Final = "tspbench manifest 1"
SYNC_EVERY: Final = 64  # entries of a journal that a power cut, but no kill, may cost


@dataclass(frozen=True)
class ScannedVideo:
    """One video of a manifest.

    Args:
        name: of the video.
        file: path of its file, relative to the folder of the videos.
        bytes: size of the file; 0 where there is none.
        modified_ns: when the file was written, in nanoseconds since 1970; 0 where there is none.
        facts: what it holds, or None if it cannot be used.
        problem: why it cannot be used, or None.
        reason: the sentence that says so, or "".

    Raises:
        ValueError: it has both facts and a problem, or neither, or a problem without a reason.
    """

    # Read strictly: a key too many, or a number as text, is a file that somebody else has changed.
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    name: str
    file: str
    bytes: int
    modified_ns: int
    facts: VideoFacts | None = None
    problem: Problem | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.facts is None) != (self.problem is not None) or (self.problem is None) != (not self.reason):
            raise ValueError("expected either facts, or a problem and its reason")


@dataclass(frozen=True)
class Manifest:
    """What a scan found of each video.

    Args:
        folder: where the videos were.
        videos: name → what was found, ordered by name.
    """

    folder: Path
    videos: Mapping[str, ScannedVideo]

    @cached_property
    def quarantined(self) -> dict[str, str]:
        """The videos that cannot be used → why."""
        return {name: video.reason for name, video in self.videos.items() if video.problem}

    @cached_property
    def digest(self) -> str:
        """Hash of all that was found; a copy of the folder has the same, when files were written does not count."""
        entries = [asdict(video) for _, video in sorted(self.videos.items())]
        return hash_data([FORMAT, [{k: v for k, v in entry.items() if k != "modified_ns"} for entry in entries]])

    def readable(self, videos: Mapping[str, Path]) -> dict[str, Path]:
        """Return those of ``videos`` that can be used, in their order.

        Raises:
            UserError: see `check`.
        """
        self.check(videos)
        return {name: path for name, path in videos.items() if name not in self.quarantined}

    def check(self, videos: Mapping[str, Path]) -> None:
        """Compare names and sizes with what is on disk now.

        Raises:
            UserError: the manifest does not know a video, or the file is another one since.
        """
        for name, path in videos.items():
            known = self.videos.get(name)
            size = file_stamp(path)[0]
            if known is None:
                raise UserError(f"{path} is not in the manifest of its folder: run `tspbench data scan {path.parent}`.")
            if known.bytes != size:
                raise UserError(
                    f"{path} has changed since it was scanned ({known.bytes:,} bytes then, {size:,} now): "
                    f"run `tspbench data scan {path.parent}`."
                )


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and when it was written, in nanoseconds; zeros where there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically, as JSON."""
    videos = {name: asdict(video) for name, video in manifest.videos.items()}
    write_json(path, {"format": FORMAT, "folder": str(manifest.folder), "digest": manifest.digest, "videos": videos})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        UserError: the file is missing or damaged, is none, or is not as it was written; it names the entry.
    """
    content = read_json(path, "manifest")
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("folder"), str):
        raise UserError(f'{path} is not a manifest ("format": "{FORMAT}"): make one with tspbench data scan.')
    videos = {}
    for name, entry in sorted(read_entries(path, "videos", "manifest").items()):
        try:
            videos[name] = _ENTRY.validate_json(orjson.dumps(entry))
        except ValidationError as error:
            raise UserError(f"{path}, video {name!r}: {_first(error)}: run tspbench data scan again.") from error
        if videos[name].name != name:
            raise UserError(f"{path}, video {name!r}: its name is {videos[name].name!r}: run tspbench data scan again.")
    manifest = Manifest(Path(content["folder"]), videos)
    if content.get("digest") != manifest.digest:
        raise UserError(f"{path}: its entries do not have its digest (changed by hand?): run tspbench data scan again.")
    return manifest


class Journal:
    """What an unfinished scan has found so far, one JSON line a video: a kill at any moment leaves all whole lines.

    Args:
        path: the file; removed by `remove` when the manifest is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._unsynced = 0

    def read(self) -> dict[str, ScannedVideo]:
        """Return what is there; a line that is not whole was cut off by a kill and does not count."""
        found: dict[str, ScannedVideo] = {}
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else ():
            try:
                video = _ENTRY.validate_json(line)
            except ValidationError:
                continue
            found[video.name] = video
        return found

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            self._write(b"\n")  # ends a line that was cut off
        except OSError as error:
            raise self._refused(error) from error
        return self

    def add(self, video: ScannedVideo) -> None:
        """Keep one more video.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._write(orjson.dumps(video) + b"\n")
        except OSError as error:
            raise self._refused(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # that the disk is full has been said
                self._file.close()

    def remove(self) -> None:
        """Delete the file: what it holds lies elsewhere now."""
        self._path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        assert self._file is not None  # noqa: S101 - inside the block
        self._file.write(content)
        self._file.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def _refused(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path} cannot be written ({error.strerror}): make room or choose another place, then run the same "
            "command again; what is finished is kept."
        )


_ENTRY: Final = TypeAdapter(ScannedVideo)


def _first(error: ValidationError) -> str:
    """Say what is wrong with an entry first, in a few words."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where or 'the entry'}: {message[:1].lower()}{message[1:]}"
