"""The gnn stage: predicted barriers of every unique hop, percolated over the hop graph with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..transport.errors import CandidateError, Reason
from .documents import HopBarrierDocument, HopRecord, StageDocument
from .settings import HopBarrierStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

    from .hop_predictions import PredictedHops


@dataclass
class HopBarrierMaker(StageMaker):
    """Barriers of vacancy hops as a model predicts them, and what they make of the crystal."""

    name: str = "gnn"
    settings: HopBarrierStageSettings = field(default_factory=HopBarrierStageSettings)

    stage: ClassVar[str] = "gnn"
    document: ClassVar[type[StageDocument]] = HopBarrierDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "mace-torch", "pymatgen")

    def weights_sha256(self) -> str | None:
        """SHA-256 of the model's checkpoint."""
        from ..learning.barrier_models import barrier_model
        from ..learning.prediction import checkpoint_info

        return checkpoint_info(barrier_model(self.settings.model).checkpoint)["sha256"]

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return the hops with their predicted barriers and what they make of the material.

        Raises
        ------
        CandidateError
            There are too many hops, or the model has no barrier for one; the message names it.
        """
        from ..learning.material_barriers import material_barriers
        from ..transport.hops import enumerate_hops
        from .hop_predictions import predict_hop_barriers

        settings = self.settings
        network = enumerate_hops(
            structure,
            self.ion,
            max_distance_A=settings.max_distance_A,
            framework_clearance_A=settings.clearance_A,
        )
        if len(network.hops) > settings.max_hops:
            raise CandidateError(
                f"The crystal has {len(network.hops)} symmetry-unique hops, more than max_hops "
                f"({settings.max_hops}); symmetrize the structure or raise max_hops.",
                Reason.TOO_MANY_HOPS,
            )
        predicted = predict_hop_barriers(
            network, settings.min_length_A, settings.model, settings.max_probed_hops, settings.common_error_share
        )
        barriers, sigmas = predicted.barriers_eV, predicted.sigmas_eV
        found = material_barriers(network, barriers, sigmas, settings.common_error_share)
        fields: dict[str, Any] = {
            "method": f"barriers of vacancy hops by the model {settings.model!r}, percolated over the graph of hops",
            "model": settings.model,
            "potential": predicted.potential,
            "warnings": [
                *(f"{network.hops[hop].hop_id}: {note}" for hop, note in predicted.notes.items()),
                *_left_unprobed(predicted, found.limiting_probabilities),
            ],
            "dimension": network.dimension,
            "hop_cutoff_A": network.cutoff_A,
            "limiting_hop_ids": [None if hop is None else network.hops[hop].hop_id for hop in found.limiting_hops],
            "hops": [
                HopRecord(
                    hop_id=hop.hop_id,
                    distance_A=hop.distance_A,
                    multiplicity=hop.multiplicity,
                    barrier_eV=float(barriers[hop.index]),
                    barrier_sigma_eV=float(sigmas[hop.index]),
                    probed=bool(predicted.probed[hop.index]) and hop.index not in predicted.notes,
                    limiting_probabilities=found.limiting_probabilities[hop.index].tolist(),
                )
                for hop in network.hops
            ],
        }
        for direction in (1, 2, 3):
            fields[f"barrier_{direction}d_eV"] = finite_or_none(found.barriers_eV[direction - 1])
            fields[f"barrier_{direction}d_sigma_eV"] = found.sigmas_eV[direction - 1]
            fields[f"barrier_{direction}d_interval_90_eV"] = found.intervals_90_eV[direction - 1]
        return fields


def _left_unprobed(predicted: PredictedHops, limiting_probabilities: np.ndarray) -> list[str]:
    """A sentence where hops of the crystal were not asked of the potential."""
    left = ~predicted.probed
    if predicted.potential is None or not left.any():
        return []
    probability = limiting_probabilities[left].sum(axis=0).max()
    return [
        f"{predicted.potential} probed {predicted.probed.sum()} of {len(left)} unique hops, the likeliest to decide; "
        f"with a probability of {probability:.0%} one of the others, predicted by the geometry alone, limits a barrier "
        "(max_probed_hops)."
    ]
