"""What a kill leaves on the launchpad, and how it is put right.

On a server FireWorks changes a workflow in several writes, one document after the other, and a kill may come between
any two of them. The job documents are written first, so that they are the truth and the workflow document follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .liveness import is_dead, launcher_name

if TYPE_CHECKING:
    from .database import Database

SETTLING_SECONDS = 5.0
"""FireWorks changes a workflow in several writes that take far less; what stays half done is a dead worker's."""


def _lasting(database: Database, find: Callable[[], set[Any]]) -> set[Any]:
    """Return what is found now and still after a while; the embedded database has nobody else who could be at work."""
    found = find()
    if found and database.kind != "embedded":
        time.sleep(SETTLING_SECONDS)
        found &= find()
    return found


def mend_half_done(database: Database, campaign: str) -> None:
    """Put right what a kill left half done on a server.

    A workflow that stayed locked is unlocked; a job without a workflow is removed (what it owes is added again by
    :func:`~hopflow.workflows.campaign.advance`); a workflow that has not heard of its job's state is told; a job that
    was reserved and never begun is set free.
    """
    launchpad = database.launchpad
    of_campaign = {"metadata.campaign": campaign}

    def states() -> dict[int, str]:
        jobs = launchpad.fireworks.find({"spec.campaign": campaign}, {"fw_id": 1, "state": 1})
        return {job["fw_id"]: job["state"] for job in jobs}

    def locked() -> set[Any]:
        rows = launchpad.workflows.find({**of_campaign, "locked": {"$exists": True}}, {"updated_on": 1})
        return {(row["_id"], row["updated_on"]) for row in rows}

    def orphans() -> set[Any]:
        # Jobs first: a workflow that appears in between then holds its jobs, not the other way round.
        jobs = set(states())
        return jobs - {node for row in launchpad.workflows.find(of_campaign, {"nodes": 1}) for node in row["nodes"]}

    def untold() -> set[Any]:
        found = set()
        told = list(launchpad.workflows.find(of_campaign, {"fw_states": 1}))
        true = states()
        for row in told:
            for node, state in row["fw_states"].items():
                if int(node) in true and true[int(node)] != state:
                    found.add((row["_id"], int(node), true[int(node)]))
        return found

    def reserved() -> set[Any]:
        query = {"spec.campaign": campaign, "state": "RESERVED", "launches": []}
        return {job["fw_id"] for job in launchpad.fireworks.find(query, {"fw_id": 1})}

    for workflow, _ in _lasting(database, locked):
        launchpad.workflows.update_one({"_id": workflow}, {"$unset": {"locked": ""}})
    launchpad.fireworks.delete_many({"fw_id": {"$in": sorted(_lasting(database, orphans))}})
    for workflow, fw_id, state in _lasting(database, untold):
        launchpad.workflows.update_one({"_id": workflow}, {"$set": {f"fw_states.{fw_id}": state}})
        nodes = launchpad.workflows.find_one({"_id": workflow}, {"nodes": 1})["nodes"]
        waiting = launchpad.fireworks.find({"fw_id": {"$in": nodes}, "state": "WAITING"}, {"fw_id": 1})
        # What `lpad refresh` does: children learn that their parents are done, the workflow what it is as a whole.
        for node in (fw_id, *(job["fw_id"] for job in waiting)):
            launchpad._refresh_wf(node)
    for fw_id in sorted(_lasting(database, reserved)):
        launchpad.rerun_fw(fw_id)


def rerun_lost(database: Database, campaign: str, expiration_seconds: int) -> int:
    """Rerun jobs whose worker is gone: known dead on this machine, or silent for too long on another."""
    launchpad = database.launchpad
    jobs = [job["fw_id"] for job in launchpad.fireworks.find({"spec.campaign": campaign}, {"fw_id": 1})]
    launches = launchpad.launches.find(
        {"fw_id": {"$in": jobs}, "state": "RUNNING"}, {"launch_id": 1, "fworker.name": 1}
    )

    def gone(name: str) -> bool:
        # Whoever repairs has no job in hand: one under its own name is a namesake's that died.
        return database.kind == "embedded" or name == launcher_name() or is_dead(name)

    dead = [row["launch_id"] for row in launches if gone((row.get("fworker") or {}).get("name", ""))]
    known = launchpad.detect_lostruns(
        expiration_secs=0, rerun=True, refresh=True, launch_query={"launch_id": {"$in": dead}}
    )[1]
    silent = launchpad.detect_lostruns(
        expiration_secs=expiration_seconds, rerun=True, refresh=True, query={"spec.campaign": campaign}
    )[1]
    return len({*known, *silent})
