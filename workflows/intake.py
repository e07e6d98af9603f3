"""Where candidates come from: structure files, the Materials Project, or a snapshot of an earlier intake."""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..transport.errors import CandidateError
from .candidates import (
    Candidate,
    Fate,
    Intake,
    IntakeError,
    candidate_from_structure,
    mark_duplicates,
    missing_candidate,
    unreadable_candidate,
)
from .snapshot import from_snapshot, write_snapshot

__all__ = [
    "Candidate",
    "Fate",
    "Intake",
    "IntakeError",
    "from_snapshot",
    "from_structures",
    "read_id_file",
    "resolve_materials",
    "write_snapshot",
]

_SUFFIXES = (".cif", ".vasp", ".poscar", ".json", ".jsonl", ".jsonl.gz", ".json.gz")
_VASP_NAMES = ("POSCAR", "CONTCAR")
#: Columns of an ``index.csv`` and the property that each one gives.
_PROPERTY_COLUMNS = {
    "energy_above_hull": "energy_above_hull_eV_per_atom",
    "energy_above_hull_eV_per_atom": "energy_above_hull_eV_per_atom",
    "band_gap": "band_gap_eV",
    "band_gap_eV": "band_gap_eV",
}


def resolve_materials(
    *,
    mp_ids: Sequence[str] | Path | str | None = None,
    mp_query: dict[str, Any] | None = None,
    snapshot: Path | str | None = None,
    structures: Path | str | Sequence[Path | str] | None = None,
    api_key: str | None = None,
    endpoint: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Intake:
    """Resolve the candidates of a campaign once, from whichever source was named.

    Parameters
    ----------
    mp_ids
        Materials Project ids, or a file of them. Alone they are looked up at the service; beside ``structures`` or
        ``snapshot`` they choose from there.
    mp_query
        Arguments of the summary search.
    snapshot
        File of an earlier intake.
    structures
        Folder, file or glob of structures, or several.
    api_key, endpoint
        Of the Materials Project service; see :func:`hopflow.workflows.materials_project.from_materials_project`.
    progress
        Called with the number that is done and the number of all.

    Raises
    ------
    IntakeError
        Not exactly one source was named, or the source cannot be used.
    """
    named = [
        n for n, v in (("mp_query", mp_query), ("snapshot", snapshot), ("structures", structures)) if v is not None
    ]
    if len(named) > 1 or (not named and mp_ids is None) or (mp_query is not None and mp_ids is not None):
        raise IntakeError("Name one source of materials: mp_ids, mp_query, snapshot or structures.")
    ids = read_id_file(mp_ids) if isinstance(mp_ids, str | Path) else mp_ids
    if structures is not None:
        return from_structures(structures, mp_ids=ids)
    if snapshot is not None:
        return from_snapshot(snapshot, mp_ids=ids)
    from .materials_project import from_materials_project

    return from_materials_project(mp_ids=ids, mp_query=mp_query, api_key=api_key, endpoint=endpoint, progress=progress)


def read_id_file(path: Path | str) -> list[str]:
    """Read ids from a file: one a line or several with commas between; ``#`` starts a comment.

    Returns
    -------
    list of str
        The ids in the order of the file, each once.

    Raises
    ------
    IntakeError
        The file cannot be read or holds no id.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise IntakeError(
            f"The list of ids {path} cannot be read ({error}); give a text file with one id a line."
        ) from error
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    ids = [word.strip() for line in lines for word in line.split(",")]
    found = list(dict.fromkeys(word for word in ids if word))
    if not found:
        raise IntakeError(f"The list of ids {path} holds no id; write one a line.")
    return found


def from_structures(paths_or_globs: Path | str | Sequence[Path | str], mp_ids: Sequence[str] | None = None) -> Intake:
    """Read candidates from structure files.

    Parameters
    ----------
    paths_or_globs
        Files, folders (every structure file in them, subfolders not) or globs (``*``, ``?``, ``[...]``, ``**``), one or
        several. CIF, POSCAR/CONTCAR, pymatgen JSON, and JSON lines, plain or gzipped, with one structure a row
        (``material_id``, ``cell``, ``species``, ``frac_coords``).
    mp_ids
        Take only structures of these names (row ids or file names without ending), in this order; what is not there
        gets the fate ``not_found``.

    Returns
    -------
    Intake
        A candidate a structure. ``material_id`` is the row's id or the file's name without its ending; a name that
        comes again gets ``-2``, ``-3``, ... An ``index.csv`` beside the files (columns ``material_id``,
        ``energy_above_hull`` in eV/atom, ``band_gap`` in eV) gives the known properties. A crystal that is already
        there under another name has the fate ``duplicate``, one that cannot be read ``unreadable``; neither keeps the
        others back.

    Raises
    ------
    IntakeError
        Nothing matches a path, or no structure file is among it.
    """
    given = [paths_or_globs] if isinstance(paths_or_globs, str | Path) else list(paths_or_globs)
    files = _structure_files(given)
    wanted = None if mp_ids is None else dict.fromkeys(str(name).strip() for name in mp_ids)
    properties: dict[Path, dict[str, dict[str, float | None]]] = {}
    used: set[str] = set()
    candidates = []
    for file in files:
        if file.parent not in properties:
            properties[file.parent] = _read_properties(file.parent / "index.csv")
        for row in _read(file, wanted):
            if wanted is not None and row.name not in wanted:
                continue
            name = _unused(row.name, used)
            if row.structure is None or row.error is not None:
                candidates.append(unreadable_candidate(name, _error_of(row, file), [row.name], row.source))
            else:
                known = properties[file.parent].get(row.name)
                candidates.append(
                    candidate_from_structure(
                        name, row.structure, requested_ids=[row.name], properties=known, source=row.source
                    )
                )
    if wanted is not None:
        candidates = _in_order(candidates, list(wanted), ", ".join(str(path) for path in given))
    return Intake(candidates=mark_duplicates(candidates), source="structures " + ", ".join(str(path) for path in given))


@dataclass(frozen=True)
class _Row:
    name: str
    structure: Any
    error: CandidateError | None
    source: str


def _read(file: Path, wanted: dict[str, None] | None) -> Iterator[_Row]:
    """Read a file's structures; ``source`` names file and row, not the place on this machine."""
    from ..transport.structures import iterate_jsonl, read_structures, structure_from_row

    if wanted is not None and file.name.lower().endswith((".jsonl", ".jsonl.gz")):
        # Crystals are only built for the rows that are wanted: 300 of 20,000 rows in two seconds.
        try:
            chosen = [row for row in iterate_jsonl(file) if str(row.get("material_id")) in wanted]
        except (CandidateError, OSError, EOFError, zlib.error):
            chosen = None  # a broken line or a torn file: the reader below keeps what is good
        if chosen is not None:
            for row in chosen:
                name = str(row["material_id"])
                try:
                    yield _Row(name, structure_from_row(row), None, f"{file.name}: {name}")
                except CandidateError as error:
                    yield _Row(name, None, error, f"{file.name}: {name}")
            return
    entries = read_structures(file)
    for entry in entries:
        source = file.name if len(entries) == 1 else f"{file.name}: {entry.name}"
        yield _Row(entry.name, entry.structure, entry.error, source)


def _error_of(row: _Row, file: Path) -> CandidateError:
    if row.error is not None:
        return row.error
    from ..transport.errors import StructureError

    return StructureError(f"{row.name} in {file.name} holds no structure; remove it or repair the file.")


def _in_order(candidates: list[Candidate], wanted: list[str], place: str) -> list[Candidate]:
    by_request: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_request.setdefault(candidate.requested_ids[0], []).append(candidate)
    ordered: list[Candidate] = []
    for name in wanted:
        ordered += by_request.get(name) or [
            missing_candidate(name, f"There is no structure {name} in {place}; check the id or the files.")
        ]
    return ordered


def _unused(name: str, used: set[str]) -> str:
    unique, count = name, 1
    while unique in used:
        count += 1
        unique = f"{name}-{count}"
    used.add(unique)
    return unique


def _structure_files(given: Sequence[Path | str]) -> list[Path]:
    """Return the files that paths and globs stand for, each once; those of a folder or glob are sorted by name."""
    found: dict[Path, None] = {}
    for entry in given:
        path = Path(entry).expanduser()
        if path.is_dir():
            matches = [file for file in sorted(path.iterdir()) if _is_structure_file(file)]
        elif path.is_file():
            matches = [path]
        elif any(mark in str(path) for mark in "*?["):
            # Relative to where the pattern is rooted, since pathlib globs no absolute pattern.
            root = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(root)) if path.is_absolute() else str(path)
            matches = [file for file in sorted(root.glob(pattern)) if _is_structure_file(file)]
        else:
            raise IntakeError(f"There is no file or folder {entry}; check `structures`.")
        if not matches:
            raise IntakeError(
                f"{entry} holds no structure file; structures are CIF, POSCAR, pymatgen JSON or JSON lines "
                f"({', '.join(_SUFFIXES)})."
            )
        found |= dict.fromkeys(file.resolve() for file in matches)
    return list(found)


def _is_structure_file(file: Path) -> bool:
    name = file.name
    return (
        file.is_file()
        and not name.startswith(".")
        and (name.lower().endswith(_SUFFIXES) or name.upper().startswith(_VASP_NAMES))
    )


def _read_properties(file: Path) -> dict[str, dict[str, float | None]]:
    """Known properties by name from an ``index.csv``; an absent file or column means unknown."""
    if not file.is_file():
        return {}
    found: dict[str, dict[str, float | None]] = {}
    with file.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream):
            name = row.get("material_id") or Path(row.get("file") or "").stem
            known = {key: _number(row[column]) for column, key in _PROPERTY_COLUMNS.items() if row.get(column)}
            if name and known:
                found[name] = dict(known)
    return found


def _number(text: str) -> float | None:
    """Return the number in a cell; blanks and words mean that it is not known."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
