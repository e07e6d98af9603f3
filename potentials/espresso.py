"""Density functional theory by Quantum ESPRESSO's ``pw.x`` as a potential: energies and forces of single images.

Inputs and outputs are written and read by ASE. Every evaluation begins from superposed atoms and stands for itself, so
that its answer does not depend on what was computed before, and is kept in a folder: what was answered once is never
computed again, whatever band asks for it and however often a run was killed. A density of an image before would save
part of the self-consistency; after steps of 0.02 Å it was measured to save 5 to 15 %.

The program is ``pw.x`` on the ``PATH``, or what ``HOPFLOW_PW_COMMAND`` says (``mpirun -np 4 pw.x``);
``HOPFLOW_PW_PROCESSES`` images run side by side, one unless it says otherwise.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.units import Rydberg

from ..transport.checkpoints import content_key, load_checkpoint, save_checkpoint
from ..transport.errors import CandidateError, HopflowError, Reason
from .pseudopotentials import Pseudopotential, find_pseudopotentials

COMMAND, PROCESSES = "HOPFLOW_PW_COMMAND", "HOPFLOW_PW_PROCESSES"
INPUT, OUTPUT = "espresso.pwi", "espresso.pwo"
_FORMAT = 1
_OPEN_SHELL_MOMENT, _OTHER_MOMENT = 5.0, 0.6

LADDER: tuple[dict[str, Any], ...] = (
    {"mixing_beta": 0.5},
    {"mixing_beta": 0.2, "mixing_mode": "local-TF", "mixing_ndim": 12},
    {"mixing_beta": 0.1, "mixing_mode": "local-TF", "mixing_ndim": 12, "diagonalization": "cg"},
)
"""How the electrons are brought to convergence, one way after the other; what converges is the same."""


@dataclass(frozen=True)
class EspressoSettings:
    """What the energies of ``pw.x`` depend on.

    Attributes
    ----------
    functional
        ``pbe`` or ``pbesol``; the pseudopotentials must be made with it.
    pseudopotentials
        Name of a set, or a folder with one UPF file for each element.
    cutoff_eV
        Kinetic energy cutoff of the wavefunctions.
    kpoint_spacing_per_A
        Largest distance of k-points, 2 pi included. Even numbers of points are shifted by half a step, so that time
        reversal halves them; odd ones hold the zone centre.
    energy_tolerance_eV_per_atom
        Estimated error of the energy at which the electrons count as converged.
    charge_e
        Charge of the cell in units of e, against a uniform background.
    spin_polarised
        Two spin densities; they start from the images' moments, or ferromagnetic where these have none.
    smearing_eV
        Gaussian smearing of the occupations; None fills the lowest states, which needs a gap.
    max_iterations
        Iterations of the electrons before the next way is tried.
    """

    functional: Literal["pbe", "pbesol"] = "pbe"
    pseudopotentials: str = "pseudodojo-pbe"
    cutoff_eV: float = 1090.0
    kpoint_spacing_per_A: float = 0.5
    energy_tolerance_eV_per_atom: float = 1e-6
    charge_e: int = 0
    spin_polarised: bool = False
    smearing_eV: float | None = 0.1
    max_iterations: int = 80


@dataclass(frozen=True)
class Evaluation:
    """What one run of the program gave.

    Attributes
    ----------
    energy_eV
        Total energy; with smearing the free energy, of which the forces are the gradient.
    forces_eV_per_A
        Shape (atoms, 3).
    iterations
        Of the electrons, those of ways that failed included.
    seconds
        Wall time of the program.
    version
        Of the program.
    """

    energy_eV: float
    forces_eV_per_A: np.ndarray
    iterations: int
    seconds: float
    version: str


class EspressoPotential:
    """``pw.x`` behind the :class:`hopflow.transport.energies.Potential` protocol.

    Parameters
    ----------
    elements
        Element symbols of the images.
    settings
        What the energies depend on.
    folder
        Where answers are kept; a folder may serve any number of bands and settings.

    Attributes
    ----------
    pseudopotentials
        Of each element.
    weights_sha256
        Over the pseudopotentials' files.
    computed, found
        Images that the program ran on, and those whose answers were kept already.
    version
        Of the program, once it has answered; empty before.

    Raises
    ------
    CandidateError
        The program is not there (``ENGINE_MISSING``), or an element has no pseudopotential
        (``PSEUDOPOTENTIAL_MISSING``).
    """

    name = "espresso"

    def __init__(self, elements: Iterable[str], settings: EspressoSettings, folder: Path) -> None:
        self.settings, self.folder = settings, Path(folder)
        self.command = pw_command()
        self.pseudopotentials: dict[str, Pseudopotential] = find_pseudopotentials(
            settings.pseudopotentials, elements, settings.functional
        )
        lines = [f"{element} {each.sha256}\n" for element, each in sorted(self.pseudopotentials.items())]
        self.weights_sha256 = sha256("".join(lines).encode()).hexdigest()
        self.method = (
            f"{settings.functional.upper()} by Quantum ESPRESSO pw.x, pseudopotentials {settings.pseudopotentials}, "
            f"{settings.cutoff_eV:g} eV, k-points {settings.kpoint_spacing_per_A:g} 1/Å apart"
        )
        self.computed = self.found = 0
        self.version = ""

    def valence_electrons(self, image: Atoms) -> float:
        """Electrons of a cell that is charged as the settings say."""
        own = sum(self.pseudopotentials[symbol].valence for symbol in image.get_chemical_symbols())
        return own - self.settings.charge_e

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        """Energies in eV, shape (images,); see :meth:`energies_and_forces`."""
        return self.energies_and_forces(images)[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV, shape (images,), and forces in eV/Angstrom, one (atoms, 3) array an image.

        Raises
        ------
        CandidateError
            The electrons of an image do not converge (``ELECTRONS_NOT_CONVERGED``), or the program ends with an error
            (``ENGINE_FAILED``); answers of the other images are kept.
        """
        from .runtime import check_finite, check_images

        check_images(images, frozenset(self.pseudopotentials), self.name)
        with ThreadPoolExecutor(max_workers=processes()) as pool:
            running = [pool.submit(self.evaluate, image) for image in images]
            # all are waited for, so that the failure of one costs no other its answer
            faults = [fault for each in running if (fault := each.exception()) is not None]
        if faults:
            raise faults[0]
        answers = [each.result() for each in running]
        energies = np.array([each.energy_eV for each in answers])
        forces = [each.forces_eV_per_A for each in answers]
        check_finite(energies, forces, self.name)
        return energies, forces

    def evaluate(self, image: Atoms) -> Evaluation:
        """Answer for one image, from what is kept or by running the program."""
        key = self.key(image)
        place = self.place(image)
        kept = load_checkpoint(place / "answer.npz", key)
        if kept is None:
            kept = self._run(image, place)
            save_checkpoint(place / "answer.npz", key, kept)
            self.computed += 1
        else:
            self.found += 1
        self.version = str(kept["version"])
        return Evaluation(
            float(kept["energy_eV"]),
            kept["forces_eV_per_A"],
            int(kept["iterations"]),
            float(kept["seconds"]),
            self.version,
        )

    def key(self, image: Atoms) -> str:
        """What an answer depends on, as 64 hexadecimal digits."""
        return content_key(
            format=_FORMAT,
            settings={**asdict(self.settings), "pseudopotentials": self.weights_sha256},
            cell=image.cell.array,
            species=image.get_chemical_symbols(),
            positions=image.positions,
            moments=image.get_initial_magnetic_moments(),
        )

    def place(self, image: Atoms) -> Path:
        """Folder that keeps the answer for an image, with the program's input and output."""
        key = self.key(image)
        return self.folder / key[:2] / key

    def write_input(self, image: Atoms, file: Path, electrons: dict[str, Any]) -> None:
        """Write the program's input by ASE.

        Parameters
        ----------
        image
            The atoms.
        file
            The input.
        electrons
            More of the ``ELECTRONS`` section: one way of :data:`LADDER`.
        """
        from ase.io import write

        settings, atoms = self.settings, image.copy()
        system: dict[str, Any] = {
            "ecutwfc": settings.cutoff_eV / Rydberg,
            "tot_charge": settings.charge_e,
            # the same k-points for every image, whatever symmetry it happens to have
            "nosym": True,
        }
        if settings.smearing_eV is None:
            system["occupations"] = "fixed"
        else:
            system |= {"occupations": "smearing", "smearing": "gaussian", "degauss": settings.smearing_eV / Rydberg}
        if settings.spin_polarised:
            system["nspin"] = 2
            if not atoms.get_initial_magnetic_moments().any():
                atoms.set_initial_magnetic_moments(starting_moments(atoms.get_chemical_symbols()))
        mesh = kpoint_mesh(atoms, settings.kpoint_spacing_per_A)
        data = {
            "control": {
                "calculation": "scf",
                "prefix": "image",
                "outdir": "scratch",
                "disk_io": "none",
                "tprnfor": True,
                "pseudo_dir": str(next(iter(self.pseudopotentials.values())).file.parent),
            },
            "system": system,
            "electrons": {
                "conv_thr": settings.energy_tolerance_eV_per_atom * len(atoms) / Rydberg,
                "electron_maxstep": settings.max_iterations,
                **electrons,
            },
        }
        write(
            file,
            atoms,
            format="espresso-in",
            input_data=data,
            pseudopotentials={element: each.file.name for element, each in self.pseudopotentials.items()},
            kpts=mesh,
            koffset=[int(number % 2 == 0) for number in mesh],
        )

    def _run(self, image: Atoms, place: Path) -> dict[str, np.ndarray]:
        """Run the program, one way of convergence after the other, and keep input and output beside the answer."""
        place.parent.mkdir(parents=True, exist_ok=True)
        iterations, seconds = 0, 0.0
        with tempfile.TemporaryDirectory(prefix=".running-", dir=place.parent) as work:
            for way in LADDER:
                self.write_input(image, Path(work) / INPUT, way)
                text, code = run_program(self.command, Path(work))
                iterations += len(re.findall(r"iteration #", text))
                seconds += wall_seconds(text)
                place.mkdir(exist_ok=True)
                for name in (INPUT, OUTPUT):
                    shutil.copyfile(Path(work) / name, place / name)
                if converged(text):
                    energy_eV, forces = read_answer(Path(work) / OUTPUT)
                    return {
                        "energy_eV": np.array(energy_eV),
                        "forces_eV_per_A": forces,
                        "iterations": np.array(iterations),
                        "seconds": np.array(seconds),
                        "version": np.array(program_version(text)),
                    }
                fault = program_error(text)
                if fault is not None or code < 0 or not _gave_up(text):
                    how = fault or (f"signal {-code}" if code < 0 else f"exit code {code} and no error of its own")
                    raise CandidateError(
                        f"pw.x ended with an error on {image.get_chemical_formula()} ({how}); its output is "
                        f"{place / OUTPUT}.",
                        Reason.ENGINE_FAILED,
                    )
        raise CandidateError(
            f"The electrons of {image.get_chemical_formula()} did not converge in {len(LADDER)} ways of mixing, each "
            f"of {self.settings.max_iterations} iterations; raise max_iterations, or give a metal a smearing "
            f"({place / OUTPUT}).",
            Reason.ELECTRONS_NOT_CONVERGED,
        )


def pw_command() -> list[str]:
    """How the program is started.

    Raises
    ------
    CandidateError
        Its first word is no program here (reason ``ENGINE_MISSING``).
    """
    command = shlex.split(os.environ.get(COMMAND) or "pw.x")
    if not command or shutil.which(command[0]) is None:
        raise CandidateError(
            f"Quantum ESPRESSO is not here: there is no program {' '.join(command) or 'pw.x'}; install it "
            f"(Debian: apt install quantum-espresso), or set {COMMAND} to the command that starts pw.x.",
            Reason.ENGINE_MISSING,
        )
    return command


def processes() -> int:
    """How many images run side by side."""
    text = os.environ.get(PROCESSES) or "1"
    if not text.isdigit() or int(text) < 1:
        raise HopflowError(f"{PROCESSES} is {text!r}; set it to the number of images that may run side by side.")
    return int(text)


def run_program(command: Sequence[str], folder: Path) -> tuple[str, int]:
    """Run ``pw.x`` in a folder; what it wrote, and its exit code (negative: the signal that ended it)."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.run(
            [*command, "-in", INPUT],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return (folder / OUTPUT).read_text(errors="replace"), process.returncode


def kpoint_mesh(atoms: Atoms, spacing_per_A: float) -> tuple[int, int, int]:
    """Numbers of k-points along the reciprocal axes, no two of them farther apart than the spacing (2 pi included)."""
    lengths = 2.0 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    # a length that is a multiple of the spacing up to rounding needs no further point
    first, second, third = (max(1, int(np.ceil(length / spacing_per_A - 1e-6))) for length in lengths)
    return first, second, third


def starting_moments(symbols: Sequence[str]) -> list[float]:
    """Moments in Bohr magnetons from which a spin density starts: ferromagnetic, large on open shells."""
    from pymatgen.core import Element

    def of(symbol: str) -> float:
        element = Element(symbol)
        open_shell = element.is_transition_metal or element.is_lanthanoid or element.is_actinoid
        return _OPEN_SHELL_MOMENT if open_shell else _OTHER_MOMENT

    return [of(symbol) for symbol in symbols]


def read_answer(file: Path) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/Angstrom of the last step of an output of ``pw.x``."""
    from ase.io import read

    atoms: Any = read(file, index=-1, format="espresso-out")
    return float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=float)


def converged(text: str) -> bool:
    """Whether an output is that of a run that came to its end with its electrons converged, and has forces."""
    return "convergence has been achieved" in text and "Forces acting on atoms" in text and "JOB DONE" in text


def _gave_up(text: str) -> bool:
    return "convergence NOT achieved" in text


def program_error(text: str) -> str | None:
    """What an output says of an error, in one line; None where it says nothing of one."""
    found = re.search(r"%{20,}\s*\n\s*(Error in routine.*?)\n\s*%{20,}", text, re.DOTALL)
    return None if found is None else re.sub(r"\s+", " ", found[1]).strip()


def program_version(text: str) -> str:
    """Version of the program that wrote an output; empty where it is not said."""
    found = re.search(r"Program PWSCF v\.(\S+)", text)
    return "" if found is None else found[1]


def wall_seconds(text: str) -> float:
    """Wall time of a whole run, as its last lines say; 0 where they are missing."""
    found = re.search(r"PWSCF\s*:.*CPU\s+(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:([\d.]+)s)?\s*WALL", text)
    if found is None:
        return 0.0
    hours, minutes, seconds = (float(part) if part else 0.0 for part in found.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds
