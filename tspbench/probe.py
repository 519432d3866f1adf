"""How fast this machine is at what takes long, measured in a few seconds: encoders, decoding, localizers."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from baselines.contract import FeatureBatch
from tspbench.encoders import encoder_class, new_encoder
from tspbench.encoders.contract import channels_last
from tspbench.fit_settings import FitSettings
from tspbench.pretraining import METHODS
from tspbench.pretraining.contract import ClipLabels, HeadOptions
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity
from tspbench.pretraining.lofi import fidelities_of
from tspbench.pretraining.memory import training_memory
from tspbench.stages.train import LocalizerSettings, new_localizer
from tspbench.storage.video import open_video, scan_video, write_video
from tspbench.streaming import padded_grid

CLIPS: Final = 1  # of a probed step, and videos of one
CLASSES: Final = 200
VIDEO_SECONDS: Final = 4
VIDEO_SIZE: Final = (240, 320)
VIDEO_RATE: Final = 30


@dataclass(frozen=True)
class StepCost:
    """What a sample (a clip, a video) costs.

    Attributes:
        forward_seconds: of a prediction.
        train_seconds: of a training step, for one of its samples.
        forward_bytes: what the hungriest layer of a prediction reads and writes.
        train_bytes: what is kept of a sample between the forward and the backward pass.
        fixed_bytes: weights, gradients and the optimizer's state.
    """

    forward_seconds: float
    train_seconds: float
    forward_bytes: float
    train_bytes: float
    fixed_bytes: float


@cache
def encoder_cost(name: str, method: str, device: str) -> StepCost:
    """Measure a pretraining step of an encoder, for one clip."""
    encoder = new_encoder(name, seed=0)
    spec = encoder.preprocessing
    kind: Any = METHODS[method]
    model = channels_last(kind(encoder, HeadOptions(encoder.feature_dim, CLASSES, kind.all_heads, 0, {})).to(device))
    clips = torch.randn(CLIPS, 3, spec.clip_frames, spec.crop, spec.crop, device=device)
    zeros = torch.zeros(CLIPS, dtype=torch.int64, device=device)
    labels = ClipLabels(zeros, zeros, None)
    return _cost(model, lambda: encoder(clips), lambda: model.loss(model(clips, labels), labels)["total"], device)


def lofi_bytes(name: str, settings: EndToEndSettings, training: FitSettings, device: str) -> int:
    """Count what the largest step of LoFi takes in memory; no step is done for it."""
    told = settings.localizer, json.dumps(settings.config, sort_keys=True), settings.chunk_snippets
    turns = fidelities_of(settings, encoder_class(name).preprocessing)
    return max(_lofi_step_bytes(name, turn, *told, training.model_dump_json(), device) for turn in turns)


@cache
def _lofi_step_bytes(
    name: str, fidelity: Fidelity, localizer: str, config: str, chunk: int | None, training: str, device: str
) -> int:
    settings = EndToEndSettings(localizer=localizer, config=json.loads(config))
    fit = FitSettings.model_validate_json(training)
    memory = training_memory(new_encoder(name, seed=0), settings, fit, device)
    return memory.step_bytes(fidelity, chunk or memory.batch_size * fidelity.snippets)


def localizer_cost(settings: LocalizerSettings, feature_dim: int, device: str) -> StepCost:
    """Measure a training step of a localizer, for one video."""
    model = new_localizer(settings, feature_dim, seed=0).to(device)
    steps = model.config.steps
    features = torch.randn(CLIPS, feature_dim, steps, device=device)
    mask = torch.ones(CLIPS, steps, dtype=torch.bool, device=device)
    segments = [torch.tensor([[0.2 * steps, 0.6 * steps]], device=device)] * CLIPS
    batch = FeatureBatch(features, mask, segments, [torch.zeros(1, dtype=torch.int64, device=device)] * CLIPS)
    targets = model.targets(batch.segments, batch.labels)

    def loss() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        total: Tensor = model.loss(model(batch.features, batch.mask), targets, generator)["total"]
        return total

    return _cost(model, lambda: model.decode(model(batch.features, batch.mask)), loss, device)


@cache
def frame_seconds(name: str) -> float:
    """Measure how long one frame of an encoder takes to be decoded and prepared, from a video of 320 x 240 pixels."""
    spec = encoder_class(name).preprocessing
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (VIDEO_SIZE[0] // 16, VIDEO_SIZE[1] // 16, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        count = VIDEO_SECONDS * VIDEO_RATE
        write_video(path, (np.roll(picture, 2 * k, axis=1) for k in range(count)), VIDEO_RATE)
        start = time.perf_counter()
        info = scan_video(path)
        grid = padded_grid(info, spec)
        spec.apply(torch.from_numpy(open_video(info).read(grid)))
        return (time.perf_counter() - start) / len(grid)


def _cost(model: nn.Module, forward: Callable[[], object], loss: Callable[[], Tensor], device: str) -> StepCost:
    def train() -> float:
        model.zero_grad()
        with _saved() as kept:
            total = loss()
        total.backward()  # type: ignore[no-untyped-call] # torch
        return sum(kept.values()) / CLIPS

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            forward()

    if device != "cpu":  # the first pass on a GPU chooses algorithms; on a CPU it is as good as the next
        model.train()
        train()
    with _largest(model) as largest:
        forward_seconds = _seconds(predict, device)
    model.train()
    kept: list[float] = []
    train_seconds = _seconds(lambda: kept.append(train()), device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # Weights, gradients and two moments, as Adam has them; SGD has one.
    return StepCost(
        forward_seconds / CLIPS, train_seconds / CLIPS, max(largest, default=0) / CLIPS, kept[0], 4.0 * weights
    )


@contextmanager
def _largest(model: nn.Module) -> Iterator[list[int]]:
    """Collect how many bytes each layer reads and writes."""
    sizes: list[int] = []

    def measure(_layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    hooks = [layer.register_forward_hook(measure) for layer in model.modules() if not list(layer.children())]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _saved() -> Iterator[dict[int, int]]:
    """Collect what is kept for the backward pass: storage → bytes."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _seconds(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
