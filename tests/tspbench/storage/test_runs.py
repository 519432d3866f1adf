import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.storage.runs import Row, Run, read_run, write_run

RUN = Run("tal", "A title", [Row("TSP | max", "rows/tsp-max"), Row("TAC", "rows/tac")], {"seed": "0"}, ["A note."])


def test_a_run_comes_back(tmp_path):
    write_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with one_sentence(folder, "is not a run", "run.json"):
            read_run(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"rows": 3}', b'{"rows": [{"title": "x"}]}', b"null"])
def test_a_manifest_that_does_not_fit_is_one_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with one_sentence(tmp_path / "run.json", "not a run's manifest"):
        read_run(tmp_path)
