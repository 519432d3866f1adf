"""Feature files → what they tell before a localizer is trained: tables, numbers and pictures."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols import DETECTION_PROTOCOLS
from evaluation.significance import confidence_interval, every_difference
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.feature_study import (
    L2,
    Probe,
    Ranking,
    StudyStatistics,
    clip_actions,
    fit_probe,
    neighbour_similarity,
    score_study,
    similarity_matrix,
)
from tspbench.plots import image_bytes
from tspbench.progress import Advance
from tspbench.stages.segments import annotated_actions
from tspbench.stages.study_tables import PairDifference, Study, study_markdown
from tspbench.storage.atomic import write_bytes, write_json, write_text
from tspbench.storage.features import FeatureFiles, Rows
from tspbench.storage.row_clips import RowClips, read_row_clips
from tspbench.study_plots import PicturedVideo, probes_figure, similarity_figure

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

TABLES_FILE: Final = "study.md"
NUMBERS_FILE: Final = "study.json"
PICTURES: Final = {"probes": "What the probes tell", "similarity": "Which clips look alike"}
TRAINING_CLIPS: Final = 200_000
PICTURED_VIDEOS: Final = 4
REPETITIONS: Final = 1000
LEVEL: Final = 0.95


class _Video(NamedTuple):
    """A video that every feature set has: its name, length, (N, 2) actions in seconds and their (N,) classes."""

    name: str
    duration: float | None
    segments: Floats
    classes: Integers

    def clip_actions(self, files: FeatureFiles) -> Integers:
        """Return the class of each clip of a feature set, see `feature_study.clip_actions`."""
        count = files.count(self.name)
        centres = files.centres(self.name, count, files.duration(self.name, self.duration))
        return clip_actions(centres, self.segments, self.classes)


class _Material(NamedTuple):
    """What is studied: class names, and the videos of each role."""

    labels: tuple[str, ...]
    training: list[_Video]
    validation: list[_Video]


class _Fitted(NamedTuple):
    """The probes of a feature set, that of classes being None where there is one, and how many clips there were."""

    foreground: Probe
    classes: Probe | None
    clips: int
    fitted: int


class _Panel(NamedTuple):
    """A pictured video in one feature set: its (T, T) matrix, and the seconds that it spans."""

    matrix: Floats
    span: tuple[float, float]


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

    Probes are fitted on the clips of training videos, at most `TRAINING_CLIPS` drawn at random; everything is counted
    on validation videos. Features are read video by video, so that memory holds the drawn clips three times (1.2 GB of
    512 numbers each), whatever the size of the set.

    Args:
        sets: name → its H5 files.
        dataset: its training and validation subsets are studied.
        out: receives study.md, study.json, probes.png and .svg, similarity.png and .svg.
        seed: of the drawn clips and of the resamples.
        json_out: where to write study.json as well.
        report: told how many videos have been read, and how often they have been resampled.

    Raises:
        UserError: a file does not fit, the sets have no video in common, or a subset lacks foreground or background.
    """
    files = {name: FeatureFiles(paths) for name, paths in sets.items()}
    what, notes = _material(dataset, files)
    pictured = _pictured(next(iter(files.values())), what.validation)
    videos, rounds = len(what.training) + len(what.validation), len(files) + (len(files) > 1)
    total, done = len(files) * videos + rounds * REPETITIONS, itertools.count(1)

    def step(*_: int) -> None:
        report(next(done), total)

    statistics: dict[str, StudyStatistics] = {}
    panels: dict[str, list[_Panel]] = {}
    fitted: dict[str, _Fitted] = {}
    for name, each in files.items():
        fitted[name] = _fit(each, what, np.random.default_rng(seed), step)
        statistics[name], panels[name] = _observe(each, what, fitted[name], pictured, step)
        notes += _fit_notes(name, fitted[name])
    study = _study(dataset.name, files, what, fitted, statistics, seed, [*notes, *_clip_notes(files)], step)
    pictures = [
        PicturedVideo(video.name, video.segments, *zip(*(panels[name][place] for name in files), strict=True))
        for place, video in enumerate(pictured)
    ]
    _write(out, study, pictures)
    if json_out is not None:
        write_json(json_out, asdict(study))
    return study


def _material(dataset: Dataset, files: Mapping[str, FeatureFiles]) -> tuple[_Material, list[str]]:
    """Return the videos that every set has, without segments that the protocol ignores, and what is left out."""
    annotations, ignored = dataset.read(), DETECTION_PROTOCOLS[dataset.protocol].ignored_label
    labels = tuple(label for label in annotations.labels if label != ignored)
    index = {label: place for place, label in enumerate(labels)}
    notes: list[str] = []
    found: dict[str, list[_Video]] = {}
    for role in ("training", "validation"):
        annotated = annotations.subset(dataset.subset(role))
        there = [video for video in annotated if all(video.name in each for each in files.values())]
        if not there:
            raise UserError(
                f"{dataset.annotations}: expected some of its {len(annotated):,} {role} videos (such as "
                f"{annotated[0].name}) in every feature set ({', '.join(files)}), found none: give the files of both "
                "subsets, as NAME=TRAINING.h5,VALIDATION.h5."
            )
        if len(there) < len(annotated):
            notes.append(
                f"{len(annotated) - len(there):,} of {len(annotated):,} {role} videos are left out, because not every "
                "set has features of them."
            )
        kept = [(video, annotated_actions(video, ignored)) for video in there]
        found[role] = [
            _Video(video.name, video.duration_seconds, actions[0], np.array([index[each] for each in actions[1]], int))
            for video, actions in kept
            if actions is not None
        ]
    if len(labels) == 1:
        notes.append(f"The set has one class, {labels[0]}: there is no accuracy of classes.")
    return _Material(labels, found["training"], found["validation"]), notes


def _pictured(files: FeatureFiles, videos: Sequence[_Video]) -> list[_Video]:
    """Return the first videos by name in which something begins or ends, so that nobody has picked them."""
    by_name = sorted(videos, key=lambda video: video.name)
    changing = (video for video in by_name if len(set((video.clip_actions(files) >= 0).tolist())) == 2)
    return list(itertools.islice(changing, PICTURED_VIDEOS))


def _fit(files: FeatureFiles, what: _Material, generator: np.random.Generator, step: Callable[..., None]) -> _Fitted:
    """Fit the probes of a feature set on clips of the training videos."""
    stops = np.cumsum([files.count(video.name) for video in what.training])
    clips = int(stops[-1])
    fitted = min(clips, TRAINING_CLIPS)
    chosen = np.sort(generator.choice(clips, fitted, replace=False)) if fitted < clips else np.arange(clips)
    rows: Rows = np.empty((fitted, files.feature_dim), dtype=np.float32)
    actions = np.empty(fitted, dtype=np.int64)
    for video, stop in zip(what.training, stops.tolist(), strict=True):
        first, end = np.searchsorted(chosen, [stop - files.count(video.name), stop])
        places = chosen[first:end] - (stop - files.count(video.name))
        rows[first:end] = files.rows(video.name)[places]
        actions[first:end] = video.clip_actions(files)[places]
        step()
    foreground = actions >= 0
    _check_both(files, "training", foreground)
    probe = fit_probe(rows, foreground.astype(np.int64), 2)
    several = len(what.labels) > 1
    classes = fit_probe(rows[foreground], actions[foreground], len(what.labels)) if several else None
    return _Fitted(probe, classes, clips, fitted)


def _observe(
    files: FeatureFiles, what: _Material, fitted: _Fitted, pictured: Sequence[_Video], step: Callable[..., None]
) -> tuple[StudyStatistics, list[_Panel]]:
    """Look at the clips of every validation video once."""
    wanted = {video.name for video in pictured}
    panels: dict[str, _Panel] = {}
    every_score, every_action = [], []
    told, similarity = np.zeros((len(what.validation), 2)), np.zeros((len(what.validation), 3, 2))
    for place, video in enumerate(what.validation):
        rows, actions = files.rows(video.name), video.clip_actions(files)
        inside = actions >= 0
        logits = fitted.foreground.logits(rows)
        every_score.append(logits[:, 1] - logits[:, 0])
        every_action.append(actions)
        if fitted.classes is not None and inside.any():
            right = fitted.classes.logits(rows[inside]).argmax(axis=1) == actions[inside]
            told[place] = np.count_nonzero(right), len(right)
        found = neighbour_similarity(rows, inside, fitted.foreground.mean)
        for kind, pairs in enumerate((found.inside, found.background, found.across)):
            similarity[place, kind] = pairs.sum(), len(pairs)
        if video.name in wanted:
            timeline = files.row_timeline(video.name, files.duration(video.name, video.duration))
            span = timeline.start_seconds, timeline.start_seconds + timeline.step_seconds * timeline.steps
            panels[video.name] = _Panel(similarity_matrix(rows, fitted.foreground.mean), span)
        step()
    foreground = np.concatenate(every_action) >= 0
    _check_both(files, "validation", foreground)
    videos = np.repeat(np.arange(len(what.validation)), [len(actions) for actions in every_action])
    statistics = StudyStatistics(
        tuple(video.name for video in what.validation),
        Ranking.of(np.concatenate(every_score), foreground, videos),
        None if fitted.classes is None else told,
        similarity,
    )
    return statistics, [panels[video.name] for video in pictured]


def _check_both(files: FeatureFiles, role: str, foreground: NDArray[np.bool_]) -> None:
    if foreground.all() or not foreground.any():
        raise UserError(
            f"{files.paths[0]}: expected {role} clips inside and outside of actions, found {foreground.sum():,} of "
            f"{len(foreground):,} inside: check the annotations, and the attributes that say when a clip is."
        )


def _study(
    dataset: str,
    files: Mapping[str, FeatureFiles],
    what: _Material,
    fitted: Mapping[str, _Fitted],
    statistics: Mapping[str, StudyStatistics],
    seed: int,
    notes: Sequence[str],
    step: Callable[..., None],
) -> Study:
    """Resample the validation videos."""
    names, first = list(files), next(iter(files))
    # The same seed gives the same resamples, so that intervals and differences are of one piece.
    metrics = {
        name: confidence_interval(score_study, each, np.random.default_rng(seed), REPETITIONS, LEVEL, step)
        for name, each in statistics.items()
    }
    every = list(statistics.values())
    differences = (
        every_difference(score_study, every, np.random.default_rng(seed), REPETITIONS, LEVEL, step) if every[1:] else {}
    )
    actions = np.concatenate([video.clip_actions(files[first]) for video in what.validation])
    frequencies = np.bincount(actions[actions >= 0], minlength=len(what.labels))
    return Study(
        dataset=dataset,
        files={name: tuple(map(str, each.paths)) for name, each in files.items()},
        clips={name: _told(each) for name, each in files.items()},
        metrics=metrics,
        differences=tuple(PairDifference(names[a], names[b], found) for (a, b), found in differences.items()),
        counts={
            "training_videos": len(what.training),
            "training_clips": fitted[first].clips,
            "fitted_clips": fitted[first].fitted,
            "validation_videos": len(what.validation),
            "validation_clips": len(actions),
            "foreground_clips": int(frequencies.sum()),
            "classes": len(what.labels),
        },
        most_frequent_class=float(frequencies.max() / frequencies.sum()) if len(what.labels) > 1 else float("nan"),
        settings={"l2": L2, "repetitions": REPETITIONS, "level": LEVEL, "seed": seed},
        notes=tuple(notes),
    )


def _write(out: Path, study: Study, videos: Sequence[PicturedVideo]) -> None:
    """Write everything; the similarity of no video is no picture."""
    videos_counted = f"{study.counts['validation_videos']:,} validation videos of {study.dataset}"
    figures = {"probes": probes_figure(study.metrics, f"95 % intervals over {videos_counted}")}
    if videos:
        figures["similarity"] = similarity_figure(
            list(study.files), videos, f"the first {len(videos)} by name of {videos_counted}, less the training mean"
        )
    for name, figure in figures.items():
        write_bytes(out / f"{name}.png", image_bytes(figure))
        write_bytes(out / f"{name}.svg", image_bytes(figure, "svg"))
    write_json(out / NUMBERS_FILE, asdict(study))
    write_text(out / TABLES_FILE, study_markdown(study, [(PICTURES[name], f"{name}.png") for name in figures]))


def _clips(files: FeatureFiles) -> RowClips | None:
    return read_row_clips(str(files.paths[0]), files.meaning())


def _told(files: FeatureFiles) -> str:
    """Say what a row of a feature set is."""
    clips, size = _clips(files), f"{files.feature_dim} numbers a clip"
    if clips is None:
        return f"{size}, spread evenly over each video, for the file does not say which clips they are"
    seconds = clips.clip_frames / clips.frame_rate
    return (
        f"{size} of {clips.clip_frames} frames ({seconds:.2f} s), every {clips.stride_frames} frames "
        f"({clips.stride_frames / clips.frame_rate:.2f} s)"
    )


def _clip_notes(files: Mapping[str, FeatureFiles]) -> list[str]:
    """Say what a reader has to know before similarities are compared."""
    clips = {name: _clips(each) for name, each in files.items()}
    overlapping = [name for name, each in clips.items() if each is not None and each.stride_frames < each.clip_frames]
    notes = [f"Neighbouring clips overlap, which makes them alike: {', '.join(overlapping)}."] if overlapping else []
    if len(set(clips.values())) > 1:
        notes.append(
            "The sets have clips of different lengths or strides: the similarity of neighbours in one cannot be "
            "compared with that in another."
        )
    return notes


def _fit_notes(name: str, fitted: _Fitted) -> list[str]:
    notes = []
    if fitted.fitted < fitted.clips:
        notes.append(
            f"{name}: probes are fitted on {fitted.fitted:,} of {fitted.clips:,} training clips, drawn at random."
        )
    probes = {"foreground": fitted.foreground, "classes": fitted.classes}
    notes += [
        f"{name}: the probe of {what} has not converged."
        for what, probe in probes.items()
        if probe is not None and not probe.converged
    ]
    return notes
