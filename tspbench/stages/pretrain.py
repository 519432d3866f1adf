"""Videos → encoder checkpoint, by one of the pretraining methods."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tspbench import ranks
from tspbench.clip_batches import BadVideos, Batch, ClipBatches, ClipDraws, clips_ahead
from tspbench.clip_reading import CACHE_BYTES, clip_reader
from tspbench.config import Settings, choose
from tspbench.device import workers_for
from tspbench.encoders import AnyEncoder
from tspbench.fit import Job, fit
from tspbench.fit_settings import FitSettings
from tspbench.pretraining import METHODS
from tspbench.pretraining.contract import HeadOptions, accuracies, added_up, constant_heads, count_answers
from tspbench.pretraining.fidelity import EndToEndSettings
from tspbench.pretraining.segments import LabelledSegment, Sampling, label_counts
from tspbench.progress import Advance, say
from tspbench.stages.lessons import Lesson
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import FeatureFiles, read_vectors
from tspbench.training_state import History
from tspbench.workers import Pool

ENCODER_FILE: Final = "encoder.safetensors"
OF_CLIPS: Final = ("clips_per_segment", "sampling", "gvf", "shortest_gap_clips", "heads", "loss_weights")
"""Settings that mean nothing to a method that sees whole videos."""
DEADLINE_SECONDS: Final = 30.0  # what reading a clip may take; the first of a video includes a look at the whole file

# The published recipe for ActivityNet (TSP, train/opts.py and train/train.py), batch and rates as
# they act on its two GPUs.
PUBLISHED_FIT: Final = FitSettings(
    epochs=8,
    batch_size=64,
    optimizer="sgd",
    learning_rates={"stem": 0.0, "backbone": 2e-4, "heads": 4e-3},
    weight_decay=0.005,
    warmup_epochs=2,
    warmup_factor=1e-5,
    milestones=(4, 6),
    gamma=0.01,
    select="best",
)


class PretrainSettings(Settings):
    """How an encoder is pretrained.

    Args:
        method: key of `METHODS`.
        heads: which of the method's heads are trained; all when empty (single heads are the paper's ablation).
        gvf: how a video's clip features become its global feature; "none": the region head sees the clip alone.
        loss_weights: head → factor of its loss; 1 for those not named.
        clips_per_segment: clips drawn from each segment an epoch; with balanced sampling, from each action.
        sampling: "every-segment" is that of TSP's code: so many clips of each segment, of whichever kind, an epoch. A
            method that wants no background (TAC) sees it there, too, without a label. "balanced" draws as many clips
            of background as of actions.
        shortest_gap_clips: where the data set brings no segments of its own, background shorter than so many clips is
            left out (5 on ActivityNet, 1 on THUMOS14, as in the released ground truth of TSP).
        bad_videos: clips that cannot be read are replaced as long as they are of no more videos than that.
        end_to_end: of "lofi" alone: the localizer it trains through, and how much of a video it sees.
        fit: training.
    """

    method: str
    heads: tuple[str, ...] = Field((), strict=False)
    gvf: Literal["max", "avg", "none"] = "max"
    loss_weights: dict[str, float] = Field(default_factory=dict)
    clips_per_segment: int = Field(5, ge=1)
    sampling: Sampling = "balanced"
    shortest_gap_clips: float = Field(5.0, gt=0)
    bad_videos: int = Field(10, ge=0)
    end_to_end: EndToEndSettings = EndToEndSettings()
    fit: FitSettings = PUBLISHED_FIT

    def needs_gvf(self) -> bool:
        """Whether training asks for global video features."""
        return METHODS[choose("method", self.method, METHODS)].wants_background and self.gvf != "none"


def pretrain(
    name: str,
    encoder: AnyEncoder,
    lesson: Lesson,
    settings: PretrainSettings,
    *,
    seed: int,
    device: str,
    folder: Path,
    key: str,
    advance: Advance,
) -> dict[str, object]:
    """Train ``encoder`` and write `ENCODER_FILE` into ``folder``; an interrupted run goes on where it was.

    Args:
        name: the encoder's name.
        encoder: with its initial weights; trained in place.
        lesson: what it learns.
        settings: how.
        seed: of heads and clips.
        device: torch device.
        folder: for the checkpoint and the training state.
        key: fingerprint of the run; a state of another run is not taken up.
        advance: told how many steps are done.

    Returns:
        Figures for the record: counts, accuracy of each head each epoch, which epoch was kept.
    """
    method = _build(encoder, lesson, settings, seed)
    _warn(lesson, settings, method.heads)
    workers = workers_for(device, settings.fit.workers, at_least=1)
    make = partial(clip_reader, lesson.videos, encoder.preprocessing, CACHE_BYTES // max(1, workers))
    ahead = clips_ahead(encoder.preprocessing, -(-settings.fit.batch_size // ranks.count()), workers)
    gvf = lesson.gvf if settings.needs_gvf() else None
    bad = BadVideos(settings.bad_videos)
    with Pool(make, workers, DEADLINE_SECONDS) as pool:

        def batches(segments: Sequence[LabelledSegment]) -> ClipBatches:
            clip_seconds, clips = encoder.preprocessing.clip_seconds, settings.clips_per_segment
            draws = ClipDraws(segments, clip_seconds, clips, settings.sampling, seed)
            return ClipBatches(draws, gvf, pool, ahead, settings.fit.batch_size, torch.device(device), bad)

        training, validation = batches(lesson.training), _Validation(batches(lesson.validation), lesson.labels)

        def epoch_batches(epoch: int, first_step: int) -> Iterator[Batch]:
            validation.after = f"After epoch {epoch}"
            return training.epoch(epoch, first_step)

        job = Job(
            model=method,
            groups=_groups(method, encoder.stem_prefix),
            batches=epoch_batches,
            steps=training.steps(),
            loss=partial(_loss, method),
            validate=validation,
            better="mean_accuracy",
            fingerprint=key,
            unit="clips",
            names=training.names,
            beside=bad,
        )
        history = fit(job, settings.fit, device, folder, advance)
    heads = {head: dict(layer.state_dict()) for head, layer in method.heads.items()}
    card = {"method": settings.method, "labels": list(lesson.labels), "seed": seed, "fingerprint": key}
    if ranks.is_first():
        write_weights(folder / ENCODER_FILE, Weights(name, dict(method.encoder.state_dict()), heads, card))
    return _figures(lesson, history, bad)


def _loss(method: Any, model: nn.Module, batch: Any, _epoch: int, _step: int) -> dict[str, Tensor]:
    """Return the losses of the whole batch, of which this process has a part."""
    clips, labels, samples = batch
    logits = ranks.gathered(model(clips, labels), samples)
    losses: dict[str, Tensor] = method.loss(logits, ranks.gathered(replace(labels, gvf=None), samples))
    return losses


class _Validation:
    """Model → accuracies on all validation clips, of which each process sees a part; says once what is hopeless."""

    def __init__(self, batches: ClipBatches, labels: Sequence[str]) -> None:
        self._batches = batches
        self._names = {"action": labels, "region": ("action", "background")}
        self._warned: set[str] = set()
        self.after = "After the epochs before"  # of a run that was interrupted while it validated

    def __call__(self, model: nn.Module) -> dict[str, float]:
        own = added_up(count_answers(model(clips, labels), labels) for clips, labels, _ in self._batches.validation())
        answers = added_up(ranks.everybodys(own))
        for head, given in constant_heads(answers).items():
            if head not in self._warned:
                say(
                    f"{self.after} the {head} head says {self._names[head][given]!r} of all {answers[head].total()} "
                    "validation clips, though they differ: if that stays so, it learns nothing."
                )
            self._warned.add(head)
        return accuracies(answers)


def _warn(lesson: Lesson, settings: PretrainSettings, heads: Iterable[str]) -> None:
    """Say what training cannot learn from these segments."""
    seen = {segment.action for segment in lesson.training}
    unseen = [label for number, label in enumerate(lesson.labels) if number not in seen]
    if "action" in heads and unseen:
        say(
            f"{len(unseen)} of {len(lesson.labels)} classes have no training segment (first: {unseen[0]!r}): "
            "the action head never sees them."
        )
    if "region" in heads and not label_counts(lesson.training)["background"]:
        say(f"{settings.method} finds no background to train on: its region head sees actions alone.")


def global_features(paths: Iterable[Path], pooling: str) -> dict[str, NDArray[np.float32]]:
    """Pool the frozen initial encoder's clip features over each whole video (TSP, section 3: the GVF).

    Args:
        paths: H5 files of (T, D) features, or files of (D,) vectors such as the released GVF.
        pooling: "max" or "avg".

    Returns:
        Video → (D,). Released files go by the names of video files: ActivityNet's ``v_`` is taken off.
    """
    files = FeatureFiles(paths)
    pool = np.max if pooling == "max" else np.mean
    if files.is_vectors():
        pooled = {video: vector for path in files.paths for video, vector in read_vectors(path).items()}
    else:
        pooled = {video: pool(files.rows(video), axis=0) for video in sorted(files.videos)}
    return {video.removeprefix("v_"): vector for video, vector in pooled.items()}


def _build(encoder: AnyEncoder, lesson: Lesson, settings: PretrainSettings, seed: int) -> Any:
    kind: Any = METHODS[choose("method", settings.method, METHODS)]
    heads = tuple(choose(f"head of {settings.method}", head, kind.all_heads) for head in settings.heads)
    heads = heads or kind.all_heads
    for head in settings.loss_weights:
        choose("trained head (loss_weights)", head, heads)
    gvf_dim = len(next(iter(lesson.gvf.values()))) if lesson.gvf and settings.needs_gvf() else 0
    options = HeadOptions(encoder.feature_dim, len(lesson.labels), heads, gvf_dim, settings.loss_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(encoder, options)


def _groups(method: Any, stem_prefix: str | tuple[str, ...]) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {"stem": [], "backbone": [], "heads": list(method.heads.parameters())}
    for name, parameter in method.encoder.named_parameters():
        groups["stem" if name.startswith(stem_prefix) else "backbone"].append(parameter)
    return groups


def _figures(lesson: Lesson, history: History, bad: BadVideos) -> dict[str, object]:
    return {
        "training_segments": label_counts(lesson.training),
        "validation_segments": label_counts(lesson.validation),
        "epochs": history.epochs,
        "kept_epoch": history.kept_epoch,
        "bad_videos": bad.figures(),
    }
