"""Published numbers: strictly read, scored by known protocols, and each one confirmed by the fact sheet."""

import re
from decimal import Decimal
from functools import cache

import pytest

from evaluation.protocols import PROTOCOLS, DetectionProtocol, ProposalProtocol
from evaluation.video_sets import VIDEO_SETS
from tests.evaluation.helpers import shared
from tests.tspbench.helpers import one_sentence
from tspbench.encoders import ENCODERS
from tspbench.recipe import read_recipe
from tspbench.storage.published_numbers import published, published_of, published_rows, read_published

ROWS = published_rows()
CELLS = [(key, metric) for key, row in ROWS.items() for metric in row.metrics]
NUMBER = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.]*\d)")

ONE = """
[[row]]
key = "a-key"
dataset = "thumos14"
task = "tal"
localizer = "gtad"
features = "plain"
protocol = "thumos14"
mark = "C2"
source = "A paper."
metrics = { "mAP@0.50" = "43.2", average_mAP = { value = "40.10", mark = "10.1", source = "Another." } }
"""


def test_a_cell_has_mark_and_source_of_its_own_or_those_of_its_row(tmp_path):
    (tmp_path / "p.toml").write_text(ONE)
    row = read_published(tmp_path / "p.toml")["a-key"]
    cells = {metric: (cell.value, cell.mark, cell.source) for metric, cell in row.cells.items()}
    assert cells == {"mAP@0.50": ("43.2", "C2", "A paper."), "average_mAP": ("40.10", "10.1", "Another.")}
    assert (row.part, row.video_set) == ("", "")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('"43.2"', "43.2", ["mAP@0.50"]),  # a number would lose its decimals
        ('"43.2"', '"143.2"', ["mAP@0.50"]),
        ('"43.2"', '"43"', ["mAP@0.50"]),
        ('"C2"', '"REC"', ["mark", "'REC'"]),
        ('"10.1", source', '"DER", source', ["average_mAP"]),
        ('source = "A paper."\n', "", ["source", "missing"]),
        ('"thumos14"\ntask', '"hacs"\ntask', ["dataset", "'hacs'"]),
        ("features", "feature", ["'row.0.feature' is not a known key", "did you mean 'features'"]),
        ('"a-key"', '"A key"', ["key", "'A key'"]),
        ("metrics = {", "metrics = {}\nnone = {", ["metrics"]),
        (ONE, ONE + ONE, ["two rows have the key 'a-key'"]),
        (ONE, "rows = []", ["'rows' is not a known key", "did you mean 'row'"]),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, old, new, parts):
    assert old in ONE
    path = tmp_path / "p.toml"
    path.write_text(ONE.replace(old, new, 1))
    with one_sentence(path, *parts):
        read_published(path)


def test_an_unknown_key_is_one_sentence():
    assert published("tsp-activitynet-gtad").cells["average_mAP"].value == "35.81"
    with one_sentence("'tsp-activitynet-gtat'", "did you mean 'tsp-activitynet-gtad'"):
        published("tsp-activitynet-gtat")


@pytest.mark.parametrize("key", ROWS)
def test_a_row_is_of_a_known_protocol_and_its_metrics(key):
    row = ROWS[key]
    protocol = PROTOCOLS[row.task][row.protocol]
    if isinstance(protocol, DetectionProtocol):
        known = {"average_mAP", *(f"mAP@{threshold:.2f}" for threshold in protocol.thresholds)}
    elif isinstance(protocol, ProposalProtocol):
        known = {"AUC", *(f"AR@{number}" for number in protocol.shown)}
    else:
        known = {"METEOR", "BLEU@3", "BLEU@4"}
    assert row.metrics.keys() <= known
    assert not row.video_set or row.video_set in VIDEO_SETS
    assert bool(row.part) == (row.task == "captioning")
    assert all(cell.source.endswith(".") for cell in row.cells.values())


@pytest.mark.parametrize("key", ROWS)
def test_mean_and_order_of_a_row_are_plausible(key):
    row = ROWS[key]
    values = {metric: Decimal(cell.value) for metric, cell in row.cells.items()}
    at = [value for metric, value in sorted(values.items()) if metric.startswith("mAP@")]
    assert at == sorted(at, reverse=True)  # a higher tIoU is harder
    if row.dataset == "thumos14" and "average_mAP" in values:  # the mean of the five that are there
        assert len(at) == 5
        assert abs(sum(at) / 5 - values["average_mAP"]) < Decimal("0.1")


# The fact sheet: marks C1 and C2 stand in the line of a number, section 10.1 may be printed, section 9 may not.


@cache
def facts():
    return shared("FACTS.md").read_text("utf-8")


def numbers(text):
    return {Decimal(number) for number in NUMBER.findall(text)}


def section(start, end):
    return facts().partition(f"\n{start}")[2].partition(f"\n{end}")[0]


@pytest.mark.parametrize("key", ROWS)
def test_the_numbers_of_a_row_are_in_one_line_of_the_fact_sheet_with_their_mark(key):
    told = section("### 10.1", "### 10.2")
    assert "may be printed" in told
    lofi = section("### 2.2", "## 3.").splitlines()  # which says of all its lines at once that they are C1
    assert "All below C1" in section("## 2. LoFi", "### 2.1")
    by_mark = {}
    for cell in ROWS[key].cells.values():
        by_mark.setdefault(cell.mark, set()).add(Decimal(cell.value))
    for mark, values in by_mark.items():
        allowed = told if mark == "10.1" else facts()
        lines = [line for line in allowed.splitlines() if values <= numbers(line)]
        assert lines, (mark, values)
        known = [line for line in lines if re.search(rf"\b{mark}\b", line) or (mark == "C1" and line in lofi)]
        assert mark == "10.1" or known, lines


@pytest.mark.parametrize("key", [key for key in ROWS if key.startswith("lofi-")])
def test_a_row_of_lofi_says_what_was_read_and_claims_no_videos(key):
    row = ROWS[key]
    assert "anonymous submission" in row.source
    assert "anonymous NeurIPS-2021 submission" in facts()
    assert not row.video_set
    table = re.search(r"tables? (\d)", row.source)[1]
    values = {Decimal(cell.value) for cell in row.cells.values()}
    lines = [line for line in section("### 2.2", "## 3.").splitlines() if values <= numbers(line)]
    assert any(f"T{table}" in line.rpartition("| ")[2] for line in lines), lines


def test_rows_of_lofi_tell_the_encoder_that_is_in_their_names():
    names = {"TSM-R18": "tsm_18", "TSM-R34": "tsm_34", "TSM-R50": "tsm_50", "R(2+1)D-18": "r2plus1d_18"}
    for key in [key for key in ROWS if key.startswith("lofi-")]:
        assert ROWS[key].encoder == names[ROWS[key].features.rpartition(", ")[2]], key
        assert ROWS[key].encoder in ENCODERS


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("tsm_34", {"Kinetics (ACP)": "lofi-acp-tsm34", "LoFi, long cycle": "lofi-long-cycle-tsm34"}),
        ("tsm_50", {"Kinetics (ACP)": "lofi-acp-tsm50", "LoFi, long cycle": "lofi-long-cycle-tsm50"}),
        ("r2plus1d_18", {"Kinetics (ACP)": "lofi-acp-r2plus1d18", "T-LoFi": "lofi-temporal-r2plus1d18"}),
        ("r3d_18", {}),
    ],
)
def test_numbers_of_another_encoder_stand_beside_no_row(encoder, expected):
    rows = {row.name: row.published for row in read_recipe("activitynet-lofi", []).rows}
    assert {name: published_of(keys, "tsm_18") for name, keys in rows.items()} == rows
    found = {name: published_of(keys, encoder) for name, keys in rows.items()}
    assert {name: keys["tal"] for name, keys in found.items() if keys} == expected


def test_a_published_row_that_names_no_encoder_stands_beside_any():
    key = next(key for key, row in ROWS.items() if not row.encoder)
    assert published_of({"tal": key}, "tiny") == {"tal": key}


def test_the_rows_of_lofi_are_in_the_order_of_the_paper():
    """Every kind of LoFi is better than a frozen encoder of Kinetics, which is better than one of ImageNet."""
    mean = {key: Decimal(row.cells["average_mAP"].value) for key, row in ROWS.items() if key.startswith("lofi-")}
    assert mean["lofi-icp"] < mean["lofi-acp"] < mean["lofi-acp-plus"] < mean["lofi-spatial"]
    assert mean["lofi-spatial"] < mean["lofi-temporal"] < mean["lofi-short-cycle"] < mean["lofi-long-cycle"]
    for kind in ("-tsm34", "-tsm50"):
        assert mean[f"lofi-acp{kind}"] < mean[f"lofi-long-cycle{kind}"]


@pytest.mark.parametrize(("key", "metric"), CELLS)
def test_no_number_is_on_the_list_of_those_not_to_print(key, metric):
    recalled = section("## 9", "## 10").partition("2. REC values:")[2].partition("\n3.")[0]
    assert {Decimal("76.63"), Decimal("4.16"), Decimal("3.84")} <= numbers(recalled)
    cell = ROWS[key].cells[metric]
    # Four of them may be printed after all, as section 10.1 has them, and only so.
    assert cell.mark == "10.1" or Decimal(cell.value) not in numbers(recalled)


@pytest.mark.parametrize(("key", "metric"), CELLS)
def test_no_row_of_tsp_is_from_opentad(key, metric):
    lines = [line for line in facts().splitlines() if line.startswith("| OpenTAD")]
    theirs = numbers("\n".join([section("### 6.3", "## 7"), *lines]))
    assert {Decimal("52.33"), Decimal("68.47")} <= theirs
    if key.startswith("tsp-"):
        assert Decimal(ROWS[key].cells[metric].value) not in theirs
