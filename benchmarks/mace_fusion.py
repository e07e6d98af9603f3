"""Fused MACE beside the general code of mace-torch: processor seconds of an evaluation, and what the numbers differ by.

    python benchmarks/mace_fusion.py [--weights FILE]

One thread. Crystals of 60 to 216 atoms with every atom displaced by 0.05 Å; the best of several calls, the two codes in
turn. Energies and forces are compared in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from hopflow.potentials import mace
from hopflow.potentials.registry import fetch_weights, get_entry
from hopflow.potentials.runtime import keep_freed_memory

NAME = "mace-mp-0-small"
CALLS = 4


def crystals() -> dict[str, Atoms]:
    phosphate = crystal(
        ["Li", "Fe", "P", "O", "O", "O"],
        [(0, 0, 0), (0.28, 0.25, 0.97), (0.09, 0.25, 0.42), (0.1, 0.25, 0.74), (0.46, 0.25, 0.21), (0.17, 0.05, 0.28)],
        spacegroup=62,
        cellpar=[10.33, 6.01, 4.69, 90, 90, 90],
    )  # fmt: skip
    made = {
        "LiCl, 64 atoms": bulk("LiCl", "rocksalt", a=5.13, cubic=True).repeat(2),
        "LiFePO4, 112 atoms": phosphate.repeat((1, 2, 2)),
        "LiF, 216 atoms": bulk("LiF", "rocksalt", a=4.03, cubic=True).repeat(3),
    }
    for number, atoms in enumerate(made.values()):
        atoms.rattle(0.05, seed=number)
    return made


def loaded(weights: Path, dtype: str, fused: bool) -> mace.MacePotential:
    """The potential, with or without fused parts."""
    entry, fuse = get_entry(NAME), mace.fuse
    file = weights / f"{NAME}.model" if weights.is_dir() else weights
    try:
        if not fused:
            mace.fuse = lambda _: 0
        return mace.MacePotential(entry, file, "cpu", dtype)  # type: ignore[arg-type]
    finally:
        mace.fuse = fuse


def seconds(call: Callable[[list[Atoms]], object], atoms: Atoms) -> float:
    began = time.process_time()
    call([atoms])
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    weights = fetch_weights(NAME, path=parser.parse_args().weights)
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| crystal | precision | energy and forces: general, fused, ratio | energy: general, fused, ratio | energy differs by | forces by |")  # fmt: skip  # noqa: E501
    print("|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {"forces": [], "energy": []}
    for dtype in ("float32", "float64"):
        pair = [loaded(weights, dtype, fused) for fused in (False, True)]
        for name, atoms in crystals().items():
            answers = [potential.energies_and_forces([atoms]) for potential in pair]
            best = {"forces": [np.inf, np.inf], "energy": [np.inf, np.inf]}
            for _ in range(CALLS):
                for which, potential in enumerate(pair):
                    for kind, call in (("forces", potential.energies_and_forces), ("energy", potential.energies)):
                        best[kind][which] = min(best[kind][which], seconds(call, atoms))
            cells = []
            for kind, (general, fused) in best.items():
                ratios[kind].append(general / fused)
                cells.append(f"{general:.3f} s, {fused:.3f} s, {general / fused:.1f}")
            (energy, forces), (fused_energy, fused_forces) = answers
            off = abs(energy[0] - fused_energy[0]), np.abs(forces[0] - fused_forces[0]).max()
            print(f"| {name} | {dtype} | {' | '.join(cells)} | {off[0]:.1e} eV | {off[1]:.1e} eV/Å |", flush=True)
    for kind, all_of in ratios.items():
        print(f"geometric mean of the ratios, {kind}: {np.exp(np.log(all_of).mean()):.2f}")


if __name__ == "__main__":
    main()
