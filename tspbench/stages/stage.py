"""A stage: run once, recorded, skipped when finished for the same inputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tspbench import __version__, ranks, watch
from tspbench.errors import UserError
from tspbench.provenance import provenance
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data, hash_file
from tspbench.storage.records import Record, fingerprint, outputs_are_whole, read_record, write_record
from tspbench.storage.training_states import remove_states


def run_stage(
    stage: str,
    folder: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    outputs: Sequence[str],
    work: Callable[[str], Mapping[str, object]],
    *,
    shared: bool = False,
) -> Record:
    """Run ``work`` unless the same work is finished in ``folder``.

    Of several processes the first one decides that and writes the record, which all return.

    Args:
        stage: the verb.
        folder: where outputs and record lie.
        settings: everything that decides the result, as plain data.
        inputs: name → content hash of what the stage reads.
        outputs: names of the files that ``work`` writes into ``folder``.
        work: called with the fingerprint (a key for its own partial results); returns figures for the record.
        shared: all processes do ``work`` together; else the first does it alone, while the others wait.

    Raises:
        UserError: the folder cannot be made, or the processes do not see the same inputs.
    """
    key = fingerprint(stage, settings, inputs, __version__)
    with watch.stage(f"{stage} in {folder}", shared=shared):
        if len(set(ranks.everybodys(key))) > 1:
            raise UserError(
                f"The processes do not see the same inputs of the stage {stage} in {folder}: data, and the run's "
                "folder (--out), must be the same on all machines."
            )
        before = ranks.by_first(lambda: _finished(folder, key))
        if before is not None:
            return before
        start = time.monotonic()
        figures = work(key) if shared else {}

        def finish() -> tuple[Record, dict[Path, int]]:
            record = Record(
                stage=stage,
                status="finished",
                fingerprint=key,
                settings=dict(settings),
                inputs=dict(inputs),
                figures=dict(figures if shared else work(key)),
                outputs={name: hash_file(folder / name) for name in outputs},
                seconds=round(time.monotonic() - start, 2),
                provenance=provenance(),
            )
            write_record(folder, record)
            remove_states(folder)
            return record, {folder / name: (folder / name).stat().st_size for name in outputs}

        record, sizes = ranks.by_first(finish)
        ranks.wait_for_files(sizes)
        return record


def _finished(folder: Path, key: str) -> Record | None:
    """Return the record of the same work, if it is whole; else make room for it."""
    before = read_record(folder)
    if before and before.fingerprint == key and outputs_are_whole(folder, before):
        return before
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}): choose another --out.") from error
    return None


def features_hash(files: FeatureFiles) -> str:
    """Return one hash of all files of a feature set."""
    return hash_data(file_hashes(files))


def file_hashes(files: FeatureFiles) -> dict[str, str]:
    """Return the content hashes of a feature set's files, by their number."""
    return {f"features {number}": hash_file(path) for number, path in enumerate(files.paths)}
