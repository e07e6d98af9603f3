"""Crystal graphs for ALIGNN: edges against brute force, angles, what a path's graph holds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import crystals
import numpy as np
import pytest
from alignn_paths import rock_salt, vacancy_path
from hopflow.learning.alignn_graphs import (
    AtomGraph,
    build_graph,
    element_categories,
    path_structures,
    structure_graph,
)
from hopflow.learning.elements import element_table
from hopflow.transport.errors import CandidateError, StructureError
from hypothesis import given, settings
from hypothesis import strategies as st


def brute_force(lattice: np.ndarray, frac: np.ndarray, neighbours: int) -> list[tuple[int, int, tuple[float, ...]]]:
    """Edges found by looking at all copies in many cells: beginning, end, rounded vector."""
    chosen = set()
    shifts = np.array(list(itertools.product(range(-5, 6), repeat=3)))
    for i in range(len(frac)):
        found = []
        for j in range(len(frac)):
            vectors_A = (frac[j] + shifts - frac[i]) @ lattice
            found += [
                (float(np.linalg.norm(vector)), j, tuple(shift))
                for vector, shift in zip(vectors_A, shifts.tolist(), strict=True)
                if i != j or any(shift)
            ]
        found.sort()
        farthest = found[neighbours - 1][0] + 1e-3
        for distance, j, shift in found:
            if distance <= farthest:
                chosen.add((i, j, shift))
                chosen.add((j, i, tuple(-s for s in shift)))
    return sorted((i, j, tuple(np.round((frac[j] + shift - frac[i]) @ lattice, 3) + 0.0)) for i, j, shift in chosen)


def edges_of(graph: AtomGraph) -> list[tuple[int, int, tuple[float, ...]]]:
    centres = np.repeat(np.arange(len(graph.degree)), graph.degree)
    vectors = np.round(graph.vectors_A.astype(float), 3) + 0.0
    return sorted(zip(centres.tolist(), graph.neighbours.tolist(), map(tuple, vectors), strict=True))


def assert_same_edges(found: list, expected: list) -> None:
    assert [edge[:2] for edge in found] == [edge[:2] for edge in expected]
    # rounding may put equal vectors in another order within a pair of atoms
    by_pair: dict[tuple[int, int], list[list]] = {}
    for which, edges in enumerate((found, expected)):
        for i, j, vector in edges:
            by_pair.setdefault((i, j), [[], []])[which].append(vector)
    for ours, theirs in by_pair.values():
        distance = np.abs(np.array(ours)[:, None, :] - np.array(theirs)[None, :, :]).max(axis=2)
        assert (distance.min(axis=1) < 2e-3).all()
        assert (distance.min(axis=0) < 2e-3).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), atoms=st.integers(1, 5))
def test_edges_are_those_of_brute_force_in_any_cell(seed, atoms):
    generator = np.random.default_rng(seed)
    lattice = np.diag(generator.uniform(3.0, 5.0, 3)) + generator.uniform(-0.8, 0.8, (3, 3))
    # atoms given outside the cell as well
    frac = generator.uniform(-1.5, 1.5, (atoms, 3))
    graph = build_graph(lattice, frac, np.zeros(atoms, dtype=np.int64), 6)
    assert_same_edges(edges_of(graph), brute_force(lattice, frac, 6))


def test_neighbours_agree_with_pymatgen():
    structure = crystals.iron_phosphate()
    graph = structure_graph(structure)
    within = structure.get_all_neighbors(6.0)
    for site, (near, begin, degree) in enumerate(
        zip(within, np.cumsum(graph.degree) - graph.degree, graph.degree, strict=True)
    ):
        distances_A = np.sort(np.linalg.norm(graph.vectors_A[begin : begin + degree], axis=1))
        expected_A = np.sort([neighbour.nn_distance for neighbour in near])[:12]
        assert degree >= 12
        assert distances_A[:1] == pytest.approx(expected_A[:1], abs=1e-3)
        # its own choice is among the edges, and what else there is was chosen by the other end
        for distance_A in expected_A:
            assert np.abs(distances_A - distance_A).min() < 1e-3, site


def test_every_edge_has_its_reverse():
    graph = structure_graph(crystals.lithium_nitride())
    centres = np.repeat(np.arange(len(graph.degree)), graph.degree)
    assert (graph.reverse[graph.reverse] == np.arange(len(centres))).all()
    assert (centres[graph.reverse] == graph.neighbours).all()
    assert np.allclose(graph.vectors_A[graph.reverse], -graph.vectors_A)
    assert len(centres) == graph.degree.sum()


def test_a_whole_shell_is_chosen():
    """In rock salt the twelfth neighbour belongs to a shell of twelve behind one of six."""
    graph = structure_graph(rock_salt())
    assert (graph.degree == 18).all()


def test_a_part_keeps_the_edges_between_its_atoms():
    graph = structure_graph(crystals.iron_phosphate())
    keep = np.random.default_rng(0).random(len(graph.atom_rows)) < 0.6
    part = graph.part(keep)
    number = np.cumsum(keep) - 1
    expected = [(number[i], number[j], vector) for i, j, vector in edges_of(graph) if keep[i] and keep[j]]
    assert edges_of(part) == sorted(expected)
    centres = np.repeat(np.arange(len(part.degree)), part.degree)
    assert (centres[part.reverse] == part.neighbours).all()
    assert np.allclose(part.vectors_A[part.reverse], -part.vectors_A)


def test_the_band_holds_five_images_and_the_ends_one_each():
    path = vacancy_path()
    found = path_structures(path, ends=True, surroundings_A=3.0)
    atoms, ion = len(path.framework_species), element_table().rows(["Li"])[0]
    assert found.band is not None
    assert found.ends is not None
    assert found.surroundings is not None
    assert len(found.band.atom_rows) == atoms + 5
    assert (found.band.atom_rows[:5] == ion).all()
    assert [len(end.atom_rows) for end in found.ends] == [atoms + 1] * 2
    assert 5 < len(found.surroundings.atom_rows) < atoms + 5
    # neighbouring images are an edge apart
    centres = np.repeat(np.arange(len(found.band.degree)), found.band.degree)
    between = (centres == 0) & (found.band.neighbours == 1)
    assert np.linalg.norm(found.band.vectors_A[between], axis=1).min() == pytest.approx(path.length_A / 4, abs=1e-4)


def test_a_path_with_other_images_is_resampled():
    path = vacancy_path()
    fewer = replace(path, path_frac_coords=path.path_frac_coords[[0, 4]])
    first, second = (path_structures(each).band for each in (path, fewer))
    assert first is not None
    assert second is not None
    assert_same_edges(edges_of(first), edges_of(second))


def test_an_ion_written_twice_is_counted_once():
    path = vacancy_path()
    whole = path_structures(path).band
    # one of them in the next cell, which is the same place
    ends = path.path_frac_coords[[0, -1]] + [[1e-4, 0.0, 0.0], [1.0, 0.0, -1.0]]
    doubled = replace(
        path,
        framework_species=(*path.framework_species, path.ion, path.ion),
        framework_frac_coords=np.concatenate([path.framework_frac_coords, ends]),
    )
    again = path_structures(doubled).band
    assert whole is not None
    assert again is not None
    assert len(again.atom_rows) == len(whole.atom_rows)
    assert_same_edges(edges_of(again), edges_of(whole))


def test_another_atom_on_an_end_is_refused():
    path = vacancy_path()
    blocked = replace(
        path,
        framework_species=(*path.framework_species, "Cl"),
        framework_frac_coords=np.concatenate([path.framework_frac_coords, path.path_frac_coords[:1] + 1.0]),
    )
    with pytest.raises(StructureError, match="end of the path LiCl_1"):
        path_structures(blocked)


def test_the_cutoff_keeps_what_is_near_the_path():
    path = vacancy_path()
    near = path_structures(path, framework_cutoff_A=4.0, ends=True)
    far = path_structures(path, framework_cutoff_A=30.0)
    whole = path_structures(path)
    assert near.band is not None
    assert near.ends is not None
    assert far.band is not None
    assert whole.band is not None
    framework_A = path.framework_frac_coords[:, None, :] - path.path_frac_coords[None, :, :]
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    distances_A = np.linalg.norm((framework_A[:, :, None, :] + shifts) @ path.lattice, axis=3).min(axis=(1, 2))
    assert len(near.band.atom_rows) == (distances_A <= 4.0).sum() + 5
    # both ends lose the same atoms
    assert [len(end.atom_rows) for end in near.ends] == [(distances_A <= 4.0).sum() + 1] * 2
    assert edges_of(far.band) == edges_of(whole.band)


def test_an_image_right_on_an_atom_does_no_harm():
    path = vacancy_path()
    through = replace(
        path,
        framework_species=(*path.framework_species, "Cl"),
        framework_frac_coords=np.concatenate([path.framework_frac_coords, path.path_frac_coords[2:3]]),
    )
    band = path_structures(through).band
    assert band is not None
    assert np.isfinite(band.vectors_A).all()
    assert (np.linalg.norm(band.vectors_A, axis=1) < 1e-5).sum() == 2


def test_what_is_no_crystal_is_refused():
    with pytest.raises(StructureError, match="volume"):
        build_graph(np.zeros((3, 3)), np.zeros((1, 3)), np.zeros(1, dtype=np.int64))
    with pytest.raises(StructureError, match="atoms"):
        build_graph(np.eye(3) * 4.0, np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    path = vacancy_path()
    with pytest.raises(CandidateError, match="descriptors"):
        path_structures(replace(path, framework_species=("Xx",) * len(path.framework_species)))


def test_categories_are_one_hot_and_tell_elements_apart():
    categories = element_categories()
    elements = len(element_table().symbols)
    assert categories.shape == (elements, 93)
    assert set(np.unique(categories)) == {0.0, 1.0}
    bounds = np.cumsum([0, 18, 9, 10, 10, 12, 10, 10, 4, 10])
    groups = [categories[:, a:b].sum(axis=1) for a, b in itertools.pairwise(bounds)]
    # only the molar volume is unknown for some
    assert all((group == 1.0).all() for group in groups[:-1])
    assert groups[-1].max() == 1.0
    assert len(np.unique(categories, axis=0)) > 0.9 * elements
    lithium, fluorine = element_table().rows(["Li", "F"])
    assert categories[lithium, 0] == 1.0
    assert categories[fluorine, 16] == 1.0
