"""Fit the map from bond-valence barriers to DFT-like ones, and write ``transport/data/bvse_calibration.json``.

    python benchmarks/fit_bvse_calibration.py [--rows paths_train.jsonl.gz] [--spacing 0.2] [--output FILE]

Prints how well each definition of a bond-valence barrier predicts the literature's DFT-NEB barriers, which form of map
is best in cross-validation, and the map that is written. Folds keep host compounds together and are dealt ten times.
Barriers of paths that were computed before are read from ``build/bvse_calibration``; the computation takes about six
minutes on one core. Rows are looked for under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bvse_path_barriers import KINDS, all_path_barriers

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))

#: Rows above this are told apart: three of 559, of which two are thought to be misprints.
OUTLIER_EV = 4.0

#: Raw barriers above this count as this.
SATURATION_EV = 3.0

#: Residuals beyond this weigh linearly, not by their square.
HUBER_EV = 0.2

#: An ion gets an offset of its own when it has so many crystals of so many hosts.
LEAST_CRYSTALS, LEAST_HOSTS = 50, 20

FOLDS, REPEATS = 5, 10

#: Slope and offset (eV) of a line that others fitted to the BVSE-NEB barriers of the LiTraj set's hops.
PUBLISHED = (0.399, 0.299)

Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ordinary(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares."""
    return np.linalg.lstsq(design, y, rcond=None)[0]


def huber(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Huber's M-estimate by reweighted least squares."""
    weight = np.ones(len(y))
    for _ in range(100):
        root = np.sqrt(weight)
        found = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        weight = np.minimum(1.0, HUBER_EV / np.maximum(np.abs(design @ found - y), 1e-9))
    return found


def theil_sen(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Median of the slopes between pairs; for a design of one column and ones."""
    from scipy.stats import theilslopes

    slope, offset = theilslopes(y, design[:, 0])[:2]
    return np.array([slope, offset])


def design_matrix(form: str, x: np.ndarray, ions: np.ndarray, saturation_eV: float = np.inf) -> np.ndarray:
    """Columns of a linear map: ``constant``, ``constant by ion``, ``line``, ``offset by ion`` or ``line by ion``."""
    x = np.minimum(x, saturation_eV)
    one = np.ones((len(x), 1))
    which = (ions[:, None] == np.array(sorted(set(ions)))).astype(float)
    return {
        "constant": one,
        "constant by ion": which,
        "line": np.hstack([x[:, None], one]),
        "offset by ion": np.hstack([x[:, None], which]),
        "line by ion": np.hstack([which * x[:, None], which]),
    }[form]


def held_out(
    design: np.ndarray, y: np.ndarray, groups: np.ndarray, fit: Fit, applied_to: np.ndarray | None = None
) -> np.ndarray:
    """Predictions for rows whose host was not in the fit, shape (repeats, rows)."""
    from hopflow.learning.evaluation import grouped_folds

    rows = design if applied_to is None else applied_to
    numbers = np.unique(groups, return_inverse=True)[1].tolist()
    predicted = np.empty((REPEATS, len(y)))
    for seed in range(REPEATS):
        fold = grouped_folds(numbers, FOLDS, seed)
        for k in range(FOLDS):
            predicted[seed, fold == k] = rows[fold == k] @ fit(design[fold != k], y[fold != k])
    return predicted


def metrics_line(name: str, y: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> str:
    """One row of a table: metrics of the predictions averaged over the repeats, with 90 % bootstrap intervals."""
    from hopflow.learning.evaluation import barrier_metrics, bootstrap_interval

    mean = predicted.mean(axis=0)
    metrics = barrier_metrics(y, mean)
    cells = [name, str(len(y)), str(len(set(groups.tolist())))]
    for key in ("mae_eV", "rmse_eV", "r2", "spearman"):
        low, high = bootstrap_interval(y, mean, groups.tolist(), key)
        cells.append(f"{metrics[key]:.3f} ({low:.2f} to {high:.2f})")
    return "| " + " | ".join(cells) + " |"


HEADER = "| map | rows | hosts | MAE | RMSE | R² | Spearman |\n|---|---|---|---|---|---|---|"


def compare_definitions(rows: list[dict[str, Any]], barriers: list[dict[str, Any]], groups: np.ndarray) -> None:
    """Table of every definition of the barrier against the DFT barrier of the same path."""
    y = np.array([row["barrier_dft_eV"] for row in rows])
    ions = np.array([row["migrating_ion"] for row in rows])
    x = {kind: np.array([entry.get(kind, np.nan) for entry in barriers], dtype=float) for kind in KINDS}
    usable = np.all([np.isfinite(values) for values in x.values()], axis=0) & (y <= OUTLIER_EV)
    for name, chosen in (("all ions", usable), ("Li", usable & (ions == "Li"))):
        print(f"\nPaths, {name}: E_DFT of the path from a bond-valence barrier alone, no saturation\n{HEADER}")
        truth, hosts = y[chosen], groups[chosen]
        print(metrics_line("median", truth, np.full((1, len(truth)), np.median(truth)), hosts))
        for kind in KINDS:
            design = design_matrix("line", x[kind][chosen], ions[chosen])
            fits: dict[str, Fit] = {"least squares": ordinary, "Huber": huber, "Theil-Sen": theil_sen}
            for fit_name, fit in fits.items() if kind in ("percolation", "hop_span") else (("Huber", huber),):
                slope, offset = fit(design, truth)
                label = f"{kind}, {fit_name}: {slope:.3f} E + {offset:.3f}"
                print(metrics_line(label, truth, held_out(design, truth, hosts, fit), hosts))
        for kind in ("hop_span", "percolation"):
            published = PUBLISHED[0] * x[kind][chosen] + PUBLISHED[1]
            label = f"{kind}, the line published for LiTraj's hops: {PUBLISHED[0]} E + {PUBLISHED[1]}"
            print(metrics_line(label, truth, published[None], hosts))
        hop = design_matrix("line", x["hop_span"][chosen], ions[chosen])
        crystal = design_matrix("line", x["percolation"][chosen], ions[chosen])
        swapped = held_out(hop, truth, hosts, huber, applied_to=crystal)
        print(metrics_line("fitted to hop_span, applied to percolation", truth, swapped, hosts))


def crystals_of(
    rows: list[dict[str, Any]], barriers: list[dict[str, Any]], groups: np.ndarray
) -> list[tuple[str, float, float, int]]:
    """(ion, percolation barrier, lowest published DFT barrier, host) of every crystal that percolates."""
    found: dict[tuple[str, str, str], list[tuple[float, float, int]]] = collections.defaultdict(list)
    for row, entry, group in zip(rows, barriers, groups.tolist(), strict=True):
        if np.isfinite(entry.get("percolation", np.nan)):
            key = (row["migrating_ion"], row["composition"], row["space_group"])
            found[key].append((entry["percolation"], row["barrier_dft_eV"], group))
    return [
        (key[0], float(np.median([p[0] for p in paths])), min(p[1] for p in paths), paths[0][2])
        for key, paths in found.items()
    ]


def growing_sigma(x: np.ndarray, ions: np.ndarray, error: np.ndarray) -> tuple[dict[str, float], float]:
    """Half width by ion and its growth with the raw barrier that hold 68 % of the errors of every ion.

    The growth, the same for all ions and not negative, is the one of least pinball loss (quantile regression).
    """
    best: tuple[float, dict[str, float], float] = (np.inf, {}, 0.0)
    for growth in np.arange(0.0, 0.31, 0.01):
        rest = error - growth * x
        base = {ion: max(0.02, float(np.quantile(rest[ions == ion], 0.6827))) for ion in sorted(set(ions.tolist()))}
        excess = rest - np.array([base[ion] for ion in ions])
        loss = float(np.where(excess > 0, 0.6827 * excess, -0.3173 * excess).mean())
        if loss < best[0] - 1e-9:
            best = (loss, base, float(growth))
    return best[1], best[2]


def coverage(x: np.ndarray, ions: np.ndarray, errors: np.ndarray, groups: np.ndarray) -> float:
    """Share of errors within a half width that was learnt on the other folds' errors."""
    from hopflow.learning.evaluation import grouped_folds

    inside = []
    for seed, error in enumerate(errors):
        fold = grouped_folds(np.unique(groups, return_inverse=True)[1].tolist(), FOLDS, seed + REPEATS)
        for k in range(FOLDS):
            there = fold != k
            base, growth = growing_sigma(x[there], ions[there], error[there])
            width = np.array([base[ion] for ion in ions[~there]]) + growth * x[~there]
            inside.append(error[~there] <= width)
    return float(np.concatenate(inside).mean())


def fit_map(crystals: list[tuple[str, float, float, int]]) -> dict[str, Any]:
    """Compare forms of the map by cross-validation, and return the chosen one as the data file's record."""
    from hopflow.learning.evaluation import barrier_metrics
    from scipy.stats import spearmanr

    every = collections.Counter(ion for ion, *_ in crystals)
    hosts_of = {ion: len({c[3] for c in crystals if c[0] == ion}) for ion in every}
    own = sorted(ion for ion in every if every[ion] >= LEAST_CRYSTALS and hosts_of[ion] >= LEAST_HOSTS)
    rows = [c for c in crystals if c[0] in own and c[2] <= OUTLIER_EV]
    ions = np.array([c[0] for c in rows])
    x, y = np.array([c[1] for c in rows]), np.array([c[2] for c in rows])
    groups = np.array([c[3] for c in rows])

    print(f"\nCrystals of {', '.join(own)}: lowest published path from the 1D percolation barrier\n{HEADER}")
    for form in ("constant", "constant by ion", "line", "offset by ion", "line by ion"):
        for fit_name, fit in (("least squares", ordinary), ("Huber", huber)):
            for top in (np.inf, SATURATION_EV) if "constant" not in form else (np.inf,):
                design = design_matrix(form, x, ions, top)
                name = f"{form}, {fit_name}" + (f", saturated at {top:g} eV" if np.isfinite(top) else "")
                print(metrics_line(name, y, held_out(design, y, groups, fit), groups))

    design = design_matrix("offset by ion", x, ions, SATURATION_EV)
    predicted = held_out(design, y, groups, huber)
    slope, *offsets = huber(design, y).tolist()
    errors = np.abs(predicted - y)
    within = np.minimum(x, SATURATION_EV)
    base, growth = growing_sigma(within, ions, errors.mean(axis=0))
    print(f"\nChosen: offset by ion, Huber, saturated at {SATURATION_EV:g} eV, by ion\n{HEADER}")
    entries = {}
    for ion, offset in zip(own, offsets, strict=True):
        mine = ions == ion
        print(metrics_line(ion, y[mine], predicted[:, mine], groups[mine]))
        constant = held_out(np.ones((mine.sum(), 1)), y[mine], groups[mine], huber)
        print(metrics_line(f"{ion}, constant", y[mine], constant, groups[mine]))
        metrics = barrier_metrics(y[mine], predicted[:, mine].mean(axis=0))
        entries[ion] = {
            "offset_eV": round(offset, 4),
            "sigma_eV": round(base[ion], 4),
            "lowest_eV": round(float(x[mine].min()), 4),
            "highest_eV": round(float(x[mine].max()), 4),
            "crystals": int(mine.sum()),
            "hosts": len(set(groups[mine].tolist())),
            "cross_validated_mae_eV": round(metrics["mae_eV"], 3),
            "cross_validated_rmse_eV": round(metrics["rmse_eV"], 3),
            "spearman": round(metrics["spearman"], 3),
            "mae_of_a_constant_eV": round(float(np.abs(constant.mean(axis=0) - y[mine]).mean()), 3),
        }
    overall = barrier_metrics(y, predicted.mean(axis=0))
    covered = coverage(within, ions, errors, groups)
    widths = ", ".join(f"{ion} {width:.3f}" for ion, width in base.items())
    print(f"half width: {widths} + {growth:.2f} E; it held {covered:.1%} of crystals in folds it was not learnt on")
    for ion, raw, barrier, _ in crystals:
        if ion in own and barrier > OUTLIER_EV:
            value = slope * min(raw, SATURATION_EV) + entries[ion]["offset_eV"]
            print(f"apart: {ion} crystal with {barrier:.2f} eV, bond valence {raw:.2f} eV, map {value:.2f} eV")
    left_out = {}
    for ion in sorted(set(every) - set(own)):
        pairs = np.array([(c[1], c[2]) for c in crystals if c[0] == ion])
        rho = float(spearmanr(pairs[:, 0], pairs[:, 1])[0]) if len(pairs) > 2 else None
        left_out[ion] = {"crystals": len(pairs), "hosts": hosts_of[ion], "spearman": rho and round(rho, 2)}
    return {
        "slope": round(slope, 4),
        "saturation_eV": SATURATION_EV,
        "sigma_growth": round(growth, 4),
        "ions": entries,
        "ions_without_calibration": left_out,
        "crystals": len(rows),
        "hosts": len(set(groups.tolist())),
        "cross_validation": {
            "protocol": f"{FOLDS} folds grouped by host compound, dealt {REPEATS} times",
            "mae_eV": round(overall["mae_eV"], 3),
            "rmse_eV": round(overall["rmse_eV"], 3),
            "r2": round(overall["r2"], 3),
            "spearman": round(overall["spearman"], 3),
            "within_sigma": round(covered, 3),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=SHARED / "data" / "migration_barriers" / "paths_train.jsonl.gz")
    parser.add_argument("--spacing", type=float, default=0.2)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bvse_calibration" / "paths.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "transport" / "data" / "bvse_calibration.json")
    options = parser.parse_args()
    if not options.rows.exists():
        print(f"{options.rows} is not there; give --rows or set HOPFLOW_SHARED.", file=sys.stderr)
        return 2
    from hopflow.learning.evaluation import host_groups

    with gzip.open(options.rows, "rt") as stream:
        rows = [json.loads(line) for line in stream if line.strip()]
    barriers = all_path_barriers(rows, options.spacing, options.cache)
    groups = np.array(host_groups(rows))
    refused = collections.Counter(entry["refused"] for entry in barriers if "refused" in entry)
    closed = sum(np.isinf(entry.get("percolation", 0.0)) for entry in barriers)
    print(f"{len(rows)} paths, {len(set(groups.tolist()))} hosts; refused: {dict(refused)}; {closed} without a 1D path")
    compare_definitions(rows, barriers, groups)
    record = {
        "what": "DFT-like barrier in eV = offset_eV[ion] + slope * min(bond-valence barrier in eV, saturation_eV)",
        "input": f"1D percolation barrier of the bond-valence stage, refined, {options.spacing} Angstrom grid",
        "target": "lowest published DFT-NEB barrier of the same crystal",
        "sigma": "sigma_eV[ion] + sigma_growth * min(bond-valence barrier, saturation_eV), 68 % in cross-validation",
        "data": f"{len(rows)} paths of R. Devi et al., arXiv:2508.06459 (2025), MIT licence; above 4 eV left out",
        "fitted": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "fitted_by": "benchmarks/fit_bvse_calibration.py",
        **fit_map(crystals_of(rows, barriers, groups)),
    }
    options.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"{options.output}: {json.dumps(record['cross_validation'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
