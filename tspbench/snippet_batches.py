"""Whole videos as snippets for LoFi, batch by batch, at the fidelity whose turn it is."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspbench import ranks
from tspbench.clip_batches import BadVideos
from tspbench.clip_reading import CACHE_BYTES
from tspbench.clips import clip_frames_at
from tspbench.encoders.contract import Preprocessing
from tspbench.errors import UserError
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity
from tspbench.storage.video import Frames, Problem, VideoError, VideoInfo, open_video, scan_video, silence_decoders
from tspbench.streaming import CHUNK_BYTES, FRAMES_PER_CHUNK, padded_grid
from tspbench.timeline import Timeline
from tspbench.workers import Pool, is_worker

Batch = tuple[Tensor, list[Tensor], int]  # snippets, segments of each video, videos in the whole batch


@dataclass(frozen=True)
class WholeVideo:
    """A video and what happens in it.

    Args:
        name: as annotated.
        duration_seconds: its length.
        segments_seconds: (N, 2) float64 [start, end) of its actions.
    """

    name: str
    duration_seconds: float
    segments_seconds: NDArray[np.float64]


@dataclass(frozen=True)
class SnippetTask:
    """What is to be read of one video.

    Args:
        video: its name.
        duration_seconds: its length, which the snippets divide evenly.
        fidelity: how many snippets, of how many pixels.
        cut: what the random cut and the mirroring follow from; None: the central cut.
    """

    video: str
    duration_seconds: float
    fidelity: Fidelity
    cut: int | None


class SnippetReader:
    """Reads a video as snippets, decoding it once where all videos fit in memory together.

    Args:
        videos: name → file.
        spec: the encoder's preprocessing at full fidelity.
        cache_bytes: in which decoded videos are kept, if all of them fit; else each is decoded every time.
    """

    def __init__(self, videos: Mapping[str, Path], spec: Preprocessing, cache_bytes: int = CACHE_BYTES) -> None:
        self._videos, self._spec = videos, spec
        self._share = cache_bytes // max(1, len(videos))  # what a video may take if each takes as much
        self._infos: dict[str, VideoInfo] = {}
        self._whole: dict[str, Frames] = {}

    def __call__(self, task: SnippetTask) -> Frames:
        """Return the (L, F, pixels, pixels, 3) uint8 frames of a video's snippets.

        Raises:
            VideoError: the video cannot be read.
        """
        try:
            return self._read(task)
        except UserError:
            raise
        except Exception as error:  # decoders raise what they like; it is about this file
            what = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise VideoError(
                f"{self._videos[task.video]} crashed what decodes it ({what}): download it again.", Problem.CRASHED
            ) from error

    def _read(self, task: SnippetTask) -> Frames:
        if task.video not in self._infos:
            self._infos[task.video] = scan_video(self._videos[task.video])
        info = self._infos[task.video]
        grid = padded_grid(info, self._spec)
        places = snippet_places(task.duration_seconds, task.fidelity.snippets, self._spec, len(grid))
        wanted, back = np.unique(places, return_inverse=True)
        spec = reduced(self._spec, task.fidelity.pixels)
        cut = np.concatenate([_cut(frames, spec, task.cut) for frames in self._frames(info, task.video, grid, wanted)])
        return cut[back.reshape(places.shape)]

    def _frames(
        self, info: VideoInfo, video: str, grid: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> Iterator[Frames]:
        """Yield the frames at ``wanted`` places of the grid, (n, H, W, 3) at a time."""
        step = max(1, min(FRAMES_PER_CHUNK, CHUNK_BYTES // info.frame_bytes))
        pieces = [wanted[first : first + step] for first in range(0, len(wanted), step)]
        if len(grid) * info.frame_bytes > self._share:
            reader = open_video(info)
            for piece in pieces:
                yield reader.read(grid[piece])
            return
        if video not in self._whole:
            self._whole[video] = open_video(info).read(grid)
        for piece in pieces:
            yield self._whole[video][piece]


def snippet_reader(
    videos: Mapping[str, Path], spec: Preprocessing, cache_bytes: int = CACHE_BYTES
) -> Callable[[SnippetTask], Frames]:
    """Return what reads snippets, in a worker or in this process."""
    silence_decoders()
    if is_worker():
        torch.set_num_threads(1)  # the cores belong to the other workers
    return SnippetReader(videos, spec, cache_bytes)


def snippet_places(duration_seconds: float, snippets: int, spec: Preprocessing, grid_length: int) -> NDArray[np.int64]:
    """Return the (L, F) places on a video's frame grid that its snippets show.

    The middle of snippet k is that of step k, ``(k + 0.5) * duration / L``; clips that would begin before the video or
    end after it are moved inside.
    """
    middles = (np.arange(snippets) + 0.5) * (duration_seconds / snippets)
    starts = np.maximum(0.0, middles - spec.clip_seconds / 2)
    return np.stack([clip_frames_at(start, spec.clip_frames, spec.frame_rate, grid_length) for start in starts])


def reduced(spec: Preprocessing, pixels: int) -> Preprocessing:
    """Return an encoder's preprocessing for a cut of so many pixels: frames are resized in the same proportion."""
    height, width = (max(pixels, round(side * pixels / spec.crop)) for side in spec.resize)
    return replace(spec, resize=(height, width), crop=pixels)


class SnippetBatches:
    """The batches of each epoch: snippets (B, L, F, pixels, pixels, 3) uint8 and segments in steps, on a device.

    Args:
        videos: of the training subset, with actions.
        settings: fidelities, and how they take turns.
        batch_size: videos in a batch, over all processes.
        pool: of `snippet_reader`; its workers read the next batch while this one is in use.
        device: where batches are brought.
        seed: of the order of videos and of the random cuts.
        bad: where videos that cannot be read are counted.
    """

    def __init__(
        self,
        videos: Sequence[WholeVideo],
        settings: EndToEndSettings,
        batch_size: int,
        pool: Pool[SnippetTask, Frames],
        *,
        device: torch.device,
        seed: int,
        bad: BadVideos,
    ) -> None:
        self._videos, self._settings, self._batch_size = videos, settings, batch_size
        self._pool, self._device, self._seed, self._bad = pool, device, seed, bad
        self._unreadable: set[int] = set()

    def steps(self) -> int:
        """How many batches an epoch has."""
        return math.ceil(len(self._videos) / self._batch_size)

    def fidelity(self, epoch: int, step: int) -> Fidelity:
        """Return whose turn it is; the short cycle runs on from one epoch into the next (LoFi, section 3.2)."""
        settings = self._settings
        turn = epoch if settings.cycle == "long" else (epoch * self.steps() + step) // settings.cycle_batches
        return settings.fidelities[turn % len(settings.fidelities)]

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the videos of a batch, over all processes."""
        return [self._videos[index].name for _, index in self._drawn(epoch)[step]]

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the epoch's batches from step ``first`` on, see `ranks.share`.

        A video that cannot be read is named, and another of the set is read in its place; which one follows from
        (seed, epoch, place).

        Raises:
            UserError: more videos than allowed cannot be read.
        """
        wholes = list(enumerate(self._drawn(epoch)))[first:]
        own = [(self.fidelity(epoch, step), *drawn) for step, whole in wholes for drawn in ranks.share(whole)]
        tasks = (self._task(epoch, place, index, fidelity) for fidelity, place, index in own)
        answers = zip(self._pool.answers(tasks, ahead=math.ceil(self._batch_size / ranks.count())), own, strict=True)
        for _, whole in wholes:
            read = islice(answers, len(ranks.share(whole)))
            yield self._batch([self._or_another(answer, epoch, *which) for answer, which in read], len(whole))

    def _drawn(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the batches of an epoch as (place in the epoch, number of the video)."""
        order = np.random.default_rng([self._seed, 30, epoch]).permutation(len(self._videos)).tolist()
        drawn = list(enumerate(order))
        return [drawn[first : first + self._batch_size] for first in range(0, len(drawn), self._batch_size)]

    def _task(self, epoch: int, place: int, index: int, fidelity: Fidelity) -> tuple[str, SnippetTask]:
        video = self._videos[index]
        cut = int(np.random.default_rng([self._seed, 31, epoch, place]).integers(2**62))
        return video.name, SnippetTask(video.name, video.duration_seconds, fidelity, cut)

    def _or_another(
        self, answer: Frames | UserError, epoch: int, fidelity: Fidelity, place: int, index: int
    ) -> tuple[int, Frames]:
        """Return what was read and of which video: of another one if the first could not be read."""
        if not isinstance(answer, UserError):
            return index, answer
        self._note(index, answer, epoch, place)
        for other in np.random.default_rng([self._seed, 32, epoch, place]).permutation(len(self._videos)).tolist():
            if other in self._unreadable:
                continue
            (answer,) = self._pool.answers([self._task(epoch, place, other, fidelity)], ahead=1)
            if not isinstance(answer, UserError):
                return other, answer
            self._note(other, answer, epoch, place)
        raise UserError(f"None of {len(self._videos)} training videos can be read; of the last: {answer}")

    def _note(self, index: int, error: UserError, epoch: int, place: int) -> None:
        self._unreadable.add(index)
        self._bad.add(self._videos[index].name, error, "replaced", epoch, place)

    def _batch(self, read: Sequence[tuple[int, Frames]], samples: int) -> Batch:
        frames = torch.from_numpy(np.stack([each for _, each in read]))
        segments = []
        for index, each in read:
            video = self._videos[index]
            steps = Timeline.whole(video.duration_seconds, len(each)).to_steps(video.segments_seconds)
            segments.append(torch.from_numpy(steps).float().to(self._device))
        if self._device.type == "cuda":
            frames = frames.pin_memory()
        return frames.to(self._device, non_blocking=True), segments, samples


def _cut(frames: Frames, spec: Preprocessing, seed: int | None) -> Frames:
    """Return (n, crop, crop, 3) uint8 of (n, H, W, 3): resized, cut, and mirrored every other time if at random."""
    # The same cut in each piece of a video: so its generator begins anew.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    bytes_kept = replace(spec, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    values = bytes_kept.apply(torch.from_numpy(frames), generator).round().to(torch.uint8)
    cut: Frames = values.permute(1, 2, 3, 0).contiguous().numpy()
    return cut
