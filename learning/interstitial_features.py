"""Numbers of interstices and bottlenecks for a network: radius, energy, distances and the elements around."""

from __future__ import annotations

import numpy as np

from .elements import DESCRIPTORS, ElementTable, element_table
from .interstitial_graphs import InterstitialGraph

#: Energies are features as the height above the lowest interstice, and not beyond this (eV).
ENERGY_CEILING_EV = 10.0


def node_feature_names(neighbours: int = 12, energies: bool = True) -> tuple[str, ...]:
    """Columns of :func:`node_features`: radius, energy and whether it is known, distances, means of descriptors."""
    energy = ("energy_eV", "energy_known") if energies else ()
    distances = tuple(f"distance_{k + 1}_A" for k in range(neighbours))
    return ("radius_A", *energy, *distances, *(f"mean_{name}" for name in DESCRIPTORS))


def edge_feature_names(neighbours: int = 12, energies: bool = True) -> tuple[str, ...]:
    """Columns of :func:`edge_features`: the length of the segment, then those of a node, at the bottleneck."""
    return ("length_A", *node_feature_names(neighbours, energies))


def node_features(graph: InterstitialGraph, energies: bool = True, table: ElementTable | None = None) -> np.ndarray:
    """Features of the interstices in their own units, shape (nodes, len(node_feature_names(...))).

    Energies count from the lowest interstice, up to ``ENERGY_CEILING_EV``. Where they are not known, their column is 0
    and the column ``energy_known`` is 0, too.
    """
    return _features(
        graph,
        graph.node_radii_A,
        graph.node_energies_eV,
        graph.node_neighbours,
        graph.node_neighbour_A,
        energies,
        table,
    )


def edge_features(graph: InterstitialGraph, energies: bool = True, table: ElementTable | None = None) -> np.ndarray:
    """Features of the bottlenecks in their own units, shape (edges, len(edge_feature_names(...)))."""
    at_bottleneck = _features(
        graph,
        graph.edge_radii_A,
        graph.edge_energies_eV,
        graph.edge_neighbours,
        graph.edge_neighbour_A,
        energies,
        table,
    )
    return np.column_stack([graph.edge_lengths_A, at_bottleneck])


def _features(
    graph: InterstitialGraph,
    radii_A: np.ndarray,
    energies_eV: np.ndarray,
    neighbours: np.ndarray,
    distances_A: np.ndarray,
    energies: bool,
    table: ElementTable | None,
) -> np.ndarray:
    described = (table or element_table()).values[graph.atom_rows][neighbours].mean(axis=1)
    columns = [radii_A[:, None]]
    if energies:
        known = np.full(len(radii_A), graph.has_energies)
        lowest = graph.node_energies_eV.min() if graph.has_energies else 0.0
        height = np.minimum(energies_eV - lowest, ENERGY_CEILING_EV)
        columns += [np.where(known, height, 0.0)[:, None], known[:, None].astype(float)]
    return np.concatenate([*columns, distances_A, described], axis=1)
