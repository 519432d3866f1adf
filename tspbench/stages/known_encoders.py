"""Encoders by what feature files say of their weights: those of a run, and those in files that a user names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tspbench.config import choose
from tspbench.encoders import ENCODERS, AnyEncoder, load_encoder, new_encoder
from tspbench.errors import UserError
from tspbench.own_code import as_named, is_own
from tspbench.stages.pretrain import ENCODER_FILE
from tspbench.storage.checkpoints import Weights
from tspbench.storage.hashes import hash_file
from tspbench.storage.records import Record, read_record

EXTRACTED: Final = "the features were extracted with"
_RANDOM: Final = re.compile(r"random, seed (\d+)")


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder whose weights are at hand.

    Args:
        kind: key of `ENCODERS`, or what the user calls an encoder of their own.
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
        own: names of encoders and localizers of the user's own, which they have let in.
    """

    def __init__(self, run: Path, checkpoints: Sequence[Path] = (), own: Sequence[str] = ()) -> None:
        self._run, self._checkpoints, self._own = run, checkpoints, own

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The files of weights by their SHA-256; those of the run stand before equal others."""
        of_run = sorted(self._run.glob(f"pretrain/*/{ENCODER_FILE}"))
        return {hash_file(path): path for path in (*reversed(self._checkpoints), *of_run)}

    def find(self, kind: str, weights: str, purpose: str = EXTRACTED) -> KnownEncoder:
        """Return the encoder of a kind with some weights.

        Args:
            kind: its name.
            weights: as the attributes of feature files and the records of pretrainings say it.
            purpose: what they are for, as a sentence about them ends that says they are missing.

        Raises:
            UserError: no file holds these weights, or the kind is none of `ENCODERS` and nobody has named it; no code
                that a file names is run.
        """
        found = self.promised(kind, weights, purpose)
        by_itself = is_own(found.kind) and found.path is None and not _is_public(kind, weights)
        if by_itself and _comes_with(found.kind) != weights:
            raise UserError(
                f"{self._run}: {found.kind} is not what {purpose}: its code, or the weights that it loads, have "
                "changed since, or it had the weights of a file, which --checkpoint FILE names."
            )
        return found

    def promised(self, kind: str, weights: str, purpose: str = EXTRACTED) -> KnownEncoder:
        """Return what `find` does, without a look at the weights that an encoder of the user's own comes with.

        So no code is run, and no file but those of weights is read.

        Raises:
            UserError: see `find`.
        """
        if is_own(kind):
            kind = self._named(kind)
        elif kind not in ENCODERS:
            choose(f"encoder of {self._run}", kind, ENCODERS)
        if path := self._files.get(weights):
            return KnownEncoder(kind, weights, path)
        self._check_written(kind, weights)
        if is_own(kind) or _is_public(kind, weights):
            return KnownEncoder(kind, weights, None)
        raise UserError(
            f"{self._run}: expected the weights of the encoder {kind} (SHA-256 {weights[:12]}…) in pretrain/ or in a "
            f"file named with --checkpoint, found {len(self._files)} other file(s): add --checkpoint FILE with the "
            f"weights that {purpose}."
        )

    def names(self, name: str) -> bool:
        """Whether an encoder or a localizer is none of somebody's own, or the user has named it."""
        return not is_own(name) or as_named(name, self._own) is not None

    def _check_written(self, kind: str, weights: str) -> None:
        """Say of weights that are missing that the run once wrote them, if it did.

        Raises:
            UserError: it did.
        """
        for folder in sorted(self._run.glob("pretrain/*/")):
            record, path = read_record(folder), folder / ENCODER_FILE
            if record is not None and record.outputs.get(ENCODER_FILE) == weights:
                raise UserError(
                    f"{path}: expected the weights of the encoder {kind} as the run wrote them (SHA-256 "
                    f"{weights[:12]}…), found {'another file' if path.is_file() else 'no file'}: run the experiment "
                    "again with the same --out, or add --checkpoint FILE with a copy."
                )

    def _named(self, kind: str) -> str:
        """Return what the user calls the encoder of their own that features name.

        Raises:
            UserError: they have not named it.
        """
        if named := as_named(kind, self._own):
            return named
        raise UserError(
            f"{self._run}: the encoder {kind} is somebody's own code, which runs only where you name it yourself, not "
            f"because a file says so: look at it, and add --encoder {kind}."
        )


def _is_public(kind: str, weights: str) -> bool:
    """Whether weights are had without a file: torchvision's, or drawn from a seed."""
    published = weights == f"torchvision's of {kind}" or weights.startswith("https://")
    return published or _RANDOM.fullmatch(weights) is not None


def _comes_with(name: str) -> object:
    """Return what identifies the weights that a user's own encoder loads by itself."""
    return load_encoder(name, None)[1].card["source"]
