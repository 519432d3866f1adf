from dataclasses import replace

import pytest

from tests.tspbench.helpers import names, one_sentence
from tspbench.storage.hashes import hash_file
from tspbench.storage.records import Record, claim, fingerprint, outputs_are_whole, read_record, write_record

RECORD = Record(
    stage="score",
    status="finished",
    fingerprint="abc",
    settings={"protocol": "activitynet"},
    inputs={"annotations": "1"},
    outputs={"out.bin": "2"},
    figures={"metrics": {"average_mAP": 0.25}, "counts": [1, 2]},
    seconds=1.5,
    provenance={"packages": {"torch": "2"}},
)


def test_a_record_comes_back(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert names(tmp_path) == ["record.json"]


def test_an_unfinished_stage_has_no_record(tmp_path):
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None


def test_a_record_of_another_format_is_none(tmp_path):
    write_record(tmp_path, replace(RECORD, format="tspbench record 0"))
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"null", b'{"format": "tspbench record 1", "stage": "x"}', b"\xff"]
)
def test_what_is_no_record_is_one_sentence(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with one_sentence(tmp_path / "record.json", "not a record", "remove it"):
        read_record(tmp_path)


def test_the_fingerprint_follows_everything_that_decides_the_result():
    base = ("train", {"epochs": 1}, {"features": "a"}, "0.1.0")
    changed = [("score", *base[1:]), (base[0], {"epochs": 2}, *base[2:]), (*base[:2], {"features": "b"}, base[3])]
    changed.append((*base[:3], "0.2.0"))
    assert len({fingerprint(*key) for key in (base, *changed)}) == 5
    assert fingerprint("s", {"a": 1, "b": 2}, {}, "v") == fingerprint("s", {"b": 2, "a": 1}, {}, "v")


def test_outputs_are_whole_only_as_they_were_written(tmp_path):
    (tmp_path / "out.bin").write_bytes(b"whole")
    record = replace(RECORD, outputs={"out.bin": hash_file(tmp_path / "out.bin")})
    assert outputs_are_whole(tmp_path, record)
    (tmp_path / "out.bin").write_bytes(b"cut")
    assert not outputs_are_whole(tmp_path, record)
    (tmp_path / "out.bin").unlink()
    assert not outputs_are_whole(tmp_path, record)


def test_a_folder_is_claimed_for_one_work_at_a_time(tmp_path):
    folder = tmp_path / "data"
    claim(folder, "key 1")
    (folder / "partial").write_text("half")
    claim(folder, "key 1")
    assert (folder / "partial").exists()  # the same work goes on
    claim(folder, "key 2")
    assert names(folder) == ["work.txt"]  # other work starts anew
    assert names(tmp_path) == ["data"]


def test_a_folder_with_files_of_somebody_is_not_claimed(tmp_path):
    (tmp_path / "mine.mp4").write_bytes(b"precious")
    with one_sentence(tmp_path, "choose another --out"):
        claim(tmp_path, "key")
    assert names(tmp_path) == ["mine.mp4"]
