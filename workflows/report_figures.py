"""The figures of a campaign's report, as plotly figures made from plain data."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..flows.gate import Status
from ..makers.quantities import Quantity
from .report_data import ReportData, StageReport, class_order, comparable_quantity, pairs, sigma_name

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, GRID, ACCENT = "#1f2933", "#e6e9ee", "#0b6e75"
STATUS_COLOURS = {
    "passed": "#0b7a75",
    "rejected": "#aeb6c1",
    "failed": "#c4492d",
    "skipped": "#dfe3e8",
    "waiting": "#e3ad3b",
}
# Okabe and Ito's colours, which people with any colour vision tell apart; known classes get the first three.
CLASS_COLOURS = ("#0072B2", "#E69F00", "#7a7f87", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")
HEAT_LIMIT_eV = 3.0
"""Energies above this share one colour, so that the low part of a landscape can be seen."""

MIN_FOR_SPEARMAN = 5


def _figure(traces: Sequence[Any], height: int, **layout: Any) -> go.Figure:
    figure = go.Figure(list(traces))
    axis = {
        "showline": True,
        "linecolor": "#8a94a1",
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#8a94a1",
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        hoverlabel={"font": {"family": FONT}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0.0},
        xaxis=axis,
        yaxis=axis,
    )
    return figure.update_layout(**layout)


def funnel(data: ReportData) -> go.Figure:
    """Bars of what became of the candidates that entered each stage; every candidate is in one segment of a bar."""
    stages = [data.intake, *data.stages]
    names = [stage.name for stage in stages]
    counts = {
        "passed": [stage.passed for stage in stages],
        "rejected": [stage.counts[Status.REJECTED] for stage in stages],
        "failed": [stage.counts[Status.FAILED] for stage in stages],
        "skipped": [stage.counts[Status.SKIPPED] for stage in stages],
        "waiting": [stage.waiting for stage in stages],
    }
    most = max((stage.entered for stage in stages), default=0) or 1
    traces = [
        go.Bar(
            name=status,
            y=names,
            x=values,
            orientation="h",
            marker={"color": STATUS_COLOURS[status], "line": {"color": "white", "width": 1}},
            # A number fits into a segment of some width only; the table below has all of them.
            text=[str(value) if value >= 0.025 * most else "" for value in values],
            textposition="inside",
            textangle=0,
            insidetextanchor="middle",
            textfont={"color": "white" if status in ("passed", "failed") else INK},
            hovertemplate=f"%{{y}}: %{{x}} {status}<extra></extra>",
        )
        for status, values in counts.items()
        if any(values)
    ]
    figure = _figure(
        traces,
        height=90 + 46 * len(names),
        barmode="stack",
        bargap=0.3,
        margin={"l": 56, "r": 90, "t": 34, "b": 44},
        legend={"traceorder": "normal"},
    )
    figure.update_xaxes(title={"text": "candidates that entered the stage"}, rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    for stage in stages:
        share = f"{stage.passed} of {stage.entered}" if stage.entered else "none entered"
        figure.add_annotation(
            x=1.0, xref="paper", xanchor="left", xshift=8, y=stage.name, text=share, showarrow=False, font={"size": 12}
        )
    return figure


@dataclass(frozen=True)
class Comparison:
    """Two stages' barriers against each other."""

    first: str
    second: str
    quantity: Quantity
    figure: go.Figure
    count: int
    spearman: float | None
    mean_difference_eV: float


def compare(data: ReportData, first: StageReport, second: StageReport) -> Comparison | None:
    """Plot the barriers of two stages against each other, with the line of equality.

    Returns
    -------
    Comparison or None
        None when no candidate has both. Spearman's rank correlation needs five candidates and values that differ.
    """
    found = pairs(first, second)
    if not found:
        return None
    quantity = comparable_quantity(first, second)
    x, y = (np.array(values, dtype=float) for values in zip(*found.values(), strict=True))
    rows = {row["material_id"]: row for row in data.rows}
    groups = _groups(data, found)
    traces: list[Any] = []
    # A sigma wider than its value would press everything else into a corner; its bar runs out of the figure.
    reach = [
        value + min(stage.documents[m].get(sigma_name(quantity)) or 0.0, value)
        for m, values in found.items()
        for stage, value in zip((first, second), values, strict=True)
    ]
    low, high = min(0.0, x.min(), y.min()), 1.05 * max(*reach, 0.1)
    traces.append(
        go.Scatter(
            x=[low, high], y=[low, high], mode="lines", line={"color": "#8a94a1", "dash": "dash", "width": 1},
            name="equal", hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    for name, colour, symbol, members in groups:
        traces.append(
            go.Scatter(
                x=[found[m][0] for m in members],
                y=[found[m][1] for m in members],
                error_x=_errors(first, members, sigma_name(quantity), colour),
                error_y=_errors(second, members, sigma_name(quantity), colour),
                mode="markers",
                name=name,
                marker={"size": 9, "color": colour, "symbol": symbol, "line": {"color": "white", "width": 1}},
                text=[hover_name(rows[m]) for m in members],
                hovertemplate=f"%{{text}}<br>{first.name} %{{x:.2f}} eV, {second.name} %{{y:.2f}} eV<extra></extra>",
            )
        )
    figure = _figure(traces, height=360, margin={"l": 60, "r": 16, "t": 34, "b": 52})
    label = {"barrier_1d_eV": "1D", "barrier_2d_eV": "2D", "barrier_3d_eV": "3D"}[quantity.value]
    figure.update_xaxes(title={"text": f"{first.name} {label} barrier / eV"}, range=[low, high])
    figure.update_yaxes(title={"text": f"{second.name} {label} barrier / eV"}, range=[low, high])
    return Comparison(first.name, second.name, quantity, figure, len(found), spearman(x, y), float(np.mean(y - x)))


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's rank correlation; None for too few points or values that are all alike."""
    if len(x) < MIN_FOR_SPEARMAN or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def _groups(data: ReportData, found: Mapping[str, Any]) -> list[tuple[str, str, str, list[str]]]:
    """Name, colour, symbol and members of the groups of a scatter plot: known classes, else kept and lost."""
    if data.labels:
        classes = class_order({label.expected for label in data.labels.values()})
        groups = [
            (name, CLASS_COLOURS[i % len(CLASS_COLOURS)], "circle",
             [m for m in found if m in data.labels and data.labels[m].expected == name])
            for i, name in enumerate(classes)
        ]  # fmt: skip
        groups.append(("not known", INK, "diamond", [m for m in found if m not in data.labels]))
    else:
        kept = {row["material_id"] for row in data.shortlist}
        groups = [
            ("on the shortlist", STATUS_COLOURS["passed"], "circle", [m for m in found if m in kept]),
            ("not on the shortlist", "#7a8593", "diamond", [m for m in found if m not in kept]),
        ]
    return [group for group in groups if group[3]]


def _errors(stage: StageReport, members: Sequence[str], name: str, colour: str) -> dict[str, Any] | None:
    sigmas = [stage.documents[m].get(name) for m in members]
    if all(sigma is None for sigma in sigmas):
        return None
    return {"type": "data", "array": [s or 0.0 for s in sigmas], "color": colour, "thickness": 1, "width": 0}


def hover_name(row: Mapping[str, Any]) -> str:
    """A candidate's name in a figure; plotly reads tags in it, so they are escaped."""
    return html.escape(" ".join(filter(None, (row.get("formula"), row["material_id"]))))


def bands(document: Mapping[str, Any]) -> go.Figure | None:
    """Energies along a material's bands; a band that did not converge is dashed."""
    shown = [band for band in document.get("bands") or [] if len(band.get("energies_eV") or []) > 1]
    if not shown:
        return None
    traces = [
        go.Scatter(
            x=band["lengths_A"],
            y=band["energies_eV"],
            mode="lines+markers",
            name=_band_name(band),
            line={
                "color": CLASS_COLOURS[i % len(CLASS_COLOURS)] if i else ACCENT,
                "width": 2,
                "dash": "solid" if band["converged"] else "dash",
            },
            marker={"size": 7},
            hovertemplate="%{x:.2f} Å: %{y:.3f} eV<extra></extra>",
        )
        for i, band in enumerate(shown)
    ]
    figure = _figure(traces, height=300, showlegend=len(shown) > 1 or not shown[0]["converged"])
    figure.update_xaxes(title={"text": "distance along the band / Å"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "energy / eV"}, zeroline=True, zerolinecolor="#8a94a1", zerolinewidth=1)
    return figure


def _band_name(band: Mapping[str, Any]) -> str:
    name = f"hop {band['distance_A']:.2f} Å, {band['multiplicity']} in the cell"
    return name if band["converged"] else f"{name}, not converged"


def plane(values: Sequence[Sequence[float | None]] | None, colour_title: str) -> go.Figure | None:
    """Heat map of a plane of the landscape; points that are excluded stay grey."""
    if not values or not values[0]:
        return None
    finite = [v for row in values for v in row if v is not None and math.isfinite(v)]
    if not finite:
        return None
    rows, columns = len(values), len(values[0])
    limit = min(HEAT_LIMIT_eV, max(finite)) or 1.0
    heat = go.Heatmap(
        x=[i / columns for i in range(columns)],
        y=[j / rows for j in range(rows)],
        z=[[v if v is not None and math.isfinite(v) else None for v in row] for row in values],
        zmin=0.0,
        zmax=limit,
        colorscale="Viridis",
        colorbar={
            "title": {"text": colour_title, "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "outlinewidth": 0,
        },
        hovertemplate="a %{x:.2f}, b %{y:.2f}: %{z:.2f} eV<extra></extra>",
        hoverongaps=False,
    )
    figure = _figure([heat], height=300, plot_bgcolor="#cfd4da", margin={"l": 50, "r": 10, "t": 16, "b": 48})
    figure.update_xaxes(title={"text": "along a"}, showgrid=False, constrain="domain")
    # Grid steps along a and b are nearly alike, so the counts of points give the plane its shape.
    figure.update_yaxes(
        title={"text": "along b"}, showgrid=False, scaleanchor="x", scaleratio=rows / columns, constrain="domain"
    )
    return figure


def sensitivity(stage: StageReport) -> go.Figure | None:
    """How many candidates of a stage would be within a threshold, against the threshold, with the gate marked."""
    quantity = stage.quantity
    if quantity is None or quantity is Quantity.IMAGES_WRITTEN or not stage.values:
        return None
    values = np.sort(np.array(list(stage.values.values())))
    marks = _marks(stage)
    span = [*values, *(mark for mark, _ in marks)]
    pad = 0.06 * (max(span) - min(span)) or 0.1
    low, high = min(span) - pad, max(span) + pad
    if min(span) >= 0:
        low = max(low, 0.0) if low > 0.5 * min(span) else 0.0
    ranks = np.arange(1, len(values) + 1)
    if quantity.lower_is_better:
        x, y, shape = [low, *values, high], [0, *ranks, len(values)], "hv"
    else:
        x, y, shape = [low, *values, high], [len(values), *(len(values) - ranks + 1), 0], "vh"
    curve = go.Scatter(
        x=x, y=y, mode="lines", line={"color": ACCENT, "width": 2, "shape": shape}, showlegend=False,
        hovertemplate="threshold %{x:.3f}: %{y} candidates<extra></extra>",
    )  # fmt: skip
    figure = _figure([curve], height=300, margin={"l": 56, "r": 24, "t": 40, "b": 52})
    unit = f" / {quantity.unit}" if quantity.unit else ""
    figure.update_xaxes(title={"text": f"{stage.name}: {short_label(quantity)}{unit}"}, range=[low, high])
    figure.update_yaxes(title={"text": "candidates within"}, range=[0, 1.08 * len(values)])
    for i, (mark, text) in enumerate(marks):
        figure.add_vline(x=mark, line={"color": "#c4492d", "width": 1.5, "dash": "dash" if i == 0 else "dot"})
        figure.add_annotation(
            x=mark, y=1.0, yref="paper", yanchor="bottom", yshift=2 + 14 * (len(marks) - 1 - i), text=text,
            showarrow=False, font={"size": 11, "color": "#c4492d"},
        )  # fmt: skip
    return figure


def _marks(stage: StageReport) -> list[tuple[float, str]]:
    """Thresholds that applied at a stage, with their names."""
    if stage.gate is None:
        return []
    marks = [(stage.gate.maximum, "max"), (stage.gate.minimum, "min")]
    if stage.gate.top is not None:
        marks.append((stage.budget_threshold, f"best {stage.gate.top}:"))
    return [(value, f"{name} {value:.3g}") for value, name in marks if value is not None]


def short_label(quantity: Quantity) -> str:
    """A quantity's name where room is short."""
    names = {
        Quantity.BARRIER_1D: "barrier 1D",
        Quantity.BARRIER_2D: "barrier 2D",
        Quantity.BARRIER_3D: "barrier 3D",
        Quantity.MINIMAL_PERCOLATION_ENERGY: "min. percolation energy",
        Quantity.CONNECTED_FREE_VOLUME: "connected free volume",
        Quantity.DISCONNECTED_FREE_VOLUME: "disconnected free volume",
        Quantity.FREE_VOLUME_SCORE: "free volume score",
    }
    return names.get(quantity, quantity.label)
