import json
import shutil
from collections import Counter

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import names, one_sentence, silent
from tspbench.datasets import find_videos, generate, open_dataset
from tspbench.datasets import synthetic as module
from tspbench.datasets.sprites import FADE_FRAMES, MOTIONS, PACES, SHAPES, Scene, _action_motion, render
from tspbench.datasets.synthetic import (
    FRAME_RATE,
    TRIMMED_KINDS,
    UNTRIMMED_KINDS,
    VIDEO_FRAMES,
    SyntheticSettings,
    draw_actions,
    draw_rates,
)
from tspbench.storage.annotations import read_annotations
from tspbench.storage.captions import read_references
from tspbench.storage.video import scan_video

FEW = SyntheticSettings(training_videos=2, validation_videos=1, trimmed_clips=7)


def write(folder, name="synthetic", settings=FEW, seed=0):
    generate(name, folder, settings, seed, silent)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set"
    return folder, write(folder)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    _, files = made
    assert write(tmp_path / "again") == files
    others = write(tmp_path / "other", seed=1)
    assert others.keys() == files.keys()
    assert all(others[name] != files[name] for name in files if name.startswith(("videos/", "annotations", "captions")))


def test_videos_are_what_the_annotations_say(made):
    folder, _ = made
    dataset = open_dataset(str(folder))
    annotations = read_annotations(dataset.annotations)
    videos = find_videos(dataset.videos)
    assert videos.keys() == {video.name for video in annotations.videos}
    assert Counter(video.subset for video in annotations.videos) == {"training": 2, "validation": 1}
    for video in annotations.videos:
        info = scan_video(videos[video.name])
        assert (info.frames, info.frame_bytes) == (VIDEO_FRAMES, 56 * 56 * 3)
        assert info.duration == pytest.approx(video.duration_seconds) == 24.0


def test_boundaries_are_exact_to_the_frame(made):
    folder, _ = made
    for index, video in enumerate(read_annotations(folder / "annotations.json").videos):
        drawn = draw_actions(np.random.default_rng([0, 1, index]))
        in_frames = video.segments * FRAME_RATE
        assert_allclose(in_frames, np.round(in_frames), atol=1e-9)
        assert_array_equal(np.round(in_frames), drawn)


def test_a_copy_elsewhere_is_an_ordinary_data_set_folder(made, tmp_path):
    folder, _ = made
    shutil.copytree(folder, tmp_path / "copy")
    dataset = open_dataset(str(tmp_path / "copy"))
    assert (dataset.name, dataset.protocol) == ("synthetic", "activitynet")
    assert dataset.subset("training") == "training"
    assert all(path.parent == tmp_path / "copy" / "videos" for path in find_videos(dataset.videos).values())
    with one_sentence("'test'", "split of synthetic"):
        dataset.subset("test")


def test_captions_describe_each_action(made):
    folder, _ = made
    dataset = open_dataset(str(folder))
    files = {role: dataset.captions(role) for role in ("training", "validation")}
    assert [len(paths) for paths in files.values()] == [1, 2]
    annotations = {video.name: video for video in read_annotations(dataset.annotations).videos}
    for role, paths in files.items():
        for path in paths:
            captions = read_references(path)
            assert set(captions.videos) == {name for name, video in annotations.items() if video.subset == role}
            for name, rows in captions.rows().items():
                seen = np.stack([captions.start[rows], captions.end[rows]], axis=1)
                truth = annotations[name].segments
                assert seen.shape == truth.shape
                assert (np.abs(seen - truth) <= 0.04 * np.diff(truth) + 0.005 + 1e-9).all()
                assert json.loads(path.read_text())[name]["duration"] == 24.0


def test_validation_has_a_reference_of_each_annotator_and_training_one_of_either(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write_videos", lambda *_: None)
    files = write(tmp_path / "set", settings=SyntheticSettings(training_videos=60, validation_videos=40))
    training, first, second = (
        json.loads(files[f"captions_{name}.json"]) for name in ("training", "validation_1", "validation_2")
    )
    assert first.keys() == second.keys()
    assert all(first[name]["timestamps"] != second[name]["timestamps"] for name in first)
    assert all(set(first[name]["sentences"]).isdisjoint(second[name]["sentences"]) for name in first)
    # Only the first annotator writes no comma.
    by_second = [any("," in text for text in entry["sentences"]) for entry in training.values()]
    assert 20 <= sum(by_second) <= 40
    assert not any("," in text for entry in first.values() for text in entry["sentences"])
    assert all("," in text for entry in second.values() for text in entry["sentences"])
    words = {
        word
        for file in (training, first, second)
        for entry in file.values()
        for text in entry["sentences"]
        for word in text.lower().replace(",", "").strip(".").split()
    }
    assert 60 <= len(words) <= 100


def test_captions_tell_of_the_scenes_that_are_rendered(tmp_path, monkeypatch):
    rendered = {}
    monkeypatch.setattr(module, "_write_videos", lambda _folder, scenes, *_: rendered.update(scenes))
    files = write(tmp_path / "set", settings=SyntheticSettings(training_videos=1, validation_videos=20))
    rates = np.concatenate([scene.rates for scene in rendered.values()])
    assert len(set(rates)) == len(rates)
    for name, entry in json.loads(files["captions_validation_1.json"]).items():
        scene = rendered[name]
        assert ["quickly" in text.split() for text in entry["sentences"]] == [rate > 1.35 for rate in scene.rates]
        assert all(f" {scene.shape} {scene.motion} " in text for text in entry["sentences"])


def test_the_trimmed_set_is_one_action_a_clip(tmp_path):
    write(tmp_path / "trimmed", "synthetic-trimmed")
    videos = read_annotations(tmp_path / "trimmed" / "annotations.json").videos
    assert len(videos) == 7
    assert {video.subset for video in videos} == {"training", "validation"}
    for video in videos:
        assert_allclose(video.segments, [[0.0, video.duration_seconds]])
    info = scan_video(find_videos(tmp_path / "trimmed" / "videos")["clip_0000"])
    assert info.duration == pytest.approx(videos[0].duration_seconds)


def test_each_trimmed_look_moves_in_two_ways_and_is_no_look_of_the_other_set():
    looks = Counter((kind.shape, kind.hue) for kind in TRIMMED_KINDS)
    assert set(looks.values()) == {2}
    assert not {kind.shape for kind in TRIMMED_KINDS} & {kind.shape for kind in UNTRIMMED_KINDS}
    assert not {kind.motion for kind in TRIMMED_KINDS} & {kind.motion for kind in UNTRIMMED_KINDS}


def arrangements(count, seed=5):
    return [draw_actions(np.random.default_rng([seed, k])) for k in range(count)]


def test_actions_are_in_order_apart_and_neither_short_nor_long():
    for actions in arrangements(500):
        lengths = actions[:, 1] - actions[:, 0]
        assert actions[0, 0] >= 0
        assert actions[-1, 1] <= VIDEO_FRAMES
        assert lengths.min() >= 12  # 1 s
        assert lengths.max() <= VIDEO_FRAMES // 2
        assert (actions[1:, 0] - actions[:-1, 1] >= 6).all()  # half a second
        assert 0.25 <= lengths.sum() / VIDEO_FRAMES <= 0.62


def test_arrangements_vary_in_number_length_and_place():
    drawn = arrangements(500)
    counts = Counter(len(actions) for actions in drawn)
    assert set(counts) == {1, 2, 3, 4, 5}
    lengths = np.concatenate([actions[:, 1] - actions[:, 0] for actions in drawn])
    assert lengths.min() < 16
    assert lengths.max() > 130
    covered = np.zeros(VIDEO_FRAMES)
    for actions in drawn:
        for start, end in actions:
            covered[start:end] += 1 / 500
    assert covered.min() > 0  # an action may be anywhere, if rarely at the very start and end
    assert covered[24:-24].min() > 0.25
    assert covered.max() < 0.75


def test_each_action_has_a_pace_of_its_own_that_can_be_seen():
    drawn = [draw_rates(np.random.default_rng([5, k]), 3) for k in range(1000)]
    rates = np.concatenate(drawn)
    (slow_low, slow_high), (quick_low, quick_high) = PACES["slow"], PACES["quick"]
    slow, quick = rates[rates < 1.35], rates[rates > 1.35]
    assert slow_low <= slow.min() < slow.max() <= slow_high
    assert quick_low <= quick.min() < quick.max() <= quick_high
    assert quick_low > 1.15 * slow_high
    assert len(slow) / len(rates) == pytest.approx(0.5, abs=0.05)
    assert rates.mean() == pytest.approx(1.35, abs=0.02)
    counts = Counter(int((one > 1.35).sum()) for one in drawn)
    assert counts[1] == pytest.approx(375, abs=60)  # three of eight: no action knows of another
    assert len(draw_rates(np.random.default_rng(0), 0)) == 0


def test_the_class_says_nothing_about_the_time(tmp_path, monkeypatch):
    """Where the actions of a video are follows from seed and place alone: other classes, same arrangement."""
    settings = SyntheticSettings(training_videos=12, validation_videos=6)
    monkeypatch.setattr(module, "_write_videos", lambda *_: None)

    def annotated(folder):
        write(folder, settings=settings)
        return read_annotations(folder / "annotations.json").videos

    before = annotated(tmp_path / "before")
    monkeypatch.setattr(module, "UNTRIMMED_KINDS", UNTRIMMED_KINDS[1:] + UNTRIMMED_KINDS[:1])
    after = annotated(tmp_path / "after")
    assert all(first.labels != second.labels for first, second in zip(before, after, strict=True))
    for first, second in zip(before, after, strict=True):
        assert_array_equal(first.segments, second.segments)
        assert len(set(first.labels)) == 1
    classes = Counter(video.labels[0] for video in before)
    assert classes == dict.fromkeys((kind.label for kind in UNTRIMMED_KINDS), 3)


def test_no_boundary_is_marked_by_a_key_frame(made):
    folder, _ = made
    for path in find_videos(folder / "videos").values():
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            ticks = sorted(packet.pts for packet in packets)
            keys = [ticks.index(packet.pts) for packet in packets if packet.is_keyframe]
        assert sorted(keys) == list(range(0, VIDEO_FRAMES, FRAME_RATE))  # once a second, whatever is shown


def scene(actions, kind=UNTRIMMED_KINDS[1], frames=60, rates=None):
    segments = np.array(actions).reshape(-1, 2)
    rates = np.full(len(segments), 1.3) if rates is None else np.array(rates)
    return Scene(kind.shape, kind.hue, kind.motion, segments, rates, frames, 56, FRAME_RATE)


def test_an_action_changes_its_own_frames_and_no_others():
    """The same video with and without its action: equal outside, as actions draw from the generator alike."""

    def without_motion(monkeypatch):
        still = {name: (lambda p: (0 * p, 0 * p, 0 * p)) for name in MOTIONS}
        monkeypatch.setattr("tspbench.datasets.sprites.MOTIONS", still)

    what = scene([[20, 40]])
    moving = render(what, np.random.default_rng(3))
    with pytest.MonkeyPatch.context() as patch:
        without_motion(patch)
        still = render(what, np.random.default_rng(3))
    changed = (moving != still).any(axis=(1, 2, 3))
    assert not changed[:20].any()
    assert not changed[40:].any()
    assert changed[20:40].mean() > 0.8
    size = np.abs(moving.astype(int) - still).mean(axis=(1, 2, 3))
    assert size[20] < size[20 + FADE_FRAMES : 40 - FADE_FRAMES].max()  # it fades in


@pytest.mark.parametrize("seed", range(5))
def test_an_action_moves_at_its_own_rate(seed):
    # A square that shakes goes through its middle twice a cycle: 10 s at 1 and 5 s at 1.75 cycles a second.
    what = scene([[0, 120], [130, 190]], UNTRIMMED_KINDS[1], frames=200, rates=[1.0, 1.75])
    x, _, _ = _action_motion(what, np.random.default_rng(seed))

    def crossings(offsets):
        signs = np.sign(offsets[offsets != 0])
        return int((signs[1:] != signs[:-1]).sum())

    assert crossings(x[:120]) == pytest.approx(20, abs=1)
    assert crossings(x[130:190]) == pytest.approx(17.5, abs=1)
    assert not x[120:130].any()


@pytest.mark.parametrize("kind", [*UNTRIMMED_KINDS, *TRIMMED_KINDS], ids=lambda kind: kind.label)
def test_every_kind_can_be_drawn_and_shows_its_shape(kind):
    assert kind.shape in SHAPES
    assert kind.motion in MOTIONS
    video = render(scene([[0, 6]], kind, frames=6), np.random.default_rng(0))
    assert video.shape == (6, 56, 56, 3)
    assert video.dtype == np.uint8
    u, v = np.meshgrid(np.linspace(-1.2, 1.2, 99), np.linspace(-1.2, 1.2, 99))
    inside = SHAPES[kind.shape](u, v) < 0
    assert 0.1 < inside.mean() < 0.7
    assert not inside[0].any()
    assert not inside[:, 0].any()


class Stop(Exception):  # noqa: N818 - it stands for a kill, not for an error
    pass


def test_an_interrupted_generation_goes_on_where_it_was(made, tmp_path, monkeypatch):
    folder, files = made
    target = tmp_path / "set"
    written = []
    real = module.write_video

    def stopping(path, frames, rate):
        if len(written) == 1:
            raise Stop
        written.append(path.name)
        real(path, frames, rate)

    monkeypatch.setattr(module, "write_video", stopping)
    with pytest.raises(Stop):
        write(target)
    assert not (target / "dataset.toml").exists()  # it marks the folder as complete
    with one_sentence(target, "dataset.toml"):
        open_dataset(str(target))

    def counting(path, frames, rate):
        written.append(path.name)
        real(path, frames, rate)

    monkeypatch.setattr(module, "write_video", counting)
    assert write(target) == files
    assert sorted(written) == names(folder / "videos")  # each video once in both tries together


def test_a_complete_set_is_left_alone(made, monkeypatch):
    folder, files = made
    monkeypatch.setattr(module, "write_video", lambda *_: pytest.fail("nothing is to be written"))
    assert write(folder) == files


def test_progress_counts_videos(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(module, "write_video", lambda path, frames, rate: None)
    monkeypatch.setattr(module, "render", lambda scene, rng: [])
    generate("synthetic", tmp_path / "set", FEW, 0, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Folders of users.


def test_a_folder_without_a_card_is_one_sentence(tmp_path):
    with one_sentence(tmp_path, "holds no dataset.toml"):
        open_dataset(str(tmp_path))
    with one_sentence("'synthetik'", "did you mean 'synthetic'?"):
        open_dataset("synthetik")


def test_a_card_that_does_not_fit_is_one_sentence(made, tmp_path):
    folder, _ = made
    card = (folder / "dataset.toml").read_text()
    (tmp_path / "dataset.toml").write_text(card.replace("annotations =", "annotation ="))
    with one_sentence(tmp_path / "dataset.toml", "'annotation'", "did you mean 'annotations'?"):
        open_dataset(str(tmp_path))
    (tmp_path / "dataset.toml").write_text(card.replace('"activitynet"', '"activtynet"'))
    with one_sentence(tmp_path / "dataset.toml", "did you mean 'activitynet'?"):
        open_dataset(str(tmp_path))


def test_videos_are_found_by_name(tmp_path):
    for name in ("v_abc.mp4", "x.MKV", "notes.txt", "y.webm"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    assert {name: path.name for name, path in find_videos(tmp_path).items()} == {
        "abc": "v_abc.mp4",
        "x": "x.MKV",
        "y": "y.webm",
    }
    with one_sentence(tmp_path / "folder.mp4", "holds no video"):
        find_videos(tmp_path / "folder.mp4")
    with one_sentence(tmp_path / "none", "is not a folder"):
        find_videos(tmp_path / "none")


def test_two_files_of_one_video_are_refused(tmp_path):
    for name in ("v_first.mp4", "first.mkv"):
        (tmp_path / name).touch()
    with one_sentence("v_first.mp4", "first.mkv", "both the video 'first'"):
        find_videos(tmp_path)
