"""Features + captions → trained captioner."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from baselines import CAPTIONERS
from baselines.caption_contract import CaptionBatch, padded_words
from tspbench.device import workers_for
from tspbench.errors import UserError
from tspbench.fit import Job, fit, seed_random_layers
from tspbench.progress import Advance
from tspbench.segment_batches import SegmentBatches, SegmentStreams
from tspbench.stages.captioner_settings import CaptionerSettings, captioner_config
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.word_vectors import read_word_vectors
from tspbench.vocabulary import Vocabulary

CAPTIONER_FILE: Final = "captioner.safetensors"


@dataclass(frozen=True)
class CaptionLesson:
    """What a captioner learns from.

    Args:
        segments: what is shown.
        sentences: the words of each segment.
        validate: captioner → METEOR as a fraction; None: nothing tells epochs apart.
    """

    segments: SegmentStreams
    sentences: Sequence[Sequence[int]]
    validate: Callable[[Any], float] | None


def new_captioner(settings: CaptionerSettings, dims: Sequence[int], vocabulary: Vocabulary, seed: int) -> Any:
    """Build a captioner with random weights that follow from ``seed``.

    Args:
        settings: which one.
        dims: channels of the visual stream and, if there is one, of the sound.
        vocabulary: its words.
        seed: of the weights.

    Raises:
        UserError: an unknown captioner, or a setting that does not fit it.
    """
    config = captioner_config(settings, dims[0], dims[1] if len(dims) > 1 else 0, len(vocabulary))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CAPTIONERS[settings.name](config)


def start_from_vectors(model: Any, settings: CaptionerSettings, vocabulary: Vocabulary) -> dict[str, object]:
    """Give the captioner the word vectors of a file, where there is one; return figures for the record.

    Raises:
        UserError: the file does not fit.
    """
    if settings.text.vectors is None:
        return {}
    path = Path(settings.text.vectors)
    vectors, known = read_word_vectors(path, vocabulary.words)
    if vectors.shape[1] != model.config.word_dim:
        raise UserError(
            f"{path}: expected vectors of config.word_dim = {model.config.word_dim} numbers, found {vectors.shape[1]}: "
            f"give --set config.word_dim={vectors.shape[1]}."
        )
    special = len(vocabulary) - len(vectors)
    every = torch.cat([torch.zeros(special, vectors.shape[1]), torch.from_numpy(vectors)])
    model.set_word_vectors(every, frozen=not settings.text.train_vectors)
    return {"words_with_vectors": int(known.sum())}


def train_captioner(
    lesson: CaptionLesson,
    model: Any,
    settings: CaptionerSettings,
    *,
    seed: int,
    device: str,
    folder: Path,
    key: str,
    advance: Advance,
) -> dict[str, object]:
    """Train ``model`` in place and write `CAPTIONER_FILE` into ``folder``; an interrupted run goes on where it was.

    Args:
        lesson: what it learns from.
        model: from `new_captioner`.
        settings: training and the captioner's own settings.
        seed: of the order of segments and of the network's random layers.
        device: torch device.
        folder: for the weights and the training state.
        key: fingerprint of the run.
        advance: told how many steps are done.

    Returns:
        Figures for the record.
    """
    workers = workers_for(device, settings.fit.workers)
    batches = SegmentBatches(lesson.segments, settings.fit.batch_size, torch.device(device), workers, seed)

    def epoch_batches(epoch: int, first: int) -> Iterator[tuple[CaptionBatch, int]]:
        for chosen, streams in batches.epoch(epoch, first):
            words = padded_words([lesson.sentences[number] for number in chosen])
            yield CaptionBatch(streams, words.to(device)), len(chosen)

    def loss(forward: nn.Module, batch: tuple[CaptionBatch, int], epoch: int, step: int) -> Mapping[str, Tensor]:
        shown, _ = batch
        seed_random_layers(seed, epoch, step)
        losses: Mapping[str, Tensor] = model.loss(forward(shown.streams, shown.words[:, :-1]), shown.words)
        return losses

    validate = lesson.validate
    job = Job(
        model=model,
        groups={"captioner": [parameter for parameter in model.parameters() if parameter.requires_grad]},
        batches=epoch_batches,
        steps=batches.steps(),
        loss=loss,
        validate=None if validate is None else lambda _: {"METEOR": validate(model)},
        better="METEOR",
        fingerprint=key,
        unit="captions",
        names=batches.names,
    )
    with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.device(device)]):
        history = fit(job, settings.fit, device, folder, advance)
    card: dict[str, object] = {"captioner": settings.name, "config": settings.config, "seed": seed, "fingerprint": key}
    write_weights(folder / CAPTIONER_FILE, Weights(None, dict(model.state_dict()), {}, card))
    return {"epochs": history.epochs, "kept_epoch": history.kept_epoch, "training_captions": len(lesson.sentences)}
