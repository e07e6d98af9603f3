"""The dft stage with an engine that runs: band from band, kept evaluations, restarts, its folder and how it is read.

A program with pair energies stands in for pw.x (see ``pair_pw``), so that every step but the electrons is the real one.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hopflow.makers.dft_band import DftBandMaker, engine_settings, next_start, path_from_images, run_to_rest
from hopflow.makers.dft_results import read_document
from hopflow.makers.documents import BandDocument, DftBandDocument
from hopflow.makers.settings import EspressoBandSettings, HandoffStageSettings
from hopflow.transport.band_result import BandResult, BandSettings
from hopflow.transport.errors import CandidateError, NotConvergedError, Reason
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hopflow.workflows.assembly import stage_maker
from hopflow.workflows.spec import CampaignSpec
from pair_bands import IMAGES, band_document, learned_band, program_runs, rock_salt, settings_in, stand_in
from pair_potential import PairPotential
from places import DEMO
from pydantic import ValidationError
from pymatgen.core import Structure
from tiny_upf import write_upf

RECORDED = Path(__file__).parent / "espresso_li2o"


@pytest.fixture(scope="module")
def crystal() -> Structure:
    return rock_salt()


@pytest.fixture(scope="module")
def learned(crystal: Structure) -> BandResult:
    """A band that a potential has made, not quite at rest."""
    return learned_band(crystal, 0)


@pytest.fixture(scope="module")
def prior(crystal: Structure, learned: BandResult) -> dict[str, BandDocument]:
    """What the neb stage leaves."""
    return {"neb": band_document(crystal, [learned])}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pseudopotentials, in which the stand-in counts its runs."""
    folder = tmp_path_factory.mktemp("dft")
    for element in ("Li", "Cl"):
        write_upf(folder / "upf", element)
    return folder


@pytest.fixture(scope="module")
def computed(crystal: Structure, prior: dict[str, Any], place: Path) -> DftBandDocument:
    """The stage's answer, after a crash on the way."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, place, "--fault", "crash", "--after", "4")
        maker = DftBandMaker(settings=settings_in(place))
        with pytest.raises(CandidateError) as caught:
            maker.evaluate(crystal, prior, place / "checkpoints")
        assert caught.value.reason is Reason.ENGINE_FAILED
        stand_in(patch, place)
        document = maker.evaluate(crystal, prior, place / "checkpoints")
    assert isinstance(document, DftBandDocument)
    return document


def test_the_barrier_is_that_of_the_surface(computed, crystal, learned):
    network = enumerate_hops(crystal, "Li")
    path = hop_path(network, network.hops[0], images=IMAGES + 2, min_length_A=6.0)
    tight = run_band(
        path,
        PairPotential(),
        BandSettings(images=IMAGES, max_force_eV_per_A=0.01, endpoint_max_force_eV_per_A=0.01, split=False),
    )
    assert computed.converged
    assert computed.barrier_span_eV == pytest.approx(tight.barrier_span_eV, abs=0.02)
    assert computed.barrier_machine_learned_eV == learned.barrier_span_eV
    assert computed.engine == "espresso"
    assert computed.functional == "PBE"
    assert computed.versions["quantum-espresso"] == "6.7MaX"
    assert computed.hop_id == learned.path_id
    assert computed.climbing_image is not None
    assert all(image.ionically_converged and image.electronically_converged for image in computed.images)


def test_a_crash_costs_no_answer(computed, place):
    # of two runs side by side one or both had crashed; all others are kept and asked for once
    answers = list((place / "checkpoints").rglob("answer.npz"))
    assert len(answers) < program_runs(place) <= len(answers) + 2
    # and one more for the files of the end point that symmetry gave
    assert len(answers) <= computed.bands[0].evaluations + 1


def test_the_same_again_runs_nothing(computed, crystal, prior, place, monkeypatch):
    stand_in(monkeypatch, place)
    before = program_runs(place)
    again = DftBandMaker(settings=settings_in(place)).evaluate(crystal, prior, place / "checkpoints")
    assert again.barrier_span_eV == computed.barrier_span_eV
    assert again.content_key == computed.content_key
    # another limit of steps is another question to the stage, with the same answers of the program
    other = DftBandMaker(settings=settings_in(place, max_steps=50)).evaluate(crystal, prior, place / "checkpoints")
    assert other.content_key != computed.content_key
    assert other.barrier_span_eV == computed.barrier_span_eV
    assert program_runs(place) == before


def test_the_folder_is_read_as_it_was_left(computed, crystal):
    folder = Path(computed.folder)
    found = read_document(folder, crystal, "Li")
    assert found.barrier_span_eV == pytest.approx(computed.barrier_span_eV, abs=1e-4)
    assert found.barrier_machine_learned_eV == computed.barrier_machine_learned_eV
    for name in ("engine", "functional", "hop_id", "climbing_image", "images_expected", "reason"):
        assert getattr(found, name) == getattr(computed, name)
    assert found.cutoff_eV == pytest.approx(computed.cutoff_eV, rel=1e-4)
    assert found.method.startswith("Quantum ESPRESSO NEB (PBE)")
    assert found.converged


def half_way(folder: Path) -> None:
    file = folder / "02" / "espresso.pwo"
    file.write_text(file.read_text().partition("Forces acting")[0])


def without_one(folder: Path) -> None:
    (folder / "03" / "espresso.pwo").unlink()


def electrons_adrift(folder: Path) -> None:
    file = folder / "01" / "espresso.pwo"
    file.write_text(file.read_text().replace("convergence has been achieved", "convergence NOT achieved"))


def other_cutoff(folder: Path) -> None:
    file = folder / "04" / "espresso.pwi"
    file.write_text(
        "\n".join("ecutwfc = 30.0" if "ecutwfc" in line else line for line in file.read_text().splitlines())
    )


def wrong_order(folder: Path) -> None:
    (folder / "01").rename(folder / "swap")
    (folder / "03").rename(folder / "01")
    (folder / "swap").rename(folder / "03")


def tighter_limit(folder: Path) -> None:
    manifest = json.loads((folder / "handoff.json").read_text())
    (folder / "handoff.json").write_text(json.dumps({**manifest, "force_limit_eV_per_A": 1e-6}))


@pytest.mark.parametrize(
    ("fault", "reason", "sentence"),
    [
        (
            half_way,
            Reason.INCOMPLETE_RESULTS,
            "no energy of image 02: espresso.pwo was cut off; the calculation stopped",
        ),
        (without_one, Reason.INCOMPLETE_RESULTS, "no energy of image 03: no espresso.pwo"),
        (electrons_adrift, Reason.NOT_CONVERGED, "electrons of image 01 did not converge; raise electron_maxstep"),
        (
            other_cutoff,
            Reason.INCONSISTENT_BAND,
            "Image 04 was computed with other settings than the band .ecutwfc: 30",
        ),
        (wrong_order, Reason.INCONSISTENT_BAND, "not in the order of the band"),
        (
            tighter_limit,
            Reason.ENDPOINT_NOT_RELAXED,
            "End point 00 still has a force of .* go on from its last positions",
        ),
    ],
)
def test_a_folder_that_is_not_whole_says_what_it_lacks(computed, crystal, tmp_path, fault, reason, sentence):
    folder = Path(shutil.copytree(computed.folder, tmp_path / "back"))
    fault(folder)
    found = read_document(folder, crystal, "Li")
    assert found.barrier_span_eV is None
    assert found.reason == reason
    assert re.search(sentence, str(found.message)), found.message
    known = [image.energy_eV is not None for image in found.images]
    assert sum(known) >= len(known) - 1


def test_packed_outputs_are_read_and_a_bare_folder_is_not(computed, crystal, tmp_path):
    folder = Path(shutil.copytree(computed.folder, tmp_path / "back"))
    for file in folder.glob("*/espresso.pwo"):
        file.with_name("espresso.pwo.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert read_document(folder, crystal, "Li").converged
    for file in folder.glob("*/espresso.pwo.gz"):
        file.unlink()
    with pytest.raises(CandidateError, match=r"holds no results: no image has an espresso\.pwo") as caught:
        read_document(folder, crystal, "Li")
    assert caught.value.reason is Reason.NO_RESULTS


def test_a_band_goes_on_where_its_steps_ended(learned, tmp_path):
    images = learned.images
    path, start = path_from_images(images, "hop")
    few = EspressoBandSettings(max_steps=2, restarts=0, max_force_eV_per_A=0.02, endpoint_max_force_eV_per_A=0.02)
    potential = PairPotential()
    first = run_to_rest(path, potential, few, start, tmp_path)
    assert first.reason in (Reason.NOT_CONVERGED, Reason.ENDPOINT_NOT_RELAXED)
    results = [first]
    while not results[-1].converged and len(results) < 30:
        asked = len(potential.asked)
        results.append(run_to_rest(path, potential, few, start, tmp_path))
        assert len(potential.asked) > asked
    assert results[-1].converged
    # costs add up, and a restart begins where the one before ended
    evaluations = [result.evaluations for result in results]
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] == len(potential.asked)
    whole = run_to_rest(path, PairPotential(), replace_steps(few, 2, 30), start, tmp_path / "whole")
    assert whole.converged
    assert whole.barrier_span_eV == pytest.approx(results[-1].barrier_span_eV, abs=2e-3)


def replace_steps(settings: EspressoBandSettings, steps: int, restarts: int) -> EspressoBandSettings:
    return settings.model_copy(update={"max_steps": steps, "restarts": restarts})


def test_a_first_band_follows_its_ends(learned):
    path, start = path_from_images(learned.images, "hop")
    assert path.path_id == "hop"
    assert np.allclose(start[:, -1], path.path_frac_coords @ path.lattice)
    _, more = path_from_images(learned.images, "hop", 7)
    assert more.shape == (9, *start.shape[1:])
    assert np.allclose(more[[0, -1]], start[[0, -1]])
    ends = replace(learned, images=[learned.images[0], learned.images[-1]])
    moved = next_start(ends, start + 0.1, IMAGES)
    assert moved is not None
    assert np.allclose(moved, start)
    line = next_start(ends, None, IMAGES)
    assert line is not None
    assert np.allclose(np.diff(line, axis=0), (start[-1] - start[0]) / (IMAGES + 1))


def test_how_electrons_are_treated(learned, place):
    image = learned.images[0]
    charged = engine_settings(settings_in(place), "Li", image)
    assert charged.charge_e == -1
    assert charged.smearing_eV is None
    assert not charged.spin_polarised
    neutral = engine_settings(settings_in(place).model_copy(update={"vacancy_charge": "neutral"}), "Li", image)
    assert neutral.charge_e == 0
    # a hole is left: one electron is alone
    assert neutral.spin_polarised
    assert neutral.smearing_eV == 0.1
    iron = image.copy()
    iron.symbols[0] = "Fe"
    write_upf(place / "iron", "Fe")
    for element in ("Li", "Cl"):
        write_upf(place / "iron", element)
    with_iron = settings_in(place, pseudopotentials=str(place / "iron"))
    assert engine_settings(with_iron, "Li", iron).spin_polarised
    with pytest.raises(CandidateError, match="holds no file for Fe"):
        engine_settings(settings_in(place), "Li", iron)


def test_the_engine_decides_what_the_stage_is(place):
    stages = {"bvse": None, "neb": None, "dft": {"settings": {"engine": "espresso"}, "gate": {"max": 0.5}}}
    spec = CampaignSpec.model_validate({"name": "a", "materials": {"structures": "x"}, "stages": stages})
    dft = spec.stages.dft
    assert dft is not None
    assert dft.gate_quantity() == "barrier_span_eV"
    maker = stage_maker("dft", "Li", dft.settings)
    assert isinstance(maker, DftBandMaker)
    assert maker.category == "dft"
    assert type(stage_maker("dft", "Li")).__name__ == "HandoffMaker"
    with pytest.raises(ValidationError, match=r"engine: espresso computes pbe and pbesol; pbe\+u needs engine: vasp"):
        HandoffStageSettings(engine="espresso", functional="pbe+u")
    with pytest.raises(ValidationError, match="vtst is a build of VASP"):
        HandoffStageSettings(engine="espresso", vtst=True)
    stages["dft"] = {"gate": {"quantity": "barrier_span_eV"}}
    with pytest.raises(ValidationError, match="'barrier_span_eV' is not known here; allowed: images_written"):
        CampaignSpec.model_validate({"name": "a", "materials": {"structures": "x"}, "stages": stages})


def test_no_band_no_dft(crystal, place):
    with pytest.raises(CandidateError, match="needs the band of the neb stage; run neb first"):
        DftBandMaker(settings=settings_in(place)).evaluate(crystal, {})


def test_out_of_steps_is_no_number(crystal, prior, place, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path)
    settings = settings_in(place, max_steps=1, restarts=0, max_force_eV_per_A=0.001, endpoint_max_force_eV_per_A=0.001)
    with pytest.raises(NotConvergedError, match="has no barrier") as caught:
        DftBandMaker(settings=settings).evaluate(crystal, prior, place / "checkpoints")
    assert caught.value.reason in (Reason.NOT_CONVERGED, Reason.ENDPOINT_NOT_RELAXED)


def test_a_band_that_quantum_espresso_wrote_is_read(tmp_path):
    """Files of pw.x 6.7 from ``benchmarks/dft_neb.py``: Li2O, 20 atoms, PBE, 816 eV, four k-points."""
    lithia = Structure.from_file(DEMO / "Li2O.cif")
    found = read_document(RECORDED, lithia, "Li")
    assert found.converged, found.message
    assert found.barrier_span_eV == pytest.approx(0.297, abs=1e-3)
    assert found.barrier_machine_learned_eV == pytest.approx(0.269, abs=1e-3)
    assert found.kpoints == "automatic 2 2 2 1 1 1"
    assert found.cutoff_eV == pytest.approx(816.0, abs=0.1)
    assert found.settings["tot_charge"] == -1
    assert max(image.max_force_eV_per_A or 9.0 for image in found.images) < 0.05
    energies = [image.energy_eV for image in found.images]
    # the hop is its own mirror image
    assert energies[0] == pytest.approx(energies[4], abs=1e-4)
    assert energies[1] == pytest.approx(energies[3], abs=5e-3)
    with pytest.raises(CandidateError) as caught:
        read_document(RECORDED, Structure.from_file(DEMO / "Li3N.cif"), "Li")
    assert caught.value.reason is Reason.OTHER_MATERIAL
    # a run that was killed: its last image ends within the forces
    stopped = Path(shutil.copytree(RECORDED, tmp_path / "stopped"))
    packed = stopped / "03" / "espresso.pwo.gz"
    text = gzip.decompress(packed.read_bytes()).decode()
    packed.write_bytes(gzip.compress(text[: text.index("Forces acting") + 400].encode()))
    half = read_document(stopped, lithia, "Li")
    assert half.reason == Reason.INCOMPLETE_RESULTS
    assert [image.energy_eV is not None for image in half.images] == [True, True, True, False, True]
