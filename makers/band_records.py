"""From the band of the physics floor to the record that a document keeps, for every stage that has bands."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..transport.errors import NotConvergedError, Reason
from .documents import BandRecord

if TYPE_CHECKING:
    from ..transport.band_result import BandResult

LOWER_SITE_EV = 0.1
"""A band that dips farther than this below both end points joins sites that are none."""


def band_barrier(result: BandResult, hop_id: str, ends_are_sites: bool = True) -> float:
    """Return the barrier of a band, highest less lowest image in eV.

    Parameters
    ----------
    result
        The band.
    hop_id
        Name of the hop.
    ends_are_sites
        Whether the ion is known to rest at the ends, as at sites of the crystal; voids are guesses, and an ion that
        rests between two of them has the same barrier on its way.

    Raises
    ------
    NotConvergedError
        The band has no barrier, or passes a site below its end points; the message says which.
    """
    if not result.converged or result.barrier_span_eV is None:
        raise NotConvergedError(
            f"The band of hop {hop_id} has no barrier: {result.message}", result.reason or Reason.NOT_CONVERGED
        )
    depth = site_below_ends_eV(result)
    if ends_are_sites and depth > LOWER_SITE_EV:
        raise NotConvergedError(
            f"The band of hop {hop_id} passes a site {depth:.2f} eV below its end points, so the ion does not rest "
            "where the structure says; relax the structure and run it again.",
            Reason.LOWER_SITE_ON_PATH,
        )
    return result.barrier_span_eV


def site_below_ends_eV(result: BandResult) -> float:
    """How far a band dips below its lower end point, in eV."""
    return float(min(result.energies_eV[0], result.energies_eV[-1]) - result.energies_eV.min())


def band_extxyz(result: BandResult) -> str:
    """Return the band as extended XYZ text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "band.extxyz"
        result.to_extxyz(file)
        return file.read_text()


def band_record(result: BandResult, hop_id: str, distance_A: float, multiplicity: int | None) -> BandRecord:
    """Return what a document keeps of a band.

    Parameters
    ----------
    result
        The band.
    hop_id
        Name of the hop.
    distance_A
        Its straight length in Angstrom.
    multiplicity
        Symmetry-equivalent hops in the unit cell, where that is known.
    """
    from_start = result.energies_eV - result.energies_eV[0]
    return BandRecord(
        hop_id=hop_id,
        distance_A=distance_A,
        multiplicity=multiplicity,
        converged=result.converged,
        reason=None if result.reason is None else str(result.reason),
        message=result.message,
        barrier_forward_eV=result.barrier_forward_eV,
        barrier_reverse_eV=result.barrier_reverse_eV,
        barrier_span_eV=result.barrier_span_eV,
        splined_forward_eV=result.splined_forward_eV,
        splined_reverse_eV=result.splined_reverse_eV,
        splined_span_eV=result.splined_span_eV,
        energies_eV=[float(e) for e in from_start],
        lengths_A=[float(x) for x in result.path_lengths_A],
        max_force_eV_per_A=float(result.max_force_eV_per_A) if math.isfinite(result.max_force_eV_per_A) else None,
        intermediate_minimum=result.intermediate_minimum,
        steps=result.steps,
        evaluations=result.evaluations,
        seconds=result.seconds,
        atoms=len(result.images[0]),
    )
