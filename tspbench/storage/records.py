"""Run records: what a finished stage was made from, and what it made."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json, write_text
from tspbench.storage.hashes import hash_data, hash_file

FORMAT: Final = "tspbench record 1"


@dataclass(frozen=True)
class Record:
    """What a stage leaves behind.

    Args:
        stage: name of the verb, such as "pretrain".
        status: "finished"; an unfinished stage has no record.
        fingerprint: hash of stage, settings, inputs and package version; equal fingerprints give equal results.
        settings: as resolved.
        inputs: name → hash.
        outputs: file name in the record's folder → SHA-256.
        figures: what the stage found, such as accuracies, metrics, counts and the signature.
        seconds: how long the try took that finished it.
        provenance: versions, commit, machine.
    """

    stage: str
    status: str
    fingerprint: str
    settings: Mapping[str, object]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    figures: Mapping[str, object]
    seconds: float
    provenance: Mapping[str, object]
    format: str = FORMAT


def fingerprint(stage: str, settings: Mapping[str, object], inputs: Mapping[str, str], version: str) -> str:
    """Return the key under which a stage's result is found again."""
    return hash_data([stage, settings, inputs, version])


def claim(folder: Path, key: str) -> None:
    """Make ``folder`` the place of the work ``key``: its own partial results are kept, those of other work removed.

    Raises:
        UserError: the folder holds files and was never claimed: they are somebody's, and stay.
    """
    mark = folder / "work.txt"
    # Temporary files, which a kill leaves behind, are hidden ones.
    if not mark.is_file() and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that no run of tspbench put there: choose another --out, or move them.")
    # What is removed is renamed first: a kill in the middle must not leave some of its files without the mark.
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if not mark.is_file() or mark.read_text("utf-8") != key:
        if folder.is_dir():
            folder.rename(old)
        write_text(mark, key)
        shutil.rmtree(old, ignore_errors=True)


def record_path(folder: Path) -> Path:
    """Return where the record of a stage that works in ``folder`` lies."""
    return folder / "record.json"


def write_record(folder: Path, record: Record) -> None:
    """Write a record atomically; it is the mark that its stage is finished."""
    write_json(record_path(folder), asdict(record))


def read_record(folder: Path) -> Record | None:
    """Return the record in ``folder``; None when there is none or it is of another format.

    Raises:
        UserError: the file is not a record.
    """
    path = record_path(folder)
    if not path.is_file():
        return None
    try:
        content = orjson.loads(path.read_bytes())
        return Record(**content) if content.get("format") == FORMAT else None
    except (orjson.JSONDecodeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a record ({error}): remove it, and the stage runs again.") from error


def outputs_are_whole(folder: Path, record: Record) -> bool:
    """Whether every output of ``record`` is there as it was written."""
    return all((folder / name).is_file() and hash_file(folder / name) == sha for name, sha in record.outputs.items())
