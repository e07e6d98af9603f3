"""The network: against a second implementation, its symmetries, its gradients."""

from __future__ import annotations

from dataclasses import replace

import crystals
import numpy as np
import pytest
import torch
from alignn_paths import rock_salt, vacancy_path
from hopflow.learning.alignn import Alignn, AlignnSize, decay_groups, regression_head
from hopflow.learning.alignn_batches import (
    GraphBatch,
    at_beginning,
    gated_mean,
    of_reverse,
    sum_at_beginning,
)
from hopflow.learning.alignn_graphs import AtomGraph, build_graph, path_structures, structure_graph
from torch import Tensor
from torch.nn.functional import silu

SIZE = AlignnSize(alignn_layers=2, gcn_layers=1, hidden=12, embedding=8)


def network(size: AlignnSize = SIZE, seed: int = 0) -> Alignn:
    """A network with larger weights than it starts with, so that everything that it reads changes its answer."""
    torch.manual_seed(seed)
    net = Alignn(size).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)
    return net


def pooled(net: Alignn, *graphs: AtomGraph) -> Tensor:
    with torch.no_grad():
        return net.pooled(GraphBatch.from_graphs(graphs))


def gaussians(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    centres = torch.linspace(low, high, bins, dtype=values.dtype)
    return torch.exp(-((values[:, None] - centres) ** 2) / (centres[1] - centres[0]))


def plain_convolution(convolution, nodes, edges, source, target):
    """The paper's equations on any graph, edge by edge gathered and scattered."""
    update, own = convolution.own(nodes).chunk(2, dim=1)
    message, other = convolution.neighbour(nodes).chunk(2, dim=1)
    gate = own[target] + other[source] + convolution.gate(edges)
    weight = torch.sigmoid(gate)
    top = torch.zeros_like(nodes).index_add(0, target, weight * message[source])
    bottom = torch.zeros_like(nodes).index_add(0, target, weight) + 1e-6
    return nodes + silu(convolution.node_norm(update + top / bottom)), edges + silu(convolution.edge_norm(gate))


def plain_alignn(net: Alignn, graph: AtomGraph) -> Tensor:
    """The whole network on graph and explicit line graph, cosines not rounded, in double precision."""
    source = np.repeat(np.arange(len(graph.degree)), graph.degree)
    target = graph.neighbours
    vectors = torch.as_tensor(graph.vectors_A, dtype=torch.float64)
    arriving, leaving = np.nonzero(target[:, None] == source[None, :])
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # the angle at the shared atom: between the way back and the way on
    cosine = (-unit[arriving] * unit[leaving]).sum(dim=1)
    assert len(cosine) == graph.angles
    atoms = net.atom_embedding(net.categories)[torch.as_tensor(graph.atom_rows)]
    edges = net.edge_embedding(gaussians(torch.linalg.vector_norm(vectors, dim=1), 0.0, 8.0, 80))
    angles = net.angle_embedding(gaussians(cosine, -1.0, 1.0, 40))
    source, target, arriving, leaving = map(torch.as_tensor, (source, target, arriving, leaving))
    for layer in net.alignn_layers:
        atoms, edges = plain_convolution(layer["atoms"], atoms, edges, source, target)
        edges, angles = plain_convolution(layer["edges"], edges, angles, arriving, leaving)
    for convolution in net.gcn_layers:
        atoms, edges = plain_convolution(convolution, atoms, edges, source, target)
    return atoms.mean(dim=0)


@pytest.mark.parametrize(("alignn_layers", "gcn_layers"), [(3, 2), (1, 1), (2, 0), (0, 2)])
def test_it_is_the_network_of_the_paper(alignn_layers, gcn_layers):
    net = network(AlignnSize(alignn_layers, gcn_layers, hidden=12, embedding=8))
    graphs = [structure_graph(crystals.lithium_nitride()), path_structures(vacancy_path(), framework_cutoff_A=3.5).band]
    found = pooled(net, *graphs)
    net.double()
    with torch.no_grad():
        expected = torch.stack([plain_alignn(net, graph) for graph in graphs])
    assert torch.allclose(found.double(), expected, atol=3e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_it_is_blind_to_rotation_translation_order_and_cell():
    net = network()
    structure = crystals.antiperovskite()
    structure.perturb(0.2, seed=1)
    lattice, frac = structure.lattice.matrix, structure.frac_coords
    graph = structure_graph(structure)
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    order = generator.permutation(len(frac))
    reduced = structure.copy()
    reduced.make_supercell([[1, 1, 0], [0, 1, 0], [0, 2, 1]], to_unit_cell=True)
    larger = structure.copy()
    larger.make_supercell((2, 1, 1))
    moved = build_graph(lattice @ rotation, frac[order] + [0.3, -1.2, 7.7], graph.atom_rows[order])
    expected = pooled(net, graph)
    for other in (moved, structure_graph(reduced), structure_graph(larger)):
        # cosines are rounded to a grid, and noise may bring one to the next point
        assert torch.allclose(pooled(net, other), expected, atol=3e-4)
    structure.perturb(0.2, seed=2)
    assert (pooled(net, structure_graph(structure)) - expected).abs().max() > 0.01


def test_an_answer_does_not_depend_on_its_company():
    net = network()
    graphs = [structure_graph(rock_salt(a)) for a in (4.0, 4.4)] + [structure_graph(crystals.lithium_nitride())]
    alone = torch.cat([pooled(net, graph) for graph in graphs])
    assert torch.allclose(pooled(net, *graphs), alone, atol=1e-5)
    assert torch.allclose(pooled(net, *graphs[::-1]).flip(0), alone, atol=1e-5)


def test_angles_change_the_answer():
    """The same atoms, edges and distances with the edges in other directions are another crystal."""
    graph = structure_graph(crystals.lithium_nitride())
    lengths_A = np.linalg.norm(graph.vectors_A, axis=1, keepdims=True)
    turned_A = np.random.default_rng(0).normal(size=graph.vectors_A.shape)
    # an edge and its reverse stay opposite
    turned_A = turned_A - turned_A[graph.reverse]
    turned_A *= lengths_A / np.linalg.norm(turned_A, axis=1, keepdims=True)
    turned = replace(graph, vectors_A=turned_A.astype(np.float32))
    net = network()
    assert (pooled(net, turned) - pooled(net, graph)).abs().max() > 5e-4


def test_atoms_without_edges_are_answered():
    graph = structure_graph(rock_salt())
    alone = graph.part(np.arange(len(graph.atom_rows)) == 0)
    without = AtomGraph(
        alone.atom_rows, np.array([0]), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3), "f4")
    )
    net = network()
    answers = pooled(net, without, graph)
    assert torch.isfinite(answers).all()
    assert torch.allclose(answers[1:], pooled(net, graph), atol=1e-5)
    assert torch.allclose(answers[:1], pooled(net, without), atol=1e-5)


def test_gradients_of_the_hand_written_operations():
    graph = build_graph(np.eye(3) * 3.0, np.array([[0.0, 0.0, 0.0], [0.4, 0.5, 0.6]]), np.array([0, 1]), 3)
    batch = GraphBatch.from_graphs([graph])
    torch.manual_seed(0)
    atoms = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    edges = torch.randn(len(batch.reverse), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: at_beginning(values, batch), atoms)
    assert torch.autograd.gradcheck(lambda values: sum_at_beginning(values, batch), edges)
    assert torch.autograd.gradcheck(lambda values: of_reverse(values, batch), edges)
    shapes = [(2, 3, 3, 2), (2, 3, 2), (2, 3, 2), (2, 3, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(gated_mean, inputs)
    # where nobody reads the gates
    assert torch.autograd.gradcheck(lambda *values: gated_mean(*values)[1], inputs)
    assert torch.autograd.gradcheck(lambda *values: gated_mean(*values)[0], inputs)


def test_no_weight_decay_on_biases_and_norms():
    net = torch.nn.Sequential(network(), regression_head(12, 6))
    decayed, free = decay_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    matrices = [parameter for name, parameter in net.named_parameters() if parameter.ndim == 2]
    assert {id(each) for each in decayed["params"]} == {id(each) for each in matrices}
    assert len(decayed["params"]) + len(free["params"]) == len(list(net.parameters()))
