"""A DFT-NEB that was run elsewhere enters the ledger: matched, stored once, replaced by better, found after a rebuild.

The results are VASP's in layout and synthetic in content (see ``vasp_outputs``); real VASP did not run.
"""

import json
import shutil
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hopflow.flows.screening import CandidateResult, failure
from hopflow.makers.documents import HandoffDocument
from hopflow.makers.vasp_handoff import HandoffSettings, write_handoff
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from hopflow.transport.structures import structure_hash
from hopflow.workflows import campaign as life
from hopflow.workflows import cli
from hopflow.workflows.console import WrongUse
from hopflow.workflows.database import Database, create_indexes
from hopflow.workflows.ingest import ingest
from hopflow.workflows.ledger import Ledger
from hopflow.workflows.overview import history
from hopflow.workflows.query import find
from hopflow.workflows.report import write_report
from hopflow.workflows.report_data import collect
from hopflow.workflows.spec import CampaignSpec
from hopflow.workflows.terminal import outcome_table, story
from places import DEMO, Place
from pymatgen.core import SETTINGS, Structure
from pymatgen.io.vasp import Poscar
from vasp_outputs import Band, DoubleWell, computed_band, places, vacancy_images, write_results

WELL = DoubleWell()
IMAGES = 7
HOP = "Li0-Li3[0,0,0]"
VALUES = {"bvse": 0.55, "gnn": 0.35, "neb": 0.4}
STAGES = {stage: {} for stage in (*VALUES, "dft")}


def launch(database: Database, home: Path, name: str = "one", crystals: tuple[str, ...] = ("Li2O", "Li3N")) -> None:
    files = [str(DEMO / f"{crystal}.cif") for crystal in crystals]
    spec = CampaignSpec.model_validate({"name": name, "materials": {"structures": files}, "stages": STAGES})
    life.launch(database, spec, life.resolve(spec, home), home)


def store(database: Database, campaign: str, result: CandidateResult) -> None:
    """Leave a result as a job leaves it."""
    output = {"campaign": campaign, "stage": result.stage, "results": [result.model_dump(mode="json")]}
    row = {"uuid": str(uuid.uuid4()), "index": 1, "output": output, "completed_at": datetime.now().isoformat()}
    database.collection("outputs").insert_one({**row, "metadata": {"campaign": campaign}})
    Ledger(database, campaign).sync()


def screened(database: Database, campaign: str, material: str, inputs: Path) -> None:
    """Bring a candidate to the end of the funnel, its inputs in a folder."""
    facts = {"stage": "", "formula": material, "ion": "Li", "atoms": 12, "structure_hash": "h", "method": "m",
             "settings": {}, "versions": {}, "seconds": 1.0}  # fmt: skip
    for stage, value in VALUES.items():
        store(database, campaign, CandidateResult(
            material_id=material, stage=stage, status="passed", reason="no_gate", message="", quantity="barrier_1d_eV",
            value=value, content_key=f"{stage}-{material}",
        ))  # fmt: skip
    written = HandoffDocument(
        **facts | {"stage": "dft"}, content_key=f"dft-{material}", folder=str(inputs), files=[], functional="pbe",
        potcar="spec", images_written=IMAGES, barrier_machine_learned_eV=0.4, hop_id=HOP,
    )  # fmt: skip
    store(database, campaign, CandidateResult(
        material_id=material, stage="dft", status="passed", reason="no_gate", message="", quantity="images_written",
        value=IMAGES, content_key=written.content_key, document=written.model_dump(mode="json"),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hand-offs of Li2O and Li3N, as the stage writes them."""
    place = tmp_path_factory.mktemp("handoff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
        for name in ("Li2O", "Li3N"):
            host = Structure.from_file(DEMO / f"{name}.cif")
            metadata = {"barrier_machine_learned_eV": 0.4, "hop_id": HOP, "content_key_neb": f"neb-{name}",
                        "structure_hash": structure_hash(host)}  # fmt: skip
            cells = (1, 1, 1) if name == "Li2O" else (2, 2, 2)
            write_handoff(vacancy_images(host, cells, places(WELL, IMAGES)), place / name, HandoffSettings(), metadata)
    return place


@pytest.fixture
def came_back(templates: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder as it comes back from the cluster; ``steps_left`` ionic steps before convergence."""

    def make(folder: str, name: str = "Li2O", steps_left: int = 0, fault: Callable[[Band], None] | None = None) -> Path:
        back = Path(shutil.copytree(templates / name, tmp_path / folder))
        images = [Poscar.from_file(back / f"{n:02d}" / "POSCAR").structure for n in range(IMAGES)]
        band = computed_band(images, WELL, steps=4)
        for run in band.runs[1:-1]:
            run.frames = run.frames[: 4 - steps_left]
        if fault is not None:
            fault(band)
        return write_results(back, band)

    return make


@pytest.fixture
def campaign(ready: Database, place: Place, templates: Path) -> Database:
    launch(ready, place.home)
    for material in ("Li2O", "Li3N"):
        screened(ready, "one", material, templates / material)
    return ready


def entry_of(database: Database, material: str = "Li2O", campaign: str = "one") -> dict[str, Any]:
    return Ledger(database, campaign).row(material)["stages"]["dft"]


def counted(database: Database) -> int:
    return database.collection("outputs").count_documents({})


def plain_rows(database: Database) -> list[dict[str, Any]]:
    return Ledger(database, "one").rows()


def half_way(band: Band) -> None:
    for run in band.runs[1:-1]:
        run.whole = False
    band.runs[5].files = ()


def test_a_converged_band_stands_beside_the_other_stages(campaign: Database, came_back: Any, tmp_path: Path) -> None:
    found = ingest(campaign, came_back("back"))
    assert (found.campaign, found.material_id, found.outcome) == ("one", "Li2O", "new")
    entry = entry_of(campaign)
    assert (entry["status"], entry["reason"], entry["quantity"]) == ("passed", "band_converged", "barrier_span_eV")
    assert entry["value"] == pytest.approx(WELL.energy(WELL.saddle), abs=1e-6)
    assert entry["ingested_from"] == str(tmp_path / "back")
    assert entry_of(campaign, "Li3N")["quantity"] == "images_written"

    ledger, rows = find(campaign, "one", sort="dft")
    values = {stage: rows[0]["stages"][stage]["value"] for stage in ledger.stages}
    assert values == {**VALUES, "dft": entry["value"]}
    assert outcome_table(rows, ledger.stages).columns[-2]._cells[0].plain == "0.45"
    told = dict(story(rows[0], history(ledger, ledger.row("Li2O")), ledger.stages))
    line = next(text for lead, text in told.items() if "dft" in lead)
    assert "barrier of the limiting hop" in line
    assert "0.451 eV forward, 0.391 eV reverse" in line
    assert next(iter(told.values())) == "on the shortlist"

    data = collect(campaign, "one")
    document = data.stage("dft").documents["Li2O"]  # type: ignore[union-attr]
    assert document["handoff"]["images_written"] == IMAGES
    assert (document["hop_id"], document["barrier_machine_learned_eV"]) == (HOP, 0.4)
    page = tmp_path / "report.html"
    write_report(campaign, "one", page)
    text = page.read_text()
    for words in ("DFT barrier", "Energy along the DFT band", "inputs written", "0.451 eV forward", ">0.45<"):
        assert words in text


def test_the_hops_of_a_path_come_back_together(campaign: Database, came_back: Any, tmp_path: Path) -> None:
    """Each hop has a folder; the path has a barrier once all of them have one, and it is the highest."""
    hops = {HOP: WELL, "Li0-Li5[0,0,1]": DoubleWell(barrier_eV=0.3, difference_eV=0.0)}
    path = tmp_path / "path"
    for number, (hop, well) in enumerate(hops.items()):
        folder = came_back(f"hop{number}", steps_left=0)
        manifest = json.loads((folder / "handoff.json").read_text())
        manifest["metadata"] |= {"hop_id": hop, "hops_of_path": list(hops)}
        (folder / "handoff.json").write_text(json.dumps(manifest))
        if number:
            images = [Poscar.from_file(folder / f"{n:02d}" / "POSCAR").structure for n in range(IMAGES)]
            write_results(folder, computed_band(images, well, steps=4))
        path.mkdir(exist_ok=True)
        folder.rename(path / f"hop{number}")
    kept = (path / "hop1" / "03").rename(tmp_path / "03")
    first = ingest(campaign, path)
    assert first.outcome == "new"
    assert entry_of(campaign)["status"] == "failed"
    assert "Hop Li0-Li5[0,0,1]: There is no energy of image 03" in entry_of(campaign)["message"]
    assert first.document.bands[0].hop_id == HOP
    kept.rename(path / "hop1" / "03")
    second = ingest(campaign, path)
    assert second.outcome == "replaced"
    entry = entry_of(campaign)
    assert entry["status"] == "passed"
    assert entry["value"] == pytest.approx(WELL.energy(WELL.saddle), abs=1e-6)
    assert f"of the hop {HOP}, one of 2" in entry["message"]
    assert [record.hop_id for record in second.document.bands] == list(hops)
    assert second.document.bands[1].barrier_span_eV == pytest.approx(0.3, abs=1e-3)
    assert ingest(campaign, path).outcome == "known"
    page = tmp_path / "report.html"
    write_report(campaign, "one", page)
    assert "DFT band of hop <code>Li0-Li5[0,0,1]</code>" in page.read_text()


def test_again_changes_nothing(campaign: Database, came_back: Any, tmp_path: Path) -> None:
    folder = came_back("back")
    ingest(campaign, folder)
    before, number = plain_rows(campaign), counted(campaign)
    assert ingest(campaign, folder).outcome == "known"
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert ingest(campaign, moved).outcome == "known", "what was read counts, not where it lies"
    assert plain_rows(campaign) == before
    assert counted(campaign) == number


def test_rebuild_finds_it_again(campaign: Database, came_back: Any) -> None:
    folder = came_back("back")
    ingest(campaign, folder)
    before = plain_rows(campaign)
    ledger = Ledger(campaign, "one")
    ledger.rebuild()
    assert plain_rows(campaign) == before
    assert ingest(campaign, folder).outcome == "known"
    assert life.advance(campaign, "one").workflows_added == 0
    assert plain_rows(campaign) == before


def test_half_way_keeps_what_was_read_and_has_no_barrier(campaign: Database, came_back: Any) -> None:
    found = ingest(campaign, came_back("back", fault=half_way))
    entry = entry_of(campaign)
    assert (entry["status"], entry["reason"], entry["value"]) == ("failed", "incomplete_results", None)
    assert "no energy of image 05" in entry["message"]
    steps = [image.steps for image in found.document.images]
    assert steps == [4, 4, 4, 4, 4, 0, 4]
    known = collect(campaign, "one").stage("dft").documents["Li2O"]["images"]  # type: ignore[union-attr]
    assert [image["energy_eV"] is None for image in known] == [False] * 5 + [True, False]
    # The funnel does not try again what only the cluster can finish.
    assert life.resume(campaign, "one", retry_failed=True).retried == 0
    assert entry_of(campaign) == entry


def test_the_better_one_counts_and_the_other_stays_in_history(campaign: Database, came_back: Any) -> None:
    stopped = ingest(campaign, came_back("stopped", fault=half_way))
    rough = ingest(campaign, came_back("rough", steps_left=1))
    assert (stopped.outcome, rough.outcome) == ("new", "replaced")
    assert entry_of(campaign)["reason"] == "not_converged"
    whole = ingest(campaign, came_back("whole"))
    assert whole.outcome == "replaced"
    late = ingest(campaign, came_back("late", steps_left=2))
    assert late.outcome == "set_aside"
    row = Ledger(campaign, "one").row("Li2O")
    assert row["stages"]["dft"]["content_key"] == whole.document.content_key
    keys = [(attempt["stage"], attempt["content_key"]) for attempt in row["attempts"]]
    assert keys == [("dft", found.document.content_key) for found in (stopped, rough, late)]
    before = plain_rows(campaign)
    Ledger(campaign, "one").rebuild()
    assert plain_rows(campaign) == before
    for folder in ("stopped", "rough", "whole", "late"):
        assert ingest(campaign, Path(whole.document.folder).parent / folder).outcome == "known"
    ledger = Ledger(campaign, "one")
    told = story(row, history(ledger, row), ledger.stages)
    assert sum("another calculation counts" in text for _, text in told) == 3


def test_a_job_that_runs_twice_does_not_push_it_away(campaign: Database, came_back: Any, templates: Path) -> None:
    ingest(campaign, came_back("back"))
    before = entry_of(campaign)
    screened(campaign, "one", "Li2O", templates / "Li2O")
    assert entry_of(campaign) == before
    Ledger(campaign, "one").rebuild()
    assert entry_of(campaign) == before


def test_a_clock_that_runs_behind_keeps_the_order(campaign: Database, came_back: Any) -> None:
    ahead = "2999-01-01T00:00:00.000001"
    outputs = campaign.collection("outputs")
    outputs.update_many({"output.stage": "dft"}, {"$set": {"completed_at": ahead}})
    Ledger(campaign, "one").rebuild()
    ingest(campaign, came_back("rough", steps_left=1))
    found = ingest(campaign, came_back("back"))
    Ledger(campaign, "one").rebuild()
    assert entry_of(campaign)["content_key"] == found.document.content_key
    assert entry_of(campaign)["completed_at"] > ahead


def test_folders_that_cannot_be_placed(
    campaign: Database, place: Place, templates: Path, came_back: Any, tmp_path: Path
) -> None:
    before, number = plain_rows(campaign), counted(campaign)

    def refused(error: type[HopflowError], words: str, *arguments: Any) -> HopflowError:
        with pytest.raises(error, match=words) as caught:
            ingest(campaign, *arguments)
        return caught.value

    back = came_back("back")
    refused(WrongUse, "is no folder", tmp_path / "nowhere")
    refused(HopflowError, "no campaign 'two'", back, "two")
    refused(HopflowError, "no candidate 'LiF'", back, "one", "LiF")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(WrongUse, "name it with --material", empty)
    assert refused(CandidateError, "no image folders", empty, None, "Li2O").reason is Reason.NO_RESULTS
    inputs_only = Path(shutil.copytree(templates / "Li2O", tmp_path / "inputs"))
    assert refused(CandidateError, "no VASP results", inputs_only).reason is Reason.NO_RESULTS
    wrong = refused(CandidateError, "is one of Li7O4.*not of Li3N", back, "one", "Li3N")
    assert wrong.reason is Reason.OTHER_MATERIAL
    other = came_back("nitride", "Li3N")
    shutil.copy(back / "handoff.json", other / "handoff.json")
    refused(CandidateError, "not of Li2O", other)
    assert plain_rows(campaign) == before
    assert counted(campaign) == number

    launch(campaign, place.home, "twin", ("Li2O",))
    screened(campaign, "twin", "Li2O", templates / "Li2O")
    refused(WrongUse, "More than one campaign has it: one, twin", back)
    assert ingest(campaign, back, "twin").outcome == "new"
    assert entry_of(campaign)["quantity"] == "images_written", "the other campaign is left alone"


def test_without_a_record_the_material_is_named(campaign: Database, came_back: Any) -> None:
    back = came_back("back")
    (back / "handoff.json").unlink()
    found = ingest(campaign, back, material="Li2O")
    assert (found.outcome, found.document.hop_id) == ("new", None)
    assert found.document.barrier_machine_learned_eV == 0.4


def test_an_older_record_is_matched_by_the_crystal(campaign: Database, came_back: Any) -> None:
    back = came_back("back")
    record = json.loads((back / "handoff.json").read_text())
    record["metadata"]["content_key_neb"] = "of another campaign"
    record["metadata"]["hop_id"] = "Li0-Li9[0,0,1]"
    (back / "handoff.json").write_text(json.dumps(record))
    found = ingest(campaign, back)
    assert found.material_id == "Li2O"
    assert any("the inputs that the stage wrote of hop" in text for text in found.document.warnings)


def test_a_failed_hand_off_does_not_stand_in_the_way(campaign: Database, came_back: Any) -> None:
    store(campaign, "one", failure(Reason.INCONSISTENT_BAND, "BandError", "No band.", material_id="Li2O", stage="dft"))
    assert entry_of(campaign)["status"] == "failed"
    found = ingest(campaign, came_back("back"))
    assert (found.outcome, found.document.handoff) == ("new", None)
    row = Ledger(campaign, "one").row("Li2O")
    assert row["stages"]["dft"]["status"] == "passed"
    assert [attempt["message"] for attempt in row["attempts"]] == ["No band."]


def test_a_candidate_that_has_not_come_so_far(ready: Database, place: Place, came_back: Any) -> None:
    launch(ready, place.home)
    with pytest.raises(HopflowError, match="has not come to the dft stage of 'one'"):
        ingest(ready, came_back("back"), "one", "Li2O")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["hopflow", *words])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(
    tmp_path: Path, templates: Path, came_back: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOPFLOW_LAUNCHPAD", "HOPFLOW_DATABASE", "HOPFLOW_HOME"):
        monkeypatch.delenv(name, raising=False)
    place = Place(tmp_path)
    with place.open() as database:
        create_indexes(database)
        launch(database, place.home)
        screened(database, "one", "Li2O", templates / "Li2O")
    home = ("--home", str(place.home))

    code, out, err = command(monkeypatch, capsys, *home, "dft", "ingest", str(came_back("half", fault=half_way)))
    assert (code, err) == (1, "")
    assert "6 of 7 images with energies, no barrier" in out
    assert "(incomplete_results)" in out
    assert "image 05: 0 ionic steps, no OUTCAR and no vasprun.xml" in out

    back = came_back("back")
    code, out, err = command(monkeypatch, capsys, *home, "dft", "ingest", str(back), "--campaign", "one", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert (data["outcome"], data["ledger"]["reason"]) == ("replaced", "band_converged")
    assert data["document"]["barrier_span_eV"] == pytest.approx(0.4506, abs=1e-4)
    code, out, _ = command(monkeypatch, capsys, *home, "dft", "ingest", str(back))
    assert code == 0
    assert "neb: migration barrier, at least one direction: 0.400 eV" in out
    assert "Known already" in out

    code, out, err = command(monkeypatch, capsys, *home, "dft", "ingest", str(templates / "Li2O"), "--json")
    assert (code, json.loads(out)["reason"]) == (1, "no_results")
    code, _, err = command(monkeypatch, capsys, *home, "dft", "ingest", str(tmp_path / "nowhere"))
    assert code == 2
    assert "is no folder" in err

    with place.open():  # a launcher at work on the embedded database
        code, _, err = command(monkeypatch, capsys, *home, "dft", "ingest", str(back))
    assert code == 1
    assert "is in use by process" in err


def test_a_structure_file_is_still_what_dft_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(tmp_path / "home"))
    for words in (("dft", "nowhere.cif"), ("dft", "inputs", "nowhere.cif"), ("dft", "--folder", "x", "nowhere.cif")):
        code, out, _ = command(monkeypatch, capsys, *home, *words)
        assert code == 1
        assert "nowhere.cif: failed" in out
