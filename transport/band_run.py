"""One nudged elastic band, from its end points to its saddle; its checkpoint holds all that the next step needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .band_checks import MergedEndpointsError, check_barrier, check_endpoints, check_images
from .band_result import BandResult, BandSettings
from .bands import (
    BARRIERS,
    band_displacements,
    band_forces,
    barriers_eV,
    climbing_image,
    has_intermediate_minimum,
    improve_by_pair_distances,
    initial_band,
    largest_force,
    path_atoms,
    path_lengths_A,
    splined_extremes_eV,
    tangents,
)
from .bond_valence_paths import unoccupied_valley
from .checkpoints import content_key, load_checkpoint, save_checkpoint
from .endpoint_symmetry import LOOSE_A, Isometry, find_isometry
from .energies import Potential
from .errors import CandidateError, NonFiniteEnergyError, NotConvergedError, Reason
from .model_hessian import spring_preconditioner
from .optimizers import LimitedMemoryBFGS
from .paths import MigrationPath

BAND_FORMAT = 3
"""Changes when the same settings lead another way, so that older checkpoints are not taken for them."""

_SAME_A = 1e-3

_ONSITE_EV_PER_A2 = 1.0
_STIFFER = 4.0
_STIFFEST_EV_PER_A2 = 64.0
_PATIENCE = 10
"""Steps without a smaller force after which the band is taken to be stiffer by that factor, and steps to be shorter.

Where a steep path bends, forces across the band turn with its tangents: they are no gradient, and the bold steps that
serve most bands go round in circles.
"""

_DRIFT_EV_PER_A2 = 40.0
_RESTING_SHARE = 0.7
"""An image whose force is below this share of the limit waits until its neighbours have moved it out of place."""

BandProgress = Callable[[str, int, float], None]
"""Called after every step with phase (``endpoints``, ``band``, ``climb``), step, and largest force in eV/Angstrom."""


def band_key(path: MigrationPath, potential: Potential, settings: BandSettings, start: np.ndarray | None = None) -> str:
    """What a band depends on, as 64 hexadecimal digits: the key that its checkpoint carries."""
    return content_key(
        format=BAND_FORMAT,
        start=np.zeros(0) if start is None else start,
        lattice=np.asarray(path.lattice, dtype=float),
        framework=np.asarray(path.framework_frac_coords, dtype=float),
        ion_path=np.asarray(path.path_frac_coords, dtype=float),
        species=[*path.framework_species, path.ion],
        settings=asdict(settings),
        potential=[potential.name, potential.weights_sha256, potential.method],
    )


class BandRun:
    """State of a running band; everything that the next step depends on goes into the checkpoint.

    Parameters
    ----------
    path, potential, settings, checkpoint, progress
        As for :func:`.neb.run_band`.
    start
        First band, end points included, in Angstrom, shape (images + 2, atoms, 3); that of the path if None.
    """

    def __init__(
        self,
        path: MigrationPath,
        potential: Potential,
        settings: BandSettings,
        checkpoint: Path | None,
        progress: BandProgress | None = None,
        start: np.ndarray | None = None,
    ) -> None:
        self.path, self.potential, self.settings = path, potential, settings
        self.checkpoint, self.progress = checkpoint, progress
        self.began = time.perf_counter()
        ends = [path_atoms(path, path.path_frac_coords[k]) for k in (0, -1)]
        self.template = ends[0]
        shape = (settings.images + 2, len(self.template), 3)
        self.start = start
        self.given = np.stack([atoms.positions for atoms in ends]) if start is None else start[[0, -1]]
        self.positions = np.full(shape, np.nan)
        self.positions[[0, -1]] = self.given
        self.energies = np.full(shape[0], np.nan)
        self.forces = np.full(shape, np.nan)
        self.phase = "endpoints"
        self.counts = {"endpoint_steps": 0, "steps": 0, "evaluations": 0}
        self.seconds = 0.0
        self.evaluated = False
        self.climbing: int | None = None
        self.residual = np.nan
        self.residuals = np.full(settings.images, np.nan)
        self.tangents = np.full((settings.images, *shape[1:]), np.nan)
        self.onsite_eV_per_A2 = _ONSITE_EV_PER_A2
        self.best, self.patience = np.inf, _PATIENCE
        self.merged = False
        self.failure: CandidateError | None = None
        # what the stiffness of bonds is guessed from: the end points as given, then the first band
        self.guessed_from = self.given
        self.optimizers = [self._optimizer(self.given[:1]), self._optimizer(self.given[1:])]
        self.isometry = self._find_isometry()
        self.key = band_key(path, potential, settings, start)
        saved = load_checkpoint(checkpoint, self.key)
        if saved is not None:
            self._restore(saved)

    def run(self) -> BandResult:
        """Run to the end, or as far as it goes; what goes wrong is in the result."""
        if self.failure is None:
            try:
                self.relax_endpoints()
                self.relax_band()
                check_images(self.positions, self.given, self.template, self.settings)
                check_barrier(self.energies, self.settings)
            except (NotConvergedError, NonFiniteEnergyError) as error:
                self.failure, self.merged = error, isinstance(error, MergedEndpointsError)
        self._finish()
        return self.result()

    def relax_endpoints(self) -> None:
        """Bring both end points to rest, each step in one evaluation; raises NotConvergedError."""
        if self.phase != "endpoints":
            return
        settings, ends = self.settings, [0, len(self.positions) - 1]
        computed = range(1 if self.isometry is not None else 2)
        while True:
            self._evaluate([ends[e] for e in computed if np.isnan(self.energies[ends[e]])])
            self._turn_into_last()
            largest = [largest_force(self.forces[k]) for k in ends]
            self.residual = max(largest)
            if self.progress:
                self.progress("endpoints", self.counts["endpoint_steps"], self.residual)
            restless = [e for e in computed if largest[e] > settings.endpoint_max_force_eV_per_A]
            if not settings.relax_endpoints or not restless:
                break
            if self.counts["endpoint_steps"] >= settings.endpoint_max_steps:
                raise NotConvergedError(
                    f"An end point still has a force of {self.residual:.2f} eV/A after {settings.endpoint_max_steps} "
                    "steps; allow more steps or check the structure.",
                    Reason.ENDPOINT_NOT_RELAXED,
                )
            for e in restless:
                k = ends[e]
                self.positions[k] = self.optimizers[e].step(self.positions[k][None], self.forces[k][None])[0]
                self.energies[k] = np.nan
            self.counts["endpoint_steps"] += 1
        if settings.relax_endpoints:
            check_endpoints(self.positions[[0, -1]], self.given, self.template, settings)
        self.positions[1:-1] = self._first_band()[1:-1]
        self.phase = "band"
        self.guessed_from = self.positions[1:-1].copy()
        self.optimizers = [self._optimizer(self.guessed_from)]
        self._save()

    def _find_isometry(self) -> Isometry | None:
        """What turns the first end point into the last, where something does."""
        if not self.settings.equivalent_ends:
            return None
        # end points that stay as they are must be exactly alike
        tolerance_A = LOOSE_A if self.settings.relax_endpoints else _SAME_A
        species = self.template.get_chemical_symbols()
        return find_isometry(self.path.lattice, species, self.given[0], self.given[1], tolerance_A)

    def _turn_into_last(self) -> None:
        """Give the last end point what the first one has, where an isometry turns one into the other."""
        if self.isometry is not None:
            self.positions[-1] = self.isometry.positions(self.positions[0])
            self.energies[-1] = self.energies[0]
            self.forces[-1] = self.isometry.vectors(self.forces[0])

    def _first_band(self) -> np.ndarray:
        """The first band between the relaxed end points, shape (images + 2, atoms, 3)."""
        settings, ends = self.settings, self.positions[[0, -1]]
        if self.start is not None:
            share = np.linspace(0.0, 1.0, len(self.start))[:, None, None]
            return self.start + (1.0 - share) * (ends[0] - self.given[0]) + share * (ends[1] - self.given[1])
        ion_path = self.path.path_frac_coords @ self.path.lattice
        valley = unoccupied_valley(self.path) if settings.interpolation == "bond_valence" else None
        if valley is not None:
            ion_path = valley
        band = initial_band(ends[0], ends[1], ion_path, settings.images, settings.bow_A)
        keep = settings.interpolation == "path" or valley is not None
        return band if keep else improve_by_pair_distances(band, self.path.lattice)

    def relax_band(self) -> None:
        """Bring the band to rest, first without and then with a climbing image; raises NotConvergedError."""
        if self.phase == "done":
            return
        settings = self.settings
        inner = list(range(1, len(self.positions) - 1))
        while True:
            self._evaluate([k for k in inner if np.isnan(self.energies[k])])
            climbing = climbing_image(self.energies) if self.phase == "climb" else None
            moving = self._band_forces(climbing)
            if self.phase == "band" and settings.climb and self.residual <= settings.climb_below_eV_per_A:
                self.phase = "climb"
                climbing = climbing_image(self.energies)
                moving = self._band_forces(climbing)
            self._end_early()
            if climbing != self.climbing:
                # Another image climbs: what the steps so far say about curvature no longer holds.
                self.optimizers[0].reset()
                self.climbing = climbing
                self.best, self.patience = np.inf, _PATIENCE
            self._stiffen_if_stalled()
            if self.progress:
                self.progress(self.phase, self.counts["steps"], self.residual)
            if self.residual <= settings.max_force_eV_per_A and (self.phase == "climb" or not settings.climb):
                break
            if settings.split and self.residual <= settings.climb_below_eV_per_A:
                self._look_for_minimum()
            if self.counts["steps"] >= settings.max_steps:
                self._look_for_minimum()
                raise NotConvergedError(
                    f"The band still has a force of {self.residual:.2f} eV/A after {settings.max_steps} steps; allow "
                    "more steps or look at its images.",
                    Reason.NOT_CONVERGED,
                )
            # images at rest keep their place and cost nothing; that they still are is judged anew after every step
            resting = self.residuals <= _RESTING_SHARE * settings.max_force_eV_per_A
            if climbing is not None:
                resting[climbing - 1] = False
            if resting.all():
                resting[:] = False
            self.positions[1:-1] = self.optimizers[0].step(self.positions[1:-1], moving, resting)
            self.energies[1:-1][~resting] = np.nan
            self.counts["steps"] += 1
        if settings.split:
            self._look_for_minimum()
        self.phase = "done"
        self._save()

    def _band_forces(self, climbing: int | None) -> np.ndarray:
        """Forces that move the inner images; keeps the largest true force that must vanish."""
        moving, residual = band_forces(
            self.positions, self.energies, self.forces, self.settings.spring_eV_per_A2, climbing
        )
        self.tangents = tangents(self.positions, self.energies)
        self.residuals = np.linalg.norm(residual, axis=-1).max(axis=1)
        self.residual = float(self.residuals.max())
        return moving

    def _stiffen_if_stalled(self) -> None:
        """Begin the optimisation anew, with a stiffer guess, where the last steps have led to nothing."""
        if self.residual < self.best:
            self.best, self.patience = self.residual, _PATIENCE
            return
        self.patience -= 1
        if self.patience < 0 and self.onsite_eV_per_A2 < _STIFFEST_EV_PER_A2:
            self.onsite_eV_per_A2 *= _STIFFER
            self.best, self.patience = self.residual, _PATIENCE
            self.optimizers = [self._optimizer(self.guessed_from)]

    def _look_for_minimum(self) -> None:
        """Raise NotConvergedError where the band is two hops in one."""
        if has_intermediate_minimum(self.energies):
            raise NotConvergedError(
                "The band passes a minimum between its end points, so it is not one hop; run the hops one by one.",
                Reason.INTERMEDIATE_MINIMUM,
            )

    def upper_bound_eV(self) -> float:
        """Highest point of the spline through the band less the lower end point: no barrier of this path is higher."""
        high = max(splined_extremes_eV(self.positions, self.energies, self.forces)[0], float(self.energies.max()))
        return high - float(min(self.energies[0], self.energies[-1]))

    def _end_early(self) -> None:
        """Raise NotConvergedError where the question that was asked is answered already."""
        limit = self.settings.upper_bound_eV
        if limit is not None and self.settings.relax_endpoints and self.upper_bound_eV() <= limit:
            raise NotConvergedError(
                f"The band was ended early: its highest point lies {self.upper_bound_eV():.2f} eV above its lower end "
                f"point, which is within {limit:g} eV; leave out upper_bound_eV for the barrier itself.",
                Reason.EARLY_VERDICT,
            )

    def _evaluate(self, which: list[int]) -> None:
        """Energies and forces of images in one call; saves a checkpoint."""
        if not which:
            return
        self.evaluated = True
        atoms = [self._atoms(k) for k in which]
        energies, forces = self.potential.energies_and_forces(atoms)
        stacked = np.stack([np.asarray(f, dtype=float) for f in forces])
        if not (np.isfinite(energies).all() and np.isfinite(stacked).all()):
            raise NonFiniteEnergyError(
                f"{self.potential.name} returned an energy or force that is not a number; two atoms may be too close."
            )
        self.energies[which], self.forces[which] = energies, stacked
        self.counts["evaluations"] += len(which)
        self._save()

    def _atoms(self, k: int) -> Atoms:
        atoms = self.template.copy()
        atoms.positions = self.positions[k]
        return atoms

    def _optimizer(self, images: np.ndarray) -> LimitedMemoryBFGS:
        """An optimiser whose first guess of the curvature is that of springs between neighbours in each image."""
        each = []
        for positions in images:
            atoms = self.template.copy()
            atoms.positions = positions
            each.append(
                spring_preconditioner(atoms, onsite_eV_per_A2=self.onsite_eV_per_A2, drift_eV_per_A2=_DRIFT_EV_PER_A2)
            )

        def relaxed(forces: np.ndarray) -> np.ndarray:
            return np.stack([guess(force) for guess, force in zip(each, forces, strict=True)])

        def displacements(forces: np.ndarray) -> np.ndarray:
            if self.phase == "endpoints":
                return relaxed(forces)
            return band_displacements(forces, self.tangents, relaxed, self.settings.spring_eV_per_A2, self.climbing)

        return LimitedMemoryBFGS(
            self.settings.max_step_A,
            preconditioner=displacements,
            cautious=True,
            gradient=self.phase == "endpoints",
        )

    def _elapsed(self) -> float:
        """Wall time of all runs together; one that only reads a finished band from its file adds nothing."""
        return self.seconds + (time.perf_counter() - self.began if self.evaluated else 0.0)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        arrays: dict[str, Any] = {
            "phase": np.array(self.phase),
            "positions": self.positions,
            "energies": self.energies,
            "forces": self.forces,
            "residual": np.array(self.residual),
            "climbing": np.array(-1 if self.climbing is None else self.climbing),
            "seconds": np.array(self._elapsed()),
            "merged": np.array(self.merged),
            "guessed_from": self.guessed_from,
            "stall": np.array([self.onsite_eV_per_A2, self.best, self.patience]),
        }
        if self.failure is not None:
            arrays["failure"] = np.array([str(self.failure.reason), str(self.failure)])
        arrays |= {name: np.array(count) for name, count in self.counts.items()}
        for e, optimizer in enumerate(self.optimizers):
            arrays |= optimizer.state(f"optimizer{e}_")
        save_checkpoint(self.checkpoint, self.key, arrays)

    def _restore(self, saved: dict[str, np.ndarray]) -> None:
        self.phase = str(saved["phase"])
        self.positions, self.energies, self.forces = saved["positions"], saved["energies"], saved["forces"]
        self.residual = float(saved["residual"])
        self.climbing = None if saved["climbing"] < 0 else int(saved["climbing"])
        self.seconds = float(saved["seconds"])
        self.counts = {name: int(saved[name]) for name in self.counts}
        self.merged = bool(saved["merged"])
        if "failure" in saved:
            reason, message = map(str, saved["failure"])
            self.failure = CandidateError(message, Reason(reason))
        self.guessed_from = saved["guessed_from"]
        self.onsite_eV_per_A2, self.best = map(float, saved["stall"][:2])
        self.patience = int(saved["stall"][2])
        parts = [self.guessed_from[:1], self.guessed_from[1:]] if self.phase == "endpoints" else [self.guessed_from]
        self.optimizers = [self._optimizer(part) for part in parts]
        for e, optimizer in enumerate(self.optimizers):
            optimizer.restore(f"optimizer{e}_", saved)

    def _finish(self) -> None:
        """Keep the outcome, so that a second run is answered from it."""
        if self.evaluated:
            self.seconds, self.evaluated = self._elapsed(), False
            self._save()

    def result(self) -> BandResult:
        """The outcome; barriers only where nothing has failed."""
        energies, error = self.energies, self.failure
        evaluated = bool(np.isfinite(energies).all())
        barriers: dict[str, Any] = dict.fromkeys(BARRIERS)
        if error is None:
            barriers.update(barriers_eV(self.positions, energies, self.forces))
        known = np.isfinite(self.positions).all(axis=(1, 2))
        return BandResult(
            **barriers,
            highest_image_eV=float(energies.max() - energies[0]) if evaluated else None,
            converged=error is None,
            reason=None if error is None else error.reason,
            message=None if error is None else str(error),
            energies_eV=energies[known],
            path_lengths_A=path_lengths_A(self.positions[known]),
            max_force_eV_per_A=float(self.residual),
            climbing_image=self.climbing,
            endpoints_merged=self.merged,
            intermediate_minimum=evaluated and has_intermediate_minimum(energies),
            images=[self._atoms(int(k)) for k in np.flatnonzero(known)],
            forces_eV_per_A=self.forces[known],
            steps=self.counts["steps"],
            endpoint_steps=self.counts["endpoint_steps"],
            evaluations=self.counts["evaluations"],
            seconds=self._elapsed(),
            path_id=self.path.path_id,
            barrier_upper_bound_eV=self.upper_bound_eV()
            if error is not None and error.reason is Reason.EARLY_VERDICT
            else None,
        )
