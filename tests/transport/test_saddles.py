"""Refinement: the basin graph against the grid, and the continuous field's percolation against much finer grids."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, lithium_phosphate
from hopflow.transport.basins import basin_graph
from hopflow.transport.bvse import BondValenceSettings, below_ceiling, bond_valence_field, bond_valence_percolation
from hopflow.transport.percolation import percolate_graph, percolate_grid
from hopflow.transport.saddles import refine_percolation
from hopflow.transport.structures import assign_oxidation_states
from hypothesis import given, settings
from hypothesis import strategies as st


def smooth_field(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A periodic field of a few random waves, scaled to about an eV."""
    random = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    values = np.zeros(shape)
    for wave in random.integers(-2, 3, (6, 3)):
        phase = sum(k * x for k, x in zip(wave, grids, strict=True))
        values += random.normal() * np.cos(2 * np.pi * (phase + random.random()))
    return values


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    neighbours=st.sampled_from([6, 18, 26]),
    kind=st.sampled_from(["noise", "smooth", "levels"]),
)
def test_the_basin_graph_percolates_exactly_as_the_grid(
    seed: int, shape: tuple[int, int, int], neighbours: int, kind: str
) -> None:
    random = np.random.default_rng(seed)
    values = smooth_field(seed, shape) if kind == "smooth" else random.random(shape)
    if kind == "levels":  # many ties
        values = np.round(values * 4)
    values[random.random(shape) < 0.2] = np.inf
    if not np.isfinite(values).any():
        return
    lattice = np.diag(np.array(shape, dtype=float))
    grid = percolate_grid(values, neighbours, lattice)
    graph = basin_graph(values, lattice, neighbours)
    found = percolate_graph(graph.node_energies_eV, graph.edges, graph.images, graph.edge_energies_eV)
    assert found.thresholds_eV == grid.thresholds_eV
    if kind != "levels":  # where voxels tie, a minimum may sit in either of two equal ones, not its energy
        assert found.component_minimum_eV == grid.component_minimum_eV
    assert found.global_minimum_eV == grid.global_minimum_eV


def test_voxels_belong_to_the_basin_below_them() -> None:
    values = smooth_field(3, (12, 10, 8))
    graph = basin_graph(values, np.eye(3))
    flat = values.ravel()
    assert (graph.basin_of >= 0).all()
    for basin, minimum in enumerate(graph.minima):
        assert graph.basin_of[minimum] == basin
        assert (flat[graph.basin_of == basin] >= flat[minimum]).all()
    assert (graph.edge_energies_eV >= graph.node_energies_eV[graph.edges].max(axis=1)).all()


@pytest.mark.parametrize("crystal", [lithium_phosphate, lithium_nitride, iron_phosphate, antiperovskite])
def test_a_coarse_grid_refined_is_a_fine_grid(crystal) -> None:
    fine = bond_valence_percolation(crystal(), "Li", BondValenceSettings(spacing_A=0.08, refine=False))
    coarse = {h: bond_valence_percolation(crystal(), "Li", BondValenceSettings(spacing_A=h)) for h in (0.2, 0.25, 0.3)}
    for result in coarse.values():
        # A grid of 0.08 Angstrom still lies above a saddle point, by up to 2.5 * 0.08^2 eV.
        for saddle, grid in zip(result.thresholds_eV, fine.thresholds_eV, strict=True):
            assert grid - 0.016 < saddle < grid + 0.003
        assert result.at_saddle[:1] == (True,)
        assert result.thresholds_eV[:2] == pytest.approx(coarse[0.2].thresholds_eV[:2], abs=1e-4)
        assert result.global_minimum_eV == pytest.approx(coarse[0.2].global_minimum_eV, abs=1e-5)
        assert result.global_minimum_eV <= fine.global_minimum_eV + 1e-9


def test_bottlenecks_are_saddle_points_and_minima_are_minima() -> None:
    structure = assign_oxidation_states(iron_phosphate(), "Li")
    result = bond_valence_percolation(structure, "Li", BondValenceSettings(spacing_A=0.25))
    framework = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.5)).framework
    for points, levels in (
        (result.bottleneck_frac_coords, result.thresholds_eV),
        (result.minimum_frac_coords, result.component_minimum_eV),
    ):
        energies, gradients = framework.energies_at(np.array(points))
        assert energies == pytest.approx(levels, abs=1e-5)
        assert np.abs(gradients).max() < 1e-3
    ends = framework.stationary_points(np.array(result.bottleneck_frac_coords), 1, 0.01, 0.1)
    assert ends.found.all()
    assert framework.stationary_points(np.array(result.minimum_frac_coords), 0, 0.01, 0.1).found.all()


def test_a_start_between_two_wells_finds_one_of_them() -> None:
    structure = assign_oxidation_states(iron_phosphate(), "Li")
    result = bond_valence_percolation(structure, "Li", BondValenceSettings(spacing_A=0.25))
    framework = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.5)).framework
    # At a saddle point there is no slope to follow; the way down from it is found all the same.
    wells = framework.stationary_points(np.array(result.bottleneck_frac_coords), 0, 0.1, 5.0, most_steps=200)
    assert wells.found.all()
    assert (wells.energies_eV < np.array(result.thresholds_eV) - 0.05).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), supercell=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 1)]))
def test_origin_and_supercell_leave_the_refined_thresholds(seed: int, supercell: tuple[int, int, int]) -> None:
    structure = iron_phosphate()
    expected = bond_valence_percolation(structure, "Li", BondValenceSettings(spacing_A=0.3))
    moved = structure * supercell
    moved.translate_sites(range(len(moved)), np.random.default_rng(seed).random(3))
    result = bond_valence_percolation(moved, "Li", BondValenceSettings(spacing_A=0.3))
    assert result.thresholds_eV[0] == pytest.approx(expected.thresholds_eV[0], abs=2e-4)
    # Across the channels the bottlenecks lie 3.7 eV up between close-packed oxygens.
    assert result.thresholds_eV[1:] == pytest.approx(expected.thresholds_eV[1:], abs=0.02)


def test_what_does_not_percolate_on_the_grid_stays_so() -> None:
    structure = assign_oxidation_states(iron_phosphate(), "Li")
    field = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.3))
    closed = below_ceiling(field.values, 0.1)
    grid = percolate_grid(closed, lattice=field.lattice)
    refined = refine_percolation(field, closed, grid)
    assert refined.percolation.thresholds_eV == (np.inf,) * 3
    assert refined.bottleneck_frac_coords == (None, None, None)
    assert refined.at_saddle == (False, False, False)


def test_a_barrier_that_a_few_millivolts_decide_says_so() -> None:
    # The deep site joins 0.002 eV above the level: grids of 0.2 and 0.1 Angstrom give 0.33 and 0.32 eV, one of 0.07
    # gives 0.153 eV.
    crystal = argyrodite().get_primitive_structure()
    result = bond_valence_percolation(crystal, "Li", BondValenceSettings(spacing_A=0.25))
    assert result.barriers_eV == pytest.approx((0.152,) * 3, abs=0.002)
    (warning,) = result.warnings
    assert warning.startswith("In 1D and 2D and 3D a site 0.17 eV deeper joins")
    assert warning.endswith("the barrier is 0.32 eV.")
    fine = bond_valence_percolation(crystal, "Li", BondValenceSettings(spacing_A=0.07, refine=False))
    assert fine.barriers_eV == pytest.approx(result.barriers_eV, abs=0.005)
    assert bond_valence_percolation(lithium_phosphate(), "Li").warnings == ()
