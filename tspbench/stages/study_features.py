"""Feature files → what they tell before a localizer is trained: tables, numbers and pictures."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from evaluation.significance import Difference, Interval, confidence_interval, every_difference
from tspbench.datasets import Dataset
from tspbench.feature_study import StudyStatistics, score_study
from tspbench.linear_probe import L2
from tspbench.plots import image_bytes
from tspbench.progress import Advance
from tspbench.stages.study_set import FittedSet, ObservedSet, fit_notes, fit_set, observe_set
from tspbench.stages.study_tables import METRICS, PROBES, ClipCounts, PairDifference, Study, study_markdown, videos
from tspbench.stages.study_videos import (
    ClipTimes,
    StudiedVideo,
    StudiedVideos,
    clip_times,
    row_meaning,
    studied_videos,
    time_notes,
)
from tspbench.storage.atomic import replacing, write_bytes, write_json, write_text
from tspbench.storage.features import FeatureFiles
from tspbench.study_plots import PicturedVideo, probes_figure, similarity_figure

TABLES_FILE: Final = "study.md"
NUMBERS_FILE: Final = "study.json"
PICTURES: Final = {"probes": "What the probes tell", "similarity": "Which clips look alike"}
PICTURED_VIDEOS: Final = 4
REPETITIONS: Final = 1000
LEVEL: Final = 0.95
FEW_VIDEOS: Final = 6  # fewer can never show a difference at the level of 0.05, see `evaluation.significance`

Found = TypeVar("Found", Interval, Difference)


class _TriedError(Exception):
    """Ends a try at writing, so that the place is left as it is."""


def study_features(
    sets: Mapping[str, Sequence[Path]],
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    json_out: Path | None = None,
    report: Advance,
) -> Study:
    """Study feature sets on the videos that all of them have; write tables, numbers and pictures into ``out``.

    Probes are fitted on the clips of training videos, at most `study_set.TRAINING_CLIPS` drawn at random; everything
    is counted on validation videos. Features are read video by video, so that memory holds the drawn clips three times
    (1.2 GB of 512 numbers each), whatever the size of the set.

    Args:
        sets: name → its H5 files.
        dataset: its training and validation subsets are studied.
        out: receives study.md, study.json, probes.png and .svg, similarity.png and .svg.
        seed: of the drawn clips and of the resamples.
        json_out: where to write study.json as well.
        report: told how often videos have been read, each once to be checked, and how often they have been resampled.

    Raises:
        UserError: a file does not fit or cannot be written, the sets have no video in common, or a subset lacks
            foreground or background.
    """
    files = {name: FeatureFiles(paths) for name, paths in sets.items()}
    what, notes = studied_videos(dataset, files)
    times = {name: clip_times(each, what.validation) for name, each in files.items()}
    for place in (out / TABLES_FILE, *([] if json_out is None else [json_out])):
        _check_place(place)
    # Each video is checked and then read; each set is resampled, and then all of them together.
    every, rounds = len(what.training) + len(what.validation), len(files) + (len(files) > 1)
    total, done = 2 * len(files) * every + rounds * REPETITIONS, itertools.count(1)

    def step(*_: object, **__: object) -> None:
        report(next(done), total)

    lengths = {video.name: video.duration for video in (*what.training, *what.validation)}
    notes += [note for each in files.values() for note in each.check(lengths, step)]
    pictured = _pictured(next(iter(files.values())), what.validation)
    observed: dict[str, ObservedSet] = {}
    fitted: dict[str, FittedSet] = {}
    for name, each in files.items():
        fitted[name] = fit_set(each, what, np.random.default_rng(seed), step)
        observed[name] = observe_set(each, what, fitted[name], pictured, step)
        notes += fit_notes(name, fitted[name])
    study = _study(dataset.name, files, what, fitted, observed, times, seed, notes, step)
    pictures = [
        PicturedVideo(video.name, video.segments, *zip(*(observed[name].panels[place] for name in files), strict=True))
        for place, video in enumerate(pictured)
    ]
    _write(out, study, pictures)
    if json_out is not None:
        write_json(json_out, asdict(study))
    return study


def _check_place(path: Path) -> None:
    """Raise UserError unless a file can be written there; what is there stays."""
    with suppress(_TriedError), replacing(path):
        raise _TriedError


def _pictured(files: FeatureFiles, videos: Sequence[StudiedVideo]) -> list[StudiedVideo]:
    """Return the first videos by name in which something begins or ends, so that nobody has picked them."""
    by_name = sorted(videos, key=lambda video: video.name)
    changing = (video for video in by_name if len(set((video.clip_actions(files) >= 0).tolist())) == 2)
    return list(itertools.islice(changing, PICTURED_VIDEOS))


def _study(
    dataset: str,
    files: Mapping[str, FeatureFiles],
    what: StudiedVideos,
    fitted: Mapping[str, FittedSet],
    observed: Mapping[str, ObservedSet],
    times: Mapping[str, ClipTimes],
    seed: int,
    notes: Sequence[str],
    step: Callable[..., None],
) -> Study:
    """Resample the validation videos."""
    statistics = {name: each.statistics for name, each in observed.items()}
    # The same seed gives the same resamples, so that intervals and differences are of one piece.
    metrics = {
        name: {metric: _sure(interval, each.counted()[metric]) for metric, interval in found.items()}
        for name, each in statistics.items()
        for found in [confidence_interval(score_study, each, np.random.default_rng(seed), REPETITIONS, LEVEL, step)]
    }
    every = list(statistics.values())
    differences = (
        every_difference(score_study, every, np.random.default_rng(seed), REPETITIONS, LEVEL, step) if every[1:] else {}
    )
    names = list(files)
    pairs = []
    for (a, b), found in differences.items():
        alike = times[names[a]].alike(times[names[b]])
        counted = [every[place].counted() for place in (a, b)]
        told = {
            metric: _sure(each, min(its[metric] for its in counted))
            for metric, each in found.items()
            if alike or metric in PROBES
        }
        pairs.append(PairDifference(names[a], names[b], told))
    return Study(
        dataset=dataset,
        files={name: tuple(map(str, each.paths)) for name, each in files.items()},
        clips={name: row_meaning(each, times[name]) for name, each in files.items()},
        metrics=metrics,
        differences=tuple(pairs),
        counts={
            "training_videos": len(what.training),
            "validation_videos": len(what.validation),
            "classes": len(what.labels),
        },
        clip_counts={name: _counts(fitted[name], observed[name]) for name in files},
        settings={"l2": L2, "repetitions": REPETITIONS, "level": LEVEL, "seed": seed},
        notes=(*notes, *time_notes(times), *_resample_notes(statistics, metrics)),
    )


def _counts(fitted: FittedSet, observed: ObservedSet) -> ClipCounts:
    foreground = int(observed.frequencies.sum())
    several = len(observed.frequencies) > 1
    frequent = float(observed.frequencies.max() / foreground) if several else float("nan")
    return ClipCounts(fitted.clips, fitted.fitted, observed.clips, foreground, frequent)


def _write(out: Path, study: Study, pictured: Sequence[PicturedVideo]) -> None:
    """Write everything; the similarity of no video is no picture."""
    many = study.counts["validation_videos"]
    videos_counted = f"{videos(many, 'validation')} of {study.dataset}"
    intervals = f"95 % intervals over {videos_counted}" if many > 1 else f"on {videos_counted}"
    if any(pair.metrics.keys() <= PROBES.keys() for pair in study.differences):
        intervals += "; clips differ in length or distance: similarities cannot be compared between all sets"
    figures = {"probes": probes_figure(study.metrics, intervals)}
    if pictured:
        figures["similarity"] = similarity_figure(
            list(study.files),
            pictured,
            f"the first {len(pictured)} by name of {videos_counted}, less the training mean",
        )
    for name in PICTURES:
        for suffix in ("png", "svg"):
            if name in figures:
                write_bytes(out / f"{name}.{suffix}", image_bytes(figures[name], suffix))
            else:
                (out / f"{name}.{suffix}").unlink(missing_ok=True)  # of another study
    write_json(out / NUMBERS_FILE, asdict(study))
    write_text(out / TABLES_FILE, study_markdown(study, [(PICTURES[name], f"{name}.png") for name in figures]))


def _sure(found: Found, videos: int) -> Found:
    """Return an interval or a difference that is no surer than the videos allow in which something is counted.

    One is every resample of itself, whatever the videos beside it in which nothing is.
    """
    changes: dict[str, Any] = {"low": math.nan, "high": math.nan} if videos == 1 else {}
    if isinstance(found, Difference):
        changes["p"] = max(found.p, 2.0 ** (1 - videos))
    return replace(found, **changes)


def _resample_notes(
    statistics: Mapping[str, StudyStatistics], metrics: Mapping[str, Mapping[str, Interval]]
) -> list[str]:
    """Say where intervals say less than they seem to, of all sets at once of which it is the same."""
    notes: dict[str, list[str]] = {}
    for name, found in metrics.items():
        counted = statistics[name].counted()
        nothing = [METRICS[metric] for metric, each in found.items() if math.isnan(each.estimate)]
        few = [f"{METRICS[metric]}: {counted[metric]}" for metric in found if 0 < counted[metric] < FEW_VIDEOS]
        lacking = [
            f"{METRICS[metric]}: {each.undefined:,}"
            for metric, each in found.items()
            if each.undefined and not math.isnan(each.estimate)
        ]
        if nothing:
            notes.setdefault(f"no value where there is nothing to count ({', '.join(nothing)}).", []).append(name)
        if few:
            note = (
                f"few validation videos have what is counted ({', '.join(few)}): of one there is no interval, of fewer "
                f"than {FEW_VIDEOS} it is too narrow, and no difference can be told from chance."
            )
            notes.setdefault(note, []).append(name)
        if lacking:
            note = (
                f"of {REPETITIONS:,} resamples of the videos those are left out of an interval that hold nothing to "
                f"count ({', '.join(lacking)})."
            )
            notes.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in notes.items()]
