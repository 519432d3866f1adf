"""A stage: run once, recorded, skipped when finished for the same inputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tspbench import __version__
from tspbench.errors import UserError
from tspbench.provenance import provenance
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data, hash_file
from tspbench.storage.records import Record, fingerprint, outputs_are_whole, read_record, write_record


def run_stage(
    stage: str,
    folder: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    outputs: Sequence[str],
    work: Callable[[str], Mapping[str, object]],
) -> Record:
    """Run ``work`` unless the same work is finished in ``folder``.

    Args:
        stage: the verb.
        folder: where outputs and record lie.
        settings: everything that decides the result, as plain data.
        inputs: name → content hash of what the stage reads.
        outputs: names of the files that ``work`` writes into ``folder``.
        work: called with the fingerprint (a key for its own partial results); returns figures for the record.
    """
    key = fingerprint(stage, settings, inputs, __version__)
    before = read_record(folder)
    if before and before.fingerprint == key and outputs_are_whole(folder, before):
        return before
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}): choose another --out.") from error
    start = time.monotonic()
    figures = work(key)
    record = Record(
        stage=stage,
        status="finished",
        fingerprint=key,
        settings=dict(settings),
        inputs=dict(inputs),
        outputs={name: hash_file(folder / name) for name in outputs},
        figures=dict(figures),
        seconds=round(time.monotonic() - start, 2),
        provenance=provenance(),
    )
    write_record(folder, record)
    return record


def features_hash(files: FeatureFiles) -> str:
    """Return one hash of all files of a feature set."""
    return hash_data(file_hashes(files))


def file_hashes(files: FeatureFiles) -> dict[str, str]:
    """Return the content hashes of a feature set's files, by their number."""
    return {f"features {number}": hash_file(path) for number, path in enumerate(files.paths)}
