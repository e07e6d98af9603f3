"""Structures in: files of every usual kind, checks, oxidation states, and a hash that knows a crystal again."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

import numpy as np

from .errors import NoMobileIonError, Reason, StructureError
from .nonmetal_bonds import SPLIT_OCCUPANCY
from .oxidation import assign_oxidation_states
from .structure_files import FULL_OCCUPANCY, NamedStructure, iterate_jsonl, read_structures, structure_from_row

if TYPE_CHECKING:
    from pymatgen.core import PeriodicSite, Structure

__all__ = [
    "NamedStructure",
    "assign_oxidation_states",
    "check_structure",
    "iterate_jsonl",
    "read_structures",
    "structure_from_row",
    "structure_hash",
]

#: No two atoms of a crystal lie closer than this (Angstrom); H-H in H2 is 0.74.
CLOSEST_CONTACT_A = 0.5
#: The search for contacts divides the cell into boxes of its range; no more than about so many, or a cell of 300
#: Angstrom (lengths that were given in picometres) takes 6 GB.
MOST_SEARCH_BOXES = 1e6
#: Sites of the same elements closer than this (Angstrom) are one site that is listed twice.
SAME_SITE_A = 0.05

_HASH_VERSION = "hopflow structure 1"
_BINS = 1000
# Bins of 1/1000 end at 0.41667/1000 above their label, as far as can be from the fractions that atoms like to sit on
# (multiples of 1/2, 1/3, 1/4, 1/5, 1/6, 1/8, 1/12, 1/16, 1/24), so that noise moves none of them.
_BIN_SHIFT = 1 - 0.41667


def check_structure(
    structure: Structure,
    ion: str,
    max_atoms: int | None = None,
    partial_occupancies: bool = False,
    ion_required: bool = True,
) -> None:
    """Refuse a structure that no stage can use.

    Parameters
    ----------
    structure
        With or without oxidation states.
    ion
        Element symbol of the mobile ion.
    max_atoms
        Largest number of atoms accepted; None for no limit.
    partial_occupancies
        Accept partly occupied and mixed sites. Two of them may then lie closer than 0.5 Angstrom where they cannot
        both be full: their occupancies add up to one at most, as those of an atom that is split over several
        positions do, with a tenth for the uncertainty of refined occupancies. Sites that could be full at once are
        refused as they are in an ordered crystal, and so is a site whose occupancies add up to more than 1.02.
    ion_required
        Refuse a structure without the ion.

    Raises
    ------
    StructureError
        Empty, partly occupied, more than fully occupied, too many atoms, or two atoms closer than 0.5 Angstrom;
        ``reason`` says which.
    NoMobileIonError
        The ion does not occur.
    """
    atoms = len(structure)
    if atoms == 0:
        raise StructureError("The structure holds no atoms.", Reason.EMPTY_STRUCTURE)
    name = structure.composition.reduced_formula
    if ion_required and ion not in {element.symbol for species in structure.species_and_occu for element in species}:
        raise NoMobileIonError(f"The structure {name} contains no {ion}; choose another mobile ion or leave it out.")
    occupancies = np.array([site.species.num_atoms for site in structure])
    if not structure.is_ordered:
        partial = sum(not site.is_ordered for site in structure)
        if not partial_occupancies:
            raise StructureError(
                f"{partial} of {atoms} sites of {name} are partly occupied; order the structure first (for example "
                "with pymatgen's OrderDisorderedStructureTransformation).",
                Reason.PARTIAL_OCCUPANCY,
            )
        fullest = int(np.argmax(occupancies))
        if occupancies[fullest] > FULL_OCCUPANCY:
            raise StructureError(
                f"The occupancies of the site {_named(structure[fullest])} of {name} add up to "
                f"{occupancies[fullest]:.3g}, more than one; correct them.",
                Reason.OCCUPANCY_ABOVE_ONE,
            )
    if max_atoms is not None and atoms > max_atoms:
        raise StructureError(
            f"The structure {name} has {atoms} atoms, more than this stage's limit of {max_atoms}; use a smaller cell "
            "or raise the limit.",
            Reason.TOO_MANY_ATOMS,
        )
    _check_contacts(structure, name, occupancies)


def _check_contacts(structure: Structure, name: str, occupancies: np.ndarray) -> None:
    reach_A = max(CLOSEST_CONTACT_A, (structure.volume / MOST_SEARCH_BOXES) ** (1 / 3))
    first, second, _, distances = structure.get_neighbor_list(reach_A)
    near = distances <= CLOSEST_CONTACT_A
    first, second, distances = first[near], second[near], distances[near]
    both_full = occupancies[first] + occupancies[second] > SPLIT_OCCUPANCY
    if not both_full.any():
        return
    closest = int(np.argmin(np.where(both_full, distances, np.inf)))
    one, other = structure[int(first[closest])], structure[int(second[closest])]
    distance = float(distances[closest])
    if structure.is_ordered:
        what, advice = f"Two atoms of {name}", "look for sites listed twice"
    else:
        what = f"Two sites of {name} that could be full at once"
        advice = "look for sites listed twice or wrong occupancies"
    if distance < SAME_SITE_A and one.species.elements == other.species.elements:
        advice = "the site is listed twice; remove one"
    raise StructureError(
        f"{what} ({_named(one)} and {_named(other)}) lie {distance:.2f} Angstrom apart; {advice}.",
        Reason.CLOSE_CONTACT,
    )


def _named(site: PeriodicSite) -> str:
    """A site as its file calls it, with what sits on it where that is not the same."""
    content = str(site.specie) if site.is_ordered else site.species_string
    label = str(site.label or "")
    return content if label in ("", content, site.species_string) else f"{label} ({content})"


def structure_hash(structure: Structure) -> str:
    """SHA-256 of a crystal in its given cell, as 64 hexadecimal digits.

    The hash depends on species (with oxidation states, where there are any), occupancies, cell lengths and angles and
    fractional coordinates; not on the order of the sites, the orientation of the cell in space, or whole lattice
    translations of a site. Lengths count in bins of 0.001 Angstrom, angles of 0.01 degree, coordinates of 0.001. Bin
    edges lie where atoms on special positions do not, so noise below 8e-5 of a coordinate leaves these alone. A
    coordinate without symmetry may lie at an edge by chance: equal hashes mean equal crystals within the bins, but two
    files of one crystal that were rounded differently can, rarely, get two hashes (and are computed twice, not
    confused).
    """
    cell = [_bin(length * 1000) for length in structure.lattice.abc]
    cell += [_bin(angle * 100) for angle in structure.lattice.angles]
    sites = sorted(
        (
            ",".join(
                f"{species}:{occupancy:.3f}"
                for species, occupancy in sorted(site.species.items(), key=lambda s: str(s[0]))
            ),
            *(_bin(float(x) % 1.0 * _BINS) % _BINS for x in site.frac_coords),
        )
        for site in structure
    )
    text = json.dumps([_HASH_VERSION, cell, sites], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _bin(value: float) -> int:
    return math.floor(value + _BIN_SHIFT)
