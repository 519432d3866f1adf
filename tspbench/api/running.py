"""What computes: whole recipes, pretraining, extraction, training of localizers and captioners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tspbench import ranks, watch
from tspbench.api.inputs import (
    Place,
    Places,
    Settings,
    at_least,
    captioner_settings,
    changes,
    check_script,
    feature_rows,
    found,
    joined_device,
    localizer_settings,
    named_videos,
    opened,
    paths,
    pretraining_recipe,
    texts,
)
from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.progress import progress
from tspbench.report import ResultTable, write_table

if TYPE_CHECKING:
    from tspbench.stages.evaluate import Task

# ruff: noqa: PLC0415 - `import tspbench.api` must not load torch

PRECISIONS: Final = ("fp32", "bf16")
# Task → the localizer or captioner of TSP's paper.
_LOCALIZERS: Final = {"tal": "gtad", "proposals": "bmn", "captioning": "bmt"}


@dataclass(frozen=True)
class Extracted:
    """Features that were extracted.

    Attributes:
        features: the H5 file.
        videos: names of the videos in it.
        left_out: name of each video that could not be read → why.
        class_scores: file of the action head's scores of each video, where asked for.
    """

    features: Path
    videos: tuple[str, ...]
    left_out: Mapping[str, str]
    class_scores: Path | None


def run(recipe: Place, out: Place | None = None, *, settings: Settings = (), device: str = "auto") -> ResultTable:
    """Run a whole experiment, the demo (``"demo"``) for one; what is finished is skipped.

    Args:
        recipe: name of a shipped recipe, or a TOML file.
        out: folder of the run, which also gets the table as Markdown; runs/NAME if None.
        settings: changes of the recipe, such as ``{"seed": 1, "pretrain": {"tsp": {"fit": {"epochs": 4}}}}``.
        device: see `tspbench.api`.

    Returns:
        The rows, scores, differences and notes of the run's table.

    Raises:
        UserError: something is missing, or a mistake in data or recipe; what is finished by then is kept.

    Example:
        >>> table = api.run("smoke", "runs/smoke", settings={"seed": 1})
        >>> "TSP on the target set" in table.rows
        True
    """
    from tspbench.experiment import Experiment
    from tspbench.recipe import read_recipe

    check_script()
    folder = Path("runs") / Path(recipe).stem if out is None else Path(out)
    return Experiment(read_recipe(str(recipe), changes(settings)), folder, joined_device(device)).run()


def pretrain(
    dataset: Place,
    method: str,
    encoder: str,
    out: Place,
    *,
    init: str | None = None,
    memory_budget: float | None = None,
    settings: Settings = (),
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Pretrain an encoder on a data set's videos.

    Args:
        dataset: see `tspbench.api`.
        method: "tac", "tsp" or "lofi".
        encoder: see `tspbench.api`.
        out: folder for everything that comes out; the same folder resumes.
        init: initial weights: "random", "kinetics", "imagenet" or a file; published ones if None.
        memory_budget: GiB; of "lofi" the finest fidelity whose step fits is taken.
        settings: changes of the method's published settings.
        seed: everything random follows from it.
        device: see `tspbench.api`.

    Returns:
        The file of the encoder's weights.

    Raises:
        UserError: an unknown name, settings or data that do not fit.

    Example:
        >>> weights = api.pretrain("my-videos", "tac", "tiny", "runs/tac", settings={"fit": {"epochs": 1}})
        >>> weights.name
        'encoder.safetensors'
    """
    from tspbench.experiment import Experiment

    check_script()
    seed = at_least(0, "--seed", seed)
    recipe = pretraining_recipe(dataset, method, encoder, init, memory_budget, changes(settings), seed)
    return Experiment(recipe, Path(out), joined_device(device)).checkpoint(method)


def extract(
    out: Place,
    *,
    encoder: str | None = None,
    checkpoint: Place | None = None,
    dataset: Place | None = None,
    videos: Places = (),
    stride_frames: int | None = None,
    class_scores: Place | None = None,
    skip_unreadable: bool = False,
    precision: str = "fp32",
    device: str = "auto",
) -> Extracted:
    """Extract the features of a data set's videos, of a folder's, or of single ones.

    Args:
        out: H5 file to write; finished parts of an interrupted extraction are kept.
        encoder: see `tspbench.api`; of a checkpoint of ours it may be left out.
        checkpoint: weights: ours, released TSP, or a state dict; torchvision's if None.
        dataset: see `tspbench.api`; either this or ``videos``.
        videos: videos, or folders of videos.
        stride_frames: frames between clips; the clip's length if None.
        class_scores: where to write the action head's scores of each video (JSON), if anywhere.
        skip_unreadable: leave unreadable videos out, listed in the file.
        precision: "fp32", or "bf16", which is faster on a GPU.
        device: see `tspbench.api`.

    Raises:
        UserError: weights that do not fit, or videos that cannot be read.

    Example:
        >>> weights = "runs/tac/pretrain/tac/encoder.safetensors"
        >>> found = api.extract("tac.h5", checkpoint=weights, dataset="my-videos", class_scores="scores.json")
        >>> len(found.videos), found.left_out
        (6, {})
    """
    from tspbench.encoders import encoder_facts, load_encoder, named_encoder
    from tspbench.stages.extract import (
        Extraction,
        TrainedEncoder,
        action_labels,
        check_readable,
    )
    from tspbench.stages.extract import class_scores as scores_of
    from tspbench.stages.extract import extract as extract_features
    from tspbench.storage.class_scores import write_class_scores
    from tspbench.storage.features import FeatureFiles
    from tspbench.storage.hashes import hash_file

    check_script()
    choose("precision", precision, PRECISIONS)
    if stride_frames is not None:
        stride_frames = at_least(1, "--stride-frames", stride_frames)
    target, weights_file = Path(out), found(checkpoint)
    if encoder is not None:
        named_encoder(encoder)
    files = named_videos(dataset, videos)
    if not skip_unreadable:
        check_readable(next(iter(files.values())))
    module, weights = load_encoder(encoder, weights_file)
    if class_scores is not None:
        action_labels(weights, weights_file)
    name = encoder or str(weights.encoder)
    source = str(weights.card["source"]) if weights_file is None else hash_file(weights_file)
    how = Extraction(
        stride_frames=stride_frames or module.preprocessing.clip_frames,
        device=joined_device(device),
        precision=precision,
        skip_unreadable=skip_unreadable,
    )
    with progress("extract") as advance, watch.stage(f"extract into {target}", shared=True):
        trained = TrainedEncoder(module, name, source, encoder_facts(name))
        left_out = extract_features(trained, files, target, how, advance)
    scores = None if class_scores is None else Path(class_scores)
    if scores is not None and weights_file is not None:
        ranks.by_first(lambda: write_class_scores(scores, scores_of(FeatureFiles([target]), weights_file)))
    return Extracted(target, tuple(name for name in files if name not in left_out), left_out, scores)


def evaluate(
    task: str,
    dataset: Place,
    features: Mapping[str, Places],
    out: Place,
    *,
    localizer: str | None = None,
    class_scores: Place | None = None,
    proposals: Places = (),
    sound: Place | None = None,
    references: str | Sequence[str] = (),
    settings: Settings = (),
    seed: int = 0,
    device: str = "auto",
) -> ResultTable:
    """Train, predict and score a localizer or captioner on each feature set; one table.

    Args:
        task: "tal" (temporal action localization), "proposals" or "captioning".
        dataset: see `tspbench.api`.
        features: name of the row → its H5 file, or several that are one set.
        out: folder of the run; the same folder resumes.
        localizer: see `tspbench.api`, or a captioner; that of TSP's paper (gtad, bmn, bmt) if None.
        class_scores: video-level class scores, which label detections; class-agnostic if None.
        proposals: proposals of training and validation videos, for pgcn.
        sound: audio features for captioning.
        references: a row to compare with, or several, such as "random-features" and "upper-mark".
        settings: changes of the localizer's or captioner's published settings.
        seed: everything random follows from it.
        device: see `tspbench.api`.

    Raises:
        UserError: a mistake in settings or files; those that can be seen from the outside are found before any work.

    Example:
        >>> rows = {"TAC": "tac.h5", "TSP": "tsp.h5"}
        >>> table = api.evaluate("tal", "my-videos", rows, "runs/table", class_scores="scores.json")
        >>> table.rows
        ['TAC', 'TSP']
    """
    from tspbench.stages.evaluate import evaluate as evaluate_rows

    check_script()
    choose("task", task, _LOCALIZERS)
    seed = at_least(0, "--seed", seed)
    rows, folder = feature_rows(features), Path(out)
    captions = task == "captioning"
    for option, given, wanted in (
        ("--class-scores", class_scores is not None, task == "tal"),
        ("--proposals", bool(paths(proposals)), task == "tal"),
        ("--reference", bool(references), not captions),
        ("--sound", sound is not None, captions),
    ):
        if given and not wanted:
            raise UserError(f"{option}: the task {task} has no use for it: leave it out.")
    what = _task(
        task,
        dataset,
        folder,
        localizer,
        class_scores,
        proposals,
        sound,
        list(dict.fromkeys(texts(references))),
        changes(settings),
        seed,
        device,
    )
    evaluate_rows([what], rows, f"{'Describing' if captions else 'Finding'} actions on {what.dataset.name}", [])
    return write_table(folder)


def _task(
    task: str,
    dataset: Place,
    folder: Path,
    localizer: str | None,
    class_scores: Place | None,
    proposals: Places,
    sound: Place | None,
    references: list[str],
    settings: Settings,
    seed: int,
    device: str,
) -> "Task":
    from tspbench.stages.captioning_inputs import Captioning
    from tspbench.stages.localization import Localization

    data = opened(dataset, seed)
    name, where = localizer or _LOCALIZERS[task], joined_device(device)
    if task == "captioning":
        return Captioning(data, captioner_settings(name, settings), found(sound), seed, where, folder)
    labelled_elsewhere = task == "proposals" or class_scores is not None
    return Localization(
        task,
        data,
        localizer_settings(name, data.protocol, labelled_elsewhere, settings),
        found(class_scores),
        references,
        seed,
        where,
        folder,
        tuple(file for place in paths(proposals) if (file := found(place)) is not None),
    )
