"""Descriptors of paths, learners on them, and the path network as a learner."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hopflow.learning.barrier_learners import to_barrier, to_target
from hopflow.learning.classical_baselines import NAMED_CLASSICAL, GradientBoosting, RandomForest
from hopflow.learning.evaluation import host_groups
from hopflow.learning.learner_registry import BARRIER_LEARNERS, barrier_learner
from hopflow.learning.path_descriptors import PATH_DESCRIPTORS, path_descriptors
from hopflow.learning.path_graphs import build_path_graph
from hopflow.learning.path_network import NetworkSettings
from hopflow.learning.path_network_learner import PathNetworkLearner
from hopflow.learning.training import TrainingSettings, combine, predict_targets, target_columns, train_member
from hopflow.transport.paths import MigrationPath
from path_tables import path_table


def straight_hop() -> MigrationPath:
    """A lithium ion through the middle of a large cubic cell, between oxygen on either side, past one far iron."""
    return MigrationPath(
        ion="Li",
        lattice=10.0 * np.eye(3),
        framework_species=("O", "O", "Fe", "Li"),
        framework_frac_coords=np.array([[0.5, 0.7, 0.5], [0.5, 0.3, 0.5], [0.5, 0.5, 0.9], [0.1, 0.1, 0.1]]),
        path_frac_coords=np.array([[x, 0.5, 0.5] for x in (0.35, 0.425, 0.5, 0.575, 0.65)]),
        path_id="made up",
    )


def test_descriptors_agree_with_hand_calculation():
    found = dict(zip(PATH_DESCRIPTORS, path_descriptors(straight_hop()), strict=True))
    assert found["length_A"] == pytest.approx(3.0)
    assert found["volume_of_an_atom_A3"] == pytest.approx(1000.0 / 5)
    # two Li, one Fe, two O in atomic masses, one of which is 1.66053907 g/cm3 in a cubic Angstrom
    mass_u = 2 * 6.94 + 55.845 + 2 * 15.999
    assert found["density_g_per_cm3"] == pytest.approx(1.66053907 * mass_u / 1000.0, rel=1e-4)
    assert found["end_nearest_A"] == pytest.approx(2.5)
    assert found["end_nearest_difference_A"] == pytest.approx(0.0, abs=1e-9)
    # pushed from both sides alike, the ion stays in the middle
    assert found["middle_nearest_A"] == pytest.approx(2.0, abs=0.01)
    assert found["elements"] == 3
    assert found["share_of_migrating_element"] == pytest.approx(0.25)
    assert found["ion_pauling_electronegativity"] == pytest.approx(0.98)
    electronegativities = [3.44, 3.44, 1.83, 0.98]
    assert found["framework_mean_pauling_electronegativity"] == pytest.approx(np.mean(electronegativities))
    assert found["framework_deviation_pauling_electronegativity"] == pytest.approx(np.std(electronegativities))
    assert found["framework_range_pauling_electronegativity"] == pytest.approx(3.44 - 0.98)


@pytest.mark.parametrize("number", [0, 7, 17, 20])
def test_descriptors_do_not_depend_on_direction_cell_or_order(number):
    path = MigrationPath.from_row(path_table()[number])
    right = path_descriptors(path)
    assert np.isfinite(right).all()
    reverse = replace(path, path_frac_coords=path.path_frac_coords[::-1])
    np.testing.assert_allclose(path_descriptors(reverse), right, rtol=1e-6, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(path.framework_species))
    cell = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    other = MigrationPath(
        path.ion,
        cell @ path.lattice,
        tuple(path.framework_species[i] for i in order),
        (path.framework_frac_coords @ np.linalg.inv(cell))[order],
        path.path_frac_coords @ np.linalg.inv(cell),
    )
    np.testing.assert_allclose(path_descriptors(other), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("learner", [RandomForest(trees=60), GradientBoosting(trees=60)])
def test_trees_learn_what_they_are_shown_and_answer_alike_for_a_seed(learner):
    rows = [row for row in path_table() if row["barrier_dft_eV"] <= 4.0]
    barrier_eV = np.array([row["barrier_dft_eV"] for row in rows])
    items = learner.prepare(rows)
    fitted = learner.fit(items, barrier_eV, host_groups(rows), seed=3)
    mean, sigma = fitted.predict(items)
    assert mean.shape == sigma.shape == (len(rows),)
    assert (sigma > 0).all()
    error_eV = np.abs(to_barrier(mean, sigma)[0] - barrier_eV).mean()
    assert error_eV < 0.5 * np.abs(np.median(barrier_eV) - barrier_eV).mean()
    again = learner.fit(items, barrier_eV, host_groups(rows), seed=3).predict(items)
    np.testing.assert_array_equal(again[0], mean)


def test_the_spread_of_the_trees_is_their_deviation():
    rows, learner = path_table(), RandomForest(trees=10)
    items = learner.prepare(rows)
    barrier_eV = np.array([row["barrier_dft_eV"] for row in rows])
    fitted = learner.fit(items, barrier_eV, host_groups(rows), seed=0)
    mean, sigma = fitted.predict(items)
    np.testing.assert_allclose(mean, fitted.forest.predict(np.stack(items)), rtol=1e-6)
    each = [tree.predict(np.stack(items).astype(np.float32)) for tree in fitted.forest.estimators_]
    np.testing.assert_allclose(sigma, np.maximum(np.std(each, axis=0), 0.02))


def test_the_median_is_that_of_the_barriers():
    learner = NAMED_CLASSICAL["median"].create()
    items = learner.prepare([{}] * 3)
    mean, sigma = learner.fit(items, np.array([0.1, 0.4, 2.0]), [0, 1, 2], seed=0).predict(items[:2])
    np.testing.assert_allclose(to_barrier(mean, sigma)[0], [0.4, 0.4])


def test_the_path_network_learner_is_the_network_and_reads_mace_barriers_as_labels_alone():
    rows = path_table()[:12]
    barrier_eV = np.array([row["barrier_dft_eV"] for row in rows])
    training = TrainingSettings(network=NetworkSettings(hidden=8, layers=1), members_per_fold=2, epochs=1)
    learner = PathNetworkLearner(training)
    items = learner.prepare(rows)
    mean, sigma = learner.fit(items, barrier_eV, host_groups(rows), seed=4).predict(items)
    graphs = [build_path_graph(MigrationPath.from_row(row), training.graph) for row in rows]
    targets = target_columns(rows, training)
    networks = [train_member(graphs, targets, training, seed)[0] for seed in (400, 401)]
    right = combine(*predict_targets(networks, graphs))
    np.testing.assert_allclose(mean, right[0], rtol=1e-5)
    np.testing.assert_allclose(sigma, right[1], rtol=1e-5)
    np.testing.assert_allclose([item.mace_target for item in items], targets[:, 1])
    blind = learner.prepare([{**row, "barrier_mace_relax_eV": None} for row in rows])
    assert np.isnan([item.mace_target for item in blind]).all()
    fitted = learner.fit(items, barrier_eV, host_groups(rows), seed=4)
    np.testing.assert_array_equal(fitted.predict(blind)[0], fitted.predict(items)[0])


def test_learners_are_named_without_torch_and_created_by_name():
    code = "import sys; from hopflow.learning.learner_registry import BARRIER_LEARNERS; print(*BARRIER_LEARNERS); "
    code += "assert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert listed == list(BARRIER_LEARNERS)
    for name, named in BARRIER_LEARNERS.items():
        assert named.name == name
        assert named.create().settings()
    with pytest.raises(ValueError, match=r"'oracle'; allowed: path-network, "):
        barrier_learner("oracle")


def test_learners_of_other_settings_have_other_keys():
    learners = [RandomForest(), RandomForest(trees=10), GradientBoosting(), PathNetworkLearner()]
    learners.append(PathNetworkLearner(TrainingSettings(epochs=3)))
    assert len({str(learner.settings()) for learner in learners}) == len(learners)
    # how an ensemble is judged changes no network
    assert PathNetworkLearner(TrainingSettings(folds=9)).settings() == PathNetworkLearner().settings()


def test_targets_come_back_as_barriers():
    barrier_eV = np.array([0.0, 0.03, 0.5, 8.77])
    np.testing.assert_allclose(to_barrier(to_target(barrier_eV), np.zeros(4))[0], barrier_eV, atol=1e-12)
