"""Bond-valence barriers of the OBELiX set's crystals (training part) against their measured conductivity.

    python benchmarks/bvse_obelix.py [--spacing 0.2] [--limit N] [--output FILE]

Says how many of the 254 CIF files give a barrier, lists every refusal with its reason, and ends with a table of rank
correlations between the barriers and the logarithm of the conductivity at room temperature, with 95 % bootstrap
intervals. Values that are only known to lie below a bound ("<1e-10") are read at the bound, and left out in a second
block. A crystal without a path counts as the highest barrier. AUC: how often a conductor above 1e-4 S/cm has a lower
barrier than one below.

Data: OBELiX (F. Therrien et al., 2025, CC BY 4.0), looked for under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

import argparse
import collections
import csv
import json
import math
import os
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
FOLDER = SHARED / "data" / "obelix"

GOOD_CONDUCTOR_S_PER_CM = 1e-4
BOOTSTRAP = 10_000


def conductivity(text: str) -> tuple[float, bool] | None:
    """Conductivity in S/cm and whether it is only an upper bound; None where there is none."""
    bound = text.strip().startswith("<")
    try:
        value = float(text.strip().lstrip("<").strip())
    except ValueError:
        return None
    return (value, bound) if value > 0 else None


def barriers_of(cif: Path, spacing_A: float) -> dict[str, Any]:
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import read_structures

    found = read_structures(cif)[0]
    if found.structure is None:
        assert found.error is not None
        return {"reason": str(found.error.reason), "message": str(found.error)}
    line: dict[str, Any] = {"ordered": found.structure.is_ordered, "sites": len(found.structure)}
    before = time.process_time()
    try:
        result = bond_valence_percolation(found.structure, "Li", BondValenceSettings(spacing_A=spacing_A))
    except CandidateError as error:
        return line | {"reason": str(error.reason), "message": str(error)}
    return line | {
        "barriers_eV": list(result.barriers_eV),
        "oxidation_states_from": result.oxidation_states_from,
        "warnings": list(result.warnings),
        "processor_s": time.process_time() - before,
    }


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, equal values sharing their mean rank; ``inf`` ranks last."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=-1))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis."""
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in (average_ranks(x), average_ranks(y)))
    return np.asarray((a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1)))


def area_under_curve(barrier: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Probability that a good conductor has the lower barrier, along the last axis (Mann-Whitney)."""
    ranks = average_ranks(-barrier)
    n_good = good.sum(axis=-1)
    n_poor = good.shape[-1] - n_good
    with np.errstate(invalid="ignore", divide="ignore"):
        area = ((ranks * good).sum(axis=-1) - n_good * (n_good + 1) / 2) / (n_good * n_poor)
    return np.asarray(area)


def with_interval(statistic: Any, x: np.ndarray, y: np.ndarray) -> str:
    draws = np.random.default_rng(0).integers(0, len(x), (BOOTSTRAP, len(x)))
    values = statistic(x[draws], y[draws])
    low, high = np.nanquantile(values, [0.025, 0.975])
    return f"{float(statistic(x, y)):+.3f} ({low:+.2f} to {high:+.2f})"


def print_correlations(rows: list[dict[str, Any]]) -> None:
    print("\n| crystals | rows | above 1e-4 S/cm | barrier | Spearman with log conductivity | AUC above 1e-4 S/cm |")
    print("|---|---|---|---|---|---|")
    for name, chosen in (
        ("all, bounds at their value", rows),
        ("bounds left out", [row for row in rows if not row["bound"]]),
        ("ordered, bounds at their value", [row for row in rows if row["ordered"]]),
        ("disordered, bounds at their value", [row for row in rows if not row["ordered"]]),
    ):
        if len(chosen) < 5:
            continue
        log = np.log10([row["conductivity"] for row in chosen])
        good = log > math.log10(GOOD_CONDUCTOR_S_PER_CM)
        for d in range(3):
            barrier = np.array([row["barriers_eV"][d] for row in chosen])
            print(
                f"| {name} | {len(chosen)} | {good.sum()} | E{d + 1}D | {with_interval(spearman, barrier, log)} | "
                f"{with_interval(area_under_curve, barrier, good)} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacing", type=float, default=0.25, help="grid spacing in Angstrom")
    parser.add_argument("--limit", type=int, help="only the first so many files")
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    options = parser.parse_args()
    if not (FOLDER / "train_cifs.zip").exists():
        raise SystemExit(f"{FOLDER} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    with (FOLDER / "train.csv").open(encoding="utf-8") as stream:
        table = {row["ID"]: row for row in csv.DictReader(stream)}
    rows = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(FOLDER / "train_cifs.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".cif"))[: options.limit]
        for name in names:
            identity = Path(name).stem
            measured = conductivity(table[identity]["Ionic conductivity (S cm-1)"])
            line = {"id": identity, "formula": table[identity]["Reduced Composition"]}
            line |= barriers_of(Path(archive.extract(name, folder)), options.spacing)
            line["conductivity"], line["bound"] = measured or (None, None)
            rows.append(line)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))

    refused = [row for row in rows if "reason" in row]
    answered = [row for row in rows if "reason" not in row]
    print("| file | formula | reason | sentence |\n|---|---|---|---|")
    for row in sorted(refused, key=lambda row: (row["reason"], row["id"])):
        print(f"| {row['id']} | {row['formula']} | {row['reason']} | {row['message']} |")
    counts = collections.Counter(row["reason"] for row in refused)
    charges = collections.Counter(row["oxidation_states_from"].split(" (")[0] for row in answered)
    closed = sum(math.isinf(row["barriers_eV"][0]) for row in answered)
    seconds = sorted(row["processor_s"] for row in answered)
    print(
        f"\n{len(rows)} files: {len(answered)} give a barrier ({len(answered) / len(rows):.1%}), {closed} of them have"
    )
    print(f"no path below the energy ceiling; {sum(not row['ordered'] for row in answered)} are disordered.")
    print(f"refused {len(refused)}: {dict(counts)}; charges from: {dict(charges)};")
    print(f"{sum(bool(row['warnings']) for row in answered)} carry a warning.")
    middle = seconds[len(seconds) // 2]
    print(f"processor time: median {middle:.2f} s, longest {seconds[-1]:.1f} s, all {sum(seconds):.0f} s")
    print_correlations([row for row in answered if row["conductivity"] is not None])


if __name__ == "__main__":
    main()
