"""The bond-valence field: against a plain sum over images, symmetry, threads, partial occupancies, derivatives."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from ase.data import atomic_numbers, covalent_radii
from crystals import antiperovskite
from hopflow.transport import pair_energies
from hopflow.transport.bond_valence_parameters import load_parameters, principal_quantum_number
from hopflow.transport.site_energy import BondValenceSettings, bond_valence_field, bond_valence_framework
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

COARSE = BondValenceSettings(spacing_A=0.4)


def plain_sum(structure: Structure, ion: str, frac: np.ndarray, cutoff: float = 10.0) -> float:
    """The formula, term by term over explicit periodic images (math module only)."""
    parameters = load_parameters()
    charge = next(s.oxi_state for site in structure for s in site.species if s.symbol == ion)
    heights = [
        structure.volume / np.linalg.norm(np.cross(*np.delete(structure.lattice.matrix, k, 0))) for k in range(3)
    ]
    images = product(*(range(-int(cutoff / h) - 2, int(cutoff / h) + 3) for h in heights))
    energy = 0.0
    for image in images:
        for site in structure:
            distance = float(np.linalg.norm((site.frac_coords + image - frac) @ structure.lattice.matrix))
            if distance > cutoff:
                continue
            for species, occupancy in site.species.items():
                element, other = species.symbol, species.oxi_state
                if element == ion:
                    continue
                if other * charge < 0:
                    p = parameters.pair(ion, charge, element, other)
                    morse = p.D0_eV / 2 * ((math.exp(p.alpha_per_A * (p.Rmin_A - distance)) - 1) ** 2 - 1)
                    energy += occupancy * morse
                else:
                    radii = covalent_radii[atomic_numbers[ion]] + covalent_radii[atomic_numbers[element]]
                    n = principal_quantum_number(ion) * principal_quantum_number(element)
                    coulomb = 14.4 * charge * other / math.sqrt(n) / distance * math.erfc(distance / (0.74 * radii))
                    energy += occupancy * coulomb
    return energy


def triclinic() -> Structure:
    structure = Structure(
        Lattice.from_parameters(4.1, 5.3, 6.2, 71, 83, 64),
        ["Li", "Li", "Mn", "P", "O", "O", "S"],
        [
            [0, 0, 0],
            [0.5, 0.4, 0.1],
            [0.2, 0.7, 0.3],
            [0.7, 0.2, 0.8],
            [0.1, 0.4, 0.6],
            [0.8, 0.8, 0.1],
            [0.45, 0.9, 0.7],
        ],
    )
    structure.add_oxidation_state_by_element({"Li": 1, "Mn": 2.0, "P": 2, "O": -2, "S": -2})
    return structure


@pytest.mark.parametrize("spacing", [0.7, 3.0])
def test_field_equals_a_plain_sum_over_images(spacing: float) -> None:
    structure = triclinic()
    field = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=spacing))
    shape = field.values.shape
    assert shape == tuple(math.ceil(length / spacing) for length in structure.lattice.abc)
    assert field.spacing_A <= spacing
    voxels = np.random.default_rng(1).permutation(field.values.size)[:12]
    for voxel in voxels:
        index = np.unravel_index(voxel, shape)
        expected = plain_sum(structure, "Li", np.array(index) / shape)
        assert field.values[index] == pytest.approx(expected, rel=1e-6, abs=2e-7)


def test_anion_field_equals_a_plain_sum() -> None:
    fluorite = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.463), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    fluorite.add_oxidation_state_by_element({"Ca": 2, "F": -1})
    fluorite.replace(0, "Ca2+")
    mixed = fluorite.copy()
    mixed.append("Cl1-", [0.55, 0.5, 0.5])
    field = bond_valence_field(mixed, "F", BondValenceSettings(spacing_A=1.2))
    assert field.ion_charge == -1
    for index in [(0, 1, 2), (3, 3, 1), (2, 4, 4)]:
        expected = plain_sum(mixed, "F", np.array(index) / field.values.shape)
        assert field.values[index] == pytest.approx(expected, rel=1e-6, abs=2e-7)


def test_pair_terms_and_slopes_and_table() -> None:
    distance = np.linspace(0.9, 9.9, 4001)
    morse_term = pair_energies.MorseTerm(0.98816, 1.937984, 1.940013)
    for term in (morse_term, pair_energies.CoulombTerm(14.4 * 4 / math.sqrt(10), 2.2)):
        energy, slope = term(distance)
        np.testing.assert_allclose(np.gradient(energy, distance)[1:-1], slope[1:-1], rtol=2e-4, atol=1e-4)
        table = pair_energies.radial_table(term, 10.0)
        bins = (distance / pair_energies.TABLE_BIN_A).astype(int)
        x = distance / pair_energies.TABLE_BIN_A - bins
        c = table[bins]
        np.testing.assert_allclose(c[:, 0] + x * (c[:, 1] + x * (c[:, 2] + x * c[:, 3])), energy, atol=1e-8)
    morse, _ = morse_term(np.array([1.940013]))
    assert morse[0] == pytest.approx(-0.98816 / 2)


def test_field_ignores_the_mobile_ions_and_stays_finite_on_a_nucleus() -> None:
    full = triclinic()
    fewer = full.copy()
    fewer.remove_sites([1])
    np.testing.assert_array_equal(
        bond_valence_field(full, "Li", COARSE).values, bond_valence_field(fewer, "Li", COARSE).values
    )
    on_nucleus = antiperovskite()
    on_nucleus.add_oxidation_state_by_element({"Li": 1, "O": -2, "Cl": -1})
    assert np.isfinite(bond_valence_field(on_nucleus, "Li", COARSE).values).all()


def test_supercell_repeats_the_field_and_shift_rolls_it() -> None:
    structure = antiperovskite()
    structure.add_oxidation_state_by_element({"Li": 1, "O": -2, "Cl": -1})
    exact = BondValenceSettings(spacing_A=3.907 / 9)
    small = bond_valence_field(structure, "Li", exact)
    large = bond_valence_field(structure * (2, 1, 3), "Li", exact)
    np.testing.assert_allclose(large.values, np.tile(small.values, (2, 1, 3)), rtol=1e-9, atol=1e-8)
    n1, n2, n3 = small.values.shape
    shifted = structure.copy()
    shifted.translate_sites(range(len(shifted)), [2 / n1, 1 / n2, 3 / n3])
    rolled = bond_valence_field(shifted, "Li", exact).values
    np.testing.assert_allclose(rolled, np.roll(small.values, (2, 1, 3), (0, 1, 2)), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- symmetry, occupancies, threads, derivatives


def spinel(shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Structure:
    """LiMn2O4, Fd-3m, 192 operations in the cubic cell; M. M. Thackeray et al., Mater. Res. Bull. 18 (1983) 461."""
    structure = Structure.from_spacegroup(
        "Fd-3m:1", Lattice.cubic(8.245), ["Li", "Mn", "O"], [[0, 0, 0], [0.625, 0.625, 0.625], [0.388, 0.388, 0.388]]
    )
    structure.translate_sites(range(len(structure)), shift)
    structure.add_oxidation_state_by_element({"Li": 1, "Mn": 3.5, "O": -2})
    return structure


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.123, 0.31, 0.07)])
def test_symmetry_saves_terms_and_changes_nothing(shift: tuple[float, float, float]) -> None:
    structure = spinel(shift)
    fast = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.3))
    plain = bond_valence_field(structure, "Li", BondValenceSettings(grid_shape=fast.values.shape, symmetry=False))
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-9, atol=1e-9)
    assert plain.operations == 1
    assert plain.pair_terms_summed == plain.pair_terms
    if shift == (0.0, 0.0, 0.0):
        assert fast.operations == 192
        # Two orbits of 16 Mn and 32 O: one ion of each is summed.
        assert fast.pair_terms_summed < plain.pair_terms / 20


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(*[st.integers(14, 26)] * 3),
    shift=st.tuples(*[st.sampled_from([0.0, 0.25, 1 / 3, 0.137])] * 3),
)
def test_any_grid_uses_only_the_symmetry_that_it_has(
    shape: tuple[int, int, int], shift: tuple[float, float, float]
) -> None:
    structure = spinel(shift)
    fast = bond_valence_field(structure, "Li", BondValenceSettings(grid_shape=shape))
    plain = bond_valence_field(structure, "Li", BondValenceSettings(grid_shape=shape, symmetry=False))
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-9, atol=1e-9)


def test_a_crystal_that_is_almost_symmetric_is_not_made_so() -> None:
    structure = spinel()
    structure.translate_sites([20], [0.004, 0, 0])  # 0.03 Angstrom
    fast = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.3))
    plain = bond_valence_field(structure, "Li", BondValenceSettings(grid_shape=fast.values.shape, symmetry=False))
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-9, atol=1e-9)
    assert fast.operations < 192


def test_partly_occupied_and_mixed_sites_weigh_by_their_occupancy() -> None:
    structure = triclinic()
    structure[1] = {"Li1+": 0.4, "Mg2+": 0.3}  # shares a mobile site: stays, the lithium goes
    structure[3] = {"P5+": 0.75, "Si4+": 0.25}
    structure[6] = {"S2-": 0.6}
    field = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=1.5))
    for index in [(0, 0, 0), (1, 2, 3), (2, 1, 1)]:
        expected = plain_sum(structure, "Li", np.array(index) / field.values.shape)
        assert field.values[index] == pytest.approx(expected, rel=1e-6, abs=2e-7)


def test_half_and_half_sites_are_the_mean_of_two_crystals() -> None:
    whole = triclinic()
    bromide = whole.copy()
    bromide.replace(6, "Se2-")
    half = whole.copy()
    half[6] = {"S2-": 0.5, "Se2-": 0.5}
    fields = [bond_valence_field(s, "Li", COARSE).values for s in (whole, bromide, half)]
    np.testing.assert_allclose(fields[2], (fields[0] + fields[1]) / 2, rtol=1e-9, atol=1e-9)


def test_symmetry_of_a_disordered_crystal() -> None:
    structure = spinel()
    for index in [i for i, site in enumerate(structure) if site.specie.symbol == "Mn"]:
        structure[index] = {"Mn4+": 0.75, "Ni2+": 0.25}
    fast = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.35))
    plain = bond_valence_field(structure, "Li", BondValenceSettings(grid_shape=fast.values.shape, symmetry=False))
    assert fast.operations == 192
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-9, atol=1e-9)


def test_threads_share_the_work_without_changing_a_bit() -> None:
    one = bond_valence_field(triclinic(), "Li", BondValenceSettings(spacing_A=0.3)).values
    for workers in (2, 3, 100):
        several = bond_valence_field(triclinic(), "Li", BondValenceSettings(spacing_A=0.3, workers=workers)).values
        np.testing.assert_array_equal(several, one)


def test_balanced_charges_scale_the_repulsion_alone() -> None:
    structure = triclinic()
    plain = bond_valence_framework(structure, "Li")
    balanced = bond_valence_framework(structure, "Li", BondValenceSettings(balance_charges=True))
    scaled = {"Li": 2 / math.sqrt(2), "Mn": 2 / 2, "P": 2 / math.sqrt(3), "O": 4 / math.sqrt(2), "S": 2 / math.sqrt(3)}
    ratio = (scaled["O"] + scaled["S"]) / (scaled["Li"] + scaled["Mn"] + scaled["P"])
    at_3_A = int(3.0 / pair_energies.TABLE_BIN_A)
    for kind, (before, after) in enumerate(zip(plain.tables, balanced.tables, strict=True)):
        expected = ratio if kind in (0, 1) else 1.0  # Mn and P come first in the structure, then O and S
        assert after[at_3_A, 0] / before[at_3_A, 0] == pytest.approx(expected)


def test_energies_at_points_are_the_grids_and_gradients_their_slopes() -> None:
    structure = triclinic()
    field = bond_valence_field(structure, "Li", BondValenceSettings(spacing_A=0.5))
    points = np.array([(1, 2, 3), (4, 0, 6), (7, 9, 1)]) / field.values.shape
    energies, gradients = field.framework.energies_at(points - [1, 0, 2])
    expected = [field.values[tuple(np.rint(p * field.values.shape).astype(int))] for p in points]
    assert energies == pytest.approx(expected, rel=1e-9)
    step = 1e-4
    for axis in range(3):
        aside = step * np.eye(3)[axis] @ np.linalg.inv(field.lattice)
        up, down = (field.framework.energies_at(points + sign * aside)[0] for sign in (1, -1))
        np.testing.assert_allclose(gradients[:, axis], (up - down) / (2 * step), rtol=1e-4, atol=1e-4)


def test_stationary_points_are_stationary() -> None:
    framework = bond_valence_framework(triclinic(), "Li")
    starts = np.random.default_rng(0).random((60, 3))
    for modes in (0, 1):
        ends = framework.stationary_points(starts, modes, trust_radius_A=0.1, farthest_A=3.0, most_steps=200)
        assert ends.found.sum() >= 10
        energies, gradients = framework.energies_at(ends.frac_coords[ends.found])
        assert np.abs(gradients).max() < 2e-4
        np.testing.assert_allclose(energies, ends.energies_eV[ends.found], atol=1e-6)
        for point, mode, energy in zip(
            ends.frac_coords[ends.found], ends.lowest_modes[ends.found], energies, strict=True
        ):
            aside = 0.03 * mode @ np.linalg.inv(framework.lattice)
            around = framework.energies_at(np.stack([point + aside, point - aside]))[0]
            assert (around > energy).all() if modes == 0 else (around < energy).all()


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"grid_shape": (3, 4)}, {"grid_shape": (0, 4, 4)}])
def test_meaningless_field_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BondValenceSettings(**wrong)
