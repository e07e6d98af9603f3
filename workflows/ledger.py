"""The ledger: one row a candidate that says where it stands at each stage, and why.

The rows are a view. What ran is the launchpad's truth, what came out the job store's, what was meant the campaign
document's; :meth:`Ledger.rebuild` makes the same rows from these three alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from ..flows.gate import Gate, Status, share_budget
from ..flows.screening import CandidateResult
from ..makers.quantities import Quantity
from ..transport.errors import HopflowError, Reason

if TYPE_CHECKING:
    from .database import Database

UNFINISHED = ["READY", "WAITING", "RUNNING", "RESERVED", "FIZZLED", "PAUSED", "OFFLINE-RUNNING"]
"""FireWorks states of jobs that still owe a result."""


class Ledger:
    """Rows of one campaign.

    Parameters
    ----------
    database
        The open database.
    campaign
        Name of the campaign.

    Raises
    ------
    HopflowError
        The database knows no such campaign.
    """

    def __init__(self, database: Database, campaign: str) -> None:
        self.database = database
        self.campaign = campaign
        found = database.campaigns.find_one({"_id": campaign})
        if found is None:
            names = sorted(row["_id"] for row in database.campaigns.find({}, {"_id": 1}))
            known = f"it knows {', '.join(names)}" if names else "it knows none yet; start one with `hopflow launch`"
            raise HopflowError(f"The database has no campaign {campaign!r}; {known}.")
        self.document: dict[str, Any] = found
        self._attempts = self._count_attempts()

    @property
    def levels(self) -> list[list[str]]:
        """Names of the stages by level."""
        return self.document["levels"]

    @property
    def stages(self) -> list[str]:
        """Names of the stages, the cheapest first."""
        return [stage for level in self.levels for stage in level]

    def gate(self, stage: str) -> Gate:
        """Return the gate of a stage."""
        return Gate(**self.document["gates"][stage])

    def reload(self) -> None:
        """Read the campaign document again."""
        self.document = self.database.campaigns.find_one({"_id": self.campaign})
        self._attempts = self._count_attempts()

    def _count_attempts(self) -> Counter[tuple[str, str]]:
        return Counter((entry["material_id"], entry["stage"]) for entry in self.document.get("retries", []))

    def rows(self, criteria: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows that meet some criteria, ordered by material id."""
        found = self.database.candidates.find({"campaign": self.campaign, **(criteria or {})})
        return sorted(found, key=lambda row: row["material_id"])

    def row(self, material: str) -> dict[str, Any]:
        """Find a candidate by its id, by an id that was asked for, or by its file name.

        Raises
        ------
        HopflowError
            No candidate of the campaign goes by that name.
        """
        for key in ("material_id", "requested_ids"):
            found = self.database.candidates.find_one({"campaign": self.campaign, key: material})
            if found is not None:
                return found
        raise HopflowError(
            f"Campaign {self.campaign!r} has no candidate {material!r}; `hopflow query {self.campaign}` lists them."
        )

    def sync(self) -> int:
        """Take up results that came in since the last time; return how many rows changed."""
        since = self.document.get("synced_until", "")
        newest, changed = since, 0
        outputs = self.database.job_store.docs_store.query(
            {"metadata.campaign": self.campaign, "completed_at": {"$gte": since}},
            properties=["uuid", "output", "completed_at"],
            sort={"completed_at": 1},
        )
        with self.database.transaction():
            for output in outputs:
                changed += self.record(output)
                newest = max(newest, output["completed_at"])
        if newest != since:
            self.database.campaigns.update_one({"_id": self.campaign}, {"$max": {"synced_until": newest}})
            self.document["synced_until"] = newest
        return changed

    def record(self, output: dict[str, Any]) -> int:
        """Enter the results of one job document; return how many rows changed."""
        changed = 0
        for row in output["output"].get("results") or []:
            result = CandidateResult.model_validate(row)
            if result.attempt < self.attempt(result.material_id, result.stage):
                continue
            entry = self.entry(result, output)
            where: dict[str, Any] = {"campaign": self.campaign, "material_id": result.material_id}
            if result.ingested_from is None:
                # A job that ran twice must not push away what was computed elsewhere since.
                where[f"stages.{result.stage}.ingested_from"] = None
            done = self.database.candidates.update_one(where, {"$set": {f"stages.{result.stage}": entry}})
            changed += done.modified_count
        return changed

    def entry(self, result: CandidateResult, output: dict[str, Any]) -> dict[str, Any]:
        """What a row keeps of a result that came with a job document."""
        entry = result.model_dump(mode="json", exclude={"document", "material_id", "stage"})
        entry.update(job_uuid=output["uuid"], completed_at=output["completed_at"])
        budget = self.document.get("budgets", {}).get(result.stage)
        if result.status is Status.PENDING and budget is not None and result.value is not None:
            entry.update(self._budget_verdict(result.material_id, result.value, result.stage, budget))
        return entry

    def _budget_verdict(self, material_id: str, value: float, stage: str, budget: dict[str, Any]) -> dict[str, Any]:
        """Judge a value after the budget was shared out; a late one passes if it is as good as the last let through."""
        if material_id in budget["selected"]:
            status, reason = Status.PASSED, Reason.PASSED_GATE
        elif material_id in budget["judged"] or budget["threshold"] is None:
            status, reason = Status.REJECTED, Reason.OUTSIDE_TOP
        else:
            lower = Quantity(self.gate(stage).quantity).lower_is_better
            good = value <= budget["threshold"] if lower else value >= budget["threshold"]
            status, reason = (Status.PASSED, Reason.PASSED_GATE) if good else (Status.REJECTED, Reason.OUTSIDE_TOP)
        return {
            "status": str(status),
            "reason": str(reason),
            "message": reason.sentence,
            "threshold": budget["threshold"],
        }

    def attempt(self, material_id: str, stage: str) -> int:
        """How many times a person asked to run a failed stage of a candidate again."""
        return self._attempts[material_id, stage]

    def share_budgets(self, in_flight: Iterable[str]) -> list[str]:
        """Share out every budget whose stage has heard from all of its candidates; return the stages.

        Each budget is shared once: the campaign document is compared and set, so that two launchers that come to
        this point together agree.

        Parameters
        ----------
        in_flight
            Materials that still wait for a job.
        """
        closed: list[str] = []
        waiting = set(in_flight)
        for level, stages in enumerate(self.levels):
            if waiting:
                break
            rows = self.rows()
            if any(self._undecided_before(row, level) for row in rows):
                break
            members = [row for row in rows if self.entered(row, level)]
            for stage in stages:
                gate = self.gate(stage)
                if gate.top is None:
                    continue
                if stage in self.document.get("budgets", {}):
                    # A kill between sharing and applying leaves rows that still wait.
                    self._apply_budget(stage)
                    continue
                if any(stage not in row["stages"] for row in members):
                    return closed
                values = {
                    row["material_id"]: row["stages"][stage]["value"]
                    for row in members
                    if row["stages"][stage]["status"] == Status.PENDING
                }
                verdicts = share_budget(values, gate)
                selected = sorted(name for name, v in verdicts.items() if v.status is Status.PASSED)
                budget = {
                    "selected": selected,
                    "judged": sorted(values),
                    "threshold": next(iter(verdicts.values())).threshold if verdicts else None,
                }
                self.database.campaigns.update_one(
                    {"_id": self.campaign, f"budgets.{stage}": {"$exists": False}},
                    {"$set": {f"budgets.{stage}": budget}},
                )
                self.reload()
                self._apply_budget(stage)
                closed.append(stage)
        return closed

    def _apply_budget(self, stage: str) -> None:
        budget = self.document["budgets"][stage]
        for row in self.rows({f"stages.{stage}.status": str(Status.PENDING)}):
            entry = row["stages"][stage]
            verdict = self._budget_verdict(row["material_id"], entry["value"], stage, budget)
            self.database.candidates.update_one(
                {"_id": row["_id"]}, {"$set": {f"stages.{stage}.{key}": value for key, value in verdict.items()}}
            )

    def _undecided_before(self, row: dict[str, Any], level: int) -> bool:
        """Whether a candidate may still come to a level: nothing has stopped it, and a verdict is missing."""
        before = ["intake", *(stage for stages in self.levels[:level] for stage in stages)]
        found = [row["stages"].get(stage, {}).get("status") for stage in before]
        lost = (Status.REJECTED, Status.FAILED, Status.SKIPPED)
        return not any(status in lost for status in found) and any(status != Status.PASSED for status in found)

    def entered(self, row: dict[str, Any], level: int) -> bool:
        """Whether a candidate has passed everything before a level."""
        before = ["intake", *(stage for stages in self.levels[:level] for stage in stages)]
        return all(row["stages"].get(stage, {}).get("status") == Status.PASSED for stage in before)

    def owes_results(self, busy: Container[str]) -> bool:
        """Whether a candidate that has no job in flight has entered a level and lacks a result there."""
        return any(
            row["material_id"] not in busy
            and self.entered(row, level)
            and any(stage not in row["stages"] for stage in stages)
            for row in self.rows()
            for level, stages in enumerate(self.levels)
        )

    def standing(self, row: dict[str, Any], running: set[tuple[str, str]]) -> dict[str, str]:
        """Status of a candidate at every stage that it has entered."""
        found = {}
        cancelled = self.document["state"] == "cancelled"
        for level, stages in enumerate(self.levels):
            if not self.entered(row, level):
                break
            for stage in stages:
                entry = row["stages"].get(stage)
                if entry is not None:
                    found[stage] = entry["status"]
                elif (row["material_id"], stage) in running:
                    found[stage] = str(Status.RUNNING)
                else:
                    found[stage] = str(Status.SKIPPED if cancelled else Status.PENDING)
        return found

    def in_flight(self) -> dict[str, list[dict[str, Any]]]:
        """Unfinished jobs of the campaign by material id: stage, FireWorks state and fw_id."""
        found: dict[str, list[dict[str, Any]]] = {}
        jobs = self.database.launchpad.fireworks.find(
            {"spec.campaign": self.campaign, "state": {"$in": UNFINISHED}},
            {"fw_id": 1, "state": 1, "spec.stage": 1, "spec.material_ids": 1},
        )
        for job in jobs:
            fact = {"stage": job["spec"]["stage"], "state": job["state"], "fw_id": job["fw_id"]}
            for material_id in job["spec"]["material_ids"]:
                found.setdefault(material_id, []).append(fact)
        return found

    def is_idle(self) -> bool:
        """Whether no job of the campaign is in flight."""
        query = {"spec.campaign": self.campaign, "state": {"$in": UNFINISHED}}
        return self.database.launchpad.fireworks.find_one(query, {"fw_id": 1}) is None

    def running(self) -> set[tuple[str, str]]:
        """Pairs of material id and stage that a worker has in hand."""
        return {
            (material_id, job["stage"])
            for material_id, jobs in self.in_flight().items()
            for job in jobs
            if job["state"] == "RUNNING"
        }

    def rebuild(self) -> int:
        """Make the rows' stages anew from campaign document and job store; return the number of rows."""
        for row in self.rows():
            kept = {"intake": row["stages"]["intake"]}
            self.database.candidates.update_one({"_id": row["_id"]}, {"$set": {"stages": kept}})
        self.database.campaigns.update_one({"_id": self.campaign}, {"$set": {"synced_until": ""}})
        self.reload()
        self.sync()
        return len(self.rows())
