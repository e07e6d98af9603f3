"""The periodic power diagram against brute force, known polyhedra, an independent Voronoi code and its own topology."""

from itertools import product

import numpy as np
import pytest
from hopflow.transport.errors import StructureError
from hopflow.transport.network_symmetry import symmetric_framework
from hopflow.transport.periodic_points import coincident
from hopflow.transport.power_diagram import power_diagram
from hopflow.transport.sphere_clearance import SphereClearance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Voronoi

CELLS = np.array(list(product(range(-6, 7), repeat=3)))


def crystal(seed, atoms, spread=1.0, radii=(0.2, 1.2)):
    """A generic crystal: random sheared cell, atoms in any cell, random radii."""
    random = np.random.default_rng(seed)
    while True:
        lattice = 4.0 * np.eye(3) + random.normal(0, spread, (3, 3))
        # Cells so thin that brute force would need thousands of images are left to the test of sheared settings.
        if (1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)).min() > 2.2:
            break
    return lattice, random.uniform(-1, 2, (atoms, 3)), random.uniform(*radii, atoms)


def image_powers(place, lattice, frac, radii):
    """Powers of all images of all spheres at a point of the unit cell."""
    centres = (frac - np.floor(frac))[:, None, :] + CELLS[None]
    return ((centres @ lattice - place) ** 2).sum(axis=2) - radii[:, None] ** 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), atoms=st.integers(1, 7))
def test_every_vertex_is_met_by_four_spheres_and_covered_by_none(seed, atoms):
    lattice, frac, radii = crystal(seed, atoms)
    diagram = power_diagram(lattice, frac, radii)
    assert diagram.euler_characteristic == 0
    assert not diagram.distorted
    for vertex, power, spheres in zip(diagram.vertices, diagram.powers_A2, diagram.vertex_spheres, strict=True):
        place = vertex @ lattice
        all_powers = np.sort(image_powers(place, lattice, frac, radii).ravel())
        assert len(spheres) >= 4
        np.testing.assert_allclose(all_powers[: len(spheres)], power, atol=1e-6)
        own = ((frac[spheres[:, 0]] + spheres[:, 1:]) @ lattice - place) ** 2
        np.testing.assert_allclose(own.sum(axis=1) - radii[spheres[:, 0]] ** 2, power, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), atoms=st.integers(1, 7))
def test_along_every_edge_three_spheres_have_the_least_power(seed, atoms):
    lattice, frac, radii = crystal(seed, atoms)
    diagram = power_diagram(lattice, frac, radii)
    ends = diagram.vertices[diagram.edges[:, 1]] + diagram.images
    for start, end in zip(diagram.vertices[diagram.edges[:, 0]], ends, strict=True):
        middle = 0.7 * start + 0.3 * end
        powers = np.sort(image_powers((middle - np.floor(middle)) @ lattice, lattice, frac, radii).ravel())
        np.testing.assert_allclose(powers[:3], powers[0], atol=1e-6)
    # A vertex of a generic diagram has four edges, each shared by two.
    assert len(diagram.edges) == 2 * len(diagram.vertices)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), atoms=st.integers(1, 7))
def test_faces_lie_in_the_plane_of_equal_power_and_fit_their_cells(seed, atoms):
    lattice, frac, radii = crystal(seed, atoms)
    diagram = power_diagram(lattice, frac, radii)
    for ring, ((one, *at_one), (other, *at_other)) in zip(diagram.faces, diagram.face_spheres.tolist(), strict=True):
        places = (diagram.vertices[ring[:, 0]] + ring[:, 1:]) @ lattice
        first = ((places - (frac[one] + at_one) @ lattice) ** 2).sum(axis=1) - radii[one] ** 2
        second = ((places - (frac[other] + at_other) @ lattice) ** 2).sum(axis=1) - radii[other] ** 2
        np.testing.assert_allclose(first, second, atol=1e-6)
        np.testing.assert_allclose(first, diagram.powers_A2[ring[:, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("basis", "vertices", "edges", "faces"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1, 3, 3),  # cube: 8/8 vertices, 12/4 edges, 6/2 faces
        ([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], 6, 12, 7),  # truncated octahedron: 24/4, 36/3, 14/2
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 3, 8, 6),  # rhombic dodecahedron: 6/6 + 8/4, 24/3, 12/2
    ],
)
@pytest.mark.parametrize("size", [1.7, 12.0])
def test_cells_of_the_cubic_lattices(basis, vertices, edges, faces, size):
    diagram = power_diagram(size * np.array(basis, dtype=float), [[0.1, 0.7, 0.3]], [0.5])
    assert (len(diagram.vertices), len(diagram.edges), len(diagram.faces)) == (vertices, edges, faces)
    assert diagram.euler_characteristic == 0


def test_equal_radii_give_the_voronoi_vertices_of_an_independent_code():
    lattice, frac, _ = crystal(5, 6)
    diagram = power_diagram(lattice, frac, np.full(6, 0.8))
    block = (frac[None] - np.floor(frac) + np.array(list(product(range(-3, 4), repeat=3)))[:, None]).reshape(-1, 3)
    vertices = Voronoi(block @ lattice).vertices @ np.linalg.inv(lattice)
    expected = vertices[np.all((vertices >= 0) & (vertices < 1), axis=1)]
    assert len(expected) == len(diagram.vertices)
    distances = np.linalg.norm((expected[:, None] - diagram.vertices[None]) @ lattice, axis=2)
    assert distances.min(axis=1).max() < 1e-9
    assert len(set(distances.argmin(axis=1).tolist())) == len(expected)


def test_a_covered_sphere_has_no_cell():
    diagram = power_diagram(5 * np.eye(3), [[0, 0, 0], [0.05, 0, 0], [0.5, 0.5, 0.5]], [1.5, 0.1, 0.7])
    assert diagram.cells.tolist() == [0, 2]
    assert diagram.euler_characteristic == 0


def test_a_sheared_setting_of_the_cell_changes_nothing():
    lattice, frac, radii = crystal(11, 5)
    shear = np.array([[1, 0, 0], [5, 1, 0], [-3, 4, 1]])
    one, other = power_diagram(lattice, frac, radii), power_diagram(shear @ lattice, frac @ np.linalg.inv(shear), radii)
    assert (len(one.vertices), len(one.edges), len(one.faces)) == (
        len(other.vertices), len(other.edges), len(other.faces),
    )  # fmt: skip
    np.testing.assert_allclose(np.sort(one.powers_A2), np.sort(other.powers_A2), atol=1e-9)
    for diagram in (one, other):
        steps = diagram.vertices[diagram.edges[:, 1]] + diagram.images - diagram.vertices[diagram.edges[:, 0]]
        lengths = np.sort(np.linalg.norm(steps @ diagram.lattice, axis=1))
        if diagram is one:
            expected = lengths
    np.testing.assert_allclose(lengths, expected, atol=1e-9)


def test_a_supercell_has_every_piece_as_often_as_the_cell():
    lattice, frac, radii = crystal(3, 4)
    shifts = np.array(list(product(range(2), range(1), range(3))))
    many = ((frac[None] + shifts[:, None]) / np.array([2, 1, 3])).reshape(-1, 3)
    one = power_diagram(lattice, frac, radii)
    six = power_diagram(np.diag([2, 1, 3]) @ lattice, many, np.tile(radii, 6))
    assert len(six.vertices) == 6 * len(one.vertices)
    assert len(six.edges) == 6 * len(one.edges)
    assert len(six.faces) == 6 * len(one.faces)


@pytest.mark.parametrize("noise_A", [1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_coordinates_next_to_a_symmetric_crystal_still_give_a_complex(noise_A):
    """Rocksalt anions, where eight spheres nearly meet: whatever the noise, the pieces have to fit."""
    random = np.random.default_rng(1)
    points = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    diagram = power_diagram(4.0 * np.eye(3), points + random.uniform(-1, 1, (4, 3)) * noise_A / 4, np.full(4, 1.1))
    assert diagram.euler_characteristic == 0
    groups, _ = coincident(diagram.vertices, diagram.lattice, 0.02)
    # Octahedral and tetrahedral voids of the cell are found; vertices with four spheres in a plane may lie between.
    for void in ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0.75, 0.25, 0.25]):
        offset = diagram.vertices - void
        assert np.linalg.norm((offset - np.rint(offset)) @ diagram.lattice, axis=1).min() < 0.01 + 20 * noise_A
    assert groups.max() + 1 >= 12


def test_symmetrized_coordinates_give_the_symmetric_complex():
    random = np.random.default_rng(2)
    points = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    lattice = 4.0 * np.eye(3) + random.uniform(-1, 1, (3, 3)) * 1e-4
    found = symmetric_framework(lattice, points + 0.123 + random.uniform(-1, 1, (4, 3)) * 1e-4, np.zeros(4), 0.01)
    assert len(found.rotations) == 192
    assert found.largest_shift_A < 1e-3
    diagram = power_diagram(found.lattice, found.frac_coords, np.full(4, 1.1))
    assert (len(diagram.vertices), len(diagram.edges), len(diagram.faces)) == (12, 32, 24)
    assert sorted(np.bincount(found.orbits_of(diagram.vertices, 1e-6)).tolist()) == [4, 8]
    assert sorted(len(spheres) for spheres in diagram.vertex_spheres) == [4] * 8 + [6] * 4


def test_nothing_to_divide():
    with pytest.raises(StructureError, match="Nothing is left"):
        power_diagram(np.eye(3), np.empty((0, 3)), [])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), atoms=st.integers(1, 6))
def test_clearance_of_points_and_segments_is_that_of_brute_force(seed, atoms):
    lattice, frac, radii = crystal(seed, atoms)
    clearance = SphereClearance(lattice, frac, radii)
    random = np.random.default_rng(seed)
    points = random.uniform(-2, 2, (15, 3))
    centres = ((frac - np.floor(frac))[:, None] + CELLS[None]) @ lattice
    for point, found, limiting in zip(points, *clearance.at(points), strict=True):
        room = np.linalg.norm(centres - (point - np.floor(point)) @ lattice, axis=2).min(axis=1) - radii
        assert found == pytest.approx(room.min(), abs=1e-9)
        assert room[limiting] == pytest.approx(room.min(), abs=1e-9)
    ends = points + random.normal(0, 0.3, points.shape)
    least, places, limiting = clearance.narrowest(points, ends)
    np.testing.assert_allclose(clearance.at(places)[0], least, atol=1e-9)
    for start, end, radius in zip(points, ends, least, strict=True):
        steps = np.linspace(0, 1, 501)[:, None]
        sampled = clearance.at(start + steps * (end - start))[0]
        assert radius <= sampled.min() + 1e-9
        # Between samples a clearance changes by no more than half their distance.
        assert radius >= sampled.min() - np.linalg.norm((end - start) @ lattice) / 1000 - 1e-9


def test_clearance_of_a_sparse_crystal():
    """One small atom in a large cell: the block of images has to grow on its own."""
    clearance = SphereClearance(30 * np.eye(3), [[0, 0, 0]], [0.5])
    assert clearance.at([[0.5, 0.5, 0.5]])[0][0] == pytest.approx(15 * np.sqrt(3) - 0.5)
    least, place, _ = clearance.narrowest([[0.5, 0.5, 0.5]], [[1.5, 0.5, 0.5]])
    assert least[0] == pytest.approx(15 * np.sqrt(2) - 0.5)
    assert place[0] == pytest.approx([1.0, 0.5, 0.5])
