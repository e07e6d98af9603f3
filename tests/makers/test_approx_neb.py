"""ApproxNEB: a single ion in the empty host, its inputs, its flows, and what comes back.

VASP did not run: outputs are VASP's in layout and synthetic in content (see ``vasp_outputs``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atomate2.common.jobs.approx_neb import add_selective_dynamics_two_fixed_sites
from fireworks import Workflow
from hopflow.makers.approx_neb import approx_neb_flow, charge_density_flow
from hopflow.makers.dft_results import read_document, replaces
from hopflow.makers.documents import DftBandDocument
from hopflow.makers.settings import HandoffStageSettings
from hopflow.makers.vasp_handoff import HandoffSettings, write_handoff
from hopflow.transport.errors import CandidateError, Reason
from hopflow.workflows.ingest import summary
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from places import DEMO
from pydantic import ValidationError
from pymatgen.core import SETTINGS, Structure
from pymatgen.io.vasp import Chgcar, Incar, Kpoints, Poscar
from vasp_outputs import DoubleWell, Run, computed_band, places, vacancy_images, write_run

WELL = DoubleWell()
IMAGES = 5
SETTINGS_OF_TEST = HandoffSettings(method="approx_neb", functional="pbe+u")


@pytest.fixture(autouse=True)
def without_potcars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)


@pytest.fixture(scope="module")
def cobaltate() -> Structure:
    return Structure.from_file(DEMO / "LiCoO2.cif").get_primitive_structure()


@pytest.fixture(scope="module")
def images(cobaltate: Structure) -> list[Structure]:
    """The vacancy's hop in the full crystal, as the neb stage has it."""
    return vacancy_images(cobaltate, (2, 2, 1), places(WELL, IMAGES))


@pytest.fixture
def folder(images: list[Structure], tmp_path: Path) -> Path:
    metadata = {"hop_id": "Li0-Li0[0,1,0]", "barrier_machine_learned_eV": 0.4}
    return write_handoff(images, tmp_path / "LiCoO2", SETTINGS_OF_TEST, metadata).folder


def poscar(folder: Path, number: int) -> Structure:
    return Poscar.from_file(folder / f"{number:02d}" / "POSCAR").structure


def test_one_ion_is_left_and_two_atoms_are_held(folder: Path, images: list[Structure], cobaltate: Structure) -> None:
    assert images[0].composition["Li"] == 3
    for number, whole in enumerate(images):
        image = poscar(folder, number)
        assert image.composition.as_dict() == {"Li": 1, "Co": 4, "O": 8}
        ion = next(index for index, site in enumerate(image) if site.specie.symbol == "Li")
        moved = max(range(len(whole)), key=lambda i: images[0][i].distance(images[-1][i]))
        assert image[ion].distance_and_image_from_frac_coords(whole[moved].frac_coords)[0] < 1e-6
        held = image.site_properties.get("selective_dynamics")
        if number in (0, IMAGES - 1):
            assert held is None
            continue
        bare = Structure(image.lattice, image.species, image.frac_coords)
        theirs = add_selective_dynamics_two_fixed_sites(bare, ion, "Li").site_properties["selective_dynamics"]
        held_atoms = [index for index, free in enumerate(held) if not any(free)]
        assert len(held_atoms) == 2
        assert ion in held_atoms
        # where several atoms are farthest either may be held
        farthest = [bare.get_distance(ion, index) for index in held_atoms if index != ion]
        chosen = [index for index, free in enumerate(theirs) if not any(free) and index != ion]
        assert farthest[0] == pytest.approx(bare.get_distance(ion, chosen[0]), abs=1e-6)


def test_every_image_has_the_same_inputs(folder: Path) -> None:
    incars = [dict(Incar.from_file(folder / f"{number:02d}" / "INCAR")) for number in range(IMAGES)]
    assert all(incar == incars[0] for incar in incars)
    incar = incars[0]
    assert incar["ISIF"] == 2
    assert "IMAGES" not in incar
    assert incar["EDIFFG"] == -0.05
    assert (incar["ISYM"], incar["PREC"], incar["ENCUT"]) == (0, "Accurate", 520)
    assert incar["LDAUU"][1] > 0
    assert len(incar["MAGMOM"]) == len(poscar(folder, 0))
    assert len({str(Kpoints.from_file(folder / f"{n:02d}" / "KPOINTS")) for n in range(IMAGES)}) == 1
    assert all((folder / f"{number:02d}" / "POTCAR.spec").is_file() for number in range(IMAGES))
    assert not (folder / "INCAR").exists()
    assert not (folder / "endpoint_initial").exists()
    record = json.loads((folder / "handoff.json").read_text())
    assert record["settings"]["method"] == "approx_neb"
    assert len(record["atom_order"]) == len(poscar(folder, 0))
    text = (folder / "README.txt").read_text()
    assert "VASP ApproxNEB of a Li hop" in text
    assert "Run VASP in every folder 00 to 04" in text
    assert "inserted, with its electron" in text
    assert "vacancy is neutral" not in text


def test_what_is_no_insertion_host_is_refused(tmp_path: Path) -> None:
    lithia = vacancy_images(Structure.from_file(DEMO / "Li2O.cif"), (1, 1, 1), places(WELL, IMAGES))
    with pytest.raises(CandidateError, match=r"Without Li there is O2?, which is no host.*use `method: neb`") as caught:
        write_handoff(lithia, tmp_path / "Li2O", SETTINGS_OF_TEST)
    assert caught.value.reason is Reason.NO_INSERTION_HOST
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"engine": "espresso"}, "approx_neb needs engine: vasp"),
        ({"vtst": True}, "vtst is for nudged elastic bands"),
        ({"vacancy_charge": "compensated"}, "inserts the ion with its electron"),
    ],
)
def test_settings_that_do_not_go_together(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HandoffStageSettings(method="approx_neb", **wrong)


def test_the_flow_has_the_images_of_the_folder(folder: Path, images: list[Structure]) -> None:
    flow = approx_neb_flow(images, SETTINGS_OF_TEST, "hop", {"hop_id": "a"})
    workflow = flow_to_workflow(flow)
    again = Workflow.from_dict(json.loads(json.dumps(workflow.to_dict(), default=str)))
    assert len(again.fws) == IMAGES + 1
    assert {work.spec["_category"] for work in again.fws} == {"dft"}
    for number, job in enumerate(flow.jobs[:-1]):
        assert job.metadata["hop_id"] == "a"
        structure = job.function_args[0]
        mine = poscar(folder, number)
        assert structure.species == mine.species
        assert np.allclose(structure.frac_coords, mine.frac_coords, atol=1e-6)
        held = mine.site_properties.get("selective_dynamics")
        assert np.array_equal(structure.site_properties.get("selective_dynamics", True), True if held is None else held)
        inputs = job.maker.input_set_generator.get_input_set(structure, potcar_spec=True)
        assert dict(inputs["INCAR"]) == dict(Incar.from_file(folder / f"{number:02d}" / "INCAR"))


def test_the_flow_on_the_charge_density_finds_a_path(images: list[Structure], tmp_path: Path) -> None:
    """As far as it goes without VASP: its jobs, and the images that it makes from a charge density."""
    flow = charge_density_flow(images, SETTINGS_OF_TEST, "hop")
    workflow = flow_to_workflow(flow)
    assert {work.spec["_category"] for work in workflow.fws} == {"dft"}
    host_job, _, image_job, collect = flow.jobs
    host = host_job.function_args[0]
    assert host.composition.reduced_formula == "CoO2"
    assert host_job.maker.input_set_generator.user_incar_settings["LCHARG"] is True
    assert collect.config.on_missing_references == "none"
    # a density that is high at the atoms, as the host's calculation would leave it
    grid = (12, 12, 60)
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in grid), indexing="ij"), axis=-1).reshape(-1, 3)
    away = host.lattice.get_all_distances(points, host.frac_coords)
    density = np.exp(-((away / 0.7) ** 2)).sum(axis=1).reshape(grid)
    Chgcar(Poscar(host), {"total": density}).write_file(tmp_path / "CHGCAR")
    ends = {}
    for key, coords in flow.jobs[1].function_kwargs["endpoint_coords"].items():
        inserted = host.copy()
        inserted.insert(0, "Li", coords)
        ends[key] = {"energy": 0.0, "structure": inserted, "initial_structure": inserted}
    image_job.function_kwargs |= {"ep_output": ends, "charge_density_path": str(tmp_path)}
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore())
    store.connect()
    made = image_job.run(store).replace
    assert isinstance(made, Flow)
    relaxations = [job for job in made.jobs if "image" in job.name and job.function_args]
    assert len(relaxations) == IMAGES - 2
    for job in relaxations:
        assert job.config.manager_config["_category"] == "dft"
        held = [not any(free) for free in job.function_args[0].site_properties["selective_dynamics"]]
        assert sum(held) == 2


def finished(folder: Path, **changes: Any) -> Path:
    """VASP's outputs in every image folder: the ion is held, and the force of the surface stays on it."""
    band = computed_band([poscar(folder, number) for number in range(IMAGES)], WELL, **changes)
    for number, run in enumerate(band.runs):
        place = folder / f"{number:02d}"
        write_run(place, run, dict(Incar.from_file(place / "INCAR")), Kpoints.from_file(place / "KPOINTS"))
    return folder


def read(folder: Path, host: Structure) -> DftBandDocument:
    return read_document(folder, host, "Li")


def test_what_comes_back(folder: Path, cobaltate: Structure) -> None:
    found = read(finished(folder), cobaltate)
    assert found.message is None
    assert found.converged
    assert found.approx_neb
    assert found.barrier_forward_eV == pytest.approx(WELL.energy(WELL.saddle), abs=1e-5)
    assert found.method == "VASP ApproxNEB (PBE+U), computed elsewhere"
    assert found.climbing_image is None
    assert [text for text in found.warnings if "climbed" in text] == []
    assert any("held in each image" in text for text in found.warnings)
    assert summary(found).startswith("ApproxNEB (PBE+U, U(Co) ")
    assert all(image.ionically_converged for image in found.images)
    # a band of the same functional is another thing, and whichever comes later counts
    band = found.model_copy(update={"approx_neb": False})
    assert replaces(found, band)
    assert replaces(band, found)


def test_forces_on_what_is_free_must_vanish(folder: Path, cobaltate: Structure) -> None:
    images = [poscar(folder, number) for number in range(IMAGES)]
    band = computed_band(images, WELL)
    frame = band.runs[2].frames[-1]
    held = [not any(free) for free in images[2].site_properties["selective_dynamics"]]
    for atom, push in ((held.index(True), 3.0), (held.index(False), 0.2)):
        frame.forces[atom, 0] += push
        for number, run in enumerate(band.runs):
            place = folder / f"{number:02d}"
            write_run(
                place, Run(run.frames), dict(Incar.from_file(place / "INCAR")), Kpoints.from_file(place / "KPOINTS")
            )
        found = read(folder, cobaltate)
        assert found.converged is held[atom]
    assert found.reason == Reason.NOT_CONVERGED
    assert "Image 02 still has a force of 0.200 eV/Å" in str(found.message)


def test_half_of_it_has_no_barrier(folder: Path, cobaltate: Structure) -> None:
    finished(folder)
    for file in ("vasprun.xml", "OUTCAR"):
        (folder / "03" / file).unlink()
    found = read(folder, cobaltate)
    assert (found.barrier_span_eV, found.reason) == (None, Reason.INCOMPLETE_RESULTS)
    assert "no energy of image 03" in str(found.message)
    finished(folder)
    (folder / "01" / "POSCAR").unlink()
    lost = read(folder, cobaltate)
    assert lost.reason == Reason.INCONSISTENT_BAND
    assert "no POSCAR that can be read" in str(lost.message)


@pytest.mark.parametrize(("place", "key"), [("02", "ENCUT"), ("04", "ENCUT"), ("03", None)])
def test_images_of_other_settings_give_no_barrier(
    folder: Path, cobaltate: Structure, place: str, key: str | None
) -> None:
    if key is not None:
        incar = Incar.from_file(folder / place / "INCAR")
        incar[key] = 400
        incar.write_file(folder / place / "INCAR")
    else:
        Kpoints.gamma_automatic((1, 1, 1)).write_file(folder / place / "KPOINTS")
    found = read(finished(folder), cobaltate)
    assert (found.barrier_span_eV, found.reason) == (None, Reason.INCONSISTENT_BAND)
    what = "ENCUT" if key else "the k-points"
    assert f"Image {place} was computed with other settings than image 00 ({what}: " in str(found.message)
    name = "INCAR" if key else "KPOINTS"
    assert f"{place}/{name} were changed since the hand-off wrote the inputs." in found.warnings


def test_the_mesh_is_that_of_the_images(folder: Path, cobaltate: Structure) -> None:
    found = read(finished(folder), cobaltate)
    assert found.kpoints is not None
    assert "changed" not in " ".join(found.warnings)
