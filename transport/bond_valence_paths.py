"""The way of one ion between two places in the bond-valence site energy: a first guess for a band.

The simplified string method of W. E, W. Ren and E. Vanden-Eijnden, J. Chem. Phys. 126, 164103 (2007): points of a
curve step downhill and are spread out over it again, until nothing pushes the curve sideways. The field is that of the
crystal without its mobile ions, whose gradients are exact and cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import CandidateError
from .frameworks import Framework, bond_valence_framework

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from .paths import MigrationPath

POINTS = 15
CLEARANCE_A = 1.8
"""Mobile ions are farther apart than this in any crystal."""

_STEPS = 200
_STEP_A2_PER_EV = 0.02
_LONGEST_STEP_A = 0.05
_AT_REST_EV_PER_A = 0.05


def decorated_path_host(path: MigrationPath) -> Structure:
    """The path's crystal with oxidation states.

    A vacancy hop leaves one of its two sites empty; the charges are those of the full crystal, so both are filled. An
    ion alone in a host (no other ion of its element in the framework) reduces the host by its own charge only.

    Parameters
    ----------
    path
        The path.

    Raises
    ------
    OxidationStateError
        No charges can be assigned.
    """
    from pymatgen.core import Structure

    from .errors import OxidationStateError
    from .structures import assign_oxidation_states

    ends = path.path_frac_coords[[0, -1]]
    crystals = [
        Structure(
            path.lattice,
            [path.ion] * len(places) + list(path.framework_species),
            np.vstack([places, path.framework_frac_coords]),
        )
        for places in (ends, ends[:1])
    ]
    if path.ion in path.framework_species:
        try:
            return assign_oxidation_states(crystals[0], path.ion)
        except OxidationStateError:
            pass
    return assign_oxidation_states(crystals[1], path.ion)


def bond_valence_path(path: MigrationPath, points: int = POINTS) -> np.ndarray:
    """Relax a path's ion in the bond-valence site energy, its ends kept.

    Parameters
    ----------
    path
        The path; its own images are where the curve begins.
    points
        Points of the curve, ends included.

    Returns
    -------
    numpy.ndarray
        Cartesian positions in Angstrom, continuous, shape (points, 3).

    Raises
    ------
    OxidationStateError, MissingParametersError
        There is no such field: no charges, or no parameters for a pair.
    """
    framework = bond_valence_framework(decorated_path_host(path), path.ion)
    return relaxed_string(framework, _spread(path.path_frac_coords @ path.lattice, points))


def unoccupied_valley(path: MigrationPath) -> np.ndarray | None:
    """:func:`bond_valence_path` where it can be had and keeps clear of other mobile ions; else None.

    The field knows no other mobile ions, whose sites are its deepest valleys: a curve that comes nearer to one of them
    than ``CLEARANCE_A``, and nearer than the straight path does, leads through a place that is taken.
    """
    try:
        curve = bond_valence_path(path)
    except CandidateError:
        return None
    others = np.array([symbol == path.ion for symbol in path.framework_species])
    if not others.any():
        return curve
    line = _spread(path.path_frac_coords @ path.lattice, len(curve))
    nearest = [_nearest_A(points, path.framework_frac_coords[others], path.lattice) for points in (curve, line)]
    return curve if nearest[0] >= min(CLEARANCE_A, nearest[1] - 1e-6) else None


def _nearest_A(points: np.ndarray, frac_coords: np.ndarray, lattice: np.ndarray) -> float:
    """Least distance of points from atoms, images included."""
    from pymatgen.core import Lattice

    return float(Lattice(lattice).get_all_distances(points @ np.linalg.inv(lattice), frac_coords).min())


def relaxed_string(framework: Framework, curve: np.ndarray) -> np.ndarray:
    """Let a curve sink into the valley between its ends.

    Parameters
    ----------
    framework
        Gives the field.
    curve
        Cartesian positions in Angstrom, shape (points, 3).
    """
    inverse = np.linalg.inv(framework.lattice)
    for _ in range(_STEPS):
        _, gradients = framework.energies_at(curve[1:-1] @ inverse)
        along = curve[2:] - curve[:-2]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = -gradients + np.einsum("ij,ij->i", gradients, along)[:, None] * along
        if np.linalg.norm(across, axis=1).max() < _AT_REST_EV_PER_A:
            break
        step = _STEP_A2_PER_EV * across
        lengths = np.linalg.norm(step, axis=1, keepdims=True)
        step *= np.minimum(1.0, _LONGEST_STEP_A / np.maximum(lengths, 1e-12))
        curve = _spread(np.vstack([curve[:1], curve[1:-1] + step, curve[-1:]]), len(curve))
    return curve


def _spread(curve: np.ndarray, points: int) -> np.ndarray:
    """Points at equal distances along a polyline."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.linspace(0.0, lengths[-1], points)
    return np.stack([np.interp(wanted, lengths, curve[:, k]) for k in range(3)], axis=1)
