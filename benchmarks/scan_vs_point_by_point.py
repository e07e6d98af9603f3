"""Scans beside the straightforward way, on known conductors, in one run: same potential, same cell, same grid.

    python benchmarks/scan_vs_point_by_point.py [--crystals 10] [--spacing 0.35] [--sample N] [--only mp-2251 ...]

The straightforward way is what the code of Maevskiy et al. does: an ASE calculator is asked for energy and forces at
every grid point, one after the other; points within the exclusion radius of an atom are left out there as here. It gets
the cell and the grid of the scan. Ours is the scan of the pes stage as it runs by default.

With ``--sample`` the slow side evaluates a random sample of its points and its seconds are extrapolated, which the
table says (``~``). The energies that percolation is compared on then come from every irreducible point, evaluated apart
and not timed, unless ``--trust`` leaves that out.

Times are wall seconds of this process; let nothing else run. Loading the potential and compiling are not counted.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from hopflow.makers.stage import primitive_cell
from hopflow.potentials.registry import load_potential
from hopflow.transport.errors import CandidateError
from hopflow.transport.landscape import ScanSettings, scan_landscape
from hopflow.transport.landscape_analysis import IonLandscape, minimal_percolation_energy_eV
from hopflow.transport.percolation import percolate_grid
from hopflow.workflows.landscape_views import crystal_in_cell
from pymatgen.core import Structure

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
FOLDER = SHARED / "data" / "known_conductors"


class EnergyAndForces(Calculator):
    """The potential as an ASE calculator."""

    implemented_properties = ("energy", "forces")

    def __init__(self, potential: Any) -> None:
        super().__init__()
        self.potential = potential

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        energies, forces = self.potential.energies_and_forces([self.atoms])
        self.results = {"energy": float(energies[0]), "forces": forces[0]}


@dataclass
class Side:
    """What one way took, and what it found."""

    seconds: float
    evaluations: int
    thresholds_eV: tuple[float, ...]


def mobile_ion(structure: Structure) -> str | None:
    """Lithium, or else sodium."""
    return next((ion for ion in ("Li", "Na") if any(site.specie.symbol == ion for site in structure)), None)


def answer(values: np.ndarray, lattice: np.ndarray) -> tuple[float, ...]:
    """Barriers in one, two and three dimensions and the minimal percolation energy."""
    return (*percolate_grid(values, lattice=lattice).barriers_eV, minimal_percolation_energy_eV(values, lattice))


def images(structure: Structure, ion: str, found: IonLandscape) -> tuple[Atoms, np.ndarray]:
    """The scanned cell with the moved ion last, and Cartesian positions of the points that are not excluded."""
    crystal = crystal_in_cell(structure, found.lattice, found.origin_frac)
    frac = crystal.frac_coords
    moved = int(np.argmin(np.linalg.norm((frac - np.rint(frac)) @ found.lattice, axis=1)))
    atoms = crystal.to_ase_atoms()
    order = [*np.delete(np.arange(len(atoms)), moved), moved]
    shape = np.array(found.values_eV.shape)
    allowed = np.flatnonzero(np.isfinite(found.values_eV.ravel()))
    points = np.stack(np.unravel_index(allowed, found.values_eV.shape), axis=1) / shape
    assert atoms[moved].symbol == ion
    return atoms[order], points @ found.lattice


def point_by_point(
    structure: Structure, ion: str, potential: Any, found: IonLandscape, sample: int | None
) -> tuple[Side, bool]:
    """Energy and forces of the whole grid, or of a sample of it; whether the seconds are extrapolated."""
    atoms, points = images(structure, ion, found)
    atoms.calc = EnergyAndForces(potential)
    chosen = np.arange(len(points))
    if sample is not None and sample < len(points):
        chosen = np.sort(np.random.default_rng(0).choice(len(points), sample, replace=False))
    energies = np.full(len(points), np.nan)
    began = time.perf_counter()
    for k in chosen:
        atoms.positions[-1] = points[k]
        energies[k] = atoms.get_potential_energy()
    seconds = (time.perf_counter() - began) * len(points) / len(chosen)
    sampled = len(chosen) < len(points)
    thresholds: tuple[float, ...] = (math.nan,) * 4
    if not sampled:
        field = np.full(found.values_eV.size, np.inf)
        field[np.isfinite(found.values_eV.ravel())] = energies
        thresholds = answer(field.reshape(found.values_eV.shape), found.lattice)
    return Side(seconds, len(points), thresholds), sampled


def compare(
    material: str, structure: Structure, ion: str, potential: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """One crystal both ways; a row of the table."""
    settings = ScanSettings(spacing_A=options.spacing, max_evaluations=None)
    began = time.perf_counter()
    result = scan_landscape(structure, ion, potential, settings)
    seconds = time.perf_counter() - began
    found = result.best
    ours = Side(seconds, result.evaluations, answer(found.values_eV, found.lattice))
    theirs, sampled = point_by_point(structure, ion, potential, found, options.sample)
    if sampled and not options.trust:
        whole = scan_landscape(structure, ion, potential, replace(settings, refine=False), ion_index=found.site_index)
        theirs.thresholds_eV = answer(whole.best.values_eV, whole.best.lattice)
    finite = [(a, b) for a, b in zip(ours.thresholds_eV, theirs.thresholds_eV, strict=True) if math.isfinite(a + b)]
    same_reach = all(
        math.isnan(b) or math.isfinite(a) == math.isfinite(b)
        for a, b in zip(ours.thresholds_eV, theirs.thresholds_eV, strict=True)
    )
    return {
        "material": material,
        "formula": structure.composition.reduced_formula,
        "atoms": found.atoms,
        "points": found.points,
        "excluded": found.saved_by_exclusion,
        "symmetry": found.saved_by_symmetry,
        "refinement": found.saved_by_refinement,
        "evaluations": ours.evaluations,
        "their_evaluations": theirs.evaluations,
        "seconds": ours.seconds,
        "their_seconds": theirs.seconds,
        "sampled": sampled,
        "difference_eV": (max(abs(a - b) for a, b in finite) if finite else math.nan) if same_reach else math.inf,
    }


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    mark = "~" if row["sampled"] else " "
    print(
        f"{row['material']:>12} {row['formula']:>14} {row['atoms']:5d} {row['points']:7d} {row['excluded']:8d} "
        f"{row['symmetry']:8d} {row['refinement']:10d} {row['evaluations']:6d} {row['their_evaluations']:8d} "
        f"{row['seconds']:8.1f} {mark}{row['their_seconds']:8.1f} {row['their_seconds'] / row['seconds']:7.1f} "
        f"{1000 * row['difference_eV']:9.2f}",
        flush=True,
    )


def main() -> None:
    """Compare, print the table and its means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--crystals", type=int, default=10, help="the first so many of the list, as far as they have Li or Na"
    )
    parser.add_argument("--only", nargs="*", help="these materials instead")
    parser.add_argument("--spacing", type=float, default=0.35)
    parser.add_argument("--potential", default="m3gnet-mp-2021.2.8")
    parser.add_argument("--sample", type=int, help="points that the slow side really evaluates")
    parser.add_argument("--trust", action="store_true", help="with --sample, do not check against every point")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    potential = load_potential(options.potential)
    warm = Structure.from_spacegroup("Fm-3m", 4.03 * np.eye(3), ["Li", "F"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    scan_landscape(warm, "Li", potential, ScanSettings(spacing_A=0.45, min_length_A=4.0))
    potential.energies_and_forces([warm.to_ase_atoms()])
    names = options.only or [row["material_id"] for row in csv.DictReader((FOLDER / "index.csv").open())]
    rows: list[dict[str, Any]] = []
    print("saved by exclusion, symmetry and refinement; evaluations and seconds of the scan and point by point; meV")
    print(
        f"{'':>12} {'':>14} {'atoms':>5} {'points':>7} {'excluded':>8} {'symmetry':>8} {'refinement':>10} {'scan':>6} "
        f"{'by point':>8} {'scan s':>8} {'by point':>9} {'ratio':>7} {'differ':>9}"
    )
    for name in names:
        if len(rows) == (len(names) if options.only else options.crystals):
            break
        structure = primitive_cell(Structure.from_file(FOLDER / f"{name}.cif"))
        ion = mobile_ion(structure)
        if ion is None or not structure.is_ordered:
            continue
        try:
            rows.append(compare(name, structure, ion, potential, options))
        except CandidateError as error:
            print(f"{name}: {error}", flush=True)
            continue
        print_row(rows[-1])
    if not rows:
        raise SystemExit("No crystal could be compared.")
    ratios = [row["their_seconds"] / row["seconds"] for row in rows]
    fewer = [row["their_evaluations"] / row["evaluations"] for row in rows]
    print(
        f"\n{len(rows)} crystals: {math.exp(np.log(ratios).mean()):.1f} times fewer seconds and "
        f"{math.exp(np.log(fewer).mean()):.1f} times fewer evaluations (geometric means); largest difference "
        f"{1000 * np.nanmax([row['difference_eV'] for row in rows]):.2f} meV"
    )
    points = sum(row["points"] for row in rows)
    print(
        f"of {points} points: "
        + ", ".join(
            f"{sum(row[how] for row in rows) / points:.1%} saved by {how}" for how in ("symmetry", "refinement")
        )
        + f", {sum(row['excluded'] for row in rows) / points:.1%} excluded on both sides"
    )
    if any(row["sampled"] for row in rows):
        print(f"~ extrapolated from the seconds of {options.sample} points drawn at random")


if __name__ == "__main__":
    main()
