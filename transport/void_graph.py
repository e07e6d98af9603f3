"""The voids of a framework as a periodic graph: nodes, channel segments with bottlenecks, and the merging of voids."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from .network_symmetry import SymmetricFramework
from .percolation import Percolation, percolate_graph
from .periodic_points import coincident, neighbour_pairs
from .power_diagram import PowerDiagram
from .sphere_clearance import SphereClearance

#: Points that symmetry maps onto one another match to better than this in a framework that is exactly symmetric.
MATCH_A = 5e-3
#: Radii that differ by less (Angstrom) are the same, so that rounding does not choose between equivalent voids.
SAME_RADIUS_A = 1e-6


@dataclass(frozen=True)
class VoidGraph:
    """Voids and the straight channel segments between them, one entry for each lattice orbit.

    Attributes
    ----------
    frac_coords
        Nodes in [0, 1), shape (nodes, 3).
    radii_A
        Radius of the largest sphere around each node that touches no atom, shape (nodes,).
    orbits
        Symmetry orbit of each node, int, shape (nodes,).
    vertices
        Whether a node is a vertex of the diagram; otherwise it is a face centre. Bool, shape (nodes,).
    edges, images
        Start and end node of each segment (segments, 2), and the cell of the end beside the start's (segments, 3).
    bottleneck_frac_coords
        Narrowest point of each segment, unwrapped, in the cell of its start node, shape (segments, 3).
    bottleneck_radii_A
        Radius there, shape (segments,).
    edge_orbits
        Symmetry orbit of each segment, int, shape (segments,).
    """

    frac_coords: np.ndarray
    radii_A: np.ndarray
    orbits: np.ndarray
    vertices: np.ndarray
    edges: np.ndarray
    images: np.ndarray
    bottleneck_frac_coords: np.ndarray
    bottleneck_radii_A: np.ndarray
    edge_orbits: np.ndarray

    def ends(self) -> np.ndarray:
        """Unwrapped fractional coordinates of the end of each segment that starts in its node's own cell."""
        return np.asarray(self.frac_coords[self.edges[:, 1]] + self.images)

    def percolation(self) -> Percolation:
        """Percolation of the graph with minus the radii for energies: thresholds are minus the connection values."""
        return percolate_graph(-self.radii_A, self.edges, self.images, -self.bottleneck_radii_A)

    def without(self, narrower_than_A: float) -> VoidGraph:
        """The graph without voids and segments below a radius."""
        nodes = self.radii_A >= narrower_than_A
        edges = (self.bottleneck_radii_A >= narrower_than_A) & nodes[self.edges].all(axis=1)
        renumbered = np.cumsum(nodes) - 1
        return VoidGraph(
            self.frac_coords[nodes],
            self.radii_A[nodes],
            self.orbits[nodes],
            self.vertices[nodes],
            renumbered[self.edges[edges]],
            self.images[edges],
            self.bottleneck_frac_coords[edges],
            self.bottleneck_radii_A[edges],
            self.edge_orbits[edges],
        )


def void_graph(
    diagram: PowerDiagram, clearance: SphereClearance, symmetry: SymmetricFramework, face_centres: bool = False
) -> VoidGraph:
    """Vertices and edges of the diagram with their radii; with ``face_centres``, also the middles of its faces.

    A face centre is the mean of the face's vertices, joined with each of them by a straight segment.
    """
    nodes, edges, images = diagram.vertices, diagram.edges, diagram.images
    if face_centres:
        places: list[np.ndarray] = []
        more: list[tuple[int, int]] = []
        cells: list[np.ndarray] = []
        for ring in diagram.faces:
            centre = (diagram.vertices[ring[:, 0]] + ring[:, 1:]).mean(axis=0)
            home = np.floor(centre + 1e-9).astype(int)
            more += [(len(nodes) + len(places), int(vertex)) for vertex in ring[:, 0]]
            cells += list(ring[:, 1:] - home)
            places.append(centre - home)
        nodes = np.concatenate([nodes, np.array(places)])
        edges = np.concatenate([edges, np.array(more, dtype=int)])
        images = np.concatenate([images, np.array(cells, dtype=int)])
    radii = clearance.at(nodes)[0]
    starts, ends = nodes[edges[:, 0]], nodes[edges[:, 1]] + images
    widths, places_of, _ = clearance.narrowest(starts, ends)
    return VoidGraph(
        frac_coords=nodes,
        radii_A=radii,
        orbits=symmetry.orbits_of(nodes, MATCH_A),
        vertices=np.arange(len(nodes)) < len(diagram.vertices),
        edges=edges,
        images=images,
        bottleneck_frac_coords=places_of,
        bottleneck_radii_A=widths,
        edge_orbits=symmetry.orbits_of((starts + ends) / 2, MATCH_A),
    )


def merge_coincident(graph: VoidGraph, lattice: np.ndarray, distance_A: float) -> VoidGraph:
    """Join nodes that chains of steps below a distance connect; the widest of each group stands for it.

    Groups that would reach around the crystal stay apart.
    """
    groups, shifts = coincident(graph.frac_coords, lattice, distance_A)
    groups, shifts = without_chains(graph.frac_coords, lattice, distance_A, groups, shifts)
    return _without_copies(_contracted(graph, groups, shifts, -graph.radii_A), lattice, distance_A)


def merge_close(graph: VoidGraph, lattice: np.ndarray, distance_A: float, ranks: np.ndarray) -> VoidGraph:
    """Give every void that is closer than a distance to a better one to that one.

    Voids are taken from the best down, an orbit at a time. What is left of the orbit becomes centres, of which those
    closer to each other than the distance become one, unless they form a chain through the crystal. Each worse void
    within the distance of a centre goes to the nearest one. A merged void has the place and the radius of its best
    member, and the segments of all members: no connection is lost, and none is made narrower. Paths through a merged
    void may be wider than they were, so connection values belong to the graph before it was merged.

    Parameters
    ----------
    graph
        Voids, with orbits.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    distance_A
        Largest distance of a void from the one that it is merged into.
    ranks
        Lower is better: site energies in eV or minus radii in Angstrom, shape (nodes,).
    """
    near: dict[int, list[tuple[int, np.ndarray, float]]] = defaultdict(list)
    pairs, cells = neighbour_pairs(graph.frac_coords, lattice, distance_A)
    for (i, j), cell in zip(pairs.tolist(), cells, strict=True):
        if i == j:
            continue
        distance = float(np.linalg.norm((graph.frac_coords[j] + cell - graph.frac_coords[i]) @ lattice))
        near[i].append((j, cell, distance))
        near[j].append((i, -cell, distance))
    best = np.full(int(graph.orbits.max()) + 1, np.inf)
    np.minimum.at(best, graph.orbits, ranks)
    groups, shifts = np.full(len(ranks), -1), np.zeros((len(ranks), 3), dtype=int)
    count = 0
    for orbit in np.lexsort((np.arange(len(best)), np.round(best / SAME_RADIUS_A))):
        centres = np.flatnonzero((graph.orbits == orbit) & (groups < 0))
        if len(centres) == 0:
            continue
        own, own_shifts = coincident(graph.frac_coords[centres], lattice, distance_A)
        own, own_shifts = without_chains(graph.frac_coords[centres], lattice, distance_A, own, own_shifts)
        groups[centres], shifts[centres] = own + count, own_shifts
        count = int(groups.max()) + 1
        claims: dict[int, tuple[float, int, np.ndarray]] = {}
        for centre in centres.tolist():
            for other, cell, distance in near[centre]:
                if groups[other] < 0 and (other not in claims or distance < claims[other][0] - SAME_RADIUS_A):
                    claims[other] = (distance, centre, cell)
        for other, (_, centre, cell) in claims.items():
            groups[other], shifts[other] = groups[centre], shifts[centre] + cell
    return _contracted(graph, groups, shifts, ranks)


def without_chains(
    frac: np.ndarray, lattice: np.ndarray, distance_A: float, groups: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take groups apart that are connected with their own images, or longer than twice the distance.

    Parameters
    ----------
    frac
        Fractional coordinates of the points, shape (points, 3).
    lattice
        Cell vectors as rows, in Angstrom.
    distance_A
        The distance that made the groups.
    groups, shifts
        As :func:`.periodic_points.coincident` returns them.
    """
    pairs, cells = neighbour_pairs(frac, lattice, distance_A)
    i, j = pairs[:, 0], pairs[:, 1]
    around = (shifts[i] + cells != shifts[j]).any(axis=1) & (groups[i] == groups[j])
    broken = set(groups[i[around]].tolist())
    places = (frac + shifts) @ lattice
    for group in np.unique(groups[i]):
        spread = places[groups == group]
        if np.linalg.norm(spread[:, None] - spread[None, :], axis=2).max() > 2 * distance_A:
            broken.add(int(group))
    if not broken:
        return groups, shifts
    alone = np.isin(groups, list(broken))
    groups, shifts = groups.copy(), shifts.copy()
    groups[alone] = groups.max() + 1 + np.arange(int(alone.sum()))
    shifts[alone] = 0
    return np.unique(groups, return_inverse=True)[1], shifts


def _contracted(graph: VoidGraph, groups: np.ndarray, shifts: np.ndarray, ranks: np.ndarray) -> VoidGraph:
    """One node for each group, at its best member; segments within a group vanish unless they lead to another cell."""
    order = np.lexsort((np.arange(len(ranks)), graph.orbits, np.round(ranks / SAME_RADIUS_A)))
    _, first = np.unique(groups[order], return_index=True)
    chosen = order[first]  # the best member of group 0, 1, ...
    # Cells are counted from the chosen member's own.
    offset = shifts - shifts[chosen][groups]
    i, j = graph.edges.T
    ends = groups[graph.edges]
    images = graph.images + offset[i] - offset[j]
    kept = (ends[:, 0] != ends[:, 1]) | images.any(axis=1)
    # The start node moves into the cell -offset, so that a bottleneck moves by +offset when the chosen one is at home.
    bottlenecks = graph.bottleneck_frac_coords + offset[i]
    return VoidGraph(
        frac_coords=graph.frac_coords[chosen],
        radii_A=graph.radii_A[chosen],
        orbits=graph.orbits[chosen],
        vertices=graph.vertices[chosen],
        edges=ends[kept],
        images=images[kept],
        bottleneck_frac_coords=bottlenecks[kept],
        bottleneck_radii_A=graph.bottleneck_radii_A[kept],
        edge_orbits=graph.edge_orbits[kept],
    )


def _without_copies(graph: VoidGraph, lattice: np.ndarray, distance_A: float) -> VoidGraph:
    """The graph without segments whose ends and bottleneck, to within a distance, are those of a wider one."""
    kept: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    chosen = []
    for k in np.lexsort((graph.edge_orbits, -np.round(graph.bottleneck_radii_A / SAME_RADIUS_A))).tolist():
        (i, j), image, place = graph.edges[k].tolist(), graph.images[k], graph.bottleneck_frac_coords[k]
        if (j, *(-image)) < (i, *image):
            i, j, image, place = j, i, -image, place - image
        others = kept[i, j, *image.tolist()]
        if all(np.linalg.norm((place - other) @ lattice) >= distance_A for other in others):
            others.append(place)
            chosen.append(k)
    chosen.sort()
    return replace(
        graph,
        edges=graph.edges[chosen],
        images=graph.images[chosen],
        bottleneck_frac_coords=graph.bottleneck_frac_coords[chosen],
        bottleneck_radii_A=graph.bottleneck_radii_A[chosen],
        edge_orbits=graph.edge_orbits[chosen],
    )
