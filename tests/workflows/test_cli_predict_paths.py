"""Barriers of paths from the command line: one answer a row, and no row costs its neighbour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call
from hopflow.learning import training
from hopflow.learning.barrier_models import BARRIER_MODELS
from hopflow.learning.prediction import PathNetworkPredictor, predict_paths
from hopflow.makers import probing
from hopflow.transport.errors import WeightsError
from hopflow.transport.paths import MigrationPath
from path_tables import path_table, write_table

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def answers(file: Path, *words: Any, code: int = 0) -> list[dict[str, Any]]:
    """Of the model that needs no potential, unless the words name another one."""
    chosen = words if "--model" in words else ("--model", "geometry", *words)
    out, _ = call("predict-paths", file, "--json", *chosen, code=code)
    return [json.loads(line) for line in out.splitlines()]


def test_every_row_has_its_answer_in_its_place(tmp_path):
    rows = path_table()
    found = answers(write_table(rows, tmp_path / "rows.jsonl.gz"), "--model", "path-network")
    assert [list(answer) for answer in found] == [["path_id", "barrier_eV", "sigma_eV"]] * len(rows)
    assert [answer["path_id"] for answer in found] == [row["path_id"] for row in rows]
    barriers_eV, sigmas_eV = predict_paths([MigrationPath.from_row(row) for row in rows])
    np.testing.assert_allclose([answer["barrier_eV"] for answer in found], barriers_eV, atol=2e-4)
    np.testing.assert_allclose([answer["sigma_eV"] for answer in found], sigmas_eV, atol=2e-4)


def test_barriers_of_the_table_are_never_read(tmp_path):
    rows = path_table()[:6]
    plain = answers(write_table(rows, tmp_path / "as-they-are.jsonl"))
    barriers = ("barrier_dft_eV", "barrier_mace_relax_eV")
    without = [{name: value for name, value in row.items() if name not in barriers} for row in rows]
    others = [
        {**row, "barrier_dft_eV": 9.9, "barrier_mace_relax_eV": "nonsense", "barrier_eV": -1, "more": [{}]}
        for row in rows
    ]
    assert answers(write_table(without, tmp_path / "without.jsonl")) == plain
    assert answers(write_table(others, tmp_path / "others.jsonl")) == plain
    model = BARRIER_MODELS["geometry"]
    assert model.shown(others[0]).keys() == set(model.columns)
    assert not set(model.columns) & {*barriers, "barrier_mace_no_relax_eV"}


def test_neither_order_nor_direction_nor_neighbours_matter(tmp_path):
    rows = path_table()
    # more than one batch
    many = [{**row, "path_id": f"{row['path_id']}-{copy}"} for copy in range(4) for row in rows]
    plain = {answer["path_id"]: answer for answer in answers(write_table(many, tmp_path / "many.jsonl"))}
    assert len(plain) == len(many) > 64
    order = np.random.default_rng(0).permutation(len(many))
    turned = [{**many[i], "path_frac_coords": many[i]["path_frac_coords"][::-1]} if i % 2 else many[i] for i in order]
    found = answers(write_table(turned, tmp_path / "turned.jsonl.gz"))
    assert [answer["path_id"] for answer in found] == [many[i]["path_id"] for i in order]
    for answer in found:
        same = plain[answer["path_id"]]
        assert answer["barrier_eV"] == pytest.approx(same["barrier_eV"], abs=5e-4)
        assert answer["sigma_eV"] == pytest.approx(same["sigma_eV"], abs=5e-4)


def test_what_is_broken_costs_itself_alone(tmp_path):
    good = path_table()[:3]
    base = good[0]
    path, framework = base["path_frac_coords"], base["framework_frac_coords"]
    broken: list[tuple[dict[str, Any] | str, str, str]] = [
        ('{"path_id": "half', "unreadable_structure", "is not valid JSON"),
        ("[1, 2]", "unreadable_structure", "must be a JSON object, not list"),
        ("[" * 100_000, "unreadable_structure", "is not valid JSON"),
        ({}, "unreadable_structure", "lacks migrating_ion, lattice"),
        ({**base, "lattice": None}, "unreadable_structure", "lacks lattice"),
        ({**base, "lattice": base["lattice"][:2]}, "unreadable_structure", "three lattice vectors"),
        ({**base, "lattice": np.zeros((3, 3)).tolist()}, "unreadable_structure", "no volume"),
        ({**base, "lattice": np.diag([0.1, 200, 200]).tolist()}, "unreadable_structure", "narrower than 1 Angstrom"),
        ({**base, "framework_frac_coords": framework[:-1]}, "unreadable_structure", "positions for"),
        ({**base, "framework_frac_coords": [*framework[:-1], [0.1]]}, "unreadable_structure", "no regular table"),
        ({**base, "framework_species": "LiF"}, "unreadable_structure", "list of element symbols"),
        ({**base, "framework_frac_coords": [], "framework_species": []}, "unreadable_structure", "No atom lies within"),
        ({**base, "path_frac_coords": path[:1]}, "unreadable_structure", "at least two images"),
        ({**base, "path_frac_coords": [path[0]] * 5}, "unreadable_structure", "has no length"),
        ({**base, "path_frac_coords": [[float("nan")] * 3, *path[1:]]}, "unreadable_structure", "not a finite number"),
        ({**base, "path_frac_coords": [[7.0, 0.0, 0.0], *path[1:]]}, "unreadable_structure", "more than any single"),
        ({**base, "path_frac_coords": [framework[0], *path[1:]]}, "", ""),
        ({**base, "migrating_ion": "Xx"}, "unsupported_element", "no descriptors for Xx"),
        ({**base, "migrating_ion": ["Li"]}, "unreadable_structure", "needs an element symbol"),
        (
            {**base, "framework_species": ["Qq", *base["framework_species"][1:]]},
            "unsupported_element",
            "no descriptors for Qq",
        ),
        (json.dumps({**base, "lattice": 0}).replace("0", "1" + "0" * 400, 1), "unreadable_structure", "lattice"),
        ("\x00\xff", "unreadable_structure", "is not valid JSON"),
    ]
    mixed: list[dict[str, Any] | str] = []
    for number, (row, _, _) in enumerate(broken):
        mixed += [row, good[number % 3], ""]
    found = answers(write_table(mixed, tmp_path / "mixed.jsonl.gz"))
    assert len(found) == 2 * len(broken)
    alone = answers(write_table(good, tmp_path / "good.jsonl"))
    for number, (answer, (_, reason, sentence)) in enumerate(zip(found[::2], broken, strict=True)):
        neighbour = found[2 * number + 1]
        assert neighbour["path_id"] == good[number % 3]["path_id"]
        assert neighbour["barrier_eV"] == pytest.approx(alone[number % 3]["barrier_eV"], abs=3e-4)
        if not reason:  # an end on an atom of the ion itself is that ion written twice
            continue
        assert answer["barrier_eV"] is None
        assert answer["sigma_eV"] is None
        assert answer["reason"] == reason
        assert sentence in answer["error"]
        assert "\n" not in answer["error"]
    # rows without a name are called after their line
    assert found[0]["path_id"] == "mixed:1"
    assert found[6]["path_id"] == "mixed:10"


def test_two_rows_of_one_name_are_both_answered(tmp_path):
    rows = path_table()[:2]
    twice = [{**row, "path_id": "same"} for row in rows] + [{**rows[0], "path_id": 7}]
    file = write_table(twice, tmp_path / "twice.jsonl")
    out, err = call("predict-paths", file, "--json", "--model", "geometry")
    found = [json.loads(line) for line in out.splitlines()]
    assert [answer["path_id"] for answer in found] == ["same", "same", 7]
    assert found[0]["barrier_eV"] == found[2]["barrier_eV"] != found[1]["barrier_eV"]
    assert "2 rows are called same" in err


def test_a_download_that_broke_off(tmp_path):
    whole = write_table(path_table(), tmp_path / "whole.jsonl.gz").read_bytes()
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(whole[: len(whole) // 2])
    found = answers(torn)
    assert 3 < len(found) < 20
    assert all(answer["barrier_eV"] is not None for answer in found[:-1])
    assert "cannot be read beyond line" in found[-1]["error"]
    # what is packed need not be called so
    renamed = tmp_path / "packed.jsonl"
    renamed.write_bytes(whole)
    assert len(answers(renamed)) == len(path_table())


def test_the_exit_code_says_whether_there_is_an_answer(tmp_path):
    out, err = call("predict-paths", write_table(["{"], tmp_path / "broken.jsonl"), "--json", code=1)
    assert json.loads(out)["barrier_eV"] is None
    assert "No path of" in err
    out, err = call("predict-paths", write_table([""], tmp_path / "empty.jsonl"), "--json", code=1)
    assert out == ""
    assert "holds no rows" in err
    (tmp_path / "nothing.jsonl.gz").write_bytes(b"")
    assert "holds no rows" in call("predict-paths", tmp_path / "nothing.jsonl.gz", code=1)[1]


def test_wrong_use_of_the_prediction(tmp_path):
    (tmp_path / "no.jsonl.gz").write_bytes(b"not gzip")
    for word, sentence in (
        ("nowhere.jsonl", "cannot be read: No such file or directory."),
        (tmp_path, "cannot be read: Is a directory."),
        (tmp_path / "no.jsonl.gz", "cannot be read: it is not a gzip file"),
    ):
        out, err = call("predict-paths", word, code=2)
        assert (out, len(err.splitlines())) == ("", 1)
        assert sentence in err
    file = write_table(path_table()[:1], tmp_path / "rows.jsonl")
    _, err = call("predict-paths", file, "--model", "faster", code=2)
    assert f"no barrier model called 'faster'; allowed: {', '.join(BARRIER_MODELS)}." in err


def test_people_get_a_table(tmp_path):
    rows = path_table()[:2]
    rows[0]["path_id"] = "[bold]Li[/]"
    file = write_table([*rows, "{"], tmp_path / "rows.jsonl")
    found = answers(file)
    lines = call("predict-paths", file, "--model", "geometry")[0].splitlines()
    assert lines[0].split()[0] == "path"
    assert lines[1].split() == ["[bold]Li[/]", *(f"{found[0][key]:.3f}" for key in ("barrier_eV", "sigma_eV"))]
    assert "rows:3" in lines[3]
    assert "Line 3 of rows.jsonl is not valid JSON" in lines[3]
    assert lines[-1] == "2 of 3 paths answered by the model geometry"


def test_a_failure_while_predicting_finds_its_row(tmp_path, monkeypatch):
    right = training.predict_targets

    def failing(networks: Any, graphs: Any, batch_size: int = 64) -> Any:
        if any(len(graph.atom_rows) == unlucky for graph in graphs):
            raise RuntimeError("no luck")
        return right(networks, graphs, batch_size)

    rows = path_table()[9:13]
    file = write_table(rows, tmp_path / "rows.jsonl")
    plain = answers(file, "--model", "path-network")
    atoms = [len(PathNetworkPredictor().prepare(row).atom_rows) for row in rows]
    unlucky = atoms[-1]
    assert atoms.count(unlucky) == 1
    monkeypatch.setattr(training, "predict_targets", failing)
    found = answers(file, "--model", "path-network")
    assert [answer["path_id"] for answer in found] == [row["path_id"] for row in rows]
    assert found[-1]["reason"] == "unexpected_error"
    assert "no luck" in found[-1]["error"]
    for answer, same in zip(found[:-1], plain, strict=False):
        assert answer["barrier_eV"] == pytest.approx(same["barrier_eV"], abs=3e-4)


@pytest.mark.weights
def test_fast_and_fused_ask_the_potential(tmp_path):
    rows = [{**row, "barrier_mace_relax_eV": 0.4} for row in path_table()[:2]]
    # an element that the network of the table knows and the potential does not
    foreign = {**rows[0], "path_id": "foreign", "framework_species": ["Po", *rows[0]["framework_species"][1:]]}
    file = write_table([rows[0], "{", foreign, rows[1]], tmp_path / "rows.jsonl")
    fast, fused, geometry = (answers(file, "--model", name) for name in ("fast", "fused", "geometry"))
    for found in (fast, fused):
        assert [answer["path_id"] for answer in found] == [rows[0]["path_id"], "rows:2", "foreign", rows[1]["path_id"]]
        assert found[1]["reason"] == "unreadable_structure"
        assert "Po" in found[2]["note"]
        assert [found[2][key] for key in ("barrier_eV", "sigma_eV")] == [
            geometry[2][key] for key in ("barrier_eV", "sigma_eV")
        ]
    assert all(fast[place]["barrier_eV"] != geometry[place]["barrier_eV"] for place in (0, 3))
    assert all(fast[place]["barrier_eV"] != fused[place]["barrier_eV"] for place in (0, 3))
    # without the column, fused is fast; with it, fast does not look
    bare = [{key: value for key, value in row.items() if key != "barrier_mace_relax_eV"} for row in rows]
    bare_file = write_table(bare, tmp_path / "bare.jsonl")
    assert answers(bare_file, "--model", "fused") == answers(bare_file, "--model", "fast") == [fast[0], fast[3]]


def test_without_weights_the_geometry_has_to_do(tmp_path, monkeypatch):
    def nothing(*_: Any, **__: Any) -> Any:
        raise WeightsError("The weights are on the moon.")

    monkeypatch.setattr(probing, "probing_potential", nothing)
    file = write_table(path_table()[:2], tmp_path / "rows.jsonl")
    out, err = call("predict-paths", file, "--json")
    assert "The weights are on the moon. The model fast answers from the geometry of the paths alone." in err
    noted = [json.loads(line) for line in out.splitlines()]
    assert {answer.pop("note") for answer in noted} == {
        "Answered by the geometry alone: mace-mp-0-small is not at hand."
    }
    assert noted == answers(file, "--model", "geometry")
    out, _ = call("predict-paths", file)
    assert "Answered by the geometry alone" in " ".join(out.split())


def test_the_page_tells_of_every_model():
    page = (DOCS / "barrier_models.md").read_text()
    for name, model in BARRIER_MODELS.items():
        assert f"| `{name}` |" in page
        assert model.checkpoint.is_file()
        assert model.checkpoint.with_suffix(".md").is_file()
