"""Graphs of voids: neighbours by brute force, the filtered graph beside the whole one, and what must not matter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, lithium_phosphate, rock_salt
from hopflow.learning.elements import DESCRIPTORS, element_table
from hopflow.learning.interstitial_features import (
    edge_feature_names,
    edge_features,
    node_feature_names,
    node_features,
)
from hopflow.learning.interstitial_graphs import (
    GLOBAL_FEATURES,
    InterstitialGraphSettings,
    build_interstitial_graph,
    directed_edges,
    graph_of_network,
    primitive_crystal,
)
from hopflow.transport.errors import CandidateError, NoMobileIonError, Reason, StructureError
from hopflow.transport.interstitial_network import InterstitialNetworkSettings, interstitial_network
from pymatgen.core import Lattice, Structure

CRYSTALS = [lithium_phosphate, lithium_nitride, iron_phosphate, antiperovskite, argyrodite, rock_salt]
WHOLE = InterstitialGraphSettings(filter_equivalents=False)


def phosphide() -> Structure:
    """Li3P, P6_3/mmc; the bond-valence table has no phosphide."""
    return Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(4.264, 7.579),
        ["Li", "Li", "P"],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.583], [1 / 3, 2 / 3, 0.25]],
    )


def moments(graph):
    """What walks over the graph see: moments of features after steps that bottlenecks weigh.

    They hold every feature, multiplicity and connection, and need no order of the nodes.
    """
    links, which, counts = directed_edges(graph)
    share = graph.node_counts / graph.node_counts.sum()
    gates = edge_features(graph)
    gates = np.tanh(gates / (1 + np.abs(gates).max(axis=0))).sum(axis=1)
    values = node_features(graph) / 10
    found = [share @ values, share @ values**2]
    for _ in range(3):
        following = np.zeros_like(values)
        np.add.at(following, links[1], (counts * gates[which])[:, None] * values[links[0]])
        values = following / 10
        found += [share @ values, share @ values**2]
    return np.concatenate(found)


def assert_same(one, other, atol=1e-5):
    assert len(one.node_counts) == len(other.node_counts)
    assert sorted(one.node_counts) == sorted(other.node_counts)
    assert sorted(one.edge_counts) == sorted(other.edge_counts)
    np.testing.assert_allclose(other.global_features, one.global_features, atol=atol)
    np.testing.assert_allclose(moments(other), moments(one), atol=atol)


@pytest.mark.parametrize("crystal", [iron_phosphate, argyrodite])
def test_neighbours_are_the_nearest_atoms_by_brute_force(crystal):
    network = interstitial_network(primitive_crystal(crystal()), "Li")
    graph = graph_of_network(network, WHOLE)
    lattice = Lattice(network.lattice)
    symbols = [element_table().symbols[row] for row in graph.atom_rows]
    places = np.concatenate([network.graph.frac_coords, network.graph.bottleneck_frac_coords])
    indices = np.concatenate([graph.node_neighbours, graph.edge_neighbours])
    distances = np.concatenate([graph.node_neighbour_A, graph.edge_neighbour_A])
    for k in range(0, len(places), 7):
        near = lattice.get_points_in_sphere(network.framework_frac_coords, lattice.get_cartesian_coords(places[k]), 9.0)
        expected = sorted((distance, symbols[atom]) for _, distance, atom, _ in near)
        np.testing.assert_allclose(distances[k], [distance for distance, _ in expected[:12]], atol=1e-9)
        # Complete shells hold the same elements; the last may be cut.
        inside = [symbol for distance, symbol in expected if distance < expected[11][0] - 1e-3]
        assert Counter(symbols[i] for i in indices[k][: len(inside)]) == Counter(inside)
    np.testing.assert_allclose(
        (graph.node_neighbour_A - graph.atom_radii_A[graph.node_neighbours]).min(axis=1), graph.node_radii_A, atol=1e-6
    )


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_filtered_graph_is_the_whole_one_to_any_walk(crystal):
    filtered, whole = build_interstitial_graph(crystal()), build_interstitial_graph(crystal(), settings=WHOLE)
    assert filtered.node_counts.sum() == len(whole.node_counts)
    assert filtered.edge_counts.sum() == len(whole.edges)
    assert len(filtered.node_counts) < len(whole.node_counts)
    np.testing.assert_allclose(moments(filtered), moments(whole), atol=1e-6)
    np.testing.assert_array_equal(filtered.global_features, whole.global_features)


def test_every_segment_has_two_ends():
    graph = build_interstitial_graph(iron_phosphate())
    links, which, counts = directed_edges(graph)
    ends = counts * graph.node_counts[links[1]]
    assert ends.sum() == pytest.approx(2 * graph.edge_counts.sum())
    for edge, (first, second) in enumerate(graph.edges):
        expected = [2 * graph.edge_counts[edge]] if first == second else [graph.edge_counts[edge]] * 2
        np.testing.assert_allclose(ends[which == edge], expected)
    whole = directed_edges(build_interstitial_graph(iron_phosphate(), settings=WHOLE))
    # Four edges of the diagram meet in a vertex, as long as no more than four spheres touch the void.
    assert np.median(np.bincount(whole[0][1], weights=whole[2])) == 4


@pytest.mark.parametrize(
    ("crystal", "matrix"),
    [
        (iron_phosphate, [[1, 1, 0], [0, 1, 0], [0, 0, 2]]),
        (lithium_phosphate, np.diag([1, 2, 1])),
        (antiperovskite, np.diag([3, 1, 1])),
        (rock_salt, [[1, 0, 1], [0, 2, 0], [0, 0, 1]]),
    ],
)
def test_the_cell_does_not_matter(crystal, matrix):
    larger = crystal()
    larger.make_supercell(matrix)
    assert_same(build_interstitial_graph(crystal()), build_interstitial_graph(larger))


def test_a_centred_cell_and_its_primitive_cell_have_one_graph():
    assert len(primitive_crystal(argyrodite())) * 4 == len(argyrodite())
    primitive = argyrodite().get_primitive_structure()
    assert len(primitive) * 4 == len(argyrodite())
    assert_same(build_interstitial_graph(argyrodite()), build_interstitial_graph(primitive))


def test_primitive_cell_keeps_charges_and_occupancies_apart():
    crystal = rock_salt()
    crystal.replace(0, {"Li": 0.5})
    # One of four lithium sites differs, so the cubic cell is primitive now.
    assert len(primitive_crystal(crystal)) == 8
    charged = rock_salt()
    charged.add_oxidation_state_by_element({"Li": 1, "F": -1})
    reduced = primitive_crystal(charged)
    assert len(reduced) == 2
    assert {str(site.specie) for site in reduced} == {"Li+", "F-"}


def test_order_origin_and_orientation_do_not_matter():
    random = np.random.default_rng(5)
    crystal = iron_phosphate()
    moved = Structure(crystal.lattice, crystal.species, crystal.frac_coords + np.array([0.113, 0.271, -0.4]))
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turned = Structure(Lattice(crystal.lattice.matrix @ rotation), crystal.species, crystal.frac_coords)
    shuffled = Structure.from_sites([crystal[k] for k in random.permutation(len(crystal))])
    reference = build_interstitial_graph(crystal)
    for other in (moved, turned, shuffled):
        assert_same(reference, build_interstitial_graph(other))
    # The moments do tell crystals apart: a change of two hundredths of an Angstrom shows.
    strained = crystal.copy()
    strained.apply_strain(0.002)
    assert np.abs(moments(build_interstitial_graph(strained)) - moments(reference)).max() > 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_a_shell_of_several_elements_is_cut_the_same_way_in_every_order(seed):
    """LiNaS, half-Heusler: lithium's void has four Na and four S at one distance if the spheres are alike."""
    crystal = Structure.from_spacegroup(
        "F-43m", Lattice.cubic(6.0), ["Li", "Na", "S"], [[0.25] * 3, [0.5] * 3, [0, 0, 0]]
    )
    random = np.random.default_rng(seed)
    crystal = Structure.from_sites([crystal[k] for k in random.permutation(len(crystal))])
    crystal.translate_sites(range(len(crystal)), random.uniform(size=3))
    network = InterstitialNetworkSettings(given_radii_A={"Na": 1.2, "S": 1.2})
    graph = build_interstitial_graph(crystal, settings=InterstitialGraphSettings(network, neighbours=6))
    symbols = np.array([element_table().symbols[row] for row in graph.atom_rows])
    assert graph.node_radii_A == pytest.approx(6.0 * np.sqrt(3) / 4 - 1.2)
    for neighbours, distances in zip(graph.node_neighbours, graph.node_neighbour_A, strict=True):
        np.testing.assert_allclose(distances, 6.0 * np.sqrt(3) / 4, atol=1e-6)
        assert symbols[neighbours].tolist() == ["Na"] * 4 + ["S"] * 2


def test_charges_and_elements_are_those_of_the_framework():
    graph = build_interstitial_graph(iron_phosphate())
    found = Counter(
        (element_table().symbols[row], charge) for row, charge in zip(graph.atom_rows, graph.atom_charges, strict=True)
    )
    assert found == {("Fe", 2.0): 4, ("P", 5.0): 4, ("O", -2.0): 16}
    assert graph.charged
    assert element_table().symbols[graph.ion_row] == "Li"


def test_energies_are_those_of_the_network_and_count_from_the_lowest_void():
    network = interstitial_network(iron_phosphate(), "Li")
    graph = graph_of_network(network)
    np.testing.assert_allclose(graph.node_energies_eV, network.energies_eV[network.unique_interstices])
    np.testing.assert_allclose(graph.edge_energies_eV, network.bottleneck_energies_eV[network.unique_segments])
    column = node_feature_names().index("energy_eV")
    values = node_features(graph)
    assert values[:, column].min() == 0
    height = graph.node_energies_eV - network.energies_eV.min()
    np.testing.assert_allclose(values[:, column], np.minimum(height, 10), atol=1e-9)
    assert (values[:, node_feature_names().index("energy_known")] == 1).all()
    # Voids and bottlenecks alone lead through the crystal at about the bond-valence barrier (0.44 eV).
    barrier = graph.global_features[GLOBAL_FEATURES.index("network_barrier_1d_eV")]
    assert 0.35 < barrier < 0.8


@pytest.mark.parametrize(
    ("crystal", "settings"),
    [
        (phosphide, InterstitialGraphSettings()),
        (lithium_nitride, InterstitialGraphSettings(InterstitialNetworkSettings(bond_valence=False))),
    ],
)
def test_energies_that_are_not_known_are_marked(crystal, settings):
    graph = build_interstitial_graph(crystal(), settings=settings)
    assert not graph.has_energies
    assert np.isnan(graph.node_energies_eV).all()
    assert np.isnan(graph.edge_energies_eV).all()
    assert np.isnan(graph.global_features[-3:]).all()
    assert graph.charged
    for values, names in (
        (node_features(graph), node_feature_names()),
        (edge_features(graph), edge_feature_names()),
    ):
        assert np.isfinite(values).all()
        assert (values[:, names.index("energy_known")] == 0).all()
        assert (values[:, names.index("energy_eV")] == 0).all()
    assert build_interstitial_graph(lithium_nitride()).has_energies


def test_a_crystal_without_charges_says_so():
    alloy = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(6.7), ["Li", "Tm", "Tl"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    )
    graph = build_interstitial_graph(alloy)
    assert not graph.charged
    assert np.isnan(graph.atom_charges).all()
    assert not graph.has_energies


def test_features_have_the_columns_that_are_named():
    graph = build_interstitial_graph(argyrodite(), settings=InterstitialGraphSettings(neighbours=5))
    for energies in (True, False):
        names, values = node_feature_names(5, energies), node_features(graph, energies)
        assert values.shape == (len(graph.node_counts), len(names))
        assert edge_features(graph, energies).shape == (len(graph.edges), len(edge_feature_names(5, energies)))
        np.testing.assert_array_equal(values[:, names.index("radius_A")], graph.node_radii_A)
        np.testing.assert_array_equal(values[:, names.index("distance_3_A")], graph.node_neighbour_A[:, 2])
        column = element_table().values[graph.atom_rows][:, DESCRIPTORS.index("covalent_radius_A")]
        np.testing.assert_allclose(
            values[:, names.index("mean_covalent_radius_A")], column[graph.node_neighbours].mean(axis=1)
        )


def test_merged_voids_keep_the_number_of_their_segments():
    settings = InterstitialGraphSettings(InterstitialNetworkSettings(merge_close_A=0.7))
    graph = build_interstitial_graph(lithium_phosphate(), settings=settings)
    network = interstitial_network(lithium_phosphate(), "Li", settings.network)
    assert graph.node_counts.sum() == len(network.graph.radii_A) < 100
    assert graph.edge_counts.sum() == len(network.graph.edges)
    assert_same(graph, build_interstitial_graph(lithium_phosphate() * (1, 2, 1), settings=settings))


def test_what_has_no_graph_is_refused_in_a_sentence():
    with pytest.raises(NoMobileIonError):
        build_interstitial_graph(rock_salt(), "Na")
    argon = Structure(Lattice.cubic(5.0), ["Li", "Ar"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(CandidateError, match="no descriptors for Ar") as caught:
        build_interstitial_graph(argon)
    assert caught.value.reason == Reason.UNSUPPORTED_ELEMENT
    with pytest.raises(StructureError, match="wide enough"):
        build_interstitial_graph(
            rock_salt(), settings=InterstitialGraphSettings(InterstitialNetworkSettings(minimum_radius_A=2.9))
        )
    with pytest.raises(StructureError):
        build_interstitial_graph(Structure(Lattice.cubic(4.0), [], []))
    with pytest.raises(ValueError, match="neighbours"):
        InterstitialGraphSettings(neighbours=0)
