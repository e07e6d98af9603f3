"""A VASP band read back from its folder: barriers where it converged, and every way in which it did not.

The files are VASP's in layout and synthetic in content (see ``vasp_outputs``); real VASP did not run.
"""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from hopflow.makers.dft_hops import check_host
from hopflow.makers.dft_results import read_document, replaces, standing
from hopflow.makers.documents import DftBandDocument
from hopflow.makers.vasp_handoff import HandoffSettings, write_handoff
from hopflow.makers.vasp_images import read_image
from hopflow.makers.vasp_settings import first_difference, functional_name, hubbard_u_eV
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from places import DEMO
from pymatgen.analysis.transition_state import NEBAnalysis
from pymatgen.core import SETTINGS, Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints, Outcar, Poscar, Vasprun
from vasp_outputs import Band, DoubleWell, computed_band, places, vacancy_images, write_results, write_run

WELL = DoubleWell()
IMAGES = 7
BARRIER_EV = WELL.energy(WELL.saddle)


@pytest.fixture(scope="module")
def lithia() -> Structure:
    return Structure.from_file(DEMO / "Li2O.cif")


@pytest.fixture(scope="module")
def inputs(lithia: Structure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-off of a five-image band of Li2O, as the stage writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
        folder = tmp_path_factory.mktemp("handoff") / "Li2O"
        metadata = {"barrier_machine_learned_eV": 0.4, "hop_id": "Li0-Li3[0,0,0]", "hop_multiplicity": 24}
        write_handoff(
            vacancy_images(lithia, (1, 1, 1), places(WELL, IMAGES)), folder, HandoffSettings(vtst=True), metadata
        )
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "back"))


def band_in(folder: Path, **options: float) -> Band:
    """The results of the band whose inputs lie in a folder."""
    images = [Poscar.from_file(folder / f"{n:02d}" / "POSCAR").structure for n in range(IMAGES)]
    band = computed_band(images, WELL, **options)  # type: ignore[arg-type]
    for run in band.runs:
        run.along_band = [0.0] * len(run.frames)
    return band


def read(folder: Path, host: Structure) -> DftBandDocument:
    return read_document(folder, host, "Li")


def test_a_complete_band_has_its_barriers(folder: Path, lithia: Structure) -> None:
    found = read(write_results(folder, band_in(folder)), lithia)
    assert found.converged
    assert found.reason is None
    assert found.barrier_forward_eV == pytest.approx(BARRIER_EV, abs=1e-6)
    assert found.barrier_reverse_eV == pytest.approx(BARRIER_EV - WELL.difference_eV, abs=1e-6)
    assert found.barrier_span_eV == found.barrier_forward_eV
    assert found.climbing_image == 3
    assert (found.functional, found.cutoff_eV, found.kpoints) == ("PBE", 520.0, "5 x 5 x 5 Gamma")
    assert found.barrier_machine_learned_eV == 0.4
    assert [image.steps for image in found.images] == [3] * IMAGES
    assert all(image.ionically_converged and image.electronically_converged for image in found.images)
    record = found.bands[0]
    assert (record.hop_id, record.multiplicity, record.evaluations) == ("Li0-Li3[0,0,0]", 24, 21)
    # The profile is that of pymatgen's own analysis of the same folder.
    outcars = [Outcar(folder / f"{n:02d}" / "OUTCAR") for n in range(IMAGES)]
    structures = [Poscar.from_file(folder / f"{n:02d}" / "POSCAR").structure for n in range(IMAGES)]
    peer = NEBAnalysis.from_outcars(outcars, structures)
    assert record.energies_eV == pytest.approx(list(peer.relative_energies), abs=1e-6)
    assert record.lengths_A == pytest.approx(list(peer.r), abs=1e-4)
    assert found.warnings == []
    assert DftBandDocument.model_validate(found.model_dump(mode="json")) == found


def test_the_files_of_the_tests_are_those_of_vasp_to_pymatgen(folder: Path) -> None:
    write_results(folder, band_in(folder))
    run = Vasprun(folder / "02" / "vasprun.xml", parse_potcar_file=False, parse_dos=False, parse_eigen=False)
    assert run.converged
    assert run.incar["IMAGES"] == IMAGES - 2
    assert run.final_structure.composition == Poscar.from_file(folder / "02" / "CONTCAR").structure.composition
    whole = Outcar(folder / "02" / "OUTCAR")
    assert whole.final_energy == pytest.approx(run.final_energy)
    assert whole.run_stats["Elapsed time (sec)"] == 1210.25


def test_splined_barrier_finds_the_saddle_between_images(folder: Path, lithia: Structure) -> None:
    """Without climbing the highest image lies below the saddle; the spline with true forces comes nearer."""
    u_values = np.linspace(-1, 1, IMAGES) + 0.12 * (1 - np.linspace(-1, 1, IMAGES) ** 2)
    images = vacancy_images(lithia, (1, 1, 1), list(u_values))
    band = computed_band(images, WELL)
    for name in ("INCAR", "endpoint_initial/INCAR", "endpoint_final/INCAR"):
        tags = Incar.from_file(folder / name)
        for tag in ("LCLIMB", "IOPT", "ICHAIN"):
            tags.pop(tag, None)
        tags.write_file(folder / name)
    found = read(write_results(folder, band), lithia)
    assert found.barrier_forward_eV is not None
    assert found.splined_forward_eV is not None
    assert found.barrier_forward_eV < BARRIER_EV - 0.004
    assert abs(found.splined_forward_eV - BARRIER_EV) < 0.3 * (BARRIER_EV - found.barrier_forward_eV)
    assert any("No image climbed" in text for text in found.warnings)
    assert any("INCAR were changed" in text for text in found.warnings)


def test_springs_of_the_vtst_code_are_no_forces_of_dft(folder: Path, lithia: Structure) -> None:
    """VTST prints springs in place of the force along the band; the true one stands in a line of its own."""
    plain = read(write_results(folder, band_in(folder)), lithia)
    band = band_in(folder)
    axis = band.runs[-1].frames[-1].structure.cart_coords - band.runs[0].frames[-1].structure.cart_coords
    unit = axis / np.linalg.norm(axis)
    for run in band.runs[1:-1]:
        for step, frame in enumerate(run.frames):
            along = float((frame.forces * unit).sum())
            assert run.along_band is not None
            run.along_band[step] = along
            frame.forces = frame.forces + (0.7 - along) * unit  # a spring of 0.7 eV/Å
    band.runs[3].frames[-1].forces = band.runs[3].frames[-1].forces - 0.7 * unit  # the climbing image has none
    vtst = read(write_results(folder, band), lithia)
    assert vtst.converged
    assert vtst.splined_forward_eV == pytest.approx(BARRIER_EV, abs=2e-3)
    assert vtst.barrier_forward_eV == pytest.approx(plain.barrier_forward_eV)
    for run in band.runs:
        run.along_band = None
    unknown = read(write_results(folder, band), lithia)
    assert unknown.barrier_forward_eV == pytest.approx(plain.barrier_forward_eV)
    assert unknown.splined_forward_eV is None
    assert any("no splined barriers" in text for text in unknown.warnings)


@pytest.mark.parametrize("files", [("OUTCAR",), ("vasprun.xml",), ("vasprun.xml", "OUTCAR")])
def test_either_file_is_enough(folder: Path, lithia: Structure, files: tuple[str, ...]) -> None:
    band = band_in(folder)
    for run in band.runs:
        run.files = (*files, "CONTCAR")
    write_results(folder, band)
    for file in folder.rglob("vasprun.xml"):
        with gzip.open(f"{file}.gz", "wt") as stream:
            stream.write(file.read_text())
        file.unlink()
    found = read(folder, lithia)
    assert found.barrier_forward_eV == pytest.approx(BARRIER_EV, abs=1e-6)
    assert [image.steps for image in found.images] == [3] * IMAGES


def _missing_image(band: Band, folder: Path) -> None:
    band.runs[4].files = ()


def _killed(band: Band, folder: Path) -> None:
    for run in band.runs[1:-1]:
        run.whole = False


def _electrons(band: Band, folder: Path) -> None:
    band.runs[2].electrons_converged = False


def _forces(band: Band, folder: Path) -> None:
    for run in band.runs[1:-1]:
        run.frames = run.frames[:-1]


def _endpoint_forces(band: Band, folder: Path) -> None:
    band.runs[-1].frames = band.runs[-1].frames[:-1]


def _swapped(band: Band, folder: Path) -> None:
    band.runs[2], band.runs[4] = band.runs[4], band.runs[2]


def _neighbours_swapped(band: Band, folder: Path) -> None:
    band.runs[1], band.runs[2] = band.runs[2], band.runs[1]


def _cutoff(band: Band, folder: Path) -> None:
    tags = Incar.from_file(folder / "endpoint_initial" / "INCAR")
    tags["ENCUT"] = 400
    tags.write_file(folder / "endpoint_initial" / "INCAR")


def _mesh(band: Band, folder: Path) -> None:
    Kpoints.gamma_automatic((3, 3, 3)).write_file(folder / "endpoint_final" / "KPOINTS")


def _not_a_number(band: Band, folder: Path) -> None:
    band.runs[3].frames[-1].energy_eV = float("nan")
    band.runs[3].files = ("vasprun.xml",)


FAULTS = [
    (_missing_image, Reason.INCOMPLETE_RESULTS, "no energy of image 04"),
    (_killed, Reason.INCOMPLETE_RESULTS, "Image 01 is not finished after 3 ionic steps"),
    (_electrons, Reason.NOT_CONVERGED, "electrons of image 02 did not reach EDIFF"),
    (_forces, Reason.NOT_CONVERGED, "Image 01 still has a force of 0.5"),
    (_endpoint_forces, Reason.ENDPOINT_NOT_RELAXED, "End point 06 still has a force of 0.5"),
    (_swapped, Reason.INCONSISTENT_BAND, "not in the order of the band"),
    (_neighbours_swapped, Reason.INCONSISTENT_BAND, "not in the order of the band"),
    (_cutoff, Reason.INCONSISTENT_BAND, "ENCUT: 400"),
    (_mesh, Reason.INCONSISTENT_BAND, "the k-points: 3 x 3 x 3 Gamma and 5 x 5 x 5 Gamma"),
    (_not_a_number, Reason.INCOMPLETE_RESULTS, "no energy of image 03"),
]


@pytest.mark.parametrize(("fault", "reason", "words"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_what_is_not_converged_has_no_barrier(folder, lithia, fault, reason, words) -> None:
    band = band_in(folder)
    fault(band, folder)
    found = read(write_results(folder, band), lithia)
    assert found.reason == reason
    assert words in (found.message or "")
    assert not found.converged
    barriers = [getattr(found, name) for name in type(found).model_fields if name.startswith(("barrier_", "splined_"))]
    assert barriers == [None] * 6 + [0.4], "only the machine-learned barrier is a number"
    assert all(record.barrier_span_eV is None for record in found.bands)
    # Nothing that was read is lost.
    known = [image.energy_eV for image in found.images if image.energy_eV is not None]
    assert len(known) >= IMAGES - 1
    assert sum(image.steps for image in found.images) >= 2 * (IMAGES - 1)


def test_end_points_that_were_not_computed(folder: Path, lithia: Structure) -> None:
    found = read(write_results(folder, band_in(folder), endpoints=False), lithia)
    assert found.reason == Reason.INCOMPLETE_RESULTS
    assert "no energy of end point 00" in (found.message or "")
    assert sum(image.energy_eV is not None for image in found.images) == IMAGES - 2


def test_end_points_in_their_own_folders_are_found(folder: Path, lithia: Structure) -> None:
    write_results(folder, band_in(folder))
    for place in (folder / "00", folder / f"{IMAGES - 1:02d}"):
        (place / "OUTCAR").unlink()
    found = read(folder, lithia)
    assert found.converged
    assert found.images[0].read_from == "endpoint_initial/vasprun.xml"


def test_a_relaxed_end_point_that_was_not_copied_is_told(folder: Path, lithia: Structure) -> None:
    first = (folder / "00" / "POSCAR").read_text()
    write_results(folder, band_in(folder))
    moved = Poscar.from_str(first).structure
    moved.translate_sites([0], [0.2, 0, 0], frac_coords=False)
    Poscar(moved).write_file(folder / "00" / "POSCAR")
    assert any("was not copied to 00/POSCAR" in text for text in read(folder, lithia).warnings)


def test_a_scf_energy_of_a_killed_step_is_no_energy(folder: Path, lithia: Structure) -> None:
    """A killed OUTCAR ends with energies of SCF steps, the last one 0.7 eV off."""
    band = band_in(folder)
    for run in band.runs[1:-1]:
        run.whole, run.files = False, ("OUTCAR",)
    found = read(write_results(folder, band), lithia)
    assert found.bands[0].energies_eV[3] == pytest.approx(BARRIER_EV, abs=1e-6)
    assert found.images[3].steps == 3
    assert "OUTCAR was cut off" in (found.images[3].problem or "")


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml"])
def test_a_file_cut_anywhere_gives_no_barrier_and_no_crash(folder, lithia, name, cut) -> None:
    write_results(folder, band_in(folder))
    other = "vasprun.xml" if name == "OUTCAR" else "OUTCAR"
    (folder / "03" / other).unlink()
    file = folder / "03" / name
    text = file.read_text()
    file.write_text(text[: int(cut * len(text))])
    found = read(folder, lithia)
    assert found.reason == Reason.INCOMPLETE_RESULTS
    assert found.images[3].steps < 4
    assert found.barrier_span_eV is None


def test_energies_as_stopping_criterion_do_not_make_a_barrier(folder: Path, lithia: Structure) -> None:
    band = band_in(folder, settle_A=0.04)  # 0.16 eV/Å in the step before the last
    for run in band.runs[1:-1]:
        run.frames = run.frames[:-1]
    write_results(folder, band)
    tags = Incar.from_file(folder / "INCAR")
    tags["EDIFFG"] = 1e-3
    tags.write_file(folder / "INCAR")
    found = read(folder, lithia)
    assert found.reason == Reason.NOT_CONVERGED
    assert found.force_limit_eV_per_A == 0.1


def test_other_crystals_are_refused(folder: Path, lithia: Structure) -> None:
    write_results(folder, band_in(folder))
    for name, words in (("LiF", "not of LiF"), ("Li3N", "not of Li3N")):
        with pytest.raises(CandidateError, match=words) as caught:
            read(folder, Structure.from_file(DEMO / f"{name}.cif"))
        assert caught.value.reason is Reason.OTHER_MATERIAL
    layered = Structure.from_spacegroup("P-3m1", Lattice.hexagonal(3.2, 5.1), ["Li", "O"],
                                        [[1 / 3, 2 / 3, 0.25], [0, 0, 0]])  # fmt: skip
    with pytest.raises(CandidateError, match="its crystal is not that of the material"):
        read(folder, layered)


@pytest.mark.parametrize("name", ["Li3N", "Li3OCl", "LiNbO3"])
def test_relaxed_supercells_of_a_host_are_known(name: str) -> None:
    host = Structure.from_file(DEMO / f"{name}.cif")
    cell = vacancy_images(host, (2, 2, 1), [-1.0])[0]
    cell.perturb(0.08)
    check_host(cell, host, "Li")
    check_host(cell, host.get_primitive_structure(), "Li")
    full = host * (2, 2, 1)
    full.remove_oxidation_states()
    with pytest.raises(CandidateError, match="no Li vacancy"):
        check_host(full, host, "Li")


def test_a_folder_without_anything_is_refused(folder: Path, lithia: Structure, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="no VASP results") as caught:
        read(folder, lithia)  # inputs only
    assert caught.value.reason is Reason.NO_RESULTS
    with pytest.raises(CandidateError, match="no image folders"):
        read(tmp_path, lithia)
    (folder / "handoff.json").write_text("{}")
    with pytest.raises(HopflowError, match="no record of a hand-off"):
        read(folder, lithia)


def test_a_folder_from_elsewhere(lithia: Structure, folder: Path, tmp_path: Path) -> None:
    """No hand-off: other folder names, another order of atoms in the images, end points in start/ and end/."""
    write_results(folder, band_in(folder))
    mine = tmp_path / "mine"
    for name, old in (("start", "endpoint_initial"), ("end", "endpoint_final")):
        shutil.copytree(folder / old, mine / name)
    for number in range(1, IMAGES - 1):
        shutil.copytree(folder / f"{number:02d}", mine / f"{number:02d}")
    for number in (0, IMAGES - 1):
        (mine / f"{number:02d}").mkdir()
    for name in ("INCAR", "KPOINTS"):
        shutil.copy(folder / name, mine / name)
    found = read(mine, lithia)
    assert found.barrier_forward_eV == pytest.approx(BARRIER_EV, abs=1e-6)
    assert (found.hop_id, found.barrier_machine_learned_eV) == (None, None)
    assert found.bands[0].distance_A == pytest.approx(2.3095, abs=1e-3)


def test_the_key_tells_contents_apart_and_not_places(folder: Path, lithia: Structure, tmp_path: Path) -> None:
    write_results(folder, band_in(folder))
    first = read(folder, lithia)
    moved = read(Path(shutil.copytree(folder, tmp_path / "elsewhere")), lithia)
    assert moved.content_key == first.content_key
    assert moved.folder != first.folder
    longer = read(write_results(folder, band_in(folder, steps=5)), lithia)
    assert longer.content_key != first.content_key


def test_what_came_farther_counts(folder: Path, lithia: Structure) -> None:
    whole = read(write_results(folder, band_in(folder)), lithia)
    band = band_in(folder)
    _forces(band, folder)
    part = read(write_results(folder, band), lithia)
    assert standing(whole) > standing(part)
    assert replaces(whole, part)
    assert not replaces(part, whole)
    assert replaces(whole, whole)
    rougher = whole.model_copy(
        update={"images": [i.model_copy(update={"max_force_eV_per_A": 0.04}) for i in whole.images]}
    )
    assert not replaces(rougher, whole)
    with_u = rougher.model_copy(update={"functional": "PBE+U", "hubbard_u_eV": {"Fe": 5.3}})
    assert replaces(with_u, whole), "a converged band with other settings is a newer answer"
    assert not replaces(part.model_copy(update={"functional": "PBE+U"}), whole)


def test_settings_in_words() -> None:
    plus_u = {"GGA": "Pe", "LDAU": True, "LDAUU": [0, 5.3, 0], "LDAUJ": [0, 0, 0]}
    assert functional_name(plus_u) == "PBE+U"
    assert hubbard_u_eV(plus_u, ["Li", "Fe", "O"]) == {"Fe": 5.3}
    assert [functional_name(tags) for tags in ({"GGA": "PS"}, {"METAGGA": "R2scan"}, {"LHFCALC": True}, {})] == [
        "PBEsol", "R2SCAN", "hybrid functional", None,
    ]  # fmt: skip
    assert first_difference({"GGA": "Pe", "ENCUT": 520}, {"GGA": "PE", "ENCUT": 520.0, "ISPIN": 1}) is None
    assert first_difference({"NELECT": 80}, {}) == ("NELECT", 80, "not set")
    assert first_difference({"PREC": "Accurate"}, {"PREC": "accurate"}) is None
    assert first_difference({"PREC": "Accurate"}, {}) == ("PREC", "Accurate", "N")


def test_a_run_that_was_killed_before_its_first_step_has_none(tmp_path: Path, folder: Path) -> None:
    tags, mesh = dict(Incar.from_file(folder / "INCAR")), Kpoints.from_file(folder / "KPOINTS")
    write_run(tmp_path, band_in(folder).runs[1], tags, mesh)
    for name, mark in (("OUTCAR", "FREE ENERGIE"), ("vasprun.xml", "</scstep>")):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: text.index(mark)])
    nothing = read_image(tmp_path)
    assert (nothing.steps, nothing.energy_eV, nothing.finished) == (0, None, False)
    assert nothing.problem == "vasprun.xml breaks off before its first ionic step"
