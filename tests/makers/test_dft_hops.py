"""DFT of all hops of a path: one folder each, one barrier for all, and none where one of them has none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hopflow.makers.dft import HandoffMaker, handed_bands, hops_left_out, missing_bands
from hopflow.makers.dft_band import DftBandMaker
from hopflow.makers.dft_results import read_document, replaces, standing
from hopflow.makers.documents import BandDocument, DftBandDocument, HandoffDocument
from hopflow.makers.folders import hop_folder_name, hop_folders
from hopflow.makers.settings import HandoffStageSettings
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from pair_bands import IMAGES, band_document, learned_band, rock_salt, settings_in, stand_in
from pymatgen.core import SETTINGS, Structure
from tiny_upf import write_upf


@pytest.fixture(scope="module")
def crystal() -> Structure:
    return rock_salt(5.3)


@pytest.fixture(scope="module")
def neb(crystal: Structure) -> BandDocument:
    """Two hops, the first said to limit; it is not the higher one."""
    return band_document(crystal, [learned_band(crystal, number) for number in (1, 0)])


@pytest.fixture(scope="module")
def computed(crystal: Structure, neb: BandDocument, tmp_path_factory: pytest.TempPathFactory) -> DftBandDocument:
    place = tmp_path_factory.mktemp("dft")
    for element in ("Li", "Cl"):
        write_upf(place / "upf", element)
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, place)
        settings = settings_in(place).model_copy(update={"hops": "all"})
        document = DftBandMaker(settings=settings).evaluate(crystal, {"neb": neb}, place / "checkpoints")
    assert isinstance(document, DftBandDocument)
    return document


def test_the_highest_hop_is_the_paths_barrier(computed: DftBandDocument, neb: BandDocument) -> None:
    (other,) = computed.other_hops
    barriers = [record.barrier_span_eV for record in computed.bands]
    assert len(barriers) == 2
    assert None not in barriers
    assert computed.barrier_span_eV == barriers[0] == max(barriers)
    assert [record.hop_id for record in computed.bands] == [computed.hop_id, other.hop_id]
    learned = {record.hop_id: record.barrier_span_eV for record in neb.bands}
    # the neb stage named the other one
    assert computed.hop_id == neb.bands[1].hop_id
    assert computed.barrier_machine_learned_eV == learned[computed.hop_id]
    assert other.barrier_machine_learned_eV == learned[other.hop_id]
    assert len(computed.images) == len(other.images) == IMAGES + 2


def test_the_folder_of_all_hops_is_read_as_it_was_left(
    computed: DftBandDocument, crystal: Structure, tmp_path: Path
) -> None:
    folder = Path(computed.folder)
    assert sorted(place.name for place in folder.iterdir()) == sorted(
        hop_folder_name(record.hop_id) for record in computed.bands
    )
    found = read_document(folder, crystal, "Li")
    assert found.converged
    assert found.barrier_span_eV == pytest.approx(computed.barrier_span_eV, abs=1e-4)
    assert found.barrier_machine_learned_eV == computed.barrier_machine_learned_eV
    assert [record.hop_id for record in found.bands] == [record.hop_id for record in computed.bands]
    assert [hop.folder for hop in found.other_hops] == [hop.folder for hop in computed.other_hops]
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_document(moved, crystal, "Li").content_key == found.content_key


def test_a_hop_without_a_result_leaves_the_path_without_a_barrier(
    computed: DftBandDocument, crystal: Structure, tmp_path: Path
) -> None:
    whole = read_document(Path(computed.folder), crystal, "Li")
    names = [hop_folder_name(record.hop_id) for record in computed.bands]
    folder = Path(shutil.copytree(computed.folder, tmp_path / "back"))
    (folder / names[0] / "02" / "espresso.pwo").unlink()
    found = read_document(folder, crystal, "Li")
    assert (found.barrier_span_eV, found.converged, found.reason) == (None, False, Reason.INCOMPLETE_RESULTS)
    assert str(found.message).startswith(f"Hop {computed.hop_id}: ")
    assert found.hop_id == computed.hop_id
    # what the other hop gave is not lost, and the whole folder counts more than this one
    assert [record.barrier_span_eV for record in found.bands] == [
        pytest.approx(computed.bands[1].barrier_span_eV, abs=1e-4)
    ]
    assert standing(found) < standing(whole)
    assert replaces(whole, found)
    assert not replaces(found, whole)
    for file in (folder / names[0]).glob("*/espresso.pwo"):
        file.unlink()
    none = read_document(folder, crystal, "Li")
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert read_document(moved, crystal, "Li").content_key == none.content_key
    assert none.reason == Reason.NO_RESULTS
    assert none.images_expected == IMAGES + 2
    for file in folder.rglob("espresso.pwo"):
        file.unlink()
    with pytest.raises(CandidateError, match="no results of any of its 2 hops") as caught:
        read_document(folder, crystal, "Li")
    assert caught.value.reason is Reason.NO_RESULTS


def test_one_of_the_hops_alone_is_not_the_path(computed: DftBandDocument, crystal: Structure) -> None:
    folder = Path(computed.folder) / hop_folder_name(str(computed.hop_id))
    found = read_document(folder, crystal, "Li")
    assert found.barrier_span_eV is None
    assert found.reason == Reason.INCOMPLETE_RESULTS
    assert f"holds 1 of the 2 hops of the path and not {computed.other_hops[0].hop_id}; name the folder" in str(
        found.message
    )


def test_hops_without_a_band_are_named_when_results_come_back(
    computed: DftBandDocument, crystal: Structure, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(computed.folder, tmp_path / "back"))
    for file in folder.glob("*/handoff.json"):
        manifest = json.loads(file.read_text())
        assert manifest["metadata"]["hops_without_band"] == []
        manifest["metadata"]["hops_without_band"] = ["Li0-Li0[9,9,9]"]
        file.write_text(json.dumps(manifest))
    found = read_document(folder, crystal, "Li")
    assert found.converged
    assert "The path needs further hops, of which there is no band: Li0-Li0[9,9,9]." in found.warnings


def test_barriers_of_two_methods_are_not_compared(
    computed: DftBandDocument, crystal: Structure, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(computed.folder, tmp_path / "back"))
    for file in (folder / hop_folder_name(str(computed.hop_id))).glob("*/espresso.pwi"):
        lines = ["ecutwfc = 30.0" if "ecutwfc" in line else line for line in file.read_text().splitlines()]
        file.write_text("\n".join(lines))
    found = read_document(folder, crystal, "Li")
    assert found.reason == Reason.INCONSISTENT_BAND
    assert "were computed with different settings (PBE, " in str(found.message)


def inputs(crystal: Structure, neb: BandDocument, tmp_path: Path, **settings: Any) -> HandoffDocument:
    chosen = HandoffStageSettings(folder=str(tmp_path / "handoff"), **settings)
    document = HandoffMaker(settings=chosen).evaluate(crystal, {"neb": neb})
    assert isinstance(document, HandoffDocument)
    return document


def test_inputs_of_all_hops(
    crystal: Structure, neb: BandDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    one = inputs(crystal, neb, tmp_path)
    assert one.hop_ids == []
    assert one.images_written == IMAGES + 2
    both = inputs(crystal, neb, tmp_path, hops="all")
    assert both.folder == one.folder
    assert both.hop_ids == [record.hop_id for record in neb.bands]
    assert both.hop_id == one.hop_id
    assert both.images_written == 2 * (IMAGES + 2)
    places = hop_folders(Path(both.folder))
    assert len(places) == 2
    for place in places:
        metadata = json.loads((place / "handoff.json").read_text())["metadata"]
        assert place.name == hop_folder_name(metadata["hop_id"])
        assert metadata["hops_of_path"] == both.hop_ids
        record = next(record for record in neb.bands if record.hop_id == metadata["hop_id"])
        assert metadata["barrier_machine_learned_eV"] == record.barrier_span_eV
        assert (place / "INCAR").is_file()
    assert all((Path(both.folder) / file).is_file() for file in both.files)
    # written again, and back to one hop; results are never overwritten
    assert inputs(crystal, neb, tmp_path, hops="all").files == both.files
    (places[0] / "01" / "OUTCAR").write_text("")
    with pytest.raises(HopflowError, match="holds VASP results"):
        inputs(crystal, neb, tmp_path)
    (places[0] / "01" / "OUTCAR").unlink()
    assert inputs(crystal, neb, tmp_path).files == one.files


def test_approx_neb_of_a_salt_is_refused(crystal: Structure, neb: BandDocument, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="Without Li there is Cl") as caught:
        inputs(crystal, neb, tmp_path, method="approx_neb")
    assert caught.value.reason is Reason.NO_INSERTION_HOST
    assert list(tmp_path.glob("handoff/*")) == []


def test_folders_of_several_materials_are_no_path(crystal: Structure, neb: BandDocument, tmp_path: Path) -> None:
    document = inputs(crystal, neb, tmp_path)
    above = Path(document.folder).parent
    assert hop_folders(above) == [above]
    with pytest.raises(CandidateError, match="no image folders"):
        read_document(above, crystal, "Li")


def test_hops_that_the_neb_stage_left_out_are_named(neb: BandDocument) -> None:
    more = neb.model_copy(update={"hops_on_path": [*neb.hops_on_path, "Li0-Li0[9,9,9]"]})
    assert missing_bands(more, "limiting") == []
    assert missing_bands(neb, "all") == []
    assert hops_left_out(more) == ["Li0-Li0[9,9,9]"]
    (sentence,) = missing_bands(more, "all")
    assert "no band of 1 of the path's hops (Li0-Li0[9,9,9])" in sentence
    _, handed = handed_bands({"neb": neb}, "limiting")
    assert [each.hop_id for each in handed] == [neb.bands[0].hop_id]


@pytest.mark.parametrize(
    ("hop_id", "name"), [("Li0-Li3[0,-1,0]", "Li0-Li3_0_-1_0"), ("Na0-Na0[1,0,0]", "Na0-Na0_1_0_0")]
)
def test_names_of_folders(hop_id: str, name: str) -> None:
    assert hop_folder_name(hop_id) == name
