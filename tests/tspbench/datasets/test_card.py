"""What a data set's card says, and what is told to whose card lacks something."""

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.datasets import open_dataset
from tspbench.storage.recipes import write_toml


def card(folder, **entries):
    write_toml(folder / "dataset.toml", {"name": "mine", **entries})
    return open_dataset(str(folder))


def test_a_set_for_captioning_alone_needs_no_annotations(tmp_path):
    dataset = card(tmp_path, captions={"training": ["train.json"], "validation": ["val_1.json", "val_2.json"]})
    assert dataset.captions("training") == (tmp_path / "train.json",)
    assert dataset.captions("validation") == (tmp_path / "val_1.json", tmp_path / "val_2.json")
    with one_sentence("dataset.toml", '"annotations"'):
        _ = dataset.annotations


@pytest.mark.parametrize("captions", [{}, {"validation": []}])
def test_a_set_without_captions_says_what_to_add(tmp_path, captions):
    dataset = card(tmp_path, annotations="a.json", captions=captions)
    assert dataset.annotations == tmp_path / "a.json"
    with one_sentence("dataset.toml", "'validation'", "[captions]"):
        dataset.captions("validation")


def test_an_unknown_protocol_or_split_names_the_nearest(tmp_path):
    with one_sentence("dataset.toml", "did you mean 'activitynet'?"):
        card(tmp_path, annotations="a.json", protocol="activitynets")
    dataset = card(tmp_path, annotations="a.json", splits={"training": "train"})
    with one_sentence("'validation'"):
        dataset.subset("validation")
