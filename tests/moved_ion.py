"""A potential for scans: pair terms between the ion that is moved, the last atom, and all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms


class Killed(Exception):  # noqa: N818
    """Stands for a signal that ends the process."""


class PairPotential:
    """Born-Mayer repulsion and a short-ranged attraction between the last atom and all others."""

    name, weights_sha256, method = "pairs", "0" * 64, "analytic"

    def __init__(self, binding_eV: float = 2.0) -> None:
        self.binding_eV = binding_eV
        self.asked: list[bytes] = []
        self.calls = 0
        self.killed_at_call: int | None = None

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        self.calls += 1
        if self.calls == self.killed_at_call:
            raise Killed
        self.asked.extend(atoms.positions.round(9).tobytes() for atoms in images)
        return np.array([self._energy(atoms) for atoms in images])

    def _energy(self, atoms: Atoms) -> float:
        cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) @ atoms.cell.array
        distance = np.linalg.norm(atoms.positions[:-1] + cells - atoms.positions[-1], axis=-1)
        size = np.where(atoms.numbers[:-1] == 3, 3.0, 1.0)
        # The same round sphere of neighbours for every point, or symmetry would be broken by the sum.
        pairs = size * 900.0 * np.exp(-distance / 0.3) - self.binding_eV * np.exp(-distance / 0.5)
        return float(pairs[distance < 8.0].sum() if (distance < 8.0).any() else 0.0)

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        raise AssertionError(f"a scan needs the energies of {len(images)} images alone")
