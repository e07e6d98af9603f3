"""Exact percolation of periodic scalar fields and of hop graphs, in one, two and three dimensions.

Nodes (voxels, or the sites that hops join) are added by rising energy to a union-find structure that remembers lattice
translations. The dimension of a component is the rank of the group of translations that its closed loops make; the
threshold of dimension d is the energy at which any single component first reaches rank d. Nothing is bisected: the
threshold is the energy of one voxel or hop, the bottleneck, which is returned too. Two crossing channels that do not
touch stay two components of rank 1 and never count as a plane.

The union-find with relative positions is that of M. E. J. Newman and R. M. Ziff, Phys. Rev. E 64 (2001) 016706, and
J. Machta et al., Phys. Rev. E 54 (1996) 1332, with the winding number replaced by the rank of all windings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from .errors import NonFiniteEnergyError

NEIGHBOUR_COUNTS = (6, 18, 26)


@dataclass(frozen=True)
class Percolation:
    """Levels at which a component percolates in at least one, at least two and three independent lattice directions.

    Attributes
    ----------
    thresholds_eV
        Absolute energy level for dimension 1, 2 and 3; ``inf`` where no component percolates.
    component_minimum_eV
        Lowest energy within the component that reached each dimension; ``inf`` where none did.
    global_minimum_eV
        Lowest energy of all; ``inf`` when every node is forbidden.
    bottleneck
        Flat voxel index (grid) or edge index (graph) whose addition reached each dimension, or None.
    component_minimum_node
        Flat voxel or node index of each component minimum, or None.
    """

    thresholds_eV: tuple[float, float, float]
    component_minimum_eV: tuple[float, float, float]
    global_minimum_eV: float
    bottleneck: tuple[int | None, int | None, int | None]
    component_minimum_node: tuple[int | None, int | None, int | None] = (None, None, None)

    @property
    def dimension(self) -> int:
        """Highest dimension in which a component percolates at all, 0 to 3."""
        return sum(bool(np.isfinite(threshold)) for threshold in self.thresholds_eV)

    @property
    def barriers_eV(self) -> tuple[float, float, float]:
        """Threshold less the minimum of the component that percolates; what an ion in that channel has to climb."""
        return _three(
            threshold - minimum if np.isfinite(threshold) else np.inf
            for threshold, minimum in zip(self.thresholds_eV, self.component_minimum_eV, strict=True)
        )

    @property
    def barriers_from_global_minimum_eV(self) -> tuple[float, float, float]:
        """Threshold less the minimum of the whole field (the convention of BVlain and of the LiTraj labels)."""
        return _three(
            threshold - self.global_minimum_eV if np.isfinite(threshold) else np.inf for threshold in self.thresholds_eV
        )


def percolate_grid(values: np.ndarray, neighbours: int = 26, lattice: np.ndarray | None = None) -> Percolation:
    """Percolation thresholds of a periodic scalar field.

    Parameters
    ----------
    values
        Energies in eV, shape (n1, n2, n3), without a duplicated boundary plane; ``inf`` marks forbidden voxels.
    neighbours
        6 (faces), 18 (and edges) or 26 (and corners) neighbours of a voxel.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3). When given, neighbours are counted in the reduced basis of the
        voxel's own small cell, so that a sheared setting of a crystal does not join far voxels "by the corner".

    Returns
    -------
    Percolation
        ``bottleneck`` holds flat voxel indices (``numpy.unravel_index`` with the grid's shape).

    Raises
    ------
    NonFiniteEnergyError
        A value is NaN or minus infinity.
    """
    from .percolation_kernels import sweep_grid

    field = _checked_field(values)
    flat = field.ravel()
    levels, minima, critical = sweep_grid(
        flat,
        rising(flat),
        np.asarray(field.shape, dtype=np.int64),
        neighbour_offsets(neighbours, field.shape, lattice),
    )
    return _percolation(flat, levels, minima, critical)


def percolate_graph(
    node_energies: np.ndarray, edges: np.ndarray, images: np.ndarray, edge_energies: np.ndarray
) -> Percolation:
    """Percolation thresholds of a periodic graph.

    Parameters
    ----------
    node_energies
        Site energies in eV, shape (nodes,); ``inf`` forbids a node.
    edges
        Start and end node of every edge, int, shape (edges, 2). An edge is used in both directions; loops (an ion that
        hops to its own periodic image) and several edges between two nodes are allowed.
    images
        Lattice translation of the end node's cell with respect to the start node's, int, shape (edges, 3).
    edge_energies
        Energy of the transition state in eV, shape (edges,); ``inf`` forbids an edge. A transition state cannot lie
        below the sites that it joins, so each is raised to the higher of its two nodes.

    Returns
    -------
    Percolation
        ``bottleneck`` holds edge indices.

    Raises
    ------
    NonFiniteEnergyError
        An energy is NaN or minus infinity.
    ValueError
        The arrays do not fit together.
    """
    from .percolation_kernels import sweep_graph

    nodes = np.ascontiguousarray(node_energies, dtype=np.float64).reshape(-1)
    ends = np.ascontiguousarray(edges, dtype=np.int64).reshape(-1, 2)
    cells = np.ascontiguousarray(images, dtype=np.int64).reshape(-1, 3)
    energies = np.ascontiguousarray(edge_energies, dtype=np.float64).reshape(-1)
    if not len(ends) == len(cells) == len(energies):
        raise ValueError(
            f"edges, images and edge_energies differ in length: {len(ends)}, {len(cells)}, {len(energies)}"
        )
    if len(ends) and (ends.min() < 0 or ends.max() >= len(nodes)):
        raise ValueError(f"edges name nodes outside 0 to {len(nodes) - 1}")
    _refuse_nan(nodes)
    _refuse_nan(energies)
    if len(ends):
        energies = np.maximum(energies, nodes[ends].max(axis=1))
    levels, minima, critical = sweep_graph(nodes, ends, cells, energies, rising(energies))
    return _percolation(nodes, levels, minima, critical)


def level_map(
    values: np.ndarray,
    seed: int | None = None,
    neighbours: int = 26,
    lattice: np.ndarray | None = None,
    periodic: bool = True,
) -> np.ndarray:
    """Minimax level of every voxel: the lowest ceiling under which a path leads there from the seed.

    Parameters
    ----------
    values
        Energies in eV, shape (n1, n2, n3); ``inf`` marks forbidden voxels.
    seed
        Flat index of the voxel to start from; None takes the global minimum.
    neighbours, lattice
        As in :func:`percolate_grid`.
    periodic
        False stops paths at the faces of the grid.

    Returns
    -------
    numpy.ndarray
        Levels in eV, shape (n1, n2, n3); ``inf`` where no path leads.

    Raises
    ------
    NonFiniteEnergyError
        A value is NaN or minus infinity.
    ValueError
        The seed is outside the grid or forbidden, or every voxel is forbidden.
    """
    from .percolation_kernels import flood_levels

    field = _checked_field(values)
    flat = field.ravel()
    start = int(np.argmin(flat)) if seed is None else int(seed)
    if not 0 <= start < flat.size:
        raise ValueError(f"the seed {start} lies outside the grid of {flat.size} voxels")
    if not np.isfinite(flat[start]):
        raise ValueError("the seed is a forbidden voxel (its energy is inf)")
    levels = flood_levels(
        flat,
        rising(flat),
        np.asarray(field.shape, dtype=np.int64),
        neighbour_offsets(neighbours, field.shape, lattice),
        start,
        periodic,
    )
    return np.asarray(levels).reshape(field.shape)


def neighbour_offsets(neighbours: int, shape: tuple[int, ...], lattice: np.ndarray | None = None) -> np.ndarray:
    """Offsets in grid steps to a voxel's neighbours, int64, shape (neighbours, 3).

    Parameters
    ----------
    neighbours
        6, 18 or 26.
    shape
        Shape of the grid.
    lattice
        Cell vectors as rows; when given, the offsets are those of the Minkowski-reduced voxel cell.
    """
    if neighbours not in NEIGHBOUR_COUNTS:
        raise ValueError(f"neighbours must be 6, 18 or 26, not {neighbours}")
    steps = {6: 1, 18: 2, 26: 3}[neighbours]
    box = np.array([o for o in product((-1, 0, 1), repeat=3) if 0 < np.abs(o).sum() <= steps], dtype=np.int64)
    if lattice is None:
        return box
    from ase.geometry.minkowski_reduction import minkowski_reduce

    voxel_cell = np.asarray(lattice, dtype=float) / np.asarray(shape, dtype=float)[:, None]
    lengths = np.linalg.norm(voxel_cell, axis=1)
    cosines = (voxel_cell @ voxel_cell.T / np.outer(lengths, lengths))[np.triu_indices(3, 1)]
    if np.all(np.abs(cosines) < 1e-6):
        return box  # orthogonal: reduced already, whatever the three lengths
    transformation = np.rint(minkowski_reduce(voxel_cell)[1]).astype(np.int64)
    return np.ascontiguousarray(box @ transformation)


def _checked_field(values: np.ndarray) -> np.ndarray:
    field = np.ascontiguousarray(values, dtype=np.float64)
    if field.ndim != 3 or field.size == 0:
        raise ValueError(f"the field must have three non-empty dimensions, not shape {field.shape}")
    if field.size >= 2**31:
        raise ValueError(f"the field has {field.size} voxels; use a coarser grid, at most 2^31")
    _refuse_nan(field)
    return field


def _refuse_nan(energies: np.ndarray) -> None:
    if np.isnan(energies).any() or np.isneginf(energies).any():
        raise NonFiniteEnergyError(
            "The energies hold NaN or minus infinity, so percolation has no meaning; check them."
        )


def rising(energies: np.ndarray) -> np.ndarray:
    """Indices of the finite energies by rising energy; ties keep their order, so that the answer is reproducible."""
    allowed = np.flatnonzero(np.isfinite(energies))
    return np.ascontiguousarray(allowed[np.argsort(energies[allowed], kind="stable")].astype(np.int64))


def _percolation(energies: np.ndarray, levels: np.ndarray, minima: np.ndarray, critical: np.ndarray) -> Percolation:
    return Percolation(
        thresholds_eV=_three(levels),
        component_minimum_eV=_three(energies[m] if m >= 0 else np.inf for m in minima),
        global_minimum_eV=float(energies.min()) if energies.size else float("inf"),
        bottleneck=_three_indices(critical),
        component_minimum_node=_three_indices(minima),
    )


def _three(numbers: object) -> tuple[float, float, float]:
    a, b, c = (float(number) for number in numbers)  # type: ignore[attr-defined]
    return a, b, c


def _three_indices(indices: np.ndarray) -> tuple[int | None, int | None, int | None]:
    a, b, c = (int(index) if index >= 0 else None for index in indices)
    return a, b, c
