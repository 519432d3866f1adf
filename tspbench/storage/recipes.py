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
    """Write strings, numbers, booleans, lists and tables atomically."""
    write_text(path, "\n".join(_table(content, "")).strip() + "\n")


def _table(content: Mapping[str, object], prefix: str) -> list[str]:
    """Return the lines of a table: its own values first, then the tables in it."""
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in content.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{prefix}{_key(key)}]", *_table(table, f"{prefix}{_key(key)}.")]
    return lines


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _string(key)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _string(value) if isinstance(value, str) else json.dumps(value)  # a JSON number or boolean is one of TOML


def _string(text: str) -> str:
    """Write a JSON string that is one of TOML, too: no surrogate pairs, and DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
