"""What goes wrong with a band: end points that leave their sites, ions that swap, frameworks that collapse."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from .band_result import BandSettings
from .errors import NotConvergedError, Reason

MERGED_FRACTION = 0.3
"""End points nearer to each other than this share of the hop are one minimum."""


class MergedEndpointsError(NotConvergedError):
    """Both end points relaxed into one minimum: there is nothing between them."""

    reason = Reason.ENDPOINT_RAN_AWAY


def check_endpoints(relaxed: np.ndarray, given: np.ndarray, atoms: Atoms, settings: BandSettings) -> None:
    """Refuse end points that are no longer those that were given.

    Parameters
    ----------
    relaxed, given
        Positions of both end points in Angstrom, shape (2, atoms, 3), the migrating ion last.
    atoms
        Their species and cell.
    settings
        Limits.

    Raises
    ------
    MergedEndpointsError
        Both have become one.
    NotConvergedError
        With reason ``ENDPOINT_RAN_AWAY``: the ion of one has left its site; ``ION_SWAPPED``: another ion of its species
        stands there; ``FRAMEWORK_COLLAPSED``: an atom of another species has left its site.
    """
    moved = _without_drift(relaxed - given)
    first, last = (given + moved)[:, -1]
    hop_A = float(np.linalg.norm(given[1, -1] - given[0, -1]))
    if np.linalg.norm(last - first) < MERGED_FRACTION * hop_A:
        raise MergedEndpointsError(
            "Both end points relaxed into one minimum: in this potential the two sites are one, with no barrier "
            "between them."
        )
    _check_framework(moved, atoms, settings)
    _check_swap(given + moved, given, atoms)
    distances = np.linalg.norm(moved[:, -1], axis=1)
    if distances.max() > settings.run_away_A:
        raise NotConvergedError(
            f"The ion of an end point relaxed {distances.max():.2f} A "
            "away from its site; the site is no minimum of this potential.",
            Reason.ENDPOINT_RAN_AWAY,
        )


def check_images(band: np.ndarray, given: np.ndarray, atoms: Atoms, settings: BandSettings) -> None:
    """Refuse a band in an image of which the crystal is another one.

    Parameters
    ----------
    band
        Positions of all images in Angstrom, shape (images + 2, atoms, 3), the migrating ion last.
    given
        Positions of the end points as given, shape (2, atoms, 3).
    atoms
        Species and cell.
    settings
        Limits.

    Raises
    ------
    NotConvergedError
        With reason ``FRAMEWORK_COLLAPSED`` or ``ION_SWAPPED``.
    """
    share = np.linspace(0.0, 1.0, len(band))[:, None, None]
    moved = _without_drift(band - ((1.0 - share) * given[0] + share * given[1]))
    _check_framework(moved, atoms, settings)
    _check_swap(given + moved[[0, -1]], given, atoms)


def check_barrier(energies: np.ndarray, settings: BandSettings) -> None:
    """Refuse a barrier that no potential is to be trusted with, as NotConvergedError.

    Parameters
    ----------
    energies
        Of all images in eV, shape (images + 2,).
    settings
        ``max_barrier_eV``; the largest energy difference in the band must lie between zero and this.
    """
    barrier = float(energies.max() - energies.min())
    if not 0.0 <= barrier <= settings.max_barrier_eV:
        raise NotConvergedError(
            f"The barrier of {barrier:.1f} eV lies above {settings.max_barrier_eV:g} eV; the path runs "
            "through an atom or the potential fails here.",
            Reason.UNPHYSICAL_BARRIER,
        )


def _without_drift(moved: np.ndarray) -> np.ndarray:
    """Displacements against the framework as a whole, which a potential does not hold in place."""
    if moved.shape[1] == 1:
        return moved
    return moved - moved[:, :-1].mean(axis=1, keepdims=True)


def _check_framework(moved: np.ndarray, atoms: Atoms, settings: BandSettings) -> None:
    others = atoms.numbers[:-1] != atoms.numbers[-1]
    if not others.any():
        return
    distances = np.linalg.norm(moved[:, :-1], axis=2).max(axis=0) * others
    worst = int(np.argmax(distances))
    if distances[worst] > settings.max_framework_move_A:
        raise NotConvergedError(
            f"{atoms.symbols[worst]} of the framework moved {distances[worst]:.1f} A from its site, more than "
            f"{settings.max_framework_move_A:g} A; the crystal as given is not stable in this potential.",
            Reason.FRAMEWORK_COLLAPSED,
        )


def _check_swap(relaxed: np.ndarray, given: np.ndarray, atoms: Atoms) -> None:
    """Whether another ion stands where the migrating one should.

    Ions that move along with it are no fault: in fast conductors that is how it goes.
    """
    same = np.flatnonzero(atoms.numbers[:-1] == atoms.numbers[-1])
    if not len(same):
        return
    for end in range(2):
        away = find_mic(relaxed[end, same] - given[end, -1], atoms.cell, atoms.pbc)[1]
        own = np.linalg.norm(relaxed[end, -1] - given[end, -1])
        if away.min() < own:
            raise NotConvergedError(
                f"Another ion of the migrating species relaxed to {away.min():.1f} A from an end of the path, nearer "
                "than the migrating ion, so this is not the hop of one ion; look at the band.",
                Reason.ION_SWAPPED,
            )
