"""The checks between DFT outputs and a barrier: completeness, one band, one set of settings, convergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..transport.band_result import BandResult, BandSettings
from ..transport.bands import (
    BARRIERS,
    band_forces,
    barriers_eV,
    climbing_image,
    has_intermediate_minimum,
    largest_force,
    path_lengths_A,
    tangents,
)
from ..transport.errors import BandError, CandidateError, NotConvergedError, Reason
from .band_records import band_barrier
from .vasp_images import ImageOutput
from .vasp_inputs import ordered_band
from .vasp_settings import first_difference, mesh_text, read_incar

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOVED_ENDPOINT_A = 0.05
_VTST_TAGS = ("ICHAIN", "IOPT", "LCLIMB")


@dataclass(frozen=True)
class ComputedBand:
    """A DFT band as its folder tells it, whatever program computed it.

    Attributes
    ----------
    folder
        The folder.
    manifest
        What the dft stage wrote of itself, empty for a folder from elsewhere.
    outputs
        Of every image that was expected, end points included.
    band
        Barriers, energies and images; barriers are None unless the band converged. None where an image has no energy.
    reason, message
        Why there is no barrier, as code and as sentence.
    image_forces_eV_per_A
        Largest force that must vanish on each image; None where it is not known.
    force_limit_eV_per_A
        Limit of these forces.
    tags
        Settings of the program that set the energy.
    warnings
        What a reader must know, one sentence each.
    """

    folder: Path
    manifest: dict[str, Any]
    outputs: list[ImageOutput]
    band: BandResult | None
    reason: Reason | None
    message: str | None
    image_forces_eV_per_A: list[float | None]
    force_limit_eV_per_A: float
    tags: dict[str, Any]
    warnings: list[str]


@dataclass
class JudgedBand:
    """A band on its way from outputs to barriers; as it stands VASP's, other programs derive from it."""

    more_electrons: ClassVar[str] = "did not reach EDIFF in its last ionic step; change ALGO, NELM or the mixing, and"
    more_steps: ClassVar[str] = "continue from its CONTCAR"

    outputs: list[ImageOutput]
    limit_eV_per_A: float
    image_forces: list[float | None]
    images: list[Structure] = field(default_factory=list)
    energies: np.ndarray = field(default_factory=lambda: np.empty(0))
    forces: np.ndarray = field(default_factory=lambda: np.empty(0))
    positions: np.ndarray = field(default_factory=lambda: np.empty(0))
    order: list[int] = field(default_factory=list)
    climbing: int | None = None
    slopes_known: bool = True

    def outcome(
        self, folder: Path, ion: str, tags: dict[str, Any], endpoint_folders: Sequence[Path], warnings: list[str]
    ) -> dict[str, Any]:
        """Read and judge; the fields of a :class:`ComputedBand` that follow from it. Parameters as for :meth:`read`."""
        error: CandidateError | None = None
        try:
            self.read(folder, ion, tags, endpoint_folders, warnings)
        except CandidateError as found:
            error = found
        return {
            "outputs": self.outputs,
            "band": self.result(error),
            "reason": None if error is None else error.reason,
            "message": None if error is None else str(error),
            "image_forces_eV_per_A": self.image_forces,
            "force_limit_eV_per_A": self.limit_eV_per_A,
            "warnings": warnings,
        }

    def read(
        self, folder: Path, ion: str, tags: dict[str, Any], endpoint_folders: Sequence[Path], warnings: list[str]
    ) -> None:
        """Check everything that a barrier needs; raises CandidateError at the first thing that is missing.

        Parameters
        ----------
        folder
            Of the band.
        ion
            Element symbol of the migrating ion.
        tags
            INCAR of the band.
        endpoint_folders
            Where the inputs of the two end points lie.
        warnings
            Takes what a reader must know, one sentence each.
        """
        last = len(self.outputs) - 1
        for number, output in enumerate(self.outputs):
            if number in (0, last) and output.forces_eV_per_A is not None:
                self.image_forces[number] = largest_force(output.forces_eV_per_A)
        lacking = [(n, output) for n, output in enumerate(self.outputs) if output.energy_eV is None]
        if lacking:
            number, output = lacking[0]
            kind = "end point" if number in (0, last) else "image"
            others = f" ({len(lacking)} of {last + 1} images lack it)" if len(lacking) > 1 else ""
            raise NotConvergedError(
                f"There is no energy of {kind} {number:02d}: {output.problem}{others}; the calculation stopped half "
                "way, continue it and bring it back again.",
                Reason.INCOMPLETE_RESULTS,
            )
        self._assemble(ion)
        self._check_order()
        self._find_forces(tags, warnings)
        self._check_same_settings(folder, tags, endpoint_folders)
        self._check_convergence(tags)
        self._say_who_climbed(warnings)
        band_barrier(self.result(None), "of this folder")  # type: ignore[arg-type]
        barrier = float(self.energies.max() - min(self.energies[0], self.energies[-1]))
        if barrier > BandSettings.max_barrier_eV:
            raise NotConvergedError(
                f"The barrier of {barrier:.1f} eV lies above {BandSettings.max_barrier_eV:g} eV; look at the images "
                "and at the convergence of the electrons.",
                Reason.UNPHYSICAL_BARRIER,
            )
        if folder.joinpath("00", "POSCAR").is_file():
            warnings.extend(self._moved_endpoints(folder))

    def _assemble(self, ion: str) -> None:
        """Bring all images into one order of atoms, without jumps by lattice vectors."""
        structures = [output.structure for output in self.outputs]
        self.images, self.order = ordered_band(structures, ion)  # type: ignore[arg-type]
        self.positions = np.stack([image.cart_coords for image in self.images])
        self.energies = np.array([output.energy_eV for output in self.outputs])
        self.forces = np.stack([output.forces_eV_per_A[self.order] for output in self.outputs])  # type: ignore[index]

    def _find_forces(self, tags: dict[str, Any], warnings: list[str]) -> None:
        """Bring the forces to those of DFT alone, and find those that must vanish."""
        self.climbing = self._climbing(tags)
        if any(tags.get(name) not in (None, 0, False) for name in _VTST_TAGS):
            self._undo_springs(warnings)
        _, residual = band_forces(self.positions, self.energies, self.forces, 0.0, self.climbing)
        # VASP's own code takes the mean of both neighbours' directions for the tangent, the VTST code the improved one.
        middle = _across_mean_tangents(self.positions, self.forces)
        for number, own in enumerate(residual, 1):
            climbs = number == self.climbing
            across = largest_force(own) if climbs else min(largest_force(own), largest_force(middle[number - 1]))
            self.image_forces[number] = across

    def _climbing(self, tags: dict[str, Any]) -> int | None:
        """Which image climbed; None where none did."""
        return climbing_image(self.energies) if tags.get("LCLIMB") else None

    def _say_who_climbed(self, warnings: list[str]) -> None:
        if self.climbing is None:
            warnings.append("No image climbed: the highest image lies at or below the saddle point.")

    def _undo_springs(self, warnings: list[str]) -> None:
        """Put the true force along the band in the place of the VTST code's springs."""
        _, across = band_forces(self.positions, self.energies, self.forces, 0.0, None)
        along = [output.along_band_eV_per_A for output in self.outputs[1:-1]]
        if any(value is None for value in along):
            self.slopes_known = False
            warnings.append(
                "The OUTCARs do not say the force along the band, which the VTST code replaces by springs, so there "
                "are no splined barriers."
            )
            return
        unit = tangents(self.positions, self.energies)
        self.forces[1:-1] = across + np.array(along, dtype=float)[:, None, None] * unit

    def _check_order(self) -> None:
        """An image that lies nearer to its second neighbour than to its first stands in another's folder."""
        for number in range(len(self.positions) - 2):
            near, far = (float(np.linalg.norm(self.positions[number + k] - self.positions[number])) for k in (1, 2))
            if far < 0.9 * near:
                raise BandError(
                    f"Image {number + 2:02d} lies nearer to image {number:02d} ({far:.2f} Å) than image "
                    f"{number + 1:02d} does ({near:.2f} Å): the image folders are not in the order of the band; put "
                    "them back in order."
                )

    def _check_same_settings(self, folder: Path, tags: dict[str, Any], endpoint_folders: Sequence[Path]) -> None:
        """Energies of two settings are not to be subtracted."""
        mesh = mesh_text(folder)
        for number, inputs in zip((0, len(self.outputs) - 1), endpoint_folders, strict=True):
            output = self.outputs[number]
            places = {inputs, inputs if output.file is None else output.file.parent} - {folder}
            settings = [own for place in places if (own := read_incar(place))] or [output.tags]
            meshes = [points for place in places if (points := mesh_text(place))]
            difference = next(
                (found for each in settings if each and tags and (found := first_difference(tags, each))), None
            )
            if difference is None and mesh is not None:
                difference = next((("the k-points", mesh, its) for its in meshes if its != mesh), None)
            if difference is not None:
                what, band, endpoint = difference
                raise BandError(
                    f"End point {number:02d} and the band were computed with different settings ({what}: {endpoint} "
                    f"and {band}), so their energies cannot be subtracted; compute both alike."
                )

    def _check_convergence(self, tags: dict[str, Any]) -> None:
        last = len(self.outputs) - 1
        for number, output in enumerate(self.outputs):
            kind = "End point" if number in (0, last) else "Image"
            if not output.finished:
                raise NotConvergedError(
                    f"{kind} {number:02d} is not finished after {output.steps} ionic steps: {output.problem}; continue "
                    "the calculation and bring it back again.",
                    Reason.INCOMPLETE_RESULTS,
                )
            if not output.electronically_converged:
                raise NotConvergedError(
                    f"The electrons of {kind.lower()} {number:02d} {self.more_electrons} run it again."
                )
        for number in (0, last, *range(1, last)):
            force = self.image_forces[number]
            if force is not None and force <= self.limit_eV_per_A:
                continue
            endpoint = number in (0, last)
            known = "an unknown force" if force is None else f"a force of {force:.3f} eV/Å"
            allowed = f" (NSW = {tags.get('NSW', 'not set')})" if tags else ""
            raise NotConvergedError(
                f"{'End point' if endpoint else 'Image'} {number:02d} still has {known} after "
                f"{self.outputs[number].steps} ionic steps, the limit is {self.limit_eV_per_A:g} eV/Å{allowed}; "
                f"{self.more_steps} and bring it back again.",
                Reason.ENDPOINT_NOT_RELAXED if endpoint else Reason.NOT_CONVERGED,
            )

    def _moved_endpoints(self, folder: Path) -> list[str]:
        from pymatgen.io.vasp import Poscar

        found = []
        for number in (0, len(self.outputs) - 1):
            file = folder / f"{number:02d}" / "POSCAR"
            computed = self.outputs[number].structure
            if computed is None or not file.is_file():
                continue
            held = Poscar.from_file(file, check_for_potcar=False).structure
            if len(held) != len(computed):
                continue
            shift = held.frac_coords - computed.frac_coords
            shift -= np.round(shift)
            moved = float(np.linalg.norm(shift @ computed.lattice.matrix, axis=1).max())
            if moved > MOVED_ENDPOINT_A:
                found.append(
                    f"The band ran with an end point {number:02d} whose atoms lie up to {moved:.2f} Å from the relaxed "
                    f"one: the relaxed CONTCAR was not copied to {number:02d}/POSCAR."
                )
        return found

    def result(self, error: CandidateError | None) -> BandResult | None:
        """The band; None where an image has no energy, barriers only where there is no error."""
        from pymatgen.io.ase import AseAtomsAdaptor

        if not len(self.positions):
            return None
        barriers: dict[str, Any] = dict.fromkeys(BARRIERS)
        if error is None:
            barriers.update(barriers_eV(self.positions, self.energies, self.forces))
            if not self.slopes_known:
                barriers.update({name: None for name in BARRIERS if name.startswith("splined")})
        known = [force for force in self.image_forces if force is not None]
        inner = self.outputs[1:-1]
        return BandResult(
            **barriers,
            highest_image_eV=float(self.energies.max() - self.energies[0]),
            converged=error is None,
            reason=None if error is None else error.reason,
            message=None if error is None else str(error),
            energies_eV=self.energies,
            path_lengths_A=path_lengths_A(self.positions),
            max_force_eV_per_A=max(known) if known else float("nan"),
            climbing_image=self.climbing,
            endpoints_merged=False,
            intermediate_minimum=has_intermediate_minimum(self.energies),
            images=[AseAtomsAdaptor.get_atoms(image, msonable=False) for image in self.images],
            forces_eV_per_A=self.forces,
            steps=max(output.steps for output in inner),
            endpoint_steps=self.outputs[0].steps + self.outputs[-1].steps,
            evaluations=sum(output.steps for output in self.outputs),
            # The images run side by side, the end points before them.
            seconds=max(output.seconds for output in inner) + self.outputs[0].seconds + self.outputs[-1].seconds,
            path_id="",
        )


def _across_mean_tangents(positions: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Forces on the inner images across the mean direction to their two neighbours, shape (images, atoms, 3)."""
    steps = np.diff(positions, axis=0)
    unit = steps / np.linalg.norm(steps, axis=(1, 2), keepdims=True)
    mean = unit[1:] + unit[:-1]
    mean /= np.linalg.norm(mean, axis=(1, 2), keepdims=True)
    along = np.einsum("iaj,iaj->i", forces[1:-1], mean)
    return forces[1:-1] - along[:, None, None] * mean
