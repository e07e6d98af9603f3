"""Where an ion stops along a percolating path, and which sites of the crystal these places are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from .percolation_paths import PercolationPath


@dataclass(frozen=True)
class PathStop:
    """A local minimum along a path.

    Attributes
    ----------
    index
        Point of the path.
    energy_eV
        Its energy.
    barrier_eV
        Highest energy up to the next stop (or to this one's own image, if it is the only one) less this stop's.
    """

    index: int
    energy_eV: float
    barrier_eV: float


@dataclass(frozen=True)
class NamedStop:
    """A stop and the site that it is.

    Attributes
    ----------
    stop
        The stop.
    frac_coords
        Where it lies, unwrapped along the path, in the cell of the path.
    site_index
        Index in the structure of the nearest position of the mobile ion; None for an interstice.
    members
        Indices of all positions that make one site with it (split positions of a disordered crystal), itself included;
        empty for an interstice.
    label
        The site's label (``Li1``), or ``interstice``.
    image
        Cell of the site that is meant, with respect to the structure's own; None for an interstice.
    distance_A
        From the stop to the nearest mobile-ion site, whether it is that site or not; ``inf`` when there is none.
    """

    stop: PathStop
    frac_coords: tuple[float, float, float]
    site_index: int | None
    members: tuple[int, ...]
    label: str
    image: tuple[int, int, int] | None
    distance_A: float


def find_stops(energies_eV: np.ndarray, least_depth_eV: float = 0.0) -> tuple[PathStop, ...]:
    """Local minima of a closed energy profile.

    Parameters
    ----------
    energies_eV
        Energies along the loop; the last point is the first one again, shape (points,).
    least_depth_eV
        A minimum from which a lower one is reached over less than this is no stop. The lowest always is one.

    Returns
    -------
    tuple of PathStop
        In order along the path, at least one.
    """
    ring = np.asarray(energies_eV, dtype=float)[:-1]
    places = _lowest_of_each_dip(ring)
    while len(places) > 1:
        passes = [_highest_between(ring, places[k], places[(k + 1) % len(places)]) for k in range(len(places))]
        # Depth of a dip: up to the lower of its two passes, whatever lies beyond, as long as that is not higher.
        depths = [min(passes[k - 1], passes[k]) - ring[places[k]] for k in range(len(places))]
        shallow = int(np.argmin(depths))
        if depths[shallow] >= least_depth_eV:
            break
        del places[shallow]
    return tuple(
        PathStop(
            index=place,
            energy_eV=float(ring[place]),
            barrier_eV=float(_highest_between(ring, place, places[(k + 1) % len(places)]) - ring[place]),
        )
        for k, place in enumerate(places)
    )


def _lowest_of_each_dip(ring: np.ndarray) -> list[int]:
    """Middle of every stretch of equal energy that rises to both sides; the whole ring when it is flat."""
    count = len(ring)
    if (ring == ring[0]).all():
        return [0]
    start = int(np.flatnonzero(ring != np.roll(ring, 1))[0])  # a point where a stretch begins
    order = (start + np.arange(count)) % count
    profile = ring[order]
    begins = np.flatnonzero(np.append(True, profile[1:] != profile[:-1]))
    ends = np.append(begins[1:], count) - 1
    levels = profile[begins]
    lower = (levels < np.roll(levels, 1)) & (levels < np.roll(levels, -1))
    return sorted(int(order[(a + b) // 2]) for a, b in zip(begins[lower], ends[lower], strict=True))


def _highest_between(ring: np.ndarray, first: int, last: int) -> float:
    """Highest energy on the way on from one point of the ring to another (all around when they are the same)."""
    return float(ring[first : last + 1].max() if first < last else max(ring[first:].max(), ring[: last + 1].max()))


def name_stops(
    path: PercolationPath, structure: Structure, ion: str, max_distance_A: float = 1.0
) -> tuple[NamedStop, ...]:
    """Say of every stop which site of the mobile ion it is.

    Parameters
    ----------
    path
        In the structure's own cell.
    structure
        Crystal; positions that hold the ion in any share count, and split positions are joined as in
        :func:`~hopflow.transport.occupancies.mobile_sites`.
    ion
        Element symbol of the mobile ion.
    max_distance_A
        A stop farther than this from every site is an interstice.

    Returns
    -------
    tuple of NamedStop
        In the order of ``path.stops``. Labels are the structure's; a plain element symbol gets the site's number among
        those of the ion, from 1.
    """
    from .occupancies import mobile_sites

    groups: dict[int, tuple[int, ...]] = {}
    if ion in structure.symbol_set:
        groups = {member: group.members for group in mobile_sites(structure, ion) for member in group.members}
    sites = sorted(groups)
    points = path.frac_coords[[stop.index for stop in path.stops]]
    named = []
    for stop, point in zip(path.stops, points, strict=True):
        site, image, distance = _nearest(structure, sites, point)
        inside = site is not None and distance <= max_distance_A
        named.append(
            NamedStop(
                stop=stop,
                frac_coords=(float(point[0]), float(point[1]), float(point[2])),
                site_index=site if inside else None,
                members=groups[site] if inside and site is not None else (),
                label=_label(structure, sites, site, ion) if inside and site is not None else "interstice",
                image=image if inside else None,
                distance_A=distance,
            )
        )
    return tuple(named)


def _nearest(
    structure: Structure, sites: list[int], point: np.ndarray
) -> tuple[int | None, tuple[int, int, int] | None, float]:
    from pymatgen.util.coord import pbc_shortest_vectors

    if not sites:
        return None, None, float("inf")
    places = structure.frac_coords[sites]
    vectors, squares = pbc_shortest_vectors(structure.lattice, point, places, return_d2=True)
    nearest = int(squares[0].argmin())
    image = np.rint(point + structure.lattice.get_fractional_coords(vectors[0, nearest]) - places[nearest]).astype(int)
    return sites[nearest], (int(image[0]), int(image[1]), int(image[2])), float(np.sqrt(squares[0, nearest]))


def _label(structure: Structure, sites: list[int], site: int, ion: str) -> str:
    label = str(structure[site].label)
    symbols = {ion, str(structure[site].species_string), *(str(kind) for kind in structure[site].species)}
    return f"{ion}{sites.index(site) + 1}" if label in symbols else label
