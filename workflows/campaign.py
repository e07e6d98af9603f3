"""A campaign's life: launch, advance, resume, cancel. Each step can be repeated without doing anything twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.funnel import Candidate, Funnel, level_flow
from ..flows.gate import Status
from ..makers.quantities import Quantity
from ..makers.stage import package_versions
from ..transport.errors import HopflowError, Reason
from .assembly import build_funnel
from .ledger import Ledger
from .liveness import is_dead
from .spec import CampaignSpec, PropertyGate

if TYPE_CHECKING:
    from .candidates import Candidate as IntakeCandidate
    from .candidates import Intake
    from .database import Database

MAX_WORKFLOW_BYTES = 8_000_000
"""Structures that one workflow may carry, well under MongoDB's 16 MB for a document."""

_FATE_REASONS = {
    "not_found": Reason.NOT_FOUND,
    "deprecated": Reason.DEPRECATED,
    "invalid": Reason.INVALID_ID,
    "duplicate": Reason.DUPLICATE,
    "unreadable": Reason.UNREADABLE_STRUCTURE,
}


@dataclass
class LaunchSummary:
    """What a launch did, or would do."""

    campaign: str
    candidates: int
    entered: int
    rejected: int
    failed: int
    skipped: int
    workflows: int
    already_launched: bool = False
    fates: dict[str, int] = field(default_factory=dict)


def now() -> str:
    """Return the time as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def resolve(spec: CampaignSpec, home: Path, progress: Callable[[int, int], None] | None = None) -> Intake:
    """Find the structures of a campaign and freeze them into its snapshot.

    A snapshot that an earlier call froze for the same campaign file is used again, so that a database that moved on
    does not change a campaign.
    """
    from .intake import resolve_materials
    from .snapshot import from_snapshot, write_snapshot

    frozen = home / "snapshots" / f"{spec.name}-{spec.digest()[:12]}.json.gz"
    if frozen.exists():
        return from_snapshot(frozen)
    materials = spec.materials
    found = resolve_materials(
        mp_ids=materials.mp_ids,
        mp_query=materials.mp_query,
        snapshot=materials.snapshot,
        structures=materials.structures,
        progress=progress,
    )
    write_snapshot(found, frozen)
    return found


def intake_entry(candidate: IntakeCandidate, spec: CampaignSpec) -> dict[str, Any]:
    """Judge a candidate before any stage: its fate, and the gates on known properties."""
    if not candidate.enters_funnel:
        reason = _FATE_REASONS.get(candidate.fate, Reason.UNREADABLE_STRUCTURE)
        if candidate.error is not None:
            reason = candidate.error.reason
        status = Status.SKIPPED if candidate.fate == "duplicate" else Status.FAILED
        entry = {"status": str(status), "reason": str(reason), "message": reason.sentence}
        if candidate.error is not None:
            entry.update(error_class=type(candidate.error).__name__, message=str(candidate.error))
        return entry
    for name in type(spec.properties).model_fields:
        gate: PropertyGate | None = getattr(spec.properties, name)
        if gate is None:
            continue
        value = candidate.properties.get(name)
        verdict = _judge_property(value, gate)
        if verdict is not None:
            reason, threshold = verdict
            return {
                "status": str(Status.REJECTED),
                "reason": str(reason),
                "message": f"{Quantity(name).label}: {reason.sentence}",
                "quantity": name,
                "value": value,
                "threshold": threshold,
            }
    return {"status": str(Status.PASSED), "reason": str(Reason.NO_GATE), "message": "The structure was read."}


def _judge_property(value: float | None, gate: PropertyGate) -> tuple[Reason, float | None] | None:
    if value is None:
        return (Reason.VALUE_UNKNOWN, None) if gate.unknown == "reject" else None
    if gate.max is not None and value > gate.max:
        return Reason.ABOVE_MAXIMUM, gate.max
    if gate.min is not None and value < gate.min:
        return Reason.BELOW_MINIMUM, gate.min
    return None


def launch(
    database: Database | None, spec: CampaignSpec, intake: Intake, home: Path, dry_run: bool = False
) -> LaunchSummary:
    """Store a campaign and add the workflows of its first level, one for each chunk of candidates.

    Launching the same campaign again adds what is missing, which is nothing unless an earlier launch was cut short.

    Parameters
    ----------
    database
        The open database; may be absent for a dry run.
    spec
        The campaign.
    intake
        Its candidates.
    home
        Folder that receives checkpoints and hand-offs.
    dry_run
        Only say what would be done.

    Raises
    ------
    HopflowError
        Another campaign has the name, or no candidate is left to screen.
    """
    entries = {c.material_id: intake_entry(c, spec) for c in intake.candidates}
    count = {s: sum(e["status"] == s for e in entries.values()) for s in Status}
    fates: dict[str, int] = {}
    for candidate in intake.candidates:
        fates[str(candidate.fate)] = fates.get(str(candidate.fate), 0) + 1
    entered = count[Status.PASSED]
    summary = LaunchSummary(
        campaign=spec.name,
        candidates=len(intake.candidates),
        entered=entered,
        rejected=count[Status.REJECTED],
        failed=count[Status.FAILED],
        skipped=count[Status.SKIPPED],
        workflows=-(-entered // spec.chunk_size),
        fates=fates,
    )
    if not intake.candidates:
        raise HopflowError("The campaign has no candidates: nothing was found where `materials` points.")
    if dry_run or database is None:
        return summary
    funnel = build_funnel(spec, home)
    existing = database.campaigns.find_one({"_id": spec.name})
    if existing is not None and existing["spec_hash"] != spec.digest():
        raise HopflowError(
            f"A campaign {spec.name!r} with other settings is in the database already; give this one another name."
        )
    with database.transaction():
        if existing is None:
            database.campaigns.insert_one(_campaign_document(spec, intake, funnel, home))
        summary.already_launched = existing is not None and existing["state"] != "launching"
        for candidate in intake.candidates:
            _store_candidate(database, spec.name, candidate, entries[candidate.material_id])
        summary.workflows = add_missing_workflows(database, Ledger(database, spec.name), funnel)
        database.campaigns.update_one({"_id": spec.name, "state": "launching"}, {"$set": {"state": "active"}})
    return summary


def _campaign_document(spec: CampaignSpec, intake: Intake, funnel: Funnel, home: Path) -> dict[str, Any]:
    gates = {stage.name: stage.gate for level in funnel.levels for stage in level}
    return {
        "_id": spec.name,
        "name": spec.name,
        "state": "launching",
        "created_at": now(),
        # A stage that is absent must stay absent when the specification is read again.
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "spec_hash": spec.digest(),
        "home": str(home),
        "ion": spec.ion,
        "chunk_size": spec.chunk_size,
        "source": intake.source,
        "snapshot_sha256": intake.snapshot_sha256,
        "database_version": intake.database_version,
        "versions": package_versions("jobflow", "fireworks", "atomate2", "pymatgen", "torch", "mace-torch", "matgl"),
        "levels": [[stage.name for stage in level] for level in funnel.levels],
        "gates": {
            name: {"quantity": g.quantity, "maximum": g.maximum, "minimum": g.minimum, "top": g.top}
            for name, g in gates.items()
        },
        "budgets": {},
        "retries": [],
        "synced_until": "",
    }


def _store_candidate(database: Database, campaign: str, candidate: IntakeCandidate, entry: dict[str, Any]) -> None:
    if candidate.structure is not None and candidate.structure_hash is not None:
        database.structures.update_one(
            {"_id": candidate.structure_hash},
            {"$setOnInsert": {"structure": candidate.structure.as_dict(verbosity=0)}},
            upsert=True,
        )
    row = {
        "campaign": campaign,
        "material_id": candidate.material_id,
        "requested_ids": list(candidate.requested_ids),
        "fate": str(candidate.fate),
        "source": candidate.source,
        "formula": candidate.formula,
        "atoms": None if candidate.structure is None else len(candidate.structure),
        "structure_hash": candidate.structure_hash,
        "properties": dict(candidate.properties),
        "duplicate_of": candidate.duplicate_of,
        "stages": {"intake": entry},
    }
    key = f"{campaign}/{candidate.material_id}"
    database.candidates.update_one({"_id": key}, {"$setOnInsert": row}, upsert=True)


def add_missing_workflows(database: Database, ledger: Ledger, funnel: Funnel) -> int:
    """Add a workflow for every candidate that may enter a level and has neither a result nor a job there.

    Parameters
    ----------
    database
        The open database.
    ledger
        The campaign's rows, up to date.
    funnel
        The campaign's funnel.

    Returns
    -------
    int
        Number of workflows added.
    """
    busy = ledger.in_flight()
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


def funnel_of(ledger: Ledger) -> Funnel:
    """Build the funnel of a stored campaign anew from its stored specification."""
    return build_funnel(CampaignSpec.model_validate(ledger.document["spec"]), Path(ledger.document["home"]))


@dataclass
class Advance:
    """What one call of :func:`advance` did."""

    budgets_shared: list[str]
    workflows_added: int
    finished: bool


def advance(database: Database, campaign: str) -> Advance:
    """Bring a campaign on: take up results, share out budgets that are due, add workflows that are missing.

    Calling it again changes nothing until something new has come in.
    """
    ledger = Ledger(database, campaign)
    ledger.sync()
    if ledger.document["state"] == "cancelled":
        return Advance([], 0, True)
    with database.transaction():
        if _owes_results(ledger):
            # A worker whose clock runs behind may have stored a result that the incremental sync passed by.
            ledger.document["synced_until"] = ""
            ledger.sync()
        shared = ledger.share_budgets(ledger.in_flight())
        added = add_missing_workflows(database, ledger, funnel_of(ledger))
        finished = not added and not ledger.in_flight()
        state = "done" if finished else "active"
        database.campaigns.update_one(
            {"_id": campaign, "state": {"$in": ["active", "done"]}}, {"$set": {"state": state}}
        )
    return Advance(shared, added, finished)


def _owes_results(ledger: Ledger) -> bool:
    """Whether a candidate has entered a level, has no job in flight and still lacks a result there."""
    busy = ledger.in_flight()
    return any(
        row["material_id"] not in busy and ledger.entered(row, level) and any(s not in row["stages"] for s in stages)
        for row in ledger.rows()
        for level, stages in enumerate(ledger.levels)
    )


@dataclass
class Resume:
    """What one call of :func:`resume` found and did."""

    lost: int
    fizzled: int
    retried: int
    workflows_added: int


def resume(
    database: Database,
    campaign: str,
    expiration_seconds: int = 600,
    retry_failed: bool = False,
    error_match: str | None = None,
) -> Resume:
    """Repair a campaign after a crash: rerun lost and broken jobs, add what is missing.

    Parameters
    ----------
    database
        The open database.
    campaign
        Name of the campaign.
    expiration_seconds
        A running job whose worker gave no sign of life for so long is lost. In the embedded database only the caller
        can be running, so that every running job is lost.
    retry_failed
        Run failed candidates again as well.
    error_match
        Regular expression that the class, reason or message of a failure must match to be run again.
    """
    ledger = Ledger(database, campaign)
    launchpad = database.launchpad
    with database.transaction():
        if ledger.document["state"] in ("cancelled", "done"):
            for fw_id in _workflow_ids(database, campaign, ["DEFUSED", "PAUSED"]):
                launchpad.reignite_wf(fw_id)
            database.campaigns.update_one({"_id": campaign}, {"$set": {"state": "active"}})
            ledger.reload()
        _mend_half_done(database, campaign)
        lost = _rerun_lost(database, campaign, expiration_seconds)
        fizzled = [
            job["fw_id"]
            for job in launchpad.fireworks.find({"spec.campaign": campaign, "state": "FIZZLED"}, {"fw_id": 1})
        ]
        for fw_id in fizzled:
            launchpad.rerun_fw(fw_id)
        ledger.sync()
        retried = _retry(ledger, error_match) if retry_failed else 0
        added = add_missing_workflows(database, ledger, funnel_of(ledger))
    return Resume(lost, len(fizzled), retried, added)


SETTLING_SECONDS = 5.0
"""FireWorks changes a workflow in several writes that take far less; what stays half done is a dead worker's."""


def _lasting(database: Database, find: Callable[[], set[Any]]) -> set[Any]:
    """Return what is found now and still after a while; the embedded database has nobody else who could be at work."""
    found = find()
    if found and database.kind != "embedded":
        time.sleep(SETTLING_SECONDS)
        found &= find()
    return found


def _mend_half_done(database: Database, campaign: str) -> None:
    """Put right what a kill left half done on a server, where FireWorks writes one document after the other.

    A workflow that stayed locked is unlocked; a job without a workflow is removed, and what it owes is added again; a
    job that was reserved and never begun is set free.
    """
    launchpad = database.launchpad
    of_campaign = {"metadata.campaign": campaign}

    def locked() -> set[Any]:
        rows = launchpad.workflows.find({**of_campaign, "locked": {"$exists": True}}, {"updated_on": 1})
        return {(row["_id"], row["updated_on"]) for row in rows}

    def orphans() -> set[Any]:
        nodes = {node for row in launchpad.workflows.find(of_campaign, {"nodes": 1}) for node in row["nodes"]}
        return {job["fw_id"] for job in launchpad.fireworks.find({"spec.campaign": campaign}, {"fw_id": 1})} - nodes

    def reserved() -> set[Any]:
        query = {"spec.campaign": campaign, "state": "RESERVED", "launches": []}
        return {job["fw_id"] for job in launchpad.fireworks.find(query, {"fw_id": 1})}

    for workflow, _ in _lasting(database, locked):
        launchpad.workflows.update_one({"_id": workflow}, {"$unset": {"locked": ""}})
    launchpad.fireworks.delete_many({"fw_id": {"$in": sorted(_lasting(database, orphans))}})
    for fw_id in sorted(_lasting(database, reserved)):
        launchpad.rerun_fw(fw_id)


def _rerun_lost(database: Database, campaign: str, expiration_seconds: int) -> int:
    """Rerun jobs whose worker is gone: known dead on this machine, or silent for too long on another."""
    launchpad = database.launchpad
    jobs = [job["fw_id"] for job in launchpad.fireworks.find({"spec.campaign": campaign}, {"fw_id": 1})]
    launches = launchpad.launches.find(
        {"fw_id": {"$in": jobs}, "state": "RUNNING"}, {"launch_id": 1, "fworker.name": 1}
    )
    dead = [
        row["launch_id"]
        for row in launches
        if database.kind == "embedded" or is_dead((row.get("fworker") or {}).get("name", ""))
    ]
    known = launchpad.detect_lostruns(
        expiration_secs=0, rerun=True, refresh=True, launch_query={"launch_id": {"$in": dead}}
    )[1]
    silent = launchpad.detect_lostruns(
        expiration_secs=expiration_seconds, rerun=True, refresh=True, query={"spec.campaign": campaign}
    )[1]
    return len({*known, *silent})


def _retry(ledger: Ledger, error_match: str | None) -> int:
    """Ask for another attempt at every failed stage; the failure moves into the row's history."""
    pattern = re.compile(error_match or "")
    retried = 0
    for row in ledger.rows():
        for stage in ledger.stages:
            entry = row["stages"].get(stage)
            if entry is None or entry["status"] != Status.FAILED:
                continue
            if not pattern.search(f"{entry.get('error_class')} {entry['reason']} {entry['message']}"):
                continue
            note = {"material_id": row["material_id"], "stage": stage, "at": now()}
            ledger.database.campaigns.update_one({"_id": ledger.campaign}, {"$push": {"retries": note}})
            ledger.database.candidates.update_one(
                {"_id": row["_id"]},
                {"$unset": {f"stages.{stage}": ""}, "$push": {"attempts": {"stage": stage, **entry}}},
            )
            retried += 1
    ledger.reload()
    return retried


def cancel(database: Database, campaign: str) -> int:
    """Stop a campaign: jobs that wait are defused, running ones end by themselves; return how many workflows."""
    Ledger(database, campaign)
    with database.transaction():
        waiting = _workflow_ids(database, campaign, ["READY", "WAITING", "RUNNING", "RESERVED", "FIZZLED", "PAUSED"])
        for fw_id in waiting:
            database.launchpad.defuse_wf(fw_id)
        database.campaigns.update_one({"_id": campaign}, {"$set": {"state": "cancelled"}})
    return len(waiting)


def _workflow_ids(database: Database, campaign: str, states: list[str]) -> list[int]:
    """One fw_id of every workflow of a campaign that holds a job in one of the states."""
    jobs = database.launchpad.fireworks.find({"spec.campaign": campaign, "state": {"$in": states}}, {"fw_id": 1})
    found: dict[Any, int] = {}
    for job in jobs:
        workflow = database.launchpad.workflows.find_one({"nodes": job["fw_id"]}, {"_id": 1})
        found[workflow["_id"]] = job["fw_id"]
    return sorted(found.values())
