"""Isosurfaces and plane cuts of periodic fields in any cell, for figures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def periodic_block(values: np.ndarray, max_points: int, ceiling_eV: float) -> np.ndarray:
    """The field with its boundary planes repeated, on a grid coarse enough to draw.

    Parameters
    ----------
    values
        Energies in eV, shape (n1, n2, n3), without repeated planes; ``inf`` is allowed.
    max_points
        Points of the block at most, about; finer grids are sampled again, linearly.
    ceiling_eV
        Higher values are cut off, so that they do not bend the surface between two points.

    Returns
    -------
    numpy.ndarray
        Point (i, j, k) lies at the fractional coordinates i / (m1 - 1) and so on.
    """
    low = np.minimum(values, ceiling_eV)
    factor = min(1.0, (max_points / low.size) ** (1 / 3))
    shape = [max(2, round(n * factor)) if factor < 1 else n for n in low.shape]
    axes = [np.linspace(0.0, 1.0, m + 1) for m in shape]
    frac = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return sample_periodic(low, frac)


def sample_periodic(values: np.ndarray, frac_coords: np.ndarray) -> np.ndarray:
    """Linear interpolation of a periodic field at fractional coordinates, shape (..., 3)."""
    from scipy.ndimage import map_coordinates

    # Folded first: coordinates that come out as 1 - 1e-17 must not be taken to lie beyond the grid.
    places = np.moveaxis((frac_coords % 1.0) * values.shape, -1, 0)
    return np.asarray(map_coordinates(values, places, order=1, mode="grid-wrap"))


def isosurface(block: np.ndarray, level_eV: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangles on which a field has a value.

    Plotly's own isosurface needs a right-angled grid; these triangles go with any cell.

    Parameters
    ----------
    block
        Field with repeated boundary planes, shape (m1, m2, m3), finite.
    level_eV
        The value.

    Returns
    -------
    vertices
        Fractional coordinates from 0 to 1, shape (vertices, 3).
    triangles
        Vertices of each triangle, int, shape (triangles, 3); they turn so that the normal points to higher values.
    """
    from skimage.measure import marching_cubes

    if not block.min() < level_eV < block.max():
        return np.empty((0, 3)), np.empty((0, 3), dtype=int)
    spacing = tuple(1.0 / (n - 1) for n in block.shape)
    vertices, triangles, _, _ = marching_cubes(block, level_eV, spacing=spacing, gradient_direction="descent")
    return vertices, triangles


def folded_line(frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line folded into the cell, cut where it passes a face.

    Parameters
    ----------
    frac_coords
        Points of an unwrapped line, shape (points, 3).

    Returns
    -------
    pieces
        Fractional coordinates from 0 to 1 with a row of NaN between two pieces, shape (rows, 3).
    position
        Place of every row along the given line, in points; NaN between two pieces.
    """
    rows: list[np.ndarray] = []
    positions: list[float] = []
    for k, (start, end) in enumerate(pairwise(frac_coords)):
        cuts = {0.0, 1.0}
        for a, b in zip(start, end, strict=True):
            low, high = sorted((a, b))
            # Crossings strictly between the points; a point on a face belongs to the piece that it bounds.
            cuts |= {(face - a) / (b - a) for face in np.arange(np.floor(low), np.ceil(high) + 1) if low < face < high}
        shares = sorted(cuts)
        for first, last in pairwise(shares):
            cell = np.floor(start + (first + last) / 2 * (end - start) + 1e-9)
            ends = [start + share * (end - start) - cell for share in (first, last)]
            if not rows or np.abs(rows[-1] - ends[0]).max() > 1e-6:
                if rows:
                    rows.append(np.full(3, np.nan))
                    positions.append(np.nan)
                rows.append(ends[0])
                positions.append(k + first)
            rows.append(ends[1])
            positions.append(k + last)
    return np.array(rows), np.array(positions)
