"""Machine code where it can be kept on disk, and where it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import numba

from evaluation.compiled import compiled


def add_up(count):
    total = 0
    for k in range(count):
        total += halved(k)
    return total


def halved(k):
    return k // 2


def test_a_loop_gives_what_python_gives():
    assert compiled(add_up, halved)(10) == add_up(10) == 20
    assert compiled(add_up, halved) is compiled(add_up, halved)


def test_without_a_place_to_keep_it_a_loop_is_compiled_anew(monkeypatch):
    real = numba.njit

    def njit(*arguments, cache=False):
        if cache:
            raise RuntimeError("cannot cache function 'add_up': no locator available for file 'x'")
        return real(*arguments)

    monkeypatch.setattr(numba, "njit", njit)
    compiled.cache_clear()
    assert compiled(add_up, halved)(10) == 20
    compiled.cache_clear()


def test_importing_it_does_not_import_numba():
    code = "import sys, evaluation.compiled; sys.exit('numba' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
