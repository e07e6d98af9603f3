"""The systems of the paper: what each reads, its symmetries, that it learns, what it starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from alignn_paths import vacancy_path, vacancy_rows
from hopflow.learning.alignn import AlignnSize
from hopflow.learning.alignn_barriers import (
    NAMED_ALIGNN,
    AlignnLearner,
    AlignnSettings,
    alignn_settings,
)
from hopflow.learning.alignn_batches import GraphBatch
from hopflow.learning.alignn_graphs import PathStructures, path_structures
from hopflow.learning.barrier_learners import to_target
from hopflow.learning.path_alignn import SYSTEMS, PathAlignn
from hopflow.learning.property_pretraining import PretrainingSettings, pretrain
from hopflow.learning.property_tables import PropertyTable
from hopflow.transport.errors import WeightsError

TINY = AlignnSize(alignn_layers=1, gcn_layers=1, hidden=16, embedding=8)
SETTINGS = AlignnSettings(
    size=TINY, epochs=40, batch_size=4, learning_rate=1e-2, weight_decay=0.0, framework_cutoff_A=3.5
)


@pytest.fixture(scope="module")
def rows():
    return vacancy_rows()


def barriers_eV(rows) -> np.ndarray:
    return np.array([row["barrier_dft_eV"] for row in rows])


def answers(system, path: PathStructures) -> torch.Tensor:
    torch.manual_seed(0)
    network = PathAlignn(system, TINY).eval()
    with torch.no_grad():
        return network([path])


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_learns_a_handful_of_paths(rows, system):
    true_eV = np.array([0.3, 0.9, 0.5, 1.2, 0.4])
    loss = "mse" if system == "SCRATCH" else "l1"
    learner = AlignnLearner(replace(SETTINGS, system=system, loss=loss, epochs=60, batch_size=5))
    items = learner.prepare(rows[::2])
    # one host: none is kept apart, and the last epoch counts
    fitted = learner.fit(items, true_eV, [0] * 5, 0)
    mean, sigma = fitted.predict(items)
    constant_eV = np.abs(true_eV - np.median(true_eV)).mean()
    assert np.abs(fitted.predict_eV(items) - true_eV).mean() < 0.15 * constant_eV
    assert np.allclose(mean, to_target(fitted.predict_eV(items)))
    assert (sigma == 1.0).all()
    assert fitted.best_epoch == 60


def test_hosts_are_kept_apart_to_choose_the_epoch(rows):
    learner = AlignnLearner(replace(SETTINGS, epochs=12, patience=3, validation_folds=5))
    items = learner.prepare(rows)
    groups = [number // 2 for number in range(len(rows))]
    lines: list[str] = []
    fitted = learner.fit(items, barriers_eV(rows), groups, 3, lines.append)
    epochs = len(fitted.train_loss)
    assert len(fitted.validation_eV) == epochs == len(lines)
    assert fitted.best_epoch == 1 + int(np.argmin(fitted.validation_eV))
    assert epochs in (12, fitted.best_epoch + 3)
    # the weights are those of the best epoch: one host has just that error
    errors_eV = np.abs(fitted.predict_eV(items) - barriers_eV(rows)).reshape(-1, 2).mean(axis=1)
    assert np.isclose(errors_eV, min(fitted.validation_eV), atol=1e-6).sum() == 1


def test_fitting_again_gives_the_same_and_leaves_the_random_state_alone(rows):
    learner = AlignnLearner(replace(SETTINGS, epochs=2, target="log_barrier"))
    items = learner.prepare(rows[:4])
    state = torch.get_rng_state()
    first = learner.fit(items, barriers_eV(rows[:4]), [0, 0, 1, 1], 5).predict(items)[0]
    assert torch.equal(state, torch.get_rng_state())
    assert (learner.fit(items, barriers_eV(rows[:4]), [0, 0, 1, 1], 5).predict(items)[0] == first).all()
    assert (learner.fit(items, barriers_eV(rows[:4]), [0, 0, 1, 1], 6).predict(items)[0] != first).any()


def test_gathered_gradients_are_those_of_the_whole_batch(rows):
    whole = AlignnLearner(replace(SETTINGS, epochs=2))
    parts = AlignnLearner(replace(SETTINGS, epochs=2, paths_at_once=3))
    items = whole.prepare(rows[:5])
    first, second = (each.fit(items, barriers_eV(rows[:5]), [0] * 5, 0).predict_eV(items) for each in (whole, parts))
    assert np.allclose(first, second, atol=1e-4)


def reversed_ends(path: PathStructures) -> PathStructures:
    assert path.ends is not None
    return replace(path, ends=path.ends[::-1])


def test_the_sum_is_blind_to_the_direction_and_the_others_are_not():
    path = path_structures(vacancy_path(), band=False, ends=True)
    assert torch.allclose(answers("MODEL-1-ADD", path), answers("MODEL-1-ADD", reversed_ends(path)), atol=1e-6)
    for system in ("MODEL-1-CC", "MODEL-1-SUB", "MODEL-2"):
        assert not torch.allclose(answers(system, path), answers(system, reversed_ends(path)), atol=1e-5)


def test_the_difference_changes_its_sign_with_the_direction():
    path = path_structures(vacancy_path(), band=False, ends=True)
    network = PathAlignn("MODEL-1-SUB", TINY).eval()
    network.head = torch.nn.Linear(16, 1, bias=False)
    with torch.no_grad():
        there, back = network([path, reversed_ends(path)])
    assert float(there) == pytest.approx(-float(back), abs=1e-6)
    assert abs(float(there)) > 1e-5


def test_a_path_whose_ends_are_alike_has_no_difference():
    path = path_structures(vacancy_path(), band=False, ends=True)
    assert path.ends is not None
    same = replace(path, ends=(path.ends[0], path.ends[0]))
    network = PathAlignn("MODEL-1-SUB", TINY).eval()
    with torch.no_grad():
        assert torch.allclose(network([same]), network.head(torch.zeros(1, 16))[:, 0], atol=1e-6)


def test_the_band_is_blind_to_the_direction():
    """Images are copies of one ion in one crystal, so that a path and its reverse are the same crystal."""
    path = vacancy_path()
    back = replace(path, path_frac_coords=path.path_frac_coords[::-1].copy())
    for system in ("MODEL-3", "MODEL-4"):
        there, return_ = (answers(system, path_structures(each, surroundings_A=3.0)) for each in (path, back))
        assert torch.allclose(there, return_, atol=1e-3)


def test_attention_is_that_of_each_graph_alone():
    """Against the formula, graph by graph."""
    paths = [path_structures(vacancy_path(number), surroundings_A=3.0) for number in (0, 1)]
    torch.manual_seed(1)
    network = PathAlignn("MODEL-4", TINY).eval()
    with torch.no_grad():
        expected = []
        for path in paths:
            pooled = []
            for graph in (path.band, path.surroundings):
                assert graph is not None
                atoms = network.encoder(GraphBatch.from_graphs([graph]))
                query, key, value = network.attention(atoms).chunk(3, dim=1)
                mixed = torch.softmax(torch.tanh(query @ key.T), dim=1) @ value
                pooled.append((atoms.mean(dim=0) + mixed).mean(dim=0))
            expected.append(network.head(torch.cat(pooled)[None])[0, 0])
        assert torch.allclose(network(paths), torch.stack(expected), atol=1e-5)


def test_training_starts_from_the_pretrained_weights(rows, tmp_path):
    file = tmp_path / "pretrained.pt"
    graphs = [path.band for path in AlignnLearner(SETTINGS).prepare(rows[:4])]
    table = PropertyTable(graphs, ["A", "B", "C", "D"], ("gap",), np.arange(4.0)[:, None])
    pretrain(table, PretrainingSettings(TINY, epochs=1, batch_size=2), file)
    weights = torch.load(file, weights_only=True)["weights"]
    # no step changes anything at a learning rate of zero
    still = replace(SETTINGS, epochs=1, learning_rate=1e-30)
    items = AlignnLearner(still).prepare(rows[:4])
    fitted = AlignnLearner(replace(still, pretrained=file)).fit(items, barriers_eV(rows[:4]), [0] * 4, 0)
    plain = AlignnLearner(still).fit(items, barriers_eV(rows[:4]), [0] * 4, 0)
    copied = fitted.network.encoder.state_dict()
    assert len(copied) == sum(name.startswith("encoder.") for name in weights) > 20
    assert all(torch.allclose(value, weights[f"encoder.{name}"]) for name, value in copied.items())
    assert any((value != copied[name]).any() for name, value in plain.network.encoder.state_dict().items())
    assert torch.equal(fitted.network.head[1].weight, plain.network.head[1].weight)
    # settings know the file by its content
    learner = AlignnLearner(replace(still, pretrained=file))
    before = learner.settings()
    moved = file.rename(tmp_path / "moved.pt")
    assert AlignnLearner(replace(still, pretrained=moved)).settings() == before
    assert AlignnLearner(still).settings() != before
    with pytest.raises(WeightsError, match="pretrain"):
        learner.settings()
    with pytest.raises(WeightsError, match="size"):
        AlignnLearner(replace(still, size=replace(TINY, hidden=8), pretrained=moved)).fit(
            items, barriers_eV(rows[:4]), [0] * 4, 0
        )


def test_every_system_is_named_small_and_full():
    assert len(NAMED_ALIGNN) == 2 * len(SYSTEMS)
    assert all(name == learner.name for name, learner in NAMED_ALIGNN.items())
    full = alignn_settings("MODEL-3", full=True)
    assert (full.size, full.epochs, full.batch_size, full.learning_rate) == (AlignnSize(4, 4, 256), 500, 128, 1e-3)
    assert full.framework_cutoff_A is None
    scratch = alignn_settings("SCRATCH", full=True)
    assert (scratch.loss, scratch.batch_size, scratch.learning_rate, scratch.patience) == ("mse", 16, 1e-4, 50)
    small = [alignn_settings(system, full=False) for system in SYSTEMS]
    assert len({(each.size, each.epochs, each.batch_size, each.framework_cutoff_A) for each in small}) == 1
    learner = NAMED_ALIGNN["alignn-scratch-full"].create()
    assert learner.settings()["system"] == "SCRATCH"
    assert learner.extra_columns == ()


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="MODEL-5"):
        AlignnSettings(system="MODEL-5")
    with pytest.raises(ValueError, match="SCRATCH"):
        AlignnSettings(system="SCRATCH", pretrained=tmp_path / "some.pt")
    with pytest.raises(ValueError, match="another system"):
        PathAlignn("MODEL-3", TINY)([path_structures(vacancy_path(), band=False, ends=True)])
