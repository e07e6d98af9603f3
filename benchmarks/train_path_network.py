"""Retrain the path network that ships with hopflow, and write its checkpoint, metrics and model card.

    python benchmarks/train_path_network.py --rows paths_train.jsonl.gz --output learning/checkpoints/path_network.pt

Finished members are kept in ``--resume``; a killed run goes on there. Rows are looked for in the data folder named by
``HOPFLOW_SHARED`` or ``../shared`` where ``--rows`` is not given.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def read_rows(file: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def format_table(table: dict[str, dict[str, float]]) -> str:
    columns = ["rows", "mae_eV", "median_error_eV", "rmse_eV", "r2", "spearman", "accuracy_0.65_eV", "accuracy_0.50_eV"]
    lines = [f"| {'predictor/rows':<26} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, metrics in table.items():
        cells = [f"{metrics[c]:.0f}" if c == "rows" else f"{metrics[c]:.3f}" for c in columns]
        lines.append(f"| {name:<26} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--rows", type=Path, default=shared / "data" / "migration_barriers" / "paths_train.jsonl.gz")
    parser.add_argument("--output", type=Path, default=ROOT / "learning" / "checkpoints" / "path_network.pt")
    parser.add_argument("--resume", type=Path, default=ROOT / "build" / "path_network")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.rows.exists():
        print(f"{arguments.rows} is not there; give --rows or set HOPFLOW_SHARED.", file=sys.stderr)
        return 2

    import torch
    from hopflow.learning.ensembles import model_card, save_ensemble
    from hopflow.learning.evaluation import bootstrap_interval
    from hopflow.learning.training import TrainingSettings, metrics_table, train_path_network

    torch.set_num_threads(1)
    rows = read_rows(arguments.rows)
    settings = TrainingSettings()
    start = time.perf_counter()

    def progress(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.0f} s] {line}", flush=True)

    ensemble, validation = train_path_network(rows, settings, arguments.seed, progress, arguments.resume)
    table = metrics_table(rows, validation, settings.outlier_eV)
    usual = validation.true_eV <= settings.outlier_eV
    groups = [group for group, keep in zip(validation.groups, usual, strict=True) if keep]
    metrics = {
        "protocol": (
            f"{settings.folds}-fold cross-validation grouped by host compound, fold seed {arguments.seed}, "
            f"{settings.members_per_fold} members a fold, each row by members that never saw its host; "
            "fixed number of epochs"
        ),
        "hosts": len(set(validation.groups)),
        "table": table,
        "interval_90": {
            key: bootstrap_interval(validation.true_eV[usual], validation.predicted_eV[usual], groups, key)
            for key in ("mae_eV", "rmse_eV", "r2", "spearman", "accuracy_0.65_eV", "accuracy_0.50_eV")
        },
        "coverage": {f"{level:.2f}": validation.coverage(level) for level in (0.5, 0.6827, 0.8, 0.9)},
        "rows_above_4_eV": [
            {"path_id": row["path_id"], "true_eV": float(true), "predicted_eV": float(predicted), "sigma_eV": float(s)}
            for row, true, predicted, s in zip(
                rows, validation.true_eV, validation.predicted_eV, validation.sigma_eV, strict=True
            )
            if true > settings.outlier_eV
        ],
        "members_trained_in_this_run_seconds": time.perf_counter() - start,
    }
    info = save_ensemble(ensemble, rows, metrics, arguments.output)
    arguments.output.with_suffix(".md").write_text(model_card(info))
    print(format_table(table))
    print(json.dumps({key: metrics[key] for key in ("interval_90", "coverage", "rows_above_4_eV")}, indent=1))
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB, sha256 {info['sha256']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
