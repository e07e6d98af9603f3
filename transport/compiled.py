"""Compiled loops: numba with its code cached on disk, or without where no folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

_REORDERED = {"reassoc", "contract"}
"""What LLVM may do to sums: add in another order, and multiply and add in one operation."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on its first call and keep the machine code on disk when possible; it runs without the GIL.

    numba caches beside the module, else in ``NUMBA_CACHE_DIR`` or the user's cache folder. It refuses to compile at all
    when none of them can be written (a read-only install without a home); then the code is compiled in each process.
    """
    return _compiled(function, fastmath=False)


def compiled_in_any_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`compiled`; sums may be added in another order, so that they run several numbers at a time.

    Results are the same in every run on one machine, and differ between machines by rounding.
    """
    return _compiled(function, fastmath=_REORDERED)


def _compiled(function: Callable[..., Any], fastmath: bool | set[str]) -> Callable[..., Any]:
    try:
        kernel: Callable[..., Any] = njit(cache=True, nogil=True, fastmath=fastmath)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        kernel = njit(nogil=True, fastmath=fastmath)(function)
    return kernel
