"""Periodic radical Voronoi decomposition (power diagram) of spheres in a crystal, exact also where it is degenerate.

A point belongs to the sphere with the least power, ``|x - p|^2 - r^2``. The lower convex hull of the spheres' centres
lifted to ``(p, |p|^2 - r^2)`` holds every vertex of the diagram as the normal of a facet (F. Aurenhammer, SIAM J.
Comput. 16 (1987) 78). In crystals many more than four spheres meet in one vertex. The hull's arbitrary triangulation of
such a facet is thrown away: all spheres that touch the vertex are collected, and the faces of their convex hull, the
Delaunay polyhedron, are the edges of the diagram. What comes out is the true cell complex: no coincident vertices, no
edges without length, the same in every cell.

Why a finite block of periodic images is enough is proved at run time, in :func:`power_diagram`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError, cKDTree

from .errors import CandidateError, Reason, StructureError
from .periodic_points import coincident, images_around

#: Spheres whose powers at a vertex differ by less (square Angstrom) meet there. Coarser or finer ones are tried where
#: the pieces do not fit together.
TOUCHING_A2 = (1e-6, 1e-8, 1e-4, 1e-10)
#: Atoms that lie so little off a plane (Angstrom) lie in it.
PLANE_A = (1e-5, 1e-6, 1e-4, 1e-7)
#: Vertices closer than this (Angstrom) are one.
SAME_VERTEX_A = 1e-5
#: Where no tolerance fits, the crystal is distorted at random by so much (relative and Angstrom) until
#: only four spheres meet at every vertex.
DISTORTIONS = (1e-5, 1e-5, 1e-4, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3)
#: The first block of images reaches so far (Angstrom) around the cell.
FIRST_REACH_A = 6.0
_TETRAHEDRON = [np.array(ring) for ring in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))]


@dataclass(frozen=True)
class PowerDiagram:
    """Cell complex of a periodic power diagram, one entry for each lattice orbit.

    Attributes
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    frac_coords, radii_A
        The spheres, shapes (spheres, 3) and (spheres,).
    vertices
        Fractional coordinates in [0, 1), shape (vertices, 3).
    powers_A2
        Common power of the spheres that meet in each vertex, square Angstrom, shape (vertices,).
    vertex_spheres
        For each vertex the spheres that meet there: rows of sphere index and its cell, int, shape (four or more, 4).
    edges, images
        Start and end vertex of each edge, shape (edges, 2), and the lattice translation of the end vertex's cell with
        respect to the start's, shape (edges, 3).
    faces
        For each face its vertices, rows of vertex index and cell, int, shape (three or more, 4).
    face_spheres
        The two spheres that each face separates, sphere index and cell, int, shape (faces, 2, 4).
    cells
        Indices of the spheres that have a cell; one that is covered by others has none.
    reach_A
        Block of images that was needed.
    distorted
        Whether no tolerance fitted and the crystal was distorted, see ``DISTORTIONS``.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    radii_A: np.ndarray
    vertices: np.ndarray
    powers_A2: np.ndarray
    vertex_spheres: tuple[np.ndarray, ...]
    edges: np.ndarray
    images: np.ndarray
    faces: tuple[np.ndarray, ...]
    face_spheres: np.ndarray
    cells: np.ndarray
    reach_A: float
    distorted: bool

    @property
    def euler_characteristic(self) -> int:
        """Vertices - edges + faces - cells in one unit cell; zero for every cell complex of a three-torus."""
        return len(self.vertices) - len(self.edges) + len(self.faces) - len(self.cells)


class _Misfit(Exception):  # noqa: N818  never leaves this module
    """The pieces found with some tolerance are not a cell complex."""


def power_diagram(lattice: np.ndarray, frac_coords: np.ndarray, radii_A: np.ndarray) -> PowerDiagram:
    """Decompose a periodic arrangement of spheres.

    The block of images holds every sphere within ``reach_A`` of the unit cell. Spheres outside have a power above
    ``reach_A**2 - max(r)**2`` everywhere in the cell, so a vertex whose power is at most that is a vertex of the
    infinite arrangement. None is missing, either: the edges of the infinite diagram connect all its vertices, so a
    missing one would leave an edge with one end. Both are checked, and the block grows until they hold. It ends at the
    covering radius of the lattice at the latest: no point is farther than that from an image of the largest sphere.

    Parameters
    ----------
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3); any shape of cell.
    frac_coords
        Centres, shape (spheres, 3).
    radii_A
        Radii, shape (spheres,), not negative.

    Raises
    ------
    StructureError
        There is no sphere.
    CandidateError
        Two spheres have the same centre, or the arrangement defeats double precision.
    """
    from ase.geometry.minkowski_reduction import minkowski_reduce

    lattice = np.asarray(lattice, dtype=float)
    frac = np.asarray(frac_coords, dtype=float).reshape(-1, 3)
    radii = np.asarray(radii_A, dtype=float).reshape(-1)
    if len(frac) == 0:
        raise StructureError(
            "Nothing is left of the crystal without its mobile ions, so there are no voids; choose another mobile ion.",
            Reason.EMPTY_STRUCTURE,
        )
    reduced, transformation = minkowski_reduce(lattice)
    transformation = np.rint(transformation).astype(int)  # reduced = transformation @ lattice
    in_reduced = frac @ np.linalg.inv(transformation)
    home = np.floor(in_reduced).astype(int)
    inside = in_reduced - home
    for touching, plane in zip(TOUCHING_A2, PLANE_A, strict=True):
        try:
            found = _diagram(reduced, inside, radii, touching, plane)
        except _Misfit:
            continue
        return _in_given_cell(found, lattice, frac, radii, transformation, home, distorted=False)
    generator = np.random.default_rng(20261120)
    for strength in DISTORTIONS:
        strained = reduced @ (np.eye(3) + strength * _symmetric(generator.uniform(-1, 1, (3, 3))))
        moved = inside + strength * generator.uniform(-1, 1, inside.shape) @ np.linalg.inv(reduced)
        try:
            found = _diagram(strained, moved, radii + strength * generator.uniform(0, 1, len(radii)), 1e-9, 1e-9)
        except _Misfit:
            continue
        return _in_given_cell(found, lattice, frac, radii, transformation, home, distorted=True)
    raise CandidateError(
        "The space between the atoms could not be divided into cells; look for atoms that lie on top of each other."
    )


@dataclass
class _Pieces:
    vertices: np.ndarray
    powers: np.ndarray
    spheres: list[np.ndarray]
    edges: np.ndarray
    images: np.ndarray
    faces: list[np.ndarray]
    face_spheres: np.ndarray
    reach: float


def _diagram(lattice: np.ndarray, frac: np.ndarray, radii: np.ndarray, touching: float, plane: float) -> _Pieces:
    """The complex in a reduced cell, with a block of images that is proved to be large enough."""
    # Half the body diagonal of the box spanned by the Gram-Schmidt vectors bounds the covering radius of the lattice.
    largest = float(np.linalg.norm(np.diag(np.linalg.qr(lattice.T)[1]))) / 2 + 1e-3
    reach = min(FIRST_REACH_A, largest)
    while True:
        block = _Block(lattice, frac, radii, reach)
        vertices, powers = _hull_vertices(block)
        enough = len(powers) > 0 and powers.max() <= reach**2 - radii.max() ** 2
        if enough or reach >= largest:
            try:
                return _complex(block, vertices, touching, plane)
            except _Misfit:
                if reach >= largest:
                    raise
        reach = min(reach * 1.4, largest)


class _Block:
    """All periodic images of the spheres within ``reach`` of the unit cell."""

    def __init__(self, lattice: np.ndarray, frac: np.ndarray, radii: np.ndarray, reach: float) -> None:
        self.lattice, self.reach = lattice, reach
        self.sphere, self.cell = images_around(lattice, frac, reach)
        self.centre = np.array([0.5, 0.5, 0.5]) @ lattice
        self.position = (frac[self.sphere] + self.cell) @ lattice
        self.radius = radii[self.sphere]
        self.largest = float(radii.max())


def _hull_vertices(block: _Block) -> tuple[np.ndarray, np.ndarray]:
    """Distinct vertices of the block's diagram within the unit cell, fractional coordinates, and their powers."""
    points = block.position - block.centre
    lifted = np.column_stack([points, (points**2).sum(axis=1) - block.radius**2])
    try:
        equations = ConvexHull(lifted).equations
    except QhullError:
        return np.empty((0, 3)), np.empty(0)
    equations = equations[equations[:, 3] < -1e-12]
    places = -equations[:, :3] / (2 * equations[:, 3:4])
    powers = (places**2).sum(axis=1) - equations[:, 4] / equations[:, 3]
    frac = (places + block.centre) @ np.linalg.inv(block.lattice)
    inside = np.all((frac > -1e-6) & (frac < 1 + 1e-6), axis=1)
    frac, powers = frac[inside], powers[inside]
    groups, _ = coincident(frac, block.lattice, SAME_VERTEX_A)
    _, first = np.unique(groups, return_index=True)
    return frac[first] - np.floor(frac[first] + 1e-9), powers[first]


def _complex(block: _Block, vertices: np.ndarray, touching: float, plane: float) -> _Pieces:
    """Vertices, edges and faces from the Delaunay polyhedra of the vertices; a misfit where they do not match."""
    tree = cKDTree(block.position)
    places = vertices @ block.lattice
    nearest = tree.query(places)[0]
    candidates = tree.query_ball_point(places, np.sqrt(nearest**2 + block.largest**2) + 1e-3)
    kept: list[int] = []
    spheres: list[np.ndarray] = []
    powers: list[float] = []
    # Facets and pairs of spheres, moved so that their first sphere lies in the cell (0, 0, 0): who has them, and where.
    facet_owners: dict[bytes, list[tuple[int, np.ndarray]]] = defaultdict(list)
    pair_owners: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for vertex, (place, near) in enumerate(zip(places, candidates, strict=True)):
        near_array = np.array(near)
        power = ((block.position[near_array] - place) ** 2).sum(axis=1) - block.radius[near_array] ** 2
        meet = near_array[power < power.min() + touching]
        facets = _polyhedron(block.position[meet], plane)
        if facets is None:
            continue  # all in one plane: a point of an edge, put there by the rounding of the hull
        index = len(kept)
        kept.append(vertex)
        named = np.column_stack([block.sphere[meet], block.cell[meet]])
        order = np.lexsort(named.T[::-1])
        rank = np.argsort(order)
        spheres.append(named[order])
        powers.append(float(power.min()))
        sides: set[tuple[int, int]] = set()
        for ring in facets:
            ranks = rank[ring]
            members = named[order][np.sort(ranks)]
            anchor = members[0, 1:].copy()
            members[:, 1:] -= anchor
            facet_owners[members.tobytes()].append((index, anchor))
            corners = ranks.tolist()
            sides.update((a, b) if a < b else (b, a) for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
        for a, b in sides:
            one, other = spheres[-1][a], spheres[-1][b]
            pair_owners[(int(one[0]), int(other[0]), *(other[1:] - one[1:]).tolist())].add(
                (index, *(-one[1:]).tolist())
            )
    edges, images = [], []
    for owners in facet_owners.values():
        if len(owners) != 2:
            raise _Misfit
        (u, at_u), (v, at_v) = owners
        edges.append((u, v))
        images.append(at_u - at_v)
    found = _Pieces(
        vertices=vertices[kept],
        powers=np.array(powers),
        spheres=spheres,
        edges=np.array(edges, dtype=int).reshape(-1, 2),
        images=np.array(images, dtype=int).reshape(-1, 3),
        faces=[np.array(sorted(owners)) for owners in pair_owners.values()],
        face_spheres=np.array(
            [((one, 0, 0, 0), (other, *cell)) for one, other, *cell in pair_owners], dtype=int
        ).reshape(-1, 2, 4),
        reach=block.reach,
    )
    cells = len({int(index) for each in spheres for index in each[:, 0]})
    if not kept or len(kept) - len(edges) + len(found.faces) - cells != 0:
        raise _Misfit
    return found


def _polyhedron(points: np.ndarray, plane: float) -> list[np.ndarray] | None:
    """Faces of the convex hull, each a ring of indices of all the points in it; None for points in one plane."""
    if len(points) < 4:
        raise _Misfit
    centred = points - points.mean(axis=0)
    if np.linalg.svd(centred, compute_uv=False)[2] < 3 * plane:
        return None
    if len(points) == 4:
        return _TETRAHEDRON
    try:
        equations = ConvexHull(centred).equations
    except QhullError as error:
        raise _Misfit from error
    rings: dict[tuple[int, ...], np.ndarray] = {}
    for normal, offset in zip(equations[:, :3], equations[:, 3], strict=True):
        members = np.flatnonzero(np.abs(centred @ normal + offset) < plane)
        if len(members) < 3:
            raise _Misfit
        key = tuple(members.tolist())
        if key in rings:
            continue
        middle = centred[members] - centred[members].mean(axis=0)
        along = middle[0] / np.linalg.norm(middle[0])
        angle = np.arctan2(middle @ np.cross(normal, along), middle @ along)
        rings[key] = members[np.argsort(angle)]
    return list(rings.values())


def _in_given_cell(
    found: _Pieces,
    lattice: np.ndarray,
    frac: np.ndarray,
    radii: np.ndarray,
    transformation: np.ndarray,
    home: np.ndarray,
    distorted: bool,
) -> PowerDiagram:
    """The pieces with coordinates and cells of the lattice that was given, vertices moved into it."""
    unwrapped = found.vertices @ transformation
    moved = np.floor(unwrapped + 1e-9).astype(int)
    spheres = []
    for own, named in zip(moved, found.spheres, strict=True):
        cells = (named[:, 1:] - home[named[:, 0]]) @ transformation - own
        spheres.append(np.column_stack([named[:, 0], cells]))
    faces = [np.column_stack([ring[:, 0], ring[:, 1:] @ transformation + moved[ring[:, 0]]]) for ring in found.faces]
    between = found.face_spheres.copy()
    between[:, :, 1:] = (between[:, :, 1:] - home[between[:, :, 0]]) @ transformation
    images = found.images @ transformation
    if len(found.edges):
        images = images + moved[found.edges[:, 1]] - moved[found.edges[:, 0]]
    return PowerDiagram(
        lattice=lattice,
        frac_coords=frac,
        radii_A=radii,
        vertices=unwrapped - moved,
        powers_A2=found.powers,
        vertex_spheres=tuple(spheres),
        edges=found.edges,
        images=images,
        faces=tuple(faces),
        face_spheres=between,
        cells=np.unique(np.concatenate([each[:, 0] for each in spheres])),
        reach_A=found.reach,
        distorted=distorted,
    )


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2
