"""Clips with labels for encoders, epoch by epoch, whatever becomes of single videos."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspbench import ranks, watch
from tspbench.clip_reading import PreparedClip
from tspbench.clips import Clip, segment_clip_starts
from tspbench.errors import UserError
from tspbench.preprocessing import Preprocessing
from tspbench.pretraining.contract import ClipLabels
from tspbench.pretraining.segments import LabelledSegment, Sampling, epoch_segments
from tspbench.progress import say
from tspbench.workers import Pool

# Clips that are read before they are needed: those of so many batches, unless they take more memory than that.
BATCHES_AHEAD: Final = 4
BYTES_AHEAD: Final = 1 << 29
NAMED: Final = 3  # bad videos that an error names

Place = tuple[int, int]  # place in the epoch, segment
Batch = tuple[Tensor, ClipLabels, int]


class BadVideos:
    """The videos of which a clip could not be read in this run: each is named once, and there may be only so many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reasons: dict[str, str] = {}
        self._clips: dict[str, set[tuple[str, int, int]]] = {}

    def add(self, video: str, reason: UserError, kind: str, epoch: int, place: int) -> None:
        """Count a clip.

        Args:
            video: whose it is.
            reason: why it could not be read.
            kind: what becomes of it, "replaced" or "left out".
            epoch: in which it was wanted.
            place: in the epoch; a clip that several processes wanted counts once.

        Raises:
            UserError: there are more bad videos than allowed.
        """
        if video not in self._reasons:
            say(f"A clip of {video} is {kind}: {reason}", own=True)
        self.merge({video: (str(reason), [(kind, epoch, place)])})

    def data(self) -> dict[str, tuple[str, list[tuple[str, int, int]]]]:
        """Return video → its reason and its clips as (kind, epoch, place)."""
        return {video: (reason, sorted(self._clips[video])) for video, reason in self._reasons.items()}

    def merge(self, data: Mapping[str, tuple[str, Sequence[tuple[str, int, int]]]]) -> None:
        """Count what `data` has told, of another process or of this training before it was interrupted.

        Raises:
            UserError: there are more bad videos than allowed.
        """
        for video, (reason, clips) in data.items():
            self._reasons.setdefault(video, reason)
            self._clips.setdefault(video, set()).update((kind, epoch, place) for kind, epoch, place in clips)
        if len(self._reasons) > self._limit:
            raise UserError(
                f"{len(self._reasons)} videos cannot be read (first {', '.join([*self._reasons][:NAMED])}), more than "
                f"bad_videos = {self._limit} allows: set bad_videos higher, and the same command goes on from here; or "
                "let `tspbench data scan` quarantine them, and it begins anew without them."
            )

    def figures(self) -> dict[str, dict[str, object]]:
        """Return for the record, of all processes: video → its reason and how many clips were replaced or left out."""
        for each in ranks.everybodys(self.data()):
            self.merge(each)
        told: dict[str, dict[str, object]] = {}
        for video, (reason, clips) in self.data().items():
            kinds = [kind for kind, _, _ in clips]
            counts = {"replaced_clips": kinds.count("replaced"), "left_out_clips": kinds.count("left out")}
            told[video] = {"reason": reason, **counts}
        return dict(sorted(told.items()))


@dataclass(frozen=True)
class ClipDraws:
    """Which clips an epoch has: each follows from (seed, epoch, place) alone, whoever reads it.

    Args:
        segments: where clips are drawn from.
        clip_seconds: length of a clip.
        clips_per_segment: see `epoch_segments`; as many of each in validation.
        sampling: see `epoch_segments`.
        seed: of the draws.
    """

    segments: Sequence[LabelledSegment]
    clip_seconds: float
    clips_per_segment: int
    sampling: Sampling
    seed: int

    def training(self, epoch: int) -> list[Place]:
        """Return an epoch's (place, segment) in order."""
        rng = np.random.default_rng([self.seed, 11, epoch])
        return list(enumerate(epoch_segments(self.segments, self.clips_per_segment, self.sampling, rng).tolist()))

    def validation(self) -> list[Place]:
        """Return (place, segment) of all validation clips in order."""
        return list(enumerate(np.repeat(np.arange(len(self.segments)), self.clips_per_segment).tolist()))

    def drawn(self, epoch: int, place: int, segment: int, attempt: int = 0) -> Clip:
        """Return the clip at a place of an epoch, uniform in its segment, cut out and mirrored at random.

        Args:
            epoch: from 0.
            place: in the epoch.
            segment: number of the segment.
            attempt: 0; n for the n-th that stands in for one that could not be read.
        """
        rng = np.random.default_rng([self.seed, 10, epoch, place, *([attempt] if attempt else [])])
        chosen = self.segments[segment]
        start = float(segment_clip_starts(chosen.start, chosen.end, 1, self.clip_seconds, rng)[0])
        return Clip(chosen.video, start, int(rng.integers(2**62)))

    def spaced(self, place: int, segment: int) -> Clip:
        """Return a validation clip: evenly spaced in its segment, the central cut."""
        chosen, clips = self.segments[segment], self.clips_per_segment
        starts = segment_clip_starts(chosen.start, chosen.end, clips, self.clip_seconds, None)
        return Clip(chosen.video, float(starts[place % clips]), None)

    def other(self, epoch: int, place: int, segment: int, tried: Sequence[str]) -> int | None:
        """Choose a segment to stand in for one that cannot be read: of the same label, or else any.

        Args:
            epoch: from 0.
            place: in the epoch.
            segment: that was drawn first.
            tried: videos that could not be read.

        Returns:
            Its number; None when there is no other video.
        """
        there = [number for number, each in enumerate(self.segments) if each.video not in tried]
        alike = [number for number in there if self.segments[number].action == self.segments[segment].action]
        rng = np.random.default_rng([self.seed, 12, epoch, place, len(tried)])
        return int(rng.choice(alike or there)) if there else None


def clips_ahead(spec: Preprocessing, batch_size: int, workers: int) -> int:
    """Return how many clips are read before they are asked for: as many as keep all workers and no memory too busy.

    Args:
        spec: what a clip is.
        batch_size: of this process.
        workers: of this process.
    """
    clip_bytes = 4 * 3 * spec.clip_frames * spec.crop**2
    return max(2 * workers, min(BATCHES_AHEAD * batch_size, BYTES_AHEAD // clip_bytes))


@dataclass(frozen=True)
class ClipBatches:
    """Batches (clips (B, 3, F, crop, crop) float32, `ClipLabels`, samples), on a device.

    Args:
        draws: which clips.
        gvf: video → (D,) global feature; None where no method asks.
        pool: of `clip_reader`.
        ahead: clips that the pool begins before they are asked for, see `clips_ahead`.
        batch_size: clips in a batch, over all processes.
        device: where batches are brought.
        bad: where clips that cannot be read are counted.
    """

    draws: ClipDraws
    gvf: Mapping[str, NDArray[np.float32]] | None
    pool: Pool[Clip, PreparedClip]
    ahead: int
    batch_size: int
    device: torch.device
    bad: BadVideos

    def steps(self) -> int:
        """How many batches a training epoch has."""
        return math.ceil(len(self.draws.training(0)) / self.batch_size)

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the videos of a batch, over all processes, as they were drawn."""
        places = self.draws.training(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        return [self.draws.segments[segment].video for _, segment in places]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the training batches of an epoch (from 0), see `ranks.share`.

        A clip that cannot be read is counted, and another stands in for it: one of another video, of the same label
        where there is one; which one follows from (seed, epoch, place) and from what could not be read.

        Args:
            epoch: from 0.
            first_step: where to begin; what lies before is not read.

        Raises:
            UserError: more videos than allowed cannot be read, or none can.
        """
        wholes = _parts(self.draws.training(epoch), self.batch_size)[first_step:]
        shares = [ranks.share(whole) for whole in wholes]
        clips = (self.draws.drawn(epoch, place, segment) for share in shares for place, segment in share)
        with closing(self._read(clips)) as answers:
            for whole, share in zip(wholes, shares, strict=True):
                read = [self._settled(next(answers), epoch, place, segment) for place, segment in share]
                yield self._batch(read, len(whole))

    def validation(self) -> Iterator[Batch]:
        """Yield this process's part of the validation clips, none of which another process has; its size as samples.

        A clip that cannot be read is counted and left out.

        Raises:
            UserError: more videos than allowed cannot be read.
        """
        places, number, count = self.draws.validation(), ranks.number(), ranks.count()
        own = places[len(places) * number // count : len(places) * (number + 1) // count]
        with closing(self._read(self.draws.spaced(place, segment) for place, segment in own)) as answers:
            for part in _parts(own, math.ceil(self.batch_size / count)):
                read = []
                for place, segment in part:
                    answer = next(answers)
                    if isinstance(answer, UserError):
                        self.bad.add(self.draws.segments[segment].video, answer, "left out", 0, place)
                    else:
                        read.append((segment, answer))
                if read:
                    yield self._batch(read, len(read))

    def _read(self, clips: Iterator[Clip]) -> Generator[PreparedClip | UserError, None, None]:
        told, asked = tee(clips)
        with closing(self.pool.answers(((clip.video, clip) for clip in asked), self.ahead)) as answers:
            for clip in told:
                watch.working_on(f"clips of {clip.video}")
                yield next(answers)

    def _settled(
        self, answer: PreparedClip | UserError, epoch: int, place: int, segment: int
    ) -> tuple[int, PreparedClip]:
        """Return what was read and of which segment: of another one if that could not be read."""
        chosen, tried = segment, list[str]()
        while isinstance(answer, UserError):
            tried.append(self.draws.segments[chosen].video)
            self.bad.add(tried[-1], answer, "replaced", epoch, place)
            other = self.draws.other(epoch, place, segment, tried)
            if other is None:
                raise UserError(f"None of {len(tried)} training videos can be read; of the last: {answer}")
            chosen, clip = other, self.draws.drawn(epoch, place, other, len(tried))
            (answer,) = self.pool.answers([(clip.video, clip)], 1)
        return chosen, answer

    def _batch(self, read: Sequence[tuple[int, PreparedClip]], samples: int) -> Batch:
        pinned = self.device.type == "cuda"
        clips = torch.empty((len(read), *read[0][1].shape), pin_memory=pinned)
        for place, (_, clip) in enumerate(read):
            clips[place] = torch.from_numpy(clip)
        segments = [self.draws.segments[segment] for segment, _ in read]
        labels = ClipLabels(
            torch.tensor([segment.action for segment in segments]),
            torch.tensor([segment.region for segment in segments]),
            None if self.gvf is None else torch.from_numpy(np.stack([self.gvf[each.video] for each in segments])),
        )
        return clips.to(self.device, non_blocking=True), labels.to(self.device), samples


def _parts(places: Sequence[Place], size: int) -> list[Sequence[Place]]:
    return [places[first : first + size] for first in range(0, len(places), size)]
