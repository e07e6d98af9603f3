"""Physical descriptors of the elements, so that a network can meet an element that it was never shown."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..transport.errors import CandidateError, Reason

DESCRIPTORS: tuple[str, ...] = (
    "pauling_electronegativity",
    "covalent_radius_A",
    "cation_radius_A",
    "anion_radius_A",
    "first_ionisation_energy_eV",
    "electron_affinity_eV",
    "group",
    "row",
    "valence_electrons",
    "d_electrons",
    "f_electrons",
    "highest_oxidation_state",
    "lowest_oxidation_state",
    "mendeleev_number",
)
"""Columns of :attr:`ElementTable.values`, in order."""


@dataclass(frozen=True)
class ElementTable:
    """Descriptors of every element that has an electronegativity and a radius.

    Attributes
    ----------
    symbols
        Element symbols, in the order of the rows.
    values
        Descriptors in their own units, float64, shape (elements, len(DESCRIPTORS)).
    """

    symbols: tuple[str, ...]
    values: np.ndarray

    def rows(self, symbols: Iterable[str]) -> np.ndarray:
        """Row number of each symbol, int64, shape (symbols,).

        Raises
        ------
        CandidateError
            With reason ``unsupported_element`` when the table lacks an element.
        """
        position = {symbol: row for row, symbol in enumerate(self.symbols)}
        symbols = list(symbols)
        unknown = sorted({symbol for symbol in symbols if symbol not in position})
        if unknown:
            raise CandidateError(
                f"The network has no descriptors for {', '.join(unknown)}; check the symbols, or do without it "
                "for this material.",
                Reason.UNSUPPORTED_ELEMENT,
            )
        return np.array([position[symbol] for symbol in symbols], dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """One descriptor of all elements, shape (elements,)."""
        return self.values[:, DESCRIPTORS.index(name)]


@lru_cache(maxsize=1)
def element_table() -> ElementTable:
    """Collect the descriptors from pymatgen's periodic table (Pauling scale, Shannon radii) and ASE (Cordero radii).

    An element without an electronegativity or a covalent radius (helium, neon, argon, the heaviest ones) is left
    out. A radius that pymatgen does not know for one sign of charge is replaced by the covalent radius, a missing
    electron affinity by zero.
    """
    from ase.data import atomic_numbers, covalent_radii
    from pymatgen.core import Element

    symbols: list[str] = []
    values: list[list[float]] = []
    with warnings.catch_warnings():
        # pymatgen warns about each noble gas that it has no electronegativity for
        warnings.simplefilter("ignore")
        for element in sorted(Element, key=lambda e: e.Z):
            symbol = element.symbol
            number = atomic_numbers.get(symbol)
            if number is None or symbol in {"D", "T"}:
                continue
            electronegativity, covalent = float(element.X), float(covalent_radii[number])
            if not math.isfinite(electronegativity) or number > 96 or covalent <= 0.2:
                continue
            states = element.common_oxidation_states or element.oxidation_states or (0,)
            shells = dict.fromkeys("spdf", 0)
            highest = max(n for n, _, _ in element.full_electronic_structure)
            for n, orbital, electrons in element.full_electronic_structure:
                if n == highest - {"s": 0, "p": 0, "d": 1, "f": 2}[orbital]:
                    shells[orbital] += electrons
            symbols.append(symbol)
            values.append(
                [
                    electronegativity,
                    covalent,
                    float(element.average_cationic_radius) or covalent,
                    float(element.average_anionic_radius) or covalent,
                    _finite(element.ionization_energies[0] if element.ionization_energies else None),
                    _finite(element.electron_affinity),
                    float(element.group),
                    float(element.row),
                    # a full d or f shell takes no part in bonds
                    float(shells["s"] + shells["p"] + shells["d"] % 10 + shells["f"] % 14),
                    float(shells["d"]),
                    float(shells["f"]),
                    float(max(states)),
                    float(min(states)),
                    _finite(element.mendeleev_no),
                ]
            )
    return ElementTable(tuple(symbols), np.array(values))


def _finite(value: float | None) -> float:
    """The value as a float, zero where the table has none."""
    if value is None:
        return 0.0
    number = float(value)
    return number if math.isfinite(number) else 0.0
