"""Frames of a fine-tuning split by material, so that those that judge were never learned from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import content_key
from ..transport.errors import HopflowError
from .finetuning_data import Frame, LeftOut, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_EXAMPLES = 3


@dataclass(frozen=True)
class FrameSet:
    """Frames of the three splits; no material is in two of them.

    Attributes
    ----------
    splits
        Frames of ``train``, ``validation`` and ``test``.
    left_out
        What was refused.
    rule
        How they were split, in words.
    """

    splits: dict[Split, list[Frame]]
    left_out: LeftOut
    rule: str

    def materials(self, split: Split) -> list[str]:
        """Names of the materials of a split, sorted."""
        return sorted({frame.material for frame in self.splits[split]})

    def elements(self, split: Split) -> list[str]:
        """Symbols of the elements of a split, sorted."""
        return sorted({symbol for frame in self.splits[split] for symbol in set(frame.atoms.get_chemical_symbols())})

    def key(self) -> str:
        """SHA-256 of all that is learned from and judged by."""
        return content_key(**{split: frames_key(frames) for split, frames in self.splits.items()})


def frames_key(frames: Sequence[Frame]) -> str:
    """SHA-256 of frames."""
    parts: dict[str, Any] = {
        "names": [[frame.material, frame.path] for frame in frames],
        "numbers": [frame.atoms.numbers.tolist() for frame in frames],
    }
    for name, arrays in (
        ("positions", [frame.atoms.positions for frame in frames]),
        ("cells", [frame.atoms.cell.array for frame in frames]),
        ("energies", [np.array(frame.energy_eV) for frame in frames]),
        ("forces", [frame.forces_eV_per_A for frame in frames]),
        ("stresses", [np.zeros(0) if f.stress_eV_per_A3 is None else f.stress_eV_per_A3 for f in frames]),
    ):
        parts[name] = np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)
    return content_key(**parts)


def split_frames(
    frames: Sequence[Frame],
    left_out: LeftOut,
    validation_share: float = 0.15,
    test_share: float = 0.15,
    seed: int = 0,
    deal: bool = False,
) -> FrameSet:
    """Split frames by material.

    Parameters
    ----------
    frames
        All frames.
    left_out
        What was refused while reading.
    validation_share, test_share
        Shares of the materials, rounded; each gets one material at least.
    seed
        Of the deal.
    deal
        Deal materials by lot also where the data name splits.

    Raises
    ------
    HopflowError
        Fewer than three materials, a split without frames, some frames with a split and others without, or a material
        that the data have in two splits.
    """
    if not frames:
        why = left_out.sentence()
        raise HopflowError(f"No frame can be learned from{f' ({why})' if why else ''}; look at the keys of the data.")
    named = sum(frame.split is not None for frame in frames)
    if named and not deal:
        return _given_splits(frames, left_out, named)
    materials = sorted({frame.material for frame in frames})
    if len(materials) < len(SPLITS):
        raise HopflowError(
            f"The data hold {len(materials)} materials; at least three are needed, so that some are never learned from."
        )
    order = np.random.default_rng(seed).permutation(len(materials))
    test = max(1, round(test_share * len(materials)))
    validation = max(1, min(round(validation_share * len(materials)), len(materials) - test - 1))
    if test + validation >= len(materials):
        raise HopflowError(f"Of {len(materials)} materials none is left to learn from; lower the shares of the splits.")
    split_of: dict[str, Split] = {}
    for place, number in enumerate(order):
        split_of[materials[number]] = "test" if place < test else "validation" if place < test + validation else "train"
    dealt: dict[Split, list[Frame]] = {split: [] for split in SPLITS}
    for frame in frames:
        dealt[split_of[frame.material]].append(frame)
    rule = f"{len(materials)} materials dealt by lot with seed {seed}"
    return FrameSet(dealt, left_out, rule)


def _given_splits(frames: Sequence[Frame], left_out: LeftOut, named: int) -> FrameSet:
    if named < len(frames):
        raise HopflowError(
            f"{len(frames) - named} of {len(frames)} frames name no split; name one for each, or set `splits: dealt`."
        )
    dealt: dict[Split, list[Frame]] = {split: [] for split in SPLITS}
    of_material: dict[str, set[Split]] = defaultdict(set)
    for frame in frames:
        assert frame.split is not None
        dealt[frame.split].append(frame)
        of_material[frame.material].add(frame.split)
    if shared := sorted(name for name, splits in of_material.items() if len(splits) > 1):
        raise HopflowError(
            f"{len(shared)} materials are in more than one split ({', '.join(shared[:_EXAMPLES])}); set "
            "`splits: dealt` to deal them anew, or correct the data."
        )
    if empty := [split for split in SPLITS if not dealt[split]]:
        raise HopflowError(f"The data have no frame for {' and '.join(empty)}; set `splits: dealt` or add frames.")
    return FrameSet(dealt, left_out, "as the data name them")


def write_frames(frames: Sequence[Frame], file: Path) -> None:
    """Write frames as extended XYZ with ``REF_energy``, ``REF_forces`` and, where it is known, ``REF_stress``.

    Parameters
    ----------
    frames
        What is written.
    file
        The file; its folder is made.
    """
    from ase.io import write

    written = []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.info["REF_energy"] = frame.energy_eV
        atoms.arrays["REF_forces"] = np.array(frame.forces_eV_per_A)
        if frame.stress_eV_per_A3 is not None:
            atoms.info["REF_stress"] = np.array(frame.stress_eV_per_A3)
        atoms.info["material_id"] = frame.material
        if frame.path is not None:
            atoms.info["path_id"] = frame.path
        written.append(atoms)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, written, format="extxyz")
