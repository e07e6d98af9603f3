"""Intake: every kind of file, every kind of damage, oxidation states that are right or refused, and the hash."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hopflow.transport.errors import NoMobileIonError, OxidationStateError, Reason, StructureError
from hopflow.transport.structures import (
    assign_oxidation_states,
    check_structure,
    iterate_jsonl,
    read_structures,
    structure_from_row,
    structure_hash,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, PeriodicSite, Structure


def rock_salt(a: float = 4.03, cation: str = "Li", anion: str = "F") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def olivine() -> Structure:
    """LiFePO4, Pnma; V. A. Streltsov et al., Acta Cryst. B 49 (1993) 147."""
    return Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(10.332, 6.010, 4.692),
        ["Li", "Fe", "P", "O", "O", "O"],
        [
            [0, 0, 0],
            [0.2822, 0.25, 0.9747],
            [0.0950, 0.25, 0.4179],
            [0.0973, 0.25, 0.7428],
            [0.4573, 0.25, 0.2060],
            [0.1656, 0.0465, 0.2848],
        ],
    )


def lithium_nitride() -> Structure:
    """Li3N, P6/mmm; A. Rabenau and H. Schulz, J. Less-Common Met. 50 (1976) 155."""
    return Structure.from_spacegroup(
        "P6/mmm", Lattice.hexagonal(3.648, 3.875), ["N", "Li", "Li"], [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0]]
    )


def row(structure: Structure, name: str = "x-1") -> dict:
    return {
        "material_id": name,
        "formula": structure.formula.replace(" ", ""),
        "cell": [*structure.lattice.abc, *structure.lattice.angles],
        "species": [site.specie.symbol for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
    }


def only_error(path: Path) -> StructureError:
    entries = read_structures(path)
    assert len(entries) == 1
    assert entries[0].structure is None
    assert isinstance(entries[0].error, StructureError)
    return entries[0].error


def charges(structure: Structure) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for site in structure:
        found.setdefault(site.specie.symbol, set()).add(round(site.specie.oxi_state, 6))
    return found


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["a.cif", "a.cif.gz", "POSCAR", "CONTCAR", "a.vasp", "a.json"])
def test_every_format_gives_the_same_crystal(tmp_path: Path, name: str) -> None:
    structure = olivine()
    kind = "cif" if ".cif" in name else "json" if name.endswith("json") else "poscar"
    text = structure.to(fmt=kind)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (entry,) = read_structures(path)
    assert entry.error is None
    assert entry.name == ("a" if name.startswith("a") else name)
    assert structure_hash(entry.structure) == structure_hash(structure)


def test_cif_with_several_blocks_gives_all_of_them_and_keeps_the_good_beside_a_bad_one(tmp_path: Path) -> None:
    good = rock_salt().to(fmt="cif").replace("data_LiF", "data_first")
    bad = rock_salt().to(fmt="cif").replace("data_LiF", "data_second").replace("_cell_length_a", "_cell_length_q")
    (tmp_path / "two.cif").write_text(good + "\n" + bad)
    first, second = read_structures(tmp_path / "two.cif")
    assert first.name == "two:first"
    assert len(first.structure) == 8
    assert second.structure is None
    assert "two:second" in str(second.error)


def test_cif_with_oxidation_states_and_latin1_author_is_read(tmp_path: Path) -> None:
    structure = rock_salt()
    structure.add_oxidation_state_by_element({"Li": 1, "F": -1})
    text = "# Präparation: Müller\n" + structure.to(fmt="cif")
    (tmp_path / "old.cif").write_bytes(text.encode("latin-1"))
    (entry,) = read_structures(tmp_path / "old.cif")
    assert charges(entry.structure) == {"Li": {1}, "F": {-1}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_STRUCTURE),
        (b"  \n \n", Reason.EMPTY_STRUCTURE),
        (b"this is not a crystal", Reason.UNREADABLE_STRUCTURE),
        (b"\xff\xfe\x00\x80\x81 broken \xf0", Reason.UNREADABLE_STRUCTURE),
        (b"data_x\n_cell_length_a 4\nloop_\n_atom_site_label\n", Reason.UNREADABLE_STRUCTURE),
        (
            b"data_x\nloop_\n_atom_site_label\n_atom_site_fract_x\nLi1 0 0 0 7 'open quote\n",
            Reason.UNREADABLE_STRUCTURE,
        ),
    ],
)
def test_damaged_cif_is_an_error_entry(tmp_path: Path, content: bytes, reason: Reason) -> None:
    (tmp_path / "bad.cif").write_bytes(content)
    error = only_error(tmp_path / "bad.cif")
    assert error.reason is reason
    assert "bad" in str(error)


def test_cif_without_atoms_says_so(tmp_path: Path) -> None:
    text = rock_salt().to(fmt="cif")
    (tmp_path / "none.cif").write_text(text[: text.index("loop_\n _atom_site_type_symbol")])
    error = only_error(tmp_path / "none.cif")
    assert error.reason is Reason.EMPTY_STRUCTURE
    assert "no atoms" in str(error)


def test_cif_with_headers_but_no_rows_of_atoms(tmp_path: Path) -> None:
    text = rock_salt().to(fmt="cif")
    start = text.index("_atom_site_occupancy") + len("_atom_site_occupancy\n")
    (tmp_path / "none.cif").write_text(text[:start])
    assert only_error(tmp_path / "none.cif").reason in (Reason.EMPTY_STRUCTURE, Reason.UNREADABLE_STRUCTURE)


def with_occupancies(structure: Structure, first: float, second: float) -> str:
    """CIF text with the first site occupied by lithium and sodium so often."""
    lines = []
    for line in structure.to(fmt="cif").splitlines():
        if line.split()[:2] == ["Li", "Li0"]:
            lines.append(" ".join([*line.split()[:-1], str(first)]))
            lines.append(" ".join(["Na", "Na9", *line.split()[2:-1], str(second)]))
        else:
            lines.append(line)
    return "\n".join(lines)


def test_cif_with_rounded_occupancies_is_read_and_with_wrong_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "rounded.cif").write_text(with_occupancies(rock_salt(), 0.67, 0.34))
    (entry,) = read_structures(tmp_path / "rounded.cif")
    mixed = next(site for site in entry.structure if not site.is_ordered)
    assert mixed.species.num_atoms == pytest.approx(1)
    assert mixed.species["Li"] == pytest.approx(0.67 / 1.01)
    (tmp_path / "wrong.cif").write_text(with_occupancies(rock_salt(), 0.7, 0.5))
    error = only_error(tmp_path / "wrong.cif")
    assert error.reason is Reason.OCCUPANCY_ABOVE_ONE
    assert "wrong add up to 1.2, more than one" in str(error)


def test_deuterium_is_read_as_hydrogen(tmp_path: Path) -> None:
    structure = rock_salt(4.08, "Li", "H")
    (tmp_path / "heavy.cif").write_text(structure.to(fmt="cif").replace(" H  H", " D  D"))
    (entry,) = read_structures(tmp_path / "heavy.cif")
    assert {element.symbol for element in entry.structure.elements} == {"Li", "H"}


def test_poscar_without_element_names_is_refused_not_guessed(tmp_path: Path) -> None:
    lines = rock_salt().to(fmt="poscar").splitlines()
    del lines[5]  # the line of symbols
    lines[0] = "comment"
    bare = [" ".join(line.split()[:3]) if i > 6 else line for i, line in enumerate(lines)]
    (tmp_path / "POSCAR").write_text("\n".join(bare))
    assert "does not name its elements" in str(only_error(tmp_path / "POSCAR"))


def test_missing_file_and_unknown_kind(tmp_path: Path) -> None:
    assert "no file" in str(only_error(tmp_path / "nowhere.cif"))
    (tmp_path / "x.doc").write_text("hello")
    assert "use .cif" in str(only_error(tmp_path / "x.doc"))
    (tmp_path / "x.json").write_text("{")
    assert "not valid JSON" in str(only_error(tmp_path / "x.json"))
    (tmp_path / "torn.cif.gz").write_bytes(gzip.compress(b"data_x" * 1000)[:40])
    assert "cannot be read" in str(only_error(tmp_path / "torn.cif.gz"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_line_costs_only_itself(tmp_path: Path, packed: bool) -> None:
    nan_row = row(rock_salt(), "nan")
    nan_row["frac_coords"][3][1] = float("nan")
    lines = [
        json.dumps(row(rock_salt(), "first")).encode(),
        b'{"material_id": "torn", "cell": [4, 4',
        b"\xff\xfe not text",
        json.dumps(nan_row).encode(),
        json.dumps({"material_id": "bare"}).encode(),
        b"[1, 2]",
        b"",
        json.dumps(row(olivine(), "last")).encode(),
    ]
    data = b"\n".join(lines)
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    entries = read_structures(path)
    assert [entry.name for entry in entries] == ["first", "rows:2", "rows:3", "nan", "bare", "rows:6", "last"]
    assert [entry.error is None for entry in entries] == [True, False, False, False, False, False, True]
    assert "Line 2" in str(entries[1].error)
    assert "not a finite number" in str(entries[3].error)
    assert "lacks cell, species, frac_coords" in str(entries[4].error)
    assert entries[0].source.endswith(":1")
    assert len(entries[-1].structure) == 28


def test_a_torn_gzip_keeps_the_rows_before_the_tear(tmp_path: Path) -> None:
    random = np.random.default_rng(0)  # noise does not compress, so the tear falls among the rows
    rows = [row(Structure(Lattice.cubic(9), ["Li"] * 40, random.random((40, 3))), f"r{i}") for i in range(60)]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    entries = read_structures(tmp_path / "torn.jsonl.gz")
    good = [entry for entry in entries if entry.error is None]
    assert 5 < len(good) < 60
    assert entries[-1].error is not None
    assert [entry.name for entry in good] == [f"r{i}" for i in range(len(good))]


def test_iterate_jsonl_yields_rows_and_names_the_broken_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n{oops\n')
    rows = iterate_jsonl(tmp_path / "rows.jsonl")
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(StructureError, match=r"Line 4 of rows\.jsonl"):
        next(rows)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"cell": [4, 4, 4, 90, 90]}, "six positive numbers"),
        ({"cell": [4, 4, 4, 90, 90, float("inf")]}, "six positive numbers"),
        ({"cell": [4, 4, 4, 60, 60, 179]}, "."),
        ({"species": ["Li"]}, "1 species but 8 positions"),
        ({"species": ["Xx"] * 8}, "not a structure|no element"),
        ({"species": [], "frac_coords": []}, "no atoms"),
        ({"frac_coords": "abc"}, "not a structure"),
    ],
)
def test_impossible_rows_are_refused(change: dict, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        structure_from_row({**row(rock_salt()), **change})


# ---------------------------------------------------------------- checks


def test_check_structure_names_each_fault() -> None:
    good = rock_salt()
    check_structure(good, "Li", max_atoms=8)
    with pytest.raises(NoMobileIonError, match="no Na"):
        check_structure(good, "Na")
    with pytest.raises(StructureError, match="limit of 7") as caught:
        check_structure(good, "Li", max_atoms=7)
    assert caught.value.reason is Reason.TOO_MANY_ATOMS
    partial = good.copy()
    partial[0] = {"Li": 0.5}
    with pytest.raises(StructureError, match="1 of 8 sites") as caught:
        check_structure(partial, "Li")
    assert caught.value.reason is Reason.PARTIAL_OCCUPANCY
    close = good.copy()
    close.append("Li", [0.02, 0, 0])
    with pytest.raises(StructureError, match=r"0\.08 Angstrom apart") as caught:
        check_structure(close, "Li")
    assert caught.value.reason is Reason.CLOSE_CONTACT
    with pytest.raises(StructureError) as caught:
        check_structure(Structure(Lattice.cubic(4), [], []), "Li")
    assert caught.value.reason is Reason.EMPTY_STRUCTURE


def split_garnet_site(first: float, second: float, distance_A: float = 0.4) -> Structure:
    """A full oxide cell with one lithium on two positions along x."""
    shift = distance_A / 6
    return Structure(
        Lattice.cubic(6),
        ["O", {"Li": first}, {"Li": second}, "F"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5 + shift, 0.5, 0.5], [0.5, 0, 0]],
    )


@settings(max_examples=40, deadline=None)
@given(first=st.floats(0.05, 1), second=st.floats(0.05, 1))
def test_close_sites_pass_only_where_they_cannot_both_be_full(first: float, second: float) -> None:
    crystal = split_garnet_site(first, second)
    if first + second <= 1.1:
        check_structure(crystal, "Li", partial_occupancies=True)
    else:
        with pytest.raises(StructureError, match=r"0\.40 Angstrom apart") as caught:
            check_structure(crystal, "Li", partial_occupancies=True)
        assert caught.value.reason is Reason.CLOSE_CONTACT


def test_check_of_disordered_crystals_names_each_fault() -> None:
    check_structure(split_garnet_site(0.5, 0.5), "Li", partial_occupancies=True)
    with pytest.raises(StructureError) as caught:
        check_structure(split_garnet_site(0.5, 0.5), "Li")
    assert caught.value.reason is Reason.PARTIAL_OCCUPANCY
    with pytest.raises(StructureError, match=r"could be full at once \(Li:0.8 and Li:0.8\).*wrong occupancies"):
        check_structure(split_garnet_site(0.8, 0.8), "Li", partial_occupancies=True)
    with pytest.raises(StructureError, match="the site is listed twice; remove one"):
        check_structure(split_garnet_site(0.8, 0.8, distance_A=0.001), "Li", partial_occupancies=True)
    twice = rock_salt()
    twice.append("Li", [0.001, 0, 0])
    with pytest.raises(StructureError, match="the site is listed twice; remove one"):
        check_structure(twice, "Li", partial_occupancies=True)
    full = rock_salt()
    species = Composition({"Li": 0.7, "Na": 0.7})
    first = PeriodicSite(species, full[0].frac_coords, full.lattice, skip_checks=True)
    overfull = full.copy()
    overfull._sites[0] = first
    with pytest.raises(StructureError, match=r"add up to 1\.4, more than one") as caught:
        check_structure(overfull, "Li", partial_occupancies=True)
    assert caught.value.reason is Reason.OCCUPANCY_ABOVE_ONE
    mixed = rock_salt()
    for index in range(4):
        mixed.replace(index, {"Li": 0.2, "Mg": 0.4})
    check_structure(mixed, "Li", partial_occupancies=True)
    with pytest.raises(NoMobileIonError):
        check_structure(mixed, "Na", partial_occupancies=True)


# ---------------------------------------------------------------- oxidation states


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (rock_salt(), {"Li": {1}, "F": {-1}}),
        (olivine(), {"Li": {1}, "Fe": {2}, "P": {5}, "O": {-2}}),
        (
            lithium_nitride(),
            {"Li": {1}, "N": {-3}},
        ),
    ],
)  # fmt: skip
def test_known_charges(structure: Structure, expected: dict[str, set[float]]) -> None:
    decorated = assign_oxidation_states(structure, "Li")
    assert charges(decorated) == expected
    assert sum(site.specie.oxi_state for site in decorated) == 0
    assert decorated.properties["oxidation_states_from"]
    assert not any(hasattr(site.specie, "oxi_state") and site.specie.oxi_state for site in structure)


def spinel(lithium: bool) -> Structure:
    """LiMn2O4, Fd-3m; M. M. Thackeray et al., Mater. Res. Bull. 18 (1983) 461."""
    species, coords = (["Li"], [[0, 0, 0]]) if lithium else ([], [])
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(8.248), [*species, "Mn", "O"], [*coords, [0.625, 0.625, 0.625], [0.3882, 0.3882, 0.3882]]
    ).get_primitive_structure()


def test_mixed_valence_takes_the_average_and_says_so() -> None:
    decorated = assign_oxidation_states(spinel(lithium=True), "Li")
    assert sum(site.specie.oxi_state for site in decorated) == pytest.approx(0)
    assert charges(decorated)["Mn"] == {3.5}
    assert "average Mn3.5+" in decorated.properties["oxidation_states_from"]


def test_states_of_the_structure_win_when_they_balance_and_are_not_believed_when_they_do_not() -> None:
    structure = olivine()
    structure.add_oxidation_state_by_element({"Li": 1, "Fe": 3, "P": 4, "O": -2})
    assert charges(assign_oxidation_states(structure, "Li"))["Fe"] == {3}
    assert assign_oxidation_states(structure, "Li").properties["oxidation_states_from"] == "structure"
    structure.add_oxidation_state_by_element({"Li": 1, "Fe": 3, "P": 5, "O": -2})
    corrected = assign_oxidation_states(structure, "Li")
    assert charges(corrected)["Fe"] == {2}
    assert corrected.properties["oxidation_states_from"] != "structure"


def test_given_states_win_are_completed_and_must_balance() -> None:
    assert charges(assign_oxidation_states(olivine(), "Li", {"Fe": 3}))["P"] == {4}
    everything = {"Li": 1, "Fe": 3, "P": 4, "O": -2}
    assert assign_oxidation_states(olivine(), "Li", everything).properties["oxidation_states_from"] == "given"
    with pytest.raises(OxidationStateError, match=r"add up to \+1"):
        assign_oxidation_states(olivine(), "Li", {**everything, "P": 5})
    with pytest.raises(OxidationStateError, match="does not contain"):
        assign_oxidation_states(olivine(), "Li", {"Co": 2})
    with pytest.raises(OxidationStateError, match="give those of all elements"):
        assign_oxidation_states(olivine(), "Li", {"O": 2})


def test_metals_and_peroxides_are_refused_with_what_was_tried() -> None:
    with pytest.raises(OxidationStateError, match=r"formula.*metals and metalloids only") as caught:
        assign_oxidation_states(rock_salt(5.6, "Li", "Ag"), "Li")
    assert caught.value.reason is Reason.METALLIC
    # Li2O2, P6_3/mmc; L. G. Cota and P. de la Mora, Acta Cryst. B 61 (2005) 133: O-O 1.5 Angstrom.
    peroxide = Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(3.183, 7.726),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.649]],
    )
    assert charges(assign_oxidation_states(peroxide, "Li")) == {"Li": {1}, "O": {-1}}
    stretched = peroxide.copy()
    stretched.scale_lattice(peroxide.volume * 2)
    with pytest.raises(OxidationStateError, match=r"without an O-O bond|no assignment|cannot be assigned"):
        assign_oxidation_states(stretched, "Li")


def test_oxide_with_oxygen_pairs_never_gets_two_minus() -> None:
    structure = Structure(
        Lattice.cubic(5),
        ["Li", "Li", "Mg", "O", "O"],
        [[0, 0, 0.5], [0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0, 0], [0.28, 0, 0]],
    )
    with pytest.raises(OxidationStateError, match=r"O-O bond of 1\.40"):
        assign_oxidation_states(structure, "Li")


def test_a_structure_of_many_distinct_sites_and_mixed_valence_is_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from hopflow.transport import charge_balance

    crystal = spinel(lithium=True) * (2, 2, 2)
    crystal.perturb(0.05)  # no symmetry: every site is its own orbit
    crystal.replace(0, "Na")
    sizes = []
    original = charge_balance._grid

    def counted(*args: object) -> tuple:
        found = original(*args)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(charge_balance, "_grid", counted)
    decorated = assign_oxidation_states(crystal, "Li")
    assert sum(site.specie.oxi_state for site in decorated) == pytest.approx(0, abs=1e-6)
    elements = ["Li", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W", "Re", "Ru", "O"]
    many = Structure(Lattice.cubic(16), elements, [[0, 0, i / 12] for i in range(12)])
    with pytest.raises(OxidationStateError):  # forty million assignments without the bound
        assign_oxidation_states(many, "Li")
    assert 1000 < max(sizes) <= charge_balance.MAX_ASSIGNMENTS


# ---------------------------------------------------------------- hash


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 5e-5))
def test_hash_ignores_site_order_orientation_translations_and_noise(seed: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    crystal = Structure.from_spacegroup(
        "P4/mmm", Lattice.tetragonal(4.0, 6.0), ["Li", "O", "S"], [[0, 0, 0], [0.5, 0.5, 1 / 3], [0.125, 0.25, 0.0625]]
    )
    expected = structure_hash(crystal)
    order = random.permutation(len(crystal))
    coords = crystal.frac_coords[order] + random.uniform(-noise, noise, (len(crystal), 3))
    coords += random.integers(-1, 2, coords.shape)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    moved = Structure(crystal.lattice.matrix @ turn, [crystal[int(i)].specie for i in order], coords)
    assert structure_hash(moved) == expected


def test_hash_sees_species_lattice_coordinates_occupancy_and_charge() -> None:
    crystal = rock_salt()
    changes = {structure_hash(crystal)}
    for change in (
        lambda s: s.replace(0, "Na"),
        lambda s: s.replace(0, {"Li": 0.9}),
        lambda s: s.scale_lattice(s.volume * 1.002),
        lambda s: s.translate_sites([0], [0.004, 0, 0]),
        lambda s: s.add_oxidation_state_by_element({"Li": 1, "F": -1}),
        lambda s: s.remove_sites([0]),
    ):
        copy = crystal.copy()
        change(copy)
        changes.add(structure_hash(copy))
    assert len(changes) == 7


def test_hash_survives_a_cif_round_trip(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        olivine().to(filename=str(tmp_path / "a.cif"), symprec=0.01)
        (entry,) = read_structures(tmp_path / "a.cif")
    assert len(structure_hash(entry.structure)) == 64
    assert structure_hash(entry.structure) == structure_hash(olivine())
