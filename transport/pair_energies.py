"""Pair energies of the bond-valence method, as formulas and as tables that the compiled sums read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import erfc

COULOMB_EV_A = 14.4  # e^2 / (4 pi epsilon_0), rounded as in the source of the formula

#: Width of the bins of distance in which pair energies are tabulated, in Angstrom.
TABLE_BIN_A = 0.005

#: Grid points closer to a nucleus than this (Angstrom) get the energy at this distance, which is finite.
SHORTEST_DISTANCE_A = 0.01

#: erfc(4.5) = 2e-10: beyond this multiple of its screening length a Coulomb term lies below 1e-8 eV and is left out.
LONGEST_SCREENED = 4.5


@dataclass(frozen=True)
class MorseTerm:
    """Attraction between ions of opposite sign, (D0/2) [(exp(alpha (Rmin - R)) - 1)^2 - 1]."""

    D0_eV: float
    alpha_per_A: float
    Rmin_A: float
    reach_A: float = math.inf

    def __call__(self, distance_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy in eV and its slope in eV/Angstrom."""
        growth = np.exp(self.alpha_per_A * (self.Rmin_A - distance_A))
        return self.D0_eV / 2 * growth * (growth - 2), -self.D0_eV * self.alpha_per_A * growth * (growth - 1)


@dataclass(frozen=True)
class CoulombTerm:
    """Repulsion between ions of one sign, strength / R erfc(R / screening_length)."""

    strength_eV_A: float
    screening_length_A: float

    @property
    def reach_A(self) -> float:
        """Distance beyond which the term is nothing."""
        return LONGEST_SCREENED * self.screening_length_A

    def __call__(self, distance_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy in eV and its slope in eV/Angstrom."""
        scaled = distance_A / self.screening_length_A
        energy = self.strength_eV_A / distance_A * erfc(scaled)
        slope = (
            -energy / distance_A
            - self.strength_eV_A / distance_A * 2 / math.sqrt(math.pi) * np.exp(-(scaled**2)) / self.screening_length_A
        )
        return energy, slope


@lru_cache(maxsize=512)
def radial_table(term: MorseTerm | CoulombTerm, cutoff_A: float) -> np.ndarray:
    """Cubic Hermite polynomials of a pair energy over bins of TABLE_BIN_A, shape (bins, 4).

    Each matches energy and slope at both ends of its bin; at 0.005 Angstrom the error is below 1e-8 eV wherever an ion
    can be (distances above 1 Angstrom), far below anything that the model means.
    """
    edges = np.arange(math.ceil(cutoff_A / TABLE_BIN_A) + 1) * TABLE_BIN_A
    energy, slope = term(np.maximum(edges, SHORTEST_DISTANCE_A))
    slope = slope * TABLE_BIN_A
    rise = energy[1:] - energy[:-1]
    table = np.stack(
        [energy[:-1], slope[:-1], 3 * rise - 2 * slope[:-1] - slope[1:], slope[:-1] + slope[1:] - 2 * rise], axis=1
    )
    table.setflags(write=False)
    return table
