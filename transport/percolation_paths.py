"""The percolating paths themselves, for periodic scalar fields and for hop graphs.

A path is a loop of the crystal: a way from a point to its image in another cell. For percolation in d dimensions there
are d of them, with independent translations, in the one component that percolates. They are found one after the other:
loop k has the lowest possible highest point of all loops of the component that leave the directions of the first k - 1
(exact, by the same union-find as the thresholds). Among the loops that stay below that level the cheapest one through
the bottleneck is taken, where a step of length l at energy E costs

    l (exp((E - level) / kT) + 1e-4),    kT = (level - component minimum) / 10.

The exponential makes a path follow the valley instead of taking short cuts up the walls; the fixed scale of ten kT
between the bottom and the pass does so alike for low and for high barriers; the small constant makes it straight where
the energy is flat. A loop that does not touch those before it is joined to them by the cheapest link below the
threshold, there and back: what crosses in two dimensions only over a bridge is drawn with the bridge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .path_stops import PathStop, find_stops
from .percolation import neighbour_offsets, percolate_graph, percolate_grid

LEAST_STOP_DEPTH_eV = 0.02
"""Dips along a path that are shallower than this are ripples of the grid, not places where an ion stops."""

_LEVEL_TOLERANCE_eV = 1e-6
_FLAT_COST = 1e-4


@dataclass(frozen=True)
class PercolationPath:
    """A way through a periodic energy field to the next image of its beginning.

    Attributes
    ----------
    frac_coords
        Grid points along the path, unwrapped: neighbours are continuous and the last is the first plus the
        translation, shape (points, 3). It begins at its lowest point.
    energies_eV
        Energy at each of them, shape (points,).
    translation
        Lattice translation from the first to the last point.
    length_A
        Length of the polyline.
    bottleneck_index
        The highest point.
    stops
        Local minima along the path in order; what repeats at the last point is not counted twice.
    """

    frac_coords: np.ndarray
    energies_eV: np.ndarray
    translation: tuple[int, int, int]
    length_A: float
    bottleneck_index: int
    stops: tuple[PathStop, ...]

    @property
    def level_eV(self) -> float:
        """Energy of the highest point."""
        return float(self.energies_eV[self.bottleneck_index])

    @property
    def barrier_eV(self) -> float:
        """Highest less lowest energy along the path."""
        return float(self.energies_eV.max() - self.energies_eV.min())


@dataclass(frozen=True)
class GraphPath:
    """A way through a periodic graph to the next image of its beginning.

    Attributes
    ----------
    nodes
        Nodes along the path; the last is the first one again, int, shape (steps + 1,).
    cells
        The cell that each lies in, unwrapped: the last is the first plus the translation, int, shape (steps + 1, 3).
    edges
        Edge of every step, int, shape (steps,).
    forward
        True where the edge is walked from its start to its end, shape (steps,).
    translation
        Lattice translation from the first to the last node.
    level_eV
        Energy of the highest edge.
    bottleneck_index
        The step that takes it.
    """

    nodes: np.ndarray
    cells: np.ndarray
    edges: np.ndarray
    forward: np.ndarray
    translation: tuple[int, int, int]
    level_eV: float
    bottleneck_index: int


def percolation_paths(
    values: np.ndarray, dimension: int, lattice: np.ndarray, neighbours: int = 26
) -> list[PercolationPath]:
    """Paths along which a periodic field percolates.

    Parameters
    ----------
    values
        Energies in eV, shape (n1, n2, n3), point (i, j, k) at the fractional coordinates (i/n1, j/n2, k/n3), without a
        duplicated boundary plane; ``inf`` marks forbidden points.
    dimension
        1, 2 or 3: how many independent directions.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    neighbours
        As in :func:`~hopflow.transport.percolation.percolate_grid`.

    Returns
    -------
    list of PercolationPath
        ``dimension`` loops of one component with independent translations, by rising highest point, all at or below
        the threshold of that dimension; together they are connected and touch it. Empty when the field does not
        percolate in so many dimensions.

    Raises
    ------
    NonFiniteEnergyError
        A value is NaN or minus infinity.
    """
    from .percolation_path_kernels import flood_component, grid_edges

    _check_dimension(dimension)
    percolation = percolate_grid(values, neighbours, lattice)
    bottleneck = percolation.bottleneck[dimension - 1]
    if bottleneck is None:
        return []
    field = np.ascontiguousarray(values, dtype=np.float64)
    flat, shape = field.ravel(), np.array(field.shape)
    offsets = neighbour_offsets(neighbours, field.shape, lattice)
    members = flood_component(flat, shape, offsets, bottleneck, percolation.thresholds_eV[dimension - 1])
    members = members[np.argsort(flat[members], kind="stable")]
    ends, images, steps = grid_edges(members, flat.size, shape, offsets)
    energies = flat[members]
    graph = _Component(
        node_energies=energies,
        edges=ends,
        images=images,
        edge_energies=energies[ends[:, 0]],  # the later voxel is the higher one
        lengths_A=np.linalg.norm((offsets / shape) @ lattice, axis=1)[steps],
        root=int(np.flatnonzero(members == bottleneck)[0]),
    )
    # Grid points are sampled from a field that is periodic, so their position is index plus cell.
    points = np.stack(np.unravel_index(members, field.shape), axis=1) / shape
    return [
        _grid_path(points[walk.nodes] + walk.cells, energies[walk.nodes], walk.translation, lattice)
        for walk in graph.paths(dimension)
    ]


def percolation_paths_on_graph(
    node_energies: np.ndarray,
    edges: np.ndarray,
    images: np.ndarray,
    edge_energies: np.ndarray,
    dimension: int,
    lengths_A: np.ndarray | None = None,
) -> list[GraphPath]:
    """Paths along which a periodic graph percolates.

    Parameters
    ----------
    node_energies, edges, images, edge_energies
        As in :func:`~hopflow.transport.percolation.percolate_graph`.
    dimension
        1, 2 or 3: how many independent directions.
    lengths_A
        Length of every edge in Angstrom, shape (edges,); alike when absent.

    Returns
    -------
    list of GraphPath
        As for :func:`percolation_paths`; edges keep the numbers that they were given with.

    Raises
    ------
    NonFiniteEnergyError
        An energy is NaN or minus infinity.
    ValueError
        The arrays do not fit together.
    """
    _check_dimension(dimension)
    percolation = percolate_graph(node_energies, edges, images, edge_energies)
    bottleneck = percolation.bottleneck[dimension - 1]
    if bottleneck is None:
        return []
    energies = np.asarray(node_energies, dtype=np.float64).reshape(-1)
    ends = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    heights = np.maximum(np.asarray(edge_energies, dtype=np.float64).reshape(-1), energies[ends].max(axis=1))
    lengths = np.ones(len(ends)) if lengths_A is None else np.asarray(lengths_A, dtype=np.float64).reshape(-1)
    inside = _component_edges(len(energies), ends, heights, percolation.thresholds_eV[dimension - 1], bottleneck)
    kept = inside[np.argsort(heights[inside], kind="stable")]
    component = _Component(
        node_energies=energies,
        edges=ends[kept],
        images=np.asarray(images, dtype=np.int64).reshape(-1, 3)[kept],
        edge_energies=heights[kept],
        lengths_A=lengths[kept],
        root=int(ends[bottleneck, 0]),
    )
    return [
        GraphPath(
            nodes=walk.nodes,
            cells=walk.cells,
            edges=kept[walk.edges],
            forward=walk.forward,
            translation=walk.translation,
            level_eV=float(heights[kept[walk.edges]].max()),
            bottleneck_index=int(heights[kept[walk.edges]].argmax()),
        )
        for walk in component.paths(dimension)
    ]


def _check_dimension(dimension: int) -> None:
    if dimension not in (1, 2, 3):
        raise ValueError(f"dimension must be 1, 2 or 3, not {dimension}")


def _component_edges(nodes: int, ends: np.ndarray, heights: np.ndarray, level: float, bottleneck: int) -> np.ndarray:
    """Edges at or below the level in the component of the bottleneck."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    below = np.flatnonzero(heights <= level)
    matrix = coo_array((np.ones(len(below)), (ends[below, 0], ends[below, 1])), shape=(nodes, nodes))
    _, labels = connected_components(matrix.tocsr(), directed=False)
    return below[labels[ends[below, 0]] == labels[ends[bottleneck, 0]]]


def _grid_path(
    frac_coords: np.ndarray, energies_eV: np.ndarray, translation: tuple[int, int, int], lattice: np.ndarray
) -> PercolationPath:
    return PercolationPath(
        frac_coords=frac_coords,
        energies_eV=energies_eV,
        translation=translation,
        length_A=float(np.linalg.norm(np.diff(frac_coords, axis=0) @ lattice, axis=1).sum()),
        bottleneck_index=int(energies_eV.argmax()),
        stops=find_stops(energies_eV, LEAST_STOP_DEPTH_eV),
    )


@dataclass(frozen=True)
class _Walk:
    """Closed walk: nodes, cells, edges and their directions as in :class:`GraphPath`."""

    nodes: np.ndarray
    cells: np.ndarray
    edges: np.ndarray
    forward: np.ndarray

    @property
    def translation(self) -> tuple[int, int, int]:
        a, b, c = (int(x) for x in self.cells[-1] - self.cells[0])
        return a, b, c


@dataclass(frozen=True)
class _Component:
    """The graph of a percolating component, its edges sorted by rising energy, and a node of its bottleneck."""

    node_energies: np.ndarray
    edges: np.ndarray
    images: np.ndarray
    edge_energies: np.ndarray
    lengths_A: np.ndarray
    root: int

    def paths(self, dimension: int) -> list[_Walk]:
        """Independent loops by rising level, each joined to those before it."""
        from .percolation_path_kernels import adjacency

        begin, halves = adjacency(len(self.node_energies), self.edges)
        walks: list[_Walk] = []
        roots = [self.root]
        for _ in range(dimension):
            loop, bottleneck = self._lowest_loop(begin, halves, [walk.translation for walk in walks], dimension, roots)
            roots = list(dict.fromkeys([bottleneck, *roots]))
            walks.append(self._from_lowest_node(self._joined(begin, halves, loop, walks)))
        return walks

    def _lowest_loop(
        self, begin: np.ndarray, halves: np.ndarray, found: list[tuple[int, int, int]], dimension: int, roots: list[int]
    ) -> tuple[_Walk, int]:
        """Cheapest loop at the lowest level at which one leaves the directions found; and its root."""
        from .percolation_path_kernels import cheapest_loop

        projection = _projection(found)
        level, last = float(self.edge_energies[-1]), self.root
        if dimension > 1:
            projected = self.images.astype(np.int64) @ projection.T
            percolation = percolate_graph(self.node_energies, self.edges, projected, self.edge_energies)
            edge = percolation.bottleneck[0]
            assert edge is not None
            level, last = min(level, percolation.thresholds_eV[0] + _LEVEL_TOLERANCE_eV), int(self.edges[edge, 0])
        limit = int(np.searchsorted(self.edge_energies, level, side="right"))
        costs = self._costs(level)
        # Bottlenecks alike by symmetry differ by rounding: loops share one where they can.
        for root in dict.fromkeys([*roots, last]):
            via, closing = cheapest_loop(begin, halves, self.edges, self.images, costs, limit, root, projection)
            if closing < 0:
                continue
            loop = self._close(via, int(closing))
            if root in loop.nodes or root == last:
                return loop, root
        raise AssertionError("a component that percolates has a loop through its bottleneck")

    def _costs(self, level_eV: float) -> np.ndarray:
        scale = max((level_eV - float(self.node_energies[self.edges[:, 1]].min())) / 10, 1e-3)
        heights = np.minimum(self.edge_energies - level_eV, 0.0)  # edges above the level serve links only
        above = np.maximum(self.edge_energies - level_eV, 0.0)
        return self.lengths_A * (np.exp(heights / scale) + np.minimum(above / scale, 700.0) + _FLAT_COST)

    def _close(self, via: np.ndarray, closing: int) -> _Walk:
        """The loop of a closing half edge, without the stem that its two branches share."""
        start, end = self._ends(closing)
        there, back = self._branch(via, start), self._branch(via, end)
        shared = 0
        while shared < min(len(there), len(back)) and there[shared] == back[shared]:
            shared += 1
        return self._walk([*there[shared:], closing, *(half ^ 1 for half in reversed(back[shared:]))])

    def _branch(self, via: np.ndarray, node: int) -> list[int]:
        """Half edges from the root of a tree to a node."""
        branch: list[int] = []
        while via[node] >= 0:
            branch.append(int(via[node]))
            node = self._ends(branch[-1])[0]
        return branch[::-1]

    def _ends(self, half: int) -> tuple[int, int]:
        start, end = (int(x) for x in self.edges[half // 2])
        return (end, start) if half % 2 else (start, end)

    def _walk(self, halves: Iterable[int]) -> _Walk:
        steps = np.array(list(halves), dtype=np.int64)
        edges, backward = steps // 2, steps % 2
        ends = self.edges[edges]
        nodes = np.append(ends[np.arange(len(edges)), backward], ends[-1, 1 - backward[-1]]).astype(np.int64)
        moves = self.images[edges].astype(np.int64) * (1 - 2 * backward)[:, None]
        return _Walk(nodes, np.vstack([np.zeros((1, 3), dtype=np.int64), moves.cumsum(axis=0)]), edges, backward == 0)

    def _joined(self, begin: np.ndarray, halves: np.ndarray, loop: _Walk, others: list[_Walk]) -> _Walk:
        """A loop with the link to the loops before it, walked there and back, unless it touches them."""
        from .percolation_path_kernels import cheapest_link

        known = np.unique(np.concatenate([walk.nodes for walk in others])) if others else loop.nodes
        if np.isin(loop.nodes, known).any():
            return loop
        target = np.zeros(len(self.node_energies), dtype=bool)
        target[loop.nodes] = True
        via, reached = cheapest_link(
            begin, halves, self.edges, self._costs(float(self.edge_energies[-1])), known, target
        )
        link = self._branch(via, int(reached))
        first = int(np.flatnonzero(loop.nodes == reached)[0])
        steps = (2 * loop.edges + ~loop.forward).tolist()
        return self._walk([*link, *steps[first:], *steps[:first], *(half ^ 1 for half in reversed(link))])

    def _from_lowest_node(self, walk: _Walk) -> _Walk:
        first = int(np.argmin(self.node_energies[walk.nodes[:-1]]))
        steps = 2 * walk.edges + ~walk.forward
        return self._walk(np.roll(steps, -first).tolist())


def _projection(found: list[tuple[int, int, int]]) -> np.ndarray:
    """Integer matrix, shape (3, 3), that sends to zero what the translations found span, and nothing else."""
    if not found:
        return np.eye(3, dtype=np.int64)
    if len(found) == 1:
        x, y, z = found[0]
        return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.int64)
    normal = np.cross(np.array(found[0]), np.array(found[1]))
    return np.vstack([normal, np.zeros((2, 3))]).astype(np.int64)
