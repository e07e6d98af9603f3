"""Compiled core of percolation: union-find that remembers lattice translations.

Every node keeps a parent and the translation ``shift`` for which "node in cell R" is connected to "parent in cell
R + shift". An edge that closes a loop inside one component adds its net translation to that component's translation
group. The rank of the group, not its exact lattice, is the number of independent directions in which the component
is periodic, so one integer vector a component is enough: nothing (rank 0), the direction (1), the normal of the plane
(2), nothing again (3).
"""

from __future__ import annotations

import numpy as np

from .compiled import compiled


@compiled
def wrapped(x, y, z, n0, n1, n2):  # type: ignore[no-untyped-def]
    """Flat index of a grid point that may lie outside the cell, and the cell that it lies in."""
    s0 = s1 = s2 = 0
    if x < 0 or x >= n0:
        s0 = x // n0
        x -= s0 * n0
    if y < 0 or y >= n1:
        s1 = y // n1
        y -= s1 * n1
    if z < 0 or z >= n2:
        s2 = z // n2
        z -= s2 * n2
    return (x * n1 + y) * n2 + z, s0, s1, s2


@compiled
def _find(parent, shift, node):  # type: ignore[no-untyped-def]
    """Root of a node and the translation from node to root; halves the path on the way."""
    t0 = np.int64(0)
    t1 = np.int64(0)
    t2 = np.int64(0)
    while parent[node] != node:
        up = parent[node]
        if parent[up] != up:
            shift[node, 0] += shift[up, 0]
            shift[node, 1] += shift[up, 1]
            shift[node, 2] += shift[up, 2]
            parent[node] = parent[up]
        t0 += shift[node, 0]
        t1 += shift[node, 1]
        t2 += shift[node, 2]
        node = parent[node]
    return node, t0, t1, t2


@compiled
def _reduced(v0, v1, v2):  # type: ignore[no-untyped-def]
    """An integer vector divided by the greatest common divisor of its components, so that it never overflows."""
    a = abs(v0)
    for b in (abs(v1), abs(v2)):
        while b:
            a, b = b, a % b  # noqa: PLW2901
    return v0 // a, v1 // a, v2 // a


@compiled
def _add_translation(rank, span, root, t0, t1, t2):  # type: ignore[no-untyped-def]
    """Add one translation to a component's group."""
    if rank[root] == 3 or (t0 == 0 and t1 == 0 and t2 == 0):
        return
    s0 = np.int64(span[root, 0])
    s1 = np.int64(span[root, 1])
    s2 = np.int64(span[root, 2])
    if rank[root] == 0:
        rank[root] = 1
        span[root, 0], span[root, 1], span[root, 2] = _reduced(t0, t1, t2)
    elif rank[root] == 1:
        n0 = s1 * t2 - s2 * t1
        n1 = s2 * t0 - s0 * t2
        n2 = s0 * t1 - s1 * t0
        if n0 != 0 or n1 != 0 or n2 != 0:
            rank[root] = 2
            span[root, 0], span[root, 1], span[root, 2] = _reduced(n0, n1, n2)
    elif s0 * t0 + s1 * t1 + s2 * t2 != 0:
        rank[root] = 3


@compiled
def _merge_groups(rank, span, into, other):  # type: ignore[no-untyped-def]
    """Join the translation groups of two components."""
    if rank[into] == 3 or rank[other] == 0:
        return
    if rank[other] == 3:
        rank[into] = 3
    elif rank[other] == 1:
        _add_translation(rank, span, into, np.int64(span[other, 0]), np.int64(span[other, 1]), np.int64(span[other, 2]))
    elif rank[into] == 0:
        rank[into] = 2
        span[into, 0], span[into, 1], span[into, 2] = span[other, 0], span[other, 1], span[other, 2]
    elif rank[into] == 1:
        along = np.int64(0)
        for k in range(3):
            along += np.int64(span[into, k]) * span[other, k]
        if along != 0:
            rank[into] = 3
        else:
            rank[into] = 2
            span[into, 0], span[into, 1], span[into, 2] = span[other, 0], span[other, 1], span[other, 2]
    else:
        # Two planes: the same one (normals are reduced, so equal up to sign) or two that together span space.
        same = span[into, 0] == span[other, 0] and span[into, 1] == span[other, 1] and span[into, 2] == span[other, 2]
        opposite = (
            span[into, 0] == -span[other, 0] and span[into, 1] == -span[other, 1] and span[into, 2] == -span[other, 2]
        )
        if not (same or opposite):
            rank[into] = 3


@compiled
def _join(parent, shift, size, rank, span, lowest, energies, i, j, s0, s1, s2):  # type: ignore[no-untyped-def]
    """Connect node i with node j of the cell (s0, s1, s2); returns the root of the joint component."""
    root_i, a0, a1, a2 = _find(parent, shift, i)
    root_j, b0, b1, b2 = _find(parent, shift, j)
    if root_i == root_j:
        _add_translation(rank, span, root_i, s0 + b0 - a0, s1 + b1 - a1, s2 + b2 - a2)
        return root_i
    # j's root in cell s + b is i's root in cell a; whoever is smaller hangs below the other.
    d0 = a0 - s0 - b0
    d1 = a1 - s1 - b1
    d2 = a2 - s2 - b2
    if size[root_i] < size[root_j]:
        root_i, root_j = root_j, root_i
        d0, d1, d2 = -d0, -d1, -d2
    parent[root_j] = root_i
    shift[root_j, 0] = d0
    shift[root_j, 1] = d1
    shift[root_j, 2] = d2
    size[root_i] += size[root_j]
    if energies[lowest[root_j]] < energies[lowest[root_i]]:
        lowest[root_i] = lowest[root_j]
    _merge_groups(rank, span, root_i, root_j)
    return root_i


@compiled
def _root(parent, node):  # type: ignore[no-untyped-def]
    """Root of a node, without translations and without changing the paths."""
    while parent[node] != node:
        node = parent[node]
    return node


@compiled
def _settle(parent, lowest, members, minima, settled, reached):  # type: ignore[no-untyped-def]
    """Write down the minima of the components that reached a new rank; ``members`` holds a node of each."""
    for dimension in range(settled, reached):
        minima[dimension] = lowest[_root(parent, members[dimension])]
    return reached


@compiled
def sweep_grid(values, order, shape, offsets):  # type: ignore[no-untyped-def]
    """Add voxels in order of energy; returns level, component minimum (its voxel) and voxel at which ranks 1-3 occur.

    Parameters
    ----------
    values
        Flat energies, float64 (voxels,).
    order
        Voxels that may be visited, by rising energy, int64.
    shape
        Grid shape, int64 (3,).
    offsets
        Neighbour offsets in grid steps, both directions of each, int64 (neighbours, 3).
    """
    total = values.size
    n0, n1, n2 = shape[0], shape[1], shape[2]
    parent = np.full(total, -1, dtype=np.int32)
    shift = np.zeros((total, 3), dtype=np.int32)
    span = np.zeros((total, 3), dtype=np.int32)
    size = np.ones(total, dtype=np.int32)
    rank = np.zeros(total, dtype=np.int8)
    lowest = np.arange(total).astype(np.int32)
    levels = np.full(3, np.inf)
    minima = np.full(3, -1, dtype=np.int64)
    critical = np.full(3, -1, dtype=np.int64)
    reached = 0
    settled = 0
    for position in range(order.size):
        voxel = order[position]
        if settled < reached and values[voxel] > levels[reached - 1]:
            # Only now have all voxels of that very energy been added, and the component is what it is at its level.
            settled = _settle(parent, lowest, critical, minima, settled, reached)
            if settled == 3:
                break
        parent[voxel] = voxel
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        root = voxel
        for k in range(offsets.shape[0]):
            other, s0, s1, s2 = wrapped(x + offsets[k, 0], y + offsets[k, 1], z + offsets[k, 2], n0, n1, n2)
            if parent[other] >= 0:
                root = _join(parent, shift, size, rank, span, lowest, values, voxel, other, s0, s1, s2)
        while reached < rank[root]:
            levels[reached] = values[voxel]
            critical[reached] = voxel
            reached += 1
    _settle(parent, lowest, critical, minima, settled, reached)
    return levels, minima, critical


@compiled
def sweep_graph(node_energies, edges, images, edge_energies, order):  # type: ignore[no-untyped-def]
    """Add edges in order of energy; the same answer as :func:`sweep_grid` with the critical edges."""
    total = node_energies.size
    parent = np.arange(total).astype(np.int32)
    shift = np.zeros((total, 3), dtype=np.int32)
    span = np.zeros((total, 3), dtype=np.int32)
    size = np.ones(total, dtype=np.int32)
    rank = np.zeros(total, dtype=np.int8)
    lowest = np.arange(total).astype(np.int32)
    levels = np.full(3, np.inf)
    minima = np.full(3, -1, dtype=np.int64)
    critical = np.full(3, -1, dtype=np.int64)
    reached = 0
    settled = 0
    for position in range(order.size):
        edge = order[position]
        if settled < reached and edge_energies[edge] > levels[reached - 1]:
            settled = _settle(parent, lowest, edges[critical, 0], minima, settled, reached)
            if settled == 3:
                break
        root = _join(
            parent, shift, size, rank, span, lowest, node_energies,
            edges[edge, 0], edges[edge, 1], images[edge, 0], images[edge, 1], images[edge, 2],
        )  # fmt: skip
        while reached < rank[root]:
            levels[reached] = edge_energies[edge]
            critical[reached] = edge
            reached += 1
    if reached:
        _settle(parent, lowest, edges[critical, 0], minima, settled, reached)
    return levels, minima, critical


@compiled
def _halve(parent, node):  # type: ignore[no-untyped-def]
    """Root of a node, without translations; halves the path on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def flood_levels(values, order, shape, offsets, seed, periodic):  # type: ignore[no-untyped-def]
    """Minimax level of every voxel from a seed: the lowest ceiling under which the two are connected.

    Voxels are added by rising energy; the members of a component form a ring (``after``), so that when a component
    meets the seed's, its members get the present energy as their level, each voxel once.
    """
    total = values.size
    n0, n1, n2 = shape[0], shape[1], shape[2]
    parent = np.full(total, -1, dtype=np.int32)
    size = np.ones(total, dtype=np.int32)
    after = np.arange(total).astype(np.int32)
    levels = np.full(total, np.inf)
    for position in range(order.size):
        voxel = order[position]
        parent[voxel] = voxel
        if voxel == seed:
            levels[voxel] = values[voxel]
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        for k in range(offsets.shape[0]):
            u = x + offsets[k, 0]
            v = y + offsets[k, 1]
            w = z + offsets[k, 2]
            if periodic:
                u %= n0
                v %= n1
                w %= n2
            elif u < 0 or u >= n0 or v < 0 or v >= n1 or w < 0 or w >= n2:
                continue
            other = (u * n1 + v) * n2 + w
            if parent[other] < 0:
                continue
            a = _halve(parent, voxel)
            b = _halve(parent, other)
            if a == b:
                continue
            if parent[seed] >= 0:
                home = _halve(parent, seed)
                newcomer = b if a == home else (a if b == home else -1)
                if newcomer >= 0:
                    member = newcomer
                    while True:
                        levels[member] = values[voxel]
                        member = after[member]
                        if member == newcomer:
                            break
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            after[a], after[b] = after[b], after[a]
    return levels
