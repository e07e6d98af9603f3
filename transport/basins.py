"""A periodic field divided into the basins of its minima: which of them touch, and where they touch lowest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .percolation import neighbour_offsets, rising


@dataclass(frozen=True)
class BasinGraph:
    """Minima of a periodic field and the passes between them.

    Attributes
    ----------
    minima
        Flat voxel index of each basin's minimum, int, shape (basins,).
    edges
        Pairs of basins that touch, int, shape (edges, 2).
    images
        Cell of the second basin's minimum relative to the first one's, int, shape (edges, 3).
    passes
        Voxel of the lowest contact of each pair, int, shape (edges,).
    lower
        Offset from it, in grid steps, to the lower voxel on the other side, int, shape (edges, 3).
    node_energies_eV, edge_energies_eV
        Energies of the minima and of the passes.
    shape
        Shape of the grid.
    basin_of, cell_of
        Basin of every voxel, -1 above the level looked at, int, shape (voxels,), and the cell of its minimum relative
        to the voxel's, shape (voxels, 3).
    """

    minima: np.ndarray
    edges: np.ndarray
    images: np.ndarray
    passes: np.ndarray
    lower: np.ndarray
    node_energies_eV: np.ndarray
    edge_energies_eV: np.ndarray
    shape: tuple[int, ...]
    basin_of: np.ndarray
    cell_of: np.ndarray


def basin_graph(
    values: np.ndarray, lattice: np.ndarray, neighbours: int = 26, highest_eV: float = np.inf
) -> BasinGraph:
    """Divide a periodic field into the basins of its minima.

    ``percolate_graph`` on the graph gives exactly the thresholds of ``percolate_grid`` on the field, up to the level
    that was looked at.

    Parameters
    ----------
    values
        Energies in eV, shape (n1, n2, n3); ``inf`` marks forbidden voxels.
    lattice
        Cell vectors as rows in Angstrom.
    neighbours
        As in ``percolate_grid``.
    highest_eV
        Voxels above this level are left out.
    """
    from .basin_kernels import basin_contacts, label_basins

    flat = np.ascontiguousarray(values, dtype=np.float64).ravel()
    shape = np.asarray(values.shape, dtype=np.int64)
    offsets = neighbour_offsets(neighbours, values.shape, lattice)
    order = rising(np.where(flat <= highest_eV, flat, np.inf))
    basin, cell, minima = label_basins(flat, order, shape, offsets)
    contacts = basin_contacts(order, shape, offsets, basin, cell)
    # Contacts come by rising energy: the first of each pair of basins is their pass.
    key = contacts[:, 0] * len(minima) + contacts[:, 1]
    for axis in range(3):
        span = 2 * int(np.abs(contacts[:, 2 + axis]).max(initial=0)) + 1
        key = key * span + contacts[:, 2 + axis] + span // 2
    _, first = np.unique(key, return_index=True)
    contacts = contacts[np.sort(first)]
    return BasinGraph(
        minima=minima,
        edges=contacts[:, :2],
        images=contacts[:, 2:5],
        passes=contacts[:, 5],
        lower=offsets[contacts[:, 6]],
        node_energies_eV=flat[minima],
        edge_energies_eV=flat[contacts[:, 5]],
        shape=values.shape,
        basin_of=basin,
        cell_of=cell,
    )
