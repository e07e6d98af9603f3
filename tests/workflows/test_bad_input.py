"""Bad input costs the candidate, never its neighbours: every kind in one campaign, beside two good crystals."""

import json
from pathlib import Path

import pytest
from hopflow.workflows.ledger import Ledger
from places import DEMO, Place

pytestmark = [pytest.mark.weights]


def cif(formula_species: dict[str, float], a: float = 4.0) -> str:
    sites = "\n".join(
        f"{el}{i} {el} {0.5 * i} {0.5 * i} {0.5 * i} {occ}" for i, (el, occ) in enumerate(formula_species.items())
    )
    return (
        f"data_x\n_cell_length_a {a}\n_cell_length_b {a}\n_cell_length_c {a}\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n"
        "_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        f"_atom_site_occupancy\n{sites}\n"
    )


def bad_files(folder: Path) -> Path:
    """A folder with every kind of bad input and two good crystals, in an order that puts good among bad."""
    folder.mkdir()
    (folder / "a_unreadable.cif").write_text("data_nothing\nthis is not a crystal\n")
    (folder / "b_binary.cif").write_bytes(bytes(range(256)))
    (folder / "c_empty.cif").write_text("")
    (folder / "d_good_Li2O.cif").write_text((DEMO / "Li2O.cif").read_text())
    (folder / "e_no_lithium.cif").write_text(cif({"Na": 1.0, "Cl": 1.0}))
    (folder / "f_partial.cif").write_text(cif({"Li": 0.5, "Cl": 0.5}))
    (folder / "f_unbalanced.cif").write_text(cif({"Li": 0.5, "Cl": 1.0}))
    (folder / "g_no_parameters.cif").write_text((DEMO / "Li3P.cif").read_text())
    (folder / "h_no_charges.cif").write_text(cif({"Li": 1.0, "Xe": 1.0}))
    many = {"material_id": "i_many_atoms", "formula": "LiF", "cell": [40.0] * 3 + [90.0] * 3,
            "species": [], "frac_coords": []}  # fmt: skip
    for n in range(2000):
        x, y, z = n % 10, n // 10 % 20, n // 200
        many["species"].append("Li" if (x + y + z) % 2 else "F")
        # Off the lattice points by a little, so that no smaller cell describes the crystal.
        many["frac_coords"].append([x / 10 + 0.002 * (n % 7), y / 20 + 0.001 * (n % 11), z / 10 + 0.002 * (n % 13)])
    none = {**many, "material_id": "j_no_atoms", "species": [], "frac_coords": []}
    nan = {"material_id": "k_nan", "formula": "LiF", "cell": [4.0] * 3 + [90.0] * 3, "species": ["Li", "F"],
           "frac_coords": [[0, 0, 0], [float("nan"), 0.5, 0.5]]}  # fmt: skip
    close = {**nan, "material_id": "l_close", "frac_coords": [[0, 0, 0], [0.02, 0, 0]]}
    good = {"material_id": "m_good_LiF", "formula": "LiF", "cell": [2.8407, 2.8407, 2.8407, 60.0, 60.0, 60.0],
            "species": ["Li", "F"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}  # fmt: skip
    lines = [json.dumps(row) for row in (many, none, nan, close)]
    (folder / "rows.jsonl").write_text("\n".join([*lines, '{"broken": ', json.dumps(good)]) + "\n")
    return folder


EXPECTED = {
    "a_unreadable": ("intake", "unreadable_structure"),
    "b_binary": ("intake", "unreadable_structure"),
    "c_empty": ("intake", "empty_structure"),
    "e_no_lithium": ("bvse", "no_mobile_ion"),
    "f_partial": ("neb", "partial_occupancy"),
    "f_unbalanced": ("bvse", "oxidation_states_unknown"),
    "g_no_parameters": ("bvse", "missing_parameters"),
    "h_no_charges": ("bvse", "oxidation_states_unknown"),
    "i_many_atoms": ("bvse", "too_many_atoms"),
    "j_no_atoms": ("intake", "empty_structure"),
    "k_nan": ("intake", "unreadable_structure"),
    "l_close": ("bvse", "close_contact"),
}


def test_every_kind_of_bad_input_in_one_campaign(place: Place) -> None:
    crystals = bad_files(place.folder / "crystals")
    (place.folder / "bad.yaml").write_text(
        f"name: bad\nmaterials: {{structures: {crystals}}}\nchunk_size: 5\nstages:\n"
        "  bvse: {settings: {spacing_A: 0.4, interstitial_network: never}, gate: {max: 3}}\n"
        # Two steps and a force limit that no band reaches in them: a hop that cannot converge.
        "  neb: {settings: {images: 1, dtype: float32, min_length_A: 4.0, max_steps: 2, max_force_eV_per_A: 1.0e-6}}\n"
    )
    place.run("launch", "bad.yaml")
    place.run("run", "bad", "--workers", "1")
    with place.open(read_only=True) as database:
        ledger = Ledger(database, "bad")
        rows = {row["material_id"]: row["stages"] for row in ledger.rows()}
        assert ledger.document["state"] == "done"
    for name, (stage, reason) in EXPECTED.items():
        entry = rows[name][stage]
        assert (entry["status"], entry["reason"]) == ("failed", reason), (name, entry)
        assert entry["message"].endswith((".", ".)")), (name, entry["message"])
        assert len(entry["message"]) > 20, (name, entry["message"])
        assert entry["error_class"], name
        assert "value" not in entry or entry["value"] is None
    for name in ("d_good_Li2O", "m_good_LiF"):
        assert rows[name]["bvse"]["status"] == "passed", rows[name]["bvse"]
        entry = rows[name]["neb"]
        assert (entry["status"], entry["reason"], entry["value"]) == ("failed", "not_converged", None), entry
    told = place.run("why", "bad", "f_partial").stdout
    assert "partial_occupancy" in told


def test_commands_answer_for_every_file(tmp_path: Path) -> None:
    place = Place(tmp_path)
    crystals = bad_files(tmp_path / "crystals")
    files = sorted(str(path) for path in crystals.iterdir())
    done = place.run(
        "bvse",
        *files,
        str(tmp_path / "absent.cif"),
        "--json",
        "--set",
        "spacing_A=0.4",
        "--interstitial-network",
        "never",
        ok=1,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["file"] for a in answers if not a["file"].endswith("rows.jsonl")] == [
        *(f for f in files if not f.endswith("rows.jsonl")),
        str(tmp_path / "absent.cif"),
    ]
    good = [a["name"] for a in answers if a["status"] == "ok"]
    assert good == ["d_good_Li2O", "f_partial", "m_good_LiF"]
    for answer in answers:
        if answer["status"] == "failed":
            assert answer["error_class"]
            assert answer["message"]
        else:
            assert answer["barrier_1d_eV"] > 0
    assert place.run("bvse", str(DEMO / "Li2O.cif"), "--json").returncode == 0
