"""How wide the intervals of a barrier learner must be to hold what they claim, found from rows of other folds.

A learner's sigma says which barriers it is surer of, not how sure: its unit is set here. Either one factor makes
68.3 % of the other folds' labels lie within one sigma and the rest follows a normal distribution (``scaled_sigma``), or
each level has its own factor, the quantile of residual over sigma (``conformal``: split-conformal prediction with
normalised residuals, Lei et al. 2018), which does not care what the distribution looks like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .barrier_learners import to_barrier, to_target
from .evaluation import sigma_scale

LEVELS: tuple[float, ...] = (0.5, 0.8, 0.9)
"""Shares of the labels that the intervals shall hold."""

METHODS: tuple[str, ...] = ("conformal", "scaled_sigma")
"""Ways to set the width; the first is that of the figures."""

_LEAST_SIGMA = 1e-9

_FLOORS = np.linspace(0.02, 0.5, 25)
_SLOPES = np.linspace(0.0, 2.5, 26)
_FACTORS_TRIED = np.exp(np.linspace(-0.8, 0.8, 81))


@dataclass(frozen=True)
class SigmaScale:
    """From the spread of a model's parts to one sigma that serves all levels.

    Attributes
    ----------
    floor
        Sigma where all parts agree, on the learned scale.
    slope
        How much of their disagreement is added, in quadrature.
    """

    floor: float
    slope: float

    def sigma(self, spread: np.ndarray) -> np.ndarray:
        """Sigma on the learned scale, shape of ``spread``."""
        return np.sqrt(self.floor**2 + (self.slope * spread) ** 2)


def fitted_scale(true_eV: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> SigmaScale:
    """The scale by which central normal intervals in eV hold what they claim.

    Floor and slope are those of the largest Laplace likelihood, whose tails are as heavy as those of the residuals;
    then both take the common factor for which the worst of the :data:`LEVELS` is least wrong.

    Parameters
    ----------
    true_eV
        Labels that the answers have not seen, shape (rows,).
    mean, spread
        Answers and disagreement of their parts on the learned scale, shape (rows,).
    """
    from scipy.stats import norm

    residual = np.abs(to_target(true_eV) - mean)
    tried = [(SigmaScale(float(floor), float(slope))) for floor in _FLOORS for slope in _SLOPES]

    def cost(scale: SigmaScale) -> float:
        sigma = scale.sigma(spread)
        return float(np.mean(np.log(sigma) + math.sqrt(2.0) * residual / sigma))

    best = min(tried, key=cost)

    def worst(factor: float) -> float:
        barrier_eV, sigma_eV = to_barrier(mean, factor * best.sigma(spread))
        off = np.abs(true_eV - barrier_eV) / np.maximum(sigma_eV, _LEAST_SIGMA)
        return max(abs(float((off <= norm.ppf(0.5 + level / 2.0)).mean()) - level) for level in LEVELS)

    factor = float(min(_FACTORS_TRIED, key=worst))
    return SigmaScale(factor * best.floor, factor * best.slope)


def coverage_of_scales(
    true_eV: np.ndarray,
    mean: np.ndarray,
    spread: np.ndarray,
    folds: np.ndarray,
    judged: np.ndarray,
    learned: np.ndarray,
) -> dict[str, float]:
    """Share of labels inside central normal intervals in eV whose scale was fitted to the other folds.

    Parameters
    ----------
    true_eV
        Labels, shape (rows,).
    mean, spread, folds
        Shape (repeats, rows), as for :func:`coverage`.
    judged
        Rows that are counted, boolean, shape (rows,).
    learned
        Rows whose labels may be looked at, boolean, shape (rows,); scales are fitted to those that are judged, too.
    """
    from scipy.stats import norm

    off = []
    for own_mean, own_spread, fold in zip(mean, spread, folds, strict=True):
        for own in np.unique(fold):
            others, inside = (fold != own) & judged & learned, (fold == own) & judged
            scale = fitted_scale(true_eV[others], own_mean[others], own_spread[others])
            barrier_eV, sigma_eV = to_barrier(own_mean[inside], scale.sigma(own_spread[inside]))
            off.append(np.abs(true_eV[inside] - barrier_eV) / np.maximum(sigma_eV, _LEAST_SIGMA))
    ratio = np.concatenate(off)
    return {str(level): float((ratio <= norm.ppf(0.5 + level / 2.0)).mean()) for level in LEVELS}


def conformal_factor(true: np.ndarray, mean: np.ndarray, sigma: np.ndarray, level: float) -> float:
    """Factor on sigma that holds a share of unseen labels, if those are drawn as these are.

    The ``ceil((n + 1) level)``-th smallest residual over sigma, infinite where so few rows promise nothing.
    """
    ratio = np.sort(np.abs(true - mean) / np.maximum(sigma, _LEAST_SIGMA))
    rank = math.ceil((len(ratio) + 1) * level - 1e-9)
    return float(ratio[rank - 1]) if rank <= len(ratio) else math.inf


def normal_factor(true: np.ndarray, mean: np.ndarray, sigma: np.ndarray, level: float) -> float:
    """Factor on sigma of the central normal interval, once 68.3 % of these rows lie within one sigma."""
    from scipy.stats import norm

    return sigma_scale(true, mean, sigma) * float(norm.ppf(0.5 + level / 2.0))


_FACTORS = {"conformal": conformal_factor, "scaled_sigma": normal_factor}


def half_widths(
    true: np.ndarray,
    mean: np.ndarray,
    sigma: np.ndarray,
    fold: np.ndarray,
    level: float,
    method: str,
    sets_width: np.ndarray | None = None,
) -> np.ndarray:
    """Half-width of each row's interval, by the residuals of all folds but its own.

    Parameters
    ----------
    true, mean, sigma
        Labels, answers and their uncalibrated sigma on any one scale, shape (rows,).
    fold
        The fold that each row was held out in, shape (rows,).
    level
        Share to be held.
    method
        One of ``METHODS``.
    sets_width
        Rows whose residuals count, boolean, shape (rows,); all without it.

    Returns
    -------
    numpy.ndarray
        Shape (rows,).
    """
    widths = np.zeros(len(true))
    for own in np.unique(fold):
        others, inside = _others(fold, own, sets_width), fold == own
        factor = _FACTORS[method](true[others], mean[others], sigma[others], level)
        widths[inside] = factor * sigma[inside]
    return widths


def _others(fold: np.ndarray, own: int, sets_width: np.ndarray | None) -> np.ndarray:
    return fold != own if sets_width is None else (fold != own) & sets_width


def calibrated_sigma(
    true: np.ndarray, mean: np.ndarray, sigma: np.ndarray, fold: np.ndarray, sets_width: np.ndarray | None = None
) -> np.ndarray:
    """Sigma of each row, scaled by the residuals of all folds but its own; takes what :func:`half_widths` takes."""
    scaled = np.zeros(len(true))
    for own in np.unique(fold):
        others, inside = _others(fold, own, sets_width), fold == own
        scaled[inside] = sigma_scale(true[others], mean[others], sigma[others]) * sigma[inside]
    return scaled


def coverage(
    true_eV: np.ndarray,
    mean: np.ndarray,
    sigma: np.ndarray,
    folds: np.ndarray,
    judged: np.ndarray,
    learned: np.ndarray,
) -> dict[str, dict[str, dict[str, float]]]:
    """Share of labels inside their intervals, by every method, and how wide those are.

    Parameters
    ----------
    true_eV
        Labels, shape (rows,).
    mean, sigma
        Answers on the learned scale and their uncalibrated sigma, shape (repeats, rows).
    folds
        The fold that each row was held out in, shape (repeats, rows).
    judged
        Rows that are counted, boolean, shape (rows,).
    learned
        Rows whose labels may be looked at, boolean, shape (rows,); those that are judged, too, set the widths.

    Returns
    -------
    dict
        Of each method: ``log`` (intervals on the learned scale, lopsided in eV), ``eV`` (symmetric around the
        barrier), both the share held at each level, and ``width_eV``, the median width of the former in eV.
    """
    from scipy.stats import norm

    target = to_target(true_eV)
    sets_width = judged & learned
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in METHODS:
        held: dict[str, dict[str, float]] = {"log": {}, "eV": {}, "width_eV": {}}
        for level in LEVELS:
            seen: dict[str, list[np.ndarray]] = {name: [] for name in held}
            for own_mean, own_sigma, fold in zip(mean, sigma, folds, strict=True):
                width = half_widths(target, own_mean, own_sigma, fold, level, method, sets_width)
                barrier_eV, sigma_eV = to_barrier(
                    own_mean, calibrated_sigma(target, own_mean, own_sigma, fold, sets_width)
                )
                if method == "scaled_sigma":
                    # sigma_eV follows from the scaled sigma and is not scaled a second time
                    width_eV = sigma_eV * float(norm.ppf(0.5 + level / 2.0))
                else:
                    width_eV = half_widths(true_eV, barrier_eV, sigma_eV, fold, level, method, sets_width)
                seen["log"].append((np.abs(target - own_mean) <= width)[judged])
                seen["eV"].append((np.abs(true_eV - barrier_eV) <= width_eV)[judged])
                ends_eV = interval_eV(own_mean, width)
                seen["width_eV"].append((ends_eV[1] - ends_eV[0])[judged])
            held["log"][str(level)] = float(np.mean(seen["log"]))
            held["eV"][str(level)] = float(np.mean(seen["eV"]))
            held["width_eV"][str(level)] = float(np.median(seen["width_eV"]))
        found[method] = held
    return found


def interval_eV(mean: np.ndarray, half_width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends in eV of intervals on the learned scale, shape (rows,) each, neither below zero."""
    none = np.zeros_like(mean)
    return to_barrier(mean - half_width, none)[0], to_barrier(mean + half_width, none)[0]
