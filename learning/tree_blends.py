"""Trees that know what a potential's energies mean: blends of three kinds of trees on one table of columns.

Extremely randomised trees (Geurts, Ernst and Wehenkel, Mach. Learn. 63, 3 (2006)) and boosted trees (Friedman, Ann.
Stat. 29, 1189 (2001)) answer with means of what they have seen, and so draw high barriers down even where every
estimate of a potential agrees that they are high. A third kind therefore learns what is left when a line through those
estimates has been taken off, and so may go beyond its training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .tree_ensembles import TreeEnsemble


@dataclass(frozen=True)
class TreeBlendSettings:
    """How the trees grow.

    Attributes
    ----------
    trees
        Extremely randomised trees of each of the two forests.
    columns
        Share of the columns that a split of theirs may choose from.
    least_leaf
        Fewest paths of one of their leaves.
    boosted_trees
        Boosted trees; 0 leaves them out.
    boosted_rate, boosted_depth, boosted_rows, boosted_columns, boosted_least_leaf
        Share of each step that is taken, depth, shares of rows and of columns that a tree and a split are grown on,
        and fewest paths of a leaf.
    line_penalty
        Ridge penalty of the line, on standardised columns.
    """

    trees: int = 200
    columns: float = 0.5
    least_leaf: int = 1
    boosted_trees: int = 250
    boosted_rate: float = 0.045
    boosted_depth: int = 4
    boosted_rows: float = 0.6
    boosted_columns: float = 0.15
    boosted_least_leaf: int = 4
    line_penalty: float = 1.0


@dataclass(frozen=True)
class Line:
    """A linear function of some columns.

    Attributes
    ----------
    weights, offset
        Shape (columns,) and ().
    """

    weights: np.ndarray
    offset: np.ndarray

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """Shape (rows,), of columns of shape (rows, columns)."""
        return np.asarray(columns, dtype=float) @ self.weights.astype(float) + float(self.offset)


@dataclass(frozen=True)
class TreeBlend:
    """Trained trees; each kind counts alike.

    Attributes
    ----------
    forest
        Extremely randomised trees on the target.
    boosted
        Boosted trees on the target, or None.
    line, rest
        Line through the estimates, and extremely randomised trees on what it leaves; None where there are none.
    """

    forest: TreeEnsemble
    boosted: TreeEnsemble | None = None
    line: Line | None = None
    rest: TreeEnsemble | None = None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> TreeBlend:
        """What :meth:`arrays` gave; a missing one is a KeyError."""
        boosted, line, rest = None, None, None
        if f"{prefix}boosted/roots" in arrays:
            boosted = TreeEnsemble.from_arrays(arrays, f"{prefix}boosted/")
        if f"{prefix}line/weights" in arrays:
            line = Line(arrays[f"{prefix}line/weights"], arrays[f"{prefix}line/offset"])
            rest = TreeEnsemble.from_arrays(arrays, f"{prefix}rest/")
        return cls(TreeEnsemble.from_arrays(arrays, f"{prefix}forest/"), boosted, line, rest)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything that makes the blend, by name."""
        found = self.forest.arrays(f"{prefix}forest/")
        if self.boosted is not None:
            found |= self.boosted.arrays(f"{prefix}boosted/")
        if self.line is not None and self.rest is not None:
            found |= {f"{prefix}line/weights": self.line.weights, f"{prefix}line/offset": self.line.offset}
            found |= self.rest.arrays(f"{prefix}rest/")
        return found

    def predict(self, table: np.ndarray, estimates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Answer and how far the trees disagree.

        Parameters
        ----------
        table
            Shape (rows, columns).
        estimates
            What the line is drawn through, shape (rows, estimates).

        Returns
        -------
        mean, spread : numpy.ndarray
            Mean over the kinds of trees, and standard deviation of an equal mixture of them, in which boosted trees
            count as one answer; shape (rows,).
        """
        parts = [self.forest.predict_each(table)]
        if self.boosted is not None:
            parts.append(self.boosted.predict_each(table).mean(axis=0, keepdims=True))
        if self.line is not None and self.rest is not None:
            begun = self.line(estimates)
            parts.append(begun + self.rest.predict_each(np.column_stack([table, begun])))
        centres = np.stack([part.mean(axis=0) for part in parts])
        within = np.mean([part.var(axis=0) for part in parts if len(part) > 1], axis=0)
        return centres.mean(axis=0), np.sqrt(within + centres.var(axis=0))


def train_blend(
    table: np.ndarray, estimates: np.ndarray, target: np.ndarray, settings: TreeBlendSettings, seed: int
) -> TreeBlend:
    """Grow all trees.

    Parameters
    ----------
    table
        Shape (rows, columns).
    estimates
        What the line is drawn through, shape (rows, estimates); without any, there is no third kind.
    target
        Shape (rows,).
    settings
        How they grow.
    seed
        Of everything that is drawn.
    """
    forest = _randomised(table, target, settings, seed)
    boosted = _boosted(table, target, settings, seed) if settings.boosted_trees else None
    if not estimates.shape[1]:
        return TreeBlend(forest, boosted)
    line = _line(estimates, target, settings.line_penalty)
    begun = line(estimates)
    rest = _randomised(np.column_stack([table, begun]), target - begun, settings, seed + 1)
    return TreeBlend(forest, boosted, line, rest)


def _randomised(table: np.ndarray, target: np.ndarray, settings: TreeBlendSettings, seed: int) -> TreeEnsemble:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(
        settings.trees, max_features=settings.columns, min_samples_leaf=settings.least_leaf, random_state=seed
    )
    return TreeEnsemble.from_forest(forest.fit(table, target))


def _boosted(table: np.ndarray, target: np.ndarray, settings: TreeBlendSettings, seed: int) -> TreeEnsemble:
    from sklearn.ensemble import GradientBoostingRegressor

    # a squared error beyond a deviation that few rows have counts linearly, so that odd labels pull less
    model = GradientBoostingRegressor(
        loss="huber",
        n_estimators=settings.boosted_trees,
        learning_rate=settings.boosted_rate,
        max_depth=settings.boosted_depth,
        subsample=settings.boosted_rows,
        max_features=settings.boosted_columns,
        min_samples_leaf=settings.boosted_least_leaf,
        random_state=seed,
    )
    return TreeEnsemble.from_boosting(model.fit(table, target))


def _line(estimates: np.ndarray, target: np.ndarray, penalty: float) -> Line:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(estimates)
    model = Ridge(alpha=penalty).fit(scaler.transform(estimates), target)
    weights = model.coef_ / scaler.scale_
    offset = model.intercept_ - weights @ scaler.mean_
    # the trees learn what the stored line leaves
    return Line(weights.astype(np.float32), np.array(offset, dtype=np.float32))
