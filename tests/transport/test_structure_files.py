"""Structure files: every kind, and every kind of damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from crystals import iron_phosphate, rock_salt
from hopflow.transport.errors import Reason, StructureError
from hopflow.transport.structures import (
    iterate_jsonl,
    read_structures,
    structure_from_row,
    structure_hash,
)
from pymatgen.core import Lattice, Structure


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


@pytest.mark.parametrize("name", ["a.cif", "a.cif.gz", "POSCAR", "CONTCAR", "a.vasp", "a.json"])
def test_every_format_gives_the_same_crystal(tmp_path: Path, name: str) -> None:
    structure = iron_phosphate()
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
    assert {str(species) for species in entry.structure.elements} == {"Li+", "F-"}


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
        json.dumps(row(iron_phosphate(), "last")).encode(),
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


CUBE = """data_x
_cell_length_a {a}
_cell_length_b 4.03
_cell_length_c 4.03
_cell_angle_alpha {alpha}
_cell_angle_beta 90
_cell_angle_gamma 90
{formula}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Li1 Li 0 0 0 1
F1 F 0.5 0.5 0.5 {occupancy}
"""


def cube(tmp_path: Path, **changes: object) -> Path:
    values = {"a": 4.03, "alpha": 90, "formula": "", "occupancy": 1} | changes
    (tmp_path / "cube.cif").write_text(CUBE.format(**values))
    return tmp_path / "cube.cif"


@pytest.mark.parametrize("occupancy", [".", "?", "1", "1.0"])
def test_an_occupancy_left_to_its_default_is_a_full_site(tmp_path: Path, occupancy: str) -> None:
    # pymatgen alone takes the point for 0 and drops the atom without a word.
    (entry,) = read_structures(cube(tmp_path, occupancy=occupancy))
    assert entry.structure is not None
    assert entry.structure.composition.as_dict() == {"Li": 1, "F": 1}
    assert "reading_warnings" not in entry.structure.properties


@pytest.mark.parametrize("change", [{"a": -4.03}, {"a": 0}, {"alpha": 180}, {"alpha": 0}])
def test_cells_that_are_none_are_refused_in_words(tmp_path: Path, change: dict) -> None:
    assert "three lengths above 0 and three angles between" in str(only_error(cube(tmp_path, **change)))


def test_atoms_that_the_formula_names_and_the_list_lacks_are_said(tmp_path: Path) -> None:
    (entry,) = read_structures(cube(tmp_path, formula="_chemical_formula_sum 'H2 Li F O'"))
    assert entry.structure is not None
    (warning,) = entry.structure.properties["reading_warnings"]
    assert "H2 Li F O" in warning
    assert "names H, O, but none of its atoms is" in warning
    (entry,) = read_structures(cube(tmp_path, formula="_chemical_formula_sum 'not a formula'"))
    assert "reading_warnings" not in entry.structure.properties
