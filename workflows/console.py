"""Options that every command shares, and how commands talk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .database import Database


@dataclass
class Options:
    """Options of the ``hopflow`` command itself."""

    launchpad: Path | None
    home: Path
    debug: bool


def complain(text: str) -> None:
    """Write an error to the error stream."""
    sys.stderr.write(f"hopflow: {text}\n")


def say(text: str) -> None:
    """Write a line for a person."""
    sys.stdout.write(text + "\n")


def print_json(data: Any, indent: int | None = 2) -> None:
    """Write data as JSON that every parser takes: no NaN, no infinity."""
    sys.stdout.write(json.dumps(data, indent=indent, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def opened(options: Options, read_only: bool = False) -> Iterator[Database]:
    """Open the database that the options name, and close it at the end."""
    from .database import open_database

    database = open_database(home=options.home, launchpad=options.launchpad, read_only=read_only)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what libraries print to the error stream, so that standard output holds results alone."""
    from contextlib import redirect_stdout

    with redirect_stdout(sys.stderr):
        yield
