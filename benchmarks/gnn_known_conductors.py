"""Barriers of 50 known lithium conductors by the gnn stage, beside bond valences and literature.

    python benchmarks/gnn_known_conductors.py [--model fast] [--limit N] [--skip ID ...] [--output FILE.json]
    python benchmarks/gnn_known_conductors.py --errors METRICS.json [--model fast]

Prints a table of the materials, refusals with their reason, the medians, and rank correlations with 90 % bootstrap
intervals. Literature stands in two columns. ``DFT hop``: the lowest published DFT-NEB barrier of a single vacancy
hop in that crystal (R. Devi et al., arXiv 2508.06459); the shipped models learned from these rows, and a crystal need
not percolate by its lowest hop. ``log10 s``: measured conductivity in S/cm at room temperature (OBELiX, F. Therrien et
al. 2025), median of the entries of the same formula and space group; with a star, of the same formula alone.

``--errors METRICS.json`` estimates which share of a model's errors the paths of one crystal have in common, from the
held-out answers in the ``metrics.json`` of a training or an evaluation. Set ``OMP_NUM_THREADS=1`` where other work
runs beside it.

``known_conductors``, ``migration_barriers`` and ``obelix`` are looked for under ``HOPFLOW_SHARED`` (by default
``../shared``).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from bvse_obelix import conductivity

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data"
PATHS = DATA / "migration_barriers" / "paths_train.jsonl.gz"

PUBLISHED_HOPS = {
    "mp-942733": ("Li7La3Zr2O12_1", "Li7La3Zr2O12_2", "Li7La3Zr2O12_3"),
    "mp-19017": ("O-LiFePO4",),
    "mp-22526": ("LiCoO2_1",),
    "mp-641703": ("Li7P3S11_1",),
    "mp-10499": ("LiZr2P3O12",),
    "mp-985585": ("Li3OCl_1", "Li3OCl_2"),
    "mp-2878": tuple(f"g-Li3PO4_{k}" for k in range(1, 10)),
    "mp-9615": ("LiTiS2",),
    "mp-9625": ("LiMgPO4",),
}
"""Paths of the set that are hops of the same crystal and phase, with one vacancy."""

BOOTSTRAP = 2000


def published_hops() -> dict[str, float]:
    """Lowest published hop in eV by material."""
    from hopflow.learning.path_rows import read_labelled_rows

    if not PATHS.is_file():
        print(f"No DFT column: {PATHS} is not there.")
        return {}
    known = {row["path_id"]: row["barrier_dft_eV"] for row in read_labelled_rows(PATHS)[0]}
    lowest = {name: [known[path] for path in paths if path in known] for name, paths in PUBLISHED_HOPS.items()}
    return {name: min(found) for name, found in lowest.items() if found}


def measured_conductivities(index: list[dict[str, str]]) -> dict[str, tuple[float, bool]]:
    """Median log10 of the conductivity in S/cm by material, and whether the space group is the material's."""
    from pymatgen.core import Composition

    file = DATA / "obelix" / "train.csv"
    if not file.is_file():
        print(f"No column of conductivities: {file} is not there.")
        return {}
    entries: dict[str, list[tuple[str, float]]] = {}
    for line in csv.DictReader(file.open()):
        value = conductivity(line["Ionic conductivity (S cm-1)"])
        try:
            formula = Composition(line["True Composition"]).reduced_formula
        except ValueError:
            continue
        if value is not None and not value[1]:
            entries.setdefault(formula, []).append((line["Space group #"], math.log10(value[0])))
    found = {}
    for line in index:
        alike = entries.get(Composition(line["reduced_formula"]).reduced_formula, [])
        same = [value for group, value in alike if group == line["sg_number"]]
        if alike:
            found[line["material_id"]] = (float(np.median(same or [value for _, value in alike])), bool(same))
    return found


def answers(line: dict[str, str], model: str) -> dict[str, Any]:
    """What the gnn stage and the bond-valence method say about one material."""
    from hopflow.makers.gnn import HopBarrierMaker
    from hopflow.makers.settings import HopBarrierStageSettings
    from hopflow.transport.bvse import bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import read_structures

    structure = read_structures(DATA / "known_conductors" / f"{line['material_id']}.cif")[0].structure
    found: dict[str, Any] = {"material_id": line["material_id"], "label": line["label"]}
    try:
        document = HopBarrierMaker(settings=HopBarrierStageSettings(model=model)).evaluate(structure)
        found["gnn"] = document.model_dump(mode="json")
    except CandidateError as error:
        found["gnn_refusal"] = f"{error.reason}: {error}"
    try:
        before = time.perf_counter()
        barriers = bond_valence_percolation(structure, "Li").barriers_eV
        found["bvse"] = {"barriers_eV": list(barriers), "seconds": time.perf_counter() - before}
    except CandidateError as error:
        found["bvse_refusal"] = f"{error.reason}: {error}"
    return found


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table_line(found: dict[str, Any]) -> str:
    gnn, cells = found.get("gnn"), [found["label"]]
    if gnn is None:
        cells += ["-"] * 6
    else:
        cells += [str(len(gnn["hops"])), f"{gnn['seconds']:.1f}"]
        for k in (1, 2, 3):
            value, sigma = gnn[f"barrier_{k}d_eV"], gnn[f"barrier_{k}d_sigma_eV"]
            cells.append("none" if value is None else f"{value:.2f} ± {sigma:.2f}")
        interval = gnn["barrier_3d_interval_90_eV"]
        cells.append("-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}")
    barriers = found["bvse"]["barriers_eV"] if "bvse" in found else [None] * 3
    cells.append(" / ".join(number(value) for value in barriers))
    cells.append(number(found["dft_hop_eV"]))
    measured = found["log10_conductivity"]
    cells.append("-" if measured is None else f"{measured[0]:.1f}{'' if measured[1] else '*'}")
    return f"| {' | '.join(cells)} |"


def print_medians(rows: list[dict[str, Any]]) -> None:
    answered = [row["gnn"] for row in rows if "gnn" in row]
    seconds = np.array([each["seconds"] for each in answered])
    print(
        f"\n{len(answered)} of {len(rows)} materials have gnn barriers, {sum('bvse' in row for row in rows)} bvse ones."
    )
    print(f"gnn: median {np.median(seconds):.1f} s, largest {seconds.max():.1f} s a material; ", end="")
    print(f"median {np.median([len(each['hops']) for each in answered]):.0f} unique hops.")
    bvse_seconds = np.median([row["bvse"]["seconds"] for row in rows if "bvse" in row])
    print(f"bvse: median {bvse_seconds:.1f} s.\n")
    print("| median | E1D, eV | E2D, eV | E3D, eV |\n|---|---|---|---|")
    for name, field in (("gnn", "barrier_{}d_eV"), ("gnn sigma", "barrier_{}d_sigma_eV")):
        values = [[each[field.format(k)] for each in answered] for k in (1, 2, 3)]
        medians = [np.median([value for value in column if value is not None]) for column in values]
        print(f"| {name} | {' | '.join(f'{median:.3f}' for median in medians)} |")
    bvse = np.array([row["bvse"]["barriers_eV"] for row in rows if "bvse" in row])
    print(f"| bvse | {' | '.join(f'{np.median(column[np.isfinite(column)]):.3f}' for column in bvse.T)} |")
    surest = [max((h["limiting_probabilities"][0] for h in each["hops"]), default=0.0) for each in answered]
    print(f"\nProbability of the likeliest limiting hop in one direction: median {np.median(surest):.2f}.")


def print_correlations(rows: list[dict[str, Any]]) -> None:
    from scipy.stats import spearmanr

    columns: dict[str, dict[str, float]] = {}
    for k in (1, 3):
        columns[f"gnn E{k}D"] = {
            row["material_id"]: row["gnn"][f"barrier_{k}d_eV"]
            for row in rows
            if "gnn" in row and row["gnn"][f"barrier_{k}d_eV"] is not None
        }
        columns[f"bvse E{k}D"] = {
            row["material_id"]: row["bvse"]["barriers_eV"][k - 1]
            for row in rows
            if "bvse" in row and math.isfinite(row["bvse"]["barriers_eV"][k - 1])
        }
    columns["DFT hop"] = {r["material_id"]: r["dft_hop_eV"] for r in rows if r["dft_hop_eV"] is not None}
    measured = {r["material_id"]: r["log10_conductivity"] for r in rows if r["log10_conductivity"] is not None}
    columns["log10 s"] = {name: value for name, (value, _) in measured.items()}
    pairs = [("gnn E1D", "bvse E1D"), ("gnn E3D", "bvse E3D")]
    pairs += [(f"{who} E{k}D", what) for what in ("DFT hop", "log10 s") for who in ("gnn", "bvse") for k in (1, 3)]
    print("\n| pair | materials | Spearman (90 % interval) | mean absolute difference, eV |\n|---|---|---|---|")
    generator = np.random.default_rng(0)
    for one, other in pairs:
        common = sorted(columns[one].keys() & columns[other].keys())
        if len(common) < 5:
            continue
        x, y = (np.array([columns[name][key] for key in common]) for name in (one, other))
        draws = generator.integers(0, len(x), (BOOTSTRAP, len(x)))
        with np.errstate(invalid="ignore"):
            values = [spearmanr(x[d], y[d])[0] for d in draws if np.ptp(x[d]) > 0 and np.ptp(y[d]) > 0]
        low, high = np.quantile(values, [0.05, 0.95])
        off = "" if other == "log10 s" else f"{np.abs(x - y).mean():.3f}"
        print(f"| {one}, {other} | {len(x)} | {spearmanr(x, y)[0]:+.2f} ({low:+.2f} to {high:+.2f}) | {off} |")


def print_share_of_errors_in_common(metrics: Path, model: str) -> None:
    """From the held-out answers that ``hopflow train barrier`` or ``hopflow evaluate barrier`` have left."""
    from hopflow.learning.barrier_learners import to_target
    from hopflow.learning.barrier_scenarios import crystal_groups
    from hopflow.learning.evaluation import host_groups
    from hopflow.learning.material_barriers import common_share
    from hopflow.learning.path_rows import read_labelled_rows

    if not PATHS.is_file():
        raise SystemExit(f"{PATHS} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    rows, _ = read_labelled_rows(PATHS)
    document = json.loads(metrics.read_text())
    answered = {row["path_id"]: row for row in document["predictions"]}
    true_eV = np.array([row["barrier_dft_eV"] for row in rows])
    found_eV, sigma_eV = (
        np.array([np.mean(answered[row["path_id"]][name][model]) for row in rows])
        for name in ("predicted_eV", "sigma_eV")
    )
    # sigma in eV is, to first order, that of the logarithm times barrier and offset
    errors = (to_target(true_eV) - to_target(found_eV)) / (sigma_eV / np.exp(to_target(found_eV)))
    all_hosts = host_groups(rows)
    usual = true_eV <= document["outlier_eV"]
    errors, hosts = errors[usual], np.array(all_hosts)[usual]
    crystals = np.array(crystal_groups(rows, all_hosts))[usual]
    generator, shares = np.random.default_rng(0), []
    for _ in range(500):
        drawn = generator.choice(np.unique(hosts), len(np.unique(hosts)))
        members = [np.flatnonzero(hosts == host) for host in drawn]
        names = [f"{copy} {crystals[i]}" for copy, inside in enumerate(members) for i in inside]
        shares.append(common_share(errors[np.concatenate(members)], names))
    low, high = np.quantile(shares, [0.05, 0.95])
    several = sum(np.unique(crystals, return_counts=True)[1] > 1)
    share = common_share(errors, crystals.tolist())
    print(f"{model}: {usual.sum()} paths of {len(np.unique(crystals))} crystals, of which {several} have several.")
    print(f"Share of the errors' variance in common: {share:.2f} ({low:.2f} to {high:.2f}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fast", help="model that predicts the hops")
    parser.add_argument("--limit", type=int, help="only the first N materials")
    parser.add_argument("--skip", nargs="*", default=[], help="ids of materials that are left out")
    parser.add_argument("--output", type=Path, help="write everything that was found here")
    parser.add_argument("--errors", type=Path, help="only estimate the share of the errors in common, from this file")
    options = parser.parse_args()
    if options.errors:
        print_share_of_errors_in_common(options.errors, options.model)
        return
    folder = DATA / "known_conductors"
    if not (folder / "index.csv").is_file():
        raise SystemExit(f"{folder} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    index = list(csv.DictReader((folder / "index.csv").open()))[: options.limit]
    index = [line for line in index if line["material_id"] not in options.skip]
    hops, measured = published_hops(), measured_conductivities(index)
    heads = ["material", "hops", "s", "E1D, eV", "E2D, eV", "E3D, eV", "E3D 90 %, eV", "BVSE 1D / 2D / 3D, eV"]
    heads += ["DFT hop, eV", "log10 s"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    rows = []
    for line in index:
        found = answers(line, options.model)
        found["dft_hop_eV"] = hops.get(line["material_id"])
        found["log10_conductivity"] = measured.get(line["material_id"])
        rows.append(found)
        print(table_line(found), flush=True)
    for row in rows:
        for stage in ("gnn", "bvse"):
            if refusal := row.get(f"{stage}_refusal"):
                print(f"\n{row['label']}, {stage}: {refusal}")
    print_medians(rows)
    print_correlations(rows)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
