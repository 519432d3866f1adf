import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tspbench.helpers import one_sentence
from tspbench.feature_batches import FeatureBatches
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features

CPU = torch.device("cpu")
MEANING = RowMeaning("tiny", "w", clip_frames=8, stride_frames=12, frame_rate=12.0, feature_dim=4, precision="fp32")
WINDOWS = TimeSettings(mode="windows", step_seconds=0.7, window_stride=5)


def write_set(path, videos=6, rows=9, dim=4):
    """Write videos of 1 row a second, video k with k more rows than the first and with k mod 3 segments."""
    rng = np.random.default_rng(0)
    meaning = RowMeaning(**{**MEANING.__dict__, "feature_dim": dim})
    features = {
        f"v{k}": VideoFeatures(rng.standard_normal((rows + k, dim)).astype(np.float32), float(rows + k), "d")
        for k in range(videos)
    }
    write_features(path, features, meaning)
    return FeatureFiles([path]), [
        VideoAnnotations(f"v{k}", "train", None, np.array([[1.0, 2.0 + k], [0.0, 1.0]])[: k % 3], ("b", "a")[: k % 3])
        for k in range(videos)
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "f.h5")


def make(prepared, time=WINDOWS, memory=1 << 20, workers=0, seed=0, size=4):
    views = FeatureViews(*prepared, ["a", "b"], 7, time, training=False, memory_bytes=memory)
    return FeatureBatches(views, size, CPU, workers, seed)


def assert_same(one, other):
    assert one.features.numpy().tobytes() == other.features.numpy().tobytes()
    assert torch.equal(one.mask, other.mask)
    for a, b in ((one.segments, other.segments), (one.labels, other.labels)):
        assert len(a) == len(b)
        assert all(map(torch.equal, a, b))


def test_every_view_comes_once_an_epoch_in_an_order_of_its_own(prepared):
    def sums(epoch, seed=0):
        batches = make(prepared, TimeSettings(), seed=seed)
        found = [batch for batch, _ in batches.epoch(epoch)]
        assert [len(batch.features) for batch in found] == [4, 2]
        assert batches.steps() == 2
        return torch.cat([batch.features for batch in found]).sum((1, 2)).tolist()

    ((_, first), (_, second)) = make(prepared, TimeSettings()).in_order()
    whole = torch.cat([first.features, second.features]).sum((1, 2)).tolist()
    assert all(sorted(sums(epoch)) == sorted(whole) for epoch in range(4))
    assert sums(1) == sums(1)
    assert len({tuple(sums(epoch)) for epoch in range(6)}) > 1
    assert any(sums(epoch) != sums(epoch, seed=1) for epoch in range(4))


def test_the_order_of_an_epoch_is_what_it_always_was(prepared):
    """Or runs that go on behind a kill would not be the runs that they were."""
    views = FeatureViews(*prepared, ["a", "b"], 7, TimeSettings(), training=True)
    ((batch, samples),) = FeatureBatches(views, 6, CPU, 0, seed=3).epoch(2)
    assert samples == 6
    order = np.random.default_rng([3, 20, 2]).permutation(6)
    assert_same(batch, views.batch(order.tolist()))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_begin_at_any_batch_and_reads_nothing_before(prepared, workers, monkeypatch):
    batches = make(prepared, memory=0, size=4)
    whole = list(batches.epoch(1))
    assert len(whole) > 3
    if workers:
        batches = make(prepared, memory=0, size=4, workers=1)
    asked, order = [], batches.views.order
    monkeypatch.setattr(batches.views, "order", lambda chosen: asked.append(chosen) or order(chosen))
    for first in (0, 2, len(whole)):
        asked.clear()
        for (one, samples), (other, others) in zip(whole[first:], batches.epoch(1, first), strict=True):
            assert samples == others
            assert_same(one, other)
        assert len(asked) == len(whole) - first


def test_several_processes_share_a_batch(prepared, monkeypatch):
    """6 videos in batches of 5: of the last one each of 2 processes sees the same video, which counts once."""
    batches = make(prepared, TimeSettings(), size=5)
    whole = list(batches.epoch(0))
    monkeypatch.setattr("tspbench.ranks.count", lambda: 2)
    parts = []
    for number in (0, 1):
        monkeypatch.setattr("tspbench.ranks.number", lambda number=number: number)
        parts.append(list(batches.epoch(0)))
    for (batch, samples), *shares in zip(whole, *parts, strict=True):
        assert [each for _, each in shares] == [samples] * 2
        assert [len(part.features) for part, _ in shares] == [-(-samples // 2)] * 2
        assert torch.equal(torch.cat([part.features for part, _ in shares])[:samples], batch.features)


def test_the_videos_of_a_batch_are_known_by_name(prepared):
    batches = make(prepared)
    for step, (batch, _) in enumerate(batches.epoch(1)):
        names = batches.names(1, step)
        assert len(names) == len(batch.features)
        assert set(names) <= set(batches.views.names)
    drawn = [name for step in range(batches.steps()) for name in batches.names(1, step)]
    assert sorted(drawn) == sorted(batches.views.names[view.video] for view in batches.views.views)


def test_in_order_is_the_order_of_the_views(prepared):
    batches = make(prepared, size=5)
    numbers = [chosen for chosen, _ in batches.in_order()]
    assert [number for chosen in numbers for number in chosen] == list(range(len(batches.views)))
    assert {len(chosen) for chosen in numbers[:-1]} == {5}
    assert len(numbers) == batches.steps()
    for chosen, batch in batches.in_order():
        assert_same(batch, batches.views.batch(chosen))


def test_features_in_memory_start_no_process(prepared):
    assert make(prepared, workers=2)._workers is None
    assert make(prepared, memory=0, workers=0)._workers is None


@pytest.fixture(scope="module")
def helped(prepared):
    """Streamed by two processes, which the tests share."""
    return make(prepared, memory=0, workers=2)


def test_the_same_batches_kept_streamed_and_streamed_by_two_workers(prepared, helped):
    kept, streamed = make(prepared), make(prepared, memory=0)
    state = torch.random.get_rng_state()
    for epoch in (0, 1):
        every = zip(kept.epoch(epoch), streamed.epoch(epoch), helped.epoch(epoch), strict=True)
        for (one, _), (other, _), (third, _) in every:
            assert_same(one, other)
            assert_same(one, third)
    for (chosen, one), (others, other) in zip(kept.in_order(), helped.in_order(), strict=True):
        assert chosen == others
        assert_same(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody's dropout depends on the workers


def test_an_epoch_that_was_left_does_not_reach_into_the_next(prepared, helped):
    next(helped.epoch(0))
    for (one, _), (other, _) in zip(make(prepared).epoch(1), helped.epoch(1), strict=True):
        assert_same(one, other)


def test_a_mistake_that_a_worker_finds_is_one_sentence(helped, monkeypatch):
    monkeypatch.setattr(helped.views, "names", ["gone", *helped.views.names[1:]])
    with one_sentence(helped.views.files.paths[0], "'gone'", "extract it"):
        list(helped.in_order())
    monkeypatch.undo()
    assert len(list(helped.in_order())) == helped.steps()


def test_streaming_holds_a_batch_whatever_the_number_of_videos(tmp_path):
    def peak(videos):
        prepared = write_set(tmp_path / f"{videos}.h5", videos, rows=30, dim=256)
        batches = make(prepared, TimeSettings(mode="windows"), memory=0, size=2)
        tracemalloc.start()
        for _ in batches.in_order():
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(2)  # what is made once
    # 30 videos more have 1.4 MB of features; a batch has 14 KB.
    assert peak(40) < peak(10) + 200_000


def test_what_workers_run_loads_no_torch():
    code = "import sys, tspbench.feature_reading; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


INTERRUPTED = """
import sys
from pathlib import Path
import numpy as np
import torch
from tspbench.feature_batches import FeatureBatches
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles

if __name__ == "__main__":
    videos = [VideoAnnotations("v0", "train", None, np.empty((0, 2)), ())]
    files = FeatureFiles([Path(sys.argv[1])])
    views = FeatureViews(files, videos, [], 7, TimeSettings(), training=True, memory_bytes=0)
    batches = FeatureBatches(views, 1, torch.device("cpu"), 2, 0)
    print("ready", flush=True)
    for epoch in range(10**9):
        for _ in batches.epoch(epoch):
            pass
"""


def test_an_interrupt_ends_the_workers_without_a_word_of_theirs(tmp_path):
    write_set(tmp_path / "f.h5")
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "f.h5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as process:
        process.stdout.readline()
        time.sleep(1)  # the workers exist and import torch: when they have most to say
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, errors  # this program's own
    assert errors.rstrip().endswith("KeyboardInterrupt")
