from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.tspbench.fake_clips import fake_reader
from tests.tspbench.helpers import cut, number, numbered_video, numbers, one_sentence
from tspbench.clip_batches import BadVideos, ClipBatches, ClipDraws, clips_ahead
from tspbench.clip_reading import ClipReader, clip_reader
from tspbench.encoders.contract import Preprocessing
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment
from tspbench.workers import Pool

# Frames are neither resized nor cut, so that their numbers can be read off the clips.
SPEC = Preprocessing(4, 12.0, (56, 56), 56, (0.0,) * 3, (1.0,) * 3)
CPU = torch.device("cpu")
SEGMENTS = [
    LabelledSegment("a", 0.0, 2.0, 0),
    LabelledSegment("a", 2.0, 5.0, BACKGROUND),
    LabelledSegment("b", 1.0, 3.0, 1),
    LabelledSegment("b", 3.0, 4.0, BACKGROUND),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {"a": numbered_video(folder / "a.mp4", 60), "b": numbered_video(folder / "b.mp4", 48, first=100)}


def draws(segments=SEGMENTS, seed=0, clips=3, sampling="balanced"):
    return ClipDraws(segments, SPEC.clip_seconds, clips, sampling, seed)


def pool_of(videos, workers=0, deadline=20.0, make=clip_reader):
    return Pool(partial(make, videos, SPEC, 1 << 28), workers, deadline)


def batches_of(pool, size=5, gvf=None, ahead=8, bad=None, **changes):
    return ClipBatches(draws(**changes), gvf, pool, ahead, size, CPU, bad or BadVideos(10))


@pytest.fixture(scope="module")
def pool(videos):
    return pool_of(videos)


def shown(clip):
    """Return the numbers of a clip's frames, and whether it is mirrored."""
    frames = (clip * 255).permute(1, 2, 3, 0).numpy()
    straight, mirrored = numbers(frames), numbers(frames[:, :, ::-1])
    # Numbers use 10 stripes of 5 pixels of 56: mirrored stripes are off by 6 pixels; only one reading is a run.
    for found, flipped in ((straight, False), (mirrored, True)):
        if np.diff(found).tolist() == [1, 1, 1]:
            return found, flipped
    raise AssertionError((straight, mirrored))


def joined(batches):
    """Return clips, actions and regions of an epoch, joined."""
    clips, labels, _ = zip(*batches, strict=True)
    return (
        torch.cat(clips),
        torch.cat([each.action for each in labels]),
        torch.cat([each.region for each in labels]),
    )


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_an_epoch_has_the_clips_of_its_segments(pool):
    batches = batches_of(pool)
    assert [(len(clips), samples) for clips, _, samples in batches.epoch(0)] == [(5, 5), (5, 5), (2, 2)]
    assert batches.steps() == 3  # 2 actions of 3 clips, and as many of background
    clips, action, region = joined(batches.epoch(0))
    assert clips.shape == (12, 3, 4, 56, 56)
    assert clips.dtype == torch.float32
    assert sorted(action.tolist()) == [BACKGROUND] * 6 + [0] * 3 + [1] * 3
    assert_array_equal(region, (action == BACKGROUND).long())
    inside = {0: [(0, 24)], 1: [(112, 136)], BACKGROUND: [(24, 60), (136, 148)]}
    for clip, label in zip(clips, action.tolist(), strict=True):
        found, _ = shown(clip)
        assert any(first <= found[0] and found[-1] < end for first, end in inside[label]), (found, label)


def test_every_segment_gives_as_many_clips(pool):
    segments = [*SEGMENTS, LabelledSegment("b", 0.0, 1.0, BACKGROUND)]
    for sampling, background in (("balanced", 6), ("every-segment", 9)):
        batches = batches_of(pool, segments=segments, sampling=sampling)
        _, action, _ = joined(batches.epoch(0))
        assert sorted(action.tolist()) == [BACKGROUND] * background + [0] * 3 + [1] * 3
        assert batches.steps() == -(-(background + 6) // 5)
        assert len(joined(batches.validation())[0]) == 15


def test_other_clips_in_the_next_epoch_and_the_same_again_for_the_same(pool):
    batches = batches_of(pool)
    first, second, again = (joined(batches.epoch(epoch)) for epoch in (0, 1, 0))
    assert same(first, again)
    assert not torch.equal(first[0], second[0])
    assert sorted(map(str, map(shown, first[0]))) != sorted(map(str, map(shown, second[0])))
    assert not torch.equal(first[0], joined(batches_of(pool, seed=1).epoch(0))[0])


def test_the_same_place_and_segment_give_another_clip_in_another_epoch_and_seed():
    found = {
        seed: [draws(seed=seed).drawn(epoch, place, 0) for epoch in range(3) for place in range(3)] for seed in (0, 1)
    }
    assert len({(clip.start_seconds, clip.seed) for clips in found.values() for clip in clips}) == 18
    assert all(0.0 <= clip.start_seconds <= 2.0 - 4 / 12 for clips in found.values() for clip in clips)
    assert draws().drawn(0, 0, 0, attempt=1) != draws().drawn(0, 0, 0)


def test_clips_do_not_depend_on_the_size_of_batches(pool):
    assert same(*(joined(batches_of(pool, size).epoch(3)) for size in (1, 12)))


def test_an_epoch_begins_at_any_step_and_reads_nothing_before(videos):
    asked = []

    def noting(*told):
        read = clip_reader(*told)
        return lambda clip: (asked.append(clip), read(clip))[1]

    batches = batches_of(pool_of(videos, make=noting), 5)
    whole = list(batches.epoch(1))
    del asked[:]
    late = list(batches.epoch(1, 2))
    assert len(asked) == 2
    assert len(late) == 1
    assert torch.equal(late[0][0], whole[2][0])
    assert torch.equal(late[0][1].action, whole[2][1].action)
    assert list(batches.epoch(1, 3)) == []


def test_the_names_of_a_batch(pool):
    batches = batches_of(pool)
    clips, _, _ = joined(batches.epoch(2))
    told = [name for step in range(3) for name in batches.names(2, step)]
    assert told == ["ab"[shown(clip)[0][0] // 100] for clip in clips]


GVF = {"a": np.array([1.0, 2.0], dtype=np.float32), "b": np.array([3.0, 4.0], dtype=np.float32)}


def test_the_same_clips_with_0_1_and_4_workers(videos):
    expected = None
    for workers in (0, 1, 4):
        with pool_of(videos, workers) as pool:
            batches = batches_of(pool, gvf=GVF)
            found = [*batches.epoch(0), *batches.epoch(1), *batches.validation(), *batches.epoch(1, 1)]
        expected = expected or found
        for (clips, labels, samples), (others, other_labels, other_samples) in zip(found, expected, strict=True):
            assert torch.equal(clips, others)
            assert samples == other_samples
            for name in ("action", "region", "gvf"):
                assert torch.equal(getattr(labels, name), getattr(other_labels, name))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_share_what_one_would_read(pool, monkeypatch, count):
    batches = batches_of(pool, 5)
    whole, validation = list(batches.epoch(1)), joined(batches.validation())
    monkeypatch.setenv("WORLD_SIZE", str(count))
    parts, validated = [], []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(list(batches.epoch(1)))
        validated += list(batches.validation())
    for step, (clips, labels, samples) in enumerate(whole):
        assert {len(part[step][0]) for part in parts} == {-(-samples // count)}  # fillers at the end
        assert [part[step][2] for part in parts] == [samples] * count
        assert torch.equal(torch.cat([part[step][0] for part in parts])[:samples], clips)
        assert torch.equal(torch.cat([part[step][1].action for part in parts])[:samples], labels.action)
    assert same(joined(validated), validation)  # none twice, none dropped
    assert sum(samples for _, _, samples in validated) == 12


def test_validation_clips_are_spread_evenly_and_are_not_augmented(pool):
    batches = batches_of(pool)
    clips, action, _ = joined(batches.validation())
    assert action.tolist() == [0] * 3 + [BACKGROUND] * 3 + [1] * 3 + [BACKGROUND] * 3
    readings = [shown(clip) for clip in clips]
    assert not any(flipped for _, flipped in readings)
    # Clips last 4 frames: of [0, 24) they start at 0, 10 and 20; of [24, 60) at 24, 40 and 56; and so on.
    starts = [found[0] for found, _ in readings]
    assert starts == [0, 10, 20, 24, 40, 56, 112, 122, 132, 136, 140, 144]
    assert torch.equal(clips, joined(batches.validation())[0])


def test_training_clips_are_mirrored_every_other_time(pool):
    clips, _, _ = joined(batches_of(pool, 32, clips=8).epoch(0))
    flips = sum(shown(clip)[1] for clip in clips)
    assert len(clips) == 32
    assert 8 <= flips <= 24


def test_global_features_come_with_the_clips_of_their_video(pool):
    seen = set()
    for clips, labels, _ in batches_of(pool, gvf=GVF).epoch(0):
        for clip, vector in zip(clips, labels.gvf.tolist(), strict=True):
            seen.add((shown(clip)[0][0] >= 100, tuple(vector)))
    assert seen == {(False, (1.0, 2.0)), (True, (3.0, 4.0))}
    assert all(labels.gvf is None for _, labels, _ in batches_of(pool).epoch(0))


def test_so_many_clips_are_read_ahead_as_memory_allows():
    large = Preprocessing(16, 15.0, (128, 171), 112, (0.0,) * 3, (1.0,) * 3)  # 2.4 MB a clip
    assert clips_ahead(large, 32, 8) == 128
    assert clips_ahead(large, 512, 8) == 222  # 512 MiB
    assert clips_ahead(large, 1, 8) == 16


# Videos that cannot be read.

MORE = [
    *SEGMENTS,
    LabelledSegment("c", 0.0, 2.0, 0),
    LabelledSegment("c", 2.0, 4.0, BACKGROUND),
    LabelledSegment("d", 0.0, 2.0, 7),
]


@pytest.fixture(scope="module")
def more(videos, tmp_path_factory):
    """Two more videos: c and d show numbers from 200 and 300 on."""
    folder = tmp_path_factory.mktemp("more")
    return videos | {
        name: numbered_video(folder / f"{name}.mp4", 48, first=100 * k) for k, name in ((2, "c"), (3, "d"))
    }


@pytest.fixture(scope="module")
def broken(more, tmp_path_factory):
    """The same, but c is cut off."""
    return more | {"c": cut(more["c"], tmp_path_factory.mktemp("broken") / "c.mp4", 0.6)}


def sources(clips):
    return ["abcd"[shown(clip)[0][0] // 100] for clip in clips]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_cannot_be_read_gives_way_to_one_of_its_label(more, broken, workers, capsys):
    with pool_of(more) as pool:
        intact = joined(batches_of(pool, segments=MORE, sampling="every-segment").epoch(0))
    bad = BadVideos(1)
    with pool_of(broken, workers) as pool:
        batches = batches_of(pool, segments=MORE, sampling="every-segment", bad=bad)
        first, again = joined(batches.epoch(0)), joined(batches.epoch(0))
    assert same(first, again)
    assert torch.equal(first[1], intact[1])  # the same labels
    was, now = sources(intact[0]), sources(first[0])
    assert was.count("c") == 6
    assert "c" not in now
    for old, new, label, before, after in zip(was, now, first[1].tolist(), intact[0], first[0], strict=True):
        if old != "c":
            assert torch.equal(before, after)
        elif label == 0:
            assert new == "a"  # the only other video of that class
            assert shown(after)[0][-1] < 24
    said = capsys.readouterr().err
    assert said.count("A clip of c is replaced: ") == 1
    assert "cannot be read as a video" in said
    told = bad.figures()
    assert told.keys() == {"c"}
    assert "cannot be read as a video" in told["c"].pop("reason")
    assert told["c"] == {"replaced_clips": 6, "left_out_clips": 0}  # the second time they were the same ones


def test_where_no_other_video_has_the_label_any_gives_a_clip():
    told = {draws(MORE).other(0, place, 6, ["d"]) for place in range(50)}
    assert told == {0, 1, 2, 3, 4, 5}
    assert {draws(MORE).other(0, place, 0, ["a"]) for place in range(9)} == {4}  # c, of the same class
    assert {draws(MORE).other(0, place, 0, ["a", "c"]) for place in range(50)} == {2, 3, 6}
    assert draws(MORE).other(0, 0, 0, ["a", "b", "c", "d"]) is None
    assert draws(MORE).other(3, 1, 1, ["a"]) == draws(MORE).other(3, 1, 1, ["a"])


def test_in_validation_it_is_left_out(broken, capsys):
    bad = BadVideos(1)
    batches = batches_of(pool_of(broken), 4, segments=MORE, bad=bad)
    found = list(batches.validation())
    assert [len(clips) for clips, _, _ in found] == [4, 4, 4, 2, 1]  # of 21 clips, 6 of them c's
    assert "c" not in sources(joined(found)[0])
    assert bad.figures()["c"]["left_out_clips"] == 6
    assert "A clip of c is left out: " in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("what", "parts"), [("hang", ["no answer within 1 s"]), ("die", ["SIGKILL", "memory"])])
def test_a_video_that_takes_its_worker_along_is_replaced(what, parts, workers):
    bad = BadVideos(1)
    with Pool(partial(fake_reader, what), workers, 1.0) as pool:
        batches = batches_of(pool, segments=MORE, sampling="every-segment", bad=bad)
        clips, action, region = joined([*batches.epoch(0), *batches.epoch(1), *batches.validation()])
    shows = [int(clip[0, 0, 0, 0]) for clip in clips]
    assert set(shows) == {0, 1, 3}
    assert len(shows) == 21 + 21 + 15
    labels = {(segment.video, segment.action, segment.region) for segment in MORE}
    assert {("abcd"[k], *told) for k, *told in zip(shows, action.tolist(), region.tolist(), strict=True)} <= labels
    told = bad.figures()["c"]
    assert all(part in told["reason"] for part in parts)
    assert (told["replaced_clips"], told["left_out_clips"]) == (12, 6)


def test_too_many_bad_videos_are_one_sentence(broken, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    videos = broken | {"a": tmp_path / "a.mp4"}
    batches = batches_of(pool_of(videos), segments=MORE, bad=BadVideos(2))
    assert "bad" not in sources(joined(batches.epoch(0))[0])
    batches = batches_of(pool_of(videos), segments=MORE, bad=BadVideos(1))
    with one_sentence("2 videos cannot be read", "bad_videos = 1", "`tspbench data scan`", "goes on from here"):
        list(batches.epoch(0))


def test_a_set_without_a_readable_video_is_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    batches = batches_of(pool_of({"a": tmp_path / "a.mp4"}), segments=SEGMENTS[:2])
    with one_sentence("None of 1 training videos can be read", tmp_path / "a.mp4"):
        list(batches.epoch(0))


def test_numbers_survive_mirroring(videos):
    """The other tests lean on this."""
    clip = torch.from_numpy(ClipReader(videos, SPEC).read("a", 1.0).astype(np.float32) / 255).permute(3, 0, 1, 2)
    assert shown(clip) == ([12, 13, 14, 15], False)
    assert shown(clip.flip(-1)) == ([12, 13, 14, 15], True)
    assert number(np.zeros((56, 56, 3))) == 0
