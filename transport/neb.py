"""Climbing-image nudged elastic band of one hop: end points relaxed first, all images evaluated together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .band_result import BandResult, BandSettings
from .bands import (
    BARRIERS,
    band_forces,
    barriers_eV,
    climbing_image,
    has_intermediate_minimum,
    improve_by_pair_distances,
    initial_band,
    largest_force,
    path_atoms,
    path_lengths_A,
)
from .checkpoints import content_key, load_checkpoint, save_checkpoint
from .energies import Potential
from .errors import CandidateError, NonFiniteEnergyError, NotConvergedError, Reason
from .optimizers import LimitedMemoryBFGS
from .paths import MigrationPath

__all__ = ["BandProgress", "BandResult", "BandSettings", "band_key", "run_band"]

# End points nearer to each other than this share of the hop are one minimum.
_MERGED_FRACTION = 0.3

BandProgress = Callable[[str, int, float], None]
"""Called after every step with phase (``endpoints``, ``band``, ``climb``), step, and largest force in eV/Angstrom."""


def run_band(
    path: MigrationPath,
    potential: Potential,
    settings: BandSettings | None = None,
    checkpoint: Path | None = None,
    progress: BandProgress | None = None,
) -> BandResult:
    """Relax the end points of a path and find the barrier between them.

    Climbing-image nudged elastic band with improved tangents (Henkelman & Jonsson, J. Chem. Phys. 113, 9978 (2000);
    Henkelman, Uberuaga & Jonsson, ibid. 9901), optimised by limited-memory BFGS over the whole band.

    Parameters
    ----------
    path
        Supercell with one vacancy and the way of the migrating ion, see :func:`hopflow.transport.hops.hop_path`.
    potential
        Gives energies and forces of all moving images in one call.
    settings
        Defaults if None.
    checkpoint
        File that keeps the band after every step. A run with the same path, settings and potential goes on from it and
        repeats no evaluation that it holds; a finished one is answered from it.
    progress
        Called after every step.

    Returns
    -------
    BandResult
        Bands that fail have ``converged=False``, no barriers, and a reason: ``ENDPOINT_NOT_RELAXED``,
        ``ENDPOINT_RAN_AWAY``, ``NOT_CONVERGED``, ``UNPHYSICAL_BARRIER`` or ``NON_FINITE_ENERGY``.
    """
    run = _BandRun(path, potential, settings or BandSettings(), checkpoint, progress)
    if run.failure is None:
        try:
            run.relax_endpoints()
            run.relax_band()
            run.check_barrier()
        except (NotConvergedError, NonFiniteEnergyError) as error:
            run.failure = error
    run.finish()
    return run.result()


def band_key(path: MigrationPath, potential: Potential, settings: BandSettings) -> str:
    """What a band depends on, as 64 hexadecimal digits: the key that its checkpoint carries."""
    return content_key(
        lattice=np.asarray(path.lattice, dtype=float),
        framework=np.asarray(path.framework_frac_coords, dtype=float),
        ion_path=np.asarray(path.path_frac_coords, dtype=float),
        species=[*path.framework_species, path.ion],
        settings=asdict(settings),
        potential=[potential.name, potential.weights_sha256, potential.method],
    )


class _BandRun:
    """State of a running band; everything that the next step depends on goes into the checkpoint."""

    def __init__(
        self,
        path: MigrationPath,
        potential: Potential,
        settings: BandSettings,
        checkpoint: Path | None,
        progress: BandProgress | None,
    ) -> None:
        self.path, self.potential, self.settings = path, potential, settings
        self.checkpoint, self.progress = checkpoint, progress
        self.began = time.perf_counter()
        ends = [path_atoms(path, path.path_frac_coords[k]) for k in (0, -1)]
        self.template = ends[0]
        shape = (settings.images + 2, len(self.template), 3)
        self.given = np.stack([atoms.positions for atoms in ends])
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
        self.merged = False
        self.failure: CandidateError | None = None
        self.optimizers = [self._optimizer(), self._optimizer()]
        self.key = band_key(path, potential, settings)
        saved = load_checkpoint(checkpoint, self.key)
        if saved is not None:
            self._restore(saved)

    def relax_endpoints(self) -> None:
        """Bring both end points to rest, each step in one evaluation; raises NotConvergedError."""
        if self.phase != "endpoints":
            return
        settings, ends = self.settings, [0, len(self.positions) - 1]
        while True:
            self._evaluate([k for k in ends if np.isnan(self.energies[k])])
            largest = [largest_force(self.forces[k]) for k in ends]
            self.residual = max(largest)
            if self.progress:
                self.progress("endpoints", self.counts["endpoint_steps"], self.residual)
            restless = [e for e in range(2) if largest[e] > settings.endpoint_max_force_eV_per_A]
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
                self.positions[k] = self.optimizers[e].step(self.positions[k], self.forces[k])
                self.energies[k] = np.nan
            self.counts["endpoint_steps"] += 1
        if settings.relax_endpoints:
            self._check_endpoints_at_home()
        ion_path = self.path.path_frac_coords @ self.path.lattice
        band = initial_band(self.positions[0], self.positions[-1], ion_path, settings.images, settings.bow_A)
        if settings.interpolation == "idpp":
            band = improve_by_pair_distances(band, self.path.lattice)
        self.positions[1:-1] = band[1:-1]
        self.phase = "band"
        self.optimizers = [self._optimizer()]
        self._save()

    def _check_endpoints_at_home(self) -> None:
        """Raise NotConvergedError where both end points have become one, or one has left its site."""
        moved = self.positions[[0, -1]] - self.given
        if moved.shape[1] > 1:
            moved -= moved[:, :-1].mean(axis=1, keepdims=True)
        first, last = (self.given + moved)[:, -1]
        hop = float(np.linalg.norm(self.given[1, -1] - self.given[0, -1]))
        if np.linalg.norm(last - first) < _MERGED_FRACTION * hop:
            self.merged = True
            raise NotConvergedError(
                "Both end points relaxed into one minimum: in this potential the two sites are one, with no barrier "
                "between them.",
                Reason.ENDPOINT_RAN_AWAY,
            )
        distances = np.linalg.norm(moved[:, -1], axis=1)
        if distances.max() > self.settings.run_away_A:
            raise NotConvergedError(
                f"The ion of an end point relaxed {distances.max():.2f} A "
                "away from its site; the site is no minimum of this potential.",
                Reason.ENDPOINT_RAN_AWAY,
            )

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
            if climbing != self.climbing:
                # Another image climbs: what the steps so far say about curvature no longer holds.
                self.optimizers[0].reset()
                self.climbing = climbing
            if self.progress:
                self.progress(self.phase, self.counts["steps"], self.residual)
            if self.residual <= settings.max_force_eV_per_A and (self.phase == "climb" or not settings.climb):
                break
            if self.counts["steps"] >= settings.max_steps:
                raise NotConvergedError(
                    f"The band still has a force of {self.residual:.2f} eV/A after {settings.max_steps} steps; allow "
                    "more steps or look at its images.",
                    Reason.NOT_CONVERGED,
                )
            self.positions[1:-1] = self.optimizers[0].step(self.positions[1:-1], moving)
            self.energies[1:-1] = np.nan
            self.counts["steps"] += 1
        self.phase = "done"
        self._save()

    def _band_forces(self, climbing: int | None) -> np.ndarray:
        """Forces that move the inner images; keeps the largest true force that must vanish."""
        moving, residual = band_forces(
            self.positions, self.energies, self.forces, self.settings.spring_eV_per_A2, climbing
        )
        self.residual = largest_force(residual)
        return moving

    def check_barrier(self) -> None:
        """Raise NotConvergedError for a barrier that no potential is to be trusted with."""
        barrier = float(self.energies.max() - min(self.energies[0], self.energies[-1]))
        if barrier > self.settings.max_barrier_eV:
            raise NotConvergedError(
                f"The barrier of {barrier:.1f} eV lies above {self.settings.max_barrier_eV:g} eV; the path runs "
                "through an atom or the potential fails here.",
                Reason.UNPHYSICAL_BARRIER,
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

    def _optimizer(self) -> LimitedMemoryBFGS:
        return LimitedMemoryBFGS(max_step_A=self.settings.max_step_A)

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
        self.optimizers = [self._optimizer() for _ in range(2 if self.phase == "endpoints" else 1)]
        for e, optimizer in enumerate(self.optimizers):
            optimizer.restore(f"optimizer{e}_", saved)

    def finish(self) -> None:
        """Keep the outcome, so that a second run is answered from it."""
        if self.evaluated:
            self.seconds, self.evaluated = self._elapsed(), False
            self._save()

    def result(self) -> BandResult:
        """The outcome; barriers only where nothing has failed."""
        energies, error = self.energies, self.failure
        evaluated = bool(np.isfinite(energies).all())
        barriers: dict[str, float | None] = dict.fromkeys(BARRIERS)
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
        )
