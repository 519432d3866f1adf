"""Sentences from a captioner, written for many segments at once: greedy and beam search."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baselines.caption_contract import END, PAD, SPECIAL_WORDS, START, UNKNOWN, Captioner, Streams

NEVER_WRITTEN = (PAD, START, UNKNOWN)


@torch.inference_mode()
def decode(
    captioner: Captioner,
    streams: Streams,
    *,
    max_words: int = 30,
    beam: int = 1,
    no_repeated_trigram: bool = False,
) -> list[list[int]]:
    """Describe each segment by the best sentence that is found.

    All segments are written word by word together, and one leaves as soon as its sentence cannot become better.

    A beam holds the likeliest `beam` beginnings of equal length, those among them that say `END` are finished, and the
    others go on. Of a segment's finished sentences that of the highest mean log-probability wins, `END` counted as a
    word: by their sums short sentences would win for being short. A sentence that reaches `max_words` is finished
    without `END`, as in the release of BMT, whose greedy search writes at most 30 words [captioning_epoch_loops.py].
    The log-probabilities are the captioner's own, not shared out anew where words are barred. Ties go to the sentence
    that was finished first, then to the likelier beginning, then to the smaller word.

    A beam of 1 is greedy search. What is said of a segment does not depend on the others, but for the last bit by which
    a captioner's matrix products may depend on how many there are.

    Args:
        captioner: in evaluation mode.
        streams: of B segments, on the device of the captioner; B may be 0.
        max_words: the largest number of words, at least 1.
        beam: how many beginnings are kept, at least 1.
        no_repeated_trigram: write no three words that the sentence has in the same order before. Where nothing else may
            be written, the sentence ends.

    Returns:
        The real words of each segment's sentence, neither `START`, `END`, `PAD` nor `UNKNOWN`; maybe none.

    Raises:
        ValueError: if `max_words` or `beam` is less than 1.
    """
    if min(max_words, beam) < 1:
        raise ValueError(f"expected max_words and beam of at least 1, got {max_words} and {beam}")
    features = streams[0].features
    count, device = len(features), features.device
    if count == 0:
        return []
    finished = torch.full((count, max_words), PAD, device=device)
    best = torch.full((count,), -math.inf, device=device)  # mean log-probability of what is finished
    segment = torch.arange(count, device=device)  # of each of the S beams
    words = torch.zeros(count, 1, 0, dtype=torch.int64, device=device)  # (S, W, length)
    scores = torch.zeros(count, 1, device=device)  # (S, W), sums; -inf: no such beginning
    last, state = torch.full((count,), START, device=device), captioner.begin(streams)
    for length in range(1, max_words + 1):
        log_probabilities, state = captioner.step(last, state)
        allowed = _allowed(log_probabilities.float(), words.flatten(0, 1), no_repeated_trigram)
        vocabulary, width = allowed.shape[1], words.shape[1]
        scores, choice = _best((scores.flatten()[:, None] + allowed).view(len(segment), -1), beam)
        parent, word = choice // vocabulary, choice % vocabulary
        words = torch.cat([words.take_along_dim(parent[:, :, None], 1), word[:, :, None]], dim=2)

        ended = (word == END) | (length == max_words)
        mean, which = _best(torch.where(ended, scores / length, -math.inf), 1)
        better = mean[:, 0] > best[segment]
        best[segment[better]] = mean[better, 0]
        finished[segment[better], :length] = words[better, which[better, 0]]

        # A sum never rises, so this is the most that a beginning can come to.
        scores = scores.masked_fill(ended, -math.inf)
        (open_,) = (scores.amax(dim=1) / max_words > best[segment]).nonzero(as_tuple=True)
        if len(open_) == 0:
            break
        rows = (open_[:, None] * width + parent[open_]).flatten()
        segment, words, scores = segment[open_], words[open_], scores[open_]
        last = words[:, :, -1].flatten()
        if not torch.equal(rows, torch.arange(len(log_probabilities), device=device)):
            state = state.select(rows)
    return [[word for word in sentence if word >= SPECIAL_WORDS] for sentence in finished.tolist()]


def _allowed(log_probabilities: Tensor, words: Tensor, no_repeated_trigram: bool) -> Tensor:
    """Return ``(N, V)`` of the next word with -inf where it may not be written behind ``(N, length)``.

    `END` always may: however unlikely, it is above -inf.
    """
    barred = torch.tensor(NEVER_WRITTEN, device=words.device).expand(len(words), -1)
    if no_repeated_trigram and words.shape[1] > 2:
        seen = (words[:, :-2] == words[:, -2, None]) & (words[:, 1:-1] == words[:, -1, None])
        barred = torch.cat([barred, torch.where(seen, words[:, 2:], PAD)], dim=1)
    allowed = log_probabilities.scatter(1, barred, -math.inf)
    allowed[:, END].clamp_(min=torch.finfo(allowed.dtype).min)
    return allowed


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest `count` of each row of ``(S, N)`` and their places, the first among equals; changes `scores`.

    Not `topk`, which leaves open which of several equals it takes. Where a row has run out of scores above -inf, the
    score is -inf.
    """
    places = []
    highest = []
    for _ in range(count):
        place = scores.argmax(dim=1, keepdim=True)
        places.append(place)
        highest.append(scores.gather(1, place))
        scores.scatter_(1, place, -math.inf)
    return torch.cat(highest, dim=1), torch.cat(places, dim=1)
