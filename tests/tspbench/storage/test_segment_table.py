"""Annotations as one CSV: columns, times, names, splits, and what is told to whose file does not fit."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tspbench.helpers import one_sentence
from tspbench.datasets.card import find_videos
from tspbench.storage.segment_table import VIDEO_SUFFIXES, divide, read_segment_table, video_name

PLAIN = "video,start,end,label,split\n"


def written(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def described(annotations):
    return {
        video.name: (video.subset, video.duration_seconds, video.segments.tolist(), video.labels)
        for video in annotations.videos
    }


EXPECTED = {
    "jump": ("training", 24.0, [[1.5, 3.0], [83.5, 90.0]], ("Jump, high", "Run")),
    "empty": ("validation", None, [], ()),
    "run": ("testing", 3723.25, [[0.0, 3723.25]], ("Run",)),
}


@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,label,split,duration\n"
        'jump,1.5,3,"Jump, high",training,24\n'
        "jump,83.5,90,Run,training,24\n"
        "empty,,,,validation,\n"
        "run,0,3723.25,Run,test,3723.25\n",
        # Another order and case, semicolons and decimal commas, clock times, suffixes, a BOM, blank rows, CRLF.
        "\ufeffLabel;END;Start;Video;Subset;Duration\r\n"
        "Jump, high;3;1,5;v_jump.mp4;Train;0:24\r\n"
        ";;;;;\r\n"
        "\r\n"
        "Run;1:30;1:23,5;clips/jump.MP4;;\r\n"
        ";;;v_empty;VAL;\r\n"
        "Run;1:02:03,25;0:00;run.webm;testing;1:02:03,25\r\n",
        "video\tstart\tend\tlabel\tsplit\tduration\n"
        'jump\t1.5\t3.0\t"Jump, high"\ttrain\t24\n'
        "jump\t01:23.500\t90\tRun\ttrain\n"
        "empty\t\t\t\tvalid\n"
        "C:\\clips\\run.avi\t0\t3723.25\tRun\ttest\t3723.25\n",
    ],
    ids=["commas", "semicolons", "tabs"],
)
def test_the_same_table_in_three_spellings(tmp_path, text):
    assert described(read_segment_table(written(tmp_path, text))) == EXPECTED


def test_gzipped_and_other_splits(tmp_path):
    path = written(tmp_path, gzip.compress(f"{PLAIN}a,0,1,x,fold 1\nb,0,1,x,Fold 2\n".encode()), "labels.csv.gz")
    assert [video.subset for video in read_segment_table(path).videos] == ["fold 1", "Fold 2"]


def test_segments_without_length_and_before_0_are_read(tmp_path):
    """They are left to `tspbench data lint`, as in JSON."""
    (video,) = read_segment_table(written(tmp_path, f"{PLAIN}a,5,5,x,train\na,-1,2,x,train\n")).videos
    assert video.segments.tolist() == [[5.0, 5.0], [-1.0, 2.0]]


def test_without_a_split_a_quarter_is_for_validation(tmp_path):
    names = [f"clip{k}" for k in range(6)]
    text = "video,start,end,label\n" + "".join(f"{name},0,1,x\n" for name in names)
    videos = read_segment_table(written(tmp_path, text)).videos
    assert {video.name for video in videos if video.subset == "validation"} == divide(names)
    assert sorted(video.subset for video in videos) == ["training"] * 4 + ["validation"] * 2


def test_how_many_are_for_validation():
    names = [f"clip{k}" for k in range(100)]
    assert [len(divide(names[:count])) for count in (1, 2, 3, 5, 6, 10, 100)] == [0, 1, 1, 1, 2, 3, 25]
    # By their SHA-256: clip0 has 7b45…, clip1 8b92…, clip2 b4cc… (sha256sum).
    assert divide(names[:3]) == {"clip0"}


@settings(max_examples=50)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=30), st.randoms())
def test_the_choice_depends_on_the_names_alone_and_hardly_moves(names, random):
    chosen = divide(names)
    shuffled = sorted(names)
    random.shuffle(shuffled)
    assert divide(shuffled) == chosen
    fewer = names - {shuffled[0]}
    assert len((chosen & fewer) ^ divide(fewer)) <= 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.mp4", "a"),
        ("v_a", "a"),
        ("v_a.MKV", "a"),
        ("x/y/v_a.webm", "a"),
        ("x\\a.avi", "a"),
        (" a ", "a"),
        ("clip.1", "clip.1"),
        ("clip.1.mp4", "clip.1"),
        ("video_test_0000004", "video_test_0000004"),
        ("", ""),
    ],
)
def test_what_a_video_is_called(text, name):
    assert video_name(text) == name


def test_names_are_those_of_the_files(tmp_path):
    files = [f"v_clip.{k}{suffix}" for k, suffix in enumerate(sorted(VIDEO_SUFFIXES))]
    for name in files:
        (tmp_path / name).touch()
    assert sorted(find_videos(tmp_path)) == sorted(map(video_name, files))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["line 1", "expected the columns video, start, end, label, found nothing"]),
        ("clip,start,end,label\na,0,1,x\n", ["line 1", "found 'clip', 'start', 'end', 'label'", "one of them 'video'"]),
        ("video,start,end,lable\na,0,1,x\n", ["call one of them 'label', perhaps 'lable'"]),
        ("video,start,end,label,Label\na,0,1,x,x\n", ["once each", "'label'"]),
        ("video,start,end,label,split,subset\na,0,1,x,,\n", ["one of split and subset"]),
        (
            "video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label\n",
            ["ground truth file of TSP", "tspbench data import"],
        ),
        (PLAIN, ["expected rows below the names of the columns, found none"]),
        (f"{PLAIN}\n\n,,,,\n", ["found none"]),
        (f"{PLAIN}a,0,1,x,train\na,0,1,high, jump,train\n", ["line 3", "expected 5 cells", "found 6", "quotes"]),
        (f"{PLAIN}a,0,1,x,train\na,zero,1,x,train\n", ["line 3, column 'start'", "seconds, mm:ss", "found 'zero'"]),
        (f"{PLAIN}a,0,nan,x,train\n", ["line 2, column 'end'", "found 'nan'"]),
        (f"{PLAIN}a,0,1_0,x,train\n", ["line 2, column 'end'", "found '1_0'"]),
        (f"{PLAIN}a,0,inf,x,train\n", ["found 'inf'"]),
        (f"{PLAIN}a,0,1:60,x,train\n", ["found '1:60'"]),
        (f"{PLAIN}a,0,1:60:00,x,train\n", ["found '1:60:00'"]),
        (f"{PLAIN}a,0,1:1:1:1,x,train\n", ["found '1:1:1:1'"]),
        (f"{PLAIN}a,0,-1:10,x,train\n", ["found '-1:10'"]),
        (f"{PLAIN}a,0,,x,train\n", ["line 2, column 'end'", "found nothing"]),
        (f"{PLAIN}a,0,1,,train\n", ["line 2, column 'label'", "the name of a class", "found nothing"]),
        (f"{PLAIN},0,1,x,train\n", ["line 2, column 'video'"]),
        (f"{PLAIN}a,5,1,x,train\n", ["line 2, column 'end'", "not before the start, 5", "found 1"]),
        (f"{PLAIN}a,0,1,x,train\na,2,3,x,val\n", ["line 3, column 'split'", "'training'", "found 'validation'"]),
        (f"{PLAIN}a,0,1,x,train\nb,2,3,x,\n", ["line 3, column 'split'", "found nothing"]),
        (
            "video,start,end,label,duration\na,0,1,x,9\na,2,3,x,10\n",
            ["line 3, column 'duration'", "9 s as in the video's other rows", "found 10 s"],
        ),
        ("video,start,end,label,duration\na,0,1,x,0\n", ["line 2, column 'duration'", "above 0", "found '0'"]),
        ("video,start,end,label\na,0,1,x\n".encode("utf-16"), ["UTF-8", "byte 0"]),
        ('video,start,end,label\na,0,1,"x\n' + "y" * 200_000, ["expected CSV", "field larger"]),
    ],
)
def test_mistakes(tmp_path, text, parts):
    path = written(tmp_path, text)
    with one_sentence(path, *parts):
        read_segment_table(path)


def test_all_problems_are_told_together_up_to_a_handful(tmp_path):
    with one_sentence("line 2, column 'start'", "; line 3, column 'label'") as _:
        read_segment_table(written(tmp_path, f"{PLAIN}a,x,1,l,train\na,1,2,,train\n"))
    rows = "".join(f"a,x,{k},l,train\n" for k in range(9))
    with one_sentence("line 6,", "and 4 more of this kind"):
        read_segment_table(written(tmp_path, PLAIN + rows))


def test_a_line_is_called_by_its_place_in_the_file(tmp_path):
    with one_sentence("line 6, column 'start'"):
        read_segment_table(written(tmp_path, f'\n\n{PLAIN}\na,0,1,"x",train\na,x,1,l,train\n'))
