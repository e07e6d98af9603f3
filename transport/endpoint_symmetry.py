"""End points that are one configuration seen twice: an isometry of the cell turns the first into the last.

Where it does, one relaxation serves both, and energy and forces of the last end point are those of the first one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib

LOOSE_A = 0.05
"""Deviation at which relaxed atoms still count as the image of each other; relaxation brings them together."""

_EXACT_A = 1e-4
_PROBES = 4


@dataclass(frozen=True)
class Isometry:
    """Rotation, translation and exchange of like atoms that turn one configuration of a cell into another.

    Attributes
    ----------
    rotation
        Acts on row vectors in Cartesian coordinates from the right, shape (3, 3).
    shifts_A
        Translation of each atom, cell vectors included, shape (atoms, 3).
    origin
        Which atom of the first configuration becomes each atom of the second, shape (atoms,).
    deviation_A
        Largest distance between the image of an atom and the atom.
    """

    rotation: np.ndarray
    shifts_A: np.ndarray
    origin: np.ndarray
    deviation_A: float

    def positions(self, first: np.ndarray) -> np.ndarray:
        """The second configuration from the first, in Angstrom, shape (atoms, 3)."""
        moved: np.ndarray = first[self.origin] @ self.rotation + self.shifts_A
        return moved

    def vectors(self, first: np.ndarray) -> np.ndarray:
        """Forces on the atoms of the second configuration from those of the first, shape (atoms, 3)."""
        turned: np.ndarray = first[self.origin] @ self.rotation
        return turned


def find_isometry(
    lattice: np.ndarray, species: Sequence[str], first: np.ndarray, second: np.ndarray, tolerance_A: float
) -> Isometry | None:
    """An isometry that turns one configuration into another: the first exact one, else the closest, or None.

    All rotations that the bare lattice has are tried, each with all translations that bring an atom of the rarest
    species onto one of its like.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    species
        Element symbols, the same in both configurations.
    first, second
        Positions in Angstrom, shape (atoms, 3).
    tolerance_A
        Largest deviation of an atom.
    """
    inverse = np.linalg.inv(lattice)
    start, end = first @ inverse, second @ inverse
    symbols = np.array(species)
    counts = Counter(species)
    rarest = min(counts, key=lambda symbol: (counts[symbol], symbol))
    few = np.flatnonzero(symbols == rarest)
    probes = few[:_PROBES]
    unlike = symbols[:, None] != symbols[None, :]
    best: Isometry | None = None
    bare: Any = spglib.get_symmetry((lattice.tolist(), [[0.0, 0.0, 0.0]], [1]))
    for rotation in [] if bare is None else np.unique(bare["rotations"], axis=0):
        turned = start @ rotation.T
        for target in few:
            moved = turned + (end[target] - turned[few[0]])
            # most are refused by a few atoms
            if any(
                _distances_A(moved[some], end[few], lattice).min(axis=1).max() > tolerance_A for some in (probes, few)
            ):
                continue
            distances = _distances_A(moved, end, lattice)
            distances[unlike] = np.inf
            origin = distances.argmin(axis=0)
            deviation_A = float(distances[origin, np.arange(len(end))].max())
            if deviation_A > tolerance_A or len(set(origin.tolist())) != len(end):
                continue
            if best is None or deviation_A < best.deviation_A:
                cartesian = inverse @ rotation.T @ lattice
                gap = end - moved[origin]
                shift = (end[target] - turned[few[0]] + np.round(gap)) @ lattice
                best = Isometry(cartesian, shift, origin, deviation_A)
                if deviation_A < _EXACT_A:
                    return best
    return best


def _distances_A(first: np.ndarray, second: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Distances between atoms of two configurations, shape (first, second): right where they are short."""
    gap = first[:, None, :] - second[None, :, :]
    gap -= np.round(gap)
    return np.asarray(np.linalg.norm(gap @ lattice, axis=2))
