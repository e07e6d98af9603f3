"""The DFT hand-off: every file that it writes is read back with pymatgen, for crystals with and without moments."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hopflow.makers.vasp_handoff import HandoffSettings, neb_flow, write_handoff
from hopflow.makers.vasp_inputs import electron_count, ordered_band, replace_endpoints
from hopflow.transport.errors import BandError, CandidateError, HopflowError, NonFiniteEnergyError, Reason
from hypothesis import given, settings, strategies
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import SETTINGS, Element, Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar, Potcar

# tags that change the energy: band and end points must agree on every one
ENERGY_TAGS = ("ALGO", "EDIFF", "ENCUT", "GGA", "ISMEAR", "ISPIN", "ISYM", "LASPH", "LDAU", "LDAUU", "LDAUL", "LDAUJ")
ENERGY_TAGS += ("LDAUTYPE", "LMAXMIX", "LREAL", "MAGMOM", "NELECT", "PREC", "SIGMA")


def lithium_oxide() -> Structure:
    """Antifluorite Li2O, a = 4.619 Å."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.619), ["Li", "O"], [[0.25, 0.25, 0.25], [0, 0, 0]])


def lithium_iron_phosphate() -> Structure:
    """Olivine LiFePO4, a = 10.332, b = 6.010, c = 4.692 Å."""
    species = ["Li", "Fe", "P", "O", "O", "O"]
    coords = [[0, 0, 0], [0.2822, 0.25, 0.9747], [0.0948, 0.25, 0.4182]]
    coords += [[0.0968, 0.25, 0.7428], [0.4571, 0.25, 0.2060], [0.1656, 0.0465, 0.2848]]
    return Structure.from_spacegroup("Pnma", Lattice.orthorhombic(10.332, 6.010, 4.692), species, coords)


def antiperovskite() -> Structure:
    """Li3OCl, a = 3.907 Å."""
    species, coords = ["Li", "O", "Cl"], [[0, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.907), species, coords)


def lithium_cobalt_oxide() -> Structure:
    """Layered LiCoO2, a = 2.816, c = 14.054 Å."""
    coords = [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.2606]]
    return Structure.from_spacegroup("R-3m", Lattice.hexagonal(2.816, 14.054), ["Li", "Co", "O"], coords)


def lithium_nitride() -> Structure:
    """Alpha-Li3N, a = 3.648, c = 3.875 Å."""
    coords = [[0, 0, 0.5], [1 / 3, 2 / 3, 0], [0, 0, 0]]
    return Structure.from_spacegroup("P6/mmm", Lattice.hexagonal(3.648, 3.875), ["Li", "Li", "N"], coords)


CRYSTALS = {
    "Li2O": (lithium_oxide, (2, 2, 2), ["Li_sv", "O"], False),
    "LiFePO4": (lithium_iron_phosphate, (1, 2, 2), ["Li_sv", "Fe", "P", "O"], True),
    "Li3OCl": (antiperovskite, (2, 2, 2), ["Li_sv", "Cl", "O"], False),
    # cobalt(III) has paired electrons in octahedra: its moment starts small
    "LiCoO2": (lithium_cobalt_oxide, (3, 3, 1), ["Li_sv", "Co", "O"], False),
    "Li3N": (lithium_nitride, (3, 3, 2), ["Li_sv", "N"], False),
}


def vacancy_band(crystal: Structure, supercell: tuple[int, int, int], images: int = 5, ion: str = "Li") -> list:
    """Straight band of the shortest vacancy hop: one ion moves onto the site of a removed one."""
    cell = crystal * supercell
    ions = [i for i, site in enumerate(cell) if site.specie.symbol == ion]
    start = ions[0]
    end = min(ions[1:], key=lambda other: cell.get_distance(start, other))
    _, image = cell[start].distance_and_image(cell[end])
    step = cell[end].frac_coords + image - cell[start].frac_coords
    band = []
    for share in np.linspace(0, 1, images):
        structure = cell.copy()
        structure.replace(start, ion, coords=cell[start].frac_coords + share * step)
        structure.remove_sites([end])
        band.append(structure)
    return band


def band_of(name: str, images: int = 5) -> list[Structure]:
    build, supercell, _, _ = CRYSTALS[name]
    return vacancy_band(build(), supercell, images)


def to_atoms(structure: Structure) -> Atoms:
    return Atoms(
        [site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        positions=structure.cart_coords,
        pbc=True,
    )


def scrambled(band: list[Structure], seed: int) -> tuple[list[Structure], list[int]]:
    """The same band with its atoms in another order and every coordinate moved by random lattice vectors."""
    random = np.random.default_rng(seed)
    order = list(random.permutation(len(band[0])))
    species = [band[0][i].specie.symbol for i in order]
    images = []
    for structure in band:
        frac = structure.frac_coords[order] + random.integers(-2, 3, size=(len(order), 3))
        images.append(Structure(structure.lattice, species, frac))
    return images, order


@pytest.fixture(autouse=True)
def no_potcars(monkeypatch):
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)


@pytest.fixture
def potcar_library(tmp_path, monkeypatch):
    """A library in pymatgen's layout whose files have the header of a potential and no potential."""
    for symbol, element, valence in (("Li_sv", "Li", 3), ("O", "O", 6)):
        folder = tmp_path / "library" / "POT_GGA_PAW_PBE_54" / symbol
        folder.mkdir(parents=True)
        title = f"PAW_PBE {symbol} 10Sep2004"
        header = f"   VRHFIN ={element}: 1s2s2p\n   LEXCH  = PE\n   TITEL  = {title}\n   RCORE  = 2.05 outmost radius\n"
        header += f"   POMASS = 7.010; ZVAL   = {valence:.3f} mass and valenz\n   ENMAX  = 499.0; ENMIN = 374.3 eV\n"
        text = f" {title}\n   {valence:.12f}\n parameters from PSCTR are:\n{header}\nEND of PSCTR-controll parameters\n"
        (folder / "POTCAR").write_text(f"{text} local part\n  0.1 0.2\n End of Dataset\n")
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "library"))
    return tmp_path / "library"


@pytest.mark.parametrize("name", CRYSTALS)
def test_folder_reads_back_as_the_band(tmp_path, name):
    _, _, symbols, magnetic = CRYSTALS[name]
    band = band_of(name)
    result = write_handoff(band, tmp_path / name, metadata={"barrier_eV": 0.4, "potential": "mace-mp-0-small"})
    folder = result.folder

    incar, kpoints = Incar.from_file(folder / "INCAR"), Kpoints.from_file(folder / "KPOINTS")
    read = [Poscar.from_file(folder / f"{i:02d}" / "POSCAR").structure for i in range(len(band))]
    assert incar["IMAGES"] == result.images == len(band) - 2
    assert sorted(p.name for p in folder.glob("[0-9][0-9]")) == [f"{i:02d}" for i in range(len(band))]
    assert not (folder / "POSCAR").exists()

    # the atoms of every image are those of the band, in one order that groups each element once
    species = [site.specie.symbol for site in read[0]]
    assert [symbol for i, symbol in enumerate(species) if i == 0 or species[i - 1] != symbol] == [
        symbol.split("_")[0] for symbol in symbols
    ]
    for image, original in zip(read, band, strict=True):
        assert [site.specie.symbol for site in image] == species
        assert image.composition == original.composition
        assert np.allclose(image.lattice.matrix, original.lattice.matrix)
        assert image.matches(original)
    # no atom jumps between neighbouring images, and only the ion moves
    steps = np.diff([image.frac_coords for image in read], axis=0) @ read[0].lattice.matrix
    lengths = np.linalg.norm(steps, axis=2)
    assert lengths.max() < 1.5
    assert np.all(lengths[:, [i for i in range(len(species)) if i != result.moving_atom]] < 1e-6)
    assert species[result.moving_atom] == "Li"
    assert lengths[:, result.moving_atom].sum() == pytest.approx(result.hop_length_A, abs=1e-6)

    assert (folder / "POTCAR.spec").read_text().split() == symbols == list(result.potcar_symbols)
    assert result.potcar == "spec"
    assert not list(folder.rglob("POTCAR"))
    assert incar["GGA"].upper() == "PE"
    assert incar["ENCUT"] == 520
    assert incar["ISPIN"] == 2
    assert len(incar["MAGMOM"]) == len(species)
    moments = dict(zip(species, incar["MAGMOM"], strict=True))
    assert any(moment == 5 for moment in moments.values()) is magnetic
    assert {moments[symbol] for symbol in ("Li", "O", "N", "Co") if symbol in moments} == {0.6}
    assert kpoints.num_kpts == 0
    assert np.prod(kpoints.kpts[0]) >= 1
    for i in range(len(band)):
        assert (folder / f"{i:02d}" / "KPOINTS").read_text() == (folder / "KPOINTS").read_text()


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("charge", ["neutral", "compensated"])
def test_end_points_share_every_tag_that_changes_the_energy(tmp_path, name, charge):
    wanted = HandoffSettings(functional="pbe+u", vacancy_charge=charge)
    band = band_of(name)
    folder = write_handoff(band, tmp_path / "h", wanted).folder
    incar = Incar.from_file(folder / "INCAR")
    for place, number in (("endpoint_initial", 0), ("endpoint_final", len(band) - 1)):
        endpoint = Incar.from_file(folder / place / "INCAR")
        assert {tag: endpoint.get(tag) for tag in ENERGY_TAGS} == {tag: incar.get(tag) for tag in ENERGY_TAGS}
        assert (endpoint["ISIF"], endpoint["IBRION"]) == (2, 2)
        assert not {"IMAGES", "SPRING", "LCLIMB", "IOPT"} & set(endpoint)
        assert endpoint["EDIFFG"] == -0.02
        same, image = (Poscar.from_file(folder / p / "POSCAR").structure for p in (place, f"{number:02d}"))
        assert same.species == image.species
        assert np.allclose(same.frac_coords, image.frac_coords)
        assert (folder / place / "KPOINTS").read_text() == (folder / "KPOINTS").read_text()
        assert (folder / place / "POTCAR.spec").read_text() == (folder / "POTCAR.spec").read_text()


def test_plain_and_vtst_builds(tmp_path):
    band = band_of("Li3OCl")
    plain = Incar.from_file(write_handoff(band, tmp_path / "plain").folder / "INCAR")
    # conjugate gradient (IBRION = 2) is not for projected forces
    assert plain["IBRION"] == 1
    assert not {"LCLIMB", "IOPT"} & set(plain)
    vtst = Incar.from_file(write_handoff(band, tmp_path / "vtst", HandoffSettings(vtst=True)).folder / "INCAR")
    assert (vtst["LCLIMB"], vtst["IOPT"], vtst["IBRION"], vtst["POTIM"]) == (True, 1, 3, 0)


def test_functionals(tmp_path):
    band = band_of("LiFePO4")
    plain = write_handoff(band, tmp_path / "pbe")
    with_u = write_handoff(band, tmp_path / "u", HandoffSettings(functional="pbe+u"))
    pbesol = write_handoff(band, tmp_path / "sol", HandoffSettings(functional="pbesol"))
    assert plain.hubbard_u_eV == {}
    assert Incar.from_file(plain.folder / "INCAR").get("LDAUU") is None
    assert with_u.hubbard_u_eV == {"Fe": 5.3}
    incar = Incar.from_file(with_u.folder / "INCAR")
    assert incar["LDAU"] is True
    # one value an element, in the order of POSCAR: Li Fe P O
    assert incar["LDAUU"] == [0, 5.3, 0, 0]
    assert incar["LDAUL"] == [0, 2, 0, 0]
    assert Incar.from_file(pbesol.folder / "INCAR")["GGA"].upper() == "PS"


def test_no_u_is_said_not_hidden(tmp_path):
    result = write_handoff(band_of("Li2O"), tmp_path / "h", HandoffSettings(functional="pbe+u"))
    assert result.hubbard_u_eV == {}
    assert any("plain PBE" in note for note in result.notes)
    assert "plain PBE" in (result.folder / "README.txt").read_text()
    assert not Incar.from_file(result.folder / "INCAR").get("LDAU")


@pytest.mark.parametrize(("name", "valence"), [("Li2O", {"Li": 3, "O": 6}), ("Li3OCl", {"Li": 3, "O": 6, "Cl": 7})])
def test_vacancy_charge_sets_the_electron_count(tmp_path, name, valence):
    band = band_of(name)
    count = sum(valence[site.specie.symbol] for site in band[0])
    neutral = write_handoff(band, tmp_path / "n")
    kept = write_handoff(band, tmp_path / "c", HandoffSettings(vacancy_charge="compensated"))
    assert neutral.electrons == count
    assert "NELECT" not in Incar.from_file(neutral.folder / "INCAR")
    assert neutral.charge_e == 0
    assert Incar.from_file(kept.folder / "INCAR")["NELECT"] == count + 1 == kept.electrons
    assert kept.charge_e == -1
    # a hole leaves an odd electron, the compensated cell is closed-shell
    assert neutral.spin_polarised
    assert not kept.spin_polarised
    assert "MAGMOM" not in Incar.from_file(kept.folder / "INCAR")


def test_divalent_ion_and_its_charge(tmp_path):
    spinel = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.212), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    band = vacancy_band(spinel, (2, 2, 2), ion="Mg")
    wanted = HandoffSettings(ion="Mg", vacancy_charge="compensated")
    result = write_handoff(band, tmp_path / "mgo", wanted)
    assert result.charge_e == -2
    assert result.electrons == 31 * 2 + 32 * 6 + 2
    assert not result.spin_polarised


def test_charge_of_an_ion_with_two_charges_must_be_given():
    with pytest.raises(ValueError, match="set ion_charge"):
        HandoffSettings(ion="Cu", vacancy_charge="compensated")
    assert HandoffSettings(ion="Cu", ion_charge=1, vacancy_charge="compensated").charge_of_ion() == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"functional": "lda"}, "pbe, pbe\\+u, pbesol"),
        ({"vacancy_charge": "charged"}, "neutral, compensated"),
        ({"potcar_functional": "PW91"}, "PBE_54"),
        ({"encut_eV": 0}, "greater than 0"),
        ({"max_force_eV_per_A": float("nan")}, "greater than 0"),
    ],
)
def test_settings_name_the_allowed_values(wrong, said):
    with pytest.raises(ValueError, match=said):
        HandoffSettings(**wrong)


def test_user_tags_reach_band_and_end_points(tmp_path):
    wanted = HandoffSettings(user_incar={"NCORE": 4, "ENCUT": 600})
    folder = write_handoff(band_of("Li3OCl"), tmp_path / "h", wanted).folder
    for path in ("INCAR", "endpoint_initial/INCAR", "endpoint_final/INCAR"):
        incar = Incar.from_file(folder / path)
        assert (incar["NCORE"], incar["ENCUT"]) == (4, 600)


def test_given_moments_are_kept_in_the_order_of_the_poscar(tmp_path):
    band = band_of("LiFePO4")
    images = [to_atoms(structure) for structure in band]
    irons = [i for i, symbol in enumerate(images[0].symbols) if symbol == "Fe"]
    up_down = {i: 4.0 if n % 2 else -4.0 for n, i in enumerate(irons)}
    for image in images:
        image.set_initial_magnetic_moments([up_down.get(i, 0.0) for i in range(len(image))])
    result = write_handoff(images, tmp_path / "afm")
    order = json.loads((result.folder / "handoff.json").read_text())["atom_order"]
    magmom = Incar.from_file(result.folder / "INCAR")["MAGMOM"]
    assert magmom == [up_down.get(i, 0.0) for i in order]
    assert {m for m in magmom if m} == {4.0, -4.0}


@settings(max_examples=15, deadline=None)
@given(seed=strategies.integers(0, 2**32 - 1), name=strategies.sampled_from(sorted(CRYSTALS)))
def test_order_and_cell_of_the_input_do_not_matter(seed, name):
    band = band_of(name)
    images, _ = scrambled(band, seed)
    found, order = ordered_band(images, "Li")
    assert sorted(order) == list(range(len(order)))
    elements = [site.specie for site in found[0]]
    assert elements == sorted(elements)
    matrix = found[0].lattice.matrix
    for number, image in enumerate(found):
        assert [site.specie.symbol for site in image] == [images[number][i].specie.symbol for i in order]
        shift = image.frac_coords - images[number].frac_coords[order]
        assert np.allclose(shift, np.round(shift), atol=1e-9)
    steps = np.linalg.norm(np.diff([image.frac_coords for image in found], axis=0) @ matrix, axis=2)
    assert np.count_nonzero(steps.max(axis=0) > 1e-6) == 1
    assert np.allclose(
        steps.sum(axis=0).max(), np.linalg.norm((band[-1].cart_coords - band[0].cart_coords), axis=1).max()
    )


def test_input_set_sorts_as_the_band_does():
    """INCAR and POTCAR follow pymatgen's order, image POSCARs ours; they must be one order."""
    for name in CRYSTALS:
        band, _ = ordered_band(scrambled(band_of(name), 3)[0], "Li")
        assert band[0].get_sorted_structure().species == band[0].species


def test_record_and_recipe(tmp_path):
    facts = {"barrier_eV": np.float64(0.41), "potential": "mace-mp-0-small", "weights_sha256": "2ddb"}
    result = write_handoff(band_of("Li2O"), tmp_path / "h", metadata=facts)
    record = json.loads((result.folder / "handoff.json").read_text())
    assert record["metadata"] == {"barrier_eV": 0.41, "potential": "mace-mp-0-small", "weights_sha256": "2ddb"}
    assert record["units"]["energy"] == "eV"
    assert record["settings"]["functional"] == "pbe"
    assert record["result"]["hashes"] == result.hashes
    written = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert set(result.hashes) == written - {"handoff.json"}
    recipe = (result.folder / "README.txt").read_text()
    assert "pmg potcar --symbols Li_sv O --functional PBE_54" in recipe
    assert "04/POSCAR" in recipe
    assert "PMG_VASP_PSP_DIR" in recipe


def test_same_band_same_bytes(tmp_path):
    first = write_handoff(band_of("Li2O"), tmp_path / "a")
    second = write_handoff(band_of("Li2O"), tmp_path / "b")
    assert first.hashes == second.hashes
    third = write_handoff(band_of("Li2O"), tmp_path / "c", HandoffSettings(encut_eV=500))
    assert third.hashes["INCAR"] != first.hashes["INCAR"]
    assert third.hashes["02/POSCAR"] == first.hashes["02/POSCAR"]


def test_potcars_are_written_where_they_are_to_be_had(tmp_path, potcar_library):
    result = write_handoff(band_of("Li2O"), tmp_path / "h", HandoffSettings(vacancy_charge="compensated"))
    assert result.potcar == "written"
    assert "were found and written" in result.potcar_reason
    assert "pmg potcar" not in (result.folder / "README.txt").read_text()
    for place in (".", "endpoint_initial", "endpoint_final"):
        potcar = Potcar.from_file(result.folder / place / "POTCAR")
        assert potcar.symbols == ["Li_sv", "O"]
        assert not (result.folder / place / "POTCAR.spec").exists()
    poscar = Poscar.from_file(result.folder / "00" / "POSCAR")
    counted = sum(n * p.nelectrons for n, p in zip(poscar.natoms, potcar, strict=True))
    assert result.electrons == counted + 1


def test_a_missing_potcar_is_named(tmp_path, potcar_library):
    result = write_handoff(band_of("Li3OCl"), tmp_path / "h")
    assert result.potcar == "spec"
    assert "symbol='Cl'" in result.potcar_reason
    assert result.potcar_reason in (result.folder / "README.txt").read_text()


def test_earlier_inputs_are_replaced_and_results_are_not_touched(tmp_path):
    folder = tmp_path / "h"
    write_handoff(band_of("Li2O", images=7), folder)
    assert write_handoff(band_of("Li2O", images=4), folder).images == 2
    assert sorted(p.name for p in folder.glob("[0-9][0-9]")) == ["00", "01", "02", "03"]
    (folder / "01" / "OUTCAR.gz").write_text("a result")
    with pytest.raises(HopflowError, match="VASP results"):
        write_handoff(band_of("Li2O"), folder)
    assert (folder / "01" / "OUTCAR.gz").read_text() == "a result"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h"]


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HopflowError, match="no earlier hand-off"):
        write_handoff(band_of("Li2O"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def without_last_atom(band):
    band[2].remove_sites([len(band[2]) - 1])


def exchange_two_species(band):
    species = list(band[2].species)
    first, last = 0, len(species) - 1
    species[first], species[last] = species[last], species[first]
    band[2] = Structure(band[2].lattice, species, band[2].frac_coords)


def stretch(band):
    band[2] = Structure(band[2].lattice.scale(band[2].volume * 1.01), band[2].species, band[2].frac_coords)


def keep_two(band):
    del band[2:]


def too_many(band):
    band.extend(band[1] for _ in range(100))


def stand_still(band):
    band[:] = [band[0].copy() for _ in band]


def not_a_number(band):
    frac = band[1].frac_coords.copy()
    frac[3, 1] = np.nan
    band[1] = Structure(band[1].lattice, band[1].species, frac)


def collide(band):
    band[2].replace(0, "Li", coords=band[2][5].frac_coords + np.array([0.01, 0, 0]))


def half_occupied(band):
    band[0].replace(0, {"Li": 0.5})


@pytest.mark.parametrize(
    ("spoil", "error", "reason", "said"),
    [
        (keep_two, BandError, Reason.INCONSISTENT_BAND, "2 images"),
        (too_many, BandError, Reason.INCONSISTENT_BAND, "105 images"),
        (without_last_atom, BandError, Reason.INCONSISTENT_BAND, "other atoms"),
        (exchange_two_species, BandError, Reason.INCONSISTENT_BAND, "another order"),
        (stretch, BandError, Reason.INCONSISTENT_BAND, "another cell"),
        (stand_still, BandError, Reason.INCONSISTENT_BAND, "same structure"),
        (not_a_number, NonFiniteEnergyError, Reason.NON_FINITE_ENERGY, "not a number"),
        (collide, CandidateError, Reason.CLOSE_CONTACT, "closer than"),
        (half_occupied, CandidateError, Reason.PARTIAL_OCCUPANCY, "partly occupied"),
    ],
)
def test_bad_bands_are_refused_in_one_sentence(tmp_path, spoil, error, reason, said):
    band = band_of("Li3OCl")
    spoil(band)
    with pytest.raises(error, match=said) as caught:
        write_handoff(band, tmp_path / "h")
    assert caught.value.reason is reason
    assert isinstance(caught.value, CandidateError)
    assert str(caught.value).endswith(".")
    assert not list(tmp_path.iterdir())


def test_another_element_moving_most_is_refused():
    with pytest.raises(BandError, match="Li moves most in this band, not O"):
        ordered_band(band_of("Li2O"), "O")


def test_unknown_element_is_refused(tmp_path):
    band = vacancy_band(
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5), ["Li", "Bk"], [[0, 0, 0], [0.5] * 3]), (2, 2, 2)
    )
    with pytest.raises(CandidateError, match="Bk") as caught:
        write_handoff(band, tmp_path / "h")
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT


def test_relaxed_end_points_carry_the_band_along():
    band, _ = ordered_band(band_of("Li2O"), "Li")
    random = np.random.default_rng(1)
    moves = [random.normal(scale=0.005, size=(len(band[0]), 3)) for _ in range(2)]
    # relaxed end points come back wrapped into the cell
    relaxed = [
        Structure(image.lattice, image.species, image.frac_coords + move, to_unit_cell=True)
        for image, move in zip((band[0], band[-1]), moves, strict=True)
    ]
    moved = replace_endpoints(band, *relaxed)
    for number, (old, new) in enumerate(zip(band, moved, strict=True)):
        share = number / 4
        assert np.allclose(new.frac_coords - old.frac_coords, (1 - share) * moves[0] + share * moves[1], atol=1e-10)
        assert new.species == old.species
    assert moved[0].matches(relaxed[0])
    with pytest.raises(BandError, match="other atoms"):
        replace_endpoints(band, relaxed[0], band_of("Li3OCl")[0])


def test_electron_count_is_unknown_rather_than_guessed(monkeypatch):
    from hopflow.makers import vasp_inputs

    monkeypatch.setattr(vasp_inputs, "_valence_electrons", lambda _functional: {"Li_sv": 3.0})
    band, _ = ordered_band(band_of("Li2O"), "Li")
    assert electron_count(band[0], HandoffSettings()) is None
    with pytest.raises(CandidateError, match="electron count"):
        vasp_inputs.generators(band, HandoffSettings(vacancy_charge="compensated"))


@pytest.mark.parametrize("name", CRYSTALS)
def test_flow_becomes_a_fireworks_workflow_that_round_trips(name):
    from fireworks import Workflow
    from jobflow.managers.fireworks import flow_to_workflow

    flow = neb_flow(band_of(name), HandoffSettings(functional="pbe+u"), metadata={"material_id": "mp-1"})
    workflow = flow_to_workflow(flow)
    text = workflow.to_format("json")
    again = Workflow.from_format(text, "json")
    assert json.loads(again.to_format("json"))["links"] == json.loads(text)["links"]
    assert len(again.fws) == 5
    assert {firework.spec["_category"] for firework in again.fws} == {"dft"}
    assert {firework.spec["material_id"] for firework in again.fws} == {"mp-1"}
    by_name = {firework.name: firework for firework in again.fws}
    links = {firework.fw_id: set(again.links[firework.fw_id]) for firework in again.fws}
    middle = by_name["DFT-NEB band on relaxed end points"].fw_id
    assert links[middle] == {by_name["DFT-NEB band"].fw_id}
    assert middle in links[by_name["DFT-NEB end point initial"].fw_id]
    assert middle in links[by_name["DFT-NEB end point final"].fw_id]
    assert by_name["DFT-NEB barrier"].fw_id in links[by_name["DFT-NEB band"].fw_id]
    # the band itself is inside, whole and in order
    job = MontyDecoder().process_decoded(by_name["DFT-NEB band on relaxed end points"].tasks[0]["job"])
    wanted, _ = ordered_band(band_of(name), "Li")
    assert [image.species for image in job.function_args[0]] == [image.species for image in wanted]
    assert np.allclose([i.frac_coords for i in job.function_args[0]], [i.frac_coords for i in wanted])


def test_flow_writes_the_inputs_of_the_folder(tmp_path, monkeypatch, potcar_library):
    """Run the flow's own makers up to the start of VASP, through JSON, and compare every input."""
    import atomate2.vasp.jobs.base
    import atomate2.vasp.jobs.neb
    from jobflow import Job

    class VaspWouldStartError(Exception):
        pass

    def run_vasp(**_kwargs):
        raise VaspWouldStartError

    monkeypatch.setattr(atomate2.vasp.jobs.neb, "run_vasp", run_vasp)
    monkeypatch.setattr(atomate2.vasp.jobs.base, "run_vasp", run_vasp)
    wanted = HandoffSettings(vtst=True, vacancy_charge="compensated")
    result = write_handoff(band_of("Li2O"), tmp_path / "h", wanted)
    flow = neb_flow(band_of("Li2O"), wanted)
    band, _ = ordered_band(band_of("Li2O"), "Li")
    for which, place, structures in ((3, ".", [band]), (0, "endpoint_initial", [band[0]])):
        run = tmp_path / f"run{which}"
        run.mkdir()
        monkeypatch.chdir(run)
        job = MontyDecoder().decode(json.dumps(flow.jobs[which], cls=MontyEncoder))
        assert isinstance(job, Job)
        maker = job.function.__self__
        with pytest.raises(VaspWouldStartError):
            type(maker).make.original(maker, *structures)
        here = result.folder / place
        assert Incar.from_file(run / "INCAR") == Incar.from_file(here / "INCAR")
        assert Potcar.from_file(run / "POTCAR").symbols == Potcar.from_file(here / "POTCAR").symbols
        assert (run / "KPOINTS").read_text() == (here / "KPOINTS").read_text()
    for number in range(5):
        ours, theirs = (Poscar.from_file(p / f"{number:02d}" / "POSCAR") for p in (result.folder, tmp_path / "run3"))
        assert ours.site_symbols == theirs.site_symbols
        assert np.allclose(ours.structure.frac_coords, theirs.structure.frac_coords)


def test_elements_of_the_test_crystals_are_in_pymatgens_order():
    """The expected potential symbols above assume this order; a change in pymatgen should fail here first."""
    assert [e.symbol for e in sorted(Element(s) for s in ("O", "P", "Fe", "Li", "Cl"))] == ["Li", "Fe", "P", "Cl", "O"]


def test_import_is_light():
    heavy = ("atomate2", "jobflow", "fireworks", "pymatgen.core", "torch")
    code = f"import sys, hopflow.makers.vasp_handoff; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert answer.stdout.strip() == "[]"
