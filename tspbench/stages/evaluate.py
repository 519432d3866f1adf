"""Feature sets → one table: each set trained, predicted and scored alike, and the rows compared."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from evaluation import METRICS, PROTOCOLS
from evaluation.protocols import SegmentProtocol
from evaluation.segments import GroundTruth
from evaluation.significance import every_difference
from tspbench.config import choose
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.reference_rows import RANDOM_FEATURES, REFERENCES, UNTRAINED, UPPER_MARK
from tspbench.stages.random_features import random_features
from tspbench.stages.rows import (
    STATISTICS_FILE,
    Benchmark,
    feature_row,
    file_hashes,
    reference_row,
    upper_mark_row,
)
from tspbench.stages.score import check_truth
from tspbench.stages.stage import run_stage
from tspbench.stages.train import LocalizerSettings, localizer_config, own_classes
from tspbench.storage.annotations import VideoAnnotations, read_annotations
from tspbench.storage.class_scores import read_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file
from tspbench.storage.runs import MANIFEST, Row, Run, TaskTable, read_run, write_run
from tspbench.storage.statistics import read_statistics
from tspbench.video_labels import ANY_ACTION, Labelling

TASKS: Final = ("tal", "proposals")
COMPARISON: Final = "comparison"
LONGEST_SLUG: Final = 100  # file systems take 255 bytes


@dataclass(frozen=True)
class Evaluation:
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
    """

    task: str
    dataset: Dataset
    localizer: LocalizerSettings
    class_scores: Path | None
    references: Sequence[str]
    seed: int
    device: str
    out: Path


def evaluate(
    evaluations: Sequence[Evaluation], rows: Mapping[str, Sequence[Path]], title: str, notes: Sequence[str]
) -> None:
    """Train, predict, score and compare each feature set in each task, and keep everything below ``out``.

    Stages that are finished are skipped. The run's manifest is written before anything is trained, so that a table can
    be made at any time; what it says of other tasks on the same data set stays.

    Args:
        evaluations: one a task, in the order of the table's columns; all of one folder, data set and seed, with the
            same references.
        rows: name of the row → its H5 files.
        title: heading of the table.
        notes: sentences below the table.

    Raises:
        UserError: a mistake in settings or files; those that can be seen from the outside are found before any work.
    """
    first = evaluations[0]
    check_rows(list(rows), first.references, "the table")
    files = {name: FeatureFiles(paths) for name, paths in rows.items()}
    benchmarks = [_benchmark(what, files) for what in evaluations]
    for name, each in files.items():
        _check_features(benchmarks[0], name, each, first.out / "checked" / slug(name))
    if RANDOM_FEATURES in first.references:
        random = random_features(next(iter(rows.values())), first.out / "features" / "random", first.seed)
        files = {REFERENCES[RANDOM_FEATURES]: FeatureFiles([random]), **files}
    tables = [_table(what, shared, files) for what, shared in zip(evaluations, benchmarks, strict=True)]
    write_run(first.out, Run(title, [*_other_tables(first, tables), *tables], list(notes)))
    for shared, table in zip(benchmarks, tables, strict=True):
        for row in table.rows:
            _fill(shared, row, files.get(row.name, next(iter(files.values()))), first.out / row.folder)
        _compare(shared, [row for row in table.rows if not row.reference], first.out, first.out / table.comparison)


def _fill(shared: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Run the stages of a row; a reference row takes videos and their lengths from the first feature set."""
    if row.reference == UPPER_MARK:
        upper_mark_row(shared, row, files, folder)
    elif row.reference:
        reference_row(shared, row, files, folder)
    else:
        feature_row(shared, row, files, folder)


def _other_tables(what: Evaluation, tables: Sequence[TaskTable]) -> list[TaskTable]:
    """Return what an earlier run in the same folder says of other tasks on the same data set."""
    if not (what.out / MANIFEST).is_file():
        return []
    told = {table.task for table in tables}
    return [
        table
        for table in read_run(what.out).tables
        if table.task not in told and table.facts["dataset"] == tables[0].facts["dataset"]
    ]


def slug(name: str) -> str:
    """Return a row's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST_SLUG] or "row"


def check_rows(names: Sequence[str], references: Sequence[str], where: str) -> None:
    """Refuse unknown references, and rows that would share a folder.

    Raises:
        UserError: names both rows, and ``where`` they stand.
    """
    for reference in references:
        choose(f"reference row in {where}", reference, REFERENCES)
    folders: dict[str, str] = {COMPARISON: "the comparison"}
    for name in [*(REFERENCES[reference] for reference in references), *names]:
        if other := folders.get(slug(name)):
            raise UserError(
                f"{where}: the rows {other!r} and {name!r} would share the folder {slug(name)!r}: rename one."
            )
        folders[slug(name)] = name


def _table(what: Evaluation, shared: Benchmark, files: Mapping[str, FeatureFiles]) -> TaskTable:
    changed = ", ".join(f"{key}={value}" for key, value in what.localizer.config.items())
    fit, time = what.localizer.fit, what.localizer.time
    facts = {
        "dataset": what.dataset.name,
        "protocol": shared.protocol,
        "localizer": what.localizer.name,
        **({"with": changed} if changed else {}),
        "time": time.mode if time.step_seconds is None else f"{time.mode} of {time.step_seconds:.4g} s a step",
        "training": f"{fit.epochs} epochs of {fit.optimizer} at {fit.learning_rates['localizer']:g}",
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
    listed += [Row(name, f"{what.task}/{slug(name)}", shared.row_key(each, "")) for name, each in files.items()]
    return TaskTable(what.task, listed, facts, f"{what.task}/{COMPARISON}")


def _benchmark(what: Evaluation, files: Mapping[str, FeatureFiles]) -> Benchmark:
    """Read and check what every row shares, before any of them is trained."""
    protocols = PROTOCOLS[choose("task", what.task, TASKS)]
    protocol = protocols[choose(f"protocol of {what.task}", what.dataset.protocol, protocols)]
    assert isinstance(protocol, SegmentProtocol)  # noqa: S101 - captions are no task of localizers
    for each in files.values():
        localizer_config(what.localizer, each.feature_dim)
    annotations = read_annotations(what.dataset.annotations)
    subsets = {role: what.dataset.subset(role) for role in ("training", "validation")}
    classes = own_classes(what.localizer, next(iter(files.values())).feature_dim)
    ignored = protocol.ignored_label
    labels = tuple(label for label in annotations.labels if label != ignored)
    labelling = _labelling(what, labels, classes)
    truth = annotations.ground_truth(subsets["validation"])
    check_truth(what.dataset.annotations, truth, protocol)
    videos = {
        role: [_counted(video, ignored, labelling.agnostic) for video in annotations.subset(name)]
        for role, name in subsets.items()
    }
    if labelling.class_scores is not None and what.class_scores is not None:
        there = set().union(*(each.videos for each in files.values()))
        names = [video.name for video in videos["validation"] if video.name in there]
        labelling.class_scores.check(what.class_scores, names, labels)
    inputs = {"annotations": hash_file(what.dataset.annotations)}
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
        seed=what.seed,
        device=what.device,
        inputs=inputs,
    )


def _labelling(what: Evaluation, labels: tuple[str, ...], classes: int) -> Labelling:
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
        raise UserError(
            "--class-scores: the localizer tells classes apart itself: leave them out, or give --set config.classes=0."
        )
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
    there = {role: [video for video in videos if video.name in files.videos] for role, videos in shared.videos.items()}
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

    def work(_key: str) -> Mapping[str, object]:
        wanted = {video.name: video.duration_seconds for videos in there.values() for video in videos}
        with progress(f"check features · {name}") as advance:
            doubtful = files.check(wanted, advance)
        for sentence in doubtful:
            say(sentence)
        return {"videos": len(wanted), "doubtful": doubtful}

    inputs = {"annotations": shared.inputs["annotations"], **file_hashes(files)}
    run_stage("check features", folder, {"subsets": shared.subsets}, inputs, [], work)


def _compare(shared: Benchmark, rows: Sequence[Row], out: Path, folder: Path) -> None:
    """Compare the trained rows with each other, on the same resamples of the videos."""
    if len(rows) < 2:
        return
    paths = [out / row.folder / "score" / STATISTICS_FILE for row in rows]

    def work(_key: str) -> Mapping[str, object]:
        statistics: list[Any] = [read_statistics(path).statistics for path in paths]
        with progress(f"compare rows · {shared.task}") as advance:
            found = every_difference(METRICS[shared.task].score, statistics, np.random.default_rng(0), report=advance)
        pairs = [
            {"a": rows[a].name, "b": rows[b].name, "metrics": {key: asdict(value) for key, value in metrics.items()}}
            for (a, b), metrics in found.items()
        ]
        return {"differences": pairs}

    inputs = {row.name: hash_file(path) for row, path in zip(rows, paths, strict=True)}
    run_stage("compare", folder, {"task": shared.task}, inputs, [], work)
