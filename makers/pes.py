"""The pes stage: the energy landscape of a single mobile ion under a machine-learned potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .documents import FreeVolume, LandscapeDocument, StageDocument
from .settings import ScanStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass
class LandscapeMaker(StageMaker):
    """Single-ion scan with level map, percolation and free volume."""

    name: str = "pes"
    settings: ScanStageSettings = field(default_factory=ScanStageSettings)

    stage: ClassVar[str] = "pes"
    document: ClassVar[type[StageDocument]] = LandscapeDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "matgl", "mace-torch", "ase", "pymatgen")
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return percolation, free volume and a slice of the landscape."""
        from ..potentials.registry import load_potential
        from ..transport.landscape import ScanSettings, scan_landscape

        settings = self.settings
        potential = load_potential(settings.potential)
        result = scan_landscape(
            structure,
            self.ion,
            potential,
            ScanSettings(
                spacing_A=settings.spacing_A,
                max_evaluations=settings.max_evaluations,
                exclusion_radius_A=settings.exclusion_radius_A,
                min_length_A=settings.min_length_A,
                max_ions=settings.max_ions,
            ),
            checkpoint=checkpoint,
        )
        threshold = settings.free_volume_threshold_eV
        barriers = [finite_or_none(barrier) for barrier in result.percolation.barriers_eV]
        volumes = [
            FreeVolume(
                threshold_eV=level,
                connected_fraction=result.free_volume_connected[level],
                disconnected_fraction=result.free_volume_disconnected[level],
            )
            for level in sorted(result.free_volume_connected)
        ]
        nearest = min(volumes, key=lambda volume: abs(volume.threshold_eV - threshold))
        return {
            "method": f"single-ion scan in the frozen crystal with {potential.method}",
            "barrier_1d_eV": barriers[0],
            "barrier_2d_eV": barriers[1],
            "barrier_3d_eV": barriers[2],
            "dimension": sum(barrier is not None for barrier in barriers),
            "minimal_percolation_energy_eV": finite_or_none(result.mpe_eV),
            "connected_free_volume_fraction": nearest.connected_fraction,
            "disconnected_free_volume_fraction": nearest.disconnected_fraction,
            "free_volume_threshold_eV": nearest.threshold_eV,
            "free_volumes": volumes,
            "potential": potential.name,
            "grid_shape": result.values_eV.shape,
            "spacing_A": result.spacing_A,
            "atoms_in_scanned_cell": result.best.atoms,
            "ions_scanned": len(result.ions),
            "evaluations": result.evaluations,
            "points_saved_by_symmetry": result.evaluations_saved_by_symmetry,
            "points_excluded": result.evaluations_saved_by_exclusion,
            "warnings": list(result.warnings),
            "slice_eV": _slice(result.values_eV),
            "level_slice_eV": _slice(result.level_map_eV, through=result.values_eV),
        }


def _slice(values: np.ndarray, through: np.ndarray | None = None) -> list[list[float | None]]:
    """Return the plane of constant c through the lowest point, energies from that point, ``None`` where excluded."""
    guide = values if through is None else through
    lowest = np.unravel_index(int(np.argmin(guide)), guide.shape)
    plane = values[:, :, lowest[2]].T - np.min(guide)
    return [[round(float(v), 4) if np.isfinite(v) else None for v in row] for row in plane]
