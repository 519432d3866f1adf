"""What a recipe will cost on this machine: clips, disk, memory and hours, from a short measured probe."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tspbench.datasets import BENCHMARKS, DATASETS
from tspbench.datasets.synthetic import FRAME_RATE, TRIMMED_FRAMES, VIDEO_FRAMES, SyntheticSettings
from tspbench.encoders import encoder_class
from tspbench.errors import UserError
from tspbench.fit_settings import FitSettings
from tspbench.plan import features_folder, planned_stages
from tspbench.pretraining import METHODS
from tspbench.pretraining.lofi import fidelities_of
from tspbench.probe import encoder_cost, frame_seconds, localizer_cost, lofi_bytes
from tspbench.recipe import LOFI, TRAINED_ON, PretrainStage, Recipe
from tspbench.sources import Sources

ROLES: Final = ("training", "validation")
GIB: Final = 2.0**30
HOUR: Final = 3600.0


@dataclass(frozen=True)
class SetSize:
    """How much a data set holds, by role.

    Attributes:
        videos: how many.
        seconds: how long they are together.
        actions: annotated ones that a clip fits into; of a set that is not there, as expected.
        background: likewise.
    """

    videos: Mapping[str, int]
    seconds: Mapping[str, float]
    actions: Mapping[str, int]
    background: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """What a part of a recipe takes.

    Attributes:
        what: the part.
        amount: of what it works through, for people.
        hours: on this machine.
        disk_bytes: that it leaves behind.
        memory_bytes: on the device, at its peak.
    """

    what: str
    amount: str
    hours: float
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0


def costs(recipe: Recipe, sources: Sources, device: str) -> list[Cost]:
    """Estimate every part of a recipe that takes long, in the order in which they run.

    Speeds are measured here and now, on an idle or a busy machine; captioners and refiners are not probed.
    """
    sizes = {key: set_size(recipe, sources, key) for key in recipe.sets}
    found = [_pretraining(recipe, name, sources, sizes, device) for name in sources.pretrainings()]
    extracted = {folder for verb, folder in planned_stages(recipe, sources) if verb == "extract"}
    names = dict.fromkeys([*(row.features for row in recipe.rows), *(s.init for s in recipe.pretrain.values())])
    for key, size in sizes.items():
        for name in names:
            kind = sources.encoder(name)
            if sources.weights(name).ways and name not in (*recipe.pretrain, *recipe.released, *TRAINED_ON):
                continue  # a file that is not there has no folder either
            folder = features_folder(recipe, name, key)
            if folder in extracted:
                extracted.discard(folder)
                found.append(_extraction(recipe, f"extract {name}", kind, size, device))
    return found + _localizers(recipe, sizes[recipe.target], device)


def set_size(recipe: Recipe, sources: Sources, key: str) -> SetSize:
    """Count a data set: what it will be, is expected to be as a known benchmark, or is annotated to be."""
    source = recipe.data[key]
    if source in DATASETS:
        return _generated(source, recipe.generate)
    try:
        dataset = sources.dataset(key)
    except UserError:
        dataset = None
    benchmark = source if source in BENCHMARKS else dataset.card.benchmark if dataset else None
    if benchmark is not None:
        splits = BENCHMARKS[benchmark].splits
        taken = {
            role: min(1.0, count / splits[role].videos) for role, count in (dataset.trial if dataset else {}).items()
        }
        share = {role: taken.get(role, 1.0) for role in ROLES}
        return SetSize(
            {role: round(share[role] * split.videos) for role, split in splits.items()},
            {role: share[role] * split.seconds for role, split in splits.items()},
            {role: round(share[role] * (split.kept or (0, 0))[0]) for role, split in splits.items()},
            {role: round(share[role] * (split.kept or (0, 0))[1]) for role, split in splits.items()},
        )
    none = dict.fromkeys(ROLES, 0)
    if dataset is None or dataset.card.annotations is None:
        return SetSize(none, dict.fromkeys(ROLES, 0.0), none, none)
    annotations = dataset.read()
    videos = {role: annotations.subset(dataset.subset(role)) for role in ROLES}
    actions = {role: sum(len(video.labels) for video in its) for role, its in videos.items()}
    return SetSize(
        {role: len(its) for role, its in videos.items()},
        {role: sum(video.duration_seconds or 0.0 for video in its) for role, its in videos.items()},
        actions,
        actions,  # about as many gaps as actions
    )


def _generated(name: str, settings: SyntheticSettings) -> SetSize:
    """Return the size of a set to be generated: two actions a video on average, trimmed clips of one."""
    if name == "synthetic":
        videos = {"training": settings.training_videos, "validation": settings.validation_videos}
        actions = {role: 2 * count for role, count in videos.items()}
        return SetSize(videos, {r: n * VIDEO_FRAMES / FRAME_RATE for r, n in videos.items()}, actions, actions)
    held_out = settings.trimmed_clips // 6
    videos = {"training": settings.trimmed_clips - held_out, "validation": held_out}
    seconds = {role: count * TRIMMED_FRAMES / FRAME_RATE for role, count in videos.items()}
    return SetSize(videos, seconds, videos, dict.fromkeys(ROLES, 0))


def epoch_clips(recipe: Recipe, name: str, size: SetSize) -> dict[str, int]:
    """Return how many clips an epoch of a pretraining has, by role."""
    stage = recipe.pretrain[name]
    clips = {}
    for role in ROLES:
        # TSP's code shows TAC background clips, too, which carry no loss; see `epoch_segments`.
        every = role == "training" and stage.sampling == "every-segment"
        background = size.background[role] if every or METHODS[stage.method].wants_background else 0
        if background and role == "training" and not every:
            background = size.actions[role]
        clips[role] = stage.clips_per_segment * (size.actions[role] + background)
    return clips


def _pretraining(recipe: Recipe, name: str, sources: Sources, sizes: Mapping[str, SetSize], device: str) -> Cost:
    stage, kind = recipe.pretrain[name], sources.encoder(name)
    if stage.method == LOFI:
        return _end_to_end(name, stage, kind, sizes[stage.data].videos["training"], device)
    clips = epoch_clips(recipe, name, sizes[stage.data])
    cost = encoder_cost(kind, stage.method, device)
    spec = encoder_class(kind).preprocessing
    decoding = frame_seconds(kind) * spec.clip_frames
    epoch = _seconds(clips["training"], cost.train_seconds, decoding, device)
    epoch += _seconds(clips["validation"], cost.forward_seconds, decoding, device)
    return Cost(
        f"pretrain {name}",
        f"{clips['training']:,} + {clips['validation']:,} clips an epoch, {stage.fit.epochs} epochs",
        stage.fit.epochs * epoch / HOUR,
        disk_bytes=cost.fixed_bytes / 4,
        memory_bytes=cost.fixed_bytes + stage.fit.batch_size * cost.train_bytes,
    )


def _end_to_end(name: str, stage: PretrainStage, kind: str, videos: int, device: str) -> Cost:
    """Return what LoFi takes: a clip for each snippet, as large as its picture; the localizer hardly counts beside it.

    Fidelities take turns. What passes through the encoder in chunks does so once more for its gradients.
    """
    settings, spec = stage.end_to_end, encoder_class(kind).preprocessing
    cost, turns = encoder_cost(kind, "tac", device), fidelities_of(settings, spec)
    snippets = sum(turn.snippets for turn in turns) / len(turns)
    full_clips = sum(turn.snippets * (turn.pixels / spec.crop) ** 2 for turn in turns) / len(turns)
    again = 0.0 if settings.chunk_snippets is None else cost.forward_seconds
    decoding = snippets * spec.clip_frames * frame_seconds(kind)
    epoch = _seconds(videos, full_clips * (cost.train_seconds + again), decoding, device)
    chosen = settings.memory_gib  # then fidelity and chunk are chosen when training begins
    return Cost(
        f"pretrain {name}",
        f"{videos:,} videos of {' / '.join(str(turn.snippets) for turn in turns)} snippets, {stage.fit.epochs} epochs",
        stage.fit.epochs * epoch / HOUR if chosen is None else math.nan,
        disk_bytes=cost.fixed_bytes / 4,
        memory_bytes=lofi_bytes(kind, settings, stage.fit, device) if chosen is None else chosen * GIB,
    )


def _extraction(recipe: Recipe, what: str, kind: str, size: SetSize, device: str) -> Cost:
    spec, seconds = encoder_class(kind).preprocessing, sum(size.seconds.values())
    stride = recipe.extract.stride_frames
    clips = round(seconds * spec.frame_rate / stride)
    cost = encoder_cost(kind, "tac", device)
    return Cost(
        what,
        f"{clips:,} clips",
        _seconds(clips, cost.forward_seconds, frame_seconds(kind) * stride, device) / HOUR,
        disk_bytes=4.0 * clips * encoder_class(kind).feature_dim,
        memory_bytes=cost.fixed_bytes / 4 + recipe.extract.batch_size * cost.forward_bytes,
    )


def _localizers(recipe: Recipe, size: SetSize, device: str) -> list[Cost]:
    found = []
    for task, settings in recipe.tasks.localizers.items():
        if settings.refines:
            found.append(_unmeasured(recipe, task, settings.name, settings.fit, size))
            continue
        cost = localizer_cost(settings, encoder_class(recipe.encoder).feature_dim, device)
        row = settings.fit.epochs * size.videos["training"] * cost.train_seconds
        row += size.videos["validation"] * cost.forward_seconds
        found.append(
            Cost(
                f"{task}: {settings.name}, {len(recipe.rows)} rows",
                f"{size.videos['training']:,} videos, {settings.fit.epochs} epochs",
                len(recipe.rows) * row / HOUR,
                memory_bytes=cost.fixed_bytes + settings.fit.batch_size * cost.train_bytes,
            )
        )
    captioner = recipe.tasks.captioning
    if captioner is not None:
        found.append(_unmeasured(recipe, "captioning", captioner.name, captioner.fit, size))
    return found


def _unmeasured(recipe: Recipe, task: str, name: str, fit: FitSettings, size: SetSize) -> Cost:
    amount = f"{size.videos['training']:,} videos, {fit.epochs} epochs"
    return Cost(f"{task}: {name}, {len(recipe.rows)} rows", amount, math.nan)


def _seconds(clips: int, computing: float, decoding: float, device: str) -> float:
    """Return how long ``clips`` take: on the CPU one after the other, beside a GPU decoded by other processes."""
    if device == "cpu":
        return clips * (computing + decoding)
    return clips * max(computing, decoding / min(8, os.cpu_count() or 1))
