"""What the README tells people to type exists."""

import re
import shlex

import pytest
from typer.main import get_command

from tests.test_architecture import ROOT
from tspbench.cli import app
from tspbench.recipe import SHIPPED

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
PARTS = [part for line in LINES for part in re.split(r"&&|;|\|", line.partition(" #")[0])]
COMMANDS = [shlex.split(part.partition("tspbench ")[2]) for part in PARTS if "tspbench " in part]


def test_the_readme_shows_the_commands():
    assert {arguments[0] for arguments in COMMANDS} >= {"demo", "pretrain", "extract", "evaluate", "score"}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_parses(arguments):
    """Names of commands and options, choices, required options and arguments; files need not be there."""
    command = get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def test_every_recipe_of_the_readme_is_shipped():
    section = README.partition("## The paper's tables\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE))
    named = set(re.findall(r"\b([\w-]+)\.toml\b", README)) - {"dataset", "pyproject", "published", "NAME"}
    used = {arguments[1] for arguments in COMMANDS if arguments[0] in ("run", "check")}
    # The demo and its smallest edition are commands of their own, and the tree names them.
    assert listed | named | used | {"smoke"} == {path.stem for path in SHIPPED.glob("*.toml")}


def test_every_file_that_the_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
