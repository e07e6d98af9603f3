"""Compiled sums of radial pair energies: onto a periodic grid, at single points, and over the orbits of a group."""

from __future__ import annotations

import math

import numpy as np

from .compiled import compiled


@compiled
def add_radial_terms(field, steps, centres, kinds, weights, tables, bin_width, reaches, first, last):  # type: ignore[no-untyped-def]
    """Add the pair energies of all framework atoms to the planes first <= i < last of ``field``, in place.

    Every atom visits only the grid points of its own sphere, row by row along the third axis, and wraps them into the
    cell; so the memory is that of the field alone, and periodic images need no list.

    Parameters
    ----------
    field
        Energies in eV, float64 (n1, n2, n3), C order.
    steps
        Vectors between neighbouring grid points as rows, Angstrom, float64 (3, 3).
    centres
        Atom positions in units of grid steps, float64 (atoms, 3).
    kinds
        Table of each atom, int64 (atoms,).
    weights
        Factor of each atom (its occupancy), float64 (atoms,).
    tables
        Cubic polynomials of the pair energy over equal bins of distance, highest power last, in units of the bin:
        float64 (kinds, bins, 4).
    bin_width
        Angstrom.
    reaches
        Radius of each kind's sphere in Angstrom, float64 (kinds,); at most bins * bin_width.
    first, last
        Planes along the first axis that this call fills, so that several threads can share a field.
    """
    n0, n1, n2 = field.shape
    bins = tables.shape[1]
    inverse_bin = 1.0 / bin_width
    # Heights of the voxel: how far apart the grid planes lie along the first two axes.
    volume = abs(np.linalg.det(steps))
    height0 = volume / np.linalg.norm(np.cross(steps[1], steps[2]))
    height1 = volume / np.linalg.norm(np.cross(steps[0], steps[2]))
    square2 = steps[2, 0] ** 2 + steps[2, 1] ** 2 + steps[2, 2] ** 2
    scaled = np.empty((bins, 4))
    scaled_for = (np.int64(-1), 0.0)
    for atom in range(centres.shape[0]):
        c0 = centres[atom, 0]
        c1 = centres[atom, 1]
        c2 = centres[atom, 2]
        weight = weights[atom]
        if scaled_for[0] != kinds[atom] or scaled_for[1] != weight:
            scaled_for = (kinds[atom], weight)
            scaled[:] = tables[kinds[atom]] * weight
        reach = reaches[kinds[atom]]
        for i in range(math.ceil(c0 - reach / height0), math.floor(c0 + reach / height0) + 1):
            plane = i % n0
            if plane < first or plane >= last:
                continue
            for j in range(math.ceil(c1 - reach / height1), math.floor(c1 + reach / height1) + 1):
                # |p + t v|^2 along the row is a parabola in t; its roots bound the points inside the sphere.
                p0 = (i - c0) * steps[0, 0] + (j - c1) * steps[1, 0]
                p1 = (i - c0) * steps[0, 1] + (j - c1) * steps[1, 1]
                p2 = (i - c0) * steps[0, 2] + (j - c1) * steps[1, 2]
                square_p = p0 * p0 + p1 * p1 + p2 * p2
                half_b = p0 * steps[2, 0] + p1 * steps[2, 1] + p2 * steps[2, 2]
                discriminant = half_b * half_b - square2 * (square_p - reach * reach)
                if discriminant < 0.0:
                    continue
                root = math.sqrt(discriminant)
                step = math.ceil(c2 + (-half_b - root) / square2)
                final = math.floor(c2 + (-half_b + root) / square2)
                row = field[plane, j % n1]
                while step <= final:
                    start = step % n2
                    run = min(final - step + 1, n2 - start)
                    for k in range(run):
                        t = step + k - c2
                        square = square_p + t * (2.0 * half_b + t * square2)
                        x = math.sqrt(max(square, 0.0)) * inverse_bin
                        bin_index = min(int(x), bins - 1)
                        x -= bin_index
                        row[start + k] += scaled[bin_index, 0] + x * (
                            scaled[bin_index, 1] + x * (scaled[bin_index, 2] + x * scaled[bin_index, 3])
                        )
                    step += run


@compiled
def sum_over_orbits(field, rotations, shifts):  # type: ignore[no-untyped-def]
    """Replace every value by the sum of ``field`` over the images of its point under a group, once an orbit, in place.

    Parameters
    ----------
    field
        float64 (n1, n2, n3).
    rotations
        Operations in grid steps, int64 (operations, 3, 3); together with ``shifts`` a group that maps the periodic grid
        onto itself.
    shifts
        int64 (operations, 3).
    """
    n0, n1, n2 = field.shape
    operations = rotations.shape[0]
    done = np.zeros(field.size, dtype=np.bool_)
    flat = field.reshape(field.size)
    images = np.empty(operations, dtype=np.int64)
    for x in range(n0):
        for y in range(n1):
            for z in range(n2):
                if done[(x * n1 + y) * n2 + z]:
                    continue
                total = 0.0
                for g in range(operations):
                    w = rotations[g]
                    u = (w[0, 0] * x + w[0, 1] * y + w[0, 2] * z + shifts[g, 0]) % n0
                    v = (w[1, 0] * x + w[1, 1] * y + w[1, 2] * z + shifts[g, 1]) % n1
                    t = (w[2, 0] * x + w[2, 1] * y + w[2, 2] * z + shifts[g, 2]) % n2
                    images[g] = (u * n1 + v) * n2 + t
                    total += flat[images[g]]
                for g in range(operations):
                    flat[images[g]] = total
                    done[images[g]] = True


@compiled
def energy_at(point, lattice, centres, kinds, weights, tables, bin_width, reaches, gradient, hessian):  # type: ignore[no-untyped-def]
    """Site energy in eV at one point, with its first and second derivatives.

    Parameters
    ----------
    point
        Cartesian position in Angstrom, float64 (3,).
    lattice
        Cell vectors as rows, Angstrom, float64 (3, 3).
    centres
        Fractional coordinates of the framework atoms, float64 (atoms, 3).
    kinds, weights, tables, bin_width, reaches
        As in :func:`add_radial_terms`.
    gradient, hessian
        Overwritten: float64 (3,) in eV/Angstrom and (3, 3) in eV/Angstrom^2.
    """
    bins = tables.shape[1]
    inverse_bin = 1.0 / bin_width
    volume = abs(np.linalg.det(lattice))
    height0 = volume / np.linalg.norm(np.cross(lattice[1], lattice[2]))
    height1 = volume / np.linalg.norm(np.cross(lattice[0], lattice[2]))
    square2 = lattice[2, 0] ** 2 + lattice[2, 1] ** 2 + lattice[2, 2] ** 2
    inverse = np.linalg.inv(lattice)
    f0 = point[0] * inverse[0, 0] + point[1] * inverse[1, 0] + point[2] * inverse[2, 0]
    f1 = point[0] * inverse[0, 1] + point[1] * inverse[1, 1] + point[2] * inverse[2, 1]
    f2 = point[0] * inverse[0, 2] + point[1] * inverse[1, 2] + point[2] * inverse[2, 2]
    energy = 0.0
    g0 = g1 = g2 = 0.0
    h00 = h11 = h22 = h01 = h02 = h12 = 0.0
    for atom in range(centres.shape[0]):
        c0 = f0 - centres[atom, 0]
        c1 = f1 - centres[atom, 1]
        c2 = f2 - centres[atom, 2]
        table = tables[kinds[atom]]
        weight = weights[atom]
        reach = reaches[kinds[atom]]
        # Images of the atom in the cells (i, j, k): from it to the point is (c - cell) times the lattice.
        for i in range(math.ceil(c0 - reach / height0), math.floor(c0 + reach / height0) + 1):
            for j in range(math.ceil(c1 - reach / height1), math.floor(c1 + reach / height1) + 1):
                p0 = (c0 - i) * lattice[0, 0] + (c1 - j) * lattice[1, 0]
                p1 = (c0 - i) * lattice[0, 1] + (c1 - j) * lattice[1, 1]
                p2 = (c0 - i) * lattice[0, 2] + (c1 - j) * lattice[1, 2]
                square_p = p0 * p0 + p1 * p1 + p2 * p2
                half_b = p0 * lattice[2, 0] + p1 * lattice[2, 1] + p2 * lattice[2, 2]
                discriminant = half_b * half_b - square2 * (square_p - reach * reach)
                if discriminant < 0.0:
                    continue
                root = math.sqrt(discriminant)
                for k in range(
                    math.ceil(c2 - (-half_b + root) / square2), math.floor(c2 - (-half_b - root) / square2) + 1
                ):
                    t = c2 - k
                    d0 = p0 + t * lattice[2, 0]
                    d1 = p1 + t * lattice[2, 1]
                    d2 = p2 + t * lattice[2, 2]
                    distance = max(math.sqrt(d0 * d0 + d1 * d1 + d2 * d2), 1e-6)
                    x = distance * inverse_bin
                    bin_index = min(int(x), bins - 1)
                    x -= bin_index
                    a1 = table[bin_index, 1]
                    a2 = table[bin_index, 2]
                    a3 = table[bin_index, 3]
                    energy += weight * (table[bin_index, 0] + x * (a1 + x * (a2 + x * a3)))
                    slope = weight * inverse_bin * (a1 + x * (2.0 * a2 + x * 3.0 * a3))
                    bend = weight * inverse_bin * inverse_bin * (2.0 * a2 + 6.0 * x * a3)
                    e0 = d0 / distance
                    e1 = d1 / distance
                    e2 = d2 / distance
                    g0 += slope * e0
                    g1 += slope * e1
                    g2 += slope * e2
                    across = slope / distance
                    along = bend - across
                    h00 += along * e0 * e0 + across
                    h11 += along * e1 * e1 + across
                    h22 += along * e2 * e2 + across
                    h01 += along * e0 * e1
                    h02 += along * e0 * e2
                    h12 += along * e1 * e2
    gradient[0] = g0
    gradient[1] = g1
    gradient[2] = g2
    hessian[0, 0] = h00
    hessian[1, 1] = h11
    hessian[2, 2] = h22
    hessian[0, 1] = hessian[1, 0] = h01
    hessian[0, 2] = hessian[2, 0] = h02
    hessian[1, 2] = hessian[2, 1] = h12
    return energy


@compiled
def stationary_points(  # type: ignore[no-untyped-def]
    starts,
    negative_modes,
    trust_radius,
    farthest,
    most_steps,
    lattice,
    centres,
    kinds,
    weights,
    tables,
    bin_width,
    reaches,
):
    """Walk from each start to the nearest minimum or saddle by Newton steps along the Hessian's eigenvectors.

    Along the mode of lowest curvature a saddle search climbs, along all others it descends (eigenvector following:
    C. J. Cerjan and W. H. Miller, J. Chem. Phys. 75 (1981) 2800); the length of a mode's step is |slope / curvature|,
    and a step's length is bounded by the trust radius.

    Parameters
    ----------
    starts
        Cartesian positions in Angstrom, float64 (points, 3).
    negative_modes
        0 for minima, 1 for saddles.
    trust_radius
        Longest step in Angstrom.
    farthest
        A walk that goes farther than this from its start (Angstrom) has lost its way and ends.
    most_steps
        A walk ends after so many steps.
    lattice, centres, kinds, weights, tables, bin_width, reaches
        As in :func:`energy_at`.

    Returns
    -------
    tuple
        Positions (points, 3) in Angstrom, energies (points,) in eV, whether each walk converged to a point of the
        wanted kind, bool (points,), and the unit vector of lowest curvature at its end (points, 3).
    """
    count = starts.shape[0]
    positions = starts.copy()
    energies = np.empty(count)
    converged = np.zeros(count, dtype=np.bool_)
    directions = np.empty((count, 3))
    gradient = np.empty(3)
    hessian = np.empty((3, 3))
    for p in range(count):
        point = positions[p]
        for _ in range(most_steps):
            energies[p] = energy_at(
                point, lattice, centres, kinds, weights, tables, bin_width, reaches, gradient, hessian
            )
            curvatures, modes = np.linalg.eigh(hessian)
            directions[p] = modes[:, 0]
            if math.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2) < 1e-4:
                below = 0
                for m in range(3):
                    if curvatures[m] < 0.0:
                        below += 1
                converged[p] = below == negative_modes
                if converged[p] or negative_modes > 0:
                    break
                # A start between two wells of equal depth has no slope; a step aside shows the way down.
                for c in range(3):
                    point[c] += 0.5 * trust_radius * modes[c, 0]
                continue
            step0 = step1 = step2 = 0.0
            for m in range(3):
                slope = gradient[0] * modes[0, m] + gradient[1] * modes[1, m] + gradient[2] * modes[2, m]
                length = slope / max(abs(curvatures[m]), 1e-3)
                if m >= negative_modes:
                    length = -length
                step0 += length * modes[0, m]
                step1 += length * modes[1, m]
                step2 += length * modes[2, m]
            norm = math.sqrt(step0**2 + step1**2 + step2**2)
            shorten = min(1.0, trust_radius / max(norm, 1e-12))
            point[0] += shorten * step0
            point[1] += shorten * step1
            point[2] += shorten * step2
            away = 0.0
            for c in range(3):
                away += (point[c] - starts[p, c]) ** 2
            if away > farthest * farthest:
                break
    return positions, energies, converged, directions
