import pytest
from rich.console import Console

from tests.tspbench.helpers import one_sentence
from tspbench.report import DIFFERENCE_NOTE, INTERVAL_NOTE, markdown, result_table, terminal, write_table
from tspbench.storage.records import Record, write_record
from tspbench.storage.runs import Row, Run, TaskTable, write_run

ACTIVITYNET = {"mAP@0.50": 0.5, "mAP@0.55": 0.45, "mAP@0.75": 0.3333333, "mAP@0.95": 0.1, "average_mAP": 0.3581}
RECALL = {"AR@1": 0.2, "AR@10": 0.4, "AR@100": 0.6, "AUC": 0.55}
SIGNATURE = "mAP|anet|labels:none"


KEY = "key of this run"
RUN = {"TAC": "tac", "TSP | max\nGVF": "tsp", "random": "random"}
TWO = {"TAC": "tac", "TSP": "tsp"}


def score(
    folder, row, metrics, signature=SIGNATURE, interval=(0.3, 0.412345), missing=0, key=KEY, videos=9, segments=7654
):
    main = "AUC" if "AUC" in metrics else "average_mAP"
    figures = {"metrics": metrics, "signature": signature, "intervals": {main: interval}}
    figures["counts"] = {"videos": videos, "missing_videos": missing, "ground_truth": segments}
    outputs = {"statistics.npz": f"hash of {row}"}
    write_record(folder / row / "score", Record("score", "finished", "f", {"row": key}, {}, outputs, figures, 1.0, {}))


def compare(folder, task, main, *differences, rows):
    keys = ("difference", "low", "high", "p")
    pairs = [
        {"a": a, "b": b, "metrics": {main: dict(zip(keys, values, strict=True))}} for (a, b), *values in differences
    ]
    inputs = {name: f"hash of {task}/{row}" for name, row in rows.items()}
    record = Record("compare", "finished", "f", {}, inputs, {}, {"differences": pairs}, 1.0, {})
    write_record(folder / task / "comparison", record)


@pytest.fixture
def run(tmp_path):
    rows = [Row("TAC", "tal/tac", KEY), Row("TSP | max\nGVF", "tal/tsp", KEY), Row("random", "tal/random", KEY)]
    tal = TaskTable("tal", rows, {"localizer": "gtad", "seed": "0"}, "tal/comparison")
    write_run(tmp_path, Run("A title", [tal], ["A first note.", "Another."]))
    return tmp_path


@pytest.fixture
def two_tasks(tmp_path):
    tal = [Row("Whole video", "tal/whole", KEY, "whole-video"), Row("TAC", "tal/tac", KEY), Row("TSP", "tal/tsp", KEY)]
    proposals = [Row("TAC", "proposals/tac", KEY), Row("TSP", "proposals/tsp", KEY)]
    tables = [
        TaskTable("tal", tal, {"localizer": "gtad"}, "tal/comparison"),
        TaskTable("proposals", proposals, {"localizer": "bmn"}, "proposals/comparison"),
    ]
    write_run(tmp_path, Run("Two", tables, []))
    return tmp_path


def test_a_table_by_hand(run):
    score(run, "tal/tac", ACTIVITYNET)
    score(run, "tal/tsp", {**ACTIVITYNET, "average_mAP": 0.12345}, missing=2)
    score(run, "tal/random", dict.fromkeys(ACTIVITYNET, 0.0), interval=(None, None))
    compare(run, "tal", "average_mAP", (("TAC", "TSP | max\nGVF"), -0.2345, -0.3, -0.1, 0.0004), rows=RUN)
    assert write_table(run).tasks[0].signature == SIGNATURE
    assert (run / "table.md").read_text() == (
        "# A title\n"
        "\n"
        "| features | mAP@0.50 | @0.75 | @0.95 | average | 95 % interval |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| TAC | 50.00 | 33.33 | 10.00 | 35.81 | 30.00 to 41.23 |\n"
        "| TSP \\| max GVF | 50.00 | 33.33 | 10.00 | 12.35 | 30.00 to 41.23 |\n"
        "| random | 0.00 | 0.00 | 0.00 | 0.00 | — |\n"
        "\n"
        "In percent.\n"
        "\n"
        "Average mAP: localizer: gtad, seed: 0.\n"
        "\n"
        f"Signature: `{SIGNATURE}`\n"
        "\n"
        "TSP | max GVF: no prediction for 2 of the 9 scored videos; they count as missed.\n"
        "\n"
        f"{INTERVAL_NOTE}\n"
        "\n"
        "| difference | average mAP | 95 % interval | p |\n"
        "|---|---:|---:|---:|\n"
        "| TSP \\| max GVF − TAC | -23.45 | -30.00 to -10.00 | < 0.001 |\n"
        "\n"
        f"{DIFFERENCE_NOTE}\n"
        "\n"
        "A first note.\n"
        "\n"
        "Another.\n"
    )


def test_several_tasks_share_their_rows(two_tasks):
    for row in ("whole", "tac", "tsp"):
        score(two_tasks, f"tal/{row}", ACTIVITYNET)
    for row in ("tac", "tsp"):
        score(two_tasks, f"proposals/{row}", RECALL, "AR|anet")
    compare(two_tasks, "tal", "average_mAP", (("TAC", "TSP"), 0.01, -0.01, 0.03, 0.25), rows=TWO)
    compare(two_tasks, "proposals", "AUC", (("TAC", "TSP"), None, None, None, None), rows=TWO)
    text = markdown(result_table(two_tasks)).splitlines()
    heads = [
        "mAP@0.50",
        "@0.75",
        "@0.95",
        "average",
        "95 % interval",
        "AR@1",
        "@10",
        "@100",
        "AUC",
        "95 % interval",
    ]
    assert text[2] == f"| features | {' | '.join(heads)} |"
    tal = "50.00 | 33.33 | 10.00 | 35.81 | 30.00 to 41.23"
    assert text[4] == f"| Whole video | {tal} | — | — | — | — | — |"
    assert text[5] == f"| TAC | {tal} | 20.00 | 40.00 | 60.00 | 55.00 | 30.00 to 41.23 |"
    assert "| difference | average mAP | 95 % interval | p | AUC | 95 % interval | p |" in text
    assert "| TSP − TAC | +1.00 | -1.00 to 3.00 | 0.250 | — | — | — |" in text


def test_an_unfinished_row_shows_dashes_and_no_average_of_what_is_there(run):
    score(run, "tal/tac", ACTIVITYNET)
    table = result_table(run)
    assert table.cells[0] == ["TAC", "50.00", "33.33", "10.00", "35.81", "30.00 to 41.23"]
    assert table.cells[1:] == [[name, *["—"] * 5] for name in ("TSP | max\nGVF", "random")]


def test_a_run_that_has_just_begun_has_a_table_too(run):
    table = result_table(run)
    assert {cell for row in table.cells for cell in row[1:]} == {"—"}
    assert table.tasks[0].signature is None
    assert "Signature" not in markdown(table)
    assert "difference" not in markdown(table)


def test_scores_of_an_earlier_run_in_the_same_folder_are_not_shown(run):
    score(run, "tal/tac", ACTIVITYNET, key="of other settings")
    score(run, "tal/random", ACTIVITYNET)
    compare(run, "tal", "average_mAP", (("TAC", "random"), 0.1, 0.0, 0.2, 0.5), rows=RUN)
    table = result_table(run)
    assert table.cells[0] == ["TAC", *["—"] * 5]
    assert table.cells[2][1] == "50.00"
    assert table.tasks[0].differences == {}


def test_differences_of_earlier_scores_are_not_shown(run):
    score(run, "tal/tac", ACTIVITYNET)
    score(run, "tal/random", ACTIVITYNET)
    rows = {**RUN, "random": "another score of random"}
    compare(run, "tal", "average_mAP", (("TAC", "random"), 0.1, 0.0, 0.2, 0.5), rows=rows)
    assert result_table(run).tasks[0].differences == {}


def test_two_signatures_do_not_stand_in_one_table(run):
    score(run, "tal/tac", ACTIVITYNET)
    score(run, "tal/random", ACTIVITYNET, "mAP|other|labels:none")
    with one_sentence(run, "'TAC'", "mAP|anet", "'random'", "mAP|other"):
        result_table(run)


def test_other_labels_are_another_score_but_for_reference_rows(two_tasks):
    score(two_tasks, "tal/whole", ACTIVITYNET, "mAP|anet|labels:true")
    score(two_tasks, "tal/tac", ACTIVITYNET)
    assert result_table(two_tasks).tasks[0].signature == SIGNATURE
    score(two_tasks, "tal/tsp", ACTIVITYNET, "mAP|anet|labels:true")
    with one_sentence(two_tasks, "'TAC'", "labels:none", "'TSP'", "labels:true"):
        result_table(two_tasks)
    score(two_tasks, "tal/tsp", ACTIVITYNET)
    score(two_tasks, "tal/whole", ACTIVITYNET, "mAP|other|labels:true")
    with one_sentence(two_tasks, "'Whole video'", "mAP|other"):
        result_table(two_tasks)


def test_another_protocol_shows_all_its_thresholds(run):
    score(run, "tal/tac", {"mAP@0.30": 0.6, "mAP@0.50": 0.4, "average_mAP": 0.5})
    table = result_table(run)
    assert table.header == ["features", "mAP@0.30", "@0.50", "average", "95 % interval"]
    assert table.cells[0] == ["TAC", "60.00", "40.00", "50.00", "30.00 to 41.23"]


def test_the_terminal_shows_the_same(run):
    score(run, "tal/tac", ACTIVITYNET)
    score(run, "tal/random", ACTIVITYNET)
    compare(run, "tal", "average_mAP", (("TAC", "random"), 0.015, 0.01, 0.02, 0.03), rows=RUN)
    console = Console(width=100, record=True)
    with console.capture() as captured:
        console.print(terminal(result_table(run)))
    for text in ("A title", "TAC", "35.81", "—", "TSP | max", "Another.", "random − TAC", "+1.50"):
        assert text in captured.get()


def test_a_narrow_terminal_keeps_names_and_numbers(run):
    thumos = {f"mAP@0.{tenth}0": 0.4567 for tenth in range(3, 8)}
    score(run, "tal/tac", {**thumos, "average_mAP": 0.4567})
    console = Console(width=80)
    with console.capture() as captured:
        console.print(terminal(result_table(run)))
    (line,) = (line for line in captured.get().splitlines() if line.startswith(" TAC "))
    assert line.split() == ["TAC", *["45.67"] * 6, "30.00", "to", "41.23"]


def test_no_run_is_one_sentence(tmp_path):
    with one_sentence(tmp_path, "is not a run"):
        result_table(tmp_path)


CAPTIONS = {"METEOR": 0.1, "BLEU@3": 0.05, "BLEU@4": 0.0256, "CIDEr": 1.5}


@pytest.fixture
def captions(tmp_path):
    """Two rows that describe true segments and proposals."""
    tables = []
    for part in ("ground-truth", "proposals"):
        rows = [Row(name, f"captioning/{name}/{part}", KEY) for name in ("TAC", "TSP")]
        facts = {"captioner": "bmt", "selection": part}
        tables.append(TaskTable("captioning", rows, facts, f"captioning/comparison-{part}", part))
    write_run(tmp_path, Run("Sentences", tables, []))
    return tmp_path


def caption_score(folder, row, part, metrics, sample=()):
    score(folder, f"captioning/{row}/{part}", metrics)
    figures = {
        "sample": [{"video": "v", "segment": [1.0, 2.5], "true": "A | man.", "predicted": said} for said in sample]
    }
    record = Record("predict", "finished", "f", {}, {}, {}, figures, 1.0, {})
    write_record(folder / "captioning" / row / part / "predict", record)


def test_captions_of_both_kinds_of_segments_and_a_sample_by_hand(captions):
    for row in ("TAC", "TSP"):
        caption_score(captions, row, "ground-truth", CAPTIONS, [f"what {row} says"])
    caption_score(captions, "TSP", "proposals", {**CAPTIONS, "METEOR": 0.075})
    lines = markdown(result_table(captions)).splitlines()
    columns = "BLEU@3 | @4 | METEOR | 95 % interval"
    assert lines[2:6] == [
        f"| features | true segments: {columns} | proposals: {columns} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| TAC | 5.00 | 2.56 | 10.00 | — | — | — | — | — |",
        "| TSP | 5.00 | 2.56 | 10.00 | — | 5.00 | 2.56 | 7.50 | — |",
    ]
    assert "METEOR on true segments: captioner: bmt, selection: ground-truth." in lines
    assert "METEOR on proposals: captioner: bmt, selection: proposals." in lines
    assert lines[-3:] == [
        "| segment | true | TAC | TSP |",
        "|---|---|---|---|",
        "| v, 1.0 to 2.5 s | A \\| man. | what TAC says | what TSP says |",
    ]


def test_a_metric_that_failed_leaves_the_others(captions):
    without = {name: value for name, value in CAPTIONS.items() if name != "METEOR"}
    caption_score(captions, "TAC", "ground-truth", without)
    assert "| TAC | 5.00 | 2.56 | — | — | — | — | — | — |" in markdown(result_table(captions)).splitlines()


# Published numbers beside measured ones: TSP with G-TAD on ActivityNet is published as 51.26, 37.12, 9.29 and 35.81.

ABSTRACT = "TSP's abstract: 1.72 points more than the baseline; baseline, 34.09: the paper of G-TAD."
QUOTED = "TSP (Alwassel et al., ICCVW 2021), as quoted in the tables of AVFusion (skelemoa/tal-hmo)."
WITH_GTAD = {"dataset": "activitynet", "protocol": "activitynet-4728", "localizer": "gtad"}


def published_run(folder, key, facts, task="tal", part=""):
    rows = [Row("Whole video", f"{task}/whole", KEY, "whole-video"), Row("TAC", f"{task}/tac", KEY)]
    rows.append(Row("TSP", f"{task}/tsp", KEY, published=key))
    write_run(folder, Run("T", [TaskTable(task, rows, facts, f"{task}/comparison", part)], ["A note."]))
    return folder


def published_section(folder):
    return markdown(result_table(folder)).partition("A note.\n\n")[2]


def test_published_numbers_by_hand(tmp_path):
    published_run(tmp_path, "tsp-activitynet-gtad", WITH_GTAD)
    score(tmp_path, "tal/tsp", {"mAP@0.50": 0.52, "mAP@0.75": 0.371199, "mAP@0.95": 0.09, "average_mAP": 0.36})
    assert published_section(tmp_path) == (
        "## Published numbers beside measured ones\n"
        "\n"
        "| features | mAP@0.50 | @0.75 | @0.95 | average |\n"
        "|---|---:|---:|---:|---:|\n"
        "| TSP: measured | 52.00 | 37.12 | 9.00 | 36.00 |\n"
        "| TSP: published | 51.26 | 37.12 | 9.29 | 35.81 |\n"
        "| TSP: difference | +0.74 | +0.00 | -0.29 | +0.19 |\n"
        "\n"
        f"TSP, mAP@0.50, @0.75, @0.95: {QUOTED}\n"
        "\n"
        f"TSP, average: {ABSTRACT}\n"
        "\n"
        "TSP: the paper does not state on which videos.\n"
        "\n"
        "No published number is known of: TAC.\n"
        "\n"
        "In percent; differences are measured less published, in points.\n"
    )


def test_nothing_published_is_no_section(run):
    score(run, "tal/tac", ACTIVITYNET)
    assert "ublished" not in markdown(result_table(run))


def test_an_unfinished_row_has_published_numbers_alone(tmp_path):
    published_run(tmp_path, "tsp-activitynet-gtad", WITH_GTAD)
    lines = published_section(tmp_path).splitlines()
    assert lines[4:7] == [
        "| TSP: measured | — | — | — | — |",
        "| TSP: published | 51.26 | 37.12 | 9.29 | 35.81 |",
        "| TSP: difference | — | — | — | — |",
    ]


def test_what_is_not_published_is_not_compared(tmp_path):
    facts = {"dataset": "activitynet", "protocol": "activitynet", "localizer": "bmn"}
    published_run(tmp_path, "tsp-activitynet-bmn", facts, "proposals")
    score(tmp_path, "proposals/tsp", {**RECALL, "AUC": 0.6804})
    lines = published_section(tmp_path).splitlines()
    assert lines[2:7] == [
        "| features | AR@1 | @10 | @100 | AUC |",
        "|---|---:|---:|---:|---:|",
        "| TSP: measured | 20.00 | 40.00 | 60.00 | 68.04 |",
        "| TSP: published | — | — | — | 69.04 |",
        "| TSP: difference | — | — | — | -1.00 |",
    ]


def test_a_difference_is_as_exact_as_what_is_published(tmp_path):
    facts = {"dataset": "thumos14", "protocol": "thumos14-212", "localizer": "gtad"}
    published_run(tmp_path, "tsp-thumos14-gtad", facts)
    lines = published_section(tmp_path).splitlines()  # nothing is measured yet
    assert lines[2:6:3] == ["| features | mAP@0.50 | average |", "| TSP: published | 43.2 | — |"]
    score(tmp_path, "tal/tsp", {"mAP@0.30": 0.6, "mAP@0.50": 0.41749, "average_mAP": 0.4})
    lines = published_section(tmp_path).splitlines()
    assert lines[2] == "| features | mAP@0.30 | @0.50 | average |"
    assert lines[6] == "| TSP: difference | — | -1.5 | — |"


@pytest.mark.parametrize(
    ("key", "changes", "videos", "reason"),
    [
        ("tsp-activitynet-gtad", {"videos": "40 of 4,926"}, 40, "the run is a trial on part of the data (40 of 4,926)"),
        ("tsp-activitynet-gtad", {"settings": "changed"}, 9, "set up or trained in another way"),
        ("tsp-activitynet-gtad", {"video-level labels": "none: class-agnostic scores"}, 9, "are class-agnostic"),
        ("tsp-activitynet-gtad", {"settings": "as published", "video-level labels": "top 2 classes of a"}, 9, ""),
        ("tsp-activitynet-gtad", {"localizer": "bmn"}, 9, "of the localizer gtad, the measured ones of bmn"),
        (
            "tsp-thumos14-pgcn",
            {"dataset": "thumos14", "localizer": "pgcn", "protocol": "thumos14-official"},
            9,
            "by the rules of thumos14, the measured ones by thumos14-official",
        ),
        ("own-activitynet-gtad", {"protocol": "activitynet-4926"}, 4926, "4,728 videos, the measured ones of 4,926"),
        ("own-activitynet-gtad", {"protocol": "activitynet"}, 4926, "4,728 videos, the measured ones of 4,926"),
        ("own-activitynet-gtad", {"protocol": "activitynet"}, 4728, ""),
        ("own-activitynet-gtad", {}, 4800, ""),  # by name; videos without a segment are counted, too
        ("tsp-activitynet-gtad", {"protocol": "activitynet-file-order"}, 9, ""),
    ],
)
def test_differences_are_told_only_of_what_means_the_same(tmp_path, key, changes, videos, reason):
    published_run(tmp_path, key, {**WITH_GTAD, **changes})
    score(tmp_path, "tal/tsp", ACTIVITYNET, videos=videos)
    text = published_section(tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| TSP: difference"))
    if not reason:
        assert "+" in line or "-" in line
        assert "no differences" not in text
        assert ("does not state on which videos" in text) == key.startswith("tsp-")
        return
    assert set(line.split(" | ")[1:]) <= {"—", "— |"}
    assert "TSP: no differences, because " in text
    assert reason in text
    assert "does not state" not in text
    assert "| TSP: measured | 50.00 |" in text or "| TSP: measured | — | — | 50.00 |" in text


def test_videos_that_are_no_usual_set_are_not_compared(tmp_path):
    published_run(tmp_path, "tsp-activitynet-gtad", {**WITH_GTAD, "protocol": "activitynet"})
    score(tmp_path, "tal/tsp", ACTIVITYNET, videos=5, segments=9)
    assert "the 5 videos that were scored are none of the benchmark's usual sets" in published_section(tmp_path)


def test_numbers_of_another_data_set_are_not_shown(tmp_path):
    published_run(tmp_path, "tsp-activitynet-gtad", {**WITH_GTAD, "dataset": "thumos14", "protocol": "thumos14"})
    score(tmp_path, "tal/tsp", ACTIVITYNET)
    assert published_section(tmp_path) == ""


def test_captions_of_silent_videos_are_not_compared(tmp_path):
    facts = {"captioner": "bmt", "dataset": "activitynet-captions", "protocol": "densevid"}
    rows = [Row("TSP", "captioning/TSP/proposals", KEY, published="tsp-activitynet-captions-bmt")]
    write_run(tmp_path, Run("T", [TaskTable("captioning", rows, facts, "captioning/c", "proposals")], ["A note."]))
    caption_score(tmp_path, "TSP", "proposals", {**CAPTIONS, "METEOR": 0.09})
    assert "hears the sound" in published_section(tmp_path)


def test_published_captions_stand_beside_their_own_part(tmp_path):
    tables = []
    for part in ("ground-truth", "proposals"):
        rows = [Row("TSP", f"captioning/TSP/{part}", KEY, published="tsp-activitynet-captions-bmt")]
        facts = {"captioner": "bmt", "dataset": "activitynet-captions", "protocol": "densevid", "sound": "a.h5"}
        tables.append(TaskTable("captioning", rows, facts, f"captioning/comparison-{part}", part))
        caption_score(tmp_path, "TSP", part, {**CAPTIONS, "METEOR": 0.09})
    write_run(tmp_path, Run("T", tables, ["A note."]))
    lines = published_section(tmp_path).splitlines()
    assert lines[:9] == [
        "## Published numbers beside measured ones",
        "",
        "METEOR on proposals:",
        "",
        "| features | BLEU@3 | @4 | METEOR |",
        "|---|---:|---:|---:|",
        "| TSP: measured | 5.00 | 2.56 | 9.00 |",
        "| TSP: published | — | — | 8.75 |",
        "| TSP: difference | — | — | +0.25 |",
    ]
    assert "No published number" not in "".join(lines)


def test_the_terminal_shows_published_numbers_too(tmp_path):
    published_run(tmp_path, "tsp-activitynet-gtad", WITH_GTAD)
    score(tmp_path, "tal/tsp", ACTIVITYNET)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(terminal(result_table(tmp_path)))
    shown = " ".join(captured.get().split())
    for text in ("Published numbers beside measured ones", "TSP: published 51.26 37.12", "-1.26", ABSTRACT):
        assert text in shown


def test_an_unknown_key_of_published_numbers_is_one_sentence(tmp_path):
    with one_sentence("'tsp-activitynet'", "did you mean"):
        result_table(published_run(tmp_path, "tsp-activitynet", WITH_GTAD))
