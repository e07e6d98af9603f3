"""What can go wrong with a band, and what a band that is several hops amounts to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from hopflow.transport.band_checks import MergedEndpointsError, check_barrier, check_endpoints, check_images
from hopflow.transport.band_run import BandRun
from hopflow.transport.bands import deepest_minimum
from hopflow.transport.errors import NotConvergedError, Reason
from hopflow.transport.neb import BandSettings, run_band, spread
from hopflow.transport.paths import MigrationPath
from surfaces import HOP_A, Killed, Surface, channel, straight_path

CELL_A = 12.0
TIGHT = BandSettings(max_force_eV_per_A=0.01, endpoint_max_force_eV_per_A=0.003)


def two_humps(r: np.ndarray) -> tuple[float, np.ndarray]:
    """Two hops in a row, on a slope: sites near 0, HOP_A and 2 HOP_A."""
    energy, force = channel(0.4, 0.3)(r)
    return energy + 0.05 * r[0], force - np.array([0.05, 0, 0])


def two_hop_path() -> MigrationPath:
    return straight_path((0, 0, 0), (2 * HOP_A, 0, 0))


def test_a_band_that_passes_a_minimum_is_run_as_two_hops(tmp_path: Path) -> None:
    result = run_band(two_hop_path(), Surface(two_humps), TIGHT, tmp_path / "band.npz")
    x = np.linspace(-0.5, 2 * HOP_A + 0.5, 400001)
    along = 0.4 * np.sin(np.pi * x / HOP_A) ** 2 + 0.05 * x
    first, last = along[x < HOP_A / 2].min(), along[x > 1.5 * HOP_A].min()
    top = along[(x > HOP_A) & (x < 1.9 * HOP_A)].max()
    assert result.converged
    assert result.hops == 2
    assert result.intermediate_minimum
    assert result.barrier_forward_eV == pytest.approx(top - first, abs=1e-3)
    assert result.barrier_reverse_eV == pytest.approx(top - last, abs=1e-3)
    assert result.barrier_span_eV == pytest.approx(top - first, abs=1e-3)
    assert result.splined_span_eV == pytest.approx(top - first, abs=3e-3)
    # the joined band: one image more than twice the images, in order, each evaluated
    count = 2 * (TIGHT.images + 2) - 1
    assert len(result.images) == len(result.energies_eV) == len(result.path_lengths_A) == count
    assert (np.diff(result.path_lengths_A) > 0).all()
    assert (np.diff([image.positions[-1, 0] for image in result.images]) > 0).all()
    result.to_extxyz(tmp_path / "band.extxyz")
    assert len(read(tmp_path / "band.extxyz", ":")) == count
    # a second run is answered from the files of both hops
    silent = Surface(two_humps)
    silent.killed_after = 0
    again = run_band(two_hop_path(), silent, TIGHT, tmp_path / "band.npz")
    assert again.barrier_forward_eV == result.barrier_forward_eV
    assert (again.evaluations, again.seconds) == (result.evaluations, result.seconds)


def test_killed_within_the_second_hop_and_resumed(tmp_path: Path) -> None:
    undisturbed = Surface(two_humps)
    expected = run_band(two_hop_path(), undisturbed, TIGHT, tmp_path / "undisturbed.npz")
    total = len(undisturbed.asked)
    assert expected.evaluations == total
    for killed_after in range(5, total, 17):
        surface, place = Surface(two_humps), tmp_path / f"killed{killed_after}.npz"
        surface.killed_after = killed_after
        with pytest.raises(Killed):
            run_band(two_hop_path(), surface, TIGHT, place)
        surface.killed_after = None
        result = run_band(two_hop_path(), surface, TIGHT, place)
        assert surface.asked == undisturbed.asked
        assert result.barrier_forward_eV == expected.barrier_forward_eV


def test_a_part_that_fails_leaves_no_barrier() -> None:
    def wall(r: np.ndarray) -> tuple[float, np.ndarray]:
        energy, force = two_humps(r)
        return (float("nan"), force) if 1.2 * HOP_A < r[0] < 1.3 * HOP_A else (energy, force)

    # the three images of the whole band step over the wall, those of the second hop do not
    result = run_band(two_hop_path(), Surface(wall), BandSettings(images=3))
    assert not result.converged
    assert result.reason is Reason.NON_FINITE_ENERGY
    assert result.barrier_span_eV is None
    assert result.intermediate_minimum
    assert "more than one hop" in str(result.message)


@pytest.mark.parametrize("changes", [{}, {"run_away_A": 0.3}])
def test_a_split_that_was_rash_does_no_harm(monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]) -> None:
    """Split where there is no minimum: the site in the middle slides into an end, or runs away; one hop is left."""

    def rash(run: BandRun) -> None:
        if run.settings.split:
            raise NotConvergedError("Two hops, so it seems.", Reason.INTERMEDIATE_MINIMUM)

    monkeypatch.setattr(BandRun, "_look_for_minimum", rash)
    surface = Surface(channel(0.4, 0.6))
    result = run_band(straight_path(), surface, replace(BandSettings(max_force_eV_per_A=0.02), **changes))
    assert result.converged
    assert result.hops == 1
    assert result.barrier_span_eV == pytest.approx(0.4, abs=5e-3)
    assert result.evaluations == len(surface.asked)


def test_without_splitting_the_minimum_is_only_told(tmp_path: Path) -> None:
    result = run_band(two_hop_path(), Surface(two_humps), BandSettings(split=False))
    assert result.hops == 1
    assert result.intermediate_minimum


def test_images_spread_evenly_keep_the_ends_and_the_line() -> None:
    band = np.zeros((4, 2, 3))
    band[:, 1, 0] = [0.0, 0.1, 0.7, 3.0]
    found = spread(band, 7)
    assert found[:, 1, 0] == pytest.approx(np.linspace(0, 3, 7))
    assert deepest_minimum(np.array([0, 0.5, 0.3, 0.6, 0.1, 0.4, 0])) == 4


def crystal() -> tuple[Atoms, np.ndarray]:
    """Four framework atoms, one of them of the migrating species, and the ion; both end points as given."""
    frame = np.array([[1.0, 6, 6], [5, 6, 6], [9, 6, 6], [3, 9, 6]])
    given = np.stack([np.vstack([frame, [2.0, 1, 1]]), np.vstack([frame, [5.0, 1, 1]])])
    return Atoms("OPOLiLi", cell=np.eye(3) * CELL_A, pbc=True), given


def test_what_is_checked_of_end_points() -> None:
    atoms, given = crystal()
    settings = BandSettings()
    check_endpoints(given, given, atoms, settings)
    drifted = given + np.array([[[3.0, 0, 0]], [[-1.0, 0, 0]]])
    check_endpoints(drifted, given, atoms, settings)

    def refused(end: int, atom: int, move: tuple[float, float, float]) -> Reason:
        relaxed = given.copy()
        relaxed[end, atom] += move
        with pytest.raises(NotConvergedError) as caught:
            check_endpoints(relaxed, given, atoms, settings)
        return caught.value.reason

    assert refused(0, -1, (0, 0, 1.6)) is Reason.ENDPOINT_RAN_AWAY
    assert refused(1, 0, (0, 0, 2.5)) is Reason.FRAMEWORK_COLLAPSED
    # the other lithium comes to the far site, across the cell's face, and the ion makes room
    relaxed = given.copy()
    relaxed[1, 3] = [5.0, 1.2 + CELL_A, 1]
    relaxed[1, -1] += [0, 0, 1.0]
    with pytest.raises(NotConvergedError) as caught:
        check_endpoints(relaxed, given, atoms, BandSettings(run_away_A=9, max_framework_move_A=9))
    assert caught.value.reason is Reason.ION_SWAPPED
    # where ions move together, the neighbour may go as far
    relaxed = given.copy()
    relaxed[1, 3] += [2.4, 0, 0]
    check_endpoints(relaxed, given, atoms, settings)
    relaxed = given.copy()
    relaxed[1, -1] = [2.5, 1, 1]
    with pytest.raises(MergedEndpointsError):
        check_endpoints(relaxed, given, atoms, settings)


def test_what_is_checked_of_every_image() -> None:
    atoms, given = crystal()
    share = np.linspace(0, 1, 7)[:, None, None]
    band = (1 - share) * given[0] + share * given[1]
    check_images(band, given, atoms, BandSettings())
    band[3, 1] += [0, 2.5, 0]
    with pytest.raises(NotConvergedError) as caught:
        check_images(band, given, atoms, BandSettings())
    assert caught.value.reason is Reason.FRAMEWORK_COLLAPSED
    assert "P of the framework moved" in str(caught.value)


def test_a_framework_that_falls_together_has_no_barrier() -> None:
    """Both oxygens rest in one place of this surface, which is not where the path has them."""
    points = np.linspace(0, 1, 5)[:, None] * np.array([HOP_A, 0, 0])
    frame = np.array([[0.5, 0.5, 0.5], [0.2, 0.5, 0.5]])
    path = MigrationPath("Li", np.eye(3) * CELL_A, ("O", "O"), frame, points / CELL_A, "collapse")
    result = run_band(path, Surface(channel(0.4)), BandSettings())
    assert result.reason is Reason.FRAMEWORK_COLLAPSED
    assert result.barrier_forward_eV is None


def test_a_hole_beside_the_path_is_as_unphysical_as_a_wall() -> None:
    with pytest.raises(NotConvergedError) as caught:
        check_barrier(np.array([0.0, 0.2, -6.0, 0.1, 0.0]), BandSettings())
    assert caught.value.reason is Reason.UNPHYSICAL_BARRIER
    check_barrier(np.array([0.0, 0.2, 0.0]), BandSettings())


def test_an_early_verdict_is_a_bound_and_is_marked() -> None:
    path = straight_path((0.1, 0.1, 0), (HOP_A, 0, 0.1))
    whole_surface, early_surface = Surface(channel(0.4, 0.8)), Surface(channel(0.4, 0.8))
    whole = run_band(path, whole_surface, TIGHT)
    early = run_band(path, early_surface, BandSettings(upper_bound_eV=0.9))
    assert early.reason is Reason.EARLY_VERDICT
    assert not early.converged
    assert early.barrier_forward_eV is None
    assert whole.barrier_forward_eV < early.barrier_upper_bound_eV <= 0.9
    assert len(early_surface.asked) < len(whole_surface.asked)
    # a bound that the barrier exceeds changes nothing
    tight = run_band(path, Surface(channel(0.4, 0.8)), BandSettings(upper_bound_eV=0.3))
    assert tight.converged
    assert tight.barrier_forward_eV == pytest.approx(0.4, abs=0.01)
    assert tight.barrier_upper_bound_eV is None


def test_images_at_rest_are_not_evaluated_again() -> None:
    surface = Surface(channel(0.4, 0.6))
    result = run_band(straight_path((0.1, 0.1, 0), (HOP_A, 0, 0.1)), surface, BandSettings())
    assert result.converged
    assert result.evaluations < 2 * (result.endpoint_steps + 1) + BandSettings.images * (result.steps + 1)
    assert len(set(surface.asked)) == len(surface.asked)


@pytest.mark.parametrize("height_eV", [3.0, 4.5])
def test_steep_paths_settle_too(height_eV: float) -> None:
    path = straight_path((0.15, 0.1, 0.05), (HOP_A - 0.1, -0.1, 0.0))
    result = run_band(path, Surface(channel(height_eV, 0.8)), TIGHT)
    assert result.converged
    assert result.barrier_forward_eV == pytest.approx(height_eV, abs=1e-2)
