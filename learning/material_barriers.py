"""From the barriers of a crystal's hops to the barriers of the crystal, with their uncertainty.

The barrier of a crystal in d directions is the minimax of its hops' barriers over the graph of hops. It is computed by
the exact percolation, once with the barriers as they are and once for each of many draws of their errors. Errors are
drawn on the scale that barriers are learned on, log(barrier + offset), where they are normal to a fair degree. A part
of each is the same for all hops of the crystal: what a model does not know of a compound it does not know of any of its
hops, and errors in common do not cancel where hops compete or follow one another.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..transport.percolation import percolate_graph
from .barrier_learners import OFFSET_EV, to_target

if TYPE_CHECKING:
    from ..transport.hop_network import HopNetwork

COMMON_SHARE = 0.3
"""Share of the errors' variance that the hops of one crystal have in common.

By :func:`common_share` from the errors of the path network on paths whose hosts it had not seen (Devi et al., arXiv
2508.06459; 89 crystals with several paths, without barriers above 4 eV): 0.29, with a 90 % bootstrap interval over
hosts from 0.16 to 0.44 (``benchmarks/gnn_known_conductors.py --errors``).
"""

SAMPLES = 1000
"""Draws; the ends of a 90 % interval then have a standard error of at most 0.07 sigma."""

_ONE_SIGMA = (0.158655, 0.841345)
_NINETY = (0.05, 0.95)


@dataclass(frozen=True)
class MaterialBarriers:
    """Barriers of a crystal in at least one, at least two and three independent directions.

    Attributes
    ----------
    barriers_eV
        Percolation of the hops' barriers as they are; ``inf`` where no path leads. These are the values to judge by.
    sigmas_eV
        Half of the interval that holds the central 68.3 % of the draws, as the sigma of a hop is; None where no path
        leads.
    intervals_90_eV
        5 % and 95 % points of the draws, those below zero counted as zero. An interval need not be centred at the
        barrier: where several ways of about the same barrier compete, the lowest of them is probably lower than each.
    medians_eV
        Median of the draws.
    limiting_hops
        Index of the hop whose barrier is the crystal's; None where no path leads.
    limiting_probabilities
        Share of the draws in which each hop limits each number of directions, shape (hops, 3); columns add to one, or
        to zero where no path leads.
    """

    barriers_eV: tuple[float, float, float]
    sigmas_eV: tuple[float | None, float | None, float | None]
    intervals_90_eV: tuple[tuple[float, float] | None, tuple[float, float] | None, tuple[float, float] | None]
    medians_eV: tuple[float | None, float | None, float | None]
    limiting_hops: tuple[int | None, int | None, int | None]
    limiting_probabilities: np.ndarray


def material_barriers(
    network: HopNetwork,
    barrier_by_unique_hop: Sequence[float] | np.ndarray,
    sigma_by_unique_hop: Sequence[float] | np.ndarray,
    common_share: float = COMMON_SHARE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> MaterialBarriers:
    """Percolation barriers of a crystal with their uncertainty.

    Parameters
    ----------
    network
        Hops of the crystal.
    barrier_by_unique_hop
        Barrier of each unique hop in eV, shape (len(network.hops),); ``inf`` closes a hop.
    sigma_by_unique_hop
        Their standard deviations in eV, half of the width between one sigma below and above on the learned scale
        (:func:`~hopflow.learning.barrier_learners.to_barrier`), shape (len(network.hops),).
    common_share
        Share of the errors' variance that all hops of the crystal have in common, 0 to 1.
    samples
        Number of draws.
    seed
        Seed of the draws; the same seed gives the same numbers.

    Raises
    ------
    ValueError
        Barriers or sigmas are not as many as the hops, not numbers or below zero, or the share is not from 0 to 1.
    """
    barriers, sigmas = _checked(network, barrier_by_unique_hop, sigma_by_unique_hop)
    levels = sampled_hop_barriers(barriers, sigmas, common_share, samples, seed)
    limits = limiting_hops_of_rows(network, np.vstack([barriers, levels]))
    point, drawn = limits[0], limits[1:]
    probabilities = np.zeros((len(barriers), 3))
    values: list[float] = []
    spread: list[tuple[float, tuple[float, float], float] | None] = []
    for direction in range(3):
        if point[direction] < 0:
            values.append(float("inf"))
            spread.append(None)
            continue
        values.append(float(barriers[point[direction]]))
        thresholds = levels[np.arange(samples), drawn[:, direction]]
        # Hazen's plotting positions are the middles of the strata that the draws are made of
        low, high = np.quantile(thresholds, _ONE_SIGMA, method="hazen")
        least, middle, most = np.maximum(np.quantile(thresholds, (_NINETY[0], 0.5, _NINETY[1]), method="hazen"), 0.0)
        spread.append((float(high - low) / 2, (float(least), float(most)), float(middle)))
        probabilities[:, direction] = np.bincount(drawn[:, direction], minlength=len(barriers)) / samples
    return MaterialBarriers(
        barriers_eV=(values[0], values[1], values[2]),
        sigmas_eV=tuple(found and found[0] for found in spread),  # type: ignore[arg-type]
        intervals_90_eV=tuple(found and found[1] for found in spread),  # type: ignore[arg-type]
        medians_eV=tuple(found and found[2] for found in spread),  # type: ignore[arg-type]
        limiting_hops=tuple(int(hop) if hop >= 0 else None for hop in point),  # type: ignore[arg-type]
        limiting_probabilities=probabilities,
    )


def sampled_hop_barriers(
    barriers_eV: np.ndarray, sigmas_eV: np.ndarray, common_share: float, samples: int, seed: int
) -> np.ndarray:
    """Draws of the hops' barriers in eV, shape (samples, hops); low barriers may be drawn below zero.

    Each is exp(target + sigma (sqrt(share) common + sqrt(1 - share) own)) - offset with normal ``common`` (one for
    each sample) and ``own`` (one for each hop and sample), by Latin hypercube sampling: the numbers of a column are
    the middles of equally probable strata in a random order, so that its quantiles do not depend on luck (M. D. McKay,
    R. J. Beckman and W. J. Conover, Technometrics 21 (1979) 239).
    """
    if not 0.0 <= common_share <= 1.0:
        raise ValueError(f"The share of the error in common lies between 0 and 1, not at {common_share!r}.")
    if samples < 1:
        raise ValueError(f"The number of draws is at least 1, not {samples!r}.")
    from scipy.special import ndtri

    target = to_target(barriers_eV)
    closed = np.isinf(barriers_eV)
    # the inverse of exp(target) sinh(sigma)
    sigma = np.where(closed, 0.0, np.arcsinh(np.where(closed, 0.0, sigmas_eV) * np.exp(-target)))
    strata = np.random.default_rng(seed).random((samples, len(barriers_eV) + 1)).argsort(axis=0)
    normal = ndtri((strata + 0.5) / samples)
    noise = np.sqrt(common_share) * normal[:, :1] + np.sqrt(1.0 - common_share) * normal[:, 1:]
    return np.exp(target + sigma * noise) - OFFSET_EV


def limiting_hops_of_rows(network: HopNetwork, rows_eV: np.ndarray) -> np.ndarray:
    """The hop that limits each number of directions, by exact percolation of each row of barriers.

    Which hop it is depends only on the order of the barriers, so rows of the same order are percolated once.

    Parameters
    ----------
    network
        Hops of the crystal.
    rows_eV
        Barriers of the unique hops, shape (rows, hops); ``inf`` closes a hop. Of hops that are equal, the one of the
        lower index is taken to be lower.

    Returns
    -------
    numpy.ndarray
        Index of the limiting hop for one, two and three directions, int64, shape (rows, 3); -1 where no path leads.
    """
    sites, ends = np.unique(network.edges, return_inverse=True)
    ends, energies = ends.reshape(-1, 2), np.zeros(len(sites))
    orders = np.argsort(rows_eV, axis=1, kind="stable")
    open_hops = np.isfinite(rows_eV).sum(axis=1)
    kinds, kind_of_row = np.unique(np.column_stack([orders, open_hops]), axis=0, return_inverse=True)
    limits = np.full((len(kinds), 3), -1, dtype=np.int64)
    for number, kind in enumerate(kinds):
        order, opened = kind[:-1], kind[-1]
        rank = np.full(len(order), np.inf)
        rank[order[:opened]] = np.arange(opened)
        found = percolate_graph(energies, ends, network.images, rank[network.edge_to_unique])
        for direction, threshold in enumerate(found.thresholds_eV):
            if np.isfinite(threshold):
                limits[number, direction] = order[int(threshold)]
    return limits[kind_of_row.reshape(-1)]


def common_share(errors: np.ndarray, crystals: Sequence[Hashable] | np.ndarray) -> float:
    """Share of the errors' variance that paths of one crystal have in common.

    Mean product of the errors of two paths of one crystal over the mean square of all errors; a crystal of n paths
    weighs n - 1, so that a few with many paths do not decide. Give errors of predictions by models that had not seen
    the host, on the learned scale and over their sigma.

    Parameters
    ----------
    errors
        Shape (paths,).
    crystals
        Which crystal each path belongs to.

    Returns
    -------
    float
        From 0 to 1; what comes out below 0 (by chance) counts as 0.

    Raises
    ------
    ValueError
        No crystal has two paths, or there are no errors.
    """
    values = np.asarray(errors, dtype=float)
    _, crystal = np.unique(np.asarray([str(each) for each in crystals]), return_inverse=True)
    count, total = np.bincount(crystal), np.bincount(crystal, weights=values)
    squares = np.bincount(crystal, weights=values**2)
    several = count > 1
    if not several.any() or not squares.any():
        raise ValueError("The share of the error in common needs errors of two paths of one crystal at least.")
    products = (total[several] ** 2 - squares[several]) / count[several]
    share = products.sum() / (count[several] - 1).sum() / (values**2).mean()
    return float(np.clip(share, 0.0, 1.0))


def _checked(
    network: HopNetwork, barriers_eV: Sequence[float] | np.ndarray, sigmas_eV: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    barriers, sigmas = np.asarray(barriers_eV, dtype=float), np.asarray(sigmas_eV, dtype=float)
    shape = (len(network.hops),)
    if barriers.shape != shape or sigmas.shape != shape:
        raise ValueError(
            f"{len(network.hops)} unique hops need as many barriers and sigmas, got {barriers.shape}, {sigmas.shape}."
        )
    open_hops = np.isfinite(barriers)
    if not (barriers >= 0).all() or not (sigmas[open_hops] >= 0).all() or not np.isfinite(sigmas[open_hops]).all():
        raise ValueError("Barriers and sigmas are finite numbers not below zero; a hop that is closed has inf.")
    return barriers, sigmas
