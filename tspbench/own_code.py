"""A user's own class by name, as path/to/file.py:Name or package.module:Name."""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from torch import nn

from tspbench.config import choose
from tspbench.errors import UserError

LONGEST_WORDS: Final = 300  # characters of somebody else's error that a sentence of ours repeats

_named_by_user: set[str] = set()
_loaded: dict[str, "OwnClass"] = {}


@dataclass(frozen=True)
class OwnClass:
    """A class that somebody has written for themselves.

    Attributes:
        kind: the class, a `torch.nn.Module`.
        source: SHA-256 of the file; of a package, of all its Python files. An edited class is another one.
        path: the file it is in.
    """

    kind: type[Any]
    source: str
    path: str


def is_own(name: str) -> bool:
    """Tell whether a name stands for a user's own class, not for an entry of a table."""
    return ":" in name


def same_class(name: str, other: str) -> bool:
    """Tell whether two names may stand for the same class, in a file that was moved or is named in another way."""
    return is_own(name) and is_own(other) and name.rpartition(":")[2] == other.rpartition(":")[2]


def allow(name: str) -> None:
    """Let `load_class` run the code that ``name`` stands for.

    Only for names that the user has given: on the command line, in a call, or in the recipe that is run. What a
    checkpoint, a feature file or the record of a run says is a stranger's word, and runs nothing.
    """
    _named_by_user.add(name)


def as_named(name: str, own: Sequence[str]) -> str | None:
    """Return which of the user's ``own`` names stands for the class that a file speaks of; None: none of them.

    The class may have moved since: where the very name is not given, the first that may stand for it is taken.
    """
    return name if name in own else next((each for each in own if same_class(name, each)), None)


def load_class(name: str, what: str) -> OwnClass:
    """Return the class that ``name`` stands for.

    A file is run on its own: its folder is not searched for what it imports, which must be installed or on
    ``PYTHONPATH``. It is run anew when it has changed, so that two files, or two states of one, never share a module.
    A module is looked for where Python finds modules and then in the current folder; it is loaded once a process.

    Args:
        name: path/to/file.py:Name or package.module:Name.
        what: "encoder" or "localizer".

    Raises:
        UserError: nobody has called `allow`, there is no such file, module or class, it is no `torch.nn.Module`, or
            what is in the file fails.
    """
    if name not in _named_by_user:
        raise UserError(
            f"{name} is somebody's own code, which runs only where you name it yourself, not because a file says so: "
            f"look at it, and give --{what} {name}."
        )
    where, _, class_name = name.rpartition(":")
    found = _from_file(Path(where), name, what) if where.endswith(".py") else _from_module(where, name, what)
    if isinstance(found, OwnClass):
        return found
    module, source = found
    path = module.__file__ or where
    _loaded[name] = OwnClass(_class_in(module, class_name, where), source, path)
    return _loaded[name]


def own_words(error: BaseException, path: str) -> str:
    """Return what an error of somebody else's code says, for one sentence, with its line if it is of a file.

    Args:
        error: what was raised.
        path: the file whose line is told, the innermost one; "": that of whichever file it was raised in.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno or 0))
    told = [frame for frame in frames if frame[0] == path or (not path and frame[0] not in (__file__, ""))]
    told = [frame for frame in told if not frame[0].startswith("<")]
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    said = f"{type(error).__name__}{f': {text[:LONGEST_WORDS]}' if text else ''}"
    if not told:
        return said
    return f"{f'line {told[-1][1]}' if path else f'{told[-1][0]}, line {told[-1][1]}'}: {said}"


class _Source(SourceFileLoader):
    """Runs the text of a file as it was read: bytecode kept beside it goes by seconds, and an edit may be quicker."""

    def __init__(self, module: str, path: str, content: bytes) -> None:
        super().__init__(module, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - importlib's signature
        return self.source_to_code(self._content, self.path)


def _from_file(path: Path, name: str, what: str) -> OwnClass | tuple[ModuleType, str]:
    """Return the class as it was loaded from the same content, or else the module of a file and its hash."""
    if not path.is_file():
        raise UserError(f"{path} ({what} {name}) does not exist: give the path of a Python file, file.py:Name.")
    content = _content(path)
    source = hashlib.sha256(content).hexdigest()
    before = _loaded.get(name)
    if before is not None and (before.source, before.path) == (source, str(path.resolve())):
        return before
    unique = hashlib.sha256(f"{path.resolve()} {source}".encode()).hexdigest()[:16]
    loader = _Source(f"own_code_{unique}", str(path.resolve()), content)
    spec = ModuleSpec(loader.name, loader, origin=loader.path)
    spec.has_location = True
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses and pydantic look their module up
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file does
        del sys.modules[loader.name]
        installed = "; what it imports must be installed or on PYTHONPATH" if isinstance(error, ImportError) else ""
        raise UserError(
            f"{path} ({what} {name}) cannot be imported ({own_words(error, loader.path)}): mend the file{installed}."
        ) from error
    return module, source


def _from_module(where: str, name: str, what: str) -> OwnClass | tuple[ModuleType, str]:
    """Return the class as it was loaded before, or else its module and the hash of its package."""
    if name in _loaded:
        return _loaded[name]
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, where it hides nothing that is installed
    try:
        module = importlib.import_module(where)
    except (Exception, SystemExit) as error:  # whatever the module does
        raise UserError(
            f"{where!r} ({what} {name}) cannot be imported ({own_words(error, '')}): install it, or be in the "
            "folder that it lies in, or give path/to/file.py:Name."
        ) from error
    package = sys.modules[where.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files or [Path(module.__file__)] if module.__file__ else []:
        digest.update(hashlib.sha256(_content(file)).digest())
    return module, digest.hexdigest()


def _content(path: Path) -> bytes:
    try:
        return SourceFileLoader("", str(path)).get_data(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a file that can be.") from error


def _class_in(module: ModuleType, class_name: str, where: str) -> type[Any]:
    """Return a class of a module.

    Raises:
        UserError: there is none of the name, or it is no `torch.nn.Module`.
    """
    if class_name in vars(module):
        kind = vars(module)[class_name]
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind
        found = "another class" if isinstance(kind, type) else f"{type(kind).__name__}"
        raise UserError(
            f"{where}:{class_name}: expected a class that is a torch.nn.Module, found {found}: name such a class."
        )
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    if not own:
        raise UserError(f"{where} has no class {class_name!r}, nor any other torch.nn.Module: write one into it.")
    choose(f"class of {where}", class_name, own)
    raise AssertionError("a class that is there was found")
