"""The path network as one of the learners of barriers, to be judged beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.paths import MigrationPath
from .barrier_learners import FittedLearner, NamedLearner, Progress, to_target
from .path_graphs import PathGraph, build_path_graph
from .path_network import PathNetwork
from .training import TrainingSettings, combine, predict_targets, train_member

_NOT_OF_A_FIT = ("folds", "offset_eV", "outlier_eV")
"""Settings of :class:`.training.TrainingSettings` that say how an ensemble is judged, not how networks learn."""


@dataclass(frozen=True)
class PathItem:
    """A row as the path network takes it.

    Attributes
    ----------
    graph
        What the network sees.
    mace_target
        Published MACE-NEB barrier on the learned scale, NaN where a row has none. It is a second label of training
        paths and never an input: :meth:`FittedPathNetwork.predict` does not look at it.
    """

    graph: PathGraph
    mace_target: float


@dataclass(frozen=True)
class PathNetworkLearner:
    """An ensemble of path networks that differ in their random start and order.

    Attributes
    ----------
    training
        How each network learns, and how many there are (``members_per_fold``).
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The published MACE-NEB barrier, which teaches the second output."""
        return ("barrier_mace_relax_eV",)

    def settings(self) -> dict[str, Any]:
        """All settings that change the networks."""
        kept = {name: value for name, value in asdict(self.training).items() if name not in _NOT_OF_A_FIT}
        return {"learner": "PathNetwork", **kept}

    def prepare(
        self,
        rows: Sequence[dict[str, Any]],
        folder: Path | None = None,  # noqa: ARG002  graphs take milliseconds
        progress: Progress | None = None,
    ) -> Sequence[PathItem]:
        """The graph of each row with its second label."""
        say = progress or (lambda _: None)
        items = []
        for number, row in enumerate(rows, 1):
            mace_eV = row.get("barrier_mace_relax_eV")
            graph = build_path_graph(MigrationPath.from_row(row), self.training.graph)
            mace_target = to_target(np.array(np.nan if mace_eV is None else mace_eV))
            items.append(PathItem(graph, float(mace_target)))
            if number % 100 == 0:
                say(f"graphs of {number} of {len(rows)} paths")
        return items

    def fit(
        self,
        items: Sequence[PathItem],
        barrier_eV: np.ndarray,
        groups: Sequence[int],  # noqa: ARG002  a fixed number of epochs needs no inner split
        seed: int,
        progress: Progress | None = None,
    ) -> FittedLearner:
        """Train the networks; network ``m`` has the seed ``100 seed + m``."""
        say = progress or (lambda _: None)
        targets = np.column_stack([to_target(barrier_eV), [item.mace_target for item in items]])
        targets = targets[:, : self.training.network.targets]
        networks = []
        for member in range(self.training.members_per_fold):
            graphs = [item.graph for item in items]
            networks.append(train_member(graphs, targets, self.training, 100 * seed + member)[0])
            say(f"network {member + 1} of {self.training.members_per_fold} trained")
        return FittedPathNetwork(tuple(networks))


@dataclass(frozen=True)
class FittedPathNetwork:
    """Trained networks; they answer together."""

    networks: tuple[PathNetwork, ...]

    def predict(self, items: Sequence[PathItem]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and total sigma on the learned scale, shape (items,) each: expected noise and disagreement."""
        return combine(*predict_targets(self.networks, [item.graph for item in items]))


NAMED_PATH_NETWORK: dict[str, NamedLearner] = {
    "path-network": NamedLearner(
        "path-network",
        "Three path networks on five images of the ion and the framework around them.",
        PathNetworkLearner,
    )
}
"""Learners of this module by name."""
