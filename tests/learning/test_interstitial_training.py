"""Training of networks that predict barriers: the same seed, the same network, whatever interrupts it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hopflow.learning.interstitial_training import (
    NETWORKS,
    NetworkRecipe,
    TrainingBudget,
    predicted_logarithms,
    train_network,
)

BUDGET = TrainingBudget(epochs=4)


class HaltError(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(name, dataset, **changes):
    """A network with small batches, so that an epoch has several steps, and its data."""
    recipe = NetworkRecipe.named(name, batch_size=8, **changes)
    return recipe, [recipe.data(crystal) for crystal in dataset.crystals]


def assert_same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert torch.equal(values, second[name]), name


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def halting(epoch, lines):
    def say(line):
        lines.append(line)
        if line.startswith(f"epoch {epoch} "):
            raise HaltError

    return say


@pytest.mark.parametrize("name", ["percolating", "shi-gcn", "cgcnn"])
@pytest.mark.parametrize("one_cycle", [True, False])
def test_a_killed_training_goes_on_to_the_same_weights(tiny_dataset, tmp_path, name, one_cycle):
    recipe, data = small(name, tiny_dataset)
    budget = TrainingBudget(epochs=4, one_cycle=one_cycle)
    whole = train_network(recipe, data, budget, seed=3)
    file, lines = tmp_path / "deep" / "member.pt", []
    with pytest.raises(HaltError):
        train_network(recipe, data, budget, seed=3, resume=file, progress=halting(3, lines))
    torch.manual_seed(99)  # what a new process starts with must not matter
    resumed = train_network(recipe, data, budget, seed=3, resume=file, progress=lines.append)
    # The third epoch was not finished when the training was killed; two were.
    assert [line.split(":")[0] for line in lines] == [f"epoch {n} of 4" for n in (1, 2, 3, 3, 4)]
    assert_same_weights(whole, resumed)
    finished = train_network(recipe, data, budget, seed=3, resume=file, progress=lines.append)
    assert len(lines) == 5
    assert_same_weights(whole, finished)


def test_a_file_of_another_training_or_half_a_file_is_not_gone_on_with(tiny_dataset, tmp_path):
    recipe, data = small("percolating", tiny_dataset)
    budget, file = TrainingBudget(epochs=2), tmp_path / "member.pt"
    train_network(recipe, data, budget, seed=3, resume=file)
    others = [
        (recipe, data, TrainingBudget(epochs=3), 3),
        (recipe, data, budget, 4),
        (recipe, data[:-1], budget, 3),
        (*small("percolating", tiny_dataset, learning_rate=1e-3), budget, 3),
    ]
    for other, crystals, length, seed in others:
        lines = []
        kept = train_network(other, crystals, length, seed=seed, resume=file, progress=lines.append)
        assert len(lines) == length.epochs
        assert_same_weights(kept, train_network(other, crystals, length, seed=seed))
    file.write_bytes(file.read_bytes()[:1000])
    lines = []
    train_network(recipe, data, budget, seed=3, resume=file, progress=lines.append)
    assert len(lines) == 2


def test_the_seed_decides_about_the_network(tiny_dataset):
    recipe, data = small("percolating", tiny_dataset)
    one, same, other = (train_network(recipe, data, TrainingBudget(epochs=1), seed=seed) for seed in (1, 1, 2))
    assert_same_weights(one, same)
    assert not same_weights(one, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_and_answers(tiny_dataset, name):
    recipe, data = small(name, tiny_dataset)
    assert [float(np.asarray(each.y).reshape(-1)[0]) for each in data] == pytest.approx(
        np.log(tiny_dataset.labels()[:, 0]) if recipe.settings.target == "log_barrier" else tiny_dataset.labels()[:, 0],
        rel=1e-5,
    )
    lines = []
    network = train_network(recipe, data, TrainingBudget(epochs=1), progress=lines.append)
    assert len(lines) == 1
    assert not network.training
    start = recipe.network()
    start.fit_scales(data)
    assert not same_weights(start, network)
    mean, sigma = predicted_logarithms(recipe, [network], data)
    dimensions = 3 if name.startswith("percolating") else 1
    assert mean.shape == sigma.shape == (len(data), dimensions)
    assert np.isfinite(mean).all()
    assert np.isfinite(sigma).all() if dimensions == 3 else np.isnan(sigma).all()
    # A path in more directions is a path in fewer.
    assert (np.diff(mean, axis=1) >= 0).all()
    # Batches do not matter.
    np.testing.assert_allclose(predicted_logarithms(recipe, [network], data, batch_size=5)[0], mean, atol=2e-4)


@pytest.mark.parametrize(("name", "budget"), [("percolating", 25), ("cgcnn", 60)])
def test_longer_training_fits_the_training_crystals(tiny_dataset, name, budget):
    recipe, data = small(name, tiny_dataset)
    lines = []
    network = train_network(recipe, data, TrainingBudget(epochs=budget), progress=lines.append)
    mean, _ = predicted_logarithms(recipe, [network], data)
    true = np.log(tiny_dataset.labels()[:, 0])
    assert np.abs(mean[:, 0] - true).mean() < 0.5 * np.abs(true - np.median(true)).mean()


def test_an_ensemble_adds_its_disagreement_to_what_its_members_expect(tiny_dataset):
    recipe, data = small("percolating", tiny_dataset)
    networks = [train_network(recipe, data, TrainingBudget(epochs=1), seed=seed) for seed in (1, 2, 3)]
    means, sigmas = zip(*(predicted_logarithms(recipe, [network], data) for network in networks), strict=True)
    mean, sigma = predicted_logarithms(recipe, networks, data)
    np.testing.assert_allclose(mean, np.mean(means, axis=0))
    np.testing.assert_allclose(sigma**2, np.mean(np.square(sigmas), axis=0) + np.var(means, axis=0))
    recipe, data = small("cgcnn", tiny_dataset)
    networks = [train_network(recipe, data, TrainingBudget(epochs=1), seed=seed) for seed in (1, 2)]
    one, other = (predicted_logarithms(recipe, [network], data)[0] for network in networks)
    np.testing.assert_allclose(predicted_logarithms(recipe, networks, data)[1], np.abs(one - other) / 2)


def test_names_and_settings_that_there_are_not():
    with pytest.raises(ValueError, match=r"no network called 'transformer'; allowed: shi-gcn, .*percolating"):
        NetworkRecipe.named("transformer")
    with pytest.raises(ValueError, match="percolating has no setting 'depth'; allowed: channels"):
        NetworkRecipe.named("percolating", depth=3)
    changed = NetworkRecipe.named("shi-gcn", pooling=[1.0, 1.0, 1.0])
    assert changed.settings.pooling == (1.0, 1.0, 1.0)
    assert NETWORKS["shi-gcn"].pooling == (0.9, 0.8, 0.9)
