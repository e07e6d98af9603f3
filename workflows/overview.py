"""The funnel in numbers: how many candidates entered, passed and were lost at each stage, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..flows.gate import Status
from .ledger import Ledger


@dataclass
class StageCounts:
    """One line of the funnel table.

    Every candidate that entered counts once among pending, running, passed, rejected, failed and skipped.
    ``awaiting_budget`` are those of the pending ones whose value is known; ``reused`` are results of earlier jobs.
    """

    stage: str
    entered: int = 0
    pending: int = 0
    awaiting_budget: int = 0
    running: int = 0
    passed: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0
    reused: int = 0
    seconds_per_material: float | None = None
    time_left_seconds: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Overview:
    """A campaign at a glance."""

    campaign: str
    state: str
    candidates: int
    stages: list[StageCounts]
    broken_jobs: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = asdict(self)
        plain["stages"] = {row["stage"]: {k: v for k, v in row.items() if k != "stage"} for row in plain["stages"]}
        return plain


def overview(ledger: Ledger, workers: int = 1) -> Overview:
    """Count a campaign's candidates by stage and status.

    Parameters
    ----------
    ledger
        The campaign's rows, up to date.
    workers
        Processes that share the rest of the work, for the time left.
    """
    rows = ledger.rows()
    running = ledger.running()
    counts = {stage: StageCounts(stage) for stage in ("intake", *ledger.stages)}
    spent: dict[str, list[float]] = {stage: [] for stage in counts}
    for row in rows:
        standing = {"intake": row["stages"]["intake"]["status"], **ledger.standing(row, running)}
        for stage, status in standing.items():
            line = counts[stage]
            line.entered += 1
            setattr(line, status, getattr(line, status) + 1)
            entry = row["stages"].get(stage)
            if entry is None:
                continue
            line.reused += entry.get("reused_from") is not None
            line.awaiting_budget += status == Status.PENDING
            if status in (Status.REJECTED, Status.FAILED, Status.SKIPPED):
                line.reasons[entry["reason"]] = line.reasons.get(entry["reason"], 0) + 1
            if entry.get("seconds"):
                spent[stage].append(entry["seconds"])
    for stage, line in counts.items():
        if spent[stage]:
            line.seconds_per_material = sum(spent[stage]) / len(spent[stage])
            unfinished = sum(_unfinished(ledger, row, stage) for row in rows)
            line.time_left_seconds = line.seconds_per_material * unfinished / max(workers, 1)
    return Overview(ledger.campaign, ledger.document["state"], len(rows), list(counts.values()), broken_jobs(ledger))


def _unfinished(ledger: Ledger, row: dict[str, Any], stage: str) -> bool:
    """Whether a candidate has entered a stage and no result is there."""
    level = next((i for i, stages in enumerate(ledger.levels) if stage in stages), None)
    return level is not None and ledger.entered(row, level) and stage not in row["stages"]


def broken_jobs(ledger: Ledger) -> list[str]:
    """Jobs that broke as a whole, with what they said; ``hopflow resume`` runs them again."""
    launchpad = ledger.database.launchpad
    jobs = launchpad.fireworks.find(
        {"spec.campaign": ledger.campaign, "state": "FIZZLED"}, {"name": 1, "fw_id": 1, "launches": 1}
    )
    found = []
    for job in jobs:
        launch = launchpad.launches.find_one({"fw_id": job["fw_id"]}, {"action": 1}, sort=[("launch_id", -1)])
        data = ((launch or {}).get("action") or {}).get("stored_data") or {}
        message = data.get("_message") or "no message"
        stack = (data.get("_exception") or {}).get("_stacktrace") or ""
        if message == "runtime error during task" and stack.strip():
            message = stack.strip().splitlines()[-1]
        found.append(f"{job['name']}: {message}")
    return found


def history(ledger: Ledger, row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What happened to a candidate, stage by stage, from intake to where it stands."""
    standing = ledger.standing(row, ledger.running())
    found = [("intake", row["stages"]["intake"])]
    for stage, status in standing.items():
        found.append((stage, row["stages"].get(stage, {"status": status})))
    return found
