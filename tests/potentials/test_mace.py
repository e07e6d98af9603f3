from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hopflow.potentials import mace as mace_module
from hopflow.potentials import registry, runtime, weights
from hopflow.transport.energies import Potential
from hopflow.transport.errors import CandidateError, NonFiniteEnergyError, Reason

pytestmark = pytest.mark.weights
NAME = "mace-mp-0-small"


@pytest.fixture(scope="module")
def potential(real_weights: Callable[[str], Path]) -> Potential:
    return registry.load_potential(NAME, device="cpu", path=real_weights(NAME))


@pytest.fixture(scope="module")
def rattled(lifepo4: Atoms) -> Atoms:
    atoms = lifepo4.copy()
    atoms.rattle(0.05, seed=3)
    return atoms


def test_reference_energy_of_rock_salt_lithium_fluoride(potential: Potential) -> None:
    energy = potential.energies([bulk("LiF", "rocksalt", a=4.08)])
    assert energy.dtype == np.float64
    assert energy.shape == (1,)
    assert energy[0] / 2 == pytest.approx(-4.834498513, abs=1e-8)
    assert potential.weights_sha256 == registry.get_entry(NAME).sha256
    assert "float64" in potential.method


def test_it_is_a_potential_and_loaded_once(potential: Potential, real_weights: Callable[[str], Path]) -> None:
    assert isinstance(potential, Potential)
    assert registry.load_potential(NAME, device="cpu", dtype="float64", path=real_weights(NAME)) is potential


def test_energies_and_forces_agree_with_the_calculator_of_mace(
    potential: Potential, rattled: Atoms, real_weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    from mace.calculators import MACECalculator

    path = real_weights(NAME)
    model = str(path / f"{NAME}.model" if path.is_dir() else path)
    other = rattled.copy()
    other.calc = MACECalculator(model_paths=model, device="cpu", default_dtype="float64")
    energies, forces = potential.energies_and_forces([rattled])
    assert energies[0] == pytest.approx(other.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces[0], other.get_forces(), atol=1e-9)
    assert potential.energies([rattled])[0] == pytest.approx(energies[0], abs=1e-9)


def test_forces_are_the_slope_of_the_energy(potential: Potential) -> None:
    atoms = bulk("LiF", "rocksalt", a=4.08, cubic=True)
    atoms.rattle(0.08, seed=5)
    step = 1e-4
    moved = []
    for sign in (1, -1):
        image = atoms.copy()
        image.positions[2, 1] += sign * step
        moved.append(image)
    above, below = potential.energies(moved)
    assert potential.energies_and_forces([atoms])[1][0][2, 1] == pytest.approx((below - above) / (2 * step), abs=1e-6)


def test_energy_is_extensive_and_the_cell_boundary_does_not_matter(potential: Potential) -> None:
    atoms = bulk("LiF", "rocksalt", a=4.08)
    atoms.rattle(0.05, seed=1)
    outside = atoms.copy()
    outside.positions[0] += 2 * outside.cell.array[0] - outside.cell.array[2]
    single, doubled, shifted = potential.energies([atoms, atoms * (2, 1, 1), outside])
    assert doubled == pytest.approx(2 * single, abs=1e-8)
    assert shifted == pytest.approx(single, abs=1e-8)


def test_a_batch_gives_what_single_images_give(
    potential: Potential, rattled: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [rattled, bulk("LiF", "rocksalt", a=4.08), bulk("LiCl", "rocksalt", a=5.14)]
    energies, forces = potential.energies_and_forces(images)
    monkeypatch.setattr(mace_module, "batches", lambda images, _: iter([list(images)]))
    together, forces_together = potential.energies_and_forces(images)
    np.testing.assert_allclose(together, energies, atol=1e-9)
    assert [force.shape for force in forces_together] == [(28, 3), (2, 3), (2, 3)]
    for one, other in zip(forces, forces_together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)


def test_batches_on_an_accelerator_respect_both_limits() -> None:
    small, large = Atoms("Li" * 10), Atoms("Li" * 3000)
    split = list(runtime.batches([small] * 70 + [large, large, small], "cuda"))
    assert [len(batch) for batch in split] == [64, 7, 2]
    assert [len(batch) for batch in runtime.batches([small, large], "cpu")] == [1, 1]
    assert list(runtime.batches([], "cuda")) == []


def test_single_precision_is_close(rattled: Atoms, potential: Potential, real_weights: Callable[[str], Path]) -> None:
    single = registry.load_potential(NAME, device="cpu", dtype="float32", path=real_weights(NAME))
    assert single is not potential
    energies, forces = single.energies_and_forces([rattled])
    exact, exact_forces = potential.energies_and_forces([rattled])
    assert energies.dtype == forces[0].dtype == np.float64
    assert energies[0] == pytest.approx(exact[0], abs=2e-3)
    assert energies[0] != exact[0]
    np.testing.assert_allclose(forces[0], exact_forces[0], atol=1e-3)


def test_an_element_outside_the_model_costs_the_candidate(potential: Potential) -> None:
    with pytest.raises(CandidateError, match="Po") as caught:
        potential.energies([bulk("Po", "sc", a=3.36)])
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT
    with pytest.raises(CandidateError) as caught:
        potential.energies([Atoms(cell=[5, 5, 5], pbc=True)])
    assert caught.value.reason is Reason.EMPTY_STRUCTURE


def test_no_images_give_no_energies(potential: Potential) -> None:
    energies, forces = potential.energies_and_forces([])
    assert energies.shape == (0,)
    assert forces == []


@pytest.mark.parametrize("fault", ["on top of each other", "not a number"])
def test_an_energy_that_is_no_number_is_an_error(fault: str, potential: Potential) -> None:
    atoms = Atoms("LiF", positions=[(0, 0, 0), (0, 0, 0)], cell=[8, 8, 8], pbc=True)
    if fault == "not a number":
        atoms.positions[1, 0] = np.nan
    for call in (potential.energies, potential.energies_and_forces):
        with pytest.raises(NonFiniteEnergyError):
            call([atoms])


def test_the_process_is_left_as_it_was(potential: Potential) -> None:
    assert torch.get_default_dtype() is torch.float32
    with pytest.raises(NonFiniteEnergyError):
        potential.energies([Atoms("LiF", positions=np.zeros((2, 3)), cell=[8, 8, 8], pbc=True)])
    assert torch.get_default_dtype() is torch.float32


def test_a_wrong_reference_energy_is_refused(potential: Potential) -> None:
    entry = dataclasses.replace(registry.get_entry(NAME), reference_energy_eV_per_atom=-4.8346)
    with pytest.raises(weights.WrongWeightsError, match=r"-4\.834499 eV/atom.*-4\.834600") as caught:
        runtime.check_reference_energy(potential, entry, "float64")
    assert caught.value.reason is Reason.WEIGHTS_WRONG


def test_threads_are_limited_here_and_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "7")
    try:
        runtime.limit_threads(1)
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)
