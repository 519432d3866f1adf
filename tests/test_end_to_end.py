"""The smoke recipe from videos to the table: once, again, elsewhere, killed in every stage, and step by step.

Every run is a process of its own, forked from a server that has loaded the libraries already: a run can be killed, and
does not depend on what other tests did to this process.
"""

import ctypes
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 240  # far above what a run takes on one slow core: it is there so that a hang becomes a failure
REFERENCES = ["Whole video", "Upper mark of the grid"]
ROWS = [
    "Random features (floor)",
    "TAC on trimmed videos",
    "TAC on the target set",
    "TSP on the target set",
    "LoFi on the target set",
]
M_PERTURB = -6  # glibc's mallopt: fill memory with a byte when it is allocated and freed

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_end_to_end", "tspbench.experiment", "tspbench.verbs"])


def run(*arguments: object, log: Path, kill_at: str | None = None, memory: int | None = None) -> int:
    """Run a command in a process of its own; return its exit code.

    Args:
        arguments: of tspbench.
        log: file for stdout and stderr.
        kill_at: SIGKILL takes the process when it tells or does this, such as "pretrain tac: 4/6".
        memory: byte that fresh memory is filled with, so that reading what was never written shows.
    """
    process = PROCESSES.Process(target=_child, args=([str(item) for item in arguments], log, kill_at, memory))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{arguments} hangs: {log.read_text()}")
    return process.exitcode


def _child(arguments: list[str], log: Path, kill_at: str | None, memory: int | None) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if memory is not None:
        ctypes.CDLL(None).mallopt(M_PERTURB, memory)
    if kill_at is not None:
        _arm(kill_at)
    from tspbench.cli import app

    app(arguments)


def _arm(point: str) -> None:
    """Let this process be killed at ``point``: a step of progress, or a file that is about to appear under its name."""
    from tspbench import progress

    def reached(event: str) -> None:
        if event.startswith(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def lines(title: str) -> Callable[..., None]:
        return lambda done, total, note="": reached(f"{title}: {done}/{total}")

    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        reached(f"write {target.parent.parent.name}/{target.parent.name}/{target.name}")
        return rename(self, target)

    progress._Lines = lines
    Path.replace = replace


def results(folder: Path) -> dict[str, bytes]:
    """Return everything that is a result: the table, and each row's predictions, sentences and statistics."""
    localized = [path for name in ("predictions.json.gz", "statistics.npz") for path in folder.glob(f"*/*/*/{name}")]
    told = [
        path for name in ("captions*.json", "statistics.npz", "subtitles/v*") for path in folder.glob(f"*/*/*/*/{name}")
    ]
    files = [*localized, *told]
    files.append(folder / "table.md")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The smoke recipe, run once without an interruption; tests must leave the folder as it is."""
    folder = tmp_path_factory.mktemp("finished")
    log = folder.with_suffix(".log")
    assert run("run", "smoke", "--out", folder, "--device", "cpu", log=log) == 0, log.read_text()
    return folder


def test_the_table_has_a_row_for_every_feature_set(finished):
    lines = (finished / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    tal, proposals = ["mAP@0.50", "@0.75", "@0.95", "average"], ["AR@1", "@10", "@100", "AUC"]
    captions = [[f"{part}: BLEU@3", "@4", "METEOR", "95 % interval"] for part in ("true segments", "proposals")]
    assert rows[0] == ["features", *tal, "95 % interval", *proposals, "95 % interval", *captions[0], *captions[1]]
    mains = ("average mAP", "AUC", "METEOR on true segments", "METEOR on proposals")
    end = rows.index(["difference", *(head for main in mains for head in (main, "95 % interval", "p"))])
    assert [row[0] for row in rows[2:end]] == REFERENCES + ROWS
    for row in rows[2:end]:
        reference = row[0] in REFERENCES
        assert (row[11:] == ["—"] * 8) == reference, "there are no reference rows of captions"
        for cells in (row[1:6], row[6:11], *([] if reference else [row[11:15], row[15:19]])):
            low, _, high = cells[-1].partition(" to ")
            assert all(0 <= float(cell) <= 100 for cell in cells[:-1])
            assert float(low) <= float(cells[-2]) <= float(high)
    sample = rows.index(["segment", "true", *ROWS])
    assert len(rows[end + 2 : sample]) == len(ROWS) * (len(ROWS) - 1) // 2
    assert len(rows[sample + 2 :]) == 4
    # Of each captioned row sentences for two reference files and for proposals, scores of both, subtitles of 6 videos.
    assert len(results(finished)) == 1 + 2 * 2 * len(REFERENCES + ROWS) + (3 + 2 + 2 * 6) * len(ROWS)


def test_every_stage_leaves_a_record_with_its_provenance(finished):
    records = [json.loads(path.read_bytes()) for path in finished.rglob("record.json")]
    stages = {record["stage"] for record in records}
    assert stages == {
        "generate", "pretrain", "extract", "random features", "class scores", "check features", "train",
        "predict", "score", "compare", "words", "train generator",
    }  # fmt: skip
    for record in records:
        assert record["status"] == "finished"
        assert record["provenance"]["packages"]["torch"]
        assert record["provenance"]["machine"]["system"]
        assert record["outputs"] or record["stage"] in ("check features", "compare")
        assert all(len(sha) == 64 for sha in record["outputs"].values())
    assert all("videos:6|" in record["figures"]["signature"] for record in records if record["stage"] == "score")


def test_a_second_run_does_nothing(finished, tmp_path):
    """Only the table and what says which run it is are written anew, with the same content."""
    again = shutil.copytree(finished, tmp_path / "again")
    before, content = state(again), results(again)
    log = tmp_path / "log"
    assert run("run", "smoke", "--out", again, "--device", "cpu", log=log) == 0
    after = state(again)
    assert {path.name for path in after if after[path] != before.get(path)} <= {"table.md", "run.json", "recipe.toml"}
    assert set(after) == set(before)
    assert results(again) == content
    assert ": 1/" not in log.read_text(), "no stage told of progress"


def test_another_folder_gets_the_same_result(finished, tmp_path):
    """The second run finds other bytes in fresh memory: no result may hang on what was never written."""
    assert run("run", "smoke", "--out", tmp_path, "--device", "cpu", log=tmp_path / "log", memory=170) == 0
    assert results(tmp_path) == results(finished)
    videos = sorted((finished / "data").rglob("*.mp4"))
    assert len(videos) == 12 + 6 + 36
    for video in videos:
        assert (tmp_path / video.relative_to(finished)).read_bytes() == video.read_bytes()


def test_a_run_killed_in_every_stage_ends_in_the_same_table(finished, tmp_path):
    """One run is killed at each point in turn and started again."""
    points = [
        "generate target videos: 7/18",
        "write data/target/annotations.json",
        "pretrain trimmed: 1/",
        "pretrain tac: 4/6",  # in the second epoch: the first is kept
        "write tac/training/state-0002-000000.pt",
        "write pretrain/tac/encoder.safetensors",
        "extract trimmed: 16/18",  # sixteen videos are a part, which is kept
        "write features/trimmed/features.h5",
        "pretrain tsp: 6/10",
        "pretrain lofi: 4/6",
        "write pretrain/lofi/encoder.safetensors",
        "write captioning/words/words.json",
        "predict · TAC on the target set: 4/6",
        "write tac-on-the-target-set/predict/predictions.json.gz",
        "write tsp-on-the-target-set/score/statistics.npz",
        "compare rows · tal: 500/1000",
        "train bmn · TSP on the target set: 2/3",
        "train bmt · TAC on the target set: 5/",
        "describe · TSP on the target set: ",
        "write ground-truth/predict/captions_2.json",
        "train proposal generator · TSP on the target set: 4/",
        "write predict/subtitles/validation_0003.vtt",
        f"write {tmp_path.name}/out/table.md",
    ]
    out, log = tmp_path / "out", tmp_path / "log"
    for point in points:
        code = run("run", "smoke", "--out", out, "--device", "cpu", log=log, kill_at=point)
        assert code == -signal.SIGKILL, f"{point} was not reached: {log.read_text()}"
        assert not (out / "table.md").exists()
    assert run("run", "smoke", "--out", out, "--device", "cpu", log=log) == 0
    found, expected = results(out), results(finished)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert set(found) == set(expected)


def test_report_on_an_unfinished_run(finished, tmp_path):
    out, log = shutil.copytree(finished, tmp_path / "out"), tmp_path / "log"
    (out / "table.md").unlink()
    (out / "tal" / "tac-on-the-target-set" / "score" / "record.json").unlink()
    assert run("report", out, log=log) == 0
    before, after = (finished / "table.md").read_text().splitlines(), (out / "table.md").read_text().splitlines()
    row = "| TAC on the target set |"
    (old,), (new,) = ([line for line in lines if line.startswith(row)] for lines in (before, after))
    assert new.startswith(f"{row} — | — | — | — | — | ")
    assert new.split("|")[7:] == old.split("|")[7:], "the other task is finished"
    (line,) = (line for line in after if line.startswith("| TSP on the target set − TAC on the target set"))
    assert line.split("|")[2:5] == [" — "] * 3, "it cannot be compared"
    assert "—" in log.read_text()


def test_single_commands_reach_a_table(finished, tmp_path):
    """pretrain, extract and evaluate on a user's folder; without settings of their own but for the epochs."""
    dataset, log = finished / "data" / "target", tmp_path / "log"
    encoder = tmp_path / "tac" / "pretrain" / "tac" / "encoder.safetensors"
    pretrain = ["pretrain", "--dataset", dataset, "--method", "tac", "--encoder", "tiny", "--out", tmp_path / "tac"]
    assert run(*pretrain, "--set", "fit.epochs=1", log=log) == 0, log.read_text()
    extract = ["extract", "--checkpoint", encoder, "--dataset", dataset, "--stride-frames", 12]
    scores = ["--class-scores", tmp_path / "labels.json"]
    assert run(*extract, "--out", tmp_path / "tac.h5", *scores, log=log) == 0, log.read_text()
    features = ["--features", f"mine={tmp_path / 'tac.h5'}", "--features", f"demo={finished}/features/tsp/features.h5"]
    small = [item for size in ("steps=16", "max_duration=16", "hidden_2d=16") for item in ("--set", f"config.{size}")]
    evaluate = ["evaluate", "--task", "tal", "--dataset", dataset, *features, *scores, "--out", tmp_path / "table"]
    assert run(*evaluate, *small, "--set", "fit.epochs=1", log=log) == 0, log.read_text()
    table = (tmp_path / "table" / "table.md").read_text()
    assert "| mine | " in table
    assert "| demo | " in table
    assert "—" not in table
