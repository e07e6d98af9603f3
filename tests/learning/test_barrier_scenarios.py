"""Scenarios, paths of one crystal, and intervals, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hopflow.learning.barrier_learners import to_barrier, to_target
from hopflow.learning.barrier_scenarios import (
    SCENARIOS,
    crystal_groups,
    dealt_folds,
    path_distinction,
    rows_of_scenario,
    scenario_metrics,
)
from hopflow.learning.interval_calibration import METHODS, conformal_factor, coverage, half_widths
from hypothesis import given, settings
from hypothesis import strategies as st


def test_paths_of_one_crystal_share_name_and_host():
    names = ["RuO2_Li_1", "RuO2_Li_3", "LiRuO2_1", "TiO2_Li", "RuO2_Li_2"]
    hosts = [0, 0, 0, 1, 2]
    assert crystal_groups([{"path_id": name} for name in names], hosts) == [0, 0, 1, 2, 3]


def test_scenarios_by_hand():
    # crystal 0 has rows 0 and 1, crystal 1 (same host) row 2, crystal 2 (another host) rows 3 and 4
    hosts, crystals = [0, 0, 0, 1, 1], [0, 0, 1, 2, 2]
    learned = np.ones(5, dtype=bool)
    fold = np.array([0, 1, 0, 1, 1])
    assert rows_of_scenario("A", hosts, crystals, fold, learned).tolist() == [True, True, False, False, False]
    # a path that is never learned from teaches nothing
    without = np.array([True, False, True, True, True])
    assert rows_of_scenario("A", hosts, crystals, fold, without).tolist() == [False, True, False, False, False]
    by_crystal = np.array([0, 0, 1, 1, 1])
    assert rows_of_scenario("B", hosts, crystals, by_crystal, learned).tolist() == [True, True, True, False, False]
    assert rows_of_scenario("C", hosts, crystals, by_crystal, learned).all()


@given(st.lists(st.integers(0, 9), min_size=20, max_size=60), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_each_scenario_has_what_it_says_in_its_training(labels: list[int], folds: int, seed: int):
    crystals = np.unique(labels, return_inverse=True)[1]
    hosts = crystals // 2
    if len(np.unique(hosts)) < folds:
        return
    learned = np.random.default_rng(seed).random(len(crystals)) > 0.1
    for scenario, kind in SCENARIOS.items():
        fold = dealt_folds(kind, hosts.tolist(), crystals.tolist(), folds, seed)
        assert set(fold) == set(range(folds))
        chosen = rows_of_scenario(scenario, hosts.tolist(), crystals.tolist(), fold, learned)
        for row in range(len(crystals)):
            training = [i for i in range(len(crystals)) if fold[i] != fold[row] and learned[i]]
            knows_crystal = any(crystals[i] == crystals[row] for i in training)
            knows_host = any(hosts[i] == hosts[row] for i in training)
            if scenario == "A":
                assert chosen[row] == knows_crystal
            else:
                assert not knows_crystal
                assert chosen[row] == (knows_host if scenario == "B" else True)
                assert scenario == "B" or not knows_host


def test_scenario_metrics_count_the_chosen_rows_alone():
    true_eV = np.array([0.2, 0.4, 0.6, 1.0])
    predicted_eV = np.array([[0.3, 0.4, 9.0, 0.6], [9.0, 0.7, 0.8, 0.8]])
    chosen = np.array([[True, True, False, True], [False, True, True, True]])
    found = scenario_metrics(true_eV, predicted_eV, chosen, [0, 1, 2, 3], samples=50)
    assert found["rows"] == 3
    assert found["mae_eV"] == pytest.approx(0.5 * (0.5 / 3 + 0.7 / 3))
    assert found["median_error_eV"] == pytest.approx(0.5 * (0.1 + 0.2))
    low, high = found["interval_90"]
    assert low < found["mae_eV"] < high
    assert scenario_metrics(true_eV, predicted_eV, chosen & False, [0, 1, 2, 3], samples=50) == {}


def test_paths_are_told_apart_by_hand():
    #          crystal 0: two pairs count (0.1 apart is not enough)   crystal 1      alone
    true_eV = np.array([0.3, 0.4, 0.6, 1.0, 2.0, 0.5])
    crystals, hosts = [0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2]
    predicted_eV = np.array([[0.30, 0.42, 0.41, 1.00, 1.03, 0.5], [0.5, 0.5, 0.5, 1.0, 0.5, 0.5]])
    found = path_distinction(true_eV, predicted_eV, crystals, hosts, samples=50)
    # pairs (0, 2), (1, 2), (3, 4); first repeat: apart, not, not; right, wrong, right; second: only (3, 4), wrongly
    assert (found["pairs"], found["systems"]) == (3, 2)
    assert found["told_apart"] == pytest.approx((1 + 1) / 6)
    assert found["ordered"] == pytest.approx((2 + 0) / 6)
    # systems whose answers all lie within 0.05 eV: the second in the first repeat, the first in the second
    assert found["indistinct_systems"] == pytest.approx(0.5)
    # wrong by more than 0.1 eV: 0.6 -> 0.41 and 2.0 -> 1.03; then 0.3 -> 0.5 and 2.0 -> 0.5
    assert found["error_above_0.1_eV"] == pytest.approx(0.4)
    truth = path_distinction(true_eV, true_eV[None, :], crystals, hosts, samples=50)
    assert (truth["told_apart"], truth["ordered"], truth["indistinct_systems"]) == (1.0, 1.0, 0.0)
    assert truth["ordered_interval_90"] == (1.0, 1.0)
    partly = np.array([[0.3, np.nan, 0.5, 1.0, 1.2, 0.5]])
    assert path_distinction(true_eV, partly, crystals, hosts, samples=50)["pairs"] == 2
    assert path_distinction(true_eV, partly, list(range(6)), hosts) == {"pairs": 0, "systems": 0}


def test_a_conformal_factor_is_a_rank():
    true, mean = np.arange(1.0, 10.0), np.zeros(9)
    sigma = np.ones(9)
    assert [conformal_factor(true, mean, sigma, level) for level in (0.5, 0.8, 0.9)] == [5.0, 8.0, 9.0]
    assert conformal_factor(true, mean, 2.0 * sigma, 0.5) == pytest.approx(2.5)
    assert conformal_factor(true[:8], mean[:8], sigma[:8], 0.9) == math.inf


def test_a_fold_does_not_set_its_own_width():
    generator = np.random.default_rng(0)
    true, mean, fold = generator.normal(size=60), np.zeros(60), np.arange(60) % 3
    for method in METHODS:
        right = half_widths(true, mean, np.ones(60), fold, 0.8, method)
        changed = np.where(fold == 1, 50.0 * true, true)
        widths = half_widths(changed, mean, np.ones(60), fold, 0.8, method)
        np.testing.assert_array_equal(widths[fold == 1], right[fold == 1])
        assert (widths[fold != 1] > right[fold != 1]).all()


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_conformal_intervals_cover_whatever_the_tails(tails):
    generator = np.random.default_rng(2)
    rows, repeats = 3000, 2
    sigma = generator.uniform(0.1, 0.4, (repeats, rows))
    noise = generator.normal(size=(1, rows)) if tails == "normal" else generator.standard_t(1.2, (1, rows))
    mean = to_target(generator.uniform(0.5, 2.0, rows)) - sigma * noise
    target = mean + sigma * noise
    true_eV = to_barrier(target, np.zeros_like(target))[0][0]
    folds = np.tile(np.arange(rows) % 5, (repeats, 1))
    found = coverage(true_eV, mean, 3.0 * sigma, folds, *[np.ones(rows, dtype=bool)] * 2)
    for scale in ("log", "eV"):
        for level, share in found["conformal"][scale].items():
            assert share == pytest.approx(float(level), abs=0.02)
    normal = found["scaled_sigma"]["log"]
    if tails == "normal":
        assert normal["0.9"] == pytest.approx(0.9, abs=0.02)
    else:
        # one factor cannot do: what fits 68 % holds too few where the tails are heavy
        assert normal["0.9"] < 0.87
    assert found["conformal"]["width_eV"]["0.5"] < found["conformal"]["width_eV"]["0.9"]
