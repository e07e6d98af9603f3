"""Bands beside those of atomate2's ASE classes and beside a tightly converged ASE band, in one run.

    python benchmarks/neb_vs_atomate2.py [--paths 10] [--max-atoms 60] [--seed 0] [--optimizers FIRE BFGS] [--no-tight]
                                         [--end-limit 0.05] [--band-limit 0.1]

Paths are drawn by the rule of ``hopflow benchmark neb`` (at most so many atoms, then by lot) before any is run. Each
way gets the same potential (MACE-MP-0 small, double precision), the same unrelaxed cell and ends, five images, springs
of 5 eV/Å² and a climbing image, and the same limits: by default 0.05 eV/Å for the ends and 0.1 eV/Å for the band.

atomate2's way: ``AseRelaxer`` for each end, ``interpolate_endpoints_ase`` with IDPP, then ``AseNebInterface``, with
each of the optimisers; 500 steps at most for each. The tight reference goes on from ours where it converged as one hop,
else from the first of these bands that did: ends relaxed to 0.01 eV/Å and then the band to 0.01 eV/Å by ASE's NEB and
BFGS, 300 steps at most.

Printed for each path: energies with forces of single images that each way asked for, ends included; how many times
fewer ours are; and the highest less lowest image of each. The last lines are geometric means over the paths on which
both ways converged. Evaluations do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.mep.neb import NEB
from ase.optimize import BFGS
from atomate2.ase.neb import interpolate_endpoints_ase
from atomate2.ase.utils import DEFAULT_NEB_KWARGS, AseNebInterface, AseRelaxer
from hopflow.potentials.registry import load_potential
from hopflow.transport.bands import path_atoms
from hopflow.transport.neb import BandSettings, run_band
from hopflow.transport.paths import MigrationPath
from hopflow.workflows.band_benchmark import select_paths
from hopflow.workflows.reference_paths import read_references
from scan_vs_point_by_point import EnergyAndForces

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data"
PATHS = DATA / "migration_barriers" / "paths_train.jsonl.gz"

IMAGES = 5
TIGHT_LIMIT_EV_PER_A = 0.01
STEPS, TIGHT_STEPS = 500, 300


class Counting(EnergyAndForces):
    """The potential as an ASE calculator that counts what it evaluates, its copies included."""

    def __init__(self, potential: Any, counted: list[int]) -> None:
        super().__init__(potential)
        self.counted = counted

    def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
        return Counting(self.potential, self.counted)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.counted[0] += 1


def span_eV(energies: Any) -> float:
    values = np.asarray(energies, dtype=float)
    return float(values.max() - values.min())


def by_atomate2(
    path: MigrationPath, potential: Any, optimizer: str, end_limit_eV_per_A: float, band_limit_eV_per_A: float
) -> tuple[dict[str, Any], list[Atoms]]:
    """What atomate2's classes make of a path."""
    counted, began = [0], time.perf_counter()
    calculator = Counting(potential, counted)
    relaxer = AseRelaxer(calculator, optimizer=optimizer, relax_cell=False)
    ends, rested = [], True
    for frac in (path.path_frac_coords[0], path.path_frac_coords[-1]):
        found = relaxer.relax(
            path_atoms(path, frac), fmax=end_limit_eV_per_A, steps=STEPS, final_atoms_object_file=os.devnull
        )
        ends.append(found.final_mol_or_struct)
        rested &= bool(found.is_force_converged)
    band = interpolate_endpoints_ase(tuple(ends), IMAGES, "IDPP", traj=None, log=None)
    result = AseNebInterface(calculator, optimizer=optimizer).run_neb(
        band, fmax=band_limit_eV_per_A, steps=STEPS, neb_doc_kwargs={}, neb_kwargs=dict(DEFAULT_NEB_KWARGS)
    )
    done = rested and str(getattr(result.state, "value", result.state)) == "successful"
    answer = {
        "evaluations": counted[0],
        "converged": done,
        "barrier_eV": span_eV(result.energies) if done else None,
        "seconds": time.perf_counter() - began,
    }
    return answer, band


def tight(band: list[Atoms], potential: Any) -> dict[str, Any]:
    """A band that has nearly come to rest, brought there by ASE alone."""
    counted = [0]
    images = [image.copy() for image in band]
    for image in images:
        image.calc = Counting(potential, counted)
    rested = all(BFGS(image, logfile=None).run(TIGHT_LIMIT_EV_PER_A, TIGHT_STEPS) for image in (images[0], images[-1]))
    chain = NEB(images, **DEFAULT_NEB_KWARGS)
    done = rested and bool(BFGS(chain, logfile=None).run(TIGHT_LIMIT_EV_PER_A, TIGHT_STEPS))
    energies = [image.get_potential_energy() for image in images]
    return {"evaluations": counted[0], "converged": done, "barrier_eV": span_eV(energies) if done else None}


def ours(
    path: MigrationPath, potential: Any, end_limit_eV_per_A: float, band_limit_eV_per_A: float
) -> tuple[dict[str, Any], list[Atoms]]:
    settings = BandSettings(
        images=IMAGES, max_force_eV_per_A=band_limit_eV_per_A, endpoint_max_force_eV_per_A=end_limit_eV_per_A
    )
    found = run_band(path, potential, settings)
    answer = {
        "evaluations": found.evaluations,
        "converged": found.converged,
        "barrier_eV": found.barrier_span_eV,
        "hops": found.hops,
        "reason": None if found.reason is None else str(found.reason),
        "seconds": found.seconds,
    }
    return answer, found.images


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def summary(rows: list[dict[str, Any]], optimizers: list[str]) -> str:
    lines = []
    for name in optimizers:
        both = [row for row in rows if row["ours"]["converged"] and row[name]["converged"]]
        if both:
            ratios = np.log([row[name]["evaluations"] / row["ours"]["evaluations"] for row in both])
            apart = np.abs([row[name]["barrier_eV"] - row["ours"]["barrier_eV"] for row in both])
            lines.append(
                f"{name}: {np.exp(ratios.mean()):.2f} times as many evaluations as ours (geometric mean of {len(both)} "
                f"paths, {np.exp(ratios.min()):.2f} to {np.exp(ratios.max()):.2f}); barriers differ by "
                f"{1000 * np.median(apart):.0f} meV in the median, {1000 * apart.max():.0f} meV at most."
            )
        lines.append(f"{name} converged on {sum(row[name]['converged'] for row in rows)} of {len(rows)} paths.")
    lines.append(f"Ours converged on {sum(row['ours']['converged'] for row in rows)} of {len(rows)} paths.")
    known = [row for row in rows if row["ours"]["converged"] and row.get("tight", {}).get("converged")]
    if known:
        apart = np.abs([row["tight"]["barrier_eV"] - row["ours"]["barrier_eV"] for row in known])
        lines.append(
            f"Of {len(known)} paths with a tight band, ours is within 10 meV on {(apart <= 0.01).sum()}; median "
            f"{1000 * np.median(apart):.1f} meV, at most {1000 * apart.max():.1f} meV."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=10, help="paths that are drawn")
    parser.add_argument("--max-atoms", type=int, default=60, help="atoms of the largest cell")
    parser.add_argument("--seed", type=int, default=0, help="of the lot")
    parser.add_argument(
        "--optimizers", nargs="*", default=["FIRE", "BFGS"], help="of atomate2's way; none: tight alone"
    )
    parser.add_argument("--end-limit", type=float, default=0.05, help="largest force on the ends, eV/Å")
    parser.add_argument("--band-limit", type=float, default=0.1, help="largest force across the band, eV/Å")
    parser.add_argument("--no-tight", action="store_true", help="leave out the tight reference")
    parser.add_argument("--output", type=Path, help="write everything here; what others took there is not run again")
    options = parser.parse_args()
    if not PATHS.is_file():
        raise SystemExit(f"{PATHS} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    chosen = select_paths(read_references(PATHS)[0], options.max_atoms, options.paths, options.seed)
    potential = load_potential("mace-mp-0-small", dtype="float64")
    print(chosen.sentence)
    heads = ["path", "atoms", "ours", *(f"{name} ({word})" for name in options.optimizers for word in ("", "ratio"))]
    heads = [head.replace(" ()", "") for head in heads]
    heads += ["ours, eV", *(f"{name}, eV" for name in options.optimizers), "tight, eV", "DFT, eV", "note"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    rows = []
    known = {}
    if options.output is not None and options.output.is_file():
        known = {row["path_id"]: row for row in json.loads(options.output.read_text())}
    for reference in chosen.paths:
        path = MigrationPath.from_row(reference.row)
        row: dict[str, Any] = {"path_id": reference.path_id, "dft_eV": reference.barrier_eV}
        row["ours"], band = ours(path, potential, options.end_limit, options.band_limit)
        start = band if row["ours"]["converged"] and row["ours"]["hops"] == 1 else None
        before = known.get(reference.path_id, {})
        for name in options.optimizers:
            if name in before:
                row[name] = before[name]
                continue
            row[name], band = by_atomate2(path, potential, name, options.end_limit, options.band_limit)
            if start is None and row[name]["converged"]:
                start = band
        if "tight" in before:
            row["tight"] = before["tight"]
        elif start is not None and not options.no_tight:
            row["tight"] = tight(start, potential)
        rows.append(row)
        cells = [reference.path_id, str(reference.atoms), str(row["ours"]["evaluations"])]
        for name in options.optimizers:
            cells += [str(row[name]["evaluations"]), f"{row[name]['evaluations'] / row['ours']['evaluations']:.1f}"]
        cells += [number(row[name]["barrier_eV"]) for name in ("ours", *options.optimizers)]
        cells += [number(row.get("tight", {}).get("barrier_eV")), number(reference.barrier_eV)]
        hops = row["ours"].get("hops", 1)
        cells.append(row["ours"]["reason"] or (f"ours in {hops} hops" if hops > 1 else ""))
        print(f"| {' | '.join(cells)} |", flush=True)
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(rows, indent=1))
    print(f"\n{summary(rows, options.optimizers)}")


if __name__ == "__main__":
    main()
