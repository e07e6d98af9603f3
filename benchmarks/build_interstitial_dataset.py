"""Interstitial graphs and bond-valence barriers of the lithium compounds of the Materials Project, as a data set.

    python benchmarks/build_interstitial_dataset.py [--limit 500] [--workers 2] [--output build/interstitial_dataset]

Needs ``materials_project_li`` under ``HOPFLOW_SHARED`` (by default ``../shared``); says so and stops where it is
absent. Interrupted, it goes on where it stood. Crystals come in an order that is drawn by ``--seed``, so ``--limit``
takes a random sample, and a larger limit goes on from a smaller one's shards.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared")) / "data" / "materials_project_li"


def chosen_rows(file: Path, limit: int, seed: int) -> list[str]:
    """Rows of the file in the drawn order, as text: all of them as Python objects would take a gigabyte."""
    with gzip.open(file, "rt") as stream:
        rows = [line for line in stream if line.strip()]
    rows.sort(key=lambda row: hashlib.sha256(f"{seed} {json.loads(row)['material_id']}".encode()).digest())
    return rows[:limit] if limit else rows


def structures(rows: list[str]) -> Iterator[tuple[str, Any]]:
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.structures import structure_from_row

    for text in rows:
        row = json.loads(text)
        try:
            yield row["material_id"], structure_from_row(row)
        except CandidateError as error:
            yield row["material_id"], error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=0, help="a random sample of so many compounds; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--spacing", type=float, default=0.25, help="grid spacing of the barriers in Angstrom")
    parser.add_argument("--max-atoms", type=int, default=200)
    parser.add_argument("--merge", type=float, default=0.0, help="merge voids closer than this, in Angstrom")
    parser.add_argument("--shard-size", type=int, default=50)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "interstitial_dataset")
    options = parser.parse_args()
    file = FOLDER / "structures.jsonl.gz"
    if not file.exists():
        raise SystemExit(f"{file} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from hopflow.learning.interstitial_dataset import DatasetSettings, build_dataset
    from hopflow.learning.interstitial_graphs import InterstitialGraphSettings
    from hopflow.transport.bvse import BondValenceSettings
    from hopflow.transport.interstitial_network import InterstitialNetworkSettings

    settings = DatasetSettings(
        graph=InterstitialGraphSettings(network=InterstitialNetworkSettings(merge_close_A=options.merge)),
        bond_valence=BondValenceSettings(spacing_A=options.spacing),
        max_atoms=options.max_atoms,
    )
    rows = chosen_rows(file, options.limit, options.seed)
    started = time.perf_counter()

    def progress(line: str) -> None:
        print(f"[{time.perf_counter() - started:6.0f} s] {line}", flush=True)

    try:
        manifest = build_dataset(
            structures(rows), options.output, settings, progress, options.shard_size, options.workers, len(rows)
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    number = max(1, manifest["crystals"])
    size = sum(part.stat().st_size for part in options.output.glob("shard-*.npz"))
    print(f"\n| without a graph | compounds |\n|---|---|\n{lines(manifest['failures_by_reason'])}")
    print(f"| without a barrier | compounds |\n|---|---|\n{lines(manifest['unlabelled_by_reason'])}")
    graph_ms, barrier_ms = (1e3 * manifest[name] / number for name in ("graph_seconds", "barrier_seconds"))
    print(
        f"{len(rows)} compounds: {manifest['crystals']} graphs, {manifest['labelled']} with a barrier, of which "
        f"{manifest['without_path']} without a path below the energy ceiling; {graph_ms:.0f} ms a graph and "
        f"{barrier_ms:.0f} ms a barrier; {size / 1e6:.1f} MB in {options.output}"
    )


def lines(counts: dict[str, int]) -> str:
    return "".join(f"| {reason} | {count} |\n" for reason, count in counts.items())


if __name__ == "__main__":
    main()
