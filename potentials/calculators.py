"""Any ASE calculator as a potential."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from ..transport.checkpoints import content_key
from ..transport.environment import FULL_UNPICKLING, variable_kept
from ..transport.errors import CandidateError, HopflowError, Reason
from .calculator_names import DOTTED_PATH, NAMED_CALCULATORS
from .mace_fusion import fuse
from .runtime import check_finite, check_images


def make_calculator(name: str) -> Calculator:
    """Build the calculator of a name.

    Parameters
    ----------
    name
        A short name, or a dotted path to a class or function that returns a calculator, with or without keyword
        arguments in brackets.

    Raises
    ------
    HopflowError
        The name cannot be read, its package is not installed, nothing of that name is in it, or it makes no
        calculator.
    """
    named = NAMED_CALCULATORS.get(name)
    text = name if named is None else named.calculator
    found = DOTTED_PATH.fullmatch(text.strip())
    if found is None:
        raise HopflowError(f"{name!r} is no dotted path to an ASE calculator, such as ase.calculators.emt.EMT.")
    module, _, attribute = found["path"].rpartition(".")
    arguments = _keyword_arguments(name, found["arguments"])
    try:
        maker = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        hint = f"pip install 'hopflow[{named.extra}]'" if named is not None else "install its package"
        raise HopflowError(f"The calculator {name} cannot be imported ({error}); {hint}, or correct it.") from error
    except AttributeError as error:
        raise HopflowError(f"The module {module} has no {attribute}; correct the name {name}.") from error
    try:
        # some announce themselves where answers are printed; and what a calculator loads is for its own code to judge
        with contextlib.redirect_stdout(io.StringIO()), variable_kept(FULL_UNPICKLING, "1"):
            calculator = maker(**arguments)
    except Exception as error:
        raise HopflowError(f"The calculator {name} cannot be made ({type(error).__name__}: {error}).") from error
    if not {"energy", "forces"} <= set(getattr(calculator, "implemented_properties", ())):
        raise HopflowError(f"{name} makes no ASE calculator that gives energy and forces; name one that does.")
    made: Calculator = calculator
    return made


class CalculatorPotential:
    """An ASE calculator behind the :class:`hopflow.transport.energies.Potential` protocol.

    Images are evaluated one after the other in the calculator's own precision and on its own device. Networks of MACE
    that pass scalars run in the fused loops of :mod:`.mace_fusion` on a processor.

    Parameters
    ----------
    name
        What it is asked for by.
    calculator
        The calculator; the weights of its networks, if it has any, are hashed.

    Attributes
    ----------
    weights_sha256
        Of the parameters of all torch modules that the calculator holds; where it holds none, of its name and its
        parameters as ASE keeps them.
    """

    elements = frozenset(chemical_symbols[1:])

    def __init__(self, name: str, calculator: Calculator) -> None:
        self.name = name
        self.calculator = calculator
        # before anything is fused: the name of the weights is that of the model as it came
        self.weights_sha256 = calculator_sha256(name, calculator)
        for module in _modules(calculator):
            if hasattr(module, "interactions") and hasattr(module, "products") and _frozen_on_processor(module):
                fuse(module)
        named = NAMED_CALCULATORS.get(name)
        kind = type(calculator)
        self.method = f"ASE calculator {kind.__module__}.{kind.__qualname__}" if named is None else named.method

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        """Energies in eV, shape (images,).

        Raises
        ------
        CandidateError
            An image has no atoms, or the calculator fails on it.
        NonFiniteEnergyError
            An energy is NaN or infinite.
        """
        return self._evaluate(images, ["energy"])[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV, shape (images,), and forces in eV/Angstrom, one (atoms, 3) array an image.

        Raises
        ------
        CandidateError
            An image has no atoms, or the calculator fails on it.
        NonFiniteEnergyError
            An energy or force is NaN or infinite.
        """
        return self._evaluate(images, ["energy", "forces"])

    def _evaluate(self, images: Sequence[Atoms], properties: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        check_images(images, self.elements, self.name)
        energies, forces = np.zeros(len(images)), []
        for number, image in enumerate(images):
            try:
                self.calculator.calculate(image, properties, ["positions", "numbers", "cell", "pbc"])
            except Exception as error:
                # each calculator fails in a way of its own; whatever it is, it concerns this crystal
                text = " ".join(f"{type(error).__name__}: {error}".split())
                raise CandidateError(
                    f"{self.name} failed on {image.get_chemical_formula()} ({text}); choose another potential or leave "
                    "this crystal out.",
                    Reason.UNEXPECTED_ERROR,
                ) from error
            energies[number] = float(self.calculator.results["energy"])
            if "forces" in properties:
                forces.append(np.array(self.calculator.results["forces"], dtype=float))
        check_finite(energies, forces, self.name)
        return energies, forces


def calculator_sha256(name: str, calculator: Calculator) -> str:
    """What tells one calculator from another: the weights of its networks, or its name and parameters."""
    digest = hashlib.sha256()
    modules = list(_modules(calculator))
    for module in modules:
        for key, tensor in sorted(module.state_dict().items()):
            if isinstance(tensor, torch.Tensor):
                digest.update(key.encode())
                written = io.BytesIO()
                np.save(written, tensor.detach().cpu().numpy())
                digest.update(written.getvalue())
    if modules:
        return digest.hexdigest()
    parameters = {key: repr(value) for key, value in dict(getattr(calculator, "parameters", {}) or {}).items()}
    return content_key(name=name, parameters=parameters)


def _modules(calculator: Calculator) -> Iterator[torch.nn.Module]:
    for _, value in sorted(vars(calculator).items()):
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, torch.nn.Module):
                yield each


def _frozen_on_processor(module: torch.nn.Module) -> bool:
    return all(each.device.type == "cpu" and not each.requires_grad for each in module.parameters())


def _keyword_arguments(name: str, text: str | None) -> dict[str, Any]:
    """Arguments that are plain values, read without running anything."""
    if text is None:
        return {}
    try:
        call = ast.parse(f"made{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(each.arg is None for each in call.keywords):
            raise ValueError("keyword arguments alone")
        return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise HopflowError(
            f"The arguments of {name} cannot be read; write them as keywords with plain values, such as "
            '(model="7net-0").'
        ) from error
