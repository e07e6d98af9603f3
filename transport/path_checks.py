"""Whether a migration path can be computed with: coordinates, cell, length, and each atom there once."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list

from .errors import CandidateError, Reason, StructureError
from .paths import MigrationPath

LONGEST_HOP_A = 15.0
"""The longest published hop has 9 Angstrom; more is Cartesian coordinates, or images on two sides of the cell."""

DOUBLED_A = 0.5
"""Atoms nearer than this to one another are one atom, written a second time."""

NARROWEST_BAND_CELL_A = 4.0
"""In a cell that repeats within less the ion pushes its own images; the narrowest published one has 5.2 Angstrom."""


def check_path_geometry(path: MigrationPath, narrowest_cell_A: float) -> None:
    """Refuse a path whose numbers are no path.

    Parameters
    ----------
    path
        The path.
    narrowest_cell_A
        Least distance between opposite faces of the cell, in Angstrom.

    Raises
    ------
    StructureError
        Fewer than two images, coordinates that are not finite, species and positions of different number, a cell
        without volume or narrower than that, a path without length or longer than a hop.
    """
    label = path.path_id or "without a name"
    lattice, corners = np.asarray(path.lattice, dtype=float), np.asarray(path.path_frac_coords, dtype=float)
    framework = np.asarray(path.framework_frac_coords, dtype=float).reshape(-1, 3)
    if corners.ndim != 2 or corners.shape[0] < 2 or corners.shape[1] != 3:
        raise StructureError(f"The path {label} needs at least two images with three coordinates each.")
    if len(framework) != (atoms := len(path.framework_species)):
        raise StructureError(f"The path {label} has {len(framework)} positions for {atoms} atoms.")
    if not (np.isfinite(lattice).all() and np.isfinite(corners).all() and np.isfinite(framework).all()):
        raise StructureError(f"The path {label} holds a coordinate that is not a finite number.")
    if abs(np.linalg.det(lattice)) < 1e-3:
        raise StructureError(f"The cell of the path {label} has no volume; check its lattice vectors.")
    if not (1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)).min() >= narrowest_cell_A:
        raise StructureError(
            f"The cell of the path {label} is narrower than {narrowest_cell_A:.0f} Angstrom; check it."
        )
    length_A = path.length_A
    if length_A < 1e-3:
        raise StructureError(f"The path {label} has no length: both ends are the same site.")
    if length_A > LONGEST_HOP_A:
        raise StructureError(
            f"The path {label} is {length_A:.0f} Angstrom long, more than any single hop; coordinates must be "
            "fractional, and images must not jump across the cell."
        )


def check_band_path(path: MigrationPath) -> None:
    """Refuse a path that a nudged elastic band cannot start from.

    Raises
    ------
    StructureError
        As :func:`check_path_geometry`; with reason ``CLOSE_CONTACT`` where the framework holds the migrating ion at one
        of its ends, or an atom twice.
    CandidateError
        With reason ``UNSUPPORTED_ELEMENT`` for a symbol that is no element.
    """
    label = path.path_id or "without a name"
    check_path_geometry(path, NARROWEST_BAND_CELL_A)
    if unknown := sorted({path.ion, *path.framework_species} - set(atomic_numbers)):
        raise CandidateError(
            f"The path {label} names {', '.join(unknown)}, which is no element; correct its symbols.",
            Reason.UNSUPPORTED_ELEMENT,
        )
    if not path.framework_species:
        raise StructureError(f"The path {label} has no framework, so nothing holds the ion; complete its row.")
    framework = Atoms(path.framework_species, scaled_positions=path.framework_frac_coords, cell=path.lattice, pbc=True)
    away = np.asarray(path.framework_frac_coords)[:, None] - path.path_frac_coords[[0, -1]]
    distances_A = np.linalg.norm((away - np.round(away)) @ path.lattice, axis=2).min(axis=1)
    if distances_A.min() < DOUBLED_A:
        symbol = path.framework_species[int(np.argmin(distances_A))]
        raise StructureError(
            f"The framework of the path {label} has {symbol} at an end of the path, where the migrating ion "
            "stands; list the migrating ion in path_frac_coords alone.",
            Reason.CLOSE_CONTACT,
        )
    twice = neighbor_list("i", framework, DOUBLED_A)
    if len(twice):
        raise StructureError(
            f"The framework of the path {label} lists {len(set(twice.tolist()))} atoms less than {DOUBLED_A} Angstrom "
            "from another one; list each atom once.",
            Reason.CLOSE_CONTACT,
        )
