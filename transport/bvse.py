"""Percolation of the bond-valence site energy: what an ion has to climb in one, two and three directions.

All ions of the mobile species are taken out, so the crystal is an empty, rigid framework: barriers come out higher than
those of DFT and serve to sort, not to predict. The energy itself is in :mod:`.site_energy`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .bond_valence_parameters import BondValenceParameters, load_parameters, mobile_ions
from .path_stops import NamedStop, name_stops
from .percolation import percolate_grid
from .percolation_paths import PercolationPath, percolation_paths
from .saddles import NEARBY_LEVEL_EV, RefinedPercolation, refine_percolation, unrefined
from .site_energy import BondValenceSettings, SiteEnergyField, bond_valence_field

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: A site that is so much deeper (eV) and joins the percolating region only just too late is worth a sentence.
KNIFE_EDGE_EV = 0.02

__all__ = [
    "BondValenceParameters",
    "BondValenceResult",
    "BondValenceSettings",
    "SiteEnergyField",
    "below_ceiling",
    "bond_valence_field",
    "bond_valence_percolation",
    "charges_in_use",
    "load_parameters",
    "mobile_ions",
]


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
    grid_barriers_eV
        ``barriers_eV`` of the grid alone; equal to them where nothing was refined.
    dimension
        Highest dimension that percolates below the energy ceiling, 0 to 3.
    bottleneck_frac_coords
        Fractional coordinates of the point that opens each dimension, or None.
    minimum_frac_coords
        Fractional coordinates of the lowest point of the component that percolates in each dimension, or None.
    grid_shape, spacing_A
        The grid; the spacing is the largest one along a cell vector.
    at_saddle
        Whether the threshold of each dimension is a saddle point of the continuous field; otherwise it is the grid's.
    saddles_tried, saddles_found
        Passes that were looked at for that, and those where a saddle point was found.
    operations
        Symmetry operations of the framework that the grid has.
    path, stops
        The path along which the grid percolates in one direction, and the sites that it joins; None and empty where it
        does not percolate or no path was asked for.
    framework_ions
        Ions that stayed in the framework.
    oxidation_states
        Charges in use for each element, sorted.
    oxidation_states_from
        How they were found.
    warnings
        What a person should know before trusting the numbers, one sentence each.
    oxidation_seconds, field_seconds, percolation_seconds, seconds
        Wall time of the parts and of all.
    """

    ion: str
    ion_charge: int
    barriers_eV: tuple[float, float, float]
    barriers_from_global_minimum_eV: tuple[float, float, float]
    thresholds_eV: tuple[float, float, float]
    component_minimum_eV: tuple[float, float, float]
    global_minimum_eV: float
    grid_barriers_eV: tuple[float, float, float]
    dimension: int
    bottleneck_frac_coords: tuple[tuple[float, float, float] | None, ...]
    minimum_frac_coords: tuple[tuple[float, float, float] | None, ...]
    grid_shape: tuple[int, int, int]
    spacing_A: float
    at_saddle: tuple[bool, bool, bool]
    saddles_tried: int
    saddles_found: int
    operations: int
    path: PercolationPath | None
    stops: tuple[NamedStop, ...]
    framework_ions: int
    oxidation_states: dict[str, list[float]]
    oxidation_states_from: str
    warnings: tuple[str, ...]
    oxidation_seconds: float
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
        Ordered or partly occupied; oxidation states are assigned when it has none.
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
    check_structure(structure, ion, partial_occupancies=True)
    decorated = assign_oxidation_states(structure, ion, oxidation_states)
    before_field = time.perf_counter()
    energies = bond_valence_field(decorated, ion, settings)
    before_percolation = time.perf_counter()
    open_values = below_ceiling(energies.values, settings.energy_ceiling_eV)
    on_grid = percolate_grid(open_values, neighbours=settings.neighbours, lattice=energies.lattice)
    if settings.refine:
        highest_eV = energies.values.min() + settings.energy_ceiling_eV
        refined = refine_percolation(energies, open_values, on_grid, settings.neighbours, highest_eV)
    else:
        refined = unrefined(energies, on_grid)
    percolation = refined.percolation
    path: PercolationPath | None = None
    stops: tuple[NamedStop, ...] = ()
    if settings.path and np.isfinite(on_grid.thresholds_eV[0]):
        (path,) = percolation_paths(open_values, 1, energies.lattice, settings.neighbours)
        stops = name_stops(path, decorated, ion)
    finished = time.perf_counter()
    shape = energies.values.shape
    properties = decorated.properties or {}
    return BondValenceResult(
        ion=ion,
        ion_charge=energies.ion_charge,
        barriers_eV=percolation.barriers_eV,
        barriers_from_global_minimum_eV=percolation.barriers_from_global_minimum_eV,
        thresholds_eV=percolation.thresholds_eV,
        component_minimum_eV=percolation.component_minimum_eV,
        global_minimum_eV=percolation.global_minimum_eV,
        grid_barriers_eV=on_grid.barriers_eV,
        dimension=percolation.dimension,
        bottleneck_frac_coords=refined.bottleneck_frac_coords,
        minimum_frac_coords=refined.minimum_frac_coords,
        grid_shape=(shape[0], shape[1], shape[2]),
        spacing_A=energies.spacing_A,
        at_saddle=refined.at_saddle,
        saddles_tried=refined.saddles_tried,
        saddles_found=refined.saddles_found,
        operations=energies.operations,
        path=path,
        stops=stops,
        framework_ions=len(energies.framework.kinds),
        oxidation_states=charges_in_use(decorated),
        oxidation_states_from=str(properties.get("oxidation_states_from", "structure")),
        warnings=(*properties.get("oxidation_states_warnings", ()), *_knife_edges(refined)),
        oxidation_seconds=before_field - started,
        field_seconds=before_percolation - before_field,
        percolation_seconds=finished - before_percolation,
        seconds=finished - started,
        settings=settings,
    )


def charges_in_use(structure: Structure) -> dict[str, list[float]]:
    """Charges that the atoms of each element have, sorted, in a structure that has them."""
    charges: dict[str, set[float]] = defaultdict(set)
    for site in structure:
        for species in site.species:
            charges[species.symbol].add(round(float(species.oxi_state or 0), 4))
    return {element: sorted(values) for element, values in sorted(charges.items())}


def _knife_edges(refined: RefinedPercolation) -> list[str]:
    """Sentences for barriers that a few meV decide: a deeper site joins just above the percolation level."""
    percolation = refined.percolation
    found: dict[str, list[str]] = defaultdict(list)
    for dimension, (own, nearby, threshold) in enumerate(
        zip(percolation.component_minimum_eV, refined.nearby_minimum_eV, percolation.thresholds_eV, strict=True), 1
    ):
        if own - nearby > KNIFE_EDGE_EV:
            found[
                f"a site {own - nearby:.2f} eV deeper joins the percolating region less than {NEARBY_LEVEL_EV:g} eV "
                f"above its level; counted from that site the barrier is {threshold - nearby:.2f} eV."
            ].append(f"{dimension}D")
    return [f"In {' and '.join(dimensions)} {sentence}" for sentence, dimensions in found.items()]


def below_ceiling(values: np.ndarray, ceiling_eV: float) -> np.ndarray:
    """The field with ``inf`` where it lies higher than ``ceiling_eV`` above its minimum."""
    return np.where(values <= values.min() + ceiling_eV, values, np.inf)
