"""Free volume of mobile ions: how much of a crystal lies within a threshold of their minima.

After Maevskiy et al. (arXiv 2411.06804 and the code that goes with it): disconnected, where the energy is below the
threshold, and connected, where the ion gets without rising above it; united over all mobile ions; smeared over five
thresholds; and the score that combines the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .symmetry import CrystalSymmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from .landscape_analysis import IonLandscape

FREE_VOLUME_THRESHOLDS_eV = tuple(round(0.1 * k, 1) for k in range(1, 11))

SMEARING_eV = (-0.04, -0.02, 0.0, 0.02, 0.04)
"""A smeared free volume is the mean of those at a threshold plus each of these (arXiv 2411.06804)."""

SCORE_THRESHOLD_eV = 0.5
"""Threshold of the free volumes that the combined score reads."""


def combined_score(connected: float, disconnected: float) -> float:
    """Score of Maevskiy et al. (arXiv 2411.06804): the product of two logistic functions of free volumes.

    Half of each is reached at a connected fraction of 1.0 % and a disconnected one of 7.1 %.

    Parameters
    ----------
    connected, disconnected
        Smeared free volumes at 0.5 eV, as fractions, united over the ions.
    """
    from scipy.special import expit

    with np.errstate(divide="ignore"):
        return float(
            expit(10 * (np.log10(np.float64(connected)) + 2.0))
            * expit(10 * (np.log10(np.float64(disconnected)) + 1.15))
        )


def free_fraction(field_eV: np.ndarray, threshold_eV: float, smeared: bool = False) -> float:
    """Share of a field below a threshold, or the mean of those below the threshold plus each of ``SMEARING_eV``."""
    steps = SMEARING_eV if smeared else (0.0,)
    return float(np.mean([(field_eV < threshold_eV + step).mean() for step in steps]))


def free_fractions(field_eV: np.ndarray) -> dict[float, float]:
    """Shares of a field below each of ``FREE_VOLUME_THRESHOLDS_eV``."""
    return {threshold: free_fraction(field_eV, threshold) for threshold in FREE_VOLUME_THRESHOLDS_eV}


def union_of_ions(
    ions: Sequence[IonLandscape], structure: Structure, symmetry: CrystalSymmetry
) -> tuple[np.ndarray, np.ndarray]:
    """Least level, and least energy, above its own minimum that any mobile ion has at each point of the crystal.

    Every scanned ion's landscape is copied by the space group onto its equivalents. Those whose grids start at
    different sites, or are turned against each other, are brought to one grid point by point, to the nearest: exact to
    half a grid step.

    Parameters
    ----------
    ions
        Landscapes in the same supercell.
    structure, symmetry
        The crystal.
    """
    from pymatgen.util.coord import lattice_points_in_supercell

    lattice = ions[0].lattice
    shape = np.array(max((ion.values_eV.shape for ion in ions), key=lambda s: int(np.prod(s))))
    to_grid = np.linalg.inv(lattice)
    to_primitive = np.linalg.inv(symmetry.primitive_lattice)
    copies = lattice_points_in_supercell(np.rint(lattice @ to_primitive).astype(int))
    origin = ions[0].origin_frac
    unions = []
    for name in ("level_map_eV", "values_eV"):
        least = np.full(tuple(shape), np.inf)
        for ion in ions:
            heights = getattr(ion, name) - ion.values_eV.min()
            low = np.argwhere(np.isfinite(heights))
            # The region as it lies round the ion's site, in fractions of the primitive lattice.
            step = low / np.array(ion.values_eV.shape)
            step -= np.rint(step)
            site = symmetry.site_to_primitive[ion.site_index]
            home = (
                structure.cart_coords[ion.site_index] - symmetry.site_cells[ion.site_index] @ symmetry.primitive_lattice
            )
            region = (home + step @ lattice) @ to_primitive
            # One operation for each equivalent site; others that lead there give the same region.
            _, first = np.unique(symmetry.permutations[:, site], return_index=True)
            for k in first:
                turned = (region @ symmetry.rotations[k].T + symmetry.translations[k]) @ symmetry.primitive_lattice
                for copy in copies:
                    index = np.rint((turned @ to_grid + copy - origin) * shape).astype(int) % shape
                    np.minimum.at(least, tuple(index.T), heights[tuple(low.T)])
        unions.append(least)
    return unions[0], unions[1]
