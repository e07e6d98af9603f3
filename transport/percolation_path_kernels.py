"""Compiled core of percolation paths: compact graphs of grids, and shortest paths in the unrolled crystal."""

from __future__ import annotations

import heapq

import numpy as np

from .compiled import compiled
from .percolation_kernels import wrapped


@compiled
def flood_component(values, shape, offsets, seed, level):  # type: ignore[no-untyped-def]
    """Flat indices of the voxels that are joined to the seed at or below a level, int64.

    Parameters
    ----------
    values
        Flat energies, float64 (voxels,).
    shape
        Grid shape, int64 (3,).
    offsets
        Neighbour offsets in grid steps, int64 (neighbours, 3).
    seed, level
        Where to begin and how high to go.
    """
    n0, n1, n2 = shape[0], shape[1], shape[2]
    seen = np.zeros(values.size, dtype=np.bool_)
    members = np.empty(np.count_nonzero(values <= level), dtype=np.int64)
    members[0] = seed
    seen[seed] = True
    count = 1
    position = 0
    while position < count:
        voxel = members[position]
        position += 1
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        for k in range(offsets.shape[0]):
            u = (x + offsets[k, 0]) % n0
            v = (y + offsets[k, 1]) % n1
            w = (z + offsets[k, 2]) % n2
            other = (u * n1 + v) * n2 + w
            if not seen[other] and values[other] <= level:
                seen[other] = True
                members[count] = other
                count += 1
    return members[:count].copy()


@compiled
def grid_edges(members, total, shape, offsets):  # type: ignore[no-untyped-def]
    """Edges between voxels, ordered by the later of their two voxels: ends, translations and which offset each is.

    Parameters
    ----------
    members
        Flat indices of the voxels that take part, by rising energy, int64; a node's number is its place in here.
    total
        Voxels of the grid.
    shape, offsets
        As in :func:`flood_component`.
    """
    n0, n1, n2 = shape[0], shape[1], shape[2]
    number = np.full(total, -1, dtype=np.int32)
    most = members.size * offsets.shape[0]
    edges = np.empty((most, 2), dtype=np.int32)
    images = np.empty((most, 3), dtype=np.int8)
    steps = np.empty(most, dtype=np.int8)
    count = 0
    for node in range(members.size):
        voxel = members[node]
        number[voxel] = node
        x = voxel // (n1 * n2)
        y = (voxel // n2) % n1
        z = voxel % n2
        for k in range(offsets.shape[0]):
            neighbour, s0, s1, s2 = wrapped(x + offsets[k, 0], y + offsets[k, 1], z + offsets[k, 2], n0, n1, n2)
            other = number[neighbour]
            # A later voxel finds the edge from its own side; only earlier ones have a number.
            if other >= 0:
                edges[count, 0] = node
                edges[count, 1] = other
                images[count, 0] = s0
                images[count, 1] = s1
                images[count, 2] = s2
                steps[count] = k
                count += 1
    return edges[:count].copy(), images[:count].copy(), steps[:count].copy()


@compiled
def adjacency(nodes, edges):  # type: ignore[no-untyped-def]
    """Half edges of node i, ``halves[begin[i]:begin[i + 1]]``: 2 e for edge e from its start, 2 e + 1 from its end."""
    begin = np.zeros(nodes + 1, dtype=np.int64)
    for e in range(edges.shape[0]):
        begin[edges[e, 0] + 1] += 1
        begin[edges[e, 1] + 1] += 1
    for i in range(nodes):
        begin[i + 1] += begin[i]
    place = begin[:-1].copy()
    halves = np.empty(2 * edges.shape[0], dtype=np.int64)
    for e in range(edges.shape[0]):
        halves[place[edges[e, 0]]] = 2 * e
        place[edges[e, 0]] += 1
        halves[place[edges[e, 1]]] = 2 * e + 1
        place[edges[e, 1]] += 1
    return begin, halves


@compiled
def cheapest_loop(begin, halves, edges, images, costs, limit, root, projection):  # type: ignore[no-untyped-def]
    """Cheapest closed walk through a root whose translation the projection does not send to zero.

    Dijkstra's algorithm from the root. A tree of cheapest paths in the folded crystal carries each node's cell; an
    edge that is not in the tree closes a loop, and the cheapest loop with a property that products of loops without it
    cannot have is of this kind (C. Thomassen, J. Comb. Theory B 48 (1990) 155). Every node of the cheapest loop lies
    within half its cost from the root, so the search ends there.

    Parameters
    ----------
    begin, halves
        From :func:`adjacency`.
    edges, images, costs
        Ends (m, 2), translation of the end's cell (m, 3) and cost (m,) of every edge.
    limit
        Only edges before this number are used.
    root
        Node to start from.
    projection
        int64 (3, 3); translations t with ``projection @ t == 0`` do not count.

    Returns
    -------
    via
        For every node the half edge that leads to it in the tree, -1 for the root and for nodes not reached.
    closing
        The half edge that closes the loop, -1 if there is none.
    """
    nodes = begin.size - 1
    distance = np.full(nodes, np.inf)
    settled = np.zeros(nodes, dtype=np.bool_)
    via = np.full(nodes, -1, dtype=np.int64)
    cell = np.zeros((nodes, 3), dtype=np.int64)
    distance[root] = 0.0
    best = np.inf
    closing = np.int64(-1)
    heap = [(0.0, np.int64(root))]
    while len(heap) > 0:
        reached, node = heapq.heappop(heap)
        if settled[node]:
            continue
        if 2.0 * reached > best:
            break
        settled[node] = True
        for position in range(begin[node], begin[node + 1]):
            half = halves[position]
            edge = half // 2
            if edge >= limit:
                continue
            backward = half % 2
            other = np.int64(edges[edge, 1 - backward])
            sign = 1 - 2 * backward
            c0 = cell[node, 0] + sign * images[edge, 0]
            c1 = cell[node, 1] + sign * images[edge, 1]
            c2 = cell[node, 2] + sign * images[edge, 2]
            if settled[other]:
                t0 = c0 - cell[other, 0]
                t1 = c1 - cell[other, 1]
                t2 = c2 - cell[other, 2]
                cost = reached + costs[edge] + distance[other]
                if cost < best and (t0 != 0 or t1 != 0 or t2 != 0):
                    for k in range(3):
                        if projection[k, 0] * t0 + projection[k, 1] * t1 + projection[k, 2] * t2 != 0:
                            best = cost
                            closing = half
                            break
            elif reached + costs[edge] < distance[other]:
                distance[other] = reached + costs[edge]
                via[other] = half
                cell[other, 0] = c0
                cell[other, 1] = c1
                cell[other, 2] = c2
                heapq.heappush(heap, (distance[other], other))
    return via, closing


@compiled
def cheapest_link(begin, halves, edges, costs, sources, is_target):  # type: ignore[no-untyped-def]
    """Cheapest path from any source to any target; the half edge into every node, and the target that was reached."""
    nodes = begin.size - 1
    distance = np.full(nodes, np.inf)
    settled = np.zeros(nodes, dtype=np.bool_)
    via = np.full(nodes, -1, dtype=np.int64)
    heap = [(0.0, np.int64(-1))]
    heap.pop()
    for source in sources:
        distance[source] = 0.0
        heapq.heappush(heap, (0.0, np.int64(source)))
    while len(heap) > 0:
        reached, node = heapq.heappop(heap)
        if settled[node]:
            continue
        settled[node] = True
        if is_target[node]:
            return via, node
        for position in range(begin[node], begin[node + 1]):
            half = halves[position]
            other = np.int64(edges[half // 2, 1 - half % 2])
            if reached + costs[half // 2] < distance[other]:
                distance[other] = reached + costs[half // 2]
                via[other] = half
                heapq.heappush(heap, (distance[other], other))
    return via, np.int64(-1)
