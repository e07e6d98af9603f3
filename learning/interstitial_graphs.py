"""From a crystal to the graph of its voids: interstices as nodes, bottlenecks as edges, and the atoms around both.

The representation of the interstitial network of S. Shi and co-workers: an interstice or a bottleneck is described by
its radius and its twelve nearest framework atoms, and equivalent ones are kept once. The crystal is reduced to its
primitive cell first, and everything in the graph is a number, a distance or an energy, so that it depends neither on
the cell, nor on the origin, the orientation or the order of the atoms.

A filtered graph remembers how many of each kind a cell has. Messages that are weighted with :func:`directed_edges`
then give every interstice what it would get in the unfiltered graph. Which interstices of the cell a segment joins,
and across which cell boundary, is kept as well: a list of numbers on nodes and edges percolates as it does in the
crystal (:meth:`InterstitialGraph.percolation`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from ..transport.errors import CandidateError, Reason, StructureError
from ..transport.interstitial_network import (
    InterstitialNetwork,
    InterstitialNetworkSettings,
    interstitial_network,
)
from ..transport.percolation import Percolation, percolate_graph
from ..transport.periodic_points import images_around
from .elements import ElementTable, element_table

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Atoms whose distances differ by less (Angstrom) are equally far, and are listed by element and charge.
SAME_DISTANCE_A = 1e-4

GLOBAL_FEATURES: tuple[str, ...] = (
    "connection_1d_A",
    "connection_2d_A",
    "connection_3d_A",
    "segment_1d_A",
    "segment_2d_A",
    "segment_3d_A",
    "largest_radius_A",
    "passable_radius_A",
    "volume_per_framework_atom_A3",
    "interstices_per_framework_atom",
    "network_barrier_1d_eV",
    "network_barrier_2d_eV",
    "network_barrier_3d_eV",
)
"""Columns of :attr:`InterstitialGraph.global_features`, in order.

Connection and segment values are those of the network. The network barriers are what an ion has to climb that passes
through interstices and bottlenecks only, by their site energies: estimates of the bond-valence barriers that cost
nothing more.
"""


@dataclass(frozen=True)
class InterstitialGraphSettings:
    """How a crystal becomes a graph.

    Attributes
    ----------
    network
        Settings of the network; ``bond_valence`` there decides about energies.
    neighbours
        Framework atoms that describe an interstice or a bottleneck.
    filter_equivalents
        Keep one of each set of symmetry-equivalent interstices and segments, with its multiplicity.
    """

    network: InterstitialNetworkSettings = field(default_factory=InterstitialNetworkSettings)
    neighbours: int = 12
    filter_equivalents: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {self.neighbours}")


@dataclass(frozen=True)
class InterstitialGraph:
    """The voids of a crystal as a network sees them, in its primitive cell.

    Attributes
    ----------
    ion_row
        Row of the mobile ion in the element table.
    charged
        Whether the crystal has oxidation states; otherwise radii are covalent and charges NaN.
    global_features
        Shape (len(GLOBAL_FEATURES),); NaN for the passable radius of an ion without a standard one, and for barriers
        without energies; ``inf`` for a barrier in directions in which the network does not percolate.
    atom_rows
        Rows of the framework's atoms in the element table, shape (atoms,).
    atom_charges
        Their oxidation states, NaN where unknown, shape (atoms,).
    atom_radii_A
        Shape (atoms,).
    node_counts
        How many interstices of the cell each node stands for, shape (nodes,).
    node_radii_A
        Largest sphere around the interstice that touches no atom, shape (nodes,).
    node_energies_eV
        Bond-valence site energies; NaN where the table has no parameters or none were asked for, shape (nodes,).
    node_neighbours, node_neighbour_A
        Nearest atoms and their distances, nearest first, shape (nodes, neighbours).
    edges
        The two nodes of each segment; twice the same for one between equivalent interstices, shape (edges, 2).
    edge_counts
        How many segments of the cell each edge stands for, shape (edges,).
    edge_lengths_A
        Distance of the two interstices, shape (edges,).
    edge_radii_A, edge_energies_eV, edge_neighbours, edge_neighbour_A
        As for nodes, at the bottleneck.
    interstice_nodes
        Node of each interstice of the cell, shape (interstices,).
    segment_ends, segment_images
        The two interstices of each segment of the cell, shape (segments, 2), and the cell of the second beside that
        of the first, shape (segments, 3).
    segment_edges
        Edge of each segment of the cell, shape (segments,).
    """

    ion_row: int
    charged: bool
    global_features: np.ndarray
    atom_rows: np.ndarray
    atom_charges: np.ndarray
    atom_radii_A: np.ndarray
    node_counts: np.ndarray
    node_radii_A: np.ndarray
    node_energies_eV: np.ndarray
    node_neighbours: np.ndarray
    node_neighbour_A: np.ndarray
    edges: np.ndarray
    edge_counts: np.ndarray
    edge_lengths_A: np.ndarray
    edge_radii_A: np.ndarray
    edge_energies_eV: np.ndarray
    edge_neighbours: np.ndarray
    edge_neighbour_A: np.ndarray
    interstice_nodes: np.ndarray
    segment_ends: np.ndarray
    segment_images: np.ndarray
    segment_edges: np.ndarray

    @property
    def has_energies(self) -> bool:
        """Whether the site energies are known."""
        return not bool(np.isnan(self.node_energies_eV).any())

    def percolation(self, node_energies_eV: np.ndarray, edge_energies_eV: np.ndarray) -> Percolation:
        """Percolation of an ion that passes through interstices and bottlenecks only, at these energies of them.

        Parameters
        ----------
        node_energies_eV, edge_energies_eV
            Shapes (nodes,) and (edges,). A bottleneck lower than an interstice at its end counts as that one.

        Returns
        -------
        Percolation
            Its bottlenecks are segments of the cell, ``segment_edges`` tells their edges.
        """
        return percolate_graph(
            np.asarray(node_energies_eV, dtype=float)[self.interstice_nodes],
            self.segment_ends,
            self.segment_images,
            np.asarray(edge_energies_eV, dtype=float)[self.segment_edges],
        )


#: Array fields of a graph by what they have one row for.
ROWS_OF: dict[str, str] = {
    each.name: each.name.split("_")[0].removesuffix("s")
    for each in fields(InterstitialGraph)
    if each.name.startswith(("atom", "node", "edge", "interstice", "segment"))
}


def build_interstitial_graph(
    structure: Structure,
    ion: str = "Li",
    settings: InterstitialGraphSettings | None = None,
    oxidation_states: dict[str, float] | None = None,
) -> InterstitialGraph:
    """The graph of one crystal.

    Parameters
    ----------
    structure
        Ordered or partly occupied, with or without oxidation states, in any cell.
    ion
        Element symbol of the mobile ion.
    settings
        Defaults to ``InterstitialGraphSettings()``.
    oxidation_states
        Charges by element symbol that win over any assignment.

    Raises
    ------
    CandidateError
        As :func:`..transport.interstitial_network.interstitial_network`; with reason ``unsupported_element`` for an
        element without descriptors.
    """
    settings = settings or InterstitialGraphSettings()
    primitive = primitive_crystal(structure, settings.network.symprec_A)
    return graph_of_network(interstitial_network(primitive, ion, settings.network, oxidation_states), settings)


def primitive_crystal(structure: Structure, symprec_A: float = 0.01) -> Structure:
    """The crystal in a primitive cell; as it was given where that is one already or spglib finds none.

    Species with different oxidation states or occupancies are different.
    """
    import spglib
    from pymatgen.core import Lattice, Structure

    if len(structure) == 0:
        return structure
    contents = [site.species for site in structure]
    kinds: list[Any] = []
    for content in contents:
        if content not in kinds:
            kinds.append(content)
    numbers = [kinds.index(content) + 1 for content in contents]
    cell = structure.lattice.matrix.tolist(), (structure.frac_coords % 1.0).tolist(), numbers
    found = spglib.find_primitive(cell, symprec=symprec_A)
    if found is None or len(found[2]) >= len(structure):
        return structure
    lattice, frac_coords, chosen = found
    inside = [kinds[int(number) - 1] for number in chosen]
    return Structure(Lattice(lattice), inside, frac_coords, properties=structure.properties)


def graph_of_network(
    network: InterstitialNetwork, settings: InterstitialGraphSettings | None = None, table: ElementTable | None = None
) -> InterstitialGraph:
    """The graph of a network that is there already; multiplicities count in the cell that it was built in.

    Raises
    ------
    StructureError
        The network has no interstices.
    CandidateError
        With reason ``unsupported_element`` for an element without descriptors.
    """
    from pymatgen.core.periodic_table import get_el_sp

    settings, table, graph = settings or InterstitialGraphSettings(), table or element_table(), network.graph
    if len(graph.radii_A) == 0:
        raise StructureError(
            "No interstice of the crystal is wide enough for the network; lower minimum_radius_A.",
            Reason.EMPTY_STRUCTURE,
        )
    species = [get_el_sp(name) for name in network.framework.species]
    rows = _rows([network.ion, *(str(each.symbol) for each in species)], table)
    charges = np.array([np.nan if (q := getattr(each, "oxi_state", None)) is None else float(q) for each in species])
    if settings.filter_equivalents:
        _, nodes, node_of, node_counts = np.unique(
            graph.orbits, return_index=True, return_inverse=True, return_counts=True
        )
        # Merging may give equivalent segments to voids of different kinds; these are no longer one edge.
        ends = np.sort(node_of[graph.edges], axis=1)
        names = np.column_stack([graph.edge_orbits, ends])
        _, segments, edge_of, edge_counts = np.unique(
            names, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        edges = ends[segments]
    else:
        nodes, segments = np.arange(len(graph.radii_A)), np.arange(len(graph.edges))
        node_counts, edge_counts, edges = np.ones_like(nodes), np.ones_like(segments), graph.edges
        node_of, edge_of = nodes, segments
    places = np.concatenate([graph.frac_coords[nodes], graph.bottleneck_frac_coords[segments]])
    neighbours, distances_A = nearest_atoms(
        network.lattice, network.framework_frac_coords, places, rows[1:], charges, settings.neighbours
    )
    count = len(nodes)
    known = network.energies_eV is not None and network.bottleneck_energies_eV is not None
    passable = np.nan if network.passable_radius_A is None else network.passable_radius_A
    atoms = len(network.framework_radii_A)
    return InterstitialGraph(
        ion_row=int(rows[0]),
        charged=bool(network.oxidation_states_from),
        global_features=np.array(
            [
                *network.connection_values_A,
                *network.segment_values_A,
                network.largest_radius_A,
                passable,
                abs(np.linalg.det(network.lattice)) / atoms,
                len(graph.radii_A) / atoms,
                *_network_barriers_eV(network),
            ]
        ),
        atom_rows=rows[1:],
        atom_charges=charges,
        atom_radii_A=network.framework_radii_A,
        node_counts=node_counts,
        node_radii_A=graph.radii_A[nodes],
        node_energies_eV=np.asarray(network.energies_eV)[nodes] if known else np.full(count, np.nan),
        node_neighbours=neighbours[:count],
        node_neighbour_A=distances_A[:count],
        edges=edges.astype(np.int64),
        edge_counts=edge_counts,
        edge_lengths_A=network.segment_lengths_A()[segments],
        edge_radii_A=graph.bottleneck_radii_A[segments],
        edge_energies_eV=(
            np.asarray(network.bottleneck_energies_eV)[segments] if known else np.full(len(segments), np.nan)
        ),
        edge_neighbours=neighbours[count:],
        edge_neighbour_A=distances_A[count:],
        interstice_nodes=node_of,
        segment_ends=graph.edges,
        segment_images=graph.images,
        segment_edges=edge_of.reshape(-1),
    )


def _network_barriers_eV(network: InterstitialNetwork) -> tuple[float, float, float]:
    """Percolation barriers over the interstices and bottlenecks, NaN without energies."""
    if network.energies_eV is None or network.bottleneck_energies_eV is None:
        return np.nan, np.nan, np.nan
    graph = network.graph
    found = percolate_graph(network.energies_eV, graph.edges, graph.images, network.bottleneck_energies_eV)
    return found.barriers_eV


def directed_edges(graph: InterstitialGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges in both directions with the number of segments that one interstice of the target's kind has there.

    Returns
    -------
    tuple
        Source and target, int64, shape (2, directed); the edge of each, shape (directed,); and the number of segments
        an interstice, shape (directed,). An edge between equivalent interstices appears once, with both its ends.
    """
    first, second = graph.edges.T
    loop = first == second
    number = np.arange(len(graph.edges))
    sources = np.concatenate([first, second[~loop]])
    targets = np.concatenate([second, first[~loop]])
    which = np.concatenate([number, number[~loop]])
    ends = np.where(loop, 2.0, 1.0)[which] * graph.edge_counts[which]
    return np.stack([sources, targets]), which, ends / graph.node_counts[targets]


def _rows(symbols: list[str], table: ElementTable) -> np.ndarray:
    """Rows in the element table, with a sentence of this network's own where one is missing."""
    unknown = sorted(set(symbols) - set(table.symbols))
    if unknown:
        raise CandidateError(
            f"There are no descriptors for {', '.join(unknown)}, so the crystal has no interstitial graph; "
            "leave it out.",
            Reason.UNSUPPORTED_ELEMENT,
        )
    return table.rows(symbols)


def nearest_atoms(
    lattice: np.ndarray,
    atoms_frac_coords: np.ndarray,
    frac_coords: np.ndarray,
    rows: np.ndarray,
    charges: np.ndarray,
    wanted: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest atoms of points of a crystal: their indices and distances in Angstrom, shape (points, wanted).

    Atoms that are equally far are listed by element row and charge, so that neither their order in the file nor
    rounding decides which of them comes first or is left out.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    atoms_frac_coords, rows, charges
        Atoms, shape (atoms, 3), their rows in the element table and their charges (NaN where unknown), shape (atoms,).
    frac_coords
        Points, shape (points, 3).
    wanted
        Atoms around each point.
    """
    places = (frac_coords - np.floor(frac_coords)) @ lattice
    reach_A, spare = 8.0, 12
    while True:
        atom, cells = images_around(lattice, atoms_frac_coords, reach_A)
        if len(atom) > wanted + spare:
            tree = cKDTree((atoms_frac_coords[atom] + cells) @ lattice)
            distances_A, found = tree.query(places, k=wanted + spare)
            # Whatever is nearer than the reach has been seen; a shell must not be cut where more of it may follow.
            cut = distances_A[:, wanted - 1]
            if cut.max() + SAME_DISTANCE_A < reach_A and (distances_A[:, -1] > cut + SAME_DISTANCE_A).all():
                break
            if cut.max() + SAME_DISTANCE_A < reach_A:
                spare *= 2
                continue
        reach_A *= 1.4
    near = atom[found]
    shell = np.cumsum(np.diff(distances_A, axis=1, prepend=distances_A[:, :1]) > SAME_DISTANCE_A, axis=1)
    charge = np.nan_to_num(charges)[near]
    order = np.lexsort((distances_A, charge, rows[near], shell), axis=1)[:, :wanted]
    return np.take_along_axis(near, order, axis=1), np.sort(distances_A, axis=1)[:, :wanted]
