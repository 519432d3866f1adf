"""The quick form of `tests.benchmarks.killing`: kills from outside and a disk that runs full, in one small recipe.

`tests.test_end_to_end` kills the smoke recipe in every stage; here the kill comes from another process, inside writes,
too, takes the main process alone or all, and every file that it leaves is read.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.left_behind import hidden, unequal, unreadable
from tests.stopping import Point, ended, kill, orphans, refused, start, steps
from tests.tspbench.helpers import names, one_sentence
from tspbench.storage.atomic import replacing, write_text
from tspbench.storage.features import RowMeaning, VideoFeatures, assemble, write_part
from tspbench.storage.records import claim

# Short clips to train on, because they are decoded in no time; 17 videos to extract, because 16 are one part.
RECIPE = """
name = "survival"
title = "What a kill leaves, in short"
encoder = "tiny"
target = "target"
data = { trimmed = "synthetic-trimmed", target = "synthetic" }
generate = { training_videos = 14, validation_videos = 3, trimmed_clips = 24 }
extract = { stride_frames = 24, batch_size = 8 }

[pretrain.tac]
method = "tac"
data = "trimmed"
init = "random"
clips_per_segment = 1
[pretrain.tac.fit]
epochs = 2
batch_size = 4
optimizer = "adam"
learning_rates = { stem = 0.001, backbone = 0.001, heads = 0.001 }
select = "best"
checkpoint_minutes = 0.0

[tasks.proposals]
name = "gtad"
config = { steps = 8, max_duration = 8, hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }
[tasks.proposals.fit]
epochs = 3
batch_size = 4
optimizer = "adam"
learning_rates = { localizer = 0.002 }

[[rows]]
name = "TAC"
features = "tac"
"""
NO_WORKERS, ONE_WORKER = "pretrain.tac.fit.workers=0", "pretrain.tac.fit.workers=1"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "survival.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe) -> Path:
    """The recipe, run once without a stop; tests must leave the folder as it is."""
    out = recipe.parent / "finished"
    run = start(out, recipe, NO_WORKERS)
    assert ended(run) == 0, run.log.read_text()
    return out


def test_every_kill_leaves_whole_files_and_ends_in_the_same_result(recipe, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished / "data", out / "data")  # all but the last videos: to generate them takes long
    data = out / "data" / "target"
    for path in (data / "record.json", data / "dataset.toml", *data.glob("videos/validation_*")):
        path.unlink()
    kills = [
        (Point("data/target", "half", 1, 0.5), False, NO_WORKERS),
        (Point("pretrain/tac", "renamed", 4), True, ONE_WORKER),  # the main process alone
        (Point("features/tac", "half", 1, 0.7), False, NO_WORKERS),
        (Point("proposals/tac/train", "time", share=0.5), False, NO_WORKERS),
    ]
    told = []
    for point, alone, changes in kills:
        run = start(out, recipe, changes, point=point)
        assert kill(run, point, {point.place: 0.1}, alone), f"{point} was not reached: {run.log.read_text()}"
        assert orphans(run.process.pid) == []
        assert unreadable(out, finished) == []
        told.append([step for title, step, _ in steps(run.log) if title == "pretrain tac"])
    again = start(out, recipe, NO_WORKERS)
    assert ended(again) == 0, again.log.read_text()
    assert unequal(out, finished) == []
    assert hidden(out) == []
    before, behind = told[1:3]
    assert before[0] == 1
    assert behind == list(range(behind[0], behind[-1] + 1))
    assert behind[0] in (before[-1] + 1, before[-1] + 2), "there is a state behind each step; one may not be told yet"


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(recipe, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished / "data", out / "data")
    for point in (
        Point("pretrain/tac", "limit", 2),
        Point("features/tac", "limit"),
        Point("proposals/tac/train", "limit"),
    ):
        run = start(out, recipe, NO_WORKERS, point=point)
        assert refused(run, os.strerror(errno.EFBIG)) == [], run.log.read_text()
        assert unreadable(out, finished) == []
        assert hidden(out) == []
    again = start(out, recipe, NO_WORKERS)
    assert ended(again) == 0, again.log.read_text()
    assert unequal(out, finished) == []


def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from tspbench.storage.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half of the n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("file [1].h5", "other"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    there = ".file [1].h5.00000000-1-0a1b2c3d.part"
    (tmp_path / there).write_text("of another machine")
    with replacing(tmp_path / "file [1].h5") as temporary:
        write_text(tmp_path / "file [1].h5", "written by another thread meanwhile")
        assert temporary.exists()
        temporary.write_text("new")
    left = [name for name in names(tmp_path) if name.startswith(".")]
    assert there in left
    assert [name.startswith(".other.") for name in left if name != there] == [True]


def test_what_was_to_be_removed_goes_in_the_end(tmp_path):
    (tmp_path / ".data.old").mkdir()
    (tmp_path / ".data.old" / "large").write_text("a kill has left this")
    claim(tmp_path / "data", "key")
    assert names(tmp_path) == ["data"]


def test_a_disk_too_full_for_a_name_wants_room(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", refuse)
    with one_sentence(tmp_path / "file", "No space left on device", "make room", "what is finished is kept"):
        write_text(tmp_path / "file", "text")


def test_hdf5_survives_a_full_disk(tmp_path):
    """Told of it, HDF5 would print tracebacks when the file is closed, and crash the process when that ends."""
    code = """
import sys
from pathlib import Path
import numpy as np
from tests.tspbench.helpers import full_disk
from tspbench.errors import UserError
from tspbench.storage.features import RowMeaning, VideoFeatures, assemble, write_part
folder = Path(sys.argv[1])
features = {f"v{k}": VideoFeatures(np.ones((40, 128), np.float32), 1.0, "none") for k in range(60)}
stamps, parts = dict.fromkeys(features, "stamp"), dict.fromkeys(features, folder / "part.h5")
meaning = RowMeaning("tiny", "none", 16, 16, 15.0, 128, "fp32")
write_part(folder / "part.h5", features, stamps)
for limit in (0, 4096, 100_000, 600_000, 1_200_000):
    for write in (
        lambda: write_part(folder / "file.h5", features, stamps),
        lambda: assemble(folder / "file.h5", parts, meaning, {}),
    ):
        try:
            with full_disk(limit):
                write()
        except UserError as error:
            print(error)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert ["make room" in line for line in run.stdout.splitlines()] == [True] * 10
    assert names(tmp_path) == ["part.h5"]


def test_assembled_features_do_not_tell_which_video_was_in_which_part(tmp_path):
    rng = np.random.default_rng(0)
    features = {f"v{k}": VideoFeatures(rng.random((k + 1, 8), dtype=np.float32), 1.0, "none") for k in range(6)}
    meaning = RowMeaning("tiny", "none", 16, 16, 15.0, 8, "fp32")
    groups = {"one": ["v0v1v2v3v4v5"], "two": ["v5v0v3", "v1v2v4"], "six": ["v4", "v0", "v2", "v1", "v5", "v3"]}
    for run, parts in groups.items():
        where = {}
        for number, part in enumerate(parts):
            path = tmp_path / f"{run} {number}.h5"
            chosen = {name: features[name] for name in features if name in part}
            write_part(path, chosen, dict.fromkeys(chosen, "stamp"))
            where |= dict.fromkeys(chosen, path)
        assemble(tmp_path / f"{run}.h5", where, meaning, {})
    assert len({(tmp_path / f"{run}.h5").read_bytes() for run in groups}) == 1
