"""Bond-valence site energy of a mobile ion on a periodic grid, and its percolation barriers.

The energy of a test ion at a point is a Morse attraction to the framework ions of opposite sign and a screened Coulomb
repulsion from those of the same sign (S. Adams and R. P. Rao, Phys. Status Solidi A 208 (2011) 1746; H. Chen,
L. L. Wong and S. Adams, Acta Cryst. B 75 (2019) 18), in the form that BVlain uses for the labels of the LiTraj set
(A. D. Dembitskiy et al., npj Comput. Mater. 11 (2025) 131)::

    E = sum_opposite (D0/2) [(exp(alpha (Rmin - R)) - 1)^2 - 1]
      + sum_same     14.4 V1 V2 / sqrt(n1 n2) / R erfc(R / (f (r1 + r2)))

All ions of the mobile species are taken out, so the crystal is an empty, rigid framework: barriers come out higher than
those of DFT and serve to sort, not to predict.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import erfc

from .bond_valence_parameters import (
    BondValenceParameters,
    RadiusTable,
    ion_name,
    load_parameters,
    mobile_ions,
    principal_quantum_number,
)
from .errors import CandidateError, MissingParametersError, NoMobileIonError, OxidationStateError, Reason
from .percolation import NEIGHBOUR_COUNTS, Percolation, percolate_grid

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = [
    "BondValenceParameters",
    "BondValenceResult",
    "BondValenceSettings",
    "SiteEnergyField",
    "bond_valence_field",
    "bond_valence_percolation",
    "load_parameters",
    "mobile_ions",
]

COULOMB_EV_A = 14.4  # e^2 / (4 pi epsilon_0), rounded as in the source of the formula


#: Width of the bins of distance in which pair energies are tabulated, in Angstrom.
TABLE_BIN_A = 0.005

#: Grid points closer to a nucleus than this (Angstrom) get the energy at this distance, which is finite.
SHORTEST_DISTANCE_A = 0.01

#: erfc(4.5) = 2e-10: beyond this multiple of its screening length a Coulomb term lies below 1e-8 eV and is left out.
LONGEST_SCREENED = 4.5


@dataclass(frozen=True)
class MorseTerm:
    """Attraction between ions of opposite sign, (D0/2) [(exp(alpha (Rmin - R)) - 1)^2 - 1]."""

    D0_eV: float
    alpha_per_A: float
    Rmin_A: float
    reach_A: float = math.inf

    def __call__(self, distance_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy in eV and its slope in eV/Angstrom."""
        growth = np.exp(self.alpha_per_A * (self.Rmin_A - distance_A))
        return self.D0_eV / 2 * growth * (growth - 2), -self.D0_eV * self.alpha_per_A * growth * (growth - 1)


@dataclass(frozen=True)
class CoulombTerm:
    """Repulsion between ions of one sign, strength / R erfc(R / screening_length)."""

    strength_eV_A: float
    screening_length_A: float

    @property
    def reach_A(self) -> float:
        """Distance beyond which the term is nothing."""
        return LONGEST_SCREENED * self.screening_length_A

    def __call__(self, distance_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy in eV and its slope in eV/Angstrom."""
        scaled = distance_A / self.screening_length_A
        energy = self.strength_eV_A / distance_A * erfc(scaled)
        slope = (
            -energy / distance_A
            - self.strength_eV_A / distance_A * 2 / math.sqrt(math.pi) * np.exp(-(scaled**2)) / self.screening_length_A
        )
        return energy, slope


@dataclass(frozen=True)
class BondValenceSettings:
    """How the field is computed.

    Attributes
    ----------
    spacing_A
        Largest distance of neighbouring grid points along a cell vector, in Angstrom. 0.2 keeps 1D barriers within
        0.03 eV and 3D ones within 0.09 eV of a 0.1 Angstrom grid.
    cutoff_A
        Range of the pair terms in Angstrom.
    screening
        f of the Coulomb term.
    neighbours
        Grid neighbours through which an ion may pass: 6, 18 or 26.
    radii
        Covalent radii of the Coulomb term: ``cordero`` or ``softbv``; the choice moves barriers by up to 0.1 eV in one
        and 0.4 eV in three dimensions.
    energy_ceiling_eV
        Points higher than this above the field's minimum are closed to the ion; a crystal that percolates only above
        it has the barrier ``inf``.
    max_grid_points
        Larger grids are refused, so that one huge cell cannot take a worker's memory.
    """

    spacing_A: float = 0.2
    cutoff_A: float = 10.0
    screening: float = 0.74
    neighbours: int = 26
    radii: RadiusTable = "cordero"
    energy_ceiling_eV: float = 10.0
    max_grid_points: int = 20_000_000

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        for name in ("spacing_A", "cutoff_A", "screening", "energy_ceiling_eV", "max_grid_points"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        if self.neighbours not in NEIGHBOUR_COUNTS:
            raise ValueError(f"neighbours must be 6, 18 or 26, not {self.neighbours}")
        if self.radii not in ("cordero", "softbv"):
            raise ValueError(f"radii must be 'cordero' or 'softbv', not {self.radii!r}")


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
    pair_terms
        Number of pair terms that were summed, estimated by the volume of the atoms' spheres.
    """

    values: np.ndarray
    lattice: np.ndarray
    spacing_A: float
    ion: str
    ion_charge: int
    pair_terms: int = 0


@dataclass(frozen=True)
class BondValenceResult:
    """Percolation barriers of a crystal.

    Attributes
    ----------
    ion, ion_charge
        The mobile ion.
    barriers_eV
        Threshold of 1D, 2D and 3D percolation less the minimum of the component that percolates; ``inf`` for none.
    barriers_from_global_minimum_eV
        The same less the minimum of the whole field (BVlain's convention).
    thresholds_eV, component_minimum_eV, global_minimum_eV
        The absolute levels behind them.
    dimension
        Highest dimension that percolates below the energy ceiling, 0 to 3.
    bottleneck_frac_coords
        Fractional coordinates of the grid point that opens each dimension, or None.
    grid_shape, spacing_A
        The grid; the spacing is the largest one along a cell vector.
    framework_atoms
        Atoms that stayed in the framework.
    oxidation_states
        Charges in use for each element, sorted.
    oxidation_states_from
        How they were found.
    field_seconds, percolation_seconds, seconds
        Wall time; ``seconds`` includes the oxidation states.
    """

    ion: str
    ion_charge: int
    barriers_eV: tuple[float, float, float]
    barriers_from_global_minimum_eV: tuple[float, float, float]
    thresholds_eV: tuple[float, float, float]
    component_minimum_eV: tuple[float, float, float]
    global_minimum_eV: float
    dimension: int
    bottleneck_frac_coords: tuple[tuple[float, float, float] | None, ...]
    grid_shape: tuple[int, int, int]
    spacing_A: float
    framework_atoms: int
    oxidation_states: dict[str, list[float]]
    oxidation_states_from: str
    field_seconds: float
    percolation_seconds: float
    seconds: float
    settings: BondValenceSettings = field(default_factory=BondValenceSettings)

    @property
    def barrier_1d_eV(self) -> float:
        """1D barrier from the percolating component's minimum."""
        return self.barriers_eV[0]

    @property
    def barrier_2d_eV(self) -> float:
        """2D barrier from the percolating component's minimum."""
        return self.barriers_eV[1]

    @property
    def barrier_3d_eV(self) -> float:
        """3D barrier from the percolating component's minimum."""
        return self.barriers_eV[2]


def bond_valence_field(structure: Structure, ion: str, settings: BondValenceSettings | None = None) -> SiteEnergyField:
    """Site energy of the mobile ion on the grid.

    Parameters
    ----------
    structure
        Ordered structure with oxidation states (see ``structures.assign_oxidation_states``).
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
    from .bvse_kernels import add_radial_terms

    settings = settings or BondValenceSettings()
    charge = _mobile_charge(structure, ion)
    frac_coords, kinds, terms = _framework_terms(structure, ion, charge, settings)
    shape = _grid_shape(structure, settings)
    lattice = np.array(structure.lattice.matrix, dtype=np.float64)
    divisions = np.array(shape, dtype=np.float64)
    values = np.zeros(shape)
    add_radial_terms(
        values,
        np.ascontiguousarray(lattice / divisions[:, None]),
        np.ascontiguousarray((frac_coords % 1.0) * divisions),
        kinds,
        np.stack([_radial_table(term, settings.cutoff_A) for term in terms]),
        TABLE_BIN_A,
        np.array([min(settings.cutoff_A, term.reach_A) for term in terms]),
    )
    sphere_volumes = 4.0 / 3.0 * np.pi * np.array([min(settings.cutoff_A, term.reach_A) for term in terms]) ** 3
    voxel_volume = abs(np.linalg.det(lattice)) / values.size
    return SiteEnergyField(
        values=values,
        lattice=lattice,
        spacing_A=float((np.linalg.norm(lattice, axis=1) / divisions).max()),
        ion=ion,
        ion_charge=charge,
        pair_terms=round(float(sphere_volumes[kinds].sum() / voxel_volume)),
    )


def bond_valence_percolation(
    structure: Structure,
    ion: str = "Li",
    settings: BondValenceSettings | None = None,
    oxidation_states: dict[str, float] | None = None,
) -> BondValenceResult:
    """Percolation barriers of the mobile ion in 1, 2 and 3 dimensions.

    Parameters
    ----------
    structure
        Ordered structure; oxidation states are assigned when it has none.
    ion
        Element symbol of the mobile ion.
    settings
        Defaults to ``BondValenceSettings()``.
    oxidation_states
        Charges by element symbol that win over any assignment.

    Raises
    ------
    CandidateError
        One of its family: the structure cannot be used, has no charge-balanced oxidation states, or needs a pair that
        the table lacks.
    """
    from .structures import assign_oxidation_states, check_structure

    settings = settings or BondValenceSettings()
    started = time.perf_counter()
    check_structure(structure, ion)
    decorated = assign_oxidation_states(structure, ion, oxidation_states)
    before_field = time.perf_counter()
    energies = bond_valence_field(decorated, ion, settings)
    before_percolation = time.perf_counter()
    percolation = _percolate_below_ceiling(energies, settings)
    finished = time.perf_counter()
    shape = energies.values.shape
    charges: dict[str, set[float]] = defaultdict(set)
    for site in decorated:
        charges[site.specie.symbol].add(round(_charge(site.specie), 4))
    return BondValenceResult(
        ion=ion,
        ion_charge=energies.ion_charge,
        barriers_eV=percolation.barriers_eV,
        barriers_from_global_minimum_eV=percolation.barriers_from_global_minimum_eV,
        thresholds_eV=percolation.thresholds_eV,
        component_minimum_eV=percolation.component_minimum_eV,
        global_minimum_eV=percolation.global_minimum_eV,
        dimension=percolation.dimension,
        bottleneck_frac_coords=tuple(
            None
            if voxel is None
            else tuple(float(i) / n for i, n in zip(np.unravel_index(voxel, shape), shape, strict=True))
            for voxel in percolation.bottleneck
        ),
        grid_shape=(shape[0], shape[1], shape[2]),
        spacing_A=energies.spacing_A,
        framework_atoms=sum(site.specie.symbol != ion for site in decorated),
        oxidation_states={element: sorted(values) for element, values in sorted(charges.items())},
        oxidation_states_from=str((decorated.properties or {}).get("oxidation_states_from", "structure")),
        field_seconds=before_percolation - before_field,
        percolation_seconds=finished - before_percolation,
        seconds=finished - started,
        settings=settings,
    )


def _percolate_below_ceiling(energies: SiteEnergyField, settings: BondValenceSettings) -> Percolation:
    values = energies.values
    open_values = np.where(values <= values.min() + settings.energy_ceiling_eV, values, np.inf)
    return percolate_grid(open_values, neighbours=settings.neighbours, lattice=energies.lattice)


def _grid_shape(structure: Structure, settings: BondValenceSettings) -> tuple[int, int, int]:
    # A length that is a multiple of the spacing up to rounding noise must not get one more point than its supercell.
    n1, n2, n3 = (max(1, int(np.ceil(length / settings.spacing_A - 1e-6))) for length in structure.lattice.abc)
    if n1 * n2 * n3 > settings.max_grid_points:
        raise CandidateError(
            f"The cell needs a grid of {n1} x {n2} x {n3} points at {settings.spacing_A} Angstrom, more than the limit "
            f"of {settings.max_grid_points}; use a smaller cell or a larger spacing_A.",
            Reason.TOO_MANY_ATOMS,
        )
    return n1, n2, n3


def _mobile_charge(structure: Structure, ion: str) -> int:
    charges = {_charge(site.specie) for site in structure if site.specie.symbol == ion}
    if not charges:
        raise NoMobileIonError(f"The structure {structure.composition.reduced_formula} contains no {ion}.")
    if len(charges) > 1:
        states = ", ".join(ion_name(ion, charge) for charge in sorted(charges))
        raise OxidationStateError(
            f"The mobile ion {ion} occurs with different charges ({states}), and the test ion can have only one; "
            f"give the oxidation state of {ion}."
        )
    charge = charges.pop()
    parameters = load_parameters()
    if (ion, charge) not in parameters.cations | parameters.anions:
        raise MissingParametersError(
            f"The bond-valence table has no parameters for a mobile {ion_name(ion, charge)}; "
            "give another oxidation state if this one is wrong, or use the stages without bond valences (pes, neb)."
        )
    return int(charge)


def _charge(specie: object) -> float:
    charge = getattr(specie, "oxi_state", None)
    if charge is None or charge == 0:
        raise OxidationStateError(
            f"The site of {getattr(specie, 'symbol', specie)} has no charge, so it has no bond-valence energy; "
            "give the oxidation states of all elements."
        )
    return float(charge)


def _framework_terms(
    structure: Structure, ion: str, charge: int, settings: BondValenceSettings
) -> tuple[np.ndarray, np.ndarray, list[MorseTerm | CoulombTerm]]:
    """Fractional coordinates (atoms, 3) and term (atoms,) of the framework, and the list of terms."""
    table = load_parameters()
    quantum_number = principal_quantum_number(ion)
    radius = table.covalent_radius_A(ion, charge, settings.radii)
    known: dict[tuple[str, float], int] = {}
    terms: list[MorseTerm | CoulombTerm] = []
    coords, kinds = [], []
    for site in structure:
        element = site.specie.symbol
        if element == ion:
            continue
        other = _charge(site.specie)
        if (element, other) not in known:
            known[element, other] = len(terms)
            if other * charge < 0:
                pair = table.pair(ion, charge, element, other)
                terms.append(MorseTerm(pair.D0_eV, pair.alpha_per_A, pair.Rmin_A))
            else:
                strength = COULOMB_EV_A * charge * other / math.sqrt(quantum_number * principal_quantum_number(element))
                radii = radius + table.covalent_radius_A(element, other, settings.radii)
                terms.append(CoulombTerm(strength, settings.screening * radii))
        coords.append(site.frac_coords)
        kinds.append(known[element, other])
    if not any(isinstance(term, MorseTerm) for term in terms):
        raise MissingParametersError(
            f"No framework ion attracts {ion_name(ion, charge)} in {structure.composition.reduced_formula}, so there "
            "is no bond-valence landscape; check the oxidation states."
        )
    return np.array(coords), np.array(kinds, dtype=np.int64), terms


def _radial_table(term: MorseTerm | CoulombTerm, cutoff_A: float) -> np.ndarray:
    """Cubic Hermite polynomials of a pair energy over bins of TABLE_BIN_A, shape (bins, 4).

    Each matches energy and slope at both ends of its bin; at 0.005 Angstrom the error is below 1e-8 eV wherever an ion
    can be (distances above 1 Angstrom), far below anything that the model means.
    """
    edges = np.arange(math.ceil(cutoff_A / TABLE_BIN_A) + 1) * TABLE_BIN_A
    energy, slope = term(np.maximum(edges, SHORTEST_DISTANCE_A))
    slope = slope * TABLE_BIN_A
    rise = energy[1:] - energy[:-1]
    return np.stack(
        [energy[:-1], slope[:-1], 3 * rise - 2 * slope[:-1] - slope[1:], slope[:-1] + slope[1:] - 2 * rise], axis=1
    )
