"""What a localizer sees at once: videos rescaled, in windows, or as they are and padded."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from baselines.contract import FeatureBatch
from tspbench.config import Settings
from tspbench.errors import UserError
from tspbench.feature_reading import Features, Order, Piece
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, Rows
from tspbench.timeline import Timeline

MEMORY_BYTES: Final = 2 << 30  # a set's prepared features are kept in memory as far as they fit in so many bytes


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
                default = type(self).model_fields[name].default
                back = "null" if default is None else default
                raise ValueError(f'{name} means nothing in mode "{self.mode}": set it back (--set time.{name}={back})')
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
    """All views of a list of videos.

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
        windows: whether a video is seen in windows, even if it is in one.

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
        self.files, self._steps, self._time, self._training = files, steps, time, training
        self.windows = time.mode == "windows"
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
        needed = sum(timeline.steps for timeline in self.timelines) * files.feature_dim * 4
        self.in_memory = needed <= memory_bytes
        self._kept: dict[str, Rows] = {}

    def __len__(self) -> int:
        return len(self.views)

    def order(self, chosen: Sequence[int]) -> Order:
        """Return what has to be read for some of the views."""
        as_rows = self._time.mode != "rescale" and self._time.step_seconds is None
        pieces = [
            Piece(
                self.names[view.video],
                self.durations[view.video],
                self.timelines[view.video],
                view.offset,
                view.offset + view.timeline.steps,
                as_rows,
            )
            for view in (self.views[k] for k in chosen)
        ]
        whole = self._time.mode == "padded" and not self._training
        length = max(piece.end - piece.first for piece in pieces) if whole else self._steps
        return Order(pieces, (len(pieces), self.files.feature_dim, length))

    def batch(self, chosen: Sequence[int], features: Features | None = None) -> FeatureBatch:
        """Return some of the views as a batch on the CPU.

        Its length is ``steps``, but for padded prediction, where it is that of the longest view.

        Args:
            chosen: numbers of the views.
            features: of these views, (B, C, T), where somebody else has read what `order` says.
        """
        if features is None:
            features = self.order(chosen).fill(self._read)
        targets = [self._targets(self.views[k]) for k in chosen]
        steps = torch.tensor([self.views[k].timeline.steps for k in chosen])
        return FeatureBatch(
            torch.from_numpy(features),
            torch.arange(features.shape[2]) < steps[:, None],
            [torch.from_numpy(segments).float() for segments, _ in targets],
            [torch.from_numpy(labels) for _, labels in targets],
        )

    def _read(self, piece: Piece) -> Rows:
        if not self.in_memory:
            return piece.read(self.files)
        if piece.video not in self._kept:
            self._kept[piece.video] = replace(piece, first=0, end=piece.timeline.steps).read(self.files)
        return self._kept[piece.video][piece.first : piece.end]

    def _timeline(self, video: int) -> Timeline:
        duration, step = self.durations[video], self._time.step_seconds
        if self._time.mode == "rescale":
            return Timeline.whole(duration, self._steps)
        if step is not None:  # a last step that the video fills only partly counts
            return Timeline(0.0, step, max(1, math.ceil(duration / step - 1e-6)))
        return self.files.row_timeline(self.names[video], duration)

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
