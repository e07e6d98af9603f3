"""The grid of a single-ion scan: which points are far enough from atoms, and which are alike by symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScanGrid:
    """Grid points of a scan in the cell of the frozen atoms, counted from the ion's own site.

    Attributes
    ----------
    shape
        Points along each cell vector.
    origin_frac
        Fractional coordinates of point (0, 0, 0): the site of the ion.
    representative
        Flat index of the irreducible point that each point is alike to, shape (points,); itself for irreducible ones.
    allowed
        Whether a point keeps the exclusion radius to every frozen atom, shape (points,).
    operations
        How many symmetry operations of the frozen atoms map the grid onto itself.
    """

    shape: tuple[int, int, int]
    origin_frac: np.ndarray
    representative: np.ndarray
    allowed: np.ndarray
    operations: int

    @property
    def irreducible(self) -> np.ndarray:
        """Flat indices of the points to evaluate, the ion's own site first."""
        return np.flatnonzero(self.allowed & (self.representative == np.arange(len(self.representative))))

    def frac_coords(self, flat: np.ndarray) -> np.ndarray:
        """Fractional coordinates of points, shape (n, 3)."""
        return self.origin_frac + np.stack(np.unravel_index(flat, self.shape), axis=-1) / np.array(self.shape)


def build_grid(
    lattice: np.ndarray,
    frozen_frac: np.ndarray,
    ion_frac: np.ndarray,
    spacing_A: float,
    exclusion_radius_A: float,
    operations: tuple[np.ndarray, np.ndarray],
) -> ScanGrid:
    """Grid with a spacing of at most ``spacing_A`` along each cell vector, reduced by symmetry.

    Operations that do not map the grid onto itself are useless; where axes of different length are mixed by symmetry,
    a grid with equally many points along them is used if that leaves fewer points to evaluate.

    Parameters
    ----------
    lattice
        Cell of the frozen atoms, vectors as rows in Angstrom, shape (3, 3).
    frozen_frac
        Fractional coordinates of the frozen atoms, shape (atoms, 3).
    ion_frac
        Site of the ion, shape (3,).
    spacing_A
        Largest step along a cell vector in Angstrom.
    exclusion_radius_A
        Points closer than this to a frozen atom are not evaluated.
    operations
        Rotations and translations of the frozen atoms' space group in fractional coordinates; the ion is not one of
        them, so these alone leave its energy as it is.
    """
    lengths = np.linalg.norm(lattice, axis=1)
    # Equal axes must get equal counts even if their lengths differ in the last digit.
    shape = np.maximum(np.ceil(lengths / spacing_A - 1e-4).astype(int), 1)
    coupled = (operations[0] != 0).any(axis=0)
    coupled = coupled | coupled.T
    coupled = np.linalg.matrix_power(coupled.astype(int), 3) > 0
    joined = np.array([shape[coupled[axis]].max() for axis in range(3)])
    grids = [
        _reduced(lattice, frozen_frac, ion_frac, candidate, exclusion_radius_A, operations)
        for candidate in {tuple(shape.tolist()), tuple(joined.tolist())}
    ]
    return min(grids, key=lambda grid: len(grid.irreducible))


def _reduced(
    lattice: np.ndarray,
    frozen_frac: np.ndarray,
    ion_frac: np.ndarray,
    shape: tuple[int, int, int],
    exclusion_radius_A: float,
    operations: tuple[np.ndarray, np.ndarray],
) -> ScanGrid:
    counts = np.array(shape)
    points = np.stack(np.unravel_index(np.arange(counts.prod()), shape), axis=-1)
    representative = np.arange(len(points))
    used = 0
    for rotation, translation in zip(*operations, strict=True):
        # Point i sits at ion + i / n; its image is ion + (rotation @ (i / n) + shift), which must lie on the grid.
        on_grid = counts[:, None] * rotation / counts[None, :]
        shift = (rotation @ ion_frac + translation - ion_frac) * counts
        if np.abs(on_grid - np.rint(on_grid)).max() > 1e-6 or np.abs(shift - np.rint(shift)).max() > 2e-2:
            continue
        used += 1
        image = (points @ np.rint(on_grid).astype(int).T + np.rint(shift).astype(int)) % counts
        representative = np.minimum(representative, np.ravel_multi_index(tuple(image.T), shape))
    # The lowest of an orbit's indices is reached from all its members only if the operations form a group, which
    # those that preserve a grid do; pointing on once more guards against symmetry that holds to symprec only.
    while not np.array_equal(representative[representative], representative):
        representative = representative[representative]
    allowed = _clearance_A(lattice, frozen_frac, ion_frac + points / counts, exclusion_radius_A) >= exclusion_radius_A
    # A point is allowed if its representative is, so that rounding at the exclusion radius cannot split an orbit.
    return ScanGrid(shape, ion_frac, representative, allowed[representative], used)


def _clearance_A(lattice: np.ndarray, frozen_frac: np.ndarray, points_frac: np.ndarray, reach_A: float) -> np.ndarray:
    """Distance from points to the nearest atom, periodic images included; ``inf`` beyond ``reach_A``."""
    from scipy.spatial import cKDTree

    from .supercells import perpendicular_widths_A

    if len(frozen_frac) == 0:
        return np.full(len(points_frac), np.inf)
    margin = (reach_A + 1e-3) / perpendicular_widths_A(lattice)
    wrapped = frozen_frac % 1.0
    cells = np.stack(
        np.meshgrid(*(np.arange(-int(np.ceil(m)), int(np.ceil(m)) + 1) for m in margin), indexing="ij"), axis=-1
    ).reshape(-1, 1, 3)
    images = (wrapped[None] + cells).reshape(-1, 3)
    images = images[np.all((images > -margin) & (images < 1 + margin), axis=1)]
    distance, _ = cKDTree(images @ lattice).query((points_frac % 1.0) @ lattice, distance_upper_bound=reach_A + 1e-3)
    return distance
