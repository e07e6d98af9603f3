"""Volumetric files, read back by programs that did not write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.calculators.vasp import VaspChargeDensity
from ase.io.cube import read_cube
from hopflow.transport.errors import NonFiniteEnergyError
from hopflow.transport.volumetric import VOLUME_SUFFIXES, majority_structure, write_volume
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Chgcar

TRICLINIC = np.array([[4.1, 0.2, 0.0], [1.3, 5.0, -0.4], [-0.9, 0.7, 6.2]])
SHAPE = (6, 8, 10)


@pytest.fixture
def crystal() -> Structure:
    return Structure(
        Lattice(TRICLINIC),
        [{"Li+": 0.3}, "O2-", {"Ta5+": 0.4, "Nb5+": 0.6}, "Li+"],
        [[0.0, 0.0, 0.0], [0.25, 0.5, 0.75], [0.5, 0.5, 0.1], [0.7, 0.2, 0.4]],
    )


def energy(frac: np.ndarray) -> np.ndarray:
    """A field without symmetry: no exchange or reversal of axes leaves it as it is."""
    x, y, z = np.moveaxis(2 * np.pi * np.asarray(frac), -1, 0)
    return np.cos(x) + 2 * np.sin(y) - 0.5 * np.cos(2 * z + 0.3) + 0.7 * np.sin(x + z)


@pytest.fixture
def values() -> np.ndarray:
    return energy(np.stack(np.meshgrid(*[np.arange(n) / n for n in SHAPE], indexing="ij"), axis=-1))


def check(read: np.ndarray, cell: np.ndarray, tolerance: float) -> None:
    """Values at chosen fractional positions; and the cell."""
    assert read.shape == SHAPE
    np.testing.assert_allclose(cell, TRICLINIC, atol=1e-4)
    for index in ((0, 0, 0), (1, 0, 0), (0, 3, 0), (0, 0, 7), (5, 7, 9), (2, 6, 3)):
        frac = np.array(index) / SHAPE
        assert read[index] == pytest.approx(float(energy(frac)), abs=tolerance)


def test_cube(crystal: Structure, values: np.ndarray, tmp_path: Path) -> None:
    write_volume(tmp_path / "field.cube", values, crystal)
    with (tmp_path / "field.cube").open() as file:
        found = read_cube(file)
    check(found["data"], found["atoms"].cell.array, 1e-5)
    assert found["atoms"].get_chemical_symbols() == ["Li", "O", "Nb", "Li"]
    np.testing.assert_allclose(found["atoms"].get_scaled_positions(), crystal.frac_coords, atol=1e-5)


def test_cube_read_by_pymatgen(crystal: Structure, values: np.ndarray, tmp_path: Path) -> None:
    from pymatgen.io.common import VolumetricData

    write_volume(tmp_path / "field.cube", values, crystal)
    found = VolumetricData.from_cube(tmp_path / "field.cube")
    check(found.data["total"], found.structure.lattice.matrix, 1e-5)


def test_chgcar_is_divided_by_the_volume(crystal: Structure, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "field.vasp"
    write_volume(path, values, crystal, title="Energies\nof a Li ion")
    ase = VaspChargeDensity(str(path))
    check(ase.chg[0], ase.atoms[0].cell.array, 1e-7)
    pymatgen = Chgcar.from_file(str(path))
    check(pymatgen.data["total"] / pymatgen.structure.volume, pymatgen.structure.lattice.matrix, 1e-4)
    assert pymatgen.structure.composition.as_dict() == {"Li": 2, "O": 1, "Nb": 1}
    for site in majority_structure(crystal):
        assert any(site.specie == other.specie and site.distance(other) < 1e-4 for other in pymatgen.structure)
    assert path.read_text().startswith("Energies of a Li ion; eV;")


def test_grid(crystal: Structure, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "field.grd"
    write_volume(path, values, crystal)
    title, cell, shape, *numbers = path.read_text().splitlines()
    assert "eV" in title
    assert [float(x) for x in cell.split()] == pytest.approx(list(crystal.lattice.parameters))
    assert shape.split() == ["6", "8", "10"]
    check(np.array(numbers, dtype=float).reshape(SHAPE), TRICLINIC, 1e-7)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_forbidden_points_get_the_ceiling_that_the_title_says(
    suffix: str, crystal: Structure, values: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / f"field{suffix.upper()}"
    values[1, 2, 3] = np.inf
    assert write_volume(path, values, crystal) == values[np.isfinite(values)].max()
    ceiling = write_volume(path, values, crystal, ceiling_eV=1.25)
    assert ceiling == 1.25
    text = path.read_text()
    first = text.splitlines()[0]
    assert "above 1.25 eV" in first
    assert "hold most of" in first  # two sites are partly occupied
    assert "inf" not in text.lower()
    if suffix == ".cube":
        with path.open() as file:
            read = read_cube(file)["data"]
    elif suffix == ".vasp":
        read = VaspChargeDensity(str(path)).chg[0]
    else:
        read = np.array(text.splitlines()[3:], dtype=float).reshape(SHAPE)
    np.testing.assert_allclose(read, np.minimum(values, 1.25), atol=1e-5)


def test_wrong_names_and_values_are_refused(crystal: Structure, values: np.ndarray, tmp_path: Path) -> None:
    for name in ("field.dat", "field", "CHGCAR"):
        with pytest.raises(ValueError, match=r"\.cube, \.vasp or \.grd"):
            write_volume(tmp_path / name, values, crystal)
    values[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteEnergyError):
        write_volume(tmp_path / "field.cube", values, crystal)
    with pytest.raises(ValueError, match="finite"):
        write_volume(tmp_path / "field.cube", np.full(SHAPE, np.inf), crystal)
    assert list(tmp_path.iterdir()) == []
