"""First bands along the bond-valence site energy: analytic field, symmetry, saddle points, and bands from them."""

from __future__ import annotations

import crystals
import numpy as np
import pytest
from hopflow.transport.band_result import BandSettings
from hopflow.transport.bond_valence_paths import (
    POINTS,
    bond_valence_path,
    decorated_path_host,
    relaxed_string,
    unoccupied_valley,
)
from hopflow.transport.errors import OxidationStateError
from hopflow.transport.frameworks import bond_valence_framework
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hopflow.transport.paths import MigrationPath
from pair_potential import PairPotential
from pymatgen.core import Lattice


class Valley:
    """A valley along a half circle of radius 2 Angstrom, 3 eV/Å² across it, with a low pass in its middle."""

    lattice = 20.0 * np.eye(3)

    def energies_at(self, frac: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = (np.asarray(frac) @ self.lattice).T
        radius = np.hypot(x, y)
        away = radius - 2.0
        energies = 1.5 * away**2 + 1.5 * z**2 + 0.1 * y
        gradients = np.stack([3 * away * x / radius, 3 * away * y / radius + 0.1, 3 * z], axis=1)
        return energies, gradients


def test_a_curve_sinks_into_its_valley():
    angles = np.linspace(np.pi, 0.0, POINTS)
    start = np.stack([2 * np.cos(angles), 0.8 * np.sin(angles) + 0.1, np.full(POINTS, 0.2)], axis=1)
    start[0], start[-1] = (-2, 0, 0), (2, 0, 0)
    curve = relaxed_string(Valley(), start)  # type: ignore[arg-type]
    assert np.allclose(curve[[0, -1]], start[[0, -1]])
    assert np.abs(np.hypot(curve[:, 0], curve[:, 1]) - 2.0).max() < 0.05
    assert np.abs(curve[:, 2]).max() < 0.05
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    assert np.ptp(steps) < 0.02 * steps.mean()


def hop_of(structure, number=0) -> MigrationPath:
    network = enumerate_hops(structure, "Li")
    return hop_path(network, network.hops[number], images=5, min_length_A=7.0)


@pytest.mark.parametrize("make", [crystals.iron_phosphate, crystals.antiperovskite, crystals.lithium_phosphate])
def test_the_way_is_no_higher_than_the_straight_line_and_at_rest_across(make):
    path = hop_of(make())
    framework = bond_valence_framework(decorated_path_host(path), "Li")
    inverse = np.linalg.inv(path.lattice)
    curve = bond_valence_path(path)
    ends = path.path_frac_coords[[0, -1]] @ path.lattice
    assert np.allclose(curve[[0, -1]], ends)
    line = ends[0] + np.linspace(0, 1, POINTS)[:, None] * (ends[1] - ends[0])
    highest = [framework.energies_at(points @ inverse)[0].max() for points in (curve, line)]
    assert highest[0] <= highest[1] + 1e-6
    _, gradients = framework.energies_at(curve[1:-1] @ inverse)
    along = curve[2:] - curve[:-2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = gradients - np.einsum("ij,ij->i", gradients, along)[:, None] * along
    assert np.linalg.norm(across, axis=1).max() < 0.1


def test_lithium_in_olivine_bends_out_of_its_line():
    """The curved path along b of LiFePO4, S. Nishimura et al., Nature Mater. 7 (2008) 707."""
    path = hop_of(crystals.iron_phosphate())
    ends = path.path_frac_coords[[0, -1]] @ path.lattice
    curve = bond_valence_path(path)
    step = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    off = curve - ends[0]
    bow = np.linalg.norm(off - (off @ step)[:, None] * step, axis=1).max()
    assert 0.2 < bow < 1.2


def test_the_charges_are_those_of_the_full_crystal():
    path = hop_of(crystals.iron_phosphate())
    host = decorated_path_host(path)
    charges = {str(site.specie) for site in host}
    assert {"Li+", "Fe2+"} <= charges
    alone = MigrationPath(
        path.ion,
        path.lattice,
        tuple(symbol for symbol in path.framework_species if symbol != "Li"),
        path.framework_frac_coords[[symbol != "Li" for symbol in path.framework_species]],
        path.path_frac_coords,
        "alone",
    )
    assert {str(site.specie) for site in decorated_path_host(alone)} >= {"Li+"}


def test_a_band_begins_there_and_ends_like_others():
    path = hop_of(crystals.rock_salt(5.1, "Li", "Cl"))
    settings = {"images": 3, "split": False, "max_force_eV_per_A": 0.02, "endpoint_max_force_eV_per_A": 0.02}
    barriers = [
        run_band(path, PairPotential(), BandSettings(interpolation=start, **settings)).barrier_span_eV
        for start in ("bond_valence", "idpp")
    ]
    assert barriers[0] == pytest.approx(barriers[1], abs=0.01)


def test_a_valley_through_another_ion_is_not_taken():
    """The fields' deepest valleys are the sites of mobile ions, whether they are taken or not."""
    olivine = crystals.iron_phosphate()
    network = enumerate_hops(olivine, "Li")
    taken, free = 0, 0
    for hop in network.hops:
        path = hop_path(network, hop, images=5, min_length_A=8.0)
        curve = bond_valence_path(path)
        others = path.framework_frac_coords[[symbol == "Li" for symbol in path.framework_species]]
        distances = Lattice(path.lattice).get_all_distances(curve @ np.linalg.inv(path.lattice), others)
        found = unoccupied_valley(path)
        if distances.min() < 1.2:
            taken += 1
            assert found is None
        elif distances.min() > 1.8:
            free += 1
            assert np.allclose(found, curve)
    assert taken > 0
    assert free > 0


def test_without_charges_there_is_no_such_band():
    odd = MigrationPath(
        "Li",
        6.0 * np.eye(3),
        ("Fe", "Ni", "Co"),
        np.array([[0.5, 0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]),
        np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.25]]),
        "alloy",
    )
    with pytest.raises(OxidationStateError):
        bond_valence_path(odd)
    assert unoccupied_valley(odd) is None
