"""The graph convolutional network: its convolution by hand, what it is blind to, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, lithium_phosphate, rock_salt
from hopflow.learning.interstitial_graphs import (
    GLOBAL_FEATURES,
    InterstitialGraphSettings,
    build_interstitial_graph,
)
from hopflow.learning.interstitial_network_model import (
    CONFIGURATIONS,
    GcnSettings,
    InterstitialGcn,
    barriers_from,
    graph_data,
    joined,
    normalised,
    optimiser_of,
    training_step,
    transformed_barriers,
)

#: Labels (eV) to learn by heart; that they differ is all that matters.
BARRIERS_EV = {
    lithium_nitride: 0.187,
    iron_phosphate: 0.44,
    lithium_phosphate: 0.53,
    antiperovskite: 0.496,
    argyrodite: 0.25,
    rock_salt: 1.1,
}
WHOLE = InterstitialGraphSettings(filter_equivalents=False)


@pytest.fixture(scope="module")
def graphs():
    return {crystal: build_interstitial_graph(crystal()) for crystal in BARRIERS_EV}


def data(graphs, settings):
    return [graph_data(graph, settings, BARRIERS_EV[crystal]) for crystal, graph in graphs.items()]


def network(settings, crystals, seed=0):
    torch.manual_seed(seed)
    model = InterstitialGcn(settings)
    model.fit_scales(crystals)
    return model


def answers(model, crystals):
    model.eval()
    with torch.no_grad():
        return model.answer(joined(crystals)).numpy()


def test_convolution_is_that_of_the_dense_formula():
    edges = torch.tensor([[0, 1, 1, 2, 2, 2], [1, 0, 2, 1, 2, 2]])
    weights = torch.tensor([2.0, 1.0, 0.5, 3.0, 2.0, 1.5])
    adjacency = torch.eye(3)
    for source, target, weight in zip(*edges, weights, strict=True):
        adjacency[target, source] += weight
    degree = adjacency.sum(dim=1)
    expected = adjacency / torch.sqrt(degree[:, None] * degree[None, :])
    links, scaled = normalised(edges, weights, 3)
    found = torch.zeros(3, 3)
    found.index_put_((links[1], links[0]), scaled, accumulate=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_filtered_and_whole_graph_give_one_answer_without_pooling(graphs, activation):
    settings = GcnSettings(pooling=(1.0, 1.0, 1.0), energies=True, globals=True, activation=activation)
    filtered = data(graphs, settings)
    model = network(settings, filtered)
    whole = [
        graph_data(build_interstitial_graph(crystal(), settings=WHOLE), settings, barrier)
        for crystal, barrier in BARRIERS_EV.items()
    ]
    assert sum(len(each.x) for each in whole) > 3 * sum(len(each.x) for each in filtered)
    np.testing.assert_allclose(answers(model, filtered), answers(model, whole), atol=1e-5)
    # Without the multiplicities the two differ, so the test above is one of them.
    careless = replace(settings, multiplicities=False)
    blind = network(careless, data(graphs, careless))
    other = [graph_data(build_interstitial_graph(crystal(), settings=WHOLE), careless) for crystal in BARRIERS_EV]
    assert np.abs(answers(blind, data(graphs, careless)) - answers(blind, other)).max() > 1e-4


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_cell_and_order_of_atoms_do_not_matter(graphs, name):
    from pymatgen.core import Structure

    settings = CONFIGURATIONS[name]
    model = network(settings, data(graphs, settings))
    for crystal in (iron_phosphate, argyrodite):
        larger = crystal()
        larger.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
        if crystal is iron_phosphate:
            larger.make_supercell([1, 2, 1])
        order = np.random.default_rng(1).permutation(len(larger))
        larger = Structure.from_sites([larger[k] for k in order])
        other = graph_data(build_interstitial_graph(larger), settings)
        own = graph_data(graphs[crystal], settings)
        np.testing.assert_allclose(answers(model, [own]), answers(model, [other]), atol=1e-4)


def test_a_crystal_has_the_same_answer_alone_and_in_a_batch(graphs):
    settings = CONFIGURATIONS["weighted-gcn-energies"]
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    alone = np.concatenate([answers(model, [crystal]) for crystal in crystals])
    np.testing.assert_allclose(answers(model, crystals), alone, atol=1e-5)
    np.testing.assert_allclose(answers(model, crystals[::-1])[::-1], alone, atol=1e-5)
    assert np.ptp(alone) > 1e-3


def test_paper_configuration_has_the_published_shape(graphs):
    settings = CONFIGURATIONS["shi-gcn"]
    assert (settings.epochs, settings.learning_rate, settings.target) == (150, 1e-3, "barrier")
    assert not settings.energies
    model = network(settings, data(graphs, settings))
    assert [each.out_channels for each in model.convolutions] == [128, 128, 128]
    kept = []
    for pooling in model.poolings:
        pooling.register_forward_hook(lambda _, given, result: kept.append((len(given[0]), len(result[0]))))
    crystal = graph_data(graphs[lithium_phosphate], settings)
    answers(model, [crystal])
    nodes = len(graphs[lithium_phosphate].node_counts)
    for ratio, (before, after) in zip((0.9, 0.8, 0.9), kept, strict=True):
        assert before == nodes
        assert after == np.ceil(ratio * before)
        nodes = after
    assert CONFIGURATIONS["shi-gcn-sigmoid"] == replace(settings, activation="sigmoid")


def test_energies_count_only_where_they_are_asked_for(graphs):
    graph = graphs[iron_phosphate]
    values = graph.global_features.copy()
    values[[name.endswith("_eV") for name in GLOBAL_FEATURES]] += 0.3
    # The lowest void stays, so that heights change.
    lifted = graph.node_energies_eV + 0.5 * (graph.node_energies_eV > graph.node_energies_eV.min() + 0.05)
    other = replace(graph, node_energies_eV=lifted, global_features=values)
    for name, settings in CONFIGURATIONS.items():
        model = network(settings, data(graphs, settings))
        difference = answers(model, [graph_data(graph, settings)]) - answers(model, [graph_data(other, settings)])
        assert (abs(difference[0]) > 1e-5) == (name == "weighted-gcn-energies")
    without = replace(settings, energies=False)
    assert without.globals
    model = network(without, data(graphs, without))
    np.testing.assert_array_equal(
        answers(model, [graph_data(graph, without)]), answers(model, [graph_data(other, without)])
    )


def test_missing_values_reach_the_network_as_marks(graphs):
    settings = CONFIGURATIONS["weighted-gcn-energies"]
    graph = graphs[lithium_nitride]
    blank = replace(
        graph,
        node_energies_eV=np.full_like(graph.node_energies_eV, np.nan),
        edge_energies_eV=np.full_like(graph.edge_energies_eV, np.nan),
        global_features=np.where([name.endswith("_eV") for name in GLOBAL_FEATURES], np.nan, graph.global_features),
    )
    tensors = graph_data(blank, settings)
    assert all(torch.isfinite(tensors[key]).all() for key in ("x", "edge_attr", "global_values"))
    marks = tensors.global_values[0, len(GLOBAL_FEATURES) :]
    assert marks.tolist() == [1.0] * (len(GLOBAL_FEATURES) - 3) + [0.0] * 3
    model = network(settings, [*data(graphs, settings), tensors])
    assert np.isfinite(answers(model, [tensors])).all()
    assert abs(answers(model, [tensors]) - answers(model, [graph_data(graph, settings)]))[0] > 1e-5


def test_targets_turn_back_into_barriers():
    barriers = np.array([0.0, 0.2, 3.0, np.inf, np.nan])
    for target in ("barrier", "log_barrier"):
        settings = GcnSettings(target=target)
        there = transformed_barriers(barriers, settings)
        assert np.isnan(there[3:]).all()
        np.testing.assert_allclose(barriers_from(there, settings)[1:3], barriers[1:3])
    assert barriers_from(there, settings)[0] == pytest.approx(0.01)


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_each_configuration_learns_six_crystals_by_heart(graphs, name):
    settings = CONFIGURATIONS[name]
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    optimiser, batch = optimiser_of(model), joined(crystals)
    before = training_step(model, batch, optimiser)
    for _ in range(600):
        after = training_step(model, batch, optimiser)
        if after < 1e-4:
            break
    assert after < 1e-3 < before
    labels = np.array(list(BARRIERS_EV.values()))
    np.testing.assert_allclose(barriers_from(answers(model, crystals), settings), labels, atol=0.05)


def test_a_step_is_one_of_gradient_descent_on_the_loss(graphs):
    settings = CONFIGURATIONS["shi-gcn"]
    crystals = data(graphs, settings)
    model, batch = network(settings, crystals), joined(crystals)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = model.loss(batch)
    gradients = dict(zip(before, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    assert training_step(model, batch, optimiser) == pytest.approx(float(loss))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name] - 1e-3 * gradients[name])
    assert float(model.loss(batch)) < float(loss)


def test_crystals_without_a_barrier_are_left_out_of_the_loss(graphs):
    settings = CONFIGURATIONS["weighted-gcn"]
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    unknown = [graph_data(graphs[argyrodite], settings), graph_data(graphs[rock_salt], settings, np.inf)]
    model.eval()
    torch.testing.assert_close(model.loss(joined([*crystals, *unknown])), model.loss(joined(crystals)))
    with pytest.raises(ValueError, match="no crystal"):
        model.loss(joined(unknown))
    with pytest.raises(ValueError, match="none of the training crystals"):
        model.fit_scales(unknown)


def test_weights_carry_the_scales(graphs, tmp_path):
    settings = CONFIGURATIONS["weighted-gcn"]
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = InterstitialGcn(settings)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    np.testing.assert_array_equal(answers(model, crystals), answers(other, crystals))


def test_settings_without_meaning_are_refused():
    for wrong in (
        {"pooling": (0.9, 0.8)},
        {"pooling": (0.9, 0.8, 1.5)},
        {"activation": "tanh"},
        {"target": "energy"},
    ):
        with pytest.raises(ValueError, match=r"must|need"):
            GcnSettings(**wrong)
