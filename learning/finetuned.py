"""A fine-tuned model by its file: as a network, and as an ASE calculator that can be named where a potential is."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from ase.calculators.calculator import Calculator

from ..transport.environment import FULL_UNPICKLING, variable_kept
from ..transport.errors import HopflowError


def import_mace() -> None:
    """Import mace without what it does to the whole process.

    It switches torch.load to full unpickling by an environment variable, and prints about what is not installed.
    """
    with (
        variable_kept(FULL_UNPICKLING),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        import mace.calculators  # noqa: F401


def load_mace(file: Path) -> Any:
    """A MACE model from its file, on the processor.

    Unpickling can run code: the file must be one that is trusted.

    Raises
    ------
    HopflowError
        There is no such file, or it holds no MACE model.
    """
    if not file.is_file():
        raise HopflowError(f"There is no model file {file}; check the path.")
    import_mace()
    try:
        model = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise HopflowError(f"{file} cannot be read as a model ({text}).") from error
    if not hasattr(model, "atomic_numbers") or not hasattr(model, "atomic_energies_fn"):
        raise HopflowError(f"{file} does not hold a MACE model; name one that does.")
    return model


def calculator(model: str, device: str = "cpu", dtype: Literal["float32", "float64"] = "float64") -> Calculator:
    """An ASE calculator of a model file.

    Parameters
    ----------
    model
        The file.
    device
        ``cpu`` or ``cuda``.
    dtype
        Precision.

    Raises
    ------
    HopflowError
        There is no such file, or it holds no MACE model.
    """
    network = load_mace(Path(model).expanduser())
    from mace.calculators import MACECalculator

    return MACECalculator(models=[network], device=device, default_dtype=dtype)


def potential_line(model: Path) -> str:
    """What a model file is called where a potential is named."""
    return f'hopflow.learning.finetuned.calculator(model="{model}")'
