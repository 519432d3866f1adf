import dataclasses
import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights
from torchvision.models.video import R2Plus1D_18_Weights, R3D_18_Weights

from tests.tspbench.helpers import one_sentence
from tspbench.storage.catalog import CATALOG, DATA_VARIABLE, data_root, find, is_known

GVF = Path(__file__).parents[4] / "shared/data/thumos14/r2plus1d_34-max_gvf.h5"
ENTRIES = list(CATALOG.values())
# The list of released models in the README of TSP's extract_features.
TSP_CHECKPOINTS = {
    "r2plus1d_34-tsp_on_activitynet": "0d2cf854",
    "r2plus1d_34-tsp_on_thumos14": "e6a30b2f",
    "r2plus1d_34-tac_on_activitynet": "98ccac94",
    "r2plus1d_34-tac_on_thumos14": "54b5c8aa",
    "r2plus1d_34-tac_on_kinetics": "0547130e",
    "r2plus1d_34-tsp_on_activitynet-avg_gvf": "8b74eaa2",
    "r2plus1d_34-tsp_on_activitynet-no_gvf": "fb38fdd2",
    "r2plus1d_18-tsp_on_activitynet": "22835b73",
    "r2plus1d_18-tac_on_activitynet": "9f56941a",
    "r2plus1d_18-tac_on_kinetics": "76ce975c",
    "r3d_18-tsp_on_activitynet": "85584422",
    "r3d_18-tac_on_activitynet": "31fd6e95",
    "r3d_18-tac_on_kinetics": "dcd952c6",
}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Make an empty data root."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def put(name):
    """Put something where the file of an entry belongs."""
    path = CATALOG[name].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return path


def test_the_data_root_is_the_variable_or_a_folder_of_the_working_directory(data, monkeypatch):
    assert data_root() == data
    for unset in (lambda: monkeypatch.setenv(DATA_VARIABLE, ""), lambda: monkeypatch.delenv(DATA_VARIABLE)):
        unset()
        assert data_root() == Path("data")


@pytest.mark.parametrize("entry", ENTRIES, ids=list(CATALOG))
def test_every_entry_is_well_formed(entry, data):
    assert CATALOG[entry.name] is entry
    assert re.fullmatch(r"[a-z0-9_-]+", entry.name)
    assert entry.kind in {"weights", "features", "global features", "annotations", "class scores", "proposals"}
    folder = PurePosixPath(entry.folder)
    assert not folder.is_absolute()
    assert ".." not in folder.parts
    assert folder.parts
    assert PurePosixPath(entry.file).name == entry.file
    assert entry.path == data / entry.folder / entry.file
    assert entry.licence
    assert entry.source
    if entry.address is None:
        assert entry.by_hand
    else:
        address = urlsplit(entry.address)
        assert address.scheme == "https"
        assert address.hostname
        assert PurePosixPath(address.path).name == entry.file
        assert not entry.by_hand
    assert entry.bytes is None or entry.bytes > 0
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)


def test_no_two_entries_share_a_place_or_an_address():
    assert len({entry.path for entry in ENTRIES}) == len(ENTRIES)
    addresses = [entry.address for entry in ENTRIES if entry.address]
    assert len(set(addresses)) == len(addresses)
    # A file name may not be the name of another entry.
    assert not {entry.file for entry in ENTRIES} & set(CATALOG)


def test_the_digits_in_the_names_of_weights_start_their_checksums():
    for entry in ENTRIES:
        digits = re.search(r"-([0-9a-f]{8})\.pth$", entry.file)
        assert (digits is not None) == (entry.kind == "weights" and entry.name != "tsm_50-kinetics400")
        if digits:
            assert entry.sha256 == digits[1]


def test_the_13_checkpoints_of_tsp_are_there():
    releases = "https://github.com/HumamAlwassel/TSP/releases/download/model_weights/"
    found = {entry.name: entry.sha256 for entry in ENTRIES if (entry.address or "").startswith(releases)}
    assert found == TSP_CHECKPOINTS
    assert all(CATALOG[name].file.startswith(name) for name in TSP_CHECKPOINTS)


def test_the_released_features_are_there():
    splits = {"activitynet": ("train", "valid", "test"), "thumos14": ("valid", "test")}
    names = {f"r2plus1d_34-tsp_on_{data}-{split}_features" for data in splits for split in splits[data]}
    assert {entry.name for entry in ENTRIES if entry.kind == "features"} == names
    for name in names:
        entry = CATALOG[name]
        dataset = entry.folder.removesuffix("/features")
        assert f"tsp_on_{dataset}-" in name
        assert entry.address == (f"https://github.com/HumamAlwassel/TSP/releases/download/{dataset}_features/{name}.h5")


def test_the_weights_of_torchvision_are_those_of_torchvision():
    assert CATALOG["r2plus1d_18-kinetics400"].address == R2Plus1D_18_Weights.KINETICS400_V1.url
    assert CATALOG["r3d_18-kinetics400"].address == R3D_18_Weights.KINETICS400_V1.url
    for layers, weights in ((18, ResNet18_Weights), (34, ResNet34_Weights), (50, ResNet50_Weights)):
        entry = CATALOG[f"tsm_{layers}-imagenet"]
        assert entry.address == weights.IMAGENET1K_V1.url
        assert "IMAGENET" in entry.source


def test_the_global_features_of_thumos14_are_those_of_the_copy():
    if not GVF.exists():
        pytest.skip(f"{GVF} is not there")
    entry = CATALOG["thumos14-max_gvf"]
    content = GVF.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)


def test_what_is_by_hand_names_what_can_be_fetched():
    for entry in ENTRIES:
        for name in re.findall(r"`tspbench fetch (\S+)`", entry.by_hand):
            assert CATALOG[name].address


def test_entries_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ENTRIES[0].address = "https://example.org"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_that_exists_is_found_as_it_is(tmp_path, kind):
    (tmp_path / "there").touch()
    assert find(kind("there")) == Path("there")
    assert find(kind(tmp_path)) == tmp_path


def test_an_entry_on_disk_is_found_by_name_and_by_file_name():
    path = put("r3d_18-kinetics400")
    assert find("r3d_18-kinetics400") == path
    assert find("r3d_18-b3b3357e.pth") == path
    assert find(Path("r3d_18-b3b3357e.pth")) == path


def test_a_path_that_exists_goes_before_a_name(tmp_path):
    put("r3d_18-kinetics400")
    (tmp_path / "r3d_18-kinetics400").touch()
    assert find("r3d_18-kinetics400") == Path("r3d_18-kinetics400")


def test_a_folder_that_is_brought_by_hand_is_found(data):
    (data / "thumos14" / "annotations").mkdir(parents=True)
    assert find("thumos14-annotations") == data / "thumos14" / "annotations"


@pytest.mark.parametrize("name", ["r3d_18-kinetics400", "r3d_18-b3b3357e.pth"])
def test_an_entry_that_is_not_on_disk_comes_with_the_command_that_fetches_it(data, name):
    with one_sentence(
        f"{name} is missing", data / "weights/r3d_18-b3b3357e.pth", "`tspbench fetch r3d_18-kinetics400`"
    ):
        find(name)


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if not entry.address])
def test_an_entry_that_cannot_be_fetched_comes_with_what_to_do(name):
    with one_sentence(f"{name} is missing, it was expected at {CATALOG[name].path}: {CATALOG[name].by_hand} there."):
        find(name)


def test_an_unknown_name_is_told_with_the_nearest():
    with one_sentence("'r3d_18-kinetics' is neither", "did you mean 'r3d_18-kinetics400'?"):
        find("r3d_18-kinetics")
    with one_sentence("'features/mine.h5' is neither a path that exists nor a name that can be fetched: give one."):
        find("features/mine.h5")


def test_a_file_name_of_several_entries_is_told_with_their_names():
    put("thumos14-max_gvf")
    with one_sentence("activitynet-max_gvf and of thumos14-max_gvf", "give one"):
        find("r2plus1d_34-max_gvf.h5")


def test_train_json_is_not_taken_for_that_of_activitynet_captions():
    put("activitynet-captions-train")
    with one_sentence("'train.json' is neither"):
        find("train.json")


def test_names_are_known_and_file_names_are_not(tmp_path):
    (tmp_path / "there").touch()
    assert all(is_known(name) for name in CATALOG)
    assert not any(map(is_known, ("there", "r3d_18", "train.json", "", "r3d_18-b3b3357e.pth")))
