import h5py
import numpy as np
import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.storage.features import FeatureFiles
from tspbench.video_names import known_name, other_name


@pytest.mark.parametrize(("name", "other"), [("a", "v_a"), ("v_a", "a"), ("v_v_a", "v_a"), ("va", "v_va")])
def test_the_other_name_has_the_prefix_or_lacks_it(name, other):
    assert other_name(name) == other


def test_a_name_is_preferred_to_the_other():
    assert known_name("a", {"a", "v_a"}) == "a"
    assert known_name("v_a", {"a", "v_a"}) == "v_a"
    assert known_name("a", {"v_a"}) == "v_a"
    assert known_name("v_a", {"a"}) == "a"
    assert known_name("v_a", {"v_v_a"}) == "v_v_a"
    assert known_name("a", {"b", "v_v_a"}) is None


def test_features_are_found_by_either_name_and_listed_by_their_own(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for k, name in enumerate(("v_one", "two", "v_v_x")):
            file[name] = np.full((2, 3), k, dtype=np.float32)
    files = FeatureFiles([tmp_path / "f.h5"])
    assert files.videos == {"v_one", "two", "v_v_x"}
    assert [name in files for name in ("one", "v_one", "two", "v_two", "v_x", "x")] == [True] * 5 + [False]
    assert [files.rows(name)[0, 0] for name in ("one", "v_two", "v_x")] == [0, 1, 2]
    assert files.count("one") == 2
    with one_sentence("'x'"):
        files.rows("x")
