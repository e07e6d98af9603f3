"""Path tables in: JSON lines, plain or gzipped, one row at a time; what is broken costs only itself."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..transport.errors import CandidateError, HopflowError, StructureError
from ..transport.paths import MigrationPath
from .path_graphs import GraphSettings, build_path_graph

_GZIP = b"\x1f\x8b"
_LARGEST_EV = 1e6
"""No barrier, but a slip: such a number would spoil sums, and a longer one is no float at all."""
_READING_ERRORS = (OSError, EOFError, zlib.error)


class PathFileError(HopflowError):
    """A path table cannot be read at all."""


@dataclass(frozen=True)
class PathRow:
    """One row of a path table, or why it is none.

    Attributes
    ----------
    path_id
        The row's own text or whole number; where it has none, the file's name and the line.
    row
        The row, or None.
    error
        What is wrong, or None. Exactly one of ``row`` and ``error`` is None.
    """

    path_id: str | int
    row: dict[str, Any] | None
    error: CandidateError | None


def iterate_path_rows(file: Path) -> Iterator[PathRow]:
    """Rows of a path table in its order; blank lines are no rows.

    Parameters
    ----------
    file
        JSON lines, gzipped or not whatever the name says.

    Raises
    ------
    PathFileError
        There is no such file, it may not be read, or it is called ``.gz`` and is not gzip.
    """
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".ndjson") or file.name
    number = 0
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(_plain(stream, file), 1):
                if line.strip():
                    yield _path_row(line, f"{stem}:{number}", f"Line {number} of {file.name}")
    except _READING_ERRORS as error:
        if number == 0:
            raise PathFileError(f"{file} cannot be read: {_why(error)}.") from error
        # a download that broke off still has good rows at its beginning
        broken = StructureError(f"{file.name} cannot be read beyond line {number} ({_why(error)}); fetch it again.")
        yield PathRow(f"{stem}:{number + 1}", None, broken)


def read_labelled_rows(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows that a network can learn from, and those that it cannot.

    Parameters
    ----------
    file
        As for :func:`iterate_path_rows`; rows need ``barrier_dft_eV``, and may have ``barrier_mace_relax_eV``.

    Returns
    -------
    The rows, and of each that is left out its ``path_id``, ``reason`` and ``error``.

    Raises
    ------
    PathFileError
        The file cannot be read.
    """
    rows, left_out = [], []
    for entry in iterate_path_rows(file):
        try:
            rows.append(_labelled(entry))
        except CandidateError as error:
            left_out.append({"path_id": str(entry.path_id), "reason": str(error.reason), "error": str(error)})
    return rows, left_out


def _labelled(entry: PathRow) -> dict[str, Any]:
    if entry.row is None:
        raise entry.error or StructureError(f"{entry.path_id} holds no path.")
    row = {**entry.row, "path_id": str(entry.path_id)}
    for key in ("barrier_dft_eV", "barrier_mace_relax_eV"):
        row[key] = _barrier(row.get(key), key, entry.path_id)
    if row["barrier_dft_eV"] is None:
        raise StructureError(f"The path {entry.path_id} has no barrier_dft_eV to learn from.")
    build_path_graph(MigrationPath.from_row(row), GraphSettings(relaxation_steps=0))
    return row


def _barrier(value: Any, key: str, path_id: str | int) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if (barrier_eV := plain_barrier_eV(value)) is None:
        raise StructureError(f"The path {path_id} has a {key} that is no barrier in eV ({value!r:.40}).")
    return barrier_eV


def plain_barrier_eV(value: Any) -> float | None:
    """A finite number not below zero as a float; None for whatever else stands in a row."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST_EV:
        return None
    return float(value)


def _plain(stream: Any, file: Path) -> Iterable[bytes]:
    """Lines of the file, unpacked where it is packed."""
    head = stream.peek(2)[:2]
    if head == _GZIP:
        return gzip.GzipFile(fileobj=stream)
    if head and file.name.lower().endswith(".gz"):
        raise gzip.BadGzipFile("it is not a gzip file, as its name says")
    return stream


def _path_row(line: bytes, name: str | int, where: str) -> PathRow:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:160]
        return PathRow(name, None, StructureError(f"{where} is not valid JSON ({text}); correct or remove it."))
    if not isinstance(row, dict):
        kind = type(row).__name__
        return PathRow(name, None, StructureError(f"{where} must be a JSON object, not {kind}; correct or remove it."))
    found = row.get("path_id")
    if (isinstance(found, str) and found) or (isinstance(found, int) and not isinstance(found, bool)):
        name = found
    return PathRow(name, row, None)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
