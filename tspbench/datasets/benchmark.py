"""What a benchmark is: splits, expected counts, conventional video sets, where its files come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluation.segments import GroundTruth
from evaluation.video_sets import VIDEO_SETS


@dataclass(frozen=True)
class SplitFacts:
    """What one split is expected to hold.

    Attributes:
        subset: the split's name in the annotation file.
        videos: annotated videos.
        seconds: how long they are together.
        segments: annotated actions; None where only captions are annotated.
        background: background segments of the ground truth of TSP.
        kept: actions and background segments that last a clip of 16 frames at 15 a second, as TSP keeps them.
        clips_per_epoch: five of each that is kept.
    """

    subset: str
    videos: int
    seconds: int
    segments: int | None = None
    background: int | None = None
    kept: tuple[int, int] | None = None
    clips_per_epoch: int | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file or folder that a user has to bring.

    Attributes:
        what: what it holds.
        names: what it may be called below the data set's folder, the best first.
        official: where it comes from.
        fetch: its names in `tspbench.storage.catalog.CATALOG`; empty: it cannot be fetched by name.
    """

    what: str
    names: tuple[str, ...]
    official: str
    fetch: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """The facts of a public benchmark.

    Attributes:
        name: key of `tspbench.datasets.BENCHMARKS`, and the data set's folder below the data root.
        title: how papers call it.
        classes: action classes; 0 where none are told apart.
        protocol: key of `evaluation.protocols.DETECTION_PROTOCOLS`.
        splits: role ("training", "validation") → its facts. "validation" is what scores are made on.
        video_sets: keys of `evaluation.video_sets.VIDEO_SETS`: the conventional parts of the scored split.
        annotations: the file of annotated actions; None for captions alone.
        captions: role → caption files, in the data set's folder.
        videos: folder of the videos, relative to the data set's.
        feature_files: where released features are looked for, relative to the data set's folder, for a "{model}".
        files: everything that a user has to bring.
        citation: of the benchmark.
        known: what is known to be missing or irregular, for people.
    """

    name: str
    title: str
    classes: int
    protocol: str
    splits: Mapping[str, SplitFacts]
    annotations: SourceFile | None
    files: tuple[SourceFile, ...]
    citation: str
    known: tuple[str, ...]
    video_sets: tuple[str, ...] = ()
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    videos: str = "videos"
    feature_files: tuple[str, ...] = ()

    def recognised(self, truth: GroundTruth) -> str | None:
        """Return the conventional video set that the scored segments are, None if they are none of them."""
        return next((name for name in self.video_sets if VIDEO_SETS[name].problem(truth) is None), None)


def shortest_gap_clips(protocol: str) -> float:
    """Return how many clips background lasts at least in TSP's ground truth: 1 on THUMOS14, 5 on ActivityNet."""
    return 1.0 if protocol.startswith("thumos14") else 5.0
