"""A fine-tuned model where a potential is named: fused on a processor, with the answers of mace-torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from hopflow.learning.finetuned import calculator, load_mace, potential_line
from hopflow.potentials.calculators import CalculatorPotential
from hopflow.potentials.mace_fusion import ScalarContraction, ScalarConvolution
from hopflow.potentials.registry import load_potential
from hopflow.transport.errors import HopflowError
from tiny_mace import tiny_mace


@pytest.mark.parametrize(("hidden", "fused"), [("8x0e", True), ("8x0e + 8x1o", False)])
def test_fused_and_plain_answers_are_the_same(tmp_path: Path, hidden: str, fused: bool) -> None:
    file = tmp_path / "finetuned.model"
    torch.save(tiny_mace((3, 9), hidden=hidden), file)
    potential = load_potential(potential_line(file))
    assert isinstance(potential, CalculatorPotential)
    model = potential.calculator.models[0]
    assert isinstance(model.interactions[1].conv_tp, ScalarConvolution) is fused
    assert isinstance(model.products[0].symmetric_contractions, ScalarContraction) is fused
    from mace.calculators import MACECalculator

    plain = MACECalculator(models=[load_mace(file)], device="cpu", default_dtype="float64")
    answers = []
    for each in (potential.calculator, plain):
        atoms = bulk("LiF", "rocksalt", 4.03, cubic=True)
        atoms.rattle(0.1, seed=3)
        atoms.calc = each
        answers.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for one, two in zip(*answers, strict=True):
        assert np.allclose(one, two, atol=1e-12)
    assert np.abs(answers[0][1]).max() > 1e-3
    # the hash is that of the model as it is in its file
    torch.save(load_mace(file), tmp_path / "copy.model")
    assert load_potential(potential_line(tmp_path / "copy.model")).weights_sha256 == potential.weights_sha256


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HopflowError, match="There is no model file"):
        calculator(str(tmp_path / "other.model"))
