"""Videos → encoder checkpoint, by one of the pretraining methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.clip_batches import CACHE_BYTES, VALIDATION, ClipBatches, ClipDataset, ClipReader
from tspbench.config import Settings, choose
from tspbench.datasets import Dataset
from tspbench.device import workers_for
from tspbench.encoders import AnyEncoder
from tspbench.errors import UserError
from tspbench.fit import History, Job, fit
from tspbench.fit_settings import FitSettings
from tspbench.pretraining import METHODS
from tspbench.pretraining.contract import ClipLabels, HeadOptions, accuracies, count_correct
from tspbench.pretraining.fidelity import EndToEndSettings
from tspbench.pretraining.segments import LabelledSegment, Sampling, cut_segments, label_counts
from tspbench.progress import Advance, say
from tspbench.stages.segments import annotated_actions, labelled_segments
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.features import FeatureFiles, read_vectors
from tspbench.storage.tsp_segments import SegmentRow, read_segments
from tspbench.storage.video import scan_video
from tspbench.video_names import known_name

T = TypeVar("T")

ENCODER_FILE: Final = "encoder.safetensors"
ROLES: Final = ("training", "validation")

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
    end_to_end: EndToEndSettings = EndToEndSettings()
    fit: FitSettings = PUBLISHED_FIT

    def needs_gvf(self) -> bool:
        """Whether training asks for global video features."""
        return METHODS[choose("method", self.method, METHODS)].wants_background and self.gvf != "none"


@dataclass(frozen=True)
class Lesson:
    """What an encoder is to learn: segments to draw clips from, and everything they refer to.

    Args:
        videos: video → file.
        training: segments for training.
        validation: segments for choosing the epoch.
        labels: action classes in the order of their indices.
        gvf: video → (D,) global feature, None where the method asks for none.
    """

    videos: Mapping[str, Path]
    training: Sequence[LabelledSegment]
    validation: Sequence[LabelledSegment]
    labels: Sequence[str]
    gvf: Mapping[str, NDArray[np.float32]] | None


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
    torch_device = torch.device(device)
    workers = workers_for(device, settings.fit.workers)
    # Training and validation have workers of their own, and each worker a cache of its own.
    reader = ClipReader(lesson.videos, encoder.preprocessing, CACHE_BYTES // max(1, 2 * workers))

    def batches(segments: Sequence[LabelledSegment]) -> ClipBatches:
        gvf = lesson.gvf if settings.needs_gvf() else None
        clips, sampling = settings.clips_per_segment, settings.sampling
        dataset = ClipDataset(reader, encoder.preprocessing, segments, gvf, clips, sampling, seed)
        return ClipBatches(dataset, settings.fit.batch_size, torch_device, workers)

    training, validation = batches(lesson.training), batches(lesson.validation)

    def epoch_batches(epoch: int, first: int) -> Iterable[tuple[Tensor, ClipLabels, int]]:
        return ((clips, labels, len(clips)) for clips, labels in islice(training.epoch(epoch), first, None))

    def loss(model: nn.Module, batch: Any, _epoch: int, _step: int) -> dict[str, Tensor]:
        clips, labels, _ = batch
        losses: dict[str, Tensor] = method.loss(model(clips, labels), labels)
        return losses

    def validate(model: nn.Module) -> dict[str, float]:
        scored = ((model(clips, labels), labels) for clips, labels in validation.epoch(VALIDATION))
        return accuracies(count_correct(logits, labels) for logits, labels in scored)

    job = Job(
        model=method,
        groups=_groups(method, encoder.stem_prefix),
        batches=epoch_batches,
        steps=training.steps(),
        loss=loss,
        validate=validate,
        better="mean_accuracy",
        fingerprint=key,
        unit="clips",
    )
    history = fit(job, settings.fit, device, folder, advance)
    heads = {head: dict(layer.state_dict()) for head, layer in method.heads.items()}
    card = {"method": settings.method, "labels": list(lesson.labels), "seed": seed, "fingerprint": key}
    write_weights(folder / ENCODER_FILE, Weights(name, dict(method.encoder.state_dict()), heads, card))
    return _figures(lesson, history)


def prepare_lesson(
    dataset: Dataset, spec_seconds: float, settings: PretrainSettings, gvf: Mapping[str, NDArray[np.float32]] | None
) -> Lesson:
    """Bring a data set's videos as labelled segments.

    They are those of the ground truth that the data set names for a role, or else cut from its annotations. Classes are
    the labels of the annotations, without the one that the data set's protocol ignores; without annotations, those of
    the training ground truth.

    Args:
        dataset: with the splits "training" and "validation".
        spec_seconds: length of a clip.
        settings: method and limits.
        gvf: global features; every video must have one when the method asks for them.

    Raises:
        UserError: no video of a split is there, a split has no action, or a GVF is missing.
    """
    sources = _sources(dataset)
    named = {video for source in sources.values() for video in source.videos}
    files = _by_annotated_name(dataset.video_files(), named)
    gvf = None if gvf is None else _by_annotated_name(gvf, named)
    splits = {role: _segments(dataset, role, source, files, spec_seconds, settings) for role, source in sources.items()}
    needed = {segment.video for segments in splits.values() for segment in segments}
    if gvf is not None and needed - set(gvf):
        missing = sorted(needed - set(gvf))
        raise UserError(
            f"The global video features lack {len(missing)} of {len(needed)} videos, first {missing[0]!r}: extract "
            "features of the initial encoder for all of them."
        )
    videos = {name: files[name] for name in sorted(needed)}
    return Lesson(videos, splits["training"], splits["validation"], sources["training"].labels, gvf)


def _by_annotated_name(there: Mapping[str, T], named: Iterable[str]) -> dict[str, T]:
    """Return what there is of videos by the names that the annotations give them, with the prefix ``v_`` or without."""
    return {video: there[name] for video in named if (name := known_name(video, there)) is not None}


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
    kind = METHODS[choose("method", settings.method, METHODS)]
    heads = tuple(choose(f"head of {settings.method}", head, kind.all_heads) for head in settings.heads)
    heads = heads or kind.all_heads
    for head in settings.loss_weights:
        choose("trained head (loss_weights)", head, heads)
    gvf_dim = len(next(iter(lesson.gvf.values()))) if lesson.gvf and settings.needs_gvf() else 0
    options = HeadOptions(encoder.feature_dim, len(lesson.labels), heads, gvf_dim, settings.loss_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(encoder, options)


def _groups(method: nn.Module, stem_prefix: str) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {"stem": [], "backbone": [], "heads": []}
    for name, parameter in method.named_parameters():
        stem = name.startswith(f"encoder.{stem_prefix}")
        groups["heads" if name.startswith("heads.") else "stem" if stem else "backbone"].append(parameter)
    return groups


@dataclass(frozen=True)
class _Source:
    """Where the segments of a role come from.

    Attributes:
        where: file, and subset, for messages.
        labels: action classes in the order of their indices.
        videos: video → its rows of a ground truth, or its annotations.
    """

    where: str
    labels: tuple[str, ...]
    videos: Mapping[str, list[SegmentRow] | VideoAnnotations]


def _sources(dataset: Dataset) -> dict[str, _Source]:
    paths = {role: path for role in ROLES if (path := dataset.segments(role)) is not None}
    ready = {role: _by_video(read_segments(path)) for role, path in paths.items()}
    annotations = cache(dataset.read)  # not read where nobody needs them

    def annotated(role: str) -> dict[str, VideoAnnotations]:
        return {video.name: video for video in annotations().subset(dataset.subset(role))}

    if dataset.card.annotations is None and "training" in ready:
        named = {row.label for rows in ready["training"].values() for row in rows if row.label is not None}
    else:
        named = set(annotations().labels) - {_ignored_label(dataset)}
    labels = tuple(sorted(named))
    sources = {}
    for role in ROLES:
        if role not in ready:
            sources[role] = _Source(f"{dataset.annotations}, subset {dataset.subset(role)!r}", labels, annotated(role))
            continue
        rows = ready[role]
        if role in dataset.trial:
            tried = annotated(role)
            rows = {video: each for video, each in rows.items() if video in tried}
        sources[role] = _Source(str(paths[role]), labels, rows)
    return sources


def _ignored_label(dataset: Dataset) -> str | None:
    return DETECTION_PROTOCOLS[dataset.protocol].ignored_label


def _by_video(rows: Iterable[SegmentRow]) -> dict[str, list[SegmentRow]]:
    found: dict[str, list[SegmentRow]] = {}
    for row in rows:
        found.setdefault(row.video, []).append(row)
    return found


def _segments(
    dataset: Dataset,
    role: str,
    source: _Source,
    files: Mapping[str, Path],
    clip_seconds: float,
    settings: PretrainSettings,
) -> list[LabelledSegment]:
    """Return the segments of one split; videos that are not there are counted aloud and left out."""
    there = [video for video in source.videos if video in files]
    manifest = dataset.manifest()
    lengths = _by_annotated_name(dataset.lengths(), source.videos)
    quarantined = _by_annotated_name(manifest.quarantined if manifest else {}, source.videos)
    gone = [video for video in source.videos if video not in files and video not in quarantined]
    kept_out = [video for video in source.videos if video in quarantined]
    if gone:
        say(f"{dataset.name}: {len(gone)} of {len(source.videos)} {role} videos are not there (first: {gone[0]}).")
    if kept_out:
        why = quarantined[kept_out[0]]
        say(f"{dataset.name}: {len(kept_out)} of {len(source.videos)} {role} videos are quarantined (the first: {why})")
    found: list[LabelledSegment] = []
    for name in there:
        video = source.videos[name]
        if isinstance(video, VideoAnnotations):
            shortest_gap = settings.shortest_gap_clips * clip_seconds
            # What a scan has measured counts more than what is annotated: some published lengths are wrong.
            duration = lengths.get(name) or video.duration_seconds or scan_video(files[name]).duration
            found += _cut(video, duration, source.labels, _ignored_label(dataset), clip_seconds, shortest_gap)
        else:
            found += labelled_segments(video, source.labels, clip_seconds, source.where)
    # TSP's code shows TAC the background, too, without a label: so does "every-segment", in training.
    wanted = METHODS[settings.method].wants_background or (role == "training" and settings.sampling == "every-segment")
    if not wanted:
        found = [segment for segment in found if not segment.region]
    if not label_counts(found)["foreground"]:
        raise UserError(
            f"{source.where}: expected actions of {clip_seconds:.2f} s or more in videos of {dataset.videos}, found "
            "none: check the video names and the splits."
        )
    return found


def _cut(
    video: VideoAnnotations,
    duration: float,
    labels: Sequence[str],
    ignored_label: str | None,
    clip_seconds: float,
    shortest_gap: float,
) -> list[LabelledSegment]:
    annotated = annotated_actions(video, ignored_label)
    if annotated is None:
        return []
    classes = [labels.index(label) for label in annotated[1]]
    return cut_segments(video.name, duration, annotated[0], classes, clip_seconds, shortest_gap)


def _figures(lesson: Lesson, history: History) -> dict[str, object]:
    return {
        "training_segments": label_counts(lesson.training),
        "validation_segments": label_counts(lesson.validation),
        "epochs": history.epochs,
        "kept_epoch": history.kept_epoch,
    }
