"""Videos → encoder checkpoint by LoFi: the encoder learns through a localizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench import ranks
from tspbench.clip_batches import BadVideos
from tspbench.datasets import Dataset
from tspbench.device import workers_for
from tspbench.encoders import AnyEncoder
from tspbench.encoders.contract import channels_last
from tspbench.encoders.own import check_sides
from tspbench.errors import UserError
from tspbench.fit import Job, fit, seed_random_layers
from tspbench.fit_settings import FitSettings
from tspbench.own_code import is_own
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity, finest_first
from tspbench.pretraining.lofi import Lofi, check_fidelities, fidelities_of, localizer_configs, resolved
from tspbench.pretraining.memory import GIB, choose_fidelity, training_memory
from tspbench.progress import Advance, say
from tspbench.snippet_batches import SnippetBatches, WholeVideo, snippet_reader
from tspbench.stages.lessons import measured_seconds
from tspbench.stages.pretrain import ENCODER_FILE, PretrainSettings
from tspbench.stages.segments import annotated_actions
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.hashes import hash_data
from tspbench.video_names import known_name
from tspbench.workers import Pool

# The published recipe (LoFi, section 4.1): SGD without momentum at one rate for all weights, halved every 5 epochs, 16
# videos. How many epochs is not told; 15 are as many as three rates of the same schedule take.
# Batch normalization keeps its running statistics: with those of the batch, a snippet's feature would depend on which
# other snippets are in its chunk, and would not be the feature that is extracted afterwards.
PUBLISHED_LOFI_FIT: Final = FitSettings(
    epochs=15,
    batch_size=16,
    optimizer="sgd",
    momentum=0.0,
    learning_rates={"stem": 0.1, "backbone": 0.1, "heads": 0.1},
    weight_decay=1e-4,
    milestones=(5, 10),
    gamma=0.5,
    batch_norm="frozen",
    select="last",
)
DEADLINE_SECONDS: Final = 300.0  # what reading a video may take; most of its frames are decoded


@dataclass(frozen=True)
class WholeVideos:
    """What LoFi trains on.

    Args:
        files: video → file.
        videos: with their actions.
    """

    files: Mapping[str, Path]
    videos: list[WholeVideo]


def pretrain_lofi(
    name: str,
    encoder: AnyEncoder,
    videos: WholeVideos,
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
        videos: from `prepare_videos`.
        settings: how; the localizer is thrown away in the end.
        seed: of the localizer's weights, the order of videos, their cuts and what the loss draws.
        device: torch device.
        folder: for the checkpoint and the training state.
        key: fingerprint of the run; a state of another run is not taken up.
        advance: told how many steps are done.

    Returns:
        Figures for the record: counts, fidelities, losses each epoch.

    Raises:
        UserError: settings that do not fit LoFi, see `check_lofi`, or a memory budget in which nothing fits.
    """
    check_lofi(settings, name, encoder)
    if is_own(name):
        _check_own(name, encoder, settings.end_to_end)
    end_to_end = resolved(within_memory(settings, encoder, device), encoder.preprocessing)
    method = _build(encoder, end_to_end, seed)
    workers = workers_for(device, settings.fit.workers, at_least=1)
    make = partial(snippet_reader, videos.files, encoder.preprocessing)
    bad = BadVideos(settings.bad_videos)
    fidelities = [fidelity.model_dump() for fidelity in end_to_end.fidelities]

    def loss(model: nn.Module, batch: Any, epoch: int, step: int) -> Mapping[str, Tensor]:
        frames, segments, samples = batch
        generator = torch.Generator().manual_seed(seed_random_layers(seed, epoch, step))
        localizer = method.localizer(frames.shape[1])
        output = ranks.gathered(model(frames), samples)
        targets = ranks.gathered(localizer.targets(segments, []), samples)
        losses: Mapping[str, Tensor] = localizer.loss(output, targets, generator)
        return losses

    with Pool(make, workers, DEADLINE_SECONDS) as pool:
        batches = SnippetBatches(
            videos.videos,
            end_to_end,
            settings.fit.batch_size,
            pool,
            device=torch.device(device),
            seed=seed,
            bad=bad,
        )
        job = Job(
            model=method,
            groups=_groups(method, encoder.stem_prefix),
            batches=batches.epoch,
            steps=batches.steps(),
            loss=loss,
            validate=None,
            better="total_loss",
            # A memory budget chooses by the machine and the number of processes: a state of another choice is no use.
            fingerprint=hash_data([key, fidelities]),
            unit="videos",
            names=batches.names,
            beside=bad,
        )
        with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.device(device)]):
            history = fit(job, settings.fit, device, folder, advance)
    card: dict[str, object] = {
        "method": settings.method,
        "localizer": end_to_end.localizer,
        "fidelities": fidelities,
        "seed": seed,
        "fingerprint": key,
    }
    if ranks.is_first():
        write_weights(folder / ENCODER_FILE, Weights(name, dict(method.encoder.state_dict()), {}, card))
    return {
        "training_videos": len(videos.videos),
        "training_actions": sum(len(video.segments_seconds) for video in videos.videos),
        "fidelities": fidelities,
        "chunk_snippets": end_to_end.chunk_snippets,
        "bad_videos": bad.figures(),
        "epochs": history.epochs,
        "kept_epoch": history.kept_epoch,
    }


def check_lofi(settings: PretrainSettings, name: str, encoder: AnyEncoder | type[AnyEncoder]) -> None:
    """Refuse settings that do not fit LoFi; nothing is trained or read for it.

    Args:
        settings: with the method "lofi".
        name: the encoder's name.
        encoder: of which what it states about itself is looked at.

    Raises:
        UserError: heads of other methods, parameter groups, micro-batches or a selection that LoFi has not; a localizer
            or a fidelity that does not fit.
    """
    if settings.heads or settings.loss_weights:
        raise UserError("heads, loss_weights: lofi has the localizer and no heads of this kind: leave them out.")
    if settings.fit.micro_batch is not None:
        raise UserError(
            "fit.micro_batch: lofi lets snippets through in chunks instead: leave it out and set "
            "end_to_end.chunk_snippets."
        )
    if settings.fit.select == "best":
        raise UserError('fit.select: "best" needs a validation, which lofi has not: choose "last".')
    check_fidelities(settings.end_to_end, name, encoder.preprocessing)
    localizer_configs(settings.end_to_end, encoder.feature_dim)


def _check_own(name: str, encoder: AnyEncoder, settings: EndToEndSettings) -> None:
    """Refuse a user's own encoder that does not take clips of the sizes that it will see."""
    spec = encoder.preprocessing
    seen = finest_first(spec.crop) if settings.memory_gib is not None else fidelities_of(settings, spec)
    check_sides(name, encoder, [fidelity.pixels for fidelity in seen])


def within_memory(settings: PretrainSettings, encoder: AnyEncoder, device: str) -> EndToEndSettings:
    """Return how LoFi trains in the memory that it may take: as the settings say, where they name no budget.

    The choice is said aloud.

    Raises:
        UserError: nothing fits into the budget.
    """
    end_to_end, training = settings.end_to_end, settings.fit
    if end_to_end.memory_gib is None:
        return end_to_end
    memory = training_memory(encoder, end_to_end, training, device)
    choice = choose_fidelity(memory, encoder, memory.batch_size, end_to_end.memory_gib)
    say(
        f"Within {end_to_end.memory_gib:g} GiB: {told(choice.fidelity)}, {choice.chunk_snippets} of them through the "
        f"encoder at a time; a step of {memory.batch_size} video(s) takes about {choice.step_bytes / GIB:.2f} GiB."
    )
    chosen = {"fidelities": (choice.fidelity,), "chunk_snippets": choice.chunk_snippets, "memory_gib": None}
    return end_to_end.model_copy(update=chosen)


def told(fidelity: Fidelity) -> str:
    """Return a fidelity in words."""
    return f"{fidelity.snippets} snippets of {fidelity.pixels} x {fidelity.pixels} pixels"


def prepare_videos(dataset: Dataset) -> WholeVideos:
    """Bring the training videos of a data set with their actions; labels play no part.

    Segments of a label that the protocol ignores are no actions. Videos without actions are left out; those that are
    not there, or that a scan has quarantined, are left out aloud. What a scan has measured counts more than the
    annotated length.

    Raises:
        UserError: no training video with an action is there.
    """
    ignored = DETECTION_PROTOCOLS[dataset.protocol].ignored_label
    actions = {
        video.name: (video, found[0])
        for video in dataset.read().subset(dataset.subset("training"))
        if (found := annotated_actions(video, ignored)) is not None and len(found[0])
    }
    files, lengths = dataset.video_files(), dataset.lengths()
    manifest = dataset.manifest()
    quarantined = manifest.quarantined if manifest else {}
    there = {video: known for video in actions if (known := known_name(video, files)) is not None}
    kept_out = {video: quarantined[known] for video in actions if (known := known_name(video, quarantined)) is not None}
    gone = [video for video in actions if video not in there and video not in kept_out]
    if gone:
        say(f"{dataset.name}: {len(gone)} of {len(actions)} training videos are not there (first: {gone[0]}).")
    if kept_out:
        why = next(iter(kept_out.values()))
        say(f"{dataset.name}: {len(kept_out)} of {len(actions)} training videos are quarantined (the first: {why})")
    if not there:
        raise UserError(
            f"{dataset.annotations}, subset {dataset.subset('training')!r}: expected videos with actions that are in "
            f"{dataset.videos}, found none: check the video names and the splits."
        )
    videos = []
    for video, known in there.items():
        annotated, segments = actions[video]
        duration = lengths.get(known) or annotated.duration_seconds or measured_seconds(files[known])
        if duration is not None:
            videos.append(WholeVideo(video, duration, segments))
    return WholeVideos({video: files[known] for video, known in there.items()}, videos)


def _build(encoder: AnyEncoder, settings: EndToEndSettings, seed: int) -> Lofi:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lofi(channels_last(encoder), settings)


def _groups(method: Lofi, stem_prefix: str | tuple[str, ...]) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {"stem": [], "backbone": [], "heads": list(method.heads.parameters())}
    for name, parameter in method.encoder.named_parameters():
        groups["stem" if name.startswith(stem_prefix) else "backbone"].append(parameter)
    return groups
