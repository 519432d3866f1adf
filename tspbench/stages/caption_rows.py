"""One row of the captioning tables: true segments and proposals are described, and the sentences scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation import CAPTIONING_PROTOCOLS
from evaluation.captions import Captions
from tspbench.caption_sets import CaptionSet, as_captions
from tspbench.progress import progress, say
from tspbench.segment_batches import Proposals, Segment
from tspbench.stages.caption_models import PARTS, PROPOSALS, CaptionModels
from tspbench.stages.captioner_settings import GROUND_TRUTH
from tspbench.stages.captioning_inputs import CaptionBenchmark
from tspbench.stages.proposal_files import localizer_predictions, read_proposals
from tspbench.stages.rows import STATISTICS_FILE
from tspbench.stages.score import CAPTIONING, problems, score, score_intervals
from tspbench.stages.stage import file_hashes, run_stage
from tspbench.stages.train_captioner import CAPTIONER_FILE
from tspbench.stages.train_generator import GENERATOR_FILE
from tspbench.storage.captions import read_captions, write_captions
from tspbench.storage.hashes import hash_file
from tspbench.storage.parts import remove_parts
from tspbench.storage.records import Record
from tspbench.storage.runs import Row
from tspbench.storage.statistics import write_statistics
from tspbench.storage.subtitles import remove_subtitles, write_subtitles

SAMPLE: Final = 4  # sentences of a row that the report shows
CAPTIONS_FILE: Final = "captions.json"
PARTS_FOLDER: Final = "parts"
FindProposals = Callable[[Mapping[str, Segment]], Proposals]


@dataclass(frozen=True)
class CaptionRow:
    """A row at work.

    Args:
        row: of one of the tables.
        models: its networks; their folder is that of the row in both tables.
    """

    row: Row
    models: CaptionModels

    @property
    def shared(self) -> CaptionBenchmark:
        """What the rows have in common."""
        return self.models.shared

    def describe_truth(self) -> None:
        """Describe the true segments of each reference file, and score the sentences against that file."""
        trained = self.models.train()
        folder = self.models.folder / GROUND_TRUTH / "predict"
        names = [f"captions_{number}.json" for number in range(1, len(self.shared.references) + 1)]

        def work(key: str) -> Mapping[str, object]:
            model = self.models.captioner()
            truths = [CaptionSet.of(file, self.models.files) for file in self.shared.references]
            segments = [segment for truth in truths for segment in truth.segments]
            sentences = iter(self.models.describe(model, segments, folder / PARTS_FOLDER, key))
            described = [truth.described([next(sentences) for _ in truth.segments]) for truth in truths]
            for name, captions in zip(names, described, strict=True):
                write_captions(folder / name, captions)
            remove_parts(folder / PARTS_FOLDER)
            return {"captions": len(segments), "sample": _sample(truths[0], described[0])}

        settings = self.shared.decoding_settings()
        predicted = run_stage("predict", folder, settings, self._inputs(trained), names, work)
        self._score(GROUND_TRUTH, predicted, names, GROUND_TRUTH)

    def describe_proposals(self) -> None:
        """Propose segments, describe them, and score the sentences against all reference files at once."""
        trained = self.models.train()
        made_from, find = self._source(trained)
        folder = self.models.folder / PROPOSALS / "predict"

        def work(key: str) -> Mapping[str, object]:
            videos = self._scored_videos()
            proposals = {name: self.models.chosen(*found) for name, found in find(videos).items()}
            segments = [
                Segment(videos[name].video, videos[name].duration_seconds, start, end)
                for name, (ends, _) in proposals.items()
                for start, end in ends.tolist()
            ]
            sentences = self.models.describe(self.models.captioner(), segments, folder / PARTS_FOLDER, key)
            captions, scores = as_captions(proposals, sentences)
            write_captions(folder / CAPTIONS_FILE, captions, scores)
            remove_subtitles(folder / "subtitles")
            for video, rows in captions.rows().items():
                ends = np.stack([captions.start[rows], captions.end[rows]], axis=1)
                write_subtitles(folder / "subtitles", video, ends, [sentences[row] for row in rows], scores[rows])
            remove_parts(folder / PARTS_FOLDER)
            return {"captions": len(captions)}

        settings = {**self.shared.decoding_settings(), **self.shared.proposal_settings()}
        inputs = {**self._inputs(trained), **made_from}
        predicted = run_stage("predict", folder, settings, inputs, [CAPTIONS_FILE], work)
        source = self.shared.what.captioner.proposals
        self._score(PROPOSALS, predicted, [CAPTIONS_FILE], f"{source.source}-{source.count}")

    def _inputs(self, trained: Record) -> dict[str, str]:
        return {**self.models.inputs(), "captioner": trained.outputs[CAPTIONER_FILE]}

    def _source(self, trained: Record) -> tuple[dict[str, str], FindProposals]:
        """Return the hash of what the proposals follow from, and how to find those of some videos."""
        what = self.shared.what
        if self.shared.generates:
            made = self.models.train_generator(trained)
            return {"generator": made.outputs[GENERATOR_FILE]}, self.models.propose
        features = file_hashes(self.models.files)
        path = localizer_predictions(what.out, self.row.name, what.captioner.proposals.source, features)
        return {"proposals": hash_file(path)}, lambda videos: read_proposals(path, videos)

    def _scored_videos(self) -> dict[str, Segment]:
        """Return every video with features that some reference file has; say aloud which are missing."""
        sets = [CaptionSet.of(file, self.models.files) for file in self.shared.references]
        missing = dict.fromkeys(name for each in sets for name in each.missing)
        found = {name: segment for each in sets for name, segment in each.whole.items()}
        if missing:
            first, total = next(iter(missing)), len(missing) + len(found)
            path = self.models.files.paths[0]
            say(f"{path}: no features of {len(missing)} of {total} scored videos (first: {first}).")
        return found

    def _score(self, part: str, predicted: Record, names: Sequence[str], source: str) -> None:
        """Score the files ``names`` of one kind of segments; ``source`` says in the signature which."""
        protocol = CAPTIONING_PROTOCOLS[PARTS[part]]
        folder = self.models.folder / part

        def work(_key: str) -> Mapping[str, object]:
            truth = [file.captions for file in self.shared.references]
            captions = [read_captions(folder / "predict" / name) for name in names]
            with progress(f"score · {self.row.name}") as advance:
                said = captions if part == GROUND_TRUTH else captions[0]
                scored = score(CAPTIONING, truth, said, protocol, scorer=self.shared.telling(advance))
            signature = f"{scored.signature}|proposals:{source}"
            write_statistics(folder / "score" / STATISTICS_FILE, scored.statistics, signature)
            with progress(f"resample · {self.row.name}") as advance:
                intervals = score_intervals(CAPTIONING, scored, advance)
            failed = problems(scored)
            for metric, problem in failed.items():
                say(f"{self.row.name}: {metric} is missing: {problem} Remove {folder / 'score'} to score again.")
            metrics = {name: value for name, value in scored.result.metrics().items() if name not in failed}
            return {"metrics": metrics, "intervals": intervals, "counts": scored.counts, "signature": signature}

        settings = {"task": CAPTIONING, "protocol": protocol.name, "proposals": source, "row": self.row.key}
        inputs = {**self.shared.inputs, **predicted.outputs}
        run_stage("score", folder / "score", settings, inputs, [STATISTICS_FILE], work)


def _sample(truth: CaptionSet, described: Captions) -> list[dict[str, object]]:
    """Return what the report shows: true and predicted sentences of the first videos."""
    rows = truth.shown[:SAMPLE].tolist()
    return [
        {
            "video": truth.captions.videos[truth.captions.video[row]],
            "segment": [float(truth.captions.start[row]), float(truth.captions.end[row])],
            "true": truth.captions.sentences[row],
            "predicted": sentence,
        }
        for row, sentence in zip(rows, described.sentences, strict=False)
    ]
