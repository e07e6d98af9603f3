"""Frames of five made-up materials with Lennard-Jones energies, and a MACE model of random weights that knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from tiny_mace import tiny_mace

ELEMENTS = (3, 8, 11, 17)
OFFSETS_EV = {"Li": -2.0, "O": -5.0, "Na": -1.5, "Cl": -3.0}
MATERIALS = {"LiCl": 5.1, "NaCl": 5.6, "LiO": 4.4, "NaO": 4.9, "LiNa": 5.3}


def teacher_frame(atoms: Atoms, material: str, path: str | None = None) -> Atoms:
    """A frame with what the teacher says about it; every element has an energy of its own."""
    asked = atoms.copy()
    asked.calc = LennardJones(sigma=1.9, epsilon=0.2, rc=5.0, smooth=True)
    energy = asked.get_potential_energy() + sum(OFFSETS_EV[symbol] for symbol in asked.get_chemical_symbols())
    frame = atoms.copy()
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=asked.get_forces(), stress=asked.get_stress())
    frame.info["material_id"] = material
    if path is not None:
        frame.info["path_id"] = path
    return frame


def teacher_frames(displaced: int = 3, seed: int = 1) -> list[Atoms]:
    """Of each material: displaced crystals, and one atom that goes from its site to the middle of the cell."""
    generator = np.random.default_rng(seed)
    frames = []
    for material, length in MATERIALS.items():
        crystal = bulk(material, "rocksalt", a=length, cubic=True)
        for _ in range(displaced):
            moved = crystal.copy()
            moved.positions += generator.normal(0.0, 0.12, moved.positions.shape)
            frames.append(teacher_frame(moved, material))
        for share in np.linspace(0.0, 0.2, 4):
            moved = crystal.copy()
            moved.positions[-1] += share * moved.cell.array.sum(axis=0) / 2
            frames.append(teacher_frame(moved, material, f"{material}_1"))
    return frames


def write_teacher_frames(file: Path, **changes: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, teacher_frames(**changes), format="extxyz")
    return file


def write_tiny_mace(file: Path) -> Path:
    """A model file as MACE writes it, in single precision."""
    model = tiny_mace(ELEMENTS, correlation=2, dtype="float32", neighbours=12.0, energy_scale_eV=0.1)
    torch.save(model, file)
    return file
