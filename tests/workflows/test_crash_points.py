"""Kill -9 after a chosen write to the database: every kind of half-done state, then the same ledger as without it."""

from collections.abc import Iterator
from typing import Any

import pytest
from crashes import faults, forked, spec_of, verdicts
from hopflow.workflows import campaign as life
from hopflow.workflows import mending
from hopflow.workflows.database import Database, create_indexes
from hopflow.workflows.launcher import Launcher
from places import Place


def launch(database: Database, place: Place) -> None:
    spec = spec_of(place.folder)
    life.launch(database, spec, life.resolve(spec, place.home), place.home)


def run(database: Database) -> None:
    Launcher(database, ["storm"], workers=1).run()


def resume(database: Database) -> None:
    life.resume(database, "storm")
    run(database)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The ledger of the same campaign when nobody kills anything."""
    place = Place(tmp_path_factory.mktemp("calm"))

    def whole(database: Database) -> None:
        create_indexes(database)
        launch(database, place)
        run(database)

    forked(place, whole)
    with place.open(read_only=True) as database:
        assert faults(database) == []
        yield verdicts(database)


@pytest.fixture(autouse=True)
def _settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "SETTLING_SECONDS", 0.2)


def same_as_calm(place: Place, calm: dict[str, Any]) -> None:
    with place.open(read_only=True) as database:
        assert verdicts(database) == calm
        assert faults(database) == []


def test_the_undisturbed_campaign_has_every_fate(calm: dict[str, Any]) -> None:
    """So that the others compare something: a budget, a failure on each side of it, a lost join, a whole way."""
    fates = {name: {s: e["status"] for s, e in row.items()} for name, row in calm.items() if len(name) == 1}
    assert fates["a"]["dft"] == "passed"
    assert (fates["c"]["pes"], fates["c"]["neb"], "dft" in fates["c"]) == ("passed", "failed", False)
    assert fates["d"]["gnn"] == "rejected"
    assert (fates["e"]["bvse"], fates["f"]["bvse"]) == ("rejected", "failed")
    assert calm["budgets"]["gnn"]["judged"] == ["a", "b", "c", "d"]
    assert calm["state"] == "done"


def fresh(place: Place, after: int) -> Place:
    """A place of its own for one kill."""
    folder = place.folder / str(after)
    folder.mkdir()
    found = Place(folder, None if place.uri is None else f"{place.uri}_{after}")
    forked(found, create_indexes)
    return found


def drop(place: Place) -> None:
    if place.uri is not None:
        with place.open() as database:
            database.client.drop_database(database.name)


def test_killed_launch(place: Place, calm: dict[str, Any]) -> None:
    """Killed with nothing but the campaign stored, with one row of six, with a job that no workflow holds."""
    for after in (1, 4, 18) if place.uri else (1,):
        here = fresh(place, after)
        assert forked(here, lambda database, here=here: launch(database, here), after)
        forked(here, resume)
        same_as_calm(here, calm)
        drop(here)


def test_killed_launch_is_finished_by_run_alone(place: Place, calm: dict[str, Any]) -> None:
    """No budget may be shared out among the rows that a killed launch happened to store."""
    forked(place, create_indexes)
    assert forked(place, lambda database: launch(database, place), 6 if place.uri else 1)
    forked(place, run)
    same_as_calm(place, calm)


def test_killed_run(place: Place, calm: dict[str, Any]) -> None:
    """Killed after one of the run's writes: over 300 on a server, over 50 in the embedded database.

    On a server: a job reserved and not begun (2); children without a workflow
    (13); a finished job that its workflow calls running (14); a budget noted and applied to one row (98); a job
    without its workflow (104); one of two parents finished, which its workflow does not know, so that the job that
    waits for both would wait for ever (126).
    """
    for after in (2, 13, 14, 98, 104, 126) if place.uri else (3, 24, 40):
        here = fresh(place, after)
        forked(here, lambda database, here=here: launch(database, here))
        assert forked(here, run, after), after
        forked(here, resume)
        same_as_calm(here, calm)
        drop(here)


def test_killed_repair(place: Place, calm: dict[str, Any]) -> None:
    """The repair itself may be killed, several times over."""

    def begin(database: Database) -> None:
        create_indexes(database)
        launch(database, place)

    forked(place, begin)
    assert forked(place, run, 126 if place.uri else 30)
    for after in (2, 5) if place.uri else (1, 2):
        assert forked(place, resume, after)
    forked(place, resume)
    same_as_calm(place, calm)
