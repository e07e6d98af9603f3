"""Honest numbers for a barrier predictor: folds that keep hosts together, and the metrics of the field."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

_SUFFIX = re.compile(r"_(?:Li|Na|K|Rb|Cs|Mg|Ca|Sr|Ba|Zn|Al|PS|P1|P21m|Pmmn|pnma|cmcm|\d+)$")


def host_formula(row: dict[str, Any]) -> str:
    """Reduced formula of what is left of a crystal when its migrating ion is taken out.

    Intercalated and empty hosts (LiFePO4, FePO4 with one Li, NaFePO4), charge states, polymorphs and all paths of one
    crystal share it.
    """
    from pymatgen.core import Composition

    counts: dict[str, int] = defaultdict(int)
    for symbol in row["framework_species"]:
        if symbol != row["migrating_ion"]:
            counts[symbol] += 1
    return Composition(counts).reduced_formula if counts else row["migrating_ion"]


def path_stem(path_id: str) -> str:
    """A path's name without the endings that tell path, intercalant and cell apart."""
    stem = path_id
    while (shorter := _SUFFIX.sub("", stem)) != stem:
        stem = shorter
    return stem


def host_groups(rows: Sequence[dict[str, Any]]) -> list[int]:
    """A number for each path; paths of one host compound have the same.

    Rows are of one host when they share the reduced formula without the migrating ion or the stem of their name (which
    catches misspelt formulas); sharing is carried on, so a group is a connected component.
    """
    parent = list(range(len(rows)))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        for key in ("formula " + host_formula(row), "name " + path_stem(row["path_id"])):
            parent[root(number)] = root(first.setdefault(key, number))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(member), len(numbers)) for member in range(len(rows))]


def grouped_folds(groups: Sequence[int], folds: int, seed: int) -> np.ndarray:
    """Fold of each row, int64, shape (rows,): groups stay whole, folds hold about as many rows each.

    Groups are shuffled by the seed, then dealt, largest first, to the smallest fold.
    """
    sizes = np.bincount(np.asarray(groups))
    if folds < 2 or folds > len(sizes):
        raise ValueError(f"{len(sizes)} hosts cannot be dealt to {folds} folds.")
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(folds, dtype=int)
    fold_of_group = np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        fold_of_group[group] = np.argmin(filled)
        filled[fold_of_group[group]] += sizes[group]
    return fold_of_group[np.asarray(groups)]


def barrier_metrics(
    true_eV: np.ndarray, predicted_eV: np.ndarray, thresholds_eV: Sequence[float] = (0.65, 0.50)
) -> dict[str, float]:
    """MAE, RMSE, median error (eV), R2, Spearman, and accuracy of "at most the threshold" for each threshold."""
    from scipy.stats import spearmanr

    true_eV, predicted_eV = np.asarray(true_eV, dtype=float), np.asarray(predicted_eV, dtype=float)
    error = predicted_eV - true_eV
    metrics = {
        "rows": float(len(true_eV)),
        "mae_eV": float(np.abs(error).mean()),
        "median_error_eV": float(np.median(np.abs(error))),
        "rmse_eV": float(np.sqrt((error**2).mean())),
        "r2": float(1.0 - (error**2).sum() / ((true_eV - true_eV.mean()) ** 2).sum()),
        # a constant predictor ranks nothing
        "spearman": float(spearmanr(true_eV, predicted_eV)[0]) if np.ptp(predicted_eV) > 0 else 0.0,
    }
    for threshold in thresholds_eV:
        agree = (true_eV <= threshold) == (predicted_eV <= threshold)
        metrics[f"accuracy_{threshold:.2f}_eV"] = float(agree.mean())
    return metrics


def bootstrap_interval(
    true_eV: np.ndarray, predicted_eV: np.ndarray, groups: Sequence[int], key: str, seed: int = 0, samples: int = 500
) -> tuple[float, float]:
    """90 % interval of one metric, resampling whole hosts."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == group) for group in np.unique(labels)]
    values = []
    for _ in range(samples):
        drawn = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        values.append(barrier_metrics(true_eV[drawn], predicted_eV[drawn])[key])
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)
