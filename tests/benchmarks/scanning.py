"""Scanning videos: files a second with long-living workers, and with a fresh process for each file.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.scanning [FILES]``. It writes generated
videos of 4 seconds, scans them both ways and prints a Markdown table.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.tspbench.helpers import numbered_video, silent
from tspbench.stages.scan import scan

FILES = 200
FRESH = 20  # a fresh process each is so slow that few files do
WORKERS = 2
CODE = "import sys, pathlib; from tspbench.storage.video_check import check_video as c; c(pathlib.Path(sys.argv[1]))"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fresh(path: Path) -> None:
    subprocess.run([sys.executable, "-c", CODE, str(path)], check=True, timeout=10)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = {f"v{k}": numbered_video(folder / f"v{k}.mp4", 48, first=k) for k in range(count)}
        pool = seconds(lambda: scan(videos, folder / "manifest.json", workers=WORKERS, advance=silent)) / count
        again = seconds(lambda: scan(videos, folder / "manifest.json", workers=WORKERS, advance=silent))
        some = list(videos.values())[:FRESH]
        with ThreadPoolExecutor(WORKERS) as threads:
            plain = seconds(lambda: list(threads.map(fresh, some))) / len(some)
    print("| way | files a second |\n|---|---:|")
    print(f"| {WORKERS} workers that live on | {1 / pool:.0f} |")
    print(f"| a fresh process a file, {WORKERS} at a time | {1 / plain:.1f} |\n")
    print(f"Ratio {plain / pool:.0f}; the same {count} files scanned again: {again:.2f} s.")


if __name__ == "__main__":
    main()
