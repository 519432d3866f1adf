"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Task(StrEnum):
    """What is scored."""

    TAL = "tal"
    PROPOSALS = "proposals"
    CAPTIONING = "captioning"


class TrainedTask(StrEnum):
    """What localizers and captioners are trained for."""

    TAL = "tal"
    PROPOSALS = "proposals"
    CAPTIONING = "captioning"


class Reference(StrEnum):
    """Rows of a table that need no feature set."""

    WHOLE_VIDEO = "whole-video"
    UNIFORM_GRID = "uniform-grid"
    RANDOM_FEATURES = "random-features"
    UPPER_MARK = "upper-mark"


class UnknownVideos(StrEnum):
    """What to do about predictions for videos that the ground truth lacks."""

    REFUSE = "refuse"
    DROP = "drop"
    COUNT = "count"


class Kind(StrEnum):
    """What `tspbench list` lists."""

    DATASETS = "datasets"
    ENCODERS = "encoders"
    METHODS = "methods"
    LOCALIZERS = "localizers"
    CAPTIONERS = "captioners"
    PROTOCOLS = "protocols"
    RECIPES = "recipes"
    FILES = "files"


class ReportFormat(StrEnum):
    """How a report is written."""

    MD = "md"
    HTML = "html"


class Precision(StrEnum):
    """Arithmetic of the forward pass."""

    FP32 = "fp32"
    BF16 = "bf16"


Out = Annotated[Path, typer.Option("--out", help="Folder for everything that comes out; the same folder resumes.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: a GPU where there is one.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Everything random follows from it.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as seed=1 or fit.epochs=4; repeatable."),
]
DatasetName = Annotated[str, typer.Option("--dataset", help="A folder with a dataset.toml, or synthetic.")]
TaskName = Annotated[Task, typer.Option("--task", help="What is scored: tal is action localization.")]
TrainedTaskName = Annotated[TrainedTask, typer.Option("--task", help="tal is temporal action localization.")]
GroundTruthFiles = Annotated[
    list[Path], typer.Option("--ground-truth", help="Annotations, or references of captions; repeatable.")
]
OptionalGroundTruthFiles = Annotated[
    list[Path] | None, typer.Option("--ground-truth", help="Annotations, or references of captions; repeatable.")
]
Subset = Annotated[str, typer.Option("--subset", help="Subset to score on; captions have none.")]
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", help="See `tspbench list protocols`; default: the task's first.")
]
Unknown = Annotated[
    UnknownVideos,
    typer.Option("--unknown-videos", help="Predictions for videos that the ground truth lacks: drop or count them."),
]
References = Annotated[
    list[Reference] | None,
    typer.Option("--reference", help="A row to compare with, of no feature set of yours; repeatable."),
]
EncoderName = Annotated[
    str | None, typer.Option("--encoder", help="See `tspbench list encoders`, or file.py:ClassName.")
]
LocalizerName = Annotated[
    str | None,
    typer.Option("--localizer", help="See `tspbench list`, or file.py:ClassName; default: gtad, bmn or bmt."),
]
OwnEncoders = Annotated[
    list[str] | None,
    typer.Option("--encoder", help="file.py:ClassName of an encoder of yours that the run was made with; repeatable."),
]
OwnLocalizer = Annotated[
    str | None, typer.Option("--localizer", help="file.py:ClassName of a localizer of yours, likewise.")
]
ClassScores = Annotated[
    Path | None,
    typer.Option("--class-scores", help="Video-level scores (JSON, or UntrimmedNet .npy); none: class-agnostic."),
]
ProposalFiles = Annotated[
    list[Path] | None,
    typer.Option("--proposals", help="Proposals of training and validation videos, for pgcn; repeatable."),
]
Sound = Annotated[
    Path | None, typer.Option("--sound", help="Audio features for captioning: an H5 file or folder of .npy files.")
]
