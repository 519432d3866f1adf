"""Videos of one's own with a run that is made here: what its rows say of new videos, and of those that it knows."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.tspbench.helpers import names, numbered_video, one_sentence
from tspbench.cli import app
from tspbench.experiment import Experiment
from tspbench.recipe import read_recipe
from tspbench.stages.known_encoders import KnownEncoders
from tspbench.stages.predict_video import SUFFIXES, written_name
from tspbench.stages.trained_row import TrainedRow
from tspbench.storage.captions import read_captions
from tspbench.storage.hashes import hash_file
from tspbench.storage.json_files import read_json
from tspbench.storage.records import read_record, write_record
from tspbench.storage.runs import read_run, write_run
from tspbench.video_prediction import best_row, named_videos, predict_videos, told, told_problems

RECIPE = """
name = "small"
title = "What predict needs, in small"
encoder = "tiny"
target = "target"
class_scores_from = "tac"
references = ["whole-video"]
data = { target = "synthetic" }
generate = { training_videos = 4, validation_videos = 2, trimmed_clips = 12 }
extract = { stride_frames = 12 }

[pretrain.tac]
method = "tac"
data = "target"
init = "random"
clips_per_segment = 1
[pretrain.tac.fit]
workers = 0
epochs = 1
batch_size = 8
optimizer = "adam"
learning_rates = { stem = 0.003, backbone = 0.003, heads = 0.003 }

[pretrain.tsp]
method = "tsp"
data = "target"
init = "tac"
clips_per_segment = 1
shortest_gap_clips = 1.0
[pretrain.tsp.fit]
workers = 0
epochs = 1
batch_size = 8
optimizer = "adam"
learning_rates = { stem = 0.003, backbone = 0.003, heads = 0.003 }

[tasks.tal]
name = "gtad"
config = { steps = 16, max_duration = 16, hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }
[tasks.tal.fit]
epochs = 1
batch_size = 4
optimizer = "adam"
learning_rates = { localizer = 0.002 }

[tasks.captioning]
config = { word_dim = 16, d_model = 16, heads = 2, layers = 1, label_smoothing = 0.1 }
held_out = 0.0
[tasks.captioning.fit]
epochs = 1
batch_size = 8
optimizer = "adam"
learning_rates = { captioner = 0.005 }
[tasks.captioning.generator]
config = { kernels = [[1, 3]], hidden = 16 }
anchors = [4]
[tasks.captioning.generator.fit]
epochs = 1
batch_size = 4
optimizer = "adam"
learning_rates = { generator = 0.005 }
[tasks.captioning.proposals]
count = 5

[[rows]]
name = "Random"
features = "random"

[[rows]]
name = "TAC"
features = "tac"

[[rows]]
name = "TSP"
features = "tsp"
"""
NAMES = (
    "two words (1) [x].y",
    "-rf",
    "ünïcode 跳远 🏃",
    "$x^2$ <b>&amp;",
    "'; touch gone; '",
    ".hidden",
    "line\nbreak",
    "%41",
    "n" * 240,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.toml").write_text(RECIPE)
    Experiment(read_recipe(str(folder / "small.toml"), []), folder / "run", "cpu").run()
    return folder / "run"


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy that a test may spoil; the generated videos stay behind, as in a run that was moved."""
    return Path(shutil.copytree(made, tmp_path / "moved", ignore=shutil.ignore_patterns("data")))


@pytest.fixture(scope="module")
def video(made) -> Path:
    return min((made / "data/target/videos").glob("validation_*.mp4"))


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A video shorter than a clip."""
    return numbered_video(tmp_path_factory.mktemp("short") / "short.mp4", 3)


def predicted(run: Path, *videos: Path, **options):
    return predict_videos(videos, run, **{"row": "TSP", **options})


@pytest.mark.parametrize("row", ["TAC", "TSP"])
def test_a_video_of_the_run_gets_what_the_run_found_in_it(made, video, row, tmp_path):
    found = predicted(made, video, row=row, out=tmp_path).videos[0]
    folder = made / "tal" / row.lower()
    expected = read_json(folder / "predict/predictions.json.gz", "prediction")["results"][video.stem]
    expected.sort(key=lambda each: -each["score"])
    assert [each.label for each in found.detections] == [each["label"] for each in expected]
    np.testing.assert_allclose([each.score for each in found.detections], [each["score"] for each in expected], 1e-4)
    segments = [(each.start_seconds, each.end_seconds) for each in found.detections]
    np.testing.assert_allclose(segments, [each["segment"] for each in expected], atol=1e-6)
    said = read_captions(made / "captioning" / row.lower() / "proposals/predict/captions.json")
    own = said.rows()[video.stem]
    assert [each.sentence for each in found.captions] == [said.sentences[k] for k in own]


def test_all_files_say_the_same(made, video, tmp_path):
    found = predicted(made, video, out=tmp_path).videos[0]
    assert [path.name for path in found.files] == [f"{video.stem}{suffix}" for suffix in SUFFIXES]
    assert names(tmp_path) == sorted([*(path.name for path in found.files), "records"])
    rows = json.loads(found.files[0].read_text())["results"][video.stem]
    with found.files[1].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["video"], float(row["start"]), float(row["end"]), row["label"], float(row["score"])) for row in table]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert found.files[3].read_text().startswith("WEBVTT\n")
    assert found.files[4].read_bytes().startswith(b"\x89PNG")


def test_the_foreground_is_what_the_region_head_says_of_clip_and_gvf(made, video, tmp_path):
    from scipy.special import softmax

    from tspbench.storage.checkpoints import read_weights
    from tspbench.storage.features import FeatureFiles

    row = TrainedRow(made, read_run(made), "TSP", [], "cpu")
    seconds, probabilities = row.look(video, tmp_path).foreground
    head = read_weights(made / "pretrain/tsp/encoder.safetensors").heads["region"]
    clips = FeatureFiles([made / "features/tsp/features.h5"]).rows(video.stem)
    gvf = FeatureFiles([made / "features/tac/features.h5"]).rows(video.stem).max(axis=0)
    logits = [head["weight"].numpy() @ np.concatenate([clip, gvf]) + head["bias"].numpy() for clip in clips]
    np.testing.assert_allclose(probabilities, softmax(logits, axis=1)[:, 0], rtol=1e-3)
    # Clips of 8 frames every 12 at 12 frames a second.
    np.testing.assert_allclose(seconds, np.arange(len(clips)) + 4 / 12)
    assert TrainedRow(made, read_run(made), "TAC", [], "cpu").look(video, tmp_path).foreground is None


def test_finished_videos_are_skipped_and_others_are_not(run, video, short):
    first = predicted(run, video, short)
    stamps = {path: path.stat().st_mtime_ns for each in first.videos for path in each.files}
    first.videos[1].files[2].unlink()
    again = predicted(run, video, short)
    assert again.videos == first.videos
    kept = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp}
    assert kept == set(first.videos[0].files)
    other = predicted(run, video, row="TAC")
    assert other.videos[0].detections != first.videos[0].detections


def test_files_that_predict_did_not_write_are_not_replaced(made, short, tmp_path):
    text = tmp_path / "short.srt"
    text.write_text("my own")
    assert str(text) in predicted(made, short, out=tmp_path).problems[short]
    (tmp_path / "short.srt").rename(tmp_path / "elsewhere")
    text.symlink_to(tmp_path / "nowhere")
    assert str(text) in predicted(made, short, out=tmp_path).problems[short]
    assert names(tmp_path) == ["elsewhere", "records", "short.srt"]
    assert names(tmp_path / "records") == []
    text.unlink()
    assert not predicted(made, short, out=tmp_path).problems


def test_a_kill_between_files_and_record_does_not_make_them_somebody_elses(made, short, tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tspbench.stages.predict_video.write_bytes", kill)
        with pytest.raises(KeyboardInterrupt):
            predicted(made, short, out=tmp_path)
    assert (tmp_path / "short.json").is_file()
    assert not predicted(made, short, out=tmp_path).problems


def test_no_run_is_written_into(run, short):
    before = names(run)
    for folder in (run, run / "features" / ".."):
        with one_sentence("folder of a run", "another --out"):
            predicted(run, short, out=folder)
    assert names(run) == before


def test_a_row_does_not_replace_what_another_one_found(run, short, tmp_path):
    first = predicted(run, short, out=tmp_path).videos[0]
    before = first.files[0].read_bytes()
    with one_sentence(tmp_path, "'TSP'", "'TAC'", "another --out"):
        predicted(run, short, row="TAC", out=tmp_path)
    assert first.files[0].read_bytes() == before
    # By default each has a folder.
    assert {predicted(run, short, row=row).out for row in ("TSP", "TAC")} == {
        run / "predictions" / row for row in ("tsp", "tac")
    }


def test_two_at_once_do_not_share_their_features(made, short, tmp_path, monkeypatch):
    inner, seen = TrainedRow.look, []

    def look(row, path, scratch):
        if not seen:
            seen.append(scratch)
            assert not predicted(made, short, out=tmp_path).problems
            assert scratch.is_dir()
        return inner(row, path, scratch)

    monkeypatch.setattr(TrainedRow, "look", look)
    assert not predicted(made, short, out=tmp_path).problems
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_strange_names_stay_in_the_folder(made, short, tmp_path):
    videos = [tmp_path / "in" / f"{name}.mp4" for name in NAMES]
    videos[0].parent.mkdir()
    for path in videos:
        shutil.copy(short, path)
    found = predicted(made, videos[0].parent, out=tmp_path / "out" / "of")
    assert not found.problems
    assert {each.name for each in found.videos} == set(NAMES)
    assert all(told(each).isprintable() for each in found.videos)
    assert names(tmp_path) == ["in", "out"]
    assert names(tmp_path / "out") == ["of"]
    written = names(tmp_path / "out" / "of")
    assert len(written) == len(NAMES) * len(SUFFIXES) + 1
    assert {f"two words (1) [x].y{suffix}" for suffix in SUFFIXES} < set(written)
    assert not [name for name in written if name.startswith(".") or not name.isprintable()]


def test_a_name_that_is_no_text_is_a_bad_video(made, short, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4"))
    shutil.copy(short, path)
    found = predicted(made, path, short, out=tmp_path / "out")
    assert [each.name for each in found.videos] == ["short"]
    assert "UTF-8" in found.problems[path]
    assert "bad\ufffd.mp4" in told_problems(found)


def test_bad_videos_do_not_stop_the_others(made, short, tmp_path):
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("no video")
    empty.touch()
    missing = tmp_path / "missing.mp4"
    found = predicted(made, text, empty, short, missing, out=tmp_path / "out")
    assert [each.name for each in found.videos] == ["short"]
    assert set(found.problems) == {text, empty, missing}
    assert names(tmp_path / "out") == sorted([*(f"short{suffix}" for suffix in SUFFIXES), "records"])
    assert names(tmp_path / "out" / "records") == ["short"]
    command = ["predict", *map(str, (text, short, empty)), "--run", str(made), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--row", "TSP"])
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [line for line in result.stdout.splitlines() if line.startswith("short: ")]
    # Why each failed is said when it does.
    failed = [line for line in result.stderr.splitlines() if line.startswith("Failed: ")]
    assert len(failed) == 2
    assert "text.mp4" in failed[0]
    assert "empty.mp4" in failed[1]
    assert result.stderr.splitlines()[-1].startswith(
        "Error: 2 of 3 videos failed (text.mp4, empty.mp4), the files of the other 1 are in"
    )


def test_the_command_names_row_and_files(made, short, tmp_path):
    result = CliRunner().invoke(app, ["predict", str(short), "--run", str(made), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("short: ")
    assert "the best of 2 that can" in result.stderr
    assert str(tmp_path) in result.stderr


def test_the_best_row_is_the_trained_one_with_the_highest_score(run):
    manifest = read_run(run)
    for best, other in (("TAC", "TSP"), ("TSP", "TAC")):
        for name, value in ((best, 0.9), (other, 0.1), ("Random", 0.99)):
            folder = run / "tal" / name.lower() / "score"
            record = read_record(folder)
            write_record(folder, replace(record, figures={"metrics": {"average_mAP": value}}))
        assert best_row(run, manifest, KnownEncoders(run)) == best


def test_the_best_row_is_one_for_which_everything_is_at_hand(run, short, tmp_path):
    manifest = read_run(run)
    for name, value in (("TAC", 0.9), ("TSP", 0.1)):
        record = read_record(run / "tal" / name.lower() / "score")
        write_record(run / "tal" / name.lower() / "score", replace(record, figures={"metrics": {"average_mAP": value}}))
    elsewhere = Path(shutil.move(run / "pretrain/tac/encoder.safetensors", tmp_path / "elsewhere"))
    assert best_row(run, manifest, KnownEncoders(run)) == "TSP"
    assert best_row(run, manifest, KnownEncoders(run, [elsewhere])) == "TAC"
    with one_sentence("rows that can are 'TSP'."):
        predicted(run, short, row="Random")
    mark = tmp_path / "was here"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    own = f"{tmp_path}/own.py:Own"
    with h5py.File(run / "features/tsp/features.h5", "a") as file:
        file.attrs["encoder"] = own
    with one_sentence("no row of this run can", "'TAC'", "--checkpoint"):
        best_row(run, manifest, KnownEncoders(run))
    assert best_row(run, manifest, KnownEncoders(run, [], [own])) == "TSP"
    tables = [replace(table, facts={**table.facts, "localizer": own}) for table in manifest.tables]
    with one_sentence("'TAC'", f"--localizer {own}"):
        best_row(run, replace(manifest, tables=tables), KnownEncoders(run, [elsewhere]))
    assert best_row(run, replace(manifest, tables=tables), KnownEncoders(run, [elsewhere], [own])) == "TAC"
    assert not mark.exists()


def test_an_empty_name_is_no_row(made, short):
    with one_sentence("no row ''"):
        predicted(made, short, row="")


def test_features_that_are_gone_are_made_again(run, short):
    path = run / "features/tsp/features.h5"
    path.unlink()
    with one_sentence(path, "run the experiment again"):
        predicted(run, short)


def test_no_region_head_is_a_note(made, short, tmp_path):
    found = predicted(made, short, row="TAC", out=tmp_path)
    assert [note for note in found.notes if "no region head" in note]


def test_the_curve_ends_with_the_video(made, short, tmp_path):
    found = TrainedRow(made, read_run(made), "TSP", [], "cpu").look(short, tmp_path)
    # 3 frames of 12 a second; the first clip is 8 long.
    assert found.foreground[0].tolist() == [found.duration_seconds] == [pytest.approx(3 / 12)]


def test_rows_that_cannot_are_refused_with_those_that_can(made, short, tmp_path):
    for row, why in (("Random", "random"), ("Whole video", "no network"), ("TPS", "no row 'TPS'")):
        with one_sentence(why, "'TAC', 'TSP'"):
            predicted(made, short, row=row, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refiners_and_features_that_do_not_say_their_encoder_are_refused(run, short, tmp_path):
    manifest = read_run(run)
    tal = [table for table in manifest.tables if table.task == "tal"]
    refined = [replace(table, facts={**table.facts, "localizer": "pgcn"}) for table in tal]
    write_run(run, replace(manifest, tables=refined))
    with one_sentence("pgcn refines proposals", "no row of this run can"):
        predicted(run, short)
    with one_sentence("no row of this run can"):
        predicted(run, short, row=None)
    for name in ("tac", "tsp"):
        path = run / "features" / name / "features.h5"
        with h5py.File(path, "a") as file:
            for key in list(file.attrs):
                del file.attrs[key]
    write_run(run, replace(manifest, tables=tal))
    with one_sentence("does not say its encoder"):
        predicted(run, short)


def test_a_captioner_of_a_localizers_proposals_describes_those(run, video, tmp_path):
    from tspbench.stages.rows import UNLABELLED
    from tspbench.storage.features import FeatureFiles

    folder = run / "captioning/tsp/proposals/predict"
    record = read_record(folder)
    write_record(folder, replace(record, settings={**record.settings, "source": "gtad", "generator": None}))
    found = predicted(run, video).videos[0]
    row = TrainedRow(run, read_run(run), "TSP", [], "cpu")
    row.look(video, tmp_path)
    own = next(
        path for path in tmp_path.glob("*.h5") if FeatureFiles([path]).meaning()["weights"] == row.hashes["encoder"]
    )
    proposed = row._localizer.find(FeatureFiles([own]), UNLABELLED)
    best = np.argsort(-proposed.score, kind="stable")[:5]
    assert [each.start_seconds for each in found.captions] == proposed.start[best].tolist()
    assert [each.end_seconds for each in found.captions] == proposed.end[best].tolist()
    assert row.hashes["proposing localizer"] == row.hashes["localizer"]


def test_missing_weights_are_asked_for_by_their_hash(run, short, tmp_path):
    weights = run / "pretrain/tac/encoder.safetensors"
    elsewhere = Path(shutil.move(weights, tmp_path / "elsewhere.safetensors"))
    with one_sentence("tiny", hash_file(elsewhere)[:12], "--checkpoint"):
        predicted(run, short, row="TAC")
    assert predicted(run, short, row="TAC", checkpoints=[elsewhere]).videos


def test_without_the_initial_encoder_there_is_no_curve_and_a_note(run, short):
    record = read_record(run / "pretrain/tsp")
    write_record(run / "pretrain/tsp", replace(record, inputs={**record.inputs, "initial encoder": "0" * 64}))
    found = predicted(run, short)
    assert [note.split(":")[0] for note in found.notes] == ["No foreground curve"]
    assert "the pretraining of" in found.notes[0]
    assert found.videos[0].detections is not None


def test_class_scores_of_a_file_give_way_to_the_rows_own_action_head(run, video):
    shutil.rmtree(run / "class_scores")
    found = predicted(run, video)
    assert "own encoder" in found.notes[0]
    assert {each.label for each in found.videos[0].detections} != {"action"}


def test_a_run_without_captioner_tells_labels(run, video):
    manifest = read_run(run)
    write_run(run, replace(manifest, tables=[table for table in manifest.tables if table.task == "tal"]))
    found = predicted(run, video).videos[0]
    assert found.captions == []
    assert found.detections[0].label in found.files[2].read_text()


def test_a_run_of_captions_alone_proposes_what_it_describes(run, video):
    manifest = read_run(run)
    write_run(run, replace(manifest, tables=[table for table in manifest.tables if table.task != "tal"]))
    found = predicted(run, video, row=None).videos[0]
    ends = [(each.start_seconds, each.end_seconds, each.score) for each in found.captions]
    assert ends
    assert [(each.start_seconds, each.end_seconds, each.score) for each in found.detections] == ends
    assert {each.label for each in found.detections} == {"action"}


def test_a_captioner_that_listens_is_left_out(run, short):
    folder = run / "captioning/tsp/train"
    record = read_record(folder)
    config = {**record.settings["config"], "audio_dim": 128}
    write_record(folder, replace(record, settings={**record.settings, "config": config}))
    found = predicted(run, short)
    assert "sound" in found.notes[0]
    assert found.videos[0].captions == []


def test_labels_come_from_the_head_that_the_run_took_or_from_the_localizer_itself(run):
    row = TrainedRow(run, read_run(run), "TSP", [], "cpu")
    assert row.labels == "top 2 classes by mean clip probabilities of tac"
    assert row.hashes["head"] == hash_file(run / "pretrain/tac/encoder.safetensors")
    record = read_record(run / "tal/tsp/train")
    write_record(run / "tal/tsp/train", replace(record, settings={**record.settings, "labels": ["a", "b"]}))
    row = TrainedRow(run, read_run(run), "TSP", [], "cpu")
    assert row.labels == "the localizer's own"
    assert "head" not in row.hashes


def test_code_that_a_record_names_is_not_run(run, short, tmp_path):
    mark = tmp_path / "was here"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    record = read_record(run / "tal/tsp/train")
    write_record(run / "tal/tsp/train", replace(record, settings={**record.settings, "name": f"{tmp_path}/own.py:Own"}))
    with one_sentence("own.py:Own", "not because a file says so", "add --localizer"):
        predicted(run, short)
    assert not mark.exists()


def test_weights_that_changed_since_are_refused(run, short):
    (run / "tal/tsp/train/localizer.safetensors").write_bytes(b"something else")
    with one_sentence(run / "tal/tsp/train", "run the experiment again"):
        predicted(run, short)


def test_an_unfinished_row_does_not_lose_its_labels_but_is_refused(run, short):
    shutil.rmtree(run / "tal/tsp/predict")
    with one_sentence(run / "tal/tsp/predict", "run the experiment again"):
        predicted(run, short)


def test_two_videos_of_one_name_are_refused_and_one_named_twice_is_one(tmp_path):
    a, b = tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mkv"
    for path in (a, b):
        path.parent.mkdir()
        path.touch()
    assert named_videos([a, a.parent, tmp_path / "b" / ".." / "a" / "x.mp4"]) == {"x": a}
    with one_sentence(a, b, "rename"):
        named_videos([a, b])
    with one_sentence("folder"):
        named_videos([])


def test_no_two_videos_are_written_as_one_file(tmp_path):
    a, b, c = tmp_path / ".x.mp4", tmp_path / "%2Ex.mp4", tmp_path / "%2eX.mp4"
    assert len({written_name(path.stem) for path in (a, b, c)}) == 3
    assert list(named_videos([a, b])) == [".x", "%2Ex"]
    # A disk that ignores case has one file for both.
    with one_sentence(b, c, "rename"):
        named_videos([b, c])
    with one_sentence("Jump", "jump", "rename"):
        named_videos([tmp_path / "Jump.mp4", tmp_path / "jump.mp4"])


def test_what_is_no_run_is_one_sentence(tmp_path, short):
    with one_sentence("is not a run"):
        predicted(tmp_path, short)


def test_help_waits_for_no_torch():
    code = (
        "import sys; from tspbench.cli import app\n"
        "try: app(['predict', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
