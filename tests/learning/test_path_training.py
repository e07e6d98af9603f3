"""Training: it learns, it resumes, and no member sees the hosts that judge it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hopflow.learning.ensembles import load_ensemble, save_ensemble
from hopflow.learning.path_graphs import build_path_graph
from hopflow.learning.path_network import NetworkSettings
from hopflow.learning.prediction import checkpoint_info, predict_paths
from hopflow.learning.training import (
    TrainingSettings,
    combine,
    metrics_table,
    predict_targets,
    to_barrier,
    train_member,
    train_path_network,
)
from hopflow.transport.paths import MigrationPath

SMALL = TrainingSettings(
    network=NetworkSettings(hidden=16, layers=1, dropout=0.0),
    folds=3,
    members_per_fold=1,
    epochs=6,
    batch_size=8,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def halide_rows(count: int) -> list[dict]:
    """Vacancy hops in cubic cells of alkali halides; the barrier is a made-up function of the bottleneck."""
    generator = np.random.default_rng(5)
    rows = []
    for number in range(count):
        ion = ["Li", "Na", "K"][number % 3]
        halogen = ["F", "Cl", "Br", "I"][number % 4]
        edge_A = generator.uniform(5.0, 7.0)
        corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        halogens = corners + np.array([0.5, 0, 0])
        path = np.linspace(corners[0], corners[1], 5)
        rows.append(
            {
                "path_id": f"{ion}{halogen}{number}",
                "migrating_ion": ion,
                "lattice": (np.eye(3) * edge_A).tolist(),
                "path_frac_coords": path.tolist(),
                "framework_species": [ion, ion, *[halogen] * 4],
                "framework_frac_coords": np.vstack([corners[2:], halogens]).tolist(),
                "barrier_dft_eV": float(np.exp(1.5 * (6.0 - edge_A)) * 0.3),
                "barrier_mace_relax_eV": None if number % 5 == 0 else float(np.exp(1.4 * (6.0 - edge_A)) * 0.3),
            }
        )
    return rows


def test_network_learns_twenty_paths():
    rows = halide_rows(20)
    graphs = [build_path_graph(MigrationPath.from_row(row)) for row in rows]
    targets = np.log(np.array([[row["barrier_dft_eV"]] * 2 for row in rows]) + SMALL.offset_eV)
    targets[::3, 1] = np.nan
    settings = replace(SMALL, epochs=60)
    network, history = train_member(graphs, targets, settings, seed=1)
    means, variances = predict_targets([network], graphs)
    error = np.abs(means[0] - targets[:, 0]).mean()
    by_median = np.abs(targets[:, 0] - np.median(targets[:, 0])).mean()
    assert history[-1] < history[0] - 0.5
    assert error < 0.5 * by_median
    assert np.isfinite(variances).all()
    assert (variances > 0).all()


def test_same_seed_same_network_other_seed_another():
    rows = halide_rows(9)
    graphs = [build_path_graph(MigrationPath.from_row(row)) for row in rows]
    targets = np.log(np.array([[row["barrier_dft_eV"]] * 2 for row in rows]) + SMALL.offset_eV)
    settings = replace(SMALL, epochs=2)
    first, again, other = (
        predict_targets([train_member(graphs, targets, settings, s)[0]], graphs)[0] for s in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_training_resumes_saves_and_loads(tmp_path: Path):
    rows = halide_rows(24)
    lines: list[str] = []
    ensemble, validation = train_path_network(rows, SMALL, seed=2, progress=lines.append, resume=tmp_path / "members")
    assert len(ensemble.members) == 3
    assert len(lines) == 3 * SMALL.epochs
    assert lines[SMALL.epochs].startswith("member 2 of 3, epoch 1 of 6: loss ")
    assert [len(history) for history in ensemble.losses] == [SMALL.epochs] * 3
    for fold in range(3):
        inside = {validation.groups[i] for i in np.flatnonzero(validation.fold != fold)}
        assert not inside & {validation.groups[i] for i in np.flatnonzero(validation.fold == fold)}

    kept = sorted((tmp_path / "members").glob("*.pt"))
    kept[1].unlink()
    lines.clear()
    resumed, again = train_path_network(rows, SMALL, seed=2, progress=lines.append, resume=tmp_path / "members")
    assert sum("kept" in line for line in lines) == 2
    assert np.allclose(resumed.losses, ensemble.losses)
    assert np.allclose(again.predicted_eV, validation.predicted_eV)
    assert validation.coverage(0.6827) == pytest.approx(0.6827, abs=0.05)

    table = metrics_table(rows, again, 4.0)
    assert table["network/usual"]["rows"] == 24
    assert "mace_neb/usual_with_mace" in table
    assert "mace_neb/all" not in table

    file = tmp_path / "tiny.pt"
    save_ensemble(ensemble, rows, {"table": table}, file)
    info = checkpoint_info(file)
    assert info["elements_seen"]["ions"] == ["K", "Li", "Na"]
    loaded = load_ensemble(file)
    paths = [MigrationPath.from_row(row) for row in rows]
    graphs = [build_path_graph(path, SMALL.graph) for path in paths]
    mean, sigma = combine(*predict_targets(loaded.networks, graphs))
    expected = to_barrier(mean, loaded.sigma_scale * sigma, SMALL.offset_eV)
    assert np.allclose(predict_paths(paths, file), expected)
    # rows outside the fold must be answered as in the cross-validation by the member that did not see them
    outside = np.flatnonzero(validation.fold == 1)
    member_mean, _ = predict_targets([loaded.networks[1]], [graphs[i] for i in outside])
    barrier, _ = to_barrier(member_mean[0], np.zeros(len(outside)), SMALL.offset_eV)
    assert np.allclose(barrier, validation.predicted_eV[outside], atol=1e-5)


def test_uncertainty_adds_noise_and_disagreement():
    mean, sigma = combine(np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([[0.04, 0.0], [0.04, 0.0]]))
    assert np.allclose(mean, [0.0, 2.0])
    assert np.allclose(sigma, [0.2, 1.0])
    barrier, half_width = to_barrier(np.log(np.array([0.5, 0.1])), np.array([0.1, 0.1]), 0.2)
    assert np.allclose(barrier, [0.3, 0.0])
    # half the distance between the barriers one sigma up and one sigma down
    assert half_width[0] == pytest.approx(0.5 * (0.5 * np.exp(0.1) - 0.5 * np.exp(-0.1)))
