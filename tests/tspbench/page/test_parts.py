import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.helpers import predicted, truth
from tests.tspbench.helpers import with_card
from tests.tspbench.page.made_up import TAC, TSP, made_up_run
from tspbench.page.charts import Axis, Series, line_chart, round_up
from tspbench.page.contents import COLOURS, RowStyle, Truth, open_truth, page_runs, row_styles
from tspbench.page.errors import found_by_length, row_detections
from tspbench.page.similarity import similarity
from tspbench.page.time_lines import time_lines
from tspbench.page.tracks import Bar, bar_track

STYLE = RowStyle(0, COLOURS[0])


@given(st.floats(1e-3, 1e4), st.floats(0, 0.9))
def test_ticks_are_few_and_inside(high, share):
    ticks = [value for value, _ in Axis("x", share * high, high).ticks()]
    assert 2 <= len(ticks) <= 8
    assert all(share * high - 1e-6 * high <= value <= high * (1 + 1e-6) for value in ticks)


@given(st.floats(1e-6, 1e9))
def test_an_axis_holds_its_values(value):
    assert value * 0.999 <= round_up(value) <= 2 * value + 1e-12


def test_ticks_by_hand():
    assert [text for _, text in Axis("x", 0, 100).ticks()] == ["0", "20", "40", "60", "80", "100"]
    assert [text for _, text in Axis("x", 1, 12).ticks()] == ["5", "10"]
    assert round_up(0) == round_up(math.nan) == 1


def test_a_line_is_broken_where_a_number_is_missing():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 3.0)]
    drawing = line_chart("t <i>", [Series("a & b", STYLE, points)], Axis("x", 0, 3), Axis("y", 0, 4), dots=True)
    assert drawing.count("<polyline") == 2
    assert drawing.count("<circle") == 3
    assert "<i>" not in drawing
    assert "a &amp; b" in drawing
    assert "nan" not in drawing


def test_bars_that_overlap_have_lanes_of_their_own():
    drawing = bar_track("t", [Bar(0, 50, "a"), Bar(40, 60, "b", solid=False), Bar(50, 70, "c")])
    # Lanes of 13 pixels; what is outlined is lower than what is filled.
    assert re.findall(r' y="(\d+)" height="(\d+)"', drawing) == [("1", "10"), ("16", "6"), ("1", "10")]
    assert drawing.count('class="hollow"') == 1
    assert 'height="26"' in drawing


def test_a_name_stands_in_a_bar_that_it_fits_into():
    bars = [Bar(0, 9, "a", shown="HighJump"), Bar(10, 24, "b", shown="HighJump"), Bar(30, 50, "c", shown="High<ump")]
    assert re.findall(r'<text class="(\w+)" x="([0-9.]+)%"[^>]*>([^<]*)<', bar_track("t", bars, tall=True)) == [
        ("long", "10.00", "HighJump"),
        ("short", "30.00", "High&lt;ump"),
    ]


def test_many_bars_are_told_by_their_number():
    few, many = ([Bar(k, k + 1, f"bar {k}", solid=k < 5) for k in range(count)] for count in (20, 21))
    assert 'aria-label="t: bar 0; ' in bar_track("t", few)
    assert 'aria-label="t: 21 segments, 5 of them filled"' in bar_track("t", many)


def test_found_by_length_by_hand():
    # Lengths 1, 1, 4, 4, 9, 9; G = 6 best predictions, of which the last two come too late.
    starts = [0, 20, 40, 60, 80, 100]
    lengths = [1, 1, 4, 4, 9, 9]
    true = truth([("a", "run", s, s + n) for s, n in zip(starts, lengths, strict=True)])
    hits = [("a", "run", s, s + n, 0.9) for s, n in list(zip(starts, lengths, strict=True))[1:5]]
    misses = [("a", "run", 200, 201, 0.8), ("a", "run", 300, 301, 0.7)]
    late = [("a", "run", 0, 1, 0.1), ("a", "run", 100, 109, 0.1)]
    assert found_by_length(true, predicted(hits + misses + late)) == [(1, 2, 0.5), (4, 2, 1.0), (9, 2, 0.5)]
    # All of one length: nothing to tell apart.
    assert found_by_length(truth([("a", "run", 0, 1), ("a", "run", 5, 6)]), predicted(hits)) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return page_runs([made_up_run(tmp_path_factory.mktemp("run"))])[0]


def detections(run, task):
    rows, remarks = run.scored_rows(task)
    found, more = row_detections(run, rows, open_truth(run))
    assert remarks == more == []
    return found


def test_time_lines_tell_what_is_right(run):
    where, styles = open_truth(run), row_styles([run])
    assert isinstance(where, Truth)
    first = time_lines(detections(run, "tal"), where, styles)[0]
    assert (first.name, first.seconds) == ("v2", 4.0)
    assert first.thumbnails.startswith("data:image/jpeg;base64,/9j/")
    # The segment of TAC is 0.4 s late: its tIoU is 1.1 / 1.9. The one of the grid is 1.2 s late.
    assert [(track.name, track.value) for track in first.tracks] == [
        ("True segments", ""), ("Uniform grid", "0 of 1"), (TAC, "1 of 1"), (TSP, "1 of 1"),
    ]  # fmt: skip
    rows = [row for row in first.table.cells if row[0] == TSP]
    assert rows == [
        [TSP, "even", "1.00", "2.50", "0.9", "right"],
        [TSP, "even", "0.00", "0.50", "0.05", "wrong"],
    ]


def test_proposals_are_matched_whatever_their_class(run):
    where = open_truth(run)
    shown = time_lines(detections(run, "proposals"), where, row_styles([run]))
    assert [track.value for track in shown[1].tracks] == ["", "0 of 1", "1 of 1", "1 of 1"]


def test_similarity_falls_across_a_boundary_where_features_know_it(run):
    (tracks, table), remarks = similarity(run, open_truth(run), row_styles([run]))
    assert remarks == []
    assert [track.name for track in tracks] == [TAC, TSP]
    tac, tsp = (np.array([float(cell) for cell in row[1:]]) for row in table.cells)
    assert abs(tac[3]) < 0.6
    assert tsp[3] > 1.0
    assert tsp[3] == pytest.approx(tsp[0] - tsp[2], abs=2e-3)


def test_similarity_leaves_out_what_is_not_to_be_found(run):
    where, styles = open_truth(run), row_styles([run])
    ambiguous = np.array([[0.0, 0.7], [2.5, 4.0]])
    videos = tuple(
        replace(
            video,
            segments=np.concatenate([video.segments, ambiguous]),
            labels=(*video.labels, "Ambiguous", "Ambiguous"),
        )
        for video in where.annotations.videos
    )
    more = replace(where, annotations=replace(where.annotations, videos=videos))
    ignoring = replace(more, dataset=with_card(where.dataset, protocol="thumos14"))
    expected = similarity(run, where, styles)[0][1].cells
    assert similarity(run, ignoring, styles)[0][1].cells == expected
    assert similarity(run, more, styles)[0] is None  # all is action


def test_rows_beyond_the_colours_differ_in_their_dashes():
    from tspbench.page.contents import PageRun
    from tspbench.report import ResultTable
    from tspbench.storage.runs import Row, Run, TaskTable

    rows = [Row(f"row {k}", "f", "k") for k in range(9)]
    many = PageRun(None, "many", 1, ResultTable(Run("", [TaskTable("tal", rows, {}, "c")], []), []), [{}])
    styles = list(row_styles([many]).values())
    assert len({(style.colour, style.dash) for style in styles}) == 9
    assert [style.number for style in styles] == list(range(9))
