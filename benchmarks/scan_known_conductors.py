"""How well single-ion scans tell good lithium conductors from poor ones, beside bond valences.

    python benchmarks/scan_known_conductors.py [--limit N] [--good -4] [--output FILE.json]

The pes stage with its default settings, the bvse stage's method, and the measured conductivity of the 50 known
conductors (OBELiX, F. Therrien et al. 2025; median of the entries of the same formula and space group, or with a star
of the same formula alone). A conductor is good when log10 of its conductivity in S/cm at room temperature is at least
``--good``. Printed: a line for each crystal as it comes, and for each quantity the area under the curve (the
probability that a good conductor ranks above a poor one; 0.5 is by chance) with a 90 % bootstrap interval over
crystals, on the crystals for which all quantities are known, and Spearman's rank correlation with the conductivity.

``--output`` keeps every answer; what stands there is not computed again. Set ``OMP_NUM_THREADS=1`` where other work
runs beside it. ``known_conductors`` and ``obelix`` are looked for under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gnn_known_conductors import DATA, measured_conductivities

HIGHER_IS_BETTER = {
    "bvse E1D": False,
    "bvse E3D": False,
    "scan E1D": False,
    "scan E3D": False,
    "scan MPE": False,
    "connected free volume": True,
    "smeared connected free volume": True,
    "free volume score": True,
}
BOOTSTRAP = 2000


def answers(line: dict[str, str]) -> dict[str, Any]:
    """What both methods say about one material; refusals with their reason."""
    from hopflow.makers.pes import LandscapeMaker
    from hopflow.transport.bvse import bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import read_structures

    structure = read_structures(DATA / "known_conductors" / f"{line['material_id']}.cif")[0].structure
    found: dict[str, Any] = {"material_id": line["material_id"], "label": line["label"], "values": {}}
    try:
        document = LandscapeMaker().evaluate(structure)
        found |= {"seconds": document.seconds, "evaluations": document.evaluations, "warnings": document.warnings}
        found["values"] |= {
            "scan E1D": document.barrier_1d_eV,
            "scan E3D": document.barrier_3d_eV,
            "scan MPE": document.minimal_percolation_energy_eV,
            "connected free volume": document.connected_free_volume_fraction,
            "smeared connected free volume": document.connected_free_volume_smeared_fraction,
            "free volume score": document.free_volume_score,
        }
    except CandidateError as error:
        found["scan_refusal"] = f"{error.reason}: {error}"
    try:
        barriers = bond_valence_percolation(structure, "Li").barriers_eV
        found["values"] |= {"bvse E1D": barriers[0], "bvse E3D": barriers[2]}
    except CandidateError as error:
        found["bvse_refusal"] = f"{error.reason}: {error}"
    found["values"] = {
        # a crystal without a path in so many directions is worse than any barrier
        name: (None if HIGHER_IS_BETTER[name] else 99.0) if value is None or not math.isfinite(value) else float(value)
        for name, value in found["values"].items()
    }
    return found


def area_under_curve(values: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good one has the higher value; ties count half."""
    difference = values[good][:, None] - values[~good][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def print_areas(rows: list[dict[str, Any]], threshold: float) -> None:
    from scipy.stats import spearmanr

    known = [
        row
        for row in rows
        if row["log10_conductivity"] and all(row["values"].get(n) is not None for n in HIGHER_IS_BETTER)
    ]
    measured = np.array([row["log10_conductivity"][0] for row in known])
    good = measured >= threshold
    print(f"\n{len(known)} crystals with all quantities and a conductivity: {good.sum()} good, {(~good).sum()} poor.")
    if not 0 < good.sum() < len(good):
        return
    generator = np.random.default_rng(0)
    draws = [
        draw for draw in generator.integers(0, len(known), (BOOTSTRAP, len(known))) if 0 < good[draw].sum() < len(draw)
    ]
    print("| quantity | AUC (90 %) | Spearman with log10 s (90 %) |\n|---|---|---|")
    for name, higher in HIGHER_IS_BETTER.items():
        values = np.array([row["values"][name] for row in known]) * (1.0 if higher else -1.0)
        areas = np.quantile([area_under_curve(values[draw], good[draw]) for draw in draws], [0.05, 0.95])
        ranks = np.nanquantile([spearmanr(values[draw], measured[draw])[0] for draw in draws], [0.05, 0.95])
        print(
            f"| {name} | {area_under_curve(values, good):.2f} ({areas[0]:.2f} to {areas[1]:.2f}) | "
            f"{spearmanr(values, measured)[0]:+.2f} ({ranks[0]:+.2f} to {ranks[1]:+.2f}) |"
        )
    print("Values count so that more is better: barriers and the minimal percolation energy with their sign turned.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only the first N materials")
    parser.add_argument("--skip", nargs="*", default=[], help="ids of materials that are left out")
    parser.add_argument(
        "--good", type=float, default=-4.0, help="log10 of the least conductivity in S/cm of a good one"
    )
    parser.add_argument("--output", type=Path, help="write everything that was found here, and go on from it")
    options = parser.parse_args()
    folder = DATA / "known_conductors"
    if not (folder / "index.csv").is_file():
        raise SystemExit(f"{folder} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    index = list(csv.DictReader((folder / "index.csv").open()))[: options.limit]
    index = [line for line in index if line["material_id"] not in options.skip]
    measured = measured_conductivities(index)
    rows = json.loads(options.output.read_text()) if options.output and options.output.is_file() else []
    done = {row["material_id"] for row in rows}
    heads = ["material", "s", "evaluations", *HIGHER_IS_BETTER, "log10 s"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for line in index:
        if line["material_id"] not in done:
            rows.append(answers(line) | {"log10_conductivity": measured.get(line["material_id"])})
        row = next(row for row in rows if row["material_id"] == line["material_id"])
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(rows, indent=1))
        value = row["log10_conductivity"]
        cells = [row["label"], f"{row['seconds']:.0f}" if "seconds" in row else "-", str(row.get("evaluations", "-"))]
        for name in HIGHER_IS_BETTER:
            number = row["values"].get(name)
            cells.append("-" if number is None else "none" if number == 99.0 else f"{number:.3f}")
        cells.append("-" if value is None else f"{value[0]:.1f}{'' if value[1] else '*'}")
        print(f"| {' | '.join(cells)} |", flush=True)
    for row in rows:
        for who in ("scan", "bvse"):
            if refusal := row.get(f"{who}_refusal"):
                print(f"\n{row['label']}, {who}: {refusal}")
    print_areas(rows, options.good)


if __name__ == "__main__":
    main()
