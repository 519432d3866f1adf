"""Each planted mistake is found, and nothing is found where all is well."""

import copy
import json

import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import silent
from tspbench.datasets import open_dataset
from tspbench.datasets.synthetic import SyntheticSettings, write_trimmed, write_untrimmed
from tspbench.stages.import_annotations import import_annotations
from tspbench.stages.lint import kept_report, lint
from tspbench.stages.lint_actions import CLIP_SECONDS
from tspbench.storage.manifest import MANIFEST, Manifest, ScannedVideo, write_manifest
from tspbench.storage.recipes import write_toml
from tspbench.storage.video import Problem
from tspbench.storage.video_check import VideoFacts

NAMES = [f"clip{k}" for k in range(6)]


def action(start, end, label):
    return {"segment": [start, end], "label": label}


def clean():
    """Return a set of six videos of 24 s: four for training, and two classes in each."""
    return {
        name: {
            "subset": "training" if k < 4 else "validation",
            "duration": 24.0,
            "annotations": [action(2.0, 5.0, "Jump"), action(8.0, 10.0, "Run"), action(10.0, 12.5, "Jump")],
        }
        for k, name in enumerate(NAMES)
    }


def dataset_of(tmp_path, database, files=NAMES, **entries):
    (tmp_path / "videos").mkdir()
    for name in files:
        (tmp_path / "videos" / f"{name}.mp4").touch()
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    write_toml(tmp_path / "dataset.toml", {"name": "mine", "annotations": "annotations.json", **entries})
    return open_dataset(str(tmp_path))


def found(tmp_path, database, durations=None, **entries):
    """Return the findings as (severity, last word of where, sentence)."""
    findings = lint(dataset_of(tmp_path, database, **entries), durations or {})
    assert all("\n" not in each.sentence and each.sentence.endswith((".", "?", ")")) for each in findings)
    return [(each.severity, each.where, each.sentence) for each in findings]


def test_a_clean_set_has_no_finding(tmp_path):
    assert found(tmp_path, clean()) == []


def test_a_clean_set_with_scanned_lengths_has_no_finding(tmp_path):
    database = clean()
    for video in database.values():
        del video["duration"]
    assert found(tmp_path, database, dict.fromkeys(NAMES, 24.0)) == []


def test_a_generated_set_has_no_finding(tmp_path):
    settings = SyntheticSettings(training_videos=12, validation_videos=6)
    write_untrimmed(tmp_path, settings, 0, silent)
    dataset = open_dataset(str(tmp_path))
    # All but a few of its actions, which last a second or more, are longer than a clip.
    assert lint(dataset, {}) == []
    assert lint(dataset, {}, clip_seconds=8 / 12) == []


def add(name, *actions):
    """Plant actions in a video."""
    return lambda database: database[name]["annotations"].extend(actions)


def each(change):
    """Plant a change in every video."""

    def plant(database):
        for video in database.values():
            change(video)

    return plant


def scaled(factor):
    def change(video):
        for each in video["annotations"]:
            each["segment"] = [time * factor for time in each["segment"]]

    return each(change)


def only(*actions):
    return each(lambda video: video.update(annotations=copy.deepcopy(list(actions))))


def relabelled(labels):
    """Give the actions of all videos other labels, in order, over and over."""

    def plant(database):
        for k, each in enumerate(each for video in database.values() for each in video["annotations"]):
            each["label"] = labels[k % len(labels)]

    return plant


PLANTED = {
    "ends after the video": (
        add("clip1", action(20, 26.5, "Run")),
        "error",
        "annotations.json, training",
        "1 action after the end of the video, by up to 2.5 s: clip1, action 4 (Run, 20 to 26.5 s); correct them, or "
        "look for the right video.",
    ),
    "ends a little after the video": (
        add("clip4", action(20, 24.75, "Run")),
        "warning",
        "annotations.json, validation",
        "1 action after the end of the video, by up to 0.8 s: clip4, action 4 (Run, 20 to 24.75 s)",
    ),
    "starts before 0": (
        add("clip1", action(-0.5, 1.5, "Run")),
        "error",
        "annotations.json, training",
        "1 action with a start before 0: clip1, action 4 (Run, -0.5 to 1.5 s); correct them.",
    ),
    "no length": (
        add("clip1", action(15, 15, "Run")),
        "warning",
        "annotations.json, training",
        "1 action without length, which nothing can find: clip1, action 4 (Run, 15 to 15 s); correct or remove them.",
    ),
    "twice": (
        add("clip1", action(8, 10, "Run"), action(8, 10, "Run")),
        "warning",
        "annotations.json, training",
        "2 actions annotated twice, with the same times: clip1, action 4 (Run, 8 to 10 s), clip1, action 5 (Run, 8 to "
        "10 s); remove one of each two.",
    ),
    "overlap of the same class": (
        add("clip1", action(9.5, 12, "Run")),  # 0.5 s of 4 s in common
        "note",
        "annotations.json, training",
        "1 action overlapping one of the same class: clip1, action 4 (Run, 9.5 to 12 s)",
    ),
    "overlap by half": (
        add("clip1", action(9, 10, "Run")),  # 1 s of 2 s in common
        "warning",
        "annotations.json, training",
        "1 action overlapping one of the same class by half: clip1, action 4 (Run, 9 to 10 s)",
    ),
    "validation alone": (
        add("clip5", action(15, 18, "Swim"), action(20, 23, "Swim")),
        "error",
        "annotations.json",
        "1 class in validation alone, so that nothing can learn them: Swim; add some to training, or correct the "
        "split.",
    ),
    "case": (
        add("clip1", action(15, 18, "jump"), action(20, 23, "jump")),
        "error",
        "annotations.json",
        "'Jump' (12 actions) and 'jump' (2) are two classes, and differ in nothing but case and punctuation: write "
        "them alike.",
    ),
    "spelling": (
        add("clip1", action(15, 18, "Jmup"), action(20, 23, "Jmup")),
        "warning",
        "annotations.json",
        "'Jmup' (2 of the actions) looks like a slip for 'Jump' (12): correct it if it is.",
    ),
    "a single action": (
        add("clip1", action(15, 18, "Swim")),
        "warning",
        "annotations.json",
        "1 class with a single action for training: Swim; annotate more, or leave the class out.",
    ),
    "frames": (
        scaled(30),
        "error",
        "annotations.json",
        "In 6 of 6 videos actions end far beyond the video's end: are these times frames? Give seconds, or mm:ss.",
    ),
    "milliseconds": (
        scaled(1000),
        "error",
        "annotations.json",
        "In 6 of 6 videos actions end far beyond the video's end: are these times milliseconds? Give seconds, or "
        "mm:ss.",
    ),
    "no background": (
        only(action(1, 12, "Jump"), action(13, 24, "Run")),
        "warning",
        "annotations.json, training",
        "No video has 1.07 s (a clip) without an action: TSP learns nothing from it but a constant; annotate untrimmed "
        "videos, or pretrain with --method tac.",
    ),
    "background of less than five clips": (
        only(action(0, 12, "Jump"), action(14, 24, "Run")),
        "warning",
        "annotations.json, training",
        "No video has 5.3 s without an action, which pretraining asks for: give --set shortest_gap_clips=1 to pretrain "
        "(4 stretches last a clip).",
    ),
    "no training": (
        each(lambda video: video["annotations"].clear() if video["subset"] == "training" else None),
        "error",
        "annotations.json, training",
        "None of the 4 videos has an action: annotate some.",
    ),
    "no validation": (
        each(lambda video: video["annotations"].clear() if video["subset"] == "validation" else None),
        "error",
        "annotations.json, validation",
        "None of the 2 videos has an action: annotate some.",
    ),
    "a video without a file": (
        lambda database: database.update(other=clean()["clip0"]),
        "warning",
        "videos",
        "1 of 5 videos for training without a file: other; add them, or see whether names are the same.",
    ),
    "a file without annotation": (
        lambda database: database.pop("clip0"),
        "note",
        "videos",
        "1 file without annotation: clip0.mp4; a video without actions wants an entry, too.",
    ),
    "unknown length": (
        lambda database: database["clip0"].pop("duration"),
        "note",
        "annotations.json, training",
        "1 video of unknown length, so that ends and background are not checked: clip0; run `tspbench data scan`.",
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_the_only_finding(tmp_path, mistake):
    plant, severity, where, sentence = PLANTED[mistake]
    database = clean()
    plant(database)
    ((found_severity, found_where, found_sentence),) = found(tmp_path, database)
    assert (found_severity, found_where) == (severity, str(tmp_path / where))
    assert found_sentence.startswith(sentence)


@pytest.mark.parametrize(
    ("short", "severity"), [(4, None), (5, "note"), (24, "note"), (25, "error")], ids=["8 %", "10 %", "50 %", "52 %"]
)
def test_clips_longer_than_actions(tmp_path, short, severity):
    """Of 48 actions for training so many last a second, less than a clip of 16/15 s."""
    database = clean()
    for name in NAMES[:4]:
        ends = [action(2 * k, 2 * k + 1.5, "Jump" if k % 2 else "Run") for k in range(8)]
        database[name]["annotations"] = [*ends, *(action(2 * k, 2 * k + 1.5, "Swim") for k in range(4))]
    actions = [each for name in NAMES[:4] for each in database[name]["annotations"]]
    for each in actions[:short]:
        each["segment"][1] = each["segment"][0] + 1.0
    told = [(severity, sentence) for severity, _, sentence in found(tmp_path, database)]
    assert [each[0] for each in told] == ([severity] if severity else [])
    assert all(sentence.startswith(f"{short} of 48 actions") and "clip, 1.07 s" in sentence for _, sentence in told)


def test_an_encoder_with_shorter_clips_drops_less(tmp_path):
    database = clean()
    only(action(2, 3, "Jump"), action(5, 6, "Run"))(database)
    dataset = dataset_of(tmp_path, database)
    assert [each.severity for each in lint(dataset, {})] == ["error", "error"]
    assert lint(dataset, {}, clip_seconds=8 / 12) == []


def test_scanned_lengths_count_more_than_annotated_ones(tmp_path):
    told = found(tmp_path, clean(), {"clip1": 11.0, "clip4": 24.4})
    assert told == [
        (
            "error",
            str(tmp_path / "annotations.json, training"),
            "1 action after the end of the video, by up to 1.5 s: clip1, action 3 (Jump, 10 to 12.5 s); correct them, "
            "or look for the right video.",
        ),
        (
            "warning",
            str(tmp_path / "annotations.json, training"),
            "1 video annotated with another length than that of the file: clip1 (24.0 s, its file 11.0 s); look "
            "whether these are the right videos.",
        ),
    ]


@pytest.mark.parametrize("factor", [1000, 60])
def test_without_lengths_whole_numbers_of_minutes_are_suspected(tmp_path, factor):
    database = clean()
    each(lambda video: video.pop("duration"))(database)
    scaled(factor * 5)(database)
    told = found(tmp_path, database)
    expected = (
        "All times are whole numbers, and half of the actions would last five minutes or more: are these times frames "
        "or milliseconds? Give seconds, or mm:ss."
    )
    assert told[0] == ("error", str(tmp_path / "annotations.json"), expected)
    assert {severity for severity, _, _ in told[1:]} == {"note"}  # of unknown length


def test_long_examples_are_cut(tmp_path):
    database = clean()
    for name in NAMES[:4]:
        add(name, action(15, 15, "Run"))(database)
    (sentence,) = (sentence for severity, _, sentence in found(tmp_path, database) if severity == "warning")
    assert sentence.startswith("4 actions without length")
    assert "clip2" in sentence
    assert "clip3" not in sentence
    assert "and 1 more;" in sentence


def test_similar_names_of_real_classes_are_no_slips(tmp_path):
    """Curling and hurling are of ActivityNet, pushing a car and a cart of Kinetics."""
    database = clean()
    relabelled(["Curling", "Hurling", "Pushing car", "Pushing cart"])(database)
    assert found(tmp_path, database) == []


@pytest.mark.parametrize(
    ("usual", "rare", "times", "slip"),
    [
        ("Jump", "Jmup", 2, True),
        ("Jump", "Jmp", 2, True),
        ("Jump", "Jumps", 2, True),
        ("Jump", "Junp", 2, True),
        ("Jump", "Jnnp", 2, False),
        ("Jump", "Jumped", 2, False),
        ("Jump", "Jmup", 3, False),  # nobody slips three times
        ("Stage 1", "Stage 2", 2, False),
        ("Run", "Rum", 2, True),  # of six
        ("Run", "Rum", 1, True),
    ],
)
def test_what_is_a_slip(tmp_path, usual, rare, times, slip):
    """Of 18 actions, 12 are of one class and 6 of the other."""
    database = clean()
    relabelled(["Clap", "Run", "Clap"] if usual == "Run" else [usual, "Swim", usual])(database)
    add("clip0", *(action(13 + 3 * k, 15 + 3 * k, rare) for k in range(times)))(database)
    told = [sentence for severity, _, sentence in found(tmp_path, database) if "single action" not in sentence]
    assert [f"looks like a slip for {usual!r}" in sentence for sentence in told] == [True] * slip


def test_a_slip_is_rare_beside_what_it_stands_for(tmp_path):
    database = clean()
    for name in NAMES[2:]:
        database[name]["annotations"][1]["label"] = "Swim"
    add("clip0", action(15, 18, "Ran"))(database)  # one, and two of "Run"
    told = [sentence for _, _, sentence in found(tmp_path, database)]
    assert len(told) == 1
    assert "single action for training: Ran;" in told[0]


def test_the_label_that_a_protocol_ignores_is_no_mistake(tmp_path):
    database = clean()
    add("clip4", action(2, 5, "Ambiguous"), action(2, 5, "Ambiguous"), action(30, 31, "Ambiguous"))(database)
    assert found(tmp_path, database, protocol="thumos14") == []
    (tmp_path / "again").mkdir()
    told = " ".join(sentence for _, _, sentence in found(tmp_path / "again", database))
    assert all(f"{what}: " in told for what in ("by up to 7.0 s", "with the same times", "nothing can learn them"))


def test_the_ground_truth_of_the_card_brings_its_own_background(tmp_path):
    database = clean()
    PLANTED["no background"][0](database)
    assert found(tmp_path, database, segments={"training": "train.csv"}) == []


def test_trimmed_videos_have_no_background(tmp_path):
    write_trimmed(tmp_path, SyntheticSettings(trimmed_clips=36), 0, silent)
    (finding,) = lint(open_dataset(str(tmp_path)), {})
    assert finding.sentence.startswith("No video has 1.07 s (a clip) without an action")


def test_a_set_without_videos(tmp_path):
    dataset = dataset_of(tmp_path, clean(), videos="nowhere")
    (finding,) = lint(dataset, {})
    assert (finding.severity, finding.where) == ("note", str(tmp_path / "nowhere"))
    assert [counts.with_file for counts in kept_report(dataset, {})] == [0, 0]
    (tmp_path / "nowhere").mkdir()
    (finding,) = lint(dataset, {})
    assert finding.severity == "error"
    assert "holds no video" in finding.sentence


def test_no_video_of_a_split_is_an_error(tmp_path):
    findings = lint(dataset_of(tmp_path, clean(), files=NAMES[:4]), {})
    assert [(each.severity, each.sentence[:40]) for each in findings] == [
        ("error", "2 of 2 videos for validation without a f")
    ]


def test_what_cannot_be_read_is_a_finding(tmp_path):
    dataset = dataset_of(tmp_path, clean(), splits={"training": "train", "validation": "validation"})
    (finding,) = lint(dataset, {})
    assert finding.severity == "error"
    assert "did you mean 'training'" in finding.sentence
    (tmp_path / "annotations.json").write_text("{")
    (finding,) = lint(dataset, {})
    assert finding.severity == "error"
    assert "expected JSON" in finding.sentence


def test_a_split_that_the_card_lacks(tmp_path):
    (finding,) = lint(dataset_of(tmp_path, clean(), splits={"training": "training"}), {})
    assert (finding.severity, finding.where) == ("error", str(tmp_path / "dataset.toml"))
    assert "no split for validation" in finding.sentence


def test_captions_alone(tmp_path):
    write_toml(tmp_path / "dataset.toml", {"name": "mine", "captions": {"training": ["train.json"]}})
    dataset = open_dataset(str(tmp_path))
    entry = {"duration": 9.0, "timestamps": [[0, 4]], "sentences": ["One."]}
    (tmp_path / "train.json").write_text(json.dumps({"a": entry}))
    assert lint(dataset, {}) == []
    (tmp_path / "train.json").write_text(json.dumps({"a": {**entry, "timestamps": [[0, 14]]}}))
    (finding,) = lint(dataset, {})
    assert (finding.severity, finding.where) == ("error", f"{tmp_path / 'train.json'}, training")
    assert "within [0, 9]" in finding.sentence


def quarantine(tmp_path, *names, size=0):
    """Write a manifest of empty files, of which those of ``names`` cannot be used and the others last 24 s."""
    facts = VideoFacts(24.0, 720, 30.0, True, 320, 240, 0, "none", 720)
    videos = {}
    for name in NAMES:
        bad = {"problem": Problem.EMPTY, "reason": f"{name}.mp4 is empty: copy it again."} if name in names else {}
        videos[name] = ScannedVideo(name, f"{name}.mp4", size, 1, facts=None if bad else facts, **bad)
    write_manifest(tmp_path / "videos" / MANIFEST, Manifest(tmp_path / "videos", videos))


def test_quarantined_videos_are_not_missing(tmp_path):
    dataset = dataset_of(tmp_path, clean(), files=NAMES[1:])
    quarantine(tmp_path, "clip2", "clip3")
    assert [(each.severity, each.where, each.sentence) for each in lint(dataset, dataset.lengths())] == [
        (
            "warning",
            str(tmp_path / "videos"),
            "1 of 4 videos for training without a file: clip0; add them, or see whether names are the same.",
        ),
        (
            "warning",
            str(tmp_path / "videos"),
            "2 of 4 videos for training quarantined (first: clip2: clip2.mp4 is empty: copy it again).",
        ),
    ]
    assert [counts.with_file for counts in kept_report(dataset, {})] == [1, 2]
    quarantine(tmp_path, "clip1", "clip2", "clip3")
    assert [each.severity for each in lint(dataset, {})] == ["error", "error"]
    quarantine(tmp_path, *NAMES)
    assert [each.sentence[:38] for each in lint(dataset, {}) if "quarantined" in each.sentence] == [
        "3 of 4 videos for training quarantined",
        "2 of 2 videos for validation quarantin",
    ]


def test_where_files_have_changed_since_the_scan_annotated_lengths_count(tmp_path):
    dataset = dataset_of(tmp_path, clean())
    quarantine(tmp_path, "clip0", size=9)
    (finding,) = lint(dataset, dict.fromkeys(NAMES, 11.0))  # in which actions would end too late
    assert (finding.severity, finding.where) == ("error", str(tmp_path / "videos"))
    assert "clip0.mp4 has changed since it was scanned" in finding.sentence
    # Within 11 s the third action of each video, from 10 s on, would not last a clip.
    assert [(each.with_file, each.kept) for each in kept_report(dataset, dict.fromkeys(NAMES, 11.0))] == [
        (4, 12),
        (2, 6),
    ]
    (tmp_path / "videos" / MANIFEST).write_text("{")
    (finding,) = lint(dataset, {})
    assert (finding.severity, MANIFEST in finding.sentence) == ("error", True)
    assert [each.with_file for each in kept_report(dataset, {})] == [4, 2]


def test_a_leading_v_does_not_count(tmp_path):
    database = {f"v_{name}": video for name, video in clean().items()}
    for video in database.values():
        del video["duration"]
    dataset = dataset_of(tmp_path, database)
    assert lint(dataset, dict.fromkeys(NAMES, 24.0)) == []
    assert [counts.with_file for counts in kept_report(dataset, {})] == [4, 2]


def test_actions_after_the_end_are_not_short(tmp_path):
    """Of 15 actions three lie after the end; of 18 three last half a second."""
    database = clean()
    add("clip0", action(30, 30.5, "Run"), action(32, 33.5, "Run"), action(34, 36, "Run"))(database)
    (sentence,) = (sentence for _, _, sentence in found(tmp_path, database))
    assert sentence.startswith("3 actions after the end of the video, by up to 12.0 s")
    (tmp_path / "again").mkdir()
    add("clip1", *(action(15 + k, 15.5 + k, "Run") for k in range(3)))(database)
    told = [sentence for _, _, sentence in found(tmp_path / "again", database)]
    assert told[1].startswith("3 of 18 actions (17%) are shorter than a clip")


def test_what_can_be_used_is_counted_whatever_is_wrong(tmp_path):
    database = clean()
    add("clip1", action(20, 40, "Run"), action(-3, 1, "Jum"))(database)
    splits = {"training": "training", "validation": "val"}
    dataset = dataset_of(tmp_path, database, splits=splits)
    assert [each.severity for each in lint(dataset, {})] == ["error"]
    assert [(each.role, each.actions, each.kept) for each in kept_report(dataset, {})] == [("training", 14, 13)]


def test_known_defects_of_a_benchmark_are_warnings(tmp_path):
    database = clean()
    add("clip1", action(20, 60, "Run"), action(7, 7, "Run"), action(8, 10, "Run"))(database)
    for number, (benchmark, severities) in enumerate(
        [({}, ["error", "warning", "warning"]), ({"benchmark": "activitynet"}, ["warning"] * 3)]
    ):
        (tmp_path / str(number)).mkdir()
        assert [severity for severity, _, _ in found(tmp_path / str(number), database, **benchmark)] == severities
    PLANTED["starts before 0"][0](database)
    (tmp_path / "2").mkdir()
    assert found(tmp_path / "2", database, benchmark="activitynet")[0][0] == "error"


THUMOS = "thumos14/{}_tsp_groundtruth.csv.gz"


@pytest.mark.parametrize(
    ("benchmark", "sources"),
    [
        ("activitynet", ["activitynet/train_tsp_groundtruth.csv.gz", "activitynet/valid_tsp_groundtruth.csv.gz"]),
        ("activitynet", ["activitynet/annotations_19228.json"]),
        ("thumos14", [THUMOS.format("valid"), THUMOS.format("test")]),
        (
            "thumos14",
            ["thumos14/test_groundtruth_with_ambiguous.csv", THUMOS.format("valid"), THUMOS.format("test")],
        ),
    ],
)
def test_published_files_have_no_error(tmp_path, monkeypatch, benchmark, sources):
    monkeypatch.setenv("TSPBENCH_DATA", str(tmp_path))
    import_annotations([str(shared(f"data/{source}")) for source in sources], tmp_path / benchmark)
    findings = lint(open_dataset(benchmark), {})
    assert {each.severity for each in findings} == {"warning", "note"}


def test_what_is_kept_is_counted(tmp_path):
    database = clean()
    # Cut off at the video's end, 24 s, the second lasts less than a clip; the third is exactly one.
    add("clip0", action(15, 16, "Run"), action(23, 25, "Run"), action(18, 18 + CLIP_SECONDS, "Run"))(database)
    database["clip1"].update(annotations=[])
    training, validation = kept_report(dataset_of(tmp_path, database, files=NAMES[1:]), {})
    assert (training.role, training.subset, training.videos, training.with_file) == ("training", "training", 4, 3)
    assert (training.actions, training.kept) == (3 + 3 + 6, 3 + 3 + 4)
    assert (validation.videos, validation.with_file, validation.actions, validation.kept) == (2, 2, 6, 6)


def test_published_annotations_have_the_defects_that_are_known_of_them(tmp_path):
    """Nothing else is said of ActivityNet: 9 + 3 segments of length zero, duplicates, one end after its video."""
    card = {"name": "activitynet", "annotations": str(shared("data/activitynet/annotations_19228.json"))}
    write_toml(tmp_path / "dataset.toml", card)
    dataset = open_dataset(str(tmp_path))
    told = [(each.severity, each.sentence) for each in lint(dataset, {})]
    assert [severity for severity, _ in told] == ["warning"] * 7 + ["note"] * 3
    assert [sentence.split(":")[0] for _, sentence in told if "length" in sentence] == [
        "9 actions without length, which nothing can find",
        "3 actions without length, which nothing can find",
    ]
    assert "1 action after the end of the video, by up to 0.8 s" in " ".join(sentence for _, sentence in told)
    assert [(counts.videos, counts.actions) for counts in kept_report(dataset, {})] == [(9649, 14859), (4728, 7293)]
