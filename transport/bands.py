"""The elastic band itself: first guess, tangents, forces, and the energy profile along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from .paths import MigrationPath

BARRIERS = (
    "barrier_forward_eV",
    "barrier_reverse_eV",
    "barrier_span_eV",
    "splined_forward_eV",
    "splined_reverse_eV",
    "splined_span_eV",
)
"""Fields of a band's result that hold a barrier; all of them are None unless the band converged."""


def path_atoms(path: MigrationPath, ion_frac_coords: np.ndarray) -> Atoms:
    """The path's framework with the migrating ion, the last atom, at a point.

    Raises
    ------
    ValueError
        Species and coordinates of the framework differ in number.
    """
    if len(path.framework_species) != len(path.framework_frac_coords):
        raise ValueError("The path's framework has species and coordinates of different length.")
    frac = np.vstack([path.framework_frac_coords, ion_frac_coords])
    return Atoms([*path.framework_species, path.ion], positions=frac @ path.lattice, cell=path.lattice, pbc=True)


def initial_band(
    start: np.ndarray, end: np.ndarray, ion_path: np.ndarray, images: int, bow_A: float = 0.0
) -> np.ndarray:
    """Positions of a first band between two relaxed end points.

    The framework is interpolated linearly; the ion (the last atom) follows the given polyline at equal distances,
    shifted so that its ends meet the end points.

    Parameters
    ----------
    start, end
        Cartesian end points in Angstrom, shape (atoms, 3), continuous (not wrapped).
    ion_path
        Polyline of the migrating ion in Angstrom, shape (points, 3).
    images
        Number of images between the ends.
    bow_A
        Sideways displacement of the ion at the middle. A straight path may lie on a symmetry element, where forces
        cannot push it off a saddle of higher order.

    Returns
    -------
    numpy.ndarray
        Shape (images + 2, atoms, 3).
    """
    fractions = np.linspace(0.0, 1.0, images + 2)
    band = start + fractions[:, None, None] * (end - start)
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ion_path, axis=0), axis=1))])
    ion = np.stack([np.interp(fractions * distance[-1], distance, ion_path[:, k]) for k in range(3)], axis=1)
    ion += (1 - fractions)[:, None] * (start[-1] - ion_path[0]) + fractions[:, None] * (end[-1] - ion_path[-1])
    along = end[-1] - start[-1]
    along = along / np.linalg.norm(along)
    # Any fixed direction that no crystal axis is likely to share will do.
    sideways = np.array([0.5257, 0.7071, 0.4729])
    sideways = sideways - (sideways @ along) * along
    if np.linalg.norm(sideways) < 0.1:
        sideways = np.cross(along, [0.2673, -0.5345, 0.8018])
    band[:, -1] = ion + bow_A * np.sin(np.pi * fractions)[:, None] * sideways / np.linalg.norm(sideways)
    return band


def improve_by_pair_distances(band: np.ndarray, lattice: np.ndarray, reach_A: float = 6.0) -> np.ndarray:
    """Image dependent pair potential of Smidstrup et al. (J. Chem. Phys. 140, 214106 (2014)) by ASE, round the ion.

    Only atoms within ``reach_A`` of the ion's straight path take part, each as its image nearest to the middle of the
    path: the rest of a supercell does not notice the hop, and all its pairs would cost as much as NEB steps do.

    Parameters
    ----------
    band
        First band, shape (images + 2, atoms, 3), the migrating ion last.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).

    Returns
    -------
    numpy.ndarray
        The improved band; its end points are those given.
    """
    from ase.mep.neb import NEB, idpp_interpolate

    first, last = band[0, -1], band[-1, -1]
    middle = (first + last) / 2
    offset = band[:, :-1].mean(axis=0) - middle
    shift = np.rint(offset @ np.linalg.inv(lattice)) @ lattice
    unwrapped = band[:, :-1] - shift
    step = last - first
    along = np.clip(((unwrapped - first) @ step) / (step @ step), 0.0, 1.0)
    near = np.linalg.norm(unwrapped - first - along[..., None] * step, axis=-1).min(axis=0) < reach_A
    clusters = [
        Atoms(numbers=np.ones(near.sum() + 1), positions=np.vstack([image[near], ion]))
        for image, ion in zip(unwrapped, band[:, -1], strict=True)
    ]
    idpp_interpolate(NEB(clusters, method="improvedtangent"), traj=None, log=None, fmax=0.1, steps=100)
    improved = band.copy()
    moved = np.stack([cluster.positions for cluster in clusters])
    improved[:, :-1][:, near] = moved[:, :-1] + shift[near]
    improved[:, -1] = moved[:, -1]
    improved[0], improved[-1] = band[0], band[-1]
    return improved


def tangents(positions: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Improved tangents of the inner images (Henkelman & Jonsson, J. Chem. Phys. 113, 9978 (2000), eqs. 8-11).

    Parameters
    ----------
    positions
        Shape (images + 2, atoms, 3).
    energies
        Shape (images + 2,).

    Returns
    -------
    numpy.ndarray
        Unit vectors, shape (images, atoms, 3).
    """
    after, before = positions[2:] - positions[1:-1], positions[1:-1] - positions[:-2]
    rise_after, rise_before = energies[2:] - energies[1:-1], energies[1:-1] - energies[:-2]
    larger = np.maximum(abs(rise_after), abs(rise_before))
    smaller = np.minimum(abs(rise_after), abs(rise_before))
    weight_after = np.where(energies[2:] > energies[:-2], larger, smaller)
    weight_before = np.where(energies[2:] > energies[:-2], smaller, larger)
    uphill, downhill = (rise_after > 0) & (rise_before > 0), (rise_after < 0) & (rise_before < 0)
    weight_after = np.where(uphill, 1.0, np.where(downhill, 0.0, weight_after))
    weight_before = np.where(uphill, 0.0, np.where(downhill, 1.0, weight_before))
    flat = (weight_after == 0) & (weight_before == 0)
    weight_after, weight_before = np.where(flat, 1.0, weight_after), np.where(flat, 1.0, weight_before)
    tangent = weight_after[:, None, None] * after + weight_before[:, None, None] * before
    return tangent / np.linalg.norm(tangent, axis=(1, 2), keepdims=True)


def band_forces(
    positions: np.ndarray, energies: np.ndarray, forces: np.ndarray, spring: float, climbing: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Forces that move the inner images, and the true forces that must vanish on them.

    Parameters
    ----------
    positions, energies, forces
        Of all images, end points included; shapes (images + 2, atoms, 3), (images + 2,), (images + 2, atoms, 3).
    spring
        Spring constant in eV/Angstrom^2.
    climbing
        Index of the climbing image among all images, or None (Henkelman, Uberuaga & Jonsson, J. Chem. Phys. 113,
        9901 (2000), eq. 5).

    Returns
    -------
    moving, residual : numpy.ndarray
        In eV/Angstrom, shape (images, atoms, 3). The residual is the true force perpendicular to the band; for the
        climbing image it is the whole true force.
    """
    tangent = tangents(positions, energies)
    true = forces[1:-1]
    along = np.einsum("iaj,iaj->i", true, tangent)[:, None, None]
    spacing = np.linalg.norm(np.diff(positions, axis=0), axis=(1, 2))
    residual = true - along * tangent
    moving = residual + (spring * np.diff(spacing))[:, None, None] * tangent
    if climbing is not None:
        k = climbing - 1
        residual[k] = true[k]
        moving[k] = true[k] - 2 * along[k] * tangent[k]
    return moving, residual


def band_displacements(
    forces: np.ndarray,
    tangent: np.ndarray,
    relaxed: Callable[[np.ndarray], np.ndarray],
    spring: float,
    climbing: int | None,
) -> np.ndarray:
    """Where the forces of a band would carry its inner images if its stiffness were that of a model.

    Across the band an image is as stiff as the crystal. Along it the springs act, which couple each image to its
    neighbours: their equations are solved exactly. The climbing image has no springs and moves as the crystal lets it.
    (A preconditioned band as by Makri, Ortner & Kermode, J. Chem. Phys. 150, 094109 (2019).)

    Parameters
    ----------
    forces
        In eV/Angstrom, shape (images, atoms, 3).
    tangent
        Unit vectors along the band, same shape.
    relaxed
        Forces to displacements by the crystal's stiffness, image by image.
    spring
        Spring constant in eV/Angstrom^2.
    climbing
        Index of the climbing image among all images, or None.

    Returns
    -------
    numpy.ndarray
        In Angstrom, shape (images, atoms, 3).
    """
    along = np.einsum("iaj,iaj->i", forces, tangent)
    held = np.ones(len(forces), dtype=bool)
    if climbing is not None:
        held[climbing - 1] = False
    across = forces - np.where(held, along, 0.0)[:, None, None] * tangent
    moved = relaxed(across)
    back = np.einsum("iaj,iaj->i", moved, tangent)
    stiffness = spring * (2.0 * np.eye(len(forces)) - np.eye(len(forces), k=1) - np.eye(len(forces), k=-1))
    forward = np.zeros(len(forces))
    forward[held] = np.linalg.solve(stiffness[np.ix_(held, held)], along[held])
    return moved + np.where(held, forward - back, 0.0)[:, None, None] * tangent


def climbing_image(energies: np.ndarray) -> int | None:
    """Index of the highest image, or None where an end point is highest and there is nothing to climb."""
    highest = int(np.argmax(energies))
    return highest if 0 < highest < len(energies) - 1 else None


def largest_force(forces: np.ndarray) -> float:
    """Largest force on an atom in eV/Angstrom."""
    return float(np.linalg.norm(forces, axis=-1).max())


def path_lengths_A(positions: np.ndarray) -> np.ndarray:
    """Distance in Angstrom along the band at each image, over the coordinates of all atoms, shape (images + 2,)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=(1, 2)))])


def splined_extremes_eV(positions: np.ndarray, energies: np.ndarray, forces: np.ndarray) -> tuple[float, float]:
    """Highest and lowest energy of the cubic Hermite spline through the band.

    The spline runs over the path length and takes its slopes from the forces along the tangent, not from the number
    of the image, which overshoots where images are unevenly spaced.

    Returns
    -------
    highest, lowest : float
        In eV, end points included.
    """
    from scipy.interpolate import CubicHermiteSpline

    lengths = path_lengths_A(positions)
    ends = positions[[1, -1]] - positions[[0, -2]]
    ends /= np.linalg.norm(ends, axis=(1, 2), keepdims=True)
    directions = np.concatenate([ends[:1], tangents(positions, energies), ends[1:]])
    slopes = -np.einsum("iaj,iaj->i", forces, directions)
    spline = CubicHermiteSpline(lengths, energies, slopes)
    flat = spline.derivative().roots(extrapolate=False)
    values = np.concatenate([energies, spline(flat[np.isfinite(flat)])])
    return float(values.max()), float(values.min())


def barriers_eV(positions: np.ndarray, energies: np.ndarray, forces: np.ndarray) -> dict[str, float]:
    """The barriers of a band, as :class:`~hopflow.transport.band_result.BandResult` defines and names them.

    Parameters
    ----------
    positions, energies, forces
        Of all images, end points included; shapes (images + 2, atoms, 3), (images + 2,), (images + 2, atoms, 3). The
        forces are the true ones, without springs and projections.
    """
    high, low = splined_extremes_eV(positions, energies, forces)
    first, last, top = energies[0], energies[-1], energies.max()
    values = (top - first, top - last, top - energies.min(), high - first, high - last, high - low)
    return {name: float(value) for name, value in zip(BARRIERS, values, strict=True)}


def has_intermediate_minimum(energies: np.ndarray, depth_eV: float = 0.05) -> bool:
    """Whether an inner image lies more than ``depth_eV`` below images on both its sides: two hops in one."""
    return bool(_depths_eV(energies).max(initial=0.0) > depth_eV)


def deepest_minimum(energies: np.ndarray) -> int:
    """Index, among all images, of the inner image that lies deepest below images on both its sides."""
    return 1 + int(np.argmax(_depths_eV(energies)))


def _depths_eV(energies: np.ndarray) -> np.ndarray:
    """How far each inner image lies below the lower of the highest images before and after it, shape (images,)."""
    return np.array(
        [min(energies[:k].max(), energies[k + 1 :].max()) - energies[k] for k in range(1, len(energies) - 1)]
    )
