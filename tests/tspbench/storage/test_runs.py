import re

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.storage.runs import Row, Run, TaskTable, read_run, write_run

ROWS = [Row("Whole video", "tal/whole-video", "a", "whole-video"), Row("TSP | max", "tal/tsp", "b", published="a-key")]
RUN = Run("A title", [TaskTable("tal", ROWS, {"seed": "0"}, "tal/comparison")], ["A note."])


def test_a_run_comes_back(tmp_path):
    write_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN


def test_a_run_from_before_published_numbers_has_none(tmp_path):
    write_run(tmp_path, RUN)
    path = tmp_path / "run.json"
    path.write_text(re.sub(r',\n *"published": "[^"]*"', "", path.read_text()))
    assert "published" not in path.read_text()
    assert [row.published for row in read_run(tmp_path).tables[0].rows] == ["", ""]


def test_a_run_of_another_version_is_one_sentence(tmp_path):
    write_run(tmp_path, RUN)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("tspbench run 3", "tspbench run 2"))
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
