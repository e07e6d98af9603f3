"""The bvse stage: bond-valence site energy and its percolation in one, two and three directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .documents import BondValenceDocument, StageDocument
from .settings import BondValenceStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass
class BondValenceMaker(StageMaker):
    """Bond-valence barriers of the mobile ion in the frozen framework."""

    name: str = "bvse"
    settings: BondValenceStageSettings = field(default_factory=BondValenceStageSettings)

    stage: ClassVar[str] = "bvse"
    document: ClassVar[type[StageDocument]] = BondValenceDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "numba", "pymatgen")

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return barriers, dimension and grid of the site energy field."""
        from ..transport.bvse import BondValenceSettings, bond_valence_percolation

        settings = BondValenceSettings(
            spacing_A=self.settings.spacing_A, cutoff_A=self.settings.cutoff_A, screening=self.settings.screening
        )
        result = bond_valence_percolation(
            structure, self.ion, settings, oxidation_states=self.settings.oxidation_states
        )
        own = [finite_or_none(barrier) for barrier in result.barriers_eV]
        from_global = [finite_or_none(barrier) for barrier in result.barriers_from_global_minimum_eV]
        bottleneck = result.bottleneck_frac_coords[0]
        return {
            "method": "bond-valence site energy (softBV parameters), exact percolation on a periodic grid",
            "barrier_1d_eV": own[0],
            "barrier_2d_eV": own[1],
            "barrier_3d_eV": own[2],
            "barrier_1d_from_global_minimum_eV": from_global[0],
            "barrier_2d_from_global_minimum_eV": from_global[1],
            "barrier_3d_from_global_minimum_eV": from_global[2],
            "dimension": result.dimension,
            "grid_shape": result.grid_shape,
            "spacing_A": result.spacing_A,
            "oxidation_states": result.oxidation_states,
            "oxidation_states_from": result.oxidation_states_from,
            "bottleneck_frac": None if bottleneck is None else list(bottleneck),
        }
