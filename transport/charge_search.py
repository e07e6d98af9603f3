"""Search for charges: a crystal as amounts of kinds of atoms, and the assignments that balance it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING, Literal

import numpy as np

from .bond_valence_evidence import POTENTIAL_WEIGHT_PER_V, BondValenceEvidence
from .charge_balance import Assignment, Choice, average_assignments, balanced_by, choice, whole_assignments
from .nonmetal_bonds import (
    Bond,
    Kind,
    Role,
    SiteSpecies,
    carbon_charges,
    full_octet_charge,
    nonmetal_bonds,
    octet_charges,
    roles,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Ordered crystals balance exactly; this is float noise, in charges an atom.
CHARGE_TOLERANCE = 1e-3
#: Occupancies of three digits (0.333 and 0.667) leave so much of the positive charge unbalanced without any meaning.
ROUNDING_TOLERANCE = 2e-3
#: Up to this share of the positive charge, an imbalance is taken for uncertain occupancies (light atoms beside heavy
#: ones are refined to a few percent) or single missing atoms, and accepted with a warning. The charges of single ions
#: stay right; what is off is the amount of them, and by less than the differences between published refinements.
IMBALANCE_TOLERANCE = 0.05
#: Potential against lithium (V) at which electrons pass to and from whatever an unbalanced formula leaves out.
SURROUNDINGS_POTENTIAL_V = 3.0
#: Carbon's average charge may differ from the one that its bonds suggest by this much; lengths give bond orders to
#: about 0.2.
CARBON_TOLERANCE = 1.0
Counted = Literal["all", "full", "none"]

#: All carbon of a crystal.
CARBON = Kind("C")


@dataclass(frozen=True)
class Crystal:
    """A structure with what the search looks at.

    Attributes
    ----------
    structure, ion
        The crystal and its mobile ion.
    entries, bonds, kinds
        Species site by site, bonds among nonmetals, and the kind of every entry.
    amounts
        Atoms of each kind, in the smallest whole numbers where the crystal allows them, else in the cell.
    """

    structure: Structure
    ion: str
    entries: SiteSpecies
    bonds: list[Bond]
    kinds: list[Kind]
    amounts: dict[Kind, float]

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return str(self.structure.composition.reduced_formula)

    @property
    def is_ordered(self) -> bool:
        """Whether every site is fully occupied by one species."""
        return bool((self.entries.occupancies == 1).all()) and len(self.entries.sites) == len(self.structure)

    def choices(self, rare: bool = False) -> dict[Kind, Choice]:
        """Charges that each kind may take; ``rare`` adds those of metals above the usual ones."""
        found = {kind: choice(kind, rare, strict=self.is_ordered) for kind in self.amounts}
        found.update({kind: Choice(()) for kind in found if kind.element == "C"})
        if any(kind.role in (Role.ANION, Role.ANION_PAIR) for kind in found):
            return found
        # No anion by its bonds: an alloy, or the ions of a salt are metals (aurides). The hardest drawing one is it.
        from pymatgen.core import Element

        anion = max(found, key=lambda kind: np.nan_to_num(Element(kind.element).X))
        return {**found, anion: Choice(tuple(q for q in found[anion].states if q < 0))}


def crystal_of(structure: Structure, ion: str) -> Crystal:
    """Look at a structure's bonds and count its kinds of atoms."""
    entries = SiteSpecies.of(structure)
    bonds = nonmetal_bonds(structure, entries)
    kinds = [Kind(element, role) for element, role in zip(entries.elements, roles(entries, bonds), strict=True)]
    amounts: dict[Kind, float] = {}
    for kind, occupancy in zip(kinds, entries.occupancies.tolist(), strict=True):
        amounts[kind] = amounts.get(kind, 0.0) + occupancy
    if all(abs(amount - round(amount)) < 1e-6 for amount in amounts.values()):
        divisor = reduce(gcd, (round(amount) for amount in amounts.values()))
        amounts = {kind: round(amount) / divisor for kind, amount in amounts.items()}
    return Crystal(structure, ion, entries, bonds, kinds, amounts)


class ChargeSearch:
    """Assignments of the formula, with all carbon as one kind whose charge its bonds give.

    ``counted`` says which positive nonmetals of an ordered crystal have the charge that the number of their bonds
    tells: all, those with a partner at every corner, or none.
    """

    carbon: float | None = None

    def __init__(self, crystal: Crystal, choices: Mapping[Kind, Choice], counted: Counted = "all") -> None:
        self.crystal = crystal
        self.choices = dict(choices)
        self.amounts: dict[Kind, float] = {}
        for kind, amount in crystal.amounts.items():
            self.amounts[_merged(kind)] = self.amounts.get(_merged(kind), 0.0) + amount
        if CARBON in self.amounts:
            given = next((chosen for kind, chosen in choices.items() if kind.element == "C" and chosen.states), None)
            estimates = carbon_charges(crystal.entries, crystal.bonds)
            weights = np.array([crystal.entries.occupancies[i] for i in estimates])
            self.carbon = float(np.average(list(estimates.values()), weights=weights))
            self.choices[CARBON] = given or Choice((self.carbon,))
        self._octets = octet_charges(crystal.entries, crystal.bonds, [kind.role for kind in crystal.kinds])
        if counted != "none" and crystal.is_ordered:
            self._fix_octets(choices, counted)
        self.evidence = BondValenceEvidence(crystal.structure, crystal.entries, crystal.kinds)

    def _fix_octets(self, choices: Mapping[Kind, Choice], counted: Counted) -> None:
        """Charges that the bonds tell, where these can be counted: positive nonmetals of ordered crystals."""
        for kind in self.amounts:
            charges = [
                self._octets[i] for i, other in enumerate(self.crystal.kinds) if other == kind and i in self._octets
            ]
            if counted == "full" and any(charge != full_octet_charge(kind.element) for charge in charges):
                continue
            # The user's states stay.
            if charges and len(choices[kind].states) != 1 and float(np.mean(charges)):
                self.choices[kind] = Choice((float(np.mean(charges)),))

    def exact(self) -> list[Assignment]:
        """Whole charges, or averages of metals that are often mixed-valent; the likeliest first."""
        tolerance = _rounding(self.amounts, self.choices)
        found = whole_assignments(self.amounts, self.choices, tolerance, self.evidence)
        found += average_assignments(self.amounts, self.choices, self.crystal.ion, True, self.evidence)
        if self.crystal.is_ordered:
            found += self.seldom()
        return sorted(found, key=lambda assignment: -assignment.log_likelihood)

    def seldom(self) -> list[Assignment]:
        """Averages of other elements; in a disordered crystal, of metals alone: P4.9+ there is an occupancy's fault."""
        allowed = {
            kind: chosen if self.crystal.is_ordered or kind.role is Role.METAL else Choice(chosen.states)
            for kind, chosen in self.choices.items()
        }
        return average_assignments(self.amounts, allowed, self.crystal.ion, False, self.evidence)

    def nearly(self) -> list[Assignment]:
        """Whole charges that balance within the tolerance."""
        tolerance = IMBALANCE_TOLERANCE * _anionic(self.amounts, self.choices)
        found = whole_assignments(self.amounts, self.choices, tolerance, self.evidence)
        # These differ in total charge; electrons that are too many or missing count at what the surroundings take.
        per_electron = POTENTIAL_WEIGHT_PER_V * SURROUNDINGS_POTENTIAL_V
        return sorted(found, key=lambda a: abs(a.imbalance) - per_electron * a.imbalance - a.log_likelihood)

    def carbon_free(self) -> list[Assignment]:
        """Carbon takes what balances the others, not far from what its bonds say; carbides, whatever is negative."""
        expected = float(self.carbon or 0.0)
        # A lone pair, which bonds do not show, takes two electrons more.
        near = Choice((), max(-4.0 - 1e-9, expected - 2 - CARBON_TOLERANCE), expected + CARBON_TOLERANCE)
        carbon = {kind.role for kind in self.crystal.amounts if kind.element == "C"}
        if carbon <= {Role.ANION, Role.ANION_PAIR} and all(kind.element != "H" for kind in self.amounts):
            expected, near = -4.0, Choice((), -4.0 - 1e-9, 0.0)
        found = balanced_by(CARBON, self.amounts, {**self.choices, CARBON: near}, self.evidence)
        amount = self.amounts[CARBON]
        return sorted(found, key=lambda a: (round(abs(a.charges[CARBON] - expected) * amount), -a.log_likelihood))

    def spread(self, assignment: Assignment) -> np.ndarray:
        """Charge of every entry."""
        charges = np.array([float(assignment.charges[_merged(kind)]) for kind in self.crystal.kinds])
        for i, charge in self._octets.items():
            # Sulfite beside sulfate: the kind has the average, its atoms do not.
            if self.choices[self.crystal.kinds[i]].states == (charges[i],):
                charges[i] = charge
        return charges


def _merged(kind: Kind) -> Kind:
    return CARBON if kind.element == "C" else kind


def _rounding(amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice]) -> float:
    if all(float(amount).is_integer() for amount in amounts.values()):
        return CHARGE_TOLERANCE
    return ROUNDING_TOLERANCE * _anionic(amounts, choices)


def _anionic(amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice]) -> float:
    return sum(-amount * min((*choices[kind].states, 0.0)) for kind, amount in amounts.items())
