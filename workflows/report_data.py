"""What a campaign's report says, gathered from the ledger and the stored documents as plain data."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.gate import Gate, Status
from ..makers.quantities import Quantity
from ..transport.errors import Reason
from .ledger import Ledger
from .overview import broken_jobs
from .query import find

if TYPE_CHECKING:
    from .database import Database

HANDOFF_STAGE = "dft"
"""The stage that writes inputs and screens nothing; the shortlist does not wait for it."""

BARRIERS = (Quantity.BARRIER_1D, Quantity.BARRIER_2D, Quantity.BARRIER_3D)
LOST = (Status.REJECTED, Status.FAILED, Status.SKIPPED)
KNOWN_CLASSES = ("fast", "moderate", "poor")
NEAREST = 10
"""Candidates that are shown in place of an empty shortlist."""


@dataclass(frozen=True)
class ReasonCount:
    """How many candidates met one end at a stage."""

    status: str
    reason: str
    sentence: str
    count: int


@dataclass
class StageReport:
    """One stage, or the intake, in numbers.

    Attributes
    ----------
    name
        Name of the stage.
    gate
        Its gate; none at intake, which has gates on properties.
    gate_text
        The gate in words.
    counts
        Candidates by status; each that entered is in exactly one.
    reused
        Results that were taken from an earlier computation.
    reasons
        Why candidates were lost, the most frequent reason first.
    documents
        Stored document by material id.
    values
        The gate's quantity by material id, in its unit; only finite ones.
    without_value
        Candidates that were answered and have no value (no percolating path).
    budget_threshold
        Value of the last candidate that a ``top`` budget let through.
    seconds
        Wall time of each evaluation, in s; reused results and earlier attempts that were repeated among them.
    """

    name: str
    gate: Gate | None
    gate_text: str
    counts: Counter[str] = field(default_factory=Counter)
    reused: int = 0
    reasons: list[ReasonCount] = field(default_factory=list)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    without_value: int = 0
    budget_threshold: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def entered(self) -> int:
        """Candidates that entered."""
        return sum(self.counts.values())

    @property
    def waiting(self) -> int:
        """Candidates without a verdict yet."""
        return self.counts[Status.PENDING] + self.counts[Status.RUNNING]

    @property
    def passed(self) -> int:
        """Candidates that passed."""
        return self.counts[Status.PASSED]

    @property
    def quantity(self) -> Quantity | None:
        """What the gate reads."""
        return None if self.gate is None else Quantity(self.gate.quantity)

    def survivors(self, threshold: float) -> int:
        """How many candidates' values are at least as good as a threshold."""
        if self.quantity is None or self.quantity.lower_is_better:
            return sum(value <= threshold for value in self.values.values())
        return sum(value >= threshold for value in self.values.values())


@dataclass(frozen=True)
class Label:
    """What is known of a material before the campaign."""

    expected: str
    conductivity_S_per_cm: float | None
    reference: str


@dataclass
class ReportData:
    """Everything that a report shows.

    ``rows`` are the ledger's rows with a status for every stage that a candidate entered.
    """

    campaign: dict[str, Any]
    intake: StageReport
    stages: list[StageReport]
    rows: list[dict[str, Any]]
    broken_jobs: list[str]
    labels: dict[str, Label]

    @property
    def name(self) -> str:
        """Name of the campaign."""
        return self.campaign["_id"]

    @cached_property
    def screening(self) -> list[StageReport]:
        """The stages that a candidate must pass to be on the shortlist."""
        return [stage for stage in self.stages if stage.name != HANDOFF_STAGE]

    def stage(self, name: str) -> StageReport | None:
        """Find a stage by its name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def on_shortlist(self, row: dict[str, Any]) -> bool:
        """Whether a candidate passed the intake and every stage that screens."""
        names = ["intake", *(stage.name for stage in self.screening)]
        return all(row["stages"].get(name, {}).get("status") == Status.PASSED for name in names)

    @cached_property
    def shortlist(self) -> list[dict[str, Any]]:
        """Candidates that passed every stage, the best first."""
        return sorted((row for row in self.rows if self.on_shortlist(row)), key=self._merit)

    @cached_property
    def nearest(self) -> list[dict[str, Any]]:
        """Candidates that came farthest without reaching the shortlist."""
        rows = [row for row in self.rows if self._passed(row) > 0 and not self.on_shortlist(row)]
        return sorted(rows, key=lambda row: (-self._passed(row), self._merit(row)))[:NEAREST]

    def _passed(self, row: dict[str, Any]) -> int:
        return sum(row["stages"].get(stage.name, {}).get("status") == Status.PASSED for stage in self.screening)

    def _merit(self, row: dict[str, Any]) -> tuple[bool, float, str]:
        """Order by the band's barrier where there is one, else by the dearest stage that has a value."""
        order = sorted(self.screening, key=lambda stage: stage.name == "neb")
        for stage in reversed(order):
            value = stage.values.get(row["material_id"])
            if value is not None and stage.quantity is not None:
                return False, value if stage.quantity.lower_is_better else -value, row["material_id"]
        return True, 0.0, row["material_id"]

    def ending(self, row: dict[str, Any]) -> str:
        """Where a candidate ended, in words."""
        lost = self.lost_at(row)
        if lost:
            entries = [(name, row["stages"][name]) for name in lost]
            return "; ".join(f"{e['status']} at {name}: {reason_of(e).replace('_', ' ')}" for name, e in entries)
        if self.on_shortlist(row):
            return "on the shortlist"
        open_at = [n for n, e in row["stages"].items() if e["status"] in (Status.PENDING, Status.RUNNING)]
        return "waiting at " + " and ".join(open_at) if open_at else "no verdict yet"

    def lost_at(self, row: dict[str, Any]) -> list[str]:
        """Stages at which a candidate was lost; two when stages side by side both lost it."""
        names = ["intake", *(stage.name for stage in self.screening)]
        return [name for name in names if row["stages"].get(name, {}).get("status") in LOST]

    def failures(self) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
        """Failed candidates as row, stage and ledger entry."""
        names = ["intake", *(stage.name for stage in self.stages)]
        return [
            (row, name, row["stages"][name])
            for name in names
            for row in self.rows
            if row["stages"].get(name, {}).get("status") == Status.FAILED
        ]


def collect(database: Database, campaign: str) -> ReportData:
    """Gather what the report of a campaign says; nothing is written.

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
    ledger, rows = find(database, campaign)
    documents = _documents(database, ledger, rows)
    intake = StageReport("intake", None, _property_gates_text(ledger.document["spec"].get("properties") or {}))
    stages = []
    for name in ledger.stages:
        budget = ledger.document.get("budgets", {}).get(name) or {}
        gate = ledger.gate(name)
        found = StageReport(name, gate, gate_text(gate), budget_threshold=budget.get("threshold"))
        found.documents = {material: doc for (material, stage), doc in documents.items() if stage == name}
        stages.append(found)
    for stage in (intake, *stages):
        _count(stage, rows)
    labels = read_labels(ledger.document["spec"])
    return ReportData(ledger.document, intake, stages, rows, broken_jobs(ledger), labels)


def _documents(database: Database, ledger: Ledger, rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Stored documents by material id and stage: of each, the one that the ledger's entry came from."""
    wanted = {
        (row["material_id"], stage): entry.get("job_uuid") for row in rows for stage, entry in row["stages"].items()
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}
    outputs = database.job_store.docs_store.query({"metadata.campaign": ledger.campaign}, properties=["output", "uuid"])
    for output in outputs:
        for result in (output.get("output") or {}).get("results") or []:
            key = (result["material_id"], result["stage"])
            if result.get("document") is not None and wanted.get(key) == output["uuid"]:
                found[key] = result["document"]
    return found


def _count(stage: StageReport, rows: list[dict[str, Any]]) -> None:
    reasons: Counter[tuple[str, Reason]] = Counter()
    for row in rows:
        stage.seconds += [
            a["seconds"] for a in row.get("attempts", []) if a["stage"] == stage.name and a.get("seconds")
        ]
        entry = row["stages"].get(stage.name)
        if entry is None:
            continue
        stage.counts[entry["status"]] += 1
        stage.reused += entry.get("reused_from") is not None
        if entry.get("seconds"):
            stage.seconds.append(entry["seconds"])
        if entry["status"] in LOST:
            reasons[entry["status"], reason_of(entry)] += 1
        if stage.gate is not None and entry.get("quantity") == stage.gate.quantity:
            value = entry.get("value")
            if value is None or not math.isfinite(value):
                stage.without_value += 1
            else:
                stage.values[row["material_id"]] = value
    stage.reasons = [
        ReasonCount(status, str(reason), reason.sentence, count)
        for (status, reason), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def reason_of(entry: dict[str, Any]) -> Reason:
    """Why a candidate was lost at a stage; a stage that a cancelled campaign never reached has no entry of its own."""
    return Reason(entry.get("reason") or Reason.CANCELLED)


def gate_text(gate: Gate) -> str:
    """Write a gate in words."""
    quantity = Quantity(gate.quantity)
    bounds = []
    if gate.maximum is not None:
        bounds.append(f"at most {gate.maximum:g} {quantity.unit}".strip())
    if gate.minimum is not None:
        bounds.append(f"at least {gate.minimum:g} {quantity.unit}".strip())
    if gate.top is not None:
        bounds.append(f"the best {gate.top}")
    return f"{quantity.label}: {', '.join(bounds)}" if bounds else "none; every answer passes"


def _property_gates_text(properties: dict[str, Any]) -> str:
    texts = [
        gate_text(Gate(name, bounds.get("max"), bounds.get("min")))
        for name, bounds in properties.items()
        if bounds and (bounds.get("max") is not None or bounds.get("min") is not None)
    ]
    return "; ".join(texts) or "none; every structure that can be read passes"


def comparable_quantity(first: StageReport, second: StageReport) -> Quantity:
    """The barrier in which two stages are compared: that of both gates if they agree, else the one in 1D."""
    if first.quantity == second.quantity and first.quantity in BARRIERS:
        return first.quantity
    return Quantity.BARRIER_1D


def sigma_name(barrier: Quantity) -> str:
    """Field of a barrier's standard deviation in a document."""
    return barrier.value.replace("_eV", "_sigma_eV")


def interval_name(barrier: Quantity) -> str:
    """Field of a barrier's 90 % interval in a document."""
    return barrier.value.replace("_eV", "_interval_90_eV")


def pairs(first: StageReport, second: StageReport) -> dict[str, tuple[float, float]]:
    """Barriers in eV of the materials that have one from both stages."""
    name = comparable_quantity(first, second).value
    found = {}
    for material in sorted(first.documents.keys() & second.documents.keys()):
        x, y = first.documents[material].get(name), second.documents[material].get(name)
        if x is not None and y is not None:
            found[material] = (x, y)
    return found


def read_labels(spec: dict[str, Any]) -> dict[str, Label]:
    """Known classes of materials from an ``index.csv`` next to the campaign's structure files.

    The file needs a column ``class`` and one of ``material_id`` and ``file``; ``conductivity_S_per_cm`` and
    ``reference`` are shown where they are given. No such file, no labels.
    """
    given = (spec.get("materials") or {}).get("structures") or []
    folders: dict[Path, None] = {}
    for entry in [given] if isinstance(given, str) else given:
        path = Path(entry)
        while any(mark in path.name for mark in "*?["):
            path = path.parent
        folders[path if path.is_dir() else path.parent] = None
    labels: dict[str, Label] = {}
    for folder in folders:
        index = folder / "index.csv"
        if not index.is_file():
            continue
        with index.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            for row in csv.DictReader(stream):
                name = row.get("material_id") or Path(row.get("file") or "").stem
                if name and row.get("class"):
                    labels[name] = Label(
                        row["class"].strip(), _number(row.get("conductivity_S_per_cm")), row.get("reference") or ""
                    )
    return labels


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def class_order(classes: set[str]) -> list[str]:
    """Known classes from the fastest to the poorest, then the others by name."""
    return [name for name in KNOWN_CLASSES if name in classes] + sorted(classes - set(KNOWN_CLASSES))


def known_classes(data: ReportData) -> tuple[list[str], list[str], dict[str, Counter[str]]]:
    """Count the materials of each known class by where they ended.

    Returns
    -------
    tuple
        Classes, places, and counts by class and place. A material that two stages side by side rejected counts at the
        first of them; one that failed or was skipped anywhere has no answer and counts there alone.
    """
    counts: dict[str, Counter[str]] = {}
    for row in data.rows:
        label = data.labels.get(row["material_id"])
        if label is not None:
            counts.setdefault(label.expected, Counter())[_place(data, row)] += 1
    names = ["intake", *(stage.name for stage in data.screening)]
    places = [*(f"rejected at {name}" for name in names), "failed", "skipped", "waiting", "shortlist"]
    return class_order(set(counts)), [place for place in places if any(c[place] for c in counts.values())], counts


def _place(data: ReportData, row: dict[str, Any]) -> str:
    lost = data.lost_at(row)
    statuses = {row["stages"][name]["status"] for name in lost}
    for status in (Status.FAILED, Status.SKIPPED):
        if status in statuses:
            return str(status)
    if lost:
        return f"rejected at {lost[0]}"
    return "shortlist" if data.on_shortlist(row) else "waiting"
