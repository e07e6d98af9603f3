"""Radii of the framework: coordination numbers, Shannon's table, precedence, disorder."""

import numpy as np
import pytest
from hopflow.transport.framework_radii import effective_coordination, framework_radii, shannon_radius_A
from hopflow.transport.structures import assign_oxidation_states
from pymatgen.core import Lattice, Structure


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


def test_coordination_numbers_and_shannon_radii():
    assert effective_coordination(np.full(6, 2.1), np.ones(6)) == pytest.approx(6.0)
    assert effective_coordination(np.full(8, 2.1), np.full(8, 0.5)) == pytest.approx(4.0)
    assert effective_coordination(np.array([2.0, 2.0, 2.0, 2.0, 3.5]), np.ones(5)) == pytest.approx(4.0, abs=1e-2)
    assert shannon_radius_A("O", -2, 4) == 1.24
    assert shannon_radius_A("O", -2, 5) == pytest.approx(1.25)  # between 1.24 of four and 1.26 of six
    assert shannon_radius_A("O", -2, 12) == 1.28  # eight is the largest in the table
    assert shannon_radius_A("Fe", 2.5, 6) == pytest.approx((0.92 + 0.785) / 2)
    assert shannon_radius_A("P", -3, 6) is None
    assert shannon_radius_A("O", 0, 6) is None


def test_radii_by_precedence():
    crystal = assign_oxidation_states(olivine(), "Li")
    plain = framework_radii(crystal, "Li")
    assert set(plain.sources) == {"shannon"}
    assert plain.species[0] == "Fe2+"
    assert plain.radii_A[list(plain.species).index("P5+")] == pytest.approx(0.31, abs=0.01)
    chosen = framework_radii(crystal, "Li", given={"O": 1.5, "O2-": 1.3})
    assert set(chosen.radii_A[np.array(chosen.species) == "O2-"]) == {1.3}
    assert set(np.array(chosen.sources)[np.array(chosen.species) == "O2-"]) == {"given"}
    effective = framework_radii(crystal, "Li", "effective")
    known = dict(zip(plain.sites.tolist(), plain.radii_A.tolist(), strict=True))
    for k in np.flatnonzero(np.array(effective.species) == "P5+"):
        oxygens = crystal.get_neighbors(crystal[int(effective.sites[k])], 2.0)
        assert effective.radii_A[k] == pytest.approx(min(n.nn_distance - known[n.index] for n in oxygens), abs=1e-9)


def test_disordered_sites_count_as_their_most_frequent_species():
    crystal = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.15), [{"Li+": 0.5, "Mn3+": 0.5}, {"O2-": 0.75, "F-": 0.25}],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )  # fmt: skip
    radii = framework_radii(crystal, "Li")
    assert len(radii.sites) == 8  # the mixed sites stay, without their lithium
    assert set(radii.species) == {"Mn3+", "O2-"}
    assert any("8 partly occupied or mixed" in sentence for sentence in radii.notes)


def test_europium_has_a_radius():
    # pymatgen's table has an entry of europium without a charge beside those with one.
    assert shannon_radius_A("Eu", 2, 6) == 1.31
    assert shannon_radius_A("Eu", 3, 6) == 1.087
