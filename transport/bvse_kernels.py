"""Compiled sum of radial pair energies of one atom after another onto a periodic grid."""

from __future__ import annotations

import math

import numpy as np

from .compiled import compiled


@compiled
def add_radial_terms(field, steps, centres, kinds, tables, bin_width, reaches):  # type: ignore[no-untyped-def]
    """Add the pair energies of all framework atoms to ``field``, in place.

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
    tables
        Cubic polynomials of the pair energy over equal bins of distance, highest power last, in units of the bin:
        float64 (kinds, bins, 4).
    bin_width
        Angstrom.
    reaches
        Radius of each kind's sphere in Angstrom, float64 (kinds,); at most bins * bin_width.
    """
    n0, n1, n2 = field.shape
    bins = tables.shape[1]
    inverse_bin = 1.0 / bin_width
    # Heights of the voxel: how far apart the grid planes lie along the first two axes.
    volume = abs(np.linalg.det(steps))
    height0 = volume / np.linalg.norm(np.cross(steps[1], steps[2]))
    height1 = volume / np.linalg.norm(np.cross(steps[0], steps[2]))
    square2 = steps[2, 0] ** 2 + steps[2, 1] ** 2 + steps[2, 2] ** 2
    for atom in range(centres.shape[0]):
        c0 = centres[atom, 0]
        c1 = centres[atom, 1]
        c2 = centres[atom, 2]
        table = tables[kinds[atom]]
        reach = reaches[kinds[atom]]
        for i in range(math.ceil(c0 - reach / height0), math.floor(c0 + reach / height0) + 1):
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
                last = math.floor(c2 + (-half_b + root) / square2)
                row = field[i % n0, j % n1]
                while step <= last:
                    start = step % n2
                    run = min(last - step + 1, n2 - start)
                    for k in range(run):
                        t = step + k - c2
                        square = square_p + t * (2.0 * half_b + t * square2)
                        x = math.sqrt(max(square, 0.0)) * inverse_bin
                        bin_index = min(int(x), bins - 1)
                        x -= bin_index
                        row[start + k] += table[bin_index, 0] + x * (
                            table[bin_index, 1] + x * (table[bin_index, 2] + x * table[bin_index, 3])
                        )
                    step += run
