"""Videos → H5 features, in parts that survive a kill."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

from tspbench import __version__, ranks, watch
from tspbench.datasets import scanned
from tspbench.encoders import AnyEncoder
from tspbench.encoders.contract import channels_last
from tspbench.errors import UserError
from tspbench.own_code import is_own, own_words
from tspbench.progress import Advance
from tspbench.storage.checkpoints import Weights, read_weights
from tspbench.storage.class_scores import ClassScores
from tspbench.storage.features import (
    FeatureFiles,
    RowMeaning,
    Rows,
    VideoFeatures,
    assemble,
    finished_videos,
    write_part,
)
from tspbench.storage.hashes import hash_data
from tspbench.storage.manifest import file_stamp
from tspbench.storage.video import scan_video
from tspbench.streaming import ClipBatch, clip_batches, decoding
from tspbench.video_labels import mean_clip_probabilities

# A part is so many videos: what a kill can cost. Batches run across the videos of a part and never across parts, so
# that an interrupted run and an uninterrupted one compute every row in the same company, bit for bit.
VIDEOS_PER_PART: Final = 16


@dataclass(frozen=True)
class Extraction:
    """How features are extracted.

    Args:
        stride_frames: frames (at the encoder's rate) between the starts of neighbouring clips.
        batch_size: clips in one forward pass.
        device: torch device.
        precision: "fp32", or "bf16" for autocast.
        decoders: videos decoded at the same time.
        skip_unreadable: leave unreadable videos out and list them in the file, instead of failing at the end.
    """

    stride_frames: int
    batch_size: int = 32
    device: str = "cpu"
    precision: str = "fp32"
    decoders: int = min(8, os.cpu_count() or 1)
    skip_unreadable: bool = False


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder at work.

    Args:
        module: in evaluation mode.
        name: of the encoder.
        weights: what identifies its weights: the SHA-256 of their file.
        facts: what else decides its features, see `tspbench.encoders.encoder_facts`.
    """

    module: AnyEncoder
    name: str
    weights: str
    facts: Mapping[str, object] = field(default_factory=dict)


def extract(
    encoder: TrainedEncoder, videos: Mapping[str, Path], out: Path, how: Extraction, advance: Advance
) -> dict[str, str]:
    """Extract the features of ``videos`` into the H5 file ``out``; finished parts of an interrupted run are kept.

    Several processes share out what is left to do, and the first puts it together: the same file as of one process.

    Args:
        encoder: what maps clips to features.
        videos: video name (the H5 key) → file.
        out: file to write.
        how: see `Extraction`.
        advance: told how many videos are done.

    Returns:
        The videos left out → why; empty unless ``how.skip_unreadable``.

    Raises:
        UserError: some videos cannot be read; all others are done by then, and kept for the next try.
    """
    spec = encoder.module.preprocessing
    meaning = RowMeaning(
        encoder=encoder.name,
        weights=encoder.weights,
        clip_frames=spec.clip_frames,
        stride_frames=how.stride_frames,
        frame_rate=spec.frame_rate,
        feature_dim=encoder.module.feature_dim,
        precision=how.precision,
    )
    folder = out.with_name(f"{out.name}.parts")
    module = channels_last(encoder.module.to(how.device)).eval()
    made = [__version__, asdict(meaning), dict(encoder.facts), how.batch_size, how.device]
    stamps = {name: _stamp([*made, name], path) for name, path in videos.items()}
    finished = ranks.by_first(lambda: finished_videos(folder, stamps))
    unreadable: dict[str, UserError] = {}
    names = sorted(videos)
    fixed = [names[first : first + VIDEOS_PER_PART] for first in range(0, len(names), VIDEOS_PER_PART)]
    parts = _own_parts([[name for name in part if name not in finished] for part in fixed], videos)
    done = len(finished) if ranks.count() == 1 else 0  # several show how far the first is with its own
    total = done + sum(map(len, parts))
    advance(done, total)
    own: dict[str, Path] = {}
    for part in parts:
        group = {name: videos[name] for name in part}
        features = _extract_group(encoder.name, module, group, how, unreadable, _from(done, total, advance))
        if features:
            path = folder / f"{hash_data([stamps[name] for name in features])[:32]}.h5"
            write_part(path, features, stamps)
            own |= dict.fromkeys(features, path)
        done += len(part)
        advance(done, total)
    found: dict[str, str] = {}
    for their_own, their_unreadable in ranks.everybodys(
        (own, {name: str(error) for name, error in unreadable.items()})
    ):
        finished |= their_own
        found |= their_unreadable
    skipped = {name: found[name] for name in names if name in found}
    if skipped and (len(skipped) == len(names) or not how.skip_unreadable):
        raise _failed(skipped, videos, folder)
    ranks.by_first(lambda: _put_together(out, finished, meaning, skipped))
    return skipped


def _put_together(out: Path, finished: Mapping[str, Path], meaning: RowMeaning, skipped: Mapping[str, str]) -> None:
    """Make the features' file of its parts, and remove them."""
    folder = out.with_name(f"{out.name}.parts")
    ranks.wait_for_files(dict.fromkeys(finished.values(), None))
    assemble(out, finished, meaning, skipped)
    for part in folder.glob("*"):
        part.unlink()
    folder.rmdir()


def _own_parts(parts: Sequence[Sequence[str]], videos: Mapping[str, Path]) -> list[Sequence[str]]:
    """Return the parts that this process extracts: of several, the longest first, each to whoever has least to do."""
    parts = [part for part in parts if part]
    if ranks.count() == 1:
        return list(parts)
    lengths = _lengths({name: videos[name] for part in parts for name in part})
    load = [0.0] * ranks.count()
    own = []
    for part in sorted(parts, key=lambda part: -sum(lengths[name] for name in part)):
        least = load.index(min(load))
        load[least] += sum(lengths[name] for name in part)
        if least == ranks.number():
            own.append(part)
    return own


def _lengths(videos: Mapping[str, Path]) -> dict[str, float]:
    """Return how long videos are, in whatever unit: seconds if all have been scanned, else bytes."""
    manifests = {folder: scanned(folder) for folder in {path.parent for path in videos.values()}}
    seconds = {}
    for name, path in videos.items():
        manifest = manifests[path.parent]
        video = manifest.videos.get(name) if manifest else None
        if video is not None and video.facts is not None:
            seconds[name] = video.facts.duration_seconds
    return seconds if len(seconds) == len(videos) else {name: file_stamp(path)[0] for name, path in videos.items()}


def check_readable(path: Path) -> None:
    """Find out early, before weights are fetched and loaded, whether a video can be read at all.

    Raises:
        UserError: it cannot.
    """
    scan_video(path)


def class_scores(features: FeatureFiles, checkpoint: Path) -> ClassScores:
    """Return each video's mean clip probabilities of the action head that was trained with the encoder.

    Args:
        features: extracted with ``checkpoint``.
        checkpoint: weights with an action head and a card that names its labels.

    Raises:
        UserError: the checkpoint has no action head or does not name its labels.
    """
    weights = read_weights(checkpoint)
    labels = action_labels(weights, checkpoint)
    weight, bias = (weights.heads["action"][part].numpy() for part in ("weight", "bias"))
    scores = {video: mean_clip_probabilities(features.rows(video), weight, bias) for video in sorted(features.videos)}
    return ClassScores(labels, scores)


def action_labels(weights: Weights, checkpoint: Path | None) -> tuple[str, ...]:
    """Return the classes of the action head, in the order of its outputs.

    Raises:
        UserError: there is no action head, or the checkpoint does not name its labels.
    """
    labels = weights.card.get("labels")
    if "action" not in weights.heads or not isinstance(labels, list):
        raise UserError(
            f"{checkpoint or 'The published file'} has no action head with named labels, which class scores need: "
            "give a --checkpoint of tspbench pretrain."
        )
    return tuple(map(str, labels))


@torch.inference_mode()
def _extract_group(
    name: str,
    module: AnyEncoder,
    group: Mapping[str, Path],
    how: Extraction,
    unreadable: dict[str, UserError],
    report: Callable[[int], None],
) -> dict[str, VideoFeatures]:
    """Return the features of a few videos; those that cannot be read go to ``unreadable``."""
    rows: dict[str, list[Rows]] = {name: [] for name in group}
    order = {name: k for k, name in enumerate(group)}
    device = torch.device(how.device)
    with decoding(group, module.preprocessing, max(1, how.decoders // ranks.here())) as decoded:
        for batch in clip_batches(decoded, module.preprocessing, how.stride_frames, how.batch_size, device, unreadable):
            watch.working_on(f"clips of {group[batch.owners[-1][0]]}", computing=True)
            features = _features(name, module, batch, how.precision)
            first = 0
            for video, count in batch.owners:
                rows[video].append(features[first : first + count])
                first += count
            report(order[batch.owners[-1][0]])
    return {
        video: VideoFeatures(np.concatenate(rows[video]), decoded[video].duration, decoded[video].decoder)
        for video in group
        if video not in unreadable
    }


def _features(name: str, module: AnyEncoder, batch: ClipBatch, precision: str) -> Rows:
    """Return the features of a batch, (B, feature_dim) float32.

    Raises:
        UserError: they are of another shape or not finite, or an encoder of the user's own fails.
    """
    own = is_own(name)
    owners = [video for video, _ in batch.owners]
    whose = f"clips {tuple(batch.clips.shape)} of {owners[0]}" + (f" to {owners[-1]}" if owners[1:] else "")
    try:
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = module(batch.clips)
    except (Exception, SystemExit) as error:  # whatever a stranger's network does
        if not own:
            raise
        said = own_words(error, inspect.getfile(type(module)))
        mend = "take a smaller batch" if isinstance(error, torch.OutOfMemoryError) else "mend its forward"
        raise UserError(f"{name} fails on {whose} ({said}): {mend}.") from error
    wanted = (len(batch.clips), module.feature_dim)
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted:
        what = tuple(found.shape) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise UserError(
            f"{name}: expected features {wanted} for {whose}, as its feature_dim says, found {what}: mend its forward "
            "or its feature_dim."
        )
    features: Rows = found.float().cpu().numpy()
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        bad = np.repeat(np.arange(len(owners)), [count for _, count in batch.owners])[int(finite.argmin())]
        mend = "mend its forward" if own else "give other weights, with --checkpoint"
        raise UserError(
            f"{name}: expected finite features, found NaN or infinity for {np.sum(~finite)} of {whose}, first of "
            f"{owners[bad]}: {mend}."
        )
    return features


def _from(first: int, total: int, advance: Advance) -> Callable[[int], None]:
    """Return a report of progress inside a part whose first video is number ``first``."""
    return lambda done: advance(first + done, total)


def _stamp(how: list[object], path: Path) -> str:
    """Return a key of a video's rows: how they are made, and which file they are made from."""
    status = path.stat() if path.is_file() else None
    return hash_data([how, str(path), status and status.st_size, status and status.st_mtime_ns])


def _failed(skipped: Mapping[str, str], videos: Mapping[str, Path], folder: Path) -> UserError:
    name, first = next(iter(skipped.items()))
    if len(skipped) == len(videos) == 1:
        return UserError(first)
    left = len(videos) - len(skipped)
    kept = f"; the features of the other {left} are kept in {folder}" if left else ""
    return UserError(
        f"{len(skipped)} of {len(videos)} videos cannot be read{kept}: mend or remove them, let `tspbench data scan "
        f"{videos[name].parent}` quarantine them (or `extract --skip-unreadable` leave them out), and run the same "
        "command again; "
        f"the first says: {first}"
    )
