"""Which points of a scan's grid must be evaluated so that the answer is that of the whole grid.

A coarse set of points, spread evenly over the cell, is evaluated first. From then on every other point has a lower and
an upper estimate of its energy (:mod:`.landscape_model`), and percolation over the grid of lower and over that of upper
estimates encloses percolation over the grid of energies: raising a point never lowers a threshold. The next points to
evaluate are those that hold the two apart:

- the lowest ones, until no point can lie below the lowest energy that was evaluated;
- the bottlenecks of the grid of lower estimates in one, two and three dimensions, those of the level map's way to the
  faces of the box, and, where a bottleneck is known already, the points of the path whose upper estimate lies above it;
- the points that may lie on either side of a free volume's threshold, until the expected error of the volume is
  ``free_volume_tolerance`` of itself.

Everything else is saved: points that lie above every level of interest, and points deep in a valley, even by their
estimates. What is evaluated in the end decides the thresholds, so they are energies of the grid and not estimates.

The estimates are ``SAFETY`` standard deviations wide, and the deviation is scaled up by how far the energies of all
batches were from what had been predicted of them. They are not proven bounds: a channel that no evaluated surroundings
resemble could be missed. So when all is decided, the undecided points that come closest to mattering are evaluated as a
sample; one of them outside its estimates widens all of them, and the search goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .free_volume import SMEARING_eV
from .landscape_analysis import box_around, face_level
from .landscape_grid import ScanGrid
from .landscape_model import LandscapeModel, compressed, expanded
from .percolation import level_map, neighbour_offsets, percolate_grid
from .percolation_paths import percolation_paths

LEAST_BATCH = 32
"""Points chosen at a time, or a tenth of those known. Fewer would save some evaluations, more would save fits."""

SAFETY = 4.0
"""Width of the estimates on either side, in standard deviations."""

SAMPLE = 16
"""Points that are evaluated at the end to hold the estimates against."""

DECIDED_eV = 1e-3
"""Thresholds closer than this are the same."""

Evaluate = Callable[[np.ndarray], np.ndarray]
"""Takes positions in ``grid.irreducible``, int (n,); returns total energies in eV, shape (n,)."""


@dataclass(frozen=True)
class Refinement:
    """Energies of the irreducible points of a grid, evaluated or estimated.

    Attributes
    ----------
    energies_eV
        Total energies, shape (irreducible,).
    evaluated
        Which of them were evaluated; the others are means of the model.
    percolation_error_eV
        How far apart the thresholds in one, two and three dimensions are between lower and upper estimates; 0 where
        all is decided.
    mpe_error_eV
        The same for the minimal percolation energy.
    free_volume_error
        Expected error of the free volume at its threshold, as a share of itself.
    free_volume_tolerance
        What was let pass of it.
    """

    energies_eV: np.ndarray
    evaluated: np.ndarray
    percolation_error_eV: tuple[float, float, float]
    mpe_error_eV: float
    free_volume_error: float
    free_volume_tolerance: float

    def warnings(self) -> list[str]:
        """Sentences on what too few evaluations left open."""
        said = []
        open_ended = {f"{k}D": error for k, error in enumerate(self.percolation_error_eV, 1) if error > 0}
        if self.mpe_error_eV > 0:
            open_ended["minimal"] = self.mpe_error_eV
        if open_ended:
            which = ", ".join(
                f"{name} {'by no known amount' if np.isinf(error) else f'by up to {error:.3f} eV'}"
                for name, error in open_ended.items()
            )
            said.append(
                f"max_evaluations ended the scan before all was decided; percolation energies may be off: {which}."
            )
        if self.free_volume_error > 2 * self.free_volume_tolerance:
            said.append(
                f"max_evaluations ended the scan early; the free volume may be off by {self.free_volume_error:.0%} of "
                "itself."
            )
        return said


def coarse_count(irreducible: int) -> int:
    """Points that are evaluated before anything is known."""
    return min(irreducible, 48 + irreducible // 50)


def expected_evaluations(irreducible: int) -> int:
    """A generous guess of how many evaluations a refined scan of so many points takes."""
    return min(irreducible, 150 + irreducible // 11)


def refine(
    grid: ScanGrid,
    lattice: np.ndarray,
    descriptions: np.ndarray,
    evaluate: Evaluate,
    free_volume_thresholds_eV: tuple[float, ...],
    free_volume_tolerance: float,
    most_evaluations: int | None = None,
) -> Refinement:
    """Evaluate the points that decide percolation and free volume, and estimate the others.

    Parameters
    ----------
    grid
        The grid.
    lattice
        Its cell, vectors as rows in Angstrom, shape (3, 3).
    descriptions
        Of the irreducible points, see :func:`~.landscape_model.describe_points`.
    evaluate
        Evaluates points.
    free_volume_thresholds_eV
        Energies above the minimum at which the free volume is wanted, smeared or not.
    free_volume_tolerance
        Error of the free volume that is let pass, as a share of itself.
    most_evaluations
        Stop after so many, decided or not; None for no limit.
    """
    state = _State(grid, lattice, descriptions, free_volume_thresholds_eV, free_volume_tolerance)
    limit = len(state.energies) if most_evaluations is None else min(most_evaluations, len(state.energies))
    coarse = max(1, min(coarse_count(len(state.energies)), limit))
    state.add(_evenly_spread(grid, lattice, coarse), evaluate)
    state.estimate()
    sampled = False
    while (left := limit - int(state.known.sum())) > 0:
        chosen = state.undecided()
        sampling = not len(chosen)
        if sampling and sampled:
            break
        fits = state.add((state.sample() if sampling else chosen)[:left], evaluate)
        # A sample counts until an energy lies outside its estimate.
        sampled = fits and (sampling or sampled)
        state.estimate()
    return state.result()


class _State:
    """What is known and estimated of every irreducible point; energies count from the ion's own site."""

    def __init__(
        self,
        grid: ScanGrid,
        lattice: np.ndarray,
        descriptions: np.ndarray,
        free_volume_thresholds_eV: tuple[float, ...],
        free_volume_tolerance: float,
    ) -> None:
        irreducible = grid.irreducible
        count = len(irreducible)
        self.shape, self.lattice = grid.shape, lattice
        self.thresholds_eV, self.tolerance = free_volume_thresholds_eV, free_volume_tolerance
        self.levels_eV = tuple(t + step for t in free_volume_thresholds_eV for step in SMEARING_eV)
        # The last entry of a field of points stands for what is excluded.
        position = np.full(len(grid.representative), count)
        position[irreducible] = np.arange(count)
        self.point_of = np.where(grid.allowed, position[grid.representative], count)
        self.weights = np.bincount(self.point_of, minlength=count + 1)[:count]
        self.model = LandscapeModel(descriptions)
        self.energies = np.full(count, np.nan)
        self.reference = 0.0
        self.mean, self.deviation = np.zeros(count), np.full(count, np.inf)
        self.low, self.high = np.zeros(count), np.full(count, np.inf)
        self.ceiling, self.fitted = np.inf, 0
        self.squares: list[np.ndarray] = []
        self.widening = 1.0

    @property
    def known(self) -> np.ndarray:
        """Which points were evaluated."""
        return np.isfinite(self.energies)

    @property
    def batch(self) -> int:
        """How many points are chosen at a time."""
        return max(LEAST_BATCH, int(self.known.sum()) // 10)

    def add(self, points: np.ndarray, evaluate: Evaluate) -> bool:
        """Evaluate points; whether all lay within their estimates."""
        values = np.asarray(evaluate(points), dtype=float)
        if not self.known.any():
            self.reference = float(values[points == 0][0])  # the ion's own site comes first
            self.energies[points] = values - self.reference
            return True
        self.energies[points] = values - self.reference
        misses = (compressed(self.energies[points]) - self.mean[points]) / self.deviation[points]
        self.squares.append(misses**2)
        self.widening = max(1.0, float(np.sqrt(np.concatenate(self.squares).mean())))
        worst = float(np.abs(misses).max(initial=0.0))
        fits = worst <= SAFETY * self.widening
        if not fits:
            self.widening = worst / SAFETY
        return fits

    def estimate(self) -> None:
        """Fit the model to what is known, and take lower and upper estimates of the rest from it."""
        known = self.known
        points, rest = np.flatnonzero(known), np.flatnonzero(~known)
        if len(points) - self.fitted >= self.batch // 4:  # a handful of points more would change little
            self.fitted = len(points)
            renewed = self.model.fit(points, self.energies[points])
            # What lies above all that is asked for keeps its estimates until the model has changed much.
            active = rest if renewed else rest[self.low[rest] <= self.ceiling]
            self.mean[active], self.deviation[active] = self.model.predict(active)
        width = SAFETY * self.widening * self.deviation[rest]
        self.low[rest], self.high[rest] = expanded(self.mean[rest] - width), expanded(self.mean[rest] + width)
        self.low[points] = self.high[points] = self.energies[points]

    def field(self, points: np.ndarray) -> np.ndarray:
        """A property of the irreducible points on the whole grid; ``inf`` where excluded."""
        return np.asarray(np.append(points, np.inf)[self.point_of].reshape(self.shape))

    def undecided(self) -> np.ndarray:
        """The points to evaluate next, those that matter most first; none when everything is decided."""
        lowest = np.flatnonzero(self.low < np.nanmin(self.energies))
        wanted = _fresh(lowest, self.known, by=self.low)[: self.batch // 2] + self._for_percolation()
        # The box costs more to look at; what decides percolation mostly decides it, too.
        if len(wanted) < self.batch // 2:
            wanted += self._for_box()
        wanted += self._for_free_volume()
        chosen = list(dict.fromkeys(wanted))
        return np.array(chosen[: self.batch], dtype=int)

    def _enclosed(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds and component minima for the lower and for the upper estimates, shape (2, 3) each."""
        both = [percolate_grid(self.field(points), lattice=self.lattice) for points in (self.low, self.high)]
        return np.array([p.thresholds_eV for p in both]), np.array([p.component_minimum_eV for p in both])

    def _for_percolation(self) -> list[int]:
        """Points that hold apart the percolation of the lower and of the upper estimates."""
        thresholds, minima = self._enclosed()
        open_ended = np.isfinite(thresholds[0]) & ((_apart(thresholds) > DECIDED_eV) | (_apart(minima) > DECIDED_eV))
        asked = thresholds[1][np.isfinite(thresholds[0])]
        self.ceiling = max([*asked.tolist(), float(np.nanmin(self.energies)) + max(self.levels_eV)])
        if not open_ended.any():
            return []
        ceiling = thresholds[1][open_ended].max()
        known, supposed = self.known, np.where(self.low <= ceiling, self.low, np.inf)
        wanted: list[int] = []
        # Suppose that a bottleneck has the energy that is expected of it, and look for the next one.
        while len(wanted) < self.batch:
            percolation = percolate_grid(self.field(supposed), lattice=self.lattice)
            voxels = [percolation.bottleneck[k] for k in np.flatnonzero(open_ended)]
            voxels += [percolation.component_minimum_node[k] for k in np.flatnonzero(open_ended)]
            points = {int(self.point_of[voxel]) for voxel in voxels if voxel is not None}
            fresh = [point for point in sorted(points) if not known[point] and point not in wanted]
            if not fresh:
                break
            wanted += fresh
            supposed[fresh] = expanded(self.mean[fresh])
        if len(wanted) < self.batch // 2:
            wanted += self._on_paths(supposed, thresholds, open_ended)
        return wanted

    def _on_paths(self, supposed: np.ndarray, thresholds: np.ndarray, open_ended: np.ndarray) -> list[int]:
        """Points of the paths below known bottlenecks that may yet lie above them, and else those next to the level."""
        found: list[int] = []
        for k in np.flatnonzero(open_ended):
            for path in percolation_paths(self.field(supposed), int(k) + 1, self.lattice):
                index = np.rint(path.frac_coords * self.shape).astype(int) % self.shape
                points = np.unique(self.point_of[np.ravel_multi_index(tuple(index.T), self.shape)])
                found += _fresh(points[self.high[points] > thresholds[0, k] + DECIDED_eV], self.known, by=-self.high)
        if not found:
            level = thresholds[0, open_ended]
            straddling = ((self.low[:, None] <= level) & (self.high[:, None] > level)).any(axis=1)
            found = _fresh(np.flatnonzero(straddling), self.known, by=self.low)
        return found[: self.batch]

    def _for_box(self) -> list[int]:
        """Points that hold apart the minimal percolation energies of the lower and of the upper estimates."""
        high = self._box(self.high)
        low = self._box(np.where(self.low <= high, self.low, np.inf))
        if not np.isfinite(low) or high - low <= DECIDED_eV:
            return []
        at_level = _fresh(np.flatnonzero(np.abs(self.low - low) < 1e-9), self.known, by=self.low)
        return at_level + self._on_box_path(low)

    def _box(self, points: np.ndarray) -> float:
        return face_level(self.field(points), self.lattice, self._lowest_voxel)

    @property
    def _lowest_voxel(self) -> int:
        return int(np.flatnonzero(self.point_of == np.nanargmin(self.energies))[0])

    def _on_box_path(self, level: float) -> list[int]:
        """Of the ways to a face below a level, the points in doubt on the one that has fewest of them."""
        from skimage.graph import MCP

        doubtful = self.high > level + DECIDED_eV
        cost = np.where(self.low <= level, np.where(doubtful, 1.0, 1e-6), -1.0)
        voxels = np.arange(self.point_of.size).reshape(self.shape)
        box, cell = box_around(voxels, self.lattice, self._lowest_voxel)
        costs = np.append(cost, -1.0)[self.point_of][box]
        ways = MCP(costs, offsets=neighbour_offsets(26, box.shape, cell))
        totals, _ = ways.find_costs([tuple(n // 2 for n in box.shape)])
        inner = tuple(slice(1, n - 1) for n in box.shape)
        totals[inner] = np.inf
        end = np.unravel_index(int(np.argmin(totals)), box.shape)
        if not np.isfinite(totals[end]):
            return []
        on_way = np.unique([self.point_of[box[place]] for place in ways.traceback(end)])
        return _fresh(on_way[doubtful[on_way]], self.known, by=-self.high)

    def _shares(self) -> tuple[np.ndarray, float]:
        """Expected error of the free volume from each point, mean over the thresholds, and the volume, in voxels."""
        from scipy.special import ndtr

        lowest = float(np.nanmin(self.energies))
        error, volume = np.zeros(len(self.energies)), 0.0
        rest = np.flatnonzero(~self.known)
        spread = np.maximum(self.widening * self.deviation[rest], 1e-12)
        for level in self.levels_eV:
            below = np.where(self.known, self.energies < lowest + level, 0.0)
            below[rest] = ndtr((compressed(np.array(lowest + level)) - self.mean[rest]) / spread)
            volume += float(below @ self.weights)
            error[rest] += (np.minimum(below, 1 - below) * self.weights)[rest]
        return error / len(self.levels_eV), volume / len(self.levels_eV)

    def _for_free_volume(self) -> list[int]:
        """Points that may lie on either side of a threshold, and those that decide whether a part is connected."""
        error, volume = self._shares()
        allowed = self.tolerance * max(volume, 1.0)
        order = np.argsort(-error, kind="stable")
        # After the first of them are evaluated, the errors of the others add up to what is allowed.
        needed = int(np.searchsorted(-(error.sum() - np.cumsum(error[order])), -allowed)) + 1
        wanted = order[:needed].tolist() if error.sum() > allowed else []
        for threshold in self.thresholds_eV:
            level = float(np.nanmin(self.energies)) + threshold
            expected = np.where(self.known, self.energies, expanded(self.mean))
            most, middle, least = (self._connected(points, level) for points in (self.low, expected, self.high))
            # Estimates err in all directions: it is what joins whole parts that counts, not the rim of each.
            if max(int(most.sum()) - int(middle.sum()), int(middle.sum()) - int(least.sum())) > 10 * allowed:
                straddling = (self.low < level) & (self.high >= level)
                reached = np.zeros(len(self.energies) + 1, dtype=bool)
                reached[self.point_of[most.ravel()]] = True
                wanted += _fresh(np.flatnonzero(straddling & reached[:-1]), self.known, by=-error)[: self.batch // 2]
        return wanted

    def _connected(self, points: np.ndarray, level: float) -> np.ndarray:
        """Whether each voxel is reached from the lowest point below a level."""
        open_points = np.where(points < level, points, np.inf)
        levels = level_map(self.field(open_points), self._lowest_voxel, lattice=self.lattice)
        return np.isfinite(levels)

    def sample(self) -> np.ndarray:
        """Undecided points whose being outside their estimates would matter most."""
        rest = np.flatnonzero(~self.known)
        # In standard deviations from the highest level that counts.
        away = (self.mean[rest] - compressed(np.array(self.ceiling))) / self.deviation[rest]
        return rest[np.argsort(np.abs(away), kind="stable")[:SAMPLE]]

    def result(self) -> Refinement:
        """Energies with what is still open about them."""
        thresholds, minima = self._enclosed()
        apart = np.maximum(_apart(thresholds), _apart(minima))
        apart = np.where(np.isfinite(thresholds[0]), apart, 0.0)
        apart[apart <= DECIDED_eV] = 0.0
        low, high = (self._box(points) for points in (self.low, self.high))
        error, volume = self._shares()
        known = self.known
        estimated = expanded(self.mean)
        return Refinement(
            energies_eV=np.where(known, self.energies, estimated) + self.reference,
            evaluated=known,
            percolation_error_eV=(float(apart[0]), float(apart[1]), float(apart[2])),
            mpe_error_eV=high - low if np.isfinite(low) and high - low > DECIDED_eV else 0.0,
            free_volume_error=float(error.sum() / max(volume, 1.0)),
            free_volume_tolerance=self.tolerance,
        )


def _apart(pairs: np.ndarray) -> np.ndarray:
    """Distance of two rows, 0 where both are infinite."""
    equal = pairs[0] == pairs[1]
    return np.asarray(np.where(equal, 0.0, np.abs(np.where(equal, 0.0, pairs[1]) - np.where(equal, 0.0, pairs[0]))))


def _fresh(points: np.ndarray, known: np.ndarray, by: np.ndarray) -> list[int]:
    """Those of the points that are not known, in rising order of a property of all points."""
    points = points[~known[points]]
    return [int(point) for point in points[np.argsort(by[points], kind="stable")]]


def _evenly_spread(grid: ScanGrid, lattice: np.ndarray, count: int) -> np.ndarray:
    """Positions of irreducible points, each as far as possible from those before it; the ion's own site first."""
    points = grid.frac_coords(grid.irreducible)
    nearest = np.full(len(points), np.inf)
    chosen = [0]
    while len(chosen) < count:
        offset = points - points[chosen[-1]]
        nearest = np.minimum(nearest, np.linalg.norm((offset - np.rint(offset)) @ lattice, axis=1))
        chosen.append(int(np.argmax(nearest)))
    return np.array(chosen)
