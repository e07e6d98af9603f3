"""Grids that a crystal's space group maps onto themselves, so that each orbit of atoms is summed only once.

The field of an orbit of atoms is the field of one of them, summed over the images of the point under the group. So only
symmetry-unique atoms need their pair terms computed, whatever the shape of the asymmetric unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from .symmetry import space_group_operations

if TYPE_CHECKING:
    from .site_energy import Framework

#: Translations of space groups in any setting have these denominators.
_DENOMINATORS = (1, 2, 3, 4, 6, 12)

#: A field of fewer pair terms is summed faster than its symmetry is found.
_WORTH_A_SEARCH = 2_000_000

#: What a grid point costs besides its pair terms (orbits, sorting, percolation), in pair terms.
_POINT_COST = 25.0


@dataclass(frozen=True)
class SymmetricGrid:
    """A grid and the group that maps it onto itself.

    Attributes
    ----------
    shape
        Points along each cell vector.
    rotations, shifts
        Operations in grid steps, int, shapes (operations, 3, 3) and (operations, 3); the identity alone is there
        without symmetry.
    representatives
        Index of one ion of each orbit.
    multiplicities
        Number of ions of each of these orbits.
    """

    shape: tuple[int, int, int]
    rotations: np.ndarray
    shifts: np.ndarray
    representatives: np.ndarray
    multiplicities: np.ndarray


def symmetric_grid(
    framework: Framework, shape: tuple[int, int, int], fixed: bool, tolerance_A: float, terms_per_point: float
) -> SymmetricGrid:
    """Find the grid, at least as fine as ``shape``, on which the field costs least.

    Parameters
    ----------
    framework
        Ions that make the field.
    shape
        Points along each cell vector that the wanted spacing needs.
    fixed
        Keep the shape; only operations that map this very grid onto itself are used.
    tolerance_A
        How far ions and grid points may lie from their images; 0 uses no symmetry.
    terms_per_point
        Pair terms of one grid point, for weighing a finer grid against more operations.
    """
    if tolerance_A > 0 and np.prod(shape) * terms_per_point > _WORTH_A_SEARCH:
        rotations, translations = symmetry_operations(framework, tolerance_A)
        best = shape
        if not fixed and len(rotations) > 1:
            costs = {}
            for candidate in _candidates(framework.lattice, shape, rotations, translations):
                operations = int(_compatible(candidate, framework.lattice, rotations, translations, tolerance_A).sum())
                points = float(np.prod(candidate))
                costs[candidate] = points * (terms_per_point / operations + _POINT_COST)
            best = min(costs, key=lambda candidate: (costs[candidate], candidate))
        kept = _compatible(best, framework.lattice, rotations, translations, tolerance_A)
        orbits = _orbits(framework, rotations[kept], translations[kept], tolerance_A)
        if orbits is not None and kept.sum() > 1:
            divisions = np.array(best)
            in_steps = rotations[kept] * divisions[None, :, None] / divisions[None, None, :]
            return SymmetricGrid(
                best,
                np.rint(in_steps).astype(np.int64),
                np.rint(translations[kept] * divisions).astype(np.int64),
                *orbits,
            )
    ions = len(framework.kinds)
    return SymmetricGrid(
        shape,
        np.eye(3, dtype=np.int64)[None],
        np.zeros((1, 3), dtype=np.int64),
        np.arange(ions),
        np.ones(ions, dtype=np.int64),
    )


def _sites(framework: Framework) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Positions (sites, 3), a number for what sits there (sites,), and the ions of each site."""
    members: dict[tuple[float, ...], list[int]] = {}
    for index, coords in enumerate(framework.frac_coords):
        members.setdefault(tuple(coords), []).append(index)
    contents: dict[tuple[tuple[int, float], ...], int] = {}
    types = []
    for ions in members.values():
        content = tuple(sorted((int(framework.kinds[i]), round(float(framework.weights[i]), 6)) for i in ions))
        types.append(contents.setdefault(content, len(contents) + 1))
    return np.array(list(members)), np.array(types), [np.array(ions) for ions in members.values()]


def symmetry_operations(framework: Framework, tolerance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (operations, 3, 3) and translations (operations, 3) of the space group, in fractional coordinates."""
    positions, types, _ = _sites(framework)
    return space_group_operations(framework.lattice, positions, types.tolist(), tolerance_A)


def _candidates(
    lattice: np.ndarray, shape: tuple[int, int, int], rotations: np.ndarray, translations: np.ndarray
) -> set[tuple[int, int, int]]:
    """Shapes that suit some or all of the translations; axes that the rotations exchange get as many points."""
    lengths = np.linalg.norm(lattice, axis=1)
    denominators = []
    for axis in range(3):
        found = {
            Fraction(float(t)).limit_denominator(12).denominator
            for t in np.unique(np.round(translations[:, axis] % 1.0, 4))
        }
        wanted = int(np.lcm.reduce([d for d in found if d in _DENOMINATORS] or [1]))
        denominators.append(sorted({1, wanted, *((4, 6) if wanted == 12 else ())}))
    candidates = {shape}
    for multiples in product(*denominators):
        points = [-(-n // m) * m for n, m in zip(shape, multiples, strict=True)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            if abs(lengths[a] - lengths[b]) < 1e-3 * lengths[a] and (rotations[:, a, b] != 0).any():
                points[a] = points[b] = max(points[a], points[b])
        candidates.add((points[0], points[1], points[2]))
    return candidates


def _compatible(
    shape: tuple[int, ...], lattice: np.ndarray, rotations: np.ndarray, translations: np.ndarray, tolerance_A: float
) -> np.ndarray:
    """Which operations map the grid onto itself, bool (operations,)."""
    divisions = np.array(shape, dtype=float)
    steps_A = np.linalg.norm(lattice, axis=1) / divisions
    turned = rotations * divisions[None, :, None] / divisions[None, None, :]
    moved = translations * divisions
    fits = (np.abs(turned - np.rint(turned)) < 1e-9).all(axis=(1, 2))
    return fits & ((np.abs(moved - np.rint(moved)) * steps_A).max(axis=1) < tolerance_A)


def _orbits(
    framework: Framework, rotations: np.ndarray, translations: np.ndarray, tolerance_A: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """One ion of each orbit and the orbits' sizes; None where the operations do not permute the ions as a group."""
    from scipy.spatial import cKDTree

    positions, types, members = _sites(framework)
    wrapped = positions % 1.0 % 1.0  # twice: -1e-17 % 1.0 is 1.0
    tree = cKDTree(wrapped, boxsize=1.0)
    free = np.ones(len(positions), dtype=bool)
    representatives: list[int] = []
    multiplicities: list[int] = []
    for site in range(len(positions)):
        if not free[site]:
            continue
        images = (rotations @ wrapped[site] + translations) % 1.0 % 1.0
        _, matched = tree.query(images)
        offset = images - wrapped[matched]
        distances = np.linalg.norm((offset - np.rint(offset)) @ framework.lattice, axis=1)
        orbit, counts = np.unique(matched, return_counts=True)
        whole = (types[orbit] == types[site]).all() and free[orbit].all() and len(set(counts.tolist())) == 1
        if not whole or distances.max() > 4 * tolerance_A:
            return None
        free[orbit] = False
        representatives += members[site].tolist()
        multiplicities += [len(orbit)] * len(members[site])
    return np.array(representatives), np.array(multiplicities)
