"""What the options of the bond-valence stage do to the barriers of known conductors, one option at a time.

    python benchmarks/bvse_options.py

Change of the 1D, 2D and 3D barrier against the defaults: median of its size, largest, and the rank correlation of the
1D barriers with and without. Needs ``known_conductors`` under ``HOPFLOW_SHARED`` (by default ``../shared``).
"""

import os
from pathlib import Path

import numpy as np
from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
from hopflow.transport.errors import CandidateError
from hopflow.transport.structures import assign_oxidation_states, read_structures
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data" / "known_conductors"
OPTIONS = {
    "radii: softbv": {"radii": "softbv"},
    "screening: 0.70": {"screening": 0.70},
    "screening: 0.78": {"screening": 0.78},
    "balance_charges: true": {"balance_charges": True},
    "cutoff_A: 8": {"cutoff_A": 8.0},
    "cutoff_A: 15": {"cutoff_A": 15.0},
}


def main() -> None:
    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    crystals, defaults = [], []
    for path in sorted(FOLDER.glob("*.cif")):
        try:
            decorated = assign_oxidation_states(read_structures(path)[0].structure, "Li")
            defaults.append(bond_valence_percolation(decorated, "Li").barriers_eV)
            crystals.append(decorated)
        except CandidateError as error:
            print(f"{path.stem} left out: {error.reason}")
    before = np.array(defaults)
    print(f"\n{len(crystals)} crystals\n")
    print("| setting | median change 1D / 2D / 3D, eV | largest 1D / 2D / 3D, eV | rank correlation, 1D |")
    print("|---|---|---|---|")
    for name, option in OPTIONS.items():
        settings = BondValenceSettings(**option)
        after = np.array([bond_valence_percolation(crystal, "Li", settings).barriers_eV for crystal in crystals])
        both = np.isfinite(before) & np.isfinite(after)
        changes = [np.abs(after[both[:, k], k] - before[both[:, k], k]) for k in range(3)]
        medians = " / ".join(f"{np.median(change):.3f}" for change in changes)
        largest = " / ".join(f"{change.max():.2f}" for change in changes)
        print(f"| {name} | {medians} | {largest} | {spearmanr(before[:, 0], after[:, 0])[0]:.2f} |")


if __name__ == "__main__":
    main()
