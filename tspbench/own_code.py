"""A user's own class by name, as path/to/file.py:Name or package.module:Name."""

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from torch import nn

from tspbench.config import choose
from tspbench.errors import UserError

LONGEST_WORDS: Final = 300  # characters of somebody else's error that a sentence of ours repeats
INSTALLED: Final = {"site-packages", "dist-packages"}  # folders of what nobody edits
OURS: Final = {"tspbench", "baselines", "evaluation"}  # its version stands in every record
# What Python code imports. A line of prose that reads like an import does no harm: at worst it names one file more.
IMPORTS: Final = re.compile(
    r"""(?:^|[;:])[ \t]*import[ \t]+([\w., \t]+)|(?:^|[;:])[ \t]*from[ \t]+(\w[\w.]*)[ \t]+import\b"""
    r"""|\b(?:import_module|__import__)\([ \t]*["'](\w[\w.]*)""",
    re.MULTILINE,
)

_IMPORTLIB: Final = str(Path(importlib.__file__).parent)

_named_by_user: set[str] = set()
_loaded: dict[str, tuple[str, "OwnClass"]] = {}  # by its name: the module that it was loaded from, and the class


@dataclass(frozen=True)
class OwnClass:
    """A class that somebody has written for themselves.

    Attributes:
        kind: the class, a `torch.nn.Module`.
        source: SHA-256 of the file; of a package, of all its Python files; and of what they import, however deep, that
            is neither installed nor Python's own. An edited class is another one.
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
    A module is looked for where Python finds modules and then in the current folder; it is loaded once a process, and
    so is what a file imports: an edit of that counts from the next process on.

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
    if not where or not class_name:
        raise UserError(
            f"{name!r} names no {'class' if where else 'file'}: give --{what} path/to/file.py:ClassName or "
            "package.module:ClassName."
        )
    found = _from_file(Path(where), name, what) if where.endswith(".py") else _from_module(where, name, what)
    if isinstance(found, OwnClass):
        return found
    module, source = found
    own = OwnClass(_class_in(module, class_name, where), source, module.__file__ or where)
    _loaded[name] = module.__name__, own
    return own


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
    told = [frame for frame in told if not frame[0].startswith(("<", _IMPORTLIB))]
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
    unique = f"own_code_{hashlib.sha256(f'{path.resolve()} {source}'.encode()).hexdigest()[:16]}"
    before, own = _loaded.get(name, ("", None))
    if own is not None and before == unique:
        return own
    loader = _Source(unique, str(path.resolve()), content)
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
    return module, _with_helpers(source, _imports(content))


def _from_module(where: str, name: str, what: str) -> OwnClass | tuple[ModuleType, str]:
    """Return the class as it was loaded before, or else its module and the hash of its package."""
    if name in _loaded:
        return _loaded[name][1]
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
    top = where.partition(".")[0]
    folders = [Path(folder) for folder in getattr(sys.modules[top], "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    digest, imports = hashlib.sha256(), set[str]()
    for file in files or [Path(module.__file__)] if module.__file__ else []:
        content = _content(file)
        digest.update(hashlib.sha256(content).digest())
        imports |= _imports(content)
    return module, _with_helpers(digest.hexdigest(), imports - {top})


def _with_helpers(source: str, imports: Iterable[str]) -> str:
    """Return the hash of a class's own code and of all that it imports of the user's; without any, the former."""
    helpers: dict[str, list[str]] = {}
    waiting = set(imports)
    while waiting:
        name = waiting.pop()
        read = [_as_loaded(file) for file in _helper_files(name)]
        helpers[name] = [digest for digest, _ in read]
        waiting |= {each for _, theirs in read for each in theirs if each not in helpers}
    parts = [f"{name} {digest}" for name in sorted(helpers) for digest in helpers[name]]
    return hashlib.sha256("\n".join([source, *parts]).encode()).hexdigest() if parts else source


def _helper_files(name: str) -> list[Path]:
    """Return the files of a top-level module or package; none if it is installed, Python's own, ours or not there."""
    if name in OURS or name in sys.stdlib_module_names:
        return []
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return []
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        return []
    places = [Path(place) for place in spec.submodule_search_locations or [str(spec.origin)]]
    places = [place for place in places if INSTALLED.isdisjoint(place.parts)]
    return [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))]


@cache
def _as_loaded(path: Path) -> tuple[str, set[str]]:
    """Return the hash of a helper, and what it imports, as they were when this process first met it."""
    content = _content(path)
    return hashlib.sha256(content).hexdigest(), _imports(content) if path.suffix == ".py" else set()


def _imports(content: bytes) -> set[str]:
    """Return the top-level modules that a file may import, wherever in it that stands."""
    text = content.decode("utf-8", "replace").replace("\\\n", " ")
    named = [name.split() for match in IMPORTS.findall(text) for name in ",".join(match).split(",")]
    return {words[0].partition(".")[0] for words in named if words} - {""}


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
