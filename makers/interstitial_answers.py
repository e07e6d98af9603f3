"""What the interstitial network adds to the bvse stage: answers without parameters, cross-checks else.

The network has learned the barriers of the bond-valence method itself, so that it stands in for that method only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..transport.errors import CandidateError
from .quantities import BarrierSource

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..learning.interstitial_prediction import CrystalPrediction
    from .settings import BondValenceStageSettings

#: Field and network are said to disagree where the logarithms of their barriers lie more sigmas apart.
MANY_SIGMAS = 3.0
#: Settings of the field that the network learned once and for all.
_LEARNED_SETTINGS = ("radii", "screening", "balance_charges", "cutoff_A")


def network_sha256(ion: str, settings: BondValenceStageSettings) -> str | None:
    """SHA-256 of the network if it may speak of this ion under these settings, without loading it."""
    if settings.interstitial_network == "never":
        return None
    from ..learning.interstitial_prediction import checkpoint_info

    info = checkpoint_info()
    return str(info["sha256"]) if ion == info["ion"] else None


def predicted_answer(
    structure: Structure, ion: str, settings: BondValenceStageSettings, missing: CandidateError
) -> dict[str, Any]:
    """Fields of the bvse document as the interstitial network fills them.

    Parameters
    ----------
    structure
        The primitive cell.
    ion
        Element symbol of the mobile ion.
    settings
        Settings of the stage.
    missing
        Why the bond-valence method does not answer.

    Raises
    ------
    CandidateError
        The network cannot answer either: ``missing``, with the network's reason in another clause.
    WeightsError
        The checkpoint is missing or damaged.
    """
    from ..learning.interstitial_prediction import predict_crystal
    from ..transport.bvse import charges_in_use
    from ..transport.structures import assign_oxidation_states

    try:
        prediction = predict_crystal(structure, ion, settings.oxidation_states)
    except CandidateError as refusal:
        clause = str(refusal).rstrip(".")
        raise type(missing)(
            f"{str(missing).rstrip('.')}; nor can a prediction stand in ({clause[:1].lower()}{clause[1:]}).",
            missing.reason,
        ) from refusal
    charged = assign_oxidation_states(structure, ion, settings.oxidation_states)
    properties = charged.properties or {}
    barriers, sigmas = prediction.barriers_eV, prediction.sigmas_eV
    return {
        "method": "interstitial network that learned bond-valence barriers; the table has no parameters",
        "barrier_source": BarrierSource.INTERSTITIAL_NETWORK,
        **{f"barrier_{k}d_eV": barrier for k, barrier in enumerate(barriers, start=1)},
        **{f"barrier_{k}d_sigma_eV": sigma for k, sigma in enumerate(sigmas, start=1)},
        **{f"barrier_{k}d_from_global_minimum_eV": None for k in (1, 2, 3)},
        **_what_the_network_says(prediction, ion, settings),
        "dimension": sum(barrier <= settings.energy_ceiling_eV for barrier in barriers),
        "grid_shape": None,
        "spacing_A": None,
        "symmetry_operations": None,
        "oxidation_states": charges_in_use(charged),
        "oxidation_states_from": str(properties.get("oxidation_states_from", "structure")),
        "warnings": [
            *properties.get("oxidation_states_warnings", ()),
            f"{_first_clause(missing)}; the barrier is predicted by the interstitial network{_unfamiliar(prediction)}.",
            *_settings_it_ignores(settings),
        ],
    }


def cross_check(
    structure: Structure, ion: str, settings: BondValenceStageSettings, barriers_eV: Sequence[float]
) -> dict[str, Any]:
    """Fields of the bvse document that hold the network's barriers against the field's, with ``warnings`` to add.

    Parameters
    ----------
    structure
        The primitive cell.
    ion
        Element symbol of the mobile ion.
    settings
        Settings of the stage.
    barriers_eV
        Of the field in one, two and three directions; ``inf`` where nothing percolates.

    Raises
    ------
    WeightsError
        The checkpoint is missing or damaged.
    """
    from ..learning.interstitial_prediction import predict_crystal

    try:
        prediction = predict_crystal(structure, ion, settings.oxidation_states)
    except CandidateError as refusal:
        return {"warnings": [f"There is no cross-check by the interstitial network: {refusal}"]}
    apart = far_apart(barriers_eV, prediction)
    warnings = _settings_it_ignores(settings)
    if apart:
        warnings.append(
            f"The interstitial network's barriers lie more than {MANY_SIGMAS:.0f} sigma from those of the bond-valence "
            f"field ({', '.join(apart)}){_unfamiliar(prediction)}; check the oxidation states and the structure before "
            "you trust either."
        )
    return {**_what_the_network_says(prediction, ion, settings), "warnings": warnings}


def far_apart(barriers_eV: Sequence[float], prediction: CrystalPrediction) -> list[str]:
    """Directions in which logarithms of field and network differ by more than :data:`MANY_SIGMAS`, in words."""
    from ..learning.barrier_regression import LEAST_BARRIER_EV

    found = []
    predicted = zip(barriers_eV, prediction.barriers_eV, prediction.sigmas_log, strict=True)
    for dimension, (own_eV, expected_eV, sigma) in enumerate(predicted, start=1):
        # Where nothing percolates the network, which never says so, can only be wrong.
        if not math.isfinite(own_eV):
            continue
        own, expected = (math.log(max(barrier_eV, LEAST_BARRIER_EV)) for barrier_eV in (own_eV, expected_eV))
        if abs(own - expected) > MANY_SIGMAS * sigma:
            found.append(f"{dimension}D {expected_eV:.2f} against {own_eV:.2f} eV")
    return found


def _what_the_network_says(
    prediction: CrystalPrediction, ion: str, settings: BondValenceStageSettings
) -> dict[str, Any]:
    return {
        "interstitial_network_barriers_eV": list(prediction.barriers_eV),
        "interstitial_network_sigmas_eV": list(prediction.sigmas_eV),
        "interstitial_network_sigmas_log": list(prediction.sigmas_log),
        "unfamiliar_species": list(prediction.unfamiliar_species),
        "weights_sha256": network_sha256(ion, settings),
    }


def _unfamiliar(prediction: CrystalPrediction) -> str:
    if not prediction.unfamiliar_species:
        return ""
    return f", which has never seen {' and '.join(prediction.unfamiliar_species)}: sigma is widened"


def _first_clause(missing: CandidateError) -> str:
    """What is missing, without the advice that follows a semicolon."""
    return str(missing).split(";")[0].rstrip(".")


def _settings_it_ignores(settings: BondValenceStageSettings) -> list[str]:
    from ..learning.interstitial_prediction import checkpoint_info

    learned = checkpoint_info()["data"]["bond_valence"]
    others = [name for name in _LEARNED_SETTINGS if getattr(settings, name) != learned[name]]
    if not others:
        return []
    said = ", ".join(f"{name}: {learned[name]}" for name in others)
    return [f"The interstitial network learned barriers with {said}; the stage's settings do not change its answer."]
