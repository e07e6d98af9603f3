"""The gate: the one function that turns a stage's value into a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from monty.json import MSONable

from ..makers.quantities import Quantity
from ..transport.errors import Reason


class Status(StrEnum):
    """Where a candidate stands at a stage."""

    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    REJECTED = "rejected"
    FAILED = "failed"
    REUSED = "reused"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Gate(MSONable):
    """What a value must satisfy to go on.

    Attributes
    ----------
    quantity
        Name of the quantity that is read.
    maximum, minimum
        Inclusive bounds in the quantity's unit; they are judged as soon as the value is known.
    top
        Budget: so many of the candidates within the bounds go on, the best first, once every value is known.
    """

    quantity: str
    maximum: float | None = None
    minimum: float | None = None
    top: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's answer."""

    status: Status
    reason: Reason
    threshold: float | None = None


def judge(value: float | None, gate: Gate) -> Verdict:
    """Judge one value.

    Parameters
    ----------
    value
        The quantity, in its unit; ``None`` when the ion does not percolate.
    gate
        The gate.

    Returns
    -------
    Verdict
        ``passed``, ``rejected``, or ``pending`` when the value is within the bounds and waits for the budget.
    """
    bounded = gate.maximum is not None or gate.minimum is not None or gate.top is not None
    if value is None or math.isinf(value):
        verdict = Verdict(Status.REJECTED, Reason.NO_PERCOLATION)
        return verdict if bounded else Verdict(Status.PASSED, Reason.NO_GATE)
    if gate.maximum is not None and not value <= gate.maximum:
        return Verdict(Status.REJECTED, Reason.ABOVE_MAXIMUM, gate.maximum)
    if gate.minimum is not None and not value >= gate.minimum:
        return Verdict(Status.REJECTED, Reason.BELOW_MINIMUM, gate.minimum)
    if gate.top is not None:
        return Verdict(Status.PENDING, Reason.AWAITING_BUDGET)
    threshold = gate.maximum if gate.maximum is not None else gate.minimum
    return Verdict(Status.PASSED, Reason.PASSED_GATE if bounded else Reason.NO_GATE, threshold)


def share_budget(values: Mapping[str, float], gate: Gate) -> dict[str, Verdict]:
    """Share a ``top`` budget among candidates that are all within the bounds.

    Ties are broken by name, so that the same campaign always ends alike.

    Parameters
    ----------
    values
        The quantity of each candidate by its name.
    gate
        A gate with ``top`` set.

    Returns
    -------
    dict
        One verdict a candidate; the threshold is the value of the last one let through.
    """
    if gate.top is None:
        raise ValueError("The gate has no budget to share.")
    sign = 1.0 if Quantity(gate.quantity).lower_is_better else -1.0
    ranked = sorted(values, key=lambda name: (sign * values[name], name))
    threshold = values[ranked[min(gate.top, len(ranked)) - 1]] if ranked else None
    return {
        name: Verdict(Status.PASSED, Reason.PASSED_GATE, threshold)
        if rank < gate.top
        else Verdict(Status.REJECTED, Reason.OUTSIDE_TOP, threshold)
        for rank, name in enumerate(ranked)
    }
