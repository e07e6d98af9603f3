"""Sites of the mobile ion in crystals where one ion is spread over several positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import NoMobileIonError
from .nonmetal_bonds import SPLIT_OCCUPANCY

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Positions closer than this (Angstrom) are taken for one site by default. Two lithium ions come no closer than about
#: 2.3 Angstrom, and neighbouring sites of garnets and argyrodites lie 1.5 or more apart; split positions, under 1.
JOIN_DISTANCE_A = 1.0


@dataclass(frozen=True)
class MobileSite:
    """A site of the mobile ion; several listed positions where these are split positions of one ion.

    Attributes
    ----------
    frac_coords
        Occupancy-weighted centre of the members, each coordinate in [0, 1).
    occupancy
        Ions on the site: the members' sum.
    members
        Indices of the structure's sites, ascending.
    spread_A
        Largest distance between two members in Angstrom; zero for one.
    """

    frac_coords: tuple[float, float, float]
    occupancy: float
    members: tuple[int, ...]
    spread_A: float


def mobile_sites(structure: Structure, ion: str, join_distance_A: float = JOIN_DISTANCE_A) -> list[MobileSite]:
    """Sites of the mobile ion, with split positions joined.

    Positions are joined closest pair first. Two groups become one if no member is farther than ``join_distance_A``
    from any other, and if they cannot both be full: the ion's occupancies add up to one at most, with a tenth for the
    uncertainty of refined occupancies. So chains of positions never run together into one site, and full sites stay
    apart.

    Parameters
    ----------
    structure
        Ordered or not, with or without oxidation states.
    ion
        Element symbol.
    join_distance_A
        In Angstrom; zero joins nothing.

    Returns
    -------
    list of MobileSite
        By the smallest member index.

    Raises
    ------
    NoMobileIonError
        The structure does not contain the ion.
    """
    amounts = {
        index: sum(float(amount) for species, amount in site.species.items() if species.symbol == ion)
        for index, site in enumerate(structure)
    }
    amounts = {index: amount for index, amount in amounts.items() if amount > 0}
    if not amounts:
        raise NoMobileIonError(f"The structure {structure.composition.reduced_formula} contains no {ion}.")
    # Each group lists its members' unwrapped Cartesian positions (Angstrom), in one common image.
    groups = {index: {index: np.array(structure[index].coords)} for index in amounts}
    group_of = {index: index for index in amounts}
    for first, second, image in _pairs(structure, amounts, join_distance_A):
        one, other = group_of[first], group_of[second]
        if one == other:
            continue
        shift = structure[second].coords + image @ structure.lattice.matrix - structure[first].coords
        offset = groups[one][first] + shift - groups[other][second]
        moved = {index: position + offset for index, position in groups[other].items()}
        merged = {**groups[one], **moved}
        full = sum(amounts[index] for index in merged) > SPLIT_OCCUPANCY
        if full or _spread(list(merged.values())) > join_distance_A:
            continue
        groups[one] = merged
        del groups[other]
        group_of.update(dict.fromkeys(moved, one))
    return sorted((_site(structure, amounts, group) for group in groups.values()), key=lambda site: site.members)


def _pairs(
    structure: Structure, amounts: dict[int, float], join_distance_A: float
) -> list[tuple[int, int, np.ndarray]]:
    """Pairs of positions within the distance, closest first: site, site, lattice image of the second."""
    if join_distance_A <= 0:
        return []
    first, second, images, distances = structure.get_neighbor_list(join_distance_A)
    # Equal distances in the order of the sites, so that the answer does not hang on float noise.
    order = sorted(range(len(distances)), key=lambda n: (round(float(distances[n]), 4), first[n], second[n]))
    return [
        (int(first[n]), int(second[n]), images[n])
        for n in order
        if first[n] < second[n] and int(first[n]) in amounts and int(second[n]) in amounts
    ]


def _spread(positions: list[np.ndarray]) -> float:
    points = np.array(positions)
    return float(np.linalg.norm(points[:, None] - points[None, :], axis=-1).max())


def _site(structure: Structure, amounts: dict[int, float], group: dict[int, np.ndarray]) -> MobileSite:
    members = tuple(sorted(group))
    weights = [amounts[index] for index in members]
    centre = np.average([group[index] for index in members], axis=0, weights=weights)
    a, b, c = (float(x % 1.0 % 1.0) for x in structure.lattice.get_fractional_coords(centre))
    return MobileSite((a, b, c), float(sum(weights)), members, _spread(list(group.values())))
