import pytest
from rich.console import Console

from tests.tspbench.helpers import one_sentence
from tspbench.report import markdown, result_table, terminal, write_table
from tspbench.storage.records import Record, write_record
from tspbench.storage.runs import Row, Run, write_run

ACTIVITYNET = {"mAP@0.50": 0.5, "mAP@0.55": 0.45, "mAP@0.75": 0.3333333, "mAP@0.95": 0.1, "average_mAP": 0.3581}


def score(folder, row, metrics, signature="mAP|anet", interval=(0.3, 0.412345)):
    figures = {"metrics": metrics, "signature": signature, "intervals": {"average_mAP": interval}}
    record = Record("score", "finished", "f", {}, {}, {}, figures, 1.0, {})
    write_record(folder / "rows" / row / "score", record)


@pytest.fixture
def run(tmp_path):
    rows = [Row("TAC", "rows/tac"), Row("TSP | max\nGVF", "rows/tsp"), Row("random", "rows/random")]
    write_run(tmp_path, Run("tal", "A title", rows, {"localizer": "gtad", "seed": "0"}, ["A first note.", "Another."]))
    return tmp_path


def test_a_table_by_hand(run):
    score(run, "tac", ACTIVITYNET)
    score(run, "tsp", {**ACTIVITYNET, "average_mAP": 0.12345})
    score(run, "random", dict.fromkeys(ACTIVITYNET, 0.0), interval=(None, None))
    assert write_table(run).signature == "mAP|anet"
    assert (run / "table.md").read_text() == (
        "# A title\n"
        "\n"
        "| features | mAP@0.50 | @0.75 | @0.95 | average | 95 % interval |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| TAC | 50.00 | 33.33 | 10.00 | 35.81 | 30.00 to 41.23 |\n"
        "| TSP \\| max GVF | 50.00 | 33.33 | 10.00 | 12.35 | 30.00 to 41.23 |\n"
        "| random | 0.00 | 0.00 | 0.00 | 0.00 | — |\n"
        "\n"
        "In percent. Localizer: gtad, seed: 0.\n"
        "\n"
        "Signature: `mAP|anet`\n"
        "\n"
        "95 % interval: of the average, over 1,000 resamples of the scored videos; how much other seeds change is "
        "not in it.\n"
        "\n"
        "A first note.\n"
        "\n"
        "Another.\n"
    )


def test_an_unfinished_row_shows_dashes_and_no_average_of_what_is_there(run):
    score(run, "tac", ACTIVITYNET)
    table = result_table(run)
    assert table.cells[0] == ["TAC", "50.00", "33.33", "10.00", "35.81", "30.00 to 41.23"]
    assert table.cells[1:] == [[name, *["—"] * 5] for name in ("TSP | max\nGVF", "random")]


def test_a_run_that_has_just_begun_has_a_table_too(run):
    table = result_table(run)
    assert {cell for row in table.cells for cell in row[1:]} == {"—"}
    assert table.signature is None
    assert "Signature" not in markdown(table)


def test_two_signatures_do_not_stand_in_one_table(run):
    score(run, "tac", ACTIVITYNET)
    score(run, "random", ACTIVITYNET, "mAP|other")
    with one_sentence(run, "'TAC'", "mAP|anet", "'random'", "mAP|other"):
        result_table(run)


def test_another_protocol_shows_all_its_thresholds(run):
    score(run, "tac", {"mAP@0.30": 0.6, "mAP@0.50": 0.4, "average_mAP": 0.5})
    table = result_table(run)
    assert table.header == ["features", "mAP@0.30", "mAP@0.50", "average", "95 % interval"]
    assert table.cells[0] == ["TAC", "60.00", "40.00", "50.00", "30.00 to 41.23"]


def test_the_terminal_shows_the_same(run):
    score(run, "tac", ACTIVITYNET)
    console = Console(width=100, record=True)
    with console.capture() as captured:
        console.print(terminal(result_table(run)))
    for text in ("A title", "TAC", "35.81", "—", "TSP | max", "Another."):
        assert text in captured.get()


def test_no_run_is_one_sentence(tmp_path):
    with one_sentence(tmp_path, "is not a run"):
        result_table(tmp_path)
