"""The bvse stage over every lithium compound of the Materials Project, as a real campaign in the embedded database.

    python benchmarks/campaign_materials_project_li.py [--limit 300 --seed 0] [--workers 2] [--spacing 0.25]

Prints how many compounds got a barrier, a table of failures by reason with examples, and what the campaign cost in wall
minutes and processor seconds, beside what the computation alone cost. Needs ``materials_project_li`` under
``HOPFLOW_SHARED`` (by default ``../shared``); says so and stops where it is absent. Interrupted, it goes on where it
stood; a fresh ``--home`` starts anew. ``--limit`` takes a random sample.
"""

import argparse
import collections
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
FOLDER = SHARED / "data" / "materials_project_li"
NAME = "materials-project-li"


class Cost:
    """Wall and processor seconds of the commands run so far, by what they were for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.wall: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    def run(self, what: str, *words: str) -> str:
        command = [sys.executable, "-m", "hopflow", "--home", str(self.home), *words]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall[what] = time.perf_counter() - started
        self.processor[what] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode != 0:
            sys.stderr.write(done.stdout)
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}")
        return done.stdout


def write_campaign(options: argparse.Namespace) -> Path:
    """Campaign file of the run; its id list too, where a sample is wanted."""
    options.home.mkdir(parents=True, exist_ok=True)
    materials: dict[str, Any] = {"structures": str(FOLDER / "structures.jsonl.gz")}
    if options.limit:
        with (FOLDER / "index.csv").open() as stream:
            known = [row["material_id"] for row in csv.DictReader(stream)]
        chosen = sorted(random.Random(options.seed).sample(known, options.limit))
        ids = options.home / "ids.txt"
        ids.write_text("\n".join(chosen) + "\n")
        materials["mp_ids"] = str(ids)
    # What the bond-valence method itself can answer for is what is counted.
    stage = {"settings": {"spacing_A": options.spacing, "interstitial_network": "never"}}
    campaign = {
        "name": NAME,
        "ion": "Li",
        "materials": materials,
        "stages": {"bvse": stage},
        "chunk_size": options.chunk_size,
    }
    path = options.home / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(campaign, sort_keys=False))
    return path


def outcome(row: dict[str, Any]) -> tuple[str, str, str]:
    """How a row ended, ``barrier``, ``no path`` or ``failed``; with the reason's code and its sentence."""
    for stage in ("bvse", "intake"):
        entry = row["stages"].get(stage)
        if entry is None:
            continue
        if entry.get("status") == "failed" or stage == "intake":
            return "failed", str(entry.get("reason")), str(entry.get("message"))
        barrier = (entry.get("values") or {}).get("barrier_1d_eV", entry.get("value"))
        return ("no path" if barrier is None else "barrier"), "", ""
    return "failed", "no result", "the row names no stage"


def print_failures(rows: list[dict[str, Any]]) -> None:
    groups: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for row in rows:
        kind, reason, message = outcome(row)
        if kind == "failed":
            groups[reason].append((row["material_id"], message))
    print("| reason | compounds | three of them |")
    print("|---|---|---|")
    for reason, found in sorted(groups.items(), key=lambda item: -len(item[1])):
        examples = "; ".join(f"{name}: {message[:150]}" for name, message in found[:: max(1, len(found) // 3)][:3])
        print(f"| {reason} | {len(found)} | {examples} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=0, help="a random sample of so many compounds; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--spacing", type=float, default=0.25, help="grid spacing in Angstrom")
    parser.add_argument("--chunk-size", type=int, default=100)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    if not (FOLDER / "structures.jsonl.gz").exists():
        raise SystemExit(f"{FOLDER} is not there; set HOPFLOW_SHARED to the folder that holds data/.")
    options.home = options.home or ROOT / "build" / (NAME + (f"-{options.limit}-{options.seed}" * bool(options.limit)))

    cost = Cost(options.home)
    print(cost.run("launch", "launch", str(write_campaign(options))).strip(), flush=True)
    cost.run("run", "resume", NAME, "--workers", str(options.workers))
    rows = json.loads(cost.run("query", "query", NAME, "--json"))

    counts = collections.Counter(outcome(row)[0] for row in rows)
    computing = [float(row["stages"]["bvse"].get("seconds") or 0.0) for row in rows if "bvse" in row["stages"]]
    print_failures(rows)
    print(
        f"\n{len(rows)} compounds: {counts['barrier']} with a barrier ({counts['barrier'] / len(rows):.1%}), "
        f"{counts['no path']} without a path below the energy ceiling, {counts['failed']} failed"
    )
    for what in cost.wall:
        print(f"{what}: {cost.wall[what] / 60:.2f} min wall, {cost.processor[what]:.0f} s of processor time")
    spent = cost.processor["launch"] + cost.processor["run"]
    print(
        f"in all {(cost.wall['launch'] + cost.wall['run']) / 60:.1f} min wall with {options.workers} workers and "
        f"{spent:.0f} s of processor time, of which the stage's own {sum(computing):.0f} s "
        f"({sum(computing) / spent:.0%}; {1e3 * sum(computing) / max(1, len(computing)):.0f} ms a compound)"
    )


if __name__ == "__main__":
    main()
