"""Worker processes that answer one task at a time, each within a deadline."""

import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, TypeVar

from tspbench import watch
from tspbench.errors import UserError
from tspbench.processes import deaf_to_interrupts, end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

START_SECONDS: Final = 300.0  # what a process may take to load its libraries, from a slow disk
LOOK_SECONDS: Final = 1.0  # between two signs of life of whoever waits for an answer
EXIT_SECONDS: Final = 10.0  # what Python may take to tidy up
STARTS: Final = 2  # a process that ends before its first task so many times in a row will not start at all
_SPAWN: Final = get_context("spawn")  # decoders do not survive a fork
_serves = False
# Children are started and asked for their end by several threads, which the standard library does not expect.
_CHILDREN: Final = threading.Lock()


class LostError(UserError):
    """A task that took its worker along.

    Args:
        message: the sentence.
        how: how the worker died; "" when it was ended because it gave no answer in time.
    """

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


class Pool(Generic[Task, Result]):
    """Processes that each build a reader once and answer tasks with it, one at a time, in parallel to this process.

    Tasks of the same name (a video) go to the same process, so that what its reader keeps is of use. A process that
    gives no answer in time is killed, which is the only way to stop a decoder that hangs, and one that dies is
    replaced; neither costs an answer to another name. What was lost in such a way is not asked again: later tasks of
    that name have the same error for an answer.

    Processes start with their first task. They are deaf to Ctrl-C and end with the pool, and with this process.

    Args:
        make: builds a reader, task → result; a function of a module or a partial of one, because processes are told
            its name. Results are plain data and arrays of numpy.
        workers: processes; 0: this one, where nothing can be stopped, so that there is no deadline.
        deadline_seconds: what a task may take, from when a worker has it; the first one of a name often takes longest.
        attempts: how often a task is tried that a worker dies of.
    """

    def __init__(
        self, make: Callable[[], Callable[[Task], Result]], workers: int, deadline_seconds: float, attempts: int = 2
    ) -> None:
        self._make = make
        self._here: Callable[[Task], Result] | None = None
        self._workers = [_Worker(make, deadline_seconds, attempts) for _ in range(workers)]
        self._homes: dict[str, _Worker] = {}

    def __enter__(self) -> "Pool[Task, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            worker.close()

    def answers(self, tasks: Iterable[tuple[str, Task]], ahead: int) -> Generator[Result | UserError, None, None]:
        """Yield the answers in the order of the tasks.

        Args:
            tasks: (name, task); read as far ahead as workers go, in the thread of the caller.
            ahead: how many tasks are begun before their answers are asked for.

        Raises:
            RuntimeError: a reader failed with anything but a `UserError`, which is a bug; or no process can start.
        """
        if not self._workers:
            yield from (self._answer_here(task) for _, task in tasks)
            return
        begun: deque[tuple[str, Future[Result | UserError]]] = deque()
        source = iter(tasks)
        try:
            while True:
                new = islice(source, max(1, ahead) - len(begun))
                begun.extend((name, self._submit(name, task)) for name, task in new)
                if not begun:
                    return
                name, future = begun.popleft()
                while not future.done():
                    watch.working_on(f"reading {name}")  # which has a deadline: whoever waits for it does not stall
                    wait([future], LOOK_SECONDS)
                yield future.result()
        finally:
            for _, future in begun:
                future.cancel()

    def as_they_come(
        self, tasks: Iterable[tuple[str, Task]], ahead: int
    ) -> Generator[tuple[str, Result | UserError], None, None]:
        """Yield (name, answer) as answers come; see `answers`."""
        if not self._workers:
            yield from ((name, self._answer_here(task)) for name, task in tasks)
            return
        begun: dict[Future[Result | UserError], str] = {}
        source = iter(tasks)
        try:
            while True:
                begun |= {self._submit(name, task): name for name, task in islice(source, max(1, ahead) - len(begun))}
                if not begun:
                    return
                for future in wait(begun, return_when=FIRST_COMPLETED).done:
                    yield begun.pop(future), future.result()
        finally:
            for future in begun:
                future.cancel()

    def _answer_here(self, task: Task) -> Result | UserError:
        self._here = self._here or self._make()
        try:
            return self._here(task)
        except UserError as error:
            return error

    def _submit(self, name: str, task: Task) -> "Future[Result | UserError]":
        if name not in self._homes:
            self._homes[name] = min(self._workers, key=lambda worker: worker.waiting)
        return self._homes[name].submit(name, task)


class _Worker:
    """A process, replaced when it ends, and the thread of this process that hands it its tasks."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], deadline_seconds: float, attempts: int) -> None:
        self._make, self._deadline_seconds, self._attempts = make, deadline_seconds, attempts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._lock = threading.Lock()  # for what follows, which both threads change
        self._child: _Child | None = None
        self._closed = False
        self._lost: dict[str, LostError] = {}
        self.waiting = 0  # tasks without an answer

    def submit(self, name: str, task: object) -> "Future[Any]":
        """Have a task answered when those before it are."""
        with self._lock:
            self.waiting += 1
        future = self._thread.submit(self._answer, name, task)
        future.add_done_callback(self._one_less)
        return future

    def close(self) -> None:
        """End the process and the thread."""
        with self._lock:
            self._closed = True
        if self._child is not None:
            self._child.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._child is not None and not self._child.is_over:
            self._child.end()

    def _one_less(self, _: "Future[Any]") -> None:
        with self._lock:
            self.waiting -= 1

    def _answer(self, name: str, task: object) -> Any:
        """Return the process's answer, or why there is none."""
        attempts = 0
        while name not in self._lost:
            answer, how = self._started().ask(task, self._deadline_seconds)
            if how is None:
                return answer
            attempts += 1
            if not how or attempts == self._attempts:
                self._lost[name] = _lost(name, how, self._deadline_seconds)
        return self._lost[name]

    def _started(self) -> "_Child":
        """Return a process that is ready for a task.

        Raises:
            RuntimeError: there is none to be had, or no longer.
        """
        for _ in range(STARTS):
            with self._lock:
                if self._closed:
                    raise RuntimeError("the pool is closed")
                if self._child is None or self._child.is_over:
                    self._child = _Child(self._make, self._deadline_seconds)
            how = self._child.wait_until_ready()
            if how is None:
                return self._child
        raise RuntimeError(f"a worker ended before its first file ({how or 'it did not start'})")


class _Child:
    """A process, and this end of the pipe to it."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], deadline_seconds: float) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, deadline_seconds), daemon=True)
        with _CHILDREN, deaf_to_interrupts():
            self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self._make = make
        self._is_ready = False

    def wait_until_ready(self) -> str | None:
        """Return None when it is, else how it has ended."""
        if not self._is_ready:
            # Not as an argument: who starts a process waits until it has read those, and others wait to start theirs.
            _, how = self.ask(self._make, START_SECONDS)
            self._is_ready = how is None
            return how
        return None

    def ask(self, task: object, seconds: float) -> tuple[Any, str | None]:
        """Return the answer and None, or no answer and how the process has ended: "" if it was late."""
        with suppress(OSError):  # it has died in the meantime: that there is no answer will say so
            _send(self._connection, task)
        return self._reply(seconds)

    @property
    def is_over(self) -> bool:
        """Whether the process has ended and nothing of it is left."""
        return self._connection.closed

    def kill(self) -> None:
        """End the process, whatever it does; whoever waits for its answer is told."""
        with _CHILDREN:
            if not self.is_over:
                self._process.kill()

    def end(self) -> int:
        """End the process, if it has not, and return its exit code; one that waits for a dead disk is left to it."""
        with _CHILDREN:
            self._process.kill()
            self._process.join(1.0)
            code = self._process.exitcode
            if code is not None:
                self._process.close()
            self._connection.close()
        return code or 0

    def _reply(self, seconds: float) -> tuple[Any, str | None]:
        try:
            if not self._connection.poll(seconds):  # an answer in time counts, however late it is looked at
                self.end()
                return None, ""
            answer, bug = _receive(self._connection)
        except (EOFError, OSError):
            with _CHILDREN:
                self._process.join(EXIT_SECONDS)  # it may still be on its way out
            code = self.end()
            return None, signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if bug is not None:
            raise RuntimeError(f"a worker failed:\n{bug}")
        return answer, None


def is_worker() -> bool:
    """Whether this process answers the tasks of another one, and shares the cores with others that do."""
    return _serves


def _serve(connection: Connection, deadline_seconds: float) -> None:
    """Answer tasks in a process of its own, until there is nobody left who asks."""
    global _serves  # noqa: PLW0603 - what a process is for is a fact about the process
    _serves = True
    end_with_parent()
    read = _receive(connection)()
    with suppress(EOFError, OSError):
        _send(connection, (None, None))
        while True:
            task = _receive(connection)
            # Should nobody be left to end it, a decoder that hangs is ended by the system.
            signal.setitimer(signal.ITIMER_REAL, 2 * deadline_seconds + 1)
            reply = _reply(read, task)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(connection, reply)


def _reply(read: Callable[[Any], Any], task: object) -> tuple[Any, str | None]:
    """Return the answer, and the traceback of an error that is not meant for people."""
    try:
        return read(task), None
    except UserError as error:
        return error, None
    except Exception:
        return None, traceback.format_exc()


def _lost(name: str, how: str, deadline_seconds: float) -> LostError:
    if not how:
        return LostError(f"{name} gave no answer within {deadline_seconds:g} s: its process was ended.", how)
    memory = "; the system does so when memory runs out: use fewer workers" if how == "SIGKILL" else ""
    return LostError(f"{name} took the process along that read it ({how}{memory}).", how)


def _send(connection: Connection, item: object) -> None:
    """Send plain data and arrays; these without a copy, because clips are large."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((content, [view.nbytes for view in views]))
    for view in views:
        left = view
        while left:
            left = left[os.write(connection.fileno(), left) :]


def _receive(connection: Connection) -> Any:
    content, sizes = connection.recv()
    views = [memoryview(bytearray(size)) for size in sizes]
    for view in views:
        left = view
        while left:
            read = os.readv(connection.fileno(), [left])
            if not read:
                raise EOFError
            left = left[read:]
    return pickle.loads(content, buffers=views)  # noqa: S301 - it comes from a process of our own
