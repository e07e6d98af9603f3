"""Supercells that keep a defect away from its periodic images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from .symmetry import CrystalSymmetry

_MAX_SEARCHED_CELLS = 64


@dataclass(frozen=True)
class Supercell:
    """Sites of a supercell.

    Attributes
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    species
        Element symbol of every atom, shape (atoms,).
    frac_coords
        Fractional coordinates from 0 to 1, shape (atoms, 3).
    """

    lattice: np.ndarray
    species: np.ndarray
    frac_coords: np.ndarray

    def atom_at(self, cart_coords: np.ndarray, species: str, tolerance_A: float = 0.1) -> int:
        """Index of the one atom of a species at a point.

        Raises
        ------
        StructureError
            There is none, or there are several.
        """
        from .errors import StructureError

        offset = self.frac_coords - cart_coords @ np.linalg.inv(self.lattice)
        distance = np.linalg.norm((offset - np.rint(offset)) @ self.lattice, axis=1)
        found = np.flatnonzero((distance < tolerance_A) & (self.species == species))
        if len(found) != 1:
            raise StructureError(
                f"The supercell holds {len(found)} {species} atoms where the crystal has one; its symmetry is "
                "ambiguous, give the structure with more digits."
            )
        return int(found[0])


def build_supercell(structure: Structure, symmetry: CrystalSymmetry, multiples: np.ndarray) -> Supercell:
    """Atoms of the supercell with vectors ``multiples @ symmetry.primitive_lattice``.

    Parameters
    ----------
    structure, symmetry
        The crystal and what :func:`hopflow.transport.symmetry.crystal_symmetry` says of it.
    multiples
        Integer matrix, shape (3, 3).

    Raises
    ------
    StructureError
        The number of atoms does not fit the volume: the primitive cell was misjudged.
    """
    from pymatgen.util.coord import lattice_points_in_supercell

    from .errors import StructureError

    lattice = multiples @ symmetry.primitive_lattice
    points = lattice_points_in_supercell(multiples)
    atoms = symmetry.primitive_sites
    frac = ((structure.cart_coords[atoms] @ np.linalg.inv(lattice))[:, None, :] + points[None]).reshape(-1, 3)
    frac -= np.floor(frac + 1e-9)
    species = np.repeat([structure[int(k)].specie.symbol for k in atoms], len(points))
    expected = abs(np.linalg.det(lattice)) / structure.volume * len(structure)
    if abs(len(frac) - expected) > 0.1:
        raise StructureError(
            f"A supercell got {len(frac)} atoms instead of {expected:.1f}; the structure's symmetry is ambiguous, give "
            "it with more digits."
        )
    return Supercell(lattice, species, frac)


def perpendicular_widths_A(lattice: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of a cell in Angstrom, shape (3,).

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    """
    return 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)


def diagonal_supercell(lattice: np.ndarray, min_length_A: float) -> np.ndarray:
    """Smallest multiples of the cell vectors that make every perpendicular width at least ``min_length_A``.

    Returns
    -------
    numpy.ndarray
        Integer matrix S, shape (3, 3); the supercell's vectors are the rows of ``S @ lattice``.
    """
    repeats = np.ceil(min_length_A / perpendicular_widths_A(lattice) - 1e-6).astype(int)
    return np.diag(np.maximum(repeats, 1))


def compact_supercell(lattice: np.ndarray, min_length_A: float) -> np.ndarray:
    """Supercell of the fewest cells whose perpendicular widths all reach ``min_length_A``.

    All sublattices are tried (their Hermite normal forms, Santoro & Mighell, Acta Cryst. A28 (1972) 284), smallest
    first; each is judged by its Minkowski-reduced cell. Of those with equally many cells the one with the largest
    smallest width wins. Fewer atoms make a NEB two to three times cheaper than multiples of the cell vectors do in
    small cells.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    min_length_A
        Smallest perpendicular width of the supercell in Angstrom.

    Returns
    -------
    numpy.ndarray
        Integer matrix S, shape (3, 3), positive determinant; the supercell's vectors are the rows of ``S @ lattice``.
    """
    if np.all(perpendicular_widths_A(lattice) >= min_length_A - 1e-6):
        return np.eye(3, dtype=int)
    rounded = tuple(tuple(float(x) for x in row) for row in np.round(lattice, 8))
    return np.array(_compact_supercell(rounded, round(min_length_A, 8)), dtype=int)


@lru_cache(maxsize=256)
def _compact_supercell(rows: tuple[tuple[float, ...], ...], min_length_A: float) -> tuple[tuple[int, ...], ...]:
    from ase.geometry.minkowski_reduction import minkowski_reduce

    lattice = np.array(rows)
    reduced, to_reduced = minkowski_reduce(lattice)
    diagonal = diagonal_supercell(reduced, min_length_A)
    most_cells = round(np.linalg.det(diagonal))
    best = diagonal @ to_reduced
    short = _vectors_shorter_than(reduced, min_length_A - 1e-6)
    # The product of the perpendicular widths never exceeds the volume.
    fewest_cells = max(1, int(np.ceil(min_length_A**3 / abs(np.linalg.det(reduced)) - 1e-6)))
    for cells in range(fewest_cells, min(most_cells, _MAX_SEARCHED_CELLS + 1)):
        candidates = _hermite_normal_forms(cells)
        candidates = candidates[~_contains_any(candidates, short)]
        widest = min_length_A - 1e-6
        found = None
        for matrix in candidates:
            cell, to_cell = minkowski_reduce(matrix @ reduced)
            width = float(perpendicular_widths_A(cell).min())
            # The margin keeps the choice the same on machines that round differently.
            if width > widest + (1e-4 if found is not None else 0.0):
                widest, found = width, to_cell @ matrix @ to_reduced
        if found is not None:
            best = found
            break
    if np.linalg.det(best) < 0:
        best = -best
    return tuple(tuple(int(x) for x in row) for row in np.rint(best).astype(int))


def _vectors_shorter_than(lattice: np.ndarray, length_A: float) -> np.ndarray:
    """Integer coordinates of one of each +/- pair of lattice vectors shorter than ``length_A``, shape (m, 3)."""
    reach = np.floor(length_A / perpendicular_widths_A(lattice)).astype(int)
    grid = np.array(list(product(*(range(-n, n + 1) for n in reach))), dtype=int)
    grid = grid[len(grid) // 2 + 1 :]  # the second half, without zero: one of each pair
    return grid[np.linalg.norm(grid @ lattice, axis=1) < length_A]


def _hermite_normal_forms(cells: int) -> np.ndarray:
    """All sublattices of an index as lower triangular matrices, shape (m, 3, 3)."""
    matrices = [
        ((a, 0, 0), (b, c, 0), (d, e, f))
        for a in range(1, cells + 1)
        if cells % a == 0
        for c in range(1, cells // a + 1)
        if (cells // a) % c == 0
        for f in (cells // (a * c),)
        for b in range(a)
        for d in range(a)
        for e in range(c)
    ]
    return np.array(matrices, dtype=int)


def _contains_any(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Whether a sublattice holds any of the lattice vectors, shape (m,)."""
    if len(vectors) == 0:
        return np.zeros(len(matrices), dtype=bool)
    a, c, f = (matrices[:, i, i][:, None] for i in range(3))
    b, d, e = (matrices[:, i, j][:, None] for i, j in ((1, 0), (2, 0), (2, 1)))
    x, y, z = vectors.T[:, None, :]
    third, rest = np.divmod(z, f)
    inside = rest == 0
    second, rest = np.divmod(y - third * e, c)
    inside &= rest == 0
    inside &= (x - third * d - second * b) % a == 0
    return inside.any(axis=1)
