"""Single-ion landscapes: symmetry against every point, known surfaces, budgets, and being killed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hopflow.transport import landscape as landscape_module
from hopflow.transport.errors import CandidateError, NoMobileIonError, NonFiniteEnergyError, Reason, StructureError
from hopflow.transport.landscape import ScanSettings, scan_landscape
from hopflow.transport.landscape_analysis import minimal_percolation_energy_eV
from hopflow.transport.landscape_grid import build_grid
from hopflow.transport.symmetry import space_group_operations
from hypothesis import given, settings
from hypothesis import strategies as st
from moved_ion import Killed, PairPotential
from pymatgen.core import Lattice, Structure
from scipy import ndimage

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="module")
def rock_salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.03), ["Li", "F"], [(0, 0, 0), (0.5, 0, 0)])


@pytest.fixture(scope="module")
def nitride() -> Structure:
    """Alpha-Li3N, P6/mmm: hexagonal axes, two kinds of Li."""
    lattice = Lattice.hexagonal(3.648, 3.875)
    return Structure.from_spacegroup("P6/mmm", lattice, ["Li", "Li", "N"], [(0, 0, 0.5), (1 / 3, 2 / 3, 0), (0, 0, 0)])


CRYSTALS = pytest.mark.parametrize("name", ["rock_salt", "nitride"])
COARSE = ScanSettings(spacing_A=0.5, max_evaluations=None, max_ions=None, min_length_A=4.0, refine=False)


@CRYSTALS
def test_irreducible_points_stand_for_all(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure = request.getfixturevalue(name)
    reduced = scan_landscape(structure, "Li", PairPotential(), COARSE)
    supercell = reduced.best.lattice
    identity = (np.eye(3, dtype=int)[None], np.zeros((1, 3)))
    monkeypatch.setattr(landscape_module, "space_group_operations", lambda *_: identity)
    for ion in reduced.ions:
        # Without symmetry another cell may be the cheapest, so the cell is fixed by hand.
        monkeypatch.setattr(landscape_module, "_choose_supercell", lambda *_: _supercell(structure, supercell))
        full = scan_landscape(structure, "Li", PairPotential(), COARSE, ion_index=ion.site_index).best
        assert full.saved_by_symmetry == 0
        assert full.values_eV.shape == ion.values_eV.shape
        assert np.array_equal(np.isinf(full.values_eV), np.isinf(ion.values_eV))
        allowed = np.isfinite(full.values_eV)
        assert ion.values_eV[allowed] == pytest.approx(full.values_eV[allowed], abs=1e-6)
        assert ion.percolation.barriers_eV == pytest.approx(full.percolation.barriers_eV, abs=1e-6)
        assert full.evaluations >= 5 * ion.evaluations
        assert ion.evaluations + ion.saved_by_symmetry + ion.saved_by_exclusion == ion.points == full.points


def _supercell(structure: Structure, lattice: np.ndarray) -> object:
    from hopflow.transport.supercells import build_supercell
    from hopflow.transport.symmetry import crystal_symmetry

    symmetry = crystal_symmetry(structure, 1e-3)
    return build_supercell(
        structure, symmetry, np.rint(lattice @ np.linalg.inv(symmetry.primitive_lattice)).astype(int)
    )


@CRYSTALS
@pytest.mark.parametrize("spacing_A", [0.3, 0.45])
def test_grid_covers_the_cell(name: str, spacing_A: float, request: pytest.FixtureRequest) -> None:
    structure = request.getfixturevalue(name)
    frozen, home = structure.frac_coords[1:], structure.frac_coords[0]
    matrix = structure.lattice.matrix
    numbers = [site.specie.Z for site in structure][1:]
    grid = build_grid(matrix, frozen, home, spacing_A, 1.2, space_group_operations(matrix, frozen, numbers, 1e-3))
    steps = np.linalg.norm(matrix, axis=1) / grid.shape
    assert steps.max() <= spacing_A + 1e-4
    # Exclusion as plain loops find it; every orbit is one point; the home site is a point of the grid.
    points = grid.frac_coords(np.arange(len(grid.representative)))
    distance = structure.lattice.get_all_distances(points, frozen).min(axis=1)
    clear = abs(distance - 1.2) > 1e-6
    assert np.array_equal(grid.allowed[clear], (distance >= 1.2)[clear])
    assert points[0] == pytest.approx(home)
    assert np.array_equal(grid.representative[grid.representative], grid.representative)
    assert len(grid.irreducible) == len(np.unique(grid.representative[grid.allowed]))


def test_excluded_points_are_never_evaluated(rock_salt: Structure) -> None:
    potential = PairPotential()
    result = scan_landscape(rock_salt, "Li", potential, replace(COARSE, exclusion_radius_A=1.5))
    best = result.best
    assert len(potential.asked) == result.evaluations == best.evaluations
    for raw in potential.asked:
        positions = np.frombuffer(raw).reshape(-1, 3)
        gaps = Lattice(best.lattice).get_all_distances(
            positions[-1:] @ np.linalg.inv(best.lattice), positions[:-1] @ np.linalg.inv(best.lattice)
        )
        assert gaps.min() >= 1.5 - 1e-6
    assert np.isinf(best.values_eV).sum() == best.saved_by_exclusion


def box_by_hand(values: np.ndarray) -> float:
    """Minimal percolation energy: the least level at which the middle of a 2 x 2 x 2 box joins one of its faces."""
    n = np.array(values.shape)
    lowest = np.array(np.unravel_index(np.argmin(values), values.shape))
    box = values[np.ix_(*[(lowest[k] + np.arange(-n[k], n[k] + 1)) % n[k] for k in range(3)])]
    for level in np.unique(values[np.isfinite(values)]):
        labels, _ = ndimage.label(box <= level, np.ones((3, 3, 3)))
        here = labels[tuple(n)]
        faces = [np.take(labels, end, axis) for axis in range(3) for end in (0, -1)]
        if here and any((face == here).any() for face in faces):
            return float(level - values.min())
    return float("inf")


@given(st.integers(0, 10**6), st.floats(0.0, 0.6))
@settings(max_examples=30, deadline=None)
def test_minimal_percolation_energy_against_brute_force(seed: int, forbidden: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random(tuple(rng.integers(2, 6, 3)))
    values[rng.random(values.shape) < forbidden] = np.inf
    if np.isfinite(values).any():
        assert minimal_percolation_energy_eV(values, np.diag([3.0, 4.0, 5.0])) == pytest.approx(box_by_hand(values))


def test_known_surface() -> None:
    """Energy that depends on the position alone: barriers are those of the cosines along each axis."""

    class Cosines(PairPotential):
        def _energy(self, atoms: Atoms) -> float:
            frac = atoms.positions[-1] @ np.linalg.inv(atoms.cell.array)
            return float((np.array([0.2, 0.5, 0.9]) / 2 * (1 - np.cos(2 * np.pi * frac))).sum())

    lonely = Structure(Lattice.orthorhombic(6.0, 7.0, 8.0), ["Li"], [(0, 0, 0)])
    scan = ScanSettings(spacing_A=0.5, max_evaluations=None, refine=False)
    result = scan_landscape(lonely, "Li", Cosines(), scan)
    assert result.percolation.barriers_eV == pytest.approx((0.2, 0.5, 0.9), abs=1e-9)
    # The faces of the 2 x 2 x 2 box lie one cell from the middle: a translate, reached over the lowest barrier.
    assert result.mpe_eV == pytest.approx(0.2)
    best = result.best
    assert (best.minimum_offset_A, best.minimum_depth_eV, best.warnings) == (0.0, 0.0, [])
    x = [np.arange(n) / n for n in best.values_eV.shape]
    grids = np.meshgrid(*x, indexing="ij")
    exact = sum(h / 2 * (1 - np.cos(2 * np.pi * g)) for h, g in zip((0.2, 0.5, 0.9), grids, strict=True))
    assert best.values_eV == pytest.approx(exact, abs=1e-9)
    for threshold, fraction in best.free_volume_disconnected.items():
        assert fraction == pytest.approx((exact < threshold).mean(), abs=2e-3)
        assert best.free_volume_connected[threshold] <= fraction
    assert best.level_map_eV.min() == best.level_map_eV[0, 0, 0] == 0.0
    assert (best.level_map_eV >= best.values_eV - 1e-12).all()


def test_union_counts_every_equivalent_ion(rock_salt: Structure) -> None:
    """The free volume of the crystal from one scanned ion is that from scanning each of the four."""
    scan = replace(COARSE, spacing_A=0.4)
    one = scan_landscape(rock_salt, "Li", PairPotential(), scan)
    assert len(one.ions) == 1
    lattice = one.best.lattice
    masks = {t: np.zeros(one.values_eV.shape, dtype=bool) for t in one.free_volume_disconnected}
    lithium = [k for k, site in enumerate(rock_salt) if site.specie.symbol == "Li"]
    cells = round(abs(np.linalg.det(lattice)) / rock_salt.volume)
    assert cells == 1
    for k in lithium:
        ion = scan_landscape(rock_salt, "Li", PairPotential(), scan, ion_index=k).best
        assert ion.lattice == pytest.approx(lattice)
        shift = np.rint((ion.origin_frac - one.best.origin_frac) * ion.values_eV.shape).astype(int)
        for threshold, mask in masks.items():
            here = np.roll(ion.values_eV - ion.values_eV.min() < threshold, shift, axis=(0, 1, 2))
            np.logical_or(mask, here, out=mask)
    for threshold, mask in masks.items():
        assert one.free_volume_disconnected[threshold] == pytest.approx(mask.mean(), abs=0.02)
        assert one.free_volume_connected[threshold] <= one.free_volume_disconnected[threshold]
    assert one.free_volume_disconnected[1.0] > one.best.free_volume_disconnected[1.0]


def test_weakly_bound_ions_come_first(nitride: Structure) -> None:
    every = scan_landscape(nitride, "Li", PairPotential(), COARSE)
    assert len(every.ions) == 2
    one = scan_landscape(nitride, "Li", PairPotential(), replace(COARSE, max_ions=1))
    assert len(one.ions) == 1
    # An energy of zero without the ion: the one with the higher energy on its site is bound more weakly.
    at_home = {ion.site_index: ion.reference_energy_eV for ion in every.ions}
    assert every.ions[0].atoms == one.best.atoms

    class Removal(PairPotential):
        def _energy(self, atoms: Atoms) -> float:
            # Total energy by pairs, so that taking out an ion costs its binding.
            return sum(
                PairPotential._energy(self, atoms[[*range(k + 1, len(atoms)), k]]) for k in range(len(atoms) - 1)
            )

    chosen = scan_landscape(nitride, "Li", Removal(), replace(COARSE, max_ions=1)).best.site_index
    assert chosen == max(at_home, key=lambda site: at_home[site])


def test_budget_makes_the_grid_coarser(nitride: Structure) -> None:
    fine = scan_landscape(nitride, "Li", PairPotential(), replace(COARSE, spacing_A=0.3))
    limit = fine.evaluations // 3
    coarse = scan_landscape(nitride, "Li", PairPotential(), replace(COARSE, spacing_A=0.3, max_evaluations=limit))
    assert limit / 4 < coarse.evaluations <= limit
    assert fine.spacing_A == 0.3 < coarse.spacing_A <= 0.8
    with pytest.raises(CandidateError, match=r"even at a spacing of 0\.80 A") as too_many:
        scan_landscape(nitride, "Li", PairPotential(), replace(COARSE, max_evaluations=3))
    assert too_many.value.reason is Reason.TOO_MANY_EVALUATIONS


def test_killed_at_every_block_and_resumed(nitride: Structure, tmp_path: Path) -> None:
    scan = replace(COARSE, block=7, max_ions=1)
    undisturbed = PairPotential()
    expected = scan_landscape(nitride, "Li", undisturbed, scan)
    seen: list[tuple[int, int]] = []
    for killed_at in range(1, undisturbed.calls + 1, 3):
        place = tmp_path / f"{killed_at}.npz"
        potential = PairPotential()
        potential.killed_at_call = killed_at
        with pytest.raises(Killed):
            scan_landscape(nitride, "Li", potential, scan, checkpoint=place)
        seen.clear()
        result = scan_landscape(
            nitride,
            "Li",
            potential,
            scan,
            checkpoint=place,
            progress=lambda done, planned: seen.append((done, planned)),
        )
        assert potential.asked == undisturbed.asked
        assert result.evaluations == expected.evaluations == len(potential.asked)
        assert np.array_equal(result.values_eV, expected.values_eV)
        assert seen[-1][0] == seen[-1][1] == result.best.evaluations
    finished = PairPotential()
    again = scan_landscape(nitride, "Li", finished, scan, checkpoint=place)
    assert (finished.asked, again.evaluations_this_run) == ([], 0)
    assert again.mpe_eV == expected.mpe_eV
    # Another potential, or other settings, must not take these energies over.
    other = PairPotential()
    other.weights_sha256 = "1" * 64
    assert scan_landscape(nitride, "Li", other, scan, checkpoint=place).evaluations_this_run == expected.evaluations


def test_doubtful_minimum_is_told(rock_salt: Structure) -> None:
    """A potential that pulls the ion off its site."""

    class Pull(PairPotential):
        def _energy(self, atoms: Atoms) -> float:
            frac = atoms.positions[-1] @ np.linalg.inv(atoms.cell.array)
            return float(3.0 * np.cos(2 * np.pi * frac).sum())

    best = scan_landscape(rock_salt, "Li", Pull(), COARSE).best
    assert best.minimum_offset_A > 0.5
    assert best.minimum_depth_eV > 0.2
    assert len(best.warnings) == 2


def test_what_cannot_be_scanned(rock_salt: Structure) -> None:
    with pytest.raises(NoMobileIonError, match="holds no Na"):
        scan_landscape(rock_salt, "Na", PairPotential())
    fluorine = next(k for k, site in enumerate(rock_salt) if site.specie.symbol == "F")
    with pytest.raises(NoMobileIonError, match="is not Li"):
        scan_landscape(rock_salt, "Li", PairPotential(), ion_index=fluorine)
    disordered = Structure(Lattice.cubic(4.0), [{"Li": 0.5}, "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    with pytest.raises(StructureError, match="partly occupied"):
        scan_landscape(disordered, "Li", PairPotential())

    with pytest.raises(StructureError, match="lower exclusion_radius_A") as crowded:
        scan_landscape(rock_salt, "Li", PairPotential(), replace(COARSE, exclusion_radius_A=2.2))
    assert crowded.value.reason is Reason.CLOSE_CONTACT

    class Broken(PairPotential):
        def _energy(self, atoms: Atoms) -> float:
            return float("nan") * len(atoms)

    with pytest.raises(NonFiniteEnergyError, match="not a number"):
        scan_landscape(rock_salt, "Li", Broken(), COARSE)


@pytest.mark.weights
def test_m3gnet_landscape_without_symmetry_is_the_same(rock_salt: Structure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that are not evaluated have, in the real potential, the energy of those that stand for them."""
    from hopflow.potentials.registry import fetch_weights, load_potential
    from hopflow.transport.errors import WeightsError

    name = "m3gnet-mp-2021.2.8"
    try:
        weights = fetch_weights(name, path=SHARED / "weights" if (SHARED / "weights").is_dir() else None)
    except WeightsError as error:
        pytest.skip(f"no package carries these weights: {error}")
    potential = load_potential(name, path=weights)
    scan = ScanSettings(spacing_A=0.7, max_evaluations=None, min_length_A=4.0, refine=False)
    reduced = scan_landscape(rock_salt, "Li", potential, scan).best
    identity = (np.eye(3, dtype=int)[None], np.zeros((1, 3)))
    monkeypatch.setattr(landscape_module, "space_group_operations", lambda *_: identity)
    monkeypatch.setattr(landscape_module, "_choose_supercell", lambda *_: _supercell(rock_salt, reduced.lattice))
    full = scan_landscape(rock_salt, "Li", potential, scan, ion_index=reduced.site_index).best
    allowed = np.isfinite(full.values_eV)
    assert np.array_equal(allowed, np.isfinite(reduced.values_eV))
    assert full.evaluations > 5 * reduced.evaluations
    assert reduced.values_eV[allowed] == pytest.approx(full.values_eV[allowed], abs=5e-3)
