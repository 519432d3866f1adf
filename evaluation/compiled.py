"""Loops as machine code, kept on disk where there is a place for it."""

import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def compiled(loop: Callable[..., Any], *called: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``loop`` as machine code, compiled once per installation.

    Args:
        loop: a function of numbers and arrays.
        called: functions that it calls. They stand in its file, whose change is what makes numba compile again.
    """
    # Importing numba takes most of a second, which `tspbench --help` has no reason to wait for.
    import numba  # noqa: PLC0415
    from numba.extending import register_jitable  # noqa: PLC0415

    for function in called:
        register_jitable(function)
    machine_code: Callable[..., Any]
    try:
        machine_code = numba.njit(cache=True)(loop)
    except RuntimeError:
        # Neither this folder nor one of the user's can be written: it is compiled in every process.
        machine_code = numba.njit(loop)
    return machine_code
