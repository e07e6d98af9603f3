"""Springs between neighbours as a first guess of the curvature: their energy, frozen atoms, and what they save."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from hopflow.transport.model_hessian import model_hessian, spring_preconditioner
from hopflow.transport.optimizers import LimitedMemoryBFGS
from hypothesis import given, settings
from hypothesis import strategies as st

Surface = Callable[[np.ndarray], tuple[float, np.ndarray]]


def crystals() -> list[Atoms]:
    """A molecule in a box, a primitive cell that is its own neighbour, and a shaken oxide in a skewed cell."""
    water = Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], cell=3 * [12.0], pbc=True)
    oxide = bulk("MgO", "rocksalt", a=4.21) * (2, 1, 1)
    oxide.rattle(0.1, seed=1)
    return [water, bulk("LiF", "rocksalt", a=4.08), oxide]


def spring_energy_eV(atoms: Atoms, moves_A: np.ndarray, onsite: float = 0.05) -> float:
    """The springs of the module once more, pair by pair and copy by copy, and a weak one that holds each atom."""
    energy = 0.5 * onsite * float((moves_A**2).sum())
    copies = [np.array(each) for each in np.ndindex(13, 13, 13)]
    for first in range(len(atoms)):
        for copy in copies:
            vectors = atoms.positions + (copy - 6) @ atoms.cell.array - atoms.positions[first]
            for second, vector in enumerate(vectors):
                length = float(np.linalg.norm(vector))
                if not 1e-6 < length < 5.0:
                    continue
                touching = covalent_radii[atoms.numbers[first]] + covalent_radii[atoms.numbers[second]]
                stiffness = 6.0 * np.exp(-(max(length, 0.8 * touching) - touching) / 0.45)
                stretch = moves_A[second] - moves_A[first]
                along = float(stretch @ vector) / length
                # each pair is met from both sides, hence a quarter
                energy += 0.25 * stiffness * (0.9 * along**2 + 0.1 * float(stretch @ stretch))
    return energy


@pytest.mark.parametrize("number", range(3))
def test_symmetric_and_positive_definite(number: int) -> None:
    atoms = crystals()[number]
    hessian = model_hessian(atoms)
    assert hessian.shape == (3 * len(atoms), 3 * len(atoms))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    # nothing is softer than what holds each atom in its place
    assert np.linalg.eigvalsh(hessian).min() == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("number", range(2))
def test_it_is_the_curvature_of_the_springs_energy(number: int) -> None:
    atoms = crystals()[number]
    hessian, step = model_hessian(atoms), 1e-3
    moves = 0.02 * np.random.default_rng(number).standard_normal((len(atoms), 3))
    assert spring_energy_eV(atoms, moves) == pytest.approx(0.5 * moves.ravel() @ hessian @ moves.ravel(), rel=1e-9)
    forces = -(hessian @ moves.ravel()).reshape(-1, 3)
    for atom, axis in ((0, 0), (len(atoms) - 1, 1)):
        above, below = moves.copy(), moves.copy()
        above[atom, axis] += step
        below[atom, axis] -= step
        slope = (spring_energy_eV(atoms, above) - spring_energy_eV(atoms, below)) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_moving_the_whole_crystal_meets_the_holding_springs_alone(number: int) -> None:
    atoms = crystals()[number]
    for axis in range(3):
        moves = np.zeros((len(atoms), 3))
        moves[:, axis] = 1.0
        force = (model_hessian(atoms) @ moves.ravel()).reshape(-1, 3)
        np.testing.assert_allclose(force, 0.05 * moves, atol=1e-10)
    elsewhere = atoms.copy()
    elsewhere.positions += [0.3, -7.1, 2.2]
    np.testing.assert_allclose(model_hessian(elsewhere), model_hessian(atoms), atol=1e-8)


def test_two_atoms_in_one_place_are_no_division_by_zero() -> None:
    atoms = Atoms("Li2O", positions=[[1, 1, 1], [1, 1, 1], [3, 1, 1]], cell=3 * [9.0], pbc=True)
    assert np.linalg.eigvalsh(model_hessian(atoms)).min() == pytest.approx(0.05, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_forces_come_back_and_frozen_atoms_stay(seed: int) -> None:
    random = np.random.default_rng(seed)
    atoms = crystals()[2]
    forces = random.standard_normal((len(atoms), 3))
    moves = spring_preconditioner(atoms)(forces)
    np.testing.assert_allclose(model_hessian(atoms) @ moves.ravel(), forces.ravel(), atol=1e-9)
    assert np.vdot(moves, forces) > 0

    frozen = random.random(len(atoms)) < 0.5
    forces[frozen] = 0.0
    held = spring_preconditioner(atoms, frozen)(forces)
    np.testing.assert_array_equal(held[frozen], 0.0)
    # what moves is in balance as long as the others stay
    loose = np.repeat(~frozen, 3)
    np.testing.assert_allclose((model_hessian(atoms) @ held.ravel())[loose], forces.ravel()[loose], atol=1e-9)


def morse_crystal() -> tuple[Atoms, Surface]:
    """Stiff P-O pairs (Morse bonds of 60 eV/Å²) whose atoms are held in their places softly (0.4 eV/Å²)."""
    phosphorus = 4.5 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    sites = np.concatenate([phosphorus, phosphorus + 0.88])
    atoms = Atoms("P4O4", positions=sites, cell=[9.0, 9.0, 9.0], pbc=True)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        away = positions - sites
        bond = positions[4:] - positions[:4]
        length = np.linalg.norm(bond, axis=1)
        fall = np.exp(-2.45 * (length - 1.52))
        pull = (10.0 * 2.45 * fall * (1 - fall) / length)[:, None] * bond
        energy = float((5.0 * (1 - fall) ** 2).sum()) + 0.2 * float((away**2).sum())
        return energy, np.concatenate([pull, -pull]) - 0.4 * away

    return atoms, evaluate


def emt_crystal() -> tuple[Atoms, Surface]:
    """Copper with one vacancy, shaken."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    del atoms[0]
    atoms.calc = EMT()
    atoms.rattle(0.15, seed=4)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        atoms.positions = positions
        return float(atoms.get_potential_energy()), atoms.get_forces()

    return atoms, evaluate


def relaxed(atoms: Atoms, surface: Surface, optimiser: LimitedMemoryBFGS) -> tuple[float, int]:
    """Least energy in eV and how many forces were asked for until all were below 1 meV/Å."""
    positions = atoms.positions.copy()
    for calls in range(1, 600):
        energy, forces = surface(positions)
        if np.abs(forces).max() < 1e-3:
            return energy, calls
        positions = optimiser.step(positions, forces)
    raise AssertionError("not relaxed after 600 steps")


@pytest.mark.parametrize("problem", [morse_crystal, emt_crystal])
def test_same_minimum_with_fewer_forces(problem: Callable[[], tuple[Atoms, Surface]]) -> None:
    atoms, surface = problem()
    atoms.positions[1] += [0.25, -0.2, 0.1]
    start = atoms.copy()
    plain = relaxed(start, surface, LimitedMemoryBFGS())
    led = relaxed(start, surface, LimitedMemoryBFGS(preconditioner=spring_preconditioner(start)))
    assert led[0] == pytest.approx(plain[0], abs=1e-4)
    assert led[1] < plain[1]


@pytest.mark.parametrize("preconditioned", [False, True])
def test_expected_gain_is_what_is_left_of_a_quadratic_energy(preconditioned: bool) -> None:
    """A walk along every principal axis shows all of the curvature; from then on the gain is what is really left."""
    atoms = bulk("LiF", "rocksalt", a=4.08) * (2, 1, 1)
    scale = np.random.default_rng(2).uniform(0.5, 2.0, 12)
    hessian = scale[:, None] * model_hessian(atoms) * scale
    rest = atoms.positions + 0.1 * np.random.default_rng(3).standard_normal((4, 3))
    optimiser = LimitedMemoryBFGS(preconditioner=spring_preconditioner(atoms) if preconditioned else None)
    positions = atoms.positions.copy()
    errors_eV = []
    for axis in [np.zeros(12), *np.linalg.eigh(hessian)[1].T]:
        positions = positions + 0.05 * axis.reshape(-1, 3)
        away = (positions - rest).ravel()
        energy, forces = 0.5 * float(away @ hessian @ away), -(hessian @ away).reshape(-1, 3)
        optimiser.learn(positions, forces)
        errors_eV.append(abs(optimiser.expected_gain_eV(forces) - energy))
    assert errors_eV[0] > 0.01
    assert errors_eV[-1] < 1e-9


def test_expected_gain_by_the_springs_alone_where_they_are_the_truth() -> None:
    atoms = crystals()[2]
    hessian, moves = model_hessian(atoms), 0.1 * np.random.default_rng(5).standard_normal((len(atoms), 3))
    forces = -(hessian @ moves.ravel()).reshape(-1, 3)
    gain = LimitedMemoryBFGS(preconditioner=spring_preconditioner(atoms)).expected_gain_eV(forces)
    assert gain == pytest.approx(0.5 * moves.ravel() @ hessian @ moves.ravel(), rel=1e-9)


def test_learning_twice_is_learning_once_and_a_stored_optimiser_goes_on_alike() -> None:
    atoms, surface = morse_crystal()
    atoms.positions[1] += [0.35, -0.2, 0.1]
    springs = spring_preconditioner(atoms)
    asked, silent = LimitedMemoryBFGS(preconditioner=springs), LimitedMemoryBFGS(preconditioner=springs)
    positions = atoms.positions.copy()
    for _ in range(6):
        forces = surface(positions)[1]
        for _ in range(3):
            asked.learn(positions, forces)
            asked.expected_gain_eV(forces)
        moved = silent.step(positions, forces)
        np.testing.assert_array_equal(asked.step(positions, forces), moved)
        positions = moved
    later = LimitedMemoryBFGS(preconditioner=springs)
    later.restore("a_", silent.state("a_"))
    forces = surface(positions)[1]
    np.testing.assert_array_equal(later.step(positions, forces), silent.step(positions, forces))


def steps_down_a_flank(gradient: bool) -> int:
    """Steps from beside the top of a ridge into the valley, 2 Å away."""
    optimiser = LimitedMemoryBFGS(
        preconditioner=lambda forces: forces / 0.2, cautious=True, gradient=gradient, max_step_A=0.2
    )
    place = np.array([[0.05, 0.0, 0.0]])
    for number in range(400):
        # the energy is 0.3 eV cos(pi x / 2 A) across the ridge, and a parabola along it
        forces = np.array([[0.15 * np.pi * np.sin(0.5 * np.pi * place[0, 0]), -5.0 * place[0, 1], 0.0]])
        if np.linalg.norm(forces) < 0.01:
            assert place[0, 0] == pytest.approx(2.0, abs=0.02)
            return number
        place = optimiser.step(place, forces)
    raise AssertionError("never came to rest")


def test_forces_may_grow_on_the_way_down():
    assert steps_down_a_flank(gradient=True) < 0.5 * steps_down_a_flank(gradient=False)
