"""ApproxNEB that was run elsewhere: which forces must vanish where atoms are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.bands import largest_force
from ..transport.errors import BandError
from .approx_neb import HELD
from .vasp_checks import JudgedBand
from .vasp_settings import first_difference, mesh_text, read_incar


@dataclass
class JudgedApproxBand(JudgedBand):
    """Images that relaxed each by itself, with two atoms held, on their way to barriers.

    The force on a held atom is what holds it and says nothing of convergence.
    """

    folder: Path = field(default_factory=Path)

    def _find_forces(self, tags: dict[str, Any], warnings: list[str]) -> None:
        from pymatgen.io.vasp import Poscar

        for number in range(1, len(self.outputs) - 1):
            try:
                image = Poscar.from_file(self.folder / f"{number:02d}" / "POSCAR", check_for_potcar=False).structure
            except (OSError, ValueError, IndexError) as error:
                raise BandError(
                    f"Image {number:02d} has no POSCAR that can be read, which says which atoms were held; bring the "
                    "folder back with its POSCAR files."
                ) from error
            free = np.array(image.site_properties.get(HELD, np.ones((len(image), 3))), dtype=bool)
            self.image_forces[number] = largest_force(np.where(free[self.order], self.forces[number], 0.0))
        warnings.append(
            "ApproxNEB: a single ion in the host without the others, held in each image; its path did not relax."
        )

    def _check_same_settings(self, folder: Path, tags: dict[str, Any], endpoint_folders: Sequence[Path]) -> None:
        """Every image has inputs of its own; energies of two settings are not to be subtracted."""
        places = [self.folder / f"{number:02d}" for number in range(len(self.outputs))]
        settings = [read_incar(place) or output.tags for place, output in zip(places, self.outputs, strict=True)]
        meshes = [mesh_text(place) for place in places]
        for number, (own, mesh) in enumerate(zip(settings, meshes, strict=True)):
            difference = first_difference(settings[0], own) if own and settings[0] else None
            if difference is None and mesh is not None and meshes[0] is not None and mesh != meshes[0]:
                difference = ("the k-points", meshes[0], mesh)
            if difference is not None:
                what, first, its = difference
                raise BandError(
                    f"Image {number:02d} was computed with other settings than image 00 ({what}: {its} and {first}), "
                    "so their energies cannot be subtracted; compute all alike."
                )

    def _say_who_climbed(self, warnings: list[str]) -> None:
        """No image climbs in ApproxNEB, and the method's own warning says what that means."""

    def _moved_endpoints(self, folder: Path) -> list[str]:
        """End points relax in the band's own folders; that they move is no fault."""
        return []
