"""What a run that was stopped has left: every file read to its end, and compared with those of a run that was not."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import h5py
import numpy as np
from safetensors import safe_open

from tspbench.storage.records import outputs_are_whole, read_record
from tspbench.storage.training_states import read_state


def unreadable(out: Path, reference: Path) -> list[str]:
    """Return what is wrong with the files that a stopped run has left under the names of results.

    Each is read to its end; where the finished run has a file of that name, it is the same; and a record's outputs are
    those of the finished run.
    """
    wrong = []
    for path in _files(out):
        name = str(path.relative_to(out))
        try:
            READERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            wrong.append(f"{name} cannot be read: {error!r}")
            continue
        if path.name == "record.json" and not outputs_are_whole(path.parent, read_record(path.parent)):
            wrong.append(f"{name} is there, its outputs are not whole")
        if (
            (reference / name).is_file()
            and path.suffix not in (".csv", ".toml")
            and _content(path) != _content(reference / name)
        ):
            wrong.append(f"{name} differs from that of the finished run")
    return wrong


def unequal(out: Path, reference: Path) -> list[str]:
    """Return how a run that was stopped and started again differs from one that was not."""
    found, expected = ({str(path.relative_to(root)) for path in _files(root)} for root in (out, reference))
    wrong = [f"{name} is missing" for name in sorted(expected - found) if Path(name).suffix != ".pt"]
    wrong += [f"{name} is left over" for name in sorted(found - expected) if Path(name).suffix != ".pt"]
    same = sorted(found & expected)
    wrong += [f"{name} differs" for name in same if _content(out / name) != _content(reference / name)]
    return [*wrong, *unreadable(out, reference)]


def hidden(out: Path) -> list[Path]:
    """Return the temporary files that kills have left."""
    return [path for path in out.rglob(".*") if path.is_file()]


def _files(out: Path) -> Iterator[Path]:
    return (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _content(path: Path) -> object:
    """Return what has to be equal in two runs: no times, no machine, no workers, no training states, which
    have served."""
    if path.name == "record.json":
        content = json.loads(path.read_bytes())
        return {key: value for key, value in content.items() if key not in ("seconds", "provenance")}
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open()))
        return [{key: value for key, value in row.items() if "second" not in key} for row in rows]
    return None if path.suffix == ".pt" or path.name == "recipe.toml" else path.read_bytes()


def _read_h5(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs, f"{path} says nothing about itself"
        for name in file:
            assert np.isfinite(file[name][:]).all()


def _read_safetensors(path: Path) -> None:
    with safe_open(path, "np") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            file.get_tensor(key)


def _read_npz(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def _read_video(path: Path) -> None:
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == file.streams.video[0].frames


def _read_csv(path: Path) -> None:
    rows = list(csv.DictReader(path.open()))
    assert all(None not in row and None not in row.values() for row in rows), "a line is cut off"


READERS: dict[str, Callable[[Path], object]] = {
    ".h5": _read_h5,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pt": read_state,
    ".mp4": _read_video,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".gz": lambda path: json.loads(gzip.decompress(path.read_bytes())),
    ".csv": _read_csv,
}
