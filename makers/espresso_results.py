"""A band that Quantum ESPRESSO's ``pw.x`` has computed: from its folder to barriers, or to why there are none.

The folder is the one that the dft stage leaves (``engine: espresso``): image folders ``00`` to ``NN``, each with the
input and output of ``pw.x`` at the image's last positions, and ``handoff.json``. Folders of ``neb.x`` are not read.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from monty.io import zopen
from monty.os.path import zpath

from ..potentials.espresso import INPUT, OUTPUT, converged, wall_seconds
from ..transport.errors import BandError, CandidateError, Reason
from .folders import read_manifest
from .vasp_checks import ComputedBand, JudgedBand
from .vasp_images import ImageOutput
from .vasp_results import LARGEST_LIMIT_EV_PER_A

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure


@dataclass
class JudgedEspressoBand(JudgedBand):
    """Outputs of ``pw.x`` on their way to barriers."""

    more_electrons: ClassVar[str] = "did not converge; raise electron_maxstep or change the mixing, and"
    more_steps: ClassVar[str] = "go on from its last positions"

    manifest: dict[str, Any] = field(default_factory=dict)

    def _climbing(self, tags: dict[str, Any]) -> int | None:
        return self.manifest.get("result", {}).get("climbing_image")

    def _check_same_settings(self, folder: Path, tags: dict[str, Any], endpoint_folders: Sequence[Path]) -> None:
        """Energies of two settings are not to be subtracted."""
        first: dict[str, Any] = {}
        for number in range(len(self.outputs)):
            own = read_settings(folder / f"{number:02d}")
            first = first or own
            different = sorted(key for key in first.keys() & own.keys() if first[key] != own[key]) if own else []
            if different:
                key = different[0]
                raise BandError(
                    f"Image {number:02d} was computed with other settings than the band ({key}: {own[key]} and "
                    f"{first[key]}), so their energies cannot be subtracted; compute all alike."
                )


@dataclass(frozen=True)
class EspressoBand(ComputedBand):
    """A band of ``pw.x`` as its folder tells it; ``tags`` are settings of the first image's input."""

    engine: ClassVar[str] = "espresso"

    @property
    def functional(self) -> str | None:
        """Name of the functional; None where only the pseudopotentials tell."""
        name = self.manifest.get("settings", {}).get("functional")
        return None if name is None else name.upper().replace("SOL", "sol")

    @property
    def cutoff_eV(self) -> float | None:
        """Kinetic energy cutoff."""
        from ase.units import Rydberg

        cutoff = self.tags.get("ecutwfc")
        return None if cutoff is None else round(float(cutoff) * Rydberg, 6)

    def hubbard_u_eV(self, species: list[str]) -> dict[str, float]:
        """No U: the stage computes plain functionals."""
        return {}

    @property
    def kpoints(self) -> str | None:
        """Mesh of k-points as the input has it."""
        return self.tags.get("k_points")

    @property
    def structure(self) -> Structure | None:
        """Atoms of the first image that has any."""
        return next((each.structure for each in self.outputs if each.structure is not None), None)


def is_espresso(folder: Path) -> bool:
    """Whether a folder is one of ``pw.x``."""
    if any(Path(zpath(str(place / OUTPUT))).is_file() for place in folder.glob("[0-9][0-9]")):
        return True
    return read_manifest(folder).get("engine") == "espresso"


def read_espresso_band(folder: Path, ion: str) -> EspressoBand:
    """Read a band of ``pw.x``.

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
    expected = manifest["result"]["images"] + 2 if manifest else max(numbers, default=-1) + 1
    outputs = [read_pw_output(folder / f"{number:02d}") for number in range(expected)]
    if all(output.file is None for output in outputs):
        raise CandidateError(
            f"{folder} holds no results: no image has an {OUTPUT}; run the band, then bring its folder back.",
            Reason.NO_RESULTS,
        )
    warnings: list[str] = []
    given = manifest.get("force_limit_eV_per_A")
    if given is None:
        warnings.append(
            "The folder does not say at which force the band was to stop; a barrier counts when no force is larger "
            f"than {LARGEST_LIMIT_EV_PER_A:g} eV/Å."
        )
    limit = min(given or LARGEST_LIMIT_EV_PER_A, LARGEST_LIMIT_EV_PER_A)
    judged = JudgedEspressoBand(outputs, limit, [None] * expected, manifest=manifest)
    found = judged.outcome(folder, ion, {}, [folder, folder], warnings)
    tags = next((own for n in range(expected) if (own := read_settings(folder / f"{n:02d}"))), {})
    return EspressoBand(folder=folder, manifest=manifest, tags=tags, **found)


def read_settings(folder: Path) -> dict[str, Any]:
    """What the energy of an image depends on, from its input: section SYSTEM, k-points and pseudopotentials."""
    from ase.io.espresso import read_fortran_namelist

    file = Path(zpath(str(folder / INPUT)))
    if not file.is_file():
        return {}
    with zopen(file, "rt", encoding="utf-8") as handle:
        text = str(handle.read())
    sections, cards = read_fortran_namelist(io.StringIO(text))
    found: dict[str, Any] = {key: value for key, value in sections["system"].items() if key not in ("nat", "ntyp")}
    for number, line in enumerate(cards):
        words = line.split()
        if words[:1] == ["K_POINTS"]:
            below = cards[number + 1] if words[1:] == ["automatic"] else ""
            found["k_points"] = " ".join([*words[1:], *below.split()])
        elif len(words) == 3 and words[2].lower().endswith(".upf"):
            found[f"pseudopotential of {words[0]}"] = words[2]
    return found


def read_pw_output(folder: Path) -> ImageOutput:
    """Read the output of one image; what is wrong with it is in its ``problem``.

    Parameters
    ----------
    folder
        The image's folder; the file may be compressed.
    """
    from ase.io import read
    from pymatgen.io.ase import AseAtomsAdaptor

    file = Path(zpath(str(folder / OUTPUT)))
    if not file.is_file():
        return ImageOutput(problem=f"no {OUTPUT}")
    with zopen(file, "rt", encoding="utf-8", errors="replace") as handle:
        text = str(handle.read())
    finished = "JOB DONE" in text
    problem = None if finished else f"{file.name} was cut off"
    steps = text.count("Forces acting on atoms")
    if steps == 0 or "\n!" not in text:
        return ImageOutput(file, finished=finished, problem=problem or f"{file.name} has no energy with forces")
    try:
        atoms: Any = read(io.StringIO(text), index=-1, format="espresso-out")
        energy_eV, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=float)
    except Exception as error:  # noqa: BLE001  ASE's reader fails in many ways on a file that was cut off
        return ImageOutput(file, finished=finished, problem=f"{file.name} cannot be read ({error or 'no forces'})")
    if not (np.isfinite(energy_eV) and np.isfinite(forces).all()):
        return ImageOutput(file, steps=steps, finished=finished, problem=f"{file.name} holds what is no number")
    return ImageOutput(
        file=file,
        structure=AseAtomsAdaptor.get_structure(atoms),
        energy_eV=energy_eV,
        forces_eV_per_A=forces,
        steps=steps,
        electronically_converged=converged(text),
        finished=finished,
        seconds=wall_seconds(text),
        problem=problem,
    )
