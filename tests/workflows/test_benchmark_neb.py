"""The benchmark of bands: which paths are chosen, what is said of them, and reference data in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import crystals
import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from command_line import call
from hopflow.potentials import registry
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.paths import MigrationPath
from hopflow.workflows.band_benchmark import PUBLISHED, agreement, path_displacement_A, select_paths
from hopflow.workflows.reference_paths import ReferencePath, read_references
from pair_potential import PairPotential
from path_tables import path_row, write_table

QUICK = ("--set", "images=3", "--set", "max_force_eV_per_A=0.2")
NAME = "mace-mp-0-small"


def hop(edge_A: float, ion: str = "Li") -> MigrationPath:
    network = enumerate_hops(crystals.rock_salt(edge_A, ion, "Cl"), ion)
    return hop_path(network, network.hops[0], images=5, min_length_A=4.5)


def labelled_rows() -> list[dict[str, Any]]:
    """Three hops that the pair potential knows and one of another element, with made-up barriers."""
    found = [(5.1, "Li", 0.5, 0.6), (4.9, "Li", 0.6, None), (5.6, "Na", 2.5, 0.4), (6.2, "K", 0.4, 0.5)]
    return [
        path_row(f"{ion}{edge}", hop(edge, ion), barrier_dft_eV=true, barrier_mace_relax_eV=published)
        for edge, ion, true, published in found
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    """Images that the potential was asked about."""
    potential = PairPotential()
    monkeypatch.setattr(registry, "load_potential", lambda *_, **__: potential)
    return potential.asked


def benchmark(place: Path, data: Path, *words: Any, code: int = 0) -> tuple[str, str]:
    chosen = ("--data", data, "--potential", NAME, "--output", place / "out", *QUICK, *words)
    return call("--home", place / "home", "benchmark", "neb", *chosen, code=code)


def test_a_path_table_is_run_and_judged_beside_the_published_column(tmp_path, asked):
    file = write_table([*labelled_rows(), "{"], tmp_path / "rows.jsonl.gz")
    out, err = benchmark(tmp_path, file, "--json")
    document = json.loads(out)
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == document
    assert document["converged"][NAME]["converged"] == 3
    assert document["converged"][NAME]["share"] == 0.75
    assert document["converged"][NAME]["reasons"] == {"unsupported_element": 1}
    assert [row["path_id"] for row in document["left_out"]] == ["rows:5"]
    assert "1 rows of" in err
    lines = {(line["predictor"], line["rows_of"]): line for line in document["table"]}
    assert [line["rows"] for line in document["table"]] == [3, 2, 2, 3]
    published = lines[PUBLISHED, f"{NAME} and the published column have a barrier"]
    # the same rows: lithium at 5.1 and sodium
    assert published["metrics"]["mae_eV"] == pytest.approx((0.1 + 2.1) / 2)
    answers = [path["answers"][NAME] for path in document["paths"]]
    errors = np.array([answers[k]["barrier_eV"] - true for k, true in ((0, 0.5), (1, 0.6), (2, 2.5))])
    own = lines[NAME, f"{NAME} has a barrier"]["metrics"]
    assert own["mae_eV"] == pytest.approx(np.abs(errors).mean(), abs=2e-5)
    assert own["rmse_eV"] == pytest.approx(np.sqrt((errors**2).mean()), abs=2e-5)
    assert {each["path_id"] for each in document["outliers"] if each["predictor"] == PUBLISHED} == {"Na5.6"}
    assert document["displacement_A"][NAME] == {"paths": 0, "mean": None}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| barriers of | paths where | paths | MAE, eV | RMSE, eV | Pearson | slope | R² | Spearman |" in table
    assert "3 of 4 | 75.0% | unsupported_element: 1" in table
    assert (tmp_path / "out" / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out" / "bands" / NAME).iterdir())) == 3


def test_a_second_call_evaluates_nothing_and_says_the_same(tmp_path, asked):
    file = write_table(labelled_rows()[:2], tmp_path / "rows.jsonl")
    first = benchmark(tmp_path, file)[0]
    spent = len(asked)
    assert spent > 0
    assert benchmark(tmp_path, file)[0] == first
    assert len(asked) == spent
    assert first.splitlines()[0] == "2 paths with a reference barrier; chosen before any of them is run."


def test_the_choice_is_stated_before_anything_runs(tmp_path, monkeypatch):
    file = write_table(labelled_rows(), tmp_path / "rows.jsonl")
    seen: list[dict[str, Any]] = []

    def load(*_: Any, **__: Any) -> PairPotential:
        seen.append(json.loads((tmp_path / "out" / "selection.json").read_text()))
        return PairPotential()

    monkeypatch.setattr(registry, "load_potential", load)
    benchmark(tmp_path, file, "--limit", "2", "--seed", "3")
    assert len(seen[0]["path_ids"]) == 2
    assert "of which 2 are drawn by lot with seed 3; chosen before any of them is run." in seen[0]["selection"]


def test_the_choice_depends_on_the_rule_alone():
    paths = [ReferencePath(str(k), {"framework_species": ["O"] * k}, 0.5) for k in range(1, 41)]
    chosen = select_paths(paths, 30, 10, 7)
    assert len(chosen.paths) == 10
    assert all(path.atoms <= 30 for path in chosen.paths)
    assert [path.path_id for path in chosen.paths] == [p.path_id for p in select_paths(paths, 30, 10, 7).paths]
    assert [path.path_id for path in chosen.paths] != [p.path_id for p in select_paths(paths, 30, 10, 8).paths]
    assert sorted(int(path.path_id) for path in chosen.paths) == [int(path.path_id) for path in chosen.paths]
    assert len(select_paths(paths, 0, 0, 0).paths) == 40


def write_litraj(folder: Path, names: dict[str, float]) -> Path:
    """Paths as LiTraj keeps them: the migrating ion is not the last atom, and atoms are wrapped into the cell."""
    folder.mkdir()
    lines = ["_split,chemsys,material_id,edge_id,em_dft"]
    for number, (name, barrier_eV) in enumerate(names.items()):
        path = hop(5.1 + 0.1 * number)
        lines.append(f"test,Cl-Li,mp-1,{name},{barrier_eV}")
        for kind, bow_A in (("init", 0.0), ("relaxed", 0.3)):
            frames = []
            for k, point in enumerate(path.path_frac_coords):
                ion = point @ path.lattice + np.array([0, 0, bow_A * np.sin(np.pi * k / 4)])
                positions = np.vstack([ion, path.framework_frac_coords @ path.lattice])
                atoms = Atoms([path.ion, *path.framework_species], positions, cell=path.lattice, pbc=True)
                atoms.wrap()
                frames.append(atoms)
            write(folder / f"{name}_{kind}.xyz", frames, format="extxyz")
    index = folder / "nebDFT2k_index.csv"
    index.write_text("\n".join(lines) + "\n")
    return index


def test_the_layout_of_litraj(tmp_path, asked):
    index = write_litraj(tmp_path / "nebDFT2k", {"mp-1_0_1_0_0_0": 0.45, "mp-1_0_2_0_0_1": 0.55, "mp-1_9": -1.0})
    with index.open("a") as stream:
        stream.write("test,Cl-Li,mp-1,mp-2_gone,0.5\n")
    paths, left_out = read_references(index.parent)
    assert [path.path_id for path in paths] == ["mp-1_0_1_0_0_0", "mp-1_0_2_0_0_1"]
    assert [path.barrier_eV for path in paths] == [0.45, 0.55]
    assert [row["path_id"] for row in left_out] == ["mp-1_9", "mp-2_gone"]
    original, found = hop(5.1), MigrationPath.from_row(paths[0].row)
    assert (found.ion, found.length_A) == ("Li", pytest.approx(original.length_A))
    assert sorted(found.framework_species) == sorted(original.framework_species)
    # the reference band bows by 0.3 Angstrom in the middle
    assert paths[0].images_A.shape == (5, len(original.framework_species) + 1, 3)
    bow = paths[0].images_A[2, -1] - (paths[0].images_A[0, -1] + paths[0].images_A[4, -1]) / 2
    assert np.linalg.norm(bow) == pytest.approx(0.3, abs=1e-6)
    document = json.loads(benchmark(tmp_path, index, "--json")[0])
    moved = document["displacement_A"][NAME]
    assert moved["paths"] == 2
    assert 0 < moved["mean"] < 0.3
    assert document["table"][0]["rows"] == 2
    assert all(line["predictor"] == NAME for line in document["table"])


def test_displacement_from_a_reference_band():
    lattice = np.eye(3) * 10.0
    reference = np.zeros((5, 4, 3))
    reference[:, 3, 0] = np.linspace(0, 4, 5)
    assert path_displacement_A(reference, reference, lattice) == pytest.approx(0.0, abs=1e-12)
    # other numbers of images, other cells and drift do not count
    finer = np.zeros((9, 4, 3))
    finer[:, 3, 0] = np.linspace(0, 4, 9)
    shifted = finer + np.array([10.0, 0.3, -20.0])
    assert path_displacement_A(shifted, reference, lattice) == pytest.approx(0.0, abs=1e-12)
    # one atom of four off by 0.4: less the drift of 0.1, three are off by 0.1 and one by 0.3
    off = reference.copy()
    off[:, 0, 1] += 0.4
    assert path_displacement_A(off, reference, lattice) == pytest.approx((3 * 0.1 + 0.3) / 4)


def test_agreement_is_what_numpy_says():
    true, found = np.array([0.2, 0.5, 0.9, 1.4]), np.array([0.25, 0.4, 1.1, 1.3])
    metrics = agreement(true, found)
    assert metrics["pearson"] == pytest.approx(np.corrcoef(true, found)[0, 1])
    assert metrics["slope"] == pytest.approx(np.polyfit(true, found, 1)[0])
    assert metrics["r2"] == pytest.approx(1 - ((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    assert metrics["spearman"] == pytest.approx(1.0)
    assert np.isnan(agreement(true[:1], found[:1])["slope"])


def test_wrong_use(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for data, sentence in (
        ("nowhere.jsonl", "cannot be read: No such file"),
        (tmp_path / "empty", "holds 0 files called *_index.csv"),
        (tmp_path / "other.csv", "has no columns edge_id and em_dft"),
    ):
        assert sentence in benchmark(tmp_path, Path(data), code=2)[1]
    file = write_table(labelled_rows()[:1], tmp_path / "rows.jsonl")
    assert "There is no potential called 'mice'" in benchmark(tmp_path, file, "--potential", "mice", code=2)[1]
    assert "No path of" in benchmark(tmp_path, file, "--max-atoms", "3", code=1)[1]


def test_bands_of_the_benchmark_are_bands(tmp_path, asked):
    benchmark(tmp_path, write_table(labelled_rows()[:1], tmp_path / "rows.jsonl"))
    (file,) = (tmp_path / "out" / "bands" / NAME).iterdir()
    assert len(read(file, ":")) == 5
