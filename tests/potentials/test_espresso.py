"""Energies and forces by pw.x: its input, its answers kept, what goes wrong; where it is here, the program itself."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.espresso import read_fortran_namelist
from hopflow.potentials.espresso import (
    COMMAND,
    INPUT,
    OUTPUT,
    PROCESSES,
    EspressoPotential,
    EspressoSettings,
    kpoint_mesh,
    program_error,
    wall_seconds,
)
from hopflow.potentials.pseudopotentials import set_folder
from hopflow.transport.energies import Potential
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from pair_potential import PairPotential
from tiny_upf import write_upf

STAND_IN = Path(__file__).parents[1] / "pair_pw.py"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EspressoSettings:
    """Settings for a program that stands in for pw.x."""
    for element in ("Li", "Cl"):
        write_upf(tmp_path / "upf", element)
    monkeypatch.setenv(COMMAND, f"{sys.executable} {STAND_IN} --count {tmp_path}")
    monkeypatch.setenv(PROCESSES, "2")
    return EspressoSettings(pseudopotentials=str(tmp_path / "upf"), cutoff_eV=400.0)


def program_runs(folder: Path) -> int:
    return len((folder / "runs").read_bytes()) if (folder / "runs").is_file() else 0


def fail(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str, after: int = 0) -> None:
    monkeypatch.setenv(COMMAND, f"{sys.executable} {STAND_IN} --count {folder} --fault {fault} --after {after}")


def crystal(shift_A: float = 0.0) -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=5.1)
    atoms.positions[0, 0] += shift_A
    return atoms


def test_answers_are_those_of_the_program(settings, tmp_path):
    potential = EspressoPotential(["Li", "Cl"], settings, tmp_path / "kept")
    assert isinstance(potential, Potential)
    images = [crystal(), crystal(0.1), crystal(0.3)]
    energies, forces = potential.energies_and_forces(images)
    expected = PairPotential().energies_and_forces(images)
    assert energies == pytest.approx(expected[0], abs=1e-6)
    assert np.stack(forces) == pytest.approx(np.stack(expected[1]), abs=1e-6)
    assert potential.version == "6.7MaX"
    assert "PBE by Quantum ESPRESSO pw.x" in potential.method


def test_no_answer_is_computed_twice(settings, tmp_path):
    first = EspressoPotential(["Li", "Cl"], settings, tmp_path / "kept")
    images = [crystal(0.1), crystal(0.2)]
    energies = first.energies(images)
    again = EspressoPotential(["Cl", "Li"], settings, tmp_path / "kept")
    assert np.array_equal(again.energies([*images, crystal(0.3)])[:2], energies)
    assert (again.computed, again.found) == (1, 2)
    assert program_runs(tmp_path) == 3
    # more iterations change nothing of what converges, but a cutoff does
    other = EspressoPotential(["Li", "Cl"], replace(settings, cutoff_eV=500.0), tmp_path / "kept")
    other.energies(images)
    assert other.computed == 2
    for name in (INPUT, OUTPUT):
        assert (first.place(images[0]) / name).is_file()


def test_one_failure_costs_no_neighbour_its_answer(settings, tmp_path, monkeypatch):
    monkeypatch.setenv(PROCESSES, "1")
    fail(monkeypatch, tmp_path, "crash", after=2)
    potential = EspressoPotential(["Li", "Cl"], settings, tmp_path / "kept")
    images = [crystal(0.1 * number) for number in range(3)]
    with pytest.raises(CandidateError, match=r"Error in routine cdiaghg \(12\): problems computing cholesky") as caught:
        potential.energies(images)
    assert caught.value.reason is Reason.ENGINE_FAILED
    monkeypatch.setenv(COMMAND, f"{sys.executable} {STAND_IN} --count {tmp_path}")
    again = EspressoPotential(["Li", "Cl"], settings, tmp_path / "kept")
    again.energies(images)
    assert (again.computed, again.found) == (1, 2)


@pytest.mark.parametrize(
    ("fault", "reason", "sentence", "runs"),
    [
        ("electrons", Reason.ELECTRONS_NOT_CONVERGED, "did not converge in 3 ways of mixing", 3),
        ("killed", Reason.ENGINE_FAILED, "signal 9", 1),
        ("empty", Reason.ENGINE_FAILED, "exit code 0 and no error of its own", 1),
    ],
)
def test_what_goes_wrong_has_a_reason(settings, tmp_path, monkeypatch, fault, reason, sentence, runs):
    fail(monkeypatch, tmp_path, fault)
    potential = EspressoPotential(["Li", "Cl"], settings, tmp_path / "kept")
    with pytest.raises(CandidateError, match=sentence) as caught:
        potential.energies([crystal()])
    assert caught.value.reason is reason
    assert program_runs(tmp_path) == runs
    assert str(potential.place(crystal()) / OUTPUT) in str(caught.value)
    assert not list((tmp_path / "kept").glob("*/.running-*"))


def test_a_missing_program_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setenv(COMMAND, "no-such-pw.x -nk 2")
    with pytest.raises(CandidateError, match=r"no program no-such-pw\.x -nk 2; install it .*apt install") as caught:
        EspressoPotential(["Li"], settings, tmp_path)
    assert caught.value.reason is Reason.ENGINE_MISSING
    monkeypatch.setenv(PROCESSES, "many")
    monkeypatch.setenv(COMMAND, sys.executable)
    with pytest.raises(HopflowError, match="HOPFLOW_PW_PROCESSES is 'many'"):
        EspressoPotential(["Li", "Cl"], settings, tmp_path).energies([crystal()])


def test_the_input_says_what_the_settings_say(settings, tmp_path):
    chosen = replace(settings, charge_e=-1, smearing_eV=None, kpoint_spacing_per_A=1.2)
    potential = EspressoPotential(["Li", "Cl"], chosen, tmp_path)
    atoms = crystal() * (1, 1, 2)
    potential.write_input(atoms, tmp_path / "in", {"mixing_beta": 0.3})
    with (tmp_path / "in").open() as stream:
        sections, cards = read_fortran_namelist(stream)
    system = sections["system"]
    assert system["ecutwfc"] == pytest.approx(400.0 / 13.605693, abs=1e-3)
    assert system["tot_charge"] == -1
    assert system["occupations"] == "fixed"
    assert system["nosym"] is True
    assert sections["electrons"]["mixing_beta"] == 0.3
    assert sections["electrons"]["conv_thr"] == pytest.approx(4e-6 / 13.605693, rel=1e-3)
    mesh = cards[cards.index("K_POINTS automatic") + 1].split()
    assert mesh == ["2", "2", "1", "1", "1", "0"]
    assert potential.valence_electrons(atoms) == 2 * 10 + 1
    spins = EspressoPotential(["Li", "Cl"], replace(settings, spin_polarised=True), tmp_path)
    spins.write_input(atoms, tmp_path / "in", {})
    with (tmp_path / "in").open() as stream:
        system = read_fortran_namelist(stream)[0]["system"]
    assert system["nspin"] == 2
    assert system["degauss"] == pytest.approx(0.1 / 13.605693, abs=1e-5)
    assert system["starting_magnetization(1)"] > 0


def test_meshes_are_dense_enough():
    atoms = crystal() * (2, 2, 3)
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    for spacing in (0.2, 0.5, float(lengths[0]), 3.0):
        mesh = np.array(kpoint_mesh(atoms, spacing))
        assert (lengths / mesh <= spacing * (1 + 1e-5)).all()
        assert ((mesh == 1) | (lengths / np.maximum(mesh - 1, 1) > spacing)).all()


def test_lines_of_the_program_are_understood():
    assert wall_seconds("     PWSCF        :   1h 2m CPU   1h 3m WALL") == 3780.0
    assert wall_seconds("     PWSCF        :     16.45s CPU     17.02s WALL") == 17.02
    assert wall_seconds("") == 0.0
    assert program_error("     all went well") is None


real_program = pytest.mark.skipif(
    shutil.which("pw.x") is None or not set_folder("pseudodojo-pbe").is_dir(),
    reason="pw.x and the set pseudodojo-pbe are not both on this machine",
)


@real_program
def test_forces_of_the_program_are_slopes_of_its_energies(tmp_path):
    settings = EspressoSettings(cutoff_eV=800.0, kpoint_spacing_per_A=2.0, smearing_eV=None)
    potential = EspressoPotential(["Li", "F"], settings, tmp_path)
    atoms = bulk("LiF", "rocksalt", a=4.06)
    atoms.positions[1] += (0.1, 0.05, 0.0)
    step_A, moved = 0.01, []
    for sign in (1, -1):
        moved.append(atoms.copy())
        moved[-1].positions[1, 0] += sign * step_A
    energies, forces = potential.energies_and_forces([atoms, *moved])
    assert forces[0][1, 0] == pytest.approx(-(energies[1] - energies[2]) / (2 * step_A), abs=2e-3)
    assert potential.version.startswith(("6.", "7."))


@real_program
def test_the_program_itself_may_give_up_or_fail(tmp_path):
    settings = EspressoSettings(cutoff_eV=400.0, kpoint_spacing_per_A=2.0, smearing_eV=None, max_iterations=2)
    atoms = bulk("LiF", "rocksalt", a=4.06)
    with pytest.raises(CandidateError) as caught:
        EspressoPotential(["Li", "F"], settings, tmp_path).energies([atoms])
    assert caught.value.reason is Reason.ELECTRONS_NOT_CONVERGED
    on_top = atoms.copy()
    on_top.positions[1] = on_top.positions[0]
    with pytest.raises(CandidateError, match="Error in routine") as caught:
        EspressoPotential(["Li", "F"], replace(settings, max_iterations=80), tmp_path).energies([on_top])
    assert caught.value.reason is Reason.ENGINE_FAILED
