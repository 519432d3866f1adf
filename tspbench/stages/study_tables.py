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
METRICS: Final = (
    PROBES | {name: f"similarity {where}" for name, where in SIMILARITIES.items()} | {"contrast": "contrast"}
)


@dataclass(frozen=True)
class ClipCounts:
    """How many clips of a feature set are studied.

    Attributes:
        training: those of the training videos.
        fitted: those of them that probes are fitted on.
        validation: those of the validation videos.
        foreground: those of them whose middle lies in an action.
        most_frequent_class: share of the foreground clips that have the most frequent class, which an accuracy has to
            beat; nan where there is one class.
    """

    training: int
    fitted: int
    validation: int
    foreground: int
    most_frequent_class: float


@dataclass(frozen=True)
class PairDifference:
    """How the feature set ``b`` differs from ``a``: metric → both values, b - a, its interval and p.

    Similarities and the contrast are missing where the clips of both differ in length or distance.
    """

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
        counts: "training_videos", "validation_videos" and "classes", the same for every set.
        clip_counts: feature set → its clips in those videos.
        settings: "l2", "repetitions", "level" and "seed".
        notes: sentences on what was left out, and on what to be careful about.
    """

    dataset: str
    files: dict[str, tuple[str, ...]]
    clips: dict[str, str]
    metrics: dict[str, dict[str, Interval]]
    differences: tuple[PairDifference, ...]
    counts: dict[str, int]
    clip_counts: dict[str, ClipCounts]
    settings: dict[str, float]
    notes: tuple[str, ...]


class StudyTable(NamedTuple):
    """A heading, a sentence on what is shown, the heads of the columns and the cells of the rows."""

    heading: str
    sentence: str
    heads: list[str]
    rows: list[list[str]]


def videos(count: int, role: str) -> str:
    """Return such as "2 validation videos"."""
    return f"{count:,} {role} video{'s' if count != 1 else ''}"


def study_tables(study: Study) -> list[StudyTable]:
    """Return the tables of a study: the probes, the similarities, and the differences if there are any."""
    shown = [name for name in PROBES if name in next(iter(study.metrics.values()))]
    level = f"{100 * study.settings['level']:g} % interval"
    probes = StudyTable(
        "Linear probes",
        f"In percent, on validation videos. Chance is an AUC of 50{_chance(study)}.",
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
        "B less A, on the same resamples of the videos; percentage points, or cosines for the contrast."
        + (
            ""
            if all("contrast" in pair.metrics for pair in study.differences)
            else " The contrast is left out of pairs whose clips differ in length or distance, on which it depends."
        ),
        ["metric", "A", "B", "B - A", level, "p"],
        [
            [PROBES.get(metric, metric), pair.a, pair.b, *_difference(pair.metrics[metric], PROBES.get(metric))]
            for metric in (*shown, "contrast")
            for pair in study.differences
            if metric in pair.metrics
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
        f"Probes are fitted on clips of {videos(counts['training_videos'], 'training')}; all is counted on clips of "
        f"{videos(counts['validation_videos'], 'validation')}. A clip is foreground if its middle lies in an action.",
        "",
        *(
            f"- {_escaped(name)}: {_escaped(clips)}; {_counted(study.clip_counts[name])}."
            for name, clips in study.clips.items()
        ),
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


def _chance(study: Study) -> str:
    """Say how often the most frequent class is right, of each feature set if they differ in that."""
    shares = {name: f"{100 * each.most_frequent_class:.1f} %" for name, each in study.clip_counts.items()}
    if any(math.isnan(each.most_frequent_class) for each in study.clip_counts.values()):
        return ""
    one = len(set(shares.values())) == 1
    said = next(iter(shares.values())) if one else ", ".join(f"{share} ({name})" for name, share in shares.items())
    return f", the most frequent class {said} of foreground clips"


def _counted(counts: ClipCounts) -> str:
    return (
        f"fitted on {counts.fitted:,} of {counts.training:,} training clips, counted on {counts.validation:,} "
        f"validation clips, {counts.foreground:,} of them foreground"
    )


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
    return "—" if math.isnan(value) else f"{value:z.{digits}f}"


def _ends(low: float, high: float, digits: int) -> str:
    return "—" if math.isnan(low) else f"{low:z.{digits}f} to {high:z.{digits}f}"


def _is_text(head: str) -> bool:
    return head in ("features", "metric", "A", "B")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
