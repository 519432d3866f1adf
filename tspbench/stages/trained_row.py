"""What a row of a finished run can do with a new video: labelled segments, sentences, and where something happens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.segments import Predictions
from tspbench.encoders import AnyEncoder, encoder_facts
from tspbench.errors import UserError
from tspbench.own_code import is_own
from tspbench.segment_batches import Floats
from tspbench.stages.extract import Extraction, TrainedEncoder, class_scores, extract
from tspbench.stages.foreground import Foreground, foreground_of
from tspbench.stages.known_encoders import KnownEncoder, KnownEncoders
from tspbench.stages.predict import joined
from tspbench.stages.row_captioner import RowCaptioner, row_captioner
from tspbench.stages.rows import UNLABELLED
from tspbench.stages.score import CAPTIONING
from tspbench.stages.train import localizer_facts
from tspbench.stages.trained_localizer import finished, silent, trained_localizer
from tspbench.stages.usable_rows import extractions, features_encoder, usable_tables
from tspbench.storage.checkpoints import Weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.records import read_record
from tspbench.storage.runs import Row, Run, TaskTable
from tspbench.video_labels import ANY_ACTION, Detections, Labelling

VIDEO: Final = "video"  # what the one video of a feature file is called there, whatever its own file is called
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


class TrainedRow:
    """A row at work on new videos; made, it has found all that it needs.

    Args:
        folder: of the run.
        run: its manifest.
        name: of the row.
        checkpoints: files of weights that do not lie in the run.
        device: torch device.
        own: names of encoders and localizers of the user's own, which they have let in.

    Attributes:
        notes: what it does otherwise than the run, a sentence each.
        labels: where labels come from, for people.
        hashes: of everything that decides what it finds, by name.

    Raises:
        UserError: the row is unknown, not finished or finds nothing in new videos, or weights are missing.
    """

    def __init__(
        self, folder: Path, run: Run, name: str, checkpoints: Sequence[Path], device: str, own: Sequence[str] = ()
    ) -> None:
        self._device, self.notes, self._named = device, list[str](), own
        self._encoders = KnownEncoders(folder, checkpoints, own)
        tables = usable_tables(folder, run, name, self._encoders)
        kind, weights, self._stride, self._precision = features_encoder(folder, tables[0][1])
        self._own = self._encoders.find(kind, weights)
        self._extracted = extractions(folder, run)
        located = [row for table, row in tables if table.task != CAPTIONING]
        self._localizer = trained_localizer(folder / located[0].folder, device, own) if located else None
        self._captioner = self._find_captioner(folder, tables)
        self._loaded: dict[str, tuple[AnyEncoder, Weights]] = {}
        self._head, self._top, self.labels = self._find_labels(folder, tables[0][1])
        self._foreground = self._find_foreground()
        self._note_edits()
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
            # The middle of a clip that is longer than the video may lie behind its end.
            foreground = np.minimum(own.centres(VIDEO, len(rows), duration), duration), seen
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
            return row_captioner(folder, tables, self._device, self._named)
        except UserError as error:
            if self._localizer is None:
                raise
            self.notes.append(f"No captions, labels instead: {error}")
            return None

    def _find_labels(self, folder: Path, row: Row) -> tuple[KnownEncoder | None, int, str]:
        """Return the encoder whose action head labels videos, how many labels a video gets, and that for people."""
        if self._localizer is None or self._localizer.labelling.by_localizer:
            return None, 0, "none" if self._localizer is None else self._localizer.labelling.told
        predicted, scored = finished(folder / row.folder / "predict"), read_record(folder / "class_scores")
        given, top = predicted.inputs.get("class_scores"), _TOP.match(str(predicted.settings.get("labels")))
        if given is None or top is None:
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
        """Return the region head of the row's encoder; that there is none, or no initial encoder, is a note."""
        module, weights = self._load(self._own)
        why: object = "the row's encoder has no region head, which only TSP trains."
        try:
            found = foreground_of(self._own, weights, module.feature_dim, self._encoders)
        except UserError as error:
            found, why = None, error
        if found is None:
            self.notes.append(f"No foreground curve: {why}")
        return found

    def _note_edits(self) -> None:
        """Say which of the user's own classes are not as they were when their weights were trained."""
        trained = self._own.pretraining
        then = trained and trained.settings.get("encoder_source")
        edited = [self._own.kind] if then not in (None, encoder_facts(self._own.kind).get("encoder_source")) else []
        if self._localizer is not None:
            name, then = self._localizer.name, self._localizer.settings.get("source")
            edited += [name] if then != localizer_facts(name).get("source") else []
        self.notes += [
            f"{name} has changed since it was trained: what it finds may be worth less than the run's table says."
            for name in edited
        ]

    def _hashes(self) -> dict[str, str]:
        found = {"encoder": self._own.weights}
        if is_own(self._own.kind):
            found["encoder's code"] = str(encoder_facts(self._own.kind)["encoder_source"])
        if self._localizer is not None:
            found["localizer"] = self._localizer.weights
            if is_own(self._localizer.name):
                found["localizer's code"] = str(localizer_facts(self._localizer.name)["source"])
        if self._head is not None:
            found["head"] = self._head.weights
        if self._foreground is not None and self._foreground.initial is not None:
            found["initial encoder"] = self._foreground.initial.weights
        return found | (self._captioner.hashes if self._captioner else {})
