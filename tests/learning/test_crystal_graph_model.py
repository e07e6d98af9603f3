"""Networks on the crystal graph: neighbours by brute force, the gated convolution by another code, and what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, lithium_phosphate, rock_salt
from hopflow.learning.barrier_regression import barriers_from, joined, optimiser_of, training_step
from hopflow.learning.crystal_graph_model import (
    CGCNN,
    CONFIGURATIONS,
    CRYSTAL_GCN,
    CgcnnSettings,
    GatedConvolution,
    atom_feature_names,
    atom_features,
    crystal_graph_data,
    crystal_graph_model,
    distance_gaussians,
)
from hopflow.learning.crystal_graphs import build_crystal_graph
from hopflow.learning.elements import element_table
from hopflow.learning.interstitial_graphs import primitive_crystal
from hopflow.learning.interstitial_network_model import CONFIGURATIONS as INTERSTITIAL_CONFIGURATIONS
from hopflow.learning.interstitial_network_model import InterstitialGcn
from pymatgen.core import Lattice, Structure
from torch_geometric.nn import CGConv

#: Labels (eV) to learn by heart; that they differ is all that matters.
BARRIERS_EV = {lithium_nitride: 0.187, iron_phosphate: 0.44, antiperovskite: 0.496, argyrodite: 0.25}
ALL = [*BARRIERS_EV, lithium_phosphate, rock_salt]
#: Without pooling, which may have to choose among equivalent atoms.
UNPOOLED = replace(CRYSTAL_GCN, pooling=(1.0, 1.0, 1.0))


def graph_of(structure):
    return build_crystal_graph(primitive_crystal(structure))


def data(settings, crystals=BARRIERS_EV):
    return [crystal_graph_data(graph_of(crystal()), settings, BARRIERS_EV.get(crystal, np.nan)) for crystal in crystals]


def network(settings, seed=0):
    torch.manual_seed(seed)
    model = crystal_graph_model(settings)
    model.fit_scales(data(settings))
    return model


def answers(model, crystals):
    model.eval()
    with torch.no_grad():
        return model.answer(joined(crystals)).numpy()


def triclinic(seed, atoms=5):
    """A crystal in a skew cell without any symmetry."""
    random = np.random.default_rng(seed)
    cell = Lattice(np.diag([3.5, 4.5, 6.0]) + random.uniform(-1.5, 1.5, (3, 3)))
    return Structure(cell, ["Li", "Ti", "O", "O", "S"][:atoms], random.random((atoms, 3)))


@pytest.mark.parametrize("crystal", ALL)
def test_neighbours_are_those_of_another_neighbour_list(crystal):
    primitive = primitive_crystal(crystal())
    graph = build_crystal_graph(primitive)
    assert graph.neighbours.shape == (len(primitive), 12)
    for atom, found in enumerate(primitive.get_all_neighbors(7.0)):
        around = sorted(found, key=lambda each: each.nn_distance)
        expected_A = np.array([each.nn_distance for each in around])
        np.testing.assert_allclose(graph.neighbour_A[atom], expected_A[:12], atol=1e-6)
        # Which atoms of the last shell are taken is open where it has more than fit in.
        whole = [each.index for each in around[:12] if each.nn_distance < expected_A[12] - 1e-3]
        assert sorted(graph.neighbours[atom][: len(whole)]) == sorted(whole)
        assert set(graph.neighbours[atom]) <= {
            each.index for each in around if each.nn_distance < expected_A[11] + 1e-3
        }


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_in_a_skew_cell_are_those_of_brute_force(seed):
    structure = triclinic(seed)
    graph = build_crystal_graph(structure)
    cells = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), axis=-1).reshape(-1, 3)
    for atom, place in enumerate(structure.frac_coords):
        apart = (structure.frac_coords[None] + cells[:, None] - place) @ structure.lattice.matrix
        distances_A = np.linalg.norm(apart, axis=2)
        order = np.argsort(distances_A, axis=None)[1:13]
        np.testing.assert_allclose(graph.neighbour_A[atom], distances_A.ravel()[order], atol=1e-9)
        # Opposite images of an atom are equally far, and are the same atom.
        np.testing.assert_array_equal(graph.neighbours[atom], order % len(structure))


def test_atoms_are_described_by_element_charge_and_mobility():
    charged = lithium_nitride().add_oxidation_state_by_element({"Li": 1, "N": -3})
    for structure, known in ((charged, 1.0), (lithium_nitride(), 0.0)):
        features = atom_features(graph_of(structure))
        table = dict(zip(atom_feature_names(), features.T, strict=True))
        is_lithium = np.array([site.specie.symbol == "Li" for site in primitive_crystal(structure)])
        np.testing.assert_array_equal(table["charge"], known * np.where(is_lithium, 1.0, -3.0))
        np.testing.assert_array_equal(table["charge_known"], np.full(4, known))
        np.testing.assert_array_equal(table["is_mobile"], is_lithium)
        electronegativity = element_table().column("pauling_electronegativity")[element_table().rows(["Li", "N"])]
        np.testing.assert_array_equal(table["pauling_electronegativity"], electronegativity[np.where(is_lithium, 0, 1)])


def test_tensors_of_a_crystal():
    graph = graph_of(argyrodite())
    tensors = crystal_graph_data(graph, CRYSTAL_GCN, 0.25)
    atoms = len(graph.atom_rows)
    assert tensors.x.shape == (atoms, len(atom_feature_names()))
    assert tensors.edge_attr.shape == (12 * atoms, 40)
    assert tensors.global_values.shape == (1, 0)
    assert float(tensors.node_weight.sum()) == pytest.approx(1.0)
    assert tensors.y.tolist() == [0.25]
    for edge in (0, 5, 12, 12 * atoms - 1):
        source, target = tensors.edge_index[:, edge].tolist()
        assert (target, source) == (edge // 12, graph.neighbours[edge // 12, edge % 12])
        # Centres are 8 / 39 Angstrom apart; a distance counts by its Gaussian at each of them.
        distance_A = graph.neighbour_A[edge // 12, edge % 12]
        expected = [np.exp(-((distance_A / (8 / 39) - k) ** 2)) for k in range(40)]
        np.testing.assert_allclose(tensors.edge_attr[edge], expected, atol=1e-6)
    fewer = crystal_graph_data(graph, replace(CGCNN, neighbours=4, gaussians=16), np.inf)
    assert fewer.edge_attr.shape == (4 * atoms, 16)
    assert torch.equal(fewer.edge_index[0], tensors.edge_index[0].view(atoms, 12)[:, :4].reshape(-1))
    assert bool(torch.isnan(fewer.y).all())


def test_gaussians_tell_distances_apart():
    distances_A = np.linspace(1.5, 7.5, 200)
    rows = distance_gaussians(distances_A)
    np.testing.assert_allclose(rows.argmax(axis=1) * 8 / 39, distances_A, atol=4.01 / 39)
    assert np.abs(np.diff(rows, axis=0)).max(axis=1).min() > 0.01


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gated_convolution_is_that_of_torch_geometric(batch_norm):
    torch.manual_seed(0)
    atoms, hidden, columns = 30, 8, 5
    own = GatedConvolution(hidden, columns, batch_norm)
    other = CGConv(hidden, columns, batch_norm=batch_norm)
    with torch.no_grad():
        own.linear.weight.copy_(torch.cat([other.lin_f.weight, other.lin_s.weight]))
        own.linear.bias.copy_(torch.cat([other.lin_f.bias, other.lin_s.bias]))
    neighbours, distances = torch.randint(atoms, (atoms, 12)), torch.rand(12 * atoms, columns)
    edges = torch.stack([neighbours.reshape(-1), torch.arange(atoms).repeat_interleave(12)])
    here, there = (torch.randn(atoms, hidden).requires_grad_() for _ in range(2))
    with torch.no_grad():
        there.copy_(here)
    found, expected = own(here, neighbours, distances), other(there, edges, distances)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(here.grad, there.grad)
    gradients = torch.cat([other.lin_f.weight.grad, other.lin_s.weight.grad])
    torch.testing.assert_close(own.linear.weight.grad, gradients, atol=1e-4, rtol=1e-4)


def variants(structure):
    """The crystal from another origin, in larger cells and with its atoms in other orders."""
    for seed, cell in enumerate(([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [0, 0, 2]])):
        random = np.random.default_rng(seed)
        other = structure.copy()
        other.make_supercell(cell)
        other.translate_sites(range(len(other)), random.random(3))
        yield Structure.from_sites([other[k] for k in random.permutation(len(other))])


@pytest.mark.parametrize(
    ("settings", "crystals"),
    [
        (CGCNN, [crystal() for crystal in ALL]),
        (UNPOOLED, [crystal() for crystal in ALL]),
        # In a crystal without symmetry no two atoms have equal scores.
        (CRYSTAL_GCN, [triclinic(seed) for seed in range(4)]),
    ],
    ids=["cgcnn", "crystal-gcn-unpooled", "crystal-gcn"],
)
def test_cell_origin_and_order_of_atoms_do_not_matter(settings, crystals):
    model = network(settings)
    optimiser, batch = optimiser_of(model), joined(data(settings))
    for _ in range(20):
        training_step(model, batch, optimiser)
    own = answers(model, [crystal_graph_data(graph_of(crystal), settings) for crystal in crystals])
    assert np.diff(np.sort(own)).min() > 1e-4
    for others in zip(*(variants(crystal) for crystal in crystals), strict=True):
        found = answers(model, [crystal_graph_data(graph_of(other), settings) for other in others])
        np.testing.assert_allclose(found, own, atol=2e-5)


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_a_crystal_has_the_same_answer_alone_and_in_a_batch(name):
    settings = CONFIGURATIONS[name]
    crystals, model = data(settings, ALL), network(settings)
    alone = np.concatenate([answers(model, [crystal]) for crystal in crystals])
    np.testing.assert_allclose(answers(model, crystals), alone, atol=2e-5)
    np.testing.assert_allclose(answers(model, crystals[::-1])[::-1], alone, atol=2e-5)
    assert np.ptp(alone) > 1e-3


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_each_configuration_learns_four_crystals_by_heart(name, tmp_path):
    settings = CONFIGURATIONS[name]
    crystals, model = data(settings), network(settings)
    optimiser, batch = optimiser_of(model), joined(crystals)
    before = training_step(model, batch, optimiser)
    for _ in range(150):
        after = training_step(model, batch, optimiser)
    assert after < 1e-3 < before
    labels = np.array(list(BARRIERS_EV.values()))
    np.testing.assert_allclose(barriers_from(answers(model, crystals), settings), labels, atol=0.03)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = crystal_graph_model(settings)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    np.testing.assert_array_equal(answers(model, crystals), answers(other, crystals))


def test_crystal_gcn_is_the_network_of_the_interstices():
    model = network(CRYSTAL_GCN)
    assert type(model) is InterstitialGcn
    assert CONFIGURATIONS["crystal-gcn"] == INTERSTITIAL_CONFIGURATIONS["shi-gcn"]
    # Beside the first convolution and the perceptron's input everything has the same shape.
    other = InterstitialGcn(CRYSTAL_GCN).state_dict()
    changed = {name for name, value in model.state_dict().items() if value.shape != other[name].shape}
    assert changed == {"node_scale", "edge_scale", "convolutions.0.lin.weight"}


def test_crystals_without_a_barrier_are_left_out_of_the_loss():
    model, crystals = network(CGCNN), data(CGCNN)
    model.eval()
    with_unknown = joined([*crystals, *data(CGCNN, [rock_salt])])
    torch.testing.assert_close(model.loss(with_unknown), model.loss(joined(crystals)))
    with pytest.raises(ValueError, match="no crystal"):
        model.loss(joined(data(CGCNN, [rock_salt])))


def test_what_has_no_meaning_is_refused():
    graph = graph_of(rock_salt())
    for wrong in ({"energies": True}, {"globals": True}, {"neighbours": 13}):
        with pytest.raises(ValueError, match="crystal graph has"):
            crystal_graph_data(graph, replace(CRYSTAL_GCN, **wrong))
    for other in ({"target": "energy"}, {"gaussians": 1}, {"convolutions": 0}):
        with pytest.raises(ValueError, match="must"):
            CgcnnSettings(**other)
    shuffled = crystal_graph_data(graph, CGCNN)
    shuffled.edge_index = shuffled.edge_index.flip(1)
    with pytest.raises(ValueError, match="follow one another"):
        answers(network(CGCNN), [shuffled])
