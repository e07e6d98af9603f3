from __future__ import annotations

import copy
import resource
import subprocess
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hopflow.potentials import runtime
from hopflow.potentials.mace import _import_mace
from hopflow.potentials.mace_fusion import ScalarContraction, ScalarConvolution, fuse
from tiny_mace import tiny_mace

ELEMENTS = (3, 8, 15)


@lru_cache
def random_model(hidden: str, correlation: int = 3, largest_degree: int = 2) -> Any:
    """A small MACE model with random weights, frozen, in double precision; not to be changed."""
    model = tiny_mace(ELEMENTS, hidden, correlation, largest_degree).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


def crystals() -> list[Atoms]:
    generator = np.random.default_rng(5)
    first = bulk("LiO", "rocksalt", a=4.2, cubic=True)
    second = bulk("LiP", "zincblende", a=5.1, cubic=True)
    second.numbers[1] = 8
    for atoms in (first, second):
        atoms.positions += generator.normal(0.0, 0.08, atoms.positions.shape)
    return [first, second]


def answer(model: Any, images: list[Atoms], forces: bool = True) -> dict[str, np.ndarray]:
    data, graphs, utils = _import_mace()
    table = utils.AtomicNumberTable(list(ELEMENTS))
    with runtime.default_dtype("float64"):
        batch = graphs.Batch.from_data_list(
            [data.AtomicData.from_config(data.config_from_atoms(each), z_table=table, cutoff=4.0) for each in images]
        )
        output = model(batch.to_dict(), compute_force=forces)
    names = ("energy", "node_energy", "node_feats", *(("forces",) if forces else ()))
    return {name: output[name].detach().numpy() for name in names}


@pytest.mark.parametrize(("correlation", "largest_degree"), [(3, 2), (2, 3)])
def test_a_fused_model_says_what_the_general_one_says(correlation: int, largest_degree: int) -> None:
    general = random_model("8x0e", correlation, largest_degree)
    fused = copy.deepcopy(general)
    assert fuse(fused) == 4
    assert isinstance(fused.interactions[0].conv_tp, ScalarConvolution)
    assert isinstance(fused.products[1].symmetric_contractions, ScalarContraction)
    expected, found = answer(general, crystals()), answer(fused, crystals())
    assert np.ptp(expected["energy"]) > 1e-3
    assert np.abs(expected["forces"]).max() > 1e-3
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-12, err_msg=name)


def test_energies_alone_are_the_same() -> None:
    general = random_model("8x0e", 3, 2)
    fused = copy.deepcopy(general)
    fuse(fused)
    with torch.no_grad():
        expected, found = answer(general, crystals(), forces=False), answer(fused, crystals(), forces=False)
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=1e-12)


def test_forces_are_the_slope_of_the_energy() -> None:
    model = copy.deepcopy(random_model("8x0e", 3, 2))
    fuse(model)
    (atoms, _) = crystals()
    forces = answer(model, [atoms])["forces"]
    step_A = 1e-4
    for atom, axis in ((0, 0), (3, 2), (5, 1)):
        energies = []
        for sign in (-1.0, 1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step_A
            energies.append(answer(model, [moved], forces=False)["energy"][0])
        assert forces[atom, axis] == pytest.approx(-(energies[1] - energies[0]) / (2 * step_A), abs=1e-6)


def test_models_that_pass_vectors_on_keep_their_convolutions() -> None:
    general = random_model("4x0e + 4x1o", 2, 1)
    partly = copy.deepcopy(general)
    # the first layer starts from scalars, and the last makes scalars; what passes vectors on is left alone
    assert fuse(partly) < 4
    assert not isinstance(partly.interactions[1].conv_tp, ScalarConvolution)
    expected, found = answer(general, crystals()), answer(partly, crystals())
    np.testing.assert_allclose(found["forces"], expected["forces"], rtol=1e-9, atol=1e-12)


_FAULTS_OF_LARGE_ARRAYS = """
import resource, sys
import torch
from hopflow.potentials import runtime
if sys.argv[1] == "kept":
    runtime.keep_freed_memory()
for _ in range(3):
    torch.ones(12_000_000).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(12_000_000).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other allocators are left as they are")
def test_freed_memory_is_kept() -> None:
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", _FAULTS_OF_LARGE_ARRAYS, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("kept", "given back")
    }
    pages = 4 * 12_000_000 // resource.getpagesize()
    assert faults["kept"] < pages / 10
    assert faults["given back"] > pages
