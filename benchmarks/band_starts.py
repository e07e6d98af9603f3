"""First bands compared: straight line, image dependent pair potential, valley of the bond-valence site energy.

    python benchmarks/band_starts.py [--paths 12] [--max-atoms 60] [--seed 0] [--ion Li Na K]

Paths of singly charged ions are drawn by the rule of ``hopflow benchmark neb`` before any is run; ends, cells and all
settings but the first band are the same (MACE-MP-0 small, single precision, five images, 0.1 eV/Å). Printed: energies
with forces, ends included, and barriers of each; the last lines are geometric means over the paths on which both ways
converged. Evaluations do not depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hopflow.potentials.registry import load_potential
from hopflow.transport.errors import CandidateError
from hopflow.transport.neb import BandSettings, run_band
from hopflow.transport.paths import MigrationPath
from hopflow.workflows.band_benchmark import select_paths
from hopflow.workflows.reference_paths import read_references

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data"
PATHS = DATA / "migration_barriers" / "paths_train.jsonl.gz"
STARTS = ("path", "idpp", "bond_valence")


def band_from(path: MigrationPath, potential: Any, start: str) -> dict[str, Any]:
    """Evaluations and barrier of a band, or why there is none."""
    try:
        found = run_band(path, potential, BandSettings(interpolation=start))
    except CandidateError as error:
        return {"evaluations": 0, "barrier_eV": None, "reason": str(error.reason)}
    return {
        "evaluations": found.evaluations,
        "barrier_eV": found.barrier_span_eV,
        "reason": None if found.reason is None else str(found.reason),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=12, help="paths that are drawn")
    parser.add_argument("--max-atoms", type=int, default=60, help="atoms of the largest cell")
    parser.add_argument("--seed", type=int, default=0, help="of the lot")
    parser.add_argument("--ion", nargs="+", default=["Li", "Na", "K"], help="mobile ions")
    options = parser.parse_args()
    if not PATHS.is_file():
        raise SystemExit(f"{PATHS} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    known = [path for path in read_references(PATHS)[0] if path.row["migrating_ion"] in options.ion]
    chosen = select_paths(known, options.max_atoms, options.paths, options.seed)
    print(f"Mobile ions {', '.join(options.ion)}: {chosen.sentence}\n")
    potential = load_potential("mace-mp-0-small", dtype="float32")
    print(f"| path | atoms | {' | '.join(f'{start} | {start}, eV' for start in STARTS)} |\n|{'---|' * 8}", flush=True)
    rows = []
    for reference in chosen.paths:
        path = MigrationPath.from_row(reference.row)
        found = {start: band_from(path, potential, start) for start in STARTS}
        cells = []
        for each in found.values():
            barrier = each["reason"] if each["barrier_eV"] is None else f"{each['barrier_eV']:.3f}"
            cells += [str(each["evaluations"]), barrier]
        print(f"| {reference.path_id} | {reference.atoms} | {' | '.join(cells)} |", flush=True)
        rows.append(found)
    print()
    for start in ("path", "bond_valence"):
        both = [row for row in rows if row[start]["barrier_eV"] is not None and row["idpp"]["barrier_eV"] is not None]
        if both:
            ratios = np.log([row[start]["evaluations"] / row["idpp"]["evaluations"] for row in both])
            print(
                f"{start}: {np.exp(ratios.mean()):.2f} times as many evaluations as idpp (geometric mean of "
                f"{len(both)} paths, {np.exp(ratios.min()):.2f} to {np.exp(ratios.max()):.2f})."
            )
        print(f"{start} converged on {sum(row[start]['barrier_eV'] is not None for row in rows)} of {len(rows)} paths.")
    print(f"idpp converged on {sum(row['idpp']['barrier_eV'] is not None for row in rows)} of {len(rows)} paths.")


if __name__ == "__main__":
    main()
