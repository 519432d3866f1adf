"""Action localization and proposals as tasks of a table: what their rows have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from baselines import REFINERS
from evaluation import PROTOCOLS
from evaluation.protocols import SegmentProtocol
from evaluation.segments import GroundTruth
from tspbench.config import choose
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.own_code import is_own
from tspbench.progress import progress, say
from tspbench.proposal_batches import Proposed
from tspbench.reference_rows import RANDOM_FEATURES, REFERENCES, UNTRAINED, UPPER_MARK
from tspbench.stages.proposal_files import read_given_proposals
from tspbench.stages.published import published
from tspbench.stages.rows import Benchmark, feature_row, reference_row, upper_mark_row
from tspbench.stages.score import check_truth
from tspbench.stages.stage import features_hash, file_hashes, run_stage
from tspbench.stages.train import LocalizerSettings, localizer_config, own_classes
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.class_scores import read_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file
from tspbench.storage.runs import AS_PUBLISHED, COMPARISON, SETTINGS, Row, TaskTable, slug
from tspbench.video_labels import ANY_ACTION, Labelling

LOCALIZATION: Final = ("tal", "proposals")


@dataclass(frozen=True)
class Localization:
    """One task of a table: the same localizer, seed and labels on several feature sets.

    Args:
        task: "tal" or "proposals".
        dataset: with the splits "training" and "validation".
        localizer: what is trained on each feature set.
        class_scores: file of video-level class scores, the same for every row; None: those of the localizer, or none.
        references: keys of `REFERENCES`.
        seed: of the localizer.
        device: torch device.
        out: folder of the run.
        proposals: files of proposals of training and validation videos, see `read_given_proposals`: for a localizer
            that refines those of others.
    """

    task: str
    dataset: Dataset
    localizer: LocalizerSettings
    class_scores: Path | None
    references: Sequence[str]
    seed: int
    device: str
    out: Path
    proposals: tuple[Path, ...] = ()


class PreparedLocalization:
    """A localization task whose inputs are read and checked, before any row is trained.

    Args:
        what: the task.
        files: name of the row → its features.
    """

    def __init__(self, what: Localization, files: Mapping[str, FeatureFiles]) -> None:
        self.what, self.shared = what, _benchmark(what, files)

    def check(self, name: str, files: FeatureFiles) -> None:
        """Read a feature set once, so that no row is trained while another one has a NaN in its last video.

        Raises:
            UserError: the set has no video to learn from or to predict on, or what `FeatureFiles.check` says.
        """
        _check_features(self.shared, name, files, self.what.out / "checked" / slug(name))

    def tables(self, files: Mapping[str, FeatureFiles]) -> list[TaskTable]:
        """Return the one table of the task."""
        return [_table(self.what, self.shared, files)]

    def fill(self, _table: TaskTable, row: Row, files: FeatureFiles) -> None:
        """Run the stages of a row; a reference row takes videos and their lengths from ``files``."""
        folder = self.what.out / row.folder
        if row.reference == UPPER_MARK:
            upper_mark_row(self.shared, row, files, folder)
        elif row.reference:
            reference_row(self.shared, row, files, folder)
        else:
            feature_row(self.shared, row, files, folder)

    def close(self) -> None:
        """Let go of nothing: a localizer leaves no process behind."""


def _table(what: Localization, shared: Benchmark, files: Mapping[str, FeatureFiles]) -> TaskTable:
    changed = ", ".join(f"{key}={value}" for key, value in what.localizer.config.items())
    fit, time = what.localizer.fit, what.localizer.time
    facts = {
        "dataset": what.dataset.name,
        "protocol": shared.protocol,
        "localizer": what.localizer.name,
        **({"with": changed} if changed else {}),
        SETTINGS: _settings(what.localizer, shared.protocol),
        **({"proposals": _told(what)} if what.proposals else {}),
        "time": time.mode if time.step_seconds is None else f"{time.mode} of {time.step_seconds:.4g} s a step",
        "training": f"{fit.epochs} epochs of {fit.optimizer} at {fit.learning_rates['localizer']:g}"
        + (f", each video {passes} times an epoch" if (passes := what.localizer.refine.passes) > 1 else ""),
        **({"video-level labels": shared.labelling.told} if what.task == "tal" else {}),
        "selection": f"{fit.select} epoch",
        "seed": str(what.seed),
    }
    first = next(iter(files.values()))
    listed = [
        Row(REFERENCES[key], f"{what.task}/{slug(REFERENCES[key])}", shared.row_key(first, key), key)
        for key in what.references
        if key != RANDOM_FEATURES
    ]
    listed += [
        Row(name, f"{what.task}/{slug(name)}", shared.row_key(each, ""), "", features_hash(each))
        for name, each in files.items()
    ]
    return TaskTable(what.task, listed, facts, f"{what.task}/{COMPARISON}")


def _settings(localizer: LocalizerSettings, protocol: str) -> str:
    """Say whether a localizer is set up and trained as published, or as its class says if it is a user's own."""
    if localizer != published(localizer.name, protocol):
        return "changed"
    return "as its class says" if is_own(localizer.name) else AS_PUBLISHED


def _told(what: Localization) -> str:
    """Return the proposals for people."""
    refine = what.localizer.refine
    names = ", ".join(path.name for path in what.proposals)
    return f"{names}, {'all' if refine.best is None else f'the best {refine.best}'} of a video"


def _benchmark(what: Localization, files: Mapping[str, FeatureFiles]) -> Benchmark:
    """Read and check what every row shares, before any of them is trained."""
    protocols = PROTOCOLS[choose("task", what.task, LOCALIZATION)]
    protocol = protocols[choose(f"protocol of {what.task}", what.dataset.protocol, protocols)]
    assert isinstance(protocol, SegmentProtocol)  # noqa: S101 - captions are no task of localizers
    for each in files.values():
        localizer_config(what.localizer, each.feature_dim)
    _check_refiner(what)
    annotations = what.dataset.read()
    subsets = {role: what.dataset.subset(role) for role in ("training", "validation")}
    ignored = protocol.ignored_label
    labels = tuple(label for label in annotations.labels if label != ignored)
    classes = own_classes(what.localizer, next(iter(files.values())).feature_dim, len(labels))
    labelling = _labelling(what, labels, classes)
    truth = annotations.ground_truth(subsets["validation"])
    check_truth(what.dataset.annotations, truth, protocol)
    videos = {
        role: [_counted(video, ignored, labelling.agnostic) for video in annotations.subset(name)]
        for role, name in subsets.items()
    }
    if labelling.class_scores is not None and what.class_scores is not None:
        names = [video.name for video in videos["validation"] if any(video.name in each for each in files.values())]
        labelling.class_scores.check(what.class_scores, names, labels)
    proposals = _proposals(what, videos) if what.proposals else None
    inputs = {"annotations": what.dataset.annotations_hash()}
    inputs |= {f"proposals {number}": hash_file(path) for number, path in enumerate(what.proposals)}
    if labelling.class_scores is not None and what.class_scores is not None:
        inputs["class_scores"] = hash_file(what.class_scores)
    return Benchmark(
        task=what.task,
        protocol=protocol.name,
        truth=_agnostic(truth, ignored) if labelling.agnostic and what.task == "tal" else truth,
        videos=videos,
        subsets=subsets,
        ignored=ignored,
        labelling=labelling,
        localizer=what.localizer,
        proposals=proposals,
        seed=what.seed,
        device=what.device,
        inputs=inputs,
    )


def _check_refiner(what: Localization) -> None:
    """Refuse a refiner without proposals, or where nothing is to be labelled, and proposals without a refiner."""
    name = what.localizer.name
    if what.localizer.refines and what.task == "proposals":
        raise UserError(
            f"{name} labels the proposals of others, which the task proposals does not ask for: choose tal."
        )
    if what.localizer.refines and not what.proposals:
        raise UserError(
            f"{name} refines the proposals of others and is given none: add --proposals FILE, such as those of "
            "`tspbench evaluate --task proposals --set predict_training=true`."
        )
    if what.proposals and not what.localizer.refines:
        raise UserError(f"--proposals: {name} makes its own: leave them out, or choose one of {', '.join(REFINERS)}.")


def _proposals(what: Localization, videos: Mapping[str, Sequence[VideoAnnotations]]) -> Proposed:
    """Read the proposals; say aloud how many videos have none.

    Raises:
        UserError: the proposals of one split are missing.
    """
    known = {video.name: video.duration_seconds for each in videos.values() for video in each}
    found = read_given_proposals(what.proposals, known)
    for role, each in videos.items():
        without = [video.name for video in each if video.name not in found]
        if len(without) == len(each):
            raise UserError(
                f"{', '.join(map(str, what.proposals))}: expected proposals of {role} videos such as {without[0]!r}, "
                f"too, found none: add a file of them (--set predict_training=true lets `tspbench evaluate` write "
                "those of training videos)."
            )
        if without:
            say(f"No proposals of {len(without)} of {len(each)} {role} videos (first: {without[0]}).")
    return found


def _labelling(what: Localization, labels: tuple[str, ...], classes: int) -> Labelling:
    """Choose where labels come from: for proposals nowhere, else a file, the localizer, or nowhere.

    Raises:
        UserError: the localizer tells other classes apart than the data set's, or there are two sources.
    """
    top = what.localizer.top_labels
    if classes and classes != len(labels):
        raise UserError(
            f"config.classes: expected {len(labels)}, the classes of {what.dataset.annotations}, or 0, found "
            f"{classes}: give --set config.classes={len(labels)}."
        )
    if classes and what.class_scores is not None:
        instead = "" if what.localizer.refines else ", or give --set config.classes=0"
        raise UserError(f"--class-scores: the localizer tells classes apart itself: leave them out{instead}.")
    if classes:
        needless = [reference for reference in what.references if reference in UNTRAINED]
        if needless and what.task == "tal":
            raise UserError(f"The reference row {needless[0]!r} needs class scores to get labels from: leave it out.")
        return Labelling(labels, None, top, "labels:localizer", "the localizer's own")
    if what.task == "tal" and what.class_scores is not None:
        digest = hash_file(what.class_scores)[:8]
        told = f"top {top} classes of {what.class_scores.name}"
        return Labelling(labels, read_class_scores(what.class_scores), top, f"labels:top-{top}-of-{digest}", told)
    return Labelling((ANY_ACTION,), None, top, "labels:none", "none: class-agnostic scores")


def _counted(video: VideoAnnotations, ignored: str | None, agnostic: bool) -> VideoAnnotations:
    """Return a video's annotations without ignored segments; with one label where classes are not told apart."""
    kept = np.array([label != ignored for label in video.labels], dtype=bool)
    labels = tuple(ANY_ACTION if agnostic else label for label in video.labels if label != ignored)
    return replace(video, segments=video.segments[kept], labels=labels)


def _agnostic(truth: GroundTruth, ignored: str | None) -> GroundTruth:
    """Return the same segments with one label, but for the ignored ones."""
    labels = (ANY_ACTION, ignored) if ignored is not None and ignored in truth.labels else (ANY_ACTION,)
    is_ignored = np.array([label == ignored for label in truth.labels], dtype=np.int64)
    return replace(truth, labels=labels, label=is_ignored[truth.label])


def _check_features(shared: Benchmark, name: str, files: FeatureFiles, folder: Path) -> None:
    """Read a feature set once, so that no row is trained while another one has a NaN in its last video."""
    there = {role: [video for video in videos if video.name in files] for role, videos in shared.videos.items()}
    for role, videos in shared.videos.items():
        if not there[role]:
            raise UserError(
                f"{files.paths[0]} has features of none of the {len(videos)} {role} videos (its first entry is "
                f"{min(files.videos)!r}, the first video {videos[0].name!r}): give the features of this data set."
            )
    if not any(len(video.segments) for video in there["training"]):
        raise UserError(
            f"{files.paths[0]}: none of the {len(there['training'])} training videos that it has features of has an "
            "annotated segment: there is nothing to learn from; correct the annotations or the splits."
        )
    if shared.proposals is not None and not any(
        len(video.segments) and video.name in shared.proposals for video in there["training"]
    ):
        raise UserError(
            f"{files.paths[0]}: none of the {len(there['training'])} training videos that it has features of has "
            "proposals and an annotated segment: there is nothing to learn from; give proposals of these videos."
        )

    def work(_key: str) -> Mapping[str, object]:
        wanted = {video.name: video.duration_seconds for videos in there.values() for video in videos}
        with progress(f"check features · {name}") as advance:
            doubtful = files.check(wanted, advance)
        for sentence in doubtful:
            say(sentence)
        return {"videos": len(wanted), "doubtful": doubtful}

    inputs = {"annotations": shared.inputs["annotations"], **file_hashes(files)}
    run_stage("check features", folder, {"subsets": shared.subsets}, inputs, [], work)
