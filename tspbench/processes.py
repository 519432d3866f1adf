"""Worker processes: deaf to Ctrl-C, and gone when whoever started them is."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C: this one does, and ends them."""
    resource_tracker.ensure_running()  # the first process starts this one, too, which ends with SIGINT unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this worker when the process that started it is gone, even if that was killed."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
