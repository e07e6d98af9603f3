"""Comparison of networks: scores by hand, splits that leak nothing, and results that are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hopflow.learning import interstitial_evaluation
from hopflow.learning.interstitial_evaluation import (
    EvaluationSettings,
    anions_of,
    barrier_scores,
    evaluate_networks,
    interval_coverage,
    markdown_table,
    score_table,
    sigma_scale,
    splits_of,
)
from hopflow.learning.interstitial_graphs import GLOBAL_FEATURES
from scipy.stats import spearmanr

SETTINGS = EvaluationSettings(
    ("median", "network-barrier", "percolating"), splits=("random", "chemical_system"), repeats=2, epochs=1
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_scores_by_hand():
    true_eV, predicted_eV = np.array([0.2, 0.4, 0.6, 1.0]), np.array([0.3, 0.4, 0.5, 0.6])
    scores = barrier_scores(true_eV, predicted_eV, threshold_eV=0.5)
    # The mean is 0.55: squares of the deviations 0.1225 + 0.0225 + 0.0025 + 0.2025, of the errors 0.01 + 0.01 + 0.16.
    assert scores["r2"] == pytest.approx(1 - 0.18 / 0.35)
    assert scores["mae_eV"] == pytest.approx(0.15)
    assert scores["median_error_eV"] == pytest.approx(0.1)
    assert scores["spearman"] == pytest.approx(1.0)
    # At most 0.5 eV are two in truth and three as predicted, which hold both.
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(1.0)
    assert scores["crystals"] == 4


def test_scores_against_other_formulas():
    random = np.random.default_rng(4)
    true_eV = random.lognormal(-1, 0.8, 300)
    predicted_eV = true_eV * random.lognormal(0, 0.4, 300)
    predicted_eV[:3] = 0.001  # counts as 0.01 eV on the logarithmic scale
    scores = barrier_scores(true_eV, predicted_eV, 0.4)
    logarithms = np.log(true_eV), np.log(np.maximum(predicted_eV, 0.01))
    residual = np.mean((logarithms[0] - logarithms[1]) ** 2)
    assert scores["r2_log"] == pytest.approx(1 - residual / np.var(logarithms[0]))
    assert scores["spearman"] == pytest.approx(spearmanr(true_eV, predicted_eV).statistic)
    table = np.zeros((2, 2))
    for one, other in zip(true_eV <= 0.4, predicted_eV <= 0.4, strict=True):
        table[int(one), int(other)] += 1
    assert scores["precision"] == pytest.approx(table[1, 1] / table[:, 1].sum())
    assert scores["recall"] == pytest.approx(table[1, 1] / table[1].sum())


def test_a_gate_that_nothing_passes_has_no_precision():
    scores = barrier_scores(np.array([0.2, 0.4, 0.7]), np.array([0.8, 0.9, 1.0]), 0.5)
    assert np.isnan(scores["precision"])
    assert scores["recall"] == 0.0
    scores = barrier_scores(np.array([0.6, 0.7]), np.array([0.4, 0.9]), 0.5)
    assert scores["precision"] == 0.0
    assert np.isnan(scores["recall"])


def test_widths_are_scaled_to_hold_what_they_say():
    random = np.random.default_rng(0)
    sigma = random.uniform(0.1, 0.4, 20000)
    mean = np.zeros(20000)
    true = random.normal(0, 1.7 * sigma)
    scale = sigma_scale(true, mean, sigma)
    assert scale == pytest.approx(1.7, rel=0.03)
    coverage = interval_coverage(true, mean, scale * sigma)
    assert coverage == pytest.approx({"0.5": 0.5, "0.8": 0.8, "0.9": 0.9}, abs=0.015)


def test_groups_stay_whole_and_every_crystal_has_one_part(tiny_dataset):
    everything = list(range(len(tiny_dataset.crystals)))
    systems = np.array(tiny_dataset.groups("chemical_system"))
    for kind in ("random", "chemical_system"):
        splits = splits_of(tiny_dataset, kind, 4, seed=1)
        assert [name for name, _ in splits] == ["0", "1", "2", "3"]
        for _, split in splits:
            parts = split.train, split.validation, split.test
            assert sorted(np.concatenate(parts)) == everything
            assert all(len(part) for part in parts)
            if kind == "chemical_system":
                assert sum(len(set(systems[part])) for part in parts) == len(set(systems))
        again = splits_of(tiny_dataset, kind, 2, seed=1)
        for (_, one), (_, other) in zip(splits, again, strict=False):
            np.testing.assert_array_equal(one.test, other.test)
    # Each compound is in the set twice, and a random split tears such pairs apart.
    _, split = splits_of(tiny_dataset, "random", 1, seed=1)[0]
    assert set(systems[split.train]) & set(systems[split.test])


def test_an_anion_is_held_out_as_a_whole(tiny_dataset, monkeypatch):
    monkeypatch.setattr(interstitial_evaluation, "_LEAST_ANION", 3)
    splits = splits_of(tiny_dataset, "anion", 7, seed=1)
    # Oxygen, though it is in most crystals, is never held out.
    assert [name for name, _ in splits] == ["Br", "Cl", "S"]
    expected = {
        "Br": {"bromide", "bromargyrodite", "oxybromide"},
        "Cl": {"chloride", "chlorargyrodite", "oxychloride"},
        "S": {"sulphide", "chlorargyrodite", "bromargyrodite"},
    }
    for anion, split in splits:
        # Beside another anion it is an anion, too: not one of its crystals may be learned from.
        assert {tiny_dataset.crystals[i].material_id.split("-")[0] for i in split.test} == expected[anion]
        assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(26))
        assert len(split.validation) == (26 - len(split.test)) // 9
    # Phosphorus is in it, too, but not as an anion.
    anions = {crystal.material_id: anions_of(crystal) for crystal in tiny_dataset.crystals}
    assert anions["chlorargyrodite-0"] == {"Cl", "S"}
    monkeypatch.undo()
    with pytest.raises(ValueError, match="No anion but oxygen"):
        splits_of(tiny_dataset, "anion", 1, seed=1)


@pytest.fixture(scope="module")
def evaluated(tiny_folder, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("results"), []
    torch.set_num_threads(1)
    return folder, evaluate_networks(tiny_folder, SETTINGS, folder, progress=lines.append), lines


def test_results_are_those_of_the_splits(tiny_dataset, evaluated):
    folder, results, lines = evaluated
    assert len(results) == len(list(folder.glob("*.json"))) == 12
    assert lines[0] == "12 results wanted, 0 kept from before"
    assert lines[-1].startswith("12 of 12: percolating on chemical_system 1: R2 ")
    # Every network meets a split before the next one comes.
    order = [(result["split"], result["repeat"], result["network"]) for result in results]
    assert order == [(s, r, n) for r in (0, 1) for s in SETTINGS.splits for n in SETTINGS.networks]
    labels = tiny_dataset.labels()[:, 0]
    names = [crystal.material_id for crystal in tiny_dataset.crystals]
    column = GLOBAL_FEATURES.index("network_barrier_1d_eV")
    for result in results:
        _, split = splits_of(tiny_dataset, result["split"], 2, 0)[result["repeat"]]
        assert result["test"] == [names[i] for i in split.test]
        assert result["true_eV"] == pytest.approx(labels[split.test])
        assert result["train"] == len(split.train)
        assert result["scores"] == pytest.approx(
            barrier_scores(np.array(result["true_eV"]), np.array(result["predicted_eV"]), 0.5), nan_ok=True
        )
        if result["network"] == "median":
            assert result["predicted_eV"] == pytest.approx([np.median(labels[split.train])] * len(split.test))
        elif result["network"] == "network-barrier":
            known = [tiny_dataset.crystals[i].graph.global_features[column] for i in split.test]
            assert result["predicted_eV"] == pytest.approx(known)
        else:
            assert len(result["sigma_log"]) == len(split.test)
            assert set(result["coverage"]) == {"0.5", "0.8", "0.9"}


def refuse(*_):
    raise AssertionError("a result was computed again")


def test_results_are_kept_and_only_missing_ones_are_computed(tiny_folder, evaluated, monkeypatch):
    folder, results, _ = evaluated
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    monkeypatch.setattr(interstitial_evaluation, "_result", refuse)
    again = evaluate_networks(tiny_folder, SETTINGS, folder)
    assert again == results
    # Fewer networks or splits are a part of what is there.
    fewer = EvaluationSettings(("median",), splits=("random",), repeats=1, epochs=1)
    assert evaluate_networks(tiny_folder, fewer, folder) == results[:1]
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    monkeypatch.undo()
    lost = folder / "random-01-percolating.json"
    content = json.loads(lost.read_text())
    lost.unlink()
    lines = []
    again = evaluate_networks(tiny_folder, SETTINGS, folder, progress=lines.append)
    assert lines[0] == "12 results wanted, 11 kept from before"
    changed = {file.name for file in folder.iterdir() if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {lost.name}
    # The same seed gives the same network.
    assert json.loads(lost.read_text())["predicted_eV"] == content["predicted_eV"]


@pytest.mark.parametrize("change", [{"epochs": 2}, {"seed": 1}, {"threshold_eV": 0.3}, {"one_cycle": False}])
def test_results_of_other_settings_are_not_taken(tiny_folder, evaluated, change, tmp_path):
    folder, results, _ = evaluated
    kept = tmp_path / "random-00-median.json"
    kept.write_text((folder / kept.name).read_text())
    same = {"epochs": 1, **change}
    lines = []
    found = evaluate_networks(
        tiny_folder, EvaluationSettings(("median",), ("random",), 1, **same), tmp_path, progress=lines.append
    )
    assert lines[0] == "1 results wanted, 0 kept from before"
    assert found[0]["key"] != results[0]["key"]


def test_the_number_of_members_counts_for_networks_alone(tiny_folder, evaluated, tmp_path):
    folder, _, _ = evaluated
    for name in ("random-00-median.json", "random-00-percolating.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    settings = EvaluationSettings(("median", "percolating"), ("random",), 1, epochs=1, members=2)
    lines = []
    found = evaluate_networks(tiny_folder, settings, tmp_path, progress=lines.append)
    assert lines[0] == "2 results wanted, 1 kept from before"
    assert [result["members"] for result in found] == [0, 2]


def test_two_processes_find_what_one_does(tiny_folder, evaluated, tmp_path):
    results = {(r["split"], r["repeat"], r["network"]): r for r in evaluated[1]}
    settings = EvaluationSettings(("median", "percolating"), ("random",), 2, epochs=1)
    for found in evaluate_networks(tiny_folder, settings, tmp_path, workers=2):
        known = results[found["split"], found["repeat"], found["network"]]
        np.testing.assert_allclose(found["predicted_eV"], known["predicted_eV"], rtol=1e-5)


def result(network, split, held_out, r2, precision, coverage):
    scores = dict.fromkeys(("r2_log", "mae_eV", "spearman", "recall"), 0.25)
    return {
        "network": network,
        "split": split,
        "held_out": held_out,
        "scores": {"crystals": 10.0, "r2": r2, **scores, "precision": precision},
        "coverage": coverage,
        "seconds": 2.0,
    }


def test_the_table_has_mean_and_spread():
    wide = {"0.5": 0.5, "0.8": 0.75, "0.9": 0.91}
    results = [
        result("median", "random", "0", 0.1, float("nan"), {}),
        result("percolating", "random", "0", 0.8, 0.5, wide),
        result("percolating", "anion", "S", 0.3, 0.5, wide),
        result("median", "random", "1", 0.3, 0.5, {}),
        result("percolating", "random", "1", 0.9, 0.7, wide),
    ]
    rows = score_table(results)
    assert [(row["split"], row["network"], row["repeats"]) for row in rows] == [
        ("random", "median", 2), ("random", "percolating", 2), ("without S", "percolating", 1)
    ]  # fmt: skip
    assert rows[1]["r2"] == pytest.approx((0.85, 0.05))
    # A split where nothing was chosen has no precision and does not count.
    assert rows[0]["precision"] == pytest.approx((0.5, 0.0))
    lines = markdown_table(results).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| split | network | splits | r2 | r2_log | mae_eV | spearman | precision | recall |")
    assert lines[2].startswith("| random | median | 2 | 0.200 ± 0.100 | 0.250 ± 0.000 |")
    assert lines[3].endswith("| 50/75/91 |")


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match=r"no network called 'mean'; allowed: .*median, network-barrier"):
        EvaluationSettings(("mean",))
    with pytest.raises(ValueError, match="no split called 'formula'; allowed: random"):
        EvaluationSettings(("median",), ("formula",))
    with pytest.raises(ValueError, match="at least 1"):
        EvaluationSettings(("median",), repeats=0)
