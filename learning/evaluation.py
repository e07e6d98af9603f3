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


def gate_metrics(true_eV: np.ndarray, predicted_eV: np.ndarray, threshold_eV: float) -> dict[str, float]:
    """Accuracy, precision and recall of "at most the threshold".

    Precision is NaN where nothing is predicted to pass, recall where nothing passes.
    """
    passes, chosen = np.asarray(true_eV) <= threshold_eV, np.asarray(predicted_eV) <= threshold_eV
    right = float((passes & chosen).sum())
    return {
        "accuracy": float((passes == chosen).mean()),
        "precision": right / float(chosen.sum()) if chosen.any() else float("nan"),
        "recall": right / float(passes.sum()) if passes.any() else float("nan"),
    }


def barrier_metrics(
    true_eV: np.ndarray, predicted_eV: np.ndarray, thresholds_eV: Sequence[float] = (0.65, 0.50)
) -> dict[str, float]:
    """MAE, RMSE, median error (eV), R2, Spearman, and the :func:`gate_metrics` of each threshold.

    R2 and Spearman are NaN where all true barriers are the same.
    """
    from scipy.stats import spearmanr

    true_eV, predicted_eV = np.asarray(true_eV, dtype=float), np.asarray(predicted_eV, dtype=float)
    error = predicted_eV - true_eV
    varied = bool(np.ptp(true_eV) > 0)
    # a constant predictor ranks nothing
    ranked = float(spearmanr(true_eV, predicted_eV)[0]) if varied and np.ptp(predicted_eV) > 0 else 0.0
    metrics = {
        "rows": float(len(true_eV)),
        "mae_eV": float(np.abs(error).mean()),
        "median_error_eV": float(np.median(np.abs(error))),
        "rmse_eV": float(np.sqrt((error**2).mean())),
        "r2": float(1.0 - (error**2).sum() / ((true_eV - true_eV.mean()) ** 2).sum()) if varied else float("nan"),
        "spearman": ranked if varied else float("nan"),
    }
    for threshold in thresholds_eV:
        for name, value in gate_metrics(true_eV, predicted_eV, threshold).items():
            metrics[f"{name}_{threshold:.2f}_eV"] = value
    return metrics


def repeated_metrics(true_eV: np.ndarray, predicted_eV: np.ndarray) -> dict[str, float]:
    """Mean of the :func:`barrier_metrics` over repeats that have one.

    Parameters
    ----------
    true_eV
        Shape (rows,).
    predicted_eV
        Shape (repeats, rows).
    """
    each = [barrier_metrics(true_eV, repeat) for repeat in predicted_eV]
    return {name: _mean_of_known([metrics[name] for metrics in each]) for name in each[0]}


def bootstrap_intervals(
    true_eV: np.ndarray, predicted_eV: np.ndarray, groups: Sequence[int], seed: int = 0, samples: int = 500
) -> dict[str, tuple[float, float]]:
    """90 % interval of every metric but ``rows``, resampling whole hosts.

    Parameters
    ----------
    true_eV
        Shape (rows,).
    predicted_eV
        Shape (repeats, rows); the interval is that of the mean over the repeats.
    groups
        Host of each row.
    """
    generator = np.random.default_rng(seed)
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == group) for group in np.unique(labels)]
    values = []
    for _ in range(samples):
        drawn = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        values.append(repeated_metrics(true_eV[drawn], predicted_eV[:, drawn]))
    intervals = {}
    for name in values[0]:
        known = [each[name] for each in values if np.isfinite(each[name])]
        low, high = np.quantile(known, [0.05, 0.95]) if known else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    del intervals["rows"]
    return intervals


def bootstrap_interval(
    true_eV: np.ndarray, predicted_eV: np.ndarray, groups: Sequence[int], key: str, seed: int = 0, samples: int = 500
) -> tuple[float, float]:
    """90 % interval of one metric, resampling whole hosts."""
    return bootstrap_intervals(true_eV, np.asarray(predicted_eV)[None, :], groups, seed, samples)[key]


def compare_predictors(
    rows: Sequence[dict[str, Any]],
    network_eV: np.ndarray,
    folds: np.ndarray,
    outlier_eV: float,
    groups: Sequence[int] | None = None,
    samples: int = 500,
) -> list[dict[str, Any]]:
    """The network beside what it has to beat, on the same rows.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV``, and ``barrier_mace_relax_eV`` where it is known.
    network_eV
        Out-of-fold barriers of the network, shape (repeats, rows).
    folds
        The fold that each row was held out in, shape (repeats, rows).
    outlier_eV
        Rows above this are left out of the sets ``usual`` and ``usual_with_mace``.
    groups
        Host of each row; with it, each metric has a bootstrap interval of so many ``samples``.

    Returns
    -------
    list of dict
        ``predictor`` (``network``; ``median`` of the training folds; ``mace_neb``, the published column;
        ``mean_of_both``, the plain mean of network and column), ``rows_of`` (``all``, ``usual``, ``usual_with_mace``:
        those that have the column), ``metrics`` (mean over the repeats), ``interval_90``.
    """
    true_eV = np.array([row["barrier_dft_eV"] for row in rows], dtype=float)
    mace_eV = np.array(
        [np.nan if row.get("barrier_mace_relax_eV") is None else row["barrier_mace_relax_eV"] for row in rows],
        dtype=float,
    )
    median_eV = np.array([[np.median(true_eV[fold != own]) for own in fold] for fold in folds])
    usual, has_mace = true_eV <= outlier_eV, np.isfinite(mace_eV)
    table = []
    for rows_of, chosen in {"all": usual | True, "usual": usual, "usual_with_mace": usual & has_mace}.items():
        if not chosen.any():
            continue
        predictors = {"network": network_eV, "median": median_eV}
        if has_mace[chosen].all():
            predictors |= {"mace_neb": mace_eV[None, :], "mean_of_both": 0.5 * (mace_eV + network_eV)}
        for name, predicted_eV in predictors.items():
            entry: dict[str, Any] = {"predictor": name, "rows_of": rows_of}
            entry["metrics"] = repeated_metrics(true_eV[chosen], predicted_eV[:, chosen])
            if groups is not None:
                entry["interval_90"] = bootstrap_intervals(
                    true_eV[chosen], predicted_eV[:, chosen], np.asarray(groups)[chosen].tolist(), samples=samples
                )
            table.append(entry)
    return table


def sigma_scale(true: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> float:
    """Factor on sigma that makes 68.3 % of the true values lie within one sigma of the mean."""
    return float(np.quantile(np.abs(true - mean) / np.maximum(sigma, 1e-9), 0.6827))


def interval_coverage(true: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    """Share of true values inside the central normal intervals of 50, 80 and 90 %."""
    from scipy.stats import norm

    z = np.abs(true - mean) / np.maximum(sigma, 1e-9)
    return {str(level): float((z <= norm.ppf(0.5 + level / 2)).mean()) for level in (0.5, 0.8, 0.9)}


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
