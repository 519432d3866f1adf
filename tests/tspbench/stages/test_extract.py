import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import cut, names, numbered_video, one_sentence, silent
from tspbench.encoders import named_encoder, new_encoder
from tspbench.errors import UserError
from tspbench.stages import extract as module
from tspbench.stages.extract import Extraction, TrainedEncoder, class_scores, extract
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.video import open_video, scan_video

HOW = Extraction(stride_frames=6, batch_size=7, decoders=2)
LENGTHS = [40, 8, 60, 5, 24, 33, 17]


@pytest.fixture(scope="module")
def encoder():
    """A tiny encoder whose batch statistics are not those of a new one, so that a wrong mode would show."""
    module = new_encoder("tiny", 0)
    module.train()
    with torch.no_grad():
        module(torch.randn(4, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0)))
    return TrainedEncoder(module, "tiny", "seed 0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for k, frames in enumerate(LENGTHS):
        numbered_video(folder / f"v{k}.mp4", frames, first=60 * k)
    return folder


@pytest.fixture
def videos(folder):
    return {f"v{k}": folder / f"v{k}.mp4" for k in range(len(LENGTHS))}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "VIDEOS_PER_PART", 2)


def content(path):
    """Return everything that a feature file says: entries with their attributes, and its own."""
    with h5py.File(path) as file:
        entries = {name: (file[name][()].tobytes(), file[name].shape, dict(file[name].attrs)) for name in file}
        attributes = {key: np.asarray(value).tolist() for key, value in file.attrs.items()}
    return entries, attributes


def test_rows_are_the_clips_of_the_video(tmp_path, encoder, videos):
    assert extract(encoder, videos, tmp_path / "f.h5", HOW, silent) == {}
    assert names(tmp_path) == ["f.h5"]
    files = FeatureFiles([tmp_path / "f.h5"])
    assert files.videos == videos.keys()
    spec = encoder.module.preprocessing
    for k, frames in enumerate(LENGTHS):
        rows = files.rows(f"v{k}")
        assert rows.shape == (max(1, (frames - 8) // 6 + 1), 128)
        whole = open_video(scan_video(videos[f"v{k}"])).read(np.minimum(np.arange(max(8, frames)), frames - 1))
        clips = spec.apply(torch.from_numpy(whole)).unfold(1, 8, 6).permute(1, 0, 4, 2, 3)
        with torch.inference_mode():
            expected = torch.cat([encoder.module.eval()(clip[None]) for clip in clips]).numpy()
        assert_allclose(rows, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert files.duration(f"v{k}", None) == pytest.approx(frames / 12)
    assert files.meaning() == {
        "format": "tspbench features 1",
        "encoder": "tiny",
        "weights": "seed 0",
        "clip_frames": 8,
        "stride_frames": 6,
        "frame_rate": 12.0,
        "feature_dim": 128,
        "precision": "fp32",
        "skipped": [],
    }


@pytest.mark.usefixtures("small_parts")
def test_the_number_of_decoders_changes_no_bit(tmp_path, encoder, videos):
    for decoders in (1, 3):
        how = Extraction(stride_frames=6, batch_size=7, decoders=decoders)
        extract(encoder, videos, tmp_path / f"{decoders}.h5", how, silent)
    assert content(tmp_path / "1.h5") == content(tmp_path / "3.h5")


class Interrupted(Exception):  # noqa: N818 - it stands for a kill, not for an error
    pass


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("at", "finished"), [(0, 0), (3, 2), (5, 3)])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, encoder, videos, at, finished):
    extract(encoder, videos, tmp_path / "whole.h5", HOW, silent)
    out = tmp_path / "f.h5"

    def stop(done, total, note=""):
        if done > at:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(encoder, videos, out, HOW, stop)
    assert not out.exists()
    parts = out.with_name("f.h5.parts")
    assert len(names(parts) if parts.exists() else []) == finished
    extract(encoder, videos, out, HOW, silent)
    assert content(out) == content(tmp_path / "whole.h5")
    assert names(tmp_path) == ["f.h5", "whole.h5"]


@pytest.mark.usefixtures("small_parts")
def test_finished_parts_are_not_computed_again(tmp_path, encoder, videos, monkeypatch):
    read = []
    real = module.decoding
    monkeypatch.setattr(module, "decoding", lambda group, *rest: read.extend(group) or real(group, *rest))

    def stop(done, total, note=""):
        if done >= 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(encoder, videos, tmp_path / "f.h5", HOW, stop)
    assert read == ["v0", "v1", "v2", "v3"]
    read.clear()
    told = []
    extract(encoder, videos, tmp_path / "f.h5", HOW, lambda done, total, note="": told.append(done))
    assert read == ["v4", "v5", "v6"]
    assert told[0] == 4


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("how", "weights"), [(Extraction(stride_frames=4, batch_size=7), "seed 0"), (HOW, "other weights")]
)
def test_parts_of_other_settings_or_weights_are_not_taken_up(tmp_path, encoder, videos, how, weights):
    def stop(done, total, note=""):
        if done >= 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(encoder, videos, tmp_path / "f.h5", HOW, stop)
    told = []
    other = TrainedEncoder(encoder.module, "tiny", weights)
    extract(other, videos, tmp_path / "f.h5", how, lambda done, total, note="": told.append(done))
    assert told[1] < 2  # the first part is worked on
    assert names(tmp_path) == ["f.h5"]
    assert FeatureFiles([tmp_path / "f.h5"]).meaning()["weights"] == weights


@pytest.mark.usefixtures("small_parts")
def test_a_part_is_computed_again_when_a_video_was_exchanged(tmp_path, encoder, videos):
    videos["v0"] = numbered_video(tmp_path / "v0.mp4", 40)

    def stop(done, total, note=""):
        if done >= 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(encoder, videos, tmp_path / "f.h5", HOW, stop)
    numbered_video(videos["v0"], 80, first=300)
    extract(encoder, videos, tmp_path / "f.h5", HOW, silent)
    assert FeatureFiles([tmp_path / "f.h5"]).rows("v0").shape == (13, 128)


# Encoders that fail.

OWN = """from torch import nn
from tspbench.preprocessing import Preprocessing

class Mine(nn.Module):
    preprocessing = Preprocessing(clip_frames=8, frame_rate=12, size=16, mean=(0, 0, 0), std=(1, 1, 1))
    feature_dim = 3

    def forward(self, clips):
        found = clips.mean((2, 3, 4))
        from_64 = clips[:, :, -1, 2, 9].mean(dim=1) > 0.5  # v0 has numbers up to 39, v1 from 60 to 67
        {fault}
        return found
"""


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("if clips.any(): [][0]", ["fails on clips (7, 3, 8, 16, 16) of v0 to v1 ", "line 11: IndexError"]),
        ("if clips.any(): raise SystemExit(0)", ["fails on clips", "line 11: SystemExit: 0"]),
        ("if clips.any(): found = found[:, :2]", ["(7, 3)", "(7, 2)", "feature_dim"]),
        ("if clips.any(): found = 3", ["(7, 3)", "found a int"]),
        ("found[from_64] = float('nan')", ["NaN", "for 1 of clips (7, 3, 8, 16, 16) of v0 to v1, first of v1:"]),
    ],
)
def test_an_encoder_of_ones_own_that_fails_on_real_clips_is_one_sentence(tmp_path, videos, fault, parts):
    path = tmp_path / "own.py"
    path.write_text(OWN.format(fault=fault))
    name = f"{path}:Mine"
    named_encoder(name)  # nothing is wrong with it on clips of zeros
    with one_sentence(name, "mend its forward", *parts):
        extract(TrainedEncoder(new_encoder(name, 0), name, "its own"), videos, tmp_path / "f.h5", HOW, silent)
    assert not (tmp_path / "f.h5").exists()


def test_features_that_are_not_finite_are_refused_of_every_encoder(tmp_path, videos):
    broken = new_encoder("tiny", 0)
    next(broken.parameters()).data.fill_(torch.nan)
    with one_sentence("tiny: expected finite features", "7 of clips", "first of v0", "--checkpoint"):
        extract(TrainedEncoder(broken, "tiny", "seed 0"), videos, tmp_path / "f.h5", HOW, silent)


# Videos that cannot be read.


@pytest.fixture
def with_broken(tmp_path, videos):
    """Add a truncated video in the middle."""
    videos["v2b"] = cut(numbered_video(tmp_path / "whole.mp4", 90), tmp_path / "broken.mp4", 0.6)
    (tmp_path / "whole.mp4").unlink()
    return videos


@pytest.mark.usefixtures("small_parts")
def test_one_unreadable_video_ends_the_run_and_loses_nothing_else(tmp_path, encoder, with_broken, folder, monkeypatch):
    out = tmp_path / "f.h5"
    with one_sentence("1 of 8 videos", tmp_path / "broken.mp4", "--skip-unreadable", "other 7 are kept"):
        extract(encoder, with_broken, out, HOW, silent)
    assert not out.exists()
    kept = {}
    for part in (tmp_path / "f.h5.parts").iterdir():
        with h5py.File(part) as file:
            kept |= {name: len(file[name]) for name in file}
    assert kept.keys() == with_broken.keys() - {"v2b"}

    # Once it is mended, it alone is computed.
    (tmp_path / "broken.mp4").write_bytes((folder / "v4.mp4").read_bytes())
    read = []
    real = module.decoding
    monkeypatch.setattr(module, "decoding", lambda group, *rest: read.extend(group) or real(group, *rest))
    extract(encoder, with_broken, out, HOW, silent)
    assert read == ["v2b"]
    assert names(tmp_path) == ["broken.mp4", "f.h5"]
    extract(encoder, with_broken, tmp_path / "again.h5", HOW, silent)
    assert content(out) == content(tmp_path / "again.h5")
    assert FeatureFiles([out]).rows("v2b").shape == (3, 128)


@pytest.mark.usefixtures("small_parts")
def test_unreadable_videos_are_listed_in_the_file_where_they_are_left_out(tmp_path, encoder, with_broken):
    how = Extraction(stride_frames=6, batch_size=7, skip_unreadable=True)
    with_broken["v9"] = tmp_path / "missing.mp4"
    skipped = extract(encoder, with_broken, tmp_path / "f.h5", how, silent)
    assert skipped.keys() == {"v2b", "v9"}
    files = FeatureFiles([tmp_path / "f.h5"])
    assert files.videos == with_broken.keys() - skipped.keys()
    listed = files.meaning()["skipped"]
    assert listed == [f"{name}: {skipped[name]}" for name in ("v2b", "v9")]
    assert str(tmp_path / "missing.mp4") in listed[1]


def test_the_others_have_the_same_features_beside_an_unreadable_video(tmp_path, encoder, with_broken):
    how = Extraction(stride_frames=6, batch_size=7, skip_unreadable=True)
    extract(encoder, with_broken, tmp_path / "a.h5", how, silent)
    del with_broken["v2b"]
    extract(encoder, with_broken, tmp_path / "b.h5", how, silent)
    first, second = FeatureFiles([tmp_path / "a.h5"]), FeatureFiles([tmp_path / "b.h5"])
    for name in with_broken:
        assert_allclose(first.rows(name), second.rows(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_nothing_readable_at_all_is_an_error_in_any_case(tmp_path, encoder, skip):
    how = Extraction(stride_frames=6, skip_unreadable=skip)
    with one_sentence(tmp_path / "gone.mp4", "is not a file"):
        extract(encoder, {"v": tmp_path / "gone.mp4"}, tmp_path / "f.h5", how, silent)
    with pytest.raises(UserError, match=r"^2 of 2 videos cannot be read: mend"):
        extract(encoder, {n: tmp_path / f"{n}.mp4" for n in "ab"}, tmp_path / "f.h5", how, silent)
    assert not (tmp_path / "f.h5").exists()


def test_bf16_is_near_and_says_so(tmp_path, encoder, videos):
    few = {"v0": videos["v0"]}
    extract(encoder, few, tmp_path / "a.h5", HOW, silent)
    extract(encoder, few, tmp_path / "b.h5", Extraction(stride_frames=6, precision="bf16"), silent)
    first, second = FeatureFiles([tmp_path / "a.h5"]), FeatureFiles([tmp_path / "b.h5"])
    assert second.meaning()["precision"] == "bf16"
    assert_allclose(first.rows("v0"), second.rows("v0"), atol=0.05 * np.abs(first.rows("v0")).max())
    assert (first.rows("v0") != second.rows("v0")).any()


# Class scores of a video, from the head that was trained with its encoder.


def test_class_scores_are_mean_probabilities(tmp_path, encoder, videos):
    extract(encoder, videos, tmp_path / "f.h5", HOW, silent)
    heads = {"action": {"weight": torch.randn(3, 128), "bias": torch.randn(3)}}
    card = {"labels": ["x", "y", "z"]}
    write_weights(tmp_path / "e.safetensors", Weights("tiny", encoder.module.state_dict(), heads, card))
    files = FeatureFiles([tmp_path / "f.h5"])
    scores = class_scores(files, tmp_path / "e.safetensors")
    assert scores.labels == ("x", "y", "z")
    assert scores.scores.keys() == videos.keys()
    logits = torch.from_numpy(files.rows("v2")) @ heads["action"]["weight"].T + heads["action"]["bias"]
    assert_allclose(scores.scores["v2"], logits.softmax(1).mean(0), rtol=1e-4)
    assert_array_equal(np.round([row.sum() for row in scores.scores.values()], 9), 1)


def test_class_scores_without_a_head_are_one_sentence(tmp_path, encoder, videos):
    write_weights(tmp_path / "e.safetensors", Weights("tiny", encoder.module.state_dict(), {}, {"labels": ["x"]}))
    with one_sentence(tmp_path / "e.safetensors", "no action head"):
        class_scores(FeatureFiles([tmp_path / "none.h5"]), tmp_path / "e.safetensors")
