"""Figures, volumes and paths of a landscape: geometry in oblique cells, and the options of the bvse command."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.vasp import VaspChargeDensity
from hopflow.makers.settings import BondValenceStageSettings
from hopflow.makers.stage import primitive_cell
from hopflow.transport.errors import CandidateError
from hopflow.transport.landscape import ScanSettings, scan_landscape
from hopflow.transport.percolation_paths import percolation_paths
from hopflow.workflows import cli
from hopflow.workflows.isosurfaces import folded_line, isosurface, periodic_block, sample_periodic
from hopflow.workflows.landscape_figures import landscape_figure
from hopflow.workflows.landscape_outputs import OutputFiles, path_document, write_outputs
from hopflow.workflows.landscape_slices import slice_figure
from hopflow.workflows.landscape_views import bond_valence_landscape, crystal_in_cell, scanned_landscape
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import DEMO
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

TRICLINIC = np.array([[5.1, 0.0, 0.0], [1.6, 5.4, 0.0], [-1.1, 0.8, 6.3]])
EIGHT_MB = 8_000_000


def waves(frac: np.ndarray) -> np.ndarray:
    """A smooth field with wells at the corners of the cell, lowest passes along a."""
    x, y, z = np.moveaxis(2 * np.pi * np.asarray(frac), -1, 0)
    return -np.cos(x) * 0.3 - np.cos(y) - 1.4 * np.cos(z) + 0.1 * np.sin(x + y)


@pytest.fixture
def oblique() -> tuple[Structure, np.ndarray]:
    crystal = Structure(Lattice(TRICLINIC), ["Li", {"O": 0.7, "F": 0.3}], [[0, 0, 0], [0.5, 0.5, 0.5]])
    shape = (26, 28, 32)
    return crystal, waves(np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"), axis=-1))


# -- surfaces and lines ------------------------------------------------------------------------------------------------


def test_a_ball_has_a_closed_surface_that_faces_outwards() -> None:
    centre = np.array([0.5, 0.5, 0.5])
    frac = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in (41, 45, 51)], indexing="ij"), axis=-1)
    block = np.linalg.norm((frac - centre) @ TRICLINIC, axis=-1)
    vertices, triangles = isosurface(block, 1.5)
    places = (vertices - centre) @ TRICLINIC
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1.5, atol=0.01)
    # Every edge belongs to two triangles that walk it in opposite directions.
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert {tuple(edge) for edge in edges} == {tuple(edge[::-1]) for edge in edges}
    a, b, c = np.moveaxis(places[triangles], 1, 0)
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.01)


def test_surfaces_meet_over_the_boundary(oblique: tuple[Structure, np.ndarray]) -> None:
    block = periodic_block(oblique[1], 10**9, 9.0)
    vertices, triangles = isosurface(block, -0.4)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    open_edges = vertices[unique[counts == 1]].round(9)
    assert len(open_edges) > 20
    for axis in range(3):
        faces = [
            {tuple(sorted(map(tuple, np.delete(edge, axis, axis=1)))) for edge in open_edges
             if (edge[:, axis] == side).all()}
            for side in (0.0, 1.0)
        ]  # fmt: skip
        assert faces[0] == faces[1]
    # Nothing is open inside the cell.
    assert all(((edge == 0).all(axis=0) | (edge == 1).all(axis=0)).any() for edge in open_edges)


def test_coarser_blocks_are_the_same_field(oblique: tuple[Structure, np.ndarray]) -> None:
    values = oblique[1]
    np.testing.assert_allclose(periodic_block(values, 10**9, 9.0)[:-1, :-1, :-1], values, atol=1e-12)
    block = periodic_block(values, 4000, 9.0)
    assert 2000 < block.size < 6000
    frac = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in block.shape], indexing="ij"), axis=-1)
    np.testing.assert_allclose(block, waves(frac), atol=0.05)
    np.testing.assert_array_equal(block[0], block[-1])
    assert periodic_block(np.array([[[0.0, np.inf]]]), 100, 2.0).max() == 2.0


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.tuples(st.integers(2, 6), st.just(3)), elements=st.floats(-2.5, 2.5, width=16)))
def test_a_folded_line_is_the_line(points: np.ndarray) -> None:
    if np.linalg.norm(np.diff(points, axis=0), axis=1).min() < 1e-3:
        return
    pieces, position = folded_line(points)
    shown = ~np.isnan(position)
    assert (np.isnan(pieces).any(axis=1) == ~shown).all()
    assert (pieces[shown] >= -1e-6).all()
    assert (pieces[shown] <= 1 + 1e-6).all()
    along = np.stack([np.interp(position[shown], np.arange(len(points)), points[:, k]) for k in range(3)], axis=1)
    shifts = along - pieces[shown]
    np.testing.assert_allclose(shifts, np.rint(shifts), atol=1e-6)
    length = np.nansum(np.linalg.norm(np.diff(pieces, axis=0), axis=1))
    assert length == pytest.approx(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_picture_of_an_oblique_crystal_is_true(oblique: tuple[Structure, np.ndarray], tmp_path: Path) -> None:
    crystal, values = oblique
    paths = percolation_paths(values, 2, TRICLINIC)
    threshold = paths[-1].level_eV
    figure = landscape_figure(crystal, values, paths, threshold, "Li", "a title")
    outer, inner = (trace for trace in figure.data if trace.type == "mesh3d")
    lowest = min(path.energies_eV.min() for path in paths)
    for mesh, level in ((outer, threshold), (inner, lowest + 0.35 * (threshold - lowest))):
        frac = np.stack([mesh.x, mesh.y, mesh.z], axis=1) @ np.linalg.inv(TRICLINIC)
        np.testing.assert_allclose(waves(frac), level, atol=0.03)
    lines = [trace for trace in figure.data if trace.type == "scatter3d" and str(trace.name).startswith("path along")]
    assert len(lines) == 2
    for line, path in zip(lines, paths, strict=True):
        energies = np.asarray(line.customdata)[:, 1]
        shown = ~np.isnan(energies)
        frac = np.stack([line.x, line.y, line.z], axis=1)[shown] @ np.linalg.inv(TRICLINIC)
        np.testing.assert_allclose(waves(frac) - lowest, energies[shown], atol=0.05)
        assert np.nanmax(np.asarray(line.customdata)[:, 0]) == pytest.approx(path.length_A)
    (mark,) = (trace for trace in figure.data if trace.name == "bottleneck")
    place = np.array([mark.x[0], mark.y[0], mark.z[0]]) @ np.linalg.inv(TRICLINIC)
    assert waves(place) == pytest.approx(threshold)
    atoms = {
        trace.name: trace for trace in figure.data if trace.type == "scatter3d" and trace.name in ("O", "Li sites")
    }
    assert len(atoms["O"].x) == 1  # the species that the site holds most of
    assert len(atoms["Li sites"].x) == 8  # at every corner
    figure.write_html(tmp_path / "figure.html")
    text = (tmp_path / "figure.html").read_text()
    assert len(text) < EIGHT_MB
    assert "a title" in text
    assert "cdn.plot.ly" not in text.split("<body>")[1].split("Plotly.newPlot")[-1]


@pytest.mark.parametrize("plane", [None, (0, 1), (2, 0)])
def test_the_plane_goes_through_the_bottleneck_without_shear(
    plane: tuple[int, int] | None, oblique: tuple[Structure, np.ndarray]
) -> None:
    crystal, values = oblique
    paths = percolation_paths(values, 2, TRICLINIC)
    highest = max(paths, key=lambda path: path.level_eV)
    lowest = min(float(path.energies_eV.min()) for path in paths)
    figure = slice_figure(crystal, values, paths, highest.level_eV, "Li", plane=plane, ceiling_eV=4.0)
    heat = figure.data[0]
    first = TRICLINIC[plane[0]] if plane else np.array(highest.translation) @ TRICLINIC
    along = first / np.linalg.norm(first)
    centre = highest.frac_coords[highest.bottleneck_index] @ TRICLINIC
    x, y, z = np.asarray(heat.x), np.asarray(heat.y), np.asarray(heat.z)
    assert figure.layout.yaxis.scaleanchor == "x"
    # Along the horizontal through the bottleneck the colours are the field on that straight line.
    row = [np.interp(0.0, y, z[:, k]) for k in range(len(x))]
    np.testing.assert_allclose(row, waves((centre + x[:, None] * along) @ np.linalg.inv(TRICLINIC)) - lowest, atol=0.05)
    if plane:
        second = TRICLINIC[plane[1]] - (TRICLINIC[plane[1]] @ along) * along
        column = [np.interp(0.0, x, z[k]) for k in range(len(y))]
        points = centre + y[:, None] * second / np.linalg.norm(second)
        np.testing.assert_allclose(column, waves(points @ np.linalg.inv(TRICLINIC)) - lowest, atol=0.05)
    assert heat.zmax == 4.0
    assert "4.00" in heat.colorbar.title.text


def test_sampling_is_periodic(oblique: tuple[Structure, np.ndarray]) -> None:
    frac = np.random.default_rng(1).uniform(-3, 3, (50, 3))
    np.testing.assert_allclose(sample_periodic(oblique[1], frac), waves(frac), atol=0.03)
    np.testing.assert_allclose(
        sample_periodic(oblique[1], frac), sample_periodic(oblique[1], frac + np.array([1, -2, 3]))
    )


# -- the stage's landscape ---------------------------------------------------------------------------------------------


def test_the_crystal_lies_where_the_field_is_high(tmp_path: Path) -> None:
    """In every file the anions sit on points that are closed to the ion, the cell being the primitive one."""
    given = Structure.from_file(DEMO / "Li2O.cif")
    conventional = given.to_conventional() * (1, 2, 1)
    path = tmp_path / "oxide.vasp"
    said = write_outputs(OutputFiles(volume=path), conventional, "Li", BondValenceStageSettings())
    assert "cell of 3 sites" in said["volume"]
    read = VaspChargeDensity(str(path))
    atoms, field = read.atoms[0], read.chg[0]
    assert len(atoms) == 3
    frac = atoms.get_scaled_positions()
    for symbol, place in zip(atoms.get_chemical_symbols(), frac, strict=True):
        value = field[tuple(np.rint(place * field.shape).astype(int) % field.shape)]
        assert (value > field.max() - 1e-3) == (symbol == "O")


def test_the_path_document_repeats_what_it_says() -> None:
    crystal = Structure.from_file(DEMO / "LiFePO4.cif")
    landscape = bond_valence_landscape(crystal, "Li", BondValenceStageSettings(), 0.25, {1: 0.5})
    document = json.loads(json.dumps(path_document(landscape), allow_nan=False))
    cell = Structure.from_dict(document["structure"])
    assert StructureMatcher(primitive_cell=False).fit(cell, primitive_cell(crystal))
    assert [each["dimension"] for each in document["dimensions"]] == [1, 2, 3]
    first = document["dimensions"][0]
    assert first["barrier_of_the_stage_eV"] == 0.5
    assert document["dimensions"][1]["barrier_of_the_stage_eV"] is None
    assert first["barrier_on_this_grid_eV"] == pytest.approx(first["threshold_eV"] - first["component_minimum_eV"])
    (path,) = first["paths"]
    assert [abs(x) for x in path["translation"]] == [0, 1, 0]  # the channel of olivine
    assert path["level_eV"] == max(path["energies_eV"]) == path["energies_eV"][path["bottleneck_index"]]
    assert path["distances_A"][-1] == pytest.approx(path["length_A"])
    sites = [stop for stop in path["stops"] if stop["label"] != "interstice"]
    assert len(sites) == 2
    for stop in sites:
        assert cell[stop["site_index"]].specie.symbol == "Li"
        place = np.array(stop["frac_coords"])
        there = cell[stop["site_index"]].frac_coords + stop["image"]
        away = np.linalg.norm((place - there) @ cell.lattice.matrix)
        assert away == pytest.approx(stop["distance_to_site_A"])
        assert away < 0.3
        assert place.tolist() == path["frac_coords"][stop["index"]]


def test_no_path_where_nothing_percolates() -> None:
    lattice = Lattice.cubic(12.0)
    crystal = Structure(lattice, ["Li+", "F-"], [[0, 0, 0], [0.15, 0, 0]])
    landscape = bond_valence_landscape(crystal, "Li", BondValenceStageSettings(spacing_A=0.5))
    closed = np.where(landscape.values < landscape.values.min() + 0.05, landscape.values, np.inf)
    with pytest.raises(CandidateError, match="percolates in 0 of 3 independent directions of LiF, not in 1"):
        dataclasses.replace(landscape, values=closed).paths(1)


class Repulsion:
    """Energy of the last atom among the others."""

    name, weights_sha256, method = "repulsion", "0" * 64, "analytic"

    def energies(self, images: list[Atoms]) -> np.ndarray:
        return np.array([self._energy(atoms) for atoms in images])

    def _energy(self, atoms: Atoms) -> float:
        cells = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) @ atoms.cell.array
        distance = np.linalg.norm(atoms.positions[:-1] + cells - atoms.positions[-1], axis=-1)
        return float((200.0 * np.exp(-distance / 0.4))[distance < 8.0].sum())


def test_a_scan_is_shown_with_the_crystal_in_its_own_cell() -> None:
    hexagonal = Lattice.hexagonal(3.648, 3.875)
    sites = [(0, 0, 0.5), (1 / 3, 2 / 3, 0), (0, 0, 0)]
    crystal = Structure.from_spacegroup("P6/mmm", hexagonal, ["Li", "Li", "N"], sites)
    scanning = ScanSettings(spacing_A=0.6, max_evaluations=None, max_ions=None, min_length_A=4.0)
    for scan in scan_landscape(crystal, "Li", Repulsion(), scanning).ions:  # type: ignore[arg-type]
        landscape = scanned_landscape(crystal, "Li", scan)
        assert len(landscape.structure) == scan.atoms
        # A point is closed where another atom is near, and the scanned ion itself is at the origin.
        grid = np.stack(np.meshgrid(*[np.arange(n) / n for n in scan.values_eV.shape], indexing="ij"), axis=-1)
        frac = landscape.structure.frac_coords
        origin = np.linalg.norm((frac - np.rint(frac)) @ scan.lattice, axis=1)
        assert origin.min() < 1e-6
        others = frac[origin > 1e-3]
        assert len(others) == scan.atoms - 1
        near = landscape.structure.lattice.get_all_distances(grid.reshape(-1, 3), others).min(axis=1)
        near = near.reshape(scan.values_eV.shape)
        assert (near[np.isinf(scan.values_eV)] < 1.2 + 1e-6).all()
        assert (near[np.isfinite(scan.values_eV)] > 1.2 - 1e-6).all()
        paths = landscape.paths(1)
        assert landscape_figure(landscape.structure, landscape.values, paths, paths[0].level_eV, "Li").data
        assert slice_figure(landscape.structure, landscape.values, paths, paths[0].level_eV, "Li").data


def test_a_crystal_in_another_cell_is_the_same_crystal() -> None:
    crystal = Structure.from_file(DEMO / "LiNbO3.cif")
    multiples = np.array([[1, 1, 0], [-1, 2, 0], [0, 1, 1]])
    moved = crystal_in_cell(crystal, multiples @ crystal.lattice.matrix, np.array([0.31, -0.72, 1.4]))
    assert len(moved) == 3 * len(crystal)
    assert StructureMatcher(primitive_cell=True).fit(moved, crystal)
    # And the origin is where it should be.
    origin = np.array([0.31, -0.72, 1.4]) @ multiples  # in fractions of the given cell
    for site in moved:
        place = site.coords @ crystal.lattice.inv_matrix + origin
        assert crystal.lattice.get_all_distances([place], crystal.frac_coords).min() < 1e-6


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOPFLOW_HOME", str(tmp_path / "home"))

    def answer(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["hopflow", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = capsys.readouterr()
        return code, out, " ".join(err.replace("│", " ").split())

    return answer


def test_bvse_writes_every_output(call: Any, tmp_path: Path) -> None:
    crystal = str(DEMO / "Li3N.cif")
    names = {"volume": "new/n.cube", "figure": "n.html", "slice": "cut.html", "path": "n.json"}
    options = [word for name, file in names.items() for word in (f"--{name}", file)]
    code, out, _ = call("bvse", crystal, *options, "--dimension", "3")
    assert code == 0
    first, *lines = out.splitlines()
    assert call("bvse", crystal)[1].splitlines()[0].partition("[")[0] == first.partition("[")[0]
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(names)
    with (tmp_path / "new/n.cube").open() as file:
        assert len(ase.io.read(file, format="cube")) == 4
    document = json.loads((tmp_path / "n.json").read_text())
    stage = json.loads(call("bvse", crystal, "--json")[1])
    for each in document["dimensions"]:
        assert each["barrier_of_the_stage_eV"] == stage[f"barrier_{each['dimension']}d_eV"]
        # Two grids and a saddle point of one field.
        assert each["barrier_on_this_grid_eV"] == pytest.approx(each["barrier_of_the_stage_eV"], abs=0.05)
    for name in ("n.html", "cut.html"):
        text = (tmp_path / name).read_text()
        assert len(text) < EIGHT_MB
        assert "Li3N: Li percolates in 3D" in text


def test_json_stays_json_and_frames_are_the_walk(call: Any, tmp_path: Path) -> None:
    plain = json.loads(call("bvse", str(DEMO / "Li3N.cif"), "--json")[1])
    code, out, _ = call("bvse", str(DEMO / "Li3N.cif"), "--json", "--path", "walk.xyz", "--dimension", "2")
    assert code == 0
    drawn = json.loads(out)
    assert {k: v for k, v in drawn.items() if k != "seconds"} == {k: v for k, v in plain.items() if k != "seconds"}
    frames = ase.io.read(tmp_path / "walk.xyz", index=":")
    assert {atoms.get_chemical_formula() for atoms in frames} == {"LiN"}
    assert {atoms.info["path"] for atoms in frames} == {1, 2}
    for number in (1, 2):
        walk = [atoms for atoms in frames if atoms.info["path"] == number]
        moved = (walk[-1].positions[-1] - walk[0].positions[-1]) @ np.linalg.inv(walk[0].cell.array)
        np.testing.assert_allclose(moved, np.rint(moved), atol=1e-5)
        assert np.abs(np.rint(moved)).sum() > 0
        assert walk[0].info["site_energy_eV"] == min(atoms.info["site_energy_eV"] for atoms in walk)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--volume", "n.dat"], "end the name of a volumetric file on .cube, .vasp or .grd"),
        (["--figure", "n.png"], "end the name of a figure on .html"),
        (["--path", "n.txt"], "end the name of a path on .json or .xyz"),
        (["--figure", "n.html", "--slice", "n.html"], "the same file name"),
        ([str(DEMO / "LiF.cif"), "--slice", "n.html"], "--slice can show one structure only; give one file"),
        (["--volume", "home.cube", "--dimension", "4"], "dimension"),
    ],
)
def test_wrong_use_of_the_outputs(words: list[str], said: str, call: Any, tmp_path: Path) -> None:
    code, out, err = call("bvse", str(DEMO / "Li3N.cif"), *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not list(tmp_path.glob("n.*"))


def test_a_file_of_many_structures_has_no_picture(call: Any, tmp_path: Path) -> None:
    crystal = Structure.from_file(DEMO / "LiF.cif")
    row = {
        "material_id": "x", "formula": "LiF", "cell": list(crystal.lattice.parameters),
        "species": [site.specie.symbol for site in crystal], "frac_coords": crystal.frac_coords.tolist(),
    }  # fmt: skip
    (tmp_path / "two.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'material_id': 'y'})}\n")
    code, _, err = call("bvse", "two.jsonl", "--figure", "n.html")
    assert code == 2
    assert "two.jsonl holds 2" in err


def test_a_structure_that_fails_leaves_no_files(call: Any, tmp_path: Path) -> None:
    code, out, _ = call("bvse", str(DEMO / "LiF.cif"), "--ion", "Na", "--figure", "n.html", "--volume", "n.cube")
    assert code == 1
    assert "failed" in out
    assert not list(tmp_path.glob("n.*"))


def test_what_does_not_percolate_leaves_no_files(call: Any, tmp_path: Path) -> None:
    few = ["--dimension", "2", "--set", "energy_ceiling_eV=1.5"]
    code, _, err = call("bvse", str(DEMO / "LiFePO4.cif"), "--figure", "n.html", "--volume", "n.cube", *few)
    assert code == 1
    assert "percolates in 1 of 3 independent directions of LiFePO4, not in 2; ask for 1." in err
    assert not list(tmp_path.glob("n.*"))


def test_the_structure_itself_is_never_replaced(call: Any, tmp_path: Path) -> None:
    Structure.from_file(DEMO / "LiF.cif").to(str(tmp_path / "mine.vasp"), fmt="poscar")
    before = (tmp_path / "mine.vasp").read_text()
    code, _, err = call("bvse", "mine.vasp", "--volume", str(tmp_path / "mine.vasp"))
    assert code == 2
    assert "is the structure itself and would be replaced; name another file" in err
    assert (tmp_path / "mine.vasp").read_text() == before
