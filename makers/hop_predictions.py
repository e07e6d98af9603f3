"""Barriers that a model predicts for the hops of a crystal, asking the potential only about those that may decide.

A model that has a potential probe each hop takes seconds a hop. A crystal without symmetry has hundreds of unique hops,
of which a few decide its barrier. So all are predicted from their geometry first, and the potential probes those that
are likely to limit the crystal, a few at a time: each answer moves the question to other hops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..learning.material_barriers import COMMON_SHARE, MaterialBarriers, material_barriers
from ..transport.errors import CandidateError, Reason

if TYPE_CHECKING:
    from ..learning.barrier_models import BarrierModel, Predictor
    from ..transport.hops import HopNetwork
    from ..transport.paths import MigrationPath

MAX_PROBED_HOPS = 20
"""Hops of a crystal that a potential is asked about; at about three seconds each, a minute a crystal."""

PROBED_TOGETHER = 4
"""Hops that are probed before it is asked again which ones may limit the crystal."""

NEGLIGIBLE_PROBABILITY = 0.02
"""The hops that are left are not asked about when one of them limits the crystal with less than this probability."""

SELECTION_SAMPLES = 200
"""Draws of the errors by which hops are chosen; the final ones are more."""


@dataclass(frozen=True)
class PredictedHops:
    """What a model says of the hops of a crystal.

    Attributes
    ----------
    barriers_eV, sigmas_eV
        Barrier of each hop and its standard deviation, shape (hops,).
    probed
        Whether the model was to have its potential probe the hop, bool, shape (hops,); for a model that asks no
        potential, nowhere.
    notes
        By hop: why the answer of a hop that was to be probed rests on less than the model wants.
    potential
        Registry name of the potential that the model asked, or None.
    """

    barriers_eV: np.ndarray
    sigmas_eV: np.ndarray
    probed: np.ndarray
    notes: dict[int, str]
    potential: str | None


def predict_hop_barriers(
    network: HopNetwork,
    min_length_A: float,
    model: str = "fast",
    max_probed_hops: int = MAX_PROBED_HOPS,
    common_error_share: float = COMMON_SHARE,
) -> PredictedHops:
    """Predict the barrier of every unique hop of a crystal.

    Parameters
    ----------
    network
        The crystal's hops.
    min_length_A
        Least perpendicular width of each hop's supercell, in Å.
    model
        Name of a model that needs nothing but the path.
    max_probed_hops
        If the crystal has more unique hops than this and the model asks a potential, at most so many are probed, those
        that limit the crystal most probably; the others have the model's answer from their geometry, with its wider
        sigma.
    common_error_share
        Share of the errors' variance that the hops have in common, for these probabilities.

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
    rows = [path_row(hop_path(network, hop, images=5, min_length_A=min_length_A)) for hop in network.hops]
    hops = _Hops(network, chosen, rows)
    predictor = chosen.load(chosen.checkpoint, potential)
    if potential is None:
        hops.answer(range(len(rows)), predictor)
    elif len(rows) <= max_probed_hops:
        hops.answer(range(len(rows)), predictor, probe=True)
    else:
        hops.answer(range(len(rows)), chosen.load(chosen.checkpoint, None))
        while (left := max_probed_hops - int(hops.probed.sum())) > 0:
            found = material_barriers(
                network, hops.barriers_eV, hops.sigmas_eV, common_error_share, samples=SELECTION_SAMPLES
            )
            deciding = deciding_hops(found, hops.probed, min(left, PROBED_TOGETHER))
            if not deciding:
                break
            hops.answer(deciding, predictor, probe=True)
    name = None if potential is None else potential.name
    return PredictedHops(hops.barriers_eV, hops.sigmas_eV, hops.probed, dict(sorted(hops.notes.items())), name)


def deciding_hops(found: MaterialBarriers, probed: np.ndarray, most: int) -> list[int]:
    """The hops that were not probed and most probably limit the crystal, at most ``most``.

    The hops whose barriers are the crystal's come first, then those that limit it in most of the draws. None is left
    when it is improbable for each number of directions that a hop without probe limits it.

    Parameters
    ----------
    found
        Barriers of the crystal by what is known.
    probed
        Shape (hops,).
    most
        Number of hops.
    """
    probabilities = np.where(probed[:, None], 0.0, found.limiting_probabilities)
    limiting = [hop for hop in dict.fromkeys(found.limiting_hops) if hop is not None and not probed[hop]]
    if not limiting and probabilities.sum(axis=0).max() < NEGLIGIBLE_PROBABILITY:
        return []
    likely = probabilities.max(axis=1)
    others = [int(hop) for hop in np.argsort(-likely, kind="stable") if likely[hop] > 0 and hop not in limiting]
    return (limiting + others)[:most]


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


class _Hops:
    """The answers about a crystal's hops so far."""

    def __init__(self, network: HopNetwork, model: BarrierModel, rows: list[dict[str, Any]]) -> None:
        self.names = [hop.hop_id for hop in network.hops]
        self.model = model
        self.rows = rows
        self.barriers_eV = np.full(len(rows), np.nan)
        self.sigmas_eV = np.full(len(rows), np.nan)
        self.probed = np.zeros(len(rows), dtype=bool)
        self.notes: dict[int, str] = {}

    def answer(self, hops: range | list[int], predictor: Predictor, probe: bool = False) -> None:
        """Answer some hops; raises :class:`CandidateError` where the model has no barrier for one."""
        prepared = [self._prepared(hop, predictor) for hop in hops]
        for hop, item, barrier, sigma in zip(hops, prepared, *predictor.predict(prepared), strict=True):
            if not (np.isfinite(barrier) and np.isfinite(sigma)):
                raise CandidateError(
                    f"The model {self.model.name!r} has no finite barrier for the hop {self.names[hop]}; look at the "
                    "structure.",
                    Reason.NON_FINITE_ENERGY,
                )
            self.barriers_eV[hop], self.sigmas_eV[hop], self.probed[hop] = barrier, sigma, probe
            if probe and (note := getattr(item, "note", None)):
                self.notes[hop] = note

    def _prepared(self, hop: int, predictor: Predictor) -> Any:
        try:
            return predictor.prepare(self.model.shown(self.rows[hop]))
        except CandidateError as error:
            name = self.names[hop]
            if name in str(error):
                raise
            message = f"The model {self.model.name!r} refuses the hop {name}: {error}"
            raise type(error)(message, error.reason) from error
