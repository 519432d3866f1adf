import io
import math
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS
from evaluation.diagnosis import diagnose
from evaluation.error_kinds import KINDS
from tests.evaluation.helpers import predicted, truth
from tspbench.plots import DOTS_PER_INCH, diagnosis_figure, heading_of, image_bytes, percent, text_of

SEGMENTS = [("a", "run", 0, 2), ("a", "run", 10, 15), ("b", "jump", 0, 5)]
ROWS = [("a", "run", 10, 15, 0.9), ("b", "run", 0, 5, 0.8), ("a", "run", 0, 2, 0.7), ("b", "jump", 0, 5, 0.6)]


def diagnosis(segments=SEGMENTS, rows=ROWS, seconds=100.0, protocol="thumos14"):
    ground_truth = truth(segments, videos=("a", "b"), labels=("run", "jump"))
    return diagnose(ground_truth, np.full(2, seconds), predicted(rows), DETECTION_PROTOCOLS[protocol])


def words(figure):
    """Return every text of a figure, titles, ticks and legends too."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title().startswith(title))


def test_a_png_has_the_size_of_the_figure():
    figure = diagnosis_figure(diagnosis(), "A title")
    content = image_bytes(figure)
    assert content.startswith(b"\x89PNG")
    height, width = matplotlib.image.imread(io.BytesIO(content)).shape[:2]
    assert [width, height] == [round(inches * DOTS_PER_INCH) for inches in figure.get_size_inches()]


@pytest.mark.parametrize(("file_format", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_same_figure_gives_the_same_bytes(file_format, magic):
    from matplotlib.figure import Figure

    first, second = (Figure(figsize=(1, 1)) for _ in range(2))
    for figure in (first, second):
        figure.add_subplot().bar([1, 2], [3, 4])
    assert image_bytes(first, file_format).startswith(magic)
    assert image_bytes(first, file_format) == image_bytes(second, file_format)


def test_the_profile_stacks_the_shares():
    result = diagnosis()
    bars = panel(diagnosis_figure(result, "A title"), "False positive profile").containers
    heights = np.array([[bar.get_height() for bar in container] for container in bars])
    # Slice 1 holds two runs, of which one has a wrong label, and a jump; slice 2 the last run; then there is none.
    assert heights[:, 0] == pytest.approx([100 * 2 / 3, 0, 100 / 3, 0, 0, 0])
    assert heights[:, 1].tolist() == [100, 0, 0, 0, 0, 0]
    assert not heights[:, 2:].any()
    assert [container.get_label() for container in bars] == [text_of(kind) for kind in KINDS]


def test_the_bars_are_what_was_measured():
    result = diagnosis()
    figure = diagnosis_figure(result, "A title")
    for title, name in (("Sensitivity", "average_map"), ("False negatives", "false_negatives")):
        axes = panel(figure, title)
        heights = [bar.get_height() for container in axes.containers for bar in container]
        expected = np.concatenate([getattr(scores, name) for scores in result.buckets])
        assert heights == pytest.approx(100 * np.nan_to_num(expected))
        assert axes.lines[0].get_ydata()[0] == pytest.approx(100 * getattr(result, name))
    impact = [bar.get_width() for bar in panel(figure, "Removing").containers[0]]
    assert impact == pytest.approx([100 * gain for gain in result.false_positives.impact.values()])
    assert max(impact) > 0


def test_a_reader_learns_what_is_drawn():
    found = words(diagnosis_figure(diagnosis(), "A title", "DETAD|a signature"))
    assert {"A title", "share of the slice (%)", "average-mAP$_N$ (%)", "share of the bucket (%)"} <= set(found)
    assert {"gain in average-mAP$_N$ (percentage points)", "average-mAP$_N$ relative to all segments"} <= set(found)
    assert {"Coverage (fraction of the video)", "Length (seconds)", "Instances (of any class in the video)"} <= set(
        found
    )
    assert {"(3, 6]", "above 18", "66.7 % of the segments", "1G", "10G", "DETAD| a signature"} <= set(found)
    assert {text_of(kind) for kind in KINDS} <= set(found)


def test_a_long_footnote_is_wrapped():
    footnote = "|".join(["ten_chars_"] * 40)
    (found,) = (text for text in words(diagnosis_figure(diagnosis(), "A title", footnote)) if "ten_chars_" in text)
    assert found.replace("\n", "").replace(" ", "") == footnote
    assert max(map(len, found.split("\n"))) <= 200


def test_undefined_numbers_are_dashes():
    # An empty bucket has a dash in each of two panels.
    result = diagnosis(seconds=math.nan)
    empty = sum(int(np.isnan(scores.average_map).sum()) for scores in result.buckets)
    assert words(diagnosis_figure(result, "A title")).count("—") == 2 * empty > 0


def test_without_durations_coverage_is_not_drawn():
    found = words(diagnosis_figure(diagnosis(seconds=math.nan), "A title"))
    assert "Coverage" not in found
    assert "Length" in found


@pytest.mark.parametrize(("segments", "rows"), [([], []), ([], ROWS), (SEGMENTS, [])])
def test_nothing_annotated_or_predicted_can_be_drawn(segments, rows):
    assert "A title" in words(diagnosis_figure(diagnosis(segments, rows), "A title"))


def test_words_and_numbers():
    assert (percent(0.12345), percent(0.12345, 2), percent(math.nan)) == ("12.3", "12.35", "—")
    assert text_of("double_detection") == "Double detection"
    scores = diagnosis(protocol="activitynet").buckets[-1]
    assert heading_of(scores, diagnosis(protocol="activitynet")) == "Instances (of the class in the video)"


def test_matplotlib_is_loaded_when_something_is_drawn():
    code = "import sys, tspbench.plots; sys.exit(str({'matplotlib', 'torch'} & set(sys.modules) or ''))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
