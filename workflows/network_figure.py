"""Picture of the interstitial network: voids and channel segments by their radius, the atoms and the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .crystal_figures import atom_traces, cell_trace, crystal_figure
from .landscape_figures import BOTTLENECK

if TYPE_CHECKING:
    from ..transport.interstitial_network import InterstitialNetwork

COLOURS = "Viridis"
_VIEW = {"eye": {"x": 1.25, "y": -1.35, "z": 0.75}, "up": {"x": 0.0, "y": 0.0, "z": 1.0}}


def network_figure(network: InterstitialNetwork, title: str = "") -> go.Figure:
    """Interstices and segments by radius.

    Segments through which the sphere that percolates in three directions fits are drawn thick; narrower ones are thin
    and hidden until they are asked for in the legend.

    Returns
    -------
    plotly.graph_objects.Figure
        Lengths in Angstrom.
    """
    graph, lattice = network.graph, network.lattice
    open_from = min(network.segment_values_A)
    wide = graph.bottleneck_radii_A >= open_from - 1e-9
    scale = {
        "colorscale": COLOURS,
        "cmin": max(0.0, open_from),
        "cmax": network.largest_radius_A,
    }
    traces: list[Any] = [cell_trace(lattice), *atom_traces(network.structure, network.ion)]
    traces.append(_segments(network, ~wide, f"narrower than {open_from:.2f} Å", 2, scale, shown=False))
    traces.append(_segments(network, wide, f"channels from {open_from:.2f} Å", 7, scale, shown=True))
    traces.append(_voids(network, scale))
    traces.append(_limits(network))
    return crystal_figure(traces, lattice, title, _VIEW)


def _voids(network: InterstitialNetwork, scale: dict[str, Any]) -> Any:
    graph = network.graph
    places = graph.frac_coords @ network.lattice
    texts = []
    for k, (label, radius) in enumerate(zip(graph.orbits, graph.radii_A, strict=True)):
        energy = "" if network.energies_eV is None else f", {network.energies_eV[k]:.2f} eV"
        texts.append(f"interstice {k} of kind {label}: {radius:.2f} Å{energy}")
    return go.Scatter3d(
        x=places[:, 0], y=places[:, 1], z=places[:, 2], mode="markers", name="interstices",
        marker={
            "size": 3 + 8 * np.clip(graph.radii_A / max(network.largest_radius_A, 1e-6), 0, 1), "color": graph.radii_A,
            "line": {"color": "white", "width": 0.5}, **scale,
            "colorbar": {
                "title": {"text": "radius / Å", "side": "right", "font": {"size": 12}},
                "thickness": 12, "len": 0.6, "outlinewidth": 0,
            },
        },
        text=texts, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _segments(
    network: InterstitialNetwork, chosen: np.ndarray, name: str, width: int, scale: dict[str, Any], shown: bool
) -> Any:
    graph = network.graph
    index = np.flatnonzero(chosen)
    starts = graph.frac_coords[graph.edges[index, 0]] @ network.lattice
    ends = graph.ends()[index] @ network.lattice
    gap = np.full_like(starts, np.nan)
    line = np.stack([starts, ends, gap], axis=1).reshape(-1, 3)
    radii = np.repeat(graph.bottleneck_radii_A[index], 3)
    return go.Scatter3d(
        x=line[:, 0], y=line[:, 1], z=line[:, 2], mode="lines", name=name, visible=True if shown else "legendonly",
        line={"width": width, "color": radii, **scale}, customdata=radii,
        hovertemplate="bottleneck of %{customdata:.2f} Å<extra></extra>", connectgaps=False,
    )  # fmt: skip


def _limits(network: InterstitialNetwork) -> Any:
    at: dict[tuple[float, ...], list[str]] = {}
    for dimension, (point, radius) in enumerate(
        zip(network.limiting_bottlenecks, network.segment_values_A, strict=True), 1
    ):
        at.setdefault(point, []).append(f"{dimension}D: {radius:.3f} Å")
    places = np.array(list(at)) @ network.lattice
    return go.Scatter3d(
        x=places[:, 0], y=places[:, 1], z=places[:, 2], mode="markers", name="limiting bottlenecks",
        marker={"symbol": "diamond", "size": 8, "color": BOTTLENECK, "line": {"color": "white", "width": 1}},
        text=["<br>".join(lines) for lines in at.values()], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
