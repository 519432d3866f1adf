"""Trained localizer + features → labelled segments in seconds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evaluation.segments import Predictions
from tspbench.batches import FeatureVideos
from tspbench.progress import Advance
from tspbench.storage.class_scores import ClassScores
from tspbench.video_labels import Detections, label_proposals


@torch.inference_mode()
def predict(
    videos: FeatureVideos,
    model: Any,
    labels: Sequence[str],
    class_scores: ClassScores | None,
    top_labels: int,
    device: str,
    batch_size: int,
    advance: Advance,
) -> Predictions:
    """Find labelled segments in every video.

    Args:
        videos: the subset to predict on.
        model: a trained localizer in evaluation mode, on ``device``.
        labels: class names in the order of their indices.
        class_scores: of each video, for class-agnostic proposals; None: every proposal gets ``labels[0]``.
        top_labels: classes that a video's proposals get.
        device: torch device.
        batch_size: videos in a forward pass.
        advance: told how many videos are done.

    Returns:
        Predictions in seconds, by video, best first.

    Raises:
        UserError: the class scores lack a video or a class.
    """
    torch_device = torch.device(device)
    found: list[Detections] = []
    for first in range(0, len(videos), batch_size):
        chosen = range(first, min(first + batch_size, len(videos)))
        batch = videos.batch(chosen, torch_device)
        for k, proposals in zip(chosen, model.decode(model(batch.features, batch.mask)), strict=True):
            seconds = videos.timelines[k].to_seconds(proposals.segments.double().cpu().numpy())
            scores = proposals.scores.double().cpu().numpy()
            if class_scores is None:
                found.append(Detections(seconds, scores, np.zeros(len(scores), dtype=np.int64)))
            else:
                found.append(label_proposals(seconds, scores, class_scores.of(videos.names[k], labels), top_labels))
        advance(chosen[-1] + 1, len(videos))
    segments = np.concatenate([detections.segments for detections in found])
    return Predictions(
        video=np.repeat(np.arange(len(videos)), [len(detections.scores) for detections in found]),
        start=segments[:, 0].copy(),
        end=segments[:, 1].copy(),
        score=np.concatenate([detections.scores for detections in found]),
        label=np.concatenate([detections.labels for detections in found]),
        videos=tuple(videos.names),
        labels=tuple(labels),
    )
