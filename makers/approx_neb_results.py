"""ApproxNEB that was run elsewhere: which forces must vanish where atoms are held."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.bands import largest_force
from ..transport.errors import BandError
from .approx_neb import HELD
from .vasp_checks import JudgedBand


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

    def _say_who_climbed(self, warnings: list[str]) -> None:
        """No image climbs in ApproxNEB, and the method's own warning says what that means."""

    def _moved_endpoints(self, folder: Path) -> list[str]:
        """End points relax in the band's own folders; that they move is no fault."""
        return []
