"""Radii of the atoms that the mobile ion moves between.

Crystal radii of R. D. Shannon, Acta Cryst. A 32 (1976) 751, by charge and coordination number, as pymatgen tabulates
them. Shannon's crystal radii (oxygen 1.24 with four neighbours) rather than his ionic ones (1.38), because the
thresholds of B. He et al., Sci. Data 7 (2020) 153, below which an ion cannot pass, count from them. The coordination
number is the effective one of R. Hoppe, Z. Kristallogr. 150 (1979) 23, which needs no cut-off; radii are interpolated
in it and in the charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from .bond_valence_parameters import ion_name
from .nonmetal_bonds import element_symbol

if TYPE_CHECKING:
    from pymatgen.core import PeriodicSite, Structure

RadiusMethod = Literal["shannon", "effective"]
METHODS: tuple[RadiusMethod, ...] = ("shannon", "effective")

#: Coordination number of an ion that has no neighbour of opposite charge.
DEFAULT_COORDINATION = 6.0
#: Neighbours farther than this multiple of the nearest have no weight in the effective coordination number.
_FARTHEST = 1.6
_SEARCHES_A = (4.0, 6.0, 9.0)
#: Ions of opposite charge that are closer sit on split sites, not in one crystal.
CLOSEST_NEIGHBOUR_A = 0.5
_ROMAN = {
    roman: number
    for number, roman in enumerate(["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"], 1)
} | {"XIV": 14}


@dataclass(frozen=True)
class FrameworkRadii:
    """Radii of the framework's atoms.

    Attributes
    ----------
    sites
        Indices of the structure's sites that make the framework, int, shape (atoms,).
    species
        What counts there: the species with the largest occupancy, the mobile ion aside.
    radii_A
        Shape (atoms,).
    sources
        Where each radius comes from: ``given``, ``shannon``, ``effective`` or ``covalent``.
    notes
        Sentences about radii and sites that are not what the method says.
    """

    sites: np.ndarray
    species: tuple[str, ...]
    radii_A: np.ndarray
    sources: tuple[str, ...]
    notes: tuple[str, ...]


def framework_radii(
    structure: Structure, ion: str, method: RadiusMethod = "shannon", given: Mapping[str, float] | None = None
) -> FrameworkRadii:
    """Radius of every site that is not the mobile ion's alone.

    A radius that is given wins. ``shannon`` takes the crystal radius by charge and effective coordination number;
    ``effective`` the least (distance - crystal radius) of the neighbours of opposite charge, so that spheres touch.
    Where Shannon has no radius (hydride, phosphide, carbide) the effective one is taken, and the covalent radius of
    B. Cordero et al., Dalton Trans. (2008) 2832, where that fails, too, or where there are no charges at all.

    Parameters
    ----------
    structure
        With or without oxidation states; sites may be partly occupied or mixed.
    ion
        Element symbol of the mobile ion.
    method
        ``shannon`` or ``effective``.
    given
        Radii in Angstrom by species (``O2-``), site label or element symbol, in this order of precedence.
    """
    if method not in METHODS:
        raise ValueError(f"radii must be 'shannon' or 'effective', not {method!r}")
    given = given or {}
    sites, majority, mixed = [], [], []
    for index, site in enumerate(structure):
        if any(element_symbol(species) != ion for species in site.species):
            sites.append(index)
            majority.append(_framework_species(site, ion))
            if not site.is_ordered:
                mixed.append(index)
    charges = [float(getattr(_framework_species(site, ion), "oxi_state", None) or 0.0) for site in structure]
    neighbours = _opposite_neighbours(structure, charges) if any(charges) else {}
    crystal_radii: dict[int, float | None] = {}

    def crystal_radius(index: int) -> float | None:
        if index not in crystal_radii:
            near = neighbours.get(index)
            number = effective_coordination(near[1], near[2]) if near is not None else DEFAULT_COORDINATION
            crystal_radii[index] = shannon_radius_A(
                element_symbol(_framework_species(structure[index], ion)), charges[index], number
            )
        return crystal_radii[index]

    def effective_radius(index: int) -> float | None:
        near = neighbours.get(index)
        if near is None:
            return None
        known = [d - r for j, d in zip(near[0], near[1], strict=True) if (r := crystal_radius(int(j))) is not None]
        return min(known) if known and min(known) > 0 else None

    radii, sources, missing = [], [], {}
    for index, species in zip(sites, majority, strict=True):
        site, name, element = structure[index], _name(species), element_symbol(species)
        own = next((given[key] for key in (name, str(species), str(site.label), element) if key in given), None)
        radius: float | None
        if own is not None:
            radius, source = float(own), "given"
        elif charges[index]:
            by_method = {"shannon": crystal_radius, "effective": effective_radius}
            radius, source = by_method[method](index), str(method)
            if radius is None:
                radius, source = effective_radius(index), "effective"
                missing[name] = "effective"
        else:
            radius, source = None, "covalent"
        if radius is None:
            radius, source = covalent_radius_A(element), "covalent"
            missing[name] = "covalent"
        radii.append(max(radius, 0.0))
        sources.append(source)
    return FrameworkRadii(
        sites=np.array(sites, dtype=int),
        species=tuple(_name(species) for species in majority),
        radii_A=np.array(radii),
        sources=tuple(sources),
        notes=tuple(_notes(missing, len(mixed), any(charges))),
    )


def _notes(missing: dict[str, str], mixed: int, charged: bool) -> list[str]:
    notes = []
    if not charged:
        notes.append("The crystal has no oxidation states, so the radii are covalent ones of neutral atoms.")
    else:
        for source, how in (
            ("effective", "its distance to the nearest ion of opposite charge less that ion's radius"),
            ("covalent", "the covalent one of the neutral atom"),
        ):
            names = ", ".join(sorted(name for name, found in missing.items() if found == source))
            if names:
                notes.append(f"Shannon's table has no radius for {names}; the radius is {how}.")
    if mixed:
        sites = "site counts" if mixed == 1 else "sites count"
        notes.append(f"{mixed} partly occupied or mixed framework {sites} as full of the most frequent species.")
    return notes


@lru_cache(maxsize=4096)
def shannon_radius_A(element: str, charge: float, coordination: float) -> float | None:
    """Shannon's crystal radius in Angstrom (high spin), interpolated in coordination number and charge.

    Outside the tabulated range the nearest entry counts. None when the element has no entry of that sign.
    """
    from pymatgen.core import Element

    table = Element(element).data.get("Shannon radii") or {}
    if not charge:
        return None
    by_charge: dict[int, float] = {}
    for state, by_number in table.items():
        # pymatgen's table has entries without a charge, of metals and of europium.
        if not state or int(state) * charge <= 0:
            continue
        numbers, radii = [], []
        for roman, by_spin in by_number.items():
            if roman not in _ROMAN or not by_spin:
                continue  # square planar and pyramidal ones
            entry = by_spin.get("") or by_spin.get("High Spin") or next(iter(by_spin.values()))
            numbers.append(_ROMAN[roman])
            radii.append(float(entry["crystal_radius"]))
        if numbers:
            order = np.argsort(numbers)
            by_charge[int(state)] = float(np.interp(coordination, np.array(numbers)[order], np.array(radii)[order]))
    if not by_charge:
        return None
    states = sorted(by_charge)
    return float(np.interp(charge, states, [by_charge[state] for state in states]))


def covalent_radius_A(element: str) -> float:
    """Covalent radius in Angstrom of a neutral atom."""
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[element]])


def effective_coordination(distances_A: np.ndarray, weights: np.ndarray) -> float:
    """Hoppe's effective coordination number of an ion.

    Parameters
    ----------
    distances_A
        Distances to the neighbours of opposite charge, shape (neighbours,).
    weights
        Their occupancies, shape (neighbours,).
    """
    distances, weights = np.asarray(distances_A, dtype=float), np.asarray(weights, dtype=float)
    average = float(distances.min())
    for _ in range(50):
        share = weights * np.exp(1 - (distances / average) ** 6)
        following = float((share * distances).sum() / share.sum())
        if abs(following - average) < 1e-10:
            break
        average = following
    return float((weights * np.exp(1 - (distances / average) ** 6)).sum())


def _opposite_neighbours(
    structure: Structure, charges: list[float]
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For every site that has some: neighbours of opposite charge, their distances and occupancies."""
    signs = np.sign(charges)
    occupancies = np.array([site.species.num_atoms for site in structure])
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for reach in _SEARCHES_A:
        first, second, _, distance = structure.get_neighbor_list(reach)
        opposite = (signs[first] * signs[second] < 0) & (distance > CLOSEST_NEIGHBOUR_A)
        first, second, distance = first[opposite], second[opposite], distance[opposite]
        for index in set(first.tolist()) - found.keys():
            own = first == index
            if distance[own].min() * _FARTHEST <= reach or reach == _SEARCHES_A[-1]:
                found[index] = second[own], distance[own], occupancies[second[own]]
        if all(index in found for index, charge in enumerate(charges) if charge):
            break
    return found


def _framework_species(site: PeriodicSite, ion: str) -> object:
    """The most frequent species of a site, the mobile ion aside unless it has the site alone."""
    others = {s: o for s, o in site.species.items() if element_symbol(s) != ion} or dict(site.species.items())
    return max(others, key=lambda s: others[s])


def _name(species: object) -> str:
    charge = getattr(species, "oxi_state", None)
    element = element_symbol(species)
    return element if charge is None else ion_name(element, float(charge))
