"""Training of the barrier model that ships: ensemble, out-of-fold metrics, checkpoint, model card, losses."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .ensembles import model_card, save_ensemble, without_nan
from .evaluation import bootstrap_intervals
from .training import CrossValidation, Progress, TrainingSettings, metrics_table, train_path_network

CHECKPOINT = "path_network.pt"
_INTERVALS = ("mae_eV", "rmse_eV", "r2", "spearman", "accuracy_0.65_eV", "accuracy_0.50_eV")


def train_barrier_model(
    rows: Sequence[dict[str, Any]],
    settings: TrainingSettings,
    output: Path,
    seed: int = 0,
    progress: Progress | None = None,
    left_out: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Train the path networks by host-grouped folds and write everything that comes of it.

    Finished members are kept under ``output/members``; a second call with the same rows, settings and seed goes on
    there.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV`` (and, if known, ``barrier_mace_relax_eV``).
    settings
        How it is trained.
    output
        Folder for ``path_network.pt``, the same facts for programs (``.json``) and people (``.md``), and
        ``metrics.json``: the metrics again, the loss of each member in each epoch, and the out-of-fold barriers.
    seed
        Of folds and members.
    progress
        Called with one line after each epoch.
    left_out
        Rows that could not be learned from, for ``metrics.json``.

    Returns
    -------
    dict
        The content of ``metrics.json``.
    """
    started = time.perf_counter()
    ensemble, validation = train_path_network(rows, settings, seed, progress, output / "members")
    metrics = validation_metrics(rows, validation, settings, seed)
    metrics["members_trained_in_this_run_seconds"] = time.perf_counter() - started
    info = save_ensemble(ensemble, rows, metrics, output / CHECKPOINT)
    (output / CHECKPOINT).with_suffix(".md").write_text(model_card(info))
    document: dict[str, Any] = without_nan(
        {
            **metrics,
            "sha256": info["sha256"],
            "losses": ensemble.losses,
            "left_out": list(left_out),
            "out_of_fold": _out_of_fold(rows, validation),
        }
    )
    (output / "metrics.json").write_text(json.dumps(document, indent=1) + "\n")
    return document


def validation_metrics(
    rows: Sequence[dict[str, Any]], validation: CrossValidation, settings: TrainingSettings, seed: int
) -> dict[str, Any]:
    """What the checkpoint says about the accuracy of its members on hosts that they did not see."""
    usual = validation.true_eV <= settings.outlier_eV
    groups = np.asarray(validation.groups)[usual].tolist()
    intervals = bootstrap_intervals(validation.true_eV[usual], validation.predicted_eV[None, usual], groups)
    return {
        "protocol": (
            f"{settings.folds}-fold cross-validation grouped by host compound, fold seed {seed}, "
            f"{settings.members_per_fold} members a fold, each row by members that never saw its host; "
            "fixed number of epochs"
        ),
        "hosts": len(set(validation.groups)),
        "table": metrics_table(rows, validation, settings.outlier_eV),
        "interval_90": {key: intervals[key] for key in _INTERVALS},
        "coverage": {f"{level:.2f}": validation.coverage(level) for level in (0.5, 0.6827, 0.8, 0.9)},
        "rows_above_4_eV": [row for row in _out_of_fold(rows, validation) if row["true_eV"] > settings.outlier_eV],
    }


def _out_of_fold(rows: Sequence[dict[str, Any]], validation: CrossValidation) -> list[dict[str, Any]]:
    found = zip(rows, validation.true_eV, validation.predicted_eV, validation.sigma_eV, strict=True)
    return [
        {"path_id": row["path_id"], "true_eV": float(true), "predicted_eV": float(predicted), "sigma_eV": float(sigma)}
        for row, true, predicted, sigma in found
    ]
