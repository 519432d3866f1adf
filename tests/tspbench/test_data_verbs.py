"""The commands on data: what they print, write and return. Where videos and CSV lead: tests/test_own_folder.py."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.test_cli import assert_one_sentence, run
from tests.tspbench.helpers import cut, names, numbered_video, small_dataset
from tspbench.storage.features import FeatureFiles
from tspbench.storage.manifest import read_manifest
from tspbench.storage.video import scan_video

VIDEOS = [f"v{k}" for k in range(5)]  # three for training, two for validation; 4 s, an action from 1 to 2.5 s


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("made")).folder


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """Work beside a data set of five videos."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "home")
    return Path("home")


@pytest.fixture
def broken(home):
    """Cut off a training video at 60 %."""
    video = home / "videos" / "v2.mp4"
    return cut(video.rename("whole.mp4"), video, 0.6)


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_data_alone_prints_its_help():
    assert "standardize" in done("data").stdout


# init


def test_a_folder_becomes_a_data_set_once(home):
    (home / "dataset.toml").unlink()
    result = done("data", "init", home, "--name", "mine")
    assert "5 videos, 2 classes" in result.stdout
    assert "5 of 5 annotated videos have a file" in result.stdout
    written = (home / "dataset.toml").read_bytes()
    assert b'name = "mine"' in written
    assert_one_sentence(run("data", "init", home), home / "dataset.toml", "is there already", "remove it")
    assert (home / "dataset.toml").read_bytes() == written
    (home / "dataset.toml").unlink()
    (home / "annotations.json").rename("elsewhere.json")
    assert_one_sentence(run("data", "init", home), home, "--annotations")
    done("data", "init", home, "--annotations", "elsewhere.json", "--protocol", "thumos14")
    assert b'protocol = "thumos14"' in (home / "dataset.toml").read_bytes()


# scan


def test_a_plain_folder_is_scanned_without_a_card(tmp_path, monkeypatch):
    """Its manifest lies in it, and serves when the folder becomes a data set."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        numbered_video(Path("plain") / f"{name}.mp4", 24)
    result = done("data", "scan", "plain", "--workers", 1)
    assert "2 of 2 videos can be used" in result.stdout
    manifest = read_manifest(Path("plain/manifest.json"))
    assert f"Manifest: plain/manifest.json ({manifest.digest[:8]})" in result.stdout
    assert {name: video.facts.frames for name, video in manifest.videos.items()} == {"a": 24, "b": 24}
    before = Path("plain/manifest.json").read_bytes()
    again = done("data", "scan", "plain", "--workers", 1)
    assert "scan: 2/2" in again.stderr
    assert "scan: 0/2" not in again.stderr, "what has not changed is not examined again"
    assert Path("plain/manifest.json").read_bytes() == before
    Path("plain/mine.csv").write_text("video,start,end,label\na,0.5,1.0,Jump\nb,0.5,1.0,Jump\n")
    done("data", "init", "plain")
    (Path("plain") / "b.mp4").write_bytes(b"another")
    extract = run("extract", "--encoder", "tiny", "--dataset", "plain", "--out", "f.h5")
    assert_one_sentence(extract, "b.mp4 has changed since it was scanned")


def test_scan_tells_kinds_of_trouble_by_its_exit_code(home, broken):
    (home / "videos" / "notes.mp4").write_text("no video at all")
    result = run("data", "scan", home)
    assert result.exit_code == 1
    assert "4 of 6 videos can be used" in result.stdout
    assert "v2: v2.mp4 is truncated" in result.stdout
    assert "notes: notes.mp4 " in result.stdout
    manifest = home / "videos" / "manifest.json"
    assert f"Manifest: {manifest} (" in result.stdout
    assert set(read_manifest(manifest).quarantined) == {"v2", "notes"}
    (home / "videos" / "notes.mp4").unlink()
    broken.unlink()
    assert run("data", "scan", home).exit_code == 0


def test_scan_of_nothing_is_a_sentence(tmp_path):
    assert_one_sentence(run("data", "scan", tmp_path), tmp_path, "holds no video")
    assert_one_sentence(run("data", "scan", tmp_path / "nowhere"), tmp_path / "nowhere")
    assert names(tmp_path) == []


# segments


def segments(path):
    """Return a CSV of TSP as rows (video, start, end, label, duration, file, frames a second, frames)."""
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "video-name", "t-start", "t-end", "action-label", "video-duration", "filename", "fps", "video-frames",
        "temporal-region-label",
    ]  # fmt: skip
    assert all((row["temporal-region-label"] == "Action") == bool(row["action-label"]) for row in rows)
    return [
        (
            row["video-name"], float(row["t-start"]), float(row["t-end"]), row["action-label"],
            float(row["video-duration"]), row["filename"], float(row["fps"]), int(row["video-frames"]),
        )
        for row in rows
    ]  # fmt: skip


SEGMENTS = ("data", "segments", "home", "--out", "cut", "--clip-seconds", 0.5, "--shortest-gap-clips", 2)


def test_segments_by_annotated_lengths(home):
    """Background of 1 s or more: before the action from 1 s to 2.5 s and behind it, in videos of 4 s."""
    result = done(*SEGMENTS)
    assert [line for line in result.stdout.splitlines() if line.startswith("cut/")] == [
        "cut/training.csv: 3 videos, 3 actions and 6 background segments; a clip fits into 3 and 6 of them, 45 clips "
        "an epoch.",
        "cut/validation.csv: 2 videos, 2 actions and 4 background segments; a clip fits into 2 and 4 of them, 30 clips "
        "an epoch.",
    ]
    # Nobody has looked at the files: 30 frames a second, as those of TSP's authors have.
    file = (4.0, "v3.mp4", 30.0, 120)
    other = (4.0, "v4.mp4", 30.0, 120)
    assert segments("cut/validation.csv") == [
        ("v3", 1.0, 2.5, "odd", *file),
        ("v4", 1.0, 2.5, "even", *other),
        ("v3", 0.0, 1.0, "", *file),
        ("v3", 2.5, 4.0, "", *file),
        ("v4", 0.0, 1.0, "", *other),
        ("v4", 2.5, 4.0, "", *other),
    ]


def test_segments_by_scanned_lengths(home, broken):
    """One video lasts 3 s instead of the annotated 4, which leaves no room for background behind; one is broken."""
    numbered_video(home / "videos" / "v4.mp4", 36)
    assert run("data", "scan", home).exit_code == 1
    result = done(*SEGMENTS)
    assert "cut/training.csv: 2 videos, 2 actions and 4 background segments" in result.stdout
    rows = segments("cut/validation.csv")
    expected = [
        ("v3", 1.0, 2.5, "odd", 4.0, "v3.mp4", 12.0, 48),
        ("v4", 1.0, 2.5, "even", 3.0, "v4.mp4", 12.0, 36),
        ("v3", 0.0, 1.0, "", 4.0, "v3.mp4", 12.0, 48),
        ("v3", 2.5, 4.0, "", 4.0, "v3.mp4", 12.0, 48),
        ("v4", 0.0, 1.0, "", 3.0, "v4.mp4", 12.0, 36),
    ]
    assert len(rows) == len(expected)
    for row, right in zip(rows, expected, strict=True):
        assert [pytest.approx(cell) if isinstance(cell, float) else cell for cell in right] == list(row)
    assert {row[0] for row in segments("cut/training.csv")} == {"v0", "v1"}


def test_segments_without_any_length_are_a_sentence(home):
    content = json.loads((home / "annotations.json").read_bytes())
    for video in content["database"].values():
        del video["duration"]
    (home / "annotations.json").write_text(json.dumps(content))
    assert_one_sentence(run(*SEGMENTS), home / "annotations.json", "tspbench data scan home")
    assert not Path("cut").exists()
    done("data", "scan", home)
    assert "6 background segments" in done(*SEGMENTS).stdout


# standardize


def test_standardized_videos_have_thirty_frames_a_second(home):
    result = done("data", "standardize", home, "--out", "copies")
    assert result.stdout == "5 of 5 videos: copies\n"
    assert names(Path("copies")) == [f"{name}.mp4" for name in VIDEOS]
    assert scan_video(Path("copies/v0.mp4")).frames == 4 * 30
    before = {path: path.stat().st_mtime_ns for path in Path("copies").iterdir()}
    done("data", "standardize", home, "--out", "copies")
    assert {path: path.stat().st_mtime_ns for path in Path("copies").iterdir()} == before
    refused = run("data", "standardize", home, "--out", home / "videos")
    assert_one_sentence(refused, home / "videos", "choose another folder")


def test_standardize_leaves_out_what_cannot_be_read_and_says_so(home, broken):
    result = run("data", "standardize", home, "--out", "copies")
    assert result.exit_code == 1
    assert result.stdout == "4 of 5 videos: copies\n"
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Left out: "))
    assert str(broken) in line
    assert names(Path("copies")) == [f"{name}.mp4" for name in VIDEOS if name != "v2"]


def test_standardize_follows_the_quarantine_of_a_scan(home, broken):
    assert run("data", "scan", home).exit_code == 1
    result = run("data", "standardize", home, "--out", "copies")
    assert result.exit_code == 1
    assert result.stdout == "4 of 5 videos: copies; 1 are quarantined\n"
    assert "standardize: 4/4" in result.stderr, "the broken one is not tried again"
    assert names(Path("copies")) == [f"{name}.mp4" for name in VIDEOS if name != "v2"]
    numbered_video(home / "videos" / "v1.mp4", 12)
    changed = run("data", "standardize", home, "--out", "others")
    assert_one_sentence(changed, "v1.mp4 has changed since it was scanned")


def test_standardize_takes_a_plain_folder(home):
    (home / "dataset.toml").unlink()
    assert done("data", "standardize", home / "videos", "--out", "copies").stdout == "5 of 5 videos: copies\n"


# features


@pytest.fixture
def npy(home):
    """Write 8 rows of 32 numbers for each of the five videos: one each half second."""
    folder, rng = Path("npy"), np.random.default_rng(0)
    folder.mkdir()
    for name in VIDEOS:
        np.save(folder / f"{name}.npy", rng.standard_normal((8, 32)).astype(np.float32))
    return folder


HALF_SECONDS = ("--row", 6, 6, 12.0)  # clips of 6 frames, every 6 frames, of 12 a second


def test_features_become_one_file_and_a_folder_again(home, npy):
    first = done("data", "features", npy, "--layout", "time-first", "--out", "f.h5", "--dataset", home, *HALF_SECONDS)
    assert first.stdout == "Features: f.h5\n"
    files = FeatureFiles([Path("f.h5")])
    assert files.videos == set(VIDEOS)
    meaning = files.meaning()
    assert (meaning["clip_frames"], meaning["stride_frames"], meaning["frame_rate"]) == (6, 6, 12.0)
    done("data", "features", "f.h5", "--format", "npy", "--layout", "channels-first", "--prefix", "--out", "other")
    assert names(Path("other")) == [f"v_{name}.npy" for name in VIDEOS]
    back = done(
        "data", "features", "other", "--layout", "channels-first", "--format", "tsp", "--no-prefix", "--out", "g.h5"
    )
    assert "no length is known of 5 of 5 videos" in back.stderr
    again = FeatureFiles([Path("g.h5")])
    assert again.meaning() == {}
    for name in VIDEOS:
        rows = np.load(npy / f"{name}.npy")
        assert_array_equal(np.load(f"other/v_{name}.npy"), rows.T)
        assert_array_equal(files.rows(name), rows)
        assert_array_equal(again.rows(name), rows)


def test_a_layout_has_to_be_told_and_to_fit_the_lengths_of_the_videos(home, npy):
    assert_one_sentence(run("data", "features", npy, "--out", "f.h5"), npy, "which axis is time", "--layout")
    wrong = ("data", "features", npy, "--layout", "channels-first", "--out", "f.h5", "--dataset", home)
    parts = ("a row each 0.5 s", "5 of 5 videos", "32 rows of 'v0' instead of about 8 in 4 s", "the layout")
    assert_one_sentence(run(*wrong, *HALF_SECONDS), *parts)
    assert_one_sentence(run(*wrong, "--row-seconds", 0.5), *parts)
    np.save(npy / "v0.npy", np.zeros((12, 32), dtype=np.float32))
    assert_one_sentence(run(*wrong), "v1.npy", "give --layout time-first")
    assert not Path("f.h5").exists()


def test_converted_features_are_those_that_evaluate_reads(home, npy):
    """Of a folder of .npy files a table is made, with the same lengths of rows as told."""
    done("data", "features", npy, "--layout", "time-first", "--out", "f.h5", "--dataset", home, *HALF_SECONDS)
    small = [f"config.{size}=8" for size in ("steps", "max_duration", "hidden_1d", "hidden_2d", "hidden_3d")]
    changes = [part for change in (*small, "fit.epochs=1") for part in ("--set", change)]
    done("evaluate", "--task", "tal", "--dataset", home, "--features", "mine=f.h5", "--out", "out", *changes)
    assert "| mine | " in Path("out/table.md").read_text()
