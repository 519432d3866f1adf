"""One video + a row of a run → segments, subtitles, a picture, and the record of them."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.segments import Predictions
from tspbench.errors import UserError
from tspbench.segment_batches import Floats
from tspbench.stages.stage import run_stage
from tspbench.stages.trained_row import TrainedRow
from tspbench.storage.atomic import write_bytes, write_text
from tspbench.storage.hashes import hash_file
from tspbench.storage.json_files import read_json
from tspbench.storage.predictions import write_predictions
from tspbench.storage.records import Record, read_record
from tspbench.storage.runs import MANIFEST
from tspbench.storage.scratch import scratch_folder
from tspbench.storage.subtitles import chosen_cues, file_name, write_subtitles
from tspbench.storage.thumbnails import read_thumbnails
from tspbench.video_picture import Shown, video_picture, worth_showing

SUFFIXES: Final = (".json", ".csv", ".srt", ".vtt", ".png")
RECORDS: Final = "records"  # folder of the records, below that of the predictions
BEGUN: Final = "begun.txt"  # beside a record: the video's files are ours from here on, though a kill may come first
LONGEST_PLAIN: Final = 180  # bytes of a video's name that its files take over as it is
THUMBNAILS: Final = 10
THUMBNAIL_PIXELS: Final = 200


@dataclass(frozen=True)
class Detection:
    """A labelled segment of a video, in seconds."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float


@dataclass(frozen=True)
class Caption:
    """A sentence about a segment of a video, in seconds."""

    start_seconds: float
    end_seconds: float
    sentence: str
    score: float


@dataclass(frozen=True)
class VideoPrediction:
    """What was found in a video.

    Attributes:
        video: its file.
        name: what it is called in the files that were written.
        duration_seconds: of the video.
        detections: best first.
        captions: best first; empty where the run has no captioner for the row.
        files: what was written, in the order of `SUFFIXES`.
    """

    video: Path
    name: str
    duration_seconds: float
    detections: list[Detection]
    captions: list[Caption]
    files: list[Path]


@dataclass(frozen=True)
class VideoStage:
    """One video: found once, recorded, skipped when its files are there from the same row."""

    name: str
    path: Path
    row: str
    trained: TrainedRow
    out: Path

    def run(self) -> VideoPrediction:
        """Look at the video unless that is done, and return what was found.

        Raises:
            UserError: the video cannot be read, or a file cannot be written, or is there and somebody else's.
        """
        base, folder = written_name(self.name), self._folder
        outputs = [f"{base}{suffix}" for suffix in SUFFIXES]
        settings = {"row": self.row, "video": self.name, "labels": self.trained.labels}
        inputs = {**self.trained.hashes, "video": hash_file(self.path)}
        try:
            record = run_stage("predict", folder, settings, inputs, [f"../../{each}" for each in outputs], self._work)
        except UserError:
            with suppress(OSError):
                folder.rmdir()  # nothing was found to record
            raise
        return self._read(record, [self.out / each for each in outputs])

    @property
    def _folder(self) -> Path:
        """Where the record lies."""
        return self.out / RECORDS / file_name(self.name)

    def _check_files(self) -> None:
        """Refuse to replace a file that is nobody's of us, such as subtitles that somebody wrote beside a video.

        Raises:
            UserError: there is one.
        """
        if (self._folder / BEGUN).is_file() or read_record(self._folder) is not None:
            return
        for suffix in SUFFIXES:
            path = self.out / f"{written_name(self.name)}{suffix}"
            if os.path.lexists(path):
                raise UserError(
                    f"{path} is there, and `tspbench predict` did not write it: give another --out, or move the file."
                )

    def _work(self, _key: str) -> Mapping[str, object]:
        self._check_files()
        with scratch_folder(self.out) as scratch:
            found = self.trained.look(self.path, scratch)
        base = written_name(self.name)
        write_text(self._folder / BEGUN, "")
        best = np.argsort(-found.detections.score, kind="stable")
        detections = _by_rank(found.detections, best, self.name)
        write_predictions(self.out / f"{base}.json", detections)
        rows = _detections(detections)
        write_text(self.out / f"{base}.csv", _csv(self.name, rows))
        shown = [Shown(each.start_seconds, each.end_seconds, each.label, each.score) for each in rows]
        segments, scores, sentences = found.captions or _labels_told(shown)
        write_subtitles(self.out, self.name, segments, sentences, scores, name=base)
        cues = chosen_cues(segments, sentences, scores) if found.captions else []
        picture = video_picture(
            f"{self.name} · {self.row}",
            found.duration_seconds,
            read_thumbnails(self.path, THUMBNAILS, THUMBNAIL_PIXELS),
            shown,
            [Shown(start / 1000, end / 1000, text) for start, end, text in cues],
            found.foreground,
        )
        write_bytes(self.out / f"{base}.png", picture)
        captions = zip(*(found.captions or ([], [], [])), strict=True)
        return {
            "duration_seconds": found.duration_seconds,
            "captions": [[*map(float, ends), sentence, float(score)] for ends, score, sentence in captions],
        }

    def _read(self, record: Record, files: list[Path]) -> VideoPrediction:
        content: Any = read_json(files[0], "prediction")
        rows = content["results"].get(self.name, [])
        captions: Any = record.figures["captions"]
        return VideoPrediction(
            video=self.path,
            name=self.name,
            duration_seconds=float(str(record.figures["duration_seconds"])),
            detections=[Detection(row["segment"][0], row["segment"][1], row["label"], row["score"]) for row in rows],
            captions=[Caption(*each) for each in captions],
            files=files,
        )


def written_name(name: str) -> str:
    """Return what the files of a video are called: as the video, where that is a name that nobody trips over."""
    plain = name.isprintable() and not name.startswith(".") and "%" not in name and len(name.encode()) <= LONGEST_PLAIN
    return name if plain else file_name(name)


def check_out(out: Path, row: str) -> None:
    """Find out before anything is done whether a row's files can go to a folder.

    Raises:
        UserError: it is the folder of a run, or has the files of another row, which would be replaced.
    """
    if (out / MANIFEST).is_file():
        raise UserError(f"--out {out} is the folder of a run, whose own files lie there: give another --out.")
    records = out / RECORDS
    for folder in sorted(records.iterdir()) if records.is_dir() else []:
        record = read_record(folder)
        if record is not None and record.settings.get("row") != row:
            raise UserError(
                f"{out} holds what the row {record.settings.get('row')!r} finds in videos, and that of {row!r} would "
                "take its place: give another --out."
            )


def _labels_told(detections: Sequence[Shown]) -> tuple[Floats, Floats, list[str]]:
    """Return (n, 2) segments in seconds, (n,) scores and labels of the detections that subtitles tell of."""
    best = worth_showing(detections)
    segments = np.array([(each.start_seconds, each.end_seconds) for each in best]).reshape(-1, 2)
    return segments, np.array([each.score for each in best]), [each.text for each in best]


def _by_rank(found: Predictions, order: NDArray[np.int64], name: str) -> Predictions:
    """Return predictions about one video in another order, under its name."""
    return Predictions(
        found.video[order],
        found.start[order],
        found.end[order],
        found.score[order],
        found.label[order],
        (name,),
        found.labels,
    )


def _detections(found: Predictions) -> list[Detection]:
    columns = (found.start.tolist(), found.end.tolist(), found.label.tolist(), found.score.tolist())
    return [Detection(start, end, found.labels[k], score) for start, end, k, score in zip(*columns, strict=True)]


def _csv(name: str, detections: Sequence[Detection]) -> str:
    """Return detections as a table, every number to its last bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start", "end", "label", "score"])
    writer.writerows([name, each.start_seconds, each.end_seconds, each.label, each.score] for each in detections)
    return text.getvalue()
