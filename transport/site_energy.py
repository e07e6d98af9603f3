"""Bond-valence site energy of a mobile ion in the empty framework, on a grid and at single points.

The energy of a test ion at a point is a Morse attraction to the framework ions of opposite sign and a screened Coulomb
repulsion from those of the same sign (S. Adams and R. P. Rao, Phys. Status Solidi A 208 (2011) 1746; H. Chen,
L. L. Wong and S. Adams, Acta Cryst. B 75 (2019) 18), in the form that BVlain uses for the labels of the LiTraj set
(A. D. Dembitskiy et al., npj Comput. Mater. 11 (2025) 131)::

    E = sum_opposite o (D0/2) [(exp(alpha (Rmin - R)) - 1)^2 - 1]
      + sum_same     o 14.4 V1 V2 / sqrt(n1 n2) / R erfc(R / (f (r1 + r2)))

with the occupancy o of the site. All ions of the mobile element are taken out, whatever their occupancy; what shares a
site with them stays, with its own occupancy.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import CandidateError, Reason
from .frameworks import BondValenceSettings, Framework, StationaryPoints, bond_valence_framework
from .pair_energies import TABLE_BIN_A

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = [
    "BondValenceSettings",
    "Framework",
    "SiteEnergyField",
    "StationaryPoints",
    "bond_valence_field",
    "bond_valence_framework",
]


@dataclass(frozen=True)
class SiteEnergyField:
    """Energy of one test ion in an empty framework.

    Attributes
    ----------
    values
        eV, shape (n1, n2, n3); point (i, j, k) lies at the fractional coordinates (i/n1, j/n2, k/n3). Periodic: the
        boundary plane is not repeated.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    spacing_A
        Largest distance of neighbouring points along a cell vector.
    ion
        Element symbol of the test ion.
    ion_charge
        Its charge.
    framework
        What the field is the energy in.
    pair_terms
        Number of pair terms that the field stands for, estimated by the volume of the atoms' spheres.
    pair_terms_summed
        Number of those that were computed; symmetry gave the others.
    operations
        Symmetry operations of the framework that map the grid onto itself.
    """

    values: np.ndarray
    lattice: np.ndarray
    spacing_A: float
    ion: str
    ion_charge: int
    framework: Framework
    pair_terms: int = 0
    pair_terms_summed: int = 0
    operations: int = 1


def bond_valence_field(structure: Structure, ion: str, settings: BondValenceSettings | None = None) -> SiteEnergyField:
    """Site energy of the mobile ion on the grid.

    Parameters
    ----------
    structure
        Structure with oxidation states (see ``structures.assign_oxidation_states``); sites may be partly occupied.
    ion
        Element symbol of the mobile ion; a cation or an anion.
    settings
        Defaults to ``BondValenceSettings()``.

    Returns
    -------
    SiteEnergyField
        In the structure's own cell.

    Raises
    ------
    NoMobileIonError
        The structure does not contain the ion.
    OxidationStateError
        A site has no charge, or sites of the mobile ion have different ones.
    MissingParametersError
        The table lacks a pair or a radius.
    CandidateError
        The grid would exceed ``max_grid_points``.
    """
    from .site_energy_kernels import add_radial_terms, sum_over_orbits
    from .symmetric_grids import symmetric_grid

    settings = settings or BondValenceSettings()
    framework = bond_valence_framework(structure, ion, settings)
    shape = settings.grid_shape or _grid_shape(framework.lattice, settings.spacing_A)
    _refuse_huge(shape, settings)
    sphere_volumes = 4.0 / 3.0 * np.pi * framework.reaches_A**3
    volume = abs(np.linalg.det(framework.lattice))
    terms_per_point = float(sphere_volumes[framework.kinds].sum()) / volume
    grid = symmetric_grid(
        framework,
        shape,
        fixed=settings.grid_shape is not None,
        tolerance_A=settings.symmetry_tolerance_A if settings.symmetry else 0.0,
        terms_per_point=terms_per_point,
    )
    divisions = np.array(grid.shape, dtype=np.float64)
    chosen = np.sort(grid.representatives)
    values = np.zeros(grid.shape)
    steps = np.ascontiguousarray(framework.lattice / divisions[:, None])
    centres = np.ascontiguousarray((framework.frac_coords[chosen] % 1.0) * divisions)
    arguments = (
        values,
        steps,
        centres,
        framework.kinds[chosen],
        framework.weights[chosen] * grid.multiplicities[np.argsort(grid.representatives)] / len(grid.shifts),
        framework.tables,
        TABLE_BIN_A,
        framework.reaches_A,
    )
    planes = np.linspace(0, grid.shape[0], min(settings.workers, grid.shape[0]) + 1).astype(int)
    slabs = list(zip(planes[:-1].tolist(), planes[1:].tolist(), strict=True))
    if len(slabs) == 1:
        add_radial_terms(*arguments, *slabs[0])
    else:
        with ThreadPoolExecutor(len(slabs)) as threads:
            list(threads.map(lambda slab: add_radial_terms(*arguments, *slab), slabs))
    if len(grid.shifts) > 1:
        sum_over_orbits(values, grid.rotations, grid.shifts)
    return SiteEnergyField(
        values=values,
        lattice=framework.lattice,
        spacing_A=float((np.linalg.norm(framework.lattice, axis=1) / divisions).max()),
        ion=ion,
        ion_charge=framework.ion_charge,
        framework=framework,
        pair_terms=round(terms_per_point * values.size),
        pair_terms_summed=round(float(sphere_volumes[framework.kinds[chosen]].sum()) / volume * values.size),
        operations=len(grid.shifts),
    )


def _grid_shape(lattice: np.ndarray, spacing_A: float) -> tuple[int, int, int]:
    # A length that is a multiple of the spacing up to rounding noise must not get one more point than its supercell.
    n1, n2, n3 = (max(1, int(np.ceil(length / spacing_A - 1e-6))) for length in np.linalg.norm(lattice, axis=1))
    return n1, n2, n3


def _refuse_huge(shape: tuple[int, int, int], settings: BondValenceSettings) -> None:
    n1, n2, n3 = shape
    if n1 * n2 * n3 > settings.max_grid_points:
        raise CandidateError(
            f"The cell needs a grid of {n1} x {n2} x {n3} points at {settings.spacing_A} Angstrom, more than the limit "
            f"of {settings.max_grid_points}; use a smaller cell or a larger spacing_A.",
            Reason.TOO_MANY_ATOMS,
        )
