from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import cut, number, numbered_video, one_sentence
from tspbench.clip_batches import BadVideos
from tspbench.encoders.contract import KINETICS_112
from tspbench.encoders.tiny import Tiny
from tspbench.errors import UserError
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity
from tspbench.snippet_batches import (
    SnippetBatches,
    SnippetReader,
    SnippetTask,
    WholeVideo,
    reduced,
    snippet_places,
    snippet_reader,
)
from tspbench.workers import Pool

SPEC = Tiny.preprocessing  # 8 frames at 12 a second: 2/3 s
WHOLE = replace(SPEC, crop=56)  # for frames whose numbers can be read
LONG, SHORT = Fidelity(snippets=6, pixels=48), Fidelity(snippets=4, pixels=24)
VIDEOS, SECONDS = 7, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {f"v{k}": numbered_video(folder / f"v{k}.mp4", SECONDS * 12, first=100 * k) for k in range(VIDEOS)}


def batches_of(files, fidelities=(LONG,), batch_size=2, workers=0, bad_videos=10, seed=0, **how):
    videos = [WholeVideo(name, SECONDS, np.array([[1.0, 3.0], [2.0, 9.0]])) for name in files]
    settings = EndToEndSettings(fidelities=fidelities, **how)
    pool = Pool(partial(snippet_reader, files, SPEC), workers, 60.0)
    return SnippetBatches(
        videos,
        settings,
        batch_size,
        pool,
        device=torch.device("cpu"),
        seed=seed,
        bad=BadVideos(bad_videos),
    )


def test_places_by_hand():
    # 4 snippets of 48 frames, 12 a step: middles at 6, 18, 30, 42; clips of 8 begin 4 before.
    places = snippet_places(4.0, 4, SPEC, 48)
    assert places.shape == (4, 8)
    assert places[:, 0].tolist() == [2, 14, 26, 38]
    assert_array_equal(places, places[:, :1] + np.arange(8))
    # 12 snippets, 4 frames a step: the first and the last clip are moved inside.
    assert snippet_places(4.0, 12, SPEC, 48)[:, 0].tolist() == [0, 2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 40]


def test_a_video_shorter_than_a_clip_is_its_first_clip_each_time():
    assert_array_equal(snippet_places(0.25, 4, SPEC, 8), np.tile(np.arange(8), (4, 1)))


def test_the_encoders_preprocessing_is_scaled():
    at_79 = reduced(KINETICS_112, 79)
    assert (at_79.resize, at_79.crop) == ((90, 121), 79)  # 128 * 79 / 112 = 90.3, 171 * 79 / 112 = 120.6
    assert (at_79.clip_frames, at_79.frame_rate, at_79.mean) == (16, 15.0, KINETICS_112.mean)
    assert reduced(KINETICS_112, 112) == KINETICS_112


def test_snippets_show_their_frames(files):
    fidelity = Fidelity(snippets=4, pixels=56)
    read = SnippetReader(files, WHOLE)(SnippetTask("v3", 4.0, fidelity, None))
    assert read.shape == (4, 8, 56, 56, 3)
    assert read.dtype == np.uint8
    shown = np.array([[number(frame) for frame in snippet] for snippet in read])
    assert_array_equal(shown, 300 + snippet_places(4.0, 4, SPEC, 48))


def test_a_central_cut_is_that_of_the_encoder(files):
    read = SnippetReader(files, SPEC)(SnippetTask("v0", 4.0, LONG, None))
    whole = SnippetReader(files, WHOLE)(SnippetTask("v0", 4.0, Fidelity(snippets=6, pixels=56), None))
    assert_array_equal(read, whole[:, :, 4:52, 4:52])
    coarse = SnippetReader(files, SPEC)(SnippetTask("v0", 4.0, Fidelity(snippets=6, pixels=24), None))
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(whole[2]).permute(0, 3, 1, 2).float(), (28, 28), mode="bilinear"
    )
    expected = resized[:, :, 2:26, 2:26].permute(0, 2, 3, 1)
    assert float((torch.from_numpy(coarse[2]).float() - expected).abs().max()) <= 0.5001


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_one_cut_for_all_snippets_of_a_video(files, cache_bytes, monkeypatch):
    monkeypatch.setattr("tspbench.snippet_batches.FRAMES_PER_CHUNK", 5)
    read = SnippetReader(files, SPEC, cache_bytes)
    whole = SnippetReader(files, WHOLE)(SnippetTask("v1", 4.0, Fidelity(snippets=6, pixels=56), None))
    cuts = set()
    for drawn in range(12):
        found = read(SnippetTask("v1", 4.0, LONG, drawn))
        places = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored in (1, -1)
            if np.array_equal(found, whole[:, :, top : top + 48, left : left + 48][:, :, :, ::mirrored])
        ]
        assert len(places) >= 1
        cuts.add(places[0])
        assert_array_equal(read(SnippetTask("v1", 4.0, LONG, drawn)), found)
    assert len(cuts) > 6
    assert {mirrored for _, _, mirrored in cuts} == {1, -1}


def test_a_video_is_decoded_once_where_all_fit(files, monkeypatch):
    opened = []
    from tspbench import snippet_batches

    real = snippet_batches.open_video
    monkeypatch.setattr(snippet_batches, "open_video", lambda info: opened.append(info) or real(info))
    frame = 56 * 56 * 3
    for room, times in ((VIDEOS * 48 * frame, 1), (VIDEOS * 48 * frame - VIDEOS, 2)):
        opened.clear()
        read = SnippetReader(files, SPEC, room)
        for fidelity in (LONG, SHORT):
            read(SnippetTask("v1", 4.0, fidelity, 0))
        assert len(opened) == times


def test_an_epoch_shows_every_video_once_in_an_order_of_its_own(files):
    batches = batches_of(files)
    assert batches.steps() == 4
    epochs = [[batches.names(epoch, step) for step in range(4)] for epoch in range(3)]
    assert all(sorted(chain(*names)) == sorted(files) for names in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    read = list(batches.epoch(1))
    assert [(len(frames), len(segments), samples) for frames, segments, samples in read] == [(2, 2, 2)] * 3 + [
        (1, 1, 1)
    ]
    assert all(frames.shape[1:] == (6, 8, 48, 48, 3) and frames.dtype == torch.uint8 for frames, _, _ in read)
    # [1, 3) and [2, 9) seconds of 4 seconds as 6 steps; what lies after the end is cut off.
    assert read[0][1][0].tolist() == [[1.5, 4.5], [3.0, 6.0]]


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and all(map(torch.equal, a[1], b[1])) and a[2] == b[2]
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_is_the_same_every_time_and_from_any_step_on(files):
    batches = batches_of(files, (LONG, SHORT))
    whole = list(batches.epoch(2))
    assert equal(list(batches_of(files, (LONG, SHORT)).epoch(2)), whole)
    for first in range(5):
        assert equal(list(batches.epoch(2, first)), whole[first:])
    assert not equal(list(batches.epoch(4)), whole)
    assert not equal(list(batches_of(files, (LONG, SHORT), seed=1).epoch(2)), whole)


def test_workers_change_nothing(files):
    batches = batches_of(files, workers=2)
    with batches._pool:
        assert equal(list(batches.epoch(0)), list(batches_of(files).epoch(0)))


@pytest.mark.parametrize("videos", [5, 7])
def test_processes_share_batches(files, videos, monkeypatch):
    some = {name: files[name] for name in list(files)[:videos]}
    whole = list(batches_of(some, batch_size=4).epoch(0))
    parts = []
    for rank in range(2):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        parts.append(list(batches_of(some, batch_size=4).epoch(0)))
    for (frames, segments, samples), *own in zip(whole, *parts, strict=True):
        assert [part[2] for part in own] == [samples, samples]
        assert len({len(part[0]) for part in own}) == 1
        assert torch.equal(torch.cat([part[0] for part in own])[:samples], frames)
        together = [each for part in own for each in part[1]][:samples]
        assert all(map(torch.equal, together, segments))


def test_cycles_by_hand(files):
    def turns(**how):
        batches = batches_of(files, (LONG, SHORT), **how)  # 4 steps an epoch
        return [[batches.fidelity(epoch, step).snippets for step in range(4)] for epoch in range(3)]

    assert turns(cycle="long") == [[6, 6, 6, 6], [4, 4, 4, 4], [6, 6, 6, 6]]
    assert turns(cycle="short", cycle_batches=1) == [[6, 4, 6, 4]] * 3
    assert turns(cycle="short", cycle_batches=3) == [[6, 6, 6, 4], [4, 4, 6, 6], [6, 4, 4, 4]]
    short = batches_of(files, (LONG, SHORT), cycle="short", cycle_batches=3)
    assert [frames.shape[1:4] for frames, _, _ in short.epoch(1)] == [(4, 8, 24), (4, 8, 24), (6, 8, 48), (6, 8, 48)]


@pytest.fixture
def damaged(files, tmp_path):
    broken = {name: cut(files[name], tmp_path / f"{name}.mp4", 0.5) for name in ("v2", "v5")}
    return {**files, **broken}


def test_a_bad_video_is_named_and_replaced(damaged, files, capsys):
    batches = batches_of(damaged)
    read = list(batches.epoch(0))
    told = capsys.readouterr().err
    assert [f"{name}.mp4" in told for name in damaged] == [False, False, True, False, False, True, False]
    whole = list(batches_of(files).epoch(0))
    names = [batches.names(0, step) for step in range(4)]
    for step, each in enumerate(names):
        for k, name in enumerate(each):
            assert torch.equal(read[step][0][k], whole[step][0][k]) == (name not in ("v2", "v5"))
    # The same take their places in a run that begins in the middle, and nobody is told twice.
    for first in range(4):
        assert equal(list(batches_of(damaged).epoch(0, first)), read[first:])
    capsys.readouterr()
    list(batches.epoch(1))
    assert capsys.readouterr().err == ""


def test_there_is_a_limit_to_bad_videos(damaged):
    with one_sentence("2 videos cannot be read", "bad_videos = 1"):
        list(batches_of(damaged, bad_videos=1).epoch(0))


def test_what_a_decoder_raises_is_about_the_file(files, monkeypatch):
    def crash(_):
        raise ValueError("odd\nframe")

    monkeypatch.setattr("tspbench.snippet_batches.open_video", crash)
    with one_sentence("v1.mp4", "ValueError: odd frame"):
        SnippetReader(files, SPEC)(SnippetTask("v1", 4.0, LONG, None))


def test_none_can_be_read(damaged):
    with pytest.raises(UserError, match="None of 2 training videos can be read"):
        list(batches_of({name: damaged[name] for name in ("v2", "v5")}).epoch(0))
