"""From hops to the crystal: thresholds, their spread, and cases whose distribution is known in closed form."""

from collections.abc import Sequence

import crystals
import numpy as np
import pytest
from hopflow.learning.barrier_learners import OFFSET_EV, to_barrier, to_target
from hopflow.learning.material_barriers import (
    COMMON_SHARE,
    common_share,
    limiting_hops_of_rows,
    material_barriers,
    sampled_hop_barriers,
)
from hopflow.transport.hop_network import Hop, HopNetwork, network_barriers
from hopflow.transport.hops import enumerate_hops
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

Edge = tuple[int, int, tuple[int, int, int], int]


def network_of(edges: Sequence[Edge]) -> HopNetwork:
    """Hops as start, end, cell translation of the end and number of the unique hop; there is no crystal behind it."""
    pairs, images = np.array([edge[:2] for edge in edges]), np.array([edge[2] for edge in edges])
    kinds = np.array([edge[3] for edge in edges])
    hops = [Hop(k, 0, 0, (0, 0, 0), 1.0, int((kinds == k).sum()), f"hop {k}") for k in range(int(kinds.max()) + 1)]
    return HopNetwork("Li", None, hops, pairs, images, kinds, 3, 1.0, None)  # type: ignore[arg-type]


@st.composite
def networks(draw: st.DrawFn) -> HopNetwork:
    """Up to four sites, every hop of a handful of kinds, with the three cell edges so that something percolates."""
    sites = draw(st.integers(1, 4))
    kinds = draw(st.integers(1, 6))
    step = st.tuples(*[st.integers(-1, 1)] * 3)
    drawn = draw(st.lists(st.tuples(st.integers(0, sites - 1), st.integers(0, sites - 1), step), max_size=8))
    axes = [(0, 0, tuple(int(i == k) for i in range(3))) for k in range(3)]
    spare = draw(st.integers(0, 3))
    edges = [*drawn, *axes[spare:]] or axes
    return network_of([(a, b, t, k % kinds) for k, (a, b, t) in enumerate(edges)])


@st.composite
def problems(draw: st.DrawFn) -> tuple[HopNetwork, np.ndarray, np.ndarray, float]:
    """A network, barriers and sigmas of its hops, and a share of the error in common."""
    network = draw(networks())
    size = len(network.hops)
    barriers = np.array(draw(st.lists(st.floats(0.0, 3.0), min_size=size, max_size=size)))
    sigmas = np.array(draw(st.lists(st.floats(0.0, 1.0), min_size=size, max_size=size)))
    return network, barriers, sigmas, draw(st.floats(0.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_barriers_are_those_of_the_percolation_and_limited_by_the_hop_that_is_named(problem) -> None:
    network, barriers, sigmas, share = problem
    found = material_barriers(network, barriers, sigmas, share, samples=50)
    assert found.barriers_eV == network_barriers(network, barriers).thresholds_eV
    for value, hop, sigma, interval, median, column in zip(
        found.barriers_eV,
        found.limiting_hops,
        found.sigmas_eV,
        found.intervals_90_eV,
        found.medians_eV,
        found.limiting_probabilities.T,
        strict=True,
    ):
        if hop is None:
            assert np.isinf(value)
            assert (sigma, interval, median, column.sum()) == (None, None, None, 0.0)
        else:
            assert value == barriers[hop]
            assert 0 <= interval[0] <= median <= interval[1]
            assert sigma >= 0
            assert column.sum() == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_every_draw_is_a_percolation_and_its_barriers_rise_with_the_directions(problem, seed: int) -> None:
    network, barriers, sigmas, share = problem
    levels = sampled_hop_barriers(barriers, sigmas, share, 30, seed)
    limits = limiting_hops_of_rows(network, levels)
    for row, hops in zip(levels, limits, strict=True):
        thresholds = [row[hop] if hop >= 0 else np.inf for hop in hops]
        # the percolation of barriers knows none below zero, which draws may be
        raised = network_barriers(network, (row + OFFSET_EV).tolist()).thresholds_eV
        assert np.array(thresholds) + OFFSET_EV == pytest.approx(np.array(raised))
        assert thresholds == sorted(thresholds)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_no_error_no_spread(problem) -> None:
    network, barriers, _, share = problem
    found = material_barriers(network, barriers, np.zeros(len(barriers)), share, samples=20)
    for value, sigma, interval in zip(found.barriers_eV, found.sigmas_eV, found.intervals_90_eV, strict=True):
        if np.isfinite(value):
            assert sigma == pytest.approx(0.0, abs=1e-12)
            assert interval == pytest.approx((value, value), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(0.0, 2.0))
def test_raising_every_hop_raises_the_crystal_as_much(problem, more_eV: float) -> None:
    network, barriers, _, _ = problem
    without_error = np.zeros(len(barriers))
    low = material_barriers(network, barriers, without_error, samples=10)
    high = material_barriers(network, barriers + more_eV, without_error, samples=10)
    assert np.array(high.barriers_eV) == pytest.approx(np.array(low.barriers_eV) + more_eV)
    for one, other in zip(low.medians_eV, high.medians_eV, strict=True):
        assert (one is None and other is None) or other == pytest.approx(one + more_eV)


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(0.01, 1.0))
def test_an_error_that_all_hops_share_is_the_limiting_hops_own(problem, sigma: float) -> None:
    network, barriers, _, _ = problem
    _, sigmas = to_barrier(to_target(barriers), np.full(len(barriers), sigma))
    found = material_barriers(network, barriers, sigmas, common_share=1.0)
    for hop, spread, interval in zip(found.limiting_hops, found.sigmas_eV, found.intervals_90_eV, strict=True):
        if hop is not None:
            assert spread == pytest.approx(sigmas[hop], rel=0.01)
            ends = np.exp(to_target(barriers[hop]) + sigma * ndtri([0.05, 0.95])) - OFFSET_EV
            assert interval == pytest.approx(np.maximum(ends, 0.0), rel=0.01, abs=2e-3)


def spread_hops(count: int, barrier_eV: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Equal barriers, and the eV that a sigma of the learned scale makes of them."""
    barriers = np.full(count, barrier_eV)
    return barriers, to_barrier(to_target(barriers), np.full(count, sigma))[1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parallel_ways_are_lower_than_each_as_order_statistics_have_it(count: int) -> None:
    """Ways beside each other: the crystal's barrier is the least of them, P(barrier > x) = P(way > x)^count."""
    network = network_of([(0, 0, (1, 0, 0), k) for k in range(count)])
    barriers, sigmas = spread_hops(count, 0.4, 0.3)
    found = material_barriers(network, barriers, sigmas, common_share=0.0, samples=20_000)
    assert found.barriers_eV[0] == pytest.approx(0.4)

    def quantile(share: float | np.ndarray) -> np.ndarray:
        return np.exp(to_target(0.4) + 0.3 * ndtri(1.0 - (1.0 - np.asarray(share)) ** (1.0 / count))) - OFFSET_EV

    assert found.medians_eV[0] == pytest.approx(float(quantile(0.5)), abs=5e-3)
    assert found.intervals_90_eV[0] == pytest.approx(np.maximum(quantile(np.array([0.05, 0.95])), 0.0), abs=8e-3)
    low, high = quantile(np.array([0.158655, 0.841345]))
    assert found.sigmas_eV[0] == pytest.approx((high - low) / 2, abs=5e-3)
    assert found.limiting_probabilities[:, 0] == pytest.approx(np.full(count, 1 / count), abs=0.02)
    assert found.sigmas_eV[1:] == (None, None)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_mean_of_the_lower_of_two_ways(share: float) -> None:
    """The mean of the lower of two normal numbers of correlation r is mean - sigma sqrt((1 - r) / pi)."""
    network = network_of([(0, 0, (1, 0, 0), 0), (0, 0, (1, 0, 0), 1)])
    barriers, sigmas = spread_hops(2, 0.6, 0.25)
    levels = sampled_hop_barriers(barriers, sigmas, share, 20_000, seed=3)
    limits = limiting_hops_of_rows(network, levels)[:, 0]
    drawn = to_target(levels[np.arange(len(levels)), limits])
    assert drawn.mean() == pytest.approx(to_target(0.6) - 0.25 * np.sqrt((1 - share) / np.pi), abs=4e-3)
    assert np.corrcoef(to_target(levels).T)[0, 1] == pytest.approx(share, abs=0.02)


def test_hops_one_after_the_other_are_higher_than_each() -> None:
    network = network_of([(0, 1, (0, 0, 0), 0), (1, 0, (1, 0, 0), 1)])
    barriers, sigmas = spread_hops(2, 0.4, 0.3)
    found = material_barriers(network, barriers, sigmas, common_share=0.0, samples=20_000)
    median = np.exp(to_target(0.4) + 0.3 * ndtri(np.sqrt(0.5))) - OFFSET_EV
    assert found.medians_eV[0] == pytest.approx(float(median), abs=5e-3)


def test_closed_hops_stay_closed_and_the_same_seed_gives_the_same_numbers() -> None:
    network = network_of([(0, 0, (1, 0, 0), 0), (0, 0, (0, 1, 0), 1), (0, 0, (0, 0, 1), 2)])
    found, again, other = (
        material_barriers(network, [0.3, np.inf, 0.2], [0.1, 0.1, 0.1], seed=seed) for seed in (0, 0, 1)
    )
    assert found.barriers_eV == (0.2, 0.3, np.inf)
    assert found.limiting_hops == (2, 0, None)
    assert found.limiting_probabilities[1].tolist() == [0, 0, 0]
    assert (found.sigmas_eV, found.intervals_90_eV) == (again.sigmas_eV, again.intervals_90_eV)
    assert found.sigmas_eV != other.sigmas_eV
    assert np.array(found.sigmas_eV[:2]) == pytest.approx(np.array(other.sigmas_eV[:2]), rel=0.1)


def test_draws_of_a_crystal_agree_with_its_own_percolation() -> None:
    network = enumerate_hops(crystals.iron_phosphate(), "Li")
    barriers = np.linspace(0.3, 0.8, len(network.hops))
    found = material_barriers(network, barriers, np.full(len(barriers), 0.1))
    assert found.barriers_eV == network_barriers(network, barriers.tolist()).thresholds_eV
    assert all(low < value < high for value, (low, high) in zip(found.barriers_eV, found.intervals_90_eV, strict=True))


@pytest.mark.parametrize(
    ("barriers", "sigmas", "share"),
    [
        ([0.3], [0.1, 0.1], 0.3),
        ([0.3, np.nan], [0.1, 0.1], 0.3),
        ([0.3, -0.1], [0.1, 0.1], 0.3),
        ([0.3, 0.3], [0.1, np.nan], 0.3),
        ([0.3, 0.3], [0.1, -0.1], 0.3),
        ([0.3, 0.3], [0.1, np.inf], 0.3),
        ([0.3, 0.3], [0.1, 0.1], 1.1),
    ],
)
def test_what_is_no_barrier_sigma_or_share_is_refused(barriers, sigmas, share) -> None:
    network = network_of([(0, 0, (1, 0, 0), 0), (0, 0, (0, 1, 0), 1)])
    with pytest.raises(ValueError, match=r"sigmas|share"):
        material_barriers(network, barriers, sigmas, share)


def test_the_share_in_common_is_found_again_in_drawn_errors() -> None:
    generator = np.random.default_rng(5)
    crystal = np.repeat(np.arange(3000), generator.integers(1, 6, 3000))
    for share in (0.0, COMMON_SHARE, 0.9):
        shared = generator.normal(size=3000)[crystal]
        errors = np.sqrt(share) * shared + np.sqrt(1 - share) * generator.normal(size=len(crystal))
        assert common_share(2.0 * errors, crystal) == pytest.approx(share, abs=0.03)
    with pytest.raises(ValueError, match="two paths of one crystal"):
        common_share(np.ones(3), ["a", "b", "c"])
