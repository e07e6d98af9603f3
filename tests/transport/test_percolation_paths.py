"""Percolation paths: what a path must be, brute force over closed walks, and named stops."""

from __future__ import annotations

import heapq
from itertools import product

import numpy as np
import pytest
from hopflow.transport.path_stops import PathStop, find_stops, name_stops
from hopflow.transport.percolation import neighbour_offsets, percolate_graph, percolate_grid
from hopflow.transport.percolation_paths import (
    PercolationPath,
    percolation_paths,
    percolation_paths_on_graph,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

INF = float("inf")
TRICLINIC = np.array([[4.0, 0.0, 0.0], [1.1, 3.7, 0.0], [-0.8, 0.6, 5.1]])


@st.composite
def fields(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    values = random.random(shape)
    if draw(st.booleans()):
        values = np.round(values, 1)  # many equal energies
    values[random.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.6]))] = INF
    return values


def folded(path: PercolationPath, shape: tuple[int, ...]) -> np.ndarray:
    """Unrolled grid indices of a path's points."""
    unrolled = path.frac_coords * np.array(shape)
    np.testing.assert_allclose(unrolled, np.rint(unrolled), atol=1e-9)
    return np.rint(unrolled).astype(int)


def groups_below(
    values: np.ndarray, level: float, offsets: np.ndarray
) -> tuple[dict[tuple[int, int, int], int], dict[int, list[np.ndarray]]]:
    """Component of every voxel at or below a level, and all translations of closed loops in each (no union-find)."""
    shape = np.array(values.shape)
    lift: dict[tuple[int, int, int], np.ndarray] = {}
    member: dict[tuple[int, int, int], int] = {}
    translations: dict[int, list[np.ndarray]] = {}
    for number, start in enumerate(map(tuple, np.argwhere(values <= level))):
        if start in lift:
            continue
        lift[start], member[start], translations[number] = np.array(start), number, [np.zeros(3, dtype=int)]
        todo = [start]
        while todo:
            voxel = todo.pop()
            for offset in offsets:
                unrolled = lift[voxel] + offset
                place = tuple(int(x) for x in unrolled % shape)
                if values[place] > level:
                    continue
                if place in lift:
                    translations[number].append((unrolled - lift[place]) // shape)
                else:
                    lift[place], member[place] = unrolled, number
                    todo.append(place)
    return member, translations


def lowest_levels(values: np.ndarray, threshold: float, inside: tuple[int, ...], neighbours: int) -> list[float]:
    """Levels at which the loops of the component round a voxel span one, two, three directions, tried one by one."""
    offsets = neighbour_offsets(neighbours, values.shape)
    component, _ = groups_below(values, threshold, offsets)
    masked = np.where([[[component.get((i, j, k)) == component[inside] for k in range(values.shape[2])]
                        for j in range(values.shape[1])] for i in range(values.shape[0])], values, INF)  # fmt: skip
    levels: list[float] = []
    for level in np.unique(masked[masked <= threshold]):
        _, translations = groups_below(masked, level, offsets)
        rank = np.linalg.matrix_rank(np.array([t for group in translations.values() for t in group]))
        levels += [float(level)] * (int(rank) - len(levels))
    return levels


@settings(max_examples=80, deadline=None)
@given(values=fields(), neighbours=st.sampled_from([6, 18, 26]), dimension=st.integers(1, 3))
def test_paths_are_what_they_claim(values: np.ndarray, neighbours: int, dimension: int) -> None:
    lattice = np.diag([4.0, 3.0, 5.0])
    percolation = percolate_grid(values, neighbours, lattice)
    threshold = percolation.thresholds_eV[dimension - 1]
    paths = percolation_paths(values, dimension, lattice, neighbours)
    if threshold == INF:
        assert paths == []
        return
    assert len(paths) == dimension
    assert np.linalg.matrix_rank(np.array([path.translation for path in paths])) == dimension
    assert max(path.energies_eV.max() for path in paths) == threshold
    offsets = set(map(tuple, neighbour_offsets(neighbours, values.shape)))
    visited: list[set[tuple[int, ...]]] = []
    for path in paths:
        points = folded(path, values.shape)
        np.testing.assert_array_equal(points[-1] - points[0], np.array(path.translation) * values.shape)
        assert {tuple(step) for step in np.diff(points, axis=0)} <= offsets
        places = points % values.shape
        np.testing.assert_array_equal(path.energies_eV, values[tuple(places.T)])
        assert path.energies_eV[path.bottleneck_index] == path.energies_eV.max() == path.level_eV
        assert path.energies_eV[0] == path.energies_eV.min()
        assert path.length_A == pytest.approx(np.linalg.norm(np.diff(path.frac_coords, axis=0) @ lattice, axis=1).sum())
        visited.append(set(map(tuple, places)))
    for k in range(1, dimension):
        assert visited[k] & set().union(*visited[:k])  # joined to those before


@settings(max_examples=50, deadline=None)
@given(values=fields(), neighbours=st.sampled_from([6, 26]), dimension=st.integers(1, 3))
def test_each_path_has_the_lowest_possible_level(values: np.ndarray, neighbours: int, dimension: int) -> None:
    lattice = np.eye(3)
    percolation = percolate_grid(values, neighbours, lattice)
    voxel = percolation.bottleneck[dimension - 1]
    if voxel is None:
        return
    inside = tuple(int(x) for x in np.unravel_index(voxel, values.shape))
    threshold = percolation.thresholds_eV[dimension - 1]
    expected = lowest_levels(values, threshold, inside, neighbours)[:dimension]
    paths = percolation_paths(values, dimension, lattice, neighbours)
    found = [path.level_eV for path in paths]
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    for level, least in zip(found[1:], expected[1:], strict=True):
        # A loop is as low as it can be, or was led over a link to the others.
        assert least - 1e-12 <= level <= threshold
    if len(set(expected)) == 1:
        assert found == pytest.approx(expected, abs=1e-6)


def cheapest_loop_by_unrolling(values: np.ndarray, start: tuple[int, ...], level: float, lattice: np.ndarray) -> float:
    """Cost of the cheapest way from a voxel to any image of it in a block of 7 x 7 x 7 cells, with the stated cost."""
    shape = np.array(values.shape)
    offsets = neighbour_offsets(26, values.shape, lattice)
    lengths = np.linalg.norm(offsets / shape @ lattice, axis=1)
    inside, _ = groups_below(values, level, offsets)
    lowest = min(float(values[place]) for place, number in inside.items() if number == inside[start])
    scale = max((level - lowest) / 10, 1e-3)
    distance = {start: 0.0}
    heap = [(0.0, start)]
    while heap:
        cost, place = heapq.heappop(heap)
        if cost > distance[place]:
            continue
        if place != start and tuple(int(x) for x in np.array(place) % shape) == start:
            return cost
        for offset, length in zip(offsets, lengths, strict=True):
            target = np.array(place) + offset
            if (np.abs(target // shape) > 3).any():
                continue
            high = max(values[tuple(np.array(place) % shape)], values[tuple(target % shape)])
            if high > level:
                continue
            total = cost + length * (np.exp((high - level) / scale) + 1e-4)
            key = tuple(int(x) for x in target)
            if total < distance.get(key, INF):
                distance[key] = total
                heapq.heappush(heap, (total, key))
    return INF


@pytest.mark.parametrize("seed", range(12))
def test_the_path_is_the_cheapest_of_all_closed_walks_through_the_bottleneck(seed: int) -> None:
    values = np.random.default_rng(seed).random((4, 3, 4))
    percolation = percolate_grid(values, lattice=TRICLINIC)
    threshold = percolation.thresholds_eV[0]
    (path,) = percolation_paths(values, 1, TRICLINIC)
    start = tuple(int(x) for x in np.unravel_index(percolation.bottleneck[0], values.shape))
    assert start in set(map(tuple, folded(path, values.shape) % values.shape))
    lowest = percolation.component_minimum_eV[0]
    scale = max((threshold - lowest) / 10, 1e-3)
    steps = np.linalg.norm(np.diff(path.frac_coords, axis=0) @ TRICLINIC, axis=1)
    heights = np.maximum(path.energies_eV[:-1], path.energies_eV[1:])
    cost = float((steps * (np.exp((heights - threshold) / scale) + 1e-4)).sum())
    assert cost == pytest.approx(cheapest_loop_by_unrolling(values, start, threshold, TRICLINIC))


def test_a_straight_channel_gives_its_straight_path() -> None:
    values = np.full((8, 6, 6), 3.0)
    values[:, 2, 4] = [0.0, 0.1, 0.4, 0.1, 0.05, 0.2, 0.5, 0.2]
    (path,) = percolation_paths(values, 1, np.diag([8.0, 6.0, 6.0]))
    assert path.translation in ((1, 0, 0), (-1, 0, 0))
    assert path.length_A == pytest.approx(8.0)
    assert path.barrier_eV == pytest.approx(0.5)
    np.testing.assert_allclose(path.frac_coords[path.bottleneck_index] % 1, [6 / 8, 2 / 6, 4 / 6])
    assert [round(stop.energy_eV, 9) for stop in path.stops] == [0.0, 0.05]
    barriers = [stop.barrier_eV for stop in path.stops]
    forward = path.translation[0] > 0
    assert barriers == pytest.approx([0.4, 0.45] if forward else [0.5, 0.35])


def test_channels_joined_by_a_bridge_come_with_the_bridge() -> None:
    values = np.full((8, 8, 8), 5.0)
    values[:, 2, 1] = 0.1
    values[2, :, 5] = 0.2
    assert [path.level_eV for path in percolation_paths(values, 2, np.eye(3) * 8)] == [0.1, 5.0]
    values[2, 2, 2:5] = 0.7
    first, second = percolation_paths(values, 2, np.eye(3) * 8)
    assert (first.level_eV, second.level_eV) == (0.1, 0.7)
    assert {tuple(np.abs(path.translation)) for path in (first, second)} == {(1, 0, 0), (0, 1, 0)}
    assert first.length_A == pytest.approx(8.0)
    # From one channel to the other (four steps), along it, and back; a corner saves a part of a step each time.
    assert 8.0 + 2 * 3.0 < second.length_A <= 8.0 + 2 * 4.0
    assert (2, 2, 3) in set(map(tuple, folded(second, values.shape) % 8))


def test_a_flat_field_and_a_single_voxel() -> None:
    for shape in ((1, 1, 1), (3, 2, 4)):
        paths = percolation_paths(np.zeros(shape), 3, np.eye(3) * 3)
        assert len(paths) == 3
        assert sum(path.length_A for path in paths) == pytest.approx(9.0)
        assert all(path.stops == (PathStop(0, 0.0, 0.0),) for path in paths)


def test_no_path_where_nothing_percolates() -> None:
    values = np.full((4, 4, 4), INF)
    assert percolation_paths(values, 1, np.eye(3)) == []
    values[:, 0, 0] = 1.0
    assert len(percolation_paths(values, 1, np.eye(3))) == 1
    assert percolation_paths(values, 2, np.eye(3)) == []
    with pytest.raises(ValueError, match="dimension"):
        percolation_paths(values, 4, np.eye(3))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.tuples(*[st.integers(0, 9)] * 3), dimension=st.integers(1, 3))
def test_the_origin_does_not_matter(seed: int, shift: tuple[int, int, int], dimension: int) -> None:
    values = np.random.default_rng(seed).random((4, 5, 3))
    expected = percolation_paths(values, dimension, TRICLINIC)
    moved = percolation_paths(np.roll(values, shift, axis=(0, 1, 2)), dimension, TRICLINIC)
    assert [path.level_eV for path in moved] == [path.level_eV for path in expected]
    assert [path.length_A for path in moved] == pytest.approx([path.length_A for path in expected])


def random_graph(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    nodes, edges = int(random.integers(1, 6)), int(random.integers(0, 14))
    return (
        random.random(nodes),
        random.integers(nodes, size=(edges, 2)),
        random.integers(-1, 2, size=(edges, 3)),
        random.random(edges) * 2,
    )


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), dimension=st.integers(1, 3))
def test_paths_on_a_graph(seed: int, dimension: int) -> None:
    nodes, edges, images, heights = random_graph(seed)
    percolation = percolate_graph(nodes, edges, images, heights)
    paths = percolation_paths_on_graph(nodes, edges, images, heights, dimension)
    threshold = percolation.thresholds_eV[dimension - 1]
    if threshold == INF:
        assert paths == []
        return
    raised = np.maximum(heights, nodes[edges].max(axis=1))
    assert np.linalg.matrix_rank(np.array([path.translation for path in paths])) == dimension
    assert max(path.level_eV for path in paths) == threshold
    for path in paths:
        assert path.level_eV == raised[path.edges].max() == raised[path.edges[path.bottleneck_index]]
        starts = np.where(path.forward, edges[path.edges, 0], edges[path.edges, 1])
        ends = np.where(path.forward, edges[path.edges, 1], edges[path.edges, 0])
        np.testing.assert_array_equal(path.nodes[:-1], starts)
        np.testing.assert_array_equal(path.nodes[1:], ends)
        moves = images[path.edges] * np.where(path.forward, 1, -1)[:, None]
        np.testing.assert_array_equal(np.diff(path.cells, axis=0), moves)
        np.testing.assert_array_equal(path.cells[-1] - path.cells[0], path.translation)


def test_the_shorter_of_two_chains_of_one_height_is_taken() -> None:
    edges, images = [[0, 1], [1, 2], [2, 0], [2, 2]], [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    lengths = np.array([1.0, 1.0, 1.0, 4.0])
    (chain,) = percolation_paths_on_graph([0.0, 0.1, 0.2], edges, images, [0.5] * 4, 1, lengths)
    assert sorted(chain.edges) == [0, 1, 2]
    (hop,) = percolation_paths_on_graph([0.0, 0.1, 0.2], edges, images, [0.5] * 4, 1, lengths / [1, 1, 1, 2])
    assert hop.edges.tolist() == [3]


# -- stops -------------------------------------------------------------------------------------------------------------


def test_stops_of_a_profile() -> None:
    profile = np.array([0.0, 0.3, 0.2, 0.21, 0.5, 0.1, 0.1, 0.1, 0.4, 0.0])
    assert [(stop.index, stop.energy_eV) for stop in find_stops(profile)] == [(0, 0.0), (2, 0.2), (6, 0.1)]
    assert [stop.barrier_eV for stop in find_stops(profile)] == pytest.approx([0.3, 0.3, 0.3])
    deep = find_stops(profile, 0.15)
    assert [stop.index for stop in deep] == [0, 6]
    assert [stop.barrier_eV for stop in deep] == pytest.approx([0.5, 0.3])
    assert find_stops(np.array([1.0, 1.0, 1.0])) == (PathStop(0, 1.0, 0.0),)
    # The profile is a ring: a dip across its seam is one dip.
    assert [stop.index for stop in find_stops(np.array([0.1, 0.5, 0.6, 0.1, 0.1]))] == [3]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=14), st.integers(0, 3))
def test_stops_are_minima_between_passes(steps: list[int], depth: int) -> None:
    ring = np.array(steps, dtype=float)
    stops = find_stops(np.append(ring, ring[0]), depth)
    assert ring.min() in [stop.energy_eV for stop in stops]
    assert [stop.index for stop in stops] == sorted({stop.index for stop in stops})
    # Along the ring from each stop the highest point is where it says; all rises between two stops are deep enough.
    for k, stop in enumerate(stops):
        end = stops[(k + 1) % len(stops)].index
        way = [stop.index]
        while len(way) == 1 or way[-1] != end:
            way.append((way[-1] + 1) % len(ring))
        assert stop.barrier_eV == max(ring[i] for i in way) - stop.energy_eV
        if len(stops) > 1:
            assert stop.barrier_eV >= depth
            assert stop.barrier_eV + stop.energy_eV - stops[(k + 1) % len(stops)].energy_eV >= depth


def test_stops_get_the_names_of_the_sites() -> None:
    structure = Structure(
        Lattice(TRICLINIC),
        [{"Li": 0.4, "Na": 0.3}, "O", "Li"],
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 0.0]],
        labels=["M1", "O1", "Li"],
    )
    values = np.full((16, 4, 4), 9.0)
    x = np.arange(16)
    values[:, 0, 0] = -np.cos(2 * np.pi * x / 8) * 0.2 + np.where(x == 4, -0.6, 0.0)
    (path,) = percolation_paths(values, 1, TRICLINIC)
    named = name_stops(path, structure, "Li", max_distance_A=0.3)
    by_place = {round(stop.frac_coords[0] % 1, 6): stop for stop in named}
    assert sorted(by_place) == [0.0, 0.25, 0.5]
    assert (by_place[0.0].label, by_place[0.0].site_index) == ("M1", 0)
    assert (by_place[0.5].label, by_place[0.5].site_index) == ("Li2", 2)
    middle = by_place[0.25]
    assert (middle.label, middle.site_index, middle.image) == ("interstice", None, None)
    assert (by_place[0.0].members, middle.members) == ((0,), ())
    assert middle.distance_A == pytest.approx(1.0)
    for stop in named:
        if stop.site_index is not None:
            place = structure.frac_coords[stop.site_index] + stop.image
            assert np.linalg.norm((place - stop.frac_coords) @ TRICLINIC) == pytest.approx(stop.distance_A, abs=1e-9)


def test_split_positions_are_one_site() -> None:
    # Two positions 0.5 Angstrom apart share one ion; a third is a site of its own.
    places = [[0.0, 0.0, 0.0], [0.125, 0.0, 0.0], [0.6, 0.0, 0.0]]
    structure = Structure(Lattice(TRICLINIC), [{"Li": 0.5}, {"Li": 0.5}, "Li"], places)
    points = np.array([[0.11, 0.0, 0.0], [0.6, 0.0, 0.0], [1.11, 0.0, 0.0]])
    stops = (PathStop(0, 0.0, 0.0), PathStop(1, 0.0, 0.0))
    first, second = name_stops(PercolationPath(points, np.zeros(3), (1, 0, 0), 1.0, 0, stops), structure, "Li")
    assert (first.site_index, first.members, first.label) == (1, (0, 1), "Li2")
    assert (second.site_index, second.members) == (2, (2,))
    away = name_stops(PercolationPath(points, np.zeros(3), (1, 0, 0), 1.0, 0, stops), structure, "Na")
    assert {(stop.label, stop.distance_A) for stop in away} == {("interstice", INF)}


def test_images_of_named_sites_are_the_nearest_ones() -> None:
    random = np.random.default_rng(5)
    structure = Structure(Lattice(TRICLINIC), ["Li"] * 3, random.random((3, 3)))
    points = random.random((20, 3)) * 4 - 2
    path = PercolationPath(points, np.zeros(20), (1, 0, 0), 1.0, 0, tuple(PathStop(k, 0.0, 0.0) for k in range(20)))
    shells = np.array(list(product(range(-5, 6), repeat=3)))
    for named in name_stops(path, structure, "Li", max_distance_A=99.0):
        images = (structure.frac_coords[:, None] + shells - np.array(named.frac_coords)) @ TRICLINIC
        assert named.distance_A == pytest.approx(np.linalg.norm(images, axis=-1).min())
        place = structure.frac_coords[named.site_index] + np.array(named.image)
        assert np.linalg.norm((place - named.frac_coords) @ TRICLINIC) == pytest.approx(named.distance_A)
