"""Data sets: what each benchmark is, and a user's own folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench import ranks
from tspbench.config import choose, validated
from tspbench.datasets.activitynet import ACTIVITYNET
from tspbench.datasets.activitynet_captions import ACTIVITYNET_CAPTIONS
from tspbench.datasets.benchmark import Benchmark
from tspbench.datasets.card import CARD, Dataset, DatasetCard, find_videos, scanned, usable_videos
from tspbench.datasets.synthetic import SyntheticSettings, write_trimmed, write_untrimmed
from tspbench.datasets.thumos14 import THUMOS14
from tspbench.errors import UserError
from tspbench.storage.catalog import data_root
from tspbench.storage.recipes import read_toml

Report = Callable[[int, int], None]
# Data sets that the project can make itself: name → how to write the folder.
DATASETS: Final[dict[str, Callable[[Path, SyntheticSettings, int, Report], None]]] = {
    "synthetic": write_untrimmed,
    "synthetic-trimmed": write_trimmed,
}
# Data sets that a user has to bring: name → what is known of them.
BENCHMARKS: Final[dict[str, Benchmark]] = {each.name: each for each in (ACTIVITYNET, ACTIVITYNET_CAPTIONS, THUMOS14)}

__all__ = [
    "BENCHMARKS",
    "CARD",
    "DATASETS",
    "Dataset",
    "DatasetCard",
    "benchmark_folder",
    "find_videos",
    "generate",
    "open_dataset",
    "scanned",
    "usable_videos",
]


def open_dataset(
    name_or_folder: str,
    seed: int = 0,
    report: Report | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> Dataset:
    """Return the data set of a folder that holds a ``dataset.toml``, one of `BENCHMARKS`, or one of `DATASETS`.

    Args:
        name_or_folder: a folder, or a name; a benchmark lives below the data root, a generated set below
            ``runs/data``, where it is written when absent.
        seed: of a generated set.
        report: called with (videos written, videos in all) while a set is generated.
        elsewhere: entries of the card, such as "videos", that stand for those of the folder.

    Raises:
        UserError: neither a folder with a card nor a known name, a card that does not fit, or a benchmark without
            annotations.
    """
    folder = Path(name_or_folder)
    if not (folder / CARD).is_file():
        if folder.is_dir():
            raise UserError(
                f"{folder} holds no {CARD}: run `tspbench data init {folder}`, which writes it, or name another folder."
            )
        choose("data set, nor a folder", name_or_folder, {**DATASETS, **BENCHMARKS})
        if name_or_folder in BENCHMARKS:
            return _open_benchmark(BENCHMARKS[name_or_folder], elsewhere or {})
        folder = Path("runs") / "data" / f"{name_or_folder}-seed{seed}"
        ranks.by_first(lambda: generate(name_or_folder, folder, SyntheticSettings(), seed, report or _silent))
    return _opened(folder, read_toml(folder / CARD), elsewhere or {})


def benchmark_folder(name: str) -> Path:
    """Return where the files of a benchmark are looked for."""
    return data_root() / name


def generate(name: str, folder: Path, settings: SyntheticSettings, seed: int, report: Report) -> None:
    """Write one of `DATASETS` into ``folder`` unless it is complete there already."""
    if not (folder / CARD).is_file():
        DATASETS[choose("data set", name, DATASETS)](folder, settings, seed, report)


def _open_benchmark(benchmark: Benchmark, elsewhere: Mapping[str, str]) -> Dataset:
    """Open a benchmark by the card in its folder, or else by the names that its files usually have."""
    folder = benchmark_folder(benchmark.name)
    if (folder / CARD).is_file():
        return _opened(folder, {"benchmark": benchmark.name, **read_toml(folder / CARD)}, elsewhere)
    card: dict[str, Any] = {
        "name": benchmark.name,
        "benchmark": benchmark.name,
        "videos": benchmark.videos,
        "protocol": benchmark.protocol,
        "splits": {role: split.subset for role, split in benchmark.splits.items()},
        "captions": {role: list(files) for role, files in benchmark.captions.items()},
    }
    if benchmark.annotations is not None and "annotations" not in elsewhere:
        there = [name for name in benchmark.annotations.names if (folder / name).exists()]
        if not there:
            fetch = " or ".join(f"`tspbench fetch {name}`" for name in benchmark.annotations.fetch)
            raise UserError(
                f"{folder}: expected {benchmark.annotations.what} of {benchmark.title} "
                f"({', '.join(benchmark.annotations.names)}), found none: "
                f"{f'run {fetch}, or ' if fetch else ''}get it from {benchmark.annotations.official} and put it there."
            )
        card["annotations"] = there[0]
    captions = [name for files in benchmark.captions.values() for name in files]
    absent = [name for name in captions if not (folder / name).is_file()]
    if absent:
        source = next(each for each in benchmark.files if absent[0] in each.names)
        fetch = f"run `tspbench fetch {source.fetch[0]}` and unzip it there, or " if source.fetch else ""
        raise UserError(
            f"{folder}: expected {source.what} of {benchmark.title} ({absent[0]}), found none: {fetch}get it from "
            f"{source.official}, or write a {CARD} that names other files."
        )
    return _opened(folder, card, elsewhere)


def _opened(folder: Path, content: Mapping[str, Any], elsewhere: Mapping[str, str]) -> Dataset:
    # Paths that a user names are relative to where the command runs, not to the data set's folder.
    paths = {key: str(Path(path).absolute()) for key, path in elsewhere.items()}
    card = validated(DatasetCard, {**content, **paths}, str(folder / CARD))
    choose(f"protocol in {folder / CARD}", card.protocol, DETECTION_PROTOCOLS)
    if card.benchmark is not None:
        choose(f"benchmark in {folder / CARD}", card.benchmark, BENCHMARKS)
    return Dataset(folder, card)


def _silent(_done: int, _total: int) -> None:
    pass
