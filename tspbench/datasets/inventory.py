"""What of a data set is there: kept, dropped and missing videos of each split, beside what is expected."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.datasets import BENCHMARKS, Dataset
from tspbench.storage.annotations import VideoAnnotations
from tspbench.video_names import known_name

NAMED: Final = 3  # missing videos that are named


@dataclass(frozen=True)
class SplitInventory:
    """One split of a data set, compared with what is there of it.

    Attributes:
        role: "training" or "validation".
        subset: its name in the annotations.
        annotated: how many videos the annotations have.
        segments: how many actions these have, without what the protocol ignores.
        expected: how many videos the benchmark has; None for one's own.
        video_set: the conventional part of the benchmark that it is, if it is one.
        missing: annotated videos that are not there.
        what: what is looked for: "features" or "videos".
    """

    role: str
    subset: str
    annotated: int
    segments: int
    expected: int | None
    video_set: str | None
    missing: tuple[str, ...]
    what: str

    @property
    def kept(self) -> int:
        """How many annotated videos are there."""
        return self.annotated - len(self.missing)

    def told(self) -> str:
        """Return the inventory as a sentence."""
        of = "" if self.expected in (None, self.annotated) else f" of {self.expected:,} expected"
        convention = f", the video set {self.video_set}" if self.video_set else ""
        absent = ", ".join(self.missing[:NAMED]) + (", ..." if len(self.missing) > NAMED else "")
        missing = f", {len(self.missing):,} missing ({absent})" if self.missing else ", none missing"
        return (
            f"{self.role} ({self.subset}): {self.annotated:,} annotated videos{of} with {self.segments:,} actions"
            f"{convention}; {self.what} of {self.kept:,}{missing}."
        )


def inventory(dataset: Dataset, there: Collection[str], what: str) -> list[SplitInventory]:
    """Compare every split of a data set with what is there of it.

    Args:
        dataset: with annotations.
        there: names of videos that are there, with or without the ``v_`` of ActivityNet's files.
        what: what there is of them: "features" or "videos".

    Raises:
        UserError: the annotations do not fit their format, or lack a split.
    """
    annotations = dataset.read()
    benchmark = BENCHMARKS.get(dataset.card.benchmark or "")
    found = []
    for role in dataset.card.splits:
        videos = annotations.subset(dataset.subset(role))
        split = benchmark.splits.get(role) if benchmark else None
        video_set = None
        if benchmark and role == "validation":
            truth = DETECTION_PROTOCOLS[dataset.protocol].scoped(annotations.ground_truth(dataset.subset(role)))
            video_set = benchmark.recognised(truth)
        found.append(
            SplitInventory(
                role,
                dataset.subset(role),
                len(videos),
                _actions(videos, dataset.protocol),
                split.videos if split else None,
                video_set,
                tuple(video.name for video in videos if known_name(video.name, there) is None),
                what,
            )
        )
    return found


def dropped(dataset: Dataset, there: Collection[str]) -> list[str]:
    """Return the names of what is there and in no split of the data set: it is not looked at."""
    annotated = {video.name for video in dataset.read().videos}
    return sorted(name for name in there if known_name(name, annotated) is None)


def _actions(videos: list[VideoAnnotations], protocol: str) -> int:
    ignored = DETECTION_PROTOCOLS[protocol].ignored_label
    return sum(label != ignored for video in videos for label in video.labels)
