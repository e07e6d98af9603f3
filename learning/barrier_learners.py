"""What learns barriers of paths: one shape for networks, trees and fused models, so that all are judged alike.

A learner turns rows into items once (graphs, tables of features), is fitted to some of them and answers for others. It
answers on the scale that barriers are learned on, the logarithm of barrier and offset, with a sigma on the same scale;
how wide its intervals must be is set by whoever judges it, from rows that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Progress = Callable[[str], None]

OFFSET_EV = 0.5
"""Targets are log(barrier + offset): equal factors count alike for high barriers, equal amounts for low ones."""


def to_target(barrier_eV: np.ndarray, offset_eV: float = OFFSET_EV) -> np.ndarray:
    """Barriers in eV on the learned scale; NaN stays NaN."""
    return np.log(np.maximum(np.asarray(barrier_eV, dtype=float), 0.0) + offset_eV)


def to_barrier(mean: np.ndarray, sigma: np.ndarray, offset_eV: float = OFFSET_EV) -> tuple[np.ndarray, np.ndarray]:
    """Barrier and its one-sigma half-width in eV from the learned scale, barriers not below zero."""
    barrier = np.maximum(np.exp(mean) - offset_eV, 0.0)
    return barrier, np.exp(mean) * np.sinh(np.minimum(sigma, 3.0))


class FittedLearner(Protocol):
    """A learner that has seen its training paths."""

    def predict(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sigma on the learned scale, shape (items,) each; sigma is one where the learner knows none."""


class BarrierLearner(Protocol):
    """Something that learns barriers of paths."""

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Columns of a row that it may read beyond the path itself."""

    def settings(self) -> dict[str, Any]:
        """Everything that its results depend on, as plain data; part of the key of stored results."""

    def prepare(
        self, rows: Sequence[dict[str, Any]], folder: Path | None = None, progress: Progress | None = None
    ) -> Sequence[Any]:
        """One item a row, in order; what is dear is kept under ``folder`` and taken from there the next time."""

    def fit(
        self,
        items: Sequence[Any],
        barrier_eV: np.ndarray,
        groups: Sequence[int],
        seed: int,
        progress: Progress | None = None,
    ) -> FittedLearner:
        """Learn; ``groups`` holds the host of each item, for inner splits such as that of early stopping."""


@dataclass(frozen=True)
class NamedLearner:
    """A configuration under its name.

    Attributes
    ----------
    name
        What the user calls it.
    description
        What it is, in a sentence.
    create
        Makes the learner; called without arguments, so that nothing heavy is imported before it is wanted.
    """

    name: str
    description: str
    create: Callable[[], BarrierLearner]
