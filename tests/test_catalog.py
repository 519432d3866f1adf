"""The README's tree and the extension tables say what the files say."""

import re
from pathlib import Path

import pytest

from baselines import LOCALIZERS
from evaluation import PROTOCOLS
from tests.test_architecture import MODULES, ROOT
from tspbench.datasets import DATASETS
from tspbench.encoders import ENCODERS
from tspbench.pretraining import METHODS
from tspbench.recipe import SHIPPED, read_recipe

INDENT = 4  # columns for each folder that an entry lies in
LINE = re.compile(r"^(?P<indent>[\s│├└─]*)(?P<name>[\w./-]+)(?:\s+(?P<caption>\S.*))?$")


def tree() -> dict[str, str]:
    """Return path → caption of every line of the README's tree."""
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"^## Tree\n.*?```\w*\n(.*?)```", readme, re.MULTILINE | re.DOTALL)
    assert found, "README.md has a heading '## Tree' with a fenced code block"
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in filter(str.strip, found[1].splitlines()):
        entry = LINE.match(line)
        assert entry, f"not a line of the tree: {line!r}"
        depth = len(entry["indent"]) // INDENT
        assert depth <= len(folders), f"nothing stands above this line of the tree: {line!r}"
        folders[depth:] = []
        path = "".join(folders) + entry["name"]
        if path.endswith("/"):
            folders.append(entry["name"])
        entries[path] = (entry["caption"] or "").strip()
    return entries


def caption(path: Path) -> str:
    return path.read_text("utf-8").removeprefix('"""').partition("\n")[0].removesuffix('"""')


def test_the_tree_lists_every_module_with_its_caption():
    listed = {path: text for path, text in tree().items() if path.endswith(".py") and not path.startswith("tests/")}
    assert listed == {path.relative_to(ROOT).as_posix(): caption(path) for path in MODULES.values()}


def test_everything_in_the_tree_is_there():
    assert [path for path in tree() if "*" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("table", "folder"),
    [(ENCODERS, "tspbench/encoders"), (METHODS, "tspbench/pretraining"), (LOCALIZERS, "baselines")],
    ids=["encoders", "methods", "localizers"],
)
def test_a_key_of_a_table_is_the_name_of_a_file(table, folder):
    for key, entry in table.items():
        assert entry.__module__ == f"{folder}/{key}".replace("/", ".")
        assert entry.__doc__, f"`tspbench list` shows the docstring of {key}"


def test_a_recipe_is_called_as_its_file():
    assert {path.stem: read_recipe(path.stem, []).name for path in SHIPPED.glob("*.toml")} == {
        path.stem: path.stem for path in SHIPPED.glob("*.toml")
    }


@pytest.mark.parametrize("table", [DATASETS, *PROTOCOLS.values()], ids=["datasets", *PROTOCOLS])
def test_other_keys_are_names_for_the_command_line(table):
    assert all(re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", key) for key in table)
