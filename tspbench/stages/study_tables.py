"""What a feature study found, as data and as tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from evaluation.significance import Difference, Interval

SIMILARITIES: Final = {
    "similarity_inside": "in an action",
    "similarity_background": "in the background",
    "similarity_across": "across a boundary",
    "contrast": "contrast",
}
PROBES: Final = {"foreground_AUC": "foreground AUC", "class_accuracy": "class accuracy"}


@dataclass(frozen=True)
class PairDifference:
    """How the feature set ``b`` differs from ``a``: metric → both values, b - a, its interval and p."""

    a: str
    b: str
    metrics: dict[str, Difference]


@dataclass(frozen=True)
class Study:
    """What ``tspbench study features --json`` writes; metrics are fractions.

    Attributes:
        dataset: its name.
        files: feature set → its files.
        clips: feature set → what a row of it is.
        metrics: feature set → metric of `tspbench.feature_study.StudyScore` → its interval.
        differences: of each feature set and each that follows it, on the same resamples of the videos.
        counts: "training_videos", "validation_videos", "classes", and of the first feature set "training_clips",
            "fitted_clips" (those that probes were fitted on), "validation_clips" and "foreground_clips" (of those).
        most_frequent_class: share of the foreground clips that have the most frequent class, which an accuracy has to
            beat; nan where there is one class.
        settings: "l2", "repetitions", "level" and "seed".
        notes: sentences on what was left out, and on what to be careful about.
    """

    dataset: str
    files: dict[str, tuple[str, ...]]
    clips: dict[str, str]
    metrics: dict[str, dict[str, Interval]]
    differences: tuple[PairDifference, ...]
    counts: dict[str, int]
    most_frequent_class: float
    settings: dict[str, float]
    notes: tuple[str, ...]


class StudyTable(NamedTuple):
    """A heading, a sentence on what is shown, the heads of the columns and the cells of the rows."""

    heading: str
    sentence: str
    heads: list[str]
    rows: list[list[str]]


def study_tables(study: Study) -> list[StudyTable]:
    """Return the tables of a study: the probes, the similarities, and the differences if there are any."""
    shown = [name for name in PROBES if name in next(iter(study.metrics.values()))]
    level = f"{100 * study.settings['level']:g} % interval"
    chance = (
        ""
        if math.isnan(study.most_frequent_class)
        else (f", the most frequent class {100 * study.most_frequent_class:.1f} % of foreground clips")
    )
    probes = StudyTable(
        "Linear probes",
        f"In percent, on validation videos. Chance is an AUC of 50{chance}.",
        ["features", *(head for name in shown for head in (PROBES[name], level))],
        [
            [name, *(cell for metric in shown for cell in _percent(found[metric]))]
            for name, found in study.metrics.items()
        ],
    )
    similarities = StudyTable(
        "Similarity of neighbouring clips",
        f"Mean cosine, with its {level}; the contrast is that in an action less that across a boundary.",
        ["features", *SIMILARITIES.values()],
        [[name, *(_cosine(found[metric]) for metric in SIMILARITIES)] for name, found in study.metrics.items()],
    )
    differences = StudyTable(
        "Differences",
        "B less A, on the same resamples of the videos; percentage points, or cosines for the contrast.",
        ["metric", "A", "B", "B - A", level, "p"],
        [
            [PROBES.get(metric, metric), pair.a, pair.b, *_difference(pair.metrics[metric], PROBES.get(metric))]
            for metric in (*shown, "contrast")
            for pair in study.differences
        ],
    )
    return [probes, similarities, *([differences] if study.differences else [])]


def study_markdown(study: Study, pictures: Sequence[tuple[str, str]]) -> str:
    """Render a study as Markdown.

    Args:
        study: what was found.
        pictures: (what it shows, file name) of those beside the text.
    """
    counts = study.counts
    lines = [
        f"# Features of {_escaped(study.dataset)}",
        "",
        f"Probes are fitted on {counts['fitted_clips']:,} clips of {counts['training_videos']:,} training videos; all "
        f"is counted on {counts['validation_clips']:,} clips of {counts['validation_videos']:,} validation videos, "
        f"{counts['foreground_clips']:,} of which are foreground: their middle lies in an action.",
        "",
        *(f"- {_escaped(name)}: {_escaped(clips)}." for name, clips in study.clips.items()),
    ]
    for table in study_tables(study):
        rule = "|" + "|".join("---" if _is_text(head) else "---:" for head in table.heads) + "|"
        rows = [f"| {' | '.join(map(_escaped, row))} |" for row in (table.heads, *table.rows)]
        lines += ["", f"## {table.heading}", "", table.sentence, "", rows[0], rule, *rows[1:]]
    for shows, file in pictures:
        lines += ["", f"![{shows}]({file})"]
    settings = study.settings
    lines += [
        "",
        "## How it was measured",
        "",
        "- Probes: multinomial logistic regression on features standardized by those it is fitted on; mean "
        f"cross-entropy plus {settings['l2']:g} / 2 times the squared weights, by L-BFGS until it converges.",
        "- Similarity: cosine of features less the mean of the training clips. Neighbours are clip t and t + 1; a "
        "boundary is where one of them is foreground and the other is not.",
        f"- Intervals and p: {settings['repetitions']:,.0f} resamples of the validation videos with seed "
        f"{settings['seed']:.0f}; the clips of the drawn videos are pooled. Chance in training is left out.",
        *(f"- {_escaped(note)}" for note in study.notes),
    ]
    return "\n".join(lines) + "\n"


def _percent(found: Interval) -> list[str]:
    return [_number(100 * found.estimate, 2), _ends(100 * found.low, 100 * found.high, 2)]


def _cosine(found: Interval) -> str:
    ends = _ends(found.low, found.high, 3)
    return f"{_number(found.estimate, 3)} ({ends})" if ends != "—" else _number(found.estimate, 3)


def _difference(found: Difference, probe: str | None) -> list[str]:
    scale, digits = (100, 2) if probe else (1, 3)
    p = "—" if math.isnan(found.p) else "< 0.001" if found.p < 0.0005 else f"{found.p:.3f}"
    return [_number(scale * found.difference, digits), _ends(scale * found.low, scale * found.high, digits), p]


def _number(value: float, digits: int) -> str:
    return "—" if math.isnan(value) else f"{value:.{digits}f}"


def _ends(low: float, high: float, digits: int) -> str:
    return "—" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def _is_text(head: str) -> bool:
    return head in ("features", "metric", "A", "B")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
