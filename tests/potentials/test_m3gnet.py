from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hopflow.potentials import m3gnet as m3gnet_module
from hopflow.potentials import registry, weights
from hopflow.transport.energies import Potential
from hopflow.transport.errors import CandidateError, NonFiniteEnergyError, Reason, StructureError
from scipy.optimize import minimize_scalar

pytestmark = pytest.mark.weights
DIRECT, PLAIN = "m3gnet-mp-2021.2.8-direct", "m3gnet-mp-2021.2.8"
Load = Callable[..., Potential]


@pytest.fixture(scope="module")
def load(real_weights: Callable[[str], Path]) -> Load:
    def load_by_name(name: str, dtype: registry.Precision | None = None) -> Potential:
        return registry.load_potential(name, device="cpu", dtype=dtype, path=real_weights(name))

    return load_by_name


@pytest.mark.parametrize(("name", "energy_eV"), [(DIRECT, -190.283), (PLAIN, -190.398)])
def test_lithium_iron_phosphate_has_the_energy_of_the_original_code(
    name: str, energy_eV: float, load: Load, lifepo4: Atoms
) -> None:
    """About -190 eV; matgl >= 3 as it stands gives -49.7 eV (plain) and -15.5 eV (direct) for the same files."""
    potential = load(name)
    assert potential.energies([lifepo4])[0] == pytest.approx(energy_eV, abs=3e-3)
    assert "float32" in potential.method


@pytest.mark.parametrize(
    ("name", "crystal", "lattice_A"), [(DIRECT, "LiF", 4.04621), (DIRECT, "MgO", 4.26745), (PLAIN, "MgO", 4.26133)]
)
def test_published_lattice_parameters(name: str, crystal: str, lattice_A: float, load: Load) -> None:
    """The tables of cubic crystals in the model cards that matgl publishes with the weights."""
    potential = load(name, "float64")
    found = minimize_scalar(
        lambda a: potential.energies([bulk(crystal, "rocksalt", a=a)])[0],
        bounds=(lattice_A - 0.15, lattice_A + 0.15),
        method="bounded",
        options={"xatol": 1e-5},
    )
    assert found.x == pytest.approx(lattice_A, abs=2e-3)


@pytest.mark.parametrize("name", [DIRECT, PLAIN])
def test_weights_read_as_matgl_3_reads_them_are_refused(
    name: str, real_weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m3gnet_module, "restore_message_direction", lambda _: 1)
    monkeypatch.setattr(registry, "_LOADED", {})
    with pytest.raises(weights.WrongWeightsError, match="eV/atom for rock-salt LiF") as caught:
        registry.load_potential(name, device="cpu", path=real_weights(name))
    assert caught.value.reason is Reason.WEIGHTS_WRONG
    assert not registry._LOADED


def test_a_model_without_convolutions_is_refused(
    real_weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m3gnet_module, "restore_message_direction", lambda _: 0)
    monkeypatch.setattr(registry, "_LOADED", {})
    with pytest.raises(weights.WrongWeightsError, match="convolutions"):
        registry.load_potential(DIRECT, device="cpu", path=real_weights(DIRECT))


@pytest.mark.parametrize(
    ("name", "profile_eV"),
    [
        (PLAIN, [0, 0.083, 0.773, 1.413, 0.773, 0.083, 0]),
        (DIRECT, [0, 0.049, 0.671, 1.374, 0.671, 0.049, 0]),
    ],
)
def test_hop_profile_in_lithium_iron_phosphate(
    name: str, profile_eV: list[float], load: Load, lithium_hop: list[Atoms]
) -> None:
    """Plain: as matgl 2 gives it on a frozen lattice (1.413 eV); symmetric, one summit in the middle."""
    assert len(lithium_hop[0]) == 111
    energies = load(name).energies(lithium_hop)
    np.testing.assert_allclose(energies - energies[0], profile_eV, atol=5e-3)
    np.testing.assert_allclose(energies, energies[::-1], atol=2e-3)
    assert np.argmax(energies) == 3


def test_energies_do_not_depend_on_the_order_of_atoms_or_the_cell_boundary(load: Load, lifepo4: Atoms) -> None:
    potential = load(DIRECT, "float64")
    atoms = lifepo4.copy()
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.2], [0.4, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.05, seed=2)
    order = np.random.default_rng(0).permutation(len(atoms))
    outside = atoms.copy()
    outside.positions[3] += 2 * outside.cell.array[0] - outside.cell.array[2]
    energies, forces = potential.energies_and_forces([atoms, atoms[order], outside])
    # Distances are compared with the cut-offs in float64, angles and bonds summed in another order.
    np.testing.assert_allclose(energies, energies[0], atol=1e-6)
    np.testing.assert_allclose(forces[1], forces[0][order], atol=1e-6)
    np.testing.assert_allclose(forces[2], forces[0], atol=1e-6)
    np.testing.assert_allclose(forces[0].sum(axis=0), 0, atol=1e-6)


def test_forces_are_the_slope_of_the_energy(load: Load) -> None:
    potential = load(DIRECT, "float64")
    atoms = bulk("LiF", "rocksalt", a=4.08, cubic=True)
    atoms.rattle(0.08, seed=5)
    step = 1e-4
    moved = []
    for sign in (1, -1):
        image = atoms.copy()
        image.positions[2, 1] += sign * step
        moved.append(image)
    above, below = potential.energies(moved)
    assert potential.energies_and_forces([atoms])[1][0][2, 1] == pytest.approx((below - above) / (2 * step), abs=1e-5)


def test_single_precision_is_close_to_double(load: Load, lifepo4: Atoms) -> None:
    atoms = lifepo4.copy()
    atoms.rattle(0.05, seed=2)
    single, double = load(DIRECT), load(DIRECT, "float64")
    energies, forces = single.energies_and_forces([atoms])
    exact, exact_forces = double.energies_and_forces([atoms])
    assert energies.dtype == forces[0].dtype == np.float64
    assert energies[0] == pytest.approx(exact[0], abs=2e-4)
    np.testing.assert_allclose(forces[0], exact_forces[0], atol=1e-3)


def test_a_batch_gives_what_single_images_give(load: Load, lifepo4: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = load(DIRECT, "float64")
    images = [lifepo4, bulk("LiF", "rocksalt", a=4.08), bulk("MgO", "rocksalt", a=4.2)]
    energies, forces = potential.energies_and_forces(images)
    monkeypatch.setattr(m3gnet_module, "batches", lambda images, _: iter([list(images)]))
    together, forces_together = potential.energies_and_forces(images)
    np.testing.assert_allclose(together, energies, atol=1e-5)
    for one, other in zip(forces, forces_together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_bad_images_cost_the_candidate(load: Load) -> None:
    potential = load(DIRECT)
    with pytest.raises(CandidateError, match="Po") as caught:
        potential.energies([bulk("Po", "sc", a=3.36)])
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT
    with pytest.raises(NonFiniteEnergyError):
        potential.energies([Atoms("LiF", positions=np.zeros((2, 3)), cell=[8, 8, 8], pbc=True)])
    with pytest.raises(StructureError, match="periodic"):
        potential.energies([Atoms("LiF", positions=[(0, 0, 0), (0, 0, 2)], cell=[8, 8, 8], pbc=(True, True, False))])


ORDER = """
import os, sys
from ase.build import bulk
from hopflow.potentials.registry import load_potential
atoms = bulk("LiF", "rocksalt", a=4.08, cubic=True)
atoms.rattle(0.05, seed=4)
loaded = {}
first = None
for argument in sys.argv[1:]:
    name, path = argument.split("=", 1)
    loaded[name] = load_potential(name, device="cpu", path=path)
    first = first or (name, loaded[name].energies_and_forces([atoms]))
print(first[0], repr(float(first[1][0][0])), repr(float(first[1][1][0][0, 0])))
for turn in range(2):
    for name in loaded:
        energies, forces = loaded[name].energies_and_forces([atoms])
        print(name, repr(float(energies[0])), repr(float(forces[0][0, 0])))
assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
"""


def test_mace_and_m3gnet_share_a_process_in_either_order(real_weights: Callable[[str], Path]) -> None:
    """float64 and float32 models set torch's default precision; neither may change the other's numbers.

    Each process first asks one model while the other is not there yet. Loading must print nothing, since programs read
    the command line's output, and must leave torch's unpickling as safe as it was.
    """
    arguments = [f"{name}={real_weights(name)}" for name in ("mace-mp-0-small", DIRECT)]
    environment = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ORDER, *order],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
        for order in (arguments, arguments[::-1])
    ]
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    first, second = (out.splitlines() for out, _ in outputs)
    assert len(first) == len(second) == 5
    assert len(set(first)) == 2
    assert set(first) == set(second)
    assert torch.get_default_dtype() is torch.float32
