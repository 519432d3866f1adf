"""Pictures of a study show what they are given."""

import math

import numpy as np

from evaluation.significance import Interval
from tests.tspbench.test_plots import words
from tspbench.plots import image_bytes
from tspbench.study_plots import ACTION, LONGEST_NAME, PicturedVideo, probes_figure, similarity_figure

MATRIX = np.array([[1.0, math.nan], [math.nan, 1.0]])


def pictured(name="v1", segments=((1.0, 2.0), (5.0, 50.0))):
    return PicturedVideo(name, np.array(segments).reshape(-1, 2), [MATRIX, -MATRIX], [(0.0, 8.0), (0.5, 7.5)])


def results(**changes):
    names = ("foreground_AUC", "class_accuracy", "similarity_inside", "similarity_background", "similarity_across")
    return {name: Interval(0.5, 0.4, 0.6, 0) for name in names} | changes


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_a_row_for_each_set_and_a_column_for_each_video():
    figure = similarity_figure(["TAC", "TSP"], [pictured("v1"), pictured("v2"), pictured("v3")], "below")
    assert len(panels(figure)) == 6
    first, *_, last = panels(figure)
    assert first.images[0].get_array().tolist() == [[1.0, None], [None, 1.0]]
    assert last.images[0].get_array().tolist() == [[-1.0, None], [None, -1.0]]
    assert first.images[0].get_extent() == [0.0, 8.0, 8.0, 0.0]
    assert {"TAC", "TSP", "v1", "v2", "v3", "below"} <= set(words(figure))


def test_actions_are_marked_on_both_sides_as_far_as_the_clips_go():
    figure = similarity_figure(["TAC", "TSP"], [pictured()], "")
    above = [(patch.get_x(), patch.get_width()) for patch in panels(figure)[1].patches[::2]]
    left = [(patch.get_y(), patch.get_height()) for patch in panels(figure)[1].patches[1::2]]
    assert above == left == [(1.0, 1.0), (5.0, 2.5)]
    assert len({patch.get_facecolor() for patch in panels(figure)[0].patches}) == 1
    assert panels(figure)[0].patches[0].get_facecolor()[:3] == tuple(
        int(ACTION[k : k + 2], 16) / 255 for k in (1, 3, 5)
    )


def test_names_are_nothing_but_text():
    name = "$\\frac{" + "x" * 40
    figure = similarity_figure([name, "b"], [pictured("a$b$\n")], "")
    assert {name[: LONGEST_NAME - 1] + "…", "a$b$ "} <= set(words(figure))
    assert name[: LONGEST_NAME - 1] + "…" in words(probes_figure({name: results()}, ""))


def test_the_same_picture_gives_the_same_bytes():
    first, second = (image_bytes(similarity_figure(["a", "b"], [pictured()], ""), "svg") for _ in range(2))
    assert first == second


def test_a_panel_for_each_probe_and_one_for_similarity():
    figure = probes_figure({"TAC": results(), "TSP": results(foreground_AUC=Interval(0.9, 0.8, 0.95, 0))}, "below")
    assert len(figure.axes) == 3
    assert {"TAC", "TSP", "50.0", "90.0", "below"} <= set(words(figure))
    ends = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [list(np.round(each, 9)) for each in ends[:2]] == [[40.0, 60.0], [80.0, 95.0]]


def test_what_is_undefined_is_left_out():
    undefined = Interval(math.nan, math.nan, math.nan, 0)
    one_video = Interval(0.7, math.nan, math.nan, 0)
    found = results(similarity_across=undefined, foreground_AUC=one_video)
    del found["class_accuracy"]
    figure = probes_figure({"TAC": found}, "")
    assert len(figure.axes) == 2
    assert "70.0" in words(figure)
    assert "nan" not in " ".join(words(figure))
    assert len([line for line in figure.axes[1].lines if len(line.get_xdata())]) == 4  # two dots with their intervals
