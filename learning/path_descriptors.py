"""A migration path as one row of numbers, for learners that take tables: its geometry and its composition.

As in the classical baselines of Devi et al. (arXiv 2508.06436): a few features of the path, the rest of composition.
None changes when the path is reversed, the crystal is described by another cell or its atoms are listed otherwise.
"""

from __future__ import annotations

import numpy as np

from ..transport.paths import MigrationPath
from .elements import DESCRIPTORS, ElementTable, element_table
from .path_graphs import IMAGE_FEATURES, GraphSettings, PathGraph, build_path_graph

_STATISTICS = ("mean", "least", "largest", "range", "deviation")

GEOMETRY_DESCRIPTORS: tuple[str, ...] = (
    "length_A",
    "curved_length_A",
    "volume_of_an_atom_A3",
    "density_g_per_cm3",
    "end_nearest_A",
    "end_nearest_difference_A",
    "middle_nearest_A",
    "straight_bottleneck_clearance_A",
    "anion_bottleneck_clearance_A",
    "cation_bottleneck_clearance_A",
    "end_coordination",
    "middle_coordination",
    "sideways_A",
)
"""What is said of the path: its length straight and as far as it gives way to atoms, the room in the cell, the nearest
atom at the ends and in the middle, the least clearance of all images (along the straight line, then past anions and
cations), how many anions coordinate the ion at the ends and in the middle, and how far the images give way."""

COMPOSITION_DESCRIPTORS: tuple[str, ...] = (
    "elements",
    "share_of_migrating_element",
    *(f"ion_{name}" for name in DESCRIPTORS),
    *(f"framework_{statistic}_{name}" for statistic in _STATISTICS for name in DESCRIPTORS),
)
"""What is said of the elements: how many, how much of the framework is the migrating one, descriptors of the ion, and
statistics of each descriptor over the framework, weighted by atoms."""

PATH_DESCRIPTORS: tuple[str, ...] = GEOMETRY_DESCRIPTORS + COMPOSITION_DESCRIPTORS
"""Columns of :func:`path_descriptors`, in order."""


def path_descriptors(path: MigrationPath, settings: GraphSettings | None = None) -> np.ndarray:
    """The numbers of one path.

    Parameters
    ----------
    path
        The path.
    settings
        How far atoms are looked at, and how the images give way to them.

    Returns
    -------
    numpy.ndarray
        Float64, shape (len(PATH_DESCRIPTORS),), in the units of the names.

    Raises
    ------
    CandidateError
        As :func:`.path_graphs.build_path_graph` does.
    """
    table = element_table()
    graph = build_path_graph(path, settings, table)
    return np.concatenate([geometry_values(path, graph), composition_values(path, table)])


def geometry_values(path: MigrationPath, graph: PathGraph) -> np.ndarray:
    """The part that is :data:`GEOMETRY_DESCRIPTORS`, from the path's graph."""
    from ase.data import atomic_masses, atomic_numbers

    ends, middle = [0, -1], len(graph.image_features) // 2
    nearest_A = np.full(len(graph.image_features), np.inf)
    np.minimum.at(nearest_A, graph.image_edges[0], graph.image_edge_A)
    # an image of a long jump through empty space may see no atom at all
    nearest_A = np.minimum(nearest_A, 2.0 * graph.image_edge_A.max())
    columns = dict(zip(IMAGE_FEATURES, graph.image_features.T, strict=True))
    length_A, _, curved_length_A = graph.path_features
    symbols = (*path.framework_species, path.ion)
    volume_A3 = abs(float(np.linalg.det(path.lattice)))
    mass_u = sum(float(atomic_masses[atomic_numbers[symbol]]) for symbol in symbols)
    coordination = columns["anion_coordination"]
    return np.array(
        [
            length_A,
            curved_length_A,
            volume_A3 / len(symbols),
            1.66053907 * mass_u / volume_A3,
            nearest_A[ends].mean(),
            abs(nearest_A[0] - nearest_A[-1]),
            nearest_A[middle],
            columns["straight_clearance_A"].min(),
            columns["anion_clearance_A"].min(),
            columns["cation_clearance_A"].min(),
            coordination[ends].mean(),
            coordination[middle],
            columns["sideways_A"].max(),
        ]
    )


def composition_values(path: MigrationPath, table: ElementTable) -> np.ndarray:
    """The part that is :data:`COMPOSITION_DESCRIPTORS`."""
    values = table.values[table.rows(path.framework_species)]
    least, largest = values.min(axis=0), values.max(axis=0)
    return np.concatenate(
        [
            [len({*path.framework_species, path.ion}), np.mean([s == path.ion for s in path.framework_species])],
            table.values[table.rows([path.ion])[0]],
            values.mean(axis=0),
            least,
            largest,
            largest - least,
            values.std(axis=0),
        ]
    )
