"""From a grid to the continuous field: basins, the passes between them, and their true minima and saddle points.

On a grid the ion is led past a bottleneck by the nearest grid points, not through its lowest point, so barriers depend
on the spacing (by up to 0.15 eV at 0.2 and 0.3 Angstrom for 20 known conductors). Here the coarse grid only says which
minima lie next to each other: it is divided into the basins of its minima, every pair of touching basins is an edge of
a periodic graph, and the edges that can decide a threshold are moved to the saddle point of the continuous field. The
percolation of that graph is then the field's own, at the cost of the coarse grid and some thousand evaluations at
points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .basins import BasinGraph, basin_graph
from .percolation import Percolation, percolate_graph
from .symmetric_grids import symmetry_operations

if TYPE_CHECKING:
    from .site_energy import SiteEnergyField, StationaryPoints

#: A pass on the grid lies above the true one (it misses the lowest point) or below it (it steps over a thin ridge) by
#: no more than this times the squared spacing, in eV/Angstrom^2. Errors against a 0.1 Angstrom grid were at most 0.09,
#: 0.20 and 0.35 eV at 0.2, 0.3 and 0.4 Angstrom.
GRID_ERROR_EV_PER_A2 = 2.5

#: Saddle points whose energies differ by less than this (eV) are the same by symmetry, up to rounding.
TIE_EV = 1e-6

#: Minima closer than this (Angstrom) are one.
SAME_MINIMUM_A = 0.1

#: Symmetry of the framework for finding images of saddle points, in Angstrom.
IMAGE_TOLERANCE_A = 1e-3

#: Where the ways down from a saddle point start, in Angstrom from it.
OFF_THE_SADDLE_A = 0.05

#: How much above its threshold a component is looked at again, for sites that join it only just too late, in eV.
NEARBY_LEVEL_EV = 0.01

#: Rounds of refinement; each moves all edges that may still decide a threshold, so three or four do.
MOST_ROUNDS = 25


@dataclass(frozen=True)
class RefinedPercolation:
    """Percolation of the continuous field.

    Attributes
    ----------
    percolation
        Thresholds and minima; ``bottleneck`` and ``component_minimum_node`` index the basin graph.
    bottleneck_frac_coords
        Fractional coordinates of each dimension's bottleneck, or None.
    minimum_frac_coords
        Fractional coordinates of the percolating component's lowest minimum, for each dimension, or None.
    nearby_minimum_eV
        Lowest energy of what the percolating component of each dimension would be ``NEARBY_LEVEL_EV`` above its
        threshold: lower than ``component_minimum_eV`` where a deeper site joins it only just too late.
    at_saddle
        Whether each dimension's threshold is a saddle point's energy; otherwise it is the grid's.
    saddles_tried, saddles_found
        Passes that were looked at, and those next to which a saddle point was found.
    """

    percolation: Percolation
    bottleneck_frac_coords: tuple[tuple[float, float, float] | None, ...]
    minimum_frac_coords: tuple[tuple[float, float, float] | None, ...]
    nearby_minimum_eV: tuple[float, float, float]
    at_saddle: tuple[bool, bool, bool]
    saddles_tried: int
    saddles_found: int


def refine_percolation(
    field: SiteEnergyField,
    open_values: np.ndarray,
    on_grid: Percolation,
    neighbours: int = 26,
    highest_eV: float = np.inf,
) -> RefinedPercolation:
    """Move the passes that decide the thresholds to the saddle points of the continuous field.

    Parameters
    ----------
    field
        The field on a grid of at most about 0.4 Angstrom, with its framework.
    open_values
        The field's values with ``inf`` where the ion may not go.
    on_grid
        Percolation of ``open_values``.
    neighbours
        As in ``percolate_grid``.
    highest_eV
        A saddle point above this level is closed to the ion.
    """
    finite = [threshold for threshold in on_grid.thresholds_eV if np.isfinite(threshold)]
    if not finite:
        return unrefined(field, on_grid)
    error_eV = GRID_ERROR_EV_PER_A2 * field.spacing_A**2
    graph = basin_graph(open_values, field.lattice, neighbours, max(finite) + error_eV)
    minima = _refined_minima(field, graph, max(finite))
    passes = _Passes(
        graph.edges,
        graph.images,
        graph.edge_energies_eV,
        np.stack(np.unravel_index(graph.passes, graph.shape), axis=1) / np.array(graph.shape),
        np.full((2, len(graph.edges), 3), np.nan),
        np.zeros(len(graph.edges), dtype=bool),
    )
    found = 0
    percolation = passes.percolate(minima.energies_eV)
    # Most passes find their saddle point at once. Of some, the search ends at an equivalent one or at a neighbour's;
    # these try again from between the two voxels and from the lower one, once the symmetry has been used.
    for attempt, along in enumerate((0.0, 0.5, 1.0)):
        starts = passes.frac_coords[: len(graph.edges)] + along * graph.lower / np.array(graph.shape)
        for _ in range(MOST_ROUNDS):
            chosen = _undecided(passes, percolation, minima, error_eV, again=attempt > 0)
            if not len(chosen):
                break
            passes, saddles = _searched(field, graph, minima, passes, chosen, starts[chosen], error_eV)
            found += saddles
            percolation = passes.percolate(minima.energies_eV)
            if attempt:
                break
        if attempt == 0 and len(_undecided(passes, percolation, minima, error_eV, again=True)):
            passes = _with_images(field, graph, minima, passes)
            percolation = passes.percolate(minima.energies_eV)
    passes = replace(passes, energies_eV=np.where(passes.energies_eV > highest_eV, np.inf, passes.energies_eV))
    percolation = passes.percolate(minima.energies_eV)
    return RefinedPercolation(
        percolation,
        tuple(None if edge is None else _wrapped(passes.frac_coords[edge]) for edge in percolation.bottleneck),
        tuple(None if n is None else _wrapped(minima.frac_coords[n]) for n in percolation.component_minimum_node),
        passes.nearby_minima(minima.energies_eV, percolation),
        _three_flags(edge is not None and bool(passes.exact[edge]) for edge in percolation.bottleneck),
        int(passes.settled[: len(graph.edges)].sum()),
        found,
    )


def unrefined(field: SiteEnergyField, on_grid: Percolation) -> RefinedPercolation:
    """The grid's own percolation, with positions for its voxels."""

    def position(voxel: int | None) -> tuple[float, float, float] | None:
        shape = field.values.shape
        return None if voxel is None else _wrapped(np.array(np.unravel_index(voxel, shape)) / np.array(shape))

    return RefinedPercolation(
        on_grid,
        tuple(position(voxel) for voxel in on_grid.bottleneck),
        tuple(position(voxel) for voxel in on_grid.component_minimum_node),
        on_grid.component_minimum_eV,
        (False, False, False),
        0,
        0,
    )


@dataclass(frozen=True)
class _Minima:
    """Refined minima of the basins; basins that the grid alone made lead to one and the same minimum.

    ``frac_coords`` (basins, 3) are unwrapped from each basin's voxel; ``same_as`` (basins,) names the first basin with
    the same minimum and ``cells`` (basins, 3) the cell of the basin's minimum relative to that one's.
    """

    energies_eV: np.ndarray
    frac_coords: np.ndarray
    same_as: np.ndarray
    cells: np.ndarray


def _refined_minima(field: SiteEnergyField, graph: BasinGraph, highest_eV: float) -> _Minima:
    """Move the minima below a level to the bottom of the continuous field."""
    from scipy.spatial import cKDTree

    coords = np.stack(np.unravel_index(graph.minima, graph.shape), axis=1) / np.array(graph.shape)
    energies = graph.node_energies_eV.copy()
    low = np.flatnonzero(energies <= highest_eV)
    moved = field.framework.stationary_points(
        coords[low], negative_modes=0, trust_radius_A=0.1, farthest_A=2.0 * field.spacing_A + 0.2
    )
    better = moved.found & (moved.energies_eV <= energies[low])
    energies[low[better]] = moved.energies_eV[better]
    coords[low[better]] = moved.frac_coords[better]
    same_as = np.arange(len(energies))
    cells = np.zeros((len(energies), 3), dtype=np.int64)
    tree = cKDTree(coords % 1.0 % 1.0, boxsize=1.0)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(field.lattice), axis=0)
    reach = np.sqrt(3.0) * SAME_MINIMUM_A / heights.min()
    for first, second in sorted(tree.query_pairs(reach)):
        apart = coords[second] - coords[first]
        cell = np.rint(apart)
        if same_as[second] == second and np.linalg.norm((apart - cell) @ field.lattice) < SAME_MINIMUM_A:
            same_as[second] = same_as[first]
            cells[second] = cells[first] + cell.astype(np.int64)
    return _Minima(_tied(energies), coords, same_as, cells)


@dataclass(frozen=True)
class _Passes:
    """Edges of the basin graph on their way from the grid to the field.

    ``feet`` (2, edges, 3) are the fractional coordinates of the two minima below a saddle point, NaN where the energy
    is the grid's; ``settled`` (edges,) have been looked at.
    """

    edges: np.ndarray
    images: np.ndarray
    energies_eV: np.ndarray
    frac_coords: np.ndarray
    feet: np.ndarray
    settled: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """Which edges have the energy of a saddle point, bool (edges,)."""
        return np.isfinite(self.feet[0, :, 0])

    def plus(
        self, edges: np.ndarray, images: np.ndarray, energies_eV: np.ndarray, frac_coords: np.ndarray, feet: np.ndarray
    ) -> _Passes:
        """With more saddle points."""
        return _Passes(
            np.concatenate([self.edges, edges]),
            np.concatenate([self.images, images]),
            _tied(np.concatenate([self.energies_eV, energies_eV])),
            np.concatenate([self.frac_coords, frac_coords]),
            np.concatenate([self.feet, feet], axis=1),
            np.concatenate([self.settled, np.ones(len(edges), dtype=bool)]),
        )

    def percolate(self, node_energies_eV: np.ndarray, lowered_eV: np.ndarray | float = 0.0) -> Percolation:
        """Percolation when the passes lie lower than they are held to by so much."""
        return percolate_graph(node_energies_eV, self.edges, self.images, self.energies_eV - lowered_eV)

    def nearby_minima(self, node_energies_eV: np.ndarray, percolation: Percolation) -> tuple[float, float, float]:
        """Minima of the percolating components at a level slightly above their thresholds."""
        found = list(percolation.component_minimum_eV)
        for dimension, threshold in enumerate(percolation.thresholds_eV):
            if np.isfinite(threshold):
                near = (self.energies_eV > threshold) & (self.energies_eV <= threshold + NEARBY_LEVEL_EV)
                lowered = percolate_graph(
                    node_energies_eV, self.edges, self.images, np.where(near, threshold, self.energies_eV)
                )
                found[dimension] = min(found[dimension], lowered.component_minimum_eV[dimension])
        return found[0], found[1], found[2]


def _undecided(passes: _Passes, percolation: Percolation, minima: _Minima, error_eV: float, again: bool) -> np.ndarray:
    """Passes of the grid that may still decide a threshold; ``again`` also those that were looked at in vain."""
    open_ended = ~passes.exact if again else ~passes.settled
    optimistic = passes.percolate(minima.energies_eV, np.where(open_ended, error_eV, 0.0))
    undecided = np.zeros(len(passes.edges), dtype=bool)
    for low, high in zip(optimistic.thresholds_eV, percolation.thresholds_eV, strict=True):
        if np.isfinite(low):
            undecided |= (passes.energies_eV - error_eV <= high) & (passes.energies_eV + error_eV >= low)
    return np.flatnonzero(undecided & open_ended)


def _searched(
    field: SiteEnergyField,
    graph: BasinGraph,
    minima: _Minima,
    passes: _Passes,
    chosen: np.ndarray,
    starts: np.ndarray,
    error_eV: float,
) -> tuple[_Passes, int]:
    """Look for the saddle points next to the chosen passes; returns the passes with them and how many were found.

    Where a saddle point leads is found by going down on both sides. It may be the pass of two other basins close by
    (the grid went from one basin to the next but one at a single step); then it becomes an edge of its own, and the
    chosen one keeps the energy of the grid, which bounds it from above.
    """
    saddles = field.framework.stationary_points(
        starts, negative_modes=1, trust_radius_A=0.1, farthest_A=2.0 * field.spacing_A + 0.2
    )
    low_enough = saddles.energies_eV <= passes.energies_eV[chosen] + error_eV
    good = np.flatnonzero(saddles.found & low_enough)
    feet, reached = _feet(field, saddles, good)
    good, feet = good[reached], feet[:, reached]
    left, left_cells = _basins_at(graph, minima, feet[0])
    right, right_cells = _basins_at(graph, minima, feet[1])
    images = right_cells - left_cells
    a, b = passes.edges[chosen[good]].T
    expected = passes.images[chosen[good]] + minima.cells[b] - minima.cells[a]
    own = (left == minima.same_as[a]) & (right == minima.same_as[b]) & (images == expected).all(axis=1)
    own |= (left == minima.same_as[b]) & (right == minima.same_as[a]) & (images == -expected).all(axis=1)
    energies, coords = passes.energies_eV.copy(), passes.frac_coords.copy()
    all_feet, settled = passes.feet.copy(), passes.settled.copy()
    settled[chosen] = True
    energies[chosen[good[own]]] = saddles.energies_eV[good[own]]
    coords[chosen[good[own]]] = saddles.frac_coords[good[own]]
    all_feet[:, chosen[good[own]]] = feet[:, own]
    # The grid may have stepped over a ridge between two voxels; the straight step bounds the pass from above.
    failed = np.setdiff1d(chosen, chosen[good[own]])
    steps = graph.lower[failed] / np.array(graph.shape)
    voxels = np.stack(np.unravel_index(graph.passes[failed], graph.shape), axis=1) / np.array(graph.shape)
    between = voxels[:, None] + np.linspace(0.125, 0.875, 7)[None, :, None] * steps[:, None]
    crest = field.framework.energies_at(between.reshape(-1, 3))[0].reshape(-1, 7).max(axis=1)
    energies[failed] = np.maximum(energies[failed], crest)
    elsewhere = ~own & (left >= 0) & (right >= 0)
    other = good[elsewhere]
    found = _Passes(passes.edges, passes.images, energies, coords, all_feet, settled).plus(
        np.stack([left, right], axis=1)[elsewhere],
        images[elsewhere],
        saddles.energies_eV[other],
        saddles.frac_coords[other],
        feet[:, elsewhere],
    )
    return found, len(good)


def _with_images(field: SiteEnergyField, graph: BasinGraph, minima: _Minima, passes: _Passes) -> _Passes:
    """Add the images of all saddle points under the symmetry of the framework."""
    rotations, translations = symmetry_operations(field.framework, IMAGE_TOLERANCE_A)
    exact = np.flatnonzero(passes.exact)
    edges, images, energies, coords, feet = [], [], [], [], []
    for rotation, translation in zip(rotations, translations, strict=True):
        moved = passes.feet[:, exact] @ rotation.T + translation
        starts, start_cells = _basins_at(graph, minima, moved[0])
        ends, end_cells = _basins_at(graph, minima, moved[1])
        edges.append(np.stack([starts, ends], axis=1))
        images.append(end_cells - start_cells)
        energies.append(passes.energies_eV[exact])
        coords.append(passes.frac_coords[exact] @ rotation.T + translation)
        feet.append(moved)
    all_edges, all_images, all_energies = np.concatenate(edges), np.concatenate(images), np.concatenate(energies)
    rows = np.column_stack([all_edges, all_images, np.rint(all_energies / TIE_EV).astype(np.int64)])
    _, first = np.unique(rows, axis=0, return_index=True)
    first = first[(all_edges[first] >= 0).all(axis=1)]
    return passes.plus(
        all_edges[first],
        all_images[first],
        all_energies[first],
        np.concatenate(coords)[first],
        np.concatenate(feet, axis=1)[:, first],
    )


def _feet(field: SiteEnergyField, saddles: StationaryPoints, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima on both sides of each saddle point, (2, saddles, 3), and whether both were reached, (saddles,)."""
    aside = OFF_THE_SADDLE_A * saddles.lowest_modes[which] @ np.linalg.inv(field.lattice)
    down = [
        field.framework.stationary_points(
            saddles.frac_coords[which] + sign * aside,
            negative_modes=0,
            trust_radius_A=0.1,
            farthest_A=6.0,
            most_steps=200,
        )
        for sign in (1, -1)
    ]
    return np.stack([side.frac_coords for side in down]), down[0].found & down[1].found


def _basins_at(graph: BasinGraph, minima: _Minima, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Basin of each point (points,), -1 for none, and the cell of its minimum (points, 3)."""
    shape = np.array(graph.shape)
    steps = np.rint(frac_coords * shape).astype(np.int64)
    voxels = np.ravel_multi_index(tuple((steps % shape).T), graph.shape)
    basins = graph.basin_of[voxels]
    cells = steps // shape + graph.cell_of[voxels] + minima.cells[basins]
    return np.where(basins >= 0, minima.same_as[basins], -1), cells


def _tied(energies: np.ndarray) -> np.ndarray:
    """Give equivalent saddle points one energy, so that they join their basins at one and the same level."""
    order = np.argsort(energies, kind="stable")
    ordered = energies[order]
    group = np.cumsum(np.concatenate([[0], np.diff(ordered) > TIE_EV]))
    means = np.bincount(group, ordered) / np.bincount(group)
    tied = np.empty_like(energies)
    tied[order] = means[group]
    return tied


def _three_flags(flags: Iterable[bool]) -> tuple[bool, bool, bool]:
    a, b, c = flags
    return a, b, c


def _wrapped(coords: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (float(x) % 1.0 % 1.0 for x in coords)
    return a, b, c
