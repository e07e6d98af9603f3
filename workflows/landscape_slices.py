"""Picture of a plane through the bottleneck of an energy landscape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..transport.percolation_paths import PercolationPath
from ..transport.volumetric import majority_structure
from .isosurfaces import sample_periodic
from .landscape_figures import BOTTLENECK
from .report_figures import FONT, INK

if TYPE_CHECKING:
    from pymatgen.core import Structure

NEAR_PLANE_A = 0.5
"""What lies farther from the plane is dotted (the path) or left out (atoms)."""

COLOURS = "Blues_r"
"""Deep where the ion rests, white where it cannot be."""

PANELS = ("energy", "level: the lowest ceiling under which the ion gets there")
"""Titles of the two panels where the level map is shown, too."""

PATH_COLOUR, SITE_COLOUR = "#e07b39", "#7b3fb5"


def slice_figure(
    structure: Structure,
    values: np.ndarray,
    paths: Sequence[PercolationPath],
    threshold_eV: float,
    ion: str,
    title: str = "",
    minimum_eV: float | None = None,
    plane: tuple[int, int] | None = None,
    ceiling_eV: float | None = None,
    levels: np.ndarray | None = None,
) -> go.Figure:
    """Energies in a plane through the bottleneck, with true lengths and angles.

    Parameters
    ----------
    structure, values, paths, threshold_eV, ion, title, minimum_eV
        As in :func:`~hopflow.workflows.landscape_figures.landscape_figure`. The bottleneck is that of the highest path.
    plane
        Two cell vectors (0, 1, 2) that span the plane. When absent: the direction of the path's translation and the
        one in which the path leaves it most.
    ceiling_eV
        Energies higher than this above ``minimum_eV`` share one colour; twice the threshold's height, 0.5 eV at least,
        when absent.
    levels
        Level map on the grid of ``values``: shown in the same plane beside the energies, on the same scale of colours.

    Returns
    -------
    plotly.graph_objects.Figure
        Axes in Angstrom from the bottleneck; points of the path, of atoms and of sites are projected at right angles.
    """
    lattice = structure.lattice.matrix
    lowest = min(float(path.energies_eV.min()) for path in paths) if minimum_eV is None else minimum_eV
    ceiling = ceiling_eV or max(2 * (threshold_eV - lowest), 0.5)
    path = max(paths, key=lambda each: each.level_eV)
    centre = path.frac_coords[path.bottleneck_index]
    along, across, names = _plane_axes(path, lattice, plane)
    reach = _window(path, lattice, along, across, centre, plane)
    x, y = (np.linspace(-r, r, max(2, round(2 * r / 0.06))) for r in reach)
    points = (x[None, :, None] * along + y[:, None, None] * across) @ np.linalg.inv(lattice) + centre
    fields = [values] if levels is None else [values, levels]
    figure = go.Figure() if levels is None else make_subplots(1, 2, subplot_titles=PANELS, horizontal_spacing=0.07)
    frame = np.stack([along, across, np.cross(along, across)])
    for number, field in enumerate(fields):
        shown = sample_periodic(np.minimum(field, lowest + 4 * ceiling), points) - lowest
        traces = [
            *_heights(x, y, shown.astype(np.float32), ceiling, threshold_eV - lowest),
            *_slice_path(path, lattice, frame, centre, reach, lowest),
            *_slice_atoms(structure, ion, frame, centre, reach),
            _slice_bottleneck(path.level_eV - lowest),
        ]
        if number:  # one legend and one scale for both
            traces[0].update(showscale=False)
            for trace in traces[1:]:
                trace.update(showlegend=False)
        figure.add_traces(traces, **({} if levels is None else {"rows": 1, "cols": number + 1}))
    width = 900 if levels is None else 1500
    room = width - 220 if levels is None else (width - 280) / 2
    axis = {"showgrid": False, "zeroline": False, "ticks": "outside", "constrain": "domain", "automargin": True}
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        title={
            "text": title,
            "x": 0.02,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "top",
            "pad": {"t": 22},
            "font": {"size": 16},
        },
        width=width,
        height=int(np.clip(220 + room * reach[1] / reach[0], 420, 1000)),
        paper_bgcolor="white",
        margin={"l": 64, "r": 16, "t": 126, "b": 56},
        hoverlabel={"font": {"family": FONT}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0.0},
    )
    figure.update_xaxes(**axis, title={"text": f"{names[0]} / Å"}, range=[-reach[0], reach[0]])
    for number in range(len(fields)):
        figure.update_yaxes(
            **axis, title={"text": f"{names[1]} / Å"}, range=[-reach[1], reach[1]],
            scaleanchor="x2" if number else "x", **({} if levels is None else {"row": 1, "col": number + 1}),
        )  # fmt: skip
    return figure


def _heights(x: np.ndarray, y: np.ndarray, shown: np.ndarray, ceiling: float, threshold: float) -> list[Any]:
    """Colours and the contour of the threshold; energies above the component's minimum."""
    return [
        go.Heatmap(
            x=x, y=y, z=shown, zmin=0.0, zmax=ceiling, colorscale=COLOURS, name="",
            colorbar={
                "title": {"text": f"energy / eV, cut off at {ceiling:.2f}", "side": "right", "font": {"size": 12}},
                "thickness": 12, "outlinewidth": 0,
            },
            hovertemplate="%{x:.2f} Å, %{y:.2f} Å: %{z:.2f} eV above the component's minimum<extra></extra>",
            zsmooth="best",
        ),
        go.Contour(
            x=x, y=y, z=shown, showscale=False, hoverinfo="skip", name=f"threshold, {threshold:.2f} eV",
            showlegend=True, contours={"coloring": "none", "start": threshold, "size": 1.0, "end": threshold},
            line={"color": INK, "width": 1.2, "dash": "dot"},
        ),
    ]  # fmt: skip


def _slice_bottleneck(height: float) -> Any:
    return go.Scatter(
        x=[0.0], y=[0.0], mode="markers", name="bottleneck",
        marker={"symbol": "diamond", "size": 12, "color": BOTTLENECK, "line": {"color": "white", "width": 1.5}},
        hovertemplate=f"bottleneck, {height:.3f} eV<extra></extra>",
    )  # fmt: skip


def _plane_axes(
    path: PercolationPath, lattice: np.ndarray, plane: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Two unit vectors at right angles that span the plane, and what to call them."""
    if plane is not None:
        first, second = lattice[plane[0]], lattice[plane[1]]
        names = (f"along {'abc'[plane[0]]}", f"towards {'abc'[plane[1]]}, at right angles")
    else:
        first = np.array(path.translation) @ lattice
        direction = first / np.linalg.norm(first)
        away = (path.frac_coords - path.frac_coords[path.bottleneck_index]) @ lattice
        away = away - (away @ direction)[:, None] * direction
        _, sizes, axes = np.linalg.svd(away, full_matrices=False)
        # A straight path leaves the choice free: the cell vector that is most across it.
        across = [v - (v @ direction) * direction for v in lattice]
        second = axes[0] if sizes[0] > 0.3 * np.sqrt(len(away)) else max(across, key=lambda v: float(np.linalg.norm(v)))
        names = ("along [{} {} {}]".format(*path.translation), "across")
    along = first / np.linalg.norm(first)
    rest = second - (second @ along) * along
    return along, rest / np.linalg.norm(rest), names


def _window(
    path: PercolationPath,
    lattice: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    centre: np.ndarray,
    plane: tuple[int, int] | None,
) -> tuple[float, float]:
    """Half widths of the picture in Angstrom: a period of the path or the two cell vectors, and some more."""
    if plane is not None:
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ lattice[list(plane)]
        return float(np.ptp(corners @ along)) / 2 + 1.0, float(np.ptp(corners @ across)) / 2 + 1.0
    period = float(np.linalg.norm(np.array(path.translation) @ lattice))
    places = (path.frac_coords - centre) @ lattice
    half = period / 2 + 1.0
    return half, float(np.clip(np.abs(places @ across).max() + 1.5, 0.35 * half, 1.2 * half))


def _slice_path(
    path: PercolationPath, lattice: np.ndarray, frame: np.ndarray, centre: np.ndarray, reach: tuple[float, float],
    lowest: float,
) -> list[Any]:  # fmt: skip
    """The path, with as many periods as the picture shows."""
    copies = [path.frac_coords[:-1] + k * np.array(path.translation) for k in range(-3, 4)]
    energies = np.tile(path.energies_eV[:-1], 7) - lowest
    x, y, off = ((np.concatenate(copies) - centre) @ lattice @ frame.T).T
    inside = (np.abs(x) <= reach[0] + 0.5) & (np.abs(y) <= reach[1] + 0.5)
    near = np.abs(off) <= NEAR_PLANE_A
    traces = []
    for name, chosen, style in (
        (f"path, within {NEAR_PLANE_A} Å of the plane", near, {"color": PATH_COLOUR, "width": 3.5}),
        ("path, projected", ~near, {"color": PATH_COLOUR, "width": 2, "dash": "dot"}),
    ):
        shown = inside & chosen
        if not shown.any():
            continue
        # Both ends of a change belong to the dotted part, so that the line has no gaps.
        joined = shown if chosen is near else inside & (chosen | np.roll(chosen, 1) | np.roll(chosen, -1))
        traces.append(
            go.Scatter(
                x=np.where(joined, x, np.nan), y=np.where(joined, y, np.nan), mode="lines", name=name, line=style,
                customdata=np.stack([energies, off], axis=1),
                hovertemplate="path: %{customdata[0]:.3f} eV, %{customdata[1]:.2f} Å off the plane<extra></extra>",
                connectgaps=False,
            )
        )  # fmt: skip
    return traces


def _slice_atoms(
    structure: Structure, ion: str, frame: np.ndarray, centre: np.ndarray, reach: tuple[float, float]
) -> list[Any]:
    """Atoms and sites near the plane."""
    from ase.data.colors import jmol_colors

    lattice = structure.lattice.matrix
    radius = float(np.hypot(*reach)) + 1.0
    atoms = majority_structure(structure)
    found = atoms.get_sites_in_sphere(centre @ lattice, radius)
    spots = (np.array([site.coords for site in found]).reshape(-1, 3) - centre @ lattice) @ frame.T
    traces = []
    for element in sorted({site.specie for site in found}, key=lambda e: (e.symbol == ion, e.Z)):
        chosen = [
            k
            for k, (x, y, off) in enumerate(spots)
            if found[k].specie == element
            and abs(off) <= NEAR_PLANE_A and abs(x) <= reach[0] and abs(y) <= reach[1]
        ]  # fmt: skip
        if not chosen:
            continue
        mobile = element.symbol == ion
        colour = SITE_COLOUR if mobile else "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * jmol_colors[element.Z]))
        traces.append(
            go.Scatter(
                x=spots[chosen, 0], y=spots[chosen, 1], mode="markers",
                name=f"{ion} sites" if mobile else element.symbol,
                marker={
                    "size": 10 if mobile else 14, "symbol": "circle-open" if mobile else "circle",
                    "color": colour,
                    "line": {"width": 2 if mobile else 1, "color": SITE_COLOUR if mobile else INK},
                },
                customdata=spots[chosen, 2],
                text=[f"{structure[found[k].index].label} (site {found[k].index})" for k in chosen],
                hovertemplate="%{text}, %{customdata:.2f} Å off the plane<extra></extra>",
            )
        )  # fmt: skip
    return traces
