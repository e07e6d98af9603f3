"""The command line in the process of the test."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hopflow.workflows import cli


def call(*words: Any, code: int = 0) -> tuple[str, str]:
    """Standard output and errors of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["hopflow", *map(str, words)])
        # Processes of pytest-xdist have a width of 80, to which tables would be cut.
        patch.delenv("COLUMNS", raising=False)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert (end.value.code or 0) == code, err.getvalue() + out.getvalue()
    return out.getvalue(), err.getvalue()
