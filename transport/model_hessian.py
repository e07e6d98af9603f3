"""How stiffly neighbouring atoms hold each other, guessed from their distances: a preconditioner for relaxations.

A relaxation whose first guess of the curvature knows that a P-O bond is stiff and a Li-S contact is soft needs a third
of the steps (Packwood et al., J. Chem. Phys. 144, 164109 (2016)). Here a spring joins every two atoms; it weakens
exponentially with the gap between them, as force constants of bonds do (Badger, J. Chem. Phys. 2, 128 (1934)).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.linalg import cho_factor, cho_solve

_TOUCHING_STIFFNESS_EV_PER_A2 = 6.0
_DECAY_A = 0.45
_REACH_A = 5.0
_SIDEWAYS_SHARE = 0.1
_CLOSEST = 0.8
"""Below this share of the sum of the radii a spring grows no stiffer."""

_ONSITE_EV_PER_A2 = 0.05
"""Keeps atoms without neighbours, and the crystal as a whole, from running away."""


def model_hessian(atoms: Atoms) -> np.ndarray:
    """Second derivatives of the springs, in eV/Angstrom^2.

    Returns
    -------
    numpy.ndarray
        Shape (3 atoms, 3 atoms), symmetric and positive definite.
    """
    first, second, length_A, vector_A = neighbor_list("ijdD", atoms, _REACH_A, self_interaction=False)
    touching_A = covalent_radii[atoms.numbers][first] + covalent_radii[atoms.numbers][second]
    gap_A = np.maximum(length_A, _CLOSEST * touching_A) - touching_A
    stiffness = _TOUCHING_STIFFNESS_EV_PER_A2 * np.exp(-gap_A / _DECAY_A)
    # two atoms in one place have no direction; who computes their energy will refuse them
    unit = vector_A / np.maximum(length_A, 1e-9)[:, None]
    along = (1.0 - _SIDEWAYS_SHARE) * unit[:, :, None] * unit[:, None, :] + _SIDEWAYS_SHARE * np.eye(3)
    blocks = stiffness[:, None, None] * along
    hessian = np.zeros((len(atoms), 3, len(atoms), 3))
    for row in range(3):
        for column in range(3):
            np.add.at(hessian[:, row, :, column], (first, second), -blocks[:, row, column])
            np.add.at(hessian[:, row, :, column], (first, first), blocks[:, row, column])
    return hessian.reshape(3 * len(atoms), 3 * len(atoms)) + _ONSITE_EV_PER_A2 * np.eye(3 * len(atoms))


def spring_preconditioner(
    atoms: Atoms,
    frozen: np.ndarray | None = None,
    onsite_eV_per_A2: float = 0.0,
    drift_eV_per_A2: float | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Forces (atoms, 3) in eV/Angstrom to the displacements in Angstrom that would balance them.

    Parameters
    ----------
    atoms
        The crystal before the relaxation.
    frozen
        Atoms that do not move, shape (atoms,); their forces must be zero.
    onsite_eV_per_A2
        Stiffness added to every coordinate: no direction is softer, whatever the springs say.
    drift_eV_per_A2
        Stiffness of the crystal as a whole. The springs hold it hardly at all, so a mean force, which the forces of a
        band have, would carry it far away. None where mean forces vanish.
    """
    hessian = model_hessian(atoms)
    hessian[np.diag_indices_from(hessian)] += onsite_eV_per_A2
    if frozen is not None and frozen.any():
        rows = np.repeat(frozen, 3)
        hessian[rows], hessian[:, rows] = 0.0, 0.0
        hessian[rows, rows] = 1.0
    factor = cho_factor(hessian, lower=True)

    def displacements(forces: np.ndarray) -> np.ndarray:
        if drift_eV_per_A2 is None:
            return cho_solve(factor, forces.reshape(-1)).reshape(forces.shape)
        mean = forces.mean(axis=0)
        moved = cho_solve(factor, (forces - mean).reshape(-1)).reshape(forces.shape)
        return moved - moved.mean(axis=0) + mean / drift_eV_per_A2

    return displacements
