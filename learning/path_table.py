"""A path as a row of numbers for trees: images, surroundings, composition, and what a potential has said of it.

None of the numbers changes when the path is reversed, and none of those of the framework when the crystal is described
by another cell or its atoms are listed otherwise (the size of the cell is among them on purpose: it tells a dilute
vacancy from a dense one).
"""

from __future__ import annotations

import numpy as np

from ..transport.paths import MigrationPath
from .band_probes import IMAGES, BandProbe
from .elements import DESCRIPTORS, ElementTable, element_table
from .path_descriptors import COMPOSITION_DESCRIPTORS, GEOMETRY_DESCRIPTORS, composition_values, geometry_values
from .path_graphs import IMAGE_FEATURES, PathGraph, build_path_graph

_IMAGE_STATISTICS = ("ends", "difference", "middle", "quarters", "rise", "least", "largest")
_NEIGHBOUR_STATISTICS = ("anions", "cations", "largest_cation")
_CATION_WEIGHT = 0.02

GEOMETRY_COLUMNS: tuple[str, ...] = (
    *GEOMETRY_DESCRIPTORS,
    *COMPOSITION_DESCRIPTORS,
    *(f"{name}_{statistic}" for name in IMAGE_FEATURES for statistic in _IMAGE_STATISTICS),
    *(f"near_{statistic}_{name}" for name in DESCRIPTORS for statistic in _NEIGHBOUR_STATISTICS),
    "near_anion_weight",
    "near_cation_weight",
    "near_migrating_weight",
    "narrowest_width_A",
    "atoms",
)
"""Columns of :func:`geometry_columns`, in order; ``near_``: means over atoms by the path, nearer ones first."""

_LARGEST_GAIN_EV = 2.0
_RELAXED = ("top", "span", "above_lowest")

PROBE_COLUMNS: tuple[str, ...] = (
    *(f"static_{name}" for name in ("top", "span", "above_lowest", "ends", "middle", "quarters", "dip")),
    *(f"site_{name}" for name in ("top", "middle", "span", "ends")),
    *(f"{kind}_{name}_{step}" for kind in ("relaxed", "expected") for step in range(5) for name in _RELAXED),
    *(f"{kind}_ends_{step}" for kind in ("relaxed", "expected") for step in (0, 4)),
    "gained_ends",
    "gained_top",
    "still_expected_top",
    "still_expected_ends",
    "displacement_top_A",
    "displacement_ends_A",
    "symmetric",
    "lower_in_the_middle",
    "top_in_the_middle",
)
"""Columns of :func:`probe_columns`, in order; energies are those of images above both ends' mean unless the name says
otherwise, compressed by :func:`compressed`."""


def compressed(energy_eV: np.ndarray | float) -> np.ndarray:
    """Energies on a scale that is linear below half an electronvolt and logarithmic above, for either sign."""
    return np.arcsinh(2.0 * np.asarray(energy_eV, dtype=float)) / 2.0


def geometry_columns(path: MigrationPath) -> np.ndarray:
    """What can be said of a path without any potential, shape (len(GEOMETRY_COLUMNS),).

    Raises
    ------
    CandidateError
        As :func:`.path_graphs.build_path_graph`.
    """
    table = element_table()
    graph = build_path_graph(path, None, table)
    lattice = np.asarray(path.lattice, dtype=float)
    return np.concatenate(
        [
            geometry_values(path, graph),
            composition_values(path, table),
            _image_values(graph),
            _neighbour_values(graph, table),
            [float((1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)).min()), len(path.framework_species) + 1.0],
        ]
    )


def _image_values(graph: PathGraph) -> np.ndarray:
    """Every image feature as statistics that treat both ends alike."""
    columns = graph.image_features
    middle = len(columns) // 2
    ends = 0.5 * (columns[0] + columns[-1])
    return np.stack(
        [
            ends,
            np.abs(columns[0] - columns[-1]),
            columns[middle],
            0.5 * (columns[1] + columns[-2]),
            columns[middle] - ends,
            columns.min(axis=0),
            columns.max(axis=0),
        ],
        axis=1,
    ).reshape(-1)


def _neighbour_values(graph: PathGraph, table: ElementTable) -> np.ndarray:
    """Descriptors of the atoms by the path, anions and cations apart, and how many there are of each."""
    scaled = (table.values - table.values.mean(axis=0)) / table.values.std(axis=0)
    near = scaled[graph.atom_rows]
    anions = graph.atom_weights * np.clip(graph.atom_anion_character, 0.0, None)
    cations = graph.atom_weights * np.clip(-graph.atom_anion_character, 0.0, None)
    values = np.stack(
        [
            anions @ near / (anions.sum() + 1e-6),
            cations @ near / (cations.sum() + 1e-6),
            np.where((cations > _CATION_WEIGHT)[:, None], near, 0.0).max(axis=0),
        ],
        axis=1,
    )
    migrating = graph.atom_weights[graph.atom_rows == graph.ion_row].sum()
    return np.concatenate([values.reshape(-1), [anions.sum(), cations.sum(), migrating]])


def probe_columns(probe: BandProbe) -> np.ndarray:
    """What a potential has said of a path, shape (len(PROBE_COLUMNS),)."""
    static, site, middle = probe.energies_eV, probe.site_energies_eV, IMAGES // 2
    # steps that met hardly any curvature promise too much
    energies, gains = probe.relaxed_energies_eV.copy(), np.clip(probe.expected_gains_eV, 0.0, _LARGEST_GAIN_EV)
    moved = probe.displacements_A.copy()
    if probe.symmetric:
        for values in (energies, gains, moved):
            values[-1] = values[0]
    top = 1 + int(np.argmax(static[1:-1]))
    ends = [0, IMAGES - 1]
    base = static[ends].mean()
    found = [
        compressed(static[1:-1].max() - base),
        compressed(np.ptp(static)),
        compressed(static[1:-1].max() - static[ends].min()),
        compressed(np.ptp(static[ends])),
        compressed(static[middle] - base),
        compressed(0.5 * (static[1] + static[-2]) - base),
        compressed(static[middle] - 0.5 * (static[1] + static[-2])),
        compressed(site[top] - site[ends].mean()),
        compressed(site[middle] - site[ends].mean()),
        compressed(np.ptp(site)),
        site[ends].mean(),
    ]
    differences = []
    for values in (energies, energies - gains):
        for step in range(5):
            # a probe of fewer steps ends where it ends
            at = values[:, min(step, values.shape[1] - 1)]
            found += [
                compressed(at[top] - at[ends].mean()),
                compressed(np.nanmax(at) - np.nanmin(at)),
                compressed(at[top] - at[ends].min()),
            ]
            if step in (0, 4):
                differences.append(compressed(np.ptp(at[ends])))
    return np.array(
        [
            *found,
            *differences,
            compressed((energies[ends, 0] - energies[ends, -1]).mean()),
            compressed(energies[top, 0] - energies[top, -1]),
            compressed(gains[top, -1]),
            compressed(gains[ends, -1].mean()),
            moved[top, -1],
            moved[ends, -1].mean(),
            float(probe.symmetric),
            float(np.isfinite(energies[middle, 0]) and top != middle),
            float(top == middle),
        ],
        dtype=float,
    )
