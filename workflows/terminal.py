"""What a person sees on the terminal: the funnel table, a candidate's story, a shortlist."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..transport.errors import Reason

if TYPE_CHECKING:
    from rich.table import Table

    from .overview import Overview


def duration(seconds: float | None) -> str:
    """Write a duration the way people read it; nothing for an unknown or zero one."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


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
    if any(line.skipped for line in overview.stages):
        skipped = ", ".join(f"{line.skipped} at {line.stage}" for line in overview.stages if line.skipped)
        table.caption = f"skipped: {skipped}"
    return table


def quantity_text(entry: dict[str, Any]) -> str:
    """Write a stage's value with its uncertainty and unit."""
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
    return f"{quantity.label} {number} {quantity.unit}".strip()


def story(row: dict[str, Any], history: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Tell in a few lines where a candidate went and why."""
    names = [name for name in row["requested_ids"] if name != row["material_id"]]
    alias = f" (asked for as {', '.join(names)})" if names else ""
    lines = [f"{row['material_id']} {row['formula'] or ''}{alias}".strip()]
    for stage, entry in history:
        status = entry["status"]
        parts = [f"{stage}: {status}"]
        value = quantity_text(entry)
        if value:
            parts.append(value)
        if entry.get("threshold") is not None:
            parts.append(f"threshold {entry['threshold']:.3f}")
        if entry.get("reason"):
            parts.append(f"{entry['reason']}: {entry.get('message') or Reason(entry['reason']).sentence}")
        if entry.get("error_class"):
            parts.append(entry["error_class"])
        if entry.get("reused_from"):
            parts.append(f"result of job {entry['reused_from']}")
        lines.append("  " + " | ".join(parts))
    earlier = (f"  earlier attempt at {a['stage']}: {a['reason']}: {a['message']}" for a in row.get("attempts", []))
    return [*lines, *earlier]


def outcome_table(rows: list[dict[str, Any]], stages: list[str], limit: int = 30) -> Table:
    """Return candidates with the value of every stage, those that came farthest first."""
    from rich.table import Table

    def farness(row: dict[str, Any]) -> tuple[int, float]:
        passed = [s for s in stages if row["stages"].get(s, {}).get("status") == "passed"]
        values = [row["stages"][s]["value"] for s in stages if row["stages"].get(s, {}).get("value") is not None]
        return -len(passed), values[-1] if values else math.inf

    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title="candidates, the farthest first; barriers in eV",
        title_justify="left",
    )
    table.add_column("material")
    table.add_column("formula")
    for stage in stages:
        table.add_column(stage, justify="right")
    table.add_column("verdict")
    for row in sorted(rows, key=farness)[:limit]:
        reached = [s for s in ("intake", *stages) if s in row["stages"]]
        lost = [s for s in reached if row["stages"][s]["status"] in ("rejected", "failed", "skipped")]
        verdict = "; ".join(f"{row['stages'][s]['status']} at {s}: {row['stages'][s]['reason']}" for s in lost)
        cells = []
        for stage in stages:
            entry = row["stages"].get(stage, {})
            value = entry.get("value")
            cell = (
                ""
                if value is None
                else f"{value:.2f}"
                if isinstance(value, float) and stage != "dft"
                else f"{value:.0f}"
            )
            if entry.get("uncertainty") is not None and cell:
                cell += f"±{entry['uncertainty']:.2f}"
            cells.append(cell)
        table.add_row(row["material_id"], row["formula"] or "", *cells, verdict or "on the shortlist")
    return table
