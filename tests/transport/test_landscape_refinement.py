"""Refined scans against every point of the same grid, and what happens when they are cut short or killed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import crystals
import numpy as np
import pytest
from hopflow.transport.free_volume import FREE_VOLUME_THRESHOLDS_eV, SMEARING_eV, combined_score
from hopflow.transport.landscape import ScanSettings, scan_landscape
from hopflow.transport.landscape_analysis import LandscapeResult, minimal_percolation_energy_eV
from hopflow.transport.landscape_grid import ScanGrid
from hopflow.transport.landscape_model import LandscapeModel, compressed, describe_points, expanded
from hopflow.transport.landscape_refinement import Refinement, coarse_count, refine
from hopflow.transport.percolation import percolate_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from moved_ion import Killed, PairPotential
from pymatgen.core import Structure

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))
SCAN = ScanSettings(spacing_A=0.3, max_evaluations=None, min_length_A=4.0)


def distorted(structure: Structure, seed: int, by_A: float = 0.15) -> Structure:
    """The crystal without its symmetry."""
    moved = structure.copy()
    rng = np.random.default_rng(seed)
    moved.translate_sites(range(len(moved)), [0, 0, 0])
    for site in range(len(moved)):
        moved.translate_sites([site], rng.normal(0, by_A / np.sqrt(3), 3), frac_coords=False)
    return moved


CRYSTALS = {
    "rock salt": crystals.rock_salt(),
    "rock salt, distorted": distorted(crystals.rock_salt(5.1, "Li", "Cl"), 1),
    "nitride": crystals.lithium_nitride(),
    "nitride, distorted": distorted(crystals.lithium_nitride(), 2),
    "antiperovskite": crystals.antiperovskite(),
    "antiperovskite, distorted": distorted(crystals.antiperovskite(), 3),
}


def assert_same_answer(refined: LandscapeResult, full: LandscapeResult) -> None:
    assert len(refined.ions) == len(full.ions)
    for ion, whole in zip(refined.ions, full.ions, strict=True):
        assert ion.percolation.thresholds_eV == pytest.approx(whole.percolation.thresholds_eV, abs=1e-3)
        assert ion.percolation.barriers_eV == pytest.approx(whole.percolation.barriers_eV, abs=2e-3)
        assert ion.mpe_eV == pytest.approx(whole.mpe_eV, abs=1e-3)
        assert ion.percolation_error_eV == (0.0, 0.0, 0.0)
        assert ion.evaluated is not None
        assert ion.values_eV[ion.evaluated] == pytest.approx(whole.values_eV[ion.evaluated], abs=1e-6)
        assert np.array_equal(np.isinf(ion.values_eV), np.isinf(whole.values_eV))
        saved = ion.saved_by_exclusion + ion.saved_by_symmetry + ion.saved_by_refinement
        assert ion.evaluations + saved == ion.points == whole.points
        assert (whole.saved_by_refinement, ion.saved_by_exclusion) == (0, whole.saved_by_exclusion)
        for connected in (True, False):
            ours, theirs = (each.free_volume(0.5, connected, smeared=True) for each in (ion, whole))
            # Two percent of itself, or the few voxels of a region that is itself a few voxels.
            assert ours == pytest.approx(theirs, rel=0.04, abs=4 / ion.points)


@pytest.mark.parametrize("name", CRYSTALS)
def test_every_point_of_the_grid_gives_the_same(name: str) -> None:
    scan = replace(SCAN, max_ions=None if name == "nitride" else 1)
    full = scan_landscape(CRYSTALS[name], "Li", PairPotential(), replace(scan, refine=False))
    potential = PairPotential()
    refined = scan_landscape(CRYSTALS[name], "Li", potential, scan)
    assert_same_answer(refined, full)
    assert len(potential.asked) == refined.evaluations <= full.evaluations
    assert len(set(potential.asked)) == len(potential.asked)
    if "distorted" in name:
        assert full.evaluations > 2 * refined.evaluations
        assert refined.evaluations_saved_by_refinement == full.evaluations - refined.evaluations


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "spacing_A"), [("nitride", 0.28), ("antiperovskite, distorted", 0.38), ("rock salt, distorted", 0.5)]
)
def test_every_point_gives_the_same_with_m3gnet(name: str, spacing_A: float) -> None:
    from hopflow.potentials.registry import fetch_weights, load_potential
    from hopflow.transport.errors import WeightsError

    try:
        weights = fetch_weights(
            "m3gnet-mp-2021.2.8", path=SHARED / "weights" if (SHARED / "weights").is_dir() else None
        )
    except WeightsError as error:
        pytest.skip(f"no package carries these weights: {error}")
    potential = load_potential("m3gnet-mp-2021.2.8", path=weights)
    scan = replace(SCAN, spacing_A=spacing_A, min_length_A=3.0)
    full = scan_landscape(CRYSTALS[name], "Li", potential, replace(scan, refine=False))
    refined = scan_landscape(CRYSTALS[name], "Li", potential, scan)
    assert_same_answer(refined, full)
    assert refined.evaluations < 0.7 * full.evaluations


@given(st.integers(0, 10**6), st.floats(0.0, 0.5), st.sampled_from([0.02, 0.5, 3.0]))
@settings(max_examples=15, deadline=None)
def test_rough_landscapes_that_no_model_can_know(seed: int, forbidden: float, height_eV: float) -> None:
    """White noise has nothing to do with the surroundings; it costs evaluations and not the answer."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(5, 9, 3))
    lattice = np.diag(np.array(shape) * 0.4)
    noise = rng.random(shape) * height_eV
    allowed = rng.random(shape) >= forbidden
    allowed[0, 0, 0] = True
    noise[0, 0, 0] = -0.01
    grid = ScanGrid(shape, np.zeros(3), np.arange(noise.size), allowed.ravel(), 1)
    energies = noise.ravel()[grid.irreducible] - 7.0
    atoms = rng.random((4, 3))
    described = describe_points(lattice, atoms, np.array([8, 8, 15, 3]), grid.frac_coords(grid.irreducible))
    found = refine(grid, lattice, described, lambda which: energies[which], (0.5,), 0.02)
    fields = []
    for each in (energies, found.energies_eV):
        field = np.full(noise.size, np.inf)
        field[grid.irreducible] = each
        fields.append(field.reshape(shape))
    whole, ours = (percolate_grid(field, lattice=lattice) for field in fields)
    assert ours.thresholds_eV == pytest.approx(whole.thresholds_eV, abs=2e-3)
    mpe = [minimal_percolation_energy_eV(field, lattice) for field in fields]
    assert mpe[1] == pytest.approx(mpe[0], abs=2e-3)


def test_killed_while_refining_and_resumed(tmp_path: Path) -> None:
    crystal = CRYSTALS["rock salt, distorted"]
    scan = replace(SCAN, spacing_A=0.35, block=7)
    undisturbed = PairPotential()
    expected = scan_landscape(crystal, "Li", undisturbed, scan)
    assert expected.evaluations_saved_by_refinement > 0
    coarse = coarse_count(expected.evaluations + expected.evaluations_saved_by_refinement)
    assert undisturbed.calls > coarse // 7 + 8
    seen: list[tuple[int, int]] = []
    # During the coarse points, between two batches, in the middle of one, and in the last.
    for killed_at in (3, undisturbed.calls // 2, undisturbed.calls // 2 + 3, undisturbed.calls):
        place = tmp_path / f"{killed_at}.npz"
        potential = PairPotential()
        potential.killed_at_call = killed_at
        with pytest.raises(Killed):
            scan_landscape(crystal, "Li", potential, scan, checkpoint=place)
        seen.clear()
        result = scan_landscape(
            crystal, "Li", potential, scan, checkpoint=place, progress=lambda done, of: seen.append((done, of))
        )
        assert potential.asked == undisturbed.asked
        assert result.evaluations == expected.evaluations
        assert np.array_equal(result.values_eV, expected.values_eV)
        assert np.array_equal(result.best.evaluated, expected.best.evaluated)
        assert seen[-1] == (result.best.evaluations, result.best.evaluations)
    finished = PairPotential()
    assert scan_landscape(crystal, "Li", finished, scan, checkpoint=place).evaluations_this_run == 0
    assert finished.asked == []
    # All points of the grid are another calculation.
    whole = scan_landscape(crystal, "Li", PairPotential(), replace(scan, refine=False), checkpoint=place)
    assert whole.evaluations_this_run == whole.evaluations


def test_budget_that_ends_a_scan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from hopflow.transport import landscape

    crystal = CRYSTALS["rock salt, distorted"]
    decided = scan_landscape(crystal, "Li", PairPotential(), SCAN)
    assert decided.warnings == []
    # A guess that promises too much: the scan runs out of evaluations on its way.
    monkeypatch.setattr(landscape, "expected_evaluations", lambda _: 1)
    limit = coarse_count(decided.best.evaluations + decided.best.saved_by_refinement) + 20
    assert limit < decided.best.evaluations
    cut = scan_landscape(crystal, "Li", PairPotential(), replace(SCAN, max_evaluations=limit))
    assert cut.evaluations <= limit + len([site for site in crystal if site.specie.symbol == "Li"])
    assert any("max_evaluations ended the scan" in text for text in cut.warnings)
    errors = cut.best.percolation_error_eV
    assert max(errors) > 0
    for low_high, ours, exact in zip(errors, cut.best.percolation.thresholds_eV, decided.best.percolation.thresholds_eV,
                                     strict=True):  # fmt: skip
        assert abs(ours - exact) <= low_high + 1e-3


def test_low_symmetry_no_longer_needs_every_point() -> None:
    """The budget that every irreducible point would exceed lets the refined scan have its fine grid."""
    crystal = CRYSTALS["rock salt, distorted"]
    every = scan_landscape(crystal, "Li", PairPotential(), replace(SCAN, refine=False))
    limit = every.evaluations // 2
    coarser = scan_landscape(crystal, "Li", PairPotential(), replace(SCAN, refine=False, max_evaluations=limit))
    refined = scan_landscape(crystal, "Li", PairPotential(), replace(SCAN, max_evaluations=limit))
    assert coarser.spacing_A > refined.spacing_A == 0.3
    assert refined.warnings == []


def test_description_is_that_of_the_surroundings() -> None:
    crystal = crystals.lithium_nitride()
    frozen, numbers = crystal.frac_coords[1:], np.array([site.specie.Z for site in crystal])[1:]
    point = np.array([[0.1, 0.3, 0.2]])
    turned = np.array([[-0.1, -0.3, -0.2], [0.1, 0.3, 0.8]])  # inversion and mirror of P6/mmm
    elsewhere = np.array([[0.25, 0.3, 0.2]])
    described = describe_points(crystal.lattice.matrix, frozen, numbers, np.vstack([point, turned, elsewhere]))
    surroundings = described[:, 6:]
    # The lattice with one atom taken out keeps these operations only if that atom is not moved by them.
    assert surroundings.shape == (4, 8 * len(np.unique(numbers)))
    assert np.linalg.norm(surroundings[1] - surroundings[0]) < 1e-9
    assert np.linalg.norm(surroundings[2] - surroundings[0]) < 1e-9
    assert np.linalg.norm(surroundings[3] - surroundings[0]) > 0.1
    assert surroundings.var(axis=0).sum() == pytest.approx(1.0)


def test_model_knows_what_it_does_not_know() -> None:
    """Energies of points that it has not seen lie within its deviations about as often as they should."""
    result = scan_landscape(CRYSTALS["rock salt, distorted"], "Li", PairPotential(), replace(SCAN, refine=False)).best
    allowed = np.flatnonzero(np.isfinite(result.values_eV.ravel()))
    energies = result.values_eV.ravel()[allowed]
    crystal = CRYSTALS["rock salt, distorted"]
    assert np.allclose(result.lattice, crystal.lattice.matrix)
    ion = result.site_index
    frozen = np.delete(crystal.frac_coords, ion, axis=0)
    numbers = np.delete([site.specie.Z for site in crystal], ion)
    points = result.origin_frac + np.stack(np.unravel_index(allowed, result.values_eV.shape), axis=-1) / np.array(
        result.values_eV.shape
    )
    model = LandscapeModel(describe_points(result.lattice, frozen, numbers, points))
    seen = np.random.default_rng(0).choice(len(points), 150, replace=False)
    model.fit(seen, energies[seen])
    rest = np.setdiff1d(np.arange(len(points)), seen)
    mean, deviation = model.predict(rest)
    misses = (compressed(energies[rest]) - mean) / deviation
    assert 0.3 < np.sqrt((misses**2).mean()) < 2.0
    # It must be worth its name: far better than the mean of all.
    assert np.abs(compressed(energies[rest]) - mean).mean() < 0.1 * compressed(energies).std()


@given(st.floats(-5.0, 200.0))
def test_compressed_energies_come_back(energy_eV: float) -> None:
    there = compressed(np.array([energy_eV]))
    assert there[0] <= energy_eV + 1e-12
    assert expanded(there)[0] == pytest.approx(energy_eV, abs=1e-8)


def test_free_volume_at_any_threshold_smeared_and_scored() -> None:
    result = scan_landscape(CRYSTALS["nitride"], "Li", PairPotential(), replace(SCAN, refine=False, max_ions=None))
    for connected, fractions in ((True, result.free_volume_connected), (False, result.free_volume_disconnected)):
        field = result.union_levels_eV if connected else result.union_heights_eV
        assert tuple(fractions) == FREE_VOLUME_THRESHOLDS_eV
        for threshold in (*FREE_VOLUME_THRESHOLDS_eV, 0.537, 2.5):
            assert result.free_volume(threshold, connected) == (field < threshold).mean()
        by_hand = np.mean([(field < 0.537 + step).mean() for step in SMEARING_eV])
        assert result.free_volume(0.537, connected, smeared=True) == pytest.approx(by_hand)
    for ion in result.ions:
        lowest = ion.values_eV.min()
        assert ion.free_volume(0.7) == (ion.level_map_eV - lowest < 0.7).mean()
        assert result.free_volume(0.7, connected=False) >= ion.free_volume(0.7, connected=False) / 2
    parts = [result.free_volume(0.5, connected, smeared=True) for connected in (True, False)]
    assert result.score == pytest.approx(combined_score(*parts))


def test_score_is_that_of_the_paper() -> None:
    """Half points at 1.0 % connected and 7.1 % disconnected; the product of the two factors."""
    assert combined_score(10**-2.0, 1.0) == pytest.approx(0.5, abs=1e-4)
    assert combined_score(1.0, 10**-1.15) == pytest.approx(0.5, abs=1e-4)
    assert combined_score(0.03, 0.1) == pytest.approx(
        1 / (1 + np.exp(-10 * (np.log10(0.03) + 2.0))) / (1 + np.exp(-10 * (np.log10(0.1) + 1.15)))
    )
    assert combined_score(0.0, 0.1) == combined_score(0.1, 0.0) == 0.0


def test_warnings_say_what_is_open() -> None:
    open_ended = Refinement(np.zeros(3), np.array([True, True, False]), (0.0, 0.02, np.inf), 0.1, 0.3, 0.02)
    first, second = open_ended.warnings()
    assert "2D by up to 0.020 eV" in first
    assert "3D by no known amount" in first
    assert "minimal by up to 0.100 eV" in first
    assert "1D" not in first
    assert "30% of itself" in second
    assert Refinement(np.zeros(1), np.array([True]), (0.0, 0.0, 0.0), 0.0, 0.01, 0.02).warnings() == []
