"""From a migration path to a graph: the atoms around the path, and the images of the ion as nodes of their own.

Everything in the graph is a distance or derived from distances, each weighted by a function that falls smoothly to
zero at a cutoff. So the graph of a path does not change when the crystal is turned, shifted, described by another
cell or its atoms listed in another order; and it holds the same few dozen atoms whatever the size of the supercell.
The images carry their place along the path only as a distance to its middle, so a path and its reverse give graphs
that differ in nothing but the numbering of the images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from ..transport.errors import Reason, StructureError
from ..transport.path_checks import DOUBLED_A, check_path_geometry
from ..transport.paths import MigrationPath
from .elements import ElementTable, element_table

IMAGE_FEATURES: tuple[str, ...] = (
    "anion_clearance_A",
    "cation_clearance_A",
    "anion_coordination",
    "log_bond_valence_sum",
    "log_overlap",
    "cation_screened_potential_per_A",
    "anion_screened_potential_per_A",
    "nearest_anion_covalent_radius_A",
    "nearest_anion_electronegativity",
    "coordination_asymmetry",
    "straight_clearance_A",
    "sideways_A",
)
"""Columns of :attr:`PathGraph.image_features`, in order."""

PATH_FEATURES: tuple[str, ...] = ("length_A", "distance_A", "curved_length_A")
"""Columns of :attr:`PathGraph.path_features`, in order."""

_FREE_CLEARANCE_A = 3.0
"""The clearance of an image that has no atom of a kind within the cutoff."""

_LEAST_DISTANCE_A = 0.3
"""A straight line may run through the very centre of an atom; nearer than this all is the same."""

_SIDEWAYS_LIMIT_A = 1.5
"""How far an image may give way."""

_NARROWEST_CELL_A = 1.0
"""No crystal repeats within less; the copies of such a cell would be countless."""


@dataclass(frozen=True)
class GraphSettings:
    """How a path becomes a graph.

    Attributes
    ----------
    images
        Images of the ion, odd; a path with another number is resampled along its polyline.
    path_cutoff_A
        Atoms farther than this from every image are left out; also the reach of an image.
    bond_cutoff_A
        Reach of the atom-atom edges.
    relaxation_steps
        Steps of the soft-sphere band that lets the images give way to the framework; 0 keeps them where they are.
    """

    images: int = 5
    path_cutoff_A: float = 5.0
    bond_cutoff_A: float = 3.2
    relaxation_steps: int = 60


@dataclass(frozen=True)
class PathGraph:
    """A path as the network sees it.

    Attributes
    ----------
    ion_row
        Row of the migrating ion in the element table.
    atom_rows
        Rows of the atoms in the element table, int64, shape (atoms,).
    atom_weights
        Smooth cutoff of each atom by its distance to the nearest image, shape (atoms,).
    atom_anion_character
        -1 (bonded to more electronegative atoms, a cation) to 1 (an anion), shape (atoms,).
    image_edges
        Image and atom of each image-atom edge, int64, shape (2, edges).
    image_edge_A
        Their lengths, shape (edges,).
    bond_edges
        Source and target of each atom-atom edge, both directions, int64, shape (2, edges).
    bond_edge_A
        Their lengths, shape (edges,).
    middle_distance
        Distance of each image to the middle of the path as a fraction of half the path, shape (images,).
    image_features
        Shape (images, len(IMAGE_FEATURES)).
    path_features
        Shape (len(PATH_FEATURES),).
    """

    ion_row: int
    atom_rows: np.ndarray
    atom_weights: np.ndarray
    atom_anion_character: np.ndarray
    image_edges: np.ndarray
    image_edge_A: np.ndarray
    bond_edges: np.ndarray
    bond_edge_A: np.ndarray
    middle_distance: np.ndarray
    image_features: np.ndarray
    path_features: np.ndarray


def smooth_cutoff(distances_A: np.ndarray, cutoff_A: float) -> np.ndarray:
    """A cosine that falls from one at zero to zero, with zero slope, at the cutoff (Behler and Parrinello 2007)."""
    return np.where(distances_A < cutoff_A, 0.5 * (np.cos(np.pi * np.minimum(distances_A / cutoff_A, 1.0)) + 1.0), 0.0)


def resample(points_A: np.ndarray, images: int) -> np.ndarray:
    """Points at equal distances along a polyline.

    Parameters
    ----------
    points_A
        Corners of the polyline in Angstrom, shape (corners, 3).
    images
        How many points, the two ends included.
    """
    steps = np.linalg.norm(np.diff(points_A, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, along[-1], images)
    return np.stack([np.interp(at, along, points_A[:, axis]) for axis in range(3)], axis=1)


def build_path_graph(
    path: MigrationPath, settings: GraphSettings | None = None, table: ElementTable | None = None
) -> PathGraph:
    """The graph of one path.

    Raises
    ------
    StructureError
        The path has fewer than two images, no length or that of several hops, coordinates that are not finite, a flat
        or tiny cell, no framework atom near it, or an end on an atom.
    CandidateError
        With reason ``unsupported_element`` for an element without descriptors.
    """
    settings = settings or GraphSettings()
    table = table or element_table()
    found = _surroundings(path, settings, table)
    straight_A, images_A, ion_row, length_A = found.straight_A, found.images_A, found.ion_row, found.length_A
    positions_A, rows, character, radii_A = found.positions_A, found.rows, found.character, found.contact_A
    label = path.path_id or "without a name"
    distances_A = _distances(images_A, positions_A)
    inside = distances_A.min(axis=0, initial=np.inf) < settings.path_cutoff_A
    if not inside.any():
        raise StructureError(f"No atom lies within {settings.path_cutoff_A} Angstrom of the path {label}.")
    positions_A, rows, character, radii_A = positions_A[inside], rows[inside], character[inside], radii_A[inside]
    distances_A = distances_A[:, inside]

    pairs = cKDTree(positions_A).query_pairs(settings.bond_cutoff_A, output_type="ndarray")
    bonds = np.concatenate([pairs, pairs[:, ::-1]]).T.astype(np.int64)
    image_edges = np.argwhere(distances_A < settings.path_cutoff_A).T
    features = _image_features(distances_A, radii_A, rows, character, table, settings.path_cutoff_A)
    straight_clearance_A = (_distances(straight_A, positions_A) - radii_A).min(axis=1)
    sideways_A = np.linalg.norm(images_A - straight_A, axis=1)
    return PathGraph(
        ion_row=ion_row,
        atom_rows=rows,
        atom_weights=smooth_cutoff(distances_A.min(axis=0), settings.path_cutoff_A),
        atom_anion_character=character,
        image_edges=image_edges,
        image_edge_A=distances_A[image_edges[0], image_edges[1]],
        bond_edges=bonds,
        bond_edge_A=np.linalg.norm(positions_A[bonds[0]] - positions_A[bonds[1]], axis=1),
        middle_distance=np.abs(np.linspace(-1.0, 1.0, settings.images)),
        image_features=np.column_stack([features, straight_clearance_A, sideways_A]),
        path_features=np.array(
            [
                length_A,
                np.linalg.norm(images_A[-1] - images_A[0]),
                np.linalg.norm(np.diff(images_A, axis=0), axis=1).sum(),
            ]
        ),
    )


def images_around_framework(
    path: MigrationPath, settings: GraphSettings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the images are once they have given way to the framework.

    Returns
    -------
    The images in Angstrom, shape (images, 3), continuous, and which atoms of the framework are really there, bool,
    shape (atoms,): not those that write an end of the path a second time.

    Raises
    ------
    CandidateError
        As :func:`build_path_graph`.
    """
    images_A = _surroundings(path, settings or GraphSettings(), element_table()).images_A
    lattice = np.asarray(path.lattice, dtype=float)
    ends = np.asarray(path.path_frac_coords, dtype=float)[[0, -1]]
    away = np.asarray(path.framework_frac_coords, dtype=float).reshape(-1, 1, 3) - ends
    distances_A = np.linalg.norm((away - np.round(away)) @ lattice, axis=2)
    return images_A, (distances_A >= DOUBLED_A).all(axis=1)


@dataclass(frozen=True)
class _Surroundings:
    """A path's images and the atoms near it, before anything is left out of the graph."""

    ion_row: int
    length_A: float
    straight_A: np.ndarray
    images_A: np.ndarray
    positions_A: np.ndarray
    rows: np.ndarray
    character: np.ndarray
    contact_A: np.ndarray


def _surroundings(path: MigrationPath, settings: GraphSettings, table: ElementTable) -> _Surroundings:
    label = path.path_id or "without a name"
    lattice = np.asarray(path.lattice, dtype=float)
    corners = np.asarray(path.path_frac_coords, dtype=float)
    framework = np.asarray(path.framework_frac_coords, dtype=float).reshape(-1, 3)
    check_path_geometry(path, _NARROWEST_CELL_A)
    ion_row = int(table.rows([path.ion])[0])
    rows = table.rows(path.framework_species)
    corners_A = corners @ lattice
    length_A = float(np.linalg.norm(np.diff(corners_A, axis=0), axis=1).sum())
    straight_A = corners_A if len(corners_A) == settings.images else resample(corners_A, settings.images)

    # atoms just outside the graph are needed to tell what the outermost atoms of the graph are bonded to
    positions_A, rows, _ = _atoms_near(
        straight_A, framework, rows, lattice, settings.path_cutoff_A + settings.bond_cutoff_A + _SIDEWAYS_LIMIT_A
    )
    positions_A, rows = drop_doubled_ion(positions_A, rows, straight_A, ion_row, label)
    character = _anion_character(positions_A, rows, table, settings.bond_cutoff_A)
    radii_A = _radii(rows, character, table) + table.column("cation_radius_A")[ion_row]
    images_A = give_way(straight_A, positions_A, radii_A, settings.relaxation_steps)
    return _Surroundings(ion_row, length_A, straight_A, images_A, positions_A, rows, character, radii_A)


def give_way(straight_A: np.ndarray, positions_A: np.ndarray, contact_A: np.ndarray, steps: int) -> np.ndarray:
    """Let the inner images slide sideways out of the atoms' way, as an elastic band among soft spheres does.

    A straight line between two sites often cuts through an atom that the ion really passes by. The repulsion of
    an atom is exp((contact - d)/0.3); only its part across the path acts, a spring to the straight line holds the
    image back, and neighbours are pulled to equal spacing.

    Parameters
    ----------
    straight_A
        Images in Angstrom, shape (images, 3); the ends stay.
    positions_A
        Atoms, shape (atoms, 3).
    contact_A
        Distance at which ion and atom touch, shape (atoms,).
    steps
        Steps of the descent.
    """
    images_A = straight_A.copy()
    reach_A = 4.0 + _SIDEWAYS_LIMIT_A
    near = _distances(straight_A, positions_A).min(axis=0, initial=np.inf) < reach_A
    positions_A, contact_A = positions_A[near], contact_A[near]
    for step in range(steps):
        vectors = images_A[1:-1, None, :] - positions_A[None, :, :]
        distance = np.maximum(np.linalg.norm(vectors, axis=2), _LEAST_DISTANCE_A)
        push = np.exp(np.minimum((contact_A - distance) / 0.3, 4.0)) / distance
        force = np.einsum("ij,ijk->ik", push, vectors) - 0.6 * (images_A[1:-1] - straight_A[1:-1])
        tangent = images_A[2:] - images_A[:-2]
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
        force -= (force * tangent).sum(axis=1, keepdims=True) * tangent
        # on a symmetry element the force vanishes but for rounding, which must not grow: weak forces count for nothing
        squared = (force**2).sum(axis=1, keepdims=True)
        force *= squared / (squared + 0.05**2)
        spacing = (images_A[2:] - 2.0 * images_A[1:-1] + images_A[:-2]) * tangent
        force += 2.0 * spacing.sum(axis=1, keepdims=True) * tangent
        size = np.linalg.norm(force, axis=1, keepdims=True)
        move = 0.15 * force * np.minimum(1.0, 0.5 / np.maximum(size, 1e-9)) * (1.0 - 0.5 * step / steps)
        images_A[1:-1] += move
        off = images_A - straight_A
        far = np.linalg.norm(off, axis=1, keepdims=True)
        images_A = straight_A + off * np.minimum(1.0, _SIDEWAYS_LIMIT_A / np.maximum(far, 1e-9))
    return images_A


def _distances(images_A: np.ndarray, positions_A: np.ndarray) -> np.ndarray:
    """Image-atom distances in Angstrom, shape (images, atoms), none below ``_LEAST_DISTANCE_A``."""
    return np.maximum(np.linalg.norm(images_A[:, None, :] - positions_A[None, :, :], axis=2), _LEAST_DISTANCE_A)


def drop_doubled_ion(
    positions_A: np.ndarray, rows: np.ndarray, images_A: np.ndarray, ion_row: int, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Take away a framework entry that is the migrating ion at one of its ends, written a second time.

    Raises
    ------
    StructureError
        Another element sits on an end.
    """
    on_end = (np.linalg.norm(images_A[[0, -1], None, :] - positions_A[None, :, :], axis=2) < DOUBLED_A).any(axis=0)
    if (rows[on_end] != ion_row).any():
        raise StructureError(
            f"An end of the path {label} lies on an atom of the framework; give the ion's own sites as ends.",
            Reason.CLOSE_CONTACT,
        )
    return positions_A[~on_end], rows[~on_end]


def _radii(rows: np.ndarray, character: np.ndarray, table: ElementTable) -> np.ndarray:
    """Average ionic radius of each atom, between that of a cation and of an anion by its character, in Angstrom."""
    anion = 0.5 * (1.0 + character)
    return anion * table.column("anion_radius_A")[rows] + (1.0 - anion) * table.column("cation_radius_A")[rows]


def _atoms_near(
    images_A: np.ndarray, framework: np.ndarray, rows: np.ndarray, lattice: np.ndarray, reach_A: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms and periodic copies in reach: positions in Angstrom, element rows, distances to the nearest image."""
    if len(framework) == 0:
        return np.zeros((0, 3)), rows, np.zeros(0)
    centre_A = images_A.mean(axis=0)
    radius_A = float(np.linalg.norm(images_A - centre_A, axis=1).max()) + reach_A
    inverse = np.linalg.inv(lattice)
    # distance between the planes that close the cell in each direction
    widths_A = 1.0 / np.linalg.norm(inverse, axis=0)
    copies = np.ceil(radius_A / widths_A + 0.5).astype(int)
    shift = framework - centre_A @ inverse
    shift -= np.round(shift)
    near_A: list[np.ndarray] = []
    near_rows: list[np.ndarray] = []
    near_distance: list[np.ndarray] = []
    for translation in itertools.product(*(range(-n, n + 1) for n in copies)):
        offsets_A = (shift + np.array(translation)) @ lattice
        close = np.einsum("ij,ij->i", offsets_A, offsets_A) < radius_A**2
        if not close.any():
            continue
        candidates_A = offsets_A[close] + centre_A
        distance = np.linalg.norm(candidates_A[:, None, :] - images_A[None, :, :], axis=2).min(axis=1)
        reached = distance < reach_A
        near_A.append(candidates_A[reached])
        near_rows.append(rows[close][reached])
        near_distance.append(distance[reached])
    if not near_A:
        return np.zeros((0, 3)), rows[:0], np.zeros(0)
    return np.concatenate(near_A), np.concatenate(near_rows), np.concatenate(near_distance)


def _anion_character(positions_A: np.ndarray, rows: np.ndarray, table: ElementTable, cutoff_A: float) -> np.ndarray:
    """-1 for an atom bonded to more electronegative atoms, 1 for one bonded to less electronegative ones.

    Sum over the neighbours of the difference in Pauling electronegativity, weighted as a Pauling bond order
    exp((r_i + r_j - d)/0.37) with covalent radii, squeezed by tanh: smooth, and free of guessed oxidation states.
    """
    character = np.zeros(len(rows))
    pairs = cKDTree(positions_A).query_pairs(cutoff_A, output_type="ndarray")
    if len(pairs) == 0:
        return character
    first, second = pairs.T
    distance = np.linalg.norm(positions_A[first] - positions_A[second], axis=1)
    radius = table.column("covalent_radius_A")[rows]
    order = np.exp(np.minimum((radius[first] + radius[second] - distance) / 0.37, 2.0)) * smooth_cutoff(
        distance, cutoff_A
    )
    electronegativity = table.column("pauling_electronegativity")[rows]
    difference = (electronegativity[first] - electronegativity[second]) * order
    np.add.at(character, first, difference)
    np.add.at(character, second, -difference)
    return np.tanh(2.0 * character)


def _image_features(
    distances_A: np.ndarray,
    contact_A: np.ndarray,
    rows: np.ndarray,
    character: np.ndarray,
    table: ElementTable,
    cutoff_A: float,
) -> np.ndarray:
    """How tightly and by what each image is held: all columns but the last two, shape (images, columns).

    Clearance is the least distance to an atom's surface less the ion's radius: the bottleneck in each image.
    """
    anion = 0.5 * (1.0 + character)
    gap = distances_A - contact_A
    screen = smooth_cutoff(distances_A, cutoff_A)
    bond = np.exp(-np.maximum(gap, -1.5) / 0.37) * anion * screen
    is_anion = character > 1e-6
    valence = bond.sum(axis=1)
    nearness = np.exp(-np.maximum(gap, -1.5) / 0.2) * anion + 1e-12
    nearness /= nearness.sum(axis=1, keepdims=True)
    columns = [
        np.where(is_anion, gap, _FREE_CLEARANCE_A).min(axis=1),
        np.where(~is_anion, gap, _FREE_CLEARANCE_A).min(axis=1),
        (anion / (1.0 + np.exp((gap - 0.45) / 0.12))).sum(axis=1),
        np.log(valence + 0.1),
        np.log((np.exp(-np.maximum(gap, -1.5) / 0.25) * screen).sum(axis=1) + 1e-3),
        ((1.0 - anion) / distances_A * screen).sum(axis=1),
        (anion / distances_A * screen).sum(axis=1),
        nearness @ table.column("covalent_radius_A")[rows],
        nearness @ table.column("pauling_electronegativity")[rows],
        (bond**2).sum(axis=1) / (valence**2 + 1e-6),
    ]
    return np.stack(columns, axis=1)


@lru_cache(maxsize=1)
def supported_elements() -> frozenset[str]:
    """Elements that a path may hold."""
    return frozenset(element_table().symbols)
