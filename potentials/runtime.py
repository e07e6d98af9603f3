"""What every machine-learned potential needs around a call: device, precision, threads, checks of what comes out."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from ..transport.errors import CandidateError, HopflowError, NonFiniteEnergyError, Reason
from .entries import PotentialEntry, Precision
from .weights import WrongWeightsError

if TYPE_CHECKING:
    from ..transport.energies import Potential

REFERENCE_TOLERANCE_EV_PER_ATOM: dict[str, float] = {"float64": 1e-6, "float32": 2e-5}
"""How far a model may be from the registry's reference energy: rounding of its precision, no more."""

MAX_BATCH_IMAGES = 64
MAX_BATCH_ATOMS = 4096

# mallopt(3): how many blocks may be mapped apart, and how much free memory at the top is given back
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1

# torch's default precision belongs to the process, so calls of models of different precision take turns.
_DTYPE_LOCK = threading.RLock()


def limit_threads(n: int = 1) -> None:
    """Give torch, BLAS and OpenMP ``n`` threads in this process and in those that it starts.

    One thread for each process is fastest when a worker runs on every core: with both cores of a machine contended,
    two OpenMP threads were measured three to five times slower than one.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(n)
    torch.set_num_threads(n)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, instead of giving it back after every evaluation.

    The GNU allocator maps each large array anew and returns it when it is freed; a MACE evaluation of 95 atoms so met
    9,000 page faults, an eighth of its processor time (measured). Other allocators are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def resolve_device(device: str) -> str:
    """The device that ``auto`` stands for, or the given one if this machine has it.

    Raises
    ------
    HopflowError
        The device is not a device, or is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise HopflowError(f"There is no device called {device!r}; choose auto, cpu or cuda.") from None
    if kind.type not in ("cpu", "cuda"):
        raise HopflowError(f"Potentials run on cpu or cuda, not on {device!r}.")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise HopflowError(f"This machine has no device {device!r} that torch can use; choose auto or cpu.")
    return device


def torch_dtype(dtype: Precision) -> torch.dtype:
    """The torch type of a precision."""
    return torch.float64 if dtype == "float64" else torch.float32


@contextmanager
def default_dtype(dtype: Precision) -> Iterator[None]:
    """Run with torch's default precision set, and leave it as it was, also after an error.

    MACE builds tensors in the default precision and matgl expects float32 there; both live in one process.
    """
    with _DTYPE_LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch_dtype(dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def check_images(images: Sequence[Atoms], elements: frozenset[str], name: str) -> None:
    """Refuse images that a model cannot answer.

    Parameters
    ----------
    images
        What is to be computed.
    elements
        Symbols of the elements that the model was trained on.
    name
        Registry name of the potential.

    Raises
    ------
    CandidateError
        ``UNSUPPORTED_ELEMENT``: an element is outside the model; ``EMPTY_STRUCTURE``: an image has no atoms.
    NonFiniteEnergyError
        A position or cell vector is not a finite number.
    """
    for index, image in enumerate(images):
        if len(image) == 0:
            raise CandidateError("The structure holds no atoms; leave it out.", reason=Reason.EMPTY_STRUCTURE)
        foreign = sorted(set(image.get_chemical_symbols()) - elements)
        if foreign:
            raise CandidateError(
                f"{name} was not trained on {', '.join(foreign)}; choose another potential or leave this crystal out.",
                reason=Reason.UNSUPPORTED_ELEMENT,
            )
        if not (np.isfinite(image.positions).all() and np.isfinite(image.cell.array).all()):
            raise NonFiniteEnergyError(
                f"Image {index} has positions or cell vectors that are not finite numbers, so {name} cannot give it an "
                "energy; start from a more reasonable structure."
            )


def check_finite(energies: np.ndarray, forces: Sequence[np.ndarray], name: str) -> None:
    """Refuse results that are not numbers.

    Parameters
    ----------
    energies
        eV, shape (images,).
    forces
        eV/Angstrom, one (atoms, 3) array an image; may be empty.
    name
        Registry name of the potential.

    Raises
    ------
    NonFiniteEnergyError
        An energy or a force is NaN or infinite.
    """
    bad = [index for index, energy in enumerate(energies) if not np.isfinite(energy)]
    if bad:
        raise NonFiniteEnergyError(
            f"{name} returned an energy of {energies[bad[0]]} for image {bad[0]}; look for atoms on top of each other."
        )
    bad = [index for index, force in enumerate(forces) if not np.isfinite(force).all()]
    if bad:
        raise NonFiniteEnergyError(
            f"{name} returned forces that are not finite for image {bad[0]}; look for atoms on top of each other."
        )


def batches(images: Sequence[Atoms], device: str) -> Iterator[list[Atoms]]:
    """Split images into batches, in order.

    On a CPU one by one: batching was measured to bring nothing there and to cost memory. On a GPU as many as
    :data:`MAX_BATCH_IMAGES` and :data:`MAX_BATCH_ATOMS` allow.
    """
    largest = 1 if device == "cpu" else MAX_BATCH_IMAGES
    batch: list[Atoms] = []
    atoms = 0
    for image in images:
        if batch and (len(batch) >= largest or atoms + len(image) > MAX_BATCH_ATOMS):
            yield batch
            batch, atoms = [], 0
        batch.append(image)
        atoms += len(image)
    if batch:
        yield batch


def reference_crystal() -> Atoms:
    """Rock-salt LiF, a = 4.08 Angstrom, two atoms."""
    return bulk("LiF", "rocksalt", a=4.08)


def check_reference_energy(potential: Potential, entry: PotentialEntry, dtype: Precision) -> None:
    """Compare a loaded model's energy of LiF with the registry's.

    Right weights in the wrong code load without an error: matgl >= 3 reads M3GNet weights of before 3.0 and is off by
    4 to 6 eV/atom here.

    Raises
    ------
    WrongWeightsError
        The energy is further off than rounding explains.
    """
    crystal = reference_crystal()
    try:
        found = float(potential.energies([crystal])[0]) / len(crystal)
    except NonFiniteEnergyError:
        found = float("nan")
    expected = entry.reference_energy_eV_per_atom
    if not abs(found - expected) <= REFERENCE_TOLERANCE_EV_PER_ATOM[dtype]:
        raise WrongWeightsError(
            f"{entry.name} gives {found:.6f} eV/atom for rock-salt LiF instead of {expected:.6f}, so its energies "
            "cannot be trusted; install the package versions of constraints.txt, or choose another potential."
        )
