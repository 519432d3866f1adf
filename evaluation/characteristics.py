"""Coverage, length and number of instances of annotated segments, in the buckets of DETAD.

The coverage of a segment is its length over the duration of its video; its instances are counted among all segments in
scope, before any is left out. A bucket holds its upper bound and not its lower one; the first holds both.

Decided here:

- a video of unknown duration, nan, leaves its segments without coverage: they are in no bucket;
- a duration of 0 makes every coverage infinite;
- a coverage above 1 is in no bucket either.
"""

import itertools
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from evaluation.protocols import Protocol
from evaluation.segments import Floats, GroundTruth, Integers

CharacteristicName = Literal["coverage", "length", "instances"]
NO_BUCKET: Final = -1


@dataclass(frozen=True)
class Characteristic:
    """A property of annotated segments, cut into B buckets.

    Attributes:
        name: what is measured: coverage as a fraction, length in seconds, or a number of instances.
        bounds: of the buckets, rising, length B + 1.
        buckets: their names, length B.
    """

    name: CharacteristicName
    bounds: tuple[float, ...]
    buckets: tuple[str, ...]

    def bucket_of(self, values: Floats) -> Integers:
        """Return the bucket of each value, -1 where there is none, int64 (N,)."""
        bounds = np.array(self.bounds)
        bucket = np.searchsorted(bounds[1:-1], values, side="left")
        return np.where((values >= bounds[0]) & (values <= bounds[-1]), bucket, NO_BUCKET)

    def ranges(self) -> tuple[str, ...]:
        """Return the range of each bucket as text: "(30, 60]", or "2 to 4" for numbers of instances."""
        pairs = list(itertools.pairwise(self.bounds))
        if self.name == "instances":
            texts = ["1" if high == 1.0 else f"{low + 1:g} to {high:g}" for low, high in pairs]
        else:
            texts = [f"({low:g}, {high:g}]" for low, high in pairs]
            texts[0] = f"[{texts[0][1:]}"
        return tuple(
            f"above {low:g}" if np.isinf(high) else text for text, (low, high) in zip(texts, pairs, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class DiagnosisRules:
    """How DETAD diagnoses detections on one benchmark.

    Attributes:
        thresholds: temporal IoU, rising, in (0, 1].
        instances_of: whether the instances of a segment are those of its class in its video, or of any class.
        characteristics: what the segments are told apart by.
        source: where the rules are laid down.
    """

    thresholds: tuple[float, ...]
    instances_of: Literal["class", "video"]
    characteristics: tuple[Characteristic, ...]
    source: str


_FIVE: Final = ("XS", "S", "M", "L", "XL")
_FOUR: Final = ("XS", "S", "M", "L")

# Benchmark → rules; the protocol "thumos14-212" is one of the benchmark "thumos14".
DIAGNOSIS_RULES: Final[dict[str, DiagnosisRules]] = {
    "activitynet": DiagnosisRules(
        thresholds=tuple(np.linspace(0.5, 0.95, 10).tolist()),
        instances_of="class",
        characteristics=(
            # Not decimal literals: DETAD calls linspace, whose 0.6 is one bit above the literal.
            Characteristic("coverage", tuple(np.linspace(0.0, 1.0, 6).tolist()), _FIVE),
            Characteristic("length", (0.0, 30.0, 60.0, 120.0, 180.0, np.inf), _FIVE),
            Characteristic("instances", (0.0, 1.0, 4.0, 8.0, np.inf), _FOUR),
        ),
        source="DETAD (Alwassel et al., ECCV 2018), src/*_analysis.py, validation subset of ActivityNet.",
    ),
    "thumos14": DiagnosisRules(
        thresholds=(0.5,),
        instances_of="video",
        characteristics=(
            Characteristic("coverage", (0.0, 0.02, 0.04, 0.06, 0.08, 1.0), _FIVE),
            Characteristic("length", (0.0, 3.0, 6.0, 12.0, 18.0, np.inf), _FIVE),
            Characteristic("instances", (0.0, 1.0, 40.0, 80.0, np.inf), _FOUR),
        ),
        source=(
            "DETAD (Alwassel et al., ECCV 2018), src/*_analysis.py with --is_thumos14; instances as its file "
            "thumos14_test_extra_characteristics.json counts them, whatever their class."
        ),
    ),
}


def rules_of(protocol: Protocol) -> DiagnosisRules:
    """Return the rules of a protocol's benchmark, which is its name up to the first hyphen.

    Raises:
        ValueError: there are none.
    """
    rules = DIAGNOSIS_RULES.get(protocol.name.partition("-")[0])
    if rules is None:
        raise ValueError(f"DETAD has rules for {', '.join(DIAGNOSIS_RULES)}, received the protocol {protocol.name!r}.")
    return rules


def measure(ground_truth: GroundTruth, durations: Floats, rules: DiagnosisRules) -> dict[CharacteristicName, Floats]:
    """Return each characteristic of every segment.

    Args:
        ground_truth: M segments in scope, in V videos.
        durations: seconds of each video, nan where unknown, float64 (V,).
        rules: say which instances count.

    Returns:
        Characteristic → float64 (M,); a coverage is nan where the duration is.
    """
    length = ground_truth.end - ground_truth.start
    # A segment of length 0 in a video of length 0 is 0 / 0; it is left out for its length.
    with np.errstate(divide="ignore", invalid="ignore"):
        coverage = length / durations[ground_truth.video]
    group = ground_truth.video
    if rules.instances_of == "class":
        group = group * len(ground_truth.labels) + ground_truth.label
    _, place, count = np.unique(group, return_inverse=True, return_counts=True)
    return {"coverage": coverage, "length": length, "instances": count[place].astype(np.float64)}
