"""Questions to the ledger: which candidates, with which status, in which order."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any

from ..flows.gate import Status
from .console import WrongUse
from .ledger import Ledger

if TYPE_CHECKING:
    from .database import Database

FIELDS = (
    "status",
    "reason",
    "message",
    "error_class",
    "quantity",
    "value",
    "uncertainty",
    "interval_90_low",
    "interval_90_high",
    "source",
    "threshold",
    "seconds",
)


def find(
    database: Database, campaign: str, stage: str | None = None, status: str | None = None, sort: str = "material_id"
) -> tuple[Ledger, list[dict[str, Any]]]:
    """Find candidates.

    Parameters
    ----------
    database
        The open database.
    campaign
        Name of the campaign.
    stage
        Stage that ``status`` and ``sort`` speak of; with ``status`` and no stage, any stage counts.
    status
        ``pending``, ``running``, ``passed``, ``rejected``, ``failed``, ``reused`` or ``skipped``.
    sort
        ``material_id``, ``formula``, ``value``, ``uncertainty``, ``seconds`` (of the stage) or the name of a stage
        for its value; a leading ``-`` reverses.

    Returns
    -------
    tuple
        The ledger, and one dictionary a candidate with the status of every stage that it entered.

    Raises
    ------
    WrongUse
        The stage, status or sort key is unknown.
    HopflowError
        The database knows no such campaign.
    """
    ledger = Ledger(database, campaign)
    stages = ["intake", *ledger.stages]
    if stage is not None and stage not in stages:
        raise WrongUse(f"The campaign has no stage {stage!r}; allowed: {', '.join(stages)}.")
    if status is not None and status not in list(Status):
        raise WrongUse(f"There is no status {status!r}; allowed: {', '.join(Status)}.")
    running = ledger.running()
    rows = []
    for row in ledger.rows():
        standing = {"intake": row["stages"]["intake"]["status"], **ledger.standing(row, running)}
        row["stages"] = {name: {**row["stages"].get(name, {}), "status": found} for name, found in standing.items()}
        asked = [stage] if stage is not None else list(standing)
        if stage is not None and stage not in standing:
            continue
        if status is not None and not any(_is(row["stages"].get(name), status) for name in asked):
            continue
        row.pop("_id", None)
        rows.append(row)
    return ledger, _sorted(rows, sort, stage, stages)


def _is(entry: dict[str, Any] | None, status: str) -> bool:
    if entry is None:
        return False
    if status == Status.REUSED:
        return entry.get("reused_from") is not None
    return entry["status"] == status


def _sorted(rows: list[dict[str, Any]], sort: str, stage: str | None, stages: list[str]) -> list[dict[str, Any]]:
    reverse = sort.startswith("-")
    key = sort.removeprefix("-")
    if key in ("material_id", "formula"):
        return sorted(rows, key=lambda row: (row[key] or "", row["material_id"]), reverse=reverse)
    if key in ("value", "uncertainty", "seconds"):
        if stage is None:
            raise WrongUse(f"Sorting by {key} needs --stage; allowed: {', '.join(stages)}.")
        place, field = stage, key
    elif key in stages:
        place, field = key, "value"
    else:
        allowed = ["material_id", "formula", "value", "uncertainty", "seconds", *stages]
        raise WrongUse(f"Candidates cannot be sorted by {key!r}; allowed: {', '.join(allowed)}.")

    def order(row: dict[str, Any]) -> tuple[bool, float, str]:
        value = row["stages"].get(place, {}).get(field)
        unknown = value is None or math.isnan(value)
        # Candidates without a value come last either way.
        return unknown, 0.0 if unknown else (-value if reverse else value), row["material_id"]

    return sorted(rows, key=order)


def flat(row: dict[str, Any], stages: list[str]) -> dict[str, Any]:
    """Return one candidate as one table row."""
    line = {
        "material_id": row["material_id"],
        "requested_ids": " ".join(row["requested_ids"]),
        "formula": row["formula"],
        "fate": row["fate"],
        "atoms": row["atoms"],
        **row["properties"],
    }
    for stage in ("intake", *stages):
        for field in FIELDS:
            line[f"{stage}_{field}"] = row["stages"].get(stage, {}).get(field)
    return line


def csv_text(rows: list[dict[str, Any]], stages: list[str]) -> str:
    """Return candidates as CSV with a header."""
    lines = [flat(row, stages) for row in rows]
    columns = list(lines[0]) if lines else list(flat(_EMPTY, stages))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


_EMPTY: dict[str, Any] = {
    "material_id": None,
    "requested_ids": [],
    "formula": None,
    "fate": None,
    "atoms": None,
    "properties": {},
    "stages": {},
}
