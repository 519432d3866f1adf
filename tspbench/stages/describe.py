"""Trained captioner + segments → sentences."""

from typing import Any, Final

import torch

from baselines.decoding import decode
from tspbench.device import workers_for
from tspbench.progress import Advance
from tspbench.segment_batches import SegmentBatches, SegmentStreams
from tspbench.stages.captioner_settings import DecodingSettings
from tspbench.storage.parts import Parts
from tspbench.vocabulary import Vocabulary

PART: Final = 2048  # sentences that are kept together: at most so many are written again after a kill


def describe(
    segments: SegmentStreams,
    model: Any,
    vocabulary: Vocabulary,
    settings: DecodingSettings,
    device: str,
    workers: int | None,
    advance: Advance | None = None,
    parts: Parts | None = None,
) -> list[str]:
    """Write a sentence about each segment; one that is in ``parts`` is taken from there.

    Args:
        segments: what is described.
        model: a trained captioner in evaluation mode, on ``device``.
        vocabulary: its words.
        settings: how sentences are written.
        device: torch device.
        workers: processes that read features, see `workers_for`.
        advance: told how many segments are done; None: nobody.
        parts: where sentences are kept as they come, so that a killed run goes on.

    Returns:
        The sentences in the order of ``segments``, as tokens separated by spaces.
    """
    done = {} if parts is None else parts.read()
    left = [number for number in range(len(segments)) if number not in done]
    batches = SegmentBatches(
        segments.some(left), settings.batch_size, torch.device(device), workers_for(device, workers), seed=0
    )
    fresh: dict[int, str] = {}
    for chosen, streams in batches.longest_first():
        # In full precision also where a training validates in another: epochs are chosen by what the table will show.
        with torch.autocast(torch.device(device).type, enabled=False):
            found = decode(
                model,
                streams,
                max_words=settings.max_words,
                beam=settings.beam,
                no_repeated_trigram=settings.no_repeated_trigram,
            )
        fresh |= {left[number]: vocabulary.decode(words) for number, words in zip(chosen, found, strict=True)}
        if parts is not None and len(fresh) >= PART:
            parts.add(fresh)
            done, fresh = done | fresh, {}
        if advance is not None:
            advance(len(done) + len(fresh), len(segments))
    done |= fresh
    return [done[number] for number in range(len(segments))]
