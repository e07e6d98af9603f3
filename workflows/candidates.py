"""A candidate of a campaign and what became of every id or file that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..transport.errors import CandidateError, HopflowError, Reason, StructureError

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Names of the properties that property gates read.
PROPERTIES = ("energy_above_hull_eV_per_atom", "band_gap_eV")


class IntakeError(HopflowError):
    """The candidates of a campaign cannot be had: no key, no service, no files, a changed snapshot."""


class Fate(StrEnum):
    """What became of a requested id or file."""

    FOUND = "found"
    MERGED = "merged"
    DEPRECATED = "deprecated"
    NOT_FOUND = "not_found"
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Candidate:
    """One material of a campaign.

    Attributes
    ----------
    material_id
        Canonical id; unique among the candidates of an intake.
    requested_ids
        Every id that was asked for and led here. Two requested ids that the database has merged give one candidate.
    fate
        What became of the request: a material goes down the funnel when it was found or merged.
    structure
        The crystal; None where there is none.
    structure_hash
        SHA-256 of the crystal (:func:`hopflow.transport.structures.structure_hash`).
    formula
        Reduced formula.
    properties
        ``energy_above_hull_eV_per_atom`` and ``band_gap_eV``; None where unknown.
    error
        Why the candidate cannot enter the funnel; None for those that can.
    source
        Where the structure comes from, in words that do not depend on the machine.
    duplicate_of
        The candidate with the same crystal, for the fate ``duplicate``.
    """

    material_id: str
    requested_ids: list[str]
    fate: Fate
    structure: Structure | None = None
    structure_hash: str | None = None
    formula: str | None = None
    properties: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(PROPERTIES))
    error: CandidateError | None = None
    source: str = ""
    duplicate_of: str | None = None

    @property
    def enters_funnel(self) -> bool:
        """Whether stages can work on the candidate."""
        return self.fate in (Fate.FOUND, Fate.MERGED) and self.structure is not None


@dataclass(frozen=True)
class Intake:
    """The candidates of a campaign, as they were resolved once.

    Attributes
    ----------
    candidates
        One a material, in the order asked for.
    source
        Where they come from, for people.
    database_version
        Version of the Materials Project database; None where it is not known.
    query
        What was asked of the database; None for structure files.
    date
        When they were resolved, ISO 8601, UTC.
    """

    candidates: list[Candidate]
    source: str
    database_version: str | None = None
    query: dict[str, Any] | None = None
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def snapshot_sha256(self) -> str:
        """SHA-256 of the content (candidates, database version, query); date and place do not enter."""
        from .snapshot import content_sha256

        return content_sha256(self)

    def fates(self) -> dict[Fate, int]:
        """Return how many candidates met each fate."""
        counts = Counter(candidate.fate for candidate in self.candidates)
        return {fate: counts[fate] for fate in Fate if counts[fate]}

    def request_fates(self) -> dict[str, tuple[Fate, str]]:
        """Return fate and material id of every requested id.

        A candidate that was asked for by its own id and by one that was merged into it has the fate ``found``; here
        the merged id shows as ``merged``.
        """
        found: dict[str, tuple[Fate, str]] = {}
        for candidate in self.candidates:
            for requested in candidate.requested_ids:
                fate = candidate.fate
                if fate is Fate.FOUND and len(candidate.requested_ids) > 1 and requested != candidate.material_id:
                    fate = Fate.MERGED
                found[requested] = (fate, candidate.material_id)
        return found


def candidate_from_structure(
    material_id: str,
    structure: Structure,
    *,
    requested_ids: list[str] | None = None,
    fate: Fate = Fate.FOUND,
    properties: dict[str, float | None] | None = None,
    error: CandidateError | None = None,
    source: str = "",
) -> Candidate:
    """Make a candidate of a crystal that was read; its hash and formula are taken from the crystal."""
    from ..transport.structures import structure_hash

    return Candidate(
        material_id=material_id,
        requested_ids=requested_ids or [material_id],
        fate=fate,
        structure=structure,
        structure_hash=structure_hash(structure),
        formula=structure.composition.reduced_formula,
        properties=dict.fromkeys(PROPERTIES) | (properties or {}),
        error=error,
        source=source,
    )


def unreadable_candidate(
    material_id: str, error: CandidateError, requested_ids: list[str] | None = None, source: str = ""
) -> Candidate:
    """Make a candidate of a file or row that cannot be read."""
    return Candidate(
        material_id=material_id,
        requested_ids=requested_ids or [material_id],
        fate=Fate.UNREADABLE,
        error=error if isinstance(error, CandidateError) else StructureError(str(error)),
        source=source,
    )


def missing_candidate(material_id: str, message: str) -> Candidate:
    """Make a candidate of an id that leads nowhere."""
    error = CandidateError(message, Reason.NOT_FOUND)
    return Candidate(material_id=material_id, requested_ids=[material_id], fate=Fate.NOT_FOUND, error=error)


def mark_duplicates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Give the fate ``duplicate`` to every crystal that an earlier candidate already has.

    Same crystal means same structure hash. Only candidates that would enter the funnel take part.
    """
    first: dict[str, str] = {}
    marked = []
    for candidate in candidates:
        key = candidate.structure_hash
        if not candidate.enters_funnel or key is None:
            marked.append(candidate)
        elif key in first:
            message = f"{candidate.material_id} is the same crystal as {first[key]}; see that row for its results."
            marked.append(
                replace(
                    candidate,
                    fate=Fate.DUPLICATE,
                    duplicate_of=first[key],
                    error=CandidateError(message, Reason.DUPLICATE),
                )
            )
        else:
            first[key] = candidate.material_id
            marked.append(candidate)
    return marked
