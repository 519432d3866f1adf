"""ActivityNet and THUMOS14 from what a researcher has on disk to tables: real annotations, made-up features."""

import csv
import hashlib
import json
import re
import shutil
import threading
from collections import defaultdict
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

import tspbench.checking
from tests.evaluation.helpers import shared
from tests.test_cli import assert_one_sentence, run
from tests.tspbench.helpers import small_dataset
from tspbench.encoders import new_encoder
from tspbench.storage.atomic import write_json
from tspbench.storage.catalog import CATALOG, DATA_VARIABLE
from tspbench.storage.checkpoints import Weights, write_weights

TSP = {name: f"{name}_tsp_groundtruth.csv" for name in ("train", "valid", "test")}
EXPECTED = {  # videos, actions, background segments, those of either that a clip fits into, clips an epoch
    "activitynet/train": (10_024, 15_410, 15_956, 15_231, 15_956, 155_935),
    "activitynet/valid": (4_926, 7_654, 7_747, 7_558, 7_747, 76_525),
    "thumos14/valid": (200, 3_007, 2_178, 2_617, 2_177, 23_970),
    "thumos14/test": (212, 3_358, 2_573, 3_018, 2_550, 27_840),
}


# The real annotations


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Import the released files into the places of the two benchmarks; return the data root and what was told."""
    tables = {
        "activitynet": ["activitynet/train_tsp_groundtruth.csv.gz", "activitynet/valid_tsp_groundtruth.csv.gz"],
        "thumos14": ["thumos14/valid_tsp_groundtruth.csv.gz", "thumos14/test_tsp_groundtruth.csv.gz"],
    }
    ambiguous = {"thumos14": ["thumos14/test_groundtruth_with_ambiguous.csv"]}
    files = {name: sources + ambiguous.get(name, []) for name, sources in tables.items()}
    root, told = tmp_path_factory.mktemp("data"), {}
    for name, sources in {**files, "thumos14-of-tsp": tables["thumos14"]}.items():
        paths = [shared(f"data/{source}") for source in sources]
        result = run("data", "import", *paths, "--out", root / name)
        assert result.exit_code == 0, result.stderr
        told[name] = result.stdout
    return root, told


@pytest.fixture
def real(imported, tmp_path, monkeypatch):
    """Work where the benchmarks are found by their names; nothing of them may be changed."""
    monkeypatch.setenv(DATA_VARIABLE, str(imported[0]))
    monkeypatch.chdir(tmp_path)
    return imported[0]


def test_import_says_what_is_there(imported):
    _, told = imported
    assert (
        "14,950 videos, 200 classes; videos: 10,024 with 15,410 actions for training, 4,926 with 7,654 actions for "
        "validation."
    ) in told["activitynet"]
    # One test video holds nothing but Ambiguous stretches, which are no actions.
    assert (
        "413 videos, 20 classes; videos: 200 with 3,007 actions for training (subset 'validation'), 213 with 3,358 "
        "actions for validation (subset 'test')."
    ) in told["thumos14"]


def background(path):
    """Return video → its background (n, 2), in order of time, of a CSV of TSP."""
    found = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["video-name"]] += (
                [(float(row["t-start"]), float(row["t-end"]))] if row["temporal-region-label"] == "No action" else []
            )
    return {video: np.array(sorted(times)).reshape(-1, 2) for video, times in found.items()}


def agreement(ours, theirs):
    """Return how many videos there are, in how many the number agrees, how many segments these have, and identical."""
    assert set(ours) == set(theirs)
    agreeing = [video for video in theirs if len(ours[video]) == len(theirs[video])]
    identical = sum(int((np.abs(ours[v] - theirs[v]) < 1e-6).all(axis=1).sum()) for v in agreeing)
    return len(theirs), len(agreeing), sum(len(theirs[video]) for video in agreeing), identical


@pytest.mark.parametrize("dataset", ["thumos14-of-tsp", "thumos14"])
def test_segments_of_thumos14_are_those_of_tsp(real, dataset):
    """With Ambiguous, too, whose CSV has other lengths: those of the videos before TSP's authors encoded them again."""
    result = run("data", "segments", real / dataset, "--out", "segments", "--shortest-gap-clips", 1)
    assert result.exit_code == 0, result.stderr
    segments = identical = 0
    for role, name in (("training", "valid"), ("validation", "test")):
        theirs = background(real / dataset / TSP[name])
        found = agreement(background(Path(f"segments/{role}.csv")), theirs)
        videos = EXPECTED[f"thumos14/{name}"][0]
        assert found[:2] == (videos, videos)
        segments, identical = segments + found[2], identical + found[3]
    assert segments == 4_751
    assert identical >= 4_748
    assert told_counts(result.stdout, "segments") == [EXPECTED["thumos14/valid"], EXPECTED["thumos14/test"]]


def test_segments_of_activitynet_are_those_of_tsp(real):
    result = run("data", "segments", "activitynet", "--out", "segments")
    assert result.exit_code == 0, result.stderr
    segments = identical = 0
    for role, name, at_least in (("training", "train", 9_989), ("validation", "valid", 4_900)):
        found = agreement(background(Path(f"segments/{role}.csv")), background(real / "activitynet" / TSP[name]))
        assert found[0] == EXPECTED[f"activitynet/{name}"][0]
        assert found[1] >= at_least
        segments, identical = segments + found[2], identical + found[3]
    assert segments == 23_528
    assert identical >= 23_500


def test_as_released_the_counts_of_activitynet_are_those_of_tsp(real):
    result = run("data", "segments", "activitynet", "--out", "segments", "--as-released")
    assert result.exit_code == 0, result.stderr
    assert told_counts(result.stdout, "segments") == [EXPECTED["activitynet/train"], EXPECTED["activitynet/valid"]]


def told_counts(stdout, out):
    """Return the numbers of the line of each split."""
    lines = [line for line in stdout.splitlines() if line.startswith(f"{out}/")]
    assert [line.partition(": ")[0] for line in lines] == [f"{out}/{role}.csv" for role in ("training", "validation")]
    words = [line.partition(": ")[2].replace(",", "").split() for line in lines]
    return [tuple(int(word) for word in line if word.isdigit()) for line in words]


def test_check_recognises_the_video_sets_of_activitynet(real, monkeypatch):
    """Features of the 4,728 videos that most papers have, against the 4,926 of TSP's files and against these 4,728."""
    monkeypatch.setattr(tspbench.checking, "costs", lambda *_: [])  # tests/tspbench/test_checking.py measures
    annotations = shared("data/activitynet/annotations_19228.json")
    database = json.loads(annotations.read_bytes())["database"]
    files = {"train": "training", "valid": "validation"}
    home = Path("features").absolute()
    for part, subset in files.items():
        names = [f"v_{name}" for name, video in database.items() if video["subset"] == subset]
        write_features(home / f"r2plus1d_34-tsp_on_activitynet-{part}_features.h5", dict.fromkeys(names, ONE_ROW))
    (real / "activitynet" / "features").symlink_to(home)
    try:
        row = "--set", f"features.tac={','.join(str(path) for path in sorted(home.iterdir()))}"
        also = "--set", row[1].replace("tac=", "kinetics="), *row, "--set", "class_scores=null"
        whole = run("check", "activitynet-tal", *also)
        part = run("check", "activitynet-tal", *also, "--set", f"data.annotations={annotations}")
    finally:
        (real / "activitynet" / "features").unlink()
    for result in (whole, part):
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("Ready to run.\n")
        assert "+ TAC on Kinetics: features given" in result.stdout
        assert "+ TSP on ActivityNet: released features" in result.stdout
    assert told_videos(whole.stdout) == 3 * [
        "training (training): 10,024 annotated videos with 15,410 actions; features of 9,649, 375 missing",
        "validation (validation): 4,926 annotated videos with 7,654 actions, the video set activitynet-4926; features "
        "of 4,728, 198 missing",
    ]
    assert told_videos(part.stdout) == 3 * [
        "training (training): 9,649 annotated videos of 10,024 expected with 14,859 actions; features of 9,649, none "
        "missing.",
        "validation (validation): 4,728 annotated videos of 4,926 expected with 7,293 actions, the video set "
        "activitynet-4728; features of 4,728, none missing.",
    ]


def told_videos(stdout):
    """Return what is told of the rows' videos, without the names of missing ones."""
    return [line.strip().partition(" (-")[0] for line in stdout.splitlines() if "annotated videos" in line]


# Made-up benchmarks

ONE_ROW = np.zeros((1, 4), dtype=np.float32)


def write_features(path, features):
    """Write a file such as TSP released: a dataset a video, and nothing that says what a row is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, rows in features.items():
            file[name] = rows


CLASSES = ("Ballet", "Surfing")
SMALL = {
    "gtad": ["steps=16", "max_duration=16", "hidden_1d=16", "hidden_2d=8", "hidden_3d=16"],
    "bmn": ["steps=16", "max_duration=16", "hidden_1d=16", "hidden_2d=8", "hidden_3d=16"],
    "pgcn": ["hidden=16"],
}
MODELS = ("tac_on_kinetics", "tac_on_activitynet", "tsp_on_activitynet")


def recipe(name, out, task, localizer, *changes):
    """Run a recipe with a small localizer, trained for one epoch."""
    small = [f"tasks.{task}.config.{size}" for size in SMALL[localizer]]
    settings = [f"tasks.{task}.fit.epochs=1", *small, *changes]
    return run("run", name, "--out", out, "--device", "cpu", *(part for each in settings for part in ("--set", each)))


def table(out):
    """Return the table's text, its first table as row → cells, and that of published numbers, likewise."""
    text = (Path(out) / "table.md").read_text()
    return text, cells(text), cells(text.partition("## Published numbers beside measured ones\n")[2])


def cells(text):
    """Return row → cells of the first table in a text."""
    lines = text[text.index("| features |") :].partition("\n\n")[0].splitlines()
    return {name: rest for name, *rest in (line.strip("| ").split(" | ") for line in lines[2:])}


def rows_of(seconds, per_second, model):
    """Return noise, the same for a model whenever it is asked for."""
    rng = np.random.default_rng([len(model), *model.encode()])
    return rng.standard_normal((int(seconds * per_second), 512)).astype(np.float32)


@pytest.fixture
def activitynet(tmp_path, monkeypatch):
    """Write a dozen videos of ActivityNet: annotations, class scores, and features but for a video of each split.

    Actions of the first class last 72 % of their videos, those of the other 30 %.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    home, database = tmp_path / "data" / "activitynet", {}
    for k in range(12):
        seconds, share = 20.0 + 4 * k, (0.72, 0.3)[k % 2]
        action = {"segment": [0.1 * seconds, (0.1 + share) * seconds], "label": CLASSES[k % 2]}
        subset = "training" if k < 7 else "validation"
        database[f"-video{k:02}"] = {"duration": seconds, "subset": subset, "annotations": [action]}
    write_json(home / "activity_net.v1-3.min.json", {"database": database})
    likely = {name: [0.9, 0.1] if int(name[-2:]) % 2 == 0 else [0.1, 0.9] for name in database}
    write_json(home / "cuhk_val_simp_share.json", {"results": likely, "class": CLASSES})
    for model in MODELS:
        for part, subset, absent in (("train", "training", "-video02"), ("valid", "validation", "-video08")):
            there = {name: video for name, video in database.items() if video["subset"] == subset and name != absent}
            features = {f"v_{name}": rows_of(video["duration"], 15 / 16, model) for name, video in there.items()}
            write_features(home / "features" / f"r2plus1d_34-{model}-{part}_features.h5", features)
    return home


KEPT = (
    "All rows, training (training): 7 annotated videos of 10,024 expected with 7 actions; features of 6, 1 missing "
    "(-video02).",
    "All rows, validation (validation): 5 annotated videos of 4,926 expected with 5 actions; features of 4, 1 missing "
    "(-video08).",
)


def test_action_localization_on_activitynet_from_released_features(activitynet):
    """Of five videos two have the first class, one of which has no features."""
    for part in ("train", "valid"):  # what nobody released lies where the user says
        released = activitynet / "features" / f"r2plus1d_34-tac_on_activitynet-{part}_features.h5"
        released.rename(f"tac_{part}.h5")
    given = "features.tac=tac_train.h5,tac_valid.h5"
    result = recipe("activitynet-tal", "out", "tal", "gtad", given)
    assert result.exit_code == 0, result.stderr
    text, found, published = table("out")
    assert text.startswith("# Temporal action localization on ActivityNet 1.3\n")
    assert list(found) == [
        "Whole video", "Upper mark of the grid", "TAC on Kinetics", "TAC on ActivityNet", "TSP on ActivityNet"
    ]  # fmt: skip
    # One of two actions of a class is found up to a tIoU of 0.70, and none of the other class: 1/4, five times of ten.
    assert found["Whole video"][:4] == ["25.00", "0.00", "0.00", "12.50"]
    assert found["Upper mark of the grid"][:2] == ["75.00", "75.00"]
    trained = [[float(cell) for cell in found[name][:4]] for name in list(found)[2:]]
    assert all(0 < row[0] <= 75 for row in trained)
    assert len({tuple(row) for row in trained}) > 1, "features of the rows are not the same"
    assert "video-level labels: top 2 classes of cuhk_val_simp_share.json" in text
    for sentence in KEPT:
        assert f"\n{sentence}\n" in text
    hows = {"TAC on Kinetics": "released features", "TAC on ActivityNet": "features given"}
    for name, how in {**hows, "TSP on ActivityNet": "released features"}.items():
        assert f"\n{name}: {how}.\n" in text
    for name in found:
        assert f"{name}: no prediction for 1 of the 5 scored videos; they count as missed." in text
    assert list(published) == [f"TSP on ActivityNet: {what}" for what in ("measured", "published", "difference")]
    assert published["TSP on ActivityNet: published"] == ["51.26", "37.12", "9.29", "35.81"]
    assert published["TSP on ActivityNet: measured"] == found["TSP on ActivityNet"][:4]
    assert "No published number is known of: TAC on Kinetics, TAC on ActivityNet." in text
    assert "AVFusion" in text
    again = recipe("activitynet-tal", "out", "tal", "gtad", given)
    assert again.exit_code == 0
    assert ": 1/" not in again.stderr, "no stage told of progress"
    assert table("out")[0] == text


def test_a_trial_on_activitynet_says_so(activitynet):
    result = recipe("activitynet-tal", "out", "tal", "gtad", "trial.training=4", "trial.validation=3")
    assert result.exit_code == 0, result.stderr
    text, found, published = table("out")
    assert "videos: a trial: 4 of 7 for training, 3 of 5 for validation" in text
    assert "|videos:3|segments:3|" in text
    assert (
        "TSP on ActivityNet: no differences, because the run is a trial on part of the data (a trial: 4 of 7 for "
        "training, 3 of 5 for validation)."
    ) in text
    assert published["TSP on ActivityNet: difference"] == ["—"] * 4
    assert published["TSP on ActivityNet: measured"] == found["TSP on ActivityNet"][:4]
    for sentence in KEPT:
        assert f"\n{sentence}\n" in text, "the whole set is compared, whatever the trial takes of it"


def test_proposals_on_activitynet_from_released_features(activitynet):
    (activitynet / "cuhk_val_simp_share.json").unlink()  # proposals need no labels
    result = recipe("activitynet-proposals", "out", "proposals", "bmn")
    assert result.exit_code == 0, result.stderr
    text, found, published = table("out")
    assert list(found) == [
        "Uniform grid", "Upper mark of the grid", "TAC on Kinetics", "TAC on ActivityNet", "TSP on ActivityNet"
    ]  # fmt: skip
    assert "| features | AR@1 | @10 | @100 | AUC | 95 % interval |" in text
    assert all(0 < float(row[2]) <= 80 for row in found.values()), "one of five videos has no features"
    assert published["TSP on ActivityNet: published"] == ["—", "—", "—", "69.04"]
    for sentence in KEPT:
        assert f"\n{sentence}\n" in text


def test_what_is_missing_is_said_before_anything_runs(activitynet):
    """With a part of what a recipe needs, the sentence names the rest and how to get it."""
    for path in (activitynet / "features").glob("*tsp*"):
        path.unlink()
    result = recipe("activitynet-tal", "out", "tal", "gtad")
    assert_one_sentence(result, "TSP on ActivityNet", "tspbench fetch r2plus1d_34-tsp_on_activitynet-train_features")
    assert not Path("out").exists()
    given = [f"features.tsp={','.join(str(path) for path in sorted((activitynet / 'features').glob('*kinetics*')))}"]
    (activitynet / "cuhk_val_simp_share.json").unlink()
    result = recipe("activitynet-tal", "out", "tal", "gtad", *given)
    assert_one_sentence(result, activitynet / "cuhk_val_simp_share.json", "frostinassiky/gtad")


@pytest.fixture
def thumos14(tmp_path, monkeypatch):
    """Write a dozen videos of THUMOS14 with proposals that somebody made, and features every frame of 15 a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    home, database = tmp_path / "data" / "thumos14", {}
    rng = np.random.default_rng(0)
    for k in range(12):
        subset, seconds = ("validation", "test")[k >= 7], 10.0 + k
        actions = [{"segment": [1.5, 4.0 + k / 4], "label": ("Diving", "LongJump")[k % 2]}]
        actions += [{"segment": [8.0, 9.0], "label": "Ambiguous"}] if k % 3 == 0 else []
        database[f"video_{subset}_{k:07}"] = {"duration": seconds, "subset": subset, "annotations": actions}
    write_json(home / "annotations.json", {"database": database})
    for part, subset in (("valid", "validation"), ("test", "test")):
        there = {name: video for name, video in database.items() if video["subset"] == subset}
        for model in ("tac_on_kinetics", "tac_on_thumos14", "tsp_on_thumos14"):
            features = {name: rows_of(video["duration"], 15, model) for name, video in there.items()}
            write_features(home / "features" / f"r2plus1d_34-{model}-{part}_features.h5", features)
        proposals = {}
        for name, video in there.items():
            near = video["annotations"][0]["segment"] + rng.uniform(-0.3, 0.3, (8, 2))
            far = np.sort(rng.uniform(0, video["duration"], (12, 2)), axis=1)
            proposals[name] = [
                {"label": "action", "score": float(score), "segment": segment}
                for score, segment in zip(rng.uniform(size=20), [*near.tolist(), *far.tolist()], strict=True)
            ]
        (home / f"{subset}_proposals.json").write_text(json.dumps({"results": proposals}))
    return home


def test_action_localization_on_thumos14_with_the_proposals_of_others(thumos14):
    """The proposals are files that the recipe names, or lie where the catalog has them."""
    files = [str(thumos14 / f"{subset}_proposals.json") for subset in ("validation", "test")]
    named = recipe("thumos14-tal", "out", "tal", "pgcn", f"proposals={json.dumps(files)}")
    assert named.exit_code == 0, named.stderr
    text, found, published = table("out")
    assert list(found) == ["TAC on Kinetics", "TAC on THUMOS14", "TSP on THUMOS14"]
    assert "| features | mAP@0.30 | @0.40 | @0.50 | @0.60 | @0.70 | average | 95 % interval |" in text
    assert all(float(row[0]) > 0 for row in found.values())
    assert "localizer: pgcn" in text
    assert "proposals: validation_proposals.json, test_proposals.json, all of a video" in text
    assert "|videos:5|segments:5|" in text, "Ambiguous segments are ignored"
    assert "All rows, validation (test): 5 annotated videos of 212 expected with 5 actions; features of 5, none" in text
    assert published["TSP on THUMOS14: published"] == ["69.1", "63.3", "53.5", "40.4", "26.0", "50.5"]
    assert "No published number is known of: TAC on Kinetics, TAC on THUMOS14." in text


def test_without_proposals_thumos14_says_how_to_make_them(thumos14):
    """What the sentence says leads to the table, typed as it stands but for the names of files and a small BMN."""
    refused = recipe("thumos14-tal", "out", "tal", "pgcn")
    assert_one_sentence(refused, thumos14 / "validation_proposals.json.gz", "--set predict_training=true")
    features = [thumos14 / "features" / f"r2plus1d_34-tsp_on_thumos14-{part}_features.h5" for part in ("valid", "test")]
    changes = [*(f"config.{size}" for size in SMALL["bmn"]), "time.window_stride=8", "fit.epochs=1"]
    small = [part for change in changes for part in ("--set", change)]
    for subset in ("validation", "test"):
        told = CATALOG[f"thumos14-{subset}-proposals"].by_hand
        typed = re.search(r"`tspbench (.*?)`", told)[1].replace("VALID.h5,TEST.h5", ",".join(map(str, features)))
        made = run(*typed.split(), *small, "--device", "cpu")
        assert made.exit_code == 0, made.stderr
        shutil.copy(re.search(r"copy (\S+)", told)[1], thumos14 / f"{subset}_proposals.json.gz")
    assert ": 1/" not in made.stderr, "the second file is there already"
    result = recipe("thumos14-tal", "out", "tal", "pgcn", "tasks.tal.refine.best=30")
    assert result.exit_code == 0, result.stderr
    text, found, _ = table("out")
    assert "proposals: validation_proposals.json.gz, test_proposals.json.gz, the best 30 of a video" in text
    assert list(found) == ["TAC on Kinetics", "TAC on THUMOS14", "TSP on THUMOS14"]


# Files by name


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve the GVF of THUMOS14 on loopback, in small, under the entry's own name."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content)

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content = bytes(range(256)) * 40
    address = f"http://127.0.0.1:{server.server_port}/r2plus1d_34-max_gvf.h5"
    digest = hashlib.sha256(server.content).hexdigest()
    entry = replace(CATALOG["thumos14-max_gvf"], address=address, bytes=None, sha256=digest)
    monkeypatch.setitem(CATALOG, "thumos14-max_gvf", entry)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch_prints_where_the_file_is(site, tmp_path):
    place = tmp_path / "data" / "thumos14" / "features" / "r2plus1d_34-max_gvf.h5"
    result = run("fetch", "thumos14-max_gvf")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{place}\n"
    assert "licence not stated" in result.stderr
    assert place.read_bytes() == site.content
    site.content = b"another"
    assert run("fetch", "thumos14-max_gvf").stdout == f"{place}\n", "what is there is not fetched again"
    assert place.read_bytes() != site.content


def test_fetch_refuses_another_file(site, tmp_path):
    site.content = site.content[::-1]
    assert_one_sentence(run("fetch", "thumos14-max_gvf"), "thumos14-max_gvf", "SHA-256", "by hand")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_fetch_of_an_unknown_name_says_the_nearest(site):
    assert_one_sentence(run("fetch", "thumos14-max_gfv"), "did you mean 'thumos14-max_gvf'?")


def test_fetch_of_what_has_no_address_says_how_to_come_by_it(site, tmp_path):
    place = tmp_path / "data" / "activitynet" / "cuhk_val_simp_share.json"
    assert_one_sentence(run("fetch", "activitynet-class-scores"), place, "frostinassiky/gtad")


# From videos


@pytest.fixture
def filmed(tmp_path, monkeypatch):
    """Lay out small videos as ActivityNet, without a card; one more video is in no split."""
    home = tmp_path / "data" / "activitynet"
    small_dataset(home)
    (home / "dataset.toml").unlink()
    text = (home / "annotations.json").read_text()
    (home / "annotations.json").write_text(text.replace('"train"', '"training"').replace('"val"', '"validation"'))
    shutil.copy(home / "videos" / "v0.mp4", home / "videos" / "v_of_the_test_set.mp4")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    weights = Weights("tiny", dict(new_encoder("tiny", 1).state_dict()), {}, {"source": "made up"})
    write_weights(tmp_path / "kinetics.safetensors", weights)
    return home


FROM_VIDEOS = [
    "encoder=tiny",
    "class_scores=null",
    "released.kinetics=kinetics.safetensors",
    "released.tac=null",
    "released.tsp=null",
    "pretrain.tsp.shortest_gap_clips=1",
    "pretrain.tac.fit.epochs=1",
    "pretrain.tsp.fit.epochs=1",
    "extract.stride_frames=6",
]


def test_the_recipe_runs_from_videos_to_its_table_and_goes_on(filmed):
    result = recipe("activitynet-tal", "out", "tal", "gtad", *FROM_VIDEOS)
    assert result.exit_code == 0, result.stderr
    text, found, _ = table("out")
    assert "TAC on ActivityNet: features extracted after pretraining here." in text
    assert "TAC on Kinetics: features extracted with weights from a file." in text
    assert all("—" not in found[name][:4] for name in ("TAC on Kinetics", "TAC on ActivityNet", "TSP on ActivityNet"))
    with h5py.File("out/features/tsp/features.h5") as file:
        assert len(file) == 5, "videos of no split are not extracted"
    record = json.loads(Path("out/pretrain/tsp/record.json").read_text())
    assert record["settings"]["splits"] == {"training": "training", "validation": "validation"}
    # The frozen initial encoder's features are the row's and the global feature's.
    assert sorted(path.name for path in Path("out/features").iterdir()) == ["kinetics", "tac", "tsp"]
    again = recipe("activitynet-tal", "out", "tal", "gtad", *FROM_VIDEOS, "pretrain.tsp.fit.workers=0")
    assert again.exit_code == 0
    assert ": 1/" not in again.stderr, "who prepares batches changes no result"
    assert table("out")[0] == text


def test_another_split_is_another_pretraining(filmed):
    small = ["--set", "fit.epochs=1", "--out", "runs"]
    command = ["pretrain", "--dataset", "activitynet", "--method", "tac", "--encoder", "tiny", *small]
    assert run(*command).exit_code == 0
    before = Path("runs/pretrain/tac/record.json").read_bytes()
    assert run(*command).exit_code == 0
    assert Path("runs/pretrain/tac/record.json").read_bytes() == before
    card = 'name = "activitynet"\nannotations = "annotations.json"\n[splits]\ntraining = "validation"\n'
    (filmed / "dataset.toml").write_text(card + 'validation = "training"\n')
    assert run(*command).exit_code == 0
    assert Path("runs/pretrain/tac/record.json").read_bytes() != before


def test_initial_weights_that_are_not_there_say_how_to_get_them(filmed):
    command = ["pretrain", "--dataset", "activitynet", "--method", "tac", "--encoder", "r2plus1d_34", "--out", "runs"]
    assert_one_sentence(run(*command, "--init", "r2plus1d_34-tac_on_kinetics"), "tspbench fetch r2plus1d_34-tac_on")
    assert_one_sentence(run(*command), "r2plus1d_34-tac_on_kinetics", "--init")


def test_weights_of_another_encoder_than_the_recipes_are_refused(filmed):
    assert_one_sentence(run("check", "activitynet-tal", "--set", "encoder=r2plus1d_18"), "released.", "r2plus1d_34")
