"""What the README and the pages of docs/ tell people to type exists; `tests.test_docs_pages` types it."""

import re
import shlex

import pytest
from typer.main import get_command

from tests.test_architecture import ROOT
from tspbench.cli import app
from tspbench.recipe import SHIPPED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README, *DOCS = (page.read_text("utf-8") for page in PAGES)
TEXT = "\n".join([README, *DOCS])
BLOCKS = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
PARTS = [part for line in LINES for part in re.split(r"&&|;|\|", line.partition(" #")[0])]
COMMANDS = [shlex.split(part.partition("tspbench ")[2]) for part in PARTS if "tspbench " in part]


def test_every_command_is_shown():
    told = set(get_command(app).commands)
    assert {arguments[0] for arguments in COMMANDS} >= told - {"list", "data"}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_parses(arguments):
    """Names of commands and options, choices, required options and arguments; files need not be there."""
    command = get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def test_every_recipe_that_is_told_of_is_shipped():
    tables = (ROOT / "docs" / "reproduce-a-table.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \|", tables, re.MULTILINE))
    named = set(re.findall(r"\b([\w-]+)\.toml\b", TEXT)) - {"dataset", "pyproject", "published", "NAME"}
    used = {arguments[1] for arguments in COMMANDS if arguments[0] in ("run", "check")}
    # The demo and its smallest edition are commands of their own, and the tree names them.
    assert listed | named | used | {"smoke"} == {path.stem for path in SHIPPED.glob("*.toml")}


def test_every_file_that_a_page_links_to_is_there():
    for page in PAGES:
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_shows_the_examples_as_they_are():
    for path in (ROOT / "docs" / "examples").glob("*_encoder.py"):
        assert path.read_text("utf-8").partition('"""\n\n')[2].strip() in README
