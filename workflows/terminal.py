"""What a person sees on the terminal: the funnel table, a candidate's story, a shortlist."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..transport.errors import Reason

if TYPE_CHECKING:
    from rich.table import Table

    from .overview import Overview

LOST = ("rejected", "failed", "skipped")
"""Statuses of a candidate that goes no further."""

WIDEST_REASON = max(map(len, Reason))
"""Columns that a reason needs to stand unbroken."""

HANDOFF = "dft"
"""The stage that writes inputs and screens nothing."""


def duration(seconds: float | None) -> str:
    """Write a duration the way people read it, in two figures and never more than seven characters."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    # A unit is left before its number would round to the next one's first.
    units = (("s", 1.0, 59.5), ("min", 60.0, 59.5), ("h", 3600.0, 47.5), ("d", 86400.0, math.inf))
    unit, size = next((unit, size) for unit, size, limit in units if seconds / size < limit)
    count = seconds / size
    return f"{count:.0f} {unit}" if count >= 9.95 else f"{count:.1f} {unit}"


def funnel_table(overview: Overview) -> Table:
    """Return the funnel of a campaign as a table."""
    from rich.table import Table

    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{overview.campaign}: {overview.candidates} candidates, {overview.state}",
        title_justify="left",
    )
    table.add_column("stage", no_wrap=True)
    for name in ("entered", "pending", "running", "passed", "rejected", "failed", "reused"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("each", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    for line in overview.stages:
        waiting = line.pending or line.running
        table.add_row(
            line.stage,
            str(line.entered),
            *(str(n) if n else "-" for n in (line.pending, line.running)),
            *(str(n) for n in (line.passed, line.rejected, line.failed)),
            str(line.reused) if line.reused else "-",
            duration(line.seconds_per_material),
            duration(line.time_left_seconds) if waiting else "-",
        )
    notes = [
        f"{text}: "
        + ", ".join(f"{getattr(line, count)} at {line.stage}" for line in overview.stages if getattr(line, count))
        for count, text in (
            ("skipped", "skipped"),
            ("awaiting_budget", "computed, pending until the budget is shared out"),
        )
        if any(getattr(line, count) for line in overview.stages)
    ]
    if notes:
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
    return table


def progress_line(overview: Overview) -> str:
    """Say in one line how far every stage is, for a log."""
    parts = []
    for line in overview.stages:
        if line.stage == "intake" or not line.entered:
            continue
        counts = {name: getattr(line, name) for name in ("passed", *LOST)}
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        done = line.entered - (line.pending - line.awaiting_budget) - line.running
        parts.append(f"{line.stage} {done} of {line.entered} done" + (f" ({found})" if found else ""))
    return f"{overview.campaign}: {'; '.join(parts) or 'nothing entered the funnel'}"


def number_text(entry: dict[str, Any]) -> str:
    """Write a stage's bare value with its uncertainty; nothing where there is none."""
    value = entry.get("value")
    if value is None or math.isinf(value):
        return ""
    if entry.get("quantity") == "images_written":
        return f"{value:.0f}"
    sigma = entry.get("uncertainty")
    return f"{value:.2f}" if sigma is None else f"{value:.2f}±{sigma:.2f}"


def is_prediction(entry: dict[str, Any]) -> bool:
    """Whether a stage's value is a network's guess in place of what the stage computes."""
    from ..makers.quantities import BarrierSource

    return entry.get("source") is not None and BarrierSource(entry["source"]).is_prediction


def quantity_text(entry: dict[str, Any]) -> str:
    """Write a stage's value with its name, uncertainty, unit and threshold."""
    from ..makers.quantities import Quantity

    if entry.get("quantity") is None:
        return ""
    quantity = Quantity(entry["quantity"])
    value = entry.get("value")
    if value is None or math.isinf(value):
        return f"{quantity.label}: none found"
    number = f"{value:.3f}" if quantity is not Quantity.IMAGES_WRITTEN else f"{value:.0f}"
    if entry.get("uncertainty") is not None:
        number += f" ± {entry['uncertainty']:.3f}"
    text = f"{quantity.label}: {number} {quantity.unit}".strip()
    if entry.get("interval_90_low") is not None:
        text += f" (90 %: {entry['interval_90_low']:.3f} to {entry['interval_90_high']:.3f})"
    if is_prediction(entry):
        text += ", predicted by the interstitial network"
    if entry.get("threshold") is not None:
        text += f", threshold {entry['threshold']:.3f} {quantity.unit}".rstrip()
    return text


def verdict(entries: dict[str, dict[str, Any]], stages: list[str]) -> str:
    """Say in a few words where a candidate stands.

    Parameters
    ----------
    entries
        What the ledger knows of every stage that the candidate entered, intake among them.
    stages
        Names of the campaign's stages.
    """
    lost = [name for name in ("intake", *stages) if entries.get(name, {}).get("status") in LOST]
    if lost:
        return "; ".join(f"{entries[name]['status']} at {name}: {_reason(entries[name])}" for name in lost)
    waiting = [name for name in stages if entries.get(name, {}).get("status") in ("running", "pending")]
    screening = [name for name in stages if name != HANDOFF]
    passed = [name for name in screening if entries.get(name, {}).get("status") == "passed"]
    parts = ["on the shortlist"] if len(passed) == len(screening) else []
    for name in waiting:
        running = entries[name]["status"] == "running"
        reason = entries[name].get("reason")
        parts.append(f"{'running at' if running else 'waits at'} {name}" + (f": {reason}" if reason else ""))
    return "; ".join(parts)


def _reason(entry: dict[str, Any]) -> str:
    # What a cancelled campaign left undone has a status and no entry of its own.
    return entry.get("reason") or Reason.CANCELLED


def story(row: dict[str, Any], history: list[tuple[str, dict[str, Any]]], stages: list[str]) -> list[tuple[str, str]]:
    """Tell where a candidate went and why: the verdict first, then every stage as a lead and a text."""
    names = [name for name in row["requested_ids"] if name != row["material_id"]]
    about = [row["formula"] or "", f"asked for as {', '.join(names)}" if names else ""]
    about = [text for text in about if text and text != row["material_id"]]
    title = row["material_id"] + (f" ({', '.join(about)})" if about else "")
    lines = [(f"{title}: ", verdict(dict(history), stages))]
    width = max(len(stage) for stage, _ in history)
    for stage, entry in history:
        lines.append((f"  {stage:{width}}  {entry['status']:8}  ", _account(stage, entry)))
    for attempt in row.get("attempts", []):
        lead = f"  {attempt['stage']:{width}}  earlier   "
        fate = "another calculation counts" if attempt.get("ingested_from") else "tried again since"
        lines.append((lead, f"{attempt['message']} ({attempt['reason']}; {fate})"))
    return lines


def _account(stage: str, entry: dict[str, Any]) -> str:
    """Say in sentences what came out of a stage."""
    parts = []
    value = quantity_text(entry)
    if value:
        parts.append(value + ".")
    reason = entry.get("reason") or (Reason.CANCELLED if entry["status"] == "skipped" else None)
    if reason is not None:
        # The intake of a good structure has no gate to speak of.
        code = "" if (stage, reason) == ("intake", Reason.NO_GATE) else str(reason)
        if entry["status"] == "failed" and entry.get("error_class"):
            code = f"{code}, {entry['error_class']}"
        parts.append((entry.get("message") or Reason(reason).sentence) + (f" ({code})" if code else ""))
    if entry.get("reused_from"):
        parts.append(f"Result of job {entry['reused_from']}.")
    return " ".join(parts)


def outcome_table(rows: list[dict[str, Any]], stages: list[str], title: str = "") -> Table:
    """Return candidates with the value of every stage and where they stand, in the order given.

    Parameters
    ----------
    rows
        Candidates as `hopflow.workflows.query.find` returns them.
    stages
        Names of the campaign's stages.
    title
        Stands above the table.
    """
    from rich.text import Text

    table = _plain_table(title)
    # Names may be folded, never cut: they are what the next command is asked with. Usual ones are not even folded.
    longest = max((len(row["material_id"]) for row in rows), default=0)
    table.add_column("material", overflow="fold", min_width=min(longest, 14))
    table.add_column("formula", overflow="fold")
    for stage in stages:
        table.add_column(stage, justify="right", no_wrap=True)
    table.add_column("where it stands", overflow="fold", min_width=WIDEST_REASON)
    for row in rows:
        values = [number_text(row["stages"].get(stage, {})) for stage in stages]
        cells = [row["material_id"], row["formula"] or "", *values, verdict(row["stages"], stages)]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def stage_table(rows: list[dict[str, Any]], stage: str) -> Table:
    """Return candidates with everything that one stage says of them, in the order given."""
    from rich.text import Text

    table = _plain_table("")
    table.add_column("material", overflow="fold")
    table.add_column("formula", overflow="fold")
    for name in ("status", "value", "threshold", "time"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows:
        entry = row["stages"][stage]
        threshold = entry.get("threshold")
        cells = [
            row["material_id"],
            row["formula"] or "",
            entry["status"],
            number_text(entry),
            "" if threshold is None else f"{threshold:.2f}",
            duration(entry.get("seconds")),
            str(entry.get("reason") or "") + (", predicted" if is_prediction(entry) else ""),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def farthest_first(rows: list[dict[str, Any]], stages: list[str]) -> list[dict[str, Any]]:
    """Return candidates in the order of the stages that they passed, then of their last value."""

    def farness(row: dict[str, Any]) -> tuple[int, float, str]:
        entries = [row["stages"].get(stage, {}) for stage in stages if stage != HANDOFF]
        passed = sum(entry.get("status") == "passed" for entry in entries)
        values = [entry["value"] for entry in entries if entry.get("value") is not None]
        return -passed, values[-1] if values else math.inf, row["material_id"]

    return sorted(rows, key=farness)


def _plain_table(title: str) -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=title or None, title_justify="left")
