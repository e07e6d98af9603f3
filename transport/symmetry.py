"""Space-group operations as permutations of primitive sites, and the primitive lattice behind a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class CrystalSymmetry:
    """What a crystal's space group does to its sites, counted in the primitive lattice.

    A supercell whose shape is less symmetric than the crystal hides operations; the primitive cell shows all.

    Attributes
    ----------
    primitive_lattice
        Vectors of the primitive lattice as rows in Angstrom, in the orientation of the given cell, shape (3, 3).
    primitive_sites
        For each primitive site the index of a site of the given cell that it stands for.
    site_to_primitive
        For each site of the given cell its primitive site, shape (sites,).
    site_cells
        For each site of the given cell the primitive-lattice translation from that primitive site, shape (sites, 3).
    cell_multiples
        The given cell's vectors in units of the primitive ones, integers, shape (3, 3).
    rotations, translations
        Operations in fractional coordinates of the primitive lattice, shapes (operations, 3, 3) and (operations, 3);
        rotations are integers and act on column vectors.
    permutations
        ``permutations[k, p]`` is the primitive site that operation ``k`` moves ``p`` onto, shape (operations, sites).
    shifts
        ``shifts[k, p]`` is that site's translation, shape (operations, sites, 3), so that
        ``rotations[k] @ x_p + translations[k] = x_permutations[k, p] + shifts[k, p]``.
    """

    primitive_lattice: np.ndarray
    primitive_sites: np.ndarray
    site_to_primitive: np.ndarray
    site_cells: np.ndarray
    cell_multiples: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    permutations: np.ndarray
    shifts: np.ndarray

    def unique_sites(self) -> np.ndarray:
        """One site of the given cell of every set that symmetry maps onto one another."""
        return self.primitive_sites[np.unique(self.permutations.min(axis=0))]


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
    matrix, frac = structure.lattice.matrix, structure.frac_coords
    numbers = np.array([site.specie.Z for site in structure])
    rotations, translations = space_group_operations(matrix, frac, numbers.tolist(), symprec)
    lattice = _primitive_lattice(matrix, translations[np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))])
    in_primitive = structure.cart_coords @ np.linalg.inv(lattice)
    site_to_primitive, site_cells = _classes(in_primitive, numbers, lattice, 5 * symprec)
    cell_multiples = np.rint(matrix @ np.linalg.inv(lattice)).astype(int)
    expected = len(structure) / abs(round(float(np.linalg.det(cell_multiples))))
    if len(np.unique(site_to_primitive)) != round(expected):
        # Translations that hold to symprec only and do not add up: take the cell as it is.
        lattice, in_primitive, cell_multiples = matrix, frac, np.eye(3, dtype=int)
        site_to_primitive, site_cells = np.arange(len(frac)), np.zeros((len(frac), 3), dtype=int)
    sites, site_to_primitive = np.unique(site_to_primitive, return_inverse=True)

    points, kinds = in_primitive[sites], numbers[sites]
    rotations, translations = space_group_operations(lattice, points, kinds.tolist(), symprec)
    kept, permutations, shifts = [], [], []
    for k, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        target, cells, distance = _nearest(points @ rotation.T + translation, kinds, points, kinds, lattice)
        if distance.max() < 5 * symprec and len(np.unique(target)) == len(points):
            kept.append(k)
            permutations.append(target)
            shifts.append(cells)
    return CrystalSymmetry(
        primitive_lattice=lattice,
        primitive_sites=sites,
        site_to_primitive=site_to_primitive.reshape(-1),
        site_cells=site_cells,
        cell_multiples=cell_multiples,
        rotations=rotations[kept],
        translations=translations[kept],
        permutations=np.array(permutations),
        shifts=np.array(shifts),
    )


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
    found = spglib.get_symmetry((lattice.tolist(), (frac_coords % 1.0).tolist(), numbers), symprec=symprec)
    if found is None:
        return identity
    return np.asarray(found["rotations"], dtype=int), np.asarray(found["translations"], dtype=float)


def _nearest(
    points: np.ndarray, kinds: np.ndarray, others: np.ndarray, other_kinds: np.ndarray, lattice: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each point the nearest other of its kind modulo the lattice: index, cell translation, distance."""
    offset = points[:, None, :] - others[None, :, :]
    cells = np.rint(offset)
    distance = np.linalg.norm((offset - cells) @ lattice, axis=2)
    distance[kinds[:, None] != other_kinds[None, :]] = np.inf
    target = distance.argmin(axis=1)
    row = np.arange(len(points))
    return target, cells[row, target].astype(int), distance[row, target]


def _classes(
    in_primitive: np.ndarray, numbers: np.ndarray, lattice: np.ndarray, tolerance_A: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each site the first site that differs by a lattice translation, and that translation."""
    offset = in_primitive[:, None, :] - in_primitive[None, :, :]
    cells = np.rint(offset)
    alike = np.linalg.norm((offset - cells) @ lattice, axis=2) < tolerance_A
    alike &= numbers[:, None] == numbers[None, :]
    first = alike.argmax(axis=1)
    return first, cells[np.arange(len(first)), first].astype(int)


def _primitive_lattice(matrix: np.ndarray, pure: np.ndarray) -> np.ndarray:
    """Minkowski-reduced primitive lattice spanned by a cell and its pure translations; the cell if there are none."""
    count = len(pure)
    if count <= 1:
        return matrix
    # Every translation is a multiple of 1/count in each component: an integer lattice whose basis is a Hermite form.
    vectors = np.rint((pure % 1.0) * count).astype(int)
    basis = _integer_basis(np.vstack([vectors, count * np.eye(3, dtype=int)])) / count
    if not np.isclose(abs(np.linalg.det(basis)) * count, 1.0, atol=1e-6):
        return matrix
    from ase.geometry.minkowski_reduction import minkowski_reduce

    lattice = np.asarray(minkowski_reduce(basis @ matrix)[0])
    return lattice if np.linalg.det(lattice) * np.linalg.det(matrix) > 0 else -lattice


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
