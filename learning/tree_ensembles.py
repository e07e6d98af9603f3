"""Trained trees as plain arrays: what scikit-learn grows, kept without pickles and read by any later version."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, RandomForestRegressor


@dataclass(frozen=True)
class TreeEnsemble:
    """Regression trees, their nodes one after the other.

    Attributes
    ----------
    roots
        Number of each tree's first node, int32, shape (trees,).
    left, right
        Nodes that follow a node where the column is at most, or above, the threshold; -1 at leaves; int32,
        shape (nodes,).
    column
        Column that a node looks at, int16, shape (nodes,).
    threshold
        float32, shape (nodes,).
    value
        Answer of a leaf, float32, shape (nodes,).
    """

    roots: np.ndarray
    left: np.ndarray
    right: np.ndarray
    column: np.ndarray
    threshold: np.ndarray
    value: np.ndarray

    @classmethod
    def from_forest(cls, forest: ExtraTreesRegressor | RandomForestRegressor) -> TreeEnsemble:
        """The trees of a fitted forest, whose answer is their mean."""
        return cls._from_trees([estimator.tree_ for estimator in forest.estimators_])

    @classmethod
    def from_boosting(cls, model: GradientBoostingRegressor) -> TreeEnsemble:
        """The trees of a boosted model of constant beginning, scaled so that its answer is their mean, too."""
        found = cls._from_trees([tree.tree_ for (tree,) in model.estimators_])
        first = float(np.ravel(model.init_.constant_)[0])
        steps = model.learning_rate * len(model.estimators_)
        return replace(found, value=(first + steps * found.value.astype(float)).astype(np.float32))

    @classmethod
    def _from_trees(cls, trees: Sequence[Any]) -> TreeEnsemble:
        roots = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]])

        def moved(name: str) -> np.ndarray:
            children = [getattr(tree, name) for tree in trees]
            return np.concatenate(
                [np.where(each < 0, -1, each + root) for each, root in zip(children, roots, strict=True)]
            )

        threshold = np.concatenate([tree.threshold for tree in trees])
        single = threshold.astype(np.float32)
        # rounded up, a threshold could reach the next value above, which belongs on the other side
        single = np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)
        return cls(
            roots.astype(np.int32),
            moved("children_left").astype(np.int32),
            moved("children_right").astype(np.int32),
            np.concatenate([tree.feature for tree in trees]).clip(0).astype(np.int16),
            single,
            np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float32),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> TreeEnsemble:
        """What :meth:`arrays` gave; a missing one is a KeyError."""
        return cls(**{each.name: arrays[prefix + each.name] for each in fields(cls)})

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything that makes the trees, by name."""
        return {prefix + each.name: getattr(self, each.name) for each in fields(self)}

    def predict_each(self, table: np.ndarray) -> np.ndarray:
        """The answer of every tree.

        Parameters
        ----------
        table
            Shape (rows, columns); compared in single precision, as scikit-learn does.

        Returns
        -------
        numpy.ndarray
            Float64, shape (trees, rows).
        """
        values = np.asarray(table, dtype=np.float32)
        rows = np.arange(len(values))
        node = np.repeat(self.roots[:, None], len(values), axis=1)
        while (inner := self.left[node] >= 0).any():
            below = values[rows, self.column[node]] <= self.threshold[node]
            node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)
        return self.value[node].astype(float)
