"""The frozen encoder of a captioner + annotated segments → trained proposal generator; and what it proposes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.bmt_proposals import ProposalGenerator, anchor_lengths
from baselines.caption_contract import Streams
from tspbench.device import workers_for
from tspbench.fit import Job, fit, seed_random_layers
from tspbench.progress import Advance
from tspbench.segment_batches import Floats, SegmentBatches, SegmentStreams
from tspbench.stages.captioner_settings import CaptionerSettings, generator_config
from tspbench.storage.checkpoints import Weights, read_weights, write_weights

GENERATOR_FILE: Final = "generator.safetensors"


@dataclass(frozen=True)
class ProposalLesson:
    """What a proposal generator learns from.

    Args:
        videos: whole videos.
        segments: of each video, (n, 2) in seconds.
        validate: generator → F1 of its proposals; None: nothing tells epochs apart.
    """

    videos: SegmentStreams
    segments: Sequence[Floats]
    validate: Callable[[Any], float] | None


def new_generator(
    settings: CaptionerSettings, anchors: Sequence[Sequence[float]], dims: Sequence[int], seed: int
) -> ProposalGenerator:
    """Build a proposal generator with random weights that follow from ``seed``."""
    config = generator_config(settings, [tuple(lengths) for lengths in anchors], tuple(dims))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ProposalGenerator(config)


def load_generator(path: Path, settings: CaptionerSettings, dims: Sequence[int]) -> ProposalGenerator:
    """Read a trained generator with its anchors."""
    weights = read_weights(path)
    anchors: Any = weights.card["anchors"]
    model = new_generator(settings, anchors, dims, seed=0)
    model.load_state_dict(weights.features)
    return model


def lesson_anchors(lesson: ProposalLesson, settings: CaptionerSettings, seed: int) -> list[tuple[float, ...]]:
    """Return the typical lengths of the lesson's segments in steps, for each stream (FACTS: k-means, BMT main.py)."""
    lengths = np.concatenate([np.diff(segments, axis=1)[:, 0] for segments in _in_steps(lesson)])
    counts = settings.generator.anchors[: len(lesson.videos.sources)]
    return [anchor_lengths(lengths[lengths > 0], count, seed) for count in counts]


def train_generator(
    lesson: ProposalLesson,
    captioner: Any,
    model: ProposalGenerator,
    settings: CaptionerSettings,
    *,
    seed: int,
    device: str,
    folder: Path,
    key: str,
    advance: Advance,
) -> dict[str, object]:
    """Train ``model`` in place and write `GENERATOR_FILE` into ``folder``; an interrupted run goes on where it was.

    Args:
        lesson: what it learns from.
        captioner: trained, in evaluation mode, on ``device``; its encoder is used as it is.
        model: from `new_generator`.
        settings: of the training.
        seed: of the order of videos and of the network's random layers.
        device: torch device.
        folder: for the weights and the training state.
        key: fingerprint of the run.
        advance: told how many steps are done.

    Returns:
        Figures for the record.
    """
    how = settings.generator.fit
    workers = workers_for(device, how.workers)
    batches = SegmentBatches(lesson.videos, how.batch_size, torch.device(device), workers, seed)
    steps = [torch.from_numpy(segments) for segments in _in_steps(lesson)]

    def epoch_batches(epoch: int, first: int) -> Iterator[tuple[list[int], Streams, int]]:
        return ((chosen, streams, len(chosen)) for chosen, streams in batches.epoch(epoch, first))

    def loss(forward: nn.Module, batch: tuple[list[int], Streams, int], epoch: int, step: int) -> Mapping[str, Tensor]:
        chosen, streams, _ = batch
        seed_random_layers(seed, epoch, step)
        # As it encodes when it proposes, whatever precision the generator is trained in.
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            encoded = captioner.encode(streams)
        targets = model.targets([steps[number].to(device) for number in chosen], encoded)
        losses: Mapping[str, Tensor] = model.loss(forward(encoded), targets)
        return losses

    validate = lesson.validate
    job = Job(
        model=model,
        groups={"generator": list(model.parameters())},
        batches=epoch_batches,
        steps=batches.steps(),
        loss=loss,
        validate=None if validate is None else lambda _: {"F1": validate(model)},
        better="F1",
        fingerprint=key,
        unit="videos",
        names=batches.names,
    )
    with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.device(device)]):
        history = fit(job, how, device, folder, advance)
    card: dict[str, object] = {"anchors": [list(lengths) for lengths in model.config.anchors], "fingerprint": key}
    write_weights(folder / GENERATOR_FILE, Weights(None, dict(model.state_dict()), {}, card))
    return {
        "epochs": history.epochs,
        "kept_epoch": history.kept_epoch,
        "training_videos": len(lesson.videos),
        "segments_beyond_the_rows": sum(map(len, lesson.segments)) - sum(map(len, steps)),
    }


@torch.inference_mode()
def propose(
    videos: SegmentStreams, captioner: Any, model: ProposalGenerator, settings: CaptionerSettings, device: str
) -> list[tuple[Floats, Floats]]:
    """Propose segments of each video.

    Args:
        videos: whole videos.
        captioner: trained, in evaluation mode, on ``device``.
        model: a trained generator, likewise.
        settings: how many proposals.
        device: torch device.

    Returns:
        Of each video segments (n, 2) in seconds and scores (n,), best first.
    """
    how = settings.generator.fit
    batches = SegmentBatches(videos, how.batch_size, torch.device(device), workers_for(device, how.workers), seed=0)
    found: dict[int, tuple[Floats, Floats]] = {}
    for chosen, streams in batches.longest_first():
        with torch.autocast(torch.device(device).type, enabled=False):
            found_here = model.decode(model(captioner.encode(streams)))
        for number, proposals in zip(chosen, found_here, strict=True):
            segments = videos.timeline(number).to_seconds(proposals.segments.double().cpu().numpy())
            inside = np.clip(segments, 0.0, videos.segments[number].duration_seconds)
            found[number] = inside, proposals.scores.double().cpu().numpy()
    return [found[number] for number in range(len(videos))]


def _in_steps(lesson: ProposalLesson) -> list[NDArray[np.float32]]:
    """Return the segments of each video in its rows, without those that lie beyond the last one."""
    found = []
    for number, segments in enumerate(lesson.segments):
        steps = lesson.videos.timeline(number).to_steps(segments).astype(np.float32)
        found.append(steps[steps[:, 1] > steps[:, 0]])
    return found
