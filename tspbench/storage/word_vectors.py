"""Word vectors from a text file such as GloVe's, read line by line.

A line is ``word v1 … vD`` with spaces between. The file may be gzipped, whatever its name; that of fastText, whose
first line holds two counts, is read as well. GloVe 840B has some words with spaces in them: the numbers are counted
from the right. It also has a few words twice: the first counts, as in gensim.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from tspbench.errors import UserError

Vectors = NDArray[np.float32]
LONGEST_LINE: Final = 1 << 20  # bytes; what has longer ones is no text, and must not fill the memory

LARGEST: Final = float(np.finfo(np.float32).max)


def read_word_vectors(path: Path, words: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Read the vectors of some words; the file is never held as a whole.

    The lines of the wanted words are checked, and no others: most are passed over at their first word.

    Args:
        path: the file.
        words: the wanted words, N of them.

    Returns:
        The vectors, float32 (N, D), zero where the file lacks the word, and whether it has it, bool (N,).

    Raises:
        UserError: the file is missing, damaged or not of this format, the line of a wanted word is wider or narrower
            than the first or holds numbers that are not finite, or none of the words is there.
    """
    wanted = {word.encode(): word for word in words}
    found: dict[str, Vectors] = {}
    with _opened(path) as file:
        width = 0
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=1):
            if not width:
                width = _width(path, number, line.rstrip())
                if not width:
                    continue
            first = line[: line.find(b" ")]
            if first in wanted and wanted[first] not in found:
                fields = line.rstrip()
                if fields.count(b" ") == width or _word(path, number, fields, width) == first:
                    found[wanted[first]] = _numbers(path, number, fields[len(first) + 1 :])
    if not found:
        raise UserError(
            f"{path}: expected vectors of some of {len(words):,} words (such as {', '.join(map(repr, words[:3]))}), "
            "found none of them; give word vectors of the language of the captions, in lower case."
        )
    vectors = np.zeros((len(words), width), dtype=np.float32)
    there = np.array([word in found for word in words], dtype=np.bool_)
    vectors[there] = [found[word] for word in words if word in found]
    return vectors, there


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked if it is gzipped; what is wrong with it while it is read is one sentence."""
    try:
        with path.open("rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            yield io.BufferedReader(gzip.GzipFile(fileobj=file), LONGEST_LINE) if packed else file
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a text file of word vectors.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path}: expected whole gzip data, found it cut off or damaged; copy the file again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the path of a text file of word vectors."
        ) from error


def _width(path: Path, number: int, fields: bytes) -> int:
    """Return how many numbers follow the word in the first line; 0 if it holds fastText's counts."""
    parts = fields.split(b" ")
    if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
        return 0
    width = next((k for k, part in enumerate(reversed(parts[1:])) if not _is_number(part)), len(parts) - 1)
    if not width:
        raise UserError(
            f"{path}, line {number}: expected a word and its numbers with spaces between, found {_shown(fields)}; give "
            "a text file of word vectors, unpacked or as .gz."
        )
    return width


def _word(path: Path, number: int, fields: bytes, width: int) -> bytes:
    """Return the word before ``width`` numbers, which may hold spaces."""
    parts = fields.rsplit(b" ", width)
    word = parts[0]
    if len(parts) <= width or _is_number(word[word.rfind(b" ") + 1 :]):
        raise UserError(
            f"{path}, line {number}: expected a word and {width} numbers as in the first line, found "
            f"{fields.count(b' ')} numbers, {_shown(fields)}; copy or make the file again."
        )
    return word


def _numbers(path: Path, number: int, fields: bytes) -> Vectors:
    try:
        values = np.array([float(part) for part in fields.split(b" ")])
    except ValueError:
        values = np.array([np.nan])
    if not (np.abs(values) <= LARGEST).all():
        raise UserError(
            f"{path}, line {number}: expected finite numbers behind the word, found {_shown(fields)}; copy or make "
            "the file again."
        )
    return values.astype(np.float32)


def _is_number(field: bytes) -> bool:
    """Whether a field is a number that float32 can hold."""
    try:
        return abs(float(field)) <= LARGEST
    except ValueError:
        return False


def _shown(fields: bytes) -> str:
    """Return the begin of a line for a message."""
    text = fields[:40].decode(errors="replace")
    return repr(text) + ("…" if len(fields) > 40 else "") if fields else "nothing"
