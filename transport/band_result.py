"""Settings and result of a nudged elastic band."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms

from .errors import Reason


@dataclass(frozen=True)
class BandSettings:
    """Settings of a nudged elastic band.

    Attributes
    ----------
    images
        Images between the end points.
    spring_eV_per_A2
        Spring constant; acts along the band only.
    climb
        Let the highest image climb to the saddle.
    climb_below_eV_per_A
        Largest force at which climbing starts.
    max_force_eV_per_A
        Converged when no atom of any image has a larger true force perpendicular to the band (climbing image: a larger
        true force).
    max_steps
        Steps of the band, climbing included.
    relax_endpoints
        Relax the end points in the fixed cell first. Without, barriers are those of the path as it is given.
    endpoint_max_force_eV_per_A, endpoint_max_steps
        Limits of that relaxation.
    equivalent_ends
        Relax one end point for both where an isometry of the cell turns it into the other.
    interpolation
        ``idpp`` improves the first band by the image dependent pair potential; ``path`` keeps the given path of the ion
        (a straight line, where it is a hop's) and interpolates the framework linearly; ``bond_valence`` does so, too,
        and takes the ion along the valley of the bond-valence site energy (:mod:`.bond_valence_paths`); where that is
        not to be had, or leads through another mobile ion, it is ``idpp``.
    bow_A
        Sideways displacement of the ion in the middle of the first band, off symmetry elements.
    max_step_A
        Longest displacement of an atom in a step.
    run_away_A
        An end point whose migrating ion relaxes farther than this, against the rest of the crystal, ran away. Sites of
        fast conductors are shallow: 1 Angstrom is not unusual there.
    max_framework_move_A
        A framework atom that leaves its site by more than this, in an end point or an image, has collapsed.
    split
        Run a band that passes a minimum as several hops, each a band of its own.
    upper_bound_eV
        End the band as soon as its highest point (of the spline through the images) lies less than this above the lower
        end point: no further step raises it. Such a band has no barrier but a bound, and is marked by the reason
        ``EARLY_VERDICT``. None runs every band to the end.
    max_barrier_eV
        Larger barriers are not reported: no potential is to be trusted there.
    min_length_A
        Least width of the supercell; used by callers that build the path, not by :func:`run_band`.
    """

    images: int = 5
    spring_eV_per_A2: float = 5.0
    climb: bool = True
    climb_below_eV_per_A: float = 0.5
    max_force_eV_per_A: float = 0.1
    max_steps: int = 200
    relax_endpoints: bool = True
    endpoint_max_force_eV_per_A: float = 0.05
    endpoint_max_steps: int = 200
    equivalent_ends: bool = True
    interpolation: Literal["idpp", "path", "bond_valence"] = "idpp"
    bow_A: float = 0.05
    max_step_A: float = 0.2
    run_away_A: float = 1.5
    max_framework_move_A: float = 1.5
    split: bool = True
    upper_bound_eV: float | None = None
    max_barrier_eV: float = 5.0
    min_length_A: float = 8.0


@dataclass(frozen=True)
class BandResult:
    """What a nudged elastic band gave. Barriers are None unless the band converged to something sensible.

    Attributes
    ----------
    barrier_forward_eV, barrier_reverse_eV
        Highest image less first and less last end point.
    barrier_span_eV
        Highest less lowest image.
    splined_forward_eV, splined_reverse_eV, splined_span_eV
        The same on the force-informed spline over the path length.
    highest_image_eV
        Highest image so far less first end point, converged or not; while a band descends, an upper bound of its
        barrier. None before the band was evaluated.
    converged
        Forces lie within the limits, end points included, and the barrier is one that a potential can be trusted with.
    reason, message
        Why there are no barriers, as code and as sentence; None where there are.
    energies_eV
        Of the images, shape (len(images),); NaN where not evaluated.
    path_lengths_A
        Distance along the band at each image, over the coordinates of all atoms, shape (len(images),).
    max_force_eV_per_A
        Largest residual force of the last step.
    climbing_image
        Index of the climbing image among all images, or None.
    endpoints_merged
        Both end points relaxed into one minimum (reason ``ENDPOINT_RAN_AWAY``): the two sites are one, and a network of
        hops may take this one for open.
    intermediate_minimum
        An inner image lies below images on both its sides by more than 0.05 eV: the band is two hops in one, or an end
        point is not the minimum that it should be.
    images
        Atoms of every image, the migrating ion last, positions continuous along the band; the end points alone where
        the band was not begun.
    forces_eV_per_A
        True forces on every image, shape (len(images), atoms, 3).
    steps, endpoint_steps
        Steps of band and of end points.
    evaluations
        Energy-and-force evaluations of single images, of killed and resumed runs together.
    seconds
        Wall time, of killed and resumed runs together.
    path_id
        Name of the path.
    hops
        Bands that were joined: 1, or more where the path passes minima. Barriers are then those of the whole: its
        highest point less its first, last or lowest one.
    barrier_upper_bound_eV
        Of a band that was ended early (reason ``EARLY_VERDICT``): what its barrier from the lower end point lies below.
    """

    barrier_forward_eV: float | None
    barrier_reverse_eV: float | None
    barrier_span_eV: float | None
    splined_forward_eV: float | None
    splined_reverse_eV: float | None
    splined_span_eV: float | None
    highest_image_eV: float | None
    converged: bool
    reason: Reason | None
    message: str | None
    energies_eV: np.ndarray
    path_lengths_A: np.ndarray
    max_force_eV_per_A: float
    climbing_image: int | None
    endpoints_merged: bool
    intermediate_minimum: bool
    images: list[Atoms] = field(repr=False)
    forces_eV_per_A: np.ndarray = field(repr=False)
    steps: int
    endpoint_steps: int
    evaluations: int
    seconds: float
    path_id: str = ""
    hops: int = 1
    barrier_upper_bound_eV: float | None = None

    def to_extxyz(self, file: Path | str) -> None:
        """Write all images with their energies and forces as one extended XYZ file."""
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.io import write

        frames = []
        for atoms, energy, forces in zip(self.images, self.energies_eV, self.forces_eV_per_A, strict=True):
            frame = atoms.copy()
            if np.isfinite(energy):
                frame.calc = SinglePointCalculator(frame, energy=float(energy), forces=forces)
            frame.info["path_id"] = self.path_id
            frames.append(frame)
        write(file, frames, format="extxyz")
