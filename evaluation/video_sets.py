"""VIDEO_SETS: the conventional parts of the benchmarks, by name."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.segments import GroundTruth, Predictions


@dataclass(frozen=True)
class VideoSet:
    """Which videos of a ground truth count.

    Attributes:
        name: the key of this row in ``VIDEO_SETS``.
        source: who scores on it.
        excluded: videos that are left out of ground truth and predictions.
        videos: how many videos with a segment there must then be; None: any number.
        segments: how many segments there must then be; None: any number.
    """

    name: str
    source: str
    excluded: tuple[str, ...] = ()
    videos: int | None = None
    segments: int | None = None

    def of_ground_truth(self, ground_truth: GroundTruth) -> GroundTruth:
        """Return ``ground_truth`` without the excluded videos."""
        if set(self.excluded).isdisjoint(ground_truth.videos):
            return ground_truth
        kept = [name for name in ground_truth.videos if name not in self.excluded]
        return ground_truth.of_videos(kept)

    def of_predictions(self, predictions: Predictions) -> Predictions:
        """Return ``predictions`` without those for excluded videos."""
        if set(self.excluded).isdisjoint(predictions.videos):
            return predictions
        excluded = np.isin(np.array(predictions.videos, dtype=object), self.excluded)
        return predictions.where(~excluded[predictions.video])

    def problem(self, ground_truth: GroundTruth) -> str | None:
        """Say how many videos and segments were expected and found, or None if it is this set."""
        scored = self.of_ground_truth(ground_truth)
        videos, segments = len(np.unique(scored.video)), len(scored)
        if self.videos in {None, videos} and self.segments in {None, segments}:
            return None
        expected = f"{self.videos:,} videos" + ("" if self.segments is None else f" with {self.segments:,} segments")
        return f"expected the {expected} of {self.name}, found {videos:,} with {segments:,}"


EVERY_VIDEO: Final = VideoSet("all", "every video of the ground truth.")

VIDEO_SETS: dict[str, VideoSet] = {
    "activitynet-4926": VideoSet("activitynet-4926", "on the full validation set, as TSP.", videos=4926, segments=7654),
    "activitynet-4895": VideoSet(
        "activitynet-4895", "without the 31 validation videos that ETAD's blocked.json names.", videos=4895
    ),
    "activitynet-4728": VideoSet(
        "activitynet-4728", "on the videos of the BMN, G-TAD and OpenTAD convention.", videos=4728, segments=7293
    ),
    "thumos14-212": VideoSet(
        "thumos14-212",
        "on every test video with an action, as DETAD and TSP.",
        excluded=("video_test_0001292",),
        videos=212,
        segments=3358,
    ),
    "thumos14-211": VideoSet(
        "thumos14-211",
        "without video_test_0000270, whose annotations lie beyond its end, as OpenTAD.",
        excluded=("video_test_0000270", "video_test_0001292"),
        videos=211,
        segments=3329,
    ),
    "thumos14-210": VideoSet(
        "thumos14-210",
        "without video_test_0000270 and video_test_0001496, as G-TAD's thumos_gt.json.",
        excluded=("video_test_0000270", "video_test_0001292", "video_test_0001496"),
        videos=210,
        segments=3311,
    ),
}
