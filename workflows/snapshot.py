"""A snapshot: the candidates of a campaign frozen into one file whose hash proves that nobody changed it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..transport import errors
from ..transport.errors import CandidateError, Reason
from .candidates import Candidate, Fate, Intake, IntakeError, mark_duplicates, missing_candidate

FORMAT = "hopflow snapshot 1"


def content_sha256(intake: Intake) -> str:
    """SHA-256 of an intake's content: format, database version, query and candidates, as canonical JSON."""
    return _digest(_content(intake))


def write_snapshot(intake: Intake, file: Path | str) -> str:
    """Freeze candidates into a file.

    The file is JSON, gzip-compressed when its name ends in ``.gz``. It appears complete or not at all: a writer that
    is killed leaves an earlier file of that name as it was.

    Parameters
    ----------
    intake
        The candidates.
    file
        Where to write, for instance ``li.snapshot.json.gz``.

    Returns
    -------
    str
        SHA-256 of the content, 64 hexadecimal digits.

    Raises
    ------
    IntakeError
        The file cannot be written.
    """
    path = Path(file)
    content = _content(intake)
    digest = _digest(content)
    document = {"sha256": digest, "date": intake.date, "source": intake.source} | content
    data = json.dumps(document, allow_nan=False).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # noqa: PTH101 (mkstemp makes files that only their owner can read)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise IntakeError(f"The snapshot {path} cannot be written: {error.strerror}.") from error
    return digest


def from_snapshot(file: Path | str, mp_ids: Sequence[str] | None = None) -> Intake:
    """Read candidates from a snapshot.

    Parameters
    ----------
    file
        A file of :func:`write_snapshot`.
    mp_ids
        Take only these; an id counts when it is a candidate's own or one that led to it. None takes all.

    Returns
    -------
    Intake
        Candidates with the database version, query and date of the snapshot.

    Raises
    ------
    IntakeError
        The file is missing, is not a snapshot, or was changed since it was written.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
        document = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except FileNotFoundError as error:
        raise IntakeError(f"There is no snapshot {path}; write one with a launch that asks the database.") from error
    except (OSError, EOFError, ValueError) as error:
        raise IntakeError(f"The snapshot {path} cannot be read ({error}); take it from its source again.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IntakeError(f"{path} is not a snapshot of this version of hopflow ({FORMAT!r}); launch from its source.")
    content = {key: value for key, value in document.items() if key not in ("sha256", "date", "source")}
    if (actual := _digest(content)) != document.get("sha256"):
        raise IntakeError(
            f"The snapshot {path} was changed after it was frozen (sha256 {actual[:12]}, recorded "
            f"{str(document.get('sha256'))[:12]}); use the original file or freeze a new one."
        )
    candidates = [_candidate_from_dict(row) for row in content["candidates"]]
    if mp_ids is not None:
        candidates = _choose(candidates, mp_ids, path)
    return Intake(
        candidates=candidates,
        source=f"snapshot {path.name} ({document['source']})",
        database_version=content["database_version"],
        query=content["query"],
        date=document["date"],
    )


def _choose(candidates: list[Candidate], mp_ids: Sequence[str], path: Path) -> list[Candidate]:
    by_name: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        for name in dict.fromkeys((*candidate.requested_ids, candidate.material_id)):
            by_name.setdefault(name, []).append(candidate)
    chosen: dict[str, Candidate] = {}
    for name in dict.fromkeys(str(name).strip() for name in mp_ids):
        found = by_name.get(name) or [
            missing_candidate(
                name, f"The snapshot {path.name} holds no material {name}; check the id or freeze a new snapshot."
            )
        ]
        chosen |= {candidate.material_id: candidate for candidate in found}
    # A crystal whose earlier twin was not chosen is nobody's duplicate here.
    restored = [
        replace(c, fate=Fate.FOUND, duplicate_of=None, error=None) if c.duplicate_of else c for c in chosen.values()
    ]
    return mark_duplicates(restored)


def _content(intake: Intake) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "database_version": intake.database_version,
        "query": intake.query,
        "candidates": [_candidate_to_dict(candidate) for candidate in intake.candidates],
    }


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    error = candidate.error
    return {
        "material_id": candidate.material_id,
        "requested_ids": candidate.requested_ids,
        "fate": str(candidate.fate),
        "formula": candidate.formula,
        "structure_hash": candidate.structure_hash,
        "properties": candidate.properties,
        "source": candidate.source,
        "duplicate_of": candidate.duplicate_of,
        "error": error and {"error_class": type(error).__name__, "reason": str(error.reason), "message": str(error)},
        "structure": _structure_to_dict(candidate.structure),
    }


def _structure_to_dict(structure: Any) -> dict[str, Any] | None:
    """Lattice, species, fractional coordinates and site properties; everything else follows from these."""
    if structure is None:
        return None
    data = structure.as_dict(verbosity=0)
    return {key: data[key] for key in ("@module", "@class", "charge", "lattice", "sites", "properties") if key in data}


def _candidate_from_dict(row: dict[str, Any]) -> Candidate:
    from pymatgen.core import Structure

    error = None
    if row["error"] is not None:
        known = getattr(errors, row["error"]["error_class"], CandidateError)
        kind = known if isinstance(known, type) and issubclass(known, CandidateError) else CandidateError
        error = kind(row["error"]["message"], Reason(row["error"]["reason"]))
    return Candidate(
        material_id=row["material_id"],
        requested_ids=row["requested_ids"],
        fate=Fate(row["fate"]),
        structure=None if row["structure"] is None else Structure.from_dict(row["structure"]),
        structure_hash=row["structure_hash"],
        formula=row["formula"],
        properties=row["properties"],
        error=error,
        source=row["source"],
        duplicate_of=row["duplicate_of"],
    )
