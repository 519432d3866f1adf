import errno
import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch

from tests.tspbench.helpers import full_disk, names, numbered, one_sentence
from tspbench.storage.atomic import replacing, write_bytes, write_json, write_text
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import VideoFeatures, write_part
from tspbench.storage.training_states import write_state
from tspbench.storage.video import write_video


def test_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "erst")
    write_text(path, "dann ü")
    assert path.read_bytes() == "dann ü".encode()
    assert names(path.parent) == ["file.txt"]


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == tmp_path  # a rename across file systems would not be atomic
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_in_mid_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_kill_in_mid_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from tspbench.storage.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half of the n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert {name.startswith(".file.") and name.endswith(".part") for name in names(tmp_path)} == {True, False}


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_no_space_left_is_one_sentence(tmp_path, monkeypatch, where):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_):
        raise full

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    with one_sentence(path, "No space left on device", "make room"), replacing(path) as temporary:
        temporary.write_bytes(b"new")
        if where == "write":
            raise full
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def _large_state():
    return {"weight": torch.zeros(40_000)}


def _large_features():
    return VideoFeatures(np.ones((400, 64), dtype=np.float32), 1.0, "none")


WRITERS = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "torch": lambda path: write_state(path, _large_state()),
    "safetensors": lambda path: write_weights(path, Weights("tiny", _large_state(), {}, {})),
    "hdf5": lambda path: write_part(path, {"v": _large_features()}, {"v": "stamp"}),
    "video": lambda path: write_video(path, (np.roll(numbered(0), k * 7, axis=1) for k in range(400)), 12),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_says_so_when_the_disk_is_full(tmp_path, writer):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with one_sentence(path, "cannot be written", "make room"), full_disk():
        WRITERS[writer](path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_hdf5_goes_on_working_after_a_full_disk(tmp_path):
    with one_sentence(), full_disk():
        WRITERS["hdf5"](tmp_path / "file.h5")
    WRITERS["hdf5"](tmp_path / "file.h5")
    with h5py.File(tmp_path / "file.h5") as file:
        assert file["v"].shape == (400, 64)


def test_another_error_of_a_library_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), replacing(tmp_path / "file"):
        raise RuntimeError("a bug")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with one_sentence(tmp_path / "file" / "below", "choose another place"):
        write_text(tmp_path / "file" / "below", "text")


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_are_as_open_to_others_as_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "x")
        write_weights(tmp_path / "weights", Weights("tiny", {"w": torch.zeros(1)}, {}, {}))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("text", "weights")}
    assert modes == {0o666 & ~mask}


def test_writing_in_threads_leaves_the_umask_alone(tmp_path, monkeypatch):
    def touched(mask):
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(os, "umask", touched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_text(tmp_path / f"{k % 3}", str(k)), range(40)))
    assert names(tmp_path) == ["0", "1", "2"]


def test_json_takes_arrays_and_sorts_keys(tmp_path):
    write_json(tmp_path / "file.json", {"b": np.array([1.5, 2.5]), "a": np.int64(3)})
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == {"a": 3, "b": [1.5, 2.5]}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "there"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with one_sentence(path, "it is there, and no file", "choose another place"):
        write_text(path, "text")
    assert path.is_dir() or path.is_fifo()


def test_behind_a_link_lies_the_file_that_is_meant(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_a_librarys_long_words_are_told_in_the_systems_own(tmp_path):
    """HDF5 speaks of a full disk in several lines."""
    error = OSError(errno.ENOSPC, "Unable to\nsynchronously write,\nerrno = 28")
    with one_sentence("file.h5", os.strerror(errno.ENOSPC), "make room"), replacing(tmp_path / "file.h5"):
        raise error
