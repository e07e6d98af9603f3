"""Widths of intervals: who sets them, and whether they hold what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hopflow.learning.barrier_learners import to_barrier, to_target
from hopflow.learning.interval_calibration import SigmaScale, coverage, coverage_of_scales, fitted_scale, half_widths
from scipy.stats import norm

ROWS, FOLDS = 1500, 5


def answers(seed: int, floor: float = 0.12, slope: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels in eV, answers on the learned scale, and a spread that tells which answers err more."""
    generator = np.random.default_rng(seed)
    mean = generator.uniform(np.log(0.6), np.log(2.5), ROWS)
    spread = generator.uniform(0.02, 0.5, ROWS)
    sigma = np.sqrt(floor**2 + (slope * spread) ** 2)
    target = mean + sigma * generator.standard_normal(ROWS)
    return to_barrier(target, np.zeros(ROWS))[0], mean, spread


def test_sigma_adds_floor_and_spread_in_quadrature() -> None:
    sigma = SigmaScale(0.3, 2.0).sigma(np.array([0.0, 0.2]))
    np.testing.assert_allclose(sigma, [0.3, 0.5])


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_a_fitted_scale_holds_what_it_claims_on_rows_that_it_has_not_seen(slope: float) -> None:
    scale = fitted_scale(*answers(1, slope=slope))
    true_eV, mean, spread = answers(2, slope=slope)
    barrier_eV, sigma_eV = to_barrier(mean, scale.sigma(spread))
    off = np.abs(true_eV - barrier_eV) / sigma_eV
    for level in (0.5, 0.8, 0.9):
        assert (off <= norm.ppf(0.5 + level / 2)).mean() == pytest.approx(level, abs=0.05)


def test_a_fitted_scale_finds_out_whether_spread_tells_of_errors() -> None:
    told = fitted_scale(*answers(3, floor=0.05, slope=1.5))
    untold = fitted_scale(*answers(3, floor=0.3, slope=0.0))
    assert told.slope > 10 * untold.slope
    assert untold.floor > 3 * told.floor


def test_rows_that_are_only_judged_set_no_width() -> None:
    true_eV, mean, spread = answers(4)
    generator = np.random.default_rng(0)
    folds = np.stack([generator.permutation(ROWS) % FOLDS for _ in range(2)])
    answered = np.stack([mean, mean]), np.stack([spread, spread])
    judged, learned = true_eV < 4.0, generator.random(ROWS) > 0.2
    before = coverage(true_eV, *answered, folds, judged, learned)
    scales_before = coverage_of_scales(true_eV, *answered, folds, judged, learned)
    # labels that may not be looked at become absurd: nothing changes but whether they themselves are held
    spoilt = np.where(learned, true_eV, 3.99)
    held = judged & learned
    after = coverage(spoilt, *answered, folds, held, learned)
    assert after == coverage(true_eV, *answered, folds, held, learned)
    assert coverage_of_scales(spoilt, *answered, folds, held, learned) == coverage_of_scales(
        true_eV, *answered, folds, held, learned
    )
    for level, share in before["conformal"]["log"].items():
        assert share == pytest.approx(float(level), abs=0.04)
        assert scales_before[level] == pytest.approx(float(level), abs=0.05)


def test_rows_above_the_limit_set_no_width() -> None:
    true_eV, mean, spread = answers(5)
    fold = np.arange(ROWS) % FOLDS
    usual = true_eV < 1.0
    target, spoilt = to_target(true_eV), to_target(np.where(usual, true_eV, 400.0))
    for method in ("conformal", "scaled_sigma"):
        right = half_widths(target, mean, spread, fold, 0.8, method, usual)
        np.testing.assert_array_equal(half_widths(spoilt, mean, spread, fold, 0.8, method, usual), right)
        assert not np.allclose(half_widths(spoilt, mean, spread, fold, 0.8, method), right)
