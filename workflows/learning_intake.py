"""Structures for a data set: drawn in an order that a seed decides, kept as text, and built one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..transport.errors import CandidateError, StructureError
from ..transport.structure_files import jsonl_lines, read_structures, structure_from_line
from .intake import _unused

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class _Text:
    """A crystal as JSON, with the line of the file that it stands in."""

    file: Path
    number: int
    content: bytes


class DrawnStructures:
    """The structures of files, in drawn order, each with a name of its own.

    A crystal is kept as a line of JSON: so do a hundred thousand fit into memory, which they do not as objects. A name
    that comes again gets ``-2``, ``-3``, ... The order is that of the SHA-256 of seed and name, so it depends on
    neither the order of the files nor what else is in them, and a larger limit begins with all that a smaller one took.

    Parameters
    ----------
    files
        Structure files as :func:`..transport.structures.read_structures` takes them.
    seed
        Of the order.
    limit
        How many are taken; 0 takes all.
    """

    def __init__(self, files: Sequence[Path], seed: int = 0, limit: int = 0) -> None:
        used: set[str] = set()
        entries = [(_unused(name, used), content) for file in files for name, content in _entries(file)]
        entries.sort(key=lambda entry: hashlib.sha256(f"{seed} {entry[0]}".encode()).digest())
        self._entries = entries[:limit] if limit else entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, Structure | CandidateError]]:
        for name, content in self._entries:
            if isinstance(content, CandidateError):
                yield name, content
                continue
            found = structure_from_line(content.content, content.number, content.file)
            yield name, found.structure or found.error or StructureError(f"{name} holds no structure.")


def _entries(file: Path) -> Iterator[tuple[str, _Text | CandidateError]]:
    lines = None
    if file.name.lower().endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        try:
            lines = jsonl_lines(file)
        except (OSError, EOFError):
            lines = None  # the reader below says what is wrong
    if lines is not None:
        empty = True
        for number, line in lines:
            empty = False
            yield _name(line, number, file), _Text(file, number, line)
        if not empty:
            return
    for entry in read_structures(file):
        if entry.structure is None:
            yield entry.name, entry.error or StructureError(f"{entry.name} in {file.name} holds no structure.")
        else:
            yield entry.name, _Text(file, 1, entry.structure.to_json().encode())


def _name(line: bytes, number: int, file: Path) -> str:
    """The name that the structure of a line will have, without building it."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        row = None
    found = row.get("material_id") if isinstance(row, dict) else None
    return str(found) if found else structure_from_line(b"null", number, file).name
