"""How well charges agree with bond lengths and redox potentials.

A cation's bond valences exp((R0 - R)/b) add up to its charge (I. D. Brown, Acta Cryst. B 41 (1985) 244). R0 and b of
each charge come from the table that also gives the site energies (b is 1/alpha there). Sites weigh with their
occupancies, so that the sums hold for disordered crystals too.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .bond_valence_parameters import PairParameters, load_parameters, read_table
from .charge_balance import CLOSED_SHELL, log_prior
from .nonmetal_bonds import Kind, Role, SiteSpecies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

#: Beyond this distance (Angstrom) bond valences of a few thousandths add up to nothing that tells charges apart.
REACH_A = 4.5
#: A bond valence sum differs from the charge by this much.
SPREAD = 0.5
#: Charges that a crystal hardly ever stops below (Zr3+, La2+, Si3+) count with this potential (V).
DEFAULT_POTENTIAL_V = 0.6
#: Logarithm of likelihood a volt and electron.
POTENTIAL_WEIGHT_PER_V = 4.0
#: How often the ICSD has a charge depends on what people like to make; it counts half.
PRIOR_WEIGHT = 0.5
#: Deviation that a charge is taken to have for which the table has no parameters, in units of the spread.
UNKNOWN_DEVIATION = 1.5
#: Nothing counts against a charge beyond so many spreads: strained crystals must not drown everything else.
WORST_DEVIATION = 6.0


class BondValenceEvidence:
    """Logarithm of how likely an atom of a kind has a charge: ICSD frequency and bond valence sum.

    Parameters
    ----------
    structure
        The crystal.
    entries
        Its species, one by one.
    kinds
        The kind of every entry.
    """

    def __init__(self, structure: Structure, entries: SiteSpecies, kinds: Sequence[Kind]) -> None:
        self._structure = structure
        self._entries = entries
        self._kinds = kinds
        self._sums: dict[tuple[Kind, float], float | None] = {}
        self._lengths: dict[Kind, dict[str, tuple[np.ndarray, np.ndarray]]] | None = None

    def __call__(self, kind: Kind, charge: float) -> float:
        """Log likelihood of an atom of ``kind`` with ``charge``; between whole charges, both sides' weighted."""
        usual = PRIOR_WEIGHT * log_prior(kind.element, charge)
        return (
            usual - 0.5 * self.deviation(kind, charge) ** 2 - POTENTIAL_WEIGHT_PER_V * oxidation_energy_eV(kind, charge)
        )

    def deviation(self, kind: Kind, charge: float) -> float:
        """Bond valence sum minus charge, in units of its spread; zero for anions."""
        if charge <= 0 or kind.element in ("H", "C"):
            return 0.0
        low, high = math.floor(charge + 1e-9), math.ceil(charge - 1e-9)
        below, above = self._sum(kind, max(low, 1)), self._sum(kind, max(high, 1))
        if below is None or above is None:
            return UNKNOWN_DEVIATION
        total = below + (above - below) * (charge - low)
        deviation = (total - charge) / SPREAD
        return max(-WORST_DEVIATION, min(WORST_DEVIATION, deviation))

    def _sum(self, kind: Kind, charge: int) -> float | None:
        """Bond valence sum at a whole charge, averaged over the atoms of the kind."""
        key = (kind, float(charge))
        if key not in self._sums:
            self._sums[key] = self._summed(kind, charge)
        return self._sums[key]

    def _summed(self, kind: Kind, charge: int) -> float | None:
        if self._lengths is None:
            self._lengths = self._anion_distances()
        total, known = 0.0, False
        for anion, (distances, weights) in self._lengths.get(kind, {}).items():
            pair = _nearest_pair(kind.element, charge, anion)
            if pair is not None:
                known = True
                total += float(weights @ np.exp((pair.R0_A - distances) * pair.alpha_per_A))
        return total if known else None

    def _anion_distances(self) -> dict[Kind, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Distances from the atoms of each kind to each anion element, and their weights an atom of the kind."""
        entries = self._entries
        first, second, _, distances = self._structure.get_neighbor_list(REACH_A)
        anion_roles = (Role.ANION, Role.ANION_PAIR)
        found: dict[Kind, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        by_kind: dict[Kind, np.ndarray] = {}
        for i, kind in enumerate(self._kinds):
            by_kind.setdefault(kind, np.zeros(len(self._structure)))[entries.sites[i]] += entries.occupancies[i]
        anions: dict[str, np.ndarray] = {}
        for kind, weights in by_kind.items():
            if kind.role in anion_roles:
                anions[kind.element] = anions.get(kind.element, 0.0) + weights
        for kind, weights in by_kind.items():
            if kind.role in anion_roles:
                continue
            found[kind] = {}
            for anion, amounts in anions.items():
                both = weights[first] * amounts[second] / weights.sum()
                near = both > 0
                found[kind][anion] = (distances[near], both[near])
        return found


@lru_cache(maxsize=1)
def _potentials_V() -> dict[str, dict[int, float]]:
    potentials: dict[str, dict[int, float]] = {}
    for row in read_table("redox_potentials.csv"):
        potentials.setdefault(row["element"], {})[int(row["charge"])] = float(row["potential_V"])
    return potentials


@lru_cache(maxsize=4096)
def oxidation_energy_eV(kind: Kind, charge: float) -> float:
    """Energy to take an atom from charge zero to this one, electrons given to lithium; linear between whole charges.

    Only differences between assignments of equal total charge mean anything.
    """
    if charge <= 0:
        return 0.0
    potentials = _potentials_V().get(kind.element, {})
    energies = np.cumsum([0.0] + [potentials.get(q, DEFAULT_POTENTIAL_V) for q in range(1, math.ceil(charge) + 1)])
    return float(np.interp(charge, np.arange(len(energies)), energies))


@lru_cache(maxsize=4096)
def _nearest_pair(element: str, charge: int, anion: str) -> PairParameters | None:
    """Parameters of the cation with this anion; where the table lacks the charge, those of the nearest one."""
    known = {
        q: pair
        for (cation, q, other, p), pair in load_parameters().pairs.items()
        if (cation, other, p) == (element, anion, CLOSED_SHELL[anion]) and pair.alpha_per_A > 0
    }
    return known[min(known, key=lambda q: (abs(q - charge), q))] if known else None
