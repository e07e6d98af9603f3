"""End points that are each other's image: the isometry found is one, and it saves relaxations without changing them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, sort
from hopflow.transport.band_result import BandSettings
from hopflow.transport.bands import path_atoms
from hopflow.transport.endpoint_symmetry import find_isometry
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_potential import PairPotential
from pymatgen.core import Lattice, Structure


def vacancy(site: int) -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True) * (2, 1, 1)
    ions = [atom.index for atom in atoms if atom.symbol == "Li"]
    del atoms[ions[site]]
    return sort(atoms)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 10_000))
def test_whatever_the_atoms_do_their_image_does(first, second, seed):
    one, other = vacancy(first), vacancy(second)
    generator = np.random.default_rng(seed)
    found = find_isometry(one.cell.array, one.get_chemical_symbols(), one.positions, other.positions, 1e-3)
    # all lithium sites of rock salt are alike
    assert found is not None
    assert found.deviation_A < 1e-6
    assert np.allclose(found.positions(one.positions), other.positions, atol=1e-6)
    one.positions += generator.normal(0.0, 0.1, one.positions.shape)
    other.positions = found.positions(one.positions)
    assert sorted(other.get_all_distances(mic=True).ravel()) == pytest.approx(
        sorted(one.get_all_distances(mic=True).ravel())
    )
    energies, forces = PairPotential().energies_and_forces([one, other])
    assert energies[0] == pytest.approx(energies[1])
    assert np.allclose(found.vectors(forces[0]), forces[1], atol=1e-8)


def test_other_configurations_have_none():
    atoms = vacancy(0)
    moved = vacancy(3)
    symbols = atoms.get_chemical_symbols()
    moved.positions[2, 0] += 0.3
    assert find_isometry(atoms.cell.array, symbols, atoms.positions, moved.positions, 0.05) is None
    loose = find_isometry(atoms.cell.array, symbols, atoms.positions, moved.positions, 0.5)
    assert loose is not None
    assert 0.05 < loose.deviation_A <= 0.31
    # the same places with two species exchanged are another configuration
    swapped = list(symbols)
    lithium, chlorine = swapped.index("Li"), swapped.index("Cl")
    other = atoms.positions.copy()
    other[[lithium, chlorine]] = other[[chlorine, lithium]]
    assert find_isometry(atoms.cell.array, symbols, atoms.positions, other, 0.05) is None


@pytest.mark.parametrize("relax", [True, False])
def test_one_relaxation_serves_both_ends(relax):
    crystal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    network = enumerate_hops(crystal, "Li")
    path = hop_path(network, network.hops[0], images=5, min_length_A=6.0)
    chosen = BandSettings(images=3, relax_endpoints=relax, max_force_eV_per_A=0.02, endpoint_max_force_eV_per_A=0.01)
    potential, both = PairPotential(), PairPotential()
    once = run_band(path, potential, chosen)
    twice = run_band(path, both, replace(chosen, equivalent_ends=False))
    assert once.converged
    assert once.barrier_span_eV == pytest.approx(twice.barrier_span_eV, abs=2e-3)
    assert np.allclose(once.images[-1].positions, twice.images[-1].positions, atol=5e-3)
    assert once.energies_eV[0] == once.energies_eV[-1]
    assert twice.energies_eV[-1] == pytest.approx(once.energies_eV[-1], abs=1e-4)
    # what is said of the last end point is what the potential says of it
    energies, forces = PairPotential().energies_and_forces([once.images[-1]])
    assert energies[0] == pytest.approx(once.energies_eV[-1], abs=1e-9)
    assert np.allclose(forces[0], once.forces_eV_per_A[-1], atol=1e-8)
    # evaluations of images whose atoms lie where those of an end point lie
    assert len(potential.asked) < len(both.asked)
    last = path_atoms(path, path.path_frac_coords[-1]).positions
    assert not any(np.allclose(image.positions, last) for image in potential.asked)
