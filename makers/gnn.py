"""The gnn stage: predicted barriers of every unique hop, percolated over the hop graph with their uncertainty."""

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
    from ..transport.paths import MigrationPath


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
        predicted = predict_hop_barriers(network, settings.min_length_A, settings.model)
        barriers, sigmas = predicted.barriers_eV, predicted.sigmas_eV
        found = material_barriers(network, barriers, sigmas, settings.common_error_share)
        fields: dict[str, Any] = {
            "method": f"barriers of vacancy hops by the model {settings.model!r}, percolated over the graph of hops",
            "model": settings.model,
            "potential": predicted.potential,
            "warnings": [f"{network.hops[hop].hop_id}: {note}" for hop, note in predicted.notes.items()],
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


@dataclass(frozen=True)
class PredictedHops:
    """What a model says of the hops of a crystal.

    Attributes
    ----------
    barriers_eV, sigmas_eV
        Barrier of each hop and its standard deviation, shape (hops,).
    notes
        By hop: why its answer rests on less than the model wants.
    potential
        Registry name of the potential that the model asked, or None.
    """

    barriers_eV: np.ndarray
    sigmas_eV: np.ndarray
    notes: dict[int, str]
    potential: str | None


def predict_hop_barriers(network: HopNetwork, min_length_A: float, model: str = "fast") -> PredictedHops:
    """Predict the barrier of every unique hop of a crystal.

    Parameters
    ----------
    network
        The crystal's hops.
    min_length_A
        Least perpendicular width of each hop's supercell, in Å.
    model
        Name of a model that needs nothing but the path.

    Returns
    -------
    PredictedHops

    Raises
    ------
    CandidateError
        The model has no barrier for a hop; the message names it.
    WeightsError
        The model's checkpoint is missing, damaged or of another format, or the weights of the potential that it asks
        are not to be had.
    """
    from ..learning.barrier_models import barrier_model
    from ..transport.hops import hop_path
    from .probing import potential_of_model

    chosen = barrier_model(model)
    potential = potential_of_model(chosen)
    predictor = chosen.load(chosen.checkpoint, potential)
    prepared = []
    for hop in network.hops:
        row = path_row(hop_path(network, hop, images=5, min_length_A=min_length_A))
        try:
            prepared.append(predictor.prepare(chosen.shown(row)))
        except CandidateError as error:
            if hop.hop_id in str(error):
                raise
            raise type(error)(f"The model {model!r} refuses the hop {hop.hop_id}: {error}", error.reason) from error
    barriers, sigmas = (np.asarray(values, dtype=float) for values in predictor.predict(prepared))
    for hop, barrier, sigma in zip(network.hops, barriers, sigmas, strict=True):
        if not (np.isfinite(barrier) and np.isfinite(sigma)):
            raise CandidateError(
                f"The model {model!r} has no finite barrier for the hop {hop.hop_id}; look at the structure.",
                Reason.NON_FINITE_ENERGY,
            )
    notes = {number: note for number, item in enumerate(prepared) if (note := getattr(item, "note", None))}
    return PredictedHops(barriers, sigmas, notes, None if potential is None else potential.name)


def path_row(path: MigrationPath) -> dict[str, Any]:
    """A path in the layout of a table of paths, as plain lists."""
    return {
        "path_id": path.path_id,
        "migrating_ion": path.ion,
        "lattice": path.lattice.tolist(),
        "path_frac_coords": path.path_frac_coords.tolist(),
        "framework_species": list(path.framework_species),
        "framework_frac_coords": path.framework_frac_coords.tolist(),
    }
