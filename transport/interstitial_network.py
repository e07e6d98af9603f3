"""The interstitial network of a crystal: voids of the framework, bottlenecks between them, and what percolates.

Vertices of the framework's radical Voronoi decomposition are the interstices, its edges the channel segments, and the
narrowest point of a segment is its bottleneck (B. He et al., Sci. Data 7 (2020) 153; A. Ye, B. He and S. Shi, the
geometric part of CAVD; T. F. Willems et al., Microporous Mesoporous Mater. 149 (2012) 134, for the method). The mobile
ions are taken out first. Radii are those of the largest sphere that touches no atom, min (distance - radius).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CandidateError, Reason, StructureError
from .framework_radii import FrameworkRadii, RadiusMethod, framework_radii
from .network_symmetry import symmetric_framework
from .percolation import Percolation
from .power_diagram import power_diagram
from .site_recovery import PASSABLE_SHARE, STANDARD_RADII_A, RecoveredSite, migrant_alpha, recovered_sites
from .sphere_clearance import SphereClearance
from .void_graph import VoidGraph, merge_close, merge_coincident, void_graph
from .widest_sphere import widest_percolating_radii_A

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Moving atoms by more than this (Angstrom) to make the framework symmetric is worth a sentence.
NOTED_SHIFT_A = 2e-3


@dataclass(frozen=True)
class InterstitialNetworkSettings:
    """How the network is built.

    Attributes
    ----------
    radii
        ``shannon`` (crystal radii by charge and coordination) or ``effective`` (from the distances to the neighbours);
        see :func:`.framework_radii.framework_radii`.
    given_radii_A
        Radii by species (``O2-``), site label or element symbol; they win.
    face_centres
        Count the centres of the diagram's faces as interstices, too.
    merge_coincident_A
        Vertices closer than this are one interstice.
    merge_close_A
        Voids closer than this to a better one are merged into it; 0 merges none. 0.5 to 0.8 are usual.
    minimum_radius_A
        Voids and segments narrower than this are left out of the network (not of the connection values).
    bond_valence
        Compute bond-valence site energies at interstices and bottlenecks where the table allows it.
    exact_connection
        Also follow paths that leave the straight segments, which are wider between atoms of different radii; see
        :mod:`.widest_sphere`. Otherwise the connection values are those along the segments.
    symprec_A
        How far atoms may lie from where the framework's symmetry has them; they are moved there.
    """

    radii: RadiusMethod = "shannon"
    given_radii_A: Mapping[str, float] = field(default_factory=dict)
    face_centres: bool = False
    merge_coincident_A: float = 0.02
    merge_close_A: float = 0.0
    minimum_radius_A: float | None = None
    bond_valence: bool = True
    exact_connection: bool = True
    symprec_A: float = 0.01

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if self.radii not in ("shannon", "effective"):
            raise ValueError(f"radii must be 'shannon' or 'effective', not {self.radii!r}")
        for name in ("merge_coincident_A", "merge_close_A"):
            if not 0 <= getattr(self, name) < 3:
                raise ValueError(f"{name} must lie between 0 and 3 Angstrom, not {getattr(self, name)}")
        if not self.symprec_A > 0:
            raise ValueError(f"symprec_A must be positive, not {self.symprec_A}")
        for key, radius in self.given_radii_A.items():
            if not 0 <= radius < 5:
                raise ValueError(f"the radius of {key} must lie between 0 and 5 Angstrom, not {radius}")


@dataclass(frozen=True)
class InterstitialNetwork:
    """Interstices, bottlenecks and connection values of a crystal.

    Attributes
    ----------
    ion
        The mobile ion.
    structure
        The crystal as it was decorated, mobile ions included.
    lattice, framework_frac_coords, framework_radii_A
        The spheres that were decomposed, exactly symmetric: rows in Angstrom (3, 3), (atoms, 3) and (atoms,).
    framework
        Sites and species behind the spheres, and where their radii come from.
    graph
        Voids and segments with radii; ``orbits`` are the labels of equivalent interstices, widest first.
    energies_eV, bottleneck_energies_eV
        Bond-valence site energies at interstices and bottlenecks, or None where the table lacks parameters.
    connection_values_A
        Radius of the largest sphere that percolates in at least one, at least two and three directions, by any path.
    segment_values_A
        The same along the segments of the network, which are straight: what CAVD and Zeo++ report.
    percolation
        The sweep behind those, over the graph before voids were merged; energies are minus radii in Angstrom.
    limiting_bottlenecks
        Fractional coordinates of the three bottlenecks that set ``segment_values_A``.
    largest_radius_A
        Radius of the widest interstice.
    migrant_alpha
        Mean over the mobile ion's sites of (clearance of the site / the ion's crystal radius), at most 1; None where
        the ion has no radius.
    passable_radius_A
        Standard radius of the ion times ``migrant_alpha`` times 0.85; None where the ion has no standard.
    recovery
        Each site of the mobile ion.
    euler_characteristic
        Of the cell complex; zero, or there would be no network.
    voronoi_vertices, voronoi_edges
        Pieces of the diagram before merging.
    operations
        Symmetry operations of the framework.
    oxidation_states_from
        How the charges were found; empty without charges.
    warnings
        What a person should know before trusting the numbers, one sentence each.
    seconds
        Wall time.
    """

    ion: str
    structure: Structure
    lattice: np.ndarray
    framework_frac_coords: np.ndarray
    framework_radii_A: np.ndarray
    framework: FrameworkRadii
    graph: VoidGraph
    energies_eV: np.ndarray | None
    bottleneck_energies_eV: np.ndarray | None
    connection_values_A: tuple[float, float, float]
    segment_values_A: tuple[float, float, float]
    percolation: Percolation
    limiting_bottlenecks: tuple[tuple[float, float, float], ...]
    largest_radius_A: float
    migrant_alpha: float | None
    passable_radius_A: float | None
    recovery: tuple[RecoveredSite, ...]
    euler_characteristic: int
    voronoi_vertices: int
    voronoi_edges: int
    operations: int
    oxidation_states_from: str
    warnings: tuple[str, ...]
    seconds: float
    settings: InterstitialNetworkSettings

    @property
    def dimension(self) -> int | None:
        """Directions in which the ion may pass by its standard radius; None where it has no standard."""
        if self.passable_radius_A is None:
            return None
        return sum(value > self.passable_radius_A for value in self.connection_values_A)

    @property
    def recovered_fraction(self) -> float:
        """Share of the mobile ion's sites that a point of the network recovers."""
        return sum(each.recovered for each in self.recovery) / len(self.recovery)

    @property
    def unique_interstices(self) -> np.ndarray:
        """Index of the first interstice of each label."""
        return np.unique(self.graph.orbits, return_index=True)[1]

    @property
    def unique_segments(self) -> np.ndarray:
        """Index of the first segment of each set of equivalent ones."""
        return np.unique(self.graph.edge_orbits, return_index=True)[1]

    def segment_lengths_A(self) -> np.ndarray:
        """Distance of the two interstices of each segment, shape (segments,)."""
        starts = self.graph.frac_coords[self.graph.edges[:, 0]]
        return np.linalg.norm((self.graph.ends() - starts) @ self.lattice, axis=1)


def interstitial_network(
    structure: Structure,
    ion: str = "Li",
    settings: InterstitialNetworkSettings | None = None,
    oxidation_states: Mapping[str, float] | None = None,
) -> InterstitialNetwork:
    """Build the interstitial network of a crystal.

    Parameters
    ----------
    structure
        Ordered or partly occupied, with or without oxidation states. Where none can be assigned, the network is built
        with the covalent radii of neutral atoms, and a warning says so.
    ion
        Element symbol of the mobile ion.
    settings
        Defaults to ``InterstitialNetworkSettings()``.
    oxidation_states
        Charges by element symbol that win over any assignment.

    Raises
    ------
    StructureError
        The structure cannot be used, or nothing is left without the mobile ion.
    NoMobileIonError
        It does not contain the ion.
    OxidationStateError
        The oxidation states that were given do not fit.
    """
    from .structures import check_structure

    settings = settings or InterstitialNetworkSettings()
    started = time.perf_counter()
    check_structure(structure, ion, partial_occupancies=True)
    decorated, states_from, warnings = decorated_structure(structure, ion, oxidation_states)
    framework = framework_radii(decorated, ion, settings.radii, settings.given_radii_A)
    warnings += framework.notes
    if len(framework.sites) == 0:
        raise StructureError(
            f"Nothing is left of {structure.composition.reduced_formula} without {ion}, so it has no voids; choose "
            "another mobile ion.",
            Reason.EMPTY_STRUCTURE,
        )
    kinds = np.unique(np.array(framework.species), return_inverse=True)[1]
    frac = decorated.frac_coords[framework.sites].reshape(-1, 3)
    symmetry = symmetric_framework(decorated.lattice.matrix, frac, kinds, settings.symprec_A)
    if symmetry.largest_shift_A > NOTED_SHIFT_A:
        warnings.append(
            f"Atoms of the framework were moved by up to {symmetry.largest_shift_A:.3f} Angstrom to where its symmetry "
            "has them."
        )
    members = np.bincount(symmetry.orbits)
    radii = (np.bincount(symmetry.orbits, weights=framework.radii_A) / members)[symmetry.orbits]
    diagram = power_diagram(symmetry.lattice, symmetry.frac_coords, radii)
    clearance = SphereClearance(symmetry.lattice, symmetry.frac_coords, radii)
    everything = void_graph(diagram, clearance, symmetry, settings.face_centres)
    percolation = everything.percolation()
    graph = merge_coincident(everything, symmetry.lattice, settings.merge_coincident_A)
    if settings.minimum_radius_A is not None:
        graph = graph.without(settings.minimum_radius_A)
    energies_at = _site_energies(decorated, ion, settings, warnings) if states_from else None
    if settings.merge_close_A and len(graph.radii_A):
        ranks = -graph.radii_A if energies_at is None else energies_at(graph.frac_coords)
        graph = merge_close(graph, symmetry.lattice, settings.merge_close_A, ranks)
    graph = _labelled(graph)
    alpha = migrant_alpha(decorated, ion, framework, clearance)
    standard = STANDARD_RADII_A.get(ion)
    one, two, three = (-level for level in percolation.thresholds_eV)
    values = one, two, three
    if settings.exact_connection:
        values, _ = widest_percolating_radii_A(clearance, values)
    return InterstitialNetwork(
        ion=ion,
        structure=decorated,
        lattice=symmetry.lattice,
        framework_frac_coords=symmetry.frac_coords,
        framework_radii_A=radii,
        framework=framework,
        graph=graph,
        energies_eV=None if energies_at is None else energies_at(graph.frac_coords),
        bottleneck_energies_eV=None if energies_at is None else energies_at(graph.bottleneck_frac_coords),
        connection_values_A=values,
        segment_values_A=(one, two, three),
        percolation=percolation,
        limiting_bottlenecks=tuple(
            _point(everything.bottleneck_frac_coords[edge]) for edge in percolation.bottleneck if edge is not None
        ),
        largest_radius_A=float(everything.radii_A.max()),
        migrant_alpha=alpha,
        passable_radius_A=None if standard is None or alpha is None else standard[0] * alpha * PASSABLE_SHARE,
        recovery=recovered_sites(decorated, ion, everything, diagram.faces, symmetry.lattice, settings.face_centres),
        euler_characteristic=diagram.euler_characteristic,
        voronoi_vertices=len(diagram.vertices),
        voronoi_edges=len(diagram.edges),
        operations=len(symmetry.rotations),
        oxidation_states_from=states_from,
        warnings=tuple(warnings),
        seconds=time.perf_counter() - started,
        settings=settings,
    )


def _point(frac_coords: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in frac_coords - np.floor(frac_coords))
    return x, y, z


def decorated_structure(
    structure: Structure, ion: str, oxidation_states: Mapping[str, float] | None
) -> tuple[Structure, str, list[str]]:
    """The structure with charges if any can be had, how they were found, and sentences about them.

    Parameters
    ----------
    structure
        The crystal.
    ion
        Element symbol of the mobile ion.
    oxidation_states
        Charges by element symbol that win over any assignment.

    Raises
    ------
    OxidationStateError
        The oxidation states that were given do not fit.
    """
    from .errors import OxidationStateError
    from .structures import assign_oxidation_states

    try:
        decorated = assign_oxidation_states(structure, ion, dict(oxidation_states) if oxidation_states else None)
    except OxidationStateError as error:
        if oxidation_states:
            raise
        bare = structure.copy()
        bare.remove_oxidation_states()
        return bare, "", [f"Without charges, because none could be assigned: {error}"]
    properties = decorated.properties or {}
    found = str(properties.get("oxidation_states_from", "structure"))
    return decorated, found, list(properties.get("oxidation_states_warnings", ()))


def _site_energies(decorated: Structure, ion: str, settings: InterstitialNetworkSettings, warnings: list[str]) -> Any:
    """Function from points to bond-valence energies in eV, or None with a sentence why not."""
    from .site_energy import bond_valence_framework

    if not settings.bond_valence:
        return None
    try:
        framework = bond_valence_framework(decorated, ion)
    except CandidateError as error:
        warnings.append(f"No bond-valence energies: {error}")
        return None
    return lambda points: framework.energies_at(points)[0]


def _labelled(graph: VoidGraph) -> VoidGraph:
    """Labels counted from the widest interstice and segment down."""

    def renumbered(orbits: np.ndarray, radii: np.ndarray) -> np.ndarray:
        if len(orbits) == 0:
            return orbits
        present, first, inverse = np.unique(orbits, return_index=True, return_inverse=True)
        order = np.lexsort((first, -np.round(radii[first], 6)))
        place = np.empty(len(present), dtype=int)
        place[order] = np.arange(len(present))
        return np.asarray(place[inverse])

    return VoidGraph(
        graph.frac_coords,
        graph.radii_A,
        renumbered(graph.orbits, graph.radii_A),
        graph.vertices,
        graph.edges,
        graph.images,
        graph.bottleneck_frac_coords,
        graph.bottleneck_radii_A,
        renumbered(graph.edge_orbits, graph.bottleneck_radii_A),
    )
