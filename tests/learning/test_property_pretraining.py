"""Pretraining on several properties: the masked loss, going on after a kill, the tables that it reads."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from alignn_paths import rock_salt
from hopflow.learning.alignn import AlignnSize
from hopflow.learning.alignn_graphs import structure_graph
from hopflow.learning.property_pretraining import (
    PretrainingSettings,
    masked_absolute_error,
    pretrain,
    pretrained_encoder,
)
from hopflow.learning.property_tables import (
    MATMINER_SETS,
    PropertyFileError,
    PropertyTable,
    materials_project_properties,
    matminer_properties,
)
from hopflow.transport.errors import WeightsError

TINY = AlignnSize(alignn_layers=1, gcn_layers=1, hidden=8, embedding=8)
SETTINGS = PretrainingSettings(TINY, epochs=4, batch_size=6, learning_rate=1e-2)
SALTS = [(a, cation, anion) for a in (4.2, 5.0, 5.8) for cation in ("Li", "Na", "K") for anion in ("F", "Cl")]


class KilledError(Exception):
    """What stands for a kill."""


@pytest.fixture(scope="module")
def table() -> PropertyTable:
    """Rock salts; the first property is known of all, the second of every other one."""
    structures = [rock_salt(*salt).get_primitive_structure() for salt in SALTS]
    volume_A3 = np.array([structure.volume / 2 for structure in structures])
    values = np.stack([volume_A3, np.where(np.arange(len(SALTS)) % 2, np.nan, -volume_A3)], axis=1)
    formulas = [
        f"{structure.composition.reduced_formula} {a}" for structure, (a, _, _) in zip(structures, SALTS, strict=True)
    ]
    return PropertyTable([structure_graph(each) for each in structures], formulas, ("volume", "less"), values)


def test_the_loss_is_the_mean_over_what_is_known():
    answer = torch.tensor([[1.0, 5.0], [2.0, -1.0]], requires_grad=True)
    goal = torch.tensor([[0.0, torch.nan], [torch.nan, 2.0]])
    loss = masked_absolute_error(answer, goal)
    assert float(loss.detach()) == pytest.approx((1.0 + 3.0) / 2)
    loss.backward()
    assert answer.grad is not None
    assert answer.grad.tolist() == [[0.5, 0.0], [0.0, -0.5]]
    nothing = masked_absolute_error(answer, torch.full((2, 2), torch.nan))
    assert float(nothing.detach()) == 0.0


def test_it_learns_and_says_how_well(table, tmp_path):
    lines: list[str] = []
    settings = replace(SETTINGS, epochs=20, batch_size=2, held_out_share=0.2)
    metrics = pretrain(table, settings, tmp_path / "weights.pt", progress=lines.append)
    assert len(lines) == len(metrics["losses"]) == 20
    assert metrics["losses"][-1] < 0.6 * metrics["losses"][0]
    assert metrics["crystals"] + metrics["held_out"] == len(SALTS)
    volume = metrics["properties"]["volume"]
    assert volume["known"] == metrics["held_out"] > 0
    assert volume["mae"] < volume["mae_of_mean"]


def test_a_missing_target_teaches_nothing(table, tmp_path):
    """The head of a property that is known of no crystal of a batch does not move; the other learns as without it."""
    values = table.values.copy()
    values[:, 1] = np.nan
    values[0, 1] = 3.0
    settings = replace(SETTINGS, held_out_share=0.0, epochs=1, batch_size=1, weight_decay=0.0)
    pretrain(replace(table, values=values), settings, tmp_path / "masked.pt")
    weights = torch.load(tmp_path / "masked.pt", weights_only=True)["weights"]
    one = replace(settings, epochs=1)
    pretrain(replace(table, values=values[:, :1], properties=("volume",)), one, tmp_path / "single.pt")
    single = torch.load(tmp_path / "single.pt", weights_only=True)["weights"]
    assert torch.isfinite(torch.cat([value.flatten() for value in weights.values()])).all()
    assert all(torch.isfinite(value).all() for value in single.values())
    moved = weights["heads.0.1.weight"] - single["heads.0.1.weight"]
    # but for the one crystal that has both, the first head saw the same crystals in the same order
    assert moved.abs().max() < 0.1


def test_a_run_that_was_killed_ends_with_the_same_weights(table, tmp_path):
    straight, broken = tmp_path / "straight.pt", tmp_path / "broken.pt"
    metrics = pretrain(table, SETTINGS, straight, seed=2)

    def kill(line: str) -> None:
        if line.startswith("epoch 2 "):
            raise KilledError

    with pytest.raises(KilledError):
        pretrain(table, SETTINGS, broken, seed=2, progress=kill)
    assert not broken.exists()
    lines: list[str] = []
    assert pretrain(table, SETTINGS, broken, seed=2, progress=lines.append) == metrics
    assert [line.split()[1] for line in lines] == ["3", "4"]
    first, second = (torch.load(file, weights_only=True)["weights"] for file in (straight, broken))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert list(tmp_path.iterdir()) == [straight, broken] or list(tmp_path.iterdir()) == [broken, straight]
    # done is done, and other crystals begin anew
    assert pretrain(table, SETTINGS, broken, seed=2, progress=lines.append) == metrics
    assert len(lines) == 2
    pretrain(replace(table, values=2.0 * table.values), SETTINGS, broken, seed=2, progress=lines.append)
    assert len(lines) == 6


def test_batches_may_be_worked_on_in_parts(table, tmp_path):
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    pretrain(table, replace(SETTINGS, epochs=1), whole)
    pretrain(table, replace(SETTINGS, epochs=1, crystals_at_once=2), parts)
    first, second = (pretrained_encoder(file, TINY) for file in (whole, parts))
    assert all(torch.allclose(value, second[name], atol=1e-4) for name, value in first.items())


def test_only_a_checkpoint_of_the_right_kind_and_size_is_taken(table, tmp_path):
    file = tmp_path / "weights.pt"
    pretrain(table, replace(SETTINGS, epochs=1), file)
    assert pretrained_encoder(file, TINY)["atom_embedding.0.weight"].shape == (8, 93)
    with pytest.raises(WeightsError, match="has the size"):
        pretrained_encoder(file, replace(TINY, hidden=16))
    with pytest.raises(WeightsError, match="damaged"):
        pretrained_encoder(tmp_path / "none.pt", TINY)
    torch.save({"format": "another"}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no pretrained ALIGNN"):
        pretrained_encoder(tmp_path / "other.pt", TINY)


def test_a_property_that_nobody_knows_is_refused(table, tmp_path):
    values = table.values.copy()
    values[:, 1] = np.nan
    with pytest.raises(ValueError, match="less"):
        pretrain(replace(table, values=values), SETTINGS, tmp_path / "weights.pt")


def packed(content: str, file: Path) -> Path:
    file.write_bytes(gzip.compress(content.encode()))
    return file


def test_a_materials_project_download_becomes_a_table(tmp_path):
    rows = []
    for number, (a, cation, anion) in enumerate(SALTS[:4]):
        structure = rock_salt(a, cation, anion)
        rows.append(
            {
                "material_id": f"mp-{number}",
                "cell": list(structure.lattice.parameters),
                "species": [site.specie.symbol for site in structure],
                "frac_coords": structure.frac_coords.tolist(),
            }
        )
    # a noble gas has no descriptors; another row is not in the index; a third is too large
    rows.append({**rows[0], "material_id": "mp-ar", "species": ["Ar"] * 8})
    rows.append({**rows[0], "material_id": "mp-unknown"})
    rows.append({**rows[0], "material_id": "mp-large", "species": ["Li"] * 50, "frac_coords": [[0, 0, 0]] * 50})
    structures = packed("\n".join(map(json.dumps, rows)), tmp_path / "structures.jsonl.gz")
    index = tmp_path / "index.csv"
    index.write_text(
        "material_id,formula,energy_above_hull,band_gap\nmp-0,LiF,0.0,8.7\nmp-1,LiCl,0.01,6.3\nmp-2,NaF,0.1,\n"
        "mp-3,NaCl,0.2,5.0\nmp-ar,Ar,0.0,8.0\nmp-large,Li,0.0,0.0\n"
    )
    barriers = tmp_path / "barriers.jsonl"
    barriers.write_text('{"material_id": "mp-1", "barrier_3d_eV": 0.4, "name": "LiCl"}\n')
    table = materials_project_properties(structures, index, barriers)
    assert table.properties == ("energy_above_hull_eV", "band_gap_eV", "log_volume_per_atom", "barrier_3d_eV")
    assert (len(table.graphs), table.left_out) == (4, 1)
    assert table.formulas[0] == "LiF"
    expected = [
        [0.0, 8.7, np.log(4.2**3 / 8), np.nan],
        [0.01, 6.3, np.log(4.2**3 / 8), 0.4],
        [0.1, np.nan, np.log(4.2**3 / 8), np.nan],
    ]
    assert np.allclose(table.values[:3], expected, equal_nan=True)
    assert len(materials_project_properties(structures, index, most_crystals=2).graphs) <= 2
    with pytest.raises(PropertyFileError, match="cannot be read"):
        materials_project_properties(tmp_path / "none", index)
    index.write_text("material_id,formula\nmp-0,LiF\n")
    with pytest.raises(PropertyFileError, match="band_gap"):
        materials_project_properties(structures, index)


def matminer_file(folder: Path, name: str, columns: list[str], data: list[list]) -> Path:
    return packed(json.dumps({"index": list(range(len(data))), "columns": columns, "data": data}), folder / name)


def test_the_sets_of_the_paper_are_read_as_matminer_writes_them(tmp_path):
    salt, other = rock_salt(4.2), rock_salt(5.1, "Na", "Cl")
    with pytest.raises(PropertyFileError, match=r"matbench_log_gvrh\.json\.gz.*matbench_mp_gap\.json\.gz") as missing:
        matminer_properties(tmp_path)
    assert all(each.files[0] in str(missing.value) for each in MATMINER_SETS)
    for each in MATMINER_SETS:
        if each.property == "piezoelectric_modulus":
            data = [["mp-1", salt.to(fmt="cif"), 0.7], ["mp-2", "no crystal at all", 0.8]]
            matminer_file(tmp_path, "piezoelectric_tensor.json.gz", ["material_id", "cif", "eij_max"], data)
        elif each.property == "experimental_gap_eV":
            data = [[8.7, salt.as_dict()], [None, other.as_dict()]]
            matminer_file(tmp_path, "expt_gap.json.gz", ["expt_gap", "structure"], data)
        else:
            data = [[salt.as_dict(), 1.0], [other.as_dict(), 2.0]]
            matminer_file(tmp_path, f"{each.files[0]}.json.gz", ["structure", each.columns[0]], data)
    table = matminer_properties(tmp_path)
    assert table.properties == tuple(each.property for each in MATMINER_SETS)
    # a crystal that is in several sets has one row
    assert table.formulas == ["LiF", "NaCl"]
    expected = [[1.0, 1.0, 0.7, 1.0, 8.7, 1.0, 1.0], [2.0, 2.0, np.nan, 2.0, np.nan, 2.0, 2.0]]
    assert np.allclose(table.values, expected, equal_nan=True)
    assert table.left_out == 2


def test_files_of_another_layout_are_refused(tmp_path):
    wanted = MATMINER_SETS[:1]
    matminer_file(tmp_path, "matbench_log_gvrh.json.gz", ["composition", "log10(G_VRH)"], [["LiF", 1.0]])
    with pytest.raises(PropertyFileError, match="structure or cif or poscar"):
        matminer_properties(tmp_path, wanted)
    packed("[1, 2]", tmp_path / "matbench_log_gvrh.json.gz")
    with pytest.raises(PropertyFileError, match="columns and data"):
        matminer_properties(tmp_path, wanted)
    (tmp_path / "matbench_log_gvrh.json.gz").write_bytes(gzip.compress(b"{" * 100)[:20])
    with pytest.raises(PropertyFileError, match="cannot be read"):
        matminer_properties(tmp_path, wanted)
