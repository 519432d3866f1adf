"""What is missing on this machine, each with the command that mends it."""

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

GIB: Final = 2**30
LEAST_DISK_GIB: Final = 2.0


def examine() -> bool:
    """Print one line for each check; return whether all of them passed."""
    console = Console(highlight=False)
    good = True
    for name, check, remedy in CHECKS:
        try:
            found = check()
        except Exception as error:  # whatever goes wrong in a check is its result
            first = (str(error).splitlines() or [type(error).__name__])[0]
            console.print(f"[red]fail[/red]  {name}: ", end="")
            console.print(f"{first}\n      → {_remedy(remedy, str(error))}", markup=False)
            good = False
        else:
            console.print(f"[green]ok[/green]    {name}: ", end="")
            console.print(found, markup=False)
    return good


def _python() -> str:
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run by any Python
        raise RuntimeError(f"Python {sys.version.split()[0]} is older than 3.11")
    return sys.version.split()[0]


def _torch() -> str:
    torch = importlib.import_module("torch")
    vision = importlib.import_module("torchvision")
    vision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return f"torch {torch.__version__}, torchvision {vision.__version__}"


def _gpu() -> str:
    torch = importlib.import_module("torch")
    return f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU only (works, slowly)"


def _packages() -> str:
    names = ("accelerate", "h5py", "numba", "pandas", "pydantic", "safetensors", "scipy", "orjson")
    for name in names:
        importlib.import_module(name)
    return ", ".join(names)


def _video() -> str:
    from tspbench.storage.video import open_video, scan_video, write_video  # noqa: PLC0415 - a check of its own

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, [np.full((32, 32, 3), 8 * k, dtype=np.uint8) for k in range(20)], 10)
        info = scan_video(path)
        reader = open_video(info)
        frames = reader.read(np.arange(20))
    if info.frames != 20 or abs(int(frames[10].mean()) - 80) > 8:
        raise RuntimeError("a video came back other than it was written")
    return f"writes by PyAV, reads by {reader.decoder}"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    if free < LEAST_DISK_GIB:
        raise RuntimeError(f"{free:.1f} GiB free in {Path.cwd()}, {LEAST_DISK_GIB:.0f} are wanted")
    return f"{free:.0f} GiB free in {Path.cwd()}"


def _writable() -> str:
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".tspbench-"):
        return f"{Path.cwd()} can be written"


def _remedy(remedy: str, error: str) -> str:
    if "torchvision::nms does not exist" in error:
        return (
            "torch and torchvision do not belong together; put both from one index back: "
            "uv pip install --reinstall torch torchvision"
        )
    return remedy


CHECKS: Final[tuple[tuple[str, Callable[[], str], str], ...]] = (
    ("Python", _python, "uv python install 3.11"),
    ("torch", _torch, "uv pip install --reinstall torch torchvision"),
    ("device", _gpu, "uv pip install --reinstall torch torchvision"),
    ("packages", _packages, "uv sync"),
    ("video", _video, "uv pip install --reinstall av decord"),
    ("disk", _disk, "make room, or run in another folder"),
    ("folder", _writable, "run in a folder that you may write"),
)
