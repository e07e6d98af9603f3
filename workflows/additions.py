"""A campaign's workflows: which candidates still need one, and how it gets onto the launchpad."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.funnel import Candidate, Funnel, level_flow
from .assembly import build_funnel
from .benchmark_spec import KIND, BandBenchmarkSpec, benchmark_funnel
from .ledger import Ledger
from .spec import CampaignSpec

if TYPE_CHECKING:
    from .database import Database

MAX_WORKFLOW_BYTES = 8_000_000
"""Structures that one workflow may carry, well under MongoDB's 16 MB for a document."""


def funnel_of(ledger: Ledger) -> Funnel:
    """Build the funnel of a stored campaign anew from its stored specification."""
    document = ledger.document
    if document.get("kind") == KIND:
        spec = BandBenchmarkSpec.model_validate(document["spec"])
        return benchmark_funnel(spec, Path(document["home"]), document["diaries"])
    return build_funnel(CampaignSpec.model_validate(document["spec"]), Path(document["home"]), document["diaries"])


def add_missing_workflows(database: Database, ledger: Ledger, funnel: Funnel, busy: Container[str]) -> int:
    """Add a workflow for every candidate that may enter a level and has neither a result nor a job there.

    Parameters
    ----------
    database
        The open database.
    ledger
        The campaign's rows; they must have been brought up to date after ``busy`` was found, or a job that ended in
        between would be added again.
    funnel
        The campaign's funnel.
    busy
        Candidates that have a job in flight.

    Returns
    -------
    int
        Number of workflows added.
    """
    rows = [row for row in ledger.rows() if row["material_id"] not in busy]
    added = 0
    for level, stages in enumerate(ledger.levels):
        missing = [
            row for row in rows if ledger.entered(row, level) and any(stage not in row["stages"] for stage in stages)
        ]
        candidates = [_funnel_candidate(database, ledger, row, stages) for row in missing]
        fan_out = all(stage.maker.fan_out for stage in funnel.levels[level])
        for group in chunks(candidates, 1 if fan_out else ledger.document["chunk_size"]):
            add_workflow(database, funnel, level, group)
            added += 1
    return added


def _funnel_candidate(database: Database, ledger: Ledger, row: dict[str, Any], stages: Sequence[str]) -> Candidate:
    from pymatgen.core import Structure

    structure = Structure.from_dict(database.structures.find_one({"_id": row["structure_hash"]})["structure"])
    keys = {name: e["content_key"] for name, e in row["stages"].items() if e.get("content_key")}
    attempt = max(ledger.attempt(row["material_id"], stage) for stage in stages)
    return Candidate(row["material_id"], structure, keys, attempt)


def chunks(candidates: Sequence[Candidate], size: int) -> Iterable[list[Candidate]]:
    """Cut candidates into groups of at most ``size`` whose structures fit into one workflow document."""
    group: list[Candidate] = []
    weight = 0
    for candidate in candidates:
        heavy = 400 * len(candidate.structure)
        if group and (len(group) >= size or weight + heavy > MAX_WORKFLOW_BYTES):
            yield group
            group, weight = [], 0
        group.append(candidate)
        weight += heavy
    if group:
        yield group


def add_workflow(database: Database, funnel: Funnel, level: int, candidates: Sequence[Candidate]) -> None:
    """Add one workflow that takes candidates into a level."""
    from jobflow.managers.fireworks import flow_to_workflow

    flow = level_flow(funnel, level, candidates)
    names = [c.material_id for c in candidates]
    metadata = {
        "campaign": funnel.campaign,
        "stage": funnel.levels[level][0].name,
        "material_ids": names,
        "material_id": names[0] if len(names) == 1 else None,
    }
    database.launchpad.add_wf(flow_to_workflow(flow, metadata=metadata))
