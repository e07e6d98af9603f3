"""Symmetry of a framework of spheres: its operations, the exactly symmetric crystal, and orbits of points in it.

Voids lie on symmetry elements more often than not, and there many spheres meet in one vertex. Coordinates that a file
rounds to six digits split such a vertex into a heap of false ones, so the framework is made exactly symmetric before it
is decomposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .periodic_points import images_around
from .symmetry import space_group_operations

#: Translations of two operations with one rotation differ by a fraction of a cell vector, far more than this.
_SAME_TRANSLATION = 1e-3


@dataclass(frozen=True)
class SymmetricFramework:
    """A crystal that its operations map onto itself to rounding error.

    Attributes
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac_coords
        Shape (atoms, 3).
    orbits
        Number of the orbit of each atom, int, shape (atoms,).
    rotations, translations
        Operations that act on fractional coordinates as columns, shapes (operations, 3, 3) and (operations, 3).
    generators
        Indices of operations whose products are all of them.
    largest_shift_A
        How far an atom had to be moved.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    orbits: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    generators: tuple[int, ...]
    largest_shift_A: float

    def orbits_of(self, frac_coords: np.ndarray, tolerance_A: float) -> np.ndarray:
        """Number of the orbit of each of a set of points that the operations map onto itself.

        Parameters
        ----------
        frac_coords
            Shape (points, 3).
        tolerance_A
            A point whose image lies farther from every other point is left without that image.

        Returns
        -------
        numpy.ndarray
            Int, shape (points,), counted from 0 in the order of the first members.
        """
        points = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
        if len(points) == 0:
            return np.empty(0, dtype=int)
        matcher = _Matcher(points, self.lattice, max(tolerance_A, 1e-3))
        rows, columns = [], []
        for k in self.generators:
            target, distance = matcher(points @ self.rotations[k].T + self.translations[k])
            matched = distance <= tolerance_A
            rows.append(np.flatnonzero(matched))
            columns.append(target[matched])
        if not rows:
            return np.arange(len(points))
        row, column = np.concatenate(rows), np.concatenate(columns)
        graph = coo_matrix((np.ones(len(row)), (row, column)), shape=(len(points), len(points)))
        labels = connected_components(graph, directed=False)[1]
        return _by_first_member(labels)


def symmetric_framework(
    lattice: np.ndarray, frac_coords: np.ndarray, kinds: np.ndarray, symprec_A: float
) -> SymmetricFramework:
    """Find the space group and move atoms and cell to where it has them.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac_coords
        Shape (atoms, 3).
    kinds
        Which atoms are alike, int, shape (atoms,).
    symprec_A
        How far atoms may lie from where the symmetry has them.
    """
    lattice, frac = np.asarray(lattice, dtype=float), np.asarray(frac_coords, dtype=float)
    rotations, translations = space_group_operations(lattice, frac, (np.asarray(kinds) + 1).tolist(), symprec_A)
    matcher = _Matcher(frac, lattice, 5 * symprec_A)
    kept, images, shifts = [], [], []
    for k, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        moved = frac @ rotation.T + translation
        target, distance = matcher(moved)
        alike = len(np.unique(target)) == len(frac) and (kinds[target] == kinds).all()
        if distance.max() <= 5 * symprec_A and alike:
            offset = moved - frac[target]
            cells = np.rint(offset)
            kept.append(k)
            images.append(target)
            # The mean over all atoms is the operation about one and the same origin, so the operations stay a group.
            shifts.append(translation - (offset - cells).mean(axis=0))
    if len(kept) < len(rotations):
        closed = _generated(rotations[kept], np.array(shifts))
        if closed is None:
            kept, images, shifts = [0], [np.arange(len(frac))], [np.zeros(3)]
    rotations, translations = rotations[kept], np.array(shifts)
    mean = np.zeros_like(frac)
    for rotation, translation, target in zip(rotations, translations, images, strict=True):
        moved = frac @ rotation.T + translation
        mean[target] += frac[target] + _wrapped(moved - frac[target])
    mean /= len(rotations)
    metric = lattice @ lattice.T
    metric = np.mean([rotation.T @ metric @ rotation for rotation in rotations], axis=0)
    exact = _root(metric) @ np.linalg.inv(_root(lattice @ lattice.T)) @ lattice
    generators = _generated(rotations, translations)
    count = len(frac)
    links = coo_matrix(
        (np.ones(count * len(images)), (np.tile(np.arange(count), len(images)), np.concatenate(images))),
        shape=(count, count),
    )
    return SymmetricFramework(
        lattice=exact,
        frac_coords=mean,
        orbits=_by_first_member(connected_components(links, directed=False)[1]),
        rotations=rotations,
        translations=translations,
        generators=generators if generators is not None else tuple(range(len(rotations))),
        largest_shift_A=float(np.linalg.norm((mean - frac) @ lattice, axis=1).max()),
    )


class _Matcher:
    """Nearest of a set of points modulo the lattice, as long as it is close."""

    def __init__(self, points: np.ndarray, lattice: np.ndarray, reach_A: float) -> None:
        self.lattice = lattice
        inside = points - np.floor(points)
        self.point, cells = images_around(lattice, inside, reach_A)
        self.tree = cKDTree((inside[self.point] + cells) @ lattice)

    def __call__(self, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance, index = self.tree.query((frac_coords - np.floor(frac_coords)) @ self.lattice)
        return self.point[index], distance


def _generated(rotations: np.ndarray, translations: np.ndarray) -> tuple[int, ...] | None:
    """Operations whose products are all of them; None where the set is not closed under multiplication."""
    by_rotation: dict[bytes, list[int]] = {}
    for k, rotation in enumerate(rotations):
        by_rotation.setdefault(_name(rotation), []).append(k)

    def find(rotation: np.ndarray, translation: np.ndarray) -> int | None:
        alike = by_rotation.get(_name(rotation), [])
        offsets = np.abs(_wrapped(translations[alike] - translation)).max(axis=1) if alike else np.empty(0)
        return alike[int(offsets.argmin())] if len(alike) and offsets.min() < _SAME_TRANSLATION else None

    identity = find(np.eye(3, dtype=int), np.zeros(3))
    if identity is None:
        return None
    reached, generators = {identity}, []
    for candidate in range(len(rotations)):
        if candidate in reached:
            continue
        generators.append(candidate)
        waiting = [*reached, candidate]
        reached.add(candidate)
        while waiting:
            k = waiting.pop()
            for g in generators:
                product = find(rotations[g] @ rotations[k], rotations[g] @ translations[k] + translations[g])
                if product is None:
                    return None
                if product not in reached:
                    reached.add(product)
                    waiting.append(product)
    return tuple(generators)


def _name(rotation: np.ndarray) -> bytes:
    return np.rint(rotation).astype(np.int64).tobytes()


def _wrapped(offsets: np.ndarray) -> np.ndarray:
    return offsets - np.rint(offsets)


def _root(metric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(metric)
    return np.asarray(vectors @ np.diag(np.sqrt(values)) @ vectors.T)


def _by_first_member(labels: np.ndarray) -> np.ndarray:
    """The same partition with numbers in the order of the first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])
