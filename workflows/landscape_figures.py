"""Picture of an energy landscape: isosurfaces, the percolating path, the atoms and the cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..transport.path_stops import NamedStop, name_stops
from ..transport.percolation_paths import PercolationPath
from .crystal_figures import atom_traces, cell_trace, crystal_figure
from .isosurfaces import folded_line, isosurface, periodic_block
from .report_figures import ACCENT, INK

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_BLOCK_POINTS = 150_000
"""Points of the grid that an isosurface is drawn from."""

MAX_TRIANGLES = 80_000
"""Triangles of both surfaces together; keeps a file below 8 MB, of which plotly itself takes 5."""

LOW_SHARE = 0.35
"""The second surface lies this share of the way from the component's minimum up to the threshold."""

PATH_COLOURS = "Turbo"
BOTTLENECK = "#c4492d"


def landscape_figure(
    structure: Structure,
    values: np.ndarray,
    paths: Sequence[PercolationPath],
    threshold_eV: float,
    ion: str,
    title: str = "",
    minimum_eV: float | None = None,
) -> go.Figure:
    """Isosurface of the percolation threshold with the path, the atoms and the cell.

    Parameters
    ----------
    structure
        The crystal in the cell of the field; its lattice may be triclinic.
    values
        Energies in eV, shape (n1, n2, n3), periodic, without a repeated boundary plane.
    paths
        Paths in that cell; drawn folded into it.
    threshold_eV
        Level of the outer surface.
    ion
        Element symbol of the mobile ion.
    title
        Heading of the figure.
    minimum_eV
        Energies are shown from here; the lowest point of the paths when absent.

    Returns
    -------
    plotly.graph_objects.Figure
        Lengths in Angstrom, energies in eV.
    """
    lattice = structure.lattice.matrix
    lowest = min(float(path.energies_eV.min()) for path in paths) if minimum_eV is None else minimum_eV
    height = max(threshold_eV - lowest, 1e-6)
    low_level = lowest + LOW_SHARE * height
    outer, inner = _surfaces(values, (threshold_eV, low_level), threshold_eV + max(height, 0.5))
    traces: list[Any] = [
        _mesh(*outer, lattice, ACCENT, 0.16, f"up to the threshold, {height:.2f} eV"),
        _mesh(*inner, lattice, "#e3ad3b", 0.45, f"up to {LOW_SHARE * height:.2f} eV"),
        cell_trace(lattice),
    ]
    for k, path in enumerate(paths):
        traces += _path_traces(path, k, structure, ion, lowest, height)
    traces += atom_traces(structure, ion)
    traces += _bottleneck(paths, lattice, lowest)
    return crystal_figure(traces, lattice, title, _camera(paths, lattice))


def _surfaces(
    values: np.ndarray, levels_eV: tuple[float, float], ceiling_eV: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Vertices and triangles of isosurfaces, on a grid that is coarsened until there are few enough."""
    points = MAX_BLOCK_POINTS
    while True:
        block = periodic_block(values, points, ceiling_eV)
        found = [isosurface(block, level) for level in levels_eV]
        triangles = sum(len(each) for _, each in found)
        if triangles <= MAX_TRIANGLES or points < 2000:
            return found
        # Surfaces grow with the square, points with the cube of the grid's fineness.
        points = int(min(points, block.size) * (0.95 * MAX_TRIANGLES / triangles) ** 1.5)


def _mesh(
    vertices: np.ndarray, triangles: np.ndarray, lattice: np.ndarray, colour: str, opacity: float, name: str
) -> Any:
    places = (vertices @ lattice).astype(np.float32)
    faces = triangles.astype(np.int32)
    return go.Mesh3d(
        x=places[:, 0], y=places[:, 1], z=places[:, 2], i=faces[:, 0], j=faces[:, 1], k=faces[:, 2],
        color=colour, opacity=opacity, name=name, showlegend=True, hoverinfo="skip", flatshading=False,
        lighting={"ambient": 0.65, "diffuse": 0.6, "specular": 0.1},
    )  # fmt: skip


def _camera(paths: Sequence[PercolationPath], lattice: np.ndarray) -> dict[str, Any]:
    """Look from where cell and paths cover most of the picture, with c or what is closest to it upwards."""
    up = lattice[2] / np.linalg.norm(lattice[2])
    count = 400
    height = (np.arange(count) + 0.5) / count * 2 - 1
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))  # Fibonacci's even spread of directions
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    directions = directions[(directions @ up > 0.1) & (directions @ up < 0.6)]
    faces = np.cross(lattice, np.roll(lattice, -1, axis=0))
    area = np.abs(directions @ faces.T).sum(axis=1)
    places = np.concatenate([path.frac_coords @ lattice for path in paths])
    scatter = np.cov(places.T)
    # Variance of the paths across the line of sight.
    spread = np.trace(scatter) - np.einsum("ij,jk,ik->i", directions, scatter, directions)
    best = directions[np.argmax(area / area.max() + 0.5 * spread / max(spread.max(), 1e-12))]
    return {
        "eye": dict(zip("xyz", (1.6 * best).tolist(), strict=True)),
        "up": dict(zip("xyz", up.tolist(), strict=True)),
    }


def _path_traces(
    path: PercolationPath, number: int, structure: Structure, ion: str, lowest: float, height: float
) -> list[Any]:
    lattice = structure.lattice.matrix
    pieces, position = folded_line(path.frac_coords)
    places = pieces @ lattice
    shown = ~np.isnan(position)
    energies = np.full(len(position), np.nan)
    energies[shown] = np.interp(position[shown], np.arange(len(path.energies_eV)), path.energies_eV) - lowest
    lengths = np.append(0.0, np.linalg.norm(np.diff(path.frac_coords, axis=0) @ lattice, axis=1).cumsum())
    along = np.full(len(position), np.nan)
    along[shown] = np.interp(position[shown], np.arange(len(lengths)), lengths)
    direction = " ".join(str(x) for x in path.translation)
    line = go.Scatter3d(
        x=places[:, 0], y=places[:, 1], z=places[:, 2], mode="lines",
        name=f"path along [{direction}], {path.length_A:.1f} Å",
        line={
            "width": 9, "color": np.where(shown, energies, 0.0), "colorscale": PATH_COLOURS, "cmin": 0.0,
            "cmax": height, "showscale": number == 0,
            "colorbar": {
                "title": {"text": "energy along the path / eV", "side": "right", "font": {"size": 12}},
                "thickness": 12, "len": 0.6, "outlinewidth": 0,
            },
        },
        customdata=np.stack([along, energies], axis=1),
        hovertemplate="%{customdata[0]:.2f} Å along the path<br>%{customdata[1]:.3f} eV<extra></extra>",
        connectgaps=False,
    )  # fmt: skip
    stops = name_stops(path, structure, ion)
    spots = np.array([np.array(stop.frac_coords) % 1.0 for stop in stops]) @ lattice
    marks = go.Scatter3d(
        x=spots[:, 0], y=spots[:, 1], z=spots[:, 2], mode="markers", showlegend=False,
        marker={"size": 4, "color": "white", "line": {"color": INK, "width": 1}},
        text=[_stop_text(stop, lowest) for stop in stops], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    return [line, marks]


def _stop_text(stop: NamedStop, lowest: float) -> str:
    where = stop.label if stop.site_index is None else f"{stop.label} (site {stop.site_index})"
    near = f", {stop.distance_A:.2f} Å from the site" if np.isfinite(stop.distance_A) else ""
    return (
        f"{where}{near if stop.site_index is not None else ''}<br>{stop.stop.energy_eV - lowest:.3f} eV, "
        f"{stop.stop.barrier_eV:.3f} eV to the next stop"
    )


def _bottleneck(paths: Sequence[PercolationPath], lattice: np.ndarray, lowest: float) -> list[Any]:
    path = max(paths, key=lambda each: each.level_eV)
    x, y, z = (path.frac_coords[path.bottleneck_index] % 1.0) @ lattice
    return [
        go.Scatter3d(
            x=[x], y=[y], z=[z], mode="markers", name="bottleneck",
            marker={"symbol": "diamond", "size": 8, "color": BOTTLENECK, "line": {"color": "white", "width": 1}},
            hovertemplate=f"bottleneck, {path.level_eV - lowest:.3f} eV<extra></extra>",
        )
    ]  # fmt: skip
