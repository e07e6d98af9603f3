"""Oxidation states: charge-balanced, or an error that says what was tried; never a wrong charge in silence.

Order of trust: states that the user gives, states that the structure brings, a formula that allows only one assignment,
bond valence sums (pymatgen's ``BVAnalyzer``, M. O'Keeffe and N. Brese, JACS 113 (1991) 3226), the most probable
assignment of the formula alone. An assignment counts only when it is charge-balanced and fits the bonds: an O2- with
a bond to another O2- is a peroxide's and is thrown out, and so is an O- without such a bond.

Mixed valence that the formula cannot resolve (Fe3O4) gives every atom of that element the average charge. That is exact
for charge balance, and cations of the framework enter the bond-valence energy only through a term linear in charge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from .bond_valence_parameters import ion_name, load_parameters
from .errors import OxidationStateError, Reason, StructureError

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: BVAnalyzer tries at most this many combinations; the most probable state of each site comes first.
#: A bound on work, not on time, so that the answer does not depend on how busy the machine is.
MAX_PERMUTATIONS = 500

#: Atoms of one element closer than this times the sum of their covalent radii are bonded.
BOND_FACTOR = 1.2

#: The formula alone is searched through at most this many assignments.
MAX_ASSIGNMENTS = 100_000

CHARGE_TOLERANCE = 1e-3

#: An error message names so many failed attempts.
MOST_ATTEMPTS = 4
_LEAST_PRIOR = 1e-4
_NONMETALS = frozenset({"C", "N", "O", "F", "P", "S", "Cl", "Se", "Br", "Te", "I"})
_NEVER_METALS = _NONMETALS - {"C", "P", "Te"}
_COVALENT_PARTNERS = frozenset({"H", "B", "Si", "Ge", "As", "Sb"})
#: Charges of elements that the bond-valence table does not hold, or holds too narrowly.
_MORE_STATES: dict[str, tuple[int, ...]] = {
    "H": (1, -1),
    "C": (3, -4),
    "Si": (-4,),
    "P": (4, -3),
    "S": (3, 5),
    "Br": (5,),
    "Pm": (3,),
    "Ac": (3,),
    "Pa": (4, 5),
    "U": (3, 4, 5),
    "Np": (4, 5, 6),
    "Pu": (3, 4, 6),
}


def assign_oxidation_states(structure: Structure, ion: str, given: Mapping[str, float] | None = None) -> Structure:
    """A copy of the structure with a charge on every site.

    Parameters
    ----------
    structure
        Ordered structure.
    ion
        Element symbol of the mobile ion; its atoms must all get the same charge.
    given
        Charges by element symbol. They win over everything; elements that are left out are found from the formula.

    Returns
    -------
    pymatgen.core.Structure
        ``properties["oxidation_states_from"]`` says how the charges were found.

    Raises
    ------
    OxidationStateError
        No charge-balanced assignment fits; the message names what was tried.
    StructureError
        The structure is empty or partly occupied.
    """
    if len(structure) == 0:
        raise StructureError(Reason.EMPTY_STRUCTURE.sentence, Reason.EMPTY_STRUCTURE)
    if not structure.is_ordered:
        raise StructureError(Reason.PARTIAL_OCCUPANCY.sentence, Reason.PARTIAL_OCCUPANCY)
    if given:
        charges, source = _complete(structure, ion, given)
        return _decorated(structure, charges, source)
    tried: list[str] = []
    bonds = _nonmetal_bonds(structure)
    for source, charges, failure in _assignments(structure, ion):
        objection = failure or _objection(structure, ion, charges, bonds)
        if objection is None:
            return _decorated(structure, charges, source)
        if (attempt := f"{source}: {objection}") not in tried and len(tried) < MOST_ATTEMPTS:
            tried.append(attempt)
    raise OxidationStateError(
        f"No charge-balanced oxidation states could be assigned to {structure.composition.reduced_formula} "
        f"({'; '.join(tried)}); give them explicitly, or leave the crystal out if it is a metal."
    )


def _assignments(structure: Structure, ion: str) -> Iterator[tuple[str, np.ndarray, str | None]]:
    """Candidates in order of trust: where from, charges (sites,), or why there are none."""
    nothing = np.zeros(len(structure))
    if any(getattr(site.specie, "oxi_state", None) is not None for site in structure):
        yield "structure", np.array([float(getattr(site.specie, "oxi_state", None) or 0) for site in structure]), None
    amounts = _reduced_amounts(structure)
    guesses = _formula_guesses(amounts, ion)
    unusual = [] if guesses else _formula_guesses(amounts, ion, rare=True)
    whole = [guess for guess in guesses if all(float(charge).is_integer() for charge in guess.values())]
    if len(whole) == 1:
        yield "formula (the only assignment)", _by_element(structure, whole[0]), None
    try:
        yield "bond valence sums", _bond_valence_sums(structure), None
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        yield "bond valence sums", nothing, _plain(error)
    if not (guesses or unusual):
        yield "formula", nothing, "no assignment is charge-balanced"
    for guess in guesses or unusual:
        averaged = [f"average {ion_name(e, q)}" for e, q in guess.items() if not float(q).is_integer()]
        notes = ["rare states"] * bool(unusual) + averaged
        yield f"formula ({', '.join(notes)})" if notes else "formula", _by_element(structure, guess), None


def _objection(structure: Structure, ion: str, charges: np.ndarray, bonds: list[tuple[int, int, float]]) -> str | None:
    """Why an assignment cannot be right, or None."""
    if abs(charges.sum()) > CHARGE_TOLERANCE * len(structure):
        return f"the charges add up to {charges.sum():+.3g}"
    elements = [site.specie.symbol for site in structure]
    if (charges == 0).any():
        return f"{elements[int(np.argmin(np.abs(charges)))]} gets no charge"
    mobile = {float(charge) for element, charge in zip(elements, charges, strict=True) if element == ion}
    if len(mobile) > 1:
        return f"{ion} gets different charges ({', '.join(ion_name(ion, charge) for charge in sorted(mobile))})"
    bonded = {}
    for i, j, distance in bonds:
        if charges[i] < 0 and elements[i] == elements[j] and charges[j] < 0:
            bonded[i] = bonded[j] = distance
        elif charges[i] < 0 and _draws_harder(elements[j], elements[i]):
            return f"{ion_name(elements[i], charges[i])} does not fit its bond to {elements[j]}"
    closed_shell = dict(load_parameters().anions)
    for i, (element, charge) in enumerate(zip(elements, charges, strict=True)):
        if charge > 0 or element not in closed_shell:
            continue
        if i in bonded and charge <= closed_shell[element]:
            return f"{ion_name(element, charge)} does not fit an {element}-{element} bond of {bonded[i]:.2f} Angstrom"
        if i not in bonded and charge > closed_shell[element]:
            return f"{ion_name(element, charge)} without an {element}-{element} bond"
    return None


def _draws_harder(nonmetal: str, element: str) -> bool:
    """Whether a nonmetal takes the electrons of a bond, so that its partner is no anion (P-H counts as P3+, H+)."""
    from pymatgen.core import Element

    return (nonmetal in _NONMETALS and Element(nonmetal).X > Element(element).X) or (nonmetal, element) == ("P", "H")


def _nonmetal_bonds(structure: Structure) -> list[tuple[int, int, float]]:
    """Bonds that reach a nonmetal, in both directions: site, site, length in Angstrom."""
    from ase.data import atomic_numbers, covalent_radii

    elements = [site.specie.symbol for site in structure]
    nonmetal = np.array([element in _NONMETALS for element in elements])
    if not nonmetal.any():
        return []
    radii = np.array([float(covalent_radii[atomic_numbers[element]]) for element in elements])
    # Metals bond to nonmetals everywhere and tell nothing; only what can be a covalent partner is looked at.
    partner = nonmetal | np.isin(elements, list(_COVALENT_PARTNERS))
    first, second, _, distances = structure.get_neighbor_list(2 * BOND_FACTOR * float(radii[partner].max()))
    return [
        (int(i), int(j), float(d))
        for i, j, d in zip(first, second, distances, strict=True)
        if partner[i] and nonmetal[j] and d < BOND_FACTOR * (radii[i] + radii[j])
    ]


def _bond_valence_sums(structure: Structure) -> np.ndarray:
    from pymatgen.analysis.bond_valence import BV_PARAMS, BVAnalyzer
    from pymatgen.core import Element

    lacking = sorted({site.specie.symbol for site in structure if Element(site.specie.symbol) not in BV_PARAMS})
    if lacking:
        raise ValueError(f"no bond-valence lengths are known for {', '.join(lacking)}")
    bare = structure.copy()
    bare.remove_oxidation_states()
    return np.array(BVAnalyzer(max_permutations=MAX_PERMUTATIONS).get_valences(bare), dtype=float)


def _complete(structure: Structure, ion: str, given: Mapping[str, float]) -> tuple[np.ndarray, str]:
    """Charges by the user's states, with the elements left out taken from the formula."""
    amounts = _reduced_amounts(structure)
    unknown = [element for element in given if element not in amounts]
    if unknown:
        raise OxidationStateError(
            f"Oxidation states were given for {', '.join(unknown)}, which {structure.composition.reduced_formula} does "
            "not contain; remove them."
        )
    fixed = {element: float(charge) for element, charge in given.items()}
    if set(fixed) == set(amounts):
        total = sum(amounts[element] * charge for element, charge in fixed.items())
        if abs(total) > CHARGE_TOLERANCE * sum(amounts.values()):
            raise OxidationStateError(
                f"The oxidation states given for {structure.composition.reduced_formula} add up to {total:+.3g} a "
                "formula unit; correct them so that they add up to zero."
            )
        return _by_element(structure, fixed), "given"
    guesses = _formula_guesses(amounts, ion, fixed)
    if not guesses:
        raise OxidationStateError(
            f"No charge-balanced oxidation states of {structure.composition.reduced_formula} go with those given for "
            f"{', '.join(fixed)}; give those of all elements."
        )
    return _by_element(structure, guesses[0]), "given, completed by the formula"


def _formula_guesses(
    amounts: Mapping[str, int], ion: str, fixed: Mapping[str, float] | None = None, rare: bool = False
) -> list[dict[str, float]]:
    """Charge-balanced assignments of a formula, most probable first.

    One charge an element where that balances; else one element of several positive charges takes the average that
    does. ``rare`` allows metals every positive state known of them (Fe5+, Cu4+).
    """
    from pymatgen.core import Element

    elements = sorted(amounts, key=lambda e: Element(e).X if not math.isnan(Element(e).X) else 0.0)
    states = {e: ((float(fixed[e]),) if fixed and e in fixed else _states(e, rare)) for e in elements}
    # The most electronegative element is the anion; that halves the search and bars nonsense such as O6+ with S2-.
    anion = elements[-1]
    if not (fixed and anion in fixed):
        states[anion] = tuple(charge for charge in states[anion] if charge < 0)
    keep = max(map(len, states.values()))
    while math.prod(map(len, states.values())) > MAX_ASSIGNMENTS:
        # Ten elements of six states are sixty million assignments; the commonest states of each are tried.
        keep -= 1
        states = {e: tuple(sorted(sorted(qs, key=lambda q: -_log_prior(e, q))[:keep])) for e, qs in states.items()}
    solutions = _balanced(
        amounts, states, anion, lambda needed: any(abs(needed - state) < 1e-9 for state in states[anion])
    )
    if not solutions:
        for mixed in elements:
            positive = sorted(q for q in states[mixed] if q > 0)
            if len(positive) < 2 or mixed == ion:
                continue
            solutions += _balanced(amounts, states, mixed, _between(positive[0], positive[-1]))
    return sorted(solutions, key=lambda s: -sum(amounts[e] * _log_prior(e, q) for e, q in s.items()))


def _between(low: float, high: float) -> Callable[[float], bool]:
    return lambda charge: low < charge < high


def _balanced(
    amounts: Mapping[str, int],
    states: Mapping[str, tuple[float, ...]],
    balancing: str,
    allowed: Callable[[float], bool],
) -> list[dict[str, float]]:
    """All choices of one state an element for which ``balancing`` needs an allowed charge."""
    others = [element for element in amounts if element != balancing]
    solutions = []
    for charges in product(*(states[element] for element in others)):
        needed = -sum(amounts[e] * q for e, q in zip(others, charges, strict=True)) / amounts[balancing]
        if allowed(needed):
            solutions.append({**dict(zip(others, charges, strict=True)), balancing: needed})
    return solutions


@lru_cache(maxsize=256)
def _states(element: str, rare: bool = False) -> tuple[float, ...]:
    """Charges that an element may take: those of the bond-valence table, for metals also those known from the ICSD."""
    from pymatgen.core import Element

    parameters = load_parameters()
    states = {charge for symbol, charge in parameters.cations | parameters.anions if symbol == element}
    states |= set(_MORE_STATES.get(element, ()))
    if element not in _NEVER_METALS:
        states |= set(Element(element).icsd_oxidation_states or Element(element).common_oxidation_states)
    if rare and Element(element).is_metal:
        states |= {charge for charge in Element(element).oxidation_states if charge > 0}
    return tuple(float(charge) for charge in sorted(states) if charge)


def _log_prior(element: str, charge: float) -> float:
    """Logarithm of how often the ICSD has the element in this state; between two states, interpolated."""
    low, high = math.floor(charge + 1e-9), math.ceil(charge - 1e-9)
    priors = _priors(element)
    below, above = priors.get(low, _LEAST_PRIOR), priors.get(high, _LEAST_PRIOR)
    weight = charge - low if high > low else 0.0
    return (1 - weight) * math.log(below) + weight * math.log(above)


@lru_cache(maxsize=256)
def _priors(element: str) -> dict[int, float]:
    from pymatgen.analysis.bond_valence import PRIOR_PROB

    counts = {int(s.oxi_state): float(p) for s, p in PRIOR_PROB.items() if s.symbol == element and s.oxi_state}
    total = sum(counts.values())
    return {charge: max(p / total, _LEAST_PRIOR) for charge, p in counts.items()} if total else {}


def _reduced_amounts(structure: Structure) -> dict[str, int]:
    formula = structure.composition.element_composition
    amounts = {str(element): round(amount) for element, amount in formula.items()}
    divisor = math.gcd(*amounts.values())
    return {element: amount // divisor for element, amount in amounts.items()}


def _by_element(structure: Structure, charges: Mapping[str, float]) -> np.ndarray:
    return np.array([float(charges[site.specie.symbol]) for site in structure])


def _decorated(structure: Structure, charges: np.ndarray, source: str) -> Structure:
    decorated = structure.copy()
    decorated.remove_oxidation_states()
    whole = [int(q) if float(q).is_integer() else float(q) for q in charges]
    decorated.add_oxidation_state_by_site(whole)
    decorated.properties["oxidation_states_from"] = source
    return decorated


def _plain(error: Exception) -> str:
    text = str(error).strip(".! ") or type(error).__name__
    return text[:1].lower() + text[1:]
