"""A barrier that was predicted for want of parameters, on its way through gate, ledger, answers and report."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hopflow.learning.interstitial_prediction import predict_crystal
from hopflow.transport.errors import Reason
from hopflow.workflows import campaign as life
from hopflow.workflows import cli
from hopflow.workflows.database import Database
from hopflow.workflows.launcher import Launcher
from hopflow.workflows.overview import history
from hopflow.workflows.query import csv_text, find
from hopflow.workflows.report import write_report
from hopflow.workflows.report_data import collect
from hopflow.workflows.spec import CampaignSpec
from hopflow.workflows.terminal import stage_table, story
from places import DEMO, Place
from pymatgen.core import Structure


@pytest.fixture
def finished(ready: Database, place: Place) -> Database:
    """Li3N by bond valences and Li3P by prediction, through bvse and gnn."""
    files = [str(DEMO / f"{crystal}.cif") for crystal in ("Li3N", "Li3P")]
    stages = {"bvse": {"settings": {"spacing_A": 0.4}, "gate": {"max": 20}}, "gnn": {"settings": {"model": "geometry"}}}
    spec = CampaignSpec(name="mixed", materials={"structures": files}, stages=stages)
    life.launch(ready, spec, life.resolve(spec, place.home), place.home)
    Launcher(ready, ["mixed"], workers=1).run()
    return ready


def test_gate_ledger_answers_and_report(finished: Database, tmp_path: Path) -> None:
    ledger, rows = find(finished, "mixed")
    entries = {row["material_id"]: row["stages"]["bvse"] for row in rows}
    for entry in entries.values():
        assert (entry["status"], entry["reason"]) == ("passed", Reason.PASSED_GATE)
        assert 0 < entry["value"] < 20
    assert [entries[name]["source"] for name in ("Li3N", "Li3P")] == ["bond_valence", "interstitial_network"]
    assert entries["Li3N"]["uncertainty"] is None
    assert entries["Li3P"]["uncertainty"] > 0
    assert all(row["stages"]["gnn"]["status"] == "passed" for row in rows), "what passes goes on"
    assert all(row["stages"]["gnn"]["source"] is None for row in rows)
    before = [row["stages"] for row in ledger.rows()]
    ledger.rebuild()
    assert [row["stages"] for row in ledger.rows()] == before

    lines = {line["material_id"]: line for line in csv.DictReader(io.StringIO(csv_text(rows, ledger.stages)))}
    assert lines["Li3P"]["bvse_source"] == "interstitial_network"
    assert float(lines["Li3P"]["bvse_uncertainty"]) == entries["Li3P"]["uncertainty"]
    assert lines["Li3P"]["gnn_source"] == ""
    ends = [rows[0]["stages"]["gnn"][f"interval_90_{end}"] for end in ("low", "high")]
    assert 0 <= ends[0] < rows[0]["stages"]["gnn"]["value"] < ends[1]
    assert [float(lines["Li3N"][f"gnn_interval_90_{end}"]) for end in ("low", "high")] == ends
    assert lines["Li3N"]["bvse_interval_90_low"] == ""

    told = {}
    for row in rows:
        texts = dict(story(row, history(ledger, ledger.row(row["material_id"])), ledger.stages))
        told[row["material_id"]] = next(text for lead, text in texts.items() if lead.strip().startswith("bvse"))
        if row["material_id"] == "Li3N":
            gnn = next(text for lead, text in texts.items() if lead.strip().startswith("gnn"))
            assert f" eV (90 %: {ends[0]:.3f} to {ends[1]:.3f})" in gnn
    sigma = entries["Li3P"]["uncertainty"]
    assert f"± {sigma:.3f} eV, predicted by the interstitial network, threshold 20.000 eV" in told["Li3P"]
    assert "predicted" not in told["Li3N"]
    shown = stage_table(rows, "bvse")
    assert [str(cell) for cell in shown.columns[-1].cells] == ["passed_gate", "passed_gate, predicted"]

    report = tmp_path / "report.html"
    write_report(finished, "mixed", report)
    page = report.read_text()
    assert f"{entries['Li3P']['value']:.2f} ± {sigma:.2f} (predicted)" in page
    assert f"{entries['Li3N']['value']:.2f} (predicted)" not in page
    assert "which has never seen P-" in page
    hop = collect(finished, "mixed").stage("gnn").documents["Li3N"]["limiting_hop_ids"][0]
    assert f"with 90 % probability {ends[0]:.2f} to {ends[1]:.2f} eV, limited by the hop {hop}" in page
    weights = collect(finished, "mixed").stage("bvse").documents["Li3P"]["weights_sha256"]
    assert weights in page
    assert "predicted by a network that learned" in " ".join(page.split())
    assert "Sci. Data 7, 153" in page


Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process; its standard output, with standard error where it has to fail."""
    monkeypatch.chdir(tmp_path)

    def answer(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["hopflow", "--home", str(tmp_path / "home"), *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, out + err
        return out + err if code else out

    return answer


NITRIDE, PHOSPHIDE = (str(DEMO / f"{name}.cif") for name in ("Li3N", "Li3P"))


def test_bvse_command_says_who_answered(call: Call, tmp_path: Path) -> None:
    coarse = ["--set", "spacing_A=0.4"]
    said = call("bvse", NITRIDE, PHOSPHIDE, *coarse, "--interstitial-network", "always")
    first, second = (line for line in said.splitlines() if ".cif: " in line)
    assert "interstitial network: " in first
    assert "predicted" not in first
    assert "predicted by the interstitial network" in second
    assert "±" in second
    assert "has never seen P-" in said
    nitride, phosphide = (json.loads(line) for line in call("bvse", NITRIDE, PHOSPHIDE, *coarse, "--json").splitlines())
    assert nitride["barrier_source"] == "bond_valence"
    assert phosphide["barrier_source"] == "interstitial_network"
    assert phosphide["barrier_1d_sigma_eV"] > 0
    assert "There is no landscape to show" in call("bvse", PHOSPHIDE, "--figure", "landscape.html", code=1)
    assert not (tmp_path / "landscape.html").exists()
    refused = json.loads(call("bvse", PHOSPHIDE, "--interstitial-network", "never", "--json", code=1))
    assert (refused["status"], refused["reason"]) == ("failed", "missing_parameters")


def test_gnn_command_says_interval_and_limiting_hop(call: Call) -> None:
    silicate = str(DEMO / "Li2SiO3.cif")
    said = call("gnn", silicate, "--set", "model=geometry", "--set", "common_error_share=0")
    found = json.loads(call("gnn", silicate, "--json", "--set", "model=geometry", "--set", "common_error_share=0"))
    low, high = found["barrier_3d_interval_90_eV"]
    value, sigma = found["barrier_3d_eV"], found["barrier_3d_sigma_eV"]
    hop = found["limiting_hop_ids"][2]
    assert f"3D {value:.3f} eV ± {sigma:.3f} (90 %: {low:.2f} to {high:.2f}, limited by {hop})" in said
    assert hop in [each["hop_id"] for each in found["hops"]]
    other = json.loads(call("gnn", silicate, "--json", "--set", "model=geometry", "--set", "common_error_share=1"))
    assert other["barrier_3d_eV"] == value
    assert other["barrier_3d_sigma_eV"] != sigma
    refusal = call("gnn", silicate, "--set", "model=slow", code=2)
    assert "There is no barrier model called 'slow'" in " ".join(refusal.split())


def test_network_command_predicts_when_asked(call: Call, tmp_path: Path) -> None:
    told = call("network", PHOSPHIDE, "--predict")
    assert "predicted bond-valence barriers" in told
    assert "(never seen: P-)" in told
    found = json.loads(call("network", PHOSPHIDE, "--predict", "--json"))["prediction"]
    expected = predict_crystal(Structure.from_file(PHOSPHIDE))
    assert found["barriers_eV"] == pytest.approx(expected.barriers_eV, rel=1e-3)
    assert found["sigmas_log"] == pytest.approx(expected.sigmas_log, rel=1e-3)
    assert found["unfamiliar_species"] == ["P-"]
    assert found["seconds"] > 0
    assert "prediction" not in json.loads(call("network", PHOSPHIDE, "--json"))
    (tmp_path / "salt.cif").write_text((DEMO / "LiCl.cif").read_text().replace("Li", "Na"))
    answer = json.loads(call("network", "salt.cif", "--ion", "Na", "--predict", "--json"))
    assert (answer["status"], answer["prediction"]) == ("ok", None)
    assert "it cannot speak of Na" in answer["warnings"][-1]
