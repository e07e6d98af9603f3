"""Pretrain the small ALIGNN that the systems of Devi et al. start from, on lithium crystals of the Materials Project.

    python benchmarks/pretrain_alignn.py --output learning/checkpoints/alignn_pretrained.pt

Takes `../shared/data/materials_project_li` (or HOPFLOW_SHARED): energy above hull, band gap and volume per atom of
4,000 crystals of at most 40 atoms; some five minutes of one core. A second call goes on where the first was stopped.
The original pretraining sets are read by :func:`hopflow.learning.property_tables.matminer_properties` where they are to
be had.
"""

import argparse
import json
import os
import sys
from pathlib import Path

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main() -> None:
    """Read the crystals, train, print the held-out errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/alignn_pretrained.pt"))
    parser.add_argument("--crystals", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=24)
    chosen = parser.parse_args()
    folder = SHARED / "data" / "materials_project_li"
    if not folder.is_dir():
        sys.exit(f"skipped: there is no {folder}; set HOPFLOW_SHARED to the folder that holds data/.")

    from hopflow.learning.alignn_barriers import SMALL_SIZE
    from hopflow.learning.property_pretraining import PretrainingSettings, pretrain
    from hopflow.learning.property_tables import materials_project_properties

    table = materials_project_properties(
        folder / "structures.jsonl.gz", folder / "index.csv", most_atoms=40, most_crystals=chosen.crystals
    )
    settings = PretrainingSettings(SMALL_SIZE, epochs=chosen.epochs, batch_size=32, learning_rate=3e-3)
    metrics = pretrain(table, settings, chosen.output, progress=print)
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
