"""The level with two stages side by side: what leads on from it when one of the two breaks, fails or has a budget."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import TROUBLE, faults, spec_of, use_instant_stages
from hopflow.workflows import campaign as life
from hopflow.workflows.database import Database, create_indexes
from hopflow.workflows.launcher import Launcher
from hopflow.workflows.ledger import Ledger

EDGES = {"a": 5.6, "b": 5.7}
Trouble = Callable[[dict[str, str]], None]


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """Say which stage has which trouble from now on."""
    path = tmp_path / "trouble.json"

    def say(what: dict[str, str]) -> None:
        path.write_text(json.dumps(what))

    say({})
    monkeypatch.setenv(TROUBLE, str(path))
    use_instant_stages(monkeypatch.setattr)
    return say


@pytest.fixture
def database(tmp_path: Path) -> Any:
    from hopflow.workflows.database import open_database

    with open_database(tmp_path / "home") as opened:
        create_indexes(opened)
        yield opened


def launch(database: Database, folder: Path, stages: dict[str, Any]) -> None:
    spec = spec_of(folder, stages=stages, edges_A=EDGES)
    life.launch(database, spec, life.resolve(spec, folder / "home"), folder / "home")


def run(database: Database) -> Launcher:
    launcher = Launcher(database, ["storm"], workers=1)
    launcher.run()
    return launcher


def fates(database: Database) -> dict[str, dict[str, str]]:
    return {
        row["material_id"]: {stage: entry["status"] for stage, entry in row["stages"].items() if stage != "intake"}
        for row in Ledger(database, "storm").rows()
    }


def by_join(database: Database) -> list[bool]:
    rows = database.collection("outputs").find({"metadata.stage": "after pes and neb"})
    return [row["output"]["passed"] for row in rows]


WHOLE = {"pes": "passed", "neb": "passed", "dft": "passed"}


def test_the_join_leads_on(database: Database, tmp_path: Path, trouble: Trouble) -> None:
    launch(database, tmp_path, {"pes": {}, "neb": {}, "dft": {}})
    run(database)
    assert fates(database) == {"a": WHOLE, "b": WHOLE}
    assert by_join(database) == [True, True]
    # The join itself added the last stage to its own workflow: nothing was left for `advance`.
    assert [len(row["nodes"]) for row in database.launchpad.workflows.find({})] == [4, 4]


def test_a_broken_stage_holds_the_candidate_until_it_is_repaired(
    database: Database, tmp_path: Path, trouble: Trouble
) -> None:
    trouble({"pes": "broken"})
    launch(database, tmp_path, {"pes": {}, "neb": {}, "dft": {}})
    assert len(run(database).jobs_failed) == 2
    assert fates(database) == {"a": {"neb": "passed"}, "b": {"neb": "passed"}}
    assert by_join(database) == [False, False]
    assert not life.advance(database, "storm").finished
    trouble({})
    assert life.resume(database, "storm").fizzled == 2
    run(database)
    assert fates(database) == {"a": WHOLE, "b": WHOLE}
    assert by_join(database) == [True, True]
    assert faults(database) == []


def test_a_failed_stage_is_tried_again_and_its_neighbour_is_not(
    database: Database, tmp_path: Path, trouble: Trouble
) -> None:
    trouble({"neb": "failed"})
    launch(database, tmp_path, {"pes": {}, "neb": {}, "dft": {}})
    run(database)
    lost = {"pes": "passed", "neb": "failed"}
    assert fates(database) == {"a": lost, "b": lost}
    assert life.advance(database, "storm").finished
    trouble({})
    assert life.resume(database, "storm", retry_failed=True).retried == 2
    run(database)
    assert fates(database) == {"a": WHOLE, "b": WHOLE}
    row = Ledger(database, "storm").row("a")["stages"]
    assert row["pes"]["reused_from"] is not None
    assert row["neb"]["attempt"] == 1
    assert sorted(by_join(database)) == [False, False, True, True]
    assert faults(database) == []


def test_a_budget_in_the_level_is_shared_before_anything_leads_on(
    database: Database, tmp_path: Path, trouble: Trouble
) -> None:
    launch(database, tmp_path, {"pes": {"gate": {"top": 1}}, "neb": {}, "dft": {}})
    run(database)
    assert fates(database) == {"a": WHOLE, "b": {"pes": "rejected", "neb": "passed"}}
    assert by_join(database) == []
    assert faults(database) == []


def test_without_a_next_level_nothing_waits(database: Database, tmp_path: Path, trouble: Trouble) -> None:
    launch(database, tmp_path, {"pes": {}, "neb": {}})
    run(database)
    assert fates(database) == {"a": {"pes": "passed", "neb": "passed"}, "b": {"pes": "passed", "neb": "passed"}}
    assert database.launchpad.fireworks.count_documents({}) == 4
    assert faults(database) == []


def test_resume_refuses_a_wrong_expression(database: Database, tmp_path: Path, trouble: Trouble) -> None:
    from hopflow.transport.errors import HopflowError

    launch(database, tmp_path, {"pes": {}})
    with pytest.raises(HopflowError, match="no regular expression"):
        life.resume(database, "storm", retry_failed=True, error_match="(")


def test_odd_material_ids(database: Database, tmp_path: Path, trouble: Trouble) -> None:
    """Ids are values to the database, never names of fields: dots, dollars, slashes and spaces are letters to it."""
    names = ["$set", "Li3N.v2", "a b/c", "Ω-phase", "x.$.y", "storm/$set"]
    spec = spec_of(
        tmp_path, stages={"bvse": {"gate": {"top": 3}}, "pes": {}, "neb": {}, "dft": {}},
        edges_A={name: 5.4 + 0.02 * n for n, name in enumerate(names)},
    )  # fmt: skip
    life.launch(database, spec, life.resolve(spec, tmp_path / "home"), tmp_path / "home")
    run(database)
    assert fates(database) == {
        name: {"bvse": "passed", **WHOLE} if n < 3 else {"bvse": "rejected"} for n, name in enumerate(names)
    }
    for name in names:
        assert Ledger(database, "storm").row(name)["material_id"] == name


def test_another_database_knows_nothing_of_this_one(tmp_path: Path, trouble: Trouble) -> None:
    """The same campaign anew with the same folder of checkpoints: what the first one's jobs noted is not taken over."""
    from hopflow.workflows.database import open_database

    for number, what in enumerate(("failed", "")):
        trouble({"pes": what})
        with open_database(tmp_path / f"database{number}") as database:
            create_indexes(database)
            launch(database, tmp_path, {"pes": {}})
            run(database)
            assert fates(database)["a"]["pes"] == (what or "passed")


def test_a_folder_that_cannot_be_written_is_named(database: Database, tmp_path: Path, trouble: Trouble) -> None:
    from hopflow.transport.errors import HopflowError

    launch(database, tmp_path, {"pes": {}})
    (tmp_path / "home" / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(HopflowError, match=r"checkpoints.*cannot be written"):
        run(database)
