"""Environment variables that others set for the whole process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

FULL_UNPICKLING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Set to 1, every ``torch.load`` of the process runs what a file tells it to. mace sets it when it is imported."""


@contextmanager
def variable_kept(name: str, meanwhile: str | None = None) -> Iterator[None]:
    """Put a variable back afterwards, whatever it was, also after an error.

    Parameters
    ----------
    name
        The variable.
    meanwhile
        Its value until then; None leaves it as it is.
    """
    before = os.environ.get(name)
    if meanwhile is not None:
        os.environ[name] = meanwhile
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
