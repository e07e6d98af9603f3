"""Names of ASE calculators that serve as potentials: dotted paths, and short names of some that bring their weights.

``chgnet.model.dynamics.CHGNetCalculator`` is asked for by just that name, and with arguments as in Python:
``sevenn.calculator.SevenNetCalculator(model="7net-0")``. Such a name is code that is run: take none from a campaign
file of a stranger.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DOTTED_PATH = re.compile(r"(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)\s*(?P<arguments>\(.*\))?", re.DOTALL)
"""A dotted path, and after it keyword arguments in brackets or nothing."""


@dataclass(frozen=True)
class NamedCalculator:
    """A calculator whose package brings its weights along.

    Attributes
    ----------
    calculator
        Its dotted path, with arguments.
    extra
        The extra of hopflow that installs its package.
    description
        One line for people.
    method
        What the energies are.
    licence
        SPDX identifier of the weights' licence.
    citation
        Paper to cite.
    """

    calculator: str
    extra: str
    description: str
    method: str
    licence: str
    citation: str


NAMED_CALCULATORS: dict[str, NamedCalculator] = {
    "chgnet-0.3.0": NamedCalculator(
        'chgnet.model.dynamics.CHGNetCalculator(use_device="cpu")',
        "chgnet",
        "CHGNet 0.3.0: universal potential with magnetic moments, 89 elements; pip install 'hopflow[chgnet]'",
        "CHGNet 0.3.0, MPtrj, PBE/PBE+U with the Materials Project's corrections of 2020",
        "BSD-3-Clause-LBNL",
        "Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
    ),
    "sevennet-0": NamedCalculator(
        'sevenn.calculator.SevenNetCalculator(model="7net-0", device="cpu")',
        "sevennet",
        "SevenNet-0: universal potential, 89 elements; pip install 'hopflow[sevennet]' in an environment of its own",
        "SevenNet-0 (11 July 2024), MPtrj, PBE/PBE+U",
        "MIT",
        "Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
    ),
}
"""Calculators by short name."""


def is_calculator_name(name: str) -> bool:
    """Whether a name is that of a named calculator or a dotted path, and not one of the registry's."""
    return name in NAMED_CALCULATORS or DOTTED_PATH.fullmatch(name.strip()) is not None
