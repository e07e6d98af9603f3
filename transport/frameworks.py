"""A crystal without its mobile ions, as a test ion feels it: pair energies, and the field at single points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bond_valence_parameters import (
    BondValenceParameters,
    RadiusTable,
    ion_name,
    load_parameters,
    principal_quantum_number,
)
from .errors import MissingParametersError, NoMobileIonError, OxidationStateError
from .pair_energies import COULOMB_EV_A, TABLE_BIN_A, CoulombTerm, MorseTerm, radial_table
from .percolation import NEIGHBOUR_COUNTS

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class BondValenceSettings:
    """How the field is computed.

    Attributes
    ----------
    spacing_A
        Largest distance of neighbouring grid points along a cell vector, in Angstrom. Refined barriers do not depend
        on it up to 0.3 Angstrom (5e-5 eV on 20 known conductors); plain grids of 0.25 err by up to 0.14 eV.
    cutoff_A
        Range of the pair terms in Angstrom.
    screening
        f of the Coulomb term. 0.74 for every structure, as in BVlain; softBV is said to adapt it to the average charge
        of the cations, by a rule that is not published in a form that could be checked.
    balance_charges
        Multiply the Coulomb term by the ratio of the anions' to the cations' scaled charges, sum V / sqrt(n), so that
        the repulsion follows the average charge of the crystal's ions (the convention of the SPSE labels of B. He
        et al., Sci. Data 7 (2020) 151). Off by default, as in BVlain.
    neighbours
        Grid neighbours through which an ion may pass: 6, 18 or 26.
    radii
        Covalent radii of the Coulomb term: ``cordero`` or ``softbv``; the choice moves barriers by 0.01 eV in the
        median, and single ones by up to 0.25 eV in one and 0.9 eV in three dimensions.
    energy_ceiling_eV
        Points higher than this above the field's minimum are closed to the ion; a crystal that percolates only above
        it has the barrier ``inf``.
    max_grid_points
        Larger grids are refused, so that one huge cell cannot take a worker's memory.
    refine
        Replace the grid's minima and bottlenecks by the minima and saddle points of the continuous field
        (:mod:`.saddles`); otherwise the barriers are those of the grid.
    path
        Also find the path along which the ion crosses the crystal in one direction, on the grid.
    symmetry
        Use the space group of the framework to sum each orbit of atoms only once. The answer is the same.
    symmetry_tolerance_A
        How far atoms may lie from where the symmetry would have them.
    grid_shape
        Number of grid points along each cell vector, instead of ``spacing_A``.
    workers
        Threads that share the sum over atoms.
    """

    spacing_A: float = 0.25
    cutoff_A: float = 10.0
    screening: float = 0.74
    balance_charges: bool = False
    neighbours: int = 26
    radii: RadiusTable = "cordero"
    energy_ceiling_eV: float = 10.0
    max_grid_points: int = 20_000_000
    refine: bool = True
    path: bool = False
    symmetry: bool = True
    symmetry_tolerance_A: float = 1e-3
    grid_shape: tuple[int, int, int] | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        for name in (
            "spacing_A",
            "cutoff_A",
            "screening",
            "energy_ceiling_eV",
            "max_grid_points",
            "symmetry_tolerance_A",
            "workers",
        ):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        if self.neighbours not in NEIGHBOUR_COUNTS:
            raise ValueError(f"neighbours must be 6, 18 or 26, not {self.neighbours}")
        if self.radii not in ("cordero", "softbv"):
            raise ValueError(f"radii must be 'cordero' or 'softbv', not {self.radii!r}")
        if self.grid_shape is not None and (len(self.grid_shape) != 3 or min(self.grid_shape) < 1):
            raise ValueError(f"grid_shape must be three positive numbers of points, not {self.grid_shape}")


@dataclass(frozen=True)
class StationaryPoints:
    """Where walks to minima or saddle points ended.

    Attributes
    ----------
    frac_coords
        Unwrapped fractional coordinates, shape (points, 3).
    energies_eV
        Shape (points,).
    found
        Whether each walk converged to a point of the wanted kind, bool, shape (points,).
    lowest_modes
        Unit vector of lowest curvature, Cartesian, shape (points, 3).
    """

    frac_coords: np.ndarray
    energies_eV: np.ndarray
    found: np.ndarray
    lowest_modes: np.ndarray


@dataclass(frozen=True)
class Framework:
    """The crystal without its mobile ions, as the test ion feels it; one entry an ion of a site.

    Attributes
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac_coords
        Fractional coordinates, shape (ions, 3).
    kinds
        Pair energy of each ion, int, shape (ions,).
    weights
        Occupancies, shape (ions,).
    tables
        Pair energies as cubic polynomials over bins of ``TABLE_BIN_A``, shape (kinds, bins, 4).
    reaches_A
        Range of each pair energy, shape (kinds,).
    ion, ion_charge
        The mobile ion.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray
    tables: np.ndarray
    reaches_A: np.ndarray
    ion: str
    ion_charge: int

    def energies_at(self, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Site energies in eV, shape (points,), and their gradients in eV/Angstrom, shape (points, 3)."""
        from .site_energy_kernels import energy_at

        points = np.asarray(frac_coords, dtype=float).reshape(-1, 3) @ self.lattice
        energies, gradients = np.empty(len(points)), np.empty((len(points), 3))
        hessian = np.empty((3, 3))
        for index, point in enumerate(points):
            energies[index] = energy_at(point, *self.kernel_arguments(), gradients[index], hessian)
        return energies, gradients

    def stationary_points(
        self,
        frac_coords: np.ndarray,
        negative_modes: int,
        trust_radius_A: float,
        farthest_A: float,
        most_steps: int = 60,
    ) -> StationaryPoints:
        """Minima (no negative mode) or saddle points (one) next to the starts.

        Parameters
        ----------
        frac_coords
            Where to start, shape (points, 3).
        negative_modes
            0 for minima, 1 for saddle points.
        trust_radius_A
            Longest step.
        farthest_A
            A walk that goes farther from its start ends without an answer.
        most_steps
            So does one that needs more steps.
        """
        from .site_energy_kernels import stationary_points

        starts = np.ascontiguousarray(np.asarray(frac_coords, dtype=float).reshape(-1, 3) @ self.lattice)
        positions, energies, found, directions = stationary_points(
            starts, negative_modes, trust_radius_A, farthest_A, most_steps, *self.kernel_arguments()
        )
        return StationaryPoints(positions @ np.linalg.inv(self.lattice), energies, found, directions)

    def kernel_arguments(self) -> tuple[Any, ...]:
        """Arguments of the kernels that work at points."""
        return (
            self.lattice,
            self.frac_coords,
            self.kinds,
            self.weights,
            self.tables,
            TABLE_BIN_A,
            self.reaches_A,
        )


def bond_valence_framework(structure: Structure, ion: str, settings: BondValenceSettings | None = None) -> Framework:
    """The structure without its mobile ions, with the pair energies of what is left.

    Raises
    ------
    NoMobileIonError, OxidationStateError, MissingParametersError
        As :func:`bond_valence_field`.
    """
    settings = settings or BondValenceSettings()
    charge = _mobile_charge(structure, ion)
    table = load_parameters()
    radius = table.covalent_radius_A(ion, charge, settings.radii)
    scale = _charge_balance(structure, charge) if settings.balance_charges else 1.0
    known: dict[tuple[str, float], int] = {}
    terms: list[MorseTerm | CoulombTerm] = []
    coords, kinds, weights = [], [], []
    for frac_coords, element, other, occupancy in _ions(structure):
        if element == ion:
            continue
        if (element, other) not in known:
            known[element, other] = len(terms)
            if other * charge < 0:
                pair = table.pair(ion, charge, element, other)
                terms.append(MorseTerm(pair.D0_eV, pair.alpha_per_A, pair.Rmin_A))
            else:
                quantum_numbers = principal_quantum_number(ion) * principal_quantum_number(element)
                strength = scale * COULOMB_EV_A * charge * other / math.sqrt(quantum_numbers)
                radii = radius + table.covalent_radius_A(element, other, settings.radii)
                terms.append(CoulombTerm(strength, settings.screening * radii))
        coords.append(frac_coords)
        kinds.append(known[element, other])
        weights.append(occupancy)
    if not any(isinstance(term, MorseTerm) for term in terms):
        raise MissingParametersError(
            f"No framework ion attracts {ion_name(ion, charge)} in {structure.composition.reduced_formula}, so there "
            "is no bond-valence landscape; check the oxidation states."
        )
    return Framework(
        lattice=np.array(structure.lattice.matrix, dtype=np.float64),
        frac_coords=np.array(coords, dtype=np.float64),
        kinds=np.array(kinds, dtype=np.int64),
        weights=np.array(weights, dtype=np.float64),
        tables=np.stack([radial_table(term, settings.cutoff_A) for term in terms]),
        reaches_A=np.array([min(settings.cutoff_A, term.reach_A) for term in terms]),
        ion=ion,
        ion_charge=charge,
    )


def _ions(structure: Structure) -> Iterator[tuple[np.ndarray, str, float, float]]:
    """Position, element, charge and occupancy of every ion of every site."""
    for site in structure:
        for species, occupancy in site.species.items():
            yield site.frac_coords, species.symbol, _charge(species), float(occupancy)


def _charge_balance(structure: Structure, charge: int) -> float:
    """Anions' over cations' sum of V / sqrt(n); its inverse when the mobile ion is an anion."""
    sums = {1: 0.0, -1: 0.0}
    for _, element, other, occupancy in _ions(structure):
        sums[1 if other > 0 else -1] += abs(other) * occupancy / math.sqrt(principal_quantum_number(element))
    return sums[-1] / sums[1] if charge > 0 else sums[1] / sums[-1]


def _mobile_charge(structure: Structure, ion: str) -> int:
    charges = {charge for _, element, charge, _ in _ions(structure) if element == ion}
    if not charges:
        raise NoMobileIonError(f"The structure {structure.composition.reduced_formula} contains no {ion}.")
    if len(charges) > 1:
        states = ", ".join(ion_name(ion, charge) for charge in sorted(charges))
        raise OxidationStateError(
            f"The mobile ion {ion} occurs with different charges ({states}), and the test ion can have only one; "
            f"give the oxidation state of {ion}."
        )
    charge = charges.pop()
    parameters: BondValenceParameters = load_parameters()
    if (ion, charge) not in parameters.cations | parameters.anions:
        raise MissingParametersError(
            f"The bond-valence table has no parameters for a mobile {ion_name(ion, charge)}; "
            "give another oxidation state if this one is wrong, or use the stages without bond valences (pes, neb)."
        )
    return int(charge)


def _charge(species: object) -> float:
    charge = getattr(species, "oxi_state", None)
    if charge is None or charge == 0:
        raise OxidationStateError(
            f"The site of {getattr(species, 'symbol', species)} has no charge, so it has no bond-valence energy; "
            "give the oxidation states of all elements."
        )
    return float(charge)
