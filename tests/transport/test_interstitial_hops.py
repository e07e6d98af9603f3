"""Interstitial hops: known sites of electrodes, brute force, symmetry, supercells, paths."""

from __future__ import annotations

from itertools import product

import crystals
import numpy as np
import pytest
from hopflow.transport.errors import NoHopsError, StructureError
from hopflow.transport.hops import hop_path
from hopflow.transport.interstitial_hops import enumerate_interstitial_hops, interstitial_sites
from hopflow.transport.neb import BandSettings, run_band
from hopflow.transport.supercells import perpendicular_widths_A
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_potential import PairPotential
from pymatgen.core import Lattice, Structure


def rutile() -> Structure:
    """TiO2; E. P. Meagher and G. A. Lager, Can. Mineral. 17 (1979) 77."""
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )


def without_lithium(structure: Structure) -> Structure:
    host = structure.copy()
    host.remove_species(["Li"])
    return host


def cobaltate() -> Structure:
    """LiCoO2, R-3m; H. J. Orman and P. J. Wiseman, Acta Cryst. C 40 (1984) 12."""
    return Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.816, 14.054), ["Li", "Co", "O"], [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.2395]]
    )


def test_rutile_takes_lithium_in_its_channels():
    """The widest voids are the tetrahedral ones; the hop between two of them passes the octahedral site 4c."""
    sites, radii = interstitial_sites(rutile(), "Li")
    expected = [(0.5, 0, 0.25), (0.5, 0, 0.75), (0, 0.5, 0.25), (0, 0.5, 0.75)]
    assert len(sites) == 4
    away = rutile().lattice.get_all_distances(sites, expected)
    assert away.min(axis=0).max() < 0.01
    assert np.ptp(radii) < 1e-6
    network = enumerate_interstitial_hops(rutile(), "Li")
    hop = network.hops[0]
    assert hop.distance_A == pytest.approx(2.959 / 2, abs=1e-3)
    assert hop.multiplicity == 4
    middle = (network.structure.frac_coords[[hop.site_start, hop.site_end]].sum(axis=0) + hop.image) / 2
    octahedral = [(0.5, 0, 0), (0.5, 0, 0.5), (0, 0.5, 0), (0, 0.5, 0.5)]
    assert rutile().lattice.get_all_distances([middle], octahedral).min() < 0.01


@pytest.mark.parametrize(("make", "within_A"), [(crystals.iron_phosphate, 0.7), (cobaltate, 0.7)])
def test_sites_of_lithium_are_voids_of_the_empty_electrode(make, within_A):
    full = make()
    sites, _ = interstitial_sites(without_lithium(full), "Li")
    lithium = [site.frac_coords for site in full if site.specie.symbol == "Li"]
    assert full.lattice.get_all_distances(lithium, sites).min(axis=1).max() < within_A


def test_one_more_lithium_in_antifluorite():
    """Li2O: the octahedral void, eight ions around it, three of its images in every direction."""
    lithia = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.61), ["O", "Li"], [[0, 0, 0], [0.25] * 3])
    sites, _ = interstitial_sites(lithia, "Li")
    assert len(sites) == 4
    assert lithia.lattice.get_all_distances(sites, [[0.5, 0.5, 0.5]]).min() < 1e-3
    network = enumerate_interstitial_hops(lithia, "Li")
    assert (network.dimension, len(network.hops)) == (3, 1)
    # face-centred cubic sites: twelve neighbours each, every hop counted once
    assert network.hops[0].multiplicity == 4 * 12 // 2
    assert network.hops[0].distance_A == pytest.approx(4.61 / np.sqrt(2))


def test_no_wider_void_is_near_and_every_one_is_clear():
    for structure in (crystals.lithium_phosphate(), crystals.lithium_nitride(), crystals.argyrodite()):
        sites, radii = interstitial_sites(structure, "Li", min_radius_A=0.5, merge_A=1.0)
        assert (radii >= 0.5 - 1e-6).all()
        apart = structure.lattice.get_all_distances(sites, sites) + 9 * np.eye(len(sites))
        # members of an orbit in an endless chain are left as they are
        assert np.median(apart.min(axis=1)) >= 1.0 - 1e-3
        atoms = structure.lattice.get_all_distances(sites, structure.frac_coords)
        assert atoms.min() > 1.0


def brute_force(structure: Structure, sites: np.ndarray, cutoff_A: float, clearance_A: float) -> int:
    """Straight lines between voids, up to a length and clear of all atoms and other voids, counted in the cell."""
    matrix = structure.lattice.matrix
    everything = np.concatenate([structure.frac_coords, sites])
    cells = np.array(list(product(range(-3, 4), repeat=3)))
    around = (everything[None] + cells[:, None]).reshape(-1, 3) @ matrix
    count = 0
    for i, j in product(range(len(sites)), repeat=2):
        for cell in cells[(np.abs(cells) <= 1).all(axis=1)]:
            start, end = sites[i] @ matrix, (sites[j] + cell) @ matrix
            length = np.linalg.norm(end - start)
            if not 1e-6 < length <= cutoff_A:
                continue
            others = around[
                (np.linalg.norm(around - start, axis=1) > 1e-3) & (np.linalg.norm(around - end, axis=1) > 1e-3)
            ]
            share = np.clip((others - start) @ (end - start) / length**2, 0, 1)
            gap = np.linalg.norm(others - start - share[:, None] * (end - start), axis=1)
            count += bool((gap >= clearance_A).all())
    return count // 2


@pytest.mark.parametrize("make", [rutile, crystals.lithium_nitride, crystals.antiperovskite])
def test_hops_are_those_of_brute_force(make):
    structure = make()
    # the antiperovskite is dense: only small voids are left in it
    radius_A = 0.3 if make is crystals.antiperovskite else 0.5
    network = enumerate_interstitial_hops(structure, "Li", min_radius_A=radius_A)
    sites, _ = interstitial_sites(structure, "Li", radius_A)
    assert sum(hop.multiplicity for hop in network.hops) == len(network.edges)
    assert len(network.edges) == brute_force(structure, sites, network.cutoff_A + 0.01, 0.5)


@settings(max_examples=12, deadline=None)
@given(
    which=st.sampled_from([rutile, crystals.lithium_phosphate, crystals.lithium_nitride, crystals.iron_phosphate]),
    seed=st.integers(0, 1000),
)
def test_origin_and_order_of_atoms_do_not_matter(which, seed):
    structure = which()
    rng = np.random.default_rng(seed)
    other = Structure.from_sites([structure[k] for k in rng.permutation(len(structure))])
    other.translate_sites(range(len(other)), rng.random(3))
    mine, theirs = (enumerate_interstitial_hops(each, "Li") for each in (structure, other))
    assert mine.dimension == theirs.dimension
    assert [hop.multiplicity for hop in mine.hops] == [hop.multiplicity for hop in theirs.hops]
    assert np.allclose([h.distance_A for h in mine.hops], [h.distance_A for h in theirs.hops], atol=2e-3)


def test_a_supercell_has_the_same_hops_more_often():
    one = enumerate_interstitial_hops(rutile(), "Li")
    two = enumerate_interstitial_hops(rutile() * (1, 1, 2), "Li")
    assert [hop.multiplicity * 2 for hop in one.hops] == [hop.multiplicity for hop in two.hops]
    assert np.allclose([h.distance_A for h in one.hops], [h.distance_A for h in two.hops], atol=1e-3)


def test_the_path_adds_an_ion_to_the_whole_crystal():
    structure = crystals.lithium_nitride()
    network = enumerate_interstitial_hops(structure, "Li")
    for hop in network.hops:
        path = hop_path(network, hop, images=5, min_length_A=7.0)
        assert perpendicular_widths_A(path.lattice).min() >= 7.0 - 1e-9
        cells = len(path.framework_species) / len(structure)
        assert cells == round(cells)
        assert path.framework_species.count("Li") == 2 * path.framework_species.count(
            "N"
        ) + path.framework_species.count("N")
        assert path.ion == "Li"
        assert path.path_id == hop.hop_id
        assert hop.hop_id.startswith("void")
        step = (path.path_frac_coords[-1] - path.path_frac_coords[0]) @ path.lattice
        assert np.linalg.norm(step) == pytest.approx(hop.distance_A, abs=1e-6)
        lattice = Lattice(path.lattice)
        ends = lattice.get_all_distances(path.path_frac_coords[[0, -1]], path.framework_frac_coords)
        assert ends.min() > 1.0


def test_a_band_runs_along_an_interstitial_hop():
    chloride = crystals.rock_salt(5.1, "Li", "Cl")
    network = enumerate_interstitial_hops(chloride, "Li")
    path = hop_path(network, network.hops[0], images=5, min_length_A=7.0)
    result = run_band(path, PairPotential(), BandSettings(images=3, split=False))
    assert result.converged
    assert result.barrier_span_eV > 0.05
    assert len(result.images[0]) == len(path.framework_species) + 1


def test_what_has_no_voids_says_so():
    with pytest.raises(NoHopsError, match=r"Li3ClO has no void of 0\.5 A .* look at vacancy hops"):
        enumerate_interstitial_hops(crystals.antiperovskite(), "Li")
    with pytest.raises(NoHopsError, match="No Li hops up to 1 A connect TiO2 across its cell"):
        enumerate_interstitial_hops(rutile(), "Li", max_distance_A=1.0)
    split = rutile()
    split.replace(0, {"Ti": 0.5, "V": 0.4})
    with pytest.raises(StructureError, match="partly occupied"):
        enumerate_interstitial_hops(split, "Li")
