"""TOML files: recipes and data set cards, as data."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tspbench.errors import UserError
from tspbench.storage.atomic import write_text


def read_toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file.

    Raises:
        UserError: no such file, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not readable TOML ({error}): mend it there.") from error


def write_toml(path: Path, content: Mapping[str, object]) -> None:
    """Write strings, numbers, booleans and one level of tables atomically."""
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, table in content.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{key}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
    write_text(path, "\n".join(lines) + "\n")
