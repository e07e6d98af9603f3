"""Oxidation states: charge-balanced, or an error that says what was tried; never a wrong charge in silence.

Order of trust: states that the user gives, states that the structure brings, a formula that allows only one assignment,
bond valence sums (pymatgen's ``BVAnalyzer``, M. O'Keeffe and N. Brese, JACS 113 (1991) 3226), the most probable
assignment of the formula alone. The bonds between nonmetals say beforehand which atoms are anions and which are not
(:mod:`.nonmetal_bonds`): an oxygen bonded to oxygen is a peroxide's and never O2-, an oxygen without such a bond never
O-, hydrogen on oxygen is a proton and on boron a hydride. An assignment that goes against them is thrown out.

Mixed valence that the formula cannot resolve (Fe3O4) gives every atom of that element the average charge. That is exact
for charge balance, and cations of the framework enter the bond-valence energy only through a term linear in charge.

Partly occupied and mixed sites weigh with their occupancies. Refined occupancies come rounded and seldom balance to the
last digit; see :data:`.charge_search.IMBALANCE_TOLERANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .bond_valence_parameters import ion_name
from .charge_balance import CLOSED_SHELL, Assignment, Choice, extreme_sums
from .charge_search import (
    CARBON,
    CHARGE_TOLERANCE,
    IMBALANCE_TOLERANCE,
    ROUNDING_TOLERANCE,
    ChargeSearch,
    Crystal,
    crystal_of,
)
from .errors import OxidationStateError, Reason, StructureError
from .nonmetal_bonds import DRAWING_ORDER, Kind, Role, element_symbol

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: BVAnalyzer tries at most this many combinations; the most probable state of each site comes first.
#: A bound on work, not on time, so that the answer does not depend on how busy the machine is.
MAX_PERMUTATIONS = 500
#: An error message names so many failed attempts.
MOST_ATTEMPTS = 4
_NOT_COUNTED = "against the count of bonds"


@dataclass(frozen=True)
class _Attempt:
    source: str
    charges: np.ndarray | None
    failure: str | None = None


def assign_oxidation_states(structure: Structure, ion: str, given: Mapping[str, float] | None = None) -> Structure:
    """A copy of the structure with a charge on every species of every site.

    Parameters
    ----------
    structure
        Ordered or not; a site may be partly occupied or mixed.
    ion
        Element symbol of the mobile ion; its atoms must all get the same charge.
    given
        Charges by element symbol. They win over everything; elements that are left out are found from the formula.

    Returns
    -------
    pymatgen.core.Structure
        ``properties["oxidation_states_from"]`` says how the charges were found, and
        ``properties["oxidation_states_warnings"]`` is a list of sentences: an imbalance of up to
        :data:`.charge_search.IMBALANCE_TOLERANCE` of the positive charge that was accepted. Deuterium and tritium
        become hydrogen.

    Raises
    ------
    OxidationStateError
        No charge-balanced assignment fits; the message names what was tried. ``reason`` is METALLIC where the crystal
        consists of metals and metalloids, or electrons are left over even with the lowest states of all elements.
    StructureError
        The structure is empty.
    """
    if len(structure) == 0:
        raise StructureError(Reason.EMPTY_STRUCTURE.sentence, Reason.EMPTY_STRUCTURE)
    crystal = crystal_of(structure, ion)
    if given:
        return _complete(crystal, {element_symbol(element): float(charge) for element, charge in given.items()})
    tried: list[str] = []
    for attempt in _attempts(crystal):
        objection = attempt.failure
        if attempt.charges is not None:
            objection = objection or _objection(crystal, attempt.charges)
            if objection is None:
                return _decorated(crystal, attempt.charges, attempt.source)
        if (text := f"{attempt.source}: {objection}") not in tried and len(tried) < MOST_ATTEMPTS:
            tried.append(text)
    raise _refusal(crystal, tried)


def _attempts(crystal: Crystal) -> Iterator[_Attempt]:
    """Candidates in order of trust: where from and charges (entries,), or why there are none."""
    brought = [getattr(species, "oxi_state", None) for site in crystal.structure for species in site.species]
    labels = np.array([float(charge or 0) for charge in brought])
    if any(charge is not None for charge in brought):
        yield _Attempt("structure", labels, _unbalanced(crystal, labels, ROUNDING_TOLERANCE))
    search = ChargeSearch(crystal, crystal.choices())
    found = search.exact()
    if len(found) == 1 and not found[0].averaged:
        yield _attempt(crystal, search, found[0], "the only assignment")
    else:
        for assignment in found:
            yield from _resolved(crystal, search, assignment)
    if search.carbon is not None:
        found += (free := search.carbon_free())
        yield from (_attempt(crystal, search, assignment) for assignment in free)
    if labels.any():
        # States of the file that are right but for rounded occupancies.
        yield _Attempt("structure, nearly balanced", labels)
    rare = ChargeSearch(crystal, crystal.choices(rare=True))
    # Distorted anions, whose bonds cannot be counted, take a known charge.
    distorted = ChargeSearch(crystal, crystal.choices(), counted="full")
    nearly = (search.nearly, search, "nearly balanced")
    if crystal.is_ordered:
        later = [(rare.exact, rare, "rare states"), nearly, (distorted.exact, distorted, _NOT_COUNTED)]
    else:
        later = [
            nearly,
            (search.seldom, search, ""),
            (rare.exact, rare, "rare states"),
            (rare.seldom, rare, "rare states"),
        ]
    for assignments, searched, note in later:
        found += (more := assignments())
        yield from (_attempt(crystal, searched, assignment, note) for assignment in more)
    if not found:
        yield _Attempt("formula", None, "no assignment is charge-balanced")


def _attempt(crystal: Crystal, search: ChargeSearch, assignment: Assignment, note: str = "") -> _Attempt:
    """The assignment with a name that says what is uncommon about it."""
    charges = search.spread(assignment)
    averaged = [f"average {ion_name(kind.element, assignment.charges[kind])}" for kind in assignment.averaged]
    notes = [note] * bool(note) + averaged
    if assignment.charges.get(CARBON, 1.0) <= 0 and (shared := _shared_with_hydrogen(crystal, charges)) is not None:
        charges = shared
        notes.append("organic groups share their charge")
    return _Attempt(f"formula ({', '.join(notes)})" if notes else "formula", charges)


def _shared_with_hydrogen(crystal: Crystal, charges: np.ndarray) -> np.ndarray | None:
    """Charges with those of organic groups evened out, or None where the groups as a whole are no cations.

    A group is carbon with its hydrogen, silicon, germanium and phosphorus. Their bonds to carbon are all but unpolar,
    and only the group's charge matters at the distance of another ion.
    """
    elements = crystal.entries.elements
    hydrogen: set[int] = set()
    softer: set[int] = set()
    for bond in crystal.bonds:
        if elements[bond.first] == "C" and elements[bond.second] == "H":
            hydrogen.add(bond.second)
        elif elements[bond.first] == "C" and elements[bond.second] in ("Si", "Ge", "P"):
            softer.add(bond.second)
    group = np.array([element == "C" or i in hydrogen | softer for i, element in enumerate(elements)])
    share = float(np.average(charges[group], weights=crystal.entries.occupancies[group]))
    return np.where(group, share, charges) if hydrogen and share > 0 else None


def _resolved(crystal: Crystal, search: ChargeSearch, assignment: Assignment) -> Iterator[_Attempt]:
    """The assignment, and before it one that tells its mixed-valent atoms apart by their bond valence sums."""
    averaged = [kind for kind in assignment.averaged if kind != CARBON]
    if averaged and crystal.is_ordered:
        attempt = _bond_valence_sums(crystal)
        wanted = _averages(crystal, search.spread(assignment))
        if attempt.charges is None or np.allclose(_averages(crystal, attempt.charges), wanted, atol=1e-6):
            yield attempt
    yield _attempt(crystal, search, assignment)


def _averages(crystal: Crystal, charges: np.ndarray) -> list[float]:
    kinds = np.array([list(crystal.amounts).index(kind) for kind in crystal.kinds])
    return [float(charges[kinds == index].mean()) for index in range(len(crystal.amounts))]


def _bond_valence_sums(crystal: Crystal) -> _Attempt:
    from pymatgen.analysis.bond_valence import BV_PARAMS, BVAnalyzer
    from pymatgen.core import Element

    source = "bond valence sums"
    lacking = sorted({e for e in crystal.entries.elements if Element(e) not in BV_PARAMS})
    if lacking:
        return _Attempt(source, None, f"no bond-valence lengths are known for {', '.join(lacking)}")
    bare = crystal.structure.copy()
    bare.remove_oxidation_states()
    if isotopes := {"D", "T"} & {element.symbol for element in bare.elements}:
        bare.replace_species(dict.fromkeys(isotopes, "H"), in_place=True)
    try:
        valences = BVAnalyzer(max_permutations=MAX_PERMUTATIONS).get_valences(bare)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        return _Attempt(source, None, _plain(error))
    return _Attempt(source, np.array(valences, dtype=float))


def _objection(crystal: Crystal, charges: np.ndarray) -> str | None:
    """Why an assignment cannot be right, or None."""
    entries = crystal.entries
    if unbalanced := _unbalanced(crystal, charges, IMBALANCE_TOLERANCE):
        return unbalanced
    if (charges == 0).any():
        return f"{entries.elements[int(np.argmin(np.abs(charges)))]} gets no charge"
    mobile = {float(q) for element, q in zip(entries.elements, charges, strict=True) if element == crystal.ion}
    if len(mobile) > 1:
        return f"{crystal.ion} gets different charges ({', '.join(ion_name(crystal.ion, q) for q in sorted(mobile))})"
    for i, (kind, charge) in enumerate(zip(crystal.kinds, charges.tolist(), strict=True)):
        if objection := _misfit(crystal, i, kind, charge):
            return objection
    return None


def _unbalanced(crystal: Crystal, charges: np.ndarray, tolerance: float) -> str | None:
    total = _total(crystal, charges)
    allowed = max(tolerance * _positive(crystal, charges), CHARGE_TOLERANCE)
    return f"the charges add up to {total:+.3g}" if abs(total) > allowed else None


def _misfit(crystal: Crystal, i: int, kind: Kind, charge: float) -> str | None:
    """Why a charge does not fit the bonds of an atom, or None."""
    name = ion_name(kind.element, charge)
    if kind.role is Role.METAL or kind.element == "C":
        return None
    bonded = {crystal.entries.elements[bond.second]: bond.distance_A for bond in crystal.bonds if bond.first == i}
    if kind.role in (Role.CATION, Role.CATION_PAIR):
        harder = [e for e in DRAWING_ORDER if e in bonded and e != kind.element]
        # Nitrogen with one bond to oxygen and three to hydrogen (hydroxylammonium) is N1-.
        return f"{name} does not fit its bond to {harder[0]}" if charge < 0 and kind.element != "N" else None
    closed = CLOSED_SHELL[kind.element]
    if kind.role is Role.ANION_PAIR and charge <= closed:
        return f"{name} does not fit an {kind.element}-{kind.element} bond of {bonded[kind.element]:.2f} Angstrom"
    if (
        kind.role is Role.ANION
        and charge != closed
        and kind.element in ("H", "N", "O", "F", "S", "Cl", "Se", "Br", "I")
    ):
        return (
            f"{name} without an {kind.element}-{kind.element} bond"
            if charge < 0
            else f"{name} without a bond to anything that draws electrons harder"
        )
    return None


def _complete(crystal: Crystal, given: Mapping[str, float]) -> Structure:
    """Charges by the user's states, with the elements left out taken from the formula."""
    elements = set(crystal.entries.elements)
    if endless := [element for element, charge in given.items() if not math.isfinite(charge)]:
        raise OxidationStateError(f"The oxidation state given for {', '.join(endless)} is not a number; correct it.")
    unknown = [element for element in given if element not in elements]
    if unknown:
        raise OxidationStateError(
            f"Oxidation states were given for {', '.join(unknown)}, which {crystal.formula} does not contain; remove "
            "them."
        )
    fixed = {kind: Choice((given[kind.element],)) for kind in crystal.amounts if kind.element in given}
    if len(fixed) == len(crystal.amounts):
        charges = np.array([given[element] for element in crystal.entries.elements])
        total = _total(crystal, charges)
        if abs(total) > IMBALANCE_TOLERANCE * _positive(crystal, charges):
            raise OxidationStateError(
                f"The oxidation states given for {crystal.formula} add up to {total:+.3g} a formula unit; correct them "
                "so that they add up to zero."
            )
        return _decorated(crystal, charges, "given")
    for rare in (False, True):
        search = ChargeSearch(crystal, {**crystal.choices(rare), **fixed})
        found = search.exact() or search.seldom() or search.nearly()
        if found:
            return _decorated(crystal, search.spread(found[0]), "given, completed by the formula")
    # What the user says may go against the bonds of the others; then any average that they can have will do.
    choices = {kind: _any_average(chosen) for kind, chosen in crystal.choices(rare=True).items()}
    if found := ChargeSearch(crystal, {**choices, **fixed}, counted="none").seldom():
        charges = np.array([found[0].charges[CARBON if kind.element == "C" else kind] for kind in crystal.kinds])
        return _decorated(crystal, charges, "given, completed by the formula")
    raise OxidationStateError(
        f"No charge-balanced oxidation states of {crystal.formula} go with those given for {', '.join(given)}; give "
        "those of all elements."
    )


def _any_average(chosen: Choice) -> Choice:
    positive = [charge for charge in chosen.states if charge > 0]
    return Choice(chosen.states, min(positive) - 1, max(positive)) if positive else chosen


def _refusal(crystal: Crystal, tried: list[str]) -> OxidationStateError:
    from pymatgen.core import Element

    advice = "give them explicitly, or leave the crystal out if it is a metal"
    metallic = all(Element(e).is_metal or Element(e).is_metalloid for e in crystal.entries.elements)
    anions = any(kind.role in (Role.ANION, Role.ANION_PAIR) for kind in crystal.kinds)
    pairs = _anion_pairs(crystal)
    search = ChargeSearch(crystal, crystal.choices(rare=True))
    low, high = extreme_sums(search.amounts, search.choices)
    reason = Reason.OXIDATION_STATES_UNKNOWN
    if metallic:
        reason = Reason.METALLIC
        tried.append("it consists of metals and metalloids only")
    elif pairs:
        tried.append(f"closed-shell anions are ruled out by its {' and '.join(pairs)}")
    elif low > 0 and anions:
        reason = Reason.METALLIC
        tried.append(f"even with the lowest states of all elements {low:.3g} electrons a formula unit are left over")
    elif high < 0:
        tried.append(
            f"even with the highest states of all elements {-high:.3g} electrons a formula unit are missing, as when a "
            "file leaves out hydrogen or other cations"
        )
    return OxidationStateError(
        f"No charge-balanced oxidation states could be assigned to {crystal.formula} ({'; '.join(tried)}); {advice}.",
        reason,
    )


def _anion_pairs(crystal: Crystal) -> list[str]:
    """The shortest bond of each element that is bonded to itself where it should be an anion."""
    shortest: dict[str, float] = {}
    for bond in crystal.bonds:
        kind = crystal.kinds[bond.first]
        if kind.role is Role.ANION_PAIR and crystal.kinds[bond.second] == kind:
            shortest[kind.element] = min(bond.distance_A, shortest.get(kind.element, np.inf))
    return [f"{element}-{element} bond of {distance:.2f} Angstrom" for element, distance in sorted(shortest.items())]


def _total(crystal: Crystal, charges: np.ndarray) -> float:
    """Sum of the charges of a formula unit."""
    return float(charges @ crystal.entries.occupancies) * _per_formula(crystal)


def _positive(crystal: Crystal, charges: np.ndarray) -> float:
    return float(np.maximum(charges, 0) @ crystal.entries.occupancies) * _per_formula(crystal)


def _per_formula(crystal: Crystal) -> float:
    return sum(crystal.amounts.values()) / float(crystal.entries.occupancies.sum())


def _decorated(crystal: Crystal, charges: np.ndarray, source: str) -> Structure:
    from pymatgen.core import Composition, Species

    decorated = crystal.structure.copy()
    species: list[dict[Species, float]] = [{} for _ in decorated]
    for site, element, occupancy, charge in zip(
        crystal.entries.sites, crystal.entries.elements, crystal.entries.occupancies, charges.tolist(), strict=True
    ):
        one = Species(element, int(charge) if charge.is_integer() else charge)
        species[site][one] = species[site].get(one, 0.0) + float(occupancy)
    for site, content in zip(decorated, species, strict=True):
        site.species = Composition(content)
    decorated.properties["oxidation_states_from"] = source
    decorated.properties["oxidation_states_warnings"] = _warnings(crystal, charges, source)
    return decorated


def _warnings(crystal: Crystal, charges: np.ndarray, source: str) -> list[str]:
    total, positive = _total(crystal, charges), _positive(crystal, charges)
    exact = crystal.is_ordered and abs(total) <= CHARGE_TOLERANCE * sum(crystal.amounts.values())
    warnings = []
    if not (exact or (not crystal.is_ordered and abs(total) <= ROUNDING_TOLERANCE * positive)):
        warnings.append(
            f"The oxidation states of {crystal.formula} add up to {total:+.3g} a formula unit "
            f"({abs(total) / positive:.1%} of the positive charge); the occupancies or the composition may be off."
        )
    if _NOT_COUNTED in source:
        warnings.append(
            f"The bonds of a nonmetal in {crystal.formula} do not go with its charge; the atoms may be misplaced."
        )
    return warnings


def _plain(error: Exception) -> str:
    text = str(error).strip(".! ") or type(error).__name__
    return text[:1].lower() + text[1:]
