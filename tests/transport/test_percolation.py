"""Exactness of percolation: brute force on the covering lattice, known fields, and invariances."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hopflow.transport.errors import NonFiniteEnergyError
from hopflow.transport.percolation import level_map, neighbour_offsets, percolate_graph, percolate_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

INF = float("inf")


def components_by_lifting(allowed: np.ndarray, neighbours: int = 26) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """Rank and voxels of each component, by breadth-first search that unrolls the crystal (no union-find)."""
    shape = np.array(allowed.shape)
    offsets = neighbour_offsets(neighbours, allowed.shape)
    lift: dict[tuple[int, int, int], np.ndarray] = {}
    found = []
    for start in map(tuple, np.argwhere(allowed)):
        if start in lift:
            continue
        lift[start] = np.array(start)
        queue, members, translations = deque([start]), [start], []
        while queue:
            voxel = queue.popleft()
            for offset in offsets:
                unrolled = lift[voxel] + offset
                folded = tuple(int(i) for i in unrolled % shape)
                if not allowed[folded]:
                    continue
                if folded in lift:
                    translations.append((unrolled - lift[folded]) // shape)
                else:
                    lift[folded] = unrolled
                    members.append(folded)
                    queue.append(folded)
        unique = np.unique(np.array([*translations, [0, 0, 0]]), axis=0)
        found.append((int(np.linalg.matrix_rank(unique)), members))
    return found


def thresholds_by_scan(values: np.ndarray, neighbours: int = 26) -> tuple[list[float], list[set[float]]]:
    """Thresholds by trying every level; and the minima of the components that reach each rank there."""
    thresholds, minima = [INF] * 3, [set(), set(), set()]
    for level in np.unique(values[np.isfinite(values)]):
        components = components_by_lifting(values <= level, neighbours)
        for dimension in range(3):
            if thresholds[dimension] == INF:
                reached = [members for rank, members in components if rank > dimension]
                if reached:
                    thresholds[dimension] = float(level)
                    minima[dimension] = {min(float(values[m]) for m in members) for members in reached}
        if thresholds[2] < INF:
            break
    return thresholds, minima


small_fields = st.tuples(*[st.integers(1, 4)] * 3).flatmap(
    lambda shape: arrays(float, shape, elements=st.sampled_from([*np.linspace(0, 2, 9), INF]))
)


@settings(max_examples=80, deadline=None)
@given(values=small_fields, neighbours=st.sampled_from([6, 18, 26]))
def test_matches_a_level_by_level_scan(values: np.ndarray, neighbours: int) -> None:
    result = percolate_grid(values, neighbours=neighbours)
    thresholds, minima = thresholds_by_scan(values, neighbours)
    assert list(result.thresholds_eV) == thresholds
    for dimension in range(3):
        if thresholds[dimension] < INF:
            assert result.component_minimum_eV[dimension] in minima[dimension]
            assert values.ravel()[result.bottleneck[dimension]] == thresholds[dimension]
        else:
            assert result.bottleneck[dimension] is None


@pytest.mark.parametrize("seed", range(4))
def test_matches_the_scan_on_a_sparse_field_of_winding_channels(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.random((7, 6, 5))
    values[random.random(values.shape) < 0.6] = INF
    assert list(percolate_grid(values, neighbours=6).thresholds_eV) == thresholds_by_scan(values, neighbours=6)[0]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    repeats=st.tuples(*[st.integers(1, 3)] * 3),
    shift=st.tuples(*[st.integers(0, 9)] * 3),
    axes=st.permutations([0, 1, 2]),
)
def test_supercell_origin_and_axis_order_do_not_matter(
    seed: int, repeats: tuple[int, int, int], shift: tuple[int, int, int], axes: list[int]
) -> None:
    random = np.random.default_rng(seed)
    values = random.random((4, 5, 3))
    values[random.random(values.shape) < 0.3] = INF
    expected = percolate_grid(values)
    changed = percolate_grid(np.transpose(np.roll(np.tile(values, repeats), shift, axis=(0, 1, 2)), axes))
    assert changed.thresholds_eV == expected.thresholds_eV
    assert changed.component_minimum_eV == expected.component_minimum_eV
    assert changed.global_minimum_eV == expected.global_minimum_eV


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), flips=st.tuples(*[st.booleans()] * 3))
def test_mirrored_axes_do_not_matter(seed: int, flips: tuple[bool, bool, bool]) -> None:
    values = np.random.default_rng(seed).random((4, 5, 6))
    axes = tuple(axis for axis in range(3) if flips[axis])
    assert percolate_grid(np.flip(values, axes)).thresholds_eV == percolate_grid(values).thresholds_eV


def test_crossing_channels_that_do_not_touch_are_not_a_plane() -> None:
    values = np.full((8, 8, 8), 5.0)
    values[:, 2, 1] = 0.1
    values[2, :, 5] = 0.2
    result = percolate_grid(values)
    assert result.thresholds_eV == (0.1, 5.0, 5.0)
    values[2, 2, 2:5] = 0.7  # a bridge between them makes the plane
    assert percolate_grid(values).thresholds_eV == (0.1, 0.7, 5.0)


def test_a_diagonal_channel_is_one_dimensional() -> None:
    values = np.full((6, 6, 6), INF)
    for i in range(6):
        values[i, i, i] = 1.0
    result = percolate_grid(values)
    assert result.thresholds_eV == (1.0, INF, INF)
    assert result.dimension == 1
    assert percolate_grid(values, neighbours=6).dimension == 0


def test_a_channel_that_closes_only_after_three_cells_is_found() -> None:
    # y = 3x mod 9 on one period of x: the loop closes with translation (1, ...) only by winding along y as well.
    values = np.full((3, 9, 1), INF)
    for i in range(9):
        values[i // 3, i, 0] = 1.0
    result = percolate_grid(values, neighbours=18)
    assert result.thresholds_eV == (1.0, 1.0, INF)  # along the staircase, and along z through the single layer


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 2, 3)])
def test_one_or_two_voxels_a_side_reach_their_own_images(shape: tuple[int, int, int]) -> None:
    result = percolate_grid(np.zeros(shape))
    assert result.thresholds_eV == (0.0, 0.0, 0.0)
    blocked = np.zeros(shape)
    blocked[...] = INF
    assert percolate_grid(blocked).dimension == 0


def test_two_voxel_period_needs_both_voxels() -> None:
    values = np.array([0.0, 1.5]).reshape(2, 1, 1)
    assert percolate_grid(values, neighbours=6).thresholds_eV == (0.0, 0.0, 1.5)


def test_barriers_from_component_and_from_global_minimum() -> None:
    values = np.full((5, 5, 5), INF)
    values[:, 0, 0] = [1.0, 1.2, 1.3, 1.2, 1.1]
    values[2, 3, 3] = -2.0  # an isolated deep well
    result = percolate_grid(values)
    assert result.barriers_eV[0] == pytest.approx(0.3)
    assert result.barriers_from_global_minimum_eV[0] == pytest.approx(3.3)
    assert result.barriers_eV[1:] == (INF, INF)
    assert np.unravel_index(result.bottleneck[0], values.shape) == (2, 0, 0)
    assert np.unravel_index(result.component_minimum_node[0], values.shape) == (0, 0, 0)


def test_nan_is_refused() -> None:
    values = np.zeros((3, 3, 3))
    values[1, 1, 1] = np.nan
    with pytest.raises(NonFiniteEnergyError):
        percolate_grid(values)
    with pytest.raises(NonFiniteEnergyError):
        level_map(values)
    with pytest.raises(NonFiniteEnergyError):
        percolate_graph([0.0], [[0, 0]], [[1, 0, 0]], [np.nan])


def grid_as_graph(values: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = np.array(values.shape)
    edges, images = [], []
    for voxel in np.ndindex(*values.shape):
        for offset in neighbour_offsets(neighbours, values.shape):
            target = np.array(voxel) + offset
            edges.append([np.ravel_multi_index(voxel, shape), np.ravel_multi_index(target % shape, shape)])
            images.append(target // shape)
    return values.ravel(), np.array(edges), np.array(images)


@settings(max_examples=40, deadline=None)
@given(values=small_fields, neighbours=st.sampled_from([6, 26]))
def test_a_grid_seen_as_a_graph_gives_the_same_answer(values: np.ndarray, neighbours: int) -> None:
    nodes, edges, images = grid_as_graph(values, neighbours)
    as_graph = percolate_graph(nodes, edges, images, np.full(len(edges), -1.0))  # edges are raised to their nodes
    as_grid = percolate_grid(values, neighbours=neighbours)
    assert as_graph.thresholds_eV == as_grid.thresholds_eV
    assert as_graph.global_minimum_eV == as_grid.global_minimum_eV


def test_graph_of_one_site_that_hops_to_its_own_images() -> None:
    edges = [[0, 0]] * 3
    images = [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    result = percolate_graph([0.1], edges, images, [0.3, 0.5, 0.9])
    assert result.thresholds_eV == (0.3, 0.5, 0.9)
    assert result.barriers_eV == pytest.approx((0.2, 0.4, 0.8))
    assert result.bottleneck == (0, 1, 2)
    collinear = percolate_graph([0.0], edges, [[1, 1, 0], [-2, -2, 0], [3, 3, 0]], [0.3, 0.5, 0.9])
    assert collinear.thresholds_eV == (0.3, INF, INF)


def test_graph_without_edges_and_graph_of_disjoint_chains() -> None:
    empty = percolate_graph([0.0, 1.0], np.empty((0, 2)), np.empty((0, 3)), [])
    assert empty.dimension == 0
    chains = percolate_graph([0.0, 0.5], [[0, 0], [1, 1]], [[1, 0, 0], [0, 1, 0]], [1.0, 2.0])
    assert chains.thresholds_eV == (1.0, INF, INF)
    with pytest.raises(ValueError, match="outside"):
        percolate_graph([0.0], [[0, 1]], [[0, 0, 0]], [1.0])


def levels_by_relaxation(values: np.ndarray, seed: int, periodic: bool) -> np.ndarray:
    """Minimax levels by repeated sweeps until nothing changes (Bellman-Ford), an independent second way."""
    levels = np.full(values.shape, INF)
    levels.ravel()[seed] = values.ravel()[seed]
    while True:
        best = levels.copy()
        for offset in neighbour_offsets(26, values.shape):
            if periodic:
                moved = np.roll(levels, offset, axis=(0, 1, 2))
            else:
                padded = np.pad(levels, 1, constant_values=INF)
                moved = padded[tuple(slice(1 - o, 1 - o + n) for o, n in zip(offset, values.shape, strict=True))]
            best = np.minimum(best, np.maximum(moved, values))
        if np.array_equal(best, levels):
            return levels
        levels = best


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.tuples(*[st.integers(1, 6)] * 3), periodic=st.booleans())
def test_level_map_is_the_minimax_level(seed: int, shape: tuple[int, int, int], periodic: bool) -> None:
    random = np.random.default_rng(seed)
    values = random.random(shape)
    values[random.random(shape) < 0.4] = INF
    start = int(random.integers(values.size))
    values.ravel()[start] = 0.5
    expected = levels_by_relaxation(values, start, periodic)
    np.testing.assert_array_equal(level_map(values, start, periodic=periodic), expected)


def test_level_map_starts_at_the_global_minimum_and_refuses_a_forbidden_seed() -> None:
    values = np.array([0.0, 1.0, 0.2, 2.0]).reshape(4, 1, 1)
    assert level_map(values).ravel().tolist() == [0.0, 1.0, 1.0, 2.0]
    values[3] = INF
    assert level_map(values).ravel().tolist() == [0.0, 1.0, 1.0, INF]
    with pytest.raises(ValueError, match="forbidden"):
        level_map(values, seed=3)
    with pytest.raises(ValueError, match="outside"):
        level_map(values, seed=4)


def test_sheared_cell_counts_neighbours_in_its_reduced_basis() -> None:
    lattice = np.array([[4.0, 0, 0], [4.0, 4.0, 0], [0, 0, 4.0]])  # a square lattice in a sheared setting
    offsets = neighbour_offsets(6, (10, 10, 10), lattice)
    lengths = np.linalg.norm(offsets @ (lattice / 10), axis=1)
    assert lengths == pytest.approx(np.full(6, 0.4))
    assert sorted(map(tuple, neighbour_offsets(26, (10, 8, 5), np.diag([4.0, 3.0, 1.9])))) == sorted(
        map(tuple, neighbour_offsets(26, (10, 8, 5)))
    )


def test_sheared_setting_gives_the_same_thresholds() -> None:
    random = np.random.default_rng(3)
    square = random.random((6, 6, 6))
    i, j, k = np.indices(square.shape)
    sheared = square[(i + j) % 6, j, k]  # the same field on a' = a, b' = a + b
    lattice = np.array([[3.0, 0, 0], [3.0, 3.0, 0], [0, 0, 3.0]])
    assert percolate_grid(sheared, lattice=lattice).thresholds_eV == percolate_grid(square).thresholds_eV


def test_kernels_compile_without_a_cache_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from hopflow.transport import compiled

    asked = []

    def read_only_njit(cache: bool = False, nogil: bool = False, fastmath: object = False) -> object:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return lambda function: function

    monkeypatch.setattr(compiled, "njit", read_only_njit)
    assert compiled.compiled(len)("abc") == 3
    assert asked == [True, False]
