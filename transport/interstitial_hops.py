"""Interstitial hops: an ion more than the crystal has, from one void between the atoms to the next.

Voids are those of the crystal as it stands, mobile ions included, from the radical Voronoi decomposition of
:mod:`.power_diagram`. Which straight lines between them are hops, and up to which length, follows the same protocol as
for vacancies (:mod:`.hops`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import NoHopsError, Reason, StructureError
from .framework_radii import framework_radii
from .hop_network import HopNetwork
from .hops import percolating_network
from .interstitial_network import decorated_structure
from .network_symmetry import symmetric_framework
from .periodic_points import coincident
from .power_diagram import power_diagram
from .sphere_clearance import SphereClearance
from .void_graph import VoidGraph, merge_coincident, void_graph, without_chains

if TYPE_CHECKING:
    from pymatgen.core import Structure

_COINCIDENT_A = 0.02
_MARKERS = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
"""Elements that stand for voids while hops are sought; the first that the crystal does not hold."""


def interstitial_sites(
    structure: Structure, ion: str, min_radius_A: float = 0.5, merge_A: float = 1.0, symprec: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Voids between the atoms of a crystal that an ion more could rest in.

    Parameters
    ----------
    structure
        Ordered crystal; it may hold the ion or not.
    ion
        Element symbol of the ion.
    min_radius_A
        Radius of the smallest void that counts: distance in Angstrom to the nearest atom, less that atom's crystal
        radius.
    merge_A
        Of voids closer to each other than this the widest stands for all, in Angstrom.
    symprec
        Tolerance in Angstrom of the symmetry search.

    Returns
    -------
    tuple
        Fractional coordinates in [0, 1), shape (voids, 3), and radii in Angstrom, shape (voids,); the widest first.

    Raises
    ------
    StructureError
        A site is partly occupied.
    """
    if not structure.is_ordered:
        raise StructureError(
            "Some sites are partly occupied; order the structure before enumerating hops.", Reason.PARTIAL_OCCUPANCY
        )
    decorated, _, _ = decorated_structure(structure, ion, None)
    # no site is left out: the ions that are there are in the way of one more
    atoms = framework_radii(decorated, "", "shannon", {})
    kinds = np.unique(np.array(atoms.species), return_inverse=True)[1]
    frac = decorated.frac_coords[atoms.sites].reshape(-1, 3)
    symmetry = symmetric_framework(decorated.lattice.matrix, frac, kinds, symprec)
    radii = (np.bincount(symmetry.orbits, weights=atoms.radii_A) / np.bincount(symmetry.orbits))[symmetry.orbits]
    diagram = power_diagram(symmetry.lattice, symmetry.frac_coords, radii)
    clearance = SphereClearance(symmetry.lattice, symmetry.frac_coords, radii)
    graph = merge_coincident(void_graph(diagram, clearance, symmetry), symmetry.lattice, _COINCIDENT_A)
    graph = graph.without(min_radius_A)
    sites = _spaced(graph, symmetry.lattice, merge_A)
    return sites, clearance.at(sites)[0] if len(sites) else np.empty(0)


def _spaced(graph: VoidGraph, lattice: np.ndarray, distance_A: float) -> np.ndarray:
    """Fractional coordinates of voids, orbit by orbit from the widest down, each a distance from wider ones.

    Members of an orbit that crowd around a place become its middle, so that the crystal's symmetry is kept.
    """
    found = np.empty((0, 3))
    labels, first = np.unique(graph.orbits, return_index=True)
    for label in labels[np.lexsort((labels, -graph.radii_A[first].round(4)))]:
        members = graph.frac_coords[graph.orbits == label]
        groups, shifts = without_chains(members, lattice, distance_A, *coincident(members, lattice, distance_A))
        centres = np.array([(members + shifts)[groups == group].mean(axis=0) for group in np.unique(groups)])
        if len(found):
            offset = centres[:, None] - found[None]
            near = np.linalg.norm((offset - np.rint(offset)) @ lattice, axis=2).min(axis=1) < distance_A - 1e-3
            centres = centres[~near]
        found = np.concatenate([found, centres % 1.0])
    return found


def enumerate_interstitial_hops(
    structure: Structure,
    ion: str,
    max_distance_A: float = 8.0,
    framework_clearance_A: float = 0.5,
    symprec: float = 0.01,
    min_radius_A: float = 0.5,
    merge_A: float = 1.0,
) -> HopNetwork:
    """Symmetry-unique hops between voids, up to the smallest cutoff that reaches the highest dimension.

    Parameters
    ----------
    structure
        Ordered crystal; it may hold the ion or not.
    ion
        Element symbol of the ion.
    max_distance_A, framework_clearance_A, symprec
        As for :func:`.hops.enumerate_hops`; every atom is in the way, mobile ions included.
    min_radius_A, merge_A
        As for :func:`interstitial_sites`.

    Returns
    -------
    HopNetwork
        Its structure is the crystal with an atom of ``interstice_symbol`` in each void.

    Raises
    ------
    StructureError
        A site is partly occupied.
    NoHopsError
        There are no voids, or no network of hops between them crosses the crystal.
    """
    sites, _ = interstitial_sites(structure, ion, min_radius_A, merge_A, symprec)
    formula = structure.composition.reduced_formula
    if len(sites) == 0:
        raise NoHopsError(
            f"{formula} has no void of {min_radius_A:g} A between its atoms that could take one {ion} more; look at "
            "vacancy hops."
        )
    present = {element.symbol for element in structure.composition.element_composition}
    marker = next(symbol for symbol in _MARKERS if symbol not in present)
    marked = structure.copy()
    marked.remove_oxidation_states()
    first = len(marked)
    for frac in sites:
        marked.append(marker, frac, validate_proximity=False)
    return percolating_network(
        marked,
        ion,
        np.arange(first, len(marked)),
        max_distance_A,
        framework_clearance_A,
        symprec,
        interstice_symbol=marker,
    )
