"""A landscape to show: the energies, the crystal in the very cell of the energies, and what percolates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.errors import CandidateError, Reason
from ..transport.percolation import Percolation, percolate_grid
from ..transport.percolation_paths import PercolationPath, percolation_paths

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..makers.settings import BondValenceStageSettings
    from ..transport.landscape_analysis import IonLandscape


@dataclass(frozen=True)
class Landscape:
    """A periodic energy field and the crystal in its cell.

    Attributes
    ----------
    structure
        Crystal in the cell of the field.
    ion
        Element symbol of the mobile ion.
    values
        Energies in eV, shape (n1, n2, n3), without a repeated boundary plane; ``inf`` where the ion may not go.
    method
        What the energies are, for titles.
    barriers_eV
        Barriers that the stage reports, where they are not those of this very grid.
    levels
        Level map on the grid of ``values``, where the stage has one.
    """

    structure: Structure
    ion: str
    values: np.ndarray
    method: str
    barriers_eV: dict[int, float | None] = field(default_factory=dict)
    levels: np.ndarray | None = None

    @property
    def lattice(self) -> np.ndarray:
        """Cell vectors as rows in Angstrom, shape (3, 3)."""
        return np.asarray(self.structure.lattice.matrix)

    @property
    def spacing_A(self) -> float:
        """Largest grid step along a cell vector."""
        return float((np.array(self.structure.lattice.abc) / self.values.shape).max())

    @cached_property
    def percolation(self) -> Percolation:
        """Percolation on this grid."""
        return percolate_grid(self.values, lattice=self.lattice)

    def paths(self, dimension: int) -> list[PercolationPath]:
        """Paths in so many independent directions.

        Raises
        ------
        CandidateError
            The ion does not percolate in so many.
        """
        found = percolation_paths(self.values, dimension, self.lattice)
        if not found:
            formula, reached = self.structure.composition.reduced_formula, self.percolation.dimension
            hint = f"ask for {reached}" if reached else "there is no path to draw"
            raise CandidateError(
                f"{self.ion} percolates in {reached} of 3 independent directions of {formula}, not in {dimension}; "
                f"{hint}.",
                Reason.NO_PERCOLATION,
            )
        return found

    def title(self, dimension: int) -> str:
        """What a figure shows: the barrier, and below it grid and cell."""
        formula, k = self.structure.composition.reduced_formula, dimension - 1
        on_grid = self.percolation.barriers_eV[k]
        barrier = self.barriers_eV.get(dimension)
        drawn = "" if barrier is None else f", where it is {on_grid:.3f} eV"
        shown = on_grid if barrier is None else barrier
        return (
            f"{formula}: {self.ion} percolates in {dimension}D at {shown:.3f} eV"
            f"<br><sup>{self.method}; drawn on a grid of {self.spacing_A:.2f} Å{drawn}; "
            f"cell of {len(self.structure)} sites</sup>"
        )


def bond_valence_landscape(
    structure: Structure,
    ion: str,
    settings: BondValenceStageSettings,
    spacing_A: float | None = None,
    barriers_eV: dict[int, float | None] | None = None,
) -> Landscape:
    """Bond-valence landscape in the cell that the bvse stage works on.

    Parameters
    ----------
    structure
        The crystal as it was given.
    ion
        Element symbol of the mobile ion.
    settings
        Settings of the stage.
    spacing_A
        Grid step instead of the settings' own.
    barriers_eV
        What the stage reported for 1, 2 and 3 dimensions.

    Raises
    ------
    CandidateError
        As in the stage.
    """
    from ..makers.bvse import field_settings
    from ..makers.stage import primitive_cell
    from ..transport.bvse import below_ceiling, bond_valence_field
    from ..transport.structures import assign_oxidation_states

    physics = field_settings(settings)
    if spacing_A is not None:
        physics = dataclasses.replace(physics, spacing_A=spacing_A)
    cell = primitive_cell(structure)
    decorated = assign_oxidation_states(cell, ion, settings.oxidation_states)
    energies = bond_valence_field(decorated, ion, physics)
    return Landscape(
        structure=cell,
        ion=ion,
        values=below_ceiling(energies.values, physics.energy_ceiling_eV),
        method="bond-valence site energy",
        barriers_eV=barriers_eV or {},
    )


def scanned_landscape(structure: Structure, ion: str, scan: IonLandscape) -> Landscape:
    """Landscape of a scan with a potential, with the crystal brought into the cell and to the origin of the scan.

    Parameters
    ----------
    structure
        The crystal as it was given to the scan.
    ion
        Element symbol of the mobile ion.
    scan
        One ion's landscape.
    """
    return Landscape(
        structure=crystal_in_cell(structure, scan.lattice, scan.origin_frac),
        ion=ion,
        values=scan.values_eV,
        method="energy of one ion moved through the crystal"
        + (f", {scan.evaluations} points evaluated and the others estimated" if scan.saved_by_refinement else ""),
        levels=scan.level_map_eV,
    )


def crystal_in_cell(structure: Structure, lattice: np.ndarray, origin_frac: np.ndarray) -> Structure:
    """The same crystal in another of its cells and with another origin.

    Parameters
    ----------
    structure
        The crystal.
    lattice
        Vectors of a lattice translation each, as rows in Angstrom, in the orientation of the structure.
    origin_frac
        Fractional coordinates, in that cell, of the new origin.
    """
    from pymatgen.core import Structure

    to_cell = np.linalg.inv(lattice)
    # The new cell's corners span these cells of the old one.
    corners = (np.array(list(product((0, 1), repeat=3))) + origin_frac) @ lattice @ structure.lattice.inv_matrix
    low, high = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 1
    shifts = np.array(list(product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))))
    species: list[Any] = []
    places: list[np.ndarray] = []
    labels: list[str] = []
    for site in structure:
        images = (site.frac_coords + shifts) @ structure.lattice.matrix @ to_cell - origin_frac
        inside = images[((images > -1e-6) & (images < 1 - 1e-6)).all(axis=1)]
        species += [site.species] * len(inside)
        labels += [site.label] * len(inside)
        places += list(inside)
    return Structure(lattice, species, np.array(places), labels=labels)
