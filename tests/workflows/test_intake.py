"""Candidates from files and snapshots: every file gets a fate, no bad one costs a neighbour, nothing changes unseen."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hopflow.transport.errors import CandidateError, HopflowError, Reason
from hopflow.workflows.intake import (
    Fate,
    from_snapshot,
    from_structures,
    read_id_file,
    resolve_materials,
    write_snapshot,
)
from pymatgen.core import Lattice, Structure

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def row(name: str, edge_A: float, anion: str = "F") -> dict:
    return {
        "material_id": name,
        "formula": f"Li{anion}",
        "cell": [edge_A, edge_A, edge_A, 60.0, 60.0, 60.0],
        "species": ["Li", anion],
        "frac_coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
    }


@pytest.fixture
def table(tmp_path) -> Path:
    """A folder as that of the Materials Project set: gzipped rows, and an index with known properties."""
    folder = tmp_path / "table"
    folder.mkdir()
    rows = [row("mp-1", 2.8), row("mp-2", 2.9), row("mp-3", 3.0, "Cl"), {"material_id": "mp-4", "cell": [1, 2]}]
    with gzip.open(folder / "structures.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in rows)
    (folder / "index.csv").write_text(
        "material_id,formula,energy_above_hull,band_gap\nmp-1,LiF,0.012,8.7\nmp-2,LiF,,nan\nmp-9,LiF,0.5,1.0\n"
    )
    return folder


def fates(intake) -> dict[str, str]:
    return {candidate.material_id: str(candidate.fate) for candidate in intake.candidates}


def test_demo_folder_becomes_sixteen_candidates():
    intake = from_structures(DEMO)
    assert [c.material_id for c in intake.candidates] == sorted(file.stem for file in DEMO.glob("*.cif"))
    assert set(fates(intake).values()) == {"found"}
    for candidate in intake.candidates:
        assert candidate.structure == Structure.from_file(DEMO / f"{candidate.material_id}.cif")
        assert candidate.source == f"{candidate.material_id}.cif"
        assert candidate.enters_funnel
    assert len({c.structure_hash for c in intake.candidates}) == len(intake.candidates)
    assert intake.database_version is None


def test_rows_get_their_known_properties(table):
    intake = from_structures(table)
    assert fates(intake) == {"mp-1": "found", "mp-2": "found", "mp-3": "found", "mp-4": "unreadable"}
    known = [c.properties for c in intake.candidates]
    assert known[0] == {"energy_above_hull_eV_per_atom": 0.012, "band_gap_eV": 8.7}
    assert known[1] == known[2] == {"energy_above_hull_eV_per_atom": None, "band_gap_eV": None}
    assert isinstance(intake.candidates[3].error, CandidateError)
    assert intake.candidates[3].error.reason is Reason.UNREADABLE_STRUCTURE
    assert intake.candidates[0].source == "structures.jsonl.gz: mp-1"


def test_ids_choose_and_order(table, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("# chosen\nmp-3, mp-1 # two\n\nmp-77,mp-3\nmp-4\n")
    assert read_id_file(ids) == ["mp-3", "mp-1", "mp-77", "mp-4"]
    intake = resolve_materials(structures=table, mp_ids=ids)
    assert list(fates(intake).items()) == [
        ("mp-3", "found"),
        ("mp-1", "found"),
        ("mp-77", "not_found"),
        ("mp-4", "unreadable"),
    ]
    assert "mp-77" in str(intake.candidates[2].error)
    assert intake.candidates[2].error.reason is Reason.NOT_FOUND
    assert intake.candidates[1].properties["band_gap_eV"] == 8.7
    everything = {c.material_id: c for c in from_structures(table).candidates}
    for candidate in intake.candidates[:2]:
        assert candidate == everything[candidate.material_id]


def test_a_broken_line_does_not_hide_the_rows_that_are_wanted(table):
    file = table / "structures.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join([lines[0], b"{broken\n", *lines[1:]])))
    assert fates(from_structures(file, mp_ids=["mp-2", "mp-1"])) == {"mp-2": "found", "mp-1": "found"}
    assert set(fates(from_structures(file)).values()) == {"found", "unreadable"}


def test_bad_files_cost_only_themselves(tmp_path):
    shutil.copy(DEMO / "LiF.cif", tmp_path / "a.cif")
    (tmp_path / "b.cif").write_text("data_nonsense\n_cell_length_a ?\n")
    (tmp_path / "c.cif").write_bytes(b"\x00\xff\xfe not text")
    (tmp_path / "d.cif").write_text("")
    (tmp_path / "notes.txt").write_text("not a structure")
    (tmp_path / ".hidden.cif").write_text("left by an editor")
    Structure.from_file(DEMO / "LiCl.cif").to(filename=str(tmp_path / "POSCAR"), fmt="poscar")
    intake = from_structures(tmp_path)
    assert fates(intake) == {
        "POSCAR": "found",
        "a": "found",
        "b": "unreadable",
        "c": "unreadable",
        "d": "unreadable",
    }
    for candidate in intake.candidates[2:]:
        assert candidate.structure is None
        assert not candidate.enters_funnel
        assert str(candidate.error).endswith(".")


def test_same_crystal_twice_is_a_duplicate_and_same_name_twice_is_not(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    shutil.copy(DEMO / "LiF.cif", tmp_path / "one" / "salt.cif")
    shutil.copy(DEMO / "LiCl.cif", tmp_path / "two" / "salt.cif")
    crystal = Structure.from_file(DEMO / "LiF.cif")
    order = np.random.default_rng(3).permutation(len(crystal))
    shuffled = Structure.from_sites([crystal[i] for i in order])
    shuffled.to(filename=str(tmp_path / "two" / "same.cif"), fmt="cif")

    intake = from_structures([tmp_path / "one", tmp_path / "two"])
    assert fates(intake) == {"salt": "found", "same": "duplicate", "salt-2": "found"}
    assert [c.material_id for c in intake.candidates] == ["salt", "salt-2", "same"]
    duplicate = intake.candidates[2]
    assert duplicate.duplicate_of == "salt"
    assert duplicate.error.reason is Reason.DUPLICATE
    assert not duplicate.enters_funnel
    assert intake.candidates[1].requested_ids == ["salt"]
    assert intake.candidates[1].formula == "LiCl"

    write_snapshot(intake, tmp_path / "s.json")
    assert fates(from_snapshot(tmp_path / "s.json", mp_ids=["same"])) == {"same": "found"}
    both = fates(from_snapshot(tmp_path / "s.json", mp_ids=["same", "salt"]))
    assert both == {"same": "found", "salt": "duplicate", "salt-2": "found"}


def test_paths_globs_and_their_faults(tmp_path, monkeypatch):
    for name in ("LiF", "LiCl", "Li2O"):
        shutil.copy(DEMO / f"{name}.cif", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert list(fates(from_structures("Li[FC]*.cif"))) == ["LiCl", "LiF"]
    assert list(fates(from_structures(str(tmp_path / "*.cif")))) == ["Li2O", "LiCl", "LiF"]
    assert list(fates(from_structures([tmp_path / "LiF.cif", "*.cif", tmp_path]))) == ["LiF", "Li2O", "LiCl"]
    (tmp_path / "empty").mkdir()
    for wrong, what in (
        ("nowhere", "no file or folder"),
        ("empty", "no structure file"),
        ("*.xyz", "no structure file"),
    ):
        with pytest.raises(HopflowError, match=what):
            from_structures(wrong)


def test_id_files(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffmp-1\r\nmp-2 ,mp-3,\r\n# mp-4\r\n".encode())
    assert read_id_file(file) == ["mp-1", "mp-2", "mp-3"]
    file.write_text("# nothing\n")
    with pytest.raises(HopflowError, match="no id"):
        read_id_file(file)
    with pytest.raises(HopflowError, match="cannot be read"):
        read_id_file(tmp_path / "absent.txt")


def test_one_source_is_needed(table):
    for arguments in (
        {},
        {"structures": table, "snapshot": "x.json"},
        {"mp_ids": ["mp-1"], "mp_query": {"elements": ["Li"]}},
    ):
        with pytest.raises(HopflowError, match="one source"):
            resolve_materials(**arguments)


@pytest.mark.parametrize("name", ["frozen.json", "frozen.json.gz"])
def test_snapshot_gives_back_what_was_frozen(tmp_path, table, name):
    intake = from_structures([DEMO / "LiFePO4.cif", DEMO / "Li10GeP2S12.cif", table, DEMO / "LiF.cif"], mp_ids=None)
    digest = write_snapshot(intake, tmp_path / name)
    again = from_snapshot(tmp_path / name)
    assert again.candidates[0].structure == intake.candidates[0].structure
    for before, after in zip(intake.candidates, again.candidates, strict=True):
        assert (before.material_id, before.fate, before.properties) == (after.material_id, after.fate, after.properties)
        assert (before.structure_hash, before.formula, before.source) == (
            after.structure_hash,
            after.formula,
            after.source,
        )
        if before.structure is not None:
            assert np.array_equal(before.structure.lattice.matrix, after.structure.lattice.matrix)
            assert np.array_equal(before.structure.frac_coords, after.structure.frac_coords)
        assert (type(before.error), str(before.error)) == (type(after.error), str(after.error))
        if before.error is not None:
            assert before.error.reason is after.error.reason
    assert again.date == intake.date
    assert digest == intake.snapshot_sha256 == again.snapshot_sha256
    assert write_snapshot(again, tmp_path / "second.json.gz") == digest


def test_snapshot_keeps_partial_occupancies_and_charges(tmp_path):
    crystal = Structure(Lattice.cubic(4.1), [{"Li+": 0.5, "Na+": 0.25}, "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "half.json").write_text(crystal.to_json())
    intake = from_structures(tmp_path / "half.json")
    assert [c.fate for c in intake.candidates] == [Fate.FOUND]
    write_snapshot(intake, tmp_path / "s.json")
    assert from_snapshot(tmp_path / "s.json").candidates[0].structure == crystal


def test_hash_knows_content_and_nothing_else(tmp_path, table):
    first = from_structures(table)
    moved = shutil.copytree(table, tmp_path / "elsewhere")
    assert from_structures(moved).snapshot_sha256 == first.snapshot_sha256
    assert from_structures(table, mp_ids=["mp-1"]).snapshot_sha256 != first.snapshot_sha256
    (moved / "index.csv").write_text((table / "index.csv").read_text().replace("8.7", "8.8"))
    assert from_structures(moved).snapshot_sha256 != first.snapshot_sha256


def test_changed_snapshots_are_refused(tmp_path, table):
    file = tmp_path / "s.json"
    write_snapshot(from_structures(table), file)
    text = file.read_text()
    for old, new in (("0.012", "0.011"), ("mp-3", "mp-8"), ('"fate": "found"', '"fate": "merged"'), ("8.7", "8.70001")):
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(HopflowError, match="changed after it was frozen"):
            from_snapshot(file)
    file.write_text(text[:-30])
    with pytest.raises(HopflowError, match="cannot be read"):
        from_snapshot(file)
    file.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(HopflowError, match="cannot be read"):
        from_snapshot(file)
    file.write_text(json.dumps({"candidates": []}))
    with pytest.raises(HopflowError, match="not a snapshot"):
        from_snapshot(file)
    with pytest.raises(HopflowError, match="no snapshot"):
        from_snapshot(tmp_path / "absent.json")
    file.write_text(text)
    assert len(from_snapshot(file).candidates) == 4


def test_a_writer_that_fails_leaves_the_earlier_snapshot(tmp_path, table, monkeypatch):
    file = tmp_path / "s.json.gz"
    digest = write_snapshot(from_structures(table), file)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(HopflowError, match="cannot be written: No space left"):
            write_snapshot(from_structures(DEMO / "LiF.cif"), file)
    assert from_snapshot(file).snapshot_sha256 == digest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["s.json.gz"]


def test_importing_intake_loads_neither_pymatgen_nor_the_client():
    heavy = ("pymatgen.core", "mp_api", "emmet", "torch")
    code = f"import sys, hopflow.workflows.intake; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.shared
def test_list_of_300_from_the_full_table():
    shared = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))
    folder = shared / "data" / "materials_project_li"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    ids = DEMO.parent / "li300.txt"
    intake = resolve_materials(structures=folder / "structures.jsonl.gz", mp_ids=ids)
    assert [c.material_id for c in intake.candidates] == read_id_file(ids)
    assert intake.fates() == {Fate.FOUND: 300}
    for candidate in intake.candidates:
        assert len(candidate.structure) <= 60
        assert candidate.properties["energy_above_hull_eV_per_atom"] <= 0.05
        assert candidate.properties["band_gap_eV"] > 0.5
        assert "Li" in candidate.structure.composition
        assert "H" not in candidate.structure.composition
