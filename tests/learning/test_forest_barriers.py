"""Forests on geometry, probes and NEB barriers: trees as scikit-learn grows them, and who may read what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignn_paths import vacancy_rows
from ase import Atoms
from ase.neighborlist import neighbor_list
from hopflow.learning.band_probes import ProbeSettings, probe_rows
from hopflow.learning.barrier_learners import to_target
from hopflow.learning.forest_barriers import (
    BAND_COLUMNS,
    EVIDENCE,
    NAMED_FORESTS,
    NEB_COLUMN,
    ForestLearner,
    PathEvidence,
    evidence_by_probing,
)
from hopflow.learning.path_table import GEOMETRY_COLUMNS, PROBE_COLUMNS, compressed, geometry_columns
from hopflow.learning.tree_blends import TreeBlend, TreeBlendSettings, train_blend
from hopflow.learning.tree_ensembles import TreeEnsemble
from hopflow.transport.energies import SiteEvaluation
from hopflow.transport.errors import CandidateError, Reason
from hopflow.transport.paths import MigrationPath
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, RandomForestRegressor

PROBING = ProbeSettings(steps=1)
BARRIERS_EV = np.array([0.21, 0.34, 0.5, 0.77, 0.43, 0.62, 0.9, 1.3, 0.28, 1.9])
SMALL = TreeBlendSettings(trees=12, boosted_trees=0)


class Repulsion:
    """Atoms that push each other away, all alike; knows no fluorine if it is told so."""

    name, weights_sha256, method = "repulsion", "0" * 64, "analytic"

    def __init__(self, refused: str = "") -> None:
        self.refused = refused

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        if self.refused in image.get_chemical_symbols():
            raise CandidateError(f"repulsion does not know {self.refused}.", Reason.UNSUPPORTED_ELEMENT)
        first, length, vector = neighbor_list("idD", image, 4.0)
        share = 0.5 * np.bincount(first, (4.0 - length) ** 2, len(image))
        force = np.zeros((len(image), 3))
        np.add.at(force, first, (-2.0 * (4.0 - length) / length)[:, None] * vector)
        return SiteEvaluation(float(share.sum()), force if forces else None, share, share[:, None])

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        return np.array([self.evaluate_sites(image).energy_eV for image in images])

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        found = [self.evaluate_sites(image) for image in images]
        return np.array([each.energy_eV for each in found]), [np.asarray(each.forces_eV_per_A) for each in found]


def rows_with_neb() -> list[dict[str, Any]]:
    """Ten hops of five hosts, each with a NEB barrier."""
    return [{**row, NEB_COLUMN: 0.8 * barrier} for row, barrier in zip(vacancy_rows(), BARRIERS_EV, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probes of all hops but the two in NaF, which the potential refuses."""
    found = tmp_path_factory.mktemp("features")
    rows = [row for row in rows_with_neb() if not row["path_id"].startswith("NaF")]
    assert probe_rows(rows, Repulsion(), PROBING, found) == []
    return found


def learner(evidence: str) -> ForestLearner:
    return ForestLearner(evidence, SMALL, PROBING)


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), leaf=st.integers(1, 4), digits=st.integers(0, 6), random=st.booleans())
def test_trees_answer_as_in_scikit_learn(seed: int, leaf: int, digits: int, random: bool) -> None:
    generator = np.random.default_rng(seed)
    # rounded to few digits many values are equal, and thresholds fall on them
    table = np.round(generator.normal(size=(60, 5)) * 10.0 ** generator.integers(-2, 3, 5), digits)
    goal = table @ generator.normal(size=5) + generator.normal(size=60)
    kind = ExtraTreesRegressor if random else RandomForestRegressor
    forest = kind(7, min_samples_leaf=leaf, max_features=0.5, random_state=seed).fit(table, goal)
    ensemble = TreeEnsemble.from_forest(forest)
    others = np.concatenate([table, np.round(3.0 * generator.normal(size=(40, 5)), digits)])
    found = ensemble.predict_each(others)
    assert found.shape == (7, 100)
    right = np.stack([tree.predict(others.astype(np.float32)) for tree in forest.estimators_])
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6 * np.abs(goal).max())
    np.testing.assert_allclose(found.mean(axis=0), forest.predict(others), rtol=1e-6, atol=1e-6 * np.abs(goal).max())


def test_values_next_to_each_other_in_single_precision_are_told_apart() -> None:
    """A threshold halfway between two neighbours is no number of single precision; it must not move past either."""
    values = [np.float32(100.0)]
    for _ in range(15):
        values.append(np.nextafter(values[-1], np.float32(np.inf)))
    table, goal = np.array(values)[:, None], np.arange(16.0)
    forest = RandomForestRegressor(4, bootstrap=False, random_state=0).fit(table, goal)
    np.testing.assert_array_equal(forest.predict(table), goal)
    np.testing.assert_array_equal(TreeEnsemble.from_forest(forest).predict_each(table).mean(axis=0), goal)


def test_trees_come_back_from_a_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    table, goal = generator.normal(size=(50, 4)), generator.normal(size=50)
    ensemble = TreeEnsemble.from_forest(ExtraTreesRegressor(5, random_state=0).fit(table, goal))
    arrays = ensemble.arrays("probe_")
    assert all(name.startswith("probe_") for name in arrays)
    assert arrays["probe_left"].dtype == np.int32
    np.savez(tmp_path / "trees.npz", **arrays)  # type: ignore[arg-type]
    with np.load(tmp_path / "trees.npz", allow_pickle=False) as kept:
        again = TreeEnsemble.from_arrays(kept, "probe_")
    np.testing.assert_array_equal(again.predict_each(table), ensemble.predict_each(table))
    # grown to single paths without drawing, every tree knows what it has seen
    np.testing.assert_allclose(again.predict_each(table), np.tile(goal, (5, 1)), atol=1e-6)
    assert again.predict_each(np.zeros((0, 4))).shape == (5, 0)
    del arrays["probe_value"]
    with pytest.raises(KeyError, match="probe_value"):
        TreeEnsemble.from_arrays(arrays, "probe_")


@pytest.mark.parametrize("number", [0, 5])
def test_geometry_columns_do_not_depend_on_direction_cell_or_order(number: int) -> None:
    path = MigrationPath.from_row(vacancy_rows()[number])
    right = geometry_columns(path)
    assert right.shape == (len(GEOMETRY_COLUMNS),)
    assert len(set(GEOMETRY_COLUMNS)) == len(GEOMETRY_COLUMNS)
    assert np.isfinite(right).all()
    back = replace(path, path_frac_coords=path.path_frac_coords[::-1].copy())
    np.testing.assert_allclose(geometry_columns(back), right, atol=1e-6)

    order = np.random.default_rng(number).permutation(len(path.framework_species))
    turned = replace(
        path,
        lattice=path.lattice @ Rotation.random(random_state=number).as_matrix(),
        framework_species=tuple(path.framework_species[each] for each in order),
        framework_frac_coords=(path.framework_frac_coords[order] + 0.3) % 1.0,
        path_frac_coords=path.path_frac_coords + 0.3,
    )
    np.testing.assert_allclose(geometry_columns(turned), right, atol=1e-6)

    sheared = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
    other = replace(
        path,
        lattice=sheared @ path.lattice,
        framework_frac_coords=path.framework_frac_coords @ np.linalg.inv(sheared),
        path_frac_coords=path.path_frac_coords @ np.linalg.inv(sheared),
    )
    # how wide the cell is belongs to the cell
    cell = GEOMETRY_COLUMNS.index("narrowest_width_A")
    np.testing.assert_allclose(np.delete(geometry_columns(other), cell), np.delete(right, cell), atol=1e-6)


def test_compressed_energies_are_linear_when_small_odd_and_in_order() -> None:
    energies = np.array([-80.0, -1.0, -0.01, 0.0, 0.01, 1.0, 80.0])
    found = compressed(energies)
    np.testing.assert_allclose(found, -found[::-1])
    assert (np.diff(found) > 0).all()
    assert found[4] == pytest.approx(0.01, rel=1e-3)
    assert found[-1] == pytest.approx(0.5 * np.log(4 * 80.0), rel=1e-3)


def test_geometry_alone() -> None:
    rows, forests = rows_with_neb(), learner("geometry")
    items = forests.prepare(rows)
    assert [item.kind for item in items] == ["geometry"] * 10
    assert forests.extra_columns == ()
    fitted = forests.fit(items, BARRIERS_EV, range(10), 3)
    assert set(fitted.blends) == {"geometry"}
    mean, sigma = fitted.predict(items)
    # every tree has seen every path and splits down to single ones
    np.testing.assert_allclose(mean, to_target(BARRIERS_EV), atol=1e-5)
    np.testing.assert_array_equal(sigma, 0.02)

    half = forests.fit(items[:6], BARRIERS_EV[:6], range(6), 3)
    mean, sigma = half.predict(items)
    assert (mean >= to_target(BARRIERS_EV[:6]).min() - 1e-6).all()
    assert (mean <= to_target(BARRIERS_EV[:6]).max() + 1e-6).all()
    assert sigma[6:].max() > 0.05
    assert same(forests.fit(items[:6], BARRIERS_EV[:6], range(6), 3).predict(items), (mean, sigma))
    assert not same(forests.fit(items[:6], BARRIERS_EV[:6], range(6), 4).predict(items), (mean, sigma))
    # an answer does not hang on what else is asked
    np.testing.assert_array_equal(half.predict(items[7:8])[0], mean[7:8])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 4), trees=st.integers(1, 30))
def test_boosted_trees_answer_as_in_scikit_learn(seed: int, depth: int, trees: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(50, 4))
    goal = table @ generator.normal(size=4) + generator.normal(size=50)
    model = GradientBoostingRegressor(
        loss="huber", n_estimators=trees, max_depth=depth, subsample=0.7, random_state=seed
    )
    model.fit(table, goal)
    others = generator.normal(size=(30, 4)).astype(np.float32)
    found = TreeEnsemble.from_boosting(model).predict_each(others)
    assert found.shape == (trees, 30)
    np.testing.assert_allclose(found.mean(axis=0), model.predict(others), rtol=1e-5, atol=1e-5 * np.abs(goal).max())


def made_up(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, one estimate and a target that is the estimate with a correction that the first column tells."""
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(rows, 3))
    estimates = generator.uniform(0.0, 1.0, (rows, 1))
    return table, estimates, estimates[:, 0] + np.where(table[:, 0] > 0, 0.2, -0.2)


def test_each_kind_of_trees_counts_alike() -> None:
    table, estimates, target = made_up(60, 0)
    blend = train_blend(table, estimates, target, TreeBlendSettings(trees=10, boosted_trees=15), 3)
    assert blend.boosted is not None
    assert blend.line is not None
    assert blend.rest is not None
    others, begun_from, _ = made_up(8, 1)
    first = blend.forest.predict_each(others)
    second = blend.boosted.predict_each(others).mean(axis=0)
    begun = blend.line(begun_from)
    third = begun + blend.rest.predict_each(np.column_stack([others, begun]))
    mean, spread = blend.predict(others, begun_from)
    np.testing.assert_allclose(mean, (first.mean(axis=0) + second + third.mean(axis=0)) / 3)
    centres = np.stack([first.mean(axis=0), second, third.mean(axis=0)])
    np.testing.assert_allclose(spread**2, 0.5 * (first.var(axis=0) + third.var(axis=0)) + centres.var(axis=0))
    # without estimates there is no line
    bare = train_blend(table, np.zeros((60, 0)), target, TreeBlendSettings(trees=10, boosted_trees=0), 3)
    assert bare.line is None
    np.testing.assert_allclose(bare.predict(others, np.zeros((8, 0)))[0], bare.forest.predict_each(others).mean(axis=0))


def test_the_line_goes_on_where_trees_stop() -> None:
    table, estimates, target = made_up(300, 2)
    blend = train_blend(table, estimates, target, TreeBlendSettings(trees=30, boosted_trees=0, line_penalty=0.0), 0)
    far = np.full((1, 1), 3.0)
    row = np.array([[1.0, 0.0, 0.0]])
    assert blend.forest.predict_each(np.column_stack([row])).mean() < 1.5
    # half of the answer follows the estimate beyond everything that was learned from
    assert blend.predict(row, far)[0] - blend.predict(row, far - 1.0)[0] == pytest.approx(0.5, abs=0.05)


def test_a_blend_comes_back_from_a_file(tmp_path: Path) -> None:
    table, estimates, target = made_up(40, 4)
    for some in (estimates, np.zeros((40, 0))):
        blend = train_blend(table, some, target, TreeBlendSettings(trees=4, boosted_trees=5 * some.shape[1]), 0)
        np.savez(tmp_path / "blend.npz", **blend.arrays("probe/"))  # type: ignore[arg-type]
        with np.load(tmp_path / "blend.npz", allow_pickle=False) as kept:
            again = TreeBlend.from_arrays(kept, "probe/")
        assert same(again.predict(table, some), blend.predict(table, some))


def test_a_path_without_probe_is_answered_from_its_geometry(folder: Path) -> None:
    rows, forests = rows_with_neb(), learner("probe")
    items = forests.prepare(rows, folder)
    assert [item.kind for item in items] == ["probe"] * 8 + ["geometry"] * 2
    assert {item.kind for item in forests.prepare(rows)} == {"geometry"}
    seen = [0, 1, 2, 3, 4, 8]
    fitted = forests.fit([items[place] for place in seen], BARRIERS_EV[seen], seen, 0)
    assert set(fitted.blends) == {"geometry", "probe"}
    mean, sigma = fitted.predict(items)
    geometry = fitted.blends["geometry"].forest.predict_each(np.stack([items[8].geometry, items[9].geometry]))
    np.testing.assert_allclose(mean[8:], geometry.mean(axis=0))
    np.testing.assert_allclose(sigma[8:], np.maximum(geometry.std(axis=0), 0.02))
    both = np.concatenate([items[5].geometry, np.asarray(items[5].probe)])
    assert len(both) == len(GEOMETRY_COLUMNS) + len(PROBE_COLUMNS)
    again = fitted.blends["probe"].predict(both[None], items[5].estimates("probe")[None])[0][0]
    assert mean[5] == pytest.approx(again, abs=1e-12)
    # a probed path is not taken for one that is not
    assert mean[5] != fitted.blends["geometry"].predict(items[5].geometry[None], np.zeros((1, 0)))[0][0]


def test_a_forest_grows_only_where_half_of_the_paths_have_its_evidence(folder: Path) -> None:
    rows = rows_with_neb()
    for row in rows[4:]:
        row[NEB_COLUMN] = None
    fused = learner("band")
    items = fused.prepare(rows, folder)
    assert [item.kind for item in items] == ["band"] * 4 + ["probe"] * 4 + ["geometry"] * 2
    fitted = fused.fit(items, BARRIERS_EV, range(10), 0)
    assert set(fitted.blends) == {"geometry", "probe"}
    assert [fitted.kind_of(item) for item in items] == ["probe"] * 8 + ["geometry"] * 2
    few = fused.fit(items[:5], BARRIERS_EV[:5], range(5), 0)
    assert set(few.blends) == set(EVIDENCE)
    assert [few.kind_of(item) for item in items] == [item.kind for item in items]
    one = fused.fit(items[9:], BARRIERS_EV[9:], [0], 0)
    assert set(one.blends) == {"geometry"}
    assert one.predict(items)[0] == pytest.approx(to_target(BARRIERS_EV[9:])[0], abs=1e-6)


def test_fast_never_reads_the_neb_barrier_and_fused_does(folder: Path) -> None:
    rows = rows_with_neb()
    bare = [{name: value for name, value in row.items() if name != NEB_COLUMN} for row in rows]
    wrong = [{**row, NEB_COLUMN: 3.0} for row in rows]
    # every column is looked at for a split, so the one that tells the barrier is found
    grown = TreeBlendSettings(trees=30, columns=1.0, boosted_trees=0)
    fast, fused = (replace(learner(evidence), trees=grown) for evidence in ("probe", "band"))
    assert fast.extra_columns == ()
    assert fused.extra_columns == (NEB_COLUMN,)

    seen = slice(0, 6)
    fitted = fast.fit(fast.prepare(rows[seen], folder), BARRIERS_EV[seen], range(6), 0)
    blind = fast.fit(fast.prepare(bare[seen], folder), BARRIERS_EV[seen], range(6), 0)
    right = fitted.predict(fast.prepare(rows, folder))
    for forests in (fitted, blind):
        for others in (rows, bare, wrong):
            assert same(forests.predict(fast.prepare(others, folder)), right)

    fitted = fused.fit(fused.prepare(rows[seen], folder), BARRIERS_EV[seen], range(6), 0)
    assert set(fitted.blends) == set(EVIDENCE)
    told, misled, untold = (fitted.predict(fused.prepare(others, folder))[0] for others in (rows, wrong, bare))
    assert (misled[:8] > told[:8] + 1e-3).sum() >= 3
    assert misled[:8].mean() > told[:8].mean() + 0.01
    assert (untold[:8] != told[:8]).any()
    # without a probe the geometry has to do
    np.testing.assert_array_equal(misled[8:], told[8:])
    # paths without a NEB barrier are answered as fast does
    np.testing.assert_array_equal(untold, right[0])


def test_what_fused_makes_of_the_neb_barrier() -> None:
    probe = np.zeros(len(PROBE_COLUMNS))
    probe[PROBE_COLUMNS.index("expected_span_4")] = compressed(0.4)
    item = PathEvidence(np.arange(float(len(GEOMETRY_COLUMNS))), probe, 0.7)
    table = item.table("band")
    assert len(table) == len(GEOMETRY_COLUMNS) + len(PROBE_COLUMNS) + len(BAND_COLUMNS)
    np.testing.assert_allclose(table[-3:], [np.log(1.2), np.log(1.2) - np.log(0.9), np.log(0.9)], atol=1e-12)
    np.testing.assert_array_equal(item.table("geometry"), item.geometry)
    np.testing.assert_array_equal(item.table("probe"), table[:-3])
    assert len(item.estimates("geometry")) == 0
    np.testing.assert_allclose(item.estimates("band")[[0, -3, -2, -1]], np.log([0.9, 1.2, 0.9, 1.2]), atol=1e-12)
    np.testing.assert_array_equal(item.estimates("probe"), item.estimates("band")[:-3])
    # what says that atoms met is not drawn a line through
    mad = replace(item, neb_eV=80.0)
    assert mad.estimates("band").max() == pytest.approx(np.log(6.5))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -0.2, "0.4", True])
def test_no_number_is_no_neb_barrier(value: Any) -> None:
    row = {**vacancy_rows()[0], NEB_COLUMN: value}
    item = evidence_by_probing(row, Repulsion(), PROBING, "band")
    assert item.neb_eV is None
    assert item.kind == "probe"
    assert evidence_by_probing({**row, NEB_COLUMN: 0}, Repulsion(), PROBING, "band").neb_eV == 0.0


def test_probing_on_the_spot_tells_the_same_as_what_was_kept(folder: Path) -> None:
    rows = rows_with_neb()
    kept = learner("band").prepare(rows, folder)[2]
    found = evidence_by_probing(rows[2], Repulsion(), PROBING, "band")
    np.testing.assert_array_equal(found.table("band"), kept.table("band"))
    assert found.note is None

    refused = evidence_by_probing(rows[8], Repulsion("F"), PROBING, "band")
    assert refused.kind == "geometry"
    assert refused.note == "Answered by the geometry alone: repulsion does not know F."
    np.testing.assert_array_equal(refused.geometry, geometry_columns(MigrationPath.from_row(rows[8])))
    assert evidence_by_probing(rows[2], None, PROBING, "band").kind == "geometry"
    assert evidence_by_probing(rows[2], Repulsion(), PROBING, "geometry").kind == "geometry"
    broken = {name: value for name, value in rows[2].items() if name != "lattice"}
    with pytest.raises(CandidateError, match="lattice"):
        evidence_by_probing(broken, Repulsion(), PROBING, "probe")


def test_settings_say_all_that_results_depend_on() -> None:
    forests = learner("probe")
    texts = {
        json.dumps(each.settings(), sort_keys=True)
        for each in (
            forests,
            replace(forests, evidence="band"),
            replace(forests, trees=replace(SMALL, trees=13)),
            replace(forests, trees=replace(SMALL, boosted_trees=3)),
            replace(forests, probe=replace(PROBING, cluster_radius_A=9.0)),
        )
    }
    assert len(texts) == 5
    assert forests.settings()["columns"] == [*GEOMETRY_COLUMNS, *PROBE_COLUMNS, *BAND_COLUMNS]
    assert NAMED_FORESTS["fast"].create().extra_columns == ()
    assert NAMED_FORESTS["fused"].create().extra_columns == (NEB_COLUMN,)
