"""Space-group operations as site permutations, and the primitive lattice behind a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class CrystalSymmetry:
    """What a crystal's space group does to the sites of one cell.

    Attributes
    ----------
    rotations
        Rotation parts in fractional coordinates, shape (operations, 3, 3), integers; they act on column vectors.
    translations
        Translation parts in fractional coordinates, shape (operations, 3).
    permutations
        ``permutations[k, i]`` is the site that operation ``k`` moves site ``i`` onto, shape (operations, sites).
    shifts
        ``shifts[k, i]`` is the cell translation of that site, shape (operations, sites, 3), so that
        ``rotations[k] @ x_i + translations[k] = x_permutations[k, i] + shifts[k, i]``.
    primitive_lattice
        Vectors of the primitive lattice as rows in Angstrom, in the orientation of the cell, shape (3, 3).
    primitive_sites
        One site of every set that the primitive lattice's translations map onto one another.
    """

    rotations: np.ndarray
    translations: np.ndarray
    permutations: np.ndarray
    shifts: np.ndarray
    primitive_lattice: np.ndarray
    primitive_sites: np.ndarray


def crystal_symmetry(structure: Structure, symprec: float = 0.01) -> CrystalSymmetry:
    """Find the space group with spglib; oxidation states and magnetic moments are disregarded.

    Parameters
    ----------
    structure
        Ordered crystal.
    symprec
        Tolerance in Angstrom. Operations that do not map every site onto one of its kind within a few times this are
        left out.
    """
    rotations, translations = space_group_operations(
        structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure], symprec
    )
    frac, matrix = structure.frac_coords, structure.lattice.matrix
    numbers = np.array([site.specie.Z for site in structure])
    kept, permutations, shifts = [], [], []
    for k, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        moved = frac @ rotation.T + translation
        offset = moved[:, None, :] - frac[None, :, :]
        cells = np.rint(offset)
        distance = np.linalg.norm((offset - cells) @ matrix, axis=2)
        distance[numbers[:, None] != numbers[None, :]] = np.inf
        target = distance.argmin(axis=1)
        reached = distance[np.arange(len(frac)), target]
        if reached.max() < 5 * symprec and len(set(target.tolist())) == len(frac):
            kept.append(k)
            permutations.append(target)
            shifts.append(cells[np.arange(len(frac)), target].astype(int))
    rotations, translations = rotations[kept], translations[kept]
    lattice, first_sites = _primitive(matrix, rotations, translations, np.array(permutations))
    return CrystalSymmetry(rotations, translations, np.array(permutations), np.array(shifts), lattice, first_sites)


def space_group_operations(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: list[int], symprec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (operations, 3, 3) and translations (operations, 3) in fractional coordinates, identity first.

    A cell for which spglib finds nothing, or which holds no atom, has the identity alone.
    """
    import spglib

    identity = np.eye(3, dtype=int)[None], np.zeros((1, 3))
    if len(frac_coords) == 0:
        return identity
    found = spglib.get_symmetry((lattice, frac_coords % 1.0, numbers), symprec=symprec)
    if found is None:
        return identity
    return np.asarray(found["rotations"], dtype=int), np.asarray(found["translations"], dtype=float)


def _primitive(
    matrix: np.ndarray, rotations: np.ndarray, translations: np.ndarray, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Primitive lattice spanned by the pure translations, and one site of every translation class."""
    pure = np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))
    count = int(pure.sum())
    first_sites = np.unique(permutations[pure].min(axis=0))
    if count == 1 or len(first_sites) * count != permutations.shape[1]:
        return matrix, np.arange(permutations.shape[1])
    # Every translation is a multiple of 1/count in each component: an integer lattice whose basis is a Hermite form.
    vectors = np.rint((translations[pure] % 1.0) * count).astype(int)
    if not np.allclose(vectors / count, translations[pure] % 1.0, atol=0.05 / count):
        return matrix, np.arange(permutations.shape[1])
    basis = _integer_basis(np.vstack([vectors, count * np.eye(3, dtype=int)])) / count
    if not np.isclose(abs(np.linalg.det(basis)) * count, 1.0, atol=1e-6):
        return matrix, np.arange(permutations.shape[1])
    from ase.geometry.minkowski_reduction import minkowski_reduce

    lattice = minkowski_reduce(basis @ matrix)[0]
    if np.linalg.det(lattice) < 0:
        lattice = -lattice
    return lattice, first_sites


def _integer_basis(vectors: np.ndarray) -> np.ndarray:
    """Basis of the lattice that integer rows span, by Euclid's algorithm column by column, shape (3, 3)."""
    rows = [list(map(int, v)) for v in vectors]
    basis = []
    for column in range(3):
        while True:
            rows = [r for r in rows if any(r)]
            lead = [r for r in rows if r[column]]
            if len(lead) <= 1:
                break
            pivot = min(lead, key=lambda r: abs(r[column]))
            for r in lead:
                if r is not pivot:
                    factor = r[column] // pivot[column]
                    r[:] = [x - factor * p for x, p in zip(r, pivot, strict=True)]
        if lead:
            basis.append(lead[0])
            rows.remove(lead[0])
    return np.array(basis, dtype=float)
