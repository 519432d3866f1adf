import io
import itertools
import warnings

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspbench.video_picture import (
    FAINTEST,
    MOST,
    Shown,
    draw,
    fallback_families,
    in_lanes,
    placed,
    score_text,
    video_picture,
    worth_showing,
)

FRAME = np.zeros((36, 64, 3), np.uint8)
SHOWN = [Shown(2.0, 6.0, "jump", 0.9), Shown(5.0, 9.0, "run", 0.45), Shown(7.0, 9.5, "jump", 0.3)]


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def bars(axes):
    """Return (start, end, lane, opacity) of each bar of a panel."""
    boxes = [(patch, patch.get_bbox()) for patch in axes.patches]
    return [(box.x0, box.x1, round((box.y0 + box.y1) / 2), patch.get_alpha()) for patch, box in boxes]


def panel(figure, label):
    return next(axes for axes in figure.axes if axes.get_ylabel().startswith(label))


def drawn(detections=SHOWN, thumbnails=(FRAME,) * 4, captions=(), foreground=None, title="A title", seconds=10.0):
    return draw(title, seconds, thumbnails, detections, captions, foreground)


def test_a_bar_is_a_detection():
    figure = drawn()
    starts_ends = [(start, end, lane) for start, end, lane, _ in bars(panel(figure, "detections"))]
    # The second begins before the first ends, and so would the third before the second does.
    assert starts_ends == [(2.0, 6.0, 0), (5.0, 9.0, 1), (7.0, 9.5, 0)]
    opacities = [opacity for *_, opacity in bars(panel(figure, "detections"))]
    assert opacities == pytest.approx([1.0, 0.625, 0.5])
    assert {
        "0.90",
        "0.45",
        "0.30",
        "jump",
        "run",
        "10.0 s; 3 detection(s), with their scores: the fainter, the lower",
    } <= {*texts(figure)}


def test_a_class_has_one_colour():
    patches = panel(drawn(), "detections").patches
    jump, run, again = (patch.get_facecolor()[:3] for patch in patches)
    assert jump == again != run


def test_the_curve_is_the_probabilities():
    seconds, probabilities = np.array([1.0, 4.0, 8.0]), np.array([0.0, 1.0, 0.25])
    line = panel(drawn(foreground=(seconds, probabilities)), "foreground").lines[0]
    np.testing.assert_array_equal(line.get_xdata(), seconds)
    np.testing.assert_array_equal(line.get_ydata(), probabilities)
    with pytest.raises(StopIteration):
        panel(drawn(), "foreground")


def test_captions_are_numbered_and_told():
    figure = drawn(captions=[Shown(0.0, 2.0, "A man jumps."), Shown(3.0, 4.0, "He\nlands.")])
    assert [(start, end) for start, end, *_ in bars(panel(figure, "captions"))] == [(0.0, 2.0), (3.0, 4.0)]
    assert {"1   0.0–2.0 s   A man jumps.", "2   3.0–4.0 s   He lands."} <= {*texts(figure)}


def test_only_the_best_are_drawn_and_that_is_said():
    many = [Shown(0.0, 1.0 + k / 100, "run", 1.0 - k / 100) for k in range(40)]
    figure = drawn(many)
    assert len(bars(panel(figure, "detections"))) == MOST
    assert any(text.startswith(f"10.0 s; the best {MOST} of 40 detections") for text in texts(figure))
    assert worth_showing([Shown(0, 1, "a", 1.0), Shown(0, 1, "b", 0.9 * FAINTEST)]) == [Shown(0, 1, "a", 1.0)]
    assert worth_showing([]) == []


def test_thumbnails_stand_where_their_part_of_the_video_is():
    figure = drawn(thumbnails=[FRAME, None, FRAME, FRAME])
    images = figure.axes[0].images
    assert [tuple(image.get_extent()[:2]) for image in images] == [(0.0, 2.5), (5.0, 7.5), (7.5, 10.0)]


def test_no_text_lies_on_another():
    labels = [f"A class with quite a long name, number {k}, that goes on and on" for k in range(MOST)]
    detections = [Shown(k / 2, k / 2 + 0.2, label, 1 - k / 100) for k, label in enumerate(labels)]
    captions = [Shown(k, k + 0.9, "So many words " * 20) for k in range(8)]
    curve = np.linspace(0.3, 9.7, 20), np.linspace(0, 1, 20)
    check_texts(drawn(detections, captions=captions, foreground=curve, title="t" * 300))


TITLE = (
    "How to prepare a really good breakfast for the whole family in under ten minutes (4K)" + " · TSP on my own videos"
)


@pytest.mark.parametrize("seconds", [9.0, 601.0, 3600.0, 36000.0])
def test_no_text_lies_on_another_or_runs_off_in_a_video_of_any_length(seconds):
    detections = [Shown(start * seconds, start * seconds + 3, "W" * 60, 0.9) for start in (0, 0.01, 0.5, 0.51, 0.98, 1)]
    captions = [Shown(0.1 * seconds + 4 * k, 0.1 * seconds + 4 * k + 4, "W" * 200) for k in range(8)]
    figure = drawn(detections, captions=captions, title=TITLE, seconds=seconds)
    check_texts(figure)
    cut = [text for text in texts(figure) if text.endswith("…")]
    assert len(cut) == 1 + len(captions) + 1  # title, captions, class
    check_texts(drawn(captions=captions, title="W" * 110, seconds=seconds))


def test_a_text_that_fits_is_whole():
    figure = drawn([Shown(0, 1, "i" * 60)], captions=[Shown(0, 1, "i" * 200)], title="i" * 110)
    assert {"i" * 60, "i" * 110, f"1   0.0–1.0 s   {'i' * 200}"} <= {*texts(figure)}


def check_texts(figure):
    """Check that every text is inside the picture, and none on another."""
    figure.draw_without_rendering()
    from matplotlib.text import Text

    width, height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [box for box in boxes if box.width and box.height]
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width, box
        assert 0 <= box.y0 < box.y1 <= height, box
        for other in boxes[:number]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
            assert apart, (box, other)


@pytest.mark.parametrize("text", ["$x^2", "_hidden", "a\nb", "跳远 🏃", "<b>&amp;</b>", r"\frac{", ""])
def test_any_name_can_be_drawn(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = video_picture(text, 0.1, [None], [Shown(0.0, 0.1, text, 0.0)], [Shown(0.0, 0.1, text)])
    assert matplotlib.image.imread(io.BytesIO(content)).ndim == 3


@pytest.mark.parametrize("seconds", [3600.0, 36000.0])
def test_short_actions_in_a_long_video_are_seen(seconds):
    starts = [0.0, 0.3 * seconds, 0.7 * seconds, seconds - 3]
    detections = [Shown(start, start + 3, "jump", 0.9 - 0.2 * k) for k, start in enumerate(starts)]
    figure = drawn(detections, seconds=seconds)
    patches = panel(figure, "detections").patches
    pixels = [patch.get_window_extent().width for patch in patches]
    assert min(pixels) >= 3
    assert [patch.get_linewidth() for patch in patches] == [0.0] * 4
    assert all(0 <= start < end <= seconds for start, end, *_ in bars(panel(figure, "detections")))
    # The better, the stronger: also in what is drawn.
    image = matplotlib.image.imread(io.BytesIO(video_picture("", seconds, [FRAME], detections)))
    height = image.shape[0] - round(sum(panel(figure, "detections").get_window_extent().intervaly) / 2)
    inks = [1 - image[height, round(sum(p.get_window_extent().intervalx) / 2), 0] for p in patches]
    assert all(a > b > 0.05 for a, b in itertools.pairwise(inks))


def test_long_videos_have_times_of_a_clock():
    def times(seconds):
        figure = drawn([], captions=[Shown(61, 122, "A")], seconds=seconds)
        return [tick.get_text() for tick in figure.axes[-1].get_xticklabels()], {*texts(figure)}

    ticks, told = times(660)
    assert ticks == [f"{2 * k}:00" for k in range(6)]
    assert {"11:00; 0 detection(s), with their scores: the fainter, the lower", "1   1:01–2:02   A", "m:ss"} <= told
    ticks, told = times(3 * 3600)
    assert ticks == [f"{k // 2}:{k % 2 * 3}0:00" for k in range(7)]
    assert {"1   0:01:01–0:02:02   A", "h:mm:ss"} <= told
    assert "seconds" in times(600)[1]
    assert times(20 * 86400)[0][:2] == ["0:00:00", "48:00:00"]


def test_letters_that_the_font_lacks_come_from_an_installed_one():
    from matplotlib.font_manager import findfont, fontManager, get_font

    assert fallback_families("A title, and a café $") == []
    assert fallback_families(chr(0x10FFFD)) == []
    # matplotlib comes with STIX, which has ⌒ and ⌢; DejaVu Sans has neither.
    families = fallback_families("⌒⌢")
    files = [font.fname for font in fontManager.ttflist if font.name in families]
    assert {*map(ord, "⌒⌢")} <= set().union(*(get_font(file).get_charmap() for file in files))
    assert not {*map(ord, "⌒⌢")} & {*get_font(findfont("DejaVu Sans")).get_charmap()}
    one, other = (video_picture("", 1.0, [], [Shown(0, 1, letter)]) for letter in "⌒⌢")
    assert one != other  # as two letters of one block they would be the same box


def test_a_broken_font_is_none(tmp_path, monkeypatch, capfd):
    from matplotlib.font_manager import FontEntry, fontManager

    (tmp_path / "broken.ttf").write_bytes(b"no font")
    entries = [FontEntry(fname=str(tmp_path / name), name=name, style="normal") for name in ("broken.ttf", "gone.ttf")]
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, *entries])
    assert {"broken.ttf", "gone.ttf"}.isdisjoint(fallback_families("ℊ"))
    video_picture("ℊ 跳远", 1.0, [], [])
    assert capfd.readouterr().err == ""


def test_scores_are_short_and_small_ones_are_not_none():
    assert [score_text(score) for score in (1.0, 0.666, 0.01, 0.0004, 0.0)] == ["1.00", "0.67", "0.01", "4e-04", "0.00"]


def test_nothing_found_is_said():
    assert "nothing found" in texts(drawn([], thumbnails=[]))


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.01, 5), st.floats(0, 1)), max_size=12),
)
def test_what_shares_a_lane_does_not_overlap(rows):
    shown = [Shown(start, start + length, "a", score) for start, length, score in rows]
    lanes = in_lanes([placed(each, 14.0, 0.034) for each in shown])
    for i, a in enumerate(shown):
        for j, b in enumerate(shown[:i]):
            if lanes[i] == lanes[j]:
                assert a.end_seconds <= b.start_seconds or b.end_seconds <= a.start_seconds
    assert not shown or set(lanes) == set(range(max(lanes) + 1))
