"""The network that hops make of a crystal: its percolation barrier, and which hops decide it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .percolation import Percolation, percolate_graph
from .symmetry import CrystalSymmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure


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
    interstice_symbol
        Element that stands for voids in the structure, where hops are those of an ion more between them; None for
        hops into vacancies.
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
    interstice_symbol: str | None = None

    def percolate(self, edge_energies: np.ndarray) -> Percolation:
        """Percolation of the network when edge ``k`` costs ``edge_energies[k]`` and every site nothing."""
        sites, ends = np.unique(self.edges, return_inverse=True)
        return percolate_graph(np.zeros(len(sites)), ends.reshape(-1, 2), self.images, np.asarray(edge_energies, float))


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
    cost = np.maximum(prior, 0.0)[network.edge_to_unique]
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
