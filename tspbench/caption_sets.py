"""The captions of a file, as far as a feature set shows their videos."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from evaluation.captions import Captions
from evaluation.segments import Integers
from tspbench.segment_batches import Floats, Proposals, Segment
from tspbench.storage.captions import CaptionFile
from tspbench.storage.features import FeatureFiles
from tspbench.video_names import known_name


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """Captions with the segments that they are of.

    Attributes:
        captions: of one file, or of some of its videos.
        rows: of the file that ``captions`` are, int64 (N,).
        shown: rows of ``captions`` whose video has features, int64 (n,).
        segments: of each of these rows.
        whole: every video that has features, and a caption, as one segment: its name in ``captions`` → the segment.
        missing: videos without features.
    """

    captions: Captions
    rows: Integers
    shown: Integers
    segments: list[Segment]
    whole: dict[str, Segment]
    missing: list[str]

    @classmethod
    def of(cls, file: CaptionFile, features: FeatureFiles, videos: Collection[str] | None = None) -> Self:
        """Look for the videos of a caption file in a feature set.

        Args:
            file: captions.
            features: the feature set; its names may have the prefix ``v_`` or lack it, whatever those of the file do.
            videos: those of the file that are taken; None: all.

        Raises:
            UserError: the length of a video is not known.
        """
        captions, rows = of_videos(file.captions, file.captions.videos if videos is None else videos)
        there = features.videos
        names = {name: found for name in captions.videos if (found := known_name(name, there)) is not None}
        seconds = {name: features.duration(found, file.durations[name]) for name, found in names.items()}
        shown = [row for row, video in enumerate(captions.video) if captions.videos[video] in names]
        named = [captions.videos[captions.video[row]] for row in shown]
        segments = [
            Segment(names[name], seconds[name], float(captions.start[row]), float(captions.end[row]))
            for row, name in zip(shown, named, strict=True)
        ]
        return cls(
            captions,
            rows,
            np.array(shown, dtype=np.int64),
            segments,
            {name: Segment.whole(names[name], seconds[name]) for name in dict.fromkeys(named)},
            [name for name in captions.videos if name not in names],
        )

    def true_segments(self) -> list[Floats]:
        """Return the segments of each video of ``whole`` that last, (n, 2) in seconds."""
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in self.whole}
        for row, segment in zip(self.shown.tolist(), self.segments, strict=True):
            name = self.captions.videos[self.captions.video[row]]
            if segment.lasts:
                found[name].append((segment.start_seconds, segment.end_seconds))
        return [np.array(segments).reshape(-1, 2) for segments in found.values()]

    def described(self, sentences: Sequence[str]) -> Captions:
        """Return other sentences for the rows ``shown``."""
        rows = self.shown
        return replace(
            self.captions,
            video=self.captions.video[rows],
            start=self.captions.start[rows],
            end=self.captions.end[rows],
            sentences=tuple(sentences),
        )


def as_captions(proposals: Proposals, sentences: Sequence[str]) -> tuple[Captions, Floats]:
    """Return proposals as captions, video by video, and the score of each.

    Args:
        proposals: of N segments in all.
        sentences: N.
    """
    counts = [len(scores) for _, scores in proposals.values()]
    segments = np.concatenate([np.empty((0, 2)), *(segments for segments, _ in proposals.values())])
    scores = np.concatenate([np.empty(0), *(scores for _, scores in proposals.values())])
    captions = Captions(
        videos=tuple(proposals),
        video=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
        start=segments[:, 0].copy(),
        end=segments[:, 1].copy(),
        sentences=tuple(sentences),
    )
    return captions, scores


def of_videos(captions: Captions, videos: Collection[str]) -> tuple[Captions, Integers]:
    """Return the captions of some videos, and which rows they are."""
    wanted = set(videos)
    kept = [number for number, name in enumerate(captions.videos) if name in wanted]
    place = {number: new for new, number in enumerate(kept)}
    rows = np.flatnonzero(np.isin(captions.video, kept))
    some = Captions(
        videos=tuple(captions.videos[number] for number in kept),
        video=np.array([place[number] for number in captions.video[rows].tolist()], dtype=np.int64),
        start=captions.start[rows],
        end=captions.end[rows],
        sentences=tuple(captions.sentences[row] for row in rows),
    )
    return some, rows
