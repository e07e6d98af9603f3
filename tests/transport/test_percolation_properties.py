"""Exactness of the thresholds by a method without translations, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hopflow.transport.percolation import percolate_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import generate_binary_structure, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

INF = float("inf")


def labels_on_torus(allowed: np.ndarray, neighbours: int) -> np.ndarray:
    """Component number of every allowed voxel of a periodic mask, -1 elsewhere, by ``scipy.ndimage.label``."""
    block = np.pad(allowed, 1, mode="wrap")
    found, count = label(block, generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[neighbours]))
    home = np.pad(np.arange(allowed.size).reshape(allowed.shape), 1, mode="wrap")
    # A voxel and its copies on the padded rim are one: join their labels.
    inside = np.zeros(allowed.size, dtype=int)
    inside[home[1:-1, 1:-1, 1:-1].ravel()] = found[1:-1, 1:-1, 1:-1].ravel()
    pairs = np.stack([found.ravel(), inside[home.ravel()]])[:, found.ravel() > 0]
    graph = coo_array((np.ones(pairs.shape[1]), pairs), shape=(count + 1, count + 1))
    joined = connected_components(graph.tocsr(), directed=False)[1]
    return np.where(allowed, joined[found[1:-1, 1:-1, 1:-1]], -1)


def ranks_by_tiles(allowed: np.ndarray, neighbours: int) -> int:
    """Highest rank of any component, from how many pieces it falls into on tiled tori.

    On a torus of p x p x p cells, p a prime, a component whose translations have rank r modulo p makes p^(3 - r)
    pieces. A rank modulo p can be too low (a loop that closes after p cells), never too high.
    """
    component = labels_on_torus(allowed, neighbours)
    best = 0
    for p in (3, 5):
        pieces = labels_on_torus(np.tile(allowed, (p, p, p)), neighbours)
        for number in np.unique(component[component >= 0]):
            members = np.tile(component == number, (p, p, p))
            best = max(best, 3 - round(np.log(len(np.unique(pieces[members]))) / np.log(p)))
    return best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.tuples(*[st.integers(2, 5)] * 3), neighbours=st.sampled_from([6, 18, 26]))
def test_thresholds_match_labels_on_tiles(seed: int, shape: tuple[int, int, int], neighbours: int) -> None:
    random = np.random.default_rng(seed)
    values = np.round(random.random(shape), 2)
    values[random.random(shape) < 0.2] = INF
    found = percolate_grid(values, neighbours).thresholds_eV
    levels = np.unique(values[np.isfinite(values)])
    for dimension in (1, 2, 3):
        # The rank rises with the level, so halving finds where it first reaches the dimension.
        low, high = 0, len(levels)
        while low < high:
            middle = (low + high) // 2
            if ranks_by_tiles(values <= levels[middle], neighbours) >= dimension:
                high = middle
            else:
                low = middle + 1
        assert found[dimension - 1] == (levels[low] if low < len(levels) else INF)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    gap=st.integers(2, 7),
    levels=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    bridge=st.booleans(),
    axes=st.permutations([0, 1, 2]),
)
def test_channels_that_cross_without_touching_are_lines(
    rows: tuple[int, int], gap: int, levels: tuple[float, float], bridge: bool, axes: list[int]
) -> None:
    values = np.full((9, 9, 9), INF)
    values[:, rows[0], 0] = levels[0]
    values[rows[1], :, gap] = levels[1]
    if bridge:
        values[rows[1], rows[0], : gap + 1] = np.minimum(values[rows[1], rows[0], : gap + 1], 2.0)
    result = percolate_grid(np.transpose(values, axes))
    assert result.thresholds_eV == (min(levels), 2.0 if bridge else INF, INF)


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    a, b, c = angles
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    about_x = np.array([[1.0, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    again_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1.0]])
    return about_z @ about_x @ again_z


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    mirrored=st.booleans(),
    neighbours=st.sampled_from([6, 18, 26]),
)
def test_turning_the_crystal_does_not_matter(
    seed: int, angles: tuple[float, float, float], mirrored: bool, neighbours: int
) -> None:
    random = np.random.default_rng(seed)
    values = random.random((5, 4, 6))
    lattice = np.diag([5.0, 4.0, 6.0]) + random.uniform(-1.2, 1.2, (3, 3))
    turn = rotation(angles) * (-1 if mirrored else 1)
    expected = percolate_grid(values, neighbours, lattice)
    assert percolate_grid(values, neighbours, lattice @ turn) == expected


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    repeats=st.tuples(*[st.integers(1, 2)] * 3),
    shift=st.tuples(*[st.integers(0, 9)] * 3),
    axes=st.permutations([0, 1, 2]),
)
def test_supercell_origin_and_axis_order_of_a_triclinic_crystal_do_not_matter(
    seed: int, repeats: tuple[int, int, int], shift: tuple[int, int, int], axes: list[int]
) -> None:
    random = np.random.default_rng(seed)
    values = random.random((4, 5, 3))
    values[random.random(values.shape) < 0.2] = INF
    lattice = np.array([[4.0, 0.3, 0.0], [1.3, 5.0, 0.2], [-0.6, 0.9, 3.2]])
    expected = percolate_grid(values, lattice=lattice)
    changed = percolate_grid(
        np.transpose(np.roll(np.tile(values, repeats), shift, axis=(0, 1, 2)), axes),
        lattice=(lattice * np.array(repeats)[:, None])[axes],
    )
    assert changed.thresholds_eV == expected.thresholds_eV
    assert changed.component_minimum_eV == expected.component_minimum_eV


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-5.0, 5.0), factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_thresholds_go_with_the_energy_scale(seed: int, shift: float, factor: float) -> None:
    values = np.random.default_rng(seed).random((4, 4, 4))
    expected = percolate_grid(values)
    moved = percolate_grid(values * factor + shift)
    assert moved.thresholds_eV == pytest.approx(tuple(t * factor + shift for t in expected.thresholds_eV))
    assert moved.bottleneck == expected.bottleneck
