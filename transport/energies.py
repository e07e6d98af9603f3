"""What physics asks of a potential: energies, and energies with forces, of a list of atoms.

``potentials/`` implements it; nothing on this floor imports a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms


@runtime_checkable
class Potential(Protocol):
    """A potential energy surface.

    Attributes
    ----------
    name
        Registry name, for instance ``mace-mp-0-small``.
    weights_sha256
        SHA-256 of the weights, 64 hexadecimal digits.
    method
        One line that says what the energies are (model, training set, level of theory, precision).
    """

    name: str
    weights_sha256: str
    method: str

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        """Potential energies in eV, shape (len(images),), float64.

        Raises
        ------
        NonFiniteEnergyError
            An energy is NaN or infinite.
        """
        ...

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV, shape (len(images),), and forces in eV/Angstrom, one (atoms, 3) array an image."""
        ...


@dataclass(frozen=True)
class SiteEvaluation:
    """One image, with what a potential holds of each atom.

    Attributes
    ----------
    energy_eV
        Potential energy.
    forces_eV_per_A
        Shape (atoms, 3); None where they were not asked for.
    site_energies_eV
        Share of each atom in the energy, shape (atoms,).
    descriptors
        Rotation-invariant description of each atom's surroundings, the potential's own, shape (atoms, channels).
    """

    energy_eV: float
    forces_eV_per_A: np.ndarray | None
    site_energies_eV: np.ndarray
    descriptors: np.ndarray


class SitePotential(Potential, Protocol):
    """A potential that is a sum over atoms and tells what it sees of each."""

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        """Energy of one image with the share and the description of each atom."""
        ...
