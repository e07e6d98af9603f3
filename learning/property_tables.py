"""Tables of crystals and their properties, some unknown, to pretrain on.

Two sources: the crystals of a Materials Project download, and the seven sets that Devi et al. (arXiv 2508.06436)
pretrained on, in the layout in which matminer and matbench hand them out.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transport.errors import CandidateError, HopflowError
from ..transport.structure_files import structure_from_row
from ..transport.structures import structure_hash
from .alignn_graphs import AtomGraph, structure_graph

if TYPE_CHECKING:
    from pymatgen.core import Structure


class PropertyFileError(HopflowError):
    """A table of properties cannot be read."""


@dataclass(frozen=True)
class PropertyTable:
    """Crystals and what is known of them.

    Attributes
    ----------
    graphs
        Of each crystal.
    formulas
        Reduced formula of each; crystals of one formula are never divided between training and judging.
    properties
        Names of the columns.
    values
        Shape (crystals, properties), NaN where unknown.
    left_out
        Crystals that could not be used.
    """

    graphs: list[AtomGraph]
    formulas: list[str]
    properties: tuple[str, ...]
    values: np.ndarray
    left_out: int = 0


@dataclass(frozen=True)
class MatminerSet:
    """One of the sets of the source.

    Attributes
    ----------
    property
        Name of the property.
    files
        Names under which matminer and matbench hand the set out, without ``.json.gz``.
    columns
        Names of the column with the property.
    """

    property: str
    files: tuple[str, ...]
    columns: tuple[str, ...]


MATMINER_SETS: tuple[MatminerSet, ...] = (
    MatminerSet("log_shear_modulus", ("matbench_log_gvrh",), ("log10(G_VRH)",)),
    MatminerSet("phonon_peak_per_cm", ("matbench_phonons",), ("last phdos peak",)),
    MatminerSet("piezoelectric_modulus", ("piezoelectric_tensor",), ("eij_max",)),
    MatminerSet("refractive_index", ("matbench_dielectric", "dielectric_constant"), ("n",)),
    MatminerSet(
        "experimental_gap_eV", ("matbench_expt_gap", "expt_gap_kingsbury", "expt_gap"), ("gap expt", "expt_gap")
    ),
    MatminerSet("formation_energy_eV", ("matbench_mp_e_form",), ("e_form",)),
    MatminerSet("band_gap_eV", ("matbench_mp_gap",), ("gap pbe",)),
)
"""The seven properties of the source in its order; per-atom formation energy, gaps in eV."""

_STRUCTURE_COLUMNS = ("structure", "cif", "poscar")


def materials_project_properties(
    structures_file: Path,
    index_file: Path,
    barriers_file: Path | None = None,
    most_atoms: int = 40,
    most_crystals: int | None = None,
    seed: int = 0,
) -> PropertyTable:
    """Crystals of a Materials Project download with energy above hull, band gap and volume.

    Columns are ``energy_above_hull_eV`` (per atom), ``band_gap_eV``, ``log_volume_per_atom`` (natural logarithm of
    cubic Angstrom), and those of ``barriers_file``.

    Parameters
    ----------
    structures_file
        JSON lines, gzipped or not: ``material_id``, ``cell``, ``species``, ``frac_coords``.
    index_file
        CSV with ``material_id``, ``energy_above_hull`` (eV/atom) and ``band_gap`` (eV).
    barriers_file
        JSON lines with ``material_id`` and numbers, such as bond-valence barriers; each number is one more property.
    most_atoms
        Larger crystals are left aside.
    most_crystals
        Take only so many, drawn at random by the seed; None takes all.

    Raises
    ------
    PropertyFileError
        A file is missing, damaged, or lacks a column, or no crystal is left.
    """
    known = _index(index_file)
    more: dict[str, dict[str, float]] = {}
    if barriers_file is not None:
        for row in _json_lines(barriers_file):
            more[str(row.get("material_id"))] = {
                key: float(value)
                for key, value in row.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    names = sorted({key for row in more.values() for key in row})
    rows = [
        row
        for row in _json_lines(structures_file)
        if len(row.get("species", ())) <= most_atoms and str(row.get("material_id")) in known
    ]
    if most_crystals is not None and most_crystals < len(rows):
        drawn = np.random.default_rng(seed).choice(len(rows), most_crystals, replace=False)
        rows = [rows[i] for i in np.sort(drawn)]
    graphs, formulas, values = [], [], []
    for row in rows:
        name = str(row["material_id"])
        try:
            structure = structure_from_row(row)
            graphs.append(structure_graph(structure))
        except CandidateError:
            continue
        formulas.append(structure.composition.reduced_formula)
        log_volume = np.log(structure.volume / len(structure))
        values.append([*known[name], log_volume, *(more.get(name, {}).get(key, np.nan) for key in names)])
    if not graphs:
        raise PropertyFileError(
            f"{structures_file} holds no crystal of {index_file} with at most {most_atoms} atoms; check both files."
        )
    columns = ("energy_above_hull_eV", "band_gap_eV", "log_volume_per_atom", *names)
    return PropertyTable(graphs, formulas, columns, np.array(values, dtype=float), len(rows) - len(graphs))


def matminer_properties(folder: Path, sets: Sequence[MatminerSet] = MATMINER_SETS) -> PropertyTable:
    """The sets of the source: one column each, a crystal that is in several sets in one row.

    The files are JSON tables ``{"index": ..., "columns": ..., "data": ...}``, gzipped or not, with the crystal as
    pymatgen writes it (column ``structure``) or as text (``cif`` or ``poscar``). Matbench's own set of experimental
    gaps holds compositions only; add a column of crystals to it. Rows without crystal or number count as left out.

    Parameters
    ----------
    folder
        Where the files are.
    sets
        Which are wanted.

    Raises
    ------
    PropertyFileError
        Files are missing (each is named), damaged or lack a column, or no crystal is left.
    """
    files = {each: _file_of(folder, each) for each in sets}
    if missing := [each for each, file in files.items() if file is None]:
        names = ", ".join(f"{each.files[0]}.json.gz ({each.property})" for each in missing)
        raise PropertyFileError(f"{folder} lacks {names}; put the matminer or matbench files there.")
    rows: dict[str, int] = {}
    graphs: list[AtomGraph] = []
    formulas: list[str] = []
    values: list[list[float]] = []
    left_out = 0
    for column, (each, file) in enumerate(files.items()):
        assert file is not None
        for structure, value in _matminer_rows(file, each):
            if structure is None or not np.isfinite(value):
                left_out += 1
                continue
            key = structure_hash(structure)
            if key not in rows:
                try:
                    graphs.append(structure_graph(structure))
                except CandidateError:
                    left_out += 1
                    continue
                rows[key] = len(values)
                formulas.append(structure.composition.reduced_formula)
                values.append([np.nan] * len(sets))
            values[rows[key]][column] = value
    if not graphs:
        raise PropertyFileError(f"The files in {folder} hold no crystal with a property; check them.")
    return PropertyTable(graphs, formulas, tuple(each.property for each in sets), np.array(values), left_out)


def _file_of(folder: Path, wanted: MatminerSet) -> Path | None:
    for name in wanted.files:
        for ending in (".json.gz", ".json"):
            if (file := folder / f"{name}{ending}").is_file():
                return file
    return None


def _matminer_rows(file: Path, wanted: MatminerSet) -> Iterator[tuple[Structure | None, float]]:
    """Crystal and property of each row of a file; no crystal where it cannot be read."""
    try:
        table = json.loads(_text(file))
        columns, data = list(table["columns"]), list(table["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise PropertyFileError(f"{file} is no JSON table with columns and data; fetch it again.") from error
    at = next((columns.index(name) for name in wanted.columns if name in columns), None)
    crystals = next((name for name in _STRUCTURE_COLUMNS if name in columns), None)
    if at is None or crystals is None:
        raise PropertyFileError(
            f"{file} needs a column {' or '.join(wanted.columns)} and a column {' or '.join(_STRUCTURE_COLUMNS)}; "
            f"it has {', '.join(map(str, columns))}."
        )
    place = columns.index(crystals)
    for row in data:
        value = row[at]
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
        yield _crystal(row[place], crystals), number


def _crystal(written: Any, kind: str) -> Structure | None:
    """An ordered crystal, or None."""
    from pymatgen.core import Structure

    try:
        structure = structure_from_row(written) if kind == "structure" else Structure.from_str(written, fmt=kind)  # type: ignore[arg-type]
    except (CandidateError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return structure if structure.is_ordered and len(structure) else None


def _index(file: Path) -> dict[str, tuple[float, float]]:
    reader = csv.DictReader(_text(file).splitlines())
    wanted = ("material_id", "energy_above_hull", "band_gap")
    if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
        raise PropertyFileError(f"{file} lacks the column {', '.join(missing)}; it needs {', '.join(wanted)}.")
    return {row["material_id"]: (_number(row["energy_above_hull"]), _number(row["band_gap"])) for row in reader}


def _number(text: str | None) -> float:
    """The number in a text, NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PropertyFileError(f"Line {number} of {file} is not JSON; fetch the file again.") from error
        if not isinstance(row, dict):
            raise PropertyFileError(f"Line {number} of {file} is no JSON object; fetch the file again.")
        yield row


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is damaged"
        raise PropertyFileError(f"{file} cannot be read: {why}.") from error
