"""What `hopflow scan` writes of a landscape, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.vasp import VaspChargeDensity
from ase.io.cube import read_cube_data
from command_line import call
from hopflow.makers.pes import LandscapeMaker
from hopflow.makers.settings import ScanStageSettings
from hopflow.makers.stage import primitive_cell
from hopflow.potentials import registry
from hopflow.transport.landscape_analysis import minimal_percolation_energy_eV
from hopflow.transport.percolation import level_map, percolate_grid
from hopflow.workflows.landscape_slices import slice_figure
from hopflow.workflows.landscape_views import scanned_landscape
from moved_ion import PairPotential
from places import DEMO
from plotly import graph_objects as go
from pymatgen.core import Structure

SETTINGS = {"spacing_A": 0.4, "min_length_A": 4.0, "potential": "m3gnet-mp-2021.2.8"}
WORDS = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PairPotential:
    """The stage with pair terms instead of the potential that its settings name."""
    pairs = PairPotential()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOPFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "load_potential", lambda *_, **__: pairs)
    return pairs


def test_scan_writes_every_output(potential: PairPotential, tmp_path: Path) -> None:
    names = {
        "volume": "new/n.cube",
        "levels": "n.grd",
        "figure": "n.html",
        "slice": "cut.html",
        "path": "n.json",
    }
    options = [word for name, file in names.items() for word in (f"--{name}", file)]
    crystal = DEMO / "LiF.cif"
    out, _ = call("scan", crystal, *WORDS, *options)
    first, *lines = [line for line in out.splitlines() if not line.strip().startswith("note:")]
    assert "MPE" in first
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(names)
    # The outputs read the energies of the scan back and evaluate nothing.
    asked = len(potential.asked)
    assert len(set(potential.asked)) == asked
    document = json.loads(call("scan", crystal, *WORDS, "--json")[0])
    assert len(potential.asked) == asked == document["evaluations"]

    values, atoms = read_cube_data(str(tmp_path / "new/n.cube"))
    assert sorted(set(atoms.get_chemical_symbols())) == ["F", "Li"]
    assert len(atoms) == document["atoms_in_scanned_cell"]
    assert list(values.shape) == document["grid_shape"]
    assert values[0, 0, 0] == pytest.approx(0.0, abs=1e-9)  # the ion's own site
    # What is closed stands at the highest energy, which no path has to exceed.
    barriers = percolate_grid(values, lattice=atoms.cell.array).barriers_eV
    for found, name in zip(barriers, ("barrier_1d_eV", "barrier_2d_eV", "barrier_3d_eV"), strict=True):
        assert found == pytest.approx(document[name], rel=1e-5)
    mpe = minimal_percolation_energy_eV(values, atoms.cell.array)
    assert mpe == pytest.approx(document["minimal_percolation_energy_eV"], rel=1e-5)

    title, cell, shape, *rest = (tmp_path / "n.grd").read_text().splitlines()
    assert "lowest level at which it gets there of Li" in title
    np.testing.assert_allclose([float(x) for x in cell.split()], atoms.cell.cellpar(), atol=1e-6)
    levels = np.array([float(x) for x in rest]).reshape([int(n) for n in shape.split()])
    assert levels.shape == values.shape
    np.testing.assert_allclose(levels, level_map(values, lattice=atoms.cell.array), rtol=1e-5, atol=1e-5)

    for name in ("n.html", "cut.html"):
        text = (tmp_path / name).read_text()
        assert "LiF: Li percolates in 1D" in text
    assert "points evaluated and the others estimated" in text or not document["points_saved_by_refinement"]
    walked = json.loads((tmp_path / "n.json").read_text())
    assert walked["dimensions"][0]["barrier_on_this_grid_eV"] == pytest.approx(document["barrier_1d_eV"])


def test_savings_stand_apart(potential: PairPotential) -> None:
    document = json.loads(call("scan", DEMO / "Li3N.cif", *WORDS, "--json")[0])
    saved = sum(document[f"points_{how}"] for how in ("excluded", "saved_by_symmetry", "saved_by_refinement"))
    on_grid = document["points"] - saved
    # The scan of the ion, and one energy for each kind of lithium to find the one that is bound most weakly.
    assert document["evaluations"] == len(potential.asked) == on_grid + 2
    every = json.loads(call("scan", DEMO / "Li3N.cif", *WORDS, "--set", "refine=false", "--json")[0])
    assert every["points_saved_by_refinement"] == 0
    assert every["points"] == document["points"]
    assert every["evaluations"] == document["evaluations"] + document["points_saved_by_refinement"]
    for name in ("barrier_1d_eV", "barrier_2d_eV", "barrier_3d_eV", "minimal_percolation_energy_eV"):
        assert document[name] == pytest.approx(every[name], abs=2e-3)
    assert document["percolation_error_eV"] == [0.0, 0.0, 0.0]


def test_free_volume_is_at_the_threshold_that_was_asked_for(potential: PairPotential) -> None:
    found = json.loads(call("scan", DEMO / "LiF.cif", *WORDS, "--set", "free_volume_threshold_eV=0.73", "--json")[0])
    assert found["free_volume_threshold_eV"] == 0.73
    below, above = (each for each in found["free_volumes"] if each["threshold_eV"] in (0.7, 0.8))
    share = found["disconnected_free_volume_fraction"]
    assert below["disconnected_fraction"] <= share <= above["disconnected_fraction"]
    assert found["connected_free_volume_smeared_fraction"] <= found["disconnected_free_volume_smeared_fraction"]
    assert 0.0 <= found["free_volume_score"] <= 1.0
    assert len(potential.asked) == found["evaluations"]


def test_energies_and_levels_side_by_side(potential: PairPotential, tmp_path: Path) -> None:
    crystal = Structure.from_file(DEMO / "Li3N.cif")
    maker = LandscapeMaker(settings=ScanStageSettings(**SETTINGS))
    maker.evaluate(crystal, checkpoint_folder=tmp_path)
    asked = len(potential.asked)
    cell, result = maker.landscape(crystal, tmp_path)
    assert len(potential.asked) == asked
    assert cell == primitive_cell(crystal)
    landscape = scanned_landscape(cell, "Li", result.best)
    paths = landscape.paths(1)
    threshold = landscape.percolation.thresholds_eV[0]
    common = (landscape.structure, landscape.values, paths, threshold, "Li")
    both = slice_figure(*common, levels=landscape.levels)
    left, right = (trace for trace in both.data if isinstance(trace, go.Heatmap))
    assert (left.xaxis, right.xaxis) == ("x", "x2")
    alone = slice_figure(*common).data[0]
    np.testing.assert_array_equal(left.z, alone.z)
    np.testing.assert_array_equal(right.x, left.x)
    assert (left.zmin, left.zmax) == (right.zmin, right.zmax)
    # A level is never below the energy; sampling between points may blur that a little.
    assert (np.asarray(right.z) >= np.asarray(left.z) - 0.02 * left.zmax).all()
    # One scale, one legend, the same marks on both.
    assert (left.showscale, right.showscale) == (None, False)
    names = [[t.name for t in both.data if (t.xaxis or "x") == axis] for axis in ("x", "x2")]
    assert names[0] == names[1]
    assert all(t.showlegend is False for t in both.data if t.xaxis == "x2" and t.type != "heatmap")
    assert both.layout.yaxis2.scaleanchor == "x2"
    assert both.layout.annotations[0].text == "energy"


def test_scan_outputs_that_cannot_be_written(potential: PairPotential, tmp_path: Path) -> None:
    _, err = call("scan", DEMO / "LiF.cif", "--levels", "n.dat", code=2)
    assert "end the name of a volumetric file" in " ".join(err.replace("│", " ").split())
    _, err = call("scan", DEMO / "LiF.cif", DEMO / "Li3N.cif", "--slice", "n.html", code=2)
    assert "one" in err
    assert potential.asked == []
    out, _ = call("scan", DEMO / "LiF.cif", "--ion", "Na", *WORDS, "--volume", "n.vasp", code=1)
    assert "failed" in out
    assert not list(tmp_path.glob("n.*"))
    call("scan", DEMO / "LiF.cif", *WORDS, "--volume", "n.vasp")
    assert VaspChargeDensity("n.vasp").chg[0].ndim == 3
