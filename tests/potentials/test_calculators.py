"""ASE calculators by dotted path: what they answer, how they are told apart, and what goes wrong with their names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from hopflow.makers.neb import BandMaker
from hopflow.makers.settings import BandStageSettings
from hopflow.potentials.calculator_names import NAMED_CALCULATORS, is_calculator_name
from hopflow.potentials.calculators import calculator_sha256, make_calculator
from hopflow.potentials.registry import check_potential_name, fetch_weights, load_potential, potential_sha256
from hopflow.transport.energies import Potential
from hopflow.transport.errors import CandidateError, HopflowError, NonFiniteEnergyError, Reason

EMT_PATH = "ase.calculators.emt.EMT"


def copper(displaced_A: float = 0.1) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions[0, 0] += displaced_A
    return atoms


def test_a_dotted_path_answers_as_its_calculator() -> None:
    potential = load_potential(EMT_PATH)
    assert isinstance(potential, Potential)
    assert potential is load_potential(EMT_PATH)
    assert potential.name == EMT_PATH
    assert potential.method == "ASE calculator ase.calculators.emt.EMT"
    images = [copper(), copper(0.3), copper()]
    energies, forces = potential.energies_and_forces(images)
    for image, energy, force in zip(images, energies, forces, strict=True):
        own = image.copy()
        own.calc = EMT()
        assert energy == pytest.approx(own.get_potential_energy(), abs=1e-12)
        assert force == pytest.approx(own.get_forces(), abs=1e-12)
    assert potential.energies(images) == pytest.approx(energies, abs=1e-12)
    assert potential.energies([]).shape == (0,)


def test_arguments_are_keywords_with_plain_values() -> None:
    name = "ase.calculators.lj.LennardJones(sigma=2.5, epsilon=0.2, rc=6.0)"
    own = copper()
    own.calc = LennardJones(sigma=2.5, epsilon=0.2, rc=6.0)
    assert load_potential(name).energies([copper()])[0] == pytest.approx(own.get_potential_energy(), abs=1e-12)
    assert load_potential(name).weights_sha256 != load_potential("ase.calculators.lj.LennardJones").weights_sha256
    assert potential_sha256(name) == load_potential(name).weights_sha256


@pytest.mark.parametrize(
    "arguments", ["(2.5)", "(**{'sigma': 2})", "(sigma=print('ran'))", "(sigma=)", "(sigma=__import__('os').getpid())"]
)
def test_arguments_that_would_run_something_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HopflowError, match="keywords with plain values"):
        make_calculator(f"ase.calculators.lj.LennardJones{arguments}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_package.Calculator", "cannot be imported"),
        ("ase.calculators.emt.NoSuch", "has no NoSuch"),
        ("ase.calculators.lj.LennardJones(nonsense=1, rc='x')", "cannot be made"),
        ("pathlib.Path", "makes no ASE calculator"),
    ],
)
def test_a_path_that_leads_to_no_calculator_says_why(name: str, words: str) -> None:
    with pytest.raises(HopflowError, match=words):
        load_potential(name)


def test_names_of_the_registry_stay_what_they_were() -> None:
    for name in ("mace-mp-0-small", "m3gnet-mp-2021.2.8", "m3gnet-mp-2021.2.8-direct"):
        assert not is_calculator_name(name)
        check_potential_name(name)
    for name in (*NAMED_CALCULATORS, EMT_PATH):
        assert is_calculator_name(name)
        check_potential_name(name)
    for name in ("mace", "mace-mp-0-huge", "EMT", "ase..EMT", ""):
        with pytest.raises(HopflowError, match=r"chgnet-0\.3\.0.*dotted path"):
            check_potential_name(name)
    with pytest.raises(HopflowError, match="choose one of"):
        fetch_weights(EMT_PATH)


def test_a_calculator_that_fails_costs_its_crystal_alone() -> None:
    potential = load_potential(EMT_PATH)
    with pytest.raises(CandidateError, match=r"failed on FLi.*leave this crystal out") as caught:
        potential.energies([bulk("LiF", "rocksalt", a=4.0)])
    assert caught.value.reason is Reason.UNEXPECTED_ERROR
    assert np.isfinite(potential.energies([copper()])).all()
    with pytest.raises(CandidateError) as empty:
        potential.energies([Atoms()])
    assert empty.value.reason is Reason.EMPTY_STRUCTURE


def test_an_energy_that_is_no_number_is_refused() -> None:
    two = Atoms("Cu2", positions=np.zeros((2, 3)), cell=np.eye(3) * 10, pbc=True)
    with np.errstate(all="ignore"), pytest.raises((NonFiniteEnergyError, CandidateError)):
        load_potential("ase.calculators.lj.LennardJones").energies([two])


def test_weights_of_networks_tell_calculators_apart() -> None:
    torch = pytest.importorskip("torch")

    class Network(EMT):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.models = [torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)]

    first, again, other = (calculator_sha256("any", Network(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 64


def test_a_stage_knows_the_calculator_by_its_weights() -> None:
    makers = [BandMaker(settings=BandStageSettings(potential=name)) for name in (EMT_PATH, "mace-mp-0-small")]
    emt, mace = (maker.weights_sha256() for maker in makers)
    assert emt == load_potential(EMT_PATH).weights_sha256 != mace


@pytest.mark.parametrize(("name", "expected_eV_per_atom"), [("chgnet-0.3.0", -5.05), ("sevennet-0", -4.83)])
def test_named_calculators_give_the_energy_of_their_package(name: str, expected_eV_per_atom: float) -> None:
    """Rock-salt LiF by PBE has -4.83 eV/atom; the Materials Project's correction, in CHGNet, takes off 0.23."""
    package = NAMED_CALCULATORS[name].calculator.partition(".")[0]
    pytest.importorskip(package, reason=f"{package} is not installed (an optional extra)")
    crystal = bulk("LiF", "rocksalt", a=4.08)
    potential = load_potential(name)
    energy = potential.energies([crystal])[0] / len(crystal)
    assert energy == pytest.approx(expected_eV_per_atom, abs=0.03)
    crystal.positions[0, 0] += 0.2
    step = np.zeros((2, 3))
    step[0, 0] = 1e-2
    ahead, behind = crystal.copy(), crystal.copy()
    ahead.positions += step
    behind.positions -= step
    slope = np.diff(potential.energies([behind, ahead]))[0] / 2e-2
    assert potential.energies_and_forces([crystal])[1][0][0, 0] == pytest.approx(-slope, abs=0.02)


def test_a_band_runs_on_a_calculator(tmp_path: Path) -> None:
    """A vacancy of copper by EMT: 0.7 eV in experiment and about so by EMT."""
    from hopflow.transport.hops import enumerate_hops, hop_path
    from hopflow.transport.neb import run_band
    from pymatgen.core import Lattice, Structure

    network = enumerate_hops(Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]), "Cu")
    path = hop_path(network, network.hops[0], images=7, min_length_A=7.0)
    found = run_band(path, load_potential(EMT_PATH), checkpoint=tmp_path / "band")
    assert found.converged
    assert found.barrier_span_eV == pytest.approx(0.6, abs=0.25)


def test_full_unpickling_is_on_while_a_calculator_is_made_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from hopflow.transport.environment import FULL_UNPICKLING, variable_kept

    seen = []

    class Loading(EMT):
        def __init__(self) -> None:
            super().__init__()
            seen.append(os.environ.get(FULL_UNPICKLING))

    monkeypatch.setattr("ase.calculators.emt.Loading", Loading, raising=False)
    for before in (None, "0"):
        monkeypatch.delenv(FULL_UNPICKLING, raising=False)
        if before is not None:
            monkeypatch.setenv(FULL_UNPICKLING, before)
        make_calculator("ase.calculators.emt.Loading")
        assert (seen.pop(), os.environ.get(FULL_UNPICKLING)) == ("1", before)
        with pytest.raises(KeyError), variable_kept(FULL_UNPICKLING, "2"):
            raise KeyError
        assert os.environ.get(FULL_UNPICKLING) == before
