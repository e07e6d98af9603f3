"""The pes stage: the energy landscape of a single mobile ion under a machine-learned potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .documents import FreeVolume, LandscapeDocument, StageDocument
from .settings import ScanStageSettings
from .stage import StageMaker, finite_or_none, primitive_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.energies import Potential
    from ..transport.landscape_analysis import LandscapeResult


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
        settings = self.settings
        result, potential = self._scan(structure, checkpoint)
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
        return {
            "method": f"single-ion scan in the frozen crystal with {potential.method}",
            "barrier_1d_eV": barriers[0],
            "barrier_2d_eV": barriers[1],
            "barrier_3d_eV": barriers[2],
            "dimension": sum(barrier is not None for barrier in barriers),
            "minimal_percolation_energy_eV": finite_or_none(result.mpe_eV),
            "connected_free_volume_fraction": result.free_volume(threshold),
            "disconnected_free_volume_fraction": result.free_volume(threshold, connected=False),
            "free_volume_threshold_eV": threshold,
            "connected_free_volume_smeared_fraction": result.free_volume(threshold, smeared=True),
            "disconnected_free_volume_smeared_fraction": result.free_volume(threshold, connected=False, smeared=True),
            "free_volume_score": result.score,
            "free_volumes": volumes,
            "potential": potential.name,
            "grid_shape": result.values_eV.shape,
            "spacing_A": result.spacing_A,
            "atoms_in_scanned_cell": result.best.atoms,
            "ions_scanned": len(result.ions),
            "points": result.points,
            "evaluations": result.evaluations,
            "points_saved_by_symmetry": result.evaluations_saved_by_symmetry,
            "points_excluded": result.evaluations_saved_by_exclusion,
            "points_saved_by_refinement": result.evaluations_saved_by_refinement,
            "percolation_error_eV": tuple(finite_or_none(error) for error in result.best.percolation_error_eV),
            "free_volume_error": max(ion.free_volume_error for ion in result.ions),
            "warnings": list(result.warnings),
            "slice_eV": _slice(result.values_eV),
            "level_slice_eV": _slice(result.level_map_eV, through=result.values_eV),
        }

    def _scan(self, structure: Structure, checkpoint: Path | None) -> tuple[LandscapeResult, Potential]:
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
                refine=settings.refine,
                free_volume_threshold_eV=settings.free_volume_threshold_eV,
            ),
            checkpoint=checkpoint,
        )
        return result, potential

    def landscape(self, structure: Structure, checkpoint_folder: Path) -> tuple[Structure, LandscapeResult]:
        """Landscape behind a document, and the primitive cell that was scanned.

        What an evaluation with the same checkpoint folder left there is read and not evaluated again.

        Parameters
        ----------
        structure
            The crystal that was evaluated.
        checkpoint_folder
            The folder that it was evaluated with.
        """
        cell = primitive_cell(structure)
        checkpoint = Path(checkpoint_folder) / self.stage / self.content_key(structure)
        return cell, self._scan(cell, checkpoint)[0]


def _slice(values: np.ndarray, through: np.ndarray | None = None) -> list[list[float | None]]:
    """Return the plane of constant c through the lowest point, energies from that point, ``None`` where excluded."""
    guide = values if through is None else through
    lowest = np.unravel_index(int(np.argmin(guide)), guide.shape)
    plane = values[:, :, lowest[2]].T - np.min(guide)
    return [[round(float(v), 4) if np.isfinite(v) else None for v in row] for row in plane]
