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
    command = get_command(app).commands[arguments[0]]
    command.make_context(arguments[0], arguments[1:])


def test_every_recipe_of_the_readme_is_shipped():
    named = set(re.findall(r"\b([\w-]+)\.toml\b", README)) - {"dataset", "pyproject", "NAME"}
    used = {arguments[1] for arguments in COMMANDS if arguments[0] in ("run", "check")}
    assert named | used == {path.stem for path in SHIPPED.glob("*.toml")}


def test_every_file_that_the_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
