"""Options that every command shares, and how commands talk."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..transport.errors import HopflowError

if TYPE_CHECKING:
    from rich.table import Table

    from .database import Database


class WrongUse(HopflowError):  # noqa: N818  it names what the user did, as exit code 2 does
    """A command was called with something that it does not know; its text says what is allowed."""


@dataclass
class Options:
    """Options of the ``hopflow`` command itself."""

    launchpad: Path | None
    home: Path
    debug: bool


def complain(text: str) -> None:
    """Write an error to the error stream."""
    sys.stderr.write(f"hopflow: {text}\n")


def complain_of_table(file: Path, path_ids: Sequence[str | int], answered: int, none_answered: str) -> None:
    """Say what a person may not expect of the answers for a table of paths.

    Parameters
    ----------
    file
        The table.
    path_ids
        Name of each row.
    answered
        How many rows have an answer.
    none_answered
        What to say where none has one.
    """
    for name, count in Counter(map(str, path_ids)).items():
        if count > 1:
            complain(f"{count} rows are called {name}; their answers stand in the order of the rows.")
    if not path_ids:
        complain(f"{file} holds no rows.")
    elif not answered:
        complain(none_answered)


def say(text: str) -> None:
    """Write a line for a person."""
    sys.stdout.write(text + "\n")


def say_wrapped(lead: str, text: str) -> None:
    """Write a lead and a text beside it; on a terminal, lines that are too long go on under the text's beginning."""
    if not sys.stdout.isatty():
        say((lead + text).rstrip())
        return
    width = max(40, shutil.get_terminal_size().columns)
    hanging = " " * min(len(lead), width // 2)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=lead,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    say("\n".join(lines) if lines else lead.rstrip())


def show(*tables: Table) -> None:
    """Print tables; where no terminal sets a width, lines are as long as they need to be."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        unbound = console.options.update(max_width=10_000)
        console.width = max(console.width, *(console.measure(table, options=unbound).maximum for table in tables))
    for table in tables:
        console.print(table)


def print_json(data: Any, indent: int | None = 2) -> None:
    """Write data as JSON that every parser takes; a number that is not finite becomes null."""
    sys.stdout.write(json_text(data, indent) + "\n")
    sys.stdout.flush()


def json_text(data: Any, indent: int | None = 2) -> str:
    """Data as JSON that every parser takes; a number that is not finite becomes null."""
    return json.dumps(_finite(data), indent=indent, default=str, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def check_output_file(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Make sure that a file can be written there, before work is spent on what goes into it.

    Parameters
    ----------
    path
        The file to write.
    inputs
        Files that the command reads and must not replace.

    Raises
    ------
    WrongUse
        The path is a folder, lies where nothing can be written, or is an input.
    """
    if any(path.exists() and each.exists() and path.samefile(each) for each in inputs):
        raise WrongUse(f"{path} is the structure itself and would be replaced; name another file.")
    if path.is_dir():
        raise WrongUse(f"{path} is a folder; name the file that is to be written.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise WrongUse(f"{path} cannot be written; name a file in a folder that you may write to.")


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
    """Send what libraries print to the error stream, so that standard output holds results alone.

    Python's own stream and the process's file descriptor are both turned away: compiled libraries and child processes
    know only the latter.
    """
    from contextlib import redirect_stdout

    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextmanager
def at_work(text: str) -> Iterator[None]:
    """Say on a terminal what is being worked on, and take it back at the end; elsewhere, say nothing."""
    if not sys.stderr.isatty():
        yield
        return
    sys.stderr.write(f"{text} ...")
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
