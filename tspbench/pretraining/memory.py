"""What a training step of LoFi takes in memory, and the finest fidelity that fits."""

import copy
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines import LOCALIZERS
from tspbench import ranks
from tspbench.chunks import in_chunks
from tspbench.encoders.contract import Preprocessing
from tspbench.errors import UserError
from tspbench.fit_settings import FitSettings
from tspbench.pretraining.fidelity import SMALLEST_PIXELS, EndToEndSettings, Fidelity, finest_first
from tspbench.pretraining.lofi import SnippetEncoder, localizer_configs

GIB: Final = 2**30
SMALLEST_CHUNK: Final = 4  # snippets; fewer would leave a processor waiting
CHUNKS_MEASURED: Final = 3  # the first, one in the middle, the last: more change nothing
# What allocators and convolution libraries take beside the tensors: on a CPU 1.1 times as much as these for a plain
# step, 1.15 to 1.3 times for one in chunks, whose many pieces leave gaps (tests/benchmarks/lofi).
SPARE: Final = 1.35


@dataclass(frozen=True)
class Choice:
    """A fidelity and chunk that fit, and the bytes of a step."""

    fidelity: Fidelity
    chunk_snippets: int
    step_bytes: int


class StepMemory:
    """Counts the bytes of a training step by doing it: the encoder's part with tensors that have a size and no content.

    The localizer's part is done with content, for one video, because it looks at it; its memory grows with the videos.

    Args:
        encoder: with its weights, which stay as they are.
        settings: the localizer.
        batch_size: videos that one process has in a step.
        state_copies: what the optimizer keeps of every weight (0: plain SGD; 1: with momentum; 2: Adam).
        frozen_statistics: whether batch normalization uses running statistics.
        dtype: of the activations: float32, or bfloat16 under autocast.

    Attributes:
        batch_size: see there.
    """

    def __init__(
        self,
        encoder: Any,
        settings: EndToEndSettings,
        batch_size: int,
        *,
        state_copies: int,
        frozen_statistics: bool,
        dtype: torch.dtype,
    ) -> None:
        self._encoder, self._settings, self.batch_size = encoder, settings, batch_size
        self._state_copies = state_copies
        model = SnippetEncoder(copy.deepcopy(encoder).to("meta", dtype)).train(not frozen_statistics)
        model.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
        self._without_content = model
        self._localizers: dict[int, tuple[int, int]] = {}

    def step_bytes(self, fidelity: Fidelity, chunk_snippets: int) -> int:
        """Return what a step takes: weights, gradients, the optimizer's state, frames, and what is kept for gradients.

        The frames are there twice, because the next batch is read meanwhile, and a third time while it is put together;
        but then there is nothing else. Nor are the encoder's and the localizer's activations there at the same time.
        """
        spec: Preprocessing = self._encoder.preprocessing
        snippets = self.batch_size * fidelity.snippets
        frames: int = snippets * spec.clip_frames * fidelity.pixels**2 * 3
        of_localizer, weights = self._localizer(fidelity.snippets)
        weights += _bytes(self._encoder.state_dict().values())
        fixed = (2 + self._state_copies) * weights + 2 * frames
        passing = max(frames, self.batch_size * of_localizer, self._encoding(fidelity, chunk_snippets))
        return int(SPARE * (fixed + passing))

    def _encoding(self, fidelity: Fidelity, chunk_snippets: int) -> int:
        spec: Preprocessing = self._encoder.preprocessing
        snippets = self.batch_size * fidelity.snippets
        if chunk_snippets < snippets:
            snippets = min(snippets, CHUNKS_MEASURED * chunk_snippets)
        side = fidelity.pixels
        frames = torch.empty(snippets, spec.clip_frames, side, side, 3, dtype=torch.uint8, device="meta")
        with _Watch(self._without_content, [frames]) as found:
            in_chunks(self._without_content, (frames,), chunk_snippets).sum().backward()
        peak: int = found.peak
        return peak

    def _localizer(self, snippets: int) -> tuple[int, int]:
        """Return the bytes that a localizer takes for one video, and those of its weights and tables."""
        if snippets not in self._localizers:
            one = Fidelity(snippets=snippets, pixels=SMALLEST_PIXELS)
            alone = self._settings.model_copy(update={"fidelities": (one,)})
            kind: Any = LOCALIZERS[alone.localizer]
            with torch.random.fork_rng(devices=[]):
                model = kind(localizer_configs(alone, self._encoder.feature_dim)[snippets])
            features = torch.zeros(1, self._encoder.feature_dim, snippets, requires_grad=True)
            mask = torch.ones(1, snippets, dtype=torch.bool)
            targets = model.targets([torch.tensor([[0.25 * snippets, 0.5 * snippets]])], [torch.zeros(1).long()])
            with _Watch(model, [features]) as found:
                losses: Mapping[str, Tensor] = model.loss(model(features, mask), targets, torch.Generator())
                losses["total"].backward()  # type: ignore[no-untyped-call] # torch
            self._localizers[snippets] = found.peak, _bytes((*model.parameters(), *model.buffers()))
        return self._localizers[snippets]


def training_memory(encoder: Any, settings: EndToEndSettings, training: FitSettings, device: str) -> StepMemory:
    """Return the memory of a training's steps in one of its processes, on a device."""
    moments = 2 if training.optimizer != "sgd" else int(training.momentum > 0)
    bf16 = training.precision == "bf16" or (training.precision == "auto" and device != "cpu")
    return StepMemory(
        encoder,
        settings,
        math.ceil(training.batch_size / ranks.count()),
        state_copies=moments + int(training.average is not None) + int(ranks.count() > 1),  # and DDP's buckets
        frozen_statistics=training.batch_norm == "frozen",
        dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def choose_fidelity(memory: StepMemory, encoder: Any, batch_size: int, memory_gib: float) -> Choice:
    """Return the finest fidelity of which a step fits into a budget, with the largest chunk that does.

    The order is that of `finest_first`; chunks are tried from `SMALLEST_CHUNK` on by powers of two, up to all snippets
    of a batch at once, where nothing has to be computed again.

    Args:
        memory: of a step.
        encoder: with its preprocessing.
        batch_size: videos that one process has in a step.
        memory_gib: the budget.

    Raises:
        UserError: not even the coarsest fits.
    """
    least = 0
    for fidelity in finest_first(encoder.preprocessing.crop):
        fitting = None
        for chunk in _chunks(batch_size * fidelity.snippets):
            needed = memory.step_bytes(fidelity, chunk)
            if needed > memory_gib * GIB:
                least = needed
                break
            fitting = Choice(fidelity, chunk, needed)
        if fitting is not None:
            return fitting
    raise UserError(
        f"memory_gib (--memory-budget): expected at least {least / GIB:.2f} GiB, what a step of {batch_size} video(s) "
        f"takes at the lowest fidelity, found {memory_gib:g}: give more, or choose a smaller fit.batch_size."
    )


def _chunks(snippets: int) -> Iterator[int]:
    size = SMALLEST_CHUNK
    while size < snippets:
        yield size
        size *= 2
    yield snippets


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch
    """Counts the bytes of the tensors that are made within the block and live at a time, apart from gradients.

    Args:
        model: whose gradients are made beforehand, so that they do not count.
        inputs: tensors that do not count either.

    Attributes:
        peak: most bytes at a time.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        # Kept, so that nothing new gets the identity of one of them.
        known = (*model.parameters(), *model.buffers(), *gradients, *inputs)
        self._there = [tensor.untyped_storage() for tensor in known]
        self._seen = {id(storage) for storage in self._there}
        self._live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do one operation and count what is new."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._seen:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size
