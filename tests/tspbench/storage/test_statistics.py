import json
import math
import zipfile
from dataclasses import dataclass, fields

import numpy as np
import pytest

import evaluation
from evaluation import DETECTION_PROTOCOLS, METRICS, PROPOSAL_PROTOCOLS, Metric, VideoSet
from evaluation.protocols import CAPTIONING_PROTOCOLS, CaptioningProtocol
from evaluation.segments import Floats, Integers
from tests.evaluation.helpers import predicted, truth
from tests.tspbench.helpers import cut, full_disk, names, one_sentence
from tspbench.storage.statistics import read_statistics, write_statistics

TRUTH = truth([("v1", "run", 0, 10), ("ビデオ", "jump", 5, 6)], videos=["v1", "ビデオ", "empty"])
PREDICTIONS = predicted([("v1", "run", 0, 5, 0.9), ("ビデオ", "run", 5, 6, 0.8), ("elsewhere", "jump", 0, 1, 0.7)])


def of(task, protocol):
    return METRICS[task].statistics(TRUTH, PREDICTIONS, protocol)


def assert_same(found, expected):
    assert type(found) is type(expected)
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert type(ours) is type(theirs)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
        np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("task", "protocol"),
    [("tal", protocol) for protocol in DETECTION_PROTOCOLS.values()]
    + [("proposals", protocol) for protocol in PROPOSAL_PROTOCOLS.values()],
    ids=lambda value: getattr(value, "name", value),
)
def test_statistics_come_back(tmp_path, task, protocol):
    expected = of(task, protocol)
    write_statistics(tmp_path / "s.npz", expected, "mAP|protocol")
    found = read_statistics(tmp_path / "s.npz")
    assert (found.task, found.signature) == (task, "mAP|protocol")
    assert_same(found.statistics, expected)
    assert METRICS[task].score(found.statistics).metrics() == METRICS[task].score(expected).metrics()


@dataclass(frozen=True)
class Other:
    """Statistics that no metric has: they show that new fields need no change."""

    protocol: CaptioningProtocol
    videos: tuple[str, ...]
    values: Floats
    counts: Integers
    nothing: tuple[str, ...]
    problems: dict[str, str]
    pairs: tuple[tuple[int, float], ...]
    part: VideoSet | None
    number: float


@pytest.fixture
def other(monkeypatch):
    def statistics(truth, predictions, protocol) -> Other:
        raise NotImplementedError

    monkeypatch.setitem(evaluation.METRICS, "other", Metric("other", statistics, print))
    return Other(
        CAPTIONING_PROTOCOLS["densevid-2018"],
        ("a", "'b'", 'ä\n\\"', "日本"),
        np.array([[0.1, math.nan], [math.inf, -0.0]]),
        np.zeros((0, 3), dtype=np.int64),
        (),
        {"METEOR": "no Java: \u2028install one"},
        ((1, 0.1), (2, 1e-300)),
        None,
        math.nan,
    )


def test_new_fields_need_no_change(tmp_path, other):
    write_statistics(tmp_path / "s.npz", other, "signature")
    found = read_statistics(tmp_path / "s.npz")
    assert (found.task, found.signature) == ("other", "signature")
    assert_same(found.statistics, other)
    assert math.copysign(1, found.statistics.values[1, 1]) == -1


def test_the_same_statistics_make_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_statistics(tmp_path / name, of("tal", DETECTION_PROTOCOLS["thumos14"]), "signature")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_others_can_read_the_arrays(tmp_path):
    write_statistics(tmp_path / "s.npz", of("tal", DETECTION_PROTOCOLS["thumos14"]), "signature")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert file["videos"].tolist() == ["v1", "ビデオ", "empty"]
        assert file["ground_truth_video"].tolist() == [0, 1]
        assert json.loads(str(file["protocol"]))["name"] == "thumos14"


@pytest.fixture
def stored(tmp_path):
    write_statistics(tmp_path / "s.npz", of("tal", DETECTION_PROTOCOLS["thumos14"]), "signature")
    return tmp_path / "s.npz"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_part_of_a_file_is_one_sentence(tmp_path, stored, share):
    with one_sentence("part.npz", "expected a whole file of 'tspbench statistics 1'", "score the predictions again"):
        read_statistics(cut(stored, tmp_path / "part.npz", share))


def test_a_flipped_byte_is_one_sentence(tmp_path, stored):
    content = bytearray(stored.read_bytes())
    with zipfile.ZipFile(stored) as archive:
        start = archive.getinfo("true_positive.npy").header_offset
    content[start + 80] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    with one_sentence("flipped.npz", "expected a whole file", "found a damaged one"):
        read_statistics(tmp_path / "flipped.npz")


def foreign_text(path):
    path.write_text('{"results": {}}')


def foreign_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def foreign_arrays(path):
    np.savez(path, videos=np.array(["a"]))


def foreign_about(path):
    np.savez(path, about=np.array([1, 2]))


def pickled(path):
    np.savez(path, about=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize("write", [foreign_text, foreign_array, foreign_arrays, foreign_about, pickled])
def test_another_file_is_one_sentence(tmp_path, write):
    write(tmp_path / "s.npz")
    with one_sentence(tmp_path / "s.npz", "expected a whole file of 'tspbench statistics 1'"):
        read_statistics(tmp_path / "s.npz")


def test_a_missing_file_is_one_sentence(tmp_path):
    with one_sentence("s.npz cannot be read (No such file or directory)"):
        read_statistics(tmp_path / "s.npz")
    with one_sentence(f"{tmp_path} cannot be read (Is a directory)"):
        read_statistics(tmp_path)


def rewritten(path, **changes):
    """Write a file again with other entries; None removes one."""
    with np.load(path) as file:
        entries = {**file, **changes}
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})


def about(**changes):
    return np.array(json.dumps({"format": "tspbench statistics 1", "task": "tal", "signature": "", **changes}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"about": about(format="tspbench statistics 2")},
            ["expected 'tspbench statistics 1' of a task among ", "found 'tspbench statistics 2' of 'tal'"],
        ),
        ({"about": about(task="tracking")}, ["of a task among ", "proposals, tal, found ", " of 'tracking'"]),
        ({"label": None}, ["expected the entries ", ", label, labels, ", "score the predictions again"]),
        ({"colour": np.zeros(2)}, ["expected the entries ", "found colour, "]),
        ({"about": about(task="proposals")}, ["expected the entries before, ", "found forgiven, "]),
        ({"protocol": np.array("{}")}, ["expected an entry 'protocol' as DetectionStatistics has it, "]),
        ({"protocol": np.array("{")}, ["expected an entry 'protocol' as DetectionStatistics has it, "]),
        ({"protocol": np.array('{"name": "x", "thresholds": [2], "source": ""}')}, ["an entry 'protocol' as "]),
    ],
)
def test_another_version_is_one_sentence(stored, changes, parts):
    rewritten(stored, **changes)
    with one_sentence(stored, *parts):
        read_statistics(stored)


def test_a_full_disk_keeps_the_old_file(tmp_path, stored):
    old = stored.read_bytes()
    many = truth([(f"video {number}", "run", 0, number % 17) for number in range(3000)])
    statistics = METRICS["tal"].statistics(many, predicted([]), DETECTION_PROTOCOLS["thumos14"])
    with full_disk(4096), one_sentence("s.npz cannot be written"):
        write_statistics(stored, statistics, "signature")
    assert stored.read_bytes() == old
    assert names(tmp_path) == ["s.npz"]
