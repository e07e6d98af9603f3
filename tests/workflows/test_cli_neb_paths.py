"""Bands of a table of paths from the command line: one answer a row, resumable, and no row costs its neighbour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import crystals
import numpy as np
import pytest
from ase.io import read
from command_line import call
from hopflow.learning.path_rows import PathRow, iterate_path_rows
from hopflow.makers.settings import PathBandSettings
from hopflow.potentials import registry
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hopflow.transport.paths import MigrationPath
from hopflow.workflows.path_bands import BandAnswer, BandJob, answer_bands
from pair_potential import DeadlyPotential, PairPotential
from path_tables import path_row, write_table

KEYS = [
    *("path_id", "barrier_eV", "barrier_forward_eV", "barrier_reverse_eV", "splined_span_eV", "converged", "reason"),
    *("error", "max_force_eV_per_A", "evaluations", "endpoint_steps", "steps", "seconds"),
    *("hops", "barrier_upper_bound_eV", "potential", "weights_sha256", "method"),
]
QUICK = ("--set", "images=3", "--set", "max_force_eV_per_A=0.2")


def salt_rows() -> list[dict[str, Any]]:
    """Vacancy hops in small cells of rock salt and caesium chloride, which the pair potential knows."""
    rows = []
    for name, structure in (
        ("LiCl", crystals.rock_salt(5.1, "Li", "Cl")),
        ("NaCl", crystals.rock_salt(5.6, "Na", "Cl")),
        ("tight", crystals.rock_salt(4.9, "Li", "Cl")),
    ):
        ion = "Na" if name == "NaCl" else "Li"
        network = enumerate_hops(structure, ion)
        rows.append(path_row(name, hop_path(network, network.hops[0], images=5, min_length_A=4.5)))
    return rows


def lithium_as_potassium(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "framework_species": ["K" if s == "Li" else s for s in row["framework_species"]]}


class Counted(PairPotential):
    """The pair potential as the registry would give it."""

    evaluations = 0

    def energies_and_forces(self, images: Any) -> Any:
        type(self).evaluations += len(images)
        return super().energies_and_forces(images)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    Counted.evaluations = 0
    monkeypatch.setattr(registry, "load_potential", lambda *_, **__: Counted())
    return Counted


def answers(home: Path, file: Path, *words: Any, code: int = 0) -> list[dict[str, Any]]:
    out, _ = call("--home", home, "neb", "--paths", file, "--json", *QUICK, *words, code=code)
    return [json.loads(line) for line in out.splitlines()]


def test_one_answer_a_row_in_order_with_everything(tmp_path, pairs):
    rows = salt_rows()
    found = answers(tmp_path, write_table(rows, tmp_path / "rows.jsonl.gz"))
    assert [list(answer) for answer in found] == [KEYS] * len(rows)
    assert [answer["path_id"] for answer in found] == [row["path_id"] for row in rows]
    settings = PathBandSettings(images=3, max_force_eV_per_A=0.2).band()
    result = run_band(MigrationPath.from_row(rows[0]), PairPotential(), settings)
    first = found[0]
    assert result.converged
    assert first["converged"]
    assert first["barrier_eV"] == pytest.approx(np.ptp(result.energies_eV), abs=2e-5)
    assert first["barrier_forward_eV"] == pytest.approx(result.barrier_forward_eV, abs=2e-5)
    assert first["splined_span_eV"] == pytest.approx(result.splined_span_eV, abs=2e-5)
    assert (first["evaluations"], first["steps"]) == (result.evaluations, result.steps)
    assert (first["potential"], first["weights_sha256"], first["method"]) == (
        "pairs",
        "0" * 64,
        "climbing-image NEB, analytic",
    )
    assert (first["reason"], first["error"]) == (None, None)


def test_what_is_broken_costs_itself_alone(tmp_path, pairs):
    good = salt_rows()[:2]
    base = good[0]
    path, framework, species = (base[k] for k in ("path_frac_coords", "framework_frac_coords", "framework_species"))
    narrow = {**base, "lattice": np.diag([3.0, 20.0, 20.0]).tolist()}
    broken: list[tuple[dict[str, Any] | str, str, str]] = [
        ('{"path_id": "half', "unreadable_structure", "is not valid JSON"),
        ({}, "unreadable_structure", "lacks migrating_ion, lattice"),
        (narrow, "unreadable_structure", "narrower than 4 Angstrom"),
        ({**base, "path_frac_coords": [path[0]] * 5}, "unreadable_structure", "has no length"),
        (
            {**base, "framework_frac_coords": [*framework, path[0]], "framework_species": [*species, "Li"]},
            "close_contact",
            "at an end of the path",
        ),
        (
            {**base, "framework_frac_coords": [*framework, framework[0]], "framework_species": [*species, "Cl"]},
            "close_contact",
            "list each atom once",
        ),
        (lithium_as_potassium(base), "unsupported_element", "does not know"),
        ({**base, "migrating_ion": "Qq"}, "unsupported_element", "Qq, which is no element"),
        ({**base, "framework_frac_coords": [], "framework_species": []}, "unreadable_structure", "has no framework"),
    ]
    mixed: list[dict[str, Any] | str] = []
    for number, (row, _, _) in enumerate(broken):
        mixed += [row, good[number % 2], ""]
    found = answers(tmp_path, write_table(mixed, tmp_path / "mixed.jsonl"))
    assert len(found) == 2 * len(broken)
    for number, (answer, (_, reason, sentence)) in enumerate(zip(found[::2], broken, strict=True)):
        assert found[2 * number + 1]["path_id"] == good[number % 2]["path_id"]
        assert found[2 * number + 1]["barrier_eV"] is not None
        assert answer["barrier_eV"] is None
        assert not answer["converged"]
        assert (answer["reason"], answer["potential"]) == (reason, "pairs")
        assert sentence in answer["error"]
    assert found[0]["path_id"] == "mixed:1"


def test_a_finished_row_is_answered_from_its_checkpoint(tmp_path, pairs):
    rows = salt_rows()[:2]
    hopeless = {**rows[0], "path_id": "hopeless", "path_frac_coords": rows[1]["path_frac_coords"][:2]}
    file = write_table([*rows, hopeless], tmp_path / "rows.jsonl")
    first = answers(tmp_path, file)
    spent = pairs.evaluations
    assert spent == sum(answer["evaluations"] for answer in first) > 0
    assert answers(tmp_path, file, "--bands", tmp_path / "bands") == first
    assert pairs.evaluations == spent
    # the band is there, also for a row that was answered from its checkpoint
    frames = read(tmp_path / "bands" / f"{rows[0]['path_id']}.extxyz", ":")
    energies = np.array([frame.get_potential_energy() for frame in frames])
    assert np.ptp(energies) == pytest.approx(first[0]["barrier_eV"], abs=2e-5)
    # other settings are another calculation
    answers(tmp_path, file, "--set", "spring_eV_per_A2=4")
    assert pairs.evaluations > spent


def test_an_unconverged_band_is_no_barrier(tmp_path, pairs):
    file = write_table(salt_rows()[:1], tmp_path / "rows.jsonl")
    (answer,) = answers(tmp_path, file, "--set", "max_steps=1", "--set", "max_force_eV_per_A=0.001", code=1)
    barriers = [value for key, value in answer.items() if key.startswith(("barrier", "splined"))]
    assert barriers == [None] * 5
    assert answer["reason"] == "not_converged"
    assert answer["max_force_eV_per_A"] > 0.001
    spent = pairs.evaluations
    assert answers(tmp_path, file, "--set", "max_steps=1", "--set", "max_force_eV_per_A=0.001", code=1) == [answer]
    assert pairs.evaluations == spent


def test_an_early_verdict_is_marked_and_is_no_barrier(tmp_path, pairs):
    file = write_table(salt_rows()[:1], tmp_path / "rows.jsonl")
    (whole,) = answers(tmp_path, file)
    (answer,) = answers(tmp_path, file, "--set", "upper_bound_eV=2", code=1)
    assert (answer["reason"], answer["barrier_eV"], answer["converged"]) == ("early_verdict", None, False)
    assert whole["barrier_forward_eV"] <= answer["barrier_upper_bound_eV"] <= 2
    assert answer["evaluations"] < whole["evaluations"]
    assert whole["barrier_upper_bound_eV"] is None


def test_processes_give_the_same_answers_in_the_same_order(tmp_path):
    rows = salt_rows()
    torn = [rows[0], "{", *rows[1:], {**rows[0], "path_id": rows[0]["path_id"]}]
    entries = list(iterate_path_rows(write_table(torn, tmp_path / "rows.jsonl")))
    settings = PathBandSettings(images=3, max_force_eV_per_A=0.2)

    def found(place: str, workers: int) -> list[dict[str, Any]]:
        job = BandJob(settings, tmp_path / place, tmp_path / f"{place}-bands", PairPotential)
        documents = [answer.document() for answer in answer_bands(iter(entries), job, workers)]
        return [{key: value for key, value in each.items() if key != "seconds"} for each in documents]

    assert found("two", 2) == found("one", 1)
    # two rows of one name have a file each
    assert len(list((tmp_path / "two-bands").iterdir())) == len(rows) + 1


def test_a_row_that_kills_its_process_costs_itself_alone(tmp_path):
    rows = salt_rows()
    species = ["Br" if symbol == "Cl" else symbol for symbol in rows[0]["framework_species"]]
    deadly = {**rows[0], "path_id": "deadly", "framework_species": species}
    table = [rows[0], deadly, *rows[1:]]
    entries = [PathRow(row["path_id"], row, None) for row in table]
    job = BandJob(PathBandSettings(images=1, max_force_eV_per_A=0.3), tmp_path / "kept", None, DeadlyPotential)
    found: list[BandAnswer] = list(answer_bands(iter(entries), job, 2))
    assert [answer.path_id for answer in found] == [row["path_id"] for row in table]
    assert [answer.reason for answer in found if answer.path_id == "deadly"] == ["worker_died"]
    assert all(answer.barrier_eV is not None for answer in found if answer.path_id != "deadly")


def test_people_get_a_table_and_wrong_use_a_sentence(tmp_path, pairs):
    file = write_table([salt_rows()[0], "{"], tmp_path / "rows.jsonl")
    lines = call("--home", tmp_path, "neb", "--paths", file, *QUICK)[0].splitlines()
    assert lines[0].split()[:2] == ["path", "barrier,"]
    assert "is not valid JSON" in lines[2]
    assert lines[-1].startswith("1 of 2 paths have a barrier (highest less lowest image)")
    for words, sentence in (
        (("neb",), "Give structure files, or a path table with --paths."),
        (("neb", "some.cif", "--workers", "2"), "--workers and --bands go with --paths."),
        (("neb", "some.cif", "--paths", file), "--paths takes a path table alone"),
        (("neb", "--paths", file, "--potential", "mice"), "There is no potential called 'mice'"),
        (("neb", "--paths", file, "--set", "image=3"), "has no setting 'image'; allowed: potential"),
        (("neb", "--paths", file, "--set", "images=0"), "greater than or equal to 1"),
        (("neb", "--paths", tmp_path / "nowhere.jsonl"), "cannot be read: No such file or directory."),
    ):
        _, err = call("--home", tmp_path, *words, code=2)
        assert sentence in " ".join(err.replace("│", " ").split())


@pytest.mark.weights
def test_mace_answers_a_small_row(tmp_path):
    words = ("--set", "images=1", "--set", "dtype=float32")
    (answer,) = answers(tmp_path, write_table(salt_rows()[:1], tmp_path / "rows.jsonl"), *words)
    assert answer["potential"] == "mace-mp-0-small"
    assert answer["converged"]
    assert 0.05 < answer["barrier_eV"] < 2.0
