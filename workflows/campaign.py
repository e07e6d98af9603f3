"""A campaign's life: launch, advance, resume, cancel. Each step can be repeated without doing anything twice."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.gate import Status
from ..makers.quantities import Quantity
from ..makers.stage import package_versions
from ..transport.errors import HopflowError, Reason
from .additions import add_missing_workflows, funnel_of
from .assembly import build_funnel
from .ledger import Ledger
from .liveness import in_turn
from .mending import mend_half_done, rerun_lost
from .spec import CampaignSpec, PropertyGate

if TYPE_CHECKING:
    from ..flows.funnel import Funnel
    from .candidates import Candidate as IntakeCandidate
    from .candidates import Intake
    from .database import Database

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


def resolve(
    spec: CampaignSpec, home: Path, progress: Callable[[int, int], None] | None = None, fresh: bool = False
) -> Intake:
    """Find the structures of a campaign and freeze them into its snapshot.

    A snapshot that an earlier call froze for the same campaign file is used again, so that a database that moved on
    does not change a campaign; ``fresh`` looks again.
    """
    from .intake import resolve_materials
    from .snapshot import from_snapshot, write_snapshot

    frozen = _frozen_snapshot(home, spec.name, spec.digest())
    if frozen.exists() and not fresh:
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


def _frozen_snapshot(home: Path, name: str, spec_hash: str) -> Path:
    return home / "snapshots" / f"{name}-{spec_hash[:12]}.json.gz"


def fate_entry(candidate: IntakeCandidate) -> dict[str, Any] | None:
    """Why a candidate cannot enter any stage; None where it can."""
    if candidate.enters_funnel:
        return None
    reason = _FATE_REASONS.get(candidate.fate, Reason.UNREADABLE_STRUCTURE)
    if candidate.error is not None:
        reason = candidate.error.reason
    status = Status.SKIPPED if candidate.fate == "duplicate" else Status.FAILED
    entry = {"status": str(status), "reason": str(reason), "message": reason.sentence}
    if candidate.error is not None:
        entry.update(error_class=type(candidate.error).__name__, message=str(candidate.error))
    return entry


def intake_entry(candidate: IntakeCandidate, spec: CampaignSpec) -> dict[str, Any]:
    """Judge a candidate before any stage: its fate, and the gates on known properties."""
    lost = fate_entry(candidate)
    if lost is not None:
        return lost
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
        Another campaign has the name, or there is no candidate.
    """
    entries = {c.material_id: intake_entry(c, spec) for c in intake.candidates}
    count = {s: sum(e["status"] == s for e in entries.values()) for s in Status}
    entered = count[Status.PASSED]
    summary = LaunchSummary(
        campaign=spec.name,
        candidates=len(intake.candidates),
        entered=entered,
        rejected=count[Status.REJECTED],
        failed=count[Status.FAILED],
        skipped=count[Status.SKIPPED],
        workflows=-(-entered // spec.chunk_size),
        fates={str(fate): number for fate, number in intake.fates().items()},
    )
    if not intake.candidates:
        raise HopflowError("The campaign has no candidates: nothing was found where `materials` points.")
    if dry_run or database is None:
        return summary
    # A stage that is absent must stay absent when the specification is read again.
    stored = spec.model_dump(mode="json", exclude_none=True)
    document = campaign_document(spec.name, stored, spec.digest(), build_funnel(spec, home), intake, home)
    document |= {"ion": spec.ion, "chunk_size": spec.chunk_size}
    return launch_candidates(database, document, intake, entries, summary)


def launch_candidates(
    database: Database,
    document: dict[str, Any],
    intake: Intake,
    entries: dict[str, dict[str, Any]],
    summary: LaunchSummary,
) -> LaunchSummary:
    """Store a campaign and its candidates, and add the workflows that are missing.

    Parameters
    ----------
    database
        The open database.
    document
        Of the campaign, see :func:`campaign_document`.
    intake
        Its candidates.
    entries
        Of each candidate, how it fared before any stage.
    summary
        Is completed by what was done.

    Raises
    ------
    HopflowError
        Another campaign has the name.
    """
    name = document["name"]
    existing = database.campaigns.find_one_and_update({"_id": name}, {"$setOnInsert": document}, upsert=True)
    if existing is not None and existing["spec_hash"] != document["spec_hash"]:
        raise HopflowError(
            f"A campaign {name!r} with other settings is in the database already; give this one another name."
        )
    summary.already_launched = existing is not None and existing["state"] != "launching"
    with in_turn(database, name):
        ledger = Ledger(database, name)
        if existing is not None:
            mend_half_done(database, name)
        _store_candidates(ledger, intake, entries)
        if ledger.document["state"] == "cancelled":
            ledger.sync()
            summary.workflows = 0
            return summary
        summary.workflows = add_missing_workflows(database, ledger, funnel_of(ledger), take_up(ledger))
    return summary


def _store_candidates(ledger: Ledger, intake: Intake, entries: dict[str, dict[str, Any]]) -> None:
    """Make the rows; only when all of them are there may a budget be shared out among them."""
    for candidate in intake.candidates:
        _store_candidate(ledger.database, ledger.campaign, candidate, entries[candidate.material_id])
    ledger.database.campaigns.update_one({"_id": ledger.campaign, "state": "launching"}, {"$set": {"state": "active"}})
    ledger.reload()


def _finish_launch(ledger: Ledger) -> None:
    """Store the candidates of a launch that was cut short, from the snapshot that it froze.

    Raises
    ------
    HopflowError
        The snapshot is not on this machine.
    """
    from .snapshot import from_snapshot

    document = ledger.document
    if document.get("kind") is not None:
        raise HopflowError(
            f"The launch of {ledger.campaign!r} was cut short; call `hopflow benchmark neb` as it was called before."
        )
    frozen = _frozen_snapshot(Path(document["home"]), ledger.campaign, document["spec_hash"])
    if not frozen.exists():
        raise HopflowError(
            f"The launch of {ledger.campaign!r} was cut short and {frozen} is not on this machine; "
            "run `hopflow launch` with the campaign file again."
        )
    intake, spec = from_snapshot(frozen), CampaignSpec.model_validate(document["spec"])
    _store_candidates(ledger, intake, {c.material_id: intake_entry(c, spec) for c in intake.candidates})


def campaign_document(
    name: str, spec: dict[str, Any], digest: str, funnel: Funnel, intake: Intake, home: Path
) -> dict[str, Any]:
    """What the database keeps of a campaign, but for its ion and the size of its chunks.

    Parameters
    ----------
    name
        Of the campaign.
    spec
        Its specification, to be read again.
    digest
        SHA-256 of that.
    funnel
        Its stages.
    intake
        Its candidates.
    home
        Folder that receives checkpoints and hand-offs.
    """
    gates = {stage.name: stage.gate for level in funnel.levels for stage in level}
    return {
        "name": name,
        "state": "launching",
        "created_at": now(),
        "spec": spec,
        "spec_hash": digest,
        "home": str(home.absolute()),
        # Job uuids repeat when a campaign is launched anew in another database; what its jobs noted must not.
        "diaries": f"{name}-{uuid.uuid4().hex[:12]}",
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
    with in_turn(database, campaign):
        ledger = Ledger(database, campaign)
        if ledger.document["state"] == "cancelled":
            ledger.sync()
            return Advance([], 0, True)
        if ledger.document["state"] == "launching":
            _finish_launch(ledger)
        busy = take_up(ledger)
        shared = ledger.share_budgets(busy)
        added = add_missing_workflows(database, ledger, funnel_of(ledger), busy)
        finished = not added and not ledger.in_flight()
        state = "done" if finished else "active"
        database.campaigns.update_one(
            {"_id": campaign, "state": {"$in": ["active", "done"]}}, {"$set": {"state": state}}
        )
    return Advance(shared, added, finished)


def take_up(ledger: Ledger) -> set[str]:
    """Bring the rows up to date; return the candidates that had a job in flight before.

    The order matters: a job stores its result before it ends, so that whoever has no job in flight has a row that
    tells everything. The other way round, a job that ends in between would seem to have done nothing.
    """
    busy = set(ledger.in_flight())
    ledger.sync()
    if ledger.owes_results(busy):
        # A worker whose clock runs behind may have stored a result that the incremental sync passed by.
        ledger.document["synced_until"] = ""
        ledger.sync()
    return busy


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
    pattern = _pattern(error_match)
    ledger = Ledger(database, campaign)
    launchpad = database.launchpad
    with in_turn(database, campaign):
        mend_half_done(database, campaign)
        ledger.reload()
        if ledger.document["state"] == "launching":
            _finish_launch(ledger)
        if ledger.document["state"] in ("cancelled", "done"):
            for fw_id in _workflow_ids(database, campaign, ["DEFUSED", "PAUSED"]):
                launchpad.reignite_wf(fw_id)
            database.campaigns.update_one({"_id": campaign}, {"$set": {"state": "active"}})
        lost = rerun_lost(database, campaign, expiration_seconds)
        fizzled = [
            job["fw_id"]
            for job in launchpad.fireworks.find({"spec.campaign": campaign, "state": "FIZZLED"}, {"fw_id": 1})
        ]
        for fw_id in fizzled:
            launchpad.rerun_fw(fw_id)
        ledger.reload()
        busy = take_up(ledger)
        retried = _retry(ledger, pattern) if retry_failed else 0
        added = add_missing_workflows(database, ledger, funnel_of(ledger), busy)
    return Resume(lost, len(fizzled), retried, added)


def _pattern(text: str | None) -> re.Pattern[str]:
    try:
        return re.compile(text or "")
    except re.error as error:
        raise HopflowError(f"{text!r} is no regular expression: {error}.") from error


def _retry(ledger: Ledger, pattern: re.Pattern[str]) -> int:
    """Ask for another attempt at every failed stage; the failure moves into the row's history."""
    retried = 0
    for row in ledger.rows():
        for stage in ledger.stages:
            entry = row["stages"].get(stage)
            if entry is None or entry["status"] != Status.FAILED or entry.get("ingested_from"):
                continue  # no job of this campaign can mend what was computed elsewhere
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
    with in_turn(database, campaign):
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
        if workflow is not None:  # a kill while it was added may have left the job alone
            found[workflow["_id"]] = job["fw_id"]
    return sorted(found.values())
