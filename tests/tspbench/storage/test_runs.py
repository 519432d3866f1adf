from dataclasses import replace

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.datasets import Dataset, DatasetCard
from tspbench.storage.runs import Row, Run, TaskTable, feature_files, portable, read_run, write_run

ROWS = [Row("Whole video", "tal/whole-video", "a", "whole-video"), Row("TSP | max", "tal/tsp", "b", published="a-key")]
RUN = Run("A title", [TaskTable("tal", ROWS, {"seed": "0"}, "tal/comparison")], ["A note."])


def test_a_run_comes_back(tmp_path):
    write_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN


def test_files_below_the_folder_move_with_it(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    files = tuple(portable(here, path) for path in (here / "features" / "a.h5", tmp_path / "outside.h5"))
    write_run(here, replace(RUN, tables=[replace(RUN.tables[0], rows=[replace(ROWS[1], files=files)])]))
    here.rename(there)
    (row,) = read_run(there).tables[0].rows
    assert feature_files(there, row) == [there / "features" / "a.h5", tmp_path / "outside.h5"]


def test_the_data_set_of_a_run_opens_again(tmp_path):
    card = DatasetCard(name="mine", annotations="a.json", protocol="thumos14", captions={"training": ["c.json"]})
    inside, outside = Dataset(tmp_path / "data" / "mine", card, {"training": 3}), Dataset(tmp_path.parent / "d", card)
    for dataset in (inside, outside):
        write_run(tmp_path, replace(RUN, dataset=dataset.for_run(tmp_path)))
        assert Dataset.of_run(tmp_path, read_run(tmp_path).dataset) == dataset
    assert inside.for_run(tmp_path)["folder"] == "data/mine"


def test_a_run_of_another_version_is_one_sentence(tmp_path):
    write_run(tmp_path, RUN)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("tspbench run 4", "tspbench run 3"))
    with one_sentence(path, "another version"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with one_sentence(folder, "is not a run", "run.json"):
            read_run(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tables": 3}', b'{"tables": [{"rows": 3}]}', b"null"])
def test_a_manifest_that_does_not_fit_is_one_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with one_sentence(tmp_path / "run.json", "not a run's manifest"):
        read_run(tmp_path)
