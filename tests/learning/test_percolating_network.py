"""The percolating network: what decides a barrier, its derivative, symmetry, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, lithium_phosphate, rock_salt
from hopflow.learning.barrier_regression import LEAST_BARRIER_EV, joined
from hopflow.learning.interstitial_graphs import InterstitialGraphSettings, build_interstitial_graph
from hopflow.learning.percolating_network import (
    TAUGHT_UP_TO_EV,
    PercolatingNetwork,
    PercolatingSettings,
    percolating_data,
    percolating_sites,
)
from pymatgen.core import Lattice, Structure

#: Labels (eV) to learn by heart; that they differ is all that matters.
BARRIERS_EV = {
    lithium_nitride: (0.187, 0.187, 0.6),
    iron_phosphate: (0.44, 0.9, 1.4),
    lithium_phosphate: (0.53, 0.53, 0.55),
    antiperovskite: (0.496, 0.496, 0.496),
    argyrodite: (0.25, 0.25, 0.25),
    rock_salt: (1.1, 1.1, 1.1),
}
VARIANTS = [
    PercolatingSettings(channels=16),
    PercolatingSettings(channels=16, distances="surfaces"),
    PercolatingSettings(channels=16, energies=True),
    PercolatingSettings(channels=16, energies=True, both_minima=True),
]


@pytest.fixture(scope="module")
def graphs():
    return {crystal: build_interstitial_graph(crystal()) for crystal in BARRIERS_EV}


def data(graphs, settings):
    return [percolating_data(graph, settings, np.array(BARRIERS_EV[crystal])) for crystal, graph in graphs.items()]


def network(settings, crystals, seed=0):
    torch.manual_seed(seed)
    model = PercolatingNetwork(settings)
    model.fit_scales(crystals)
    return model.eval()


def answers(model, crystals):
    with torch.no_grad():
        return np.stack([part.numpy() for part in model.distribution(joined(crystals))])


def test_energies_of_kinds_percolate_as_those_of_the_whole_cell(graphs):
    for graph in graphs.values():
        barriers_eV = graph.percolation(graph.node_energies_eV, graph.edge_energies_eV).barriers_eV
        # The whole cell's energies of equivalents differ by what their positions are off.
        np.testing.assert_allclose(barriers_eV, graph.global_features[-3:], atol=2e-3)


def test_deciding_sites_have_the_difference_that_percolation_finds(graphs):
    generator = np.random.default_rng(1)
    batch = joined(data(graphs, VARIANTS[0]))
    energies = generator.uniform(0.0, 2.0, batch.num_nodes)
    top, bottom, open_ = (part.numpy() for part in percolating_sites(batch, energies))
    starts = batch.ptr.numpy()
    for k, graph in enumerate(graphs.values()):
        own = energies[starts[k] : starts[k + 1]]
        nodes = len(graph.node_radii_A)
        barriers_eV = np.array(graph.percolation(own[:nodes], own[nodes:]).barriers_eV)
        assert (open_[k] == np.isfinite(barriers_eV)).all()
        height = energies[top[k]] - energies[bottom[k]]
        np.testing.assert_allclose(height[open_[k] > 0], barriers_eV[open_[k] > 0])
        # Nothing but these sites decides: others may move a little.
        moved = own + generator.uniform(-1e-9, 1e-9, len(own))
        moved[top[k] - starts[k]] = own[top[k] - starts[k]]
        moved[bottom[k] - starts[k]] = own[bottom[k] - starts[k]]
        np.testing.assert_allclose(graph.percolation(moved[:nodes], moved[nodes:]).barriers_eV, barriers_eV)


def test_with_exact_energies_and_no_correction_the_answer_is_the_network_barrier(graphs):
    settings = VARIANTS[2]
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    for part in (model.energy[-1], model.correction[-1]):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    barriers_eV = np.exp(answers(model, crystals)[0]) - LEAST_BARRIER_EV
    for found, graph in zip(barriers_eV, graphs.values(), strict=True):
        lowest = graph.node_energies_eV.min()
        capped = [np.minimum(e - lowest, TAUGHT_UP_TO_EV) for e in (graph.node_energies_eV, graph.edge_energies_eV)]
        np.testing.assert_allclose(found, graph.percolation(*capped).barriers_eV, rtol=1e-4, atol=1e-5)


def test_derivative_of_the_barrier_is_that_of_its_deciding_sites(graphs):
    settings = replace(VARIANTS[0], rounds=1)
    crystals = data(graphs, settings)
    model = network(settings, crystals).double()
    batch = joined(crystals).apply(lambda value: value.double() if value.is_floating_point() else value)
    bias = model.energy[0].bias
    loss = model.loss(batch)
    loss.backward()
    step = 1e-6
    for entry in (0, 3, 7):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[entry] += sign * step
                values.append(float(model.loss(batch)))
                bias[entry] -= sign * step
        assert float(bias.grad[entry]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("settings", VARIANTS)
def test_filtered_and_whole_graph_give_one_answer(graphs, settings):
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    whole = [
        percolating_data(build_interstitial_graph(crystal(), "Li", InterstitialGraphSettings(filter_equivalents=False)),
                         settings)
        for crystal in (lithium_nitride, rock_salt, antiperovskite)
    ]  # fmt: skip
    few = [crystals[list(BARRIERS_EV).index(crystal)] for crystal in (lithium_nitride, rock_salt, antiperovskite)]
    np.testing.assert_allclose(answers(model, whole), answers(model, few), atol=2e-3)


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_batch_answers_as_its_parts_and_more_dimensions_never_cost_less(graphs, settings):
    crystals = data(graphs, settings)
    model = network(settings, crystals)
    together = answers(model, crystals)
    assert together.shape == (2, len(crystals), 3)
    for k, crystal in enumerate(crystals):
        np.testing.assert_allclose(answers(model, [crystal])[:, 0], together[:, k], atol=1e-5)
    assert (np.diff(together[0], axis=1) >= 0).all()
    assert (together[1] > 0).all()


@pytest.mark.parametrize("settings", VARIANTS)
def test_it_learns_six_crystals_by_heart(graphs, settings):
    # The labels are not those of the site energies.
    settings = replace(settings, site_energy_weight=0.0)
    crystals = data(graphs, settings)
    model = network(settings, crystals).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    # rounding differs between processors, and so do the steps: there are twice as many as it takes
    for _ in range(200):
        optimiser.zero_grad()
        model.loss(joined(crystals)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
    model.eval()
    error = np.abs(answers(model, crystals)[0] - np.log(np.array(list(BARRIERS_EV.values()))))
    assert np.median(error) < 0.1
    assert error.max() < 0.7


def test_an_unknown_barrier_teaches_nothing_and_none_at_all_is_an_error(graphs):
    settings = VARIANTS[0]
    graph = graphs[lithium_nitride]
    unknown = percolating_data(graph, settings, np.array([np.nan, np.inf, np.nan]))
    assert torch.isnan(unknown.y).all()
    model = network(settings, data(graphs, settings))
    with pytest.raises(ValueError, match="no crystal of the batch has a barrier"):
        model.loss(joined([unknown]))
    known = percolating_data(graph, settings, np.array([0.2, np.inf, np.inf]))
    assert torch.isfinite(model.loss(joined([known, unknown])))


def test_a_crystal_without_charges_or_without_a_path_has_an_answer(graphs):
    settings = VARIANTS[0]
    model = network(settings, data(graphs, settings))
    # Lithium between sheets of a metal: no charges, and hardly a way through the sheets.
    metal = Structure(Lattice.tetragonal(3.0, 6.0), ["Li", "Ti", "Ti"], [[0, 0, 0.5], [0, 0, 0], [0.5, 0.5, 0.04]])
    graph = build_interstitial_graph(metal)
    assert not graph.has_energies
    assert np.isfinite(answers(model, [percolating_data(graph, settings)])).all()
    none = np.zeros(0, dtype=int)
    shut = replace(
        graph,
        segment_ends=none.reshape(0, 2),
        segment_images=none.reshape(0, 3),
        segment_edges=none,
    )
    assert np.isfinite(answers(model, [percolating_data(shut, settings)])).all()


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"rounds": -1}, {"gaussians": 1}, {"distances": "edges"}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"network must have|distances must be"):
        PercolatingSettings(**wrong)
