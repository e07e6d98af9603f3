"""Model surfaces with known saddles, for bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from hopflow.transport.paths import MigrationPath

HOP_A = 2.0
EnergyAndForce = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Killed(Exception):  # noqa: N818
    """Stands for a signal that ends the process."""


class Surface:
    """An analytic energy of the last atom; all others rest in harmonic wells where the path puts them."""

    weights_sha256 = "0" * 64
    method = "analytic"

    def __init__(self, energy_and_force: EnergyAndForce, name: str = "surface") -> None:
        self.energy_and_force = energy_and_force
        self.name = name
        self.asked: list[bytes] = []
        self.killed_after: int | None = None

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        return self.energies_and_forces(images)[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        if self.killed_after is not None and len(self.asked) + len(images) > self.killed_after:
            raise Killed
        energies, forces = [], []
        for atoms in images:
            self.asked.append(atoms.positions.tobytes())
            force = np.zeros((len(atoms), 3))
            rest = np.array([6.0, 6.0, 6.0])
            force[:-1] = -4.0 * (atoms.positions[:-1] - rest)
            ion_energy, force[-1] = self.energy_and_force(atoms.positions[-1])
            energies.append(ion_energy + 2.0 * float(((atoms.positions[:-1] - rest) ** 2).sum()))
            forces.append(force)
        return np.array(energies), forces


def channel(height_eV: float, bend_A: float = 0.6, stiffness: float = 3.0) -> EnergyAndForce:
    """Sites at x = 0 and x = HOP_A; the way between them bends to y = bend_A, where its saddle is height_eV high."""
    q = np.pi / HOP_A

    def evaluate(r: np.ndarray) -> tuple[float, np.ndarray]:
        x, y, z = r
        off = y - bend_A * np.sin(q * x) ** 2
        energy = height_eV * np.sin(q * x) ** 2 + stiffness / 2 * (off**2 + z**2)
        slope = np.sin(2 * q * x) * q
        return float(energy), -np.array(
            [height_eV * slope - stiffness * off * bend_A * slope, stiffness * off, stiffness * z]
        )

    return evaluate


def straight_path(start: Sequence[float] = (0, 0, 0), end: Sequence[float] = (HOP_A, 0, 0)) -> MigrationPath:
    points = np.array(start) + np.linspace(0, 1, 5)[:, None] * (np.array(end) - np.array(start))
    return MigrationPath("Li", np.eye(3) * 12.0, ("O",), np.array([[0.51, 0.5, 0.5]]), points / 12.0, "model")
