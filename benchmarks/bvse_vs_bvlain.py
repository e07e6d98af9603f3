"""The bond-valence stage beside BVlain 0.25.1: barriers, time and memory of the 50 known conductors, in one run.

    python benchmarks/bvse_vs_bvlain.py [--bvlain-python PYTHON] [--spacing 0.2] [--only mp-942733 ...]

BVlain is no dependency of hopflow; it runs in the interpreter that ``--bvlain-python`` or ``HOPFLOW_BVLAIN_PYTHON``
names (by default this one). Every crystal gets a fresh process on either side, held on one core. Both sides report
processor seconds of field and percolation (compiled and imported before; the shortest of up to three runs) and the
growth of resident memory above the warmed-up process. Ours runs twice: "agreement" on BVlain's own grid points with its
connectivity, its charges and its zero (the global minimum), without refinement; and as the stage runs by default. A
star marks crystals to which BVlain assigns charges that it has no parameters for, or none; it then gets ours, so that
its numbers can be compared at all.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from bvlain_worker import forget_highest_memory, resident_MB, shortest, use_one_core

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
FOLDER = SHARED / "data" / "known_conductors"

#: Step at which BVlain's bisection of 10 eV ends (10 / 2^10), rounded up as in its report.
BISECTION_EV = 0.012


def ours(arguments: list[str]) -> None:
    """Compute one crystal in this process and print a JSON line: MODE STRUCTURE SPACING SHAPE."""
    use_one_core()
    warnings.simplefilter("ignore")
    import numpy as np
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_field, bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.percolation import percolate_grid
    from pymatgen.core import Structure

    mode, file, spacing, shape = arguments[0], arguments[1], float(arguments[2]), json.loads(arguments[3])
    structure = Structure.from_file(file)
    # A small crystal with every kind of term compiles and loads all that is used; what is kept of it is small.
    warm = Structure(4.0 * np.eye(3), ["Li1+", "Na1+", "O2-"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]])
    if mode == "agreement":
        plain = BondValenceSettings(grid_shape=tuple(shape), refine=False)

        def run(crystal: Structure = structure, settings: BondValenceSettings = plain) -> Any:
            field = bond_valence_field(crystal, "Li", settings)
            return field, percolate_grid(field.values, 26).barriers_from_global_minimum_eV

        run(warm, BondValenceSettings(spacing_A=0.8, refine=False))
    else:
        stage = BondValenceSettings(spacing_A=spacing)

        def run(crystal: Structure = structure, settings: BondValenceSettings = stage) -> Any:
            return bond_valence_percolation(crystal, "Li", settings)

        bond_valence_percolation(warm, "Li", BondValenceSettings(spacing_A=0.8))
    resting = forget_highest_memory()
    try:
        answer, processor, wall = shortest(run)
    except CandidateError as error:
        print(json.dumps({"error": f"{error.reason}: {error}"}))
        return
    line: dict[str, Any] = {"processor_s": processor, "wall_s": wall, "memory_MB": resident_MB("VmHWM") - resting}
    if mode == "agreement":
        field, line["barriers_eV"] = answer
        line["pair_terms"] = field.pair_terms
        for name, settings in (("field_s", plain), ("field_without_symmetry_s", replace(plain, symmetry=False))):
            _, line[name], _ = shortest(lambda settings=settings: bond_valence_field(structure, "Li", settings))
        reduced = percolate_grid(field.values, 26, field.lattice).barriers_from_global_minimum_eV
        line["reduced_neighbours_eV"] = reduced
    else:
        line |= {"barriers_eV": answer.barriers_eV, "grid_shape": list(answer.grid_shape)}
        line["from_global_eV"] = answer.barriers_from_global_minimum_eV
    print(json.dumps(line))


def exponentials_per_second() -> float:
    """Peak rate of float64 ``numpy.exp`` on an array that stays in the first-level cache, one core."""
    import numpy as np

    x = np.linspace(-8.0, 2.0, 2048)
    out = np.empty_like(x)
    best = math.inf
    for _ in range(20):
        before = time.perf_counter()
        for _ in range(500):
            np.exp(x, out=out)
        best = min(best, time.perf_counter() - before)
    return 500 * x.size / best


def process(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def own_percolation_of(field_file: Path) -> list[float]:
    """Exact barriers from the global minimum of a stored field, connectivity as BVlain's."""
    import numpy as np
    from hopflow.transport.percolation import percolate_grid

    return list(percolate_grid(np.load(field_file), 26).barriers_from_global_minimum_eV)


def charged_by_hopflow(cif: Path) -> str | None:
    """JSON of the crystal with hopflow's charges, None where it refuses it."""
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import assign_oxidation_states
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            charged = assign_oxidation_states(Structure.from_file(cif), "Li")
        except CandidateError:
            return None
    charged.properties = {}
    return str(charged.to_json())


def compare(cif: Path, bvlain_python: str, spacing: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        field, decorated, charged = (Path(folder, name) for name in ("field.npy", "decorated.json", "charged.json"))
        worker = str(Path(__file__).with_name("bvlain_worker.py"))
        command = [bvlain_python, worker, str(cif), str(spacing), str(field), str(decorated)]
        text = charged_by_hopflow(cif)
        if text:
            charged.write_text(text)
            command.append(str(charged))
        line: dict[str, Any] = {"bvlain": process(command)}
        me = [sys.executable, __file__, "--one"]
        line["stage"] = process([*me, "stage", str(cif), str(spacing), "null"])
        if "error" not in line["bvlain"]:
            shape = json.dumps(line["bvlain"]["grid_shape"])
            line["agreement"] = process([*me, "agreement", str(decorated), str(spacing), shape])
            line["bvlain_field_exact"] = own_percolation_of(field)
    return line


def three(barriers: list[float]) -> str:
    return "/".join("inf" if math.isinf(b) else f"{b:.3f}" for b in barriers)


def difference(theirs: list[float], mine: list[float]) -> list[float]:
    """BVlain less ours for each dimension; nothing where both find no path below 10 eV."""
    capped = [math.inf if b > 10.0 else b for b in mine]
    return [0.0 if math.isinf(a) and math.isinf(b) else a - b for a, b in zip(theirs, capped, strict=True)]


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bvlain-python", default=os.environ.get("HOPFLOW_BVLAIN_PYTHON", sys.executable))
    parser.add_argument("--spacing", type=float, default=0.2)
    parser.add_argument("--only", nargs="*", help="Materials Project ids")
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    options = parser.parse_args()
    if not (FOLDER / "index.csv").exists():
        raise SystemExit(f"{FOLDER} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    probe = subprocess.run([options.bvlain_python, "-c", "import bvlain"], capture_output=True, check=False)
    if probe.returncode:
        raise SystemExit(
            f"{options.bvlain_python} has no bvlain; name an interpreter that has (pip install bvlain==0.25.1)."
        )
    with (FOLDER / "index.csv").open() as stream:
        crystals = [row for row in csv.DictReader(stream) if not options.only or row["material_id"] in options.only]
    use_one_core()
    print(
        "| material | id | atoms | grid | BVlain E1D/2D/3D, eV | ours on that grid | largest difference | BVlain s | "
        "ours on that grid s | ratio | stage s | ratio | BVlain MB | ours MB | stage MB | stage E1D/2D/3D, eV |"
    )
    print("|---" * 16 + "|")
    lines = {}
    for row in crystals:
        name = row["material_id"]
        lines[name] = line = compare(FOLDER / f"{name}.cif", options.bvlain_python, options.spacing)
        theirs, mine, stage = line["bvlain"], line.get("agreement", {}), line["stage"]
        if "error" in theirs or "error" in mine or "error" in stage:
            text = stage.get("error") or f"{three(stage['barriers_eV'])} in {stage['processor_s']:.3f} s"
            said = theirs.get("error", "ran")
            print(f"| {row['label']} | {name} | {row['n_sites_cif']} | BVlain: {said} | ours: {text} |", flush=True)
            continue
        off = difference(theirs["barriers_eV"], mine["barriers_eV"])
        line["difference_eV"] = off
        seconds = [side["processor_s"] for side in (theirs, mine, stage)]
        cells = [
            row["label"] + " *" * bool(theirs["own_charges_failed"]),
            name,
            row["n_sites_cif"],
            "x".join(map(str, theirs["grid_shape"])),
            three(theirs["barriers_eV"]),
            three(mine["barriers_eV"]),
            f"{max(off, key=abs):+.4f}",
            f"{seconds[0]:.2f}",
            f"{seconds[1]:.4f}",
            f"{seconds[0] / seconds[1]:.0f}",
            f"{seconds[2]:.4f}",
            f"{seconds[0] / seconds[2]:.0f}",
            f"{theirs['memory_MB']:.0f}",
            f"{mine['memory_MB']:.1f}",
            f"{stage['memory_MB']:.1f}",
            three(stage["barriers_eV"]),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    summary(lines)
    if options.output:
        options.output.write_text(json.dumps(lines, indent=1))


def summary(lines: dict[str, dict[str, Any]]) -> None:
    both = {name: line for name, line in lines.items() if "difference_eV" in line}
    print(
        f"\nBVlain ran {sum('error' not in x['bvlain'] for x in lines.values())} of {len(lines)} crystals, hopflow "
        f"{sum('error' not in x['stage'] for x in lines.values())}."
    )
    helped = {name: x["bvlain"]["own_charges_failed"] for name, x in both.items() if x["bvlain"]["own_charges_failed"]}
    print(f"* BVlain's own charges failed for {len(helped)} crystals, so it was given hopflow's:")
    for name, failure in helped.items():
        print(f"  {name}: {failure}")
    apart = [(name, line) for name, line in both.items() if max(map(abs, line["difference_eV"])) > BISECTION_EV]
    print(f"Thresholds apart by more than {BISECTION_EV} eV: {len(apart)} of {len(both)} crystals.")
    for name, line in apart:
        print(
            f"  {name}: BVlain {three(line['bvlain']['barriers_eV'])}, ours {three(line['agreement']['barriers_eV'])}; "
            f"exact percolation of BVlain's own field {three(line['bvlain_field_exact'])}"
        )
    sheared = [
        n
        for n, x in both.items()
        if max(map(abs, difference(x["agreement"]["barriers_eV"], x["agreement"]["reduced_neighbours_eV"]))) > 1e-9
    ]
    print(f"Neighbours in the reduced voxel change a barrier of {len(sheared)} crystals: {', '.join(sheared) or '-'}.")
    fine = {name: line for name, line in both.items() if not {"error"} & set(line["stage"])}
    ratios = {
        kind: [x["bvlain"]["processor_s"] / x[kind]["processor_s"] for x in fine.values()]
        for kind in ("agreement", "stage")
    }
    memory = {
        kind: [x["bvlain"]["memory_MB"] / max(x[kind]["memory_MB"], 0.1) for x in fine.values()]
        for kind in ("agreement", "stage")
    }
    terms = sum(x["agreement"]["pair_terms"] for x in fine.values())
    rate, plain_rate = (
        terms / sum(x["agreement"][name] for x in fine.values()) for name in ("field_s", "field_without_symmetry_s")
    )
    peak = exponentials_per_second()
    garnet = lines.get("mp-942733")
    for kind, words in (("agreement", "on BVlain's grid"), ("stage", "stage as it runs by default")):
        print(
            f"speed ratio, {words}: geometric mean {geometric_mean(ratios[kind]):.1f}, "
            f"least {min(ratios[kind]):.1f}, largest {max(ratios[kind]):.1f}; "
            f"memory ratio: geometric mean {geometric_mean(memory[kind]):.0f}, least {min(memory[kind]):.1f}"
        )
        if garnet and "difference_eV" in garnet:
            print(
                f"  LLZO, 192 atoms: {garnet['bvlain']['processor_s'] / garnet[kind]['processor_s']:.1f} times faster "
                f"({garnet['bvlain']['processor_s']:.1f} s against {garnet[kind]['processor_s']:.3f} s), memory "
                f"{garnet['bvlain']['memory_MB']:.0f} MB against {garnet[kind]['memory_MB']:.1f} MB"
            )
    print(
        f"pair terms a second: {rate:.3g} with symmetry, {plain_rate:.3g} each summed; numpy's exp (float64, cached): "
        f"{peak:.3g} a second; ratio {rate / peak:.2f} and {plain_rate / peak:.2f} (a term that is not tabulated needs "
        "an exp, or an erfc)"
    )
    print(f"geometric-mean speed ratio: {geometric_mean(ratios['stage']):.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        ours(sys.argv[2:])
    else:
        main()
