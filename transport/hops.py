"""Vacancy hops of the mobile ion: which there are, which are alike by symmetry, and what their network conducts.

A hop is an edge between two sites of the mobile species: the ion at one moves into a vacancy at the other. The
enumeration follows the percolating-hop protocol of Dembitskiy et al. (npj Comput. Mater. 11, 131 (2025)): straight
edges that keep clear of the framework, up to the smallest cutoff at which the network reaches its highest dimension.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import NoHopsError, NoMobileIonError, Reason, StructureError
from .paths import MigrationPath
from .percolation import Percolation, percolate_graph
from .supercells import build_supercell, compact_supercell, perpendicular_widths_A
from .symmetry import CrystalSymmetry, crystal_symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Edges alike by symmetry differ by this much in length when a structure is only symmetric to the usual symprec.
_LENGTH_TOLERANCE_A = 0.01


@dataclass(frozen=True)
class Hop:
    """One of a set of hops that are alike by symmetry.

    Attributes
    ----------
    index
        Position in ``HopNetwork.hops``; shortest hop first.
    site_start, site_end
        Indices into the structure's sites.
    image
        Cell translation of ``site_end``.
    distance_A
        Straight distance in Angstrom.
    multiplicity
        How many hops of this kind there are in the cell; a hop and its reverse count once.
    hop_id
        Name for people and tables, for instance ``Li3-Li7[0,0,1]``.
    """

    index: int
    site_start: int
    site_end: int
    image: tuple[int, int, int]
    distance_A: float
    multiplicity: int
    hop_id: str


@dataclass(frozen=True)
class HopNetwork:
    """All hops of the mobile ion and how they join.

    Attributes
    ----------
    ion
        Element symbol.
    structure
        The crystal, as given.
    hops
        The symmetry-unique hops, shortest first.
    edges
        Every hop of a cell as a pair of site indices, shape (m, 2); a hop and its reverse appear once.
    images
        Cell translations of the edges' second sites, shape (m, 3).
    edge_to_unique
        For each edge the index of its unique hop, shape (m,).
    dimension
        In how many independent directions the network percolates: 1, 2 or 3.
    cutoff_A
        The smallest hop length at which it does, in Angstrom.
    symmetry
        Space-group operations and primitive lattice of the structure.
    """

    ion: str
    structure: Structure
    hops: list[Hop]
    edges: np.ndarray
    images: np.ndarray
    edge_to_unique: np.ndarray
    dimension: int
    cutoff_A: float
    symmetry: CrystalSymmetry

    def percolate(self, edge_energies: np.ndarray) -> Percolation:
        """Percolation of the network when edge ``k`` costs ``edge_energies[k]`` and every site nothing."""
        sites, ends = np.unique(self.edges, return_inverse=True)
        return percolate_graph(np.zeros(len(sites)), ends.reshape(-1, 2), self.images, np.asarray(edge_energies, float))


def enumerate_hops(
    structure: Structure,
    ion: str,
    max_distance_A: float = 8.0,
    framework_clearance_A: float = 0.5,
    symprec: float = 0.01,
) -> HopNetwork:
    """Symmetry-unique vacancy hops up to the smallest cutoff that reaches the highest dimension.

    Parameters
    ----------
    structure
        Ordered crystal; oxidation states are allowed and do not matter.
    ion
        Element symbol of the mobile ion.
    max_distance_A
        Longest hop that is considered, in Angstrom.
    framework_clearance_A
        Least distance in Angstrom between the straight line of a hop and any atom but its two ends. A line over
        another mobile ion's site is no hop either: it is two hops, one after the other.
    symprec
        Tolerance in Angstrom of the symmetry search.

    Returns
    -------
    HopNetwork

    Raises
    ------
    NoMobileIonError
        The structure does not hold the ion.
    StructureError
        A site is partly occupied.
    NoHopsError
        No network of hops up to ``max_distance_A`` crosses the crystal.
    """
    if not structure.is_ordered:
        raise StructureError(
            "Some sites are partly occupied; order the structure before enumerating hops.", Reason.PARTIAL_OCCUPANCY
        )
    symbols = np.array([site.specie.symbol for site in structure])
    mobile = np.flatnonzero(symbols == ion)
    if len(mobile) == 0:
        raise NoMobileIonError(f"{structure.composition.reduced_formula} holds no {ion}; name another mobile ion.")

    edges, images, lengths = _straight_edges(structure, mobile, max_distance_A, framework_clearance_A)
    none = (
        f"No {ion} hops up to {max_distance_A:g} A connect {structure.composition.reduced_formula} across its cell; "
        "raise the maximum hop distance or look at another ion."
    )
    if len(edges) == 0:
        raise NoHopsError(none)
    cutoffs = _percolation_cutoffs_A(edges, images, lengths)
    dimension = int(np.isfinite(cutoffs).sum())
    if dimension == 0:
        raise NoHopsError(none)
    # The margin holds the whole of every orbit that symmetry noise spreads over the cutoff.
    kept = lengths <= cutoffs[dimension - 1] + 10 * symprec
    edges, images, lengths = edges[kept], images[kept], lengths[kept]
    symmetry = crystal_symmetry(structure, symprec)
    orbit = _symmetry_orbits(symmetry, edges, images)
    # One length for all edges of an orbit, so that symmetry noise cannot cut an orbit in two.
    orbit_length = np.bincount(orbit, weights=lengths) / np.bincount(orbit)
    cutoff_A = float(_percolation_cutoffs_A(edges, images, orbit_length[orbit])[dimension - 1])

    kept = orbit_length[orbit] <= cutoff_A + _LENGTH_TOLERANCE_A
    edges, images, lengths, orbit = edges[kept], images[kept], lengths[kept], orbit[kept]
    hops, edge_to_unique = [], np.empty(len(edges), dtype=int)
    by_length = sorted(
        np.unique(orbit), key=lambda k: (round(float(orbit_length[k]), 4), np.flatnonzero(orbit == k)[0])
    )
    for index, label in enumerate(by_length):
        members = np.flatnonzero(orbit == label)
        edge_to_unique[members] = index
        # The member that crosses the fewest cell faces reads best; ties go to the lowest site indices.
        first = min(members, key=lambda e: (int(np.abs(images[e]).sum()), tuple(edges[e]), tuple(images[e])))
        (start, end), image = edges[first].tolist(), tuple(int(x) for x in images[first])
        hop_id = f"{ion}{start}-{ion}{end}[{image[0]},{image[1]},{image[2]}]"
        hops.append(Hop(index, start, end, image, float(lengths[first]), len(members), hop_id))  # type: ignore[arg-type]
    return HopNetwork(ion, structure, hops, edges, images, edge_to_unique, dimension, cutoff_A, symmetry)


def _straight_edges(
    structure: Structure, mobile: np.ndarray, max_distance_A: float, clearance_A: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of mobile sites in reach whose straight line keeps clear of every other atom: edges, images, lengths."""
    from pymatgen.core import Structure
    from scipy.spatial import cKDTree

    ions = Structure(structure.lattice, ["H"] * len(mobile), structure.frac_coords[mobile])
    start, end, image, length = ions.get_neighbor_list(max_distance_A, exclude_self=True)
    image = np.rint(image).astype(int)
    # Keep one direction: the lower index first, and of an ion's own images the lexicographically positive ones.
    sign = np.array([next((int(np.sign(x)) for x in row if x), 0) for row in image]) if len(image) else np.zeros(0)
    once = (start < end) | ((start == end) & (sign > 0))
    start, end, image, length = start[once], end[once], image[once], length[once]
    order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], end, start))
    start, end, image, length = start[order], end[order], image[order], length[order]
    edges = np.column_stack([mobile[start], mobile[end]])
    if len(edges) == 0:
        return edges, image, length

    matrix = structure.lattice.matrix
    begin = structure.frac_coords[edges[:, 0]] @ matrix
    step = (structure.frac_coords[edges[:, 1]] + image) @ matrix - begin
    middle = begin + step / 2
    atoms = _atoms_around(structure, middle, max_distance_A / 2 + clearance_A)
    tree = cKDTree(atoms)
    near = tree.query_ball_point(middle, length / 2 + clearance_A)
    which = np.repeat(np.arange(len(edges)), [len(x) for x in near])
    offset = atoms[np.concatenate([np.asarray(x, dtype=int) for x in near])] - begin[which]
    along = np.einsum("ij,ij->i", offset, step[which]) / length[which] ** 2
    gap = np.linalg.norm(offset - np.clip(along, 0.0, 1.0)[:, None] * step[which], axis=1)
    is_end = (np.linalg.norm(offset, axis=1) < 1e-3) | (np.linalg.norm(offset - step[which], axis=1) < 1e-3)
    blocked = np.zeros(len(edges), dtype=bool)
    blocked[which[(gap < clearance_A) & ~is_end]] = True
    return edges[~blocked], image[~blocked], length[~blocked]


def _atoms_around(structure: Structure, points: np.ndarray, reach_A: float) -> np.ndarray:
    """Cartesian positions of every atom, periodic images included, in a box that holds ``reach_A`` round the points."""
    matrix = structure.lattice.matrix
    frac = points @ np.linalg.inv(matrix)
    margin = reach_A / perpendicular_widths_A(matrix)
    low = np.floor(frac.min(axis=0) - margin).astype(int)
    high = np.ceil(frac.max(axis=0) + margin).astype(int)
    cells = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
    wrapped = structure.frac_coords % 1.0
    return (wrapped[None] + cells.reshape(-1, 1, 3)).reshape(-1, 3) @ matrix


def _percolation_cutoffs_A(edges: np.ndarray, images: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Shortest hop lengths at which the network crosses the crystal in one, two and three directions, shape (3,)."""
    sites, ends = np.unique(edges, return_inverse=True)
    return np.array(percolate_graph(np.zeros(len(sites)), ends.reshape(-1, 2), images, lengths).thresholds_eV)


def _symmetry_orbits(symmetry: CrystalSymmetry, edges: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Label edges so that those that a space-group operation maps onto one another, or onto the reverse, share one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    known = {(int(i), int(j), *map(int, t)): k for k, ((i, j), t) in enumerate(zip(edges, images, strict=True))}
    sources, targets = [], []
    for rotation, permutation, shift in zip(symmetry.rotations, symmetry.permutations, symmetry.shifts, strict=True):
        i, j = permutation[edges[:, 0]], permutation[edges[:, 1]]
        t = images @ rotation.T + shift[edges[:, 1]] - shift[edges[:, 0]]
        for source, key in enumerate(np.column_stack([i, j, t]).tolist()):
            target = known.get(tuple(key))
            if target is None:
                target = known.get((key[1], key[0], -key[2], -key[3], -key[4]))
            # An image can be missing only where its length or clearance lies on the limit to within symprec.
            if target is not None:
                sources.append(source)
                targets.append(target)
    graph = coo_matrix((np.ones(len(sources), dtype=bool), (sources, targets)), shape=(len(edges),) * 2)
    return connected_components(graph, directed=False)[1]


def hop_path(network: HopNetwork, hop: Hop, images: int = 5, min_length_A: float = 8.0) -> MigrationPath:
    """Straight path of a vacancy hop in a supercell.

    Parameters
    ----------
    network, hop
        The hop and the network that it belongs to.
    images
        Points along the path, both ends included.
    min_length_A
        Least distance in Angstrom between opposite faces of the supercell. The supercell with the fewest atoms is
        taken; a hop longer than this gets a supercell that holds it.

    Returns
    -------
    MigrationPath
        The ion moves from ``site_start`` to ``site_end``, whose own ion is left out; all other atoms are the
        framework, the mobile ones among them included.

    Raises
    ------
    StructureError
        The supercell does not hold exactly one ion at each end of the hop, or not the right number of atoms.
    """
    structure = network.structure
    multiples = compact_supercell(network.symmetry.primitive_lattice, max(min_length_A, hop.distance_A + 0.5))
    supercell = build_supercell(structure, network.symmetry, multiples)
    matrix = structure.lattice.matrix
    start = structure.frac_coords[hop.site_start] @ matrix
    end = (structure.frac_coords[hop.site_end] + np.array(hop.image)) @ matrix
    ends = [supercell.atom_at(point, network.ion) for point in (start, end)]
    if ends[0] == ends[1]:
        raise StructureError(f"Both ends of hop {hop.hop_id} are the same atom of the supercell; raise its length.")
    others = np.delete(np.arange(len(supercell.species)), ends)
    # Whole cells are taken off all points alike, so that the path starts in the cell and stays continuous.
    path = (start + np.linspace(0.0, 1.0, images)[:, None] * (end - start)) @ np.linalg.inv(supercell.lattice)
    return MigrationPath(
        ion=network.ion,
        lattice=supercell.lattice,
        framework_species=tuple(str(x) for x in supercell.species[others]),
        framework_frac_coords=supercell.frac_coords[others],
        path_frac_coords=path - np.floor(path[0] + 1e-9),
        path_id=hop.hop_id,
    )


def network_barriers(network: HopNetwork, barrier_by_unique_hop: Sequence[float]) -> Percolation:
    """Percolation barriers of the crystal from the barriers of its unique hops; all sites have energy zero.

    Parameters
    ----------
    network
        Hops of the crystal.
    barrier_by_unique_hop
        Barrier of each unique hop in eV, shape (len(network.hops),); ``inf`` for a hop that is impassable or unknown,
        which makes the result an upper bound.

    Raises
    ------
    ValueError
        The number of barriers is not the number of unique hops, or one is not a number.
    """
    return network.percolate(_checked(network, barrier_by_unique_hop)[network.edge_to_unique])


def limiting_hops(network: HopNetwork, prior_barrier_by_unique_hop: Sequence[float]) -> list[int]:
    """Unique hops on the easiest way across the crystal, the limiting one first.

    The easiest way is the closed walk to a lattice translate of its start whose highest barrier is least, and of those
    through the limiting hop the one with the smallest sum of barriers. Computing a better barrier for every returned
    hop, putting it into the prior and asking again, until nothing new is returned, finds the 1D barrier without
    computing hops that cannot matter (as long as the prior does not overestimate the others).

    Parameters
    ----------
    network
        Hops of the crystal.
    prior_barrier_by_unique_hop
        Estimated barrier of each unique hop in eV, shape (len(network.hops),); hop lengths serve if nothing better is
        known; ``inf`` rules a hop out.

    Returns
    -------
    list of int
        Indices into ``network.hops``, highest prior first; empty if the hops with finite priors do not percolate.

    Raises
    ------
    ValueError
        As :func:`network_barriers`.
    """
    prior = _checked(network, prior_barrier_by_unique_hop)
    cost = prior[network.edge_to_unique]
    threshold = network.percolate(cost).thresholds_eV[0]
    if not np.isfinite(threshold):
        return []
    open_edges = np.flatnonzero(cost <= threshold)
    limiting = open_edges[cost[open_edges] >= threshold]
    cycles = (_easiest_cycle(network, cost, open_edges, int(edge)) for edge in limiting)
    best = min((cycle for cycle in cycles if cycle is not None), key=lambda cycle: cycle[0])
    return sorted({int(network.edge_to_unique[e]) for e in best[1]}, key=lambda k: (-prior[k], k))


def _checked(network: HopNetwork, barriers: Sequence[float]) -> np.ndarray:
    values = np.asarray(barriers, dtype=float)
    if values.shape != (len(network.hops),):
        raise ValueError(f"{len(network.hops)} unique hops need as many barriers, got {values.shape}.")
    if np.isnan(values).any():
        raise ValueError("A barrier is not a number; give inf for a hop whose barrier is unknown.")
    return values


def _easiest_cycle(
    network: HopNetwork, cost: np.ndarray, open_edges: np.ndarray, through: int
) -> tuple[float, list[int]] | None:
    """Least summed barrier of a walk over open edges that takes one edge and ends at a lattice translate of its start.

    Dijkstra's algorithm on the unfolded network, whose nodes are (site, cell translation).
    """
    steps: dict[int, list[tuple[int, tuple[int, ...], float, int]]] = {}
    # The small addend prefers few hops where barriers are zero and bounds the search.
    weight = np.maximum(cost, 0.0) + 1e-3
    for e in open_edges.tolist():
        (i, j), t = network.edges[e].tolist(), network.images[e]
        steps.setdefault(i, []).append((j, tuple(t.tolist()), float(weight[e]), e))
        steps.setdefault(j, []).append((i, tuple((-t).tolist()), float(weight[e]), e))
    home, first = network.edges[through].tolist()
    entry = (first, *network.images[through].tolist())
    # An open walk cannot need to leave this many cells: every simple cycle in the quotient graph is shorter.
    farthest = len(steps) * max(1, int(np.abs(network.images).max()))
    origin = (home, 0, 0, 0)
    queue: list[tuple[float, tuple[int, ...]]] = [(float(weight[through]), entry)]
    came: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {entry: (origin, through)}
    best = {entry: float(weight[through]), origin: 0.0}
    while queue:
        total, node = heapq.heappop(queue)
        if total > best[node]:
            continue
        if node[0] == home and node != origin:
            walked = []
            while node != origin:
                node, e = came[node]
                walked.append(e)
            return total, walked
        for site, t, w, e in steps[node[0]]:
            following = (site, node[1] + t[0], node[2] + t[1], node[3] + t[2])
            if max(map(abs, following[1:])) > farthest:
                continue
            if total + w < best.get(following, np.inf):
                best[following] = total + w
                came[following] = (node, e)
                heapq.heappush(queue, (total + w, following))
    return None
