"""The potential that barrier models ask about a path: which one it is, and whether it can tell what they want."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.errors import HopflowError

if TYPE_CHECKING:
    from ..learning.band_probes import ProbeSettings
    from ..learning.barrier_models import BarrierModel
    from ..transport.energies import SitePotential


def probing_potential(settings: ProbeSettings) -> SitePotential:
    """The potential that probes ask.

    Raises
    ------
    WeightsError
        Its weights are not to be had.
    HopflowError
        The potential tells nothing of single atoms.
    """
    from ..potentials.registry import load_potential

    potential = load_potential(settings.potential, dtype=settings.dtype)  # type: ignore[arg-type]
    if not hasattr(potential, "evaluate_sites"):
        raise HopflowError(f"{settings.potential} tells nothing of single atoms; probes need a MACE potential.")
    return potential  # type: ignore[return-value]


def potential_of_model(model: BarrierModel) -> SitePotential | None:
    """The potential that a barrier model asks; None for a model that asks none.

    Raises
    ------
    WeightsError
        The model's checkpoint or the potential's weights are not to be had.
    """
    from ..learning.evidence_checkpoints import load_models

    return probing_potential(load_models(model.checkpoint).probe) if model.asks_potential else None
