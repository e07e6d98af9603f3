"""Climbing-image nudged elastic band of one path: end points relaxed first, all images evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .band_result import BandResult, BandSettings
from .band_run import BandProgress, BandRun, band_key
from .bands import BARRIERS, deepest_minimum, path_lengths_A, splined_extremes_eV
from .energies import Potential
from .errors import Reason
from .paths import MigrationPath

__all__ = ["BandProgress", "BandResult", "BandSettings", "band_key", "run_band"]

_MOST_SPLITS = 2
"""How often a band is split, and its parts again: a path of more than four hops is none that a table should hold."""


def run_band(
    path: MigrationPath,
    potential: Potential,
    settings: BandSettings | None = None,
    checkpoint: Path | None = None,
    progress: BandProgress | None = None,
    start: np.ndarray | None = None,
) -> BandResult:
    """Relax the end points of a path and find the barrier between them.

    Climbing-image nudged elastic band with improved tangents (Henkelman & Jonsson, J. Chem. Phys. 113, 9978 (2000);
    Henkelman, Uberuaga & Jonsson, ibid. 9901). End points and band are optimised by limited-memory BFGS whose first
    guess of the curvature is a spring between every two neighbours, see :mod:`.model_hessian`; images that are at rest
    are not evaluated again. A band that passes a minimum is run as several hops.

    Parameters
    ----------
    path
        Supercell with one vacancy and the way of the migrating ion, see :func:`hopflow.transport.hops.hop_path`.
    potential
        Gives energies and forces of all moving images in one call.
    settings
        Defaults if None.
    checkpoint
        File that keeps the band after every step; hops of a band that is split have files beside it. A run with the
        same path, settings and potential goes on from it and repeats no evaluation that it holds; a finished one is
        answered from it.
    progress
        Called after every step.
    start
        First band in place of an interpolated one, end points included, in Angstrom, shape (images + 2, atoms, 3) with
        the migrating ion last, without jumps by cell vectors. Its images follow when end points relax.

    Returns
    -------
    BandResult
        Bands that fail have ``converged=False``, no barriers, and a reason: ``ENDPOINT_NOT_RELAXED``,
        ``ENDPOINT_RAN_AWAY``, ``ION_SWAPPED``, ``FRAMEWORK_COLLAPSED``, ``INTERMEDIATE_MINIMUM``, ``NOT_CONVERGED``,
        ``UNPHYSICAL_BARRIER`` or ``NON_FINITE_ENERGY``; a band that was ended early has ``EARLY_VERDICT``.
    """
    chosen = settings or BandSettings()
    return _run(path, potential, chosen, checkpoint, progress, start, _MOST_SPLITS if chosen.split else 0)


def _run(
    path: MigrationPath,
    potential: Potential,
    settings: BandSettings,
    checkpoint: Path | None,
    progress: BandProgress | None,
    start: np.ndarray | None,
    splits: int,
) -> BandResult:
    chosen = replace(settings, split=splits > 0)
    whole = BandRun(path, potential, chosen, checkpoint, progress, start).run()
    if splits == 0 or whole.reason is not Reason.INTERMEDIATE_MINIMUM:
        return whole
    band = np.stack([image.positions for image in whole.images])
    middle = deepest_minimum(whole.energies_eV)
    parts: list[BandResult] = []
    for number, part in enumerate((band[: middle + 1], band[middle:]), 1):
        first = spread(part, settings.images + 2)
        if parts:
            # the site in the middle has been relaxed by the first hop
            first[0] = parts[0].images[-1].positions
        place = (
            None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}-hop{number}{checkpoint.suffix}")
        )
        parts.append(_run(path, potential, settings, place, progress, first, splits - 1))
        if not (parts[-1].converged or parts[-1].endpoints_merged):
            break
    together = joined(whole, parts)
    if together.converged:
        return together
    # what looked like a minimum may be gone once the band has come to rest; then it was one hop after all
    place = _beside(checkpoint, "whole")
    rest = BandRun(path, potential, replace(chosen, split=False), place, progress, band).run()
    if rest.converged and not rest.intermediate_minimum:
        return replace(rest, **_costs([whole, *parts, rest]))
    return replace(together, **_costs([together, rest]))


def _beside(checkpoint: Path | None, what: str) -> Path | None:
    """Checkpoint of a part of a band."""
    return None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}-{what}{checkpoint.suffix}")


def _costs(results: Sequence[BandResult]) -> dict[str, Any]:
    """What several bands cost together."""
    names = ("steps", "endpoint_steps", "evaluations", "seconds")
    return {name: sum(getattr(result, name) for result in results) for name in names}


def spread(band: np.ndarray, images: int) -> np.ndarray:
    """Images at equal distances along a band, shape (images, atoms, 3)."""
    lengths_A = path_lengths_A(band)
    wanted_A = np.linspace(0.0, lengths_A[-1], images)
    after = np.clip(np.searchsorted(lengths_A, wanted_A), 1, len(band) - 1)
    share = (wanted_A - lengths_A[after - 1]) / (lengths_A[after] - lengths_A[after - 1])
    return band[after - 1] + share[:, None, None] * (band[after] - band[after - 1])


def joined(whole: BandResult, parts: list[BandResult]) -> BandResult:
    """The result of a path that consists of several hops.

    Parameters
    ----------
    whole
        The band that passed a minimum; its steps and evaluations count, its energies do not.
    parts
        Bands of the hops in order, the last of which may have failed. One whose end points became one site is passed
        without a barrier.

    Returns
    -------
    BandResult
        Barriers are those of the whole path: its highest point less its first, last or lowest one.
    """
    costs = _costs([whole, *parts])
    failed = next((part for part in parts if not (part.converged or part.endpoints_merged)), None)
    if failed is not None:
        message = f"The band passes a minimum, so it is more than one hop, and one of the hops failed: {failed.message}"
        return replace(
            failed,
            **costs,
            message=message,
            intermediate_minimum=True,
            highest_image_eV=None,
            hops=len(parts),
        )
    barred = [part for part in parts if part.converged]
    if not barred:
        return replace(parts[-1], **costs, intermediate_minimum=True)
    energies = np.concatenate([parts[0].energies_eV, *(part.energies_eV[1:] for part in parts[1:])])
    forces = np.concatenate([parts[0].forces_eV_per_A, *(part.forces_eV_per_A[1:] for part in parts[1:])])
    images = [*parts[0].images, *(image for part in parts[1:] for image in part.images[1:])]
    extremes = [
        splined_extremes_eV(np.stack([i.positions for i in part.images]), part.energies_eV, part.forces_eV_per_A)
        for part in barred
    ]
    high, low = max(high for high, _ in extremes), min([*(low for _, low in extremes), energies.min()])
    first, last, top = energies[0], energies[-1], energies.max()
    values = (top - first, top - last, top - energies.min(), high - first, high - last, high - low)
    barriers: dict[str, Any] = dict(zip(BARRIERS, map(float, values), strict=True))
    lengths_A = [0.0]
    for part in parts:
        lengths_A += list(lengths_A[-1] + part.path_lengths_A[1:])
    highest = max(barred, key=lambda part: part.energies_eV.max())
    return replace(
        highest,
        **barriers,
        **costs,
        energies_eV=energies,
        forces_eV_per_A=forces,
        images=images,
        path_lengths_A=np.array(lengths_A),
        highest_image_eV=float(top - first),
        max_force_eV_per_A=max(part.max_force_eV_per_A for part in barred),
        climbing_image=int(np.argmax(energies)) if highest.climbing_image is not None else None,
        intermediate_minimum=True,
        hops=sum(part.hops for part in barred),
    )
