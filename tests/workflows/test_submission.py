"""VASP hand-offs as FireWorks: what comes onto the launchpad, once, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hopflow.makers.vasp_handoff import HandoffSettings, write_handoff
from hopflow.makers.vasp_inputs import generators
from hopflow.transport.errors import HopflowError
from hopflow.workflows import cli
from hopflow.workflows.database import Database
from hopflow.workflows.submission import read_images, submit
from monty.json import MontyDecoder
from places import DEMO
from pymatgen.core import SETTINGS, Structure
from typer.testing import CliRunner
from vasp_outputs import DoubleWell, places, vacancy_images

IMAGES = 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    images = vacancy_images(Structure.from_file(DEMO / "Li2O.cif"), (1, 1, 1), places(DoubleWell(), IMAGES))
    for image in images:
        image.add_site_property("magmom", [0.5 + 0.01 * number for number in range(len(image))])
    settings = HandoffSettings(vacancy_charge="compensated", vtst=True)
    metadata = {"hop_id": "Li0-Li3[0,0,0]", "formula": "Li2O"}
    return write_handoff(images, tmp_path / "Li2O", settings, metadata).folder


def test_the_jobs_of_a_band_are_on_the_launchpad_once(ready: Database, folder: Path):
    found = submit(ready, folder)
    assert len(found.fireworks) == 5
    launchpad = ready.launchpad
    works = [launchpad.get_fw_by_id(number) for number in found.fireworks]
    assert {work.spec["_category"] for work in works} == {"dft"}
    workflow = launchpad.get_wf_by_fw_id(found.fireworks[0])
    assert workflow.metadata["hop_id"] == "Li0-Li3[0,0,0]"
    assert workflow.metadata["handoff"] == str(folder.resolve())
    # the job that carries the band along holds the images of the folder
    carried = next(work for work in works if "band on relaxed end points" in work.name)
    job = MontyDecoder().process_decoded(carried.tasks[0]["job"])
    images = job.function_args[0]
    for mine, theirs in zip(images, read_images(folder, IMAGES), strict=True):
        assert mine.species == theirs.species
        assert np.allclose(mine.frac_coords, theirs.frac_coords)
        assert mine.site_properties["magmom"] == theirs.site_properties["magmom"]
    with pytest.raises(HopflowError, match=r"are on the launchpad already \(FireWorks \d+ to \d+\)"):
        submit(ready, folder)
    assert launchpad.workflows.count_documents({}) == 1


def test_settings_of_the_folder_are_those_of_the_jobs(ready: Database, folder: Path):
    works = [ready.launchpad.get_fw_by_id(number) for number in submit(ready, folder).fireworks]
    run = next(work for work in works if work.name.endswith("DFT-NEB band"))
    chosen = MontyDecoder().process_decoded(run.tasks[0]["job"]).maker.input_set_generator
    settings = HandoffSettings(vacancy_charge="compensated", vtst=True)
    expected, _ = generators(read_images(folder, IMAGES), settings)
    assert chosen.climbing_image is expected.climbing_image is True
    assert chosen.user_incar_settings == expected.user_incar_settings
    assert (
        chosen.user_incar_settings["NELECT"] == json.loads((folder / "handoff.json").read_text())["result"]["electrons"]
    )


def test_approx_neb_is_submitted_as_it_was_written(
    ready: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    images = vacancy_images(Structure.from_file(DEMO / "LiCoO2.cif"), (2, 2, 1), places(DoubleWell(), IMAGES))
    folder = write_handoff(images, tmp_path / "LiCoO2", HandoffSettings(method="approx_neb")).folder
    found = submit(ready, folder)
    assert len(found.fireworks) == IMAGES + 1
    relaxed = []
    for number in found.fireworks:
        work = ready.launchpad.get_fw_by_id(number)
        assert work.spec["_category"] == "dft"
        job = MontyDecoder().process_decoded(work.tasks[0]["job"])
        relaxed += [job.function_args[0]] if "image" in work.name else []
    for structure, written in zip(relaxed, read_images(folder, IMAGES), strict=True):
        assert structure.composition["Li"] == 1
        assert structure.site_properties["magmom"] == written.site_properties["magmom"]
        held = written.site_properties.get("selective_dynamics")
        assert np.array_equal(structure.site_properties.get("selective_dynamics", [0]), [0] if held is None else held)


def test_what_is_no_hand_off_is_refused(ready: Database, folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(HopflowError, match="is no hand-off for VASP; name a folder"):
        submit(ready, tmp_path / "empty")
    (folder / "02" / "POSCAR").unlink()
    with pytest.raises(HopflowError, match=r"is not whole .*write the hand-off anew"):
        submit(ready, folder)
    manifest = json.loads((folder / "handoff.json").read_text())
    (folder / "handoff.json").write_text(json.dumps({**manifest, "engine": "espresso"}))
    with pytest.raises(HopflowError, match="is no hand-off for VASP"):
        submit(ready, folder)
    assert ready.launchpad.workflows.count_documents({}) == 0


def test_the_command_needs_a_server(folder: Path, tmp_path: Path):
    run = CliRunner().invoke(cli.app, ["--home", str(tmp_path / "home"), "dft", "submit", str(folder)])
    assert run.exit_code != 0
    assert "VASP jobs need a MongoDB" in str(run.exception or run.output)
