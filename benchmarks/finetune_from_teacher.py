"""Fine-tuning by `hopflow finetune` on frames of another potential: errors on materials that were never learned from.

    python benchmarks/finetune_from_teacher.py [--hosts 14] [--max-atoms 45] [--seed 0] [--epochs 4]

The teacher is CHGNet 0.3.0 (``pip install 'hopflow[chgnet]'``); the model is MACE-MP-0 small. Which paths are taken is
settled before any is run: paths of one structure class of the literature set with at most so many atoms in the cell;
hosts (compounds without the migrating ion) are drawn by lot and give their first two paths each. A host with all its
fillings is one material.

The teacher runs the band of `hopflow neb` on each path (five images; ends to 0.1 eV/Å, 12 steps: frames of a band that
has not come to rest are as good). Its seven images are frames with a ``path_id``; beside every second of them stands a
copy whose atoms are moved at random, by 0.06 Å in each direction (root mean square). Energies, forces and stress are
the teacher's. The frames are split by material, the model is trained, and both are judged by the teacher on the images
of the bands and the moved copies.

Printed: errors before and after on every split, their ratios, each barrier of the test materials, and seconds.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hopflow.learning.evaluation import host_formula, host_groups
from hopflow.learning.finetuning_evaluation import BARRIERS, COLUMNS, ENERGY, FORCES, error_table
from hopflow.potentials.registry import load_potential
from hopflow.transport.errors import CandidateError
from hopflow.transport.neb import BandSettings, run_band
from hopflow.transport.paths import MigrationPath
from hopflow.workflows.cli_finetune import run_fine_tuning
from hopflow.workflows.finetuning_config import FineTuning
from hopflow.workflows.reference_paths import read_references

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data"
PATHS = DATA / "migration_barriers" / "paths_train.jsonl.gz"

TEACHER = "chgnet-0.3.0"
PATHS_OF_A_HOST = 2
DISPLACEMENT_A = 0.06
END_LIMIT_EV_PER_A = 0.1
END_STEPS = 100


def choose(rows: list[dict[str, Any]], kind: str, max_atoms: int, hosts: int, seed: int) -> list[tuple[str, Any]]:
    """Material and row of each path."""
    small = [r for r in rows if r.get("structure_class") == kind and len(r["framework_species"]) < max_atoms]
    of_host: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row, group in zip(small, host_groups(small), strict=True):
        of_host[group].append(row)
    groups = sorted(of_host)
    drawn = sorted(np.random.default_rng(seed).permutation(len(groups))[:hosts].tolist())
    return [(host_formula(of_host[groups[g]][0]), row) for g in drawn for row in of_host[groups[g]][:PATHS_OF_A_HOST]]


def teacher_frame(teacher: Any, atoms: Atoms, material: str, path: str | None) -> Atoms:
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    teacher.calculator.calculate(bare, ["energy", "forces", "stress"], ["positions", "numbers", "cell", "pbc"])
    found = teacher.calculator.results
    results = {name: np.array(found[name], dtype=float) for name in ("forces", "stress")}
    frame = bare.copy()
    frame.calc = SinglePointCalculator(frame, energy=float(found["energy"]), **results)
    frame.info["material_id"] = material
    if path is not None:
        frame.info["path_id"] = path
    return frame


def make_frames(chosen: list[tuple[str, Any]], steps: int, seed: int, folder: Path) -> list[Atoms]:
    """Frames of every path; bands are kept, so that an interrupted run goes on."""
    teacher = load_potential(TEACHER)
    generator = np.random.default_rng(seed)
    settings = BandSettings(
        max_steps=steps, endpoint_max_force_eV_per_A=END_LIMIT_EV_PER_A, endpoint_max_steps=END_STEPS, split=False
    )
    frames = []
    for material, row in chosen:
        path, began = MigrationPath.from_row(row), time.perf_counter()
        try:
            band = run_band(path, teacher, settings, folder / "bands" / f"{row['path_id']}.npz")
        except CandidateError as error:
            print(f"{row['path_id']} left out: {error}", flush=True)
            continue
        energies = []
        for number, image in enumerate(band.images):
            frames.append(teacher_frame(teacher, image, material, row["path_id"]))
            energies.append(frames[-1].get_potential_energy())
            if number % 2 == 0:
                moved = image.copy()
                moved.positions += generator.normal(0.0, DISPLACEMENT_A, moved.positions.shape)
                frames.append(teacher_frame(teacher, moved, material, None))
        span_eV = np.ptp(energies)
        print(
            f"{row['path_id']} ({material}, {len(band.images[0])} atoms): {span_eV:.3f} eV, "
            f"{'at rest' if band.converged else band.reason}, {band.evaluations} evaluations, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="NASICON", help="structure class")
    parser.add_argument("--hosts", type=int, default=14, help="materials that are drawn")
    parser.add_argument("--max-atoms", type=int, default=45, help="atoms of the largest cell")
    parser.add_argument("--steps", type=int, default=12, help="of each band")
    parser.add_argument("--seed", type=int, default=0, help="of all lots")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "finetune_from_teacher")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other keys of the fine-tuning file")
    options = parser.parse_args()
    if not PATHS.is_file():
        raise SystemExit(f"{PATHS} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    rows = [reference.row for reference in read_references(PATHS)[0]]
    chosen = choose(rows, options.kind, options.max_atoms, options.hosts, options.seed)
    materials = list(dict.fromkeys(material for material, _ in chosen))
    print(
        f"{len(chosen)} paths of {len(materials)} materials, class {options.kind}, at most {options.max_atoms} atoms, "
        f"hosts drawn by lot with seed {options.seed}, before any is run:"
    )
    print(", ".join(f"{row['path_id']} ({material})" for material, row in chosen), flush=True)
    began, file = time.perf_counter(), options.output / "frames" / "teacher.extxyz"
    if not file.is_file():
        frames = make_frames(chosen, options.steps, options.seed, options.output)
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, frames, format="extxyz")
    made, began = time.perf_counter() - began, time.perf_counter()
    print(f"{len(read(file, ':'))} frames in {made:.0f} s", flush=True)
    content = {
        "dataset": file.parent,
        "output": options.output / "finetuned",
        "epochs": options.epochs,
        "validation_share": 0.15,
        "test_share": 0.3,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "stress_weight": 0.0,  # the cells stay as they are
        "seed": options.seed,
        "citation": f"{TEACHER} on paths of Devi et al. (arXiv 2508.06459)",
        **dict(each.split("=", 1) for each in options.set),
    }
    document = run_fine_tuning(
        Path("finetune_from_teacher"), FineTuning.model_validate(content), lambda line: print(line, flush=True)
    )
    print(
        f"fine-tuning and judging: {time.perf_counter() - began:.0f} s; epoch {document['chosen_epoch']} was chosen\n"
    )
    for split, each in document["data"]["splits"].items():
        print(f"{split}: {each['frames']} frames of {', '.join(each['materials'])}")
    heads = ["split", "", *COLUMNS.values()]
    table = [heads, ["---"] * len(heads), *error_table(document["before"], document["after"])]
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
    print("| test material | path | teacher, eV | before | after |\n|---|---|---|---|---|")
    both = zip(document["before"]["test"]["barriers"], document["after"]["test"]["barriers"], strict=True)
    for old, new in both:
        numbers = (new["reference_eV"], old["found_eV"], new["found_eV"])
        print(f"| {new['material']} | {new['path_id']} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    left = {
        name: document["after"]["test"][name] / document["before"]["test"][name] for name in (ENERGY, FORCES, BARRIERS)
    }
    print("\nOn materials never learned from, what is left of the errors: ", end="")
    print(", ".join(f"{COLUMNS[name].partition(' ')[0]} {share:.0%}" for name, share in left.items()))


if __name__ == "__main__":
    main()
