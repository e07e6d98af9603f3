"""Compiled loops of a MACE model of scalars: its convolution over bonds and its many-body products."""

from __future__ import annotations

import numpy as np

from ..transport.compiled import compiled_in_any_order


@compiled_in_any_order
def convolve(features, weights, harmonics, senders, receivers, starts, summed):  # type: ignore[no-untyped-def]
    """Add to each receiver what its bonds bring, in place.

    ``summed[i, m, c] += features[j, c] * weights[e, l(m), c] * harmonics[e, m]`` over the bonds e from j to i. The
    general code keeps this product of every bond before it sums; here it never leaves the cache.

    Parameters
    ----------
    features
        Of each atom, shape (atoms, channels).
    weights
        Of each bond, by degree l of the harmonics, shape (bonds, degrees, channels).
    harmonics
        Of each bond's direction, normalisation included, shape (bonds, components).
    senders, receivers
        Atoms of each bond, int64, shape (bonds,).
    starts
        First component of each degree, and their number last, int64, shape (degrees + 1,).
    summed
        Shape (atoms, components, channels).
    """
    channels = features.shape[1]
    product = np.empty(channels, features.dtype)
    for bond in range(senders.shape[0]):
        here = features[senders[bond]]
        for degree in range(starts.shape[0] - 1):
            factors = weights[bond, degree]
            for channel in range(channels):
                product[channel] = here[channel] * factors[channel]
            for component in range(starts[degree], starts[degree + 1]):
                share = harmonics[bond, component]
                target = summed[receivers[bond], component]
                for channel in range(channels):
                    target[channel] += share * product[channel]


@compiled_in_any_order
def convolve_back(  # type: ignore[no-untyped-def]
    features, weights, harmonics, senders, receivers, starts, slope, of_features, of_weights, of_harmonics
):
    """Derivatives of :func:`convolve`: those of what was given, from the derivatives ``slope`` of its result.

    Parameters
    ----------
    features, weights, harmonics, senders, receivers, starts
        As given to :func:`convolve`.
    slope
        Shape of its result, (atoms, components, channels).
    of_features
        Added to, shape (atoms, channels).
    of_weights, of_harmonics
        Overwritten, shape (bonds, degrees, channels) and (bonds, components).
    """
    channels = features.shape[1]
    product = np.empty(channels, features.dtype)
    along = np.empty(channels, features.dtype)
    nothing = np.zeros(1, features.dtype)
    for bond in range(senders.shape[0]):
        here = features[senders[bond]]
        back = of_features[senders[bond]]
        for degree in range(starts.shape[0] - 1):
            factors = weights[bond, degree]
            for channel in range(channels):
                product[channel] = here[channel] * factors[channel]
                along[channel] = nothing[0]
            for component in range(starts[degree], starts[degree + 1]):
                share = harmonics[bond, component]
                pull = slope[receivers[bond], component]
                total = nothing[0]
                for channel in range(channels):
                    along[channel] += share * pull[channel]
                    total += pull[channel] * product[channel]
                of_harmonics[bond, component] = total
            out = of_weights[bond, degree]
            for channel in range(channels):
                out[channel] = along[channel] * here[channel]
                back[channel] += along[channel] * factors[channel]


@compiled_in_any_order
def sum_monomials(features, kinds, coefficients, factors, values, slopes):  # type: ignore[no-untyped-def]
    """Polynomials of each atom's components, channel by channel, and their derivatives.

    ``values[i, c] = sum over t of coefficients[kinds[i], t, c] * x[a] * x[b] * x[d]`` with (a, b, d) = ``factors[t]``
    and x = ``features[i, :, c]``; the number behind the last component stands for a factor of one.

    Parameters
    ----------
    features
        Shape (atoms, components, channels).
    kinds
        Row of each atom in ``coefficients``, int64, shape (atoms,).
    coefficients
        Shape (kinds, monomials, channels).
    factors
        Components of each monomial, int64, shape (monomials, 3).
    values
        Overwritten, shape (atoms, channels).
    slopes
        Overwritten with the derivatives of the values by the components, shape (atoms, components, channels); an array
        without atoms asks for none.
    """
    atoms, components, channels = features.shape
    given = np.ones((components + 1, channels), features.dtype)
    slope = np.zeros((components + 1, channels), features.dtype)
    wanted = slopes.shape[0] == atoms
    for atom in range(atoms):
        given[:components] = features[atom]
        value = values[atom]
        value[:] = 0
        slope[:] = 0
        for term in range(factors.shape[0]):
            first, second, third = given[factors[term, 0]], given[factors[term, 1]], given[factors[term, 2]]
            scale = coefficients[kinds[atom], term]
            if wanted:
                by_first, by_second, by_third = (
                    slope[factors[term, 0]],
                    slope[factors[term, 1]],
                    slope[factors[term, 2]],
                )
                for channel in range(channels):
                    pair = scale[channel] * first[channel]
                    rest = scale[channel] * second[channel] * third[channel]
                    value[channel] += rest * first[channel]
                    by_first[channel] += rest
                    by_second[channel] += pair * third[channel]
                    by_third[channel] += pair * second[channel]
            else:
                for channel in range(channels):
                    value[channel] += scale[channel] * first[channel] * second[channel] * third[channel]
        if wanted:
            slopes[atom] = slope[:components]
