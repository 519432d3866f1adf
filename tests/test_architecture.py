"""Imports go down the floors of the README's picture, and a module is one page with a caption."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Floor → modules and packages on it. A new module has to take its place here.
FLOORS = {
    6: "tspbench.cli tspbench.cli_group tspbench.cli_options tspbench.data_cli tspbench.study_cli tspbench.__main__",
    5: "tspbench.api tspbench.verbs tspbench.scoring_verbs tspbench.study_verbs tspbench.doctor tspbench.doctor_parts "
    "tspbench.doctor_places tspbench.experiment tspbench.recipe "
    "tspbench.recipe_defaults tspbench.sources tspbench.plan tspbench.probe "
    "tspbench.estimate tspbench.data_verbs tspbench.report "
    "tspbench.report_published tspbench.page tspbench.listing tspbench.checking tspbench.video_prediction",
    4: "tspbench.stages",
    3: "tspbench.datasets tspbench.encoders tspbench.pretraining tspbench.clip_batches "
    "tspbench.reference_rows tspbench.feature_reading tspbench.feature_views tspbench.feature_batches "
    "tspbench.segment_batches tspbench.proposal_batches tspbench.caption_sets tspbench.streaming tspbench.video_labels "
    "tspbench.vocabulary tspbench.fit tspbench.fit_settings tspbench.meter tspbench.training_state "
    "tspbench.plots tspbench.video_picture "
    "tspbench.feature_study tspbench.linear_probe tspbench.study_plots tspbench.clip_reading tspbench.snippet_batches",
    2: "tspbench.storage",
    1: "tspbench tspbench.timeline tspbench.clips tspbench.config tspbench.provenance tspbench.errors "
    "tspbench.progress tspbench.device tspbench.processes tspbench.video_names tspbench.ranks tspbench.beats "
    "tspbench.watch tspbench.chunks tspbench.workers tspbench.preprocessing tspbench.own_code",
    0: "evaluation baselines",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
# What the two libraries on the ground floor must not know, beside everything above them.
FORBIDDEN = {
    "evaluation": {"baselines", "torch", "torchvision", "h5py", "pandas", "typer", "rich"},
    "baselines": {"evaluation", "h5py", "pandas", "typer", "rich", "decord", "av"},
}
OPENERS = {"open", "File", "read_text", "read_bytes", "write_text", "write_bytes", "load", "save", "savez", "to_csv"}
OPENS_FILES = ("tspbench.storage", "tspbench.provenance", "tspbench.doctor")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("tspbench", "evaluation", "baselines")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def place(name: str) -> str:
    """Return the entry of `FLOOR` for a module or a name in one; a module below `tspbench` needs one of its own."""
    while name not in FLOOR:
        name = name.rpartition(".")[0]
    return name


def imported(module: str) -> list[str]:
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text("utf-8"))))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), "imports are absolute"
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert place(module) != "tspbench" or module == "tspbench", f"give {module} a floor"
    ours = [name for name in imported(module) if name.split(".")[0] in ("tspbench", "evaluation", "baselines")]
    up = [name for name in ours if FLOOR[place(name)] > FLOOR[place(module)]]
    assert not up, f"{module} on floor {FLOOR[place(module)]} imports {up}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in FORBIDDEN])
def test_the_ground_floor_is_light(module):
    package = module.split(".")[0]
    assert FORBIDDEN[package].isdisjoint(name.split(".")[0] for name in imported(module))


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(OPENS_FILES)])
def test_only_storage_opens_files(module):
    calls = [
        node.func for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    names |= {call.id for call in calls if isinstance(call, ast.Name)}
    # Storage has functions of such names: to call those is the way.
    ours = {name.rpartition(".")[2] for name in imported(module) if name.startswith("tspbench.storage.")}
    assert not (names & OPENERS) - ours


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_one_page_with_a_caption(module):
    text = MODULES[module].read_text("utf-8")
    assert len(text.splitlines()) <= 400
    caption = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert caption.endswith("."), f"the first line of {module}'s docstring is its caption"
