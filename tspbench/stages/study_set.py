"""One feature set of a study: probes fitted on its training clips, and what its validation clips show."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.feature_study import Ranking, StudyStatistics, neighbour_similarity, similarity_matrix
from tspbench.linear_probe import Probe, fit_probe
from tspbench.stages.study_videos import StudiedVideo, StudiedVideos
from tspbench.storage.features import FeatureFiles, Rows

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

TRAINING_CLIPS: Final = 200_000
PICTURED_CLIPS: Final = 512  # of a video, at most: a panel has no more points


class Panel(NamedTuple):
    """A pictured video in one feature set: its (T, T) matrix, and the seconds that it spans."""

    matrix: Floats
    span: tuple[float, float]


class FittedSet(NamedTuple):
    """The probes of a feature set, that of classes being None where there is one.

    Beside them how many training clips there are, how many of them were fitted on, and the classes that none of these
    shows.
    """

    foreground: Probe
    classes: Probe | None
    clips: int
    fitted: int
    unseen: tuple[str, ...]


class ObservedSet(NamedTuple):
    """What the validation videos show in a feature set; how many clips there are, and how many of each class."""

    statistics: StudyStatistics
    panels: list[Panel]
    clips: int
    frequencies: Integers


def fit_set(
    files: FeatureFiles, what: StudiedVideos, generator: np.random.Generator, step: Callable[..., None]
) -> FittedSet:
    """Fit the probes of a feature set on clips of the training videos, at most `TRAINING_CLIPS` drawn at random.

    Raises:
        UserError: all of them are foreground, or none is.
    """
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
    seen = set(actions.tolist())
    unseen = tuple(label for place, label in enumerate(what.labels) if place not in seen)
    return FittedSet(probe, classes, clips, fitted, unseen)


def observe_set(
    files: FeatureFiles,
    what: StudiedVideos,
    fitted: FittedSet,
    pictured: Sequence[StudiedVideo],
    step: Callable[..., None],
) -> ObservedSet:
    """Look at the clips of every validation video once.

    Raises:
        UserError: as `fit_set`.
    """
    wanted = {video.name for video in pictured}
    panels: dict[str, Panel] = {}
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
            every = -(-len(rows) // PICTURED_CLIPS)
            shown = similarity_matrix(rows[::every], fitted.foreground.mean)
            end = timeline.start_seconds + timeline.step_seconds * every * len(shown)
            panels[video.name] = Panel(shown, (timeline.start_seconds, end))
        step()
    actions = np.concatenate(every_action)
    foreground = actions >= 0
    _check_both(files, "validation", foreground)
    videos = np.repeat(np.arange(len(what.validation)), [len(each) for each in every_action])
    statistics = StudyStatistics(
        tuple(video.name for video in what.validation),
        Ranking.of(np.concatenate(every_score), foreground, videos),
        None if fitted.classes is None else told,
        similarity,
    )
    frequencies = np.bincount(actions[foreground], minlength=len(what.labels))
    return ObservedSet(statistics, [panels[video.name] for video in pictured], len(actions), frequencies)


def _check_both(files: FeatureFiles, role: str, foreground: NDArray[np.bool_]) -> None:
    if foreground.all() or not foreground.any():
        raise UserError(
            f"{files.paths[0]}: expected {role} clips inside and outside of actions, found {foreground.sum():,} of "
            f"{len(foreground):,} inside: check the annotations, and the attributes that say when a clip is."
        )


def fit_notes(name: str, fitted: FittedSet) -> list[str]:
    """Say what a reader has to know about the probes of a feature set."""
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
    if fitted.classes is not None and fitted.unseen:
        notes.append(
            f"{name}: the probe of classes is fitted on no clip of {len(fitted.unseen):,} of "
            f"{len(fitted.classes.bias):,} classes (first: {fitted.unseen[0]}), and cannot tell them."
        )
    return notes
