"""The models that predict the barrier of a path: one registry, one way to ask them.

A model is shown the columns that it may read and no others, so what it must not know cannot reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..transport.errors import CandidateError, Reason, WeightsError
from ..transport.paths import PATH_COLUMNS
from . import evidence_checkpoints, prediction
from .forest_barriers import NEB_COLUMN
from .path_rows import PathRow

if TYPE_CHECKING:
    from ..transport.energies import SitePotential

_DECIMALS = 4
"""Answers are rounded to 0.1 meV: what follows depends on which paths are predicted together."""


class Predictor(Protocol):
    """What a model is when its checkpoint is loaded."""

    def prepare(self, row: dict[str, Any]) -> Any:
        """Whatever the model makes of one row; raises :class:`CandidateError` where it can make nothing of it."""

    def predict(self, prepared: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Barriers and their standard deviations in eV, shape (paths,) each."""


@dataclass(frozen=True)
class BarrierModel:
    """A model under its name.

    Attributes
    ----------
    name
        What the user calls it.
    description
        What it is, in a sentence.
    checkpoint
        Its file; the card is the ``.md`` beside it.
    load
        Makes it ready from its checkpoint and, for a model that asks one, a potential (or None, where none is to be
        had: the model then answers with less).
    extra_columns
        Columns that it may read beyond the path itself.
    asks_potential
        Whether it has a potential probe each path; which one stands in the checkpoint
        (:attr:`.evidence_checkpoints.BarrierModels.probe`).
    """

    name: str
    description: str
    checkpoint: Path
    load: Callable[[Path, SitePotential | None], Predictor]
    extra_columns: tuple[str, ...] = ()
    asks_potential: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that it may read."""
        return ("path_id", *PATH_COLUMNS, *self.extra_columns)

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """The part of a row that the model may read."""
        return {name: row[name] for name in self.columns if name in row}


def _from_evidence(evidence: str) -> Callable[[Path, SitePotential | None], Predictor]:
    return partial(_evidence_predictor, evidence)


def _evidence_predictor(evidence: str, checkpoint: Path, potential: SitePotential | None) -> Predictor:
    return evidence_checkpoints.EvidencePredictor(checkpoint, evidence, potential)


def _path_network(checkpoint: Path, potential: SitePotential | None) -> Predictor:  # noqa: ARG001  asks none
    return prediction.PathNetworkPredictor(checkpoint)


BARRIER_MODELS: dict[str, BarrierModel] = {
    model.name: model
    for model in (
        BarrierModel(
            "fast",
            "Trees on the path and on a dozen answers of a universal potential about it; seconds a path.",
            evidence_checkpoints.SHIPPED_CHECKPOINT,
            _from_evidence("probe"),
            asks_potential=True,
        ),
        BarrierModel(
            "fused",
            "As fast, with a computed NEB barrier of the path where the table has one.",
            evidence_checkpoints.SHIPPED_CHECKPOINT,
            _from_evidence("band"),
            (NEB_COLUMN,),
            asks_potential=True,
        ),
        BarrierModel(
            "geometry",
            "Trees on the path alone; milliseconds a path.",
            evidence_checkpoints.SHIPPED_CHECKPOINT,
            _from_evidence("geometry"),
        ),
        BarrierModel(
            "path-network",
            "Ensemble of path networks on five images of the ion and the framework around them; milliseconds a path.",
            prediction.SHIPPED_CHECKPOINT,
            _path_network,
        ),
    )
}
"""Names that ``hopflow predict-paths --model`` takes."""


def barrier_model(name: str) -> BarrierModel:
    """The model of a name.

    Raises
    ------
    ValueError
        There is none; the text lists those that there are.
    """
    if name not in BARRIER_MODELS:
        raise ValueError(f"There is no barrier model called {name!r}; allowed: {', '.join(BARRIER_MODELS)}.")
    return BARRIER_MODELS[name]


@dataclass(frozen=True)
class BarrierAnswer:
    """What a model says about one row.

    Attributes
    ----------
    path_id
        The row's name.
    barrier_eV, sigma_eV
        Barrier and its standard deviation; None where there is no answer.
    error, reason
        Why there is none: one sentence, and its code.
    note
        Why the answer rests on less than the model wants, or None.
    """

    path_id: str | int
    barrier_eV: float | None = None
    sigma_eV: float | None = None
    error: str | None = None
    reason: Reason | None = None
    note: str | None = None

    @classmethod
    def refused(cls, path_id: str | int, error: Exception) -> BarrierAnswer:
        """No answer, and why."""
        if isinstance(error, CandidateError):
            return cls(path_id, error=str(error), reason=error.reason)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(path_id, error=f"The path {path_id} failed unexpectedly ({text}).", reason=Reason.UNEXPECTED_ERROR)

    def document(self) -> dict[str, Any]:
        """The answer as a JSON object; ``error``, ``reason`` and ``note`` only where there are any."""
        found = {"path_id": self.path_id, "barrier_eV": self.barrier_eV, "sigma_eV": self.sigma_eV}
        if self.note is not None:
            found["note"] = self.note
        return found if self.error is None else {**found, "error": self.error, "reason": str(self.reason)}


def answer_rows(
    rows: Iterable[PathRow], model: BarrierModel, batch_size: int = 64, potential: SitePotential | None = None
) -> Iterator[list[BarrierAnswer]]:
    """Answers in the order of the rows, one a row, batch by batch; whatever happens to a row is its own answer.

    Parameters
    ----------
    rows
        Rows of a path table.
    model
        Who answers.
    batch_size
        Rows that are answered together.
    potential
        For a model that asks one.

    Raises
    ------
    WeightsError
        The model's checkpoint is missing, damaged or of another format.
    """
    predictor = model.load(model.checkpoint, potential)
    source = iter(rows)
    while batch := list(islice(source, batch_size)):
        answers: list[BarrierAnswer | None] = [None] * len(batch)
        prepared: list[Any] = []
        places: list[int] = []
        for place, entry in enumerate(batch):
            try:
                if entry.row is None:
                    raise entry.error or CandidateError(f"{entry.path_id} holds no path.", Reason.UNREADABLE_STRUCTURE)
                prepared.append(predictor.prepare(model.shown(entry.row)))
                places.append(place)
            except WeightsError:
                raise
            except Exception as error:  # noqa: BLE001  an answer of its own: the rows behind it are answered, too
                answers[place] = BarrierAnswer.refused(entry.path_id, error)
        names = [batch[place].path_id for place in places]
        for place, answer in zip(places, _predicted(predictor, names, prepared), strict=True):
            answers[place] = answer
        yield [answer for answer in answers if answer is not None]


def _predicted(predictor: Predictor, names: Sequence[str | int], prepared: Sequence[Any]) -> list[BarrierAnswer]:
    """Predict together; where that fails, one at a time, so that each failure finds its row."""
    if not prepared:
        return []
    try:
        barriers_eV, sigmas_eV = predictor.predict(prepared)
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001  as above
        if len(prepared) == 1:
            return [BarrierAnswer.refused(names[0], error)]
        return [_predicted(predictor, [name], [each])[0] for name, each in zip(names, prepared, strict=True)]
    notes = [getattr(item, "note", None) for item in prepared]
    return [_answer(*each) for each in zip(names, map(float, barriers_eV), map(float, sigmas_eV), notes, strict=True)]


def _answer(path_id: str | int, barrier_eV: float, sigma_eV: float, note: str | None) -> BarrierAnswer:
    if not (np.isfinite(barrier_eV) and np.isfinite(sigma_eV)):
        error = f"The model has no finite barrier for the path {path_id}; check its lattice and coordinates."
        return BarrierAnswer(path_id, error=error, reason=Reason.NON_FINITE_ENERGY)
    return BarrierAnswer(path_id, round(barrier_eV, _DECIMALS), round(sigma_eV, _DECIMALS), note=note)
