"""Errors of a potential on frames whose energies and forces are known, and of the barriers along their bands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import content_key, load_checkpoint, save_checkpoint
from ..transport.energies import Potential
from .finetuning_data import Frame, Split
from .finetuning_splits import SPLITS, FrameSet, frames_key
from .finetuning_training import Progress

_BATCH = 16
_LEAST_IMAGES = 3

ENERGY = "energy_mae_meV_per_atom"
FORCES = "force_mae_meV_per_A"
BARRIERS = "barrier_mae_meV"
COLUMNS = {
    ENERGY: "energy MAE, meV/atom",
    "energy_rmse_meV_per_atom": "energy RMSE, meV/atom",
    FORCES: "force MAE, meV/Å",
    "force_rmse_meV_per_A": "force RMSE, meV/Å",
    BARRIERS: "barrier MAE, meV",
}
"""Errors in the tables that people read."""

DEFINITIONS = (
    "Energy errors are those that are left when the mean error of each material and chemical formula is taken out, "
    "because another zero of energy changes no barrier; groups of a single frame do not count. Force errors are those "
    "of components. The barrier of a path is its highest less its lowest frame, by reference and by potential, on the "
    "same frames, for every path_id with at least three."
)


@dataclass(frozen=True)
class Answers:
    """What a potential says about frames.

    Attributes
    ----------
    energies_eV
        Shape (frames,).
    forces_eV_per_A
        One (atoms, 3) array a frame.
    """

    energies_eV: np.ndarray
    forces_eV_per_A: list[np.ndarray]


def ask(potential: Potential, frames: Sequence[Frame], file: Path, say: Progress, what: str) -> Answers:
    """Energies and forces of frames; an earlier answer of the same weights to the same frames is taken from a file.

    Parameters
    ----------
    potential
        Who is asked.
    frames
        What about.
    file
        Keeps the answers.
    say
        Told how far it is.
    what
        Name of the frames, for the lines.

    Raises
    ------
    CandidateError
        The potential cannot answer.
    """
    key = content_key(frames=frames_key(frames), weights=potential.weights_sha256, method=potential.method)
    counts = np.cumsum([len(frame.atoms) for frame in frames])[:-1]
    kept = load_checkpoint(file, key)
    if kept is None:
        energies, forces = [], []
        for start in range(0, len(frames), _BATCH):
            part = [frame.atoms for frame in frames[start : start + _BATCH]]
            found = potential.energies_and_forces(part)
            energies.append(found[0])
            forces.extend(found[1])
            say(f"{what}: {min(start + _BATCH, len(frames))} of {len(frames)} frames by {potential.name}")
        kept = {"energies_eV": np.concatenate(energies), "forces_eV_per_A": np.concatenate(forces)}
        save_checkpoint(file, key, kept)
    return Answers(kept["energies_eV"], np.split(kept["forces_eV_per_A"], counts))


def frame_errors(frames: Sequence[Frame], answers: Answers) -> dict[str, Any]:
    """How far answers are from the reference, see :data:`DEFINITIONS`.

    Returns
    -------
    dict
        ``frames``, ``paths``, mean absolute and root-mean-square errors (``energy_mae_meV_per_atom``,
        ``energy_rmse_meV_per_atom``, ``force_mae_meV_per_A``, ``force_rmse_meV_per_A``, ``barrier_mae_meV``; NaN where
        there is nothing to compare), ``uncorrected_energy_mae_meV_per_atom`` with nothing taken out, and ``barriers``:
        ``path_id``, ``material``, ``reference_eV`` and ``found_eV`` of each path.
    """
    atoms = np.array([len(frame.atoms) for frame in frames])
    error_eV = answers.energies_eV - np.array([frame.energy_eV for frame in frames])
    groups: dict[str, list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        groups[frame.composition].append(number)
    compared = [members for members in groups.values() if len(members) > 1]
    left = [(error_eV[members] - error_eV[members].mean()) / atoms[members] for members in compared]
    energy = 1000.0 * (np.concatenate(left) if left else np.array([np.nan]))
    force = 1000.0 * np.concatenate(
        [(found - frame.forces_eV_per_A).ravel() for frame, found in zip(frames, answers.forces_eV_per_A, strict=True)]
    )
    barriers = path_barriers(frames, answers)
    apart = [abs(each["found_eV"] - each["reference_eV"]) for each in barriers]
    return {
        "frames": len(frames),
        "paths": len(barriers),
        ENERGY: float(np.abs(energy).mean()),
        "energy_rmse_meV_per_atom": float(np.sqrt((energy**2).mean())),
        "uncorrected_energy_mae_meV_per_atom": float(1000.0 * np.abs(error_eV / atoms).mean()),
        FORCES: float(np.abs(force).mean()),
        "force_rmse_meV_per_A": float(np.sqrt((force**2).mean())),
        BARRIERS: 1000.0 * float(np.mean(apart)) if apart else float("nan"),
        "barriers": barriers,
    }


def path_barriers(frames: Sequence[Frame], answers: Answers) -> list[dict[str, Any]]:
    """Highest less lowest frame of each path, by reference and potential, in eV."""
    paths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        if frame.path is not None:
            paths[frame.composition, frame.path].append(number)
    reference_eV = np.array([frame.energy_eV for frame in frames])
    return [
        {
            "path_id": path,
            "material": frames[members[0]].material,
            "reference_eV": float(np.ptp(reference_eV[members])),
            "found_eV": float(np.ptp(answers.energies_eV[members])),
        }
        for (_, path), members in paths.items()
        if len(members) >= _LEAST_IMAGES
    ]


def split_errors(data: FrameSet, potential: Potential, folder: Path, say: Progress) -> dict[Split, dict[str, Any]]:
    """:func:`frame_errors` of each split; answers are kept in a folder."""
    found: dict[Split, dict[str, Any]] = {}
    for split in SPLITS:
        answers = ask(potential, data.splits[split], folder / f"{split}.npz", say, split)
        found[split] = frame_errors(data.splits[split], answers)
    return found


def energy_offsets_eV(frames: Sequence[Frame], answers: Answers) -> dict[str, float]:
    """Offset of each element between the reference and a potential, in eV an atom.

    Least squares of the difference an atom over the share of each element, with a small ridge: elements that always
    come in the same proportion share what cannot be told apart.
    """
    elements = sorted({symbol for frame in frames for symbol in set(frame.atoms.get_chemical_symbols())})
    shares, difference = [], []
    for frame, energy_eV in zip(frames, answers.energies_eV, strict=True):
        symbols = frame.atoms.get_chemical_symbols()
        shares.append([symbols.count(element) / len(symbols) for element in elements])
        difference.append((frame.energy_eV - energy_eV) / len(symbols))
    design = np.array(shares)
    ridge = 1e-6 * len(frames) * np.eye(len(elements))
    offsets = np.linalg.solve(design.T @ design + ridge, design.T @ np.array(difference))
    return dict(zip(elements, offsets.tolist(), strict=True))


def error_table(before: dict[Any, dict[str, Any]], after: dict[Any, dict[str, Any]]) -> list[list[str]]:
    """Rows of a table for people: each split before and after, and what share of the error is left."""
    rows = []
    for split in SPLITS:
        old, new = ([_known(errors[split][column]) for column in COLUMNS] for errors in (before, after))
        rows.append([split, "before", *(_number(value) for value in old)])
        rows.append([split, "after", *(_number(value) for value in new)])
        shares = [b / a if a else np.nan for a, b in zip(old, new, strict=True)]
        rows.append([split, "after / before", *(_number(share, 2) for share in shares)])
    return rows


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _number(value: float, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}" if np.isfinite(value) else "-"
