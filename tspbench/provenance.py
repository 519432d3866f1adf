"""Where a number comes from: versions, git commit, machine."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tspbench import __version__

PACKAGES: Final = ("torch", "torchvision", "numpy", "decord", "av", "h5py", "accelerate", "numba")


@cache
def provenance() -> dict[str, object]:
    """Return versions, the commit of a source checkout (None when installed from a wheel) and the machine."""
    return {
        # A checkout's own version, whatever metadata an older installation has left beside it.
        "packages": {"tspbench": __version__} | {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": _processor(), "gpu": _gpu()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout that this file lies in, with "+changes" when files differ from it."""
    folder = Path(__file__).parent
    try:
        run = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        # A package installed inside somebody else's checkout is not that checkout.
        tracked = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],  # noqa: S607
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if tracked.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _gpu() -> str | None:
    import torch  # noqa: PLC0415 - a record of a command without torch must not load it

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
