"""Plain FireWorks workers carry a campaign on a server down the funnel, each taking its own category alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crashes import MAKERS, forked, spec_of, verdicts
from hopflow.workflows import campaign as life
from hopflow.workflows.database import Database, create_indexes, jobflow_settings_yaml
from hopflow.workflows.launcher import Launcher
from places import Place

TESTS = Path(__file__).resolve().parents[1]


def launch(database: Database, place: Place) -> None:
    create_indexes(database)
    spec = spec_of(place.folder)
    life.launch(database, spec, life.resolve(spec, place.home), place.home)


@pytest.fixture
def server(place: Place) -> Place:
    if place.uri is None:
        pytest.skip("FireWorks' own workers need a server")
    forked(place, lambda database: launch(database, place))
    folder = place.folder
    (folder / "launchpad.yaml").write_text(f"host: {place.uri}\nuri_mode: true\nname: {place.uri.rpartition('/')[2]}\n")
    for category in ("cpu", "gpu", "dft"):
        (folder / f"{category}.yaml").write_text(f"name: {category} worker\ncategory: {category}\nquery: '{{}}'\n")
    with place.open() as database:
        (folder / "jobflow.yaml").write_text(jobflow_settings_yaml(database))
    return place


def fireworks(place: Place, program: str, *words: str) -> None:
    environment = {
        **os.environ,
        "JOBFLOW_CONFIG_FILE": str(place.folder / "jobflow.yaml"),
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).with_name(program)), "-l", "launchpad.yaml", *words]
    done = subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def work(place: Place, category: str) -> None:
    fireworks(place, "rlaunch", "-w", f"{category}.yaml", "rapidfire")


def jobs(database: Database) -> list[dict[str, Any]]:
    return list(database.launchpad.fireworks.find({"spec.campaign": "storm"}))


def states(database: Database) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for job in jobs(database):
        found.setdefault(job["spec"]["stage"], set()).add(job["state"])
    return found


def advance(place: Place) -> None:
    forked(place, lambda database: life.advance(database, "storm"))


def test_workers_of_each_category_carry_a_campaign(server: Place) -> None:
    work(server, "cpu")
    with server.open() as database:
        # The gate of bvse let through by itself; the budget of gnn waits for `advance`.
        assert states(database) == {"bvse": {"COMPLETED"}, "gnn": {"COMPLETED"}}
    advance(server)
    work(server, "cpu")
    with server.open() as database:
        found = states(database)
        assert (found["pes"], found["neb"], found["after pes and neb"]) == ({"READY"}, {"READY"}, {"WAITING"})
    work(server, "gpu")
    work(server, "cpu")
    work(server, "dft")
    advance(server)
    with server.open() as database:
        assert {state for found in states(database).values() for state in found} == {"COMPLETED"}
        for job in jobs(database):
            stage, spec = job["spec"]["stage"], job["spec"]
            category = MAKERS[stage].category if stage in MAKERS else "cpu"
            assert spec["_category"] == category, stage
            level = {"bvse": 0, "gnn": 1, "dft": 3}.get(stage, 2)
            assert spec["_priority"] == 10 * level
            launches = database.launchpad.launches.find({"fw_id": job["fw_id"]})
            assert [row["fworker"]["name"] for row in launches] == [f"{category} worker"]
        by_workers = verdicts(database)

    calm = Place(server.folder / "calm")
    calm.folder.mkdir()

    def whole(database: Database) -> None:
        launch(database, calm)
        Launcher(database, ["storm"], workers=1).run()

    forked(calm, whole)
    with calm.open(read_only=True) as database:
        assert verdicts(database) == by_workers

    # A job that `lpad` runs again adds its children again, which is FireWorks' way; no row may notice.
    with server.open() as database:
        first = next(job["fw_id"] for job in jobs(database) if job["spec"]["stage"] == "bvse")
        outputs = database.collection("outputs").count_documents({})
    fireworks(server, "lpad", "rerun_fws", "-i", str(first))
    work(server, "cpu")
    advance(server)
    with server.open() as database:
        assert verdicts(database) == by_workers
        assert database.candidates.count_documents({}) == 6
        assert database.collection("outputs").count_documents({}) == outputs
