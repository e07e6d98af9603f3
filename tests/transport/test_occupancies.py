"""Mobile-ion sites: split positions joined by a rule that neither order, images nor neighbours can bend."""

from __future__ import annotations

import numpy as np
import pytest
from hopflow.transport.errors import NoMobileIonError
from hopflow.transport.occupancies import mobile_sites
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure


def crystal(positions_A: list[float], occupancies: list[float], a: float = 12.0) -> Structure:
    """Lithium along x, and an oxygen far away."""
    sites = [{"Li": occupancy} for occupancy in occupancies]
    coords = [[x / a, 0.5, 0.5] for x in positions_A]
    return Structure(Lattice.orthorhombic(a, 6, 6), [*sites, "O"], [*coords, [0.5, 0, 0]])


def test_full_sites_stay_apart_even_when_close() -> None:
    sites = mobile_sites(crystal([1.0, 1.5, 6.0], [1, 1, 1]), "Li")
    assert [site.members for site in sites] == [(0,), (1,), (2,)]
    assert [site.spread_A for site in sites] == [0, 0, 0]


def test_split_positions_become_one_site_at_their_weighted_centre_across_the_cell_wall() -> None:
    (site, other) = mobile_sites(crystal([11.8, 0.4, 6.0], [0.6, 0.3, 0.5]), "Li")
    assert site.members == (0, 1)
    assert site.occupancy == pytest.approx(0.9)
    # 11.8 and 12.4 Angstrom with weights 2 : 1 have their centre at 12.0, the cell's wall.
    assert site.frac_coords[0] == pytest.approx(0, abs=1e-9) or site.frac_coords[0] == pytest.approx(1)
    assert site.frac_coords[1:] == pytest.approx((0.5, 0.5))
    assert site.spread_A == pytest.approx(0.6)
    assert other.members == (2,)


def test_a_chain_of_positions_does_not_run_together() -> None:
    sites = mobile_sites(crystal([0.0, 0.8, 1.6, 2.4, 3.2], [0.2] * 5), "Li", join_distance_A=1.0)
    assert [site.members for site in sites] == [(0, 1), (2, 3), (4,)]
    assert all(site.spread_A <= 1.0 for site in sites)


def test_occupancies_beyond_one_are_not_joined() -> None:
    # LGPS as refined: two positions of 0.54, 0.42 Angstrom apart, are one lithium; two of 0.7 are not.
    assert len(mobile_sites(crystal([1.0, 1.42], [0.54, 0.54]), "Li")) == 1
    assert len(mobile_sites(crystal([1.0, 1.42], [0.7, 0.7]), "Li")) == 2


def test_only_the_ions_share_of_a_mixed_site_counts() -> None:
    structure = crystal([1.0, 1.5], [0.4, 0.4])
    structure.replace(1, {"Li": 0.4, "Mg": 0.2})
    structure.add_oxidation_state_by_element({"Li": 1, "Mg": 2, "O": -2})
    (site,) = mobile_sites(structure, "Li")
    assert site.occupancy == pytest.approx(0.8)
    (magnesium,) = mobile_sites(structure, "Mg")
    assert magnesium.members == (1,)
    assert magnesium.occupancy == pytest.approx(0.2)


def test_missing_ion_and_no_joining() -> None:
    with pytest.raises(NoMobileIonError, match="no Na"):
        mobile_sites(crystal([1.0], [1]), "Na")
    assert len(mobile_sites(crystal([1.0, 1.1], [0.5, 0.5]), "Li", join_distance_A=0)) == 2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_translation_and_images_do_not_matter_and_nothing_is_lost(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 8
    coords = random.random((count, 3))
    coords[1::2] = coords[::2] + random.normal(scale=0.05, size=(count // 2, 3))
    occupancies = random.uniform(0.1, 0.7, count)
    lattice = Lattice.from_parameters(6, 7, 8, 80, 95, 105)
    one = Structure(lattice, [{"Li": x} for x in occupancies], coords)
    order = random.permutation(count)
    shift = random.random(3)
    other = Structure(
        lattice,
        [{"Li": occupancies[i]} for i in order],
        coords[order] + shift + random.integers(-1, 2, (count, 3)),
    )
    sites, moved = mobile_sites(one, "Li"), mobile_sites(other, "Li")
    assert sorted(i for site in sites for i in site.members) == list(range(count))
    assert sum(site.occupancy for site in sites) == pytest.approx(occupancies.sum())
    expected = {site.members: site for site in sites}
    assert {tuple(sorted(int(order[i]) for i in site.members)) for site in moved} == set(expected)
    for site in moved:
        same = expected[tuple(sorted(int(order[i]) for i in site.members))]
        difference = np.array(site.frac_coords) - shift - same.frac_coords
        assert np.abs(difference - np.round(difference)).max() < 1e-9
        assert site.spread_A == pytest.approx(same.spread_A)
        assert site.spread_A <= 1.0
        assert len(site.members) == 1 or site.occupancy <= 1.1
