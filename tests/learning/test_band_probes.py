"""Probes of paths: what they do not depend on, what they cost, what is kept, and what a real potential says."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hopflow.learning.band_probes import IMAGES, BandProbe, ProbeSettings, probe_path, probe_rows, stored_probe
from hopflow.learning.forest_barriers import evidence_by_probing
from hopflow.learning.path_graphs import images_around_framework
from hopflow.learning.path_table import PROBE_COLUMNS, probe_columns
from hopflow.transport.energies import SiteEvaluation, SitePotential
from hopflow.transport.errors import CandidateError, Reason
from hopflow.transport.model_hessian import model_hessian
from hopflow.transport.paths import MigrationPath
from pair_potential import PairPotential
from scipy.spatial.transform import Rotation

SHARED = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared"))


class Bowl(PairPotential):
    """A convex energy: springs of a model Hessian about given places, stiffer or softer than the probe expects."""

    def __init__(self, rest: Atoms, stiffness: float) -> None:
        super().__init__()
        self.rest, self.hessian = rest, stiffness * model_hessian(rest)

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        self.asked.append(image.copy())
        away = image.positions - self.rest.positions
        pull = -(self.hessian @ away.ravel()).reshape(-1, 3)
        shares = -0.5 * (pull * away).sum(axis=1)
        return SiteEvaluation(float(shares.sum()), pull if forces else None, shares, away)


def hop_row(repeat: tuple[int, int, int] = (2, 2, 2), shake_A: float = 0.12, name: str = "LiCl_1") -> dict[str, Any]:
    """A hop between neighbouring cation sites of rock salt, shaken."""
    atoms = bulk("LiCl", "rocksalt", a=5.14, cubic=True) * repeat
    step = np.array([0.0, 2.57, 2.57])
    end = int(np.argmin(np.linalg.norm(atoms.positions - step, axis=1)))
    atoms.rattle(shake_A, seed=1)
    step, start = atoms.positions[end] - atoms.positions[0], atoms.positions[0].copy()
    del atoms[[0, end]]
    images = start + np.linspace(0.0, 1.0, IMAGES)[:, None] * step
    inverse = np.linalg.inv(atoms.cell.array)
    return {
        "path_id": name,
        "migrating_ion": "Li",
        "lattice": atoms.cell.array.tolist(),
        "path_frac_coords": (images @ inverse).tolist(),
        "framework_species": atoms.get_chemical_symbols(),
        "framework_frac_coords": (atoms.positions @ inverse).tolist(),
    }


def hop(repeat: tuple[int, int, int] = (2, 2, 2), shake_A: float = 0.12) -> MigrationPath:
    return MigrationPath.from_row(hop_row(repeat, shake_A))


def reversed_path(path: MigrationPath) -> MigrationPath:
    return replace(path, path_frac_coords=path.path_frac_coords[::-1].copy())


def otherwise(path: MigrationPath, turn: np.ndarray) -> MigrationPath:
    """The same crystal: shifted by a lattice vector and a bit, in another cell, atoms listed otherwise, and turned."""
    random = np.random.default_rng(8)
    other = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    order = random.permutation(len(path.framework_species))
    into = np.linalg.inv(other)
    shift = np.array([1.3, -0.4, 0.2])
    return replace(
        path,
        lattice=other @ path.lattice @ turn,
        framework_species=tuple(path.framework_species[each] for each in order),
        framework_frac_coords=((path.framework_frac_coords[order] + shift) @ into) % 1.0,
        path_frac_coords=(path.path_frac_coords + shift) @ into,
    )


def doubled(path: MigrationPath, axis: int) -> MigrationPath:
    """Two cells as one; in the second the ion stays at its first end."""
    halves, more = np.ones(3), np.zeros(3)
    halves[axis], more[axis] = 0.5, 0.5
    framework, ion = path.framework_frac_coords * halves, path.path_frac_coords[:1] * halves
    return replace(
        path,
        lattice=path.lattice / halves[:, None],
        framework_species=(*path.framework_species, *path.framework_species, path.ion),
        framework_frac_coords=np.concatenate([framework, framework + more, ion + more]),
        path_frac_coords=path.path_frac_coords * halves,
    )


def assert_alike(found: BandProbe, right: BandProbe, tolerance: float = 1e-6) -> None:
    for each in fields(BandProbe):
        value, other = getattr(found, each.name), getattr(right, each.name)
        if each.name in ("energies_eV", "relaxed_energies_eV"):
            value, other = value - found.energies_eV[0], other - right.energies_eV[0]
        np.testing.assert_allclose(value, other, atol=tolerance, err_msg=each.name)


@pytest.mark.parametrize("shake_A", [0.0, 0.12])
def test_a_path_and_its_reverse_are_described_alike(shake_A: float) -> None:
    path = hop(shake_A=shake_A)
    there, back = (probe_path(each, PairPotential()) for each in (path, reversed_path(path)))
    assert there.energies_eV == pytest.approx(back.energies_eV[::-1], abs=1e-9)
    columns = probe_columns(there)
    assert columns.shape == (len(PROBE_COLUMNS),)
    assert len(set(PROBE_COLUMNS)) == len(PROBE_COLUMNS)
    assert np.isfinite(columns).all()
    np.testing.assert_allclose(probe_columns(back), columns, atol=1e-6)


def test_neither_turning_nor_another_cell_nor_the_order_of_atoms_matters() -> None:
    path = hop()
    turned = otherwise(path, Rotation.random(random_state=3).as_matrix())
    assert_alike(probe_path(turned, PairPotential()), probe_path(path, PairPotential()))


def test_a_second_cell_that_stands_still_changes_no_static_difference() -> None:
    path = hop()
    once, twice = (probe_path(each, PairPotential()) for each in (path, doubled(path, 0)))
    assert twice.atoms == 2 * once.atoms
    assert np.diff(twice.energies_eV) == pytest.approx(np.diff(once.energies_eV), abs=1e-9)
    assert twice.site_energies_eV == pytest.approx(once.site_energies_eV, abs=1e-9)
    np.testing.assert_allclose(twice.descriptors, once.descriptors, atol=1e-6)


def test_energies_are_those_of_the_images_and_columns_say_so() -> None:
    path = hop()
    images_A, kept = images_around_framework(path)
    assert kept.all()
    crystal = Atoms(
        path.framework_species, positions=path.framework_frac_coords @ path.lattice, cell=path.lattice, pbc=True
    )
    right = PairPotential().energies([crystal + Atoms("Li", positions=[place]) for place in images_A])
    probe = probe_path(path, PairPotential())
    assert probe.energies_eV == pytest.approx(right, abs=1e-9)
    assert not probe.cluster
    named = dict(zip(PROBE_COLUMNS, probe_columns(probe), strict=True))
    top, ends = right[1:-1].max(), right[[0, -1]]
    # arcsinh(2 x)/2 compresses
    assert np.sinh(2 * named["static_top"]) / 2 == pytest.approx(top - ends.mean())
    assert np.sinh(2 * named["static_above_lowest"]) / 2 == pytest.approx(top - ends.min())
    assert np.sinh(2 * named["static_ends"]) / 2 == pytest.approx(abs(ends[0] - ends[1]))
    assert np.sinh(2 * named["relaxed_top_0"]) / 2 == pytest.approx(top - ends.mean())
    last = probe.relaxed_energies_eV[[0, 1 + int(np.argmax(right[1:-1])), 4], -1]
    assert np.sinh(2 * named["relaxed_span_4"]) / 2 == pytest.approx(np.ptp(last))
    assert np.sinh(2 * named["relaxed_ends_4"]) / 2 == pytest.approx(abs(last[0] - last[2]))


def test_a_symmetric_path_costs_one_end_less() -> None:
    even, uneven = PairPotential(), PairPotential()
    symmetric, lopsided = probe_path(hop(shake_A=0.0), even), probe_path(hop(), uneven)
    steps = ProbeSettings().steps
    assert symmetric.symmetric
    assert not lopsided.symmetric
    # five images, then the highest once more with forces, and the steps of each image that is relaxed
    assert symmetric.evaluations == len(even.asked) == 5 + 1 + 2 * steps
    assert lopsided.evaluations == len(uneven.asked) == 5 + 1 + 3 * steps
    assert np.isnan(symmetric.relaxed_energies_eV[-1]).all()
    assert np.isfinite(lopsided.relaxed_energies_eV[-1]).all()


@pytest.mark.parametrize("stiffness", [0.5, 1.0, 1.8])
def test_relaxing_in_a_convex_energy_never_raises_it(stiffness: float) -> None:
    path = hop((2, 1, 1), 0.05)
    rest = Atoms(path.framework_species, path.framework_frac_coords @ path.lattice, cell=path.lattice, pbc=True)
    rest += Atoms("Li", positions=[path.path_frac_coords[0] @ path.lattice])
    rest.positions += np.random.default_rng(4).normal(scale=0.05, size=rest.positions.shape)
    bowl = Bowl(rest, stiffness)
    probe = probe_path(path, bowl, ProbeSettings(steps=6))
    for number in np.flatnonzero(np.isfinite(probe.relaxed_energies_eV[:, 0])):
        trace = probe.relaxed_energies_eV[number]
        assert trace[0] == pytest.approx(probe.energies_eV[number])
        assert (trace[1:] <= trace[0]).all()
        assert trace[-1] < trace[0] - 1e-4
        assert (probe.expected_gains_eV[number] > -1e-9).all()
    # an end relaxes all the way, save that the crystal as a whole stays where it is
    free = np.eye(len(rest)) - 1.0 / len(rest)
    hessian = np.einsum("ab,bicj,cd->aidj", free, bowl.hessian.reshape(len(rest), 3, -1, 3), free)
    images_A, _ = images_around_framework(path)
    start = np.concatenate([path.framework_frac_coords @ path.lattice, images_A[:1]]) - rest.positions
    slope = (free @ (bowl.hessian @ start.ravel()).reshape(-1, 3)).ravel()
    reachable_eV = 0.5 * float(slope @ np.linalg.pinv(hessian.reshape(slope.size, -1)) @ slope)
    gained_eV = probe.relaxed_energies_eV[0, 0] - probe.relaxed_energies_eV[0]
    assert gained_eV[-1] == pytest.approx(reachable_eV, rel=0.02)
    for step in range(2, 7):
        left_eV = reachable_eV - gained_eV[step]
        assert probe.expected_gains_eV[0, step] == pytest.approx(left_eV, abs=0.1 * reachable_eV)


def test_the_highest_image_does_not_slide_along_the_path() -> None:
    path, potential = hop(), PairPotential()
    probe = probe_path(path, potential)
    images_A, _ = images_around_framework(path)
    top = 1 + int(np.argmax(probe.energies_eV[1:-1]))
    tangent = images_A[top + 1] - images_A[top - 1]
    # the last relaxation is that of the highest image
    last = [each.positions[-1] for each in potential.asked[-ProbeSettings().steps :]]
    assert np.linalg.norm(last[-1] - images_A[top]) > 1e-3
    assert (last - images_A[top]) @ tangent == pytest.approx(0.0, abs=1e-9)


def test_a_cluster_round_the_path_stands_for_a_big_cell() -> None:
    path, potential = hop((3, 3, 3)), PairPotential()
    settings = ProbeSettings(largest_cell_atoms=100, cluster_radius_A=6.0, free_radius_A=4.0)
    whole, cut = probe_path(path, PairPotential()), probe_path(path, potential, settings)
    assert not whole.cluster
    assert cut.cluster
    assert cut.atoms < 0.6 * whole.atoms
    assert np.diff(cut.energies_eV) == pytest.approx(np.diff(whole.energies_eV), abs=1e-9)
    assert cut.site_energies_eV == pytest.approx(whole.site_energies_eV, abs=1e-9)
    np.testing.assert_allclose(cut.descriptors, whole.descriptors, atol=1e-6)

    # the rim stays where it is, what is near the path moves
    first, last = potential.asked[0], potential.asked[-1]
    images_A, _ = images_around_framework(path)
    distance_A = np.linalg.norm(first.positions[:-1, None] - images_A, axis=2).min(axis=1)
    moved_A = np.linalg.norm(last.positions - first.positions, axis=1)[:-1]
    np.testing.assert_array_equal(moved_A[distance_A > 4.0], 0.0)
    assert (moved_A[distance_A < 4.0] > 0.0).all()
    assert (distance_A > 4.0).any()


def test_a_cluster_of_a_flat_cell_holds_its_copies() -> None:
    """A cell of 5 Å in one direction repeats within the radius; without the copies the surroundings are not real."""
    path = hop((1, 5, 5))
    settings = ProbeSettings(largest_cell_atoms=100, cluster_radius_A=6.5, free_radius_A=4.0)
    whole, cut = probe_path(path, PairPotential()), probe_path(path, PairPotential(), settings)
    assert cut.cluster
    assert cut.atoms < whole.atoms
    assert np.diff(cut.energies_eV) == pytest.approx(np.diff(whole.energies_eV), abs=1e-9)
    assert cut.site_energies_eV == pytest.approx(whole.site_energies_eV, abs=1e-9)
    # a sphere that holds more atoms than the cell is no saving
    assert not probe_path(path, PairPotential(), replace(settings, cluster_radius_A=9.5)).cluster


def test_an_atom_written_twice_is_one_and_two_elements_in_one_place_are_refused() -> None:
    path = hop()
    again = replace(
        path,
        framework_species=(*path.framework_species, path.framework_species[7]),
        framework_frac_coords=np.concatenate([path.framework_frac_coords, path.framework_frac_coords[7:8] + 1e-3]),
    )
    # images give way to both, so they stand a hair elsewhere
    assert_alike(probe_path(again, PairPotential()), probe_path(path, PairPotential()), 5e-3)
    other = {"Li": "Cl", "Cl": "Li"}[path.framework_species[7]]
    with pytest.raises(CandidateError) as caught:
        probe_path(replace(again, framework_species=(*path.framework_species, other)), PairPotential())
    assert caught.value.reason == Reason.CLOSE_CONTACT


def test_an_end_written_twice_is_left_out() -> None:
    path = hop()
    again = replace(
        path,
        framework_species=("Li", *path.framework_species),
        framework_frac_coords=np.concatenate(
            [path.path_frac_coords[-1:] + np.array([1.0, 0.0, -2.0]), path.framework_frac_coords]
        ),
    )
    assert not images_around_framework(again)[1][0]
    assert_alike(probe_path(again, PairPotential()), probe_path(path, PairPotential()), 1e-9)


def test_a_probe_is_kept_and_taken_back(tmp_path: Path) -> None:
    path, potential = hop(), PairPotential()
    assert stored_probe(path, ProbeSettings(), tmp_path) is None
    probe = probe_path(path, potential, None, tmp_path)
    asked = len(potential.asked)
    for again in (probe_path(path, potential, None, tmp_path), stored_probe(path, ProbeSettings(), tmp_path)):
        assert again is not None
        for each in fields(BandProbe):
            np.testing.assert_array_equal(getattr(again, each.name), getattr(probe, each.name))
            assert type(getattr(again, each.name)) is type(getattr(probe, each.name))
    assert len(potential.asked) == asked == probe.evaluations

    for other in (ProbeSettings(steps=2), ProbeSettings(potential="another")):
        assert stored_probe(path, other, tmp_path) is None
    probe_path(path, potential, ProbeSettings(steps=2), tmp_path)
    assert len(potential.asked) > asked

    [kept, _] = sorted((tmp_path / "probes").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    kept.write_bytes(kept.read_bytes()[:100])
    assert stored_probe(path, ProbeSettings(), tmp_path) is None
    np.testing.assert_array_equal(probe_path(path, potential, None, tmp_path).energies_eV, probe.energies_eV)
    assert stored_probe(path, ProbeSettings(), tmp_path) is not None


def test_a_row_that_cannot_be_probed_costs_no_neighbour(tmp_path: Path) -> None:
    rows = [hop_row((2, 1, 1), 0.05, f"row_{number}") for number in range(4)]
    rows[1]["framework_species"] = ["I" if each == "Cl" else each for each in rows[1]["framework_species"]]
    del rows[2]["lattice"]
    rows[3]["migrating_ion"] = "Na"
    potential, said = PairPotential(), list[str]()
    failed = probe_rows(rows, potential, ProbeSettings(), tmp_path, said.append)
    assert [(each["path_id"], each["reason"]) for each in failed] == [
        ("row_1", "unsupported_element"),
        ("row_2", "unreadable_structure"),
    ]
    assert "'I'" in failed[0]["error"]
    assert len(said) == 4
    for number in (0, 3):
        assert stored_probe(MigrationPath.from_row(rows[number]), ProbeSettings(), tmp_path) is not None
    asked = len(potential.asked)
    assert probe_rows(rows, potential, ProbeSettings(), tmp_path) == failed
    assert len(potential.asked) == asked


class Tripping(PairPotential):
    """Stumbles over bromine in a way that nobody has foreseen."""

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        if "Br" in image.get_chemical_symbols():
            raise ZeroDivisionError("division by\nzero")
        return super().evaluate_sites(image, forces)


def test_what_nobody_has_foreseen_costs_its_own_row_alone(tmp_path: Path) -> None:
    rows = [hop_row((2, 1, 1), 0.05, f"row_{number}") for number in range(3)]
    rows[1]["framework_species"] = ["Br" if each == "Cl" else each for each in rows[1]["framework_species"]]
    failed = probe_rows(rows, Tripping(), ProbeSettings(), tmp_path)
    sentence = "The probe of the path failed unexpectedly (ZeroDivisionError: division by zero)."
    assert failed == [{"path_id": "row_1", "reason": "unexpected_error", "error": sentence}]
    assert stored_probe(MigrationPath.from_row(rows[2]), ProbeSettings(), tmp_path) is not None
    item = evidence_by_probing(rows[1], Tripping(), ProbeSettings(), "probe")
    assert (item.kind, item.note) == ("geometry", f"Answered by the geometry alone: {sentence}")


def test_a_path_that_turns_back_on_itself_is_probed() -> None:
    path = hop()
    there = path.path_frac_coords
    back = replace(path, path_frac_coords=np.concatenate([there[:3], there[1::-1]]))
    probe = probe_path(back, PairPotential(), ProbeSettings())
    assert probe.symmetric
    assert np.isfinite(probe_columns(probe)).all()


@pytest.fixture(scope="module")
def small_mace() -> SitePotential:
    from hopflow.potentials.mace import MacePotential
    from hopflow.potentials.registry import fetch_weights, load_potential

    weights = fetch_weights("mace-mp-0-small", path=SHARED / "weights" if (SHARED / "weights").is_dir() else None)
    potential = load_potential("mace-mp-0-small", device="cpu", dtype="float64", path=weights)
    assert isinstance(potential, MacePotential)
    return potential


@pytest.mark.weights
def test_sites_of_mace_add_up_to_its_energy(small_mace: SitePotential) -> None:
    image = bulk("LiCl", "rocksalt", a=5.14, cubic=True)
    del image[3]
    image.rattle(0.1, seed=2)
    found = small_mace.evaluate_sites(image)
    energies, forces = small_mace.energies_and_forces([image])
    assert found.energy_eV == pytest.approx(energies[0], abs=1e-9)
    assert found.energy_eV == pytest.approx(small_mace.energies([image])[0], abs=1e-9)
    assert found.site_energies_eV.shape == (7,)
    assert found.site_energies_eV.sum() == pytest.approx(energies[0], abs=1e-8)
    assert found.forces_eV_per_A is not None
    np.testing.assert_allclose(found.forces_eV_per_A, forces[0], atol=1e-9)

    cheap = small_mace.evaluate_sites(image, forces=False)
    assert cheap.forces_eV_per_A is None
    np.testing.assert_allclose(cheap.site_energies_eV, found.site_energies_eV, atol=1e-10)
    np.testing.assert_allclose(cheap.descriptors, found.descriptors, atol=1e-10)

    turn = Rotation.random(random_state=5).as_matrix()
    turned_image = image.copy()
    turned_image.set_cell(image.cell.array @ turn)
    turned_image.positions = image.positions @ turn
    other = small_mace.evaluate_sites(turned_image)
    assert found.descriptors.shape[0] == 7
    assert np.abs(found.descriptors - found.descriptors[0]).max() > 0.1
    np.testing.assert_allclose(other.descriptors, found.descriptors, atol=1e-8)
    np.testing.assert_allclose(other.site_energies_eV, found.site_energies_eV, atol=1e-8)
    assert other.forces_eV_per_A is not None
    np.testing.assert_allclose(other.forces_eV_per_A, found.forces_eV_per_A @ turn, atol=1e-8)


@pytest.mark.weights
def test_an_element_unknown_to_mace_is_refused(small_mace: SitePotential) -> None:
    with pytest.raises(CandidateError, match="Po") as caught:
        small_mace.evaluate_sites(bulk("Po", "sc", a=3.3))
    assert caught.value.reason == Reason.UNSUPPORTED_ELEMENT


@pytest.mark.weights
def test_mace_finds_a_barrier_between_vacant_sites(small_mace: SitePotential) -> None:
    probe = probe_path(hop((2, 1, 1), 0.0), small_mace, ProbeSettings(dtype="float64", steps=1))
    assert probe.symmetric
    assert probe.energies_eV[2] > probe.energies_eV[0]
    np.testing.assert_allclose(probe.energies_eV, probe.energies_eV[::-1], atol=1e-5)
    top = 1 + int(np.argmax(probe.energies_eV[1:-1]))
    assert probe.relaxed_energies_eV[top, -1] < probe.energies_eV[top] - 0.05
