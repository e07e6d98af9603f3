"""A VASP nudged elastic band that was run elsewhere: from its folder to barriers, or to the reason why there are none.

The folder is the one that :func:`.vasp_handoff.write_handoff` wrote, brought back, or any other of VASP's layout: image
folders ``00`` to ``NN``, end points computed in the first and last of them or in folders of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..transport.errors import CandidateError, Reason
from .approx_neb_results import JudgedApproxBand
from .folders import is_approx_neb, read_manifest
from .vasp_checks import ComputedBand, JudgedBand
from .vasp_handoff import ENDPOINT_FOLDERS
from .vasp_images import ImageOutput, read_image
from .vasp_settings import functional_name, hubbard_u_eV, mesh_text, read_incar

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGEST_LIMIT_EV_PER_A = 0.1
"""A band that VASP stopped at larger forces than this has no barrier, whatever its EDIFFG."""

_ENDPOINTS = (ENDPOINT_FOLDERS, ("start", "end"), ("initial", "final"))


@dataclass(frozen=True)
class VaspBand(ComputedBand):
    """A VASP band as its folder tells it; ``tags`` are the INCAR of the band.

    Attributes
    ----------
    kpoints
        Mesh of k-points in words.
    """

    kpoints: str | None

    engine: ClassVar[str] = "vasp"

    @property
    def functional(self) -> str | None:
        """Name of the functional; None where only the potentials tell."""
        return functional_name(self.tags)

    @property
    def cutoff_eV(self) -> float | None:
        """Kinetic energy cutoff."""
        return float(self.tags["ENCUT"]) if "ENCUT" in self.tags else None

    def hubbard_u_eV(self, species: list[str]) -> dict[str, float]:
        """U by element, for species in the order of the POSCAR."""
        return hubbard_u_eV(self.tags, species)

    @property
    def structure(self) -> Structure | None:
        """Atoms of the first image that has any, those of a POSCAR where no output has."""
        from pymatgen.io.vasp import Poscar

        for output in self.outputs:
            if output.structure is not None:
                return output.structure
        for file in sorted(self.folder.glob("[0-9][0-9]/POSCAR")):
            try:
                return Poscar.from_file(file, check_for_potcar=False).structure
            except (ValueError, IndexError, OSError):
                continue
        return None


def read_band(folder: Path, ion: str) -> VaspBand:
    """Read a VASP band.

    Parameters
    ----------
    folder
        The folder that holds ``00``, ``01`` and so on.
    ion
        Element symbol of the migrating ion.

    Raises
    ------
    CandidateError
        The folder holds no results of a band (reason ``NO_RESULTS``).
    """
    manifest = read_manifest(folder)
    numbers = sorted(int(place.name) for place in folder.glob("[0-9][0-9]") if place.is_dir())
    if not numbers:
        raise CandidateError(
            f"{folder} has no image folders 00, 01, ...; name the folder in which VASP ran the band.", Reason.NO_RESULTS
        )
    tags = read_incar(folder) or read_image(folder / "01").tags
    expected = _images_expected(tags, manifest, numbers)
    outputs = [read_image(folder / f"{number:02d}") for number in range(expected)]
    endpoint_folders = []
    for number, which in ((0, 0), (expected - 1, 1)):
        outputs[number], place = _endpoint(folder, outputs[number], which)
        endpoint_folders.append(place)
    if all(output.file is None for output in outputs):
        raise CandidateError(
            f"{folder} holds no VASP results: no image has an OUTCAR or vasprun.xml; run VASP there, then bring it "
            "back.",
            Reason.NO_RESULTS,
        )
    warnings = _changed_inputs(folder, manifest)
    limit = _force_limit(tags, warnings)
    judged: JudgedBand = JudgedBand(outputs, limit, [None] * expected)
    if is_approx_neb(manifest):
        judged = JudgedApproxBand(outputs, limit, [None] * expected, folder=folder)
    found = judged.outcome(folder, ion, tags, endpoint_folders, warnings)
    mesh = mesh_text(folder / "00" if is_approx_neb(manifest) else folder)
    return VaspBand(folder=folder, manifest=manifest, tags=tags, kpoints=mesh, **found)


def _images_expected(tags: dict[str, Any], manifest: dict[str, Any], numbers: list[int]) -> int:
    """How many images the band has, end points included."""
    if tags.get("IMAGES"):
        return int(tags["IMAGES"]) + 2
    if manifest:
        return int(manifest["result"]["images"]) + 2
    return max(numbers) + 1


def _endpoint(folder: Path, inside: ImageOutput, which: int) -> tuple[ImageOutput, Path]:
    """Output of the first (0) or last (1) end point, and the folder of its inputs.

    The image folder's own counts where it is whole; otherwise that of a folder in which the end point was relaxed.
    """
    places = [folder / names[which] for names in _ENDPOINTS if (folder / names[which]).is_dir()]
    found = [inside, *(read_image(place) for place in places)]
    best = max(found, key=lambda output: (output.energy_eV is not None, output.finished))
    return best, places[0] if places else folder


def _force_limit(tags: dict[str, Any], warnings: list[str]) -> float:
    """Largest force that may be left, in eV/Angstrom."""
    given = float(tags.get("EDIFFG") or 0.0)
    if given < 0 and -given <= LARGEST_LIMIT_EV_PER_A:
        return -given
    warnings.append(
        f"VASP was told to stop at EDIFFG = {given:g}; a barrier counts when no force is larger than "
        f"{LARGEST_LIMIT_EV_PER_A:g} eV/Å."
    )
    return LARGEST_LIMIT_EV_PER_A


def _changed_inputs(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Which of the inputs that set the energy are not those that the hand-off wrote."""
    written = manifest.get("result", {}).get("hashes", {})
    # one set of inputs for a band, one an image for ApproxNEB
    places = sorted({name[:3] for name in written if name[:2].isdigit()}) if is_approx_neb(manifest) else [""]
    changed = [
        name
        for name in (place + file for place in places for file in ("INCAR", "KPOINTS"))
        if name in written
        and (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() != written[name]
    ]
    return [f"{' and '.join(changed)} were changed since the hand-off wrote the inputs."] if changed else []
