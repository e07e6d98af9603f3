"""Migration paths with reference barriers: path tables, and the nebDFT2k layout of LiTraj."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from ..transport.errors import CandidateError, HopflowError, StructureError

PUBLISHED_COLUMN = "barrier_mace_relax_eV"
"""Column of a path table with published MACE-NEB barriers of the same paths."""


@dataclass(frozen=True)
class ReferencePath:
    """A path whose barrier is known.

    Attributes
    ----------
    path_id
        Its name.
    row
        A row of a path table, which says where the ion goes and what stands around it.
    barrier_eV
        Reference barrier.
    published_eV
        Published barrier of a machine-learned potential, or None.
    images_A
        Positions of the reference band's images, continuous, the migrating ion last, shape (images, atoms, 3); None
        where there is no such band.
    """

    path_id: str
    row: dict[str, Any]
    barrier_eV: float
    published_eV: float | None = None
    images_A: np.ndarray | None = None

    @property
    def atoms(self) -> int:
        """Atoms in the cell, the migrating ion included."""
        return len(self.row["framework_species"]) + 1


def read_references(data: Path) -> tuple[list[ReferencePath], list[dict[str, str]]]:
    """Read paths with reference barriers.

    Parameters
    ----------
    data
        A path table with ``barrier_dft_eV`` (JSON lines, also gzipped), or a nebDFT2k folder, or its index (``.csv``).

    Returns
    -------
    The paths, and of each that cannot be used its ``path_id``, ``reason`` and ``error``.

    Raises
    ------
    HopflowError
        The file or folder cannot be read.
    """
    if data.is_dir():
        indices = sorted(data.glob("*_index.csv"))
        if len(indices) != 1:
            raise HopflowError(f"{data} holds {len(indices)} files called *_index.csv; name the index itself.")
        return _read_litraj(indices[0])
    if data.suffix.lower() == ".csv":
        return _read_litraj(data)
    from ..learning.path_rows import read_labelled_rows

    rows, left_out = read_labelled_rows(data)
    return [
        ReferencePath(row["path_id"], row, row["barrier_dft_eV"], row.get(PUBLISHED_COLUMN)) for row in rows
    ], left_out


def _read_litraj(index: Path) -> tuple[list[ReferencePath], list[dict[str, str]]]:
    """Paths of LiTraj's nebDFT2k (Dembitskiy et al., npj Comput. Mater. 11, 131 (2025)).

    The index has a line for each path with ``edge_id`` and ``em_dft``; beside it lie ``<edge_id>_init.xyz``, a band
    that bond valences have made, and ``<edge_id>_relaxed.xyz``, that of DFT.
    """
    try:
        with index.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HopflowError(f"{index} cannot be read as a table: {error}.") from error
    if not lines or not {"edge_id", "em_dft"} <= lines[0].keys():
        raise HopflowError(f"{index} has no columns edge_id and em_dft; name the index of a nebDFT2k folder.")
    paths, left_out = [], []
    for line in lines:
        try:
            paths.append(_litraj_path(index.parent, line))
        except CandidateError as error:
            left_out.append({"path_id": str(line["edge_id"]), "reason": str(error.reason), "error": str(error)})
    return paths, left_out


def _litraj_path(folder: Path, line: dict[str, str]) -> ReferencePath:
    name = line["edge_id"]
    try:
        barrier_eV = float(line["em_dft"])
    except (TypeError, ValueError):
        barrier_eV = float("nan")
    if not 0.0 <= barrier_eV < float("inf"):
        raise StructureError(f"The path {name} has an em_dft that is no barrier in eV ({line['em_dft']!r:.40}).")
    first, relaxed = (_frames(folder / f"{name}_{kind}.xyz", name) for kind in ("init", "relaxed"))
    if relaxed[0].get_chemical_symbols() != first[0].get_chemical_symbols():
        raise StructureError(f"The initial and the relaxed band of the path {name} hold different atoms.")
    positions = continuous(first)
    # the ion is the one atom that goes far
    ion = int(np.argmax(np.linalg.norm(positions[-1] - positions[0], axis=1)))
    order = np.append(np.delete(np.arange(len(first[0])), ion), ion)
    symbols = np.array(first[0].get_chemical_symbols())[order]
    lattice = first[0].cell.array
    scaled = positions[:, order] @ np.linalg.inv(lattice)
    row = {
        "path_id": name,
        "migrating_ion": str(symbols[-1]),
        "lattice": lattice.tolist(),
        "path_frac_coords": scaled[:, -1].tolist(),
        "framework_species": symbols[:-1].tolist(),
        "framework_frac_coords": scaled[0, :-1].tolist(),
    }
    return ReferencePath(name, row, barrier_eV, images_A=continuous(relaxed)[:, order])


def _frames(file: Path, name: str) -> list[Atoms]:
    from ase.io import read

    try:
        frames: list[Atoms] = list(read(file, ":", format="extxyz"))
    except Exception as error:
        # parsers of structure files fail in ways of their own; the path is left out, whatever it was
        raise StructureError(f"The file {file.name} of the path {name} cannot be read ({error}).") from error
    if len(frames) < 2 or len({len(frame) for frame in frames}) != 1 or abs(frames[0].cell.volume) < 1e-3:
        raise StructureError(f"The file {file.name} of the path {name} is no band of one crystal with a cell.")
    return frames


def continuous(frames: Sequence[Atoms]) -> np.ndarray:
    """Positions without jumps from one side of the cell to the other, in Angstrom, shape (frames, atoms, 3)."""
    positions = [frames[0].positions.copy()]
    for before, after in itertools.pairwise(frames):
        step, _ = find_mic(after.positions - before.positions, before.cell, pbc=True)
        positions.append(positions[-1] + step)
    return np.stack(positions)
