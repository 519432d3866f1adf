"""Dense captioning: pairing by tIoU, per-video means.

By the rules of densevid_eval (Krishna et al., 2017; evaluate.py since 2019-06-11, and its port to Python 3 in BMT): at
each threshold a caption is paired with every reference of its video, of whichever file, whose temporal IoU reaches the
threshold, and with garbage if there is none. METEOR, BLEU, ROUGE-L and CIDEr are those of a video's pairs, METEOR and
BLEU as of a corpus; the score is the mean over all videos of any reference file. So a reference that several captions
meet counts several times, and one that no caption meets counts nothing. Precision and recall say how many captions and
references have a partner with a temporal IoU *above* the threshold, each in the reference file where it is higher, as
means over videos. SODA_c, which knows no threshold, is that of ``evaluation.soda``.

The temporal IoU is the evaluator's own: intersection / (union + 1e-8). That of a segment with itself is a hair below 1,
and 0 if it has no length.

Decided here:

- a video without captions scores 0 in everything (so does the evaluator, but for precision, where it stops at an empty
  list of captions);
- a reference file that has a video without a sentence is as one that lacks it (the evaluator stops);
- captions of videos that no reference file has are not looked at;
- random garbage is drawn from a hash of the video's name and the sentence, so that a file has one score;
- with ``references="averaged"`` all is computed against each file alone, over its own videos, and averaged over files;
  each file may then have captions of its own, as where BMT (Iashin and Rahtu, 2020) describes ground-truth proposals:
  the segments of each file are described and scored against that file;
- METEOR and SODA_c are nan if METEOR fails, and all but precision and recall if the tokenizer does; ``problems`` says
  why.

The order of captions (as long as a video has no more than the protocol allows), references, videos and files changes
nothing, to the last bit. ``statistics`` compares once; ``score`` can then be called for any number of resamples of the
videos. ``precision_recall`` looks at segments alone and needs no METEOR.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.captions import Captions, all_videos
from evaluation.detection import checked_weights
from evaluation.meteor import Meteor, MeteorError, TextScorer, meteor_score
from evaluation.ngrams import Sentence, bleu, bleu_counts, cider, rouge_l
from evaluation.protocols import CaptioningProtocol
from evaluation.segments import Booleans, Floats, Integers
from evaluation.soda import soda_c

METRICS: Final = ("METEOR", "BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "ROUGE_L", "CIDEr", "precision", "recall")
SODA_C: Final = "SODA_c"
_NGRAMS, _FOUND = slice(1, 7), slice(7, 9)  # of METRICS
FIXED_GARBAGE: Final = "abc123!@#"

_NO_ROWS: Final = np.empty(0, dtype=np.int64)

Texts = tuple[str, str]  # a candidate and a reference
Place = tuple[int, int]  # a part and a video


@dataclass(frozen=True, eq=False)
class CaptionStatistics:
    """Everything that a score at the protocol's K thresholds needs, per video.

    Attributes:
        protocol: whose rules were used.
        videos: the V videos of any reference file, sorted.
        counted: whether part p has video v, bool (P, V). Parts are averaged: one with every file if references are
            pooled, one a file if not.
        values: ``METRICS`` at each threshold, float64 (P, V, K, 9); nan what could not be computed.
        soda_c: float64 (P, V); nan if it could not be computed.
        problems: name of a metric → the sentence that says why it could not be computed.
    """

    protocol: CaptioningProtocol
    videos: tuple[str, ...]
    counted: Booleans
    values: Floats
    soda_c: Floats
    problems: dict[str, str]


@dataclass(frozen=True, eq=False)
class CaptionResult:
    """Captioning scores at K thresholds: fractions, and CIDEr in [0, 10].

    Attributes:
        thresholds: temporal IoU, length K.
        by_threshold: name in ``METRICS`` → its value at each threshold, float64 (K,).
        soda_c: the mean over the videos.
    """

    thresholds: tuple[float, ...]
    by_threshold: dict[str, Floats]
    soda_c: float

    def metrics(self) -> dict[str, float]:
        """Return the scores by name, as means over the thresholds; METEOR also at each: "METEOR@0.3", …."""
        means = {name: math.fsum(values) / len(values) for name, values in self.by_threshold.items()}
        each = {
            f"METEOR@{threshold:g}": value
            for threshold, value in zip(self.thresholds, self.by_threshold["METEOR"].tolist(), strict=True)
        }
        found = {name: means.pop(name) for name in METRICS[_FOUND]}
        return {"METEOR": means.pop("METEOR"), **each, **means, SODA_C: self.soda_c, **found}


def statistics(
    references: Sequence[Captions],
    captions: Captions | Sequence[Captions],
    protocol: CaptioningProtocol,
    scorer: TextScorer | None = None,
) -> CaptionStatistics:
    """Compare ``captions`` with ``references`` at the thresholds of ``protocol``.

    Args:
        references: one entry a file.
        captions: what a model says; or, where the protocol averages over files, what it says of the segments of each
            file, in the order of ``references``.
        protocol: the rules.
        scorer: what tokenizes and aligns sentences; a ``Meteor`` of its own if None. To compare several captions, hand
            one ``Meteor`` to all calls, which then share its start.

    Raises:
        ValueError: ``captions`` are several, and the protocol pools the files or there are not as many.
    """
    if scorer is None:
        with Meteor() as meteor:
            return statistics(references, captions, protocol, meteor)
    begun, stories = _by_time(references, captions, protocol)
    compared = {place: _Video(_pairs(begun.videos[place[1]], of, protocol), of) for place, of in stories.items()}
    problems = _compare_texts(compared, begun.values, begun.soda_c, scorer)
    failed = {name: sentence for name, sentence in problems.items() if name in METRICS}
    begun.values[..., [METRICS.index(name) for name in failed]] = np.nan
    if SODA_C in problems:
        begun.soda_c[:] = np.nan
    if "METEOR" in problems:
        problems |= {f"METEOR@{threshold:g}": problems["METEOR"] for threshold in protocol.thresholds}
    begun.problems.update(problems)
    return begun


def precision_recall(
    references: Sequence[Captions], proposals: Captions, protocol: CaptioningProtocol
) -> tuple[float, float]:
    """Return the precision and recall that `score` reports, means over thresholds and videos, of segments alone.

    Args:
        references: one entry a file.
        proposals: segments; their sentences say nothing here.
        protocol: the rules.

    Returns:
        Precision and recall, fractions; nan if no reference file has a sentence.
    """
    metrics = score(_by_time(references, proposals, protocol)[0]).metrics()
    return metrics["precision"], metrics["recall"]


def score(statistics: CaptionStatistics, video_weights: Integers | None = None) -> CaptionResult:
    """Average over the videos, each counted as often as its weight says; nan if none counts.

    Args:
        statistics: of V videos.
        video_weights: how often each video of ``statistics.videos`` counts, integers of 0 or more, (V,); once each
            if None. Weight w equals w videos of the same name, captions and references.

    Raises:
        ValueError: ``video_weights`` has another shape, is not of an integer type, or holds a negative number.
    """
    weights = checked_weights(len(statistics.videos), video_weights) * statistics.counted
    totals = weights.sum(axis=1)
    # A file none of whose videos counts is left out.
    parts = np.flatnonzero(totals)
    # The videos are sorted, so that plain sums have one order; so have the files after sorting.
    sums = (weights[parts, :, None, None] * statistics.values[parts]).sum(axis=1)
    table = _mean_of_parts(sums / totals[parts, None, None])
    soda = _mean_of_parts((weights[parts] * statistics.soda_c[parts]).sum(axis=1) / totals[parts])
    return CaptionResult(
        thresholds=statistics.protocol.thresholds,
        by_threshold={name: table[:, column] for column, name in enumerate(METRICS)},
        soda_c=float(soda),
    )


def _mean_of_parts(values: Floats) -> Floats:
    """Return the mean over the first axis, whatever its order; nan if it is empty."""
    mean: Floats = (
        np.sort(values, axis=0).sum(axis=0) / len(values) if len(values) else np.full(values.shape[1:], np.nan)
    )
    return mean


@dataclass(frozen=True, eq=False)
class _Story:
    """The captions of a video and its references in one file, both in the order of time.

    Attributes:
        references: M sentences.
        captions: N sentences.
        iou: temporal IoU of each reference and caption, float64 (M, N).
    """

    references: list[str]
    captions: list[str]
    iou: Floats

    def texts(self) -> dict[tuple[int, int], Texts]:
        """Return what METEOR is asked for, by row and column of ``iou``, where that is above 0."""
        # In the places that evaluation.soda tells of.
        return {(m, n): (self.references[m], self.captions[n]) for m, n in np.argwhere(self.iou > 0.0).tolist()}


@dataclass(frozen=True, eq=False)
class _Video:
    """A video with captions, before anything is known about its sentences.

    Attributes:
        pairs: thresholds, and the captions with their references or garbage at all of these.
        stories: one for each file that has the video.
    """

    pairs: list[tuple[slice, list[Texts]]]
    stories: list[_Story]


def caption_iou(captions: Floats, references: Floats) -> Floats:
    """Return the temporal IoU of each pair as densevid_eval computes it, operation by operation, float64 (N, M).

    Args:
        captions: [start, end) in seconds, float64 (N, 2).
        references: [start, end) in seconds, float64 (M, 2).
    """
    start, end = captions[:, 0, None], captions[:, 1, None]
    other_start, other_end = references[None, :, 0], references[None, :, 1]
    intersection = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start), 0.0)
    hull = np.maximum(end, other_end) - np.minimum(start, other_start)
    iou: Floats = intersection / (np.minimum(hull, other_end - other_start + end - start) + 1e-8)
    return iou


def _by_time(
    references: Sequence[Captions], captions: Captions | Sequence[Captions], protocol: CaptioningProtocol
) -> tuple[CaptionStatistics, dict[Place, list[_Story]]]:
    """Return what segments tell, with 0 for all that sentences tell, and the stories of each video with captions."""
    parts = _parts(references, captions, protocol)
    videos = all_videos(references)
    index = {name: number for number, name in enumerate(videos)}
    counted = np.zeros((len(parts), len(videos)), dtype=np.bool_)
    values = np.zeros((*counted.shape, len(protocol.thresholds), len(METRICS)))
    stories: dict[Place, list[_Story]] = {}
    for part, (files, of_files) in enumerate(parts):
        counted[part, [index[name] for name in all_videos(files)]] = True
        for name, some in _stories(files, of_files, protocol).items():
            stories[part, index[name]] = some
            values[part, index[name], :, _FOUND] = _found([story.iou for story in some], protocol.thresholds)
    return CaptionStatistics(protocol, videos, counted, values, np.zeros(counted.shape), {}), stories


def _parts(
    references: Sequence[Captions], captions: Captions | Sequence[Captions], protocol: CaptioningProtocol
) -> list[tuple[Sequence[Captions], Captions]]:
    """Return the reference files that are compared together, and the captions that they are compared with."""
    if isinstance(captions, Captions):
        files = [references] if protocol.references == "pooled" else [[file] for file in references]
        return [(some, captions) for some in files]
    if protocol.references == "pooled":
        raise ValueError(f"captions of each reference file need a protocol that averages, received {protocol.name}.")
    if len(captions) != len(references):
        raise ValueError(
            f"captions must be as many as reference files, received {len(captions)} for {len(references)}."
        )
    return [([file], own) for file, own in zip(references, captions, strict=True)]


def _stories(files: Sequence[Captions], captions: Captions, protocol: CaptioningProtocol) -> dict[str, list[_Story]]:
    """Put every video that ``files`` and ``captions`` have in order, once for each file that has it."""
    rows = captions.rows()
    rows_of_files = [file.rows() for file in files]
    stories = {}
    for name in all_videos(files):
        mine = rows.get(name, _NO_ROWS)[: protocol.max_captions]
        theirs = [(file, of.get(name, _NO_ROWS)) for file, of in zip(files, rows_of_files, strict=True)]
        if len(mine):
            stories[name] = [_story(file, some, captions, mine) for file, some in theirs if len(some)]
    return stories


def _story(file: Captions, rows: Integers, captions: Captions, caption_rows: Integers) -> _Story:
    (segments, references), (caption_segments, sentences) = _in_time(file, rows), _in_time(captions, caption_rows)
    return _Story(references, sentences, caption_iou(caption_segments, segments).T)


def _in_time(captions: Captions, rows: Integers) -> tuple[Floats, list[str]]:
    """Return the segments (N, 2) and sentences of ``rows`` in the order of start, end and sentence."""
    lines = sorted((captions.start[row], captions.end[row], captions.sentences[row]) for row in rows)
    return np.array([line[:2] for line in lines]), [line[2] for line in lines]


def _pairs(name: str, stories: list[_Story], protocol: CaptioningProtocol) -> list[tuple[slice, list[Texts]]]:
    """Pair the captions of the video ``name`` at each threshold; neighbours with the same pairs come together."""
    captions = stories[0].captions
    references = [text for story in stories for text in story.references]
    iou = np.vstack([story.iou for story in stories])
    met = iou >= np.array(protocol.thresholds)[:, None, None]
    changes = [k for k in range(len(met)) if k == 0 or not np.array_equal(met[k], met[k - 1])]
    found = []
    for first, stop in zip(changes, [*changes[1:], len(met)], strict=True):
        pairs = [(captions[n], references[m]) for m, n in np.argwhere(met[first]).tolist()]
        alone = [captions[n] for n in np.flatnonzero(~met[first].any(axis=0))]
        found.append((slice(first, stop), pairs + [(text, _garbage(name, text, protocol)) for text in alone]))
    return found


def _found(by_file: Sequence[Floats], thresholds: Sequence[float]) -> Floats:
    """Return precision and recall of a video at each threshold, each of the file where it is highest, (K, 2)."""
    found = np.zeros((len(thresholds), 2))
    for iou in by_file:
        above = iou > np.array(thresholds)[:, None, None]
        ratios = above.any(axis=1).mean(axis=1), above.any(axis=2).mean(axis=1)
        found = np.maximum(found, np.column_stack(ratios))
    return found


def _garbage(name: str, sentence: str, protocol: CaptioningProtocol) -> str:
    if protocol.garbage == "fixed":
        return FIXED_GARBAGE
    digest = hashlib.sha256(f"{name}\n{sentence}".encode(errors="surrogatepass")).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[1 : 11 + digest[0] % 11])


def _compare_texts(videos: dict[Place, _Video], values: Floats, soda: Floats, scorer: TextScorer) -> dict[str, str]:
    """Fill in what depends on sentences; return name of a metric → why it could not be computed."""
    asked = [texts for video in videos.values() for _, pairs in video.pairs for texts in pairs]
    stories = [texts for video in videos.values() for story in video.stories for texts in story.texts().values()]
    raw = sorted({text for texts in (*asked, *stories) for text in texts})
    if not raw:
        return {}
    try:
        tokens = dict(zip(raw, scorer.tokenize(raw), strict=True))
    except MeteorError as error:
        return dict.fromkeys((*METRICS[: _FOUND.start], SODA_C), str(error))
    aligned = sorted({(tokens[candidate], tokens[reference]) for candidate, reference in (*asked, *stories)})
    with ThreadPoolExecutor(max_workers=1) as pool:
        # Java works while Python does.
        answer = pool.submit(scorer.alignments, aligned)
        try:
            _compare_ngrams(videos, values, tokens)
            rows = answer.result()
        except MeteorError as error:
            return dict.fromkeys(("METEOR", SODA_C), str(error))
        except BaseException:
            scorer.close()
            raise
    number = {pair: row for row, pair in enumerate(aligned)}
    for place, video in videos.items():
        for thresholds, pairs in video.pairs:
            chosen = [number[tokens[candidate], tokens[reference]] for candidate, reference in pairs]
            values[*place, thresholds, 0] = meteor_score(rows[chosen].sum(axis=0))
        for story in video.stories:
            meteor = np.zeros(story.iou.shape)
            for cell, (reference, caption) in story.texts().items():
                meteor[cell] = meteor_score(rows[number[tokens[reference], tokens[caption]]])
            soda[place] = max(soda[place], soda_c(story.iou, meteor))
    return {}


def _compare_ngrams(videos: dict[Place, _Video], values: Floats, tokens: dict[str, str]) -> None:
    """Fill in BLEU, ROUGE-L and CIDEr."""
    used = {text for video in videos.values() for _, texts in video.pairs for pair in texts for text in pair}
    sentences = {text: Sentence.of(tokens[text]) for text in used}
    counts: dict[Texts, list[int]] = {}
    rouge: dict[Texts, float] = {}
    for place, video in videos.items():
        for thresholds, texts in video.pairs:
            pairs = [(sentences[candidate], sentences[reference]) for candidate, reference in texts]
            for text, pair in zip(texts, pairs, strict=True):
                if text not in counts:
                    counts[text], rouge[text] = bleu_counts(pair), rouge_l(pair)
            scores = bleu([sum(column) for column in zip(*(counts[text] for text in texts), strict=True)])
            scores.append(math.fsum(rouge[text] for text in texts) / len(texts))
            values[*place, thresholds, _NGRAMS] = [*scores, cider(pairs)]
