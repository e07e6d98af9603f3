"""Interstitial graphs and bond-valence barriers of the lithium compounds of the Materials Project, as a data set.

    python benchmarks/build_interstitial_dataset.py [--limit 500] [--workers 2] [--output build/interstitial_dataset]

Calls ``hopflow dataset interstitial``, whose options it takes, on ``materials_project_li`` under ``HOPFLOW_SHARED`` (by
default ``../shared``); says so and stops where it is absent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"), "data/materials_project_li/structures.jsonl.gz")


def main() -> None:
    if not FILE.exists():
        raise SystemExit(f"{FILE} is not there; set HOPFLOW_SHARED to the folder that holds data/.")

    from hopflow.workflows import cli

    options = sys.argv[1:]
    if not any(option.split("=")[0] == "--output" for option in options):
        options += ["--output", str(ROOT / "build" / "interstitial_dataset")]
    sys.argv = ["hopflow", "dataset", "interstitial", str(FILE), *options]
    cli.main()


if __name__ == "__main__":
    main()
