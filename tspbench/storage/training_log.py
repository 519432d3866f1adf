"""The log of a training: log.csv with a row a step, epochs.csv with a row an epoch, TensorBoard on request."""

import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tspbench.errors import UserError
from tspbench.storage.atomic import write_text

LOG_FILE: Final = "log.csv"
EPOCHS_FILE: Final = "epochs.csv"
SECONDS_BETWEEN_WRITES: Final = 2.0


class TrainingLog:
    """Rows of one training, each step and each epoch once, however often it was interrupted.

    Rows of steps come to the disk every `SECONDS_BETWEEN_WRITES`, whole but for a last one that a kill may cut.

    Args:
        folder: of the training.
        epochs: figures of the epochs that are done; rows behind them are of a run that was killed, and cut off.
        step: how many steps of the next epoch are done; likewise.
        tensorboard: None, or how many steps an epoch has: the same figures for TensorBoard in ``folder/tensorboard``.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, epochs: Sequence[Mapping[str, float]], step: int, tensorboard: int | None = None
    ) -> None:
        self._epochs, self._epoch_steps = len(epochs), tensorboard or 0
        self._waiting: list[Mapping[str, float]] = []
        self._written = time.monotonic()
        self._steps_file = _Table(folder / LOG_FILE)
        self._steps_file.keep(lambda row: _place(row) < (len(epochs), step))
        self._epochs_file = _Table(folder / EPOCHS_FILE)
        self._epochs_file.keep(lambda _: False)
        self._epochs_file.append([{"epoch": number, **figures} for number, figures in enumerate(epochs)])
        self._board = None if tensorboard is None else _board(folder, len(epochs) * tensorboard + step)

    def add(self, row: Mapping[str, float]) -> None:
        """Note a step.

        Args:
            row: figures by name, the same names each time, ``epoch`` and ``step`` first.
        """
        self._waiting.append(row)
        if self._board is not None:
            place = int(row["epoch"]) * self._epoch_steps + int(row["step"])
            for name in list(row)[2:]:
                self._board.add_scalar(name, row[name], place)
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Bring all rows to the disk.

        Raises:
            UserError: the disk is full.
        """
        self._written = time.monotonic()
        self._steps_file.append(self._waiting)
        self._waiting = []

    def add_epoch(self, figures: Mapping[str, float]) -> None:
        """Note what came of an epoch.

        Raises:
            UserError: the disk is full.
        """
        self._epochs_file.append([{"epoch": self._epochs, **figures}])
        self._epochs += 1
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"epoch/{name}", value, self._epochs * self._epoch_steps)

    def close(self) -> None:
        """Write what is left, as far as the disk takes it."""
        with suppress(UserError):
            self.write()
        if self._board is not None:
            self._board.close()


class _Table:
    """A CSV file that grows row by row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: list[str] = []

    def keep(self, wanted: Callable[[Sequence[str]], bool]) -> None:
        """Leave the rows that are wanted, and of these the whole ones."""
        try:
            text = self._path.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        header, *rows = [next(csv.reader([line]), []) for line in lines] or [[]]
        kept = [row for row in rows if len(row) == len(header) and wanted(row)]
        self._header = header if kept else []
        shorter = "".join(map(_line, [header, *kept])) if kept else ""
        if shorter != text:
            write_text(self._path, shorter)

    def append(self, rows: Sequence[Mapping[str, float]]) -> None:
        if not rows:
            return
        new = [] if self._header else [_line(rows[0])]
        self._header = self._header or list(rows[0])
        new += [_line([row.get(name, "") for name in self._header]) for row in rows]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write("".join(new))
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written ({os.strerror(error.errno or 0)}): make room, then run the same "
                "command again; what is finished is kept."
            ) from error


def _place(row: Sequence[str]) -> tuple[float, float]:
    """Return epoch and step of a row; one that tells none is behind all others."""
    try:
        return int(row[0]), int(row[1])
    except (ValueError, IndexError):
        return float("inf"), 0


def _line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra, and slow to import

    # What TensorBoard has of later steps is of a run that was killed.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step, flush_secs=10)
