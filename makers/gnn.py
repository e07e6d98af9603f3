"""The gnn stage: barriers of every unique hop from the path network, percolated over the hop graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..transport.errors import CandidateError, Reason
from .documents import HopBarrierDocument, HopRecord, StageDocument
from .settings import HopBarrierStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.hops import HopNetwork


@dataclass
class HopBarrierMaker(StageMaker):
    """Barriers of vacancy hops as the path network predicts them."""

    name: str = "gnn"
    settings: HopBarrierStageSettings = field(default_factory=HopBarrierStageSettings)

    stage: ClassVar[str] = "gnn"
    document: ClassVar[type[StageDocument]] = HopBarrierDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "torch-geometric", "pymatgen")

    def weights_sha256(self) -> str | None:
        """SHA-256 of the shipped checkpoint."""
        from ..learning.prediction import checkpoint_info

        return checkpoint_info()["sha256"]

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return the hops with their predicted barriers and what they make of the material."""
        from ..transport.hops import enumerate_hops, network_barriers

        network = enumerate_hops(
            structure,
            self.ion,
            max_distance_A=self.settings.max_distance_A,
            framework_clearance_A=self.settings.clearance_A,
        )
        if len(network.hops) > self.settings.max_hops:
            raise CandidateError(
                f"The crystal has {len(network.hops)} symmetry-unique hops, more than max_hops "
                f"({self.settings.max_hops}); symmetrize the structure or raise max_hops.",
                Reason.TOO_MANY_HOPS,
            )
        barriers, sigmas = predict_hop_barriers(network, self.settings.min_length_A)
        percolation = network_barriers(network, barriers.tolist())
        fields: dict[str, Any] = {
            "method": "graph network on five-image migration paths, percolated over the graph of vacancy hops",
            "dimension": network.dimension,
            "hop_cutoff_A": network.cutoff_A,
            "hops": [
                HopRecord(
                    hop_id=hop.hop_id,
                    distance_A=hop.distance_A,
                    multiplicity=hop.multiplicity,
                    barrier_eV=float(barrier),
                    barrier_sigma_eV=float(sigma),
                )
                for hop, barrier, sigma in zip(network.hops, barriers, sigmas, strict=True)
            ],
        }
        for direction, barrier in enumerate(percolation.thresholds_eV, start=1):
            value = finite_or_none(barrier)
            fields[f"barrier_{direction}d_eV"] = value
            if value is not None:
                # The hop whose barrier is the threshold limits the path; its uncertainty is the material's.
                limiting = int(np.argmin(np.abs(barriers - value)))
                fields[f"barrier_{direction}d_sigma_eV"] = float(sigmas[limiting])
        return fields


def predict_hop_barriers(network: HopNetwork, min_length_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Predict the barrier of every unique hop of a crystal.

    Parameters
    ----------
    network
        The crystal's hops.
    min_length_A
        Least perpendicular width of each hop's supercell, in Å.

    Returns
    -------
    tuple of numpy.ndarray
        Barriers and their standard deviations in eV, shape (hops,) each.
    """
    from ..learning.prediction import predict_paths
    from ..transport.hops import hop_path

    return predict_paths([hop_path(network, hop, images=5, min_length_A=min_length_A) for hop in network.hops])
