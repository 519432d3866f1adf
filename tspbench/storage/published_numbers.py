"""What papers state: the rows of published.toml, each number with where it was read."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from tspbench.config import Settings, choose, validated
from tspbench.errors import UserError
from tspbench.storage.recipes import read_toml

PATH: Final = Path(__file__).parents[1] / "published.toml"
Mark = Literal["C1", "C2", "10.1"]
Percent = Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,2}$")]  # as printed there: the decimals say how exact it is


class PublishedCell(Settings):
    """One number.

    Attributes:
        value: percent.
        mark: how it is known: "C1", read in the paper or the authors' repository; "C2", quoted by somebody else;
            "10.1", what the abstract of TSP and the localizer's paper add up to.
        source: a sentence that says where.
    """

    value: Percent
    mark: Mark
    source: str


class PublishedRow(Settings):
    """A row of numbers that were published for some features.

    Attributes:
        key: of this row.
        dataset: name of the data set.
        task: key of `evaluation.METRICS`.
        part: which of the task's tables, as `tspbench.storage.runs.TaskTable.part` has it.
        localizer: name of the localizer, or of the captioner.
        features: a plain name.
        encoder: key of `tspbench.encoders.ENCODERS` that made them; "": rows for other encoders are not told apart.
        protocol: key of `evaluation.PROTOCOLS` of the task, whose rules it was scored by.
        video_set: key of `evaluation.video_sets.VIDEO_SETS`; "": it is not stated on which videos.
        mark: of the numbers without one of their own, see `PublishedCell`.
        source: of the numbers without one of their own.
        metrics: metric as in run records → percent.
    """

    key: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    dataset: Literal["activitynet", "thumos14", "activitynet-captions"]
    task: Literal["tal", "proposals", "captioning"]
    part: Literal["", "ground-truth", "proposals"] = ""
    localizer: Literal["gtad", "bmn", "pgcn", "actionformer", "bmt"]
    features: str
    encoder: str = ""
    protocol: str
    video_set: str = ""
    mark: Mark
    source: str
    metrics: Annotated[dict[str, Percent | PublishedCell], Field(min_length=1)]

    @property
    def cells(self) -> dict[str, PublishedCell]:
        """Metric → number with mark and source."""
        return {
            metric: PublishedCell(value=cell, mark=self.mark, source=self.source) if isinstance(cell, str) else cell
            for metric, cell in self.metrics.items()
        }


class _File(Settings):
    row: list[PublishedRow]


def published_rows() -> Mapping[str, PublishedRow]:
    """Return all rows by their keys."""
    return read_published(PATH)


def published(key: str) -> PublishedRow:
    """Return the row of a key.

    Raises:
        UserError: there is none; names the nearest and all that exist.
    """
    rows = published_rows()
    return rows[choose("row of published numbers", key, rows)]


def published_of(keys: Mapping[str, str], encoder: str) -> dict[str, str]:
    """Return the keys of published rows that features of an encoder may stand beside.

    A row of another encoder gives way to that with the encoder's name behind its key, as "lofi-acp" does to
    "lofi-acp-tsm34", and where there is no such row, to none.

    Args:
        keys: task → key.
        encoder: key of `tspbench.encoders.ENCODERS`.
    """
    rows, found = published_rows(), {}
    for task, key in keys.items():
        others = f"{key}-{encoder.replace('_', '')}"
        if published(key).encoder in ("", encoder):
            found[task] = key
        elif others in rows:
            found[task] = others
    return found


@cache
def read_published(path: Path) -> Mapping[str, PublishedRow]:
    """Read a file of published numbers.

    Raises:
        UserError: it does not fit, or two rows have one key.
    """
    rows: dict[str, PublishedRow] = {}
    for row in validated(_File, read_toml(path), str(path)).row:
        if row.key in rows:
            raise UserError(f"{path}: two rows have the key {row.key!r}; give each one of its own.")
        rows[row.key] = row
    return rows
