"""Nudged elastic bands: model surfaces with known saddles, ASE's own band, failures, and being killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.mep.neb import NEB
from ase.optimize import BFGS
from hopflow.transport.bands import (
    band_forces,
    has_intermediate_minimum,
    improve_by_pair_distances,
    initial_band,
    path_atoms,
    splined_extremes_eV,
)
from hopflow.transport.errors import Reason
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import BandSettings, run_band
from hopflow.transport.paths import MigrationPath
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.io.ase import AseAtomsAdaptor
from surfaces import HOP_A, EnergyAndForce, Killed, Surface, channel, straight_path

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.mark.parametrize("height_eV", [0.05, 0.4, 1.5])
@pytest.mark.parametrize("bend_A", [0.0, 0.8])
def test_known_saddle(height_eV: float, bend_A: float) -> None:
    result = run_band(
        straight_path((0.15, 0.1, 0.05), (HOP_A - 0.1, -0.1, 0.0)),
        Surface(channel(height_eV, bend_A)),
        BandSettings(max_force_eV_per_A=0.01, endpoint_max_force_eV_per_A=0.005),
    )
    assert result.converged
    assert result.reason is None
    assert result.barrier_forward_eV == pytest.approx(height_eV, abs=1e-3)
    assert result.barrier_reverse_eV == pytest.approx(height_eV, abs=1e-3)
    assert result.splined_forward_eV == pytest.approx(height_eV, abs=2e-3)
    assert result.climbing_image is not None
    saddle = result.images[result.climbing_image].positions[-1]
    assert saddle == pytest.approx([HOP_A / 2, bend_A, 0], abs=0.02)


def test_two_sites_of_different_energy() -> None:
    """A tilt raises the far site; the barriers differ by it."""
    level = channel(0.4, 0.5)

    def tilted(r: np.ndarray) -> tuple[float, np.ndarray]:
        energy, force = level(r)
        return energy + 0.1 * r[0], force - np.array([0.1, 0, 0])

    result = run_band(
        straight_path(), Surface(tilted), BandSettings(max_force_eV_per_A=0.005, endpoint_max_force_eV_per_A=1e-3)
    )
    x = np.linspace(-0.5, HOP_A + 0.5, 200001)
    along = 0.4 * np.sin(np.pi * x / HOP_A) ** 2 + 0.1 * x
    first, last = along[x < HOP_A / 2].min(), along[x > HOP_A / 2].min()
    top = along[(x > 0.3) & (x < HOP_A - 0.3)].max()
    assert result.barrier_forward_eV == pytest.approx(top - first, abs=1e-3)
    assert result.barrier_reverse_eV == pytest.approx(top - last, abs=1e-3)
    assert result.barrier_span_eV == pytest.approx(top - first, abs=1e-3)


def test_downhill_hop_has_no_climbing_image() -> None:
    """With end points as given and energy falling all the way, the barrier is that of climbing back."""

    def slope(r: np.ndarray) -> tuple[float, np.ndarray]:
        return float(-0.2 * r[0] + (r[1] ** 2 + r[2] ** 2)), np.array([0.2, -2 * r[1], -2 * r[2]])

    result = run_band(straight_path(), Surface(slope), BandSettings(relax_endpoints=False))
    assert result.converged
    assert result.climbing_image is None
    assert result.barrier_forward_eV == pytest.approx(0.0, abs=1e-9)
    assert result.barrier_reverse_eV == pytest.approx(0.4, abs=1e-6)
    assert result.endpoint_steps == 0


def well(centre: Sequence[float]) -> EnergyAndForce:
    def evaluate(r: np.ndarray) -> tuple[float, np.ndarray]:
        return float(2.0 * ((r - centre) ** 2).sum()), -4.0 * (r - np.array(centre))

    return evaluate


def sideways(r: np.ndarray) -> tuple[float, np.ndarray]:
    """Two sites, both 1.8 Angstrom beside where the path says."""
    return channel(0.4)(r - np.array([0, 0, 1.8]))


def not_a_number(r: np.ndarray) -> tuple[float, np.ndarray]:
    return float("nan") if r[0] > 0.5 else 0.0, np.zeros(3)


@pytest.mark.parametrize(
    ("surface", "changes", "reason"),
    [
        (channel(0.4), {"max_steps": 1}, Reason.NOT_CONVERGED),
        (channel(0.4), {"endpoint_max_steps": 0}, Reason.ENDPOINT_NOT_RELAXED),
        (well([HOP_A / 2, 0, 0]), {}, Reason.ENDPOINT_RAN_AWAY),
        (sideways, {}, Reason.ENDPOINT_RAN_AWAY),
        (channel(7.0), {}, Reason.UNPHYSICAL_BARRIER),
        (not_a_number, {}, Reason.NON_FINITE_ENERGY),
    ],
)
def test_failures_have_a_reason_and_no_barrier(
    surface: EnergyAndForce,
    changes: dict[str, float],
    reason: Reason,
    tmp_path: Path,
) -> None:
    path = straight_path((0.2, 0.2, 0), (HOP_A - 0.2, 0, 0)) if "endpoint_max_steps" in changes else straight_path()
    result = run_band(path, Surface(surface), replace(BandSettings(), **changes))  # type: ignore[arg-type]
    assert result.reason is reason
    assert not result.converged
    assert result.message
    assert result.endpoints_merged == ("into one minimum" in result.message)
    for barrier in (
        result.barrier_forward_eV,
        result.barrier_reverse_eV,
        result.barrier_span_eV,
        result.splined_forward_eV,
        result.splined_reverse_eV,
        result.splined_span_eV,
    ):
        assert barrier is None
    assert (result.highest_image_eV is not None) == (reason in (Reason.NOT_CONVERGED, Reason.UNPHYSICAL_BARRIER))
    assert len(result.images) == len(result.energies_eV) == len(result.path_lengths_A) == len(result.forces_eV_per_A)
    result.to_extxyz(tmp_path / "band.extxyz")
    assert len(read(tmp_path / "band.extxyz", ":")) == len(result.images)


def test_killed_at_every_moment_and_resumed(tmp_path: Path) -> None:
    path, chosen = straight_path((0.2, 0.1, 0), (HOP_A, 0.1, 0.1)), BandSettings(max_force_eV_per_A=0.02)
    undisturbed = Surface(channel(0.5))
    expected = run_band(path, undisturbed, chosen, tmp_path / "undisturbed.npz")
    assert expected.converged
    total = len(undisturbed.asked)
    assert expected.evaluations == total
    for killed_after in range(0, total, 3):
        place = tmp_path / f"killed{killed_after}.npz"
        surface = Surface(channel(0.5))
        surface.killed_after = killed_after
        with pytest.raises(Killed):
            run_band(path, surface, chosen, place)
        surface.killed_after = None
        result = run_band(path, surface, chosen, place)
        assert surface.asked == undisturbed.asked
        assert result.evaluations == total
        assert result.barrier_forward_eV == expected.barrier_forward_eV
        assert (result.steps, result.endpoint_steps) == (expected.steps, expected.endpoint_steps)
    # A finished band is answered from its file; other settings, and a broken file, begin anew.
    silent = Surface(channel(0.5))
    silent.killed_after = 0
    assert (
        run_band(path, silent, chosen, tmp_path / "undisturbed.npz").barrier_forward_eV == expected.barrier_forward_eV
    )
    with pytest.raises(Killed):
        run_band(path, silent, replace(chosen, images=3), tmp_path / "undisturbed.npz")
    (tmp_path / "undisturbed.npz").write_bytes(b"PK\x03\x04 not a checkpoint")
    again = run_band(path, Surface(channel(0.5)), chosen, tmp_path / "undisturbed.npz")
    assert again.barrier_forward_eV == expected.barrier_forward_eV


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_band_forces_are_those_of_ase(seed: int, climb: bool) -> None:
    rng = np.random.default_rng(seed)
    images, atoms = 5, 4
    positions = np.linspace(0, 1, images)[:, None, None] * rng.normal(size=(atoms, 3)) + rng.normal(
        0, 0.1, (images, atoms, 3)
    )
    energies, forces = rng.normal(size=images), rng.normal(size=(images, atoms, 3))
    energies[rng.integers(1, images - 1)] = 10.0
    band = []
    for k in range(images):
        image = Atoms("H" * atoms, positions=positions[k])
        image.calc = SinglePointCalculator(image, energy=energies[k], forces=forces[k])
        band.append(image)
    theirs = NEB(band, k=2.5, climb=climb, method="improvedtangent").get_forces()
    climbing = int(np.argmax(energies)) if climb else None
    moving, residual = band_forces(positions, energies, forces, 2.5, climbing)
    assert moving.reshape(-1, 3) == pytest.approx(theirs, abs=1e-9)
    if climbing is not None:
        assert residual[climbing - 1] == pytest.approx(forces[climbing])


def test_spline_is_exact_for_a_cubic_and_does_not_overshoot() -> None:
    lengths = np.array([0.0, 0.2, 0.9, 1.4, 2.0])
    energies = 3 * lengths**2 - lengths**3  # highest at 2, lowest at 0
    slopes = 6 * lengths - 3 * lengths**2
    positions = np.zeros((5, 1, 3))
    positions[:, 0, 0] = lengths
    forces = np.zeros((5, 1, 3))
    forces[:, 0, 0] = -slopes
    high, low = splined_extremes_eV(positions[:-1], energies[:-1], forces[:-1])
    assert (high, low) == pytest.approx((energies[3], 0.0))
    high, _ = splined_extremes_eV(positions, energies, forces)
    assert high == pytest.approx(4.0)
    # The profile whose spline over image numbers reaches 0.600 eV: with the plateau's zero slope it stays at 0.5.
    flat = np.array([0, 0.01, 0.5, 0.5, 0.01, 0])
    positions = np.zeros((6, 1, 3))
    positions[:, 0, 0] = np.arange(6)
    assert splined_extremes_eV(positions, flat, np.zeros((6, 1, 3)))[0] == pytest.approx(0.5)


def test_two_hops_in_one_are_noticed() -> None:
    assert has_intermediate_minimum(np.array([0, 0.3, 0.1, 0.4, 0]))
    assert not has_intermediate_minimum(np.array([0, 0.1, 0.4, 0.38, 0.39, 0]))
    assert has_intermediate_minimum(np.array([0, -0.3, 0.2, 0.5]))
    assert not has_intermediate_minimum(np.array([0, 0.1, 0.2, 0.5]))


@pytest.fixture(scope="module")
def copper_hop() -> MigrationPath:
    network = enumerate_hops(AseAtomsAdaptor.get_structure(bulk("Cu", "fcc", a=3.59)), "Cu", max_distance_A=3.0)
    return hop_path(network, network.hops[0], min_length_A=7.0)


class Emt:
    """ASE's effective medium theory as a potential."""

    name, weights_sha256, method = "emt", "1" * 64, "effective medium theory"

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        return self.energies_and_forces(images)[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        energies, forces = [], []
        for image in images:
            atoms = image.copy()
            atoms.calc = EMT()
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        return np.array(energies), forces


def ase_barrier(
    path: MigrationPath, calculator: Callable[[], object], max_force: float, images: int = 5
) -> tuple[float, float]:
    """Barriers of ASE's own climbing-image band, end points relaxed, tightly converged."""
    ends = [path_atoms(path, path.path_frac_coords[k]) for k in (0, -1)]
    for end in ends:
        end.calc = calculator()
        BFGS(end, logfile=None).run(fmax=max_force / 2, steps=300)
    start, last = ends[0].positions, ends[1].positions
    positions = initial_band(start, last, path.path_frac_coords @ path.lattice, images, bow_A=0.05)
    band = [ends[0]]
    for k in range(1, images + 1):
        image = ends[0].copy()
        image.positions = positions[k]
        image.calc = calculator()
        band.append(image)
    band.append(ends[1])
    for climb in (False, True):
        neb = NEB(band, k=5.0, climb=climb, method="improvedtangent", allow_shared_calculator=True)
        with BFGS(neb, logfile=None) as optimizer:
            assert optimizer.run(fmax=max_force if climb else 0.2, steps=300)
    energies = [image.get_potential_energy() for image in band]
    return max(energies) - energies[0], max(energies) - energies[-1]


def test_vacancy_in_copper_as_ase_finds_it(copper_hop: MigrationPath, tmp_path: Path) -> None:
    steps: list[tuple[str, int, float]] = []
    result = run_band(copper_hop, Emt(), progress=lambda *step: steps.append(step))
    forward, reverse = ase_barrier(copper_hop, EMT, 0.01)
    assert result.barrier_forward_eV == pytest.approx(forward, abs=0.005)
    assert result.barrier_reverse_eV == pytest.approx(reverse, abs=0.005)
    assert result.max_force_eV_per_A <= 0.1
    assert {phase for phase, *_ in steps} == {"endpoints", "band", "climb"}
    # Alone the migrating ion goes far, and no image gains or loses an atom.
    assert {image.get_chemical_formula() for image in result.images} == {result.images[0].get_chemical_formula()}
    moved = np.linalg.norm(result.images[-1].positions - result.images[0].positions, axis=1)
    assert np.argmax(moved) == len(moved) - 1
    assert np.sort(moved)[-2] < 0.5
    result.to_extxyz(tmp_path / "band.extxyz")
    frames = read(tmp_path / "band.extxyz", ":")
    energies = [frame.get_potential_energy() for frame in frames]
    assert energies == pytest.approx(list(result.energies_eV))
    assert frames[3].get_forces() == pytest.approx(result.forces_eV_per_A[3], abs=1e-6)


def test_pair_distances_open_the_way_past_an_atom() -> None:
    """A straight line at 0.8 Angstrom from an atom becomes one that keeps farther away; the ends stay."""
    lattice = np.eye(3) * 10.0
    atoms = np.array([[0.2, 0.88, 0], [5, 5, 5], [9.5, 9.9, 3.0]])
    start, end = np.vstack([atoms, [-1.5, 0, 0]]), np.vstack([atoms, [1.5, 0, 0]])
    band = initial_band(start, end, np.array([[-1.5, 0, 0], [1.5, 0, 0]]), 5)
    better = improve_by_pair_distances(band, lattice)
    distance = [np.linalg.norm(b[:, -1] - b[:, 0], axis=1).min() for b in (band, better)]
    assert distance[1] > distance[0] + 0.15
    assert better[[0, -1]] == pytest.approx(band[[0, -1]])
    assert better[:, 1] == pytest.approx(band[:, 1])


@pytest.mark.weights
def test_mace_band_as_ase_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vacancy in Li2O: the band lies within 10 meV of ASE's."""
    # MACE sets this when it is imported for the first time, and needs it whenever its own calculator loads a model.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mace_calculators = pytest.importorskip("mace.calculators")
    from hopflow.potentials.registry import fetch_weights, load_potential
    from pymatgen.core import Lattice, Structure

    weights = fetch_weights("mace-mp-0-small", path=SHARED / "weights" if (SHARED / "weights").is_dir() else None)
    crystal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.62), ["Li", "O"], [(0.25, 0.25, 0.25), (0, 0, 0)])
    network = enumerate_hops(crystal, "Li")
    path = hop_path(network, network.hops[0], min_length_A=5.0)
    result = run_band(path, load_potential("mace-mp-0-small", dtype="float32", path=weights), BandSettings(images=3))
    shared = mace_calculators.MACECalculator(model_paths=str(weights), device="cpu", default_dtype="float32")
    forward, _ = ase_barrier(path, lambda: shared, 0.08, images=3)
    assert result.converged
    assert result.barrier_forward_eV == pytest.approx(forward, abs=0.010)
