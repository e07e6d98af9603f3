"""Limited-memory BFGS whose whole state can be saved, for endpoints and bands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_STIFFNESS_FACTORS = (0.2, 5.0)
"""How far one pair of steps may rescale a preconditioner."""

_LEAST_BOLDNESS = 0.1
"""Share of its cap that a step keeps, however often forces have grown."""


class LimitedMemoryBFGS:
    """Limited-memory BFGS without line search (Nocedal, Math. Comput. 35 (1980) 773), steps capped per atom.

    Applied to all images of a band at once it is the GL-BFGS of Sheppard, Terrell & Henkelman (J. Chem. Phys. 128,
    134106 (2008)), which needs several times fewer force evaluations than damped dynamics. Forces of a band are no
    gradient, so steps that meet negative curvature are not learnt from, and a direction that goes against the forces
    empties the memory.

    Parameters
    ----------
    max_step_A
        Longest displacement of any atom in one step, in Angstrom.
    memory
        How many steps are remembered.
    stiffness_eV_per_A2
        Curvature assumed before anything is known, in eV/Angstrom^2.
    preconditioner
        Instead of one stiffness: forces to displacements (Angstrom) by the inverse of a model Hessian. The last step
        that was learnt from scales it.
    cautious
        Halve the cap of the steps whenever forces have grown, and let it grow again slowly. Forces of a band are no
        gradient, and a direction that is too bold for them may never settle.
    gradient
        Forces are those of an energy. Then they may grow on a way that leads downhill over a ridge's flank: only a step
        whose end pulls back was too long.
    """

    def __init__(
        self,
        max_step_A: float = 0.2,
        memory: int = 20,
        stiffness_eV_per_A2: float = 40.0,
        preconditioner: Callable[[np.ndarray], np.ndarray] | None = None,
        cautious: bool = False,
        gradient: bool = False,
    ) -> None:
        self.max_step_A = max_step_A
        self.memory = memory
        self.stiffness = stiffness_eV_per_A2
        self.preconditioner = preconditioner
        self.cautious = cautious
        self.gradient = gradient
        self._boldness = 1.0
        self.reset()

    def reset(self) -> None:
        """Forget every step."""
        self._moves: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def step(self, positions: np.ndarray, forces: np.ndarray, resting: np.ndarray | None = None) -> np.ndarray:
        """New positions.

        Parameters
        ----------
        positions, forces
            In Angstrom and eV/Angstrom, shape (..., 3).
        resting
            What stays where it is in this step, over the first axis, bool.
        """
        if self.cautious and self._last is not None:
            grown = np.linalg.norm(forces) > np.linalg.norm(self._last[1])
            if self.gradient:
                grown = grown and np.vdot(forces, positions - self._last[0]) < 0.0
            self._boldness = max(_LEAST_BOLDNESS, self._boldness / 2) if grown else min(1.0, 1.2 * self._boldness)
        self.learn(positions, forces)
        acting = forces if resting is None else np.where(resting[:, None, None], 0.0, forces)
        direction = self._resting(self._direction(forces), resting)
        if np.vdot(direction, acting) <= self._least_agreement() * np.linalg.norm(direction) * np.linalg.norm(acting):
            self._moves, self._changes = [], []
            direction = self._resting(self._first_guess(forces), resting)
        longest = float(np.linalg.norm(direction, axis=-1).max())
        cap_A = self._boldness * self.max_step_A
        if longest > cap_A:
            direction = direction * (cap_A / longest)
        return positions + direction

    @staticmethod
    def _resting(direction: np.ndarray, resting: np.ndarray | None) -> np.ndarray:
        return direction if resting is None else np.where(resting[:, None, None], 0.0, direction)

    def learn(self, positions: np.ndarray, forces: np.ndarray) -> None:
        """Take in the forces that the last step has led to; :meth:`step` does so by itself."""
        if self._last is not None:
            move, change = positions - self._last[0], self._last[1] - forces
            if np.vdot(move, change) > self._least_curvature(move, change):
                self._moves.append(move)
                self._changes.append(change)
                del self._moves[: -self.memory], self._changes[: -self.memory]
        self._last = positions.copy(), forces.copy()

    def _least_curvature(self, move: np.ndarray, change: np.ndarray) -> float:
        """What a step must show to be learnt from; a model Hessian may rightly be soft where a step was."""
        if self.preconditioner is None:
            return 1e-3 * float(np.linalg.norm(move) * np.linalg.norm(change))
        return 1e-6 * float(np.vdot(move, move))

    def _least_agreement(self) -> float:
        """Cosine between direction and forces; a model Hessian rightly turns a direction far from the forces."""
        return 0.05 if self.preconditioner is None else 0.0

    def expected_gain_eV(self, forces: np.ndarray) -> float:
        """What the energy would still fall if it were as quadratic as the steps so far make it, in eV."""
        return 0.5 * float(np.vdot(forces, self._direction(forces)))

    def _direction(self, forces: np.ndarray) -> np.ndarray:
        """Two-loop recursion for (inverse Hessian) times forces."""
        result = forces.copy()
        weights = []
        for move, change in zip(reversed(self._moves), reversed(self._changes), strict=True):
            scale = 1.0 / np.vdot(move, change)
            weight = scale * np.vdot(move, result)
            weights.append((scale, weight))
            result -= weight * change
        result = self._first_guess(result)
        for (scale, weight), move, change in zip(reversed(weights), self._moves, self._changes, strict=True):
            result += move * (weight - scale * np.vdot(change, result))
        return result

    def _first_guess(self, forces: np.ndarray) -> np.ndarray:
        """Displacements by what was assumed before the first step."""
        if self.preconditioner is None:
            return forces / self.stiffness
        guess = self.preconditioner(forces)
        if not self._moves:
            return guess
        move, change = self._moves[-1], self._changes[-1]
        factor = np.vdot(move, change) / max(float(np.vdot(change, self.preconditioner(change))), 1e-9)
        return guess * float(np.clip(factor, *_STIFFNESS_FACTORS))

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, as named arrays."""
        arrays = {f"{prefix}boldness": np.array(self._boldness)}
        if self._moves:
            arrays[f"{prefix}moves"] = np.stack(self._moves)
            arrays[f"{prefix}changes"] = np.stack(self._changes)
        if self._last is not None:
            arrays[f"{prefix}last"] = np.stack(self._last)
        return arrays

    def restore(self, prefix: str, arrays: dict[str, np.ndarray]) -> None:
        """Take over what :meth:`state` gave."""
        self._moves = list(arrays.get(f"{prefix}moves", []))
        self._changes = list(arrays.get(f"{prefix}changes", []))
        self._boldness = float(arrays.get(f"{prefix}boldness", 1.0))
        last = arrays.get(f"{prefix}last")
        self._last = None if last is None else (last[0], last[1])
