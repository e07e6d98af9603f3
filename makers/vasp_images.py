"""What VASP wrote for one image: positions, energy and forces of its last complete ionic step, and how it ended.

pymatgen reads ``vasprun.xml``, also one that was cut off; ASE reads ``OUTCAR``, which is what people keep. pymatgen's
own reader of OUTCAR wants a whole file, and the first energy that it finds in a cut one is that of an SCF step.

Two builds of VASP mean two things by the forces of an image. Its own band code prints the force of DFT as
``TOTAL-FORCE`` and adds the chain's below (``CHAIN + TOTAL``). With the VTST code ``TOTAL-FORCE`` is what moves the
image, springs in place of the force along the band, whose true value is the second number of ``NEB: projections on to
tangent (spring, REAL)`` (G. Henkelman, VTST forum). Across the band the two agree.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monty.io import zopen
from monty.os.path import zpath

if TYPE_CHECKING:
    from pymatgen.core import Structure

STEP = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
"""Heads the energies of an ionic step in OUTCAR; VASP spells it so."""

SCF_REACHED = "aborting loop because EDIFF is reached"
FOOTER = "General timing and accounting informations for this job"
_REAL_FORCE = re.compile(r"NEB: projections on to tangent \(spring, REAL\)\s+\S+\s+([-\d.]+)")
_ELAPSED = re.compile(r"Elapsed time \(sec\):\s+([\d.]+)")


@dataclass(frozen=True)
class ImageOutput:
    """The output of one image or end point.

    Attributes
    ----------
    file
        The file that was read, or None where the folder holds no output.
    structure
        Atoms at the last complete ionic step; None before the first.
    energy_eV
        Their total energy, smearing extrapolated to zero.
    forces_eV_per_A
        Forces as VASP prints them, shape (atoms, 3); see above.
    steps
        Complete ionic steps.
    electronically_converged
        Whether the last of them reached EDIFF; None before the first.
    finished
        Whether VASP came to its end.
    along_band_eV_per_A
        True force along the tangent, where the VTST code printed it.
    tags
        INCAR tags that the file repeats.
    seconds
        Wall time, 0 where it is not said.
    problem
        Why nothing, or not all, could be read: half a sentence.
    """

    file: Path | None = None
    structure: Structure | None = None
    energy_eV: float | None = None
    forces_eV_per_A: np.ndarray | None = None
    steps: int = 0
    electronically_converged: bool | None = None
    finished: bool = False
    along_band_eV_per_A: float | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str | None = None


def read_image(folder: Path) -> ImageOutput:
    """Read the output of one image.

    The whole file of the two wins, ``vasprun.xml`` first; where both were cut off, the one with more ionic steps.

    Parameters
    ----------
    folder
        The image's folder; files in it may be compressed.
    """
    readers: tuple[tuple[str, Callable[[Path], ImageOutput]], ...] = (
        ("vasprun.xml", _read_vasprun),
        ("OUTCAR", _read_outcar),
    )
    found = [read(path) for name, read in readers if (path := Path(zpath(str(folder / name)))).is_file()]
    if not found:
        return ImageOutput(problem="no OUTCAR and no vasprun.xml")
    best = max(found, key=lambda output: (output.finished and output.steps > 0, output.steps))
    outcar = next(
        (output for output in found if output.file is not None and output.file.name.startswith("OUTCAR")), None
    )
    if outcar is None or outcar is best:
        return best
    # These two stand in OUTCAR alone.
    told = {"along_band_eV_per_A": outcar.along_band_eV_per_A, "seconds": outcar.seconds}
    return ImageOutput(**{**vars(best), **told})


def _read_vasprun(file: Path) -> ImageOutput:
    from lxml.etree import XMLSyntaxError
    from pymatgen.io.vasp import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run = Vasprun(file, parse_dos=False, parse_eigen=False, parse_potcar_file=False, exception_on_bad_xml=False)
        except (
            XMLSyntaxError,
            AttributeError,
            KeyError,
            IndexError,
            ValueError,
            TypeError,
            OSError,
            EOFError,
        ):
            # What pymatgen says of a file that ends before its first ionic step is about its own insides.
            return ImageOutput(file, problem=f"{file.name} breaks off before its first ionic step")
        finished = _tail(file).rstrip().endswith("</modeling>")
        steps = [step for step in run.ionic_steps if {"forces", "structure", "e_0_energy"} <= step.keys()]
        tags = dict(run.incar)
        problem = None if finished else f"{file.name} was cut off"
        if not steps:
            return ImageOutput(file, finished=finished, tags=tags, problem=problem or f"{file.name} has no ionic step")
        last = steps[-1]
        whole = ImageOutput(
            file=file,
            structure=last["structure"],
            energy_eV=_energy_eV(last),
            forces_eV_per_A=np.array(last["forces"], dtype=float),
            steps=len(steps),
            electronically_converged=len(last["electronic_steps"]) < int(run.parameters.get("NELM", 60)),
            finished=finished,
            tags=tags,
            problem=problem,
        )
    return _finite(whole)


def _energy_eV(step: dict[str, Any]) -> float:
    """Energy with sigma to 0; some VASP versions write that of an ionic step wrong, and that of its last SCF right."""
    scf = step["electronic_steps"][-1] if step["electronic_steps"] else {}
    if {"e_0_energy", "e_fr_energy"} <= scf.keys() and "e_fr_energy" in step:
        return float(step["e_fr_energy"] + scf["e_0_energy"] - scf["e_fr_energy"])
    return float(step["e_0_energy"])


def _read_outcar(file: Path) -> ImageOutput:
    from ase.io import ParseError
    from ase.io.vasp import read_vasp_out
    from pymatgen.core import Structure

    with zopen(file, "rt", encoding="utf-8", errors="replace") as handle:
        text = str(handle.read())
    finished = FOOTER in text
    problem = None if finished else f"{file.name} was cut off"
    try:
        stream = io.StringIO(_complete_steps(text))
        stream.name = str(file)  # ASE asks a file for its name
        frames: Any = read_vasp_out(stream, index=slice(None))
    except (ParseError, StopIteration, ValueError, IndexError, KeyError, AssertionError) as error:
        return ImageOutput(file, finished=finished, problem=f"{file.name} cannot be read ({error or 'no ionic step'})")
    frames = [frame for frame in frames if frame.calc is not None and "forces" in frame.calc.results]
    if not frames:
        return ImageOutput(file, finished=finished, problem=problem or f"{file.name} has no ionic step")
    last = frames[-1]
    electronic = text.split(STEP)[len(frames) - 1]  # everything between the step before and this one
    projections = _REAL_FORCE.findall(text)
    elapsed = _ELAPSED.findall(text)
    whole = ImageOutput(
        file=file,
        structure=Structure(last.cell.array, last.get_chemical_symbols(), last.positions, coords_are_cartesian=True),
        energy_eV=float(last.get_potential_energy()),
        forces_eV_per_A=np.array(last.get_forces(apply_constraint=False)),
        steps=len(frames),
        electronically_converged=SCF_REACHED in electronic,
        finished=finished,
        along_band_eV_per_A=float(projections[len(frames) - 1]) if len(projections) >= len(frames) else None,
        seconds=float(elapsed[-1]) if elapsed else 0.0,
        problem=problem,
    )
    return _finite(whole)


def _complete_steps(text: str) -> str:
    """An OUTCAR up to the end of its last ionic step whose energies are there."""
    at = text.rfind(STEP)
    if at < 0:
        raise ValueError("no ionic step")
    energy = text.find("energy(sigma->0)", at)
    end = text.find("\n", energy)
    if energy >= 0 and end >= 0:
        return text[: end + 1]
    return _complete_steps(text[:at])


def _finite(output: ImageOutput) -> ImageOutput:
    """The output, without energy and forces if one of them is no number."""
    if np.isfinite(output.energy_eV) and np.isfinite(output.forces_eV_per_A).all():  # type: ignore[arg-type]
        return output
    broken = {"energy_eV": None, "forces_eV_per_A": None, "electronically_converged": False}
    name = output.file.name if output.file is not None else "output"
    return ImageOutput(**{**vars(output), **broken, "problem": f"{name} holds an energy or force that is no number"})


def _tail(file: Path) -> str:
    """The last of a file that may be compressed."""
    with zopen(file, "rt", encoding="utf-8", errors="replace") as stream:
        return str(stream.read())[-200:]
