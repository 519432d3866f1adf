"""The captioner and the proposal generator of a row: trained, validated, and put to work."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from evaluation import CAPTIONING_PROTOCOLS, captioning
from tspbench.caption_sets import CaptionSet, as_captions
from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.segment_batches import Floats, Proposals, Segment, SegmentStreams
from tspbench.stages.captioner_settings import GROUND_TRUTH
from tspbench.stages.captioning_inputs import CaptionBenchmark
from tspbench.stages.describe import describe
from tspbench.stages.stage import file_hashes, run_stage
from tspbench.stages.train_captioner import (
    CAPTIONER_FILE,
    CaptionLesson,
    new_captioner,
    start_from_vectors,
    train_captioner,
)
from tspbench.stages.train_generator import (
    GENERATOR_FILE,
    ProposalLesson,
    lesson_anchors,
    load_generator,
    new_generator,
    propose,
    train_generator,
)
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.parts import Parts
from tspbench.storage.records import Record

PROPOSALS: Final = "proposals"
# What is described → the protocol by which that is scored (BMT, evaluation/evaluate.py).
PARTS: Final = {GROUND_TRUTH: "densevid-averaged", PROPOSALS: "densevid"}


@dataclass(frozen=True)
class CaptionModels:
    """The networks of a row.

    Args:
        shared: what the rows have in common.
        name: of the row.
        files: its features.
        folder: for the stages that train.
    """

    shared: CaptionBenchmark
    name: str
    files: FeatureFiles
    folder: Path

    def settings(self) -> dict[str, object]:
        """Return the settings that decide what the captioner learns."""
        return self.shared.train_settings(self.files)

    def inputs(self) -> dict[str, str]:
        """Return the hashes of all that is learned from."""
        return {**self.shared.inputs, **file_hashes(self.files)}

    def train(self) -> Record:
        """Train the captioner."""
        what = self.shared.what

        def work(key: str) -> Mapping[str, object]:
            learned = self._learned()
            if learned.missing:
                say(
                    f"{self.files.paths[0]}: no features of {len(learned.missing)} of {len(learned.captions.videos)} "
                    f"training videos (first: {learned.missing[0]})."
                )
            tokens = [self.shared.tokens[row] for row in learned.rows[learned.shown].tolist()]
            told = [k for k, segment in enumerate(learned.segments) if tokens[k] and segment.lasts]
            if not told:
                raise UserError(
                    f"{self.shared.training.path}: none of the {len(tokens)} captions whose videos have features has "
                    "both words and a segment that lasts: there is nothing to learn from; correct the file."
                )
            lesson = CaptionLesson(
                self._streams([learned.segments[k] for k in told]),
                [self.shared.vocabulary.encode(tokens[k]) for k in told],
                self._meteor if what.captioner.fit.select == "best" else None,
            )
            model = self._new_captioner()
            vectors = start_from_vectors(model, what.captioner, self.shared.vocabulary)
            with progress(f"train {what.captioner.name} · {self.name}") as advance:
                figures = train_captioner(
                    lesson,
                    model,
                    what.captioner,
                    seed=what.seed,
                    device=what.device,
                    folder=self.folder / "train",
                    key=key,
                    advance=advance,
                )
            left_out = {
                "missing_training_videos": len(learned.missing),
                "captions_without_words_or_length": len(tokens) - len(told),
                "selection": self.shared.selection,
            }
            return {**figures, **vectors, **left_out}

        return run_stage("train", self.folder / "train", self.settings(), self.inputs(), [CAPTIONER_FILE], work)

    def train_generator(self, trained: Record) -> Record:
        """Train the proposal generator on the encoder of the trained captioner."""
        what = self.shared.what
        folder = self.folder / "generator"

        def work(key: str) -> Mapping[str, object]:
            learned = self._learned()
            captioner = self.captioner()
            lesson = ProposalLesson(
                self._streams(list(learned.whole.values())),
                learned.true_segments(),
                (lambda model: self._f1(captioner, model)) if what.captioner.generator.fit.select == "best" else None,
            )
            anchors = lesson_anchors(lesson, what.captioner, what.seed)
            with progress(f"train proposal generator · {self.name}") as advance:
                return train_generator(
                    lesson,
                    captioner,
                    new_generator(what.captioner, anchors, self._dims(), what.seed),
                    what.captioner,
                    seed=what.seed,
                    device=what.device,
                    folder=folder,
                    key=key,
                    advance=advance,
                )

        settings = self.shared.generator_settings()
        inputs = {**self.inputs(), "captioner": trained.outputs[CAPTIONER_FILE]}
        return run_stage("train generator", folder, settings, inputs, [GENERATOR_FILE], work)

    def captioner(self) -> Any:
        """Return the trained captioner in evaluation mode."""
        model = self._new_captioner()
        model.load_state_dict(read_weights(self.folder / "train" / CAPTIONER_FILE).features)
        return model.to(self.shared.what.device).eval()

    def describe(self, model: Any, segments: Sequence[Segment], folder: Path, key: str) -> list[str]:
        """Describe segments with the captioner ``model``.

        Args:
            model: from `captioner`.
            segments: what is described.
            folder: where sentences are kept as they come.
            key: fingerprint of the work, to which only sentences about the same segments belong.
        """
        what = self.shared.what
        parts = Parts(folder, hash_data([key, [astuple(segment) for segment in segments]]))
        with progress(f"describe · {self.name}") as advance:
            return describe(
                self._streams(segments),
                model,
                self.shared.vocabulary,
                what.captioner.decoding,
                what.device,
                what.captioner.fit.workers,
                advance,
                parts,
            )

    def propose(self, videos: Mapping[str, Segment]) -> Proposals:
        """Let the trained generator propose segments of whole videos."""
        what = self.shared.what
        generator = load_generator(self.folder / "generator" / GENERATOR_FILE, what.captioner, self._dims())
        return self._propose(self.captioner(), generator.to(what.device).eval(), videos)

    def _propose(self, captioner: Any, generator: Any, videos: Mapping[str, Segment]) -> Proposals:
        what = self.shared.what
        found = propose(self._streams(list(videos.values())), captioner, generator, what.captioner, what.device)
        return dict(zip(videos, found, strict=True))

    def chosen(self, segments: Floats, scores: Floats) -> tuple[Floats, Floats]:
        """Return the best proposals of a video that are long enough."""
        how = self.shared.what.captioner.proposals
        kept = np.flatnonzero(segments[:, 1] - segments[:, 0] > how.shortest_seconds)[: how.count]
        return segments[kept], scores[kept]

    def _meteor(self, model: Any) -> float:
        """Return the METEOR of what a captioner says of the segments that epochs are chosen by."""
        sets = self._chosen_by()
        segments = self._streams([segment for each in sets for segment in each.segments])
        how = self.shared.what.captioner
        device, workers = self.shared.what.device, how.fit.workers
        sentences = iter(describe(segments, model, self.shared.vocabulary, how.decoding, device, workers))
        described = [each.described([next(sentences) for _ in each.segments]) for each in sets]
        protocol = CAPTIONING_PROTOCOLS[PARTS[GROUND_TRUTH]]
        found = captioning.statistics([each.captions for each in sets], described, protocol, self.shared.meteor)
        if problem := found.problems.get("METEOR"):
            raise UserError(f"No epoch can be chosen by METEOR: {problem}")
        return captioning.score(found).metrics()["METEOR"]

    def _f1(self, captioner: Any, generator: Any) -> float:
        """Return the F1 of precision and recall of a generator's proposals (BMT, stage 2)."""
        sets = self._chosen_by()
        videos = {name: segment for each in sets for name, segment in each.whole.items()}
        proposals = {name: self.chosen(*of) for name, of in self._propose(captioner, generator, videos).items()}
        captions, _ = as_captions(proposals, [""] * sum(len(scores) for _, scores in proposals.values()))
        protocol = CAPTIONING_PROTOCOLS[PARTS[PROPOSALS]]
        precision, recall = captioning.precision_recall([each.captions for each in sets], captions, protocol)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    def _learned(self) -> CaptionSet:
        """Return the captions that are learned from."""
        file = self.shared.training
        return CaptionSet.of(file, self.files, set(file.captions.videos) - self.shared.held_out)

    def _chosen_by(self) -> list[CaptionSet]:
        """Return the captions that epochs are chosen by."""
        if self.shared.held_out:
            return [CaptionSet.of(self.shared.training, self.files, self.shared.held_out)]
        return [CaptionSet.of(file, self.files) for file in self.shared.references]

    def _streams(self, segments: Sequence[Segment]) -> SegmentStreams:
        return SegmentStreams(self.shared.sources(self.files), segments)

    def _dims(self) -> list[int]:
        return [files.feature_dim for files in self.shared.sources(self.files)]

    def _new_captioner(self) -> Any:
        what = self.shared.what
        return new_captioner(what.captioner, self._dims(), self.shared.vocabulary, what.seed)
