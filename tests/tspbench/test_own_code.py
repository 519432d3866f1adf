import hashlib
import importlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tspbench.helpers import one_sentence
from tspbench import own_code
from tspbench.encoders import encoder_class, encoder_facts, load_encoder, named_encoder, new_encoder
from tspbench.encoders.own import check_sides
from tspbench.own_code import allow, load_class
from tspbench.preprocessing import Preprocessing
from tspbench.stages.published import published
from tspbench.stages.train import LocalizerSettings, localizer_config, localizer_facts, named_localizer, new_localizer
from tspbench.storage.checkpoints import Weights, write_weights

ENCODER = """import torch
from torch import nn
from tspbench.preprocessing import Preprocessing

class Mine(nn.Module):
    preprocessing = Preprocessing(clip_frames=4, frame_rate=12, size=32, mean=(0, 0, 0), std=(1, 1, 1))
    feature_dim = 3

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, clips):
        return self.fc(clips.mean(dim=(2, 3, 4)))
"""
EXAMPLE = "docs/examples/my_localizer.py:Actionness"


@pytest.fixture
def write(tmp_path):
    def write(text, name="own.py"):
        path = tmp_path / name
        path.write_text(text)
        return f"{path}:Mine"

    return write


def test_six_facts_are_enough(write):
    kind = named_encoder(write(ENCODER))
    assert (kind.feature_dim, kind.stem_prefix, kind.torchvision_weights) == (3, (), {})
    assert kind.preprocessing == Preprocessing(4, 12.0, (32, 32), 32, (0.0,) * 3, (1.0,) * 3)
    assert new_encoder(write(ENCODER), seed=0)(torch.ones(5, 3, 4, 32, 32)).shape == (5, 3)


def test_an_encoder_of_one_size_alone_is_refused_where_it_would_see_others(write):
    text = ENCODER.replace("nn.Linear(3, 3)", "nn.Linear(3 * 32 * 32, 3)")
    name = write(text.replace("clips.mean(dim=(2, 3, 4))", "clips.mean(dim=2).flatten(1)"))
    named_encoder(name)
    encoder = new_encoder(name, seed=0)
    check_sides(name, encoder, [32])
    with one_sentence(name, "end_to_end.fidelities", "16 pixels", "pixels=32"):
        check_sides(name, encoder, [32, 16])


def test_preprocessing_is_checked_as_a_whole_and_keeps_plain_numbers():
    spec = Preprocessing(16, 15, size=224, mean=[0, 0, 0], std=[1, 1, 1])
    assert (spec.resize, spec.crop, spec.clip_seconds) == ((224, 224), 224, 16 / 15)
    assert spec == Preprocessing(16, 15.0, (224, 224), 224, (0.0,) * 3, (1.0,) * 3)
    assert isinstance(spec.frame_rate, float)
    assert replace(spec, crop=112).crop == 112
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(ValueError, match=r"clip_frames: .*0.*frame_rate: .*crop: .*mean: .*\(\).*std: .*\(1, 1\)"):
        Preprocessing(0, 0, (8, 8), 9, std=(1, 1))


def test_weights_are_those_that_the_class_comes_with_and_are_told_by_their_hash(write):
    name = write(ENCODER)
    named_encoder(name)
    encoder, weights = load_encoder(name, None)
    assert not encoder.training
    assert weights.card["source"] == load_encoder(name, None)[1].card["source"]
    assert torch.equal(encoder.fc.weight, load_encoder(name, None)[0].fc.weight)
    write(ENCODER.replace("nn.Linear(3, 3)", "nn.Linear(3, 3).double().float()"))  # same weights, another source
    assert weights.card["source"] != load_encoder(name, None)[1].card["source"]


def test_a_checkpoint_fits_its_class_wherever_that_lies_now(write, tmp_path):
    old, new = write(ENCODER), write(ENCODER, "moved.py")
    for name in (old, new):
        named_encoder(name)
    state = new_encoder(old, seed=5).state_dict()
    write_weights(tmp_path / "w.safetensors", Weights(old, state, {}, {}))
    assert torch.equal(load_encoder(new, tmp_path / "w.safetensors")[0].fc.weight, state["fc.weight"])
    with one_sentence("holds weights of", "not of tiny"):
        load_encoder("tiny", tmp_path / "w.safetensors")


def test_an_edited_file_is_another_class_even_within_the_same_second(write):
    name = write(ENCODER)
    named_encoder(name)
    first = load_class(name, "encoder")
    assert load_class(name, "encoder") is first
    write(ENCODER.replace("feature_dim = 3", "feature_dim = 4"))  # as long as before
    second = load_class(name, "encoder")
    assert (first.kind.feature_dim, second.kind.feature_dim) == (3, 4)
    assert first.source != second.source


def test_classes_of_the_same_name_do_not_meet(write, tmp_path):
    (tmp_path / "other").mkdir()
    first, second = write(ENCODER), write(ENCODER.replace("feature_dim = 3", "feature_dim = 4"), "other/own.py")
    for name in (first, second):
        allow(name)
    kinds = [load_class(name, "encoder").kind for name in (first, second)]
    assert [kind.feature_dim for kind in kinds] == [3, 4]
    assert kinds[0].__module__ != kinds[1].__module__
    assert all(sys.modules[kind.__module__].Mine is kind for kind in kinds)
    assert str(tmp_path) not in sys.path


def test_a_module_is_found_in_the_current_folder_and_all_of_its_package_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "o_package").mkdir()
    (tmp_path / "o_package" / "own.py").write_text(ENCODER)
    name = "o_package.own:Mine"
    assert named_encoder(name).feature_dim == 3
    source = load_class(name, "encoder").source
    (tmp_path / "o_package" / "helper.py").write_text("x = 1")
    own_code._loaded.pop(name)
    assert load_class(name, "encoder").source != source
    with one_sentence("'o_package.none'", "No module named", "path/to/file.py:Name"):
        named_encoder("o_package.none:Mine")


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """Return a function that forgets what was loaded, as a new Python that finds modules in ``tmp_path`` has not."""
    monkeypatch.syspath_prepend(tmp_path)

    def afresh():
        own_code._loaded.clear()
        own_code._as_loaded.cache_clear()
        for name in [name for name in sys.modules if name.startswith("o_")]:
            del sys.modules[name]
        importlib.invalidate_caches()

    yield afresh
    afresh()


@pytest.mark.parametrize("way", ["file", "module"])
def test_an_edited_helper_makes_another_class(write, tmp_path, afresh, way):
    path = write(f"from o_first import SCALE\n{ENCODER}", "o_own.py")
    name = path if way == "file" else "o_own:Mine"
    (tmp_path / "o_first.py").write_text("import o_deep.part\nSCALE = 2\n")
    (tmp_path / "o_deep").mkdir()
    (tmp_path / "o_deep" / "part.py").write_text("def late():\n    import o_late\n")
    allow(name)
    sources = []
    for edited in ("o_late.py", "o_deep/part.py", "o_first.py", "o_own.py", "o_unused.py"):
        with (tmp_path / edited).open("a") as file:
            file.write("# A line.\n")
        afresh()
        sources.append(load_class(name, "encoder").source)
    assert len(set(sources)) == 4
    assert sources[-1] == sources[-2]


def test_a_helper_counts_even_when_another_class_has_loaded_it(write, tmp_path, afresh):
    afresh()
    (tmp_path / "o_shared.py").write_text("SCALE = 2\n")
    names = [write(f"from o_shared import SCALE\n# {k}\n{ENCODER}", f"o_{k}.py") for k in range(2)]
    for name in names:
        allow(name)
    contents = [hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest() for name in names]
    sources = [load_class(name, "encoder").source for name in names]
    assert set(sources).isdisjoint(contents)
    # What has been loaded is told, also while its file is edited under a run.
    (tmp_path / "o_shared.py").write_text("SCALE = 3\n")
    assert [load_class(name, "encoder").source for name in names] == sources


def test_what_is_installed_is_not_read(write, tmp_path):
    name = write(f"import os, json, h5py\nimport baselines.nms as nms\n{ENCODER}")
    allow(name)
    assert load_class(name, "encoder").source == hashlib.sha256(Path(tmp_path / "own.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b as c, d  # e\nfrom f.g import (\n  h)\nfrom . import i\nfrom .j import k", {"a", "d", "f"}),
        ("try: import a\nexcept ImportError: pass\nx = 1; import b\nif x:\n\timport c, \\\n d", {"a", "b", "c", "d"}),
        ("m = importlib.import_module('a.b')\n__import__(\"c\")\nimport größe", {"a", "c", "größe"}),
        ("important = 1\nfrom_a = 2\n# import x", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(text, names):
    assert own_code._imports(text.encode()) == names


def test_a_network_that_the_environment_decides_is_told_by_its_shapes(write, afresh, monkeypatch):
    text = f"import os\n{ENCODER}".replace("nn.Linear(3, 3)", "nn.Linear(3, 3, bias='O_BIAS' in os.environ)")
    name = write(text)
    allow(name)
    facts = [encoder_facts(name)]
    afresh()
    facts.append(encoder_facts(name))
    monkeypatch.setenv("O_BIAS", "1")
    afresh()
    facts.append(encoder_facts(name))
    assert facts[0] == facts[1] != facts[2]
    assert facts[0]["feature_dim"] == 3


def test_code_that_only_a_file_names_is_not_run(write, tmp_path):
    name = write(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{ENCODER}")
    path = tmp_path / "w.safetensors"
    write_weights(path, Weights(name, {}, {}, {}))
    with one_sentence(str(path), name, "--encoder"):
        load_encoder(None, path)
    for meet in (
        encoder_class,
        encoder_facts,
        lambda name: new_encoder(name, 0),
        lambda name: load_encoder(name, None),
    ):
        with one_sentence(name, "--encoder"):
            meet(name)
    settings = LocalizerSettings(name=name, fit=published("gtad", "activitynet").fit)
    for meet in (lambda: new_localizer(settings, 8, 0), lambda: published(name, "x"), lambda: localizer_facts(name)):
        with one_sentence(name, "--localizer"):
            meet()
    assert not (tmp_path / "ran").exists()
    named_encoder(name)  # the user does
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import no_such_module", ["line 1", "ModuleNotFoundError", "no_such_module", "PYTHONPATH"]),
        ("\n\n1 / 0", ["line 3: ZeroDivisionError: division by zero"]),
        ("class Mine:\n  x = (", ["line 2", "SyntaxError"]),
        ("raise SystemExit(3)", ["SystemExit: 3"]),
        (ENCODER.replace("class Mine", "class Nine"), ["'Mine'", "did you mean 'Nine'?"]),
        ("x = 1", ["no class 'Mine'"]),
        ("Mine = 3", ["torch.nn.Module", "found int"]),
        ("class Mine: pass", ["torch.nn.Module", "another class"]),
        ("from torch import nn\nclass Mine(nn.Module): pass", ["preprocessing", "feature_dim", "forward", "nothing"]),
        (ENCODER.replace("feature_dim = 3", "feature_dim = '3'"), ["feature_dim", "'3'"]),
        (ENCODER.replace("feature_dim = 3", "feature_dim = 4"), ["(2, 4)", "(2, 3)", "feature_dim"]),
        (ENCODER.replace("std=(1, 1, 1)", "std=(1, 0, 1)"), ["line 6", "std", "(1, 0, 1)"]),
        (ENCODER.replace("size=32", "crop=32"), ["line 6", "size, or else resize and crop"]),
        (ENCODER.replace("(self):", "(self, depth):"), ["without arguments", "depth"]),
        (ENCODER.replace("mean(dim", "median(dim"), ["fails on clips (2, 3, 4, 32, 32)", "line 14"]),
        (ENCODER.replace("return ", "return torch.nan * "), ["NaN"]),
        (ENCODER.replace("return ", "return 0, "), ["tuple"]),
        (
            ENCODER.replace("self.fc =", "raise SystemExit(0)\n        self.fc ="),
            ["without arguments", "SystemExit: 0"],
        ),
        (ENCODER.replace("return ", "raise SystemExit(0)\n        return "), ["fails on clips", "SystemExit: 0"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(write, text, parts):
    name = write(text)
    with one_sentence(name.rpartition(":")[0], *parts):
        named_encoder(name)


def test_names_that_stand_for_nothing(tmp_path):
    with one_sentence("none.py", "does not exist"):
        named_encoder(f"{tmp_path}/none.py:Mine")
    with one_sentence("own.py:ClassName"):
        named_encoder("own.py")
    with one_sentence("own.py:ClassName"):
        named_localizer("own.py")
    with one_sentence("'own.py:' names no class", "file.py:ClassName"):
        named_encoder("own.py:")
    with one_sentence("':Mine' names no file", "file.py:ClassName"):
        named_localizer(":Mine")
    with one_sentence("cannot be imported (ModuleNotFoundError: No module named 'o_nowhere')"):
        named_encoder("o_nowhere:Mine")
    with one_sentence("'tinny'", "did you mean 'tiny'?"):
        named_encoder("tinny")


def test_a_try_draws_nothing_from_the_generator_of_others(write):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    named_encoder(write(ENCODER + "\n"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("def suppress", "def oppress"), ["the method suppress"]),
        (("max_proposals", "most"), ["Config with max_proposals"]),
        (("hidden: int = 64", "hidden: int"), ["Config with defaults of hidden"]),
        (("self.config = config", "raise SystemExit(0)"), ["__init__ fails", "SystemExit: 0"]),
        (('{"total":', '{"all":'), ["loss", '"total"']),
        (("first, nn.ReLU()", "first, nn.Rellu()"), ["__init__ fails", "AttributeError", "Rellu"]),
        (("return self.suppress(", "return iter("), ["decode", "2 Proposals"]),
        (('{"fit": {"epochs": 20', '{"fit": {"epoch": 20'), ["settings", "'fit.epoch'", "did you mean 'epochs'?"]),
    ],
)
def test_a_localizer_that_does_not_fit_is_one_sentence(write, change, parts):
    text = Path(EXAMPLE.rpartition(":")[0]).read_text().replace("Actionness", "Mine")
    assert change[0] in text
    name = write(text.replace(*change))
    with one_sentence(name, *parts):
        named_localizer(name)
        localizer_config(published(name, "activitynet"), feature_dim=8)


def test_a_localizer_says_how_it_is_trained_and_settings_are_its_own():
    named_localizer(EXAMPLE)
    settings = published(EXAMPLE, "activitynet-1.3")
    assert (settings.fit.epochs, settings.fit.batch_size, settings.fit.optimizer) == (20, 4, "adam")
    assert settings.time.mode == "rescale"
    assert localizer_config(settings.model_copy(update={"config": {"hidden": 5}}), 8).hidden == 5
    with one_sentence("'hiden'", "did you mean 'hidden'?"):
        localizer_config(settings.model_copy(update={"config": {"hiden": 5}}), 8)
    padded = settings.time.model_copy(update={"mode": "padded"})
    with one_sentence("padded", EXAMPLE):
        localizer_config(settings.model_copy(update={"time": padded}), 8)
    first, second = (new_localizer(settings, 8, seed).layers[0].weight for seed in (0, 0))
    assert torch.equal(first, second)
