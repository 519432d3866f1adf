import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import number, numbered_video, numbers, one_sentence
from tspbench import clip_batches as module
from tspbench.clip_batches import VALIDATION, ClipBatches, ClipDataset, ClipReader
from tspbench.encoders.contract import Preprocessing
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment

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


def dataset(videos, gvf=None, seed=0, clips=3, cache=module.CACHE_BYTES, sampling="balanced"):
    return ClipDataset(ClipReader(videos, SPEC, cache), SPEC, SEGMENTS, gvf, clips, sampling, seed)


def shown(clip):
    """Return the numbers of a clip's frames, and whether it is mirrored."""
    frames = (clip * 255).permute(1, 2, 3, 0).numpy()
    straight, mirrored = numbers(frames), numbers(frames[:, :, ::-1])
    # Numbers use 10 stripes of 5 pixels of 56: mirrored stripes are off by 6 pixels; only one reading is a run.
    for found, flipped in ((straight, False), (mirrored, True)):
        if np.diff(found).tolist() == [1, 1, 1]:
            return found, flipped
    raise AssertionError((straight, mirrored))


def epoch_of(batches, epoch):
    """Return clips, actions and regions of an epoch, joined."""
    clips, labels = zip(*batches.epoch(epoch), strict=True)
    return (
        torch.cat(clips),
        torch.cat([each.action for each in labels]),
        torch.cat([each.region for each in labels]),
    )


def test_an_epoch_has_the_clips_of_its_segments(videos):
    batches = ClipBatches(dataset(videos), 5, CPU, workers=0)
    sizes = [len(clips) for clips, _ in batches.epoch(0)]
    assert sizes == [5, 5, 2]  # 2 actions of 3 clips, and as many of background
    assert batches.steps() == 3
    clips, action, region = epoch_of(batches, 0)
    assert clips.shape == (12, 3, 4, 56, 56)
    assert clips.dtype == torch.float32
    assert sorted(action.tolist()) == [BACKGROUND] * 6 + [0] * 3 + [1] * 3
    assert_array_equal(region, (action == BACKGROUND).long())
    inside = {0: [(0, 24)], 1: [(112, 136)], BACKGROUND: [(24, 60), (136, 148)]}
    for clip, label in zip(clips, action.tolist(), strict=True):
        found, _ = shown(clip)
        assert any(first <= found[0] and found[-1] < end for first, end in inside[label]), (found, label)


def test_every_segment_gives_as_many_clips(videos):
    segments = [*SEGMENTS, LabelledSegment("b", 0.0, 1.0, BACKGROUND)]
    for sampling, background in (("balanced", 6), ("every-segment", 9)):
        each = ClipDataset(ClipReader(videos, SPEC), SPEC, segments, None, 3, sampling, 0)
        batches = ClipBatches(each, 5, CPU, workers=0)
        _, action, _ = epoch_of(batches, 0)
        assert sorted(action.tolist()) == [BACKGROUND] * background + [0] * 3 + [1] * 3
        assert batches.steps() == -(-(background + 6) // 5)
        assert len(epoch_of(batches, VALIDATION)[0]) == 15


def test_other_clips_in_the_next_epoch_and_the_same_again_for_the_same(videos):
    batches = ClipBatches(dataset(videos), 5, CPU, workers=0)
    first, second, again = (epoch_of(batches, epoch) for epoch in (0, 1, 0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    assert sorted(map(str, map(shown, first[0]))) != sorted(map(str, map(shown, second[0])))
    other, _, _ = epoch_of(ClipBatches(dataset(videos, seed=1), 5, CPU, workers=0), 0)
    assert not torch.equal(first[0], other)


def test_the_same_place_and_segment_give_another_clip_in_another_epoch_and_seed(videos):
    keys = [(epoch, place, 0) for epoch in range(3) for place in range(3)]
    clips = [dataset(videos, seed=seed)[key][0] for key in keys for seed in (0, 1)]
    cuts = {str(shown(clip)) for clip in clips}
    assert len(cuts) > 9  # of 18 draws from 21 starts, mirrored or not
    by_epoch = [[str(shown(dataset(videos)[(epoch, place, 0)][0])) for place in range(3)] for epoch in range(3)]
    assert by_epoch[0] != by_epoch[1] != by_epoch[2]


def test_clips_do_not_depend_on_the_size_of_batches(videos):
    small, large = (epoch_of(ClipBatches(dataset(videos), size, CPU, workers=0), 3) for size in (1, 12))
    assert all(torch.equal(a, b) for a, b in zip(small, large, strict=True))


def test_the_same_clips_with_no_worker_and_with_two(videos):
    gvf = {"a": np.array([1.0, 2.0], dtype=np.float32), "b": np.array([3.0, 4.0], dtype=np.float32)}
    alone = ClipBatches(dataset(videos, gvf), 5, CPU, workers=0)
    helped = ClipBatches(dataset(videos, gvf), 5, CPU, workers=2)
    for epoch in (0, 1, VALIDATION):
        for (clips, labels), (others, other_labels) in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
            assert torch.equal(clips, others)
            for name in ("action", "region", "gvf"):
                assert torch.equal(getattr(labels, name), getattr(other_labels, name))


def test_validation_clips_are_spread_evenly_and_are_not_augmented(videos):
    batches = ClipBatches(dataset(videos), 5, CPU, workers=0)
    clips, action, _ = epoch_of(batches, VALIDATION)
    assert action.tolist() == [0] * 3 + [BACKGROUND] * 3 + [1] * 3 + [BACKGROUND] * 3
    readings = [shown(clip) for clip in clips]
    assert not any(flipped for _, flipped in readings)
    # Clips last 4 frames: of [0, 24) they start at 0, 10 and 20; of [24, 60) at 24, 40 and 56; and so on.
    starts = [found[0] for found, _ in readings]
    assert starts == [0, 10, 20, 24, 40, 56, 112, 122, 132, 136, 140, 144]
    again, _, _ = epoch_of(batches, VALIDATION)
    assert torch.equal(clips, again)


def test_training_clips_are_mirrored_every_other_time(videos):
    batches = ClipBatches(dataset(videos, clips=8), 32, CPU, workers=0)
    clips, _, _ = epoch_of(batches, 0)
    flips = sum(shown(clip)[1] for clip in clips)
    assert len(clips) == 32
    assert 8 <= flips <= 24


def test_global_features_come_with_the_clips_of_their_video(videos):
    gvf = {"a": np.array([1.0, 2.0], dtype=np.float32), "b": np.array([3.0, 4.0], dtype=np.float32)}
    seen = set()
    for clips, labels in ClipBatches(dataset(videos, gvf), 5, CPU, workers=0).epoch(0):
        for clip, vector in zip(clips, labels.gvf.tolist(), strict=True):
            seen.add((shown(clip)[0][0] >= 100, tuple(vector)))
    assert seen == {(False, (1.0, 2.0)), (True, (3.0, 4.0))}
    assert all(labels.gvf is None for _, labels in ClipBatches(dataset(videos), 5, CPU, workers=0).epoch(0))


def test_cached_and_uncached_readers_agree(videos):
    cached, uncached = ClipReader(videos, SPEC), ClipReader(videos, SPEC, cache_bytes=0)
    for name, start in (("a", 0.0), ("a", 1.7), ("b", 2.04), ("a", 4.9), ("b", 0.0)):
        assert_array_equal(cached.read(name, start), uncached.read(name, start))
    assert numbers(cached.read("a", 1.7)) == [20, 21, 22, 23]  # 20.4 frames
    assert numbers(cached.read("a", 4.9)) == [56, 57, 58, 59]  # the last whole clip


def test_a_video_is_decoded_once_where_all_fit_in_memory(videos, monkeypatch):
    opened = []
    real = module.open_video
    monkeypatch.setattr(module, "open_video", lambda info: opened.append(info.path.stem) or real(info))
    for cache, expected in ((module.CACHE_BYTES, ["a", "b"]), (2 * 60 * 56 * 56 * 3 - 2, ["a", "b", "a", "a"])):
        opened.clear()
        reader = ClipReader(videos, SPEC, cache)
        for name in "abaabb":
            reader.read(name, 1.0)
        assert sorted(opened) == sorted(expected)


def test_an_unreadable_video_is_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with one_sentence(tmp_path / "a.mp4"):
        ClipReader({"a": tmp_path / "a.mp4"}, SPEC).read("a", 0.0)


def test_numbers_survive_mirroring(videos):
    """The other tests lean on this."""
    clip = torch.from_numpy(ClipReader(videos, SPEC).read("a", 1.0).astype(np.float32) / 255).permute(3, 0, 1, 2)
    assert shown(clip) == ([12, 13, 14, 15], False)
    assert shown(clip.flip(-1)) == ([12, 13, 14, 15], True)
    assert number(np.zeros((56, 56, 3))) == 0
