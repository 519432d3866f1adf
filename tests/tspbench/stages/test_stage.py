import pytest

from tspbench.stages.stage import run_stage
from tspbench.storage.atomic import write_text
from tspbench.storage.records import read_record


@pytest.fixture
def stage(tmp_path):
    """Return a stage that writes its key, and the keys of all its runs."""
    runs = []

    def run(settings=None, inputs=None, fail=False):
        def work(key):
            runs.append(key)
            if fail:
                raise RuntimeError("half way")
            write_text(tmp_path / "out.txt", key)
            return {"runs": len(runs)}

        return run_stage("verb", tmp_path, settings or {"a": 1}, inputs or {"in": "x"}, ["out.txt"], work)

    return run, runs


def test_a_finished_stage_is_recorded_and_skipped(stage, tmp_path):
    run, runs = stage
    record = run()
    assert (record.stage, record.status, record.figures, record.settings) == ("verb", "finished", {"runs": 1}, {"a": 1})
    assert record.fingerprint == runs[0] == (tmp_path / "out.txt").read_text()
    assert "torch" in record.provenance["packages"]
    assert read_record(tmp_path) == record
    assert run() == record
    assert len(runs) == 1


@pytest.mark.parametrize("change", [{"settings": {"a": 2}}, {"inputs": {"in": "y"}}])
def test_a_stage_runs_again_when_what_it_depends_on_changes(stage, change):
    run, runs = stage
    first = run()
    assert run(**change).fingerprint != first.fingerprint
    assert len(runs) == 2


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("other")])
def test_a_stage_runs_again_when_its_output_is_gone_or_another(stage, tmp_path, damage):
    run, runs = stage
    run()
    damage(tmp_path / "out.txt")
    run()
    assert len(runs) == 2


def test_a_stage_that_fails_leaves_no_record(stage, tmp_path):
    run, runs = stage
    with pytest.raises(RuntimeError, match="half way"):
        run(fail=True)
    assert read_record(tmp_path) is None
    assert run().figures == {"runs": 2}
    assert runs[0] == runs[1]  # the key under which partial results are found again
