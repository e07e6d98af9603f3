"""What the energies of some grid points say about those of the others: a Gaussian process over the ion's surroundings.

The energy of an ion in a frozen crystal is a smooth function of where its neighbours stand. Every grid point is
described by how much of each element lies at which distance (Gaussian bumps, after J. Behler and M. Parrinello, Phys.
Rev. Lett. 98 (2007) 146401), which is the same for points that symmetry makes alike and similar for points that merely
look alike. A Gaussian process over these descriptions (C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for
Machine Learning, MIT Press 2006) then gives every point a mean and a standard deviation.

The standard deviation is an estimate, not a bound. It is held against every energy that is evaluated after it was
predicted, and widened by what that shows; :mod:`.landscape_refinement` says how the rest is verified.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from .supercells import perpendicular_widths_A

REACH_A = 5.0
"""Atoms farther away do not enter a description."""

CENTRES_A = np.linspace(1.2, 4.6, 8)
"""Centres of the radial bumps; their width is their distance."""

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Correlation lengths that are tried, in units of the spread of all descriptions."""

NOISE = 1e-5
"""Variance that no description explains (the angles between neighbours), as a share of the signal's."""

POSITION_SHARE = 0.1
"""Spread of the place in the cell as a share of that of the surroundings: keeps apart what looks alike up to 5 Angstrom
and differs beyond."""

LINEAR_UP_TO_eV = 1.5
"""Energies above this are compressed by a logarithm: how high a wall is says little about the valley behind it."""


def describe_points(
    lattice: np.ndarray, frozen_frac: np.ndarray, numbers: np.ndarray, points_frac: np.ndarray
) -> np.ndarray:
    """Surroundings of grid points.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frozen_frac
        Fractional coordinates of the frozen atoms, shape (atoms, 3).
    numbers
        Their atomic numbers, shape (atoms,).
    points_frac
        Fractional coordinates of the points, shape (points, 3).

    Returns
    -------
    numpy.ndarray
        Shape (points, elements * 8 + 6), centred. The columns of the surroundings have unit variance together; those of
        the place in the cell, sines and cosines, have ``POSITION_SHARE`` squared.
    """
    from scipy.spatial import cKDTree

    margin = REACH_A / perpendicular_widths_A(lattice)
    reach = np.ceil(margin).astype(int)
    cells = np.array(list(product(*(range(-m, m + 1) for m in reach))))
    images = ((frozen_frac % 1.0)[:, None, :] + cells[None]).reshape(-1, 3)
    near = ((images > -margin) & (images < 1 + margin)).all(axis=1)
    kinds = np.repeat(numbers, len(cells))[near]
    tree = cKDTree((points_frac % 1.0) @ lattice)
    columns = []
    for number in np.unique(numbers):
        atoms = cKDTree(images[near][kinds == number] @ lattice)
        pairs = tree.sparse_distance_matrix(atoms, REACH_A, output_type="coo_matrix")
        fade = 0.5 * (1 + np.cos(np.pi * pairs.data / REACH_A))
        for centre in CENTRES_A:
            bump = fade * np.exp(-(((pairs.data - centre) / (CENTRES_A[1] - CENTRES_A[0])) ** 2))
            columns.append(np.bincount(pairs.row, bump, minlength=len(points_frac)))
    angles = 2 * np.pi * points_frac
    place = np.hstack([np.sin(angles), np.cos(angles)]) * np.tile(np.linalg.norm(lattice, axis=1), 2)
    parts = [POSITION_SHARE * _standardised(place)]
    if columns:
        parts.append(_standardised(np.stack(columns, axis=1)))
    return np.hstack(parts)


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns about their means, with one factor that makes the sum of their variances one."""
    centred = columns - columns.mean(axis=0)
    spread = np.sqrt(centred.var(axis=0).sum())
    return np.asarray(centred / spread if spread > 0 else centred)


class LandscapeModel:
    """Gaussian process of the energies over descriptions of grid points.

    Parameters
    ----------
    descriptions
        As :func:`describe_points` gives them, shape (points, columns).
    """

    def __init__(self, descriptions: np.ndarray) -> None:
        self.descriptions = descriptions
        self._process = None
        self._length = LENGTHS[2]
        self._fitted = 0
        self._scale, self._mean = 1.0, 0.0

    def fit(self, points: np.ndarray, energies_eV: np.ndarray) -> bool:
        """Learn from evaluated points; energies count from the ion's own site.

        Returns
        -------
        bool
            Whether the correlation length was chosen anew, after half as many points again.
        """
        heights = compressed(energies_eV)
        renewed = len(points) >= 1.5 * self._fitted
        if renewed:
            self._fitted = len(points)
            self._length = max(LENGTHS, key=lambda length: self._likelihood(points, heights, length))
        self._likelihood(points, heights, self._length)
        return renewed

    def _likelihood(self, points: np.ndarray, heights: np.ndarray, length: float) -> float:
        """Log marginal likelihood with the best amplitude for a length; keeps the process."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern

        self._mean = float(heights.mean())
        process = GaussianProcessRegressor(Matern(length, nu=2.5), alpha=NOISE, optimizer=None)
        process.fit(self.descriptions[points], heights - self._mean)
        self._process = process
        variance = max(float((heights - self._mean) @ process.alpha_) / len(heights), 1e-12)
        self._scale = float(np.sqrt(variance))
        return float(-0.5 * len(heights) * np.log(variance) - np.log(np.diag(process.L_)).sum())

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of compressed energies, shape (points,) each; see :func:`expanded`."""
        if len(points) == 0:
            return np.zeros(0), np.zeros(0)
        assert self._process is not None
        parts = []
        for few in np.array_split(points, max(1, len(points) // 4000)):
            mean, deviation = self._process.predict(self.descriptions[few], return_std=True)
            parts.append((mean + self._mean, np.hypot(deviation, np.sqrt(NOISE)) * self._scale))
        means, deviations = (np.concatenate(each) for each in zip(*parts, strict=True))
        return means, deviations


def compressed(energies_eV: np.ndarray) -> np.ndarray:
    """Energies with those above ``LINEAR_UP_TO_eV`` on a logarithmic scale, smooth where the two meet."""
    above = np.maximum(energies_eV - LINEAR_UP_TO_eV, 0.0) / LINEAR_UP_TO_eV
    return np.asarray(np.minimum(energies_eV, LINEAR_UP_TO_eV) + LINEAR_UP_TO_eV * np.log1p(above))


def expanded(heights: np.ndarray) -> np.ndarray:
    """Inverse of :func:`compressed`."""
    above = np.clip(heights / LINEAR_UP_TO_eV - 1.0, 0.0, 50.0)
    return np.asarray(np.minimum(heights, LINEAR_UP_TO_eV) + LINEAR_UP_TO_eV * np.expm1(above))
