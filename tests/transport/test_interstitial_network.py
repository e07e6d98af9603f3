"""The interstitial network: brute force, known voids, invariances, percolation on a grid, an independent code."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hopflow.transport.errors import NoMobileIonError, OxidationStateError, StructureError
from hopflow.transport.framework_radii import shannon_radius_A
from hopflow.transport.interstitial_network import InterstitialNetworkSettings, interstitial_network
from hopflow.transport.percolation import percolate_grid
from hopflow.transport.site_energy import BondValenceSettings, bond_valence_field
from hopflow.transport.sphere_clearance import SphereClearance
from hopflow.transport.structures import assign_oxidation_states
from pymatgen.core import Lattice, Structure
from scipy.optimize import minimize


def oxide():
    """Li2O, antifluorite: oxygen is close packed, lithium in every tetrahedral void."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.62), ["Li", "O"], [[0.25, 0.25, 0.25], [0, 0, 0]])


def olivine():
    """LiFePO4 with the coordinates of V. A. Streltsov et al., Acta Cryst. B 49 (1993) 147."""
    return Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(10.332, 6.010, 4.692),
        ["Li", "Fe", "P", "O", "O", "O"],
        [
            [0, 0, 0], [0.28222, 0.25, 0.97472], [0.09486, 0.25, 0.41820], [0.09678, 0.25, 0.74279],
            [0.45710, 0.25, 0.20602], [0.16558, 0.04646, 0.28478],
        ],
    )  # fmt: skip


def spheres(network):
    return SphereClearance(network.lattice, network.framework_frac_coords, network.framework_radii_A)


def images(network, reach=4):
    cells = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    return (network.framework_frac_coords[:, None] + cells[None]) @ network.lattice


def sorted_radii(network):
    return np.sort(network.graph.radii_A), np.sort(network.graph.bottleneck_radii_A)


@pytest.fixture(scope="module")
def olivine_network():
    return interstitial_network(olivine(), "Li")


def test_close_packed_oxygen_has_the_voids_of_the_textbook():
    network = interstitial_network(oxide(), "Li", InterstitialNetworkSettings(given_radii_A={"O": 1.24}))
    a = 4.62
    octahedral, tetrahedral, window = a / 2 - 1.24, a * np.sqrt(3) / 4 - 1.24, a / np.sqrt(6) - 1.24
    assert np.bincount(network.graph.orbits).tolist() == [4, 8]
    first, second = network.unique_interstices
    assert network.graph.radii_A[first] == pytest.approx(octahedral, abs=1e-9)
    assert network.graph.radii_A[second] == pytest.approx(tetrahedral, abs=1e-9)
    # Every tetrahedral void opens into four octahedral ones through triangles of oxygen.
    assert len(network.graph.edges) == 32
    assert len(network.unique_segments) == 1
    np.testing.assert_allclose(network.graph.bottleneck_radii_A, window, atol=1e-9)
    np.testing.assert_allclose(network.connection_values_A, window, atol=1e-9)
    np.testing.assert_allclose(network.segment_lengths_A(), a * np.sqrt(3) / 4, atol=1e-9)
    assert network.recovered_fraction == 1.0
    assert max(site.interstice_A for site in network.recovery) < 1e-6
    assert network.largest_radius_A == pytest.approx(octahedral)
    assert network.euler_characteristic == 0
    assert network.dimension == 3


def test_threshold_is_that_of_the_definition():
    network = interstitial_network(oxide(), "Li", InterstitialNetworkSettings(given_radii_A={"O": 1.24}))
    alpha = (4.62 * np.sqrt(3) / 4 - 1.24) / 0.90  # room of the site over the crystal radius of six-coordinated Li+
    assert network.migrant_alpha == pytest.approx(alpha)
    assert network.passable_radius_A == pytest.approx(0.5327 * alpha * 0.85)
    wide = interstitial_network(oxide(), "Li", InterstitialNetworkSettings(given_radii_A={"O": 0.2}))
    assert wide.migrant_alpha == 1.0
    fluoride = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.45), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    other = interstitial_network(fluoride, "F")
    assert other.passable_radius_A is None
    assert other.dimension is None
    assert np.isfinite(other.connection_values_A).all()


def test_radii_and_bottlenecks_by_brute_force():
    network = interstitial_network(olivine(), "Li", InterstitialNetworkSettings(merge_coincident_A=0.0))
    graph = network.graph
    centres = images(network)
    for place, radius in zip(graph.frac_coords @ network.lattice, graph.radii_A, strict=True):
        room = np.linalg.norm(centres - place, axis=2).min(axis=1) - network.framework_radii_A
        assert radius == pytest.approx(room.min(), abs=1e-9)
    starts, ends = graph.frac_coords[graph.edges[:, 0]], graph.ends()
    clearance = spheres(network)
    np.testing.assert_allclose(clearance.at(graph.bottleneck_frac_coords)[0], graph.bottleneck_radii_A, atol=1e-9)
    for start, end, place, radius in zip(
        starts, ends, graph.bottleneck_frac_coords, graph.bottleneck_radii_A, strict=True
    ):
        length = np.linalg.norm((end - start) @ network.lattice)
        sampled = clearance.at(start + np.linspace(0, 1, 101)[:, None] * (end - start))[0].min()
        assert sampled - length / 200 - 1e-9 <= radius <= sampled + 1e-9
        detour = np.linalg.norm((place - start) @ network.lattice) + np.linalg.norm((end - place) @ network.lattice)
        assert detour == pytest.approx(length, abs=1e-6)  # it lies on the segment


def test_no_empty_sphere_is_larger_than_the_voids_next_to_it():
    """Spheres of one size: growing an empty sphere from anywhere ends at an interstice."""
    settings = InterstitialNetworkSettings(given_radii_A={"Fe": 1.2, "P": 1.2, "O": 1.2}, merge_coincident_A=0.0)
    network = interstitial_network(olivine(), "Li", settings)
    clearance = spheres(network)
    random = np.random.default_rng(0)
    probes = random.uniform(0, 1, (20_000, 3))
    assert clearance.at(probes)[0].max() <= network.largest_radius_A
    inverse = np.linalg.inv(network.lattice)
    for probe in probes[:15]:
        grown = minimize(
            lambda x: -clearance.at(x @ inverse)[0][0], probe @ network.lattice, method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-9, "initial_simplex": None},
        )  # fmt: skip
        offset = network.graph.frac_coords - grown.x @ inverse
        distances = np.linalg.norm((offset - np.rint(offset)) @ network.lattice, axis=1)
        # The simplex may get stuck on a ridge, and then a void beside it is larger.
        near = distances < 1.0
        assert near.any()
        assert network.graph.radii_A[near].max() >= -grown.fun - 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alike", [True, False])
def test_connection_values_against_percolation_on_a_fine_grid(seed, alike):
    random = np.random.default_rng(seed)
    lattice = Lattice(3.6 * np.eye(3) + random.normal(0, 0.5, (3, 3)))
    crystal = Structure(lattice, ["O", "S", "Li"], [[0, 0, 0], [0.45, 0.52, 0.4], [0.75, 0.2, 0.6]])
    given = {"O": 0.9, "S": 0.9 if alike else 1.2}
    network = interstitial_network(crystal, "Li", InterstitialNetworkSettings(given_radii_A=given, bond_valence=False))
    shape = np.ceil(np.linalg.norm(network.lattice, axis=1) / 0.06).astype(int)
    points = np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    field = -spheres(network).at(points)[0].reshape(shape)
    found = percolate_grid(field, 26, lattice=network.lattice)
    corners = np.array(list(product((-0.5, 0.5), repeat=3))) / shape
    error = np.linalg.norm(corners @ network.lattice, axis=1).max()
    # The widest path passes within half a voxel of grid points, and what the grid joins is joined along straight lines
    # that are no longer than two of these distances.
    np.testing.assert_allclose(network.connection_values_A, -np.array(found.thresholds_eV), atol=error)
    assert (np.array(network.segment_values_A) <= np.array(network.connection_values_A)).all()
    if alike:
        assert network.segment_values_A == network.connection_values_A


def test_paths_beside_the_segments_are_found():
    """A small sphere between large ones: the radical diagram's straight segments pass too close to it."""
    crystal = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), ["Li", "Cl", "O"], [[0, 0.5, 0], [0, 0, 0], [0.5, 0.5, 0.5]]
    )
    given = {"Cl": 1.67, "O": 0.8}
    network = interstitial_network(crystal, "Li", InterstitialNetworkSettings(given_radii_A=given))
    field = -spheres(network).at(
        np.stack(np.meshgrid(*[np.arange(78) / 78] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    )[0]
    threshold = percolate_grid(field.reshape(78, 78, 78), 26).thresholds_eV[2]
    assert network.connection_values_A[2] > network.segment_values_A[2] + 0.01
    assert network.connection_values_A[2] == pytest.approx(-threshold, abs=3.9 / 78)
    plain = interstitial_network(
        crystal, "Li", InterstitialNetworkSettings(given_radii_A=given, exact_connection=False)
    )
    assert plain.connection_values_A == plain.segment_values_A == network.segment_values_A


def test_the_origin_the_orientation_and_the_order_of_atoms_do_not_matter(olivine_network):
    crystal = olivine()
    moved = Structure(
        Lattice.from_parameters(*crystal.lattice.parameters),
        crystal.species,
        crystal.frac_coords + np.array([0.113, 0.271, -0.4]),
    )
    random = np.random.default_rng(3)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turned = Structure(Lattice(crystal.lattice.matrix @ rotation), crystal.species, crystal.frac_coords)
    shuffled = Structure.from_sites([crystal[k] for k in random.permutation(len(crystal))])
    for other in (moved, turned, shuffled):
        network = interstitial_network(other, "Li")
        for one, two in zip(sorted_radii(olivine_network), sorted_radii(network), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-7)
        np.testing.assert_allclose(network.connection_values_A, olivine_network.connection_values_A, atol=1e-7)
        assert np.bincount(network.graph.orbits).tolist() == np.bincount(olivine_network.graph.orbits).tolist()
        assert len(network.unique_segments) == len(olivine_network.unique_segments)
        np.testing.assert_allclose(np.sort(network.energies_eV), np.sort(olivine_network.energies_eV), atol=1e-6)


def test_a_supercell_has_every_void_as_often_and_the_same_connection_values(olivine_network):
    for matrix in (np.diag([1, 2, 1]), [[1, 1, 0], [0, 1, 0], [0, 0, 2]]):
        larger = olivine()
        larger.make_supercell(matrix)
        times = round(abs(np.linalg.det(np.array(matrix))))
        network = interstitial_network(larger, "Li")
        assert len(network.graph.radii_A) == times * len(olivine_network.graph.radii_A)
        assert len(network.graph.edges) == times * len(olivine_network.graph.edges)
        for one, two in zip(sorted_radii(olivine_network), sorted_radii(network), strict=True):
            np.testing.assert_allclose(np.repeat(one, times), two, atol=1e-7)
        np.testing.assert_allclose(network.connection_values_A, olivine_network.connection_values_A, atol=1e-7)


def test_operations_of_the_crystal_map_interstices_onto_ones_of_their_label(olivine_network):
    """Independent of the code's own operations: those of Pnma in its standard setting, written down."""
    network = olivine_network
    graph = network.graph
    assert network.operations == 8

    def nearest(places, point):
        offset = places - point
        distances = np.linalg.norm((offset - np.rint(offset)) @ network.lattice, axis=1)
        return int(distances.argmin()), float(distances.min())

    glides = [
        lambda x, y, z: (0.5 - x, -y, 0.5 + z),
        lambda x, y, z: (-x, 0.5 + y, -z),
        lambda x, y, z: (-x, -y, -z),
    ]
    for operation in glides:
        for k, point in enumerate(graph.frac_coords):
            image, distance = nearest(graph.frac_coords, np.array(operation(*point)))
            assert distance < 1e-4
            assert graph.orbits[image] == graph.orbits[k]
    # Unlike labels: nothing but the label may tell two interstices of one radius apart, so radii within one agree.
    for label in range(graph.orbits.max() + 1):
        assert np.ptp(graph.radii_A[graph.orbits == label]) < 1e-7
        assert (graph.orbits == label).sum() in (4, 8)
    for label in range(graph.edge_orbits.max() + 1):
        members = graph.edge_orbits == label
        assert np.ptp(graph.bottleneck_radii_A[members]) < 1e-7
        assert np.ptp(network.segment_lengths_A()[members]) < 1e-6


def test_labels_count_from_the_widest_void(olivine_network):
    graph = olivine_network.graph
    first = graph.radii_A[olivine_network.unique_interstices]
    assert (np.diff(first) <= 1e-6).all()
    assert first[0] == pytest.approx(olivine_network.largest_radius_A)


def test_energies_are_those_of_the_bond_valence_field():
    crystal = oxide()
    network = interstitial_network(crystal, "Li")
    field = bond_valence_field(
        assign_oxidation_states(crystal, "Li"), "Li", BondValenceSettings(grid_shape=(8, 8, 8), symmetry=False)
    )
    index = np.rint(network.graph.frac_coords * 8).astype(int) % 8  # both voids lie on eighths of the cell
    np.testing.assert_allclose(network.energies_eV, field.values[tuple(index.T)], atol=1e-6)
    assert network.bottleneck_energies_eV is not None
    assert len(network.bottleneck_energies_eV) == len(network.graph.edges)
    assert interstitial_network(crystal, "Li", InterstitialNetworkSettings(bond_valence=False)).energies_eV is None


def test_limiting_bottlenecks_have_the_connection_values(olivine_network):
    room = spheres(olivine_network).at(np.array(olivine_network.limiting_bottlenecks))[0]
    np.testing.assert_allclose(room, olivine_network.segment_values_A, atol=1e-9)
    assert list(olivine_network.connection_values_A) == sorted(olivine_network.connection_values_A, reverse=True)


def test_face_centres_join_the_network(olivine_network):
    network = interstitial_network(
        olivine(), "Li", InterstitialNetworkSettings(face_centres=True, merge_coincident_A=0.0)
    )
    vertices, edges = olivine_network.voronoi_vertices, olivine_network.voronoi_edges
    faces = edges - vertices + 24  # Euler: one cell for each of the 24 atoms of the framework
    assert network.graph.vertices.sum() == vertices
    assert (~network.graph.vertices).sum() == faces
    # Each corner of a face gets a segment, and there are as many corners as there are faces around all edges, or
    # spheres that have the least power in the middle of an edge.
    graph = network.graph
    old = graph.vertices[graph.edges].all(axis=1)
    middles = ((graph.frac_coords[graph.edges[:, 0]] + graph.ends()) / 2)[old] @ network.lattice
    centres = images(network)
    corners = 0
    for middle in middles:
        powers = ((centres - middle) ** 2).sum(axis=2) - network.framework_radii_A[:, None] ** 2
        corners += int((powers < powers.min() + 1e-6).sum())
    assert old.sum() == edges
    assert (~old).sum() == corners
    for more, fewer in zip(network.segment_values_A, olivine_network.segment_values_A, strict=True):
        assert more >= fewer - 1e-12
    assert network.connection_values_A == pytest.approx(olivine_network.connection_values_A, abs=1e-4)
    assert [site.nearest_A for site in network.recovery] == pytest.approx(
        [site.nearest_A for site in olivine_network.recovery]
    )


def test_merging_close_voids_keeps_the_best_and_every_connection(olivine_network):
    for distance in (0.3, 0.6, 0.8):
        merged = interstitial_network(
            olivine(), "Li", InterstitialNetworkSettings(merge_close_A=distance, bond_valence=False)
        )
        graph = merged.graph
        assert len(graph.radii_A) < len(olivine_network.graph.radii_A)
        assert graph.radii_A.max() == pytest.approx(olivine_network.largest_radius_A)
        assert merged.connection_values_A == pytest.approx(olivine_network.connection_values_A)
        through = [-level for level in graph.percolation().thresholds_eV]
        assert (np.array(through) >= np.array(merged.segment_values_A) - 1e-9).all()
        # Every void that is gone lies next to a better one that stayed.
        for point, radius in zip(olivine_network.graph.frac_coords, olivine_network.graph.radii_A, strict=True):
            offset = graph.frac_coords - point
            distances = np.linalg.norm((offset - np.rint(offset)) @ merged.lattice, axis=1)
            reach = distances <= 3 * distance + 1e-9
            assert graph.radii_A[reach].max() >= radius - 1e-6
        for label in range(graph.orbits.max() + 1):
            assert np.ptp(graph.radii_A[graph.orbits == label]) < 1e-6


def test_merging_by_energy_keeps_the_lowest(olivine_network):
    merged = interstitial_network(olivine(), "Li", InterstitialNetworkSettings(merge_close_A=0.8))
    assert merged.energies_eV.min() == pytest.approx(olivine_network.energies_eV.min())
    assert len(merged.energies_eV) < len(olivine_network.energies_eV)


def test_voids_below_a_radius_can_be_left_out(olivine_network):
    network = interstitial_network(olivine(), "Li", InterstitialNetworkSettings(minimum_radius_A=0.5))
    assert 0 < len(network.graph.radii_A) < len(olivine_network.graph.radii_A)
    assert network.graph.radii_A.min() >= 0.5
    assert network.graph.bottleneck_radii_A.min() >= 0.5
    assert network.graph.edges.max() < len(network.graph.radii_A)
    assert network.connection_values_A == pytest.approx(olivine_network.connection_values_A)
    nothing = interstitial_network(olivine(), "Li", InterstitialNetworkSettings(minimum_radius_A=9.0))
    assert len(nothing.graph.radii_A) == len(nothing.unique_interstices) == 0


def test_a_hydride_gets_its_radius_from_its_neighbours():
    hydride = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.083), ["Na", "H"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    network = interstitial_network(hydride, "Na")
    assert set(network.framework.sources) == {"effective"}
    assert network.framework_radii_A == pytest.approx(4.083 / 2 - shannon_radius_A("Na", 1, 6))
    assert any("no radius for H1-" in sentence for sentence in network.warnings)
    assert network.energies_eV is None
    assert any(sentence.startswith("No bond-valence energies") for sentence in network.warnings)


def test_without_charges_the_radii_are_covalent():
    alloy = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.2), ["Li", "Ag"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    network = interstitial_network(alloy, "Li")
    assert set(network.framework.sources) == {"covalent"}
    assert network.framework_radii_A == pytest.approx(1.45)  # silver, Cordero et al.
    assert network.oxidation_states_from == ""
    assert any("covalent ones of neutral atoms" in sentence for sentence in network.warnings)
    assert network.energies_eV is None
    assert network.migrant_alpha is None
    with pytest.raises(OxidationStateError):
        interstitial_network(alloy, "Li", oxidation_states={"Li": 1, "Ag": 1})


def test_refusals():
    with pytest.raises(NoMobileIonError):
        interstitial_network(oxide(), "Na")
    metal = Structure(Lattice.cubic(3.5), ["Li"], [[0, 0, 0]])
    with pytest.raises(StructureError, match="Nothing is left of Li without Li"):
        interstitial_network(metal, "Li")
    with pytest.raises(ValueError, match="radii must be"):
        InterstitialNetworkSettings(radii="atomic")
    with pytest.raises(ValueError, match="merge_close_A"):
        InterstitialNetworkSettings(merge_close_A=-1.0)
    with pytest.raises(ValueError, match="radius of O"):
        InterstitialNetworkSettings(given_radii_A={"O": -1.0})


# Nodes, segments (each once) and connection values along a, b and c that CAVD 0.5.9 finds with these radii: an
# independent implementation on Voro++ and Zeo++.
CAVD = {
    "mp-19017": ({"Fe": 0.77, "P": 0.58, "O": 1.21}, 120, 244, (0.4449393187, 0.6408507974, 0.4896300581)),
    "mp-942733": ({"La": 1.172, "Zr": 0.73, "O": 1.21}, 792, 1584, (0.6060402371, 0.6060402371, 0.6087072993)),
    "mp-985592": ({"P": 0.58, "S": 1.7, "Cl": 1.67}, 148, 296, (0.6873, 0.6873, 0.6873)),
    "mp-985583": ({"P": 0.58, "S": 1.7}, 92, 192, (0.5834, 0.5930, 0.6078)),
    "mp-2251": ({"N": 1.32}, 2, 5, (1.3205, 1.3205, 0.7641)),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", CAVD)
def test_the_network_is_that_of_an_independent_code(name):
    shared = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "known_conductors"
    if not shared.is_dir():
        pytest.skip(f"no folder {shared}")
    radii, nodes, edges, values = CAVD[name]
    network = interstitial_network(
        Structure.from_file(shared / f"{name}.cif"), "Li", InterstitialNetworkSettings(given_radii_A=radii)
    )
    assert (len(network.graph.radii_A), len(network.graph.edges)) == (nodes, edges)
    np.testing.assert_allclose(network.segment_values_A, sorted(values, reverse=True), atol=1e-4)


def test_a_crystal_that_defeats_every_tolerance_is_distorted_until_its_voids_fit_together():
    # Cs2LiCr(CN)6 (mp-570502, CC BY 4.0): one draw of the distortion is not enough for its nearly degenerate vertices.
    crystal = Structure.from_spacegroup(
        "P4/mnc",
        Lattice.tetragonal(7.668816, 10.874485),
        ["Cs", "Li", "Cr", "C", "C", "N", "N"],
        [[0.5, 0, 0.25], [0, 0, 0.5], [0, 0, 0], [0.836725, 0.79012, 0], [0, 0, 0.812417],
         [0.242537, 0.830931, 0.5], [0, 0, 0.704302]],
    )  # fmt: skip
    network = interstitial_network(crystal, "Li")
    np.testing.assert_allclose(network.connection_values_A, 0.80884, atol=1e-4)
