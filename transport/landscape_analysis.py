"""What a single-ion landscape says: level map, percolation energies, free volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .landscape_grid import ScanGrid
from .percolation import Percolation, level_map, percolate_grid
from .symmetry import CrystalSymmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

FREE_VOLUME_THRESHOLDS_eV = tuple(round(0.1 * k, 1) for k in range(1, 11))


@dataclass(frozen=True)
class IonLandscape:
    """Landscape of one ion.

    Attributes
    ----------
    site_index
        The ion's site in the structure.
    lattice
        Cell of the scan, vectors as rows in Angstrom, shape (3, 3). Percolation is counted in its translations.
    origin_frac
        Fractional coordinates of grid point (0, 0, 0): the ion's own site.
    values_eV
        Energy less that with the ion on its site, shape (n1, n2, n3); ``inf`` at excluded points.
    level_map_eV
        Lowest ceiling under which a periodic path leads to each point from the lowest one, on the same scale.
    mpe_eV
        Minimal percolation energy as Maevskiy et al. define it: the landscape wrapped into a box of 2 x 2 x 2 cells
        with the minimum in the middle, the lowest level on the faces of the box less the minimum. ``inf`` if none is
        reached.
    percolation
        Exact percolation of the periodic landscape in one, two and three dimensions.
    free_volume_connected, free_volume_disconnected
        Fraction of the cell whose level, or energy, lies less than a threshold in eV above the minimum.
    reference_energy_eV
        Total energy with the ion on its site.
    minimum_offset_A, minimum_depth_eV
        How far from the ion's site the lowest point lies, and how much lower than the site.
    warnings
        Sentences on what makes the landscape doubtful.
    atoms, evaluations, points
        Atoms of the cell; energies evaluated; points of the grid.
    saved_by_exclusion, saved_by_symmetry
        Points that were not evaluated because they lie in an atom, or because another one is alike.
    """

    site_index: int
    lattice: np.ndarray = field(repr=False)
    origin_frac: np.ndarray = field(repr=False)
    values_eV: np.ndarray = field(repr=False)
    level_map_eV: np.ndarray = field(repr=False)
    mpe_eV: float
    percolation: Percolation
    free_volume_connected: dict[float, float]
    free_volume_disconnected: dict[float, float]
    reference_energy_eV: float
    minimum_offset_A: float
    minimum_depth_eV: float
    warnings: list[str]
    atoms: int
    evaluations: int
    points: int
    saved_by_exclusion: int
    saved_by_symmetry: int


@dataclass(frozen=True)
class LandscapeResult:
    """Landscapes of one or more ions of a crystal.

    Attributes
    ----------
    ions
        One landscape for each ion that was scanned.
    free_volume_connected, free_volume_disconnected
        Fraction of the crystal within a threshold in eV of any mobile ion's minimum, ions alike by symmetry to the
        scanned ones included.
    spacing_A
        Largest grid step along a cell vector that was used.
    evaluations
        Energies that the scan took, those from a checkpoint included.
    evaluations_this_run
        Those that were not in the checkpoint.
    seconds
        Wall time, of killed and resumed runs together.
    """

    ions: list[IonLandscape]
    free_volume_connected: dict[float, float]
    free_volume_disconnected: dict[float, float]
    spacing_A: float
    evaluations: int
    evaluations_this_run: int
    seconds: float

    @property
    def best(self) -> IonLandscape:
        """The ion with the lowest exact barrier, in one dimension first."""
        return min(self.ions, key=lambda ion: (ion.percolation.barriers_eV, ion.mpe_eV))

    @property
    def percolation(self) -> Percolation:
        """Exact percolation of the best ion."""
        return self.best.percolation

    @property
    def mpe_eV(self) -> float:
        """Lowest minimal percolation energy of all ions."""
        return min(ion.mpe_eV for ion in self.ions)

    @property
    def values_eV(self) -> np.ndarray:
        """Landscape of the best ion."""
        return self.best.values_eV

    @property
    def level_map_eV(self) -> np.ndarray:
        """Level map of the best ion."""
        return self.best.level_map_eV

    @property
    def evaluations_saved_by_symmetry(self) -> int:
        """Points not evaluated because another one is alike."""
        return sum(ion.saved_by_symmetry for ion in self.ions)

    @property
    def evaluations_saved_by_exclusion(self) -> int:
        """Points not evaluated because they lie in an atom."""
        return sum(ion.saved_by_exclusion for ion in self.ions)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all ions, each once."""
        return list(dict.fromkeys(text for ion in self.ions for text in ion.warnings))


def analyse(site_index: int, lattice: np.ndarray, grid: ScanGrid, energies_eV: np.ndarray, atoms: int) -> IonLandscape:
    """Level map, percolation and free volume of one landscape.

    Parameters
    ----------
    site_index
        The ion's site in the structure.
    lattice
        Cell of the scan.
    grid
        The grid; its point (0, 0, 0) is the ion's site.
    energies_eV
        Total energies, shape ``grid.shape``; ``inf`` at excluded points.
    atoms
        Atoms of the cell.
    """
    reference = float(energies_eV[0, 0, 0])
    values = energies_eV - reference
    levels = level_map(values, None, lattice=lattice)
    lowest = np.unravel_index(int(np.argmin(values)), values.shape)
    depth = -float(values[lowest])
    step = np.array(lowest) / np.array(values.shape)
    # Nearest of the images; cells are reduced enough for one shell of neighbours.
    shells = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    offset = float(np.linalg.norm((step - np.rint(step) + shells) @ lattice, axis=1).min())
    warnings = []
    if offset > 0.5:
        warnings.append(f"The lowest point lies {offset:.2f} A from the ion's site: the site is not where it rests.")
    if depth > 0.2:
        warnings.append(f"The lowest point lies {depth:.2f} eV below the ion's site: the structure is not relaxed.")
    percolation = percolate_grid(values, lattice=lattice)
    if percolation.dimension == 0:
        warnings.append("No path between the excluded points crosses the cell; the grid may be too coarse.")
    allowed, irreducible = int(grid.allowed.sum()), len(grid.irreducible)
    return IonLandscape(
        site_index=site_index,
        lattice=lattice,
        origin_frac=grid.origin_frac,
        values_eV=values,
        level_map_eV=levels,
        mpe_eV=minimal_percolation_energy_eV(values, lattice),
        percolation=percolation,
        free_volume_connected=_fractions(levels - values.min()),
        free_volume_disconnected=_fractions(values - values.min()),
        reference_energy_eV=reference,
        minimum_offset_A=offset,
        minimum_depth_eV=depth,
        warnings=warnings,
        atoms=atoms,
        evaluations=irreducible,
        points=values.size,
        saved_by_exclusion=values.size - allowed,
        saved_by_symmetry=allowed - irreducible,
    )


def minimal_percolation_energy_eV(values: np.ndarray, lattice: np.ndarray) -> float:
    """Minimal percolation energy of Maevskiy et al. (arXiv 2411.06804): least level on the faces of a 2 x 2 x 2 box.

    Their code raises the level in steps of 0.1 eV; this is the exact level.

    Parameters
    ----------
    values
        Periodic landscape in eV, shape (n1, n2, n3).
    lattice
        Its cell, vectors as rows in Angstrom.

    Returns
    -------
    float
        In eV above the minimum; ``inf`` if no face can be reached.
    """
    shape = np.array(values.shape)
    lowest = np.array(np.unravel_index(int(np.argmin(values)), values.shape))
    along = [(lowest[k] + np.arange(-shape[k], shape[k] + 1)) % shape[k] for k in range(3)]
    box = values[np.ix_(*along)]
    middle = int(np.ravel_multi_index(tuple(shape), box.shape))
    box_cell = lattice * (np.array(box.shape) / shape)[:, None]
    levels = level_map(box, middle, lattice=box_cell, periodic=False)
    faces = [levels[0], levels[-1], levels[:, 0], levels[:, -1], levels[:, :, 0], levels[:, :, -1]]
    return float(min(face.min() for face in faces) - values.min())


def _fractions(field_eV: np.ndarray) -> dict[float, float]:
    return {threshold: float((field_eV < threshold).mean()) for threshold in FREE_VOLUME_THRESHOLDS_eV}


def union_free_volumes(
    ions: list[IonLandscape], structure: Structure, symmetry: CrystalSymmetry
) -> tuple[dict[float, float], dict[float, float]]:
    """Fractions of the crystal that any mobile ion reaches under each threshold: connected, disconnected.

    Every scanned ion's region is copied by the space group onto its equivalents. Regions whose grids start at different
    sites, or are turned against each other, are brought to one grid point by point, to the nearest: exact to half a
    grid step.

    Parameters
    ----------
    ions
        Landscapes in the same supercell.
    structure, symmetry
        The crystal.
    """
    from pymatgen.util.coord import lattice_points_in_supercell

    lattice = ions[0].lattice
    shape = np.array(max((ion.values_eV.shape for ion in ions), key=lambda s: int(np.prod(s))))
    to_grid = np.linalg.inv(lattice)
    to_primitive = np.linalg.inv(symmetry.primitive_lattice)
    copies = lattice_points_in_supercell(np.rint(lattice @ to_primitive).astype(int))
    origin = ions[0].origin_frac
    unions: list[dict[float, float]] = []
    for name in ("level_map_eV", "values_eV"):
        least = np.full(tuple(shape), np.inf)
        for ion in ions:
            heights = getattr(ion, name) - ion.values_eV.min()
            low = np.argwhere(heights < FREE_VOLUME_THRESHOLDS_eV[-1])
            # The region as it lies round the ion's site, in fractions of the primitive lattice.
            step = low / np.array(ion.values_eV.shape)
            step -= np.rint(step)
            site = symmetry.site_to_primitive[ion.site_index]
            home = (
                structure.cart_coords[ion.site_index] - symmetry.site_cells[ion.site_index] @ symmetry.primitive_lattice
            )
            region = (home + step @ lattice) @ to_primitive
            # One operation for each equivalent site; others that lead there give the same region.
            _, first = np.unique(symmetry.permutations[:, site], return_index=True)
            for k in first:
                turned = (region @ symmetry.rotations[k].T + symmetry.translations[k]) @ symmetry.primitive_lattice
                for copy in copies:
                    index = np.rint((turned @ to_grid + copy - origin) * shape).astype(int) % shape
                    np.minimum.at(least, tuple(index.T), heights[tuple(low.T)])
        unions.append(_fractions(least))
    return unions[0], unions[1]
