"""How far bond-valence barriers lie from their converged values, by grid spacing, with and without refinement.

    python benchmarks/bvse_grid_convergence.py [--figure docs/figures/bvse_grid_convergence.svg] [--crystals 20]

The crystals: the known conductors that give a barrier, sorted by the volume of their primitive cell, up to 2,500 cubic
Angstrom; of these, 20 at equal steps of rank, the smallest and the largest included. The reference is the refined
barrier of the finest grid. Draws the figure, and prints median, 90th percentile and largest error and the processor
seconds of every spacing. Structures are looked for under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

import argparse
import csv
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
FOLDER = SHARED / "data" / "known_conductors"

SPACINGS_A = (0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
REFERENCE_A = 0.06
LARGEST_A3 = 2500.0

#: Errors are also told for barriers that a funnel could let pass.
LOW_BARRIER_EV = 1.5


def chosen_crystals(count: int) -> list[tuple[str, Any]]:
    """(label, decorated primitive structure) by the rule of the module's text."""
    from hopflow.makers.stage import primitive_cell
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import assign_oxidation_states
    from pymatgen.core import Structure

    found = []
    with (FOLDER / "index.csv").open() as stream:
        for row in csv.DictReader(stream):
            crystal = primitive_cell(Structure.from_file(FOLDER / f"{row['material_id']}.cif"))
            if crystal.volume > LARGEST_A3:
                continue
            try:
                charged = assign_oxidation_states(crystal, "Li")
                bond_valence_percolation(charged, "Li", BondValenceSettings(spacing_A=0.4))
            except CandidateError:
                continue
            found.append((f"{row['reduced_formula']} {row['material_id']}", charged))
    found.sort(key=lambda entry: (entry[1].volume, entry[0]))
    ranks = np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))
    return [found[rank] for rank in ranks]


def barriers(crystal: Any, spacing_A: float, refine: bool) -> tuple[Any, float]:
    """Result of the stage, and its processor seconds (the shorter of two runs for coarse grids)."""
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation

    settings = BondValenceSettings(spacing_A=spacing_A, refine=refine, max_grid_points=40_000_000)
    seconds = []
    for _ in range(2 if spacing_A > REFERENCE_A else 1):
        before = time.process_time()
        result = bond_valence_percolation(crystal, "Li", settings)
        seconds.append(time.process_time() - before)
    return result, min(seconds)


def measure(crystals: list[tuple[str, Any]]) -> dict[str, Any]:
    """Errors in eV and processor seconds: arrays (crystals, spacings, dimensions) and (crystals, spacings)."""
    plain, refined, fast, slow, reference, finest = [], [], [], [], [], []
    for name, crystal in crystals:
        best, seconds = barriers(crystal, REFERENCE_A, refine=True)
        reference.append(best.barriers_eV)
        finest.append(best.grid_barriers_eV)
        without = [barriers(crystal, spacing, refine=False) for spacing in SPACINGS_A]
        with_it = [barriers(crystal, spacing, refine=True) for spacing in SPACINGS_A]
        plain.append([result.barriers_eV for result, _ in without])
        refined.append([result.barriers_eV for result, _ in with_it])
        fast.append([s for _, s in without])
        slow.append([s for _, s in with_it])
        print(
            f"{name}: {len(crystal)} atoms, {crystal.volume:.0f} A3, reference "
            f"{'/'.join(f'{b:.4f}' for b in best.barriers_eV)} eV in {seconds:.1f} s; errors at 0.25 A: grid "
            f"{'/'.join(f'{a - b:+.3f}' for a, b in zip(plain[-1][2], best.barriers_eV, strict=True))}, refined "
            f"{'/'.join(f'{a - b:+.3f}' for a, b in zip(refined[-1][2], best.barriers_eV, strict=True))}",
            flush=True,
        )
    truth = np.array(reference)
    with np.errstate(invalid="ignore"):
        return {
            "truth": truth,
            "finest_grid": np.array(finest) - truth,
            "grid": np.array(plain) - truth[:, None],
            "refined": np.array(refined) - truth[:, None],
            "grid_seconds": np.array(fast),
            "refined_seconds": np.array(slow),
        }


def quantiles(errors: np.ndarray) -> tuple[float, float, float]:
    """Median, 90th percentile and largest of the finite errors' sizes."""
    sizes = np.abs(errors[np.isfinite(errors)])
    return (
        (float(np.median(sizes)), float(np.quantile(sizes, 0.9)), float(sizes.max())) if len(sizes) else (math.nan,) * 3
    )


def print_table(data: dict[str, Any]) -> None:
    print(
        "\n| spacing, Å | kind | 1D median / 90 % / max, eV | 2D | 3D | barriers below "
        f"{LOW_BARRIER_EV} eV, all dimensions | unmatched | processor s, median / sum |"
    )
    print("|---" * 8 + "|")
    low = data["truth"] < LOW_BARRIER_EV
    for number, spacing in enumerate(SPACINGS_A):
        for kind in ("grid", "refined"):
            errors = data[kind][:, number]
            cells = [" / ".join(f"{q:.4f}" for q in quantiles(errors[:, d])) for d in range(3)]
            cells.append(" / ".join(f"{q:.4f}" for q in quantiles(errors[low])))
            cells.append(str(int(np.isinf(errors).sum())))
            seconds = data[f"{kind}_seconds"][:, number]
            cells.append(f"{np.median(seconds):.3f} / {seconds.sum():.1f}")
            print(f"| {spacing} | {kind} | {' | '.join(cells)} |")
    finest = quantiles(data["finest_grid"])
    print(
        f"\nThe unrefined {REFERENCE_A} Å grid lies off the reference by {' / '.join(f'{q:.4f}' for q in finest)} eV."
    )


def draw(data: dict[str, Any], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "hopflow", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.9), constrained_layout=True)
    spacings = np.array(SPACINGS_A)
    looks = {"grid": ("#b2572b", "grid alone", -0.006), "refined": ("#1f6f8b", "refined bottleneck", 0.006)}
    least = 1e-4
    for d in range(3):
        panel = axes[d]
        for kind, (colour, label, shift) in looks.items():
            sizes = np.maximum(np.abs(data[kind][:, :, d]), least)
            for column, spacing in enumerate(spacings):
                there = np.isfinite(sizes[:, column])
                panel.scatter(
                    np.full(there.sum(), spacing + shift),
                    sizes[there, column],
                    s=9,
                    color=colour,
                    alpha=0.35,
                    linewidths=0,
                )
            median = [quantiles(data[kind][:, c, d])[0] for c in range(len(spacings))]
            upper = [quantiles(data[kind][:, c, d])[1] for c in range(len(spacings))]
            panel.plot(spacings, np.maximum(median, least), color=colour, label=f"{label}, median")
            panel.plot(spacings, np.maximum(upper, least), color=colour, linestyle="--", label=f"{label}, 90 %")
        panel.set(yscale="log", ylim=(least * 0.8, 2), title=f"{d + 1}D barrier", xlabel="grid spacing, Å")
        panel.grid(visible=True, color="0.92")
    axes[0].set_ylabel(f"error against the refined {REFERENCE_A} Å grid, eV\n(drawn at {least:g} eV where smaller)")
    axes[0].legend(fontsize=7, loc="center", bbox_to_anchor=(0.5, 0.3), framealpha=0.9)
    panel = axes[3]
    for kind, (colour, label, _) in looks.items():
        seconds = np.median(data[f"{kind}_seconds"], axis=0)
        upper = [quantiles(data[kind][:, c].ravel())[2] for c in range(len(spacings))]
        panel.plot(seconds, np.maximum(upper, least), color=colour, marker="o", markersize=4, label=label)
        for x, y, spacing in zip(seconds, upper, spacings, strict=True):
            panel.annotate(
                f"{spacing:g}", (x, max(y, least)), textcoords="offset points", xytext=(4, 4), fontsize=7, color=colour
            )
    panel.set(
        xscale="log", yscale="log", title="cost", xlabel="processor time, s (median crystal)",
        ylabel="largest error, eV",
    )  # fmt: skip
    panel.grid(visible=True, color="0.92")
    panel.legend(fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "bvse_grid_convergence.svg")
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    options = parser.parse_args()
    if not (FOLDER / "index.csv").exists():
        raise SystemExit(f"{FOLDER} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    warnings.simplefilter("ignore")
    data = measure(chosen_crystals(options.crystals))
    print_table(data)
    draw(data, options.figure)
    print(f"figure: {options.figure}, {options.figure.stat().st_size / 1e3:.0f} kB")
    if options.output:
        options.output.write_text(json.dumps({key: values.tolist() for key, values in data.items()}))


if __name__ == "__main__":
    main()
