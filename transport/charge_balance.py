"""Charge-balanced assignments of a formula: every kind of atom takes one of its charges, and they add up to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .bond_valence_parameters import load_parameters
from .nonmetal_bonds import DRAWING_ORDER, Kind, Role

#: The formula is searched through at most this many assignments; beyond it, elements keep their commonest states.
MAX_ASSIGNMENTS = 100_000
#: Of one search, so many assignments are kept, the most probable first.
MOST_KEPT = 50
#: A metal is taken for mixed-valent without further question when the ICSD has both neighbouring states at least so
#: often: Fe, Mn, V and Eu are, Zr and La are not.
MIXED_VALENCE_PRIOR = 0.1
#: An average charge must be so much likelier (logarithm) than whole ones to be preferred.
MIXING_PENALTY = 3.0
_LEAST_PRIOR = 1e-4
_NEVER_METALS = frozenset({"N", "O", "F", "S", "Cl", "Se", "Br", "I"})
#: Charges of elements that the bond-valence table does not hold, or holds too narrowly.
_MORE_STATES: dict[str, tuple[int, ...]] = {
    "H": (1, -1),
    "B": (-3,),
    "Si": (-4,),
    "P": (1, 4, -3),
    "S": (3, 5),
    "Br": (5,),
    "Fe": (1,),
    "Hf": (3,),
    "Nd": (2,),
    "Dy": (2,),
    "Tm": (2,),
    "Pm": (3,),
    "Ac": (3,),
    "Pa": (4, 5),
    "U": (3, 4, 5),
    "Np": (4, 5, 6),
    "Pu": (3, 4, 6),
}
#: Charge of an anion that no bond ties to its own kind.
CLOSED_SHELL = {
    **dict.fromkeys(("H", "F", "Cl", "Br", "I"), -1),
    **dict.fromkeys(("O", "S", "Se", "Te"), -2),
    **dict.fromkeys(("N", "P", "As", "Sb", "B"), -3),
    **dict.fromkeys(("C", "Si", "Ge"), -4),
}
#: Elements that may be positive though no bond to a nonmetal is found.
METALLOIDS = ("B", "Si", "Ge", "As", "Sb", "Te")
#: Whole charge of a positive atom that is bonded to its own kind: P in P2S6, S in dithionate, Ge in Ge2S6.
_PAIRED_CATIONS = {"P": (4, 3, 2), "S": (5, 3), "Si": (3,), "Ge": (3,), "As": (2,), "Sb": (2,), "N": (4,)}


@dataclass(frozen=True)
class Choice:
    """Charges that one kind of atom may take.

    Attributes
    ----------
    states
        Whole charges.
    low, high
        Its atoms may also differ and take an average charge strictly between these; equal where they may not.
    mixes
        Whether the average is as believable as a whole charge (metals that are often mixed-valent).
    """

    states: tuple[float, ...]
    low: float = 0.0
    high: float = 0.0
    mixes: bool = False


#: Logarithm of how likely an atom of a kind has a charge.
Evidence = Callable[[Kind, float], float]


@dataclass(frozen=True)
class Assignment:
    """One charge for every kind, with the logarithm of how likely they are and what they add up to."""

    charges: Mapping[Kind, float]
    log_likelihood: float
    imbalance: float

    @property
    def averaged(self) -> list[Kind]:
        """Kinds of no whole charge."""
        return [kind for kind, charge in self.charges.items() if abs(charge - round(charge)) > 1e-9]


def choice(kind: Kind, rare: bool = False, strict: bool = True) -> Choice:
    """Charges of a kind by its element and role.

    Parameters
    ----------
    kind
        Element and role.
    rare
        Allow metals every state that is known of them above the usual ones (Fe5+, Cu4+).
    strict
        Metalloids in the role of an anion are one. Without, they may be positive too: a disordered crystal may hide
        their bonds.
    """
    element, role = kind
    every = _states(element, rare)
    positive = tuple(q for q in every if q > 0)
    mixes = sum(_priors(element).get(int(q), 0) >= MIXED_VALENCE_PRIOR for q in positive) > 1
    low, high = (positive[0], positive[-1]) if len(positive) > 1 else (0.0, 0.0)
    if role is Role.METAL:
        return Choice(every, low, high, mixes)
    if element == "H":
        return Choice((1.0,) if role in (Role.CATION, Role.CATION_PAIR) else (-1.0,))
    closed = float(CLOSED_SHELL[element])
    if role is Role.ANION:
        return Choice((closed,) if strict or element not in METALLOIDS else (closed, *positive))
    if role is Role.ANION_PAIR:
        # A bond takes one electron from each of its ends: O1- in peroxides, O0.5- in superoxides, never O1.5-. Oxygen
        # ends at ozonide; a molecule of O2 is no ion.
        single = closed + 1
        highest = -0.33 if element == "O" else 0.0
        return Choice((single,) if single < 0 else (), min(single, -0.5) - 1e-9, highest)
    if role is Role.CATION_PAIR and element not in METALLOIDS:
        return Choice(tuple(map(float, _PAIRED_CATIONS.get(element, ()))))
    if role is Role.CATION_PAIR:
        return Choice(tuple(map(float, _PAIRED_CATIONS.get(element, ()))), 0.0, positive[-1] if positive else 4.0)
    whole = tuple(q for q in positive if not (element == "P" and q == 4) and not (element == "S" and q in (3, 5)))
    # Phosphorus and sulfur show their charge in their bonds, and have no average of it.
    return Choice(whole, low, high, mixes) if element in METALLOIDS else Choice(whole)


def whole_assignments(
    amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice], tolerance: float, evidence: Evidence
) -> list[Assignment]:
    """Assignments of whole charges that add up to zero within ``tolerance`` (charges of the whole amounts)."""
    kinds = list(amounts)
    states = _affordable({kind: choices[kind].states for kind in kinds})
    if not all(states.values()):
        return []
    sums, scores, shape = _grid(kinds, amounts, states, evidence)
    return _best(kinds, states, shape, np.flatnonzero(np.abs(sums) <= tolerance), sums, scores)


def average_assignments(
    amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice], ion: str, mixing: bool, evidence: Evidence
) -> list[Assignment]:
    """Assignments where one kind, not of the mobile ion, takes the average charge that balances the others exactly.

    ``mixing`` looks at the kinds alone that are often mixed-valent, or alone at those that are not.
    """
    solutions: list[Assignment] = []
    for mixed in amounts:
        chosen = choices[mixed]
        if mixed.element == ion or chosen.low >= chosen.high or chosen.mixes is not mixing:
            continue
        solutions += (
            Assignment(found.charges, found.log_likelihood - MIXING_PENALTY, found.imbalance)
            for found in balanced_by(mixed, amounts, choices, evidence)
        )
    return sorted(solutions, key=lambda solution: -solution.log_likelihood)[:MOST_KEPT]


def balanced_by(
    mixed: Kind, amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice], evidence: Evidence
) -> list[Assignment]:
    """Assignments where ``mixed`` takes whatever charge balances the others, within its range."""
    chosen = choices[mixed]
    others = [kind for kind in amounts if kind != mixed]
    states = _affordable({kind: choices[kind].states for kind in others})
    if not all(states.values()):
        return []
    sums, scores, shape = _grid(others, amounts, states, evidence)
    needed = -sums / amounts[mixed]
    found = _best(others, states, shape, np.flatnonzero((needed > chosen.low) & (needed < chosen.high)), sums, scores)
    result = []
    for part in found:
        charge = -part.imbalance / amounts[mixed]
        if abs(charge - round(charge)) < 1e-9:
            charge = float(round(charge))
            if charge in chosen.states:
                continue
        likelihood = part.log_likelihood + amounts[mixed] * evidence(mixed, charge)
        result.append(Assignment({**part.charges, mixed: charge}, likelihood, 0.0))
    return result


def extreme_sums(amounts: Mapping[Kind, float], choices: Mapping[Kind, Choice]) -> tuple[float, float]:
    """Lowest and highest sum of charges that any assignment has, averages included."""
    low = high = 0.0
    for kind, amount in amounts.items():
        chosen = choices[kind]
        reach = [*chosen.states, *((chosen.low, chosen.high) if chosen.low < chosen.high else ())] or [0.0]
        low, high = low + amount * min(reach), high + amount * max(reach)
    return low, high


def _affordable(states: Mapping[Kind, tuple[float, ...]]) -> dict[Kind, tuple[float, ...]]:
    kept = dict(states)
    keep = max((len(found) for found in kept.values()), default=0)
    while math.prod(map(len, kept.values())) > MAX_ASSIGNMENTS:
        # Ten elements of six states are sixty million assignments; the commonest states of each are tried.
        keep -= 1
        kept = {
            kind: tuple(sorted(sorted(found, key=lambda q: -log_prior(kind.element, q))[:keep]))
            for kind, found in kept.items()
        }
    return kept


def _grid(
    kinds: list[Kind], amounts: Mapping[Kind, float], states: Mapping[Kind, tuple[float, ...]], evidence: Evidence
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Sum of charges and log likelihood of every combination, flat, and the number of states of each kind."""
    sums = scores = np.zeros(1)
    for kind in kinds:
        charges = np.array(states[kind])
        likely = np.array([evidence(kind, q) for q in states[kind]])
        sums = (sums[:, None] + amounts[kind] * charges).ravel()
        scores = (scores[:, None] + amounts[kind] * likely).ravel()
    return sums, scores, tuple(len(states[kind]) for kind in kinds)


def _best(
    kinds: list[Kind],
    states: Mapping[Kind, tuple[float, ...]],
    shape: tuple[int, ...],
    found: np.ndarray,
    sums: np.ndarray,
    scores: np.ndarray,
) -> list[Assignment]:
    best = found[np.argsort(-scores[found], kind="stable")][:MOST_KEPT]
    result = []
    for flat in best:
        indices = np.unravel_index(int(flat), shape) if shape else ()
        charges = {kind: states[kind][int(i)] for kind, i in zip(kinds, indices, strict=True)}
        result.append(Assignment(charges, float(scores[flat]), float(sums[flat])))
    return result


@lru_cache(maxsize=512)
def _states(element: str, rare: bool = False) -> tuple[float, ...]:
    """Charges that an element may take: those of the bond-valence table, for metals also those known from the ICSD."""
    from pymatgen.core import Element

    parameters = load_parameters()
    states = {charge for symbol, charge in parameters.cations | parameters.anions if symbol == element}
    states |= set(_MORE_STATES.get(element, ()))
    if element not in _NEVER_METALS and element not in ("C", "P", "H"):
        states |= set(Element(element).icsd_oxidation_states or Element(element).common_oxidation_states)
    if rare and Element(element).is_metal:
        states |= {charge for charge in Element(element).oxidation_states if charge > max(states)}
    if element in DRAWING_ORDER:
        # Halogens and nitrogen know odd positive states, tellurium and arsenic no single ones.
        states |= {charge for charge in Element(element).icsd_oxidation_states if charge > 1}
    return tuple(float(charge) for charge in sorted(states) if charge)


@lru_cache(maxsize=4096)
def log_prior(element: str, charge: float) -> float:
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
