"""Trained localizer + features → labelled segments in seconds."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from baselines.contract import Proposals
from evaluation.segments import Predictions
from tspbench.feature_batches import FeatureBatches
from tspbench.feature_views import FeatureViews
from tspbench.progress import Advance
from tspbench.video_labels import Detections, Labelling


@torch.inference_mode()
def predict(
    views: FeatureViews, model: Any, labelling: Labelling, device: str, batch_size: int, workers: int, advance: Advance
) -> Predictions:
    """Find labelled segments in every video.

    Args:
        views: of the subset to predict on; those of a video follow each other.
        model: a trained localizer in evaluation mode, on ``device``.
        labelling: where the labels come from.
        device: torch device.
        batch_size: views in a forward pass.
        workers: processes that prepare batches; 0: this one.
        advance: told how many views are done.

    Returns:
        Predictions in seconds, by video, best first.

    Raises:
        UserError: the class scores lack a video or a class.
    """
    batches = FeatureBatches(views, batch_size, torch.device(device), workers, seed=0)
    found: list[Detections] = []
    for video, proposals in enumerate(_by_video(views, model, batches, advance)):
        found.append(in_seconds(views, video, proposals, labelling))
    return joined(views.names, labelling.labels, found)


def in_seconds(views: FeatureViews, video: int, proposals: Proposals, labelling: Labelling) -> Detections:
    """Return the proposals of one video, in its steps, as labelled segments in seconds.

    Raises:
        UserError: the class scores lack the video or a class.
    """
    segments = views.timelines[video].to_seconds(proposals.segments.double().cpu().numpy())
    # A step, or a boundary that was moved, may lie beyond the ends of the video.
    inside = np.clip(segments, 0.0, views.durations[video])
    kept = inside[:, 1] > inside[:, 0]
    scores, classes = proposals.scores.double().cpu().numpy(), proposals.labels.cpu().numpy()
    return labelling.label(views.names[video], inside[kept], scores[kept], classes[kept])


def joined(names: list[str], labels: tuple[str, ...], found: list[Detections]) -> Predictions:
    """Return the detections of several videos as one, in their order."""
    counts = np.array([len(detections.scores) for detections in found], dtype=np.int64)
    every = [Detections(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=np.int64)), *found]
    segments = np.concatenate([detections.segments for detections in every])
    return Predictions(
        video=np.repeat(np.arange(len(names)), counts),
        start=segments[:, 0].copy(),
        end=segments[:, 1].copy(),
        score=np.concatenate([detections.scores for detections in every]),
        label=np.concatenate([detections.labels for detections in every]),
        videos=tuple(names),
        labels=labels,
    )


def _by_video(views: FeatureViews, model: Any, batches: FeatureBatches, advance: Advance) -> Iterator[Proposals]:
    """Yield the proposals of each video, in steps of the whole video; those of its windows are put together."""
    windows: list[Proposals] = []
    for numbers, batch in batches.in_order():
        for number, proposals in zip(numbers, model.decode(model(batch.features, batch.mask)), strict=True):
            view = views.views[number]
            if not views.windows:
                yield proposals
                continue
            last = number + 1 == len(views) or views.views[number + 1].video != view.video
            windows.append(Proposals(proposals.segments + view.offset, proposals.scores, proposals.labels))
            if last:
                yield _put_together(windows, model.suppress)
                windows = []
        advance(numbers[-1] + 1, len(views))


def _put_together(windows: list[Proposals], suppress: Callable[[list[Proposals]], list[Proposals]]) -> Proposals:
    parts = (torch.cat([getattr(window, part) for window in windows]) for part in ("segments", "scores", "labels"))
    return suppress([Proposals(*parts)])[0]
