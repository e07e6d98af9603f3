"""Compiled division of a periodic field into the basins of its minima, and the lowest passes between them."""

from __future__ import annotations

import numpy as np

from .compiled import compiled
from .percolation_kernels import wrapped


@compiled
def label_basins(values, order, shape, offsets):  # type: ignore[no-untyped-def]
    """Give every visited voxel the basin of its lowest neighbour that was visited before it.

    Parameters
    ----------
    values
        Flat energies, float64 (voxels,).
    order
        Voxels to visit, by rising energy, int64.
    shape
        Grid shape, int64 (3,).
    offsets
        Neighbour offsets in grid steps, both directions of each, int64 (neighbours, 3).

    Returns
    -------
    tuple
        Basin of every voxel, int32 (voxels,), -1 where not visited; cell of the basin's minimum relative to the
        voxel's, int32 (voxels, 3); voxels of the minima, int64 (basins,).
    """
    n0, n1, n2 = shape[0], shape[1], shape[2]
    basin = np.full(values.size, -1, dtype=np.int32)
    cell = np.zeros((values.size, 3), dtype=np.int32)
    minima = np.empty(order.size, dtype=np.int64)
    count = 0
    for position in range(order.size):
        voxel = order[position]
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        lowest = -1
        c0 = c1 = c2 = 0
        for k in range(offsets.shape[0]):
            other, s0, s1, s2 = wrapped(x + offsets[k, 0], y + offsets[k, 1], z + offsets[k, 2], n0, n1, n2)
            if basin[other] >= 0 and other != voxel and (lowest < 0 or values[other] < values[lowest]):
                lowest = other
                c0 = s0 + cell[other, 0]
                c1 = s1 + cell[other, 1]
                c2 = s2 + cell[other, 2]
        if lowest < 0:
            basin[voxel] = count
            minima[count] = voxel
            count += 1
        else:
            basin[voxel] = basin[lowest]
            cell[voxel, 0] = c0
            cell[voxel, 1] = c1
            cell[voxel, 2] = c2
    return basin, cell, minima[:count]


@compiled
def basin_contacts(order, shape, offsets, basin, cell):  # type: ignore[no-untyped-def]
    """All pairs of neighbouring voxels of different basins (or of one basin and its own image), by rising energy.

    Returns
    -------
    tuple
        Basins (contacts, 2), cell of the second one's minimum relative to the first one's (contacts, 3), the higher
        voxel and the offset from it to the lower one, (contacts,) each; the first basin has the smaller number, so
        that a pass found from both sides is one.
    """
    n0, n1, n2 = shape[0], shape[1], shape[2]
    room = 1024
    found = np.empty((room, 7), dtype=np.int64)
    count = 0
    visited = np.zeros(basin.size, dtype=np.bool_)
    for position in range(order.size):
        voxel = order[position]
        visited[voxel] = True
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        for k in range(offsets.shape[0]):
            other, s0, s1, s2 = wrapped(x + offsets[k, 0], y + offsets[k, 1], z + offsets[k, 2], n0, n1, n2)
            if not visited[other]:
                continue
            a = np.int64(basin[voxel])
            b = np.int64(basin[other])
            t0 = np.int64(s0 + cell[other, 0] - cell[voxel, 0])
            t1 = np.int64(s1 + cell[other, 1] - cell[voxel, 1])
            t2 = np.int64(s2 + cell[other, 2] - cell[voxel, 2])
            if a == b and t0 == 0 and t1 == 0 and t2 == 0:
                continue
            if a > b or (a == b and (t0 < 0 or (t0 == 0 and (t1 < 0 or (t1 == 0 and t2 < 0))))):
                a, b = b, a
                t0, t1, t2 = -t0, -t1, -t2
            if count == room:
                larger = np.empty((2 * room, 7), dtype=np.int64)
                larger[:room] = found
                found = larger
                room *= 2
            found[count, 0] = a
            found[count, 1] = b
            found[count, 2] = t0
            found[count, 3] = t1
            found[count, 4] = t2
            found[count, 5] = voxel
            found[count, 6] = k
            count += 1
    return found[:count]
