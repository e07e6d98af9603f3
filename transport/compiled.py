"""Compiled loops: numba with an on-disk cache where there is a folder to write it to, without one where there is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on its first call and keep the machine code on disk when possible.

    numba caches beside the module, else in ``NUMBA_CACHE_DIR`` or the user's cache folder. It refuses to compile at all
    when none of them can be written (a read-only install without a home); then the code is compiled in each process.
    """
    try:
        kernel: Callable[..., Any] = njit(cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        kernel = njit()(function)
    return kernel
