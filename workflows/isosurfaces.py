"""Isosurfaces and plane cuts of periodic fields in any cell, for figures."""

from __future__ import annotations

from itertools import pairwise, permutations

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
    """Triangles on which a field has a value; marching tetrahedra, so that neighbouring cells always fit.

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
    number = np.arange(block.size).reshape(block.shape)
    flat = block.ravel()
    corners = []
    for order in permutations(range(3)):
        # Kuhn's division of a cube: along the body diagonal, one axis after the other. It fits its neighbours.
        at = np.zeros(3, dtype=int)
        tetrahedron = [at.copy()]
        for axis in order:
            at[axis] = 1
            tetrahedron.append(at.copy())
        corners.append(np.stack([number[_shifted(c, block.shape)].ravel() for c in tetrahedron], axis=1))
    tetrahedra = np.concatenate(corners)
    below = flat[tetrahedra] < level_eV
    inside = below.sum(axis=1)
    pairs = []  # for every triangle three pairs of grid points, one below and one not
    for count in (1, 2, 3):
        chosen = inside == count
        # Points below come first; the order within each kind does not matter for the surface.
        sorted_points = np.take_along_axis(tetrahedra[chosen], np.argsort(~below[chosen], axis=1, kind="stable"), 1)
        a, b, c, d = sorted_points.T
        if count == 1:
            pairs += [[(a, b), (a, c), (a, d)]]
        elif count == 3:
            pairs += [[(a, d), (b, d), (c, d)]]
        else:
            pairs += [[(a, c), (a, d), (b, d)], [(a, c), (b, d), (b, c)]]
    edges = np.concatenate([np.stack([np.stack(pair, axis=-1) for pair in three], axis=1) for three in pairs])
    keys = edges[..., 0] * block.size + edges[..., 1]
    unique, triangles = np.unique(keys.ravel(), return_inverse=True)
    start, end = unique // block.size, unique % block.size
    share = (level_eV - flat[start]) / (flat[end] - flat[start])
    points = [np.stack(np.unravel_index(each, block.shape), axis=1) for each in (start, end)]
    vertices = (points[0] + share[:, None] * (points[1] - points[0])) / (np.array(block.shape) - 1)
    triangles = triangles.reshape(-1, 3)
    corner = vertices[triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    upwards = (points[1] - points[0])[triangles[:, 0]] / (np.array(block.shape) - 1)
    turned = (normal * upwards).sum(axis=1) < 0
    triangles[turned] = triangles[turned][:, ::-1]
    return vertices, triangles


def _shifted(corner: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(int(c), n - 1 + int(c)) for c, n in zip(corner, shape, strict=True))


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
