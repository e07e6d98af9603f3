"""The network command: its JSON, files, figure and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hopflow.transport.interstitial_network import InterstitialNetworkSettings, interstitial_network
from hopflow.workflows import cli
from hopflow.workflows.network_figure import network_figure
from hopflow.workflows.network_outputs import full_document
from pymatgen.core import Lattice, Structure


def oxide() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.62), ["Li", "O"], [[0.25, 0.25, 0.25], [0, 0, 0]])


def triclinic() -> Structure:
    lattice = Lattice([[5.1, 0.0, 0.0], [1.6, 5.4, 0.0], [-1.1, 0.8, 6.3]])
    places = [[0, 0, 0], [0.3, 0.55, 0.4], [0.62, 0.1, 0.75], [0.8, 0.6, 0.9], [0.5, 0.9, 0.15]]
    return Structure(lattice, ["Li", "O", "S", "Mg", "Li"], places)


@pytest.fixture
def oxide_file(tmp_path: Path) -> Path:
    path = tmp_path / "oxide.cif"
    oxide().to(str(path))
    return path


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any, code: int = 0) -> str:
    """Output of the command line in this process; errors and answers together."""
    monkeypatch.setattr(sys, "argv", ["hopflow", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    assert (end.value.code or 0) == code, captured.err + captured.out
    return captured.out if code == 0 else captured.out + captured.err


def test_json_holds_the_network_by_kinds(monkeypatch, capsys, oxide_file):
    out = call(monkeypatch, capsys, "network", oxide_file, "--json", "--radius", "O=1.24")
    answer = json.loads(out)
    assert answer["status"] == "ok"
    assert answer["formula"] == "Li2O"
    assert answer["connection_values_A"] == pytest.approx([4.62 / np.sqrt(6) - 1.24] * 3)
    assert [kind["count"] for kind in answer["unique_interstices"]] == [4, 8]
    assert [kind["count"] for kind in answer["unique_segments"]] == [32]
    assert answer["unique_interstices"][0]["radius_A"] == pytest.approx(4.62 / 2 - 1.24)
    network = interstitial_network(oxide(), "Li")
    assert answer["unique_interstices"][1]["energy_eV"] == pytest.approx(
        network.energies_eV[network.unique_interstices[1]]
    )
    assert answer["radii_A"] == {"O2-": [1.24]}
    assert answer["recovered_fraction"] == 1.0
    assert len(answer["recovery"]) == 8
    assert answer["dimension"] == 3


def test_one_sentence_and_the_notes_for_a_person(monkeypatch, capsys, oxide_file):
    out = call(monkeypatch, capsys, "network", oxide_file, "--radius", "O=1.24", "--oxidation-states", "Li=1,O=-2")
    assert "Li2O, Li: spheres of 0.65 / 0.65 / 0.65 Å pass in 1 / 2 / 3 directions" in out
    assert "12 interstices (2 kinds), 32 segments (1 kinds)" in out
    assert "8 of 8 Li sites recovered" in out


def test_written_network_is_complete(monkeypatch, capsys, tmp_path):
    source, target = tmp_path / "crystal.json", tmp_path / "new" / "network.json"
    triclinic().to(str(source))
    call(monkeypatch, capsys, "network", source, "--write", target, "--face-centres")
    written = json.loads(target.read_text())
    network = interstitial_network(triclinic(), "Li", InterstitialNetworkSettings(face_centres=True))
    expected = json.loads(json.dumps(full_document(network)))
    for document in (written, expected):
        del document["seconds"]
    assert written == expected
    lattice = np.array(written["lattice_A"])
    nodes = np.array([node["frac_coords"] for node in written["interstices"]])
    assert {node["kind"] for node in written["interstices"]} == {"vertex", "face centre"}
    for segment in written["segments"]:
        step = nodes[segment["to"]] + segment["image"] - nodes[segment["from"]]
        assert np.linalg.norm(step @ lattice) == pytest.approx(segment["length_A"])
        assert segment["bottleneck_radius_A"] <= written["interstices"][segment["from"]]["radius_A"] + 0.05


def test_cif_for_viewers_holds_framework_and_voids(monkeypatch, capsys, oxide_file, tmp_path):
    target = tmp_path / "voids.cif"
    out = call(monkeypatch, capsys, "network", oxide_file, "--write", target)
    assert str(target) in out
    shown = Structure.from_file(target)
    symbols = [site.specie.symbol for site in shown]
    assert {symbol: symbols.count(symbol) for symbol in set(symbols)} == {"O": 4, "He": 12, "Ne": 32}
    labels = {site.label for site in shown if site.specie.symbol == "He"}
    assert labels == {"It0", "It1"}
    place = next(site.frac_coords for site in shown if site.label == "It0")
    np.testing.assert_allclose(np.abs(place * 2 - np.rint(place * 2)), 0, atol=1e-6)


@pytest.mark.parametrize("make", [oxide, triclinic])
def test_figure_shows_every_void_and_segment_where_it_is(make):
    network = interstitial_network(make(), "Li")
    figure = network_figure(network, "title")
    traces = {trace.name: trace for trace in figure.data if trace.name}
    voids = traces["interstices"]
    places = np.stack([voids.x, voids.y, voids.z], axis=1)
    np.testing.assert_allclose(places, network.graph.frac_coords @ network.lattice)
    drawn = sum(len(trace.x) // 3 for name, trace in traces.items() if "Å" in name)
    assert drawn == len(network.graph.edges)
    limits = traces["limiting bottlenecks"]
    assert 1 <= len(limits.x) <= 3
    assert any(f"{network.segment_values_A[2]:.3f} Å" in text for text in limits.text)


def test_figure_is_written(monkeypatch, capsys, oxide_file, tmp_path):
    target = tmp_path / "network.html"
    call(monkeypatch, capsys, "network", oxide_file, "--figure", target)
    text = target.read_text()
    assert "limiting bottlenecks" in text
    assert target.stat().st_size < 8_000_000


def test_a_bad_file_does_not_cost_its_neighbours(monkeypatch, capsys, oxide_file, tmp_path):
    broken = tmp_path / "broken.cif"
    broken.write_text("data_nothing\n")
    other = tmp_path / "rocksalt.cif"
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(other))
    out = call(monkeypatch, capsys, "network", broken, other, oxide_file, "--json", code=1)
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [answer["status"] for answer in answers] == ["failed", "failed", "ok"]
    assert answers[1]["reason"] == "no_mobile_ion"
    assert all(answer["message"] for answer in answers[:2])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--figure", "network.png"], "has to end with .html"),
        (["--write", "network.xyz"], "has to end with .json or .cif"),
        (["--radius", "O"], "is not of the form O=1.24"),
        (["--radius", "O=-1"], "radius of O"),
        (["--ion", "Xx"], "Xx"),
        (["--merge", "7"], "--merge"),
    ],
)
def test_wrong_use_is_said(monkeypatch, capsys, oxide_file, words, text):
    out = call(monkeypatch, capsys, "network", oxide_file, *words, code=2)
    assert text in " ".join(out.replace("│", " ").split())


def test_outputs_show_one_structure_only(monkeypatch, capsys, oxide_file):
    out = call(monkeypatch, capsys, "network", oxide_file, oxide_file, "--write", "network.json", code=2)
    assert "one structure only" in " ".join(out.replace("│", " ").split())
