"""Small MACE models with random weights, for tests that need the code and not the knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from hopflow.potentials import runtime
from hopflow.potentials.mace import _import_mace


def tiny_mace(
    elements: Sequence[int],
    hidden: str = "8x0e",
    correlation: int = 3,
    largest_degree: int = 2,
    dtype: Literal["float32", "float64"] = "float64",
    neighbours: float = 8.0,
    energy_scale_eV: float = 1.0,
) -> Any:
    """A model of two layers with a cutoff of 4 Å, always the same one; atoms alone have -1, -2, ... eV."""
    _import_mace()
    from e3nn import o3
    from mace import modules

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    torch.manual_seed(7)
    with runtime.default_dtype(dtype):
        return modules.ScaleShiftMACE(
            r_max=4.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=largest_degree,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps("4x0e"),
            atomic_energies=-1.0 - np.arange(len(elements)),
            avg_num_neighbors=neighbours,
            atomic_numbers=list(elements),
            correlation=correlation,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=energy_scale_eV,
            atomic_inter_shift=0.0,
        )
