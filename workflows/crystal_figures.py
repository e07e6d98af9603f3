"""A crystal to look at: atoms, cell, and the view of it that all figures of crystals share."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..transport.volumetric import majority_structure
from .report_figures import FONT, INK

if TYPE_CHECKING:
    from pymatgen.core import Structure


def crystal_figure(traces: list[Any], lattice: np.ndarray, title: str, camera: dict[str, Any]) -> go.Figure:
    """Figure of what lies in a cell, without axes, seen from ``camera`` in parallel projection.

    Parameters
    ----------
    traces
        What is drawn, in Cartesian coordinates in Angstrom.
    lattice
        Cell vectors as rows in Angstrom.
    title
        May hold plotly's markup.
    camera
        ``eye`` and ``up`` as plotly has them.
    """
    figure = go.Figure(traces)
    hidden = {"visible": False, "showspikes": False}
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        title={"text": title, "x": 0.02, "xanchor": "left", "font": {"size": 16}},
        paper_bgcolor="white",
        margin={"l": 0, "r": 0, "t": 56, "b": 0},
        hoverlabel={"font": {"family": FONT}},
        legend={"x": 0.01, "y": 0.98, "itemsizing": "constant", "bgcolor": "rgba(255,255,255,0.7)"},
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "dragmode": "orbit",
            "aspectmode": "manual",
            "aspectratio": _proportions(lattice, camera),
            "camera": {"projection": {"type": "orthographic"}, **camera},
            "annotations": _axis_names(lattice),
        },
    )
    return figure


def cell_trace(lattice: np.ndarray) -> Any:
    """Edges of the cell."""
    rows: list[np.ndarray] = []
    for axis in range(3):
        for corner in product((0, 1), repeat=2):
            start = np.insert(np.array(corner, dtype=float), axis, 0.0)
            end = np.insert(np.array(corner, dtype=float), axis, 1.0)
            rows += [start @ lattice, end @ lattice, np.full(3, np.nan)]
    lines = np.array(rows)
    return go.Scatter3d(
        x=lines[:, 0], y=lines[:, 1], z=lines[:, 2], mode="lines", line={"color": "#8a94a1", "width": 2},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def atom_traces(structure: Structure, ion: str) -> list[Any]:
    """Atoms by element, those on a face with their images; sites of the mobile ion small and hollow."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    atoms = majority_structure(structure)
    # Markers have a size on the screen, so a large cell gets smaller ones.
    scale = float(np.clip(110 / max(structure.lattice.abc), 6, 20))
    traces = []
    for element in sorted({site.specie for site in atoms}, key=lambda e: (e.symbol == ion, e.Z)):
        places, texts = [], []
        for k, site in enumerate(atoms):
            if site.specie != element:
                continue
            for image in _images_on_faces(site.frac_coords):
                places.append(image @ structure.lattice.matrix)
                texts.append(f"{structure[k].label} (site {k}): {structure[k].species_string}")
        spots = np.array(places)
        colour = "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * jmol_colors[element.Z]))
        mobile = element.symbol == ion
        traces.append(
            go.Scatter3d(
                x=spots[:, 0], y=spots[:, 1], z=spots[:, 2], mode="markers",
                name=f"{ion} sites" if mobile else element.symbol,
                marker={
                    "size": scale * (0.55 if mobile else float(0.35 + 0.6 * covalent_radii[element.Z])),
                    "color": colour, "opacity": 0.55 if mobile else 1.0, "line": {"color": "#5b6572", "width": 1},
                },
                text=texts, hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def _axis_names(lattice: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"x": v[0] * 1.04, "y": v[1] * 1.04, "z": v[2] * 1.04, "text": f"<b>{name}</b>", "showarrow": False}
        for name, v in zip("abc", lattice, strict=True)
    ]


def _proportions(lattice: np.ndarray, camera: dict[str, Any]) -> dict[str, float]:
    """Equal scale on all axes, the cell as large as the view from there allows."""
    eye, up = (np.array(list(camera[name].values())) for name in ("eye", "up"))
    right = np.cross(up, eye)
    upwards = np.cross(eye, right)
    corners = np.array(list(product((0, 1), repeat=3))) @ lattice
    wide, high = (float(np.ptp(corners @ v / np.linalg.norm(v))) for v in (right, upwards))
    # Found by trial: what is larger than this is cut off at the edges of the view, or runs into the legend.
    scale = min(2.3 / wide, 1.85 / high)
    return dict(zip("xyz", (scale * np.ptp(corners, axis=0)).tolist(), strict=True))


def _images_on_faces(frac_coords: np.ndarray, tolerance: float = 0.02) -> list[np.ndarray]:
    folded = frac_coords % 1.0
    folded[folded > 1 - tolerance] -= 1.0
    choices = [(0.0, 1.0) if x < tolerance else (0.0,) for x in folded]
    return [folded + np.array(shift) for shift in product(*choices)]
