"""The data set: labels beside their own computation, what survives an interruption, prototypes, and honest splits."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from crystals import antiperovskite, argyrodite, iron_phosphate, lithium_nitride, rock_salt
from hopflow.learning import interstitial_dataset
from hopflow.learning.interstitial_dataset import (
    DatasetSettings,
    build_dataset,
    labelled_crystal,
    load_dataset,
    repeated_splits,
    structure_prototype,
)
from hopflow.learning.interstitial_graphs import InterstitialGraph, InterstitialGraphSettings, build_interstitial_graph
from hopflow.transport.bvse import BondValenceSettings, bond_valence_percolation
from hopflow.transport.errors import Reason, StructureError
from hopflow.transport.interstitial_network import InterstitialNetworkSettings
from pymatgen.core import Lattice, Structure

SETTINGS = DatasetSettings(bond_valence=BondValenceSettings(spacing_A=0.3), max_atoms=25)


def phosphide() -> Structure:
    """Li3P, P6_3/mmc; the bond-valence table has no phosphide."""
    return Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(4.264, 7.579),
        ["Li", "Li", "P"],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.583], [1 / 3, 2 / 3, 0.25]],
    )


def structures():
    unreadable = StructureError("Row 7 has no cell; correct the file.", Reason.UNREADABLE_STRUCTURE)
    return [
        ("nitride", lithium_nitride()),
        ("antiperovskite", antiperovskite()),
        ("unreadable", unreadable),
        ("phosphide", phosphide()),
        ("argyrodite", argyrodite()),
        ("no lithium", rock_salt(5.64, "Na", "Cl")),
        ("too large", iron_phosphate()),
    ]


def contents(folder):
    found = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as archive:
            found[file.name] = {name: archive[name] for name in archive.files if "seconds" not in name}
    return found


def assert_same_contents(one, other):
    assert one.keys() == other.keys()
    for name, arrays in one.items():
        assert arrays.keys() == other[name].keys()
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, other[name][key], err_msg=f"{name} {key}")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    lines = []
    manifest = build_dataset(structures(), folder, SETTINGS, lines.append, shard_size=2, total=7)
    return folder, manifest, lines


def test_every_crystal_is_in_the_set_or_fails_with_a_reason(built):
    folder, manifest, lines = built
    dataset = load_dataset(folder)
    assert [crystal.material_id for crystal in dataset.crystals] == [
        "nitride", "antiperovskite", "phosphide", "argyrodite"
    ]  # fmt: skip
    assert {failure["material_id"]: failure["reason"] for failure in manifest["failures"]} == {
        "unreadable": "unreadable_structure",
        "no lithium": "no_mobile_ion",
        "too large": "too_many_atoms",
    }
    assert manifest["failures_by_reason"] == Counter(failure["reason"] for failure in manifest["failures"])
    assert manifest["unlabelled_by_reason"] == {"missing_parameters": 1}
    assert (manifest["crystals"], manifest["labelled"], manifest["complete"]) == (4, 3, True)
    assert manifest["method_version"] == interstitial_dataset.METHOD_VERSION
    assert manifest["settings"]["bond_valence"]["spacing_A"] == 0.3
    assert manifest == dataset.manifest == json.loads((folder / "manifest.json").read_text())
    assert len(lines) == 4
    assert lines[-1].startswith("shard-00003.npz: 1 crystals, 0 labelled, 1 failed; 7 of 7 done")


def test_labels_and_graphs_are_those_of_the_crystals_as_given(built):
    dataset = load_dataset(built[0])
    for crystal in dataset.crystals:
        structure = dict(structures())[crystal.material_id]
        graph = build_interstitial_graph(structure)
        for each in fields(InterstitialGraph):
            np.testing.assert_allclose(
                getattr(crystal.graph, each.name), getattr(graph, each.name), rtol=1e-5, atol=1e-5, err_msg=each.name
            )
        assert crystal.formula == structure.composition.reduced_formula
        assert crystal.chemical_system == structure.composition.chemical_system
        if crystal.material_id == "phosphide":
            assert crystal.unlabelled == "missing_parameters"
            assert np.isnan(crystal.barriers_eV).all()
            assert not crystal.graph.has_energies
        else:
            # The set computes the primitive cell; the barriers are those of the cell that was given.
            result = bond_valence_percolation(structure, "Li", SETTINGS.bond_valence)
            np.testing.assert_allclose(crystal.barriers_eV, result.barriers_eV, atol=2e-3)
            assert crystal.at_saddle.tolist() == list(result.at_saddle)
            assert crystal.unlabelled == ""
    assert dataset.labels().shape == (4, 3)
    assert [crystal.atoms for crystal in dataset.crystals] == [4, 5, 8, 13]
    assert dataset.groups("chemical_system") == ["Li-N", "Cl-Li-O", "Li-P", "Cl-Li-P-S"]
    assert dataset.groups("prototype")[1] == structure_prototype(antiperovskite())
    with pytest.raises(ValueError, match="grouped by"):
        dataset.groups("barriers_eV")


def test_no_path_is_an_answer_and_not_a_missing_one():
    low = DatasetSettings(bond_valence=BondValenceSettings(spacing_A=0.3, energy_ceiling_eV=0.05))
    crystal = labelled_crystal("shut", rock_salt(), low)
    assert np.isinf(crystal.barriers_eV).all()
    assert crystal.unlabelled == ""


def test_an_interrupted_build_goes_on_and_gives_the_same_set(built, tmp_path):
    class HaltError(Exception):
        pass

    def until(number):
        for k, each in enumerate(structures()):
            if k == number:
                raise HaltError
            yield each

    with pytest.raises(HaltError):
        build_dataset(until(5), tmp_path, SETTINGS, shard_size=2)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    with pytest.raises(ValueError, match="not complete"):
        load_dataset(tmp_path)
    lines = []
    build_dataset(structures(), tmp_path, SETTINGS, lines.append, shard_size=2)
    assert ["kept from before" in line for line in lines] == [True, True, False, False]
    assert_same_contents(contents(tmp_path), contents(built[0]))
    # A damaged shard and one of other crystals are computed anew, the others are not.
    (tmp_path / "shard-00003.npz").write_bytes(b"half of a")
    with pytest.raises(ValueError, match=r"shard-00003.npz .* damaged"):
        load_dataset(tmp_path)
    lines.clear()
    changed = [("lengthened", antiperovskite().apply_strain(0.01)), *structures()[1:]]
    build_dataset(changed, tmp_path, SETTINGS, lines.append, shard_size=2)
    assert ["kept from before" in line for line in lines] == [False, True, True, False]
    assert load_dataset(tmp_path).crystals[0].material_id == "lengthened"


def test_two_processes_make_the_set_of_one(built, tmp_path):
    manifest = build_dataset(structures(), tmp_path, SETTINGS, shard_size=2, workers=2)
    assert manifest["failures"] == built[1]["failures"]
    assert_same_contents(contents(tmp_path), contents(built[0]))


def test_a_folder_of_other_settings_is_left_alone(built, monkeypatch):
    folder, manifest, _ = built
    with pytest.raises(ValueError, match="another settings"):
        build_dataset(structures(), folder, DatasetSettings())
    monkeypatch.setattr(interstitial_dataset, "METHOD_VERSION", 99)
    with pytest.raises(ValueError, match="another method_version"):
        build_dataset(structures(), folder, SETTINGS)
    assert load_dataset(folder).manifest == manifest


def test_a_crystal_that_trips_the_code_costs_no_other(tmp_path, monkeypatch):
    right = interstitial_dataset.labelled_crystal

    def tripping(material_id, structure, settings):
        if material_id == "antiperovskite":
            raise ZeroDivisionError("a plane has no normal")
        return right(material_id, structure, settings)

    monkeypatch.setattr(interstitial_dataset, "labelled_crystal", tripping)
    manifest = build_dataset(structures()[:2], tmp_path, SETTINGS)
    assert manifest["failures"] == [
        {
            "material_id": "antiperovskite",
            "reason": "unexpected_error",
            "message": "ZeroDivisionError: a plane has no normal",
        }
    ]
    assert load_dataset(tmp_path).crystals[0].material_id == "nitride"


def test_an_empty_set_and_one_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no data set"):
        load_dataset(tmp_path)
    build_dataset([], tmp_path, SETTINGS)
    assert load_dataset(tmp_path).crystals == ()
    build_dataset(structures()[2:3], tmp_path, SETTINGS)
    assert load_dataset(tmp_path).labels().shape == (0, 3)


def test_settings_of_the_graph_reach_the_set(tmp_path):
    graph = InterstitialGraphSettings(
        InterstitialNetworkSettings(merge_close_A=0.7, given_radii_A={"O": 1.3}), 8, False
    )
    build_dataset(structures()[1:2], tmp_path, DatasetSettings(graph=graph))
    (crystal,) = load_dataset(tmp_path).crystals
    expected = build_interstitial_graph(antiperovskite(), settings=graph)
    np.testing.assert_allclose(crystal.graph.node_neighbour_A, expected.node_neighbour_A, atol=1e-5)
    assert crystal.graph.node_neighbours.shape[1] == 8


def antifluorite(a, cation, anion):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0.25] * 3, [0, 0, 0]])


def test_prototypes_know_the_arrangement_and_not_the_elements():
    # By the alphabet lithium comes before oxygen and sulphur, sodium before sulphur, but potassium after fluorine.
    oxide = structure_prototype(antifluorite(4.62, "Li", "O"))
    assert oxide == structure_prototype(antifluorite(6.53, "Na", "S"))
    assert oxide == structure_prototype(antifluorite(6.0, "F", "Ca"))
    assert oxide != structure_prototype(rock_salt())
    assert "225" in oxide
    supercell, moved = rock_salt() * (1, 2, 1), rock_salt(5.1, "Li", "Cl")
    moved.translate_sites(range(8), [0.5, 0.25, 0.1])
    charged = rock_salt()
    charged.add_oxidation_state_by_element({"Li": 1, "F": -1})
    for other in (supercell, moved, rock_salt().get_primitive_structure(), charged):
        assert structure_prototype(other) == structure_prototype(rock_salt())
    cesium = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.1), ["Cs", "Cl"], [[0] * 3, [0.5] * 3])
    assert structure_prototype(cesium) != structure_prototype(rock_salt())
    partly = rock_salt()
    for k in range(4):
        partly.replace(k, {"Li": 0.5})
    assert structure_prototype(partly).endswith("in space group 225")


@pytest.mark.parametrize("seed", [0, 1])
def test_random_splits_are_eight_to_one_to_one(seed):
    splits = repeated_splits(range(500), repeats=10, seed=seed)
    assert len(splits) == 10
    for split in splits:
        assert [len(split.train), len(split.validation), len(split.test)] == [400, 50, 50]
        everything = np.concatenate([split.train, split.validation, split.test])
        assert sorted(everything) == list(range(500))
    again = repeated_splits(range(500), repeats=10, seed=seed)
    other = repeated_splits(range(500), repeats=10, seed=seed + 1)
    for one, same, different in zip(splits, again, other, strict=True):
        np.testing.assert_array_equal(one.test, same.test)
        assert set(one.test) != set(different.test)
    assert len({tuple(split.test) for split in splits}) == 10


def test_groups_stay_whole_and_even_the_largest_is_trained_on_mostly():
    random = np.random.default_rng(2)
    groups = ["large"] * 60 + [f"system {k}" for k in random.integers(0, 150, 540)]
    roles = Counter()
    for split in repeated_splits(groups, repeats=40, seed=3):
        parts = [{groups[k] for k in part} for part in (split.train, split.validation, split.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert len(split.train) + len(split.validation) + len(split.test) == 600
        assert 40 <= len(split.test) <= 75
        roles[next(k for k, part in enumerate(parts) if "large" in part)] += 1
    assert roles[0] > 20
    assert set(roles) == {0, 1, 2}
