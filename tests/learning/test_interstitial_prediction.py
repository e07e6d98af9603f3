"""The shipped interstitial network: it answers, for the crystal and not for its cell, and says where it is unsure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crystals import lithium_nitride, rock_salt
from hopflow.learning.interstitial_graphs import build_interstitial_graph
from hopflow.learning.interstitial_prediction import (
    CHECKPOINT,
    checkpoint_info,
    graph_settings,
    predict_crystal,
    predict_graph,
    predict_network,
)
from hopflow.learning.prediction import file_sha256
from hopflow.transport.errors import CandidateError, Reason, WeightsError
from hopflow.transport.interstitial_network import InterstitialNetworkSettings, interstitial_network
from hopflow.transport.structures import assign_oxidation_states
from places import DEMO
from pymatgen.core import Structure


def lithium_hydride() -> Structure:
    return rock_salt(4.084, "Li", "H")


def lithium_phosphide() -> Structure:
    return Structure.from_file(DEMO / "Li3P.cif")


def copied(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """The shipped checkpoint in another folder, what it says about itself changed."""
    file = folder / CHECKPOINT.name
    shutil.copy(CHECKPOINT, file)
    info = checkpoint_info()
    if change is not None:
        content = torch.load(file, weights_only=True)
        change(content["info"])
        torch.save(content, file)
        change(info)
    file.with_suffix(".json").write_text(json.dumps({**info, "sha256": file_sha256(file)}))
    return file


@pytest.mark.parametrize(("crystal", "stranger"), [(lithium_hydride, "H-"), (lithium_phosphide, "P-")])
def test_crystals_without_parameters_get_barriers_and_sigmas(crystal, stranger):
    found = predict_crystal(crystal())
    one, two, three = found.barriers_eV
    assert 0.001 < one <= two <= three < 20
    assert all(sigma > 0 for sigma in (*found.sigmas_eV, *found.sigmas_log))
    assert stranger in found.unfamiliar_species
    assert found.interstices > 0


def test_a_familiar_crystal_has_no_strangers_and_a_believable_barrier():
    found = predict_crystal(lithium_nitride())
    assert found.unfamiliar_species == ()
    # 0.19 eV by the bond-valence method itself.
    assert 0.03 < found.barriers_eV[0] < 1.5


@pytest.mark.parametrize("crystal", [lithium_hydride, lithium_phosphide, lithium_nitride])
def test_cell_origin_and_order_change_nothing(crystal):
    structure = crystal()
    expected = predict_crystal(structure)
    moved = structure.copy()
    moved.translate_sites(list(range(len(moved))), [0.137, 0.291, 0.043])
    others = {
        "supercell": structure.copy().make_supercell([2, 1, 1], in_place=False),
        "primitive": structure.get_primitive_structure(),
        "origin": moved,
        "order": Structure.from_sites(list(structure)[::-1]),
    }
    for name, other in others.items():
        found = predict_crystal(other)
        assert np.allclose(found.barriers_eV, expected.barriers_eV, rtol=1e-3), name
        assert np.allclose(found.sigmas_log, expected.sigmas_log, rtol=1e-3), name
        assert found.interstices == expected.interstices, name


def test_a_network_that_is_there_serves_and_gives_the_same(monkeypatch):
    structure = lithium_phosphide().make_supercell([1, 2, 1], in_place=False)
    expected = predict_crystal(structure)
    built, merged = (
        interstitial_network(structure, "Li", InterstitialNetworkSettings(merge_close_A=merge)) for merge in (0.0, 0.6)
    )
    found = predict_network(merged)
    assert np.allclose(found.barriers_eV, expected.barriers_eV, rtol=1e-5)

    def another(*_: Any, **__: Any) -> None:
        raise AssertionError("a second network was built")

    monkeypatch.setattr("hopflow.learning.interstitial_prediction.build_interstitial_graph", another)
    assert np.allclose(predict_network(built).barriers_eV, expected.barriers_eV, rtol=1e-5)
    with pytest.raises(AssertionError, match="second network"):
        predict_network(merged)


def test_strange_species_widen_sigma_by_the_measured_factor(tmp_path):
    graph = build_interstitial_graph(
        assign_oxidation_states(lithium_phosphide(), "Li"), "Li", graph_settings(checkpoint_info())
    )
    strange = predict_graph(graph)

    def acquaint(info: dict[str, Any]) -> None:
        info["species"] = [*info["species"], "P-"]

    familiar = predict_graph(graph, copied(tmp_path, acquaint))
    factor = checkpoint_info()["unfamiliar_anion"]["factor"]
    assert factor >= 1
    assert (strange.unfamiliar_species, familiar.unfamiliar_species) == (("P-",), ())
    assert strange.barriers_eV == familiar.barriers_eV
    assert np.allclose(strange.sigmas_log, factor * np.array(familiar.sigmas_log))


def test_other_ions_are_refused():
    salt = rock_salt(5.64, "Na", "Cl")
    with pytest.raises(CandidateError, match="Li only; it cannot speak of Na") as caught:
        predict_crystal(salt, "Na")
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT
    with pytest.raises(CandidateError, match="cannot speak of Na"):
        predict_network(interstitial_network(salt, "Na"))


def test_crystals_without_charges_are_refused():
    metal = Structure(np.eye(3) * 3.2, ["Li", "Mg"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(CandidateError) as caught:
        predict_crystal(metal)
    assert caught.value.reason is Reason.METALLIC
    with pytest.raises(CandidateError) as caught:
        predict_network(interstitial_network(metal, "Li"))
    assert caught.value.reason is Reason.METALLIC


def test_damaged_and_missing_checkpoints_are_said_to_be(tmp_path):
    absent = tmp_path / "absent.pt"
    for asked in (checkpoint_info, lambda file: predict_crystal(lithium_hydride(), checkpoint=file)):
        with pytest.raises(WeightsError, match=r"absent\.pt is missing; reinstall"):
            asked(absent)
    file = copied(tmp_path)
    expected = predict_crystal(lithium_hydride())
    assert predict_crystal(lithium_hydride(), checkpoint=file) == expected
    graph = build_interstitial_graph(lithium_hydride(), "Li", graph_settings(checkpoint_info()))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"not the one that interstitial_network\.json describes"):
        predict_crystal(lithium_hydride(), checkpoint=file)
    with pytest.raises(WeightsError, match="is damaged"):
        predict_graph(graph, file)
    file.with_suffix(".json").write_text("{")
    with pytest.raises(WeightsError, match="json is damaged"):
        checkpoint_info(file)
    file.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="json is missing"):
        checkpoint_info(file)


def test_the_files_that_ship_belong_together():
    info = checkpoint_info()
    assert info["sha256"] == file_sha256(CHECKPOINT)
    assert info["sha256"] in CHECKPOINT.with_suffix(".md").read_text()
    assert CHECKPOINT.stat().st_size < 10e6
