"""Strict settings: all problems reported together, the nearest name suggested."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tspbench.errors import UserError


class Settings(BaseModel):
    """Base of every settings model."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


S = TypeVar("S", bound=BaseModel)


def validated(model: type[S], values: Mapping[str, object], where: str) -> S:
    """Return ``values`` as ``model``.

    Args:
        model: a settings model.
        values: plain data as TOML or JSON gives it.
        where: what the sentence of an error starts with, such as the file's name.

    Raises:
        UserError: one sentence with every key that does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(model, dict(entry)) for entry in error.errors())
        raise UserError(f"{where}: {problems}.") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with every value that ``changes`` names, table by table."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        tables = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if tables else value
    return result


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` when it is one of ``known``.

    Raises:
        UserError: names the nearest and all that exist.
    """
    names = list(known)
    if name in names:
        return name
    raise UserError(f"{name!r} is not a known {kind}{_nearest(name, names)}; known are {', '.join(sorted(names))}.")


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _problem(model: type[BaseModel], error: dict[str, object]) -> str:
    location = error["loc"]
    keys = [str(key) for key in location] if isinstance(location, tuple) else []
    dotted = ".".join(keys) or "the whole"
    if error["type"] == "extra_forbidden":
        return f"{dotted!r} is not a known key{_nearest(keys[-1], _fields(model, keys[:-1]))}"
    if error["type"] == "missing":
        return f"{dotted!r} is missing"
    found = f", found {error['input']!r}" if not isinstance(error["input"], dict) else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{dotted!r}: {message[:1].lower()}{message[1:]}{found}"


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the field names of the model nested at ``path``; dictionaries of models are walked through."""
    here: type[BaseModel] | None = model
    for key in path:
        if here is None:
            return []
        if key not in here.model_fields:
            continue
        here = _model_in(here.model_fields[key].annotation)
    return list(here.model_fields) if here else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_in(part)
        if found:
            return found
    return None
