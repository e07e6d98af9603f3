"""Covalent bonds between nonmetals, and what they say about the sign of a charge.

An atom of a nonmetal or metalloid is, by its bonds, an anion (bonded to nothing that draws electrons harder), a member
of an anion pair or chain (bonded to its own kind, as in peroxides and polysulfides), or positive (bonded to an element
that draws harder, as sulfur in sulfate). Atoms of one element may differ: sulfide and sulfate, ammonium and nitrate,
hydride on boron and proton on nitrogen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

#: Two nonmetals closer than this times the sum of their covalent radii are bonded.
BOND_FACTOR = 1.2
#: Heavy halogens and chalcogens touch each other closer than 1.2 radii without a bond.
PAIR_FACTORS = {"Se": 1.15, "Te": 1.15, "Br": 1.12, "I": 1.12}
#: Positive atoms of one element that share an edge of their polyhedra (SiN4, GeS4, SbO6) come within 1.1 radii without
#: a bond; bonded ones, as in P2S6, S2O6 and Ge2S6, have no more than three partners that draw harder, and are shorter
#: than this but for the long bond of dithionite.
MOST_PARTNERS_OF_PAIR = 3.5
CATION_PAIR_FACTORS = {"S": 1.15}
CATION_PAIR_FACTOR = 1.1
#: Iodine touches nitrogen and oxygen at 1.15 radii without a bond.
IODINE_FACTOR = 1.12
#: Lone pairs push the partners of Sb3+ and Te4+ away.
LONE_PAIR_FACTOR = 1.3
#: Bonds to hydrogen; a proton halfway between two oxygens lies 1.2 to 1.3 Angstrom from both.
HYDROGEN_FACTOR = 1.3
PROTON_FACTOR = 1.45
#: Split sites that cannot both be full may come this close to each other's partners; nothing shorter is a bond.
SHORTEST_BOND_FACTOR = 0.6
#: Two sites whose occupancies add up to no more than this are split positions of one atom, never full at once. Refined
#: occupancies of light atoms are uncertain by some percent each.
SPLIT_OCCUPANCY = 1.1
#: Average positions of atoms that are partly elsewhere come closer than the atoms do; a bond between partly occupied
#: sites of one element counts only where it is as short as bonds are.
PARTIAL_PAIR_FACTOR = 1.05
#: A mixed neighbour (0.9 S, 0.1 Br) is there too seldom to make an atom positive.
LEAST_PARTNERS = 0.5
#: Lengths in Angstrom at which a carbon-carbon bond goes from order 3 to 2, to 1.5 (benzene) and to 1, halfway between
#: ethyne (1.20), ethene (1.335), benzene (1.397) and C(sp2)-C(sp2) (1.46).
CARBON_BOND_LIMITS_A = (1.27, 1.366, 1.43)
CARBON_BOND_ORDERS = (3.0, 2.0, 1.5, 1.0)

#: Nonmetals and metalloids from the hardest drawing to the softest. Pauling's order, but nitrogen before chlorine (as
#: Allen has it) and every halogen and chalcogen before carbon.
DRAWING_ORDER = ("F", "O", "N", "Cl", "Br", "I", "S", "Se", "Te", "C", "H", "P", "As", "Sb", "B", "Ge", "Si")
_RANK = {element: rank for rank, element in enumerate(DRAWING_ORDER)}
_PNICTOGENS = ("P", "As", "Sb")


class Role(StrEnum):
    """What an atom's bonds make of it; ``METAL`` is everything that :data:`DRAWING_ORDER` does not list."""

    METAL = ""
    ANION = "anion"
    ANION_PAIR = "anion pair"
    CATION = "cation"
    CATION_PAIR = "cation pair"


class Kind(NamedTuple):
    """Atoms of one element in one role."""

    element: str
    role: Role = Role.METAL


@dataclass(frozen=True)
class SiteSpecies:
    """A crystal as a flat list: one entry for each species on each site.

    Attributes
    ----------
    sites
        Index of the site, shape (entries,).
    elements
        Element symbols; deuterium and tritium count as hydrogen.
    occupancies
        Shape (entries,).
    """

    sites: np.ndarray
    elements: tuple[str, ...]
    occupancies: np.ndarray

    @classmethod
    def of(cls, structure: Structure) -> SiteSpecies:
        """The entries of a structure, in the order of ``site.species.items()``."""
        entries = [
            (index, element_symbol(species), float(occupancy))
            for index, site in enumerate(structure)
            for species, occupancy in site.species.items()
        ]
        sites, elements, occupancies = zip(*entries, strict=True)
        return cls(np.array(sites), elements, np.array(occupancies))


class Bond(NamedTuple):
    """A bond from one entry to another, seen from the first."""

    first: int
    second: int
    distance_A: float
    tightness: float


def element_symbol(species: object) -> str:
    """Element symbol of a species; hydrogen for its isotopes."""
    symbol = str(getattr(species, "symbol", species))
    return "H" if symbol in ("D", "T") else symbol


def nonmetal_bonds(structure: Structure, entries: SiteSpecies) -> list[Bond]:
    """Bonds among nonmetals and metalloids, each in both directions.

    Two sites whose occupancies add up to no more than one are split positions of one atom and never bonded to their
    own kind. Between different elements they count: an atom that is spread over two positions is bonded in both.
    """
    from ase.data import atomic_numbers, covalent_radii

    listed = [i for i, element in enumerate(entries.elements) if element in _RANK]
    if not listed:
        return []
    radii = {e: float(covalent_radii[atomic_numbers[e]]) for e in {entries.elements[i] for i in listed}}
    at_site: dict[int, list[int]] = {}
    for i in listed:
        at_site.setdefault(int(entries.sites[i]), []).append(i)
    totals = np.bincount(entries.sites, entries.occupancies, minlength=len(structure))
    widest = max(radii.values())
    reach = max(2 * BOND_FACTOR * widest, PROTON_FACTOR * (radii.get("H", 0.0) + widest) if "H" in radii else 0.0)
    first, second, _, distances = structure.get_neighbor_list(reach)
    bonds = []
    for a, b, distance in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True):
        if a not in at_site or b not in at_site:
            continue
        exclusive = totals[a] + totals[b] <= SPLIT_OCCUPANCY
        partial = min(totals[a], totals[b]) < 0.98
        for i in at_site[a]:
            one = entries.elements[i]
            for j in at_site[b]:
                other = entries.elements[j]
                if one == other and exclusive:
                    continue
                tightness = distance / (radii[one] + radii[other])
                if one == other and partial and tightness > PARTIAL_PAIR_FACTOR:
                    continue
                if SHORTEST_BOND_FACTOR < tightness < _factor(one, other):
                    bonds.append(Bond(i, j, distance, tightness))
    return _one_partner_of_hydrogen(bonds, entries)


def _one_partner_of_hydrogen(bonds: list[Bond], entries: SiteSpecies) -> list[Bond]:
    """Bonds without those of hydrogen that are looser than its tightest one."""
    tightest: dict[int, float] = {}
    for bond in bonds:
        if entries.elements[bond.first] == "H":
            tightest[bond.first] = min(bond.tightness, tightest.get(bond.first, np.inf))
    return [
        bond
        for bond in bonds
        if bond.tightness <= 1.02 * min(tightest.get(bond.first, np.inf), tightest.get(bond.second, np.inf))
    ]


def _factor(one: str, other: str) -> float:
    if one == other:
        return PAIR_FACTORS.get(one, BOND_FACTOR)
    if "H" in (one, other):
        return PROTON_FACTOR if {one, other} & {"N", "O", "F"} else HYDROGEN_FACTOR
    if {one, other} & {"Sb", "Te"} and {one, other} & {"O", "F"}:
        return LONE_PAIR_FACTOR
    return IODINE_FACTOR if "I" in (one, other) else BOND_FACTOR


def roles(entries: SiteSpecies, bonds: Sequence[Bond]) -> list[Role]:
    """The role of every entry.

    Hydrogen goes by its tightest bond: positive on carbon, nitrogen, phosphorus, arsenic and everything that draws
    harder, else a hydride. Phosphorus, arsenic and antimony that are bonded to nothing harder than hydrogen and
    carbon keep their electrons.
    """
    neighbours: dict[int, list[Bond]] = {}
    for bond in bonds:
        neighbours.setdefault(bond.first, []).append(bond)
    oxidised = {i for i, found in neighbours.items() if _is_oxidised(i, found, entries)}
    result = []
    for i, element in enumerate(entries.elements):
        if element not in _RANK:
            result.append(Role.METAL)
            continue
        same = [bond for bond in neighbours.get(i, ()) if entries.elements[bond.second] == element]
        if i in oxidised:
            harder = (bond.second for bond in neighbours[i] if _RANK[entries.elements[bond.second]] < _RANK[element])
            partners = sum(float(entries.occupancies[j]) for j in harder)
            limit = CATION_PAIR_FACTORS.get(element, CATION_PAIR_FACTOR)
            paired = partners < MOST_PARTNERS_OF_PAIR and any(
                bond.second in oxidised and bond.tightness < limit for bond in same
            )
            result.append(Role.CATION_PAIR if paired else Role.CATION)
        else:
            # The outer sulfur of thiosulfate hangs on an oxidised one and is a sulfide, not half of a disulfide.
            paired = any(bond.second not in oxidised for bond in same)
            result.append(Role.ANION_PAIR if paired else Role.ANION)
    return result


def _is_oxidised(i: int, bonds: Sequence[Bond], entries: SiteSpecies) -> bool:
    elements = entries.elements
    element = elements[i]
    if element == "H":
        partner = elements[min(bonds, key=lambda bond: bond.tightness).second]
        return _RANK[partner] < _RANK["H"] or partner in ("P", "As")
    ignored = {"H", "C"} if element in _PNICTOGENS else set()
    harder = (j for _, j, _, _ in bonds if _RANK[elements[j]] < _RANK[element] and elements[j] not in ignored)
    return sum(float(entries.occupancies[j]) for j in harder) > LEAST_PARTNERS


def carbon_charges(entries: SiteSpecies, bonds: Sequence[Bond]) -> dict[int, float]:
    """Oxidation states of carbon atoms from their bonds, by entry.

    Carbon makes four bonds. Each to something harder counts +1 a bond order, each to hydrogen, boron, silicon or
    phosphorus -1, each to carbon nothing: the state is 4 - (orders to carbon) - 2 (bonds to softer elements). The
    orders of C-C bonds come from their lengths. Carbon at the end of a diatomic group (cyanide, carbonyl) has a lone
    pair and is +2.
    """
    neighbours: dict[int, list[Bond]] = {i: [] for i, element in enumerate(entries.elements) if element == "C"}
    for bond in bonds:
        if bond.first in neighbours:
            neighbours[bond.first].append(bond)
    charges = {}
    for i, found in neighbours.items():
        partners = [entries.elements[bond.second] for bond in found]
        if not found:
            charges[i] = -4.0
        elif len(found) == 1 and partners[0] in ("N", "O"):
            charges[i] = 2.0
        else:
            orders = sum(
                CARBON_BOND_ORDERS[int(np.searchsorted(CARBON_BOND_LIMITS_A, bond.distance_A))]
                for bond, partner in zip(found, partners, strict=True)
                if partner == "C"
            )
            softer = sum(_RANK[partner] > _RANK["C"] for partner in partners)
            charges[i] = max(-4.0, 4.0 - orders - 2.0 * softer)
    return charges


#: Valence electrons and electron pairs around the atom of the nonmetals that keep to the octet (nitrogen: three bonds).
_OCTETS = {"P": (5, 4), "S": (6, 4), "Se": (6, 4), "Cl": (7, 4), "Br": (7, 4), "N": (5, 3)}


def full_octet_charge(element: str) -> float:
    """The highest charge of such an atom: all its valence electrons."""
    return float(_OCTETS[element][0])


def octet_charges(entries: SiteSpecies, bonds: Sequence[Bond], found: Sequence[Role]) -> dict[int, float]:
    """Oxidation states of positive phosphorus, sulfur, selenium, chlorine, bromine and nitrogen, by entry.

    Such an atom gives all its valence electrons but two for each corner of its tetrahedron without a partner (a lone
    pair: sulfite), two for each partner that draws less hard (hydrogen in phosphite), and one for each positive partner
    of its own kind (hexathiohypodiphosphate).
    """
    positive = (Role.CATION, Role.CATION_PAIR)
    partners: dict[int, list[int]] = {
        i: [] for i, element in enumerate(entries.elements) if element in _OCTETS and found[i] in positive
    }
    for first, second, *_ in bonds:
        # Metalloids come close to phosphorus across an oxygen without a bond.
        if first in partners and _RANK[entries.elements[second]] <= _RANK["P"]:
            partners[first].append(second)
    charges = {}
    for i, bonded in partners.items():
        element = entries.elements[i]
        electrons, corners = _OCTETS[element]
        softer = sum(_RANK[entries.elements[j]] > _RANK[element] or entries.elements[j] == "H" for j in bonded)
        same = sum(entries.elements[j] == element and found[j] is Role.CATION_PAIR for j in bonded)
        # Phosphorus in salts has no lone pair: its third corner is hydrogen's or, in a distorted file, too far off.
        empty = 0 if element == "P" else max(0, corners - len(bonded))
        if element in ("S", "Se") and len(bonded) == 2 and all(entries.elements[j] == "O" for j in bonded):
            empty = 1  # sulfur dioxide has double bonds
        if element == "N" and len(bonded) == 1:
            continue  # at the end of a chain, bond orders would be needed
        charges[i] = float(electrons - 2 * empty - same - 2 * softer)
    return charges
