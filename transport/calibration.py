"""From a bond-valence barrier to the barrier that a DFT band would probably have, with its error.

Bond-valence barriers of the empty, rigid framework come out higher than those of DFT, the more so the higher they are.
The map is a straight line with one slope for all ions and an offset for each::

    barrier_DFT-like = offset(ion) + slope * min(barrier_BVSE, saturation)

fitted by ``benchmarks/fit_bvse_calibration.py`` to literature DFT-NEB barriers (R. Devi et al., arXiv 2508.06459), one
row a crystal: the 1D percolation barrier as the stage reports it against the lowest published path of that crystal. The
coefficients, their errors in cross-validation by host compound and what they rest on lie in
``data/bvse_calibration.json``.

The error is large: the bond-valence barrier of a crystal tells little more about its DFT barrier than the mobile ion
does. The value serves to read a bond-valence barrier on the scale of DFT, beside the raw one and never instead of it;
within the limits of the fit it ranks the crystals of one ion as the raw barrier does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .site_energy import BondValenceSettings


@dataclass(frozen=True)
class DftLikeBarrier:
    """What a bond-valence barrier amounts to on the scale of DFT-NEB.

    Attributes
    ----------
    barrier_eV
        The estimate; ``inf`` where the crystal does not percolate, None for an ion without a calibration.
    sigma_eV
        Half width that held 68 % of the crystals in cross-validation; None where there is no finite estimate.
    extrapolated
        The raw barrier lies outside the range of the fit: below it the estimate stays at what the lowest fitted
        barrier gives, above ``saturation_eV`` at what that gives, so that it is a lower bound of what the line says.
    """

    barrier_eV: float | None
    sigma_eV: float | None
    extrapolated: bool = False


@dataclass(frozen=True)
class IonCalibration:
    """The line of one mobile ion.

    Attributes
    ----------
    offset_eV, slope
        The line.
    lowest_eV, highest_eV
        Lowest and highest raw barrier of the fit; outside the line knows nothing.
    saturation_eV
        Raw barriers above this count as this.
    sigma_eV, sigma_growth
        The error is ``sigma_eV + sigma_growth * raw barrier`` within the same limits.
    """

    offset_eV: float
    slope: float
    lowest_eV: float
    highest_eV: float
    saturation_eV: float
    sigma_eV: float
    sigma_growth: float


def dft_like_barrier(barrier_eV: float, ion: str) -> DftLikeBarrier:
    """DFT-like barrier of a bond-valence percolation barrier.

    Parameters
    ----------
    barrier_eV
        Barrier of the bond-valence stage from the minimum of the percolating component, in eV; ``inf`` for none. The
        fit is to barriers in one dimension; those in two and three are read on the same scale.
    ion
        Element symbol of the mobile ion.

    Returns
    -------
    DftLikeBarrier
        Never below the line's value at the lowest fitted barrier, which is positive.

    Raises
    ------
    ValueError
        The barrier is negative or NaN.
    """
    if math.isnan(barrier_eV) or barrier_eV < 0:
        raise ValueError(f"a barrier is zero or positive, not {barrier_eV} eV")
    line = calibrated_ions().get(ion)
    if line is None:
        return DftLikeBarrier(None, None)
    if math.isinf(barrier_eV):
        return DftLikeBarrier(math.inf, None, extrapolated=True)
    within = min(max(barrier_eV, line.lowest_eV), line.saturation_eV)
    return DftLikeBarrier(
        barrier_eV=line.offset_eV + line.slope * within,
        sigma_eV=line.sigma_eV + line.sigma_growth * within,
        extrapolated=within != barrier_eV or barrier_eV > line.highest_eV,
    )


def calibration_covers(settings: BondValenceSettings) -> bool:
    """Whether barriers computed with these settings are those that the line was fitted to; the grid may differ."""
    from .site_energy import BondValenceSettings

    default = BondValenceSettings()
    physics = ("cutoff_A", "screening", "balance_charges", "radii", "neighbours")
    return all(getattr(settings, name) == getattr(default, name) for name in physics)


@lru_cache(maxsize=1)
def calibrated_ions() -> dict[str, IonCalibration]:
    """The lines by element symbol of the mobile ion; other ions have too few data for one."""
    record = calibration_record()
    return {
        ion: IonCalibration(
            offset_eV=entry["offset_eV"],
            slope=record["slope"],
            lowest_eV=entry["lowest_eV"],
            highest_eV=entry["highest_eV"],
            saturation_eV=record["saturation_eV"],
            sigma_eV=entry["sigma_eV"],
            sigma_growth=record["sigma_growth"],
        )
        for ion, entry in record["ions"].items()
    }


@lru_cache(maxsize=1)
def calibration_record() -> dict[str, Any]:
    """The whole data file: coefficients, cross-validation, rows and hosts behind them, citation."""
    text = files(__package__).joinpath("data", "bvse_calibration.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record
