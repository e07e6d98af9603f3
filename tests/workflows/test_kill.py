"""Kill -9 for real, at different stages, again and again: the campaign ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hopflow.workflows.ledger import Ledger
from places import DEMO, Place

pytestmark = [pytest.mark.weights]

CRYSTALS = ["Li3N", "Li2O", "LiF", "LiNbO3"]
STAGES = """
  bvse: {settings: {spacing_A: 0.4}, gate: {max: 0.9}}
  gnn: {gate: {quantity: barrier_1d_eV, top: 2}, settings: {model: geometry}}
  pes: {settings: {max_evaluations: 60, spacing_A: 0.6, min_length_A: 4.0}}
  neb: {settings: {images: 3, dtype: float32, min_length_A: 5.0, max_force_eV_per_A: 0.3}, gate: {max: 3.0}}
  dft:
"""


def write_spec(folder: Path, name: str) -> Path:
    files = ", ".join(str(DEMO / f"{crystal}.cif") for crystal in CRYSTALS)
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nmaterials: {{structures: [{files}]}}\nchunk_size: 2\nstages:{STAGES}")
    return path


def diaries(place: Place) -> dict[str, list[dict[str, Any]]]:
    """Rows of every job's diary; a line that is being written is left out."""
    found = {}
    for path in sorted((place.home / "checkpoints" / "jobs").glob("*/*.jsonl")):
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        found[path.stem] = rows
    return found


def stage_has(place: Place, stage: str, results: int) -> bool:
    rows = [row for diary in diaries(place).values() for row in diary if row.get("result", {}).get("stage") == stage]
    return len(rows) >= results


def files_of(place: Place, stage: str) -> list[Path]:
    return [path for path in (place.home / "checkpoints" / stage).rglob("*") if path.is_file()]


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the campaign ended before it could be killed"
        assert time.monotonic() < end, "the campaign never came to the point where it should be killed"
        time.sleep(0.05)


def kill_launcher(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def kill_compute_process(process: subprocess.Popen[bytes]) -> None:
    """Kill the first child of the launcher that computes (not Python's resource tracker)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
            return
    raise AssertionError("the launcher has no compute process")


def ledger_of(place: Place, name: str) -> dict[str, dict[str, Any]]:
    """The ledger without what must differ between two runs: times, job uuids and folders."""
    with place.open(read_only=True) as database:
        ledger = Ledger(database, name)
        rows = {}
        for row in ledger.rows():
            for entry in row["stages"].values():
                for key in ("seconds", "job_uuid", "completed_at", "reused_from", "content_key"):
                    entry.pop(key, None)
            rows[row["material_id"]] = row["stages"]
        assert ledger.document["state"] == "done"
        return rows


def test_a_campaign_that_is_killed_ends_like_one_that_is_not(place: Place) -> None:
    # The undisturbed campaign has a home of its own, so that nothing can be reused.
    calm = Place(place.folder / "calm", None)
    calm.folder.mkdir()
    calm.run("launch", str(write_spec(calm.folder, "calm")))
    calm.run("run", "calm", "--workers", "1")

    place.run("launch", str(write_spec(place.folder, "stormy")))
    process = place.start("run", "stormy", "--workers", "1")
    wait_for(lambda: stage_has(place, "bvse", 1), process)
    kill_launcher(process)
    for happened, kill in (
        (lambda: stage_has(place, "gnn", 1), kill_compute_process),
        (lambda: bool(files_of(place, "pes")), kill_launcher),
        (lambda: bool(files_of(place, "neb")), kill_launcher),
        (lambda: stage_has(place, "neb", 1), kill_launcher),
    ):
        process = place.start("resume", "stormy", "--workers", "1")
        wait_for(happened, process)
        kill(process)
        if process.poll() is None:
            kill_launcher(process)
    place.run("resume", "stormy", "--workers", "1")

    expected, found = ledger_of(calm, "calm"), ledger_of(place, "stormy")
    verdicts = {name: {s: (e["status"], e["reason"]) for s, e in stages.items()} for name, stages in found.items()}
    assert verdicts == {
        name: {s: (e["status"], e["reason"]) for s, e in stages.items()} for name, stages in expected.items()
    }
    for material, stages in expected.items():
        assert found[material].keys() == stages.keys(), material
        for stage, entry in stages.items():
            value = entry.pop("value", None)
            again = found[material][stage].pop("value", None)
            assert found[material][stage] == entry, (material, stage)
            assert again == (value if value is None else pytest.approx(value, abs=2e-3)), (material, stage)
    assert any("dft" in stages for stages in found.values())

    for uuid, rows in diaries(place).items():
        results = [row["result"]["material_id"] for row in rows if "result" in row]
        assert len(results) == len(set(results)), f"job {uuid} stored a result twice"
        for number, row in enumerate(rows):
            if "started" in row:
                assert not any(r.get("result", {}).get("material_id") == row["started"] for r in rows[:number]), (
                    f"job {uuid} computed {row['started']} again after its result was stored"
                )


def test_a_candidate_that_keeps_killing_its_worker_fails_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies on one candidate every time; after three deaths it fails, and its neighbour has its answer."""
    place.run("launch", str(write_spec(place.folder, "deadly")))
    killer = place.folder / "sitecustomize.py"
    killer.write_text(
        "import os, signal\n"
        "def hook(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('.jsonl') and arguments[1] == 'a':\n"
        "        import sys\n"
        "        frame = sys._getframe()\n"
        "        while frame is not None:\n"
        "            row = frame.f_locals.get('row')\n"
        "            if frame.f_code.co_name == '_write' and row == {'result': row.get('result')}:\n"
        "                if row['result']['material_id'] == 'Li2O' and row['result']['stage'] == 'bvse':\n"
        "                    if row['result']['reason'] != 'worker_died':\n"
        "                        os.kill(os.getpid(), signal.SIGKILL)\n"
        "            frame = frame.f_back\n"
        "import sys\n"
        "sys.addaudithook(hook)\n"
    )
    place.environment["PYTHONPATH"] = str(place.folder)
    place.run("run", "deadly", "--workers", "1")
    rows = ledger_of(place, "deadly")
    assert rows["Li2O"]["bvse"]["status"] == "failed"
    assert rows["Li2O"]["bvse"]["reason"] == "worker_died"
    assert rows["Li3N"]["bvse"]["status"] == "passed"
    assert rows["LiF"]["bvse"]["status"] == "passed"
