"""Points of a crystal modulo its lattice: images around the cell, close pairs, groups of close points."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
from scipy.spatial import cKDTree


def images_around(lattice: np.ndarray, frac_coords: np.ndarray, reach_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Images of points within a distance of the faces of the unit cell.

    Parameters
    ----------
    lattice
        Cell vectors as rows, shape (3, 3).
    frac_coords
        Points, shape (points, 3).
    reach_A
        Distance in Angstrom from the parallelepiped [0, 1)^3, measured along the normals of its faces.

    Returns
    -------
    tuple
        Index of the point and cell of each image, shapes (images,) and (images, 3).
    """
    margin = reach_A * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    frac = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
    low = np.ceil(-margin - frac.max(axis=0)).astype(int)
    high = np.floor(1 + margin - frac.min(axis=0)).astype(int)
    cells = np.array(list(product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))), dtype=int)
    places = frac[None, :, :] + cells[:, None, :]
    kept = np.all((places >= -margin - 1e-12) & (places <= 1 + margin + 1e-12), axis=2)
    which, point = np.nonzero(kept)
    return point, cells[which]


def coincident(frac_coords: np.ndarray, lattice: np.ndarray, distance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Groups of points that chains of steps shorter than a distance connect, modulo the lattice.

    Returns
    -------
    tuple
        Group of each point, shape (points,), and the cell that each point has to be moved to so that its group hangs
        together, int, shape (points, 3).
    """
    frac = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
    pairs, cells = neighbour_pairs(frac, lattice, distance_A)
    groups = np.full(len(frac), -1)
    shifts = np.zeros((len(frac), 3), dtype=int)
    beside: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for (i, j), cell in zip(pairs.tolist(), cells, strict=True):
        beside[i].append((j, cell))
        beside[j].append((i, -cell))
    count = 0
    for start in range(len(frac)):
        if groups[start] >= 0:
            continue
        groups[start] = count
        waiting = [start]
        while waiting:
            here = waiting.pop()
            for there, cell in beside.get(here, ()):
                if groups[there] < 0:
                    groups[there] = count
                    shifts[there] = shifts[here] + cell
                    waiting.append(there)
        count += 1
    return groups, shifts


def neighbour_pairs(frac: np.ndarray, lattice: np.ndarray, distance_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points closer than a distance, once each, and the cell of the second beside the first in its own cell.

    Loops of a point to its own image are included for distances that reach so far.
    """
    home = np.floor(frac).astype(int)
    inside = frac - home
    point, cell = images_around(lattice, inside, distance_A)
    tree, others = cKDTree(inside @ lattice), cKDTree((inside[point] + cell) @ lattice)
    pairs, cells = [], []
    for i, found in enumerate(tree.query_ball_tree(others, distance_A)):
        for k in found:
            j = int(point[k])
            if i < j or (i == j and tuple(cell[k]) > (0, 0, 0)):
                pairs.append((i, j))
                cells.append(cell[k] - home[j] + home[i])
    return np.array(pairs, dtype=int).reshape(-1, 2), np.array(cells, dtype=int).reshape(-1, 3)
