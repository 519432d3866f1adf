"""Captioners from feature files to tables: what is described, how it is scored, what resumes, what is refused."""

import json
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest

from evaluation import CAPTIONING_PROTOCOLS
from evaluation.meteor import Meteor, MeteorError
from tests.evaluation.test_captioning import Counting
from tests.tspbench.helpers import one_sentence, with_card
from tests.tspbench.stages.captioned_sets import (
    FIT,
    SENTENCES,
    SETTINGS,
    captioning,
    entry,
    write_captions,
    write_rows,
)
from tspbench import vocabulary
from tspbench.report import markdown, result_table
from tspbench.stages import caption_models, caption_rows, captioning_inputs
from tspbench.stages import captioning as captioning_module
from tspbench.stages import describe as describe_module
from tspbench.stages import score as score_module
from tspbench.stages.captioner_settings import DecodingSettings, ProposalSettings, TextSettings
from tspbench.stages.captioning_inputs import CaptionBenchmark
from tspbench.stages.evaluate import evaluate
from tspbench.stages.localization import Localization
from tspbench.stages.score import read_scored, read_target
from tspbench.stages.train import LocalizerSettings
from tspbench.storage.annotations import read_annotations
from tspbench.storage.captions import read_captions, read_references
from tspbench.storage.features import FeatureFiles
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import read_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_captions(tmp_path_factory.mktemp("captions"))


@pytest.fixture
def features(tmp_path):
    return {"a": [write_rows(tmp_path / "a.h5")]}


@pytest.fixture
def stages_run(monkeypatch):
    """List the stages that do any work, as row or part and verb."""
    ran = []
    real = caption_rows.run_stage

    def counting(stage, folder, settings, inputs, outputs, work, **how):
        def counted(key):
            ran.append(f"{folder.parent.name} {stage}")
            return work(key)

        return real(stage, folder, settings, inputs, outputs, counted, **how)

    for module in (caption_models, caption_rows, captioning_module, captioning_inputs):
        monkeypatch.setattr(module, "run_stage", counting)
    return ran


ALL = [
    "captioning words",
    "checked check features",
    "a train",
    "ground-truth predict",
    "ground-truth score",
    "a train generator",
    "proposals predict",
    "proposals score",
]


def changed(**values):
    return SETTINGS.model_copy(update=values)


def score_of(out, part, row="a"):
    return read_record(out / "captioning" / row / part / "score").figures


@pytest.fixture
def java(monkeypatch):
    """Give a test METEOR and the tokenizer themselves; one is started for all files that it scores alone."""
    with Meteor() as started:
        monkeypatch.setattr(score_module, "Meteor", lambda report: nullcontext(started))
        yield


@pytest.fixture(autouse=True)
def without_java(request, monkeypatch):
    """Let other tests do with a tokenizer and a METEOR that start at once."""
    if "java" not in request.fixturenames:
        monkeypatch.setattr(vocabulary, "Meteor", Counting)
        monkeypatch.setattr(captioning_inputs, "Meteor", lambda _seconds, report: Counting())


def test_both_kinds_of_segments_are_scored_by_their_protocols(tmp_path, dataset, features, java):
    """Each is what `tspbench score` says of the same files: true segments by file, proposals of all files at once."""
    what = captioning(tmp_path, dataset)
    evaluate([what], features, "Sentences", ["A note."])
    folder = what.out / "captioning" / "a"
    references = [dataset.folder / "val_1.json", dataset.folder / "val_2.json"]

    alone = [
        read_scored(
            read_target("captioning", [path], "", "densevid"),
            folder / "ground-truth" / "predict" / f"captions_{k}.json",
        ).result.metrics()
        for k, path in enumerate(references, start=1)
    ]
    averaged = score_of(what.out, "ground-truth")
    assert averaged["metrics"] == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]})
    assert averaged["counts"]["predictions"] == averaged["counts"]["ground_truth"] == 12
    assert averaged["metrics"]["recall"] == 1.0
    assert "protocol:densevid-averaged|" in averaged["signature"]
    assert averaged["signature"].endswith("|proposals:ground-truth")

    target = read_target("captioning", references, "", "densevid")
    pooled = score_of(what.out, "proposals")
    assert pooled["metrics"] == read_scored(target, folder / "proposals" / "predict" / "captions.json").result.metrics()
    assert pooled["signature"].endswith("|proposals:generator-4")
    assert pooled["counts"]["predictions"] <= 3 * 4

    truth = read_references(references[1])
    described = read_captions(folder / "ground-truth" / "predict" / "captions_2.json")
    assert described.videos == truth.videos
    assert (described.start.tolist(), described.end.tolist()) == (truth.start.tolist(), truth.end.tolist())

    subtitles = sorted(path.name for path in (folder / "proposals" / "predict" / "subtitles").iterdir())
    assert subtitles == [f"v_{k}.{kind}" for k in (6, 7, 8) for kind in ("srt", "vtt")]


def test_the_table_has_both_and_a_sample_of_sentences(tmp_path, dataset, features):
    features["b | c"] = [write_rows(tmp_path / "b.h5", seed=1)]
    what = captioning(tmp_path, dataset)
    evaluate([what], features, "Sentences", ["A note."])
    text = markdown(result_table(what.out))
    header = text.splitlines()[2]
    assert header.startswith(
        "| features | true segments: BLEU@3 | @4 | METEOR | 95 % interval | proposals: BLEU@3 | @4 |"
    )
    assert "METEOR on true segments: " in text
    assert "selection: last epoch" in text
    assert "b \\| c − a" in text
    start, end = entry(6)["timestamps"][0]
    assert f"| v_6, {start:.1f} to {end:.1f} s | {SENTENCES[0]} |" in text
    (first, second) = read_run(what.out).tables
    assert (first.part, second.part) == ("ground-truth", "proposals")


def test_the_same_seed_says_the_same_and_another_one_something_else(tmp_path, dataset, features):
    said = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        what = captioning(tmp_path, dataset, seed=seed, out=tmp_path / name)
        evaluate([what], features, "", [])
        paths = sorted((tmp_path / name / "captioning" / "a").glob("*/predict/captions*.json"))
        assert len(paths) == 3
        said.append([path.read_bytes() for path in paths])
    assert said[0] == said[1]
    assert said[0] != said[2]


def test_finished_stages_are_skipped_and_changed_ones_run_again(tmp_path, dataset, features, stages_run):
    what = captioning(tmp_path, dataset)

    def ran(captioner=SETTINGS, **changes):
        stages_run.clear()
        evaluate([captioning(tmp_path, dataset, captioner, **changes)], features, "", [])
        return stages_run

    assert ran() == ALL
    assert ran() == []
    assert ran(changed(fit=FIT.model_copy(update={"workers": 1}))) == []
    assert ran(changed(proposals=ProposalSettings(count=3))) == ALL[-2:]
    assert ran(changed(decoding=DecodingSettings(max_words=6, batch_size=1), proposals=ProposalSettings(count=3))) == []
    beam = DecodingSettings(max_words=6, beam=2)
    saying = ["ground-truth predict", "ground-truth score", *ALL[-2:]]
    assert ran(changed(decoding=beam)) == saying
    assert ran(changed(proposals=ProposalSettings(count=3))) == saying
    (what.out / "captioning" / "a" / "ground-truth" / "predict" / "captions_1.json").unlink()
    assert ran(changed(proposals=ProposalSettings(count=3))) == ["ground-truth predict"]
    write_rows(features["a"][0], seed=3)
    assert ran() == ALL[1:]


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_description_goes_on_where_it_was(tmp_path, dataset, features, monkeypatch, after):
    """One sentence a batch and a part: the kill loses no sentence that was written, and the result is the same."""
    single = changed(decoding=DecodingSettings(max_words=6, batch_size=1))
    whole = captioning(tmp_path, dataset, single, out=tmp_path / "whole")
    evaluate([whole], features, "", [])
    monkeypatch.setattr(describe_module, "PART", 1)
    real, calls = describe_module.decode, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(describe_module, "decode", killed)
    what = captioning(tmp_path, dataset, single, out=tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        evaluate([what], features, "", [])
    folder = what.out / "captioning" / "a" / "ground-truth" / "predict"
    assert len(list((folder / "parts").iterdir())) == after
    calls.clear()
    monkeypatch.setattr(describe_module, "decode", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    evaluate([what], features, "", [])
    assert not (folder / "parts").exists()
    proposals = read_record(what.out / "captioning" / "a" / "proposals" / "predict").figures["captions"]
    assert len(calls) == 12 - after + proposals
    for path in (whole.out / "captioning" / "a").glob("*/predict/captions*.json"):
        assert (what.out / path.relative_to(whole.out)).read_bytes() == path.read_bytes()


def test_epochs_are_chosen_by_training_videos_held_out(tmp_path, dataset, features):
    fit = FIT.model_copy(update={"select": "best", "epochs": 3, "patience": 1})
    generator = SETTINGS.generator.model_copy(
        update={"fit": fit.model_copy(update={"learning_rates": {"generator": 0.01}})}
    )
    what = captioning(tmp_path, dataset, changed(fit=fit, generator=generator, held_out=0.4))
    evaluate([what], features, "", [])
    folder = what.out / "captioning"
    held_out = read_record(folder / "words").figures["held_out"]
    assert len(held_out) == 2
    assert set(held_out) < {f"v_{k}" for k in range(6)}
    trained, generator_trained = (read_record(folder / "a" / stage).figures for stage in ("train", "generator"))
    assert trained["training_captions"] == 8
    assert all("METEOR" in epoch for epoch in trained["epochs"])
    best = max(range(len(trained["epochs"])), key=lambda k: trained["epochs"][k]["METEOR"])
    assert trained["kept_epoch"] == best
    assert generator_trained["training_videos"] == 4
    assert all(0 <= epoch["F1"] <= 1 for epoch in generator_trained["epochs"])
    assert "2 training videos held out" in trained["selection"]


def test_epochs_may_be_chosen_by_the_scored_videos_as_published(tmp_path, dataset, features):
    """Then the METEOR of the epoch that is kept is the one in the table, and the table says so."""
    fit = FIT.model_copy(update={"select": "best"})
    what = captioning(tmp_path, dataset, changed(fit=fit, held_out=0.0))
    evaluate([what], features, "", [])
    trained = read_record(what.out / "captioning" / "a" / "train").figures
    assert trained["training_captions"] == 12
    kept = trained["epochs"][trained["kept_epoch"]]["METEOR"]
    assert kept == pytest.approx(score_of(what.out, "ground-truth")["metrics"]["METEOR"], abs=1e-12)
    assert "scored videos, as BMT does" in (markdown(result_table(what.out)))


def test_names_may_lack_the_prefix_and_videos_without_features_are_missed(tmp_path, dataset, capsys):
    rows = {"a": [write_rows(tmp_path / "a.h5", prefix="", without=("1", "7"))]}
    what = captioning(tmp_path, dataset)
    evaluate([what], rows, "", [])
    assert "no features of 1 of 6 training videos (first: v_1)" in capsys.readouterr().err
    for part in ("ground-truth", "proposals"):
        assert score_of(what.out, part)["counts"]["missing_videos"] == 1
    assert read_record(what.out / "captioning" / "a" / "train").figures["training_captions"] == 10
    assert "no prediction for 1 of the 3 scored videos" in markdown(result_table(what.out))


def test_segments_that_nobody_can_learn_from_are_left_out(tmp_path, features):
    dataset = write_captions(tmp_path / "d")
    content = json.loads((dataset.folder / "train.json").read_text())
    content["v_0"]["timestamps"][0] = [5.0, 3.0]  # as a published file has it
    content["v_1"]["sentences"][1] = "..."
    (dataset.folder / "train.json").write_text(json.dumps(content))
    what = captioning(tmp_path, dataset)
    evaluate([what], features, "", [])
    figures = read_record(what.out / "captioning" / "a" / "train").figures
    assert (figures["training_captions"], figures["captions_without_words_or_length"]) == (10, 2)


def test_a_localizers_proposals_of_the_same_features_can_be_described(tmp_path, dataset, features):
    source = changed(proposals=ProposalSettings(source="bmn", count=3))
    what = captioning(tmp_path, dataset, source)
    small = {"steps": 8, "max_duration": 8, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16}
    fit = FIT.model_copy(update={"learning_rates": {"localizer": 0.005}})
    localizer = LocalizerSettings(name="bmn", config=small, fit=fit)
    proposals = Localization("proposals", dataset, localizer, None, [], 0, "cpu", what.out)
    evaluate([proposals, what], features, "", [])
    assert not (what.out / "captioning" / "a" / "generator").exists()
    signature = score_of(what.out, "proposals")["signature"]
    assert signature.endswith("|proposals:bmn-3")

    described = read_captions(what.out / "captioning" / "a" / "proposals" / "predict" / "captions.json")
    truth = read_annotations(dataset.annotations).ground_truth("validation")
    found = read_predictions(what.out / "proposals" / "a" / "predict" / "predictions.json.gz", truth, labelled=False)
    for video, rows in described.rows().items():
        number = truth.videos.index(video)
        of_video = np.flatnonzero(found.video == number)
        best = of_video[np.argsort(-found.score[of_video], kind="stable")][:3]
        assert described.start[rows].tolist() == found.start[best].tolist()
        assert described.end[rows].tolist() == found.end[best].tolist()

    # Other features, and proposals that were made from these: they are no longer of the same.
    write_rows(features["a"][0], seed=9)
    with one_sentence("no proposals of bmn", "'a'"):
        evaluate([what], features, "", [])


def test_held_out_videos_without_features_are_one_sentence(tmp_path, dataset):
    settings = changed(fit=FIT.model_copy(update={"select": "best"}), held_out=0.2)
    held_out = CaptionBenchmark(
        captioning(tmp_path, dataset, settings), {"a": FeatureFiles([write_rows(tmp_path / "a.h5")])}
    ).held_out
    assert len(held_out) == 1
    rows = {"a": [write_rows(tmp_path / "a.h5", without=tuple(held_out))]}
    with one_sentence("a.h5", "to choose epochs by", "fit.select"):
        evaluate([captioning(tmp_path, dataset, settings)], rows, "", [])
    rows = {"a": [write_rows(tmp_path / "a.h5", without=tuple(f"v_{k}" for k in range(6) if f"v_{k}" not in held_out))]}
    with one_sentence("a.h5", "to learn from"):
        evaluate([captioning(tmp_path, dataset, settings)], rows, "", [])


def test_other_word_vectors_are_another_training(tmp_path, dataset, features, stages_run):
    path = tmp_path / "glove.txt"
    what = captioning(tmp_path, dataset, changed(text=TextSettings(vectors=str(path))))
    path.write_text("man 1 2 3 4 5 6 7 8")
    evaluate([what], features, "", [])
    stages_run.clear()
    path.write_text("man 1 2 3 4 5 6 7 9")
    evaluate([what], features, "", [])
    assert stages_run == ALL[1:]


def test_captions_beyond_the_last_row_are_no_segments_to_propose(tmp_path):
    """Rows of 16 clips of half a second reach to 8 s; a caption of two videos lies behind that."""
    dataset = write_captions(tmp_path / "d")
    content = json.loads((dataset.folder / "train.json").read_text())
    for name in ("v_0", "v_1"):
        content[name]["timestamps"].append([8.0, 8.3])
        content[name]["sentences"].append("The end.")
    (dataset.folder / "train.json").write_text(json.dumps(content))
    what = captioning(tmp_path, dataset)
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5")]}, "", [])
    trained, generator = (
        read_record(what.out / "captioning" / "a" / stage).figures for stage in ("train", "generator")
    )
    assert trained["training_captions"] == 14
    assert generator["segments_beyond_the_rows"] == 2


def test_a_meteor_that_fails_leaves_the_other_metrics(tmp_path, dataset, features, monkeypatch, capsys):
    failing = Counting(meteor=MeteorError("METEOR ended by signal 9."))
    monkeypatch.setattr(captioning_inputs, "Meteor", lambda _seconds, report: failing)
    features["b"] = [write_rows(tmp_path / "b.h5", seed=1)]
    what = captioning(tmp_path, dataset)
    evaluate([what], features, "", [])
    assert "METEOR is missing: METEOR ended by signal 9. Remove" in capsys.readouterr().err
    row = next(line for line in markdown(result_table(what.out)).splitlines() if line.startswith("| a |"))
    cells = row.split(" | ")
    assert (cells[3], cells[4]) == ("—", "—")
    assert "—" not in cells[1:3]
    fit = FIT.model_copy(update={"select": "best"})
    with one_sentence("No epoch can be chosen by METEOR"):
        evaluate([captioning(tmp_path, dataset, changed(fit=fit), out=tmp_path / "best")], features, "", [])


def test_many_reference_files_keep_their_sentences(tmp_path, features):
    """Numbers of two digits sort before those of one: sentences must not change files when a run goes on."""
    dataset = write_captions(tmp_path / "d")
    names = [f"val_{k}.json" for k in range(1, 12)]
    for k, name in enumerate(names):
        (dataset.folder / name).write_text(json.dumps({f"v_{j}": entry(j, 0.1 * k) for j in (6, 7, 8)}))
    card = {"training": ["train.json"], "validation": names}
    what = captioning(tmp_path, with_card(dataset, captions=card))
    evaluate([what], features, "", [])
    before = score_of(what.out, "ground-truth")
    (what.out / "captioning" / "a" / "ground-truth" / "score" / "record.json").unlink()
    evaluate([what], features, "", [])
    assert score_of(what.out, "ground-truth") == before
    assert before["metrics"]["recall"] == 1.0


def test_a_run_of_an_older_version_does_not_lock_its_folder(tmp_path, dataset, features):
    what = captioning(tmp_path, dataset)
    what.out.mkdir()
    (what.out / "run.json").write_text('{"format": "tspbench run 2"}')
    evaluate([what], features, "", [])
    assert [table.part for table in read_run(what.out).tables] == ["ground-truth", "proposals"]


def test_subtitles_of_an_earlier_run_are_gone(tmp_path, dataset, features):
    what = captioning(tmp_path, dataset)
    evaluate([what], features, "", [])
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", without=("v_7",))]}, "", [])
    folder = what.out / "captioning" / "a" / "proposals" / "predict" / "subtitles"
    assert sorted(path.stem for path in folder.iterdir()) == ["v_6", "v_6", "v_8", "v_8"]


def write_sound(folder: Path, seconds: float = 8.0, videos: int = 9) -> Path:
    folder.mkdir(exist_ok=True)
    for k in range(videos):
        rng = np.random.default_rng(k)
        np.save(folder / f"v_{k}_vggish.npy", rng.standard_normal((round(seconds / 0.96), 5)).astype(np.float32))
    return folder


def test_sound_makes_the_captioner_bimodal(tmp_path, dataset, features, stages_run):
    what = captioning(tmp_path, dataset, sound=write_sound(tmp_path / "sound", videos=8))
    evaluate([what], features, "", [])
    settings = read_record(what.out / "captioning" / "a" / "train").settings
    assert settings["config"]["audio_dim"] == 5
    assert "sound: sound" in markdown(result_table(what.out))
    checked = read_record(what.out / "captioning" / "checked" / "a").figures
    assert "no sound of 1 of 9 videos" in checked["doubtful"][0]
    assert score_of(what.out, "proposals")["counts"]["missing_videos"] == 0
    # Neither made nor learned from again, whatever other rows there are.
    stages_run.clear()
    features["b"] = [write_rows(tmp_path / "b.h5", videos=10)]
    evaluate([what], features, "", [])
    assert not [stage for stage in stages_run if stage.endswith(" sound") or stage.startswith("a ")]


def test_bad_sound_is_found_before_any_training(tmp_path, dataset, features, stages_run):
    folder = write_sound(tmp_path / "sound")
    np.save(folder / "v_8_vggish.npy", np.full((8, 5), np.nan, dtype=np.float32))
    with one_sentence("v_8_vggish.npy"):
        evaluate([captioning(tmp_path, dataset, sound=folder)], features, "", [])
    rows = {f"v_{k}": np.ones((8, 5 if k < 8 else 4), dtype=np.float32) for k in range(9)}
    with h5py.File(tmp_path / "sound.h5", "w") as file:
        file.update(rows)
    with one_sentence("sound.h5", "'v_8'"):
        evaluate([captioning(tmp_path, dataset, sound=tmp_path / "sound.h5")], features, "", [])
    assert not [stage for stage in stages_run if "train" in stage]


def test_word_vectors_are_taken_from_a_file(tmp_path, dataset, features):
    lines = [f"{word} {' '.join(str(0.1 * k) for k in range(8))}" for word in ("a", "man", "dog", "unheard")]
    (tmp_path / "glove.txt").write_text("\n".join(lines))
    text = TextSettings(vectors=str(tmp_path / "glove.txt"))
    what = captioning(tmp_path, dataset, changed(text=text))
    evaluate([what], features, "", [])
    assert read_record(what.out / "captioning" / "a" / "train").figures["words_with_vectors"] == 3
    wide = changed(text=text, config={**SETTINGS.config, "word_dim": 12})
    with one_sentence("glove.txt", "config.word_dim=8"):
        evaluate([captioning(tmp_path, dataset, wide, out=tmp_path / "wide")], features, "", [])


MISTAKES = {
    "an empty vocabulary": (changed(text=TextSettings(min_count=99)), ("empty vocabulary", "99")),
    "an unknown setting": (changed(config={"word_dims": 3}), ("'word_dims'", "did you mean 'word_dim'?")),
    "an unknown captioner": (changed(name="bmd"), ("'bmd'", "did you mean 'bmt'?")),
    "an unknown source": (changed(proposals=ProposalSettings(source="gtat")), ("'gtat'", "did you mean 'gtad'?")),
    "proposals that nobody made": (changed(proposals=ProposalSettings(source="bmn")), ("no proposals of bmn", "--out")),
    "no anchors": (
        changed(generator=SETTINGS.generator.model_copy(update={"anchors": ()})),
        ("generator.anchors", "1 stream"),
    ),
    "what follows from the features": (changed(config={"feature_dim": 3}), ("config.feature_dim", "leave it out")),
    "what follows from other settings": (
        changed(generator=SETTINGS.generator.model_copy(update={"config": {"max_proposals": 3}})),
        ("generator.config.max_proposals", "proposals.count"),
    ),
    "nothing left to learn from": (
        changed(fit=FIT.model_copy(update={"select": "best"}), held_out=0.99),
        ("held_out = 0.99", "6 training video"),
    ),
    "rates of others": (
        changed(fit=FIT.model_copy(update={"learning_rates": {"localizer": 1.0}})),
        ("fit.learning_rates", "captioner"),
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_settings_without_sense_are_one_sentence(tmp_path, dataset, features, what):
    settings, words = MISTAKES[what]
    with one_sentence(*words):
        evaluate([captioning(tmp_path, dataset, settings)], features, "", [])


def test_bad_files_are_one_sentence_before_any_training(tmp_path, features, stages_run):
    def refused(*words, **changes):
        with one_sentence(*words):
            evaluate([captioning(tmp_path, dataset, **changes)], features, "", [])
        assert not [stage for stage in stages_run if "train" in stage]

    dataset = write_captions(tmp_path / "d")
    path = dataset.folder / "val_2.json"
    good = path.read_text()
    path.write_bytes(b"\x80\x00 no text")
    refused("val_2.json")
    path.write_text(good.replace("8.0", "4.0", 1))
    refused("val_2.json", "'v_6'", "caption 2")
    path.write_text("{}")
    refused("val_2.json")
    path.write_text(good)
    refused("sound", "'v_0'", "rows", sound=write_sound(tmp_path / "sound", seconds=30.0))
    features["b"] = [write_rows(tmp_path / "b.h5", prefix="other")]
    refused("b.h5", "features of none of the 6 videos of", "train.json")
    features["b"] = [write_rows(tmp_path / "b.h5", videos=6)]
    refused("b.h5", "val_1.json")


def test_the_protocols_are_those_of_the_ground_truth_and_of_proposals():
    assert {part: CAPTIONING_PROTOCOLS[name].references for part, name in caption_models.PARTS.items()} == {
        "ground-truth": "averaged",
        "proposals": "pooled",
    }
