"""Dense captioning as the official evaluator does it: plainly, one video and one threshold at a time.

Written after what densevid_eval states (evaluate.py since 2019-06-11), on pycocoevalcap's own classes. Only METEOR is a
function, so that tests can do without Java.
"""

from collections.abc import Callable, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

Row = tuple[str, float, float, str]  # video, start, end, sentence
Texts = tuple[str, str]  # candidate, reference


def iou(first: Row, second: Row) -> float:
    intersection = max(0, min(first[2], second[2]) - max(first[1], second[1]))
    hull = max(first[2], second[2]) - min(first[1], second[1])
    return intersection / (min(hull, second[2] - second[1] + first[2] - first[1]) + 1e-8)


def pairs_of(captions: Sequence[Row], files: Sequence[Sequence[Row]], threshold: float, garbage: str) -> list[Texts]:
    """Pair the captions of one video with its references in all files."""
    pairs = []
    for caption in captions:
        met = [(caption[3], row[3]) for file in files for row in file if iou(caption, row) >= threshold]
        pairs += met or [(caption[3], garbage)]
    return pairs


def text_scores(pairs: Sequence[Texts], meteor: Callable[[Sequence[Texts]], float]) -> list[float]:
    """Return METEOR, BLEU@1 to BLEU@4, ROUGE_L and CIDEr of one video's pairs of tokens."""
    if not pairs:
        return [0.0] * 7
    candidates = {number: [candidate] for number, (candidate, _) in enumerate(pairs)}
    references = {number: [reference] for number, (_, reference) in enumerate(pairs)}
    bleu = Bleu(4).compute_score(references, candidates, verbose=0)[0]
    rouge = Rouge().compute_score(references, candidates)[0]
    # pycocoevalcap does not do without an n-gram.
    worded = any(reference for _, reference in pairs)
    return [meteor(pairs), *bleu, rouge, Cider().compute_score(references, candidates)[0] if worded else 0.0]


def precision_and_recall(
    captions: Sequence[Row], files: Sequence[Sequence[Row]], threshold: float
) -> tuple[float, float]:
    precisions, recalls = [0.0], [0.0]
    for file in files:
        if captions and file:
            found = {n for n, caption in enumerate(captions) for row in file if iou(caption, row) > threshold}
            covered = {m for m, row in enumerate(file) for caption in captions if iou(caption, row) > threshold}
            precisions.append(len(found) / len(captions))
            recalls.append(len(covered) / len(file))
    return max(precisions), max(recalls)


def order_preserving(values: Sequence[Sequence[float]], row: int = 0, column: int = 0) -> float:
    """Return the highest sum of ``values`` along a way down and right, tried out."""
    if row == len(values) or column == len(values[0]):
        return 0.0
    return max(
        values[row][column] + order_preserving(values, row + 1, column + 1),
        order_preserving(values, row + 1, column),
        order_preserving(values, row, column + 1),
    )


def soda_c(
    captions: Sequence[Row], files: Sequence[Sequence[Row]], meteor: Callable[[Sequence[Texts]], float]
) -> float:
    """Return SODA_c of one video; rows are (video, start, end, tokens)."""
    best = 0.0
    for file in files:
        if captions and file:
            told, known = (sorted(rows, key=lambda row: row[1:]) for rows in (captions, file))
            # The tool hands the reference to METEOR as the candidate.
            total = order_preserving([[iou(c, r) * meteor([(r[3], c[3])]) for c in told] for r in known])
            precision, recall = total / len(told), total / len(known)
            best = max(best, 2 * precision * recall / (precision + recall) if total else 0.0)
    return best
