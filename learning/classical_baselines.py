"""What a network has to beat: trees on descriptors of path and composition, and the median of the training paths.

Random forest and gradient boosting are the classical baselines of Devi et al. (arXiv 2508.06436), on the descriptors
of :mod:`.path_descriptors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.paths import MigrationPath
from .barrier_learners import FittedLearner, NamedLearner, Progress, to_target
from .path_descriptors import PATH_DESCRIPTORS, path_descriptors
from .path_graphs import GraphSettings

if TYPE_CHECKING:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

_LEAST_SPREAD = 0.02
"""Trees that all say the same are not certain of it."""


@dataclass(frozen=True)
class TableLearner:
    """What learners on descriptors share.

    Attributes
    ----------
    graph
        How far atoms are looked at, see :func:`.path_descriptors.path_descriptors`.
    """

    graph: GraphSettings = field(default_factory=GraphSettings)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Nothing but the path."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Numbers of the learner and names of the descriptors."""
        return {"learner": type(self).__name__, "descriptors": list(PATH_DESCRIPTORS), **asdict(self)}

    def prepare(
        self,
        rows: Sequence[dict[str, Any]],
        folder: Path | None = None,  # noqa: ARG002  descriptors are cheap
        progress: Progress | None = None,
    ) -> Sequence[np.ndarray]:
        """Descriptors of each row, each of shape (len(PATH_DESCRIPTORS),)."""
        say = progress or (lambda _: None)
        items = []
        for number, row in enumerate(rows, 1):
            items.append(path_descriptors(MigrationPath.from_row(row), self.graph))
            if number % 100 == 0:
                say(f"descriptors of {number} of {len(rows)} paths")
        return items


@dataclass(frozen=True)
class RandomForest(TableLearner):
    """Random forest (Breiman 2001); its sigma is the spread of the trees.

    Attributes
    ----------
    trees
        How many.
    least_leaf
        Fewest paths of a leaf.
    columns
        Share of the descriptors that a split may choose from.
    """

    trees: int = 400
    least_leaf: int = 2
    columns: float = 0.33

    def fit(
        self,
        items: Sequence[Any],
        barrier_eV: np.ndarray,
        groups: Sequence[int],  # noqa: ARG002  no inner split
        seed: int,
        progress: Progress | None = None,  # noqa: ARG002  seconds
    ) -> FittedLearner:
        """Learn the logarithm of barrier and offset."""
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(
            self.trees, min_samples_leaf=self.least_leaf, max_features=self.columns, random_state=seed
        )
        return FittedForest(forest.fit(np.stack(items), to_target(barrier_eV)))


@dataclass(frozen=True)
class GradientBoosting(TableLearner):
    """Gradient boosting of trees (Friedman 2001); it knows no sigma.

    Attributes
    ----------
    trees, depth
        How many, and how many splits deep each is.
    learning_rate
        How much of each tree is added.
    share
        Share of the paths that each tree sees.
    columns
        Share of the descriptors that a split may choose from.
    """

    trees: int = 400
    depth: int = 4
    learning_rate: float = 0.03
    share: float = 0.6
    columns: float = 0.3

    def fit(
        self,
        items: Sequence[Any],
        barrier_eV: np.ndarray,
        groups: Sequence[int],  # noqa: ARG002  no inner split
        seed: int,
        progress: Progress | None = None,  # noqa: ARG002  seconds
    ) -> FittedLearner:
        """Learn the logarithm of barrier and offset."""
        from sklearn.ensemble import GradientBoostingRegressor

        boosting = GradientBoostingRegressor(
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=self.share,
            max_features=self.columns,
            random_state=seed,
        )
        return FittedBoosting(boosting.fit(np.stack(items), to_target(barrier_eV)))


@dataclass(frozen=True)
class FittedForest:
    """A forest that has seen its training paths."""

    forest: RandomForestRegressor

    def predict(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of the trees on the learned scale, shape (items,) each."""
        table = np.stack(items).astype(np.float32)
        answers = np.stack([tree.predict(table) for tree in self.forest.estimators_])
        return answers.mean(axis=0), np.maximum(answers.std(axis=0), _LEAST_SPREAD)


@dataclass(frozen=True)
class FittedBoosting:
    """Boosted trees that have seen their training paths."""

    boosting: GradientBoostingRegressor

    def predict(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Mean on the learned scale, and ones, shape (items,) each."""
        mean = np.asarray(self.boosting.predict(np.stack(items)), dtype=float)
        return mean, np.ones(len(items))


@dataclass(frozen=True)
class Median:
    """The median barrier of the training paths, which any learner has to beat; it looks at nothing."""

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def settings(self) -> dict[str, Any]:
        """There is nothing to choose."""
        return {"learner": "Median"}

    def prepare(
        self,
        rows: Sequence[dict[str, Any]],
        folder: Path | None = None,  # noqa: ARG002
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Sequence[None]:
        """Nothing for each row."""
        return [None] * len(rows)

    def fit(
        self,
        items: Sequence[Any],  # noqa: ARG002
        barrier_eV: np.ndarray,
        groups: Sequence[int],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        progress: Progress | None = None,  # noqa: ARG002
    ) -> FittedLearner:
        """Take the median."""
        return FittedMedian(float(to_target(np.asarray(np.median(barrier_eV)))))


@dataclass(frozen=True)
class FittedMedian:
    """A median on the learned scale."""

    target: float

    def predict(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """The median and ones, shape (items,) each."""
        return np.full(len(items), self.target), np.ones(len(items))


def _named(name: str, description: str, create: Callable[[], Any]) -> dict[str, NamedLearner]:
    return {name: NamedLearner(name, description, create)}


NAMED_CLASSICAL: dict[str, NamedLearner] = {
    **_named("random-forest", "Random forest on descriptors of path and composition.", partial(RandomForest)),
    **_named("gradient-boosting", "Boosted trees on descriptors of path and composition.", partial(GradientBoosting)),
    **_named("median", "Median barrier of the training paths.", Median),
}
"""Learners of this module by name."""
