"""Compiled loops: numba with its code cached on disk, or without where no folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on its first call and keep the machine code on disk when possible; it runs without the GIL.

    numba caches beside the module, else in ``NUMBA_CACHE_DIR`` or the user's cache folder. It refuses to compile at all
    when none of them can be written (a read-only install without a home); then the code is compiled in each process.
    """
    try:
        kernel: Callable[..., Any] = njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        kernel = njit(nogil=True)(function)
    return kernel
