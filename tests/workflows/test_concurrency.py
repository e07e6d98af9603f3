"""Two launchers at the same time on one server: every candidate is answered once, and the budget is shared once."""

import json
from collections import Counter
from typing import Any

import pytest
from crashes import faults, forked, spec_of, start_forked, verdicts, was_killed
from hopflow.workflows import campaign as life
from hopflow.workflows import mending
from hopflow.workflows.database import Database, create_indexes
from hopflow.workflows.launcher import Launcher
from hopflow.workflows.liveness import in_turn, is_dead, launcher_name
from places import Place

EDGES = {f"m{n}": 5.4 + 0.12 * n for n in range(12)}


def launch(database: Database, place: Place) -> None:
    create_indexes(database)
    spec = spec_of(place.folder, edges_A=EDGES)
    life.launch(database, spec, life.resolve(spec, place.home), place.home)


def run(database: Database) -> None:
    Launcher(database, ["storm"], workers=1).run()


def resume(database: Database) -> None:
    life.resume(database, "storm")
    run(database)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = Place(tmp_path_factory.mktemp("calm"))
    forked(place, lambda database: launch(database, place))
    forked(place, run)
    with place.open(read_only=True) as database:
        found = verdicts(database)
    assert len(found["budgets"]["gnn"]["judged"]) > 3
    assert sum(row.get("dft", {}).get("status") == "passed" for row in found.values() if isinstance(row, dict)) >= 2
    return found


def computed(place: Place) -> Counter[tuple[str, str]]:
    """How often each candidate was computed at each stage, as the jobs' diaries tell."""
    rows = [
        json.loads(line)["result"]
        for diary in (place.home / "checkpoints" / "jobs").glob("*/*.jsonl")
        for line in diary.read_text().splitlines()
        if "result" in line
    ]
    return Counter((row["material_id"], row["stage"]) for row in rows)


@pytest.fixture(autouse=True)
def _settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "SETTLING_SECONDS", 0.5)


@pytest.fixture
def server(place: Place) -> Place:
    if place.uri is None:
        pytest.skip("the embedded database has one launcher at a time")
    forked(place, lambda database: launch(database, place))
    return place


def test_two_launchers_share_a_campaign(server: Place, calm: dict[str, Any]) -> None:
    both = [start_forked(server, run), start_forked(server, run)]
    assert [was_killed(child) for child in both] == [False, False]
    with server.open() as database:
        assert verdicts(database) == calm
        assert faults(database) == []
        launches = list(database.launchpad.launches.find({}))
        assert len(launches) == database.launchpad.fireworks.count_documents({})
        assert len({row["fworker"]["name"] for row in launches}) == 2
    assert set(computed(server).values()) == {1}


def test_one_of_two_launchers_is_killed(server: Place, calm: dict[str, Any]) -> None:
    victim, survivor = start_forked(server, run, 45), start_forked(server, run)
    assert was_killed(victim)
    assert not was_killed(survivor)
    forked(server, resume)
    with server.open() as database:
        assert verdicts(database) == calm
        assert faults(database) == []
    assert set(computed(server).values()) == {1}


def test_two_advances_at_once_add_every_workflow_once(server: Place, calm: dict[str, Any]) -> None:
    def step(database: Database) -> None:
        for _ in range(5):
            life.advance(database, "storm")

    def forget_jobs(database: Database) -> None:
        database.launchpad.workflows.delete_many({})
        database.launchpad.fireworks.delete_many({})

    forked(server, forget_jobs)
    children = [start_forked(server, step) for _ in range(3)]
    assert [was_killed(child) for child in children] == [False] * 3
    forked(server, run)
    with server.open() as database:
        assert verdicts(database) == calm
        assert faults(database) == []


def test_a_dead_process_does_not_keep_its_turn(server: Place) -> None:
    def take_the_turn_and_die(database: Database) -> None:
        with in_turn(database, "storm"):
            database.campaigns.update_one({"_id": "storm"}, {"$set": {"note": "in turn"}})

    assert forked(server, take_the_turn_and_die, 2)
    with server.open() as database:
        holder = database.campaigns.find_one({"_id": "storm"})["turn"]["holder"]
        assert is_dead(holder)
        assert not is_dead(launcher_name())
        with in_turn(database, "storm"):
            assert database.campaigns.find_one({"_id": "storm"})["turn"]["holder"] == launcher_name()
        assert "turn" not in database.campaigns.find_one({"_id": "storm"})
