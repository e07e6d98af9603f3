"""Single-ion energy landscapes: one mobile ion moved over a grid through a frozen crystal.

After Maevskiy et al. (Phys. Rev. Research 7 (2025), arXiv 2411.06804): potential energy surface, minimal energy level
map, minimal percolation energy and free volume. Beside their percolation energy, which asks for a way to the faces of
a finite box, stands the exact one of the periodic landscape in one, two and three dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from .checkpoints import content_key, load_checkpoint, save_checkpoint
from .energies import Potential
from .errors import CandidateError, NoMobileIonError, NonFiniteEnergyError, Reason, StructureError
from .free_volume import SCORE_THRESHOLD_eV, union_of_ions
from .landscape_analysis import IonLandscape, LandscapeResult, analyse
from .landscape_grid import ScanGrid, build_grid
from .landscape_model import describe_points
from .landscape_refinement import Refinement, expected_evaluations, refine
from .supercells import Supercell, build_supercell, compact_supercell, diagonal_supercell
from .symmetry import CrystalSymmetry, crystal_symmetry, space_group_operations

if TYPE_CHECKING:
    from pymatgen.core import Structure

ScanProgress = Callable[[int, int], None]
"""Called after every block with evaluations done and evaluations planned."""


@dataclass(frozen=True)
class ScanSettings:
    """Settings of a landscape scan.

    Attributes
    ----------
    spacing_A
        Grid step along the cell vectors; made coarser where ``max_evaluations`` asks for it.
    max_spacing_A
        Coarsest step that is worth computing; a crystal that needs more evaluations even so fails.
    max_evaluations
        Most energy evaluations of a scan, all its ions together; None for no limit. With ``refine`` the grid is made
        coarser where a guess of the evaluations exceeds it, and a scan that reaches it is told from a decided one by
        its errors and a warning.
    exclusion_radius_A
        Points closer than this to any other atom are not evaluated and are impassable.
    min_length_A
        Least width of the cell that the ion moves through, so that it does not meet its own images.
    max_ions
        Scan at most this many symmetry-unique ions, those that are bound most weakly first; None for all.
    symprec
        Tolerance of the symmetry search in Angstrom. Tighter than for hops: energies of points that are taken for
        alike must be alike.
    refine
        Evaluate a coarse set of points, and of the rest only those that decide the answer
        (:mod:`.landscape_refinement`); False evaluates every irreducible point.
    free_volume_threshold_eV
        Threshold at which the free volume is decided by evaluations; 0.5 eV, for the combined score, always is.
    free_volume_tolerance
        Error of these free volumes that refinement lets pass, as a share of them.
    block
        Evaluations between two checkpoints.
    """

    spacing_A: float = 0.35
    max_spacing_A: float = 0.8
    max_evaluations: int | None = 1500
    exclusion_radius_A: float = 1.2
    min_length_A: float = 5.5
    max_ions: int | None = 1
    symprec: float = 1e-3
    refine: bool = True
    free_volume_threshold_eV: float = 0.5
    free_volume_tolerance: float = 0.02
    block: int = 64


def scan_landscape(
    structure: Structure,
    ion: str,
    potential: Potential,
    settings: ScanSettings | None = None,
    ion_index: int | None = None,
    checkpoint: Path | None = None,
    progress: ScanProgress | None = None,
) -> LandscapeResult:
    """Move mobile ions one at a time over a grid through the crystal, all other atoms frozen.

    Only points that no symmetry operation of the frozen atoms maps onto one another are evaluated, energies alone, and
    of those, unless ``settings.refine`` is False, only the ones that decide percolation and free volume.

    Parameters
    ----------
    structure
        Ordered crystal.
    ion
        Element symbol of the mobile ion.
    potential
        Gives energies of many images in one call.
    settings
        Defaults if None.
    ion_index
        Site to scan; None for the symmetry-unique sites of the ion, as many as ``settings.max_ions`` allows.
    checkpoint
        File that keeps energies after every block. A scan with the same structure, settings and potential goes on from
        it and repeats no evaluation that it holds.
    progress
        Called after every block.

    Returns
    -------
    LandscapeResult

    Raises
    ------
    NoMobileIonError
        The structure does not hold the ion, or ``ion_index`` is not one.
    StructureError
        A site is partly occupied, or the ion's own site lies within the exclusion radius of an atom.
    CandidateError
        Even the coarsest grid needs more than ``max_evaluations`` (reason ``TOO_MANY_EVALUATIONS``).
    NonFiniteEnergyError
        The potential returned an energy that is not a number.
    """
    began = time.perf_counter()
    settings = settings or ScanSettings()
    if not structure.is_ordered:
        raise StructureError(
            "Some sites are partly occupied; order the structure before scanning it.", Reason.PARTIAL_OCCUPANCY
        )
    formula = structure.composition.reduced_formula
    symbols = np.array([site.specie.symbol for site in structure])
    if not (symbols == ion).any():
        raise NoMobileIonError(f"{formula} holds no {ion}; name another mobile ion.")
    if ion_index is not None and not (0 <= ion_index < len(symbols) and symbols[ion_index] == ion):
        raise NoMobileIonError(f"Site {ion_index} of {formula} is not {ion}; give the index of a {ion} site.")

    symmetry = crystal_symmetry(structure, settings.symprec)
    key = content_key(
        lattice=structure.lattice.matrix,
        frac_coords=structure.frac_coords,
        species=symbols.tolist(),
        ion=[ion, ion_index],
        settings={k: v for k, v in asdict(settings).items() if k != "block"},
        potential=[potential.name, potential.weights_sha256, potential.method],
    )
    store = _EnergyStore(potential, checkpoint, key, settings.block, progress)
    unique = [k for k in symmetry.unique_sites() if symbols[k] == ion] if ion_index is None else [ion_index]
    supercell = _choose_supercell(structure, ion, symmetry, int(unique[0]), settings)
    scans = [_IonScan(structure, ion, supercell, int(site), settings) for site in unique]
    if settings.max_ions is not None and len(scans) > settings.max_ions:
        removed = store.energies("removed", [scan.without_ion() for scan in scans])
        # Least energy without the ion: it was bound most weakly.
        scans = [scans[k] for k in np.argsort(removed, kind="stable")[: settings.max_ions]]

    spacing_A, grids = _affordable_grids(scans, settings, formula)
    for scan, grid in zip(scans, grids, strict=True):
        if not grid.allowed[0]:
            raise StructureError(
                f"The {ion} on site {scan.site} of {formula} lies within {settings.exclusion_radius_A:g} A of another "
                "atom, so its landscape has no zero; lower exclusion_radius_A.",
                Reason.CLOSE_CONTACT,
            )
    ions = []
    for number, (scan, grid) in enumerate(zip(scans, grids, strict=True)):
        name, points = f"ion{scan.site}", grid.frac_coords(grid.irreducible)
        evaluate = partial(store.chosen_energies, name, points, scan.with_ion_at)
        refinement = None
        if settings.refine:
            left = None
            if settings.max_evaluations is not None:
                left = (settings.max_evaluations - store.done) // (len(scans) - number)
            described = describe_points(supercell.lattice, scan.frozen_frac, scan.template.numbers[:-1], points)
            thresholds = tuple(sorted({settings.free_volume_threshold_eV, SCORE_THRESHOLD_eV}))
            refinement = refine(
                grid, supercell.lattice, described, evaluate, thresholds, settings.free_volume_tolerance, left
            )
            energies = refinement.energies_eV
        else:
            store.planned = store.done + sum(len(each.irreducible) for each in grids[number:])
            energies = evaluate(np.arange(len(points)))
        ions.append(scan.landscape(grid, energies, refinement))
    union_levels, union_heights = union_of_ions(ions, structure, symmetry)
    return LandscapeResult(
        ions=ions,
        union_levels_eV=union_levels,
        union_heights_eV=union_heights,
        spacing_A=spacing_A,
        evaluations=store.evaluations,
        evaluations_this_run=store.evaluations_this_run,
        seconds=store.seconds_before + time.perf_counter() - began,
    )


class _IonScan:
    """One ion of a supercell and the frozen rest."""

    def __init__(self, structure: Structure, ion: str, supercell: Supercell, site: int, settings: ScanSettings) -> None:
        self.site, self.supercell, self.settings = site, supercell, settings
        atom = supercell.atom_at(structure.cart_coords[site], ion)
        rest = np.delete(np.arange(len(supercell.species)), atom)
        self.home = supercell.frac_coords[atom]
        self.frozen_frac = supercell.frac_coords[rest]
        species = [str(x) for x in supercell.species[rest]]
        self.template = Atoms(
            [*species, ion],
            positions=np.vstack([self.frozen_frac, self.home]) @ supercell.lattice,
            cell=supercell.lattice,
            pbc=True,
        )
        numbers = self.template.numbers[:-1].tolist()
        self.operations = space_group_operations(supercell.lattice, self.frozen_frac, numbers, settings.symprec)

    def without_ion(self) -> Atoms:
        return self.template[:-1]

    def with_ion_at(self, frac: np.ndarray) -> Atoms:
        atoms = self.template.copy()
        atoms.positions[-1] = frac @ self.supercell.lattice
        return atoms

    def grid(self, spacing_A: float) -> ScanGrid:
        return build_grid(
            self.supercell.lattice,
            self.frozen_frac,
            self.home,
            spacing_A,
            self.settings.exclusion_radius_A,
            self.operations,
        )

    def landscape(self, grid: ScanGrid, energies: np.ndarray, refinement: Refinement | None) -> IonLandscape:
        field = np.full(len(grid.representative), np.inf)
        field[grid.irreducible] = energies
        return analyse(
            site_index=self.site,
            lattice=self.supercell.lattice,
            grid=grid,
            energies_eV=field[grid.representative].reshape(grid.shape),
            atoms=len(self.template),
            refinement=refinement,
        )


def _choose_supercell(
    structure: Structure, ion: str, symmetry: CrystalSymmetry, site: int, settings: ScanSettings
) -> Supercell:
    """Of several cells that are wide enough, the one whose scan costs least.

    Multiples of the given or of the primitive cell keep more symmetry, the most compact one has fewest atoms and
    points; which counts for more depends on the crystal.
    """
    from ase.geometry.minkowski_reduction import minkowski_reduce

    primitive = symmetry.primitive_lattice
    to_primitive = np.linalg.inv(primitive)
    choices = [
        diagonal_supercell(cell, settings.min_length_A) @ np.rint(cell @ to_primitive).astype(int)
        for cell in (structure.lattice.matrix, primitive, minkowski_reduce(primitive)[0])
    ]
    choices.append(compact_supercell(primitive, settings.min_length_A))
    best, least = None, np.inf
    for multiples in choices:
        supercell = build_supercell(structure, symmetry, multiples)
        scan = _IonScan(structure, ion, supercell, site, settings)
        cost = len(scan.grid(max(settings.spacing_A, 0.4)).irreducible) * len(scan.template)
        if cost < least:
            best, least = supercell, cost
    assert best is not None
    return best


def _affordable_grids(scans: list[_IonScan], settings: ScanSettings, formula: str) -> tuple[float, list[ScanGrid]]:
    """The finest grids, not finer than asked for, that the evaluations allow for."""
    spacing_A = settings.spacing_A
    while True:
        grids = [scan.grid(spacing_A) for scan in scans]
        points = [len(grid.irreducible) for grid in grids]
        needed = sum(expected_evaluations(count) if settings.refine else count for count in points)
        if settings.max_evaluations is None or needed <= settings.max_evaluations:
            return spacing_A, grids
        if spacing_A >= settings.max_spacing_A:
            raise CandidateError(
                f"{formula} needs {needed} energies even at a spacing of {spacing_A:.2f} A; raise "
                f"max_evaluations ({settings.max_evaluations}) to let it in.",
                Reason.TOO_MANY_EVALUATIONS,
            )
        # Fewer points grow with the cube of the spacing; the step is small enough not to overshoot the budget by much.
        factor = max((needed / settings.max_evaluations) ** (1 / 3) * 0.97, 1.03)
        spacing_A = min(spacing_A * factor, settings.max_spacing_A)


class _EnergyStore:
    """Evaluates blocks of images and keeps their energies in the checkpoint."""

    def __init__(
        self, potential: Potential, checkpoint: Path | None, key: str, block: int, progress: ScanProgress | None
    ) -> None:
        self.potential, self.checkpoint, self.key, self.block, self.progress = (
            potential,
            checkpoint,
            key,
            block,
            progress,
        )
        self.began = time.perf_counter()
        self.saved = load_checkpoint(checkpoint, key) or {}
        self.seconds_before = float(self.saved.get("seconds", 0.0))
        self.evaluations, self.evaluations_this_run = 0, 0
        self.planned, self.done = 0, 0

    def energies(self, name: str, images: list[Atoms]) -> np.ndarray:
        """Energies of images in eV; those that the checkpoint holds are not evaluated again."""
        return self._energies(name, len(images), np.arange(len(images)), lambda which: [images[k] for k in which])

    def chosen_energies(
        self, name: str, points: np.ndarray, image: Callable[[np.ndarray], Atoms], which: np.ndarray
    ) -> np.ndarray:
        """Energies in eV of some of the points of a scan, shape (which,); counted as progress."""
        self.planned = max(self.planned, self.done + len(which))
        return self._energies(name, len(points), which, lambda few: [image(points[k]) for k in few], counted=True)

    def _energies(
        self,
        name: str,
        count: int,
        which: np.ndarray,
        images: Callable[[np.ndarray], list[Atoms]],
        counted: bool = False,
    ) -> np.ndarray:
        known = self.saved.get(name)
        energies = known if known is not None and len(known) == count else np.full(count, np.nan)
        missing = which[np.isnan(energies[which])]
        self.evaluations += len(which)
        if counted:
            self.done += len(which) - len(missing)
        for begin in range(0, len(missing), self.block):
            few = missing[begin : begin + self.block]
            values = np.asarray(self.potential.energies(images(few)), dtype=float)
            if not np.isfinite(values).all():
                raise NonFiniteEnergyError(
                    f"{self.potential.name} returned an energy that is not a number; raise the exclusion radius."
                )
            energies[few] = values
            self.evaluations_this_run += len(few)
            self._save(name, energies)
            if counted:
                self.done += len(few)
                if self.progress:
                    self.progress(self.done, self.planned)
        return energies[which]

    def _save(self, name: str, energies: np.ndarray) -> None:
        self.saved[name] = energies
        if self.checkpoint is not None:
            seconds = np.array(self.seconds_before + time.perf_counter() - self.began)
            save_checkpoint(self.checkpoint, self.key, self.saved | {"seconds": seconds})
