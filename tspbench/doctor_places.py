"""The doctor's look at memory, disk, and the folders that are written."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from tspbench.doctor_parts import FaultError

GIB: Final = 2**30
LEAST_DISK_GIB: Final = 2.0
LEAST_MEMORY_GIB: Final = 3.0  # METEOR's Java may take 2
_CGROUP: Final = Path("/sys/fs/cgroup")


def memory() -> str:
    """Return how much memory is free: of the machine, or of the container if that is less."""
    free = _machine_bytes()
    if free is None:
        return "not told by this system"
    container = _container_bytes()
    gib = min(free, free if container is None else container) / GIB
    if gib < LEAST_MEMORY_GIB:
        raise FaultError(f"{gib:.1f} GiB free, {LEAST_MEMORY_GIB:.0f} are wanted")
    return f"{gib:.0f} GiB free"


def _machine_bytes() -> int | None:
    path = Path("/proc/meminfo")
    lines = dict(line.split(":", 1) for line in path.read_text("utf-8").splitlines()) if path.is_file() else {}
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _container_bytes() -> int | None:
    """Return what a container's limit (cgroup 2) leaves; None where there is no limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text("utf-8").strip()
        used = int((_CGROUP / "memory.current").read_text("utf-8"))
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):
        return None
    # Of what is used, the cache of files is given back when it is asked for.
    return None if limit == "max" else int(limit) - used + int(statistics.get("inactive_file", 0))


def disk() -> str:
    """Return how much room there is in the folder in which runs are written."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    if free < LEAST_DISK_GIB:
        raise FaultError(f"{free:.1f} GiB free in {Path.cwd()}, {LEAST_DISK_GIB:.0f} are wanted")
    return f"{free:.0f} GiB free in {Path.cwd()}"


def run_folder() -> str:
    """Write into the folder in which runs are written."""
    return _writable(Path.cwd())


def temporary_folder() -> str:
    """Write into the folder for temporary files."""
    return _writable(Path(tempfile.gettempdir()))


def data_folder() -> str:
    """Write into the folder of what `tspbench fetch` brings."""
    from tspbench.storage.catalog import data_root  # noqa: PLC0415 - as in every check

    return _writable(data_root().absolute())


def numba_cache() -> str:
    """Return where numba keeps compiled loops; without such a place every process compiles them again."""
    from evaluation.compiled import compiled  # noqa: PLC0415 - as in every check
    from evaluation.overlap import temporal_iou  # noqa: PLC0415

    folder = compiled(temporal_iou).stats.cache_path  # type: ignore[attr-defined]
    if folder is None:
        raise FaultError(
            f"numba can write neither beside {Path(temporal_iou.__code__.co_filename).parent} nor in a cache"
        )
    return _writable(Path(folder))


def torch_cache() -> str:
    """Write where torch keeps the weights that torchvision publishes."""
    return _writable(Path(os.environ.get("TORCH_HOME") or _user_cache() / "torch").expanduser())


def matplotlib_cache() -> str:
    """Write where matplotlib keeps its list of fonts; without such a place every figure waits for a new one."""
    return _writable(Path(os.environ.get("MPLCONFIGDIR") or _user_cache() / "matplotlib").expanduser())


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _writable(folder: Path) -> str:
    """Write a file into a folder, or where the folder would be made, and take it away again."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".tspbench-"):
            pass
    except OSError as error:
        made = "" if there == folder else f" (in {there}, where it would be made)"
        raise FaultError(f"{folder} cannot be written{made}: {error.strerror}") from error
    return f"{folder} can be written"
