"""A localizer as a run trained it, rebuilt from its records for videos that the run has never seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from baselines import REFINERS
from evaluation.segments import Predictions
from tspbench.config import validated
from tspbench.errors import UserError
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.own_code import as_named, is_own
from tspbench.stages.predict import predict
from tspbench.stages.rows import UNLABELLED
from tspbench.stages.train import LOCALIZER_FILE, localizer_class
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.records import Record, outputs_are_whole, read_record
from tspbench.video_labels import Labelling

Settings = dict[str, Any]
OWN_LABELS: Final = "the localizer's own"


@dataclass(frozen=True)
class TrainedLocalizer:
    """A localizer of a finished run.

    Args:
        folder: where its weights lie.
        name: key of `baselines.LOCALIZERS`, or what the user calls a localizer of their own.
        settings: of its training, as resolved.
        weights: SHA-256 of its weights.
        device: torch device.
    """

    folder: Path
    name: str
    settings: Settings
    weights: str
    device: str

    @property
    def labelling(self) -> Labelling:
        """How it labels by itself: with the classes that it tells apart, or not at all."""
        labels = tuple(self.settings["labels"])
        return Labelling(labels, None, 1, "labels:localizer", OWN_LABELS) if labels else UNLABELLED

    @cached_property
    def model(self) -> Any:
        """The network in evaluation mode.

        Raises:
            UserError: settings or weights do not fit this version.
        """
        kind = localizer_class(self.name)
        model = kind(validated(kind.Config, self.settings["config"], f"{self.folder}, localizer {self.name}"))
        try:
            model.load_state_dict(read_weights(self.folder / LOCALIZER_FILE).features)
        except RuntimeError as error:
            raise UserError(
                f"{self.folder / LOCALIZER_FILE} does not fit {self.name}, whose layers have changed since it was "
                "trained: take the code as it was, or run the experiment again with the same --out."
            ) from error
        return model.to(self.device).eval()

    def find(self, files: FeatureFiles, labelling: Labelling) -> Predictions:
        """Find segments in every video of a feature set.

        Args:
            files: features like those that it learned from.
            labelling: where labels come from.
        """
        videos = [VideoAnnotations(name, "", None, np.empty((0, 2)), ()) for name in sorted(files.videos)]
        time = validated(TimeSettings, self.settings["time"], f"{self.folder}, time")
        steps = self.model.config.steps
        views = FeatureViews(files, videos, labelling.labels, steps, time, training=False, memory_bytes=0)
        batch_size = int(self.settings["fit"]["batch_size"])
        return predict(views, self.model, labelling, self.device, batch_size, 0, silent)


def trained_localizer(row_folder: Path, device: str, own: Sequence[str] = ()) -> TrainedLocalizer:
    """Return the localizer of a row.

    Args:
        row_folder: of the row.
        device: torch device.
        own: names of localizers of the user's own, which they have let in.

    Raises:
        UserError: it is not trained, or cannot find anything by itself.
    """
    folder = row_folder / "train"
    record = finished(folder)
    name = str(record.settings.get("name"))
    if name in REFINERS:
        raise UserError(
            f"{row_folder}: {name} refines proposals of another localizer, which a new video does not come with: "
            "choose a row of a localizer that makes its own."
        )
    if is_own(name):
        named = as_named(name, own)
        if named is None:
            raise UserError(
                f"{row_folder}: the localizer {name} is somebody's own code, which runs only where you name it "
                f"yourself, not because a file says so: look at it, and add --localizer {name}."
            )
        name = named
    localizer_class(name)
    return TrainedLocalizer(folder, name, dict(record.settings), record.outputs[LOCALIZER_FILE], device)


def finished(folder: Path, outputs: Sequence[str] = ()) -> Record:
    """Return the record of a finished stage whose files are as it wrote them.

    Args:
        folder: of the stage.
        outputs: files that have to be among them.

    Raises:
        UserError: it is not finished, or a file has gone or changed.
    """
    record = read_record(folder)
    if record is None or set(outputs) - set(record.outputs) or not outputs_are_whole(folder, record):
        raise UserError(
            f"{folder}: expected a finished stage with the files that it wrote, found none, or others: run the "
            "experiment again with the same --out, which does what is missing."
        )
    return record


def silent(done: int, total: int, note: str = "") -> None:
    """Show nothing: a video takes a moment, and what is told is how many are done."""
