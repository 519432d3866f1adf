"""What a row of a finished run can do with a new video: labelled segments, sentences, and where something happens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from baselines import REFINERS
from evaluation.segments import Predictions
from tspbench.encoders import AnyEncoder
from tspbench.errors import UserError
from tspbench.segment_batches import Floats
from tspbench.stages.extract import Extraction, TrainedEncoder, class_scores, extract
from tspbench.stages.foreground import Foreground, foreground_of
from tspbench.stages.known_encoders import KnownEncoder, KnownEncoders
from tspbench.stages.predict import joined
from tspbench.stages.row_captioner import RowCaptioner, row_captioner
from tspbench.stages.rows import UNLABELLED
from tspbench.stages.score import CAPTIONING
from tspbench.stages.trained_localizer import silent, trained_localizer
from tspbench.storage.checkpoints import Weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.records import read_record
from tspbench.storage.runs import Row, Run, TaskTable, feature_files
from tspbench.video_labels import ANY_ACTION, Detections, Labelling

VIDEO: Final = "video"  # what the one video of a feature file is called there, whatever its own file is called
TASKS: Final = ("tal", "proposals", CAPTIONING)  # those that a row is asked for segments, the best first
RANDOM: Final = "random"  # encoder of random features
_TOP: Final = re.compile(r"labels:top-(\d+)-of-")


@dataclass(frozen=True)
class Found:
    """What a row finds in a video.

    Args:
        duration_seconds: of the video.
        detections: of the one video `VIDEO`, labelled.
        captions: (n, 2) segments in seconds, (n,) scores, best first, and n sentences; None: there is no captioner.
        foreground: (T,) seconds and (T,) probabilities that something happens then; None: nobody says.
    """

    duration_seconds: float
    detections: Predictions
    captions: tuple[Floats, Floats, list[str]] | None
    foreground: tuple[Floats, Floats] | None


def features_encoder(folder: Path, row: Row) -> tuple[str, str, int, str]:
    """Return what a row's features were extracted with: encoder, its weights, frames from clip to clip, precision.

    Raises:
        UserError: the file is gone, or does not say it, as the released TSP features do not.
    """
    paths = feature_files(folder, row)
    if not paths:
        raise UserError(f"{folder}, row {row.name!r}: it is trained on no features: choose another row.")
    meaning: dict[str, Any] = FeatureFiles(paths).meaning()
    if missing := [key for key in ("encoder", "weights", "stride_frames") if not meaning.get(key)]:
        raise UserError(
            f"{paths[0]} does not say its {missing[0]}, so that nobody knows how to get the same features of another "
            "video: choose a row whose features `tspbench extract` wrote."
        )
    stride, precision = int(meaning["stride_frames"]), str(meaning.get("precision", "fp32"))
    return str(meaning["encoder"]), str(meaning["weights"]), stride, precision


def why_not(folder: Path, table: TaskTable, row: Row) -> str:
    """Return why a row of a table can find nothing in a new video; "" if it can."""
    if row.reference:
        return "no network is trained for it"
    if (name := table.facts.get("localizer")) in REFINERS:
        return f"{name} refines proposals of another localizer, which a new video does not come with"
    try:
        encoder = features_encoder(folder, row)[0]
    except UserError as error:
        return str(error).rstrip(".")
    return "its features are random, and a new video has none" if encoder == RANDOM else ""


class TrainedRow:
    """A row at work on new videos; made, it has found all that it needs.

    Args:
        folder: of the run.
        run: its manifest.
        name: of the row.
        checkpoints: files of weights that do not lie in the run.
        device: torch device.

    Attributes:
        notes: what it does otherwise than the run, a sentence each.
        labels: where labels come from, for people.
        hashes: of everything that decides what it finds, by name.

    Raises:
        UserError: the row is unknown, not finished or finds nothing in new videos, or weights are missing.
    """

    def __init__(self, folder: Path, run: Run, name: str, checkpoints: Sequence[Path], device: str) -> None:
        tables = _tables(folder, run, name)
        self._device, self.notes = device, list[str]()
        self._encoders = KnownEncoders(folder, checkpoints)
        kind, weights, self._stride, self._precision = features_encoder(folder, tables[0][1])
        self._own = self._encoders.find(kind, weights)
        self._extracted = _extracted(folder, run)
        located = [row for table, row in tables if table.task != CAPTIONING]
        self._localizer = trained_localizer(folder / located[0].folder, device) if located else None
        self._captioner = self._find_captioner(folder, tables)
        self._loaded: dict[str, tuple[AnyEncoder, Weights]] = {}
        self._head, self._top, self.labels = self._find_labels(folder, tables[0][1])
        self._foreground = self._find_foreground()
        self.hashes = self._hashes()

    def look(self, path: Path, scratch: Path) -> Found:
        """Return what there is in a video.

        Args:
            path: the video.
            scratch: folder for its features, which nobody needs later.

        Raises:
            UserError: the video cannot be read.
        """
        encoders = [self._own, self._head, self._foreground and self._foreground.initial]
        files = {each.weights: self._features(each, path, scratch) for each in encoders if each}
        own = files[self._own.weights]
        duration = own.duration(VIDEO, None)
        captions = self._captioner.describe(own, VIDEO) if self._captioner else None
        foreground = None
        if self._foreground:
            initial = self._foreground.initial
            rows = own.rows(VIDEO)
            seen = self._foreground.probabilities(rows, files[initial.weights].rows(VIDEO) if initial else None)
            foreground = own.centres(VIDEO, len(rows), duration), seen
        return Found(duration, self._detections(files, captions), captions, foreground)

    def _detections(
        self, files: dict[str, FeatureFiles], captions: tuple[Floats, Floats, list[str]] | None
    ) -> Predictions:
        """Return the localizer's labelled segments; where there is no localizer, those that are described."""
        if self._localizer is not None:
            labelling = self._localizer.labelling
            if self._head is not None and self._head.path is not None:
                scores = class_scores(files[self._head.weights], self._head.path)
                labelling = Labelling(scores.labels, scores, self._top, "labels:head", self.labels)
            return self._localizer.find(files[self._own.weights], labelling)
        assert captions is not None  # noqa: S101 - a row has a localizer or a captioner
        segments, scores_of, _ = captions
        found = Detections(segments, scores_of, np.zeros(len(scores_of), dtype=np.int64))
        return joined([VIDEO], UNLABELLED.labels, [found])

    def _features(self, encoder: KnownEncoder, path: Path, scratch: Path) -> FeatureFiles:
        module, _ = self._load(encoder)
        out = scratch / f"{hash_data(encoder.weights)[:16]}.h5"
        _, stride = self._extracted.get(encoder.weights, ("", self._stride))
        how = Extraction(stride, device=self._device, precision=self._precision)
        extract(TrainedEncoder(module, encoder.kind, encoder.weights), {VIDEO: path}, out, how, silent)
        return FeatureFiles([out])

    def _load(self, encoder: KnownEncoder) -> tuple[AnyEncoder, Weights]:
        if encoder.weights not in self._loaded:
            self._loaded[encoder.weights] = encoder.built()
        return self._loaded[encoder.weights]

    def _find_captioner(self, folder: Path, tables: list[tuple[TaskTable, Row]]) -> RowCaptioner | None:
        """Return the captioner; where there are labels to show instead, what is wrong with it is a note."""
        try:
            return row_captioner(folder, tables, self._device)
        except UserError as error:
            if self._localizer is None:
                raise
            self.notes.append(f"No captions, labels instead: {error}")
            return None

    def _find_labels(self, folder: Path, row: Row) -> tuple[KnownEncoder | None, int, str]:
        """Return the encoder whose action head labels videos, how many labels a video gets, and that for people."""
        if self._localizer is None or self._localizer.labelling.by_localizer:
            return None, 0, "none" if self._localizer is None else self._localizer.labelling.told
        predicted, scored = read_record(folder / row.folder / "predict"), read_record(folder / "class_scores")
        given = predicted and predicted.inputs.get("class_scores")
        top = _TOP.match(str(predicted and predicted.settings.get("labels")))
        if predicted is None or given is None or top is None:
            return None, 0, UNLABELLED.told
        count = int(top[1])
        if scored is not None and given in scored.outputs.values():
            digest = scored.inputs["head"]
            kind, _ = self._extracted.get(digest, (self._own.kind, 0))
            source = scored.figures.get("source", "an action head")
            return self._encoders.find(kind, digest), count, f"top {count} classes by {source}"
        _, weights = self._load(self._own)
        if "action" in weights.heads and isinstance(weights.card.get("labels"), list):
            self.notes.append(
                "The class scores of the run are a file, which knows none of these videos: the action head of the "
                "row's own encoder labels them."
            )
            return self._own, count, f"top {count} classes by the action head of the row's own encoder"
        self.notes.append(
            "The class scores of the run are a file, which knows none of these videos, and the row's encoder has no "
            f"action head: all segments are labelled {ANY_ACTION!r}."
        )
        return None, 0, UNLABELLED.told

    def _find_foreground(self) -> Foreground | None:
        """Return the region head of the row's encoder; that its initial encoder is missing is a note."""
        module, weights = self._load(self._own)
        try:
            return foreground_of(self._own, weights, module.feature_dim, self._encoders)
        except UserError as error:
            self.notes.append(f"No foreground curve: {error}")
            return None

    def _hashes(self) -> dict[str, str]:
        found = {"encoder": self._own.weights}
        if self._localizer is not None:
            found["localizer"] = self._localizer.weights
        if self._head is not None:
            found["head"] = self._head.weights
        if self._foreground is not None and self._foreground.initial is not None:
            found["initial encoder"] = self._foreground.initial.weights
        return found | (self._captioner.hashes if self._captioner else {})


def _tables(folder: Path, run: Run, name: str) -> list[tuple[TaskTable, Row]]:
    """Return what a row is in the tables that have it with the same features, those that say most of a video first.

    Raises:
        UserError: there is no such row, or it finds nothing in new videos.
    """
    able = [row.name for table in run.tables for row in table.rows if not why_not(folder, table, row)]
    names = f"rows that can are {', '.join(map(repr, dict.fromkeys(able)))}" if able else "no row of this run can"
    found = [(table, row) for table in run.tables for row in table.rows if row.name == name]
    if not found:
        raise UserError(f"{folder} has no row {name!r} that could find something in new videos: {names}.")
    usable = [(table, row) for table, row in found if not why_not(folder, table, row)]
    if not usable:
        raise UserError(f"{folder}, row {name!r}: {why_not(folder, *found[0])}: {names}.")
    usable.sort(key=lambda each: TASKS.index(each[0].task))
    return [(table, row) for table, row in usable if row.features == usable[0][1].features]


def _extracted(folder: Path, run: Run) -> dict[str, tuple[str, int]]:
    """Return the kind of each encoder by its weights, and the frames from clip to clip, as the run's rows have them."""
    found = {}
    for row in (row for table in run.tables for row in table.rows if row.files):
        try:
            kind, weights, stride, _ = features_encoder(folder, row)
        except UserError:
            continue
        found[weights] = kind, stride
    return found
