"""Room between the spheres of a crystal: at points, and at the narrowest point of straight segments, both exact.

The clearance of a point is the radius of the largest sphere around it that touches no atom, min over all atoms of
(distance - radius). It is not the square root of the point's power: spheres of different radii that have one power at
a point leave different room there.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .periodic_points import images_around

#: Segments that are worked on at once.
_CHUNK = 4096


class SphereClearance:
    """Clearances in a periodic arrangement of spheres.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac_coords
        Centres, shape (spheres, 3).
    radii_A
        Radii, shape (spheres,).
    """

    def __init__(self, lattice: np.ndarray, frac_coords: np.ndarray, radii_A: np.ndarray) -> None:
        self.lattice = np.asarray(lattice, dtype=float)
        self.frac_coords = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
        self.radii_A = np.asarray(radii_A, dtype=float).reshape(-1)
        self._reach = 0.0
        self._grow(6.0)

    def at(self, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clearance of points in Angstrom, negative within an atom, and the sphere that limits it.

        Parameters
        ----------
        frac_coords
            Shape (points, 3), in any cell.

        Returns
        -------
        tuple
            Clearances (points,) and indices of spheres (points,).
        """
        points = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
        places = (points - np.floor(points)) @ self.lattice
        best, limiting = np.full(len(points), np.inf), np.full(len(points), -1)
        while len(points):
            best[:], limiting[:] = np.inf, -1
            for radius, members, tree in self._trees:
                distance, index = tree.query(places)
                closer = distance - radius < best
                best = np.where(closer, distance - radius, best)
                limiting = np.where(closer, members[np.minimum(index, len(members) - 1)], limiting)
            # An atom outside the block is farther than its reach and could matter if its surface were nearer than this.
            needed = float(best.max()) + float(self.radii_A.max())
            if needed <= self._reach:
                break
            self._grow(max(min(needed, 2 * self._reach), 1.3 * self._reach))
        return best, limiting

    def narrowest(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Least clearance along straight segments and where it is.

        The clearance from one atom along a segment is least at the point of the segment next to the atom, so the least
        of all is min over atoms of (distance of the atom from the segment - radius). Nothing is sampled.

        Parameters
        ----------
        starts, ends
            Unwrapped fractional coordinates, shape (segments, 3).

        Returns
        -------
        tuple
            Clearances in Angstrom (segments,), unwrapped fractional coordinates of the narrowest points
            (segments, 3), and indices of the limiting spheres (segments,).
        """
        starts, ends = np.asarray(starts, dtype=float).reshape(-1, 3), np.asarray(ends, dtype=float).reshape(-1, 3)
        radii, places = np.empty(len(starts)), np.empty((len(starts), 3))
        limiting = np.empty(len(starts), dtype=int)
        for first in range(0, len(starts), _CHUNK):
            part = slice(first, first + _CHUNK)
            radii[part], places[part], limiting[part] = self._narrowest(starts[part], ends[part])
        return radii, places, limiting

    def _narrowest(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        homes = np.floor((starts + ends) / 2)
        start, along = (starts - homes) @ self.lattice, (ends - starts) @ self.lattice
        middle = start + along / 2
        half = np.linalg.norm(along, axis=1) / 2
        bound = self.at(starts + (ends - starts) / 2)[0]
        # Only atoms whose surface comes nearer to some point of the segment than the middle's own clearance count.
        within = half + bound + self.radii_A.max() + 1e-9
        if within.max() > self._reach:
            self._grow(float(within.max()))
        near = self._all.query_ball_point(middle, within)
        counts = np.array([len(each) for each in near])
        atoms = np.concatenate([np.asarray(each, dtype=int) for each in near])
        segment = np.repeat(np.arange(len(starts)), counts)
        offset = self._places[atoms] - start[segment]
        squared = (along[segment] ** 2).sum(axis=1)
        position = (offset * along[segment]).sum(axis=1) / np.where(squared > 0, squared, 1.0)
        position = np.clip(np.where(squared > 0, position, 0.0), 0.0, 1.0)
        room = np.linalg.norm(offset - position[:, None] * along[segment], axis=1) - self.radii_A[self._sphere[atoms]]
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        least = np.minimum.reduceat(room, firsts)
        # The first of the atoms that come nearest, so that ties are settled the same way every time.
        tied = np.flatnonzero(room <= least[segment] + 1e-12)
        chosen = tied[np.unique(segment[tied], return_index=True)[1]]
        places = starts + position[chosen][:, None] * (ends - starts)
        return least, places, self._sphere[atoms[chosen]]

    def _grow(self, reach_A: float) -> None:
        self._reach = reach_A
        self._sphere, cells = images_around(self.lattice, self.frac_coords, reach_A)
        self._places = (self.frac_coords[self._sphere] + cells) @ self.lattice
        self._all = cKDTree(self._places)
        self._trees = []
        own = self.radii_A[self._sphere]
        for radius in np.unique(self.radii_A):
            chosen = own == radius
            self._trees.append((float(radius), self._sphere[chosen], cKDTree(self._places[chosen])))
