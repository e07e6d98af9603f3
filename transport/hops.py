"""Hops of the mobile ion: which there are, which are alike by symmetry, and their paths in a supercell.

A vacancy hop is an edge between two sites of the mobile species: the ion at one moves into a vacancy at the other. Hops
of an ion more between voids are those of :mod:`.interstitial_hops`. The
enumeration follows the percolating-hop protocol of Dembitskiy et al. (npj Comput. Mater. 11, 131 (2025)): straight
edges that keep clear of the framework, up to the smallest cutoff at which the network reaches its highest dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import NoHopsError, NoMobileIonError, Reason, StructureError
from .hop_network import Hop, HopNetwork, limiting_hops, network_barriers
from .paths import MigrationPath
from .percolation import percolate_graph
from .supercells import build_supercell, compact_supercell, perpendicular_widths_A
from .symmetry import CrystalSymmetry, crystal_symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = ["Hop", "HopNetwork", "enumerate_hops", "hop_path", "limiting_hops", "network_barriers"]

# Edges alike by symmetry differ by this much in length when a structure is only symmetric to the usual symprec.
_LENGTH_TOLERANCE_A = 0.01


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

    return percolating_network(structure, ion, mobile, max_distance_A, framework_clearance_A, symprec)


def percolating_network(
    structure: Structure,
    ion: str,
    mobile: np.ndarray,
    max_distance_A: float,
    framework_clearance_A: float,
    symprec: float,
    interstice_symbol: str | None = None,
) -> HopNetwork:
    """Network of the straight hops between some sites, up to the smallest cutoff that reaches the highest dimension.

    Parameters
    ----------
    structure
        Ordered crystal.
    ion
        Element symbol of the mobile ion.
    mobile
        Indices of the sites that hops join, ascending.
    max_distance_A, framework_clearance_A, symprec
        As for :func:`enumerate_hops`.
    interstice_symbol
        Element of these sites where they are voids.

    Raises
    ------
    NoHopsError
        No network of hops up to ``max_distance_A`` crosses the crystal.
    """
    edges, images, lengths = _straight_edges(structure, mobile, max_distance_A, framework_clearance_A)
    formula = structure.composition.reduced_formula
    if interstice_symbol is not None:
        atoms = structure.copy()
        atoms.remove_species([interstice_symbol])
        formula = atoms.composition.reduced_formula
    none = (
        f"No {ion} hops up to {max_distance_A:g} A connect {formula} across its cell; "
        "raise max_distance_A or look at another ion."
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
    name, base = (ion, 0) if interstice_symbol is None else ("void", int(mobile[0]))
    by_length = sorted(
        np.unique(orbit), key=lambda k: (round(float(orbit_length[k]), 4), np.flatnonzero(orbit == k)[0])
    )
    for index, label in enumerate(by_length):
        members = np.flatnonzero(orbit == label)
        edge_to_unique[members] = index
        # The member that crosses the fewest cell faces reads best; ties go to the lowest site indices.
        first = min(members, key=lambda e: (int(np.abs(images[e]).sum()), tuple(edges[e]), tuple(images[e])))
        (start, end), image = edges[first].tolist(), tuple(int(x) for x in images[first])
        hop_id = f"{name}{start - base}-{name}{end - base}[{image[0]},{image[1]},{image[2]}]"
        hops.append(Hop(index, start, end, image, float(lengths[first]), len(members), hop_id))  # type: ignore[arg-type]
    return HopNetwork(
        ion, structure, hops, edges, images, edge_to_unique, dimension, cutoff_A, symmetry, interstice_symbol
    )


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

    ends = symmetry.site_to_primitive[edges]
    cells = symmetry.site_cells[edges]
    primitive = np.column_stack([ends, images @ symmetry.cell_multiples + cells[:, 1] - cells[:, 0]])
    distinct, label = np.unique(primitive, axis=0, return_inverse=True)
    known = {tuple(row): k for k, row in enumerate(distinct.tolist())}
    sources, targets = [], []
    for rotation, permutation, shift in zip(symmetry.rotations, symmetry.permutations, symmetry.shifts, strict=True):
        i, j = distinct[:, 0], distinct[:, 1]
        t = distinct[:, 2:] @ rotation.T + shift[j] - shift[i]
        moved = np.column_stack([permutation[i], permutation[j], t])
        for source, (p, q, x, y, z) in enumerate(moved.tolist()):
            for key in ((p, q, x, y, z), (q, p, -x, -y, -z)):
                # An image can be missing only where its length or clearance lies on the limit to within symprec.
                if key in known:
                    sources.append(source)
                    targets.append(known[key])
    graph = coo_matrix((np.ones(len(sources), dtype=bool), (sources, targets)), shape=(len(distinct),) * 2)
    return connected_components(graph, directed=False)[1][label.reshape(-1)]


def hop_path(network: HopNetwork, hop: Hop, images: int = 5, min_length_A: float = 8.0) -> MigrationPath:
    """Straight path of a hop in a supercell.

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
        The ion moves from ``site_start`` to ``site_end``, whose own ion is left out where it has one; all other
        atoms are the framework, the mobile ones among them included.

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
    ends = [supercell.atom_at(point, network.interstice_symbol or network.ion) for point in (start, end)]
    if ends[0] == ends[1]:
        raise StructureError(f"Both ends of hop {hop.hop_id} are the same atom of the supercell; raise its length.")
    if network.interstice_symbol is None:
        others = np.delete(np.arange(len(supercell.species)), ends)
    else:
        others = np.flatnonzero(np.asarray(supercell.species).astype(str) != network.interstice_symbol)
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
