"""Of several ways to the features of an encoder the shortest is taken; what is missing is said, with every way."""

import json

import pytest

from tests.tspbench.helpers import numbered_video
from tspbench.plan import features_folder, planned_stages
from tspbench.recipe import TRAINED_ON, read_recipe
from tspbench.sources import TOLD, Source, Sources
from tspbench.storage.catalog import CATALOG, DATA_VARIABLE, data_root
from tspbench.storage.recipes import write_toml

TSP = "r2plus1d_34-tsp_on_activitynet"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Make an empty data root."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "activitynet"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something")
    return path


def annotate(home):
    video = {"duration": 4.0, "subset": "training", "annotations": [{"segment": [1, 2], "label": "A"}]}
    database = {"a": video, "b": {**video, "subset": "validation"}}
    home.mkdir(parents=True, exist_ok=True)
    (home / "annotations.json").write_text(json.dumps({"database": database}))


def film(home):
    numbered_video(home / "videos" / "v_a.mp4", 12)


def features(home, model=TSP):
    return [touch(home / "features" / f"{model}-{split}_features.h5") for split in ("train", "valid")]


def of(name="tsp", *changes):
    return Sources(read_recipe("activitynet-tal", changes)).features(name)


def verbs(*changes):
    recipe = read_recipe("activitynet-tal", changes)
    return [f"{verb} {folder}" for verb, folder in planned_stages(recipe, Sources(recipe)) if verb != "check features"]


def test_with_nothing_there_every_way_is_told():
    source = of()
    assert source.how == "pretraining"
    assert len(source.ways) == 3
    features_way, weights_way, pretraining_way = source.ways
    assert f"tspbench fetch {TSP}-train_features" in features_way
    assert "--set features.tsp=FILE.h5,FILE.h5" in features_way
    assert f"tspbench fetch {TSP}`" in weights_way
    assert "--set data.videos=FOLDER" in weights_way
    assert "tspbench fetch r2plus1d_34-tac_on_kinetics" in pretraining_way


def test_features_that_nobody_released_cannot_be_fetched():
    assert "fetch" not in of("tac").ways[0]


def test_released_features_on_disk_are_taken_first(data):
    files = features(data)
    touch(CATALOG[TSP].path)
    annotate(data)
    film(data)
    source = of()
    assert (source.how, list(source.files), source.ways) == ("released features", files, ())


def test_one_of_two_released_files_is_not_enough(data):
    features(data)[1].unlink()
    assert of().ways


def test_released_weights_come_before_pretraining(data):
    annotate(data)
    film(data)
    touch(CATALOG[TSP].path)
    assert (of().how, of().ways) == ("weights", ())
    assert of("tac").how == "pretraining"
    assert "pretrain pretrain/tsp" not in verbs()
    assert "extract features/tsp" in verbs()


def test_weights_without_videos_ask_for_videos_or_features():
    touch(CATALOG[TSP].path)
    source = of()
    assert source.how == "weights"
    assert len(source.ways) == 2
    assert "annotated videos of activitynet" in source.ways[1]
    assert "fetch" not in source.ways[1]


def test_the_pretraining_runs_where_videos_and_initial_weights_are_there(data):
    annotate(data)
    film(data)
    touch(CATALOG["r2plus1d_34-tac_on_kinetics"].path)
    assert (of().how, of().ways) == ("pretraining", ())
    # The frozen initial encoder's features are the row's and the global feature's at once.
    assert [line for line in verbs() if line.startswith(("extract", "pretrain"))] == [
        "pretrain pretrain/tac",
        "extract features/kinetics",
        "pretrain pretrain/tsp",
        "extract features/tac",
        "extract features/tsp",
    ]


def test_videos_elsewhere_are_found(data, tmp_path):
    annotate(data)
    film(tmp_path / "my")
    touch(CATALOG[TSP].path)
    assert of().ways
    assert of("tsp", f"data.videos={tmp_path / 'my' / 'videos'}").ways == ()


def test_files_that_the_recipe_names_are_taken_as_they_are(tmp_path):
    one, two = touch(tmp_path / "a.h5"), tmp_path / "b.h5"
    source = of("tsp", f"features.tsp={one},{two}")
    assert source.how == "given"
    assert source.ways == (f"the file {two}, which features.tsp names",)
    touch(two)
    assert of("tsp", f"features.tsp={one},{two}").ways == ()


def test_nothing_is_extracted_or_trained_for_features_that_are_there(data):
    for model in ("r2plus1d_34-tac_on_kinetics", "r2plus1d_34-tac_on_activitynet", TSP):
        features(data, model)
    annotate(data)
    assert [line for line in verbs() if line.startswith(("extract", "pretrain"))] == []


def test_torchvision_has_weights_of_two_encoders():
    sources = Sources(read_recipe("ablation-encoders", []))
    assert sources.weights("kinetics-r3d_18").how == "torchvision"
    assert sources.weights("kinetics-r2plus1d_34").how == "weights"
    assert sources.encoder("tac-r2plus1d_18") == sources.encoder("kinetics-r2plus1d_18") == "r2plus1d_18"


OWN = {
    "name": "mine",
    "title": "Mine",
    "encoder": "tsm_18",
    "data": {"target": "synthetic"},
    "pretrain": {},
    "tasks": {"tal": {"name": "gtad"}},
}


def tsm(tmp_path, features, *changes):
    write_toml(tmp_path / "mine.toml", {**OWN, "rows": [{"name": "row", "features": features}]})
    return Sources(read_recipe(str(tmp_path / "mine.toml"), changes))


@pytest.mark.parametrize("encoder", ["tsm_18", "tsm_34", "tsm_50"])
def test_torchvision_has_imagenet_weights_of_tsm_and_they_are_not_called_kinetics(tmp_path, encoder):
    sources = tsm(tmp_path, "imagenet", f"encoder={encoder}")
    assert sources.features("imagenet") == Source("torchvision")
    assert "Kinetics" not in TOLD["torchvision"]
    kinetics = sources.features("kinetics")
    assert kinetics.how == "weights"
    assert f"kinetics weights of {encoder}, which torchvision does not publish" in kinetics.ways[1]
    assert "--set released.kinetics=FILE" in kinetics.ways[1]
    assert "--init FILE" in kinetics.ways[1]
    assert "those it publishes are called 'imagenet'" in kinetics.ways[1]
    # Of one of them there are weights elsewhere, which are not taken unasked.
    assert ("tsm_50-kinetics400" in kinetics.ways[1]) == (encoder == "tsm_50")


def test_kinetics_weights_of_tsm_are_a_file_of_the_users(tmp_path):
    file = touch(tmp_path / "mine.pth")
    sources = tsm(tmp_path, "kinetics", f"released.kinetics={file}")
    assert sources.features("kinetics") == Source("weights")
    assert sources.weights("kinetics").files == (file,)
    assert sources.weights("imagenet").how == "torchvision"


def test_there_are_no_imagenet_weights_of_other_encoders(tmp_path):
    sources = tsm(tmp_path, "imagenet", "encoder=r3d_18")
    assert sources.weights("kinetics").how == "torchvision"
    (way,) = sources.weights("imagenet").ways
    assert "imagenet weights of r3d_18, which torchvision does not publish" in way
    assert "called 'kinetics'" in way
    assert "called" not in tsm(tmp_path, "imagenet", "encoder=tiny").weights("imagenet").ways[0]


def test_features_of_both_words_have_folders_of_their_own(tmp_path):
    recipe = read_recipe("activitynet-tal", [])
    assert [features_folder(recipe, word, "target") for word in TRAINED_ON] == [
        "features/kinetics",
        "features/imagenet",
    ]


def test_the_demo_needs_nothing_and_pretrains_everything():
    recipe = read_recipe("demo", [])
    sources = Sources(recipe)
    assert sources.pretrainings() == ["trimmed", "tac", "tsp"]
    assert all(sources.features(row.features).ways == () for row in recipe.rows)


def test_a_trial_and_files_elsewhere_are_the_targets_alone(data):
    annotate(data)
    annotate(data_root() / "thumos14")
    other = data_root() / "thumos14" / "annotations.json"
    other.write_text(other.read_text().replace("validation", "test").replace("training", "validation"))
    sources = Sources(read_recipe("transfer", ["trial.training=1", "data.videos=here"]))
    assert dict(sources.dataset("target").trial) == {"training": 1}
    assert sources.dataset("target").videos.name == "here"
    assert dict(sources.dataset("thumos14").trial) == {}
    assert sources.dataset("thumos14").videos.name == "videos"


def test_captions_are_of_the_videos_whose_actions_are_learnt(data):
    """The frozen encoder's features are extracted once for both."""
    annotate(data)
    film(data)
    touch(CATALOG["r2plus1d_34-tac_on_kinetics"].path)
    for name in ("train", "val_1", "val_2"):
        touch(data_root() / "activitynet-captions" / f"{name}.json")
    recipe = read_recipe("activitynet-captioning", [])
    sources = Sources(recipe)
    assert sources.shares_videos("actions")
    extracted = [folder for verb, folder in planned_stages(recipe, sources) if verb == "extract"]
    assert extracted == ["features/kinetics", "features/tac", "features/tsp"]
