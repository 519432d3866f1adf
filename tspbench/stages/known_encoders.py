"""Encoders by what feature files say of their weights: those of a run, and those in files that a user names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tspbench.encoders import ENCODERS, AnyEncoder, load_encoder, new_encoder
from tspbench.errors import UserError
from tspbench.stages.pretrain import ENCODER_FILE
from tspbench.storage.checkpoints import Weights
from tspbench.storage.hashes import hash_file
from tspbench.storage.records import Record, read_record

_RANDOM: Final = re.compile(r"random, seed (\d+)")


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder whose weights are at hand.

    Args:
        kind: key of `ENCODERS`.
        weights: what identifies its weights: the SHA-256 of their file, or where they come from.
        path: their file; None where they are torchvision's, or random.
    """

    kind: str
    weights: str
    path: Path | None

    def built(self) -> tuple[AnyEncoder, Weights]:
        """Return the encoder in evaluation mode, and its weights with the heads and the card of their file.

        Raises:
            UserError: the file does not fit, or torchvision's weights cannot be fetched.
        """
        if random := _RANDOM.fullmatch(self.weights):
            return new_encoder(self.kind, int(random[1])).eval(), Weights(self.kind, {}, {}, {})
        return load_encoder(self.kind, self.path)

    @property
    def pretraining(self) -> Record | None:
        """The record of the pretraining that wrote the file, if it lies beside it."""
        record = None if self.path is None else read_record(self.path.parent)
        wrote = record is not None and self.path is not None and record.outputs.get(self.path.name) == self.weights
        return record if wrote else None


class KnownEncoders:
    """The weights among which an encoder is looked for.

    Args:
        run: folder of a run.
        checkpoints: more files of weights.
    """

    def __init__(self, run: Path, checkpoints: Sequence[Path] = ()) -> None:
        self._run, self._checkpoints = run, checkpoints

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The files of weights by their SHA-256; those of the run stand before equal others."""
        of_run = sorted(self._run.glob(f"pretrain/*/{ENCODER_FILE}"))
        return {hash_file(path): path for path in (*reversed(self._checkpoints), *of_run)}

    def find(self, kind: str, weights: str) -> KnownEncoder:
        """Return the encoder of a kind with some weights.

        Args:
            kind: its name.
            weights: as the attributes of feature files and the records of pretrainings say it.

        Raises:
            UserError: no file holds these weights, or the kind is none of `ENCODERS`; no code that a file names is run.
        """
        if kind not in ENCODERS:
            raise UserError(
                f"{self._run}: the encoder {kind!r} is none of tspbench's own ({', '.join(sorted(ENCODERS))}), and no "
                "code is run because a file names it: extract the features of the videos with `tspbench extract` "
                "instead."
            )
        if path := self._files.get(weights):
            return KnownEncoder(kind, weights, path)
        if _RANDOM.fullmatch(weights) or weights == f"torchvision's of {kind}" or weights.startswith("https://"):
            return KnownEncoder(kind, weights, None)
        raise UserError(
            f"{self._run}: expected the weights of the encoder {kind} (SHA-256 {weights[:12]}…) in pretrain/ or in a "
            f"file named with --checkpoint, found {len(self._files)} other file(s): add --checkpoint FILE with the "
            "weights that the features were extracted with."
        )
