"""The command line as people meet it: help, results, mistakes, interruptions, bugs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import cut, numbered_video, small_dataset
from tspbench import __version__
from tspbench.cli import app
from tspbench.encoders import new_encoder
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features

_TOP = get_command(app).commands
_GROUPS = ("data", "study")
# Name as typed → command; those below `tspbench data` and `tspbench study` are commands of their own.
COMMANDS = {name: command for name, command in _TOP.items() if name not in _GROUPS} | {
    f"{group} {name}": command for group in _GROUPS for name, command in _TOP[group].commands.items()
}
GOLDEN = "golden/detection_and_proposal_scores.json"


def run(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_sentence(result: Result, *parts: object) -> None:
    """Expect a mistake to be told as such: one line on stderr, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *progress, sentence = result.stderr.splitlines()
    assert sentence.startswith("Error: "), result.stderr
    assert all(": " in line and "Error" not in line and "Traceback" not in line for line in progress), result.stderr
    for part in parts:
        assert str(part) in sentence


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small")).folder


@pytest.fixture
def features(tmp_path):
    rows = VideoFeatures(np.zeros((3, 4), np.float32), 4.0, "none")
    write_features(tmp_path / "f.h5", {"v0": rows}, RowMeaning("tiny", "", 8, 8, 12.0, 4, "fp32"))
    return tmp_path / "f.h5"


def write_predictions(path: Path, video: str = "v3") -> Path:
    row = {"label": "odd", "score": 1.0, "segment": [1.0, 2.5]}
    path.write_text(json.dumps({"results": {video: [row]}}))
    return path


# Help


def test_help_of_every_command_loads_no_torch():
    code = (
        "import sys, contextlib, io\n"
        "from tspbench.cli import app\n"
        "for command in [[], ['data'], *(name.split() for name in sys.argv[1:])]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        app([*command, '--help'], standalone_mode=False)\n"
        "    assert 'Usage' in text.getvalue()\n"
        "print([name for name in ('torch', 'h5py', 'numba', 'pandas', 'av') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example_that_parses(name):
    text = " ".join(run(*name.split(), "--help").stdout.split())
    example = re.search(rf"Example: tspbench {name}((?: .*?)?) (?:Arguments|Options):", text)
    assert example
    COMMANDS[name].make_context(name, example[1].split())


def test_every_option_has_help():
    silent = [
        f"{name} {option.name}" for name, command in COMMANDS.items() for option in command.params if not option.help
    ]
    assert silent == []


def test_version():
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("kind", ["datasets", "encoders", "methods", "localizers", "protocols", "recipes", "files"])
def test_list_names_each_with_a_caption(kind):
    listed, _, own = run("list", kind).stdout.partition("\n\n")
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed.splitlines())
    assert bool(own) == (kind in ("encoders", "localizers")), "which may be one's own"


def test_doctor_is_content_here():
    result = run("doctor")
    assert "fail" not in result.stdout
    assert result.exit_code == 0


# Results


@pytest.mark.parametrize(
    ("case", "protocol"),
    [
        ("predictions_activitynet.json.gz", "activitynet"),
        ("predictions_thumos14.json.gz", "thumos14"),
        ("../data/activitynet/sample_detection_prediction.json", "activitynet-file-order"),
    ],
)
def test_score_gives_the_official_numbers(case, protocol, tmp_path):
    golden = json.loads(shared(GOLDEN).read_bytes())["cases"][case]
    truth, predictions = shared(f"golden/{golden['ground_truth']}"), shared(f"golden/{case}")
    arguments = ["--predictions", predictions, "--ground-truth", truth, "--subset", golden["subset"]]
    # The sample submission has predictions for videos that the annotation file lacks.
    arguments += ["--unknown-videos", "count"]
    result = run("score", "--task", "tal", *arguments, "--protocol", protocol, "--json", tmp_path / "score.json")
    assert result.exit_code == 0, result.stderr
    assert f"{100 * golden['average_mAP']:.2f}" in result.stdout
    written = json.loads((tmp_path / "score.json").read_bytes())
    expected = {f"mAP@{t:.2f}": value for t, value in zip(golden["tious"], golden["mAP"], strict=True)}
    assert written["metrics"] == pytest.approx({**expected, "average_mAP": golden["average_mAP"]}, abs=1e-9)
    assert written["signature"] in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("case", "protocol"),
    [
        ("predictions_activitynet.json.gz", "activitynet"),
        ("predictions_thumos14.json.gz", "activitynet"),
        ("../data/activitynet/sample_detection_prediction.json", "activitynet-file-order"),
    ],
)
def test_score_gives_the_official_numbers_of_proposals(case, protocol, tmp_path):
    golden = json.loads(shared(GOLDEN).read_bytes())["cases"][case]
    truth, predictions = shared(f"golden/{golden['ground_truth']}"), shared(f"golden/{case}")
    arguments = ["--predictions", predictions, "--ground-truth", truth, "--subset", golden["subset"]]
    arguments += ["--unknown-videos", "count", "--protocol", protocol, "--json", tmp_path / "score.json"]
    assert run("score", "--task", "proposals", *arguments).exit_code == 0
    written = json.loads((tmp_path / "score.json").read_bytes())
    names = ("AR@1", "AR@10", "AR@100", "AUC")
    assert written["metrics"] == pytest.approx({name: golden[name] for name in names}, abs=1e-9)


# Mistakes

TABLE = "evaluate --task tal --dataset DATASET --out OUT"
CAPTIONS = "evaluate --task captioning --dataset DATASET --out OUT --features a=FEATURES"
MISTAKES = {
    "scroe --task tal": "No such command 'scroe' (did you mean 'score'?); see `tspbench --help`",
    "score --task tall --predictions P --ground-truth G": "'tall' is not one of 'tal', 'proposals', 'captioning'; see",
    "score --predictions P --ground-truth G": "Missing option '--task'",
    "score --task tal --prediction P --ground-truth G": "No such option: --prediction",
    "extract --stride-frames 0 --out OUT": "'--stride-frames'",
    "score --task tal --predictions nowhere.json --ground-truth nowhere.json": "nowhere.json",
    "score --task tal --predictions P --ground-truth G --protocol activtynet": "did you mean 'activitynet'?",
    "extract --encoder tiny --videos nowhere.mp4 --out OUT": "nowhere.mp4",
    "extract --checkpoint nowhere.pth --dataset DATASET --out OUT": "nowhere.pth",
    "extract --encoder tiney --dataset DATASET --out OUT": "did you mean 'tiny'?",
    "extract --encoder tiny --out OUT": "either --dataset or --videos",
    "evaluate --task tal --dataset nowhere --features a=b.h5 --out OUT": "nowhere",
    f"{TABLE} --features a=nowhere.h5": "nowhere.h5",
    f"{TABLE} --features nowhere.h5": "NAME=FILE.h5",
    f"{TABLE} --features a=FEATURES --features a=FEATURES": "another row 'a'",
    f"{TABLE} --features a=FEATURES --class-scores nowhere.json": "nowhere.json",
    f"{TABLE} --features a=FEATURES --localizer gatd": "did you mean 'gtad'?",
    f"{TABLE} --features a=FEATURES,": "NAME=FILE.h5",
    f"{TABLE} --features a=FEATURES --reference whole": "'whole' is not one of",
    "evaluate --task proposals --dataset DATASET --features a=FEATURES --out OUT --class-scores P": "no use for it",
    f"{TABLE} --features a=FEATURES --sound nowhere.h5": "--sound: the task tal has no use for it",
    f"{CAPTIONS}": "[captions]",
    f"{CAPTIONS} --reference whole-video": "--reference: the task captioning has no use for it",
    f"{CAPTIONS} --localizer bmn": "known captioner",
    f"{CAPTIONS} --set proposals.sources=bmn": "did you mean 'source'?",
    f"{CAPTIONS} --set fit.patience=5 --set fit.select=last": 'choose "best"',
    f"{TABLE} --features a=FEATURES --set fit.epohcs=1": "did you mean 'epochs'?",
    "pretrain --dataset DATASET --method tps --encoder tiny --out OUT": "did you mean 'tsp'?",
    "pretrain --dataset DATASET --method tsp --encoder tiney --out OUT": "did you mean 'tiny'?",
    "study features a=FEATURES nowhere.h5 --dataset DATASET --out OUT": "nowhere.h5: expected NAME=FILE.h5",
    "study features a=FEATURES a=FEATURES --dataset DATASET --out OUT": "another feature set 'a'",
    "study features a=FEATURES --dataset DATASET --out OUT": "validation videos",
    "report nowhere": "run.json",
    "run smoek --out OUT": "did you mean 'smoke'?",
    "run smoke --out OUT --device gpu": "known are auto, cpu, cuda",
    "run smoke --out OUT --set seed": "key=value",
    "run smoke --out OUT --set sede=1": "did you mean 'seed'?",
    "run smoke --out OUT --set seed=one": "'seed'",
    "run smoke --out OUT --set pretrain.tsp.init=tack": "did you mean 'tac'?",
    "run smoke --out OUT --set tasks.tal.name=gatd": "did you mean 'gtad'?",
    "run smoke --out OUT --set tasks.tal.config.step=8": "did you mean 'steps'?",
}


@pytest.mark.parametrize(("command", "part"), MISTAKES.items())
def test_a_mistake_is_one_sentence(command, part, dataset, features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, place in {"DATASET": dataset, "FEATURES": features, "OUT": "out"}.items():
        command = command.replace(name, str(place))
    assert_one_sentence(run(*command.split()), part)
    assert not Path("out").exists(), "nothing is begun with a mistake in the command"


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("score --task tall --predictions a --ground-truth b", "'tall' is not one of 'tal', "),
        ("lisst", "did you mean 'list'?"),
        ("extract --encodr tiny", "--encoder"),
        ("extract --encoder tiny", "Missing option '--out'"),
    ],
)
def test_a_command_that_does_not_parse_is_one_sentence(command, part):
    assert_one_sentence(run(*command.split()), part)


def test_a_segment_that_ends_before_it_starts(dataset, features, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "broken")
    content = json.loads((folder / "annotations.json").read_bytes())
    content["database"]["v0"]["annotations"][0]["segment"] = [2.5, 1.0]
    (folder / "annotations.json").write_text(json.dumps(content))
    parts = (folder / "annotations.json", "'v0'", "annotation 1", "[2.5, 1.0]")
    predictions = write_predictions(tmp_path / "predictions.json")
    scored = ["--predictions", predictions, "--ground-truth", folder / "annotations.json", "--subset", "val"]
    assert_one_sentence(run("score", "--task", "tal", *scored), *parts)
    out = ["--dataset", folder, "--out", tmp_path / "out"]
    assert_one_sentence(run("pretrain", *out, "--method", "tac", "--encoder", "tiny"), *parts)
    assert_one_sentence(run("evaluate", "--task", "tal", *out, "--features", f"a={features}"), *parts)


def test_a_label_that_is_not_in_the_list(dataset, tmp_path):
    (tmp_path / "labels.txt").write_text("even\n")
    files = ["--predictions", write_predictions(tmp_path / "p.json"), "--ground-truth", dataset / "annotations.json"]
    result = run("score", "--task", "tal", *files, "--subset", "val", "--labels", tmp_path / "labels.txt")
    assert_one_sentence(result, "annotations.json", "'v3'", "annotation 1", "'odd'")


def test_predictions_of_other_videos(dataset, tmp_path):
    files = [
        "--predictions",
        write_predictions(tmp_path / "p.json", "x"),
        "--ground-truth",
        dataset / "annotations.json",
    ]
    assert_one_sentence(run("score", "--task", "tal", *files, "--subset", "val"), "p.json", "'x'", "'v3'")


def test_an_empty_video_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    result = run("extract", "--encoder", "tiny", "--videos", tmp_path / "videos", "--out", tmp_path / "out.h5")
    assert_one_sentence(result, tmp_path / "videos", "holds no video")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_weights(path, Weights("tiny", dict(new_encoder("tiny", 0).state_dict()), {}, {}))
    return path


def test_a_truncated_video_loses_nothing_but_itself(checkpoint, tmp_path):
    """Seventeen videos are a part of sixteen and one of one: the whole one is not computed again."""
    folder, out = tmp_path / "videos", tmp_path / "features.h5"
    for k in range(17):
        numbered_video(folder / f"v{k:02}.mp4", 16, first=16 * k)
    whole = shutil.move(folder / "v16.mp4", tmp_path / "whole.mp4")
    cut(whole, folder / "v16.mp4", 0.5)
    command = ["extract", "--checkpoint", checkpoint, "--videos", folder, "--out", out, "--stride-frames", 4]
    assert_one_sentence(run(*command), "1 of 17", "v16.mp4", "the other 16 are kept", "--skip-unreadable")
    assert not out.exists()
    (part,) = (tmp_path / "features.h5.parts").iterdir()
    written = part.stat().st_mtime_ns
    assert run(*command).exit_code == 2
    assert part.stat().st_mtime_ns == written
    skipping = run(*command, "--skip-unreadable")
    assert skipping.exit_code == 0
    assert "16 of 17 videos" in skipping.stderr
    assert len(FeatureFiles([out]).videos) == 16
    shutil.copy(whole, folder / "v16.mp4")
    assert run(*command).exit_code == 0
    assert len(FeatureFiles([out]).videos) == 17


def test_class_scores_without_an_action_head(checkpoint, dataset, tmp_path):
    command = ["extract", "--checkpoint", checkpoint, "--dataset", dataset, "--out", tmp_path / "out.h5"]
    assert_one_sentence(run(*command, "--class-scores", tmp_path / "scores.json"), checkpoint, "no action head")
    assert not (tmp_path / "out.h5").exists()


def test_a_single_truncated_video(tmp_path):
    cut(numbered_video(tmp_path / "whole.mp4", 48), tmp_path / "half.mp4", 0.5)
    result = run("extract", "--encoder", "tiny", "--videos", tmp_path / "half.mp4", "--out", tmp_path / "out.h5")
    assert_one_sentence(result, "half.mp4", "again")


# Interruptions and bugs


def test_ctrl_c(tmp_path):
    code = "from tspbench.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "smoke", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert first.startswith("generate trimmed videos: 1/")
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("Interrupted: ")
    assert "Traceback" not in rest
    videos = list((tmp_path / "data" / "trimmed" / "videos").glob("*"))
    assert videos
    assert not [path for path in videos if path.name.endswith(".part")]


def test_a_bug_keeps_its_traceback():
    code = (
        "import tspbench.listing\n"
        "def bug(kind): raise IndexError('a bug')\n"
        "tspbench.listing.list_kind = bug\n"
        "from tspbench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "list", "encoders"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-1] == "IndexError: a bug"
