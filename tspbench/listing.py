"""What `tspbench list` lists: the names of each kind, each with its caption."""

import sys
from collections.abc import Callable
from typing import Any, Final

# ruff: noqa: PLC0415 - most kinds need no torch, and must not wait for it


def list_kind(kind: str) -> None:
    """Print the names of one kind, each with its caption."""
    table = _LISTS[kind]()
    width = max(20, *map(len, table))
    for name, caption in sorted(table.items()):
        print(f"{name:{width}} {caption}")
    if kind in _OWN:
        print(f"\nOr one of your own: --{_OWN[kind]} path/to/file.py:ClassName, or package.module:ClassName.")


def _protocols() -> dict[str, str]:
    from evaluation.protocols import PROTOCOLS

    return {
        f"{task} · {name}": protocol.source
        for task, protocols in PROTOCOLS.items()
        for name, protocol in protocols.items()
    }


def _recipes() -> dict[str, str]:
    from tspbench.recipe import SHIPPED, read_recipe

    return {path.stem: read_recipe(path.stem, []).title for path in SHIPPED.glob("*.toml")}


def _files() -> dict[str, str]:
    from tspbench.storage.catalog import CATALOG

    return {
        name: f"{entry.kind}, {entry.path}{'' if entry.address else ' (by hand)'}" for name, entry in CATALOG.items()
    }


def _datasets() -> dict[str, str]:
    from tspbench.datasets import BENCHMARKS, DATASETS, benchmark_folder

    brought = {name: f"{each.title}, looked for in {benchmark_folder(name)}." for name, each in BENCHMARKS.items()}
    made = {name: (write.__doc__ or "").partition("\n")[0] for name, write in DATASETS.items()}
    return made | brought


def _encoders() -> dict[str, str]:
    from tspbench.encoders import ENCODERS

    return _captions(ENCODERS)


def _methods() -> dict[str, str]:
    from tspbench.pretraining import METHODS

    return _captions(METHODS)


def _localizers() -> dict[str, str]:
    from baselines import LOCALIZERS, REFINERS

    return _captions(LOCALIZERS) | _captions(REFINERS)


def _captioners() -> dict[str, str]:
    from baselines import CAPTIONERS

    return _captions(CAPTIONERS)


_OWN: Final = {"encoders": "encoder", "localizers": "localizer"}
_LISTS: Final[dict[str, Callable[[], dict[str, str]]]] = {
    "datasets": _datasets,
    "encoders": _encoders,
    "methods": _methods,
    "localizers": _localizers,
    "captioners": _captioners,
    "protocols": _protocols,
    "recipes": _recipes,
    "files": _files,
}


def _captions(table: dict[str, Any]) -> dict[str, str]:
    """Return the caption of the module that each entry of a table comes from."""
    return {
        name: (sys.modules[entry.__module__].__doc__ or "").strip().splitlines()[0] for name, entry in table.items()
    }
