"""How near to its training a learner is judged: new paths, new fillings, new chemistries; and paths of one crystal.

The scenarios are those of Devi et al. (arXiv 2508.06436). They are made by three ways to deal the rows to folds:

``hosts``
    Whole host compounds are held out (:func:`.evaluation.host_groups`). Every row is scenario C, a new chemistry.
``crystals``
    Whole crystals are held out. A row whose host has another crystal in the training folds (other content of the
    mobile ion, another intercalant, another polymorph) is scenario B.
``paths``
    Single paths are held out at random. A row whose crystal has another path in the training folds is scenario A.

A crystal is what is left of a path's name without the number of the path (``RuO2_Li_1`` and ``RuO2_Li_3``, but not
``LiRuO2_1``), within one host. The cells of its rows may differ: supercells do, and with them the share of vacancies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .evaluation import barrier_metrics, grouped_folds

SCENARIOS: dict[str, str] = {"A": "paths", "B": "crystals", "C": "hosts"}
"""The way to deal rows that each scenario is judged on."""

LEAST_TRUE_DIFFERENCE_EV = 0.1
"""Labels of two paths that differ by less may differ by the noise of the method."""

LEAST_DIFFERENCE_EV = 0.05
"""Answers that differ by less do not tell two paths apart."""

_TRUE_LIMIT_EV = LEAST_TRUE_DIFFERENCE_EV + 1e-9
"""Labels have three decimals; 0.4 - 0.3 is not more than 0.1."""

_PATH_NUMBER = re.compile(r"_\d+$")
_SCENARIO_METRICS = ("mae_eV", "median_error_eV", "rmse_eV", "r2")


def crystal_groups(rows: Sequence[dict[str, Any]], hosts: Sequence[int]) -> list[int]:
    """A number for each path; paths of one crystal have the same.

    Parameters
    ----------
    rows
        Path rows.
    hosts
        Host of each, see :func:`.evaluation.host_groups`.
    """
    numbers: dict[tuple[int, str], int] = {}
    names = [_PATH_NUMBER.sub("", str(row["path_id"])) for row in rows]
    return [numbers.setdefault(key, len(numbers)) for key in zip(hosts, names, strict=True)]


def dealt_folds(kind: str, hosts: Sequence[int], crystals: Sequence[int], folds: int, seed: int) -> np.ndarray:
    """Fold of each row, int64, shape (rows,), dealt as ``hosts``, ``crystals`` or ``paths``."""
    if kind == "paths":
        return np.random.default_rng(seed).permutation(np.arange(len(hosts)) % folds)
    return grouped_folds({"hosts": hosts, "crystals": crystals}[kind], folds, seed)


def rows_of_scenario(
    scenario: str, hosts: Sequence[int], crystals: Sequence[int], fold: np.ndarray, learned: np.ndarray
) -> np.ndarray:
    """Which held-out rows are of a scenario, given what the training folds hold; boolean, shape (rows,).

    Parameters
    ----------
    scenario
        ``A``, ``B`` or ``C``; ``fold`` must have been dealt accordingly.
    hosts, crystals
        Of each row.
    fold
        The fold that each row is held out in, shape (rows,).
    learned
        Rows that are learned from when their fold is not held out, boolean, shape (rows,).
    """
    if scenario == "C":
        return np.ones(len(fold), dtype=bool)
    groups = np.asarray(crystals if scenario == "A" else hosts)
    found = np.zeros(len(fold), dtype=bool)
    for own in np.unique(fold):
        known = np.unique(groups[(fold != own) & learned])
        found[fold == own] = np.isin(groups[fold == own], known)
    return found


def scenario_metrics(
    true_eV: np.ndarray, predicted_eV: np.ndarray, chosen: np.ndarray, hosts: Sequence[int], samples: int, seed: int = 0
) -> dict[str, Any]:
    """Errors on the rows of a scenario, which may be others in each repeat.

    Parameters
    ----------
    true_eV
        Shape (rows,).
    predicted_eV, chosen
        Answers, and whether they count, shape (repeats, rows).
    hosts
        Host of each row.
    samples, seed
        Draws of hosts behind the interval.

    Returns
    -------
    dict
        ``rows`` (mean over the repeats), ``mae_eV``, ``median_error_eV``, ``rmse_eV``, ``r2``, and ``interval_90`` of
        the MAE; empty where no row counts.
    """
    each = [
        barrier_metrics(true_eV[own], predicted[own])
        for predicted, own in zip(predicted_eV, chosen, strict=True)
        if own.any()
    ]
    if not each:
        return {}
    error = np.where(chosen, np.abs(predicted_eV - true_eV), 0.0)
    draws = _drawn_shares(error.T, chosen.T.astype(float), hosts, samples, seed)
    return {
        "rows": float(chosen.sum() / len(chosen)),
        **{name: float(np.nanmean([metrics[name] for metrics in each])) for name in _SCENARIO_METRICS},
        "interval_90": draws,
    }


def path_distinction(
    true_eV: np.ndarray,
    predicted_eV: np.ndarray,
    crystals: Sequence[int],
    hosts: Sequence[int],
    samples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether the paths of one crystal get barriers of their own.

    Pairs are all pairs of paths of one crystal whose labels differ by more than ``LEAST_TRUE_DIFFERENCE_EV``. Systems
    are the crystals that have such a pair.

    Parameters
    ----------
    true_eV
        Labels, shape (rows,); rows that shall not count are left out before.
    predicted_eV
        Answers, shape (repeats, rows); a pair with a NaN does not count.
    crystals, hosts
        Of each row.
    samples, seed
        Draws of hosts behind the intervals.

    Returns
    -------
    dict
        ``pairs`` and ``systems``; ``told_apart``, the share of pairs whose answers differ by more than
        ``LEAST_DIFFERENCE_EV``; ``ordered``, the share whose higher label has the higher answer (equal answers are
        wrong); both with a 90 % interval over hosts (``..._interval_90``); ``indistinct_systems``, the share of systems
        whose answers all lie within ``LEAST_DIFFERENCE_EV``, the failure that the paper counts; ``error_above_0.1_eV``,
        the share of their paths that are wrong by more than 0.1 eV. All are means over the repeats.
    """
    labels = np.asarray(crystals)
    known = np.isfinite(predicted_eV).all(axis=0)
    pairs, members = [], {}
    for crystal in np.unique(labels):
        own = np.flatnonzero((labels == crystal) & known)
        apart = [pair for pair in combinations(own, 2) if abs(np.subtract(*true_eV[list(pair)])) > _TRUE_LIMIT_EV]
        if apart:
            members[int(crystal)] = own
            pairs += apart
    if not pairs:
        return {"pairs": 0, "systems": 0}
    first, second = np.array(pairs).T
    true_step_eV, step_eV = true_eV[first] - true_eV[second], predicted_eV[:, first] - predicted_eV[:, second]
    shares = {"told_apart": np.abs(step_eV) > LEAST_DIFFERENCE_EV, "ordered": step_eV * true_step_eV > 0}
    found: dict[str, Any] = {"pairs": len(pairs), "systems": len(members)}
    ones = np.ones((len(pairs), len(predicted_eV)))
    for name, hits in shares.items():
        found[name] = float(hits.mean())
        drawn = _drawn_shares(hits.T.astype(float), ones, np.asarray(hosts)[first], samples, seed)
        found[f"{name}_interval_90"] = drawn
    spans_eV = np.array([np.ptp(predicted_eV[:, own], axis=1) for own in members.values()])
    rows = np.concatenate(list(members.values()))
    found["indistinct_systems"] = float((spans_eV <= LEAST_DIFFERENCE_EV).mean())
    found["error_above_0.1_eV"] = float((np.abs(predicted_eV[:, rows] - true_eV[rows]) > 0.1).mean())
    return found


def _drawn_shares(
    values: np.ndarray, weights: np.ndarray, hosts: Sequence[int] | np.ndarray, samples: int, seed: int
) -> tuple[float, float]:
    """90 % interval of the mean over repeats of the weighted mean of values, both (entries, repeats), over hosts."""
    numbers = np.unique(np.asarray(hosts), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums, totals = (np.zeros((count, values.shape[1])) for _ in range(2))
    np.add.at(sums, numbers, values * weights)
    np.add.at(totals, numbers, weights)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=samples)
    weight = drawn @ totals
    # a repeat without any entry in a draw says nothing there
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nanmean(np.where(weight > 0, (drawn @ sums) / weight, np.nan), axis=1)
    low, high = np.nanquantile(means, [0.05, 0.95])
    return float(low), float(high)
