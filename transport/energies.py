"""What physics asks of a potential: energies, and energies with forces, of a list of atoms.

``potentials/`` implements it; nothing on this floor imports a model.
"""

from __future__ import annotations

from collections.abc import Sequence
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
