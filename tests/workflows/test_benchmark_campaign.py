"""The benchmark of bands as a campaign: launched once, run by the launcher, judged as without a campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import crystals
import pytest
from command_line import call
from hopflow.makers.path_band import PathBandMaker, path_structure, potential_stage
from hopflow.makers.settings import PathBandSettings
from hopflow.transport.errors import CandidateError, HopflowError
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.workflows.band_benchmark import Selection
from hopflow.workflows.benchmark_campaign import NOT_RUN, campaign_answers, launch_benchmark
from hopflow.workflows.benchmark_spec import BandBenchmarkSpec
from hopflow.workflows.campaign import advance, cancel, resume
from hopflow.workflows.database import Database
from hopflow.workflows.ledger import Ledger
from hopflow.workflows.reference_paths import ReferencePath, read_references
from path_tables import path_row, write_table
from places import Place
from pymatgen.core import Structure

QUICK = ("--set", "images=1", "--set", "max_force_eV_per_A=0.2", "--set", "dtype=float32")
POTENTIALS = ("mace-mp-0-small", "m3gnet-mp-2021.2.8-direct")


def rows() -> list[dict[str, Any]]:
    """Two hops of one name, and one that begins in an atom."""
    found = []
    for edge_A in (5.1, 4.9):
        network = enumerate_hops(crystals.rock_salt(edge_A, "Li", "Cl"), "Li")
        path = hop_path(network, network.hops[0], images=3, min_length_A=4.5)
        found.append(path_row("LiCl", path, barrier_dft_eV=0.5, barrier_mace_relax_eV=0.4))
    spoilt = {**found[0], "path_id": "spoilt"}
    spoilt["path_frac_coords"] = [spoilt["framework_frac_coords"][0], *spoilt["path_frac_coords"][1:]]
    return [*found, spoilt]


def selected(tmp_path: Path) -> Selection:
    paths, _ = read_references(write_table(rows(), tmp_path / "rows.jsonl"))
    return Selection(paths, "all")


def spec_of(selection: Selection, *potentials: str, name: str = "bands") -> BandBenchmarkSpec:
    settings = [PathBandSettings(potential=each) for each in potentials or POTENTIALS]
    path_ids = [path.path_id for path in selection.paths]
    return BandBenchmarkSpec(name=name, potentials=settings, selection=selection.sentence, path_ids=path_ids)


def test_a_job_for_each_path_and_potential_is_added_once(ready: Database, place: Place, tmp_path: Path) -> None:
    selection = selected(tmp_path)
    spec = spec_of(selection)
    summary = launch_benchmark(ready, spec, selection, place.home)
    assert (summary.candidates, summary.entered, summary.already_launched) == (3, 3, False)
    jobs = list(ready.launchpad.fireworks.find({"spec.campaign": "bands"}))
    assert len(jobs) == 6
    assert {job["spec"]["_category"] for job in jobs} == {"gpu"}
    assert {job["spec"]["stage"] for job in jobs} == {"mace-mp-0-small", "m3gnet-mp-2021_2_8-direct"}
    again = launch_benchmark(ready, spec, selection, place.home)
    assert again.already_launched
    assert advance(ready, "bands").workflows_added == 0
    assert resume(ready, "bands").workflows_added == 0
    assert ready.launchpad.fireworks.count_documents({}) == 6
    assert [row["material_id"] for row in Ledger(ready, "bands").rows()] == ["LiCl", "LiCl-row2", "spoilt"]
    answers = campaign_answers(ready, "bands", POTENTIALS[1], tmp_path / "bands")
    assert [answer.reason for answer in answers] == [NOT_RUN] * 3
    assert [answer.path_id for answer in answers] == ["LiCl", "LiCl", "spoilt"]
    with pytest.raises(HopflowError, match="with other settings"):
        launch_benchmark(ready, spec_of(selection, POTENTIALS[0]), selection, place.home)
    twice = spec_of(selection, "m3gnet-mp-2021.2.8", "m3gnet-mp-2021_2_8", name="twice")
    with pytest.raises(HopflowError, match="would have one name"):
        launch_benchmark(ready, twice, selection, place.home)


def test_a_cancelled_campaign_is_read_and_not_begun_again(ready: Database, place: Place, tmp_path: Path) -> None:
    selection = selected(tmp_path)
    spec = spec_of(selection, POTENTIALS[0])
    launch_benchmark(ready, spec, selection, place.home)
    cancel(ready, "bands")
    again = launch_benchmark(ready, spec, selection, place.home)
    assert again.already_launched
    assert again.workflows == 0
    assert {job["state"] for job in ready.launchpad.fireworks.find({"spec.campaign": "bands"})} == {"DEFUSED"}


def test_a_row_that_is_no_path_fails_by_itself(ready: Database, place: Place, tmp_path: Path) -> None:
    good = selected(tmp_path).paths[0]
    bad = ReferencePath("bad", {**good.row, "framework_species": good.row["framework_species"][1:]}, 0.5)
    selection = Selection([bad, good], "two")
    summary = launch_benchmark(ready, spec_of(selection, POTENTIALS[0]), selection, place.home)
    assert (summary.entered, summary.failed) == (1, 1)
    first, second = campaign_answers(ready, "bands", POTENTIALS[0], tmp_path / "bands")
    assert first.barrier_eV is None
    assert first.reason not in (None, NOT_RUN)
    assert second.reason == NOT_RUN


def test_the_path_goes_with_the_structure(tmp_path: Path) -> None:
    row = rows()[0]
    structure = path_structure(row)
    again = Structure.from_dict(json.loads(json.dumps(structure.as_dict(verbosity=0))))
    maker = PathBandMaker(settings=PathBandSettings(potential=POTENTIALS[0]))
    assert maker.content_key(again) == maker.content_key(structure)
    other = path_structure({**row, "path_frac_coords": row["path_frac_coords"][::-1]})
    assert maker.content_key(other) != maker.content_key(structure)
    wider = PathBandMaker(settings=PathBandSettings(potential=POTENTIALS[0], images=7))
    assert wider.content_key(structure) != maker.content_key(structure)
    with pytest.raises(CandidateError, match="carries no path"):
        maker.evaluate(crystals.rock_salt(5.1, "Li", "Cl"))
    assert potential_stage("a.b:C(d=1, e='f')") == "a_b_C_d_1_e_f"


def test_the_name_of_a_campaign_is_checked(tmp_path: Path) -> None:
    file = write_table(rows(), tmp_path / "rows.jsonl")
    chosen = ("--data", file, "--potential", POTENTIALS[0], "--output", tmp_path / "out", "--campaign", "a/b")
    _, err = call("--home", tmp_path / "home", "benchmark", "neb", *chosen, code=2)
    assert "use letters, digits" in err


@pytest.mark.weights
def test_a_campaign_says_what_the_benchmark_says(tmp_path: Path) -> None:
    file = write_table(rows(), tmp_path / "rows.jsonl")
    common = ("benchmark", "neb", "--data", file, "--potential", ",".join(POTENTIALS), *QUICK)
    there = ("--home", tmp_path / "home")
    out, err = call(*there, *common, "--output", tmp_path / "out", "--campaign", "bands", "--json")
    assert out == ""
    assert "3 paths launched as 6 jobs" in err
    assert "nothing has been run yet; `hopflow run bands`" in err
    call(*there, "run", "bands", "--workers", "1")
    found = json.loads(call(*there, *common, "--output", tmp_path / "out", "--campaign", "bands", "--json")[0])
    direct = json.loads(call("--home", tmp_path / "other", *common, "--output", tmp_path / "direct", "--json")[0])
    assert [each["converged"] for each in found["converged"].values()] == [2, 2]
    for key in ("selection", "path_ids", "outliers", "left_out", "converged"):
        assert found[key] == direct[key]
    for mine, theirs in zip(found["paths"], direct["paths"], strict=True):
        for name in POTENTIALS:
            one, two = mine["answers"][name], theirs["answers"][name]
            assert one["reason"] == two["reason"]
            assert one["evaluations"] == two["evaluations"]
            assert one["converged"] == two["converged"]
            if two["converged"]:
                assert one["barrier_eV"] == pytest.approx(two["barrier_eV"], abs=1e-4)
    bands = {path.relative_to(tmp_path / "direct") for path in (tmp_path / "direct" / "bands").rglob("*.extxyz")}
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out" / "bands").rglob("*.extxyz")} == bands
    status = call(*there, "why", "bands", "spoilt")[0]
    assert "failed" in status
