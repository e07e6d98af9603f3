"""What a single-ion landscape says: level map and percolation energies; free volumes are in :mod:`.free_volume`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .free_volume import SCORE_THRESHOLD_eV, combined_score, free_fraction, free_fractions
from .landscape_grid import ScanGrid
from .percolation import Percolation, level_map, percolate_grid

if TYPE_CHECKING:
    from .landscape_refinement import Refinement


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
        Atoms of the cell; energies evaluated; points of the grid. Points are those evaluated and those saved together.
    saved_by_exclusion, saved_by_symmetry, saved_by_refinement
        Points that were not evaluated because they lie in an atom, because another one is alike, or because they do not
        decide anything; the last have estimated energies.
    evaluated
        Whether each point, or one that is alike, was evaluated, shape (n1, n2, n3).
    percolation_error_eV, mpe_error_eV, free_volume_error
        What the evaluations left open: how far thresholds may be off in one, two and three dimensions and at the faces
        of the box, and the expected error of the free volume at its threshold as a share of itself. Zero without
        refinement, and for energies that were decided.
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
    saved_by_refinement: int = 0
    evaluated: np.ndarray | None = field(default=None, repr=False)
    percolation_error_eV: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mpe_error_eV: float = 0.0
    free_volume_error: float = 0.0

    def free_volume(self, threshold_eV: float, connected: bool = True, smeared: bool = False) -> float:
        """Fraction of the cell below any threshold; parameters as for :meth:`LandscapeResult.free_volume`."""
        heights = self.level_map_eV if connected else self.values_eV
        return free_fraction(heights - self.values_eV.min(), threshold_eV, smeared)


@dataclass(frozen=True)
class LandscapeResult:
    """Landscapes of one or more ions of a crystal.

    Attributes
    ----------
    ions
        One landscape for each ion that was scanned.
    union_levels_eV, union_heights_eV
        Level, or energy, of every point above the minimum of the mobile ion for which it is lowest, ions alike by
        symmetry to the scanned ones included, shape (n1, n2, n3); ``inf`` where no ion gets.
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
    union_levels_eV: np.ndarray = field(repr=False)
    union_heights_eV: np.ndarray = field(repr=False)
    spacing_A: float
    evaluations: int
    evaluations_this_run: int
    seconds: float

    def free_volume(self, threshold_eV: float, connected: bool = True, smeared: bool = False) -> float:
        """Fraction of the crystal that any mobile ion has within a threshold.

        Parameters
        ----------
        threshold_eV
            Energy above each ion's minimum.
        connected
            Only what the ion reaches from its minimum without rising above the threshold.
        smeared
            Mean over the threshold plus each of ``SMEARING_eV``.
        """
        return free_fraction(self.union_levels_eV if connected else self.union_heights_eV, threshold_eV, smeared)

    @property
    def free_volume_connected(self) -> dict[float, float]:
        """Connected free volumes at ``FREE_VOLUME_THRESHOLDS_eV``."""
        return free_fractions(self.union_levels_eV)

    @property
    def free_volume_disconnected(self) -> dict[float, float]:
        """Disconnected free volumes at ``FREE_VOLUME_THRESHOLDS_eV``."""
        return free_fractions(self.union_heights_eV)

    @property
    def score(self) -> float:
        """Combined score from 0 to 1 of the smeared free volumes, see :func:`combined_score`."""
        return combined_score(
            self.free_volume(SCORE_THRESHOLD_eV, connected=True, smeared=True),
            self.free_volume(SCORE_THRESHOLD_eV, connected=False, smeared=True),
        )

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
    def evaluations_saved_by_refinement(self) -> int:
        """Points not evaluated because they do not decide anything."""
        return sum(ion.saved_by_refinement for ion in self.ions)

    @property
    def points(self) -> int:
        """Points of the full grids of all ions."""
        return sum(ion.points for ion in self.ions)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all ions, each once."""
        return list(dict.fromkeys(text for ion in self.ions for text in ion.warnings))


def analyse(
    site_index: int,
    lattice: np.ndarray,
    grid: ScanGrid,
    energies_eV: np.ndarray,
    atoms: int,
    refinement: Refinement | None = None,
) -> IonLandscape:
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
    refinement
        Which of the energies were evaluated and what that leaves open; None where all were.
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
    evaluations, refined = irreducible, {}
    if refinement is not None:
        evaluations = int(refinement.evaluated.sum())
        known = np.zeros(values.size, dtype=bool)
        known[grid.irreducible] = refinement.evaluated
        refined = {
            "evaluated": (known[grid.representative] & grid.allowed).reshape(grid.shape),
            "percolation_error_eV": refinement.percolation_error_eV,
            "mpe_error_eV": refinement.mpe_error_eV,
            "free_volume_error": refinement.free_volume_error,
        }
        warnings += refinement.warnings()
    else:
        refined = {"evaluated": grid.allowed.reshape(grid.shape)}
    return IonLandscape(
        site_index=site_index,
        lattice=lattice,
        origin_frac=grid.origin_frac,
        values_eV=values,
        level_map_eV=levels,
        mpe_eV=minimal_percolation_energy_eV(values, lattice),
        percolation=percolation,
        free_volume_connected=free_fractions(levels - values.min()),
        free_volume_disconnected=free_fractions(values - values.min()),
        reference_energy_eV=reference,
        minimum_offset_A=offset,
        minimum_depth_eV=depth,
        warnings=warnings,
        atoms=atoms,
        evaluations=evaluations,
        points=values.size,
        saved_by_exclusion=values.size - allowed,
        saved_by_symmetry=allowed - irreducible,
        saved_by_refinement=irreducible - evaluations,
        **refined,
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
    lowest = int(np.argmin(values))
    return float(face_level(values, lattice, lowest) - values.flat[lowest])


def face_level(values: np.ndarray, lattice: np.ndarray, seed: int) -> float:
    """Least level on the faces of the box around a point, on the scale of the values; ``inf`` if none is reached.

    Parameters are those of :func:`box_around`.
    """
    box, cell = box_around(values, lattice, seed)
    middle = int(np.ravel_multi_index(values.shape, box.shape))
    levels = level_map(box, middle, lattice=cell, periodic=False)
    faces = [levels[0], levels[-1], levels[:, 0], levels[:, -1], levels[:, :, 0], levels[:, :, -1]]
    return float(min(face.min() for face in faces))


def box_around(values: np.ndarray, lattice: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Box of 2 x 2 x 2 cells, both faces of every pair included, with a point of the landscape in its middle.

    Parameters
    ----------
    values
        Periodic landscape, or anything else on its grid, shape (n1, n2, n3).
    lattice
        Its cell, vectors as rows in Angstrom.
    seed
        Flat index of the point in the middle.

    Returns
    -------
    tuple of numpy.ndarray
        The box, shape (2 n1 + 1, 2 n2 + 1, 2 n3 + 1), and the cell of which it would be one period.
    """
    shape = np.array(values.shape)
    centre = np.array(np.unravel_index(seed, values.shape))
    along = [(centre[k] + np.arange(-shape[k], shape[k] + 1)) % shape[k] for k in range(3)]
    box = values[np.ix_(*along)]
    return box, lattice * (np.array(box.shape) / shape)[:, None]
