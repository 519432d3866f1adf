import html
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.tspbench.helpers import cut, one_sentence
from tests.tspbench.page.made_up import (
    DENSE,
    FOLDERS,
    GRID,
    LATE,
    SCRIPT,
    SHIFTS,
    TAC,
    TSP,
    dense_run,
    made_up_run,
    record,
)
from tests.tspbench.page.parsed import markdown_tables, page_tables
from tspbench.page import build
from tspbench.page.build import page, write_page
from tspbench.report import markdown, result_table
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features
from tspbench.storage.records import read_record
from tspbench.storage.runs import read_run, write_run
from tspbench.verbs import report_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def shown(run):
    return page([run])


def results(text):
    """Return the tables of the tasks in their order."""
    metrics = ("Average mAP, in percent", "AUC, in percent", "METEOR on true segments, in percent")
    return [rows for caption, rows in page_tables(text) if caption in metrics]


def test_every_cell_equals_that_of_the_markdown_table(run, shown):
    whole = markdown_tables(markdown(result_table(run)))
    header, *lines = whole[0]
    told = {line[0]: line[1:] for line in lines}
    first = 1
    tables = results(shown)
    assert len(tables) == 3
    for rows in tables:
        columns = slice(first, first + len(rows[0]) - 1)
        assert rows[0] == ["features", *header[columns]]
        for name, *cells in rows[1:]:
            assert cells == told[name][columns.start - 1 : columns.stop - 1]
        first = columns.stop
    assert first == len(header)
    # A row is on the page wherever it has a task.
    assert [row[0] for row in tables[0][1:]] == [GRID, TAC, TSP, LATE]
    differences = [rows for caption, rows in page_tables(shown) if caption.startswith("Differences")]
    assert differences[0][0] + differences[1][0][1:] == whole[1][0]
    assert differences[0][1] + differences[1][1][1:] == whole[1][1]
    sentences = next(rows for caption, rows in page_tables(shown) if caption == "v2, 1.0 to 2.5 s")
    assert dict(zip(whole[2][0][1:], whole[2][1][1:], strict=True)) == dict(sentences[1:])


def test_every_cell_equals_the_records(run, shown):
    tal = results(shown)[0]
    for name, *cells in tal[1:]:
        score = read_record(run / "tal" / FOLDERS[name] / "score")
        if score is None:
            assert (name, set(cells)) == (LATE, {"—"})
            continue
        values = [score.figures["metrics"][key] for key in ("mAP@0.50", "mAP@0.75", "mAP@0.95", "average_mAP")]
        assert cells[:4] == ["—" if value is None else f"{100 * value:.2f}" for value in values]
        low, high = score.figures["intervals"]["average_mAP"]
        assert cells[4] == ("—" if low is None else f"{100 * low:.2f} to {100 * high:.2f}")
    # Undefined numbers are in the record as null, and come out as a dash.
    assert dict((row[0], row[4]) for row in tal[1:])[GRID] == "—"
    assert "nan" not in re.sub(r"<[^>]*>", "", shown).lower().split()


def test_nothing_from_a_record_becomes_markup(shown):
    assert SCRIPT not in shown
    assert html.escape(SCRIPT) in shown
    assert "<b>bold" not in shown
    assert shown.count("<script>") == 1


def test_the_page_loads_nothing(shown):
    assert "default-src 'none'" in shown
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", shown)
    assert "url(" not in shown
    assert "@import" not in shown


def test_everything_that_the_records_hold_is_drawn(shown):
    for title in (
        "Pretraining: loss", "Pretraining: accuracy", "Finding actions, gtad: loss", "Describing segments, bmt: loss",
        "Precision over recall at tIoU 0.5", "Average recall over the number of proposals", "What the best predictions",
        "What each kind of error costs", "Features", "Captions",
    ):  # fmt: skip
        assert f">{title}" in shown, title
    assert (
        "less the mean feature of these clips (not, as in <code>study features</code>, of the training clips)" in shown
    )
    assert shown.count('<img src="data:image/jpeg;base64,') == 3
    assert shown.count('<figure class="video"') == 3
    assert "TAC &lt;b&gt;bold&lt;/b&gt;: no prediction for 1 of the 3 scored videos" in shown


def test_without_videos_the_page_says_so(tmp_path):
    folder = made_up_run(tmp_path / "run")
    for path in (folder / "data" / "videos").iterdir():
        path.unlink()
    text = page([folder])
    assert "<img" not in text
    assert "there are no thumbnails" in text
    assert text.count('<figure class="video"') == 3


def test_without_the_annotations_the_tables_and_curves_stay(tmp_path, run, shown):
    folder = made_up_run(tmp_path / "run")
    (folder / "data" / "annotations.json").write_text('{"database": {}}')
    text = page([folder])
    assert results(text) == results(shown)
    assert "Precision over recall" in text
    assert "The annotations of the data set have changed since the run was scored." in text
    (folder / "data" / "annotations.json").unlink()
    assert "The annotations of the data set are not where the run had them." in page([folder])


def figures(text):
    """Return the titles of all figures."""
    return re.findall(r"<figcaption><h4>(.*?)</h4>", text)


@pytest.mark.parametrize("damage", [lambda path: cut(path, path, 0.7), lambda path: path.write_bytes(b"")])
def test_a_damaged_file_costs_its_row_alone(tmp_path, shown, damage):
    folder = made_up_run(tmp_path / "run")
    damage(folder / "tal" / "tac" / "score" / "statistics.npz")
    damage(folder / "tal" / "tsp" / "predict" / "predictions.json.gz")
    damage(folder / "proposals" / "tac" / "score" / "statistics.npz")
    text = page([folder])
    assert results(text) == results(shown)
    assert figures(text) == figures(shown)
    tables = dict(page_tables(text))
    assert tables["Precision over recall at tIoU 0.5: precision in percent"][0][1:] == [GRID, TSP]
    assert [row[0] for row in tables["Shares of the first slice (1G), in percent"][1:]] == [GRID]
    assert {row[0] for row in tables["Segments of v2"][1:]} == {"true", GRID}
    remarks = [html.unescape(remark) for remark in re.findall(r'<p class="note remark">(.*?)</p>', text)]
    assert [remark.partition(": ")[0] for remark in remarks] == [
        f"{TAC} is left out of all figures of finding actions",
        f"{TAC} is left out of all figures of proposing segments",
        f"{TSP} is left out of the errors and time lines",
    ]
    assert str(folder / "tal" / "tac" / "score" / "statistics.npz") in remarks[0]
    assert str(folder / "tal" / "tsp" / "predict" / "predictions.json.gz") in remarks[2]


def test_what_is_not_there_any_more_is_said(tmp_path, shown):
    folder = made_up_run(tmp_path / "run")
    for name in ("grid", "tac", "tsp"):
        (folder / "tal" / name / "score" / "statistics.npz").unlink()
        (folder / "proposals" / name / "predict" / "predictions.json.gz").unlink()
    text = page([folder])
    assert results(text) == results(shown)
    assert "Precision over recall" not in text
    assert "Average recall over" in text
    assert text.count('class="note remark"') == 6
    assert "No detections or proposals were scored yet" not in text


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_features_that_cannot_be_read_are_said(tmp_path, share):
    folder = made_up_run(tmp_path / "run")
    file = folder / "features" / "tsp" / "features.h5"
    cut(file, file, share)
    text = page([folder])
    rows = dict(page_tables(text))["Mean cosine of neighbouring clips"]
    assert [row[0] for row in rows[1:]] == [TAC]
    told = html.unescape(text)
    assert f"{TSP} is left out of the similarity of features: {file}" in told
    file.unlink()
    (folder / "features" / "tac" / "features.h5").unlink()
    told = html.unescape(page([folder]))
    assert 'id="features-1"' not in told
    assert f"{TSP} is left out of the similarity of features: {file} does not exist" in told
    assert f"{TAC} is left out of the similarity of features" in told


def test_features_without_both_sides_of_a_boundary_are_said(tmp_path):
    folder = made_up_run(tmp_path / "run")
    meaning = RowMeaning("tiny", "sha", 4, 4, 12.0, 4, "fp32")
    one = {"v2": VideoFeatures(np.ones((2, 4), dtype=np.float32), 4.0, "test")}
    write_features(folder / "features" / "tsp" / "features.h5", one, meaning)
    told = html.unescape(page([folder]))
    assert "found none inside in the 1 that it has" in told


def test_a_run_of_captions_alone_keeps_its_features(tmp_path, run):
    folder = made_up_run(tmp_path / "run")
    manifest = read_run(folder)
    files = {row.name: row.files for row in manifest.tables[0].rows}
    captions = replace(
        manifest.tables[2], rows=[replace(row, files=files[row.name]) for row in manifest.tables[2].rows]
    )
    write_run(folder, replace(manifest, tables=[captions]))
    text = page([folder])
    assert 'id="features-1"' in text
    assert 'class="note remark"' not in text
    card = {key: value for key, value in manifest.dataset["card"].items() if key != "annotations"}
    write_run(folder, replace(manifest, tables=[captions], dataset={**manifest.dataset, "card": card}))
    text = page([folder])
    assert 'id="features-1"' not in text
    assert "The data set has captions alone: without the segments of actions its features are not compared." in text


def test_without_a_score_the_page_says_so(tmp_path):
    folder = made_up_run(tmp_path / "run")
    for path in folder.glob("*/*/score/record.json"):
        path.unlink()
    text = page([folder])
    assert "No detections or proposals were scored yet." in text
    assert 'id="features-1"' in text


def test_runs_of_one_signature_have_a_mean(tmp_path, run):
    other = made_up_run(tmp_path / "second", seed="1")
    (other / "tal" / "tac" / "score" / "record.json").unlink()
    text = page([run, other])
    rows = next(rows for caption, rows in page_tables(text) if caption.startswith("Average mAP of each run"))
    assert rows[0] == ["features", "first", "second", "mean", "standard deviation"]
    cells = {row[0]: row[1:] for row in rows[1:]}
    value = 100 * read_record(run / "tal" / "tsp" / "score").figures["metrics"]["average_mAP"]
    assert cells[TSP][2:] == [f"{value:.2f}", "0.00"]
    assert cells[TSP][0].startswith(f"{value:.2f} (")
    # What one run lacks has no mean: neither an unfinished row nor an undefined number.
    assert cells[LATE] == cells[GRID] == ["—"] * 4
    assert cells[TAC][0] != "—"
    assert cells[TAC][1:] == ["—"] * 3
    assert "No mean is taken" not in text


def test_runs_of_two_signatures_have_none(tmp_path, run):
    text = page([run, made_up_run(tmp_path / "second", more=1)])
    rows = next(rows for caption, rows in page_tables(text) if caption.startswith("Average mAP of each run"))
    assert rows[0] == ["features", "first", "second"]
    assert [cell.split("truth:")[0] for cell in rows[-1]] == [
        "signature",
        "videos:3 segments:3 ",
        "videos:4 segments:4 ",
    ]
    assert "No mean is taken: the signatures of the runs differ" in text
    assert "signatures are equal" in text  # of the captions


def test_runs_of_other_settings_have_no_mean(tmp_path, run):
    other = made_up_run(tmp_path / "second", localizer="actionformer", training="9 epochs", seed="1")
    text = page([run, other])
    for name in ("Average mAP", "AUC"):
        rows = next(rows for caption, rows in page_tables(text) if caption.startswith(f"{name} of each run"))
        assert rows[0] == ["features", "first", "second"]
        assert rows[-1][0] == LATE  # no row of signatures, which are equal
    told = (
        "No mean is taken: the runs differ in localizer (gtad in first; actionformer in second) and in training (none "
        "in first; 9 epochs in second)."
    )
    assert text.count(told) == 2
    assert text.count("signatures are equal, and their settings differ in nothing but the seed") == 1  # of the captions


def test_a_run_given_twice_is_refused(tmp_path, run):
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    for again in (run, run.parent / "." / "x" / ".." / run.name, tmp_path / "link"):
        with one_sentence(again, run, "give it once"):
            page([run, again])


def test_what_a_run_has_not_scored_has_no_mean(tmp_path, run):
    other = made_up_run(tmp_path / "second")
    for name in ("tac", "tsp"):
        (other / "captioning" / name / "ground-truth" / "score" / "record.json").unlink()
    text = page([run, other])
    rows = next(
        rows for caption, rows in page_tables(text) if caption.startswith("METEOR on true segments of each run")
    )
    assert rows[1:3] == [[TAC, "12.50", "—"], [TSP, "12.50", "—"]]
    assert "No mean is taken: not all runs have scores of it." in text


def test_report_writes_the_page_of_one_run_into_it(tmp_path, capsys):
    folder = made_up_run(tmp_path / "run")
    report_runs([folder], "html", None)
    assert (folder / "report.html").is_file()
    assert not (folder / "table.md").exists()
    assert str(folder / "report.html") in "".join(capsys.readouterr().err.split())
    other = made_up_run(tmp_path / "other")
    report_runs([folder, other], "md", None)
    assert (folder / "table.md").read_text() == (other / "table.md").read_text() == markdown(result_table(folder))
    assert capsys.readouterr().out.count("Made-up videos: average mAP") == 2
    with one_sentence("--out", "--format html"):
        report_runs([folder], "md", tmp_path / "table.md")


def test_rows_of_two_signatures_are_refused(tmp_path):
    folder = made_up_run(tmp_path / "run")
    score = read_record(folder / "tal" / "tac" / "score")
    record(folder, "tal/tac/score", {**score.figures, "signature": "another"}, score.inputs, score.outputs)
    with one_sentence("cannot stand in one table"):
        page([folder])


def test_a_page_is_written_whole_and_runs_of_one_name_are_told_apart(tmp_path, run):
    other = made_up_run(tmp_path / "first")
    out = write_page([run, other], tmp_path / "deep" / "page.html")
    text = out.read_text("utf-8")
    assert text.rstrip().endswith("</html>")
    assert "first (2)" in text
    assert out.stat().st_size < 3_000_000
    with one_sentence("nowhere"):
        write_page([tmp_path / "nowhere"], out)
    assert out.read_text("utf-8") == text


def test_a_page_of_long_videos_stays_small(tmp_path):
    folder = dense_run(tmp_path / "run")
    text = page([folder])
    assert len(text.encode()) < 2_000_000  # thumbnails, which it has none of here, take some 200 kB
    assert text.count("Of each row the 40 predictions with the highest scores are drawn.") == 6
    assert "<desc>" not in text
    # What is not drawn counts nevertheless.
    found = [int(count) for count in re.findall(r'<p class="value">(\d+) of 200 found</p>', text)]
    assert len(found) == 48
    assert found[0] > 40
    rows = dict(page_tables(text))["Segments of video_test_0000000"]
    assert [row[0] for row in rows].count("true") == 200
    assert [row[0] for row in rows].count(f"{DENSE} 7") == 40
    assert f'aria-label="{DENSE} 0 in video_test_0000000: 40 segments, ' in text
    assert max(map(len, re.findall(r'aria-label="([^"]*)"', text))) < 3000


def test_several_runs_share_the_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MOST_VIDEOS", 4)
    runs = [made_up_run(tmp_path / name) for name in ("a", "b")]
    text = page(runs)
    assert text.count('<figure class="video"') == 4
    assert text.count("The first 2 scored videos with an action") == 2


def test_a_row_has_the_same_colour_everywhere(shown):
    for colour, name in (("#E69F00", TAC), ("#56B4E9", TSP), ("var(--reference)", GRID)):
        number = [GRID, TAC, TSP, LATE].index(name)
        found = set(re.findall(rf'data-row="{number}"[^>]*style="--c:([^"]*)"', shown))
        assert found == {colour}, name
    assert set(SHIFTS) == {GRID, TAC, TSP}
