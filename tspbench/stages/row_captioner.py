"""The captioner of a run's row, rebuilt from its records for videos that the run has never seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tspbench.config import validated
from tspbench.errors import UserError
from tspbench.segment_batches import Floats, Segment, SegmentStreams
from tspbench.stages.captioner_settings import GENERATOR, GROUND_TRUTH, CaptionerSettings
from tspbench.stages.captioning_inputs import WORDS_FILE
from tspbench.stages.describe import describe
from tspbench.stages.rows import UNLABELLED
from tspbench.stages.score import CAPTIONING
from tspbench.stages.train_captioner import CAPTIONER_FILE, new_captioner
from tspbench.stages.train_generator import GENERATOR_FILE, load_generator, propose
from tspbench.stages.trained_localizer import TrainedLocalizer, finished, trained_localizer
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.json_files import read_json
from tspbench.storage.records import Record
from tspbench.storage.runs import Row, TaskTable
from tspbench.vocabulary import Vocabulary


@dataclass(frozen=True)
class RowCaptioner:
    """A captioner of a finished run, and where its segments come from.

    Args:
        folder: of the row's networks.
        settings: of captioner, generator, proposals and decoding.
        vocabulary: its words.
        feature_dim: D of the features.
        localizer: whose proposals are described; None: those of the captioner's own generator.
        hashes: of weights and words, by name.
        device: torch device.
    """

    folder: Path
    settings: CaptionerSettings
    vocabulary: Vocabulary
    feature_dim: int
    localizer: TrainedLocalizer | None
    hashes: dict[str, str]
    device: str

    @cached_property
    def model(self) -> Any:
        """The captioner in evaluation mode."""
        model = new_captioner(self.settings, [self.feature_dim], self.vocabulary, seed=0)
        model.load_state_dict(read_weights(self.folder / "train" / CAPTIONER_FILE).features)
        return model.to(self.device).eval()

    @cached_property
    def generator(self) -> Any:
        """The proposal generator in evaluation mode; None where a localizer proposes."""
        if self.localizer is not None:
            return None
        path = self.folder / "generator" / GENERATOR_FILE
        return load_generator(path, self.settings, [self.feature_dim]).to(self.device).eval()

    def describe(self, files: FeatureFiles, video: str) -> tuple[Floats, Floats, list[str]]:
        """Propose segments of a video and describe the best of them.

        Args:
            files: its features.
            video: its name there.

        Returns:
            (n, 2) segments in seconds, (n,) scores, best first, and n sentences.
        """
        duration = files.duration(video, None)
        segments, scores = self._proposed(files, video, duration)
        how = self.settings.proposals
        kept = np.flatnonzero(segments[:, 1] - segments[:, 0] > how.shortest_seconds)[: how.count]
        segments, scores = segments[kept], scores[kept]
        if not len(kept):
            return segments, scores, []
        streams = SegmentStreams([files], [Segment(video, duration, *ends) for ends in segments.tolist()])
        sentences = describe(streams, self.model, self.vocabulary, self.settings.decoding, self.device, 0)
        return segments, scores, sentences

    def _proposed(self, files: FeatureFiles, video: str, duration: float) -> tuple[Floats, Floats]:
        """Return segments (n, 2) in seconds and scores (n,), best first."""
        if self.localizer is None:
            whole = SegmentStreams([files], [Segment.whole(video, duration)])
            return propose(whole, self.model, self.generator, self.settings, self.device)[0]
        found = self.localizer.find(files, UNLABELLED)
        order = np.argsort(-found.score, kind="stable")
        return np.stack([found.start, found.end], axis=1)[order], found.score[order]


def row_captioner(
    run: Path, tables: list[tuple[TaskTable, Row]], device: str, own: Sequence[str] = ()
) -> RowCaptioner | None:
    """Return the captioner of a row; None where the run has none for it.

    Args:
        run: folder of the run.
        tables: the tables that have the row, and what it is there.
        device: torch device.
        own: names of localizers of the user's own, which they have let in.

    Raises:
        UserError: the captioner is not finished, or listens to the sound.
    """
    described = [row for table, row in tables if table.task == CAPTIONING and table.part != GROUND_TRUTH]
    if not described:
        return None
    folder = run / Path(described[0].folder).parent
    trained = finished(folder / "train", [CAPTIONER_FILE])
    config: Any = trained.settings["config"]
    if config["audio_dim"]:
        raise UserError(f"{folder}: the captioner listens to the sound, which `tspbench predict` has no features of.")
    predicted = finished(run / described[0].folder / "predict")
    hashes = {"captioner": trained.outputs[CAPTIONER_FILE]}
    source, localizer = str(predicted.settings["source"]), None
    if source == GENERATOR:
        hashes["generator"] = finished(folder / "generator", [GENERATOR_FILE]).outputs[GENERATOR_FILE]
    else:
        proposing = [row for table, row in tables if table.facts.get("localizer") == source]
        if not proposing:
            raise UserError(f"{folder}: the captioner describes proposals of {source}, of which this row has none.")
        localizer = trained_localizer(run / proposing[0].folder, device, own)
        hashes["proposing localizer"] = localizer.weights
    words = run / CAPTIONING / "words"
    hashes["words"] = finished(words, [WORDS_FILE]).outputs[WORDS_FILE]
    content: Any = read_json(words / WORDS_FILE, "vocabulary")
    vocabulary = Vocabulary(tuple(content["words"]))
    if len(vocabulary) != config["words"]:
        raise UserError(
            f"{words / WORDS_FILE}: expected the {config['words']} words that the captioner of {folder} learned, found "
            f"{len(vocabulary)}: run the experiment again with the same --out."
        )
    settings = _settings(folder, trained, predicted)
    return RowCaptioner(folder, settings, vocabulary, config["feature_dim"], localizer, hashes, device)


def _settings(folder: Path, trained: Record, predicted: Record) -> CaptionerSettings:
    """Return a captioner's settings as its records say them, without those that its weights follow from."""
    learned, said = dict(trained.settings), dict(predicted.settings)
    config: Any = learned["config"]
    generator: Any = said["generator"] or {"fit": learned["fit"]}
    content = {
        "name": learned["captioner"],
        "config": {key: value for key, value in config.items() if key not in ("feature_dim", "audio_dim", "words")},
        "fit": learned["fit"],
        # In one process: a video of a few hundred rows is read before another one has started.
        "generator": {
            **{key: generator[key] for key in ("config", "anchors") if key in generator},
            "fit": {**generator["fit"], "workers": 0},
        },
        "proposals": {key: said[key] for key in ("source", "count", "shortest_seconds")},
        "decoding": {key: said[key] for key in ("max_words", "beam", "no_repeated_trigram")},
    }
    return validated(CaptionerSettings, content, f"{folder}, settings")
