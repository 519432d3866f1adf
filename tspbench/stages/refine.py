"""Trained refiner + features + proposals of others → labelled segments in seconds."""

from typing import Any

import numpy as np
import torch

from evaluation.segments import Predictions
from tspbench.progress import Advance
from tspbench.proposal_batches import ProposalBatches
from tspbench.stages.predict import in_seconds, joined
from tspbench.video_labels import Detections, Labelling


@torch.inference_mode()
def refine(batches: ProposalBatches, model: Any, labelling: Labelling, device: str, advance: Advance) -> Predictions:
    """Classify the proposals of every video and move their boundaries; a video without proposals gets none.

    Args:
        batches: of the subset to predict on.
        model: a trained refiner in evaluation mode, on ``device``.
        labelling: where the labels come from.
        device: torch device.
        advance: told how many videos are done.

    Returns:
        Predictions in seconds, by video, best first.
    """
    views = batches.views
    found = [Detections(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=np.int64)) for _ in views.names]
    done = 0
    for numbers, batch in batches.in_order():
        graphs = model.graphs(batch, None).to(device)
        for video, proposals in zip(numbers, model.decode(model(graphs), graphs), strict=True):
            found[video] = in_seconds(views, video, proposals, labelling)
        done += len(numbers)
        advance(done, len(batches))
    return joined(views.names, labelling.labels, found)
