"""Energy fields as volumetric files for crystal viewers (VESTA and others).

Every format holds one period of the grid, without the repeated boundary plane, and the energy in eV:

- ``.cube`` (Gaussian): atoms and values as they are; lengths in Bohr. Viewers show eV.
- ``.vasp`` (CHGCAR): atoms, and values times the cell volume in cubic Angstrom, because what reads a CHGCAR divides by
  the volume. ASE's ``VaspChargeDensity`` gives back eV; so does pymatgen's ``Chgcar`` after division by the volume. A
  viewer that divides by the volume in cubic Bohr shows eV times 0.1482: where the number itself matters, take ``.cube``
  or ``.grd``.
- ``.grd`` (the text grid that VESTA reads and that softBV and BVlain write): cell lengths and angles and values as they
  are, last index fastest. No atoms, and the cell's orientation is lost.

The formats know one element a site and no infinity. A partly occupied site is written as the species that it holds most
of, and forbidden points get a finite ceiling; the title line says both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import NonFiniteEnergyError

if TYPE_CHECKING:
    from pymatgen.core import Structure

VOLUME_SUFFIXES = (".cube", ".vasp", ".grd")


def write_volume(
    path: Path | str,
    values: np.ndarray,
    structure: Structure,
    title: str = "Energy of a mobile ion",
    ceiling_eV: float | None = None,
) -> float:
    """Write a periodic field; the suffix of the file name chooses the format.

    Parameters
    ----------
    path
        File that ends on ``.cube``, ``.vasp`` or ``.grd``; replaced if it exists.
    values
        Energies in eV, shape (n1, n2, n3), point (i, j, k) at the fractional coordinates (i/n1, j/n2, k/n3), without a
        duplicated boundary plane; ``inf`` marks forbidden points.
    structure
        The crystal in the cell of the field.
    title
        Begins the file's title line.
    ceiling_eV
        Points above it are written as it; the highest finite value when absent.

    Returns
    -------
    float
        The ceiling in eV.

    Raises
    ------
    ValueError
        The suffix is none of the three, or the field has no finite value.
    NonFiniteEnergyError
        A value is NaN or minus infinity.
    """
    path = Path(path)
    check_volume_suffix(path)
    field = np.asarray(values, dtype=np.float64)
    if field.ndim != 3 or not np.isfinite(field).any():
        raise ValueError("the field must have three dimensions and at least one finite value")
    if np.isnan(field).any() or np.isneginf(field).any():
        raise NonFiniteEnergyError("The energies hold NaN or minus infinity, so they cannot be written; check them.")
    ceiling = float(field[np.isfinite(field)].max()) if ceiling_eV is None else float(ceiling_eV)
    atoms = majority_structure(structure)
    line = f"{' '.join(title.split())}; eV; values above {ceiling:.6g} eV and forbidden points are written as that"
    if not structure.is_ordered:
        line += "; partly occupied sites stand for the species that they hold most of"
    writer = {".cube": _write_cube, ".vasp": _write_chgcar, ".grd": _write_grid}[path.suffix.lower()]
    writer(path, np.minimum(field, ceiling), atoms, line)
    return ceiling


def check_volume_suffix(path: Path | str) -> None:
    """Refuse a file name whose suffix names no volumetric format.

    Raises
    ------
    ValueError
        With the formats that there are.
    """
    if Path(path).suffix.lower() not in VOLUME_SUFFIXES:
        raise ValueError(
            f"{Path(path).name} does not say its format; end the name of a volumetric file on "
            f"{', '.join(VOLUME_SUFFIXES[:-1])} or {VOLUME_SUFFIXES[-1]}."
        )


def majority_structure(structure: Structure) -> Structure:
    """The crystal with one element a site: the one with the largest share, without charges.

    Vacancies do not count: a site that holds 0.3 Li and nothing else is a Li site.
    """
    from pymatgen.core import Element, Structure

    elements = []
    for site in structure:
        species = max(site.species.items(), key=lambda item: (item[1], str(item[0])))[0]
        elements.append(Element.from_Z(species.Z))
    return Structure(structure.lattice, elements, structure.frac_coords)


def _write_cube(path: Path, values: np.ndarray, structure: Structure, title: str) -> None:
    from ase.io.cube import write_cube

    with path.open("w") as file:
        write_cube(file, structure.to_ase_atoms(), data=values, comment=title)
        file.write("\n")


def _write_chgcar(path: Path, values: np.ndarray, structure: Structure, title: str) -> None:
    from pymatgen.io.vasp import Chgcar

    # A CHGCAR names each element once in a row of counts.
    ordered = structure.get_sorted_structure(key=lambda site: site.specie.Z)
    volume = Chgcar(ordered, {"total": values * structure.volume})
    volume.name = title
    volume.write_file(str(path))


def _write_grid(path: Path, values: np.ndarray, structure: Structure, title: str) -> None:
    with path.open("w") as file:
        file.write(f"{title}\n")
        file.write(" ".join(f"{x:.8f}" for x in structure.lattice.parameters) + "\n")
        file.write(" ".join(str(n) for n in values.shape) + "\n")
        np.savetxt(file, values.ravel(), fmt="%.8e")
