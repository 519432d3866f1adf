"""The commands as functions: every example of their docstrings and of docs/python.md runs, with smaller settings."""

import ast
import doctest
import inspect
import json
import multiprocessing
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.test_architecture import ROOT
from tests.tspbench.helpers import one_sentence
from tspbench import api
from tspbench.api.inputs import feature_rows, localizer_settings, paths
from tspbench.cli import app
from tspbench.config import merged
from tspbench.datasets import generate
from tspbench.datasets.synthetic import SyntheticSettings
from tspbench.doctor import CHECKS, examine
from tspbench.encoders import new_encoder
from tspbench.recipe import applied, read_recipe
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import FeatureFiles

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]
# Those whose examples write what other examples find.
FIRST = ["run", "pretrain", "extract", "evaluate"]
MAPS = {"steps": 16, "max_duration": 16, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16}
# What makes an example quick; an example's own settings are changed by it, too.
SMALLER = {
    "run": {
        "generate": {"training_videos": 4, "validation_videos": 2, "trimmed_clips": 12},
        "pretrain": {"tac": {"fit": {"workers": 0, "epochs": 1}}, "tsp": {"fit": {"epochs": 1}}},
        "rows": [{"name": f"{name.upper()} on the target set", "features": name} for name in ("tac", "tsp")],
        "references": [],
        "tasks": {"captioning": None, "proposals": None},
    },
    "pretrain": {"fit": {"epochs": 1, "workers": 0}, "clips_per_segment": 1},
    "evaluate": {"fit": {"epochs": 1}, "config": MAPS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples find: a data set, features of it, and predictions that are its ground truth.

    All examples work in it: what one has trained the next need not train again.
    """
    folder = tmp_path_factory.mktemp("api")
    settings = SyntheticSettings(training_videos=4, validation_videos=2)
    generate("synthetic", folder / "my-videos", settings, 0, lambda _done, _total: None)
    database = json.loads((folder / "my-videos" / "annotations.json").read_text())["database"]
    rng = np.random.default_rng(0)
    for name in ("predictions", "seed0", "seed1", "other0", "other1"):
        results = {
            video: [
                {**action, "score": 1.0 if name == "predictions" else rng.random()} for action in entry["annotations"]
            ]
            for video, entry in database.items()
            if entry["subset"] == "validation"
        }
        (folder / f"{name}.json").write_text(json.dumps({"results": results}))
    weights = Weights("tiny", dict(new_encoder("tiny", 0).state_dict()), {}, {})
    write_weights(folder / "random.safetensors", weights)
    api.extract(folder / "tsp.h5", checkpoint=folder / "random.safetensors", dataset=folder / "my-videos", device="cpu")
    return folder


@pytest.fixture
def work(folder, monkeypatch):
    """The folder in which the examples run, with smaller settings and a doctor who looks at little."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(api, "examine", partial(examine, CHECKS[:2]))
    for name, settings in SMALLER.items():
        monkeypatch.setattr(api, name, partial(_smaller, getattr(api, name), settings))
    return folder


def _smaller(function, smaller, *arguments, settings=None, **options):
    return function(*arguments, settings=merged(settings or {}, smaller), **options)


def test_every_example_of_a_docstring(work, capsys):
    failed = []
    for name in [*FIRST, *(name for name in FUNCTIONS if name not in FIRST)]:
        function = getattr(api, name)
        text = inspect.getdoc(function.args[0] if isinstance(function, partial) else function)
        example = doctest.DocTestParser().get_doctest(text, {"api": api}, name, None, None)
        assert example.examples, f"{name} has no example"
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(example, out=failed.append)
    assert not failed, "\n".join(failed)


def test_the_page(work, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    scope = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), scope)
    told = capsys.readouterr().out
    assert "Upper mark of the grid" in told
    assert "no-such-file.json" in told
    assert scope["found"].metrics["average_mAP"] == 1.0
    named = set(re.findall(r"\bapi\.(\w+)", PAGE))
    assert named >= set(FUNCTIONS) | {"UserError"}
    assert all(hasattr(api, name) for name in named)


def test_nothing_but_progress_is_printed(work, capsys):
    api.report(_table(work))
    api.score("tal", "predictions.json", "my-videos/annotations.json")
    assert capsys.readouterr().out == ""


def _table(work):
    settings = {"fit": {"optimizer": "adam"}}
    table = api.evaluate("proposals", "my-videos", {"A": ["tsp.h5"], "B": work / "tsp.h5"}, "runs/t", settings=settings)
    assert table.rows == ["A", "B"]
    assert table.cells == api.report("runs/t").cells
    return "runs/t"


def test_extraction_says_what_was_left_out(work):
    (work / "broken.mp4").write_bytes(b"no video")
    video = next((work / "my-videos" / "videos").glob("*.mp4"))
    found = api.extract(
        "f.h5", checkpoint="random.safetensors", videos=[video, "broken.mp4"], stride_frames=4, skip_unreadable=True
    )
    assert found.videos == (video.stem,)
    assert list(found.left_out) == ["broken"]
    assert FeatureFiles([found.features]).videos == {video.stem}


# What a user can mend


def test_mistakes_are_sentences(work):
    with one_sentence("'tall' is not a known task", "did you mean 'tal'?"):
        api.evaluate("tall", "my-videos", {"A": "tsp.h5"}, "runs/p")
    with one_sentence("--sound", "leave it out"):
        api.evaluate("tal", "my-videos", {"A": "tsp.h5"}, "runs/p", sound="s.h5")
    with one_sentence("features ''"):
        api.evaluate("tal", "my-videos", {"": "tsp.h5"}, "runs/p")
    with one_sentence("expected a row"):
        api.evaluate("tal", "my-videos", {}, "runs/p")
    with one_sentence("--dataset", "--videos"):
        api.extract("f.h5", encoder="tiny")
    with one_sentence("'fit.epoch' is not a known key", "'epochs'"):
        api.pretrain("my-videos", "tac", "tiny", "runs/p", settings={"fit": {"epoch": 1}})
    with one_sentence("no-such-recipe"):
        api.run("no-such-recipe")
    with one_sentence("nowhere is not a run"):
        api.report("nowhere")
    assert not any((work / "runs" / name).exists() for name in ("p", "no-such-recipe"))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["'fp16' is not a known precision", "'bf16'"], lambda: api.extract("no.h5", encoder="tiny", precision="fp16")),
        (["--stride-frames", "at least 1, found 0"], lambda: api.extract("no.h5", encoder="tiny", stride_frames=0)),
        (["--stride-frames", "found -1"], lambda: api.extract("no.h5", encoder="tiny", stride_frames=-1)),
        (["--stride-frames", "found 1.5"], lambda: api.extract("no.h5", encoder="tiny", stride_frames=1.5)),
        (["--seed", "found -1"], lambda: api.pretrain("my-videos", "tac", "tiny", "runs/p", seed=-1)),
        (["--seed", "found -1"], lambda: api.evaluate("tal", "my-videos", {"A": "tsp.h5"}, "runs/p", seed=-1)),
        (["--seed", "found 'x'"], lambda: api.evaluate("tal", "my-videos", {"A": "tsp.h5"}, "runs/p", seed="x")),
        (["--seed", "found -1"], lambda: api.study_features({"A": "tsp.h5"}, "my-videos", "runs/p", seed=-1)),
        (["features: expected a table", "'tsp.h5'"], lambda: api.evaluate("tal", "my-videos", ["tsp.h5"], "runs/p")),
        (["'q' is not a known", "drop"], lambda: api.score("tal", "seed0.json", "t.json", unknown_videos="q")),
        (["'q' is not a known"], lambda: api.compare("tal", "a.json", "b.json", "t.json", unknown_videos="q")),
        (["'q' is not a known"], lambda: api.diagnose("a.json", "t.json", "runs/p", unknown_videos="q")),
        (["--ground-truth", "found none"], lambda: api.score("tal", "seed0.json", [])),
        (["--ground-truth", "found none"], lambda: api.diagnose("seed0.json", [], "runs/p")),
        (["a: expected", "found none"], lambda: api.compare("tal", [], "b.json", "t.json")),
        (["b: expected", "found none"], lambda: api.compare("tal", "a.json", [], "t.json")),
        (["runs: expected", "found none"], lambda: api.page([])),
        (["videos: expected", "found none"], lambda: api.predict([], "runs/smoke")),
    ],
)
def test_values_that_the_command_line_refuses_are_refused(work, words, call):
    with one_sentence(*words):
        call()
    assert not any((work / name).exists() for name in ("no.h5", "runs/p", "report.html"))


def test_one_text_is_one_of_several(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with one_sentence("'upper-mrk' is not a known reference row", "'upper-mark'"):
        api.evaluate("proposals", "my-videos", {"A": "tsp.h5"}, "runs/p", references="upper-mrk")
    with one_sentence("'fit.epoch' is not a known key", "'epochs'"):
        api.pretrain("my-videos", "tac", "tiny", "runs/p", settings="fit.epoch=1")
    with one_sentence("'epoch' is not a known key"):
        api.run("smoke", "runs/p", settings="epoch=1")


def test_a_script_without_a_guard_does_not_begin_again_in_each_reader(work, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    for begin in (
        lambda: api.run("smoke", "runs/p"),
        lambda: api.pretrain("my-videos", "tac", "tiny", "runs/p"),
        lambda: api.extract("p.h5", encoder="tiny", videos="my-videos"),
        lambda: api.evaluate("tal", "my-videos", {"A": "tsp.h5"}, "runs/p"),
    ):
        with one_sentence('if __name__ == "__main__":'):
            begin()
    assert not (work / "runs" / "p").exists()


# Settings


def test_settings_as_tables_and_as_texts_are_the_same():
    tables = read_recipe(
        "smoke", {"seed": 3, "pretrain": {"tsp": {"fit": {"epochs": 7}}}, "tasks": {"proposals": None}}
    )
    texts = read_recipe("smoke", ["seed=3", "pretrain.tsp.fit.epochs=7", "tasks.proposals=null"])
    assert tables == texts
    assert tables.pretrain["tsp"].fit.epochs == 7
    changed = {"config": {"hidden_1d": 8}, "fit": {"epochs": 2}}
    by_texts = localizer_settings("gtad", "activitynet", True, ["config.hidden_1d=8", "fit.epochs=2"])
    assert localizer_settings("gtad", "activitynet", True, changed) == by_texts
    assert localizer_settings("gtad", "activitynet", True, {}) == localizer_settings("gtad", "activitynet", True, ())


def test_settings_leave_what_they_are_applied_to():
    base = {"fit": {"epochs": 1, "seed": 2}}
    assert applied(base, {"fit": {"epochs": 5}}) == {"fit": {"epochs": 5, "seed": 2}}
    assert base == {"fit": {"epochs": 1, "seed": 2}}


def test_one_path_or_several():
    assert paths("a.h5") == paths(Path("a.h5")) == paths(["a.h5"]) == [Path("a.h5")]
    assert paths(()) == []
    assert feature_rows({"A": "a.h5", "B": ["b.h5", Path("c.h5")]}) == {
        "A": [Path("a.h5")],
        "B": [Path("b.h5"), Path("c.h5")],
    }


# What it costs, and what it may do


def test_the_package_and_its_functions_are_light():
    code = (
        "import sys; before = set(sys.modules); import tspbench; new = len(set(sys.modules) - before); "
        "from tspbench import api; print(new, *sys.modules)"
    )
    count, *loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert {"torch", "torchvision", "matplotlib", "numba", "av", "decord", "pandas"}.isdisjoint(loaded)
    assert count == "1"


@pytest.mark.parametrize("module", sorted((ROOT / "tspbench" / "api").glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_printed_or_ended(module):
    calls = [node.func for node in ast.walk(ast.parse(module.read_text("utf-8"))) if isinstance(node, ast.Call)]
    names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
    assert names.isdisjoint({"print", "exit", "Exit", "Console"})


def test_every_command_of_a_result_is_a_function():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    # The demo is the recipe "demo"; what is left tells people something, and returns nothing.
    assert commands - {"demo", "check", "fetch", "list"} <= set(FUNCTIONS)
