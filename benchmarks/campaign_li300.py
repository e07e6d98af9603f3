"""The 300-material campaign of ``examples/li300.yaml`` on local structures, with its cost by stage.

    python benchmarks/campaign_li300.py [--workers 2] [--home FOLDER]

Needs ``materials_project_li/structures.jsonl.gz`` under ``HOPFLOW_SHARED`` (by default ``../shared``); says so
and stops where it is absent. Interrupted, it goes on where it stood.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HOPFLOW_SHARED", ROOT.parent / "shared"))
STRUCTURES = SHARED / "data" / "materials_project_li" / "structures.jsonl.gz"


def hopflow(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "hopflow", "--home", str(home), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}")
    return done.stdout


def write_spec(home: Path) -> Path:
    spec = yaml.safe_load((ROOT / "examples" / "li300.yaml").read_text())
    spec["materials"] = {"mp_ids": str(ROOT / "examples" / "li300.txt"), "structures": str(STRUCTURES)}
    home.mkdir(parents=True, exist_ok=True)
    path = home / "li300.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "li300")
    options = parser.parse_args()
    if not STRUCTURES.exists():
        raise SystemExit(f"{STRUCTURES} is not there; set HOPFLOW_SHARED to the folder that holds data/.")

    walls = {}
    started = time.perf_counter()
    print(hopflow(options.home, "launch", str(write_spec(options.home))).strip())
    walls["launch"] = time.perf_counter() - started
    started = time.perf_counter()
    print(hopflow(options.home, "resume", "li300", "--workers", str(options.workers)))
    walls["run"] = time.perf_counter() - started

    status = json.loads(hopflow(options.home, "status", "li300", "--json"))
    rows = json.loads(hopflow(options.home, "query", "li300", "--json"))
    print("| stage | entered | passed | rejected | failed | s a material (mean) | s in all, one core | reasons |")
    print("|---|---|---|---|---|---|---|---|")
    for stage, line in status["stages"].items():
        seconds = [row["stages"][stage].get("seconds") or 0.0 for row in rows if stage in row["stages"]]
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(line["reasons"].items()))
        mean = line["seconds_per_material"]
        print(
            f"| {stage} | {line['entered']} | {line['passed']} | {line['rejected']} | {line['failed']} | "
            f"{'-' if mean is None else f'{mean:.2f}'} | {sum(seconds):.0f} | {reasons or '-'} |"
        )
    print(f"wall time: launch {walls['launch']:.1f} s, run {walls['run']:.1f} s with {options.workers} workers\n")

    for stage in status["stages"]:
        lost = [r for r in rows if r["stages"].get(stage, {}).get("status") in ("rejected", "failed")]
        if lost:
            print(hopflow(options.home, "why", "li300", lost[0]["material_id"]))
    hopflow(options.home, "report", "li300", "-o", str(options.home / "li300.html"))
    print(f"report: {options.home / 'li300.html'}")


if __name__ == "__main__":
    main()
