"""Crystal graphs with bond angles for ALIGNN, of crystals and of migration paths.

Atoms are nodes, the bonds to the nearest neighbours are edges in both directions, and pairs of edges that meet in an
atom carry the angle between them: the graph and line graph of K. Choudhary and B. DeCost, npj Comput. Mater. 7 (2021)
185. A path becomes one crystal that holds the migrating ion five times over, or two crystals, one for each end (Devi
et al., arXiv 2508.06436).
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..transport.errors import StructureError
from ..transport.paths import MigrationPath
from .elements import element_table
from .path_graphs import GraphSettings, build_path_graph, drop_doubled_ion, resample

if TYPE_CHECKING:
    from pymatgen.core import Structure

NEIGHBOURS = 12
"""Nearest neighbours that each atom chooses, as in the source."""

IMAGES = 5
"""Copies of the migrating ion in a band: its two ends and three images between them."""

_SAME_SHELL_A = 1e-3
"""Neighbours as far as the last one chosen, within this, are chosen as well: a shell is never cut at random."""


@dataclass(frozen=True)
class AtomGraph:
    """Atoms of a cell and the edges between them; each edge has its reverse among the edges.

    Attributes
    ----------
    atom_rows
        Rows of the atoms in the element table, int64, shape (atoms,).
    degree
        Edges that begin at each atom, int64, shape (atoms,).
    neighbours
        Atom at the end of each edge, int64, shape (edges,); edges are sorted by the atom that they begin at.
    reverse
        Number of the edge that leads back, int64, shape (edges,).
    vectors_A
        From the beginning to the end of each edge, float32, shape (edges, 3). A straight path may lead an image of
        the ion right through an atom; their edge has no length.
    """

    atom_rows: np.ndarray
    degree: np.ndarray
    neighbours: np.ndarray
    reverse: np.ndarray
    vectors_A: np.ndarray

    @property
    def angles(self) -> int:
        """Pairs of edges that meet in an atom, each edge with itself included as in the source."""
        return int((self.degree**2).sum())

    def part(self, keep: np.ndarray) -> AtomGraph:
        """The graph of some of the atoms and of the edges between them.

        Parameters
        ----------
        keep
            Which atoms stay, bool, shape (atoms,).
        """
        centres = np.repeat(np.arange(len(keep)), self.degree)
        stays = keep[centres] & keep[self.neighbours]
        number = np.cumsum(stays) - 1
        degree = np.bincount(centres[stays], minlength=len(keep))[keep]
        neighbours = (np.cumsum(keep) - 1)[self.neighbours[stays]]
        return AtomGraph(
            self.atom_rows[keep], degree, neighbours, number[self.reverse[stays]], self.vectors_A[stays].copy()
        )


def build_graph(
    lattice: np.ndarray, frac: np.ndarray, atom_rows: np.ndarray, neighbours: int = NEIGHBOURS
) -> AtomGraph:
    """The graph of the atoms of a cell under periodic boundaries.

    Each atom chooses its nearest neighbours, periodic copies included; an edge is there when either end chose it. The
    source looks for neighbours within 8 Angstrom and farther where that is too few, which comes to the same.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac
        Fractional coordinates, shape (atoms, 3).
    atom_rows
        Rows in the element table, shape (atoms,).
    neighbours
        How many each atom chooses.

    Raises
    ------
    StructureError
        There is no atom, or the cell has no volume.
    """
    lattice = np.asarray(lattice, dtype=float)
    frac = np.asarray(frac, dtype=float).reshape(-1, 3)
    if len(frac) == 0 or not np.isfinite(frac).all() or not abs(np.linalg.det(lattice)) > 1e-3:
        raise StructureError(
            "A crystal graph needs atoms at finite places in a cell with a volume; check the structure."
        )
    centres, others, translations = _chosen(lattice, frac, neighbours)
    # an edge and its reverse, each once, whoever chose it
    reach = int(np.abs(translations).max(initial=0)) + 1
    radix = 2 * reach + 1
    atoms = len(frac)
    forth = _key(centres, others, translations, atoms, reach, radix)
    back = _key(others, centres, -translations, atoms, reach, radix)
    both = np.concatenate([forth, back])
    keys, first = np.unique(both, return_index=True)
    all_centres = np.concatenate([centres, others])[first]
    all_others = np.concatenate([others, centres])[first]
    all_translations = np.concatenate([translations, -translations])[first]
    reverse = np.searchsorted(keys, _key(all_others, all_centres, -all_translations, atoms, reach, radix))
    vectors_A = (frac[all_others] + all_translations - frac[all_centres]) @ lattice
    return AtomGraph(
        np.asarray(atom_rows, dtype=np.int64),
        np.bincount(all_centres, minlength=atoms),
        all_others,
        reverse,
        vectors_A.astype(np.float32),
    )


def structure_graph(structure: Structure, neighbours: int = NEIGHBOURS) -> AtomGraph:
    """The graph of an ordered crystal.

    Raises
    ------
    StructureError
        It holds no atoms.
    CandidateError
        With reason ``unsupported_element`` for an element without descriptors.
    """
    rows = element_table().rows([site.specie.symbol for site in structure])
    return build_graph(structure.lattice.matrix, structure.frac_coords, rows, neighbours)


@dataclass(frozen=True)
class PathStructures:
    """What ALIGNN is shown of a path.

    Attributes
    ----------
    band
        Framework and all images of the ion in one crystal, the images first.
    ends
        Framework with the ion at its first and at its last place; None unless asked for.
    surroundings
        The part of the band within a distance of the images; None unless asked for.
    """

    band: AtomGraph | None = None
    ends: tuple[AtomGraph, AtomGraph] | None = None
    surroundings: AtomGraph | None = None


def path_structures(
    path: MigrationPath,
    *,
    band: bool = True,
    ends: bool = False,
    surroundings_A: float | None = None,
    framework_cutoff_A: float | None = None,
    neighbours: int = NEIGHBOURS,
) -> PathStructures:
    """Graphs of a path.

    The copies of the ion are told apart from other atoms of its element by nothing but their places, as in the source.

    Parameters
    ----------
    path
        The path; with another number of images than five it is resampled along its polyline.
    band, ends
        Which graphs to make.
    surroundings_A
        Also make the part of the band within so many Angstrom of the images.
    framework_cutoff_A
        Leave out atoms of the framework farther than this from all images of the ion. Edges are those of the whole
        cell between atoms that stay. None keeps the whole cell, as in the source.
    neighbours
        As for :func:`build_graph`.

    Raises
    ------
    StructureError
        As for :func:`~hopflow.learning.path_graphs.build_path_graph`.
    CandidateError
        With reason ``unsupported_element`` for an element without descriptors.
    """
    # whatever is wrong with a path has its sentence there
    build_path_graph(path, GraphSettings(relaxation_steps=0))
    table = element_table()
    lattice = np.asarray(path.lattice, dtype=float)
    corners_A = np.asarray(path.path_frac_coords, dtype=float) @ lattice
    images_A = corners_A if len(corners_A) == IMAGES else resample(corners_A, IMAGES)
    inverse = np.linalg.inv(lattice)
    ion_row = table.rows([path.ion])
    rows = table.rows(path.framework_species)
    frac = np.asarray(path.framework_frac_coords, dtype=float)
    for end_A in images_A[[0, -1]]:
        away = frac - end_A @ inverse
        near_A = (away - np.round(away)) @ lattice + end_A
        near_A, rows = drop_doubled_ion(near_A, rows, end_A[None, :], int(ion_row[0]), path.path_id or "without a name")
        frac = near_A @ inverse
    images = images_A @ inverse
    distance_A = _periodic_distance_A(lattice, images, frac)

    def graph(ions: np.ndarray) -> AtomGraph:
        whole = build_graph(
            lattice, np.concatenate([ions, frac]), np.concatenate([np.repeat(ion_row, len(ions)), rows]), neighbours
        )
        if framework_cutoff_A is None:
            return whole
        return whole.part(np.concatenate([np.ones(len(ions), dtype=bool), distance_A <= framework_cutoff_A]))

    whole_band = graph(images) if band or surroundings_A is not None else None
    around = None
    if whole_band is not None and surroundings_A is not None:
        stays = distance_A if framework_cutoff_A is None else distance_A[distance_A <= framework_cutoff_A]
        around = whole_band.part(np.concatenate([np.ones(IMAGES, dtype=bool), stays <= surroundings_A]))
    return PathStructures(
        whole_band if band else None, (graph(images[:1]), graph(images[-1:])) if ends else None, around
    )


@lru_cache(maxsize=1)
def element_categories() -> np.ndarray:
    """One-hot categories of each element of the element table, float32, shape (elements, categories).

    Group, row, electronegativity, covalent radius, valence electrons, first ionisation energy, electron affinity,
    block and molar volume: the properties and numbers of bins of T. Xie and J. C. Grossman, Phys. Rev. Lett. 120
    (2018) 145301, whose own table the source uses, built from this package's element table and pymatgen. Bins of
    numbers are equally wide over the range of the table; an unknown number has no bin.
    """
    from pymatgen.core import Element

    table = element_table()
    elements = [Element(symbol) for symbol in table.symbols]
    with warnings.catch_warnings():
        # pymatgen warns about each element whose volume it does not know
        warnings.simplefilter("ignore")
        volume = np.array([float(element.molar_volume or math.nan) for element in elements])
    blocks = np.array(["spdf".index(element.block) for element in elements])
    columns = [
        _one_hot(table.column("group").astype(int) - 1, 18),
        _one_hot(table.column("row").astype(int) - 1, 9),
        _one_hot(_bins(table.column("pauling_electronegativity"), 10), 10),
        _one_hot(_bins(table.column("covalent_radius_A"), 10), 10),
        _one_hot(np.clip(table.column("valence_electrons").astype(int) - 1, 0, 11), 12),
        _one_hot(_bins(np.log(table.column("first_ionisation_energy_eV")), 10), 10),
        _one_hot(_bins(table.column("electron_affinity_eV"), 10), 10),
        _one_hot(blocks, 4),
        _one_hot(_bins(np.log(volume), 10), 10),
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Number of the bin of each value, -1 where it is unknown."""
    low, high = np.nanmin(values), np.nanmax(values)
    known = np.isfinite(values)
    scaled = np.where(known, (values - low) / (high - low), 0.0)
    return np.where(known, np.minimum((scaled * bins).astype(int), bins - 1), -1)


def _one_hot(category: np.ndarray, size: int) -> np.ndarray:
    return category[:, None] == np.arange(size)[None, :]


def _key(
    centres: np.ndarray, others: np.ndarray, translations: np.ndarray, atoms: int, reach: int, radix: int
) -> np.ndarray:
    """A number for each edge, rising with the atom that it begins at."""
    key = centres.astype(np.int64) * atoms + others
    for axis in range(3):
        key = key * radix + translations[:, axis] + reach
    return key


def _chosen(lattice: np.ndarray, frac: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours that each atom chooses: atom, neighbour, and lattice translation of the neighbour."""
    cell = np.floor(frac).astype(np.int64)
    inside = frac - cell
    widths_A = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    each_A3 = abs(np.linalg.det(lattice)) / len(frac)
    radius_A = 1.3 * (3.0 * each_A3 * (neighbours + 1) / (4.0 * math.pi)) ** (1.0 / 3.0) + 1.0
    wanted = 2 * neighbours
    while True:
        margin = radius_A / widths_A
        copies = np.ceil(margin).astype(int)
        shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in copies))))
        points = (inside[None, :, :] + shifts[:, None, :]).reshape(-1, 3)
        near = np.flatnonzero(((points > -margin) & (points < 1.0 + margin)).all(axis=1))
        tree = cKDTree(points[near] @ lattice)
        found = min(wanted + 1, len(near))
        distance_A, place = tree.query(inside @ lattice, k=found, distance_upper_bound=radius_A)
        # the nearest point of all is the atom itself
        if found <= neighbours or (distance_A[:, neighbours] + _SAME_SHELL_A >= radius_A).any():
            radius_A *= 1.4
            continue
        chosen = distance_A <= distance_A[:, neighbours, None] + _SAME_SHELL_A
        if not chosen[:, -1].any() or found == len(near):
            break
        wanted *= 2
    centres, column = np.nonzero(chosen)
    point = near[place[centres, column]]
    others, translations = point % len(frac), shifts[point // len(frac)]
    another = (others != centres) | translations.any(axis=1)
    centres, others, translations = centres[another], others[another], translations[another]
    # from translations between atoms inside the cell to those between the places that were given
    return centres, others, translations - cell[others] + cell[centres]


def _periodic_distance_A(lattice: np.ndarray, images: np.ndarray, frac: np.ndarray) -> np.ndarray:
    """Distance of each atom, or its nearest periodic copy, to the nearest image, shape (atoms,)."""
    from pymatgen.core import Lattice

    if len(frac) == 0:
        return np.zeros(0)
    return Lattice(lattice).get_all_distances(images, frac).min(axis=0)
