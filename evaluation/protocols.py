"""PROTOCOLS: thresholds, interpolation, video set and ignored labels per benchmark, with source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

import numpy as np

from evaluation.segments import GroundTruth, Predictions
from evaluation.video_sets import EVERY_VIDEO, VIDEO_SETS, VideoSet

Ties = Literal["fixed", "file"]
TIE_RULES: Final[dict[Ties, str]] = {"fixed": "score,video,start,end,label", "file": "file"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What the protocols of all tasks have in common.

    Attributes:
        name: the key of this row in ``PROTOCOLS[task]``.
        thresholds: temporal IoU, rising, in (0, 1].
        video_set: which videos of the ground truth count.
        source: where the rules are laid down.

    Raises:
        ValueError: there is no threshold, or they do not rise within (0, 1].
    """

    name: str
    thresholds: tuple[float, ...]
    video_set: VideoSet = EVERY_VIDEO
    source: str

    def __post_init__(self) -> None:
        bounds = (0.0, *self.thresholds)
        rising = all(low < high for low, high in zip(bounds, self.thresholds, strict=False))
        if not self.thresholds or not rising or self.thresholds[-1] > 1.0:
            raise ValueError(f"thresholds must rise within (0, 1], received {self.thresholds}.")

    def rules(self) -> tuple[str, ...]:
        """Return the rules as fields of a signature."""
        return (f"protocol:{self.name}", "tIoU:" + ",".join(f"{threshold:.2f}" for threshold in self.thresholds))


@dataclass(frozen=True, kw_only=True)
class SegmentProtocol(Protocol):
    """What the protocols of detection and of proposals have in common.

    Attributes:
        ties: the order of equal scores: the fixed one of ``evaluation.matching``, or by "file" as in
            ``evaluation.file_order``.
        ignored_label: the label of annotated segments that are not to be found, such as THUMOS14's "Ambiguous".
    """

    ties: Ties = "fixed"
    ignored_label: str | None = None

    def rules(self) -> tuple[str, ...]:
        """Return the rules as fields of a signature."""
        return (*super().rules(), f"ties:{TIE_RULES[self.ties]}")

    def scoped(self, ground_truth: GroundTruth) -> GroundTruth:
        """Return ``ground_truth`` without excluded videos and ignored segments."""
        kept = self.video_set.of_ground_truth(ground_truth)
        if self.ignored_label not in kept.labels:
            return kept
        return kept.where(kept.label != kept.labels.index(self.ignored_label))

    def ignored(self, ground_truth: GroundTruth) -> GroundTruth:
        """Return the ignored segments alone, of the videos that are not excluded."""
        kept = self.video_set.of_ground_truth(ground_truth)
        ignored = kept.labels.index(self.ignored_label) if self.ignored_label in kept.labels else len(kept.labels)
        return kept.where(kept.label == ignored)

    def scoped_predictions(self, predictions: Predictions) -> Predictions:
        """Return ``predictions`` without those for excluded videos."""
        return self.video_set.of_predictions(predictions)


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol(SegmentProtocol):
    """How a benchmark counts a detection as right and turns the counts into an average precision.

    Attributes:
        matching: "detection" lets each detection, the most certain first, take the free segment with the highest
            temporal IoU of at least the threshold; "segment" lets each segment take the free detection with the
            highest temporal IoU above the threshold, and forgives detections on ignored segments.
        interpolation: "all-point" is the area under the precision envelope, as in PASCAL VOC since 2010; "11-point"
            the mean of the envelope at the recalls 0, 0.1, …, 1, as before.
    """

    matching: Literal["detection", "segment"] = "detection"
    interpolation: Literal["all-point", "11-point"] = "all-point"

    def rules(self) -> tuple[str, ...]:
        """Return the rules as fields of a signature."""
        return (*super().rules(), f"matching:{self.matching}", f"AP:{self.interpolation}")


@dataclass(frozen=True, kw_only=True)
class ProposalProtocol(SegmentProtocol):
    """How a benchmark averages the recall of class-agnostic proposals.

    Attributes:
        budget: highest average number of proposals a video (AN); the curve has 100 points up to it.
        shown: the AN whose average recall is reported by name; each is one of the 100 points.
    """

    budget: int
    shown: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 1 or any(100 * number % self.budget or number > self.budget for number in self.shown):
            raise ValueError(f"shown must be among the 100 points up to {self.budget}, received {self.shown}.")

    def rules(self) -> tuple[str, ...]:
        """Return the rules as fields of a signature."""
        return (*super().rules(), f"AN:{self.budget}")


@dataclass(frozen=True, kw_only=True)
class CaptioningProtocol(Protocol):
    """How a benchmark pairs captions with references.

    Attributes:
        garbage: what a caption that overlaps no reference is compared with: the "fixed" string of the 2018 toolkit,
            or 10 to 20 "random" letters, as since 2019, drawn from a hash of video and sentence.
        references: "pooled" pairs a caption with the references of all files, "averaged" scores against each file
            alone and averages.
        max_captions: how many captions of a video count, in the order of the file.
    """

    garbage: Literal["random", "fixed"] = "random"
    references: Literal["pooled", "averaged"] = "pooled"
    max_captions: int = 1000

    def rules(self) -> tuple[str, ...]:
        """Return the rules as fields of a signature."""
        fields = (f"garbage:{self.garbage}", f"references:{self.references}", f"captions:{self.max_captions}")
        return (*super().rules(), *fields, "tokens:PTB-3.4.1", "METEOR:1.5")


# Not ten decimal literals: the official evaluator calls linspace, whose 0.9 is one bit below the literal.
_ACTIVITYNET: Final = tuple(np.linspace(0.5, 0.95, 10).tolist())
_THUMOS14: Final = tuple(np.linspace(0.3, 0.7, 5).tolist())
_FILE_ORDER: Final = (
    ", but equal scores as the official evaluator leaves them (NumPy's plain quicksort of the file's rows): for "
    "published files with ties; another order of the file gives another score."
)
_GARBAGE_2018: Final = (
    ", with the fixed garbage string of the toolkit before 2019-06-11 (METEOR2018 in PDVC's table): lower METEOR."
)

_DETECTION_ACTIVITYNET: Final = DetectionProtocol(
    name="activitynet",
    thresholds=_ACTIVITYNET,
    source="ActivityNet challenge, Evaluation/eval_detection.py: tIoU 0.5:0.05:0.95.",
)
_DETECTION_THUMOS14: Final = DetectionProtocol(
    name="thumos14",
    thresholds=_THUMOS14,
    ignored_label="Ambiguous",
    source=(
        "The ActivityNet evaluator at tIoU 0.3:0.1:0.7, as the code of G-TAD, P-GCN and ActionFormer scores THUMOS14: "
        "Ambiguous segments are left out, so that detections there are wrong; not interchangeable with "
        "thumos14-official."
    ),
)
_PROPOSALS_ACTIVITYNET: Final = ProposalProtocol(
    name="activitynet",
    thresholds=_ACTIVITYNET,
    budget=100,
    shown=(1, 10, 100),
    source="ActivityNet challenge, Evaluation/eval_proposal.py: tIoU 0.5:0.05:0.95, 100 proposals a video on average.",
)
_PROPOSALS_THUMOS14: Final = ProposalProtocol(
    name="thumos14",
    thresholds=tuple(np.linspace(0.5, 1.0, 11).tolist()),
    ignored_label="Ambiguous",
    budget=1000,
    shown=(50, 100, 200, 500, 1000),
    source="BMN (Lin et al., 2019), THUMOS14: eval_proposal.py at tIoU 0.5:0.05:1.0, 1000 proposals a video.",
)
_CAPTIONS: Final = CaptioningProtocol(
    name="densevid",
    thresholds=(0.3, 0.5, 0.7, 0.9),
    source=(
        "ActivityNet Captions, densevid_eval evaluate.py since 2019-06-11 (METEOR2021 in PDVC's table): tIoU 0.3, "
        "0.5, 0.7, 0.9, reference files pooled, random garbage."
    ),
)


_AVERAGED: Final = replace(
    _CAPTIONS,
    name="densevid-averaged",
    references="averaged",
    source="As densevid, against each reference file alone and averaged, as BMT scores ground-truth proposals.",
)

Row = TypeVar("Row", bound=SegmentProtocol)


def _with_video_sets(protocol: Row, *names: str) -> dict[str, Row]:
    """Return ``protocol`` on conventional video sets, by their names."""
    return {
        name: replace(
            protocol, name=name, video_set=VIDEO_SETS[name], source=f"As {protocol.name}, {VIDEO_SETS[name].source}"
        )
        for name in names
    }


DETECTION_PROTOCOLS: Final[dict[str, DetectionProtocol]] = {
    "activitynet": _DETECTION_ACTIVITYNET,
    "activitynet-file-order": replace(
        _DETECTION_ACTIVITYNET, name="activitynet-file-order", ties="file", source=f"As activitynet{_FILE_ORDER}"
    ),
    **_with_video_sets(_DETECTION_ACTIVITYNET, "activitynet-4926", "activitynet-4895", "activitynet-4728"),
    "thumos14": _DETECTION_THUMOS14,
    **_with_video_sets(_DETECTION_THUMOS14, "thumos14-212", "thumos14-211", "thumos14-210"),
    "thumos14-official": DetectionProtocol(
        name="thumos14-official",
        thresholds=tuple(np.linspace(0.1, 0.5, 5).tolist()),
        ignored_label="Ambiguous",
        matching="segment",
        interpolation="11-point",
        source=(
            "THUMOS Challenge 2014, TH14eventdetpr.m: tIoU above 0.1:0.1:0.5, 11-point AP, detections on Ambiguous "
            "segments forgiven; not interchangeable with thumos14."
        ),
    ),
}

PROPOSAL_PROTOCOLS: Final[dict[str, ProposalProtocol]] = {
    "activitynet": _PROPOSALS_ACTIVITYNET,
    "activitynet-file-order": replace(
        _PROPOSALS_ACTIVITYNET, name="activitynet-file-order", ties="file", source=f"As activitynet{_FILE_ORDER}"
    ),
    **_with_video_sets(_PROPOSALS_ACTIVITYNET, "activitynet-4926", "activitynet-4895", "activitynet-4728"),
    "thumos14": _PROPOSALS_THUMOS14,
    **_with_video_sets(_PROPOSALS_THUMOS14, "thumos14-212", "thumos14-211", "thumos14-210"),
}

CAPTIONING_PROTOCOLS: Final[dict[str, CaptioningProtocol]] = {
    "densevid": _CAPTIONS,
    "densevid-averaged": _AVERAGED,
    "densevid-2018": replace(_CAPTIONS, name="densevid-2018", garbage="fixed", source=f"As densevid{_GARBAGE_2018}"),
    "densevid-averaged-2018": replace(
        _AVERAGED, name="densevid-averaged-2018", garbage="fixed", source=f"As densevid-averaged{_GARBAGE_2018}"
    ),
}

PROTOCOLS: Final[Mapping[str, Mapping[str, Protocol]]] = {
    "tal": DETECTION_PROTOCOLS,
    "proposals": PROPOSAL_PROTOCOLS,
    "captioning": CAPTIONING_PROTOCOLS,
}
