"""A campaign's life in one process group: launch, run, budgets, reuse, retry, cancel, rebuild. Real bvse throughout."""

import json
from pathlib import Path
from typing import Any

import pytest
from hopflow.transport.errors import HopflowError
from hopflow.workflows import campaign as life
from hopflow.workflows.database import Database
from hopflow.workflows.launcher import Launcher
from hopflow.workflows.ledger import Ledger
from hopflow.workflows.overview import overview
from hopflow.workflows.query import find
from hopflow.workflows.spec import CampaignSpec
from places import DEMO, Place

CRYSTALS = ["Li3N", "Li2O", "Li3OCl", "LiF", "LiCl", "LiNbO3"]


def spec_of(name: str, stages: dict[str, Any], **changes: Any) -> CampaignSpec:
    files = [str(DEMO / f"{crystal}.cif") for crystal in changes.pop("crystals", CRYSTALS)]
    return CampaignSpec(name=name, materials={"structures": files}, stages=stages, chunk_size=2, **changes)


def launch(database: Database, spec: CampaignSpec, home: Path) -> life.LaunchSummary:
    return life.launch(database, spec, life.resolve(spec, home), home)


def run(database: Database, *names: str) -> Launcher:
    launcher = Launcher(database, list(names), workers=1)
    launcher.run()
    return launcher


COARSE = {"settings": {"spacing_A": 0.4}}


def test_threshold_gate_sorts_candidates(ready: Database, place: Place) -> None:
    spec = spec_of("one", {"bvse": {**COARSE, "gate": {"max": 0.6}}})
    summary = launch(ready, spec, place.home)
    assert (summary.candidates, summary.workflows) == (6, 3)
    run(ready, "one")
    ledger = Ledger(ready, "one")
    for row in ledger.rows():
        entry = row["stages"]["bvse"]
        assert entry["status"] == ("passed" if entry["value"] <= 0.6 else "rejected"), row["material_id"]
        assert entry["threshold"] == 0.6
    assert {row["stages"]["bvse"]["status"] for row in ledger.rows()} == {"passed", "rejected"}
    assert ledger.document["state"] == "done"


def test_budget_waits_for_all_and_is_shared_once(ready: Database, place: Place) -> None:
    launch(ready, spec_of("two", {"bvse": {**COARSE, "gate": {"top": 2}}}), place.home)
    assert life.advance(ready, "two").budgets_shared == []
    run(ready, "two")
    rows = Ledger(ready, "two").rows()
    values = {row["material_id"]: row["stages"]["bvse"]["value"] for row in rows}
    passed = {row["material_id"] for row in rows if row["stages"]["bvse"]["status"] == "passed"}
    assert passed == set(sorted(values, key=lambda name: (values[name], name))[:2])
    assert {row["stages"]["bvse"]["status"] for row in rows} == {"passed", "rejected"}
    before = [row["stages"] for row in rows]
    again = life.advance(ready, "two")
    assert (again.budgets_shared, again.workflows_added, again.finished) == ([], 0, True)
    assert [row["stages"] for row in Ledger(ready, "two").rows()] == before


def test_launching_again_adds_nothing(ready: Database, place: Place) -> None:
    spec = spec_of("three", {"bvse": COARSE})
    launch(ready, spec, place.home)
    again = launch(ready, spec, place.home)
    assert again.already_launched
    assert again.workflows == 0
    run(ready, "three")
    assert launch(ready, spec, place.home).workflows == 0
    assert ready.launchpad.fireworks.count_documents({"spec.campaign": "three"}) == 3


def test_a_changed_campaign_needs_another_name(ready: Database, place: Place) -> None:
    launch(ready, spec_of("four", {"bvse": COARSE}), place.home)
    with pytest.raises(HopflowError, match="another name"):
        launch(ready, spec_of("four", {"bvse": {"settings": {"spacing_A": 0.5}}}), place.home)


def test_a_second_campaign_reuses_results(ready: Database, place: Place) -> None:
    launch(ready, spec_of("first", {"bvse": {**COARSE, "gate": {"max": 0.6}}}), place.home)
    run(ready, "first")
    launch(ready, spec_of("second", {"bvse": {**COARSE, "gate": {"max": 0.2}}}), place.home)
    run(ready, "second")
    first = {row["material_id"]: row["stages"]["bvse"] for row in Ledger(ready, "first").rows()}
    second = {row["material_id"]: row["stages"]["bvse"] for row in Ledger(ready, "second").rows()}
    for name, entry in second.items():
        assert entry["value"] == first[name]["value"]
        assert entry["reused_from"] == first[name]["job_uuid"]
        assert entry["threshold"] == 0.2
    _, rows = find(ready, "second", stage="bvse", status="reused")
    assert len(rows) == len(CRYSTALS)
    assert overview(Ledger(ready, "second")).stages[1].reused == len(CRYSTALS)


def test_other_settings_are_not_reused(ready: Database, place: Place) -> None:
    launch(ready, spec_of("coarse", {"bvse": COARSE}, crystals=["Li3N"]), place.home)
    launch(ready, spec_of("fine", {"bvse": {"settings": {"spacing_A": 0.3}}}, crystals=["Li3N"]), place.home)
    run(ready, "coarse", "fine")
    assert Ledger(ready, "fine").row("Li3N")["stages"]["bvse"]["reused_from"] is None


def test_ledger_is_a_view_that_can_be_rebuilt(ready: Database, place: Place) -> None:
    launch(ready, spec_of("view", {"bvse": {**COARSE, "gate": {"max": 0.6, "top": 2}}}), place.home)
    run(ready, "view")
    ledger = Ledger(ready, "view")
    before = [row["stages"] for row in ledger.rows()]
    ready.candidates.update_many({"campaign": "view"}, {"$unset": {"stages.bvse": ""}})
    assert [row["stages"] for row in ledger.rows()] != before
    ledger.rebuild()
    assert [row["stages"] for row in ledger.rows()] == before


def test_launchpad_alone_tells_the_verdicts(ready: Database, place: Place) -> None:
    launch(ready, spec_of("pad", {"bvse": {**COARSE, "gate": {"max": 0.6}}}), place.home)
    run(ready, "pad")
    told = {}
    for job in ready.launchpad.fireworks.find({"spec.campaign": "pad"}):
        launch_document = ready.launchpad.launches.find_one({"fw_id": job["fw_id"]})
        for entry in launch_document["action"]["stored_data"]["verdicts"]:
            told[entry["material_id"]] = entry["verdict"]
    rows = Ledger(ready, "pad").rows()
    assert told == {row["material_id"]: row["stages"]["bvse"]["status"] for row in rows}


def test_rerun_of_a_completed_job_doubles_nothing(ready: Database, place: Place) -> None:
    stages = {"bvse": {**COARSE, "gate": {"max": 5}}, "gnn": {"settings": {"model": "geometry"}}}
    launch(ready, spec_of("twice", stages, crystals=["Li2O", "LiF"]), place.home)
    run(ready, "twice")
    jobs = {job["fw_id"]: job for job in ready.launchpad.fireworks.find({"spec.campaign": "twice"})}
    before = [row["stages"] for row in Ledger(ready, "twice").rows()]
    first = next(fw_id for fw_id, job in jobs.items() if job["spec"]["stage"] == "bvse")
    ready.launchpad.rerun_fw(first)
    run(ready, "twice")
    after = ready.launchpad.fireworks.count_documents({"spec.campaign": "twice"})
    assert after == len(jobs)
    rows = [row["stages"] for row in Ledger(ready, "twice").rows()]
    for old, new in zip(before, rows, strict=True):
        for stage in ("bvse", "gnn"):
            assert {**new[stage], "completed_at": None} == {**old[stage], "completed_at": None}


def test_failed_candidates_are_tried_again_when_asked(ready: Database, place: Place) -> None:
    bvse = {"settings": {**COARSE["settings"], "interstitial_network": "never"}}
    launch(ready, spec_of("retry", {"bvse": bvse}, crystals=["Li3P", "LiF"]), place.home)
    run(ready, "retry")
    ledger = Ledger(ready, "retry")
    assert ledger.row("Li3P")["stages"]["bvse"]["reason"] == "missing_parameters"
    assert life.resume(ready, "retry").retried == 0
    assert life.resume(ready, "retry", retry_failed=True, error_match="no such error").retried == 0
    assert life.resume(ready, "retry", retry_failed=True, error_match="missing_param").retried == 1
    run(ready, "retry")
    row = Ledger(ready, "retry").row("Li3P")
    assert row["stages"]["bvse"]["attempt"] == 1
    assert len(row["attempts"]) == 1
    Ledger(ready, "retry").rebuild()
    assert Ledger(ready, "retry").row("Li3P")["stages"]["bvse"]["attempt"] == 1
    assert Ledger(ready, "retry").row("LiF")["stages"]["bvse"]["attempt"] == 0


def test_cancel_and_resume(ready: Database, place: Place) -> None:
    launch(ready, spec_of("stop", {"bvse": COARSE}), place.home)
    assert life.cancel(ready, "stop") == 3
    run(ready, "stop")
    _, skipped = find(ready, "stop", stage="bvse", status="skipped")
    assert len(skipped) == len(CRYSTALS)
    life.resume(ready, "stop")
    run(ready, "stop")
    assert all(row["stages"]["bvse"]["status"] == "passed" for row in Ledger(ready, "stop").rows())


def test_property_gates_and_unknown_values(ready: Database, place: Place, tmp_path: Path) -> None:
    cell = [4.02, 4.02, 4.02, 90, 90, 90]
    rock_salt = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    shifted = [[x + 0.5, y, z] for x, y, z in rock_salt]
    rows = [
        {"material_id": f"mp-{n}", "formula": "LiF", "cell": [a + 0.1 * n for a in cell[:3]] + cell[3:],
         "species": ["Li"] * 4 + ["F"] * 4, "frac_coords": rock_salt + shifted}
        for n in (1, 2, 3)
    ]  # fmt: skip
    (tmp_path / "structures.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "index.csv").write_text("material_id,energy_above_hull,band_gap\nmp-1,0.0,8.0\nmp-2,0.3,8.0\nmp-3,,\n")
    gates = {"energy_above_hull_eV_per_atom": {"max": 0.05}, "band_gap_eV": {"min": 0.5, "unknown": "reject"}}
    spec = CampaignSpec(
        name="gates",
        materials={"structures": str(tmp_path / "structures.jsonl")},
        properties=gates,
        stages={"bvse": COARSE},
    )
    summary = launch(ready, spec, place.home)
    assert (summary.entered, summary.rejected) == (1, 2)
    ledger = Ledger(ready, "gates")
    assert ledger.row("mp-2")["stages"]["intake"]["reason"] == "above_maximum"
    assert ledger.row("mp-3")["stages"]["intake"]["reason"] == "value_unknown"


def test_unknown_campaign_is_named(ready: Database) -> None:
    with pytest.raises(HopflowError, match="no campaign 'nothing'"):
        Ledger(ready, "nothing")


def test_a_corrected_file_is_seen_by_a_new_launch(place: Place) -> None:
    crystal = place.folder / "crystal.cif"
    (place.folder / "one.yaml").write_text(
        "name: one\nmaterials: {structures: crystal.cif}\nstages:\n  bvse: {settings: {spacing_A: 0.4}}\n"
    )
    crystal.write_text("not yet a crystal")
    place.run("launch", "one.yaml")
    with place.open() as database:
        assert Ledger(database, "one").row("crystal")["stages"]["intake"]["status"] == "failed"
        database.campaigns.delete_many({})
        database.candidates.delete_many({})
    crystal.write_text((DEMO / "LiF.cif").read_text())
    place.run("launch", "one.yaml")
    with place.open(read_only=True) as database:
        assert Ledger(database, "one").row("crystal")["stages"]["intake"]["status"] == "passed"
