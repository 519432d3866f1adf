"""Features of whole videos for localizers: rescaled, in windows, or padded, in memory or streamed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from baselines.contract import FeatureBatch
from tspbench.config import Settings
from tspbench.errors import UserError
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, Rows
from tspbench.timeline import Timeline, interpolated

MEMORY_BYTES: Final = 2 << 30  # a set's prepared features are kept in memory as far as they fit in so many bytes

# Features, mask, all segments, all labels, segments of each view: few tensors, because each one that a worker hands
# over costs an open file.
Packed = tuple[Tensor, Tensor, Tensor, Tensor, list[int]]


class TimeSettings(Settings):
    """How the time of whole videos is brought to a localizer.

    Args:
        mode: "rescale": every video to the localizer's steps, whatever its length (TSP's authors, ActivityNet);
            "windows": stretches of the localizer's steps, one overlapping the next (G-TAD and BMN, THUMOS14);
            "padded": each video at its own length, padded and masked (ActionFormer).
        step_seconds: length of a step in windows and padded; None: each row of the feature file is a step.
        window_stride: steps from the start of one window to the next; None: half a window.
        inside: a training window is kept if some segment has more than this share of its length inside
            (G-TAD on THUMOS14: 0.9).
    """

    mode: Literal["rescale", "windows", "padded"] = "rescale"
    step_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    window_stride: int | None = Field(None, ge=1)
    inside: float = Field(0.9, ge=0, lt=1)

    @model_validator(mode="after")
    def _without_idle_settings(self) -> Self:
        idle = {"rescale": ("step_seconds", "window_stride", "inside"), "windows": (), "padded": ("window_stride",)}
        for name in idle[self.mode]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'{name} means nothing in mode "{self.mode}": leave it out or choose another mode')
        return self


@dataclass(frozen=True)
class View:
    """What a localizer sees at once: a video or a window of it.

    Attributes:
        video: index of the video.
        offset: the view's first step, counted in the whole video's steps.
        timeline: of the view; its steps are those that the mask lets through, the rest of a batch is padding.
    """

    video: int
    offset: int
    timeline: Timeline


class FeatureViews:
    """All views of a list of videos. Picklable: another process opens the feature files by itself.

    In training, windows without a segment worth learning are left out, see `TimeSettings`, and padded videos longer
    than ``steps`` are cut into windows; in prediction the views cover every step of every video. A video shorter than
    a window is continued with its last row. When the prepared features of all videos fit ``memory_bytes``, each is
    prepared once and kept; else every view is read from the files when it is asked for. Both give the same bits.

    Args:
        files: the feature set.
        videos: annotated videos, all of which have features.
        labels: class names in the order of their indices.
        steps: T of the localizer: the length of a rescaled video, of a window, and of a padded training batch.
        time: see `TimeSettings`.
        training: whether the views are for training or for prediction.
        memory_bytes: see above.

    Attributes:
        names: the videos' names.
        durations: the videos' lengths in seconds.
        timelines: of each whole video; step k of a view is step offset + k of its video.
        views: see `View`; of each video in turn, from its start to its end.
        in_memory: whether features are kept in memory.

    Raises:
        UserError: a length that nobody states, a stride longer than a window, or no window to train on.
    """

    def __init__(
        self,
        files: FeatureFiles,
        videos: Sequence[VideoAnnotations],
        labels: Sequence[str],
        steps: int,
        time: TimeSettings,
        *,
        training: bool,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        if time.window_stride is not None and time.window_stride > steps:
            raise UserError(
                f"time.window_stride: expected at most the {steps} steps of a window, found {time.window_stride}, "
                "which would leave steps between windows unseen: choose a shorter stride or longer windows."
            )
        self._files, self._steps, self._time, self._training = files, steps, time, training
        self.names = [video.name for video in videos]
        self.durations = [files.duration(video.name, video.duration_seconds) for video in videos]
        self.timelines = [self._timeline(k) for k in range(len(videos))]
        index = {label: k for k, label in enumerate(labels)}
        self._labels = [np.array([index[label] for label in video.labels], dtype=np.int64) for video in videos]
        self._segments = [
            timeline.to_steps(video.segments) for timeline, video in zip(self.timelines, videos, strict=True)
        ]
        self.views = [view for k in range(len(videos)) for view in self._views(k)]
        if videos and not self.views:
            raise UserError(
                f"{files.paths[0]}: expected a training window of {steps} steps with more than {time.inside:g} of some "
                f"segment inside, found none in {len(videos)} video(s): choose longer windows or steps, or a lower "
                "time.inside."
            )
        self._dim = files.feature_dim
        needed = sum(timeline.steps for timeline in self.timelines) * self._dim * 4
        self.in_memory = needed <= memory_bytes
        self._kept: dict[int, Rows] = {}

    def __len__(self) -> int:
        return len(self.views)

    def batch(self, chosen: Sequence[int]) -> FeatureBatch:
        """Return some of the views as a batch on the CPU.

        Its length is ``steps``, but for padded prediction, where it is that of the longest view.
        """
        views = [self.views[k] for k in chosen]
        whole = self._time.mode == "padded" and not self._training
        length = max(view.timeline.steps for view in views) if whole else self._steps
        features = np.zeros((len(views), self._dim, length), dtype=np.float32)
        mask = np.zeros((len(views), length), dtype=np.bool_)
        targets = [self._targets(view) for view in views]
        for place, view in enumerate(views):
            rows = self._rows(view)
            features[place, :, : len(rows)] = rows.T
            features[place, :, len(rows) : view.timeline.steps] = rows[-1][:, None]
            mask[place, : view.timeline.steps] = True
        return FeatureBatch(
            torch.from_numpy(features),
            torch.from_numpy(mask),
            [torch.from_numpy(segments).float() for segments, _ in targets],
            [torch.from_numpy(labels) for _, labels in targets],
        )

    def _timeline(self, video: int) -> Timeline:
        duration, step = self.durations[video], self._time.step_seconds
        if self._time.mode == "rescale":
            return Timeline.whole(duration, self._steps)
        if step is not None:  # a last step that the video fills only partly counts
            return Timeline(0.0, step, max(1, math.ceil(duration / step - 1e-6)))
        return self._files.row_timeline(self.names[video], duration)

    def _views(self, video: int) -> Iterator[View]:
        whole = self.timelines[video]
        mode, steps = self._time.mode, self._steps
        if mode == "rescale" or (mode == "padded" and not (self._training and whole.steps > steps)):
            yield View(video, 0, whole)
            return
        last = max(0, whole.steps - steps)
        for offset in (*range(0, last, self._time.window_stride or max(1, steps // 2)), last):
            view = View(video, offset, whole.window(offset, steps))
            if not self._training or self._teaches(view):
                yield view

    def _teaches(self, view: View) -> bool:
        """Whether some segment has more than the wanted share of its length in a window."""
        lengths = np.diff(self._segments[view.video], axis=1)
        return bool(np.any(np.diff(self._in_view(view), axis=1) > self._time.inside * lengths))

    def _in_view(self, view: View) -> NDArray[np.float64]:
        return np.clip(self._segments[view.video] - view.offset, 0.0, view.timeline.steps)

    def _targets(self, view: View) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return segments (n, 2) in steps of a view, and labels (n,), without those that a window shows nothing of."""
        segments, labels = self._in_view(view), self._labels[view.video]
        if self._time.mode == "rescale":
            return segments, labels
        there = segments[:, 1] > segments[:, 0]
        return segments[there], labels[there]

    def _rows(self, view: View) -> Rows:
        """Return the (n, C) steps of a view as far as its video goes."""
        end = min(view.offset + view.timeline.steps, self.timelines[view.video].steps)
        if not self.in_memory:
            return self._read(view.video, view.offset, end)
        if view.video not in self._kept:
            self._kept[view.video] = self._read(view.video, 0, self.timelines[view.video].steps)
        return self._kept[view.video][view.offset : end]

    def _read(self, video: int, first: int, end: int) -> Rows:
        """Prepare steps [first, end) of a video, reading the rows between which they lie."""
        name = self.names[video]
        if self._time.mode != "rescale" and self._time.step_seconds is None:
            return self._files.rows(name, first, end)
        centres = self._files.centres(name, self._files.count(name), self.durations[video])
        places = self.timelines[video].places(centres)[first:end]
        low = min(int(places[0]), max(0, len(centres) - 2))
        return interpolated(self._files.rows(name, low, int(places[-1]) + 2), places - low)


class FeatureBatches:
    """Views in batches on a device, the same to the last bit however they are read.

    Args:
        views: where batches come from.
        batch_size: views in a batch.
        device: where batches are brought.
        workers: processes that read the files and prepare; 0: this one. Features in memory need none and start none.
        seed: of the order of training views.
    """

    def __init__(self, views: FeatureViews, batch_size: int, device: torch.device, workers: int, seed: int) -> None:
        self.views = views
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self._keys = _Keys()
        # Workers are spawned, never forked: HDF5 files that are open here must not be read behind a fork.
        self._loader: DataLoader[Packed | UserError] | None = None
        if workers and not views.in_memory:
            self._loader = DataLoader(
                _Reader(views),
                batch_size=None,
                sampler=self._keys,
                num_workers=workers,
                pin_memory=device.type == "cuda",
                multiprocessing_context="spawn",
                persistent_workers=True,
                generator=torch.Generator(),  # or a number for the workers would come from the global one
            )

    def steps(self) -> int:
        """How many batches there are."""
        return math.ceil(len(self.views) / self._batch_size)

    def epoch(self, epoch: int) -> Iterator[FeatureBatch]:
        """Yield all views in an order that follows from (seed, epoch)."""
        order = np.random.default_rng([self._seed, 20, epoch]).permutation(len(self.views)).tolist()
        for _, batch in self._batches(order):
            yield batch

    def in_order(self) -> Iterator[tuple[list[int], FeatureBatch]]:
        """Yield all views in their order: (numbers of the views, their batch)."""
        return self._batches(list(range(len(self.views))))

    def _batches(self, order: list[int]) -> Iterator[tuple[list[int], FeatureBatch]]:
        keys = [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]
        if self._loader is None:
            for chosen in keys:
                yield chosen, self.views.batch(chosen).to(self._device)
            return
        self._keys.batches = keys
        for chosen, packed in zip(keys, self._loader, strict=True):
            if isinstance(packed, UserError):
                raise packed
            yield chosen, _unpacked(packed, self._device)


class _Keys(Sampler[list[int]]):
    """Which views make up each batch; set between epochs, so that workers live on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Reader(Dataset[Packed | UserError]):
    """Whole batches, made in a worker; a user's mistake is handed over, because torch would bury it in a traceback."""

    def __init__(self, views: FeatureViews) -> None:
        self._views = views

    def __getitem__(self, chosen: Any) -> Packed | UserError:
        try:
            batch = self._views.batch(chosen)
        except UserError as error:
            return error
        counts = [len(labels) for labels in batch.labels]
        return batch.features, batch.mask, torch.cat(list(batch.segments)), torch.cat(list(batch.labels)), counts


def _unpacked(packed: Packed, device: torch.device) -> FeatureBatch:
    features, mask, segments, labels = (part.to(device, non_blocking=True) for part in packed[:4])
    return FeatureBatch(features, mask, torch.split(segments, packed[4]), torch.split(labels, packed[4]))


class FeatureVideos:
    """The videos of one subset as a localizer sees them: features resampled to ``steps`` steps, segments in steps.

    Args:
        files: the feature set.
        videos: annotated videos that have features, all of them.
        labels: class names in the order of their indices.
        steps: T.
    """

    def __init__(
        self, files: FeatureFiles, videos: Sequence[VideoAnnotations], labels: Sequence[str], steps: int
    ) -> None:
        self._views = FeatureViews(files, videos, labels, steps, TimeSettings(), training=True)
        self.names, self.timelines = self._views.names, self._views.timelines

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, chosen: Sequence[int], device: torch.device) -> FeatureBatch:
        """Return some of the videos as a batch on ``device``."""
        return self._views.batch(chosen).to(device)

    def epoch(self, epoch: int, batch_size: int, seed: int, device: torch.device) -> Iterator[FeatureBatch]:
        """Yield all videos in an order that follows from (seed, epoch)."""
        return FeatureBatches(self._views, batch_size, device, 0, seed).epoch(epoch)
