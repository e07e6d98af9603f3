"""Frames with energies and forces that a potential is fine-tuned on: read, and refused one by one."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from ..transport.errors import HopflowError

Split = Literal["train", "validation", "test"]

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_FILE_OF_SPLIT = re.compile(r"_(train|val|valid|validation|test)\.(?:ext)?xyz(?:\.gz)?$")
_SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz")
_EXAMPLES = 3


@dataclass(frozen=True)
class FrameKeys:
    """Where a frame keeps what: names that ASE attaches as results, or keys of ``info`` and ``arrays``.

    Attributes
    ----------
    energy, forces, stress
        Energy of the cell in eV, forces in eV/Å, stress in eV/Å³ with the sign of ASE.
    material
        Name of the material; a frame without it is called after its reduced formula.
    path
        Name of the migration path whose band the frame is an image of.
    split
        Name of the split.
    """

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
    material: str = "material_id"
    path: str = "path_id"
    split: str = "split"


@dataclass(frozen=True)
class ReadingSettings:
    """What is read and what is refused.

    Attributes
    ----------
    keys
        Where a frame keeps what.
    max_force_eV_per_A
        Frames with a larger force on an atom are refused.
    frames_per_material
        So many are drawn by lot where a material has more; 0 takes all.
    seed
        Of the lot.
    """

    keys: FrameKeys = field(default_factory=FrameKeys)
    max_force_eV_per_A: float = 30.0
    frames_per_material: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Frame:
    """One configuration with what the reference says about it.

    Attributes
    ----------
    atoms
        Species, positions, cell.
    energy_eV
        Energy of the cell.
    forces_eV_per_A
        Shape (atoms, 3).
    stress_eV_per_A3
        In the order xx, yy, zz, yz, xz, xy, shape (6,), or None.
    material
        Name of the material.
    path
        Name of the path whose band it is an image of, or None.
    split
        Split that the data name, or None.
    """

    atoms: Atoms
    energy_eV: float
    forces_eV_per_A: np.ndarray
    stress_eV_per_A3: np.ndarray | None
    material: str
    path: str | None = None
    split: Split | None = None

    @property
    def composition(self) -> str:
        """Material and chemical formula: frames that share it differ in energy only by where their atoms are."""
        return f"{self.material} {self.atoms.get_chemical_formula()}"


class RefusedFrame(HopflowError):  # noqa: N818  it names what happened to the frame
    """A frame that nothing can be learned from; ``reason`` is a code, the text a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class LeftOut:
    """Frames that were refused: how many for each reason, and the first of each by name."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, where: str, error: RefusedFrame) -> None:
        """Count one."""
        self.counts[error.reason] += 1
        if len(self.examples[error.reason]) < _EXAMPLES:
            self.examples[error.reason].append(f"{where}: {error}")

    def document(self) -> dict[str, Any]:
        """For JSON: count and examples of each reason."""
        return {reason: {"frames": n, "examples": self.examples[reason]} for reason, n in self.counts.most_common()}

    def sentence(self) -> str:
        """Counts in words, or nothing."""
        parts = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
        return f"{sum(self.counts.values())} frames left out: {parts}" if parts else ""


def files_of(place: Path) -> list[tuple[Path, Split | None]]:
    """Extended XYZ files at a place, each with the split that its name tells.

    Names tell a split where they end like those of MPLiTrj: ``_train.xyz``, ``_val.xyz``, ``_test.xyz``.

    Parameters
    ----------
    place
        A file, or a folder of files.

    Raises
    ------
    HopflowError
        There is no such place, or the folder holds no file of this kind.
    """
    if place.is_file():
        return [(place, None)]
    if not place.is_dir():
        raise HopflowError(f"There is no file or folder {place}; check the path.")
    files = sorted(file for file in place.iterdir() if file.is_file() and file.name.lower().endswith(_SUFFIXES))
    if not files:
        raise HopflowError(f"{place} holds no extended XYZ file; it needs files called *.extxyz or *.xyz.")
    found = [(file, _FILE_OF_SPLIT.search(file.name)) for file in files]
    return [(file, None if match is None else _SPLIT_NAMES[match[1]]) for file, match in found]


def read_frames(
    files: Iterable[tuple[Path, Split | None]],
    settings: ReadingSettings | None = None,
    elements: frozenset[str] | None = None,
) -> tuple[list[Frame], LeftOut]:
    """Read every frame that can be learned from.

    Parameters
    ----------
    files
        Extended XYZ files, plain or gzipped, each with the split that all of its frames belong to, or None.
    settings
        Keys, limits and the lot.
    elements
        Symbols that the foundation model knows; frames with others are refused. None knows all.

    Returns
    -------
    The frames, in the order of the files, and what was refused. A file that breaks off in the middle costs its other
    frames nothing.
    """
    settings = settings or ReadingSettings()
    left_out = LeftOut()
    generator = np.random.default_rng(settings.seed)
    seen: Counter[str] = Counter()
    kept: dict[str, list[tuple[int, Frame]]] = defaultdict(list)
    number = 0
    for file, split in files:
        for where, atoms in frames_in(file, left_out):
            try:
                frame = read_frame(atoms, settings, elements, split)
            except RefusedFrame as error:
                left_out.add(where, error)
                continue
            number += 1
            seen[frame.material] += 1
            mine, most = kept[frame.material], settings.frames_per_material
            if not most or len(mine) < most:
                mine.append((number, frame))
            elif (place := int(generator.integers(seen[frame.material]))) < most:
                # every frame of the material has had the same chance to stay
                mine[place] = (number, frame)
    return [frame for _, frame in sorted(itertools.chain(*kept.values()), key=lambda each: each[0])], left_out


def frames_in(file: Path, left_out: LeftOut) -> Iterator[tuple[str, Atoms]]:
    """Frames of a file with their places; where it cannot be read on, it ends and ``left_out`` says so."""
    from ase.io import iread

    number = 0
    try:
        for number, atoms in enumerate(iread(file, ":", format="extxyz"), 1):
            yield f"{file.name}, frame {number}", atoms
    except Exception as error:  # noqa: BLE001  the parser fails in ways of its own; other files are read all the same
        text = " ".join(f"{type(error).__name__}: {error}".split())
        left_out.add(
            f"{file.name}, frame {number + 1}", RefusedFrame("unreadable", f"The file cannot be read on ({text}).")
        )


def read_frame(
    atoms: Atoms, settings: ReadingSettings, elements: frozenset[str] | None = None, split: Split | None = None
) -> Frame:
    """Take what is needed from a frame.

    Raises
    ------
    RefusedFrame
        No energy or forces, numbers that are not finite, a force above the limit, an element that the foundation model
        does not know, a split of an unknown name.
    """
    keys = settings.keys
    if len(atoms) == 0:
        raise RefusedFrame("no_atoms", "The frame holds no atoms.")
    foreign = sorted(set(atoms.get_chemical_symbols()) - elements) if elements is not None else []
    if foreign:
        raise RefusedFrame("unsupported_element", f"The foundation model was not trained on {', '.join(foreign)}.")
    energy = _value(atoms, keys.energy)
    if energy is None or energy.size != 1:
        raise RefusedFrame("no_energy", f"The frame has no energy under the key {keys.energy}.")
    forces = _value(atoms, keys.forces)
    if forces is None or forces.shape != (len(atoms), 3):
        raise RefusedFrame("no_forces", f"The frame has no forces under the key {keys.forces}.")
    stress = _stress(_value(atoms, keys.stress))
    numbers = [energy, forces, atoms.positions, atoms.cell.array, *([] if stress is None else [stress])]
    if not all(np.isfinite(each).all() for each in numbers):
        raise RefusedFrame("not_finite", "The frame holds numbers that are not finite.")
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > settings.max_force_eV_per_A:
        raise RefusedFrame(
            "large_forces", f"A force is {largest:.1f} eV/Å, above the limit of {settings.max_force_eV_per_A:g}."
        )
    material = atoms.info.get(keys.material)
    path = atoms.info.get(keys.path)
    return Frame(
        Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
        float(energy.reshape(-1)[0]),
        forces,
        stress,
        str(material) if material is not None else atoms.symbols.formula.reduce()[0].format("hill"),
        None if path is None else str(path),
        split or _split_name(atoms.info.get(keys.split)),
    )


def _split_name(value: Any) -> Split | None:
    if value is None:
        return None
    name = _SPLIT_NAMES.get(str(value).strip().lower())
    if name is None:
        raise RefusedFrame("unknown_split", f"The frame names the split {value!r}; allowed: train, validation, test.")
    return name


def _value(atoms: Atoms, key: str) -> np.ndarray | None:
    """Numbers under a key: of the results that ASE attaches, of ``info`` or of ``arrays``."""
    results = getattr(atoms.calc, "results", {})
    found = next((place[key] for place in (results, atoms.info, atoms.arrays) if place.get(key) is not None), None)
    try:
        return None if found is None else np.asarray(found, dtype=float)
    except (TypeError, ValueError):
        return None


def _stress(value: np.ndarray | None) -> np.ndarray | None:
    from ase.stress import full_3x3_to_voigt_6_stress

    if value is None or value.size not in (6, 9):
        return None
    return value.reshape(6) if value.size == 6 else np.asarray(full_3x3_to_voigt_6_stress(value.reshape(3, 3)))
