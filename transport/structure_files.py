"""Structure files in: CIF, POSCAR, pymatgen JSON, JSON lines; what is broken costs only itself."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CandidateError, Reason, StructureError

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Occupancies of a site that add up to no more than this are full but for rounding (0.67 and 0.34), and are scaled to
#: one; more than that is a mistake in the file.
FULL_OCCUPANCY = 1.02

# What pymatgen's parsers raise on files that are not what they say they are.
_PARSER_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    OSError,
    EOFError,
)


@dataclass(frozen=True)
class NamedStructure:
    """One crystal of a file, or the reason why it cannot be read.

    Attributes
    ----------
    name
        Material id, CIF block or file stem.
    structure
        The crystal, or None.
    error
        What is wrong, or None. Exactly one of ``structure`` and ``error`` is None.
    source
        File, with the line or block where there are several.
    """

    name: str
    structure: Structure | None
    error: CandidateError | None
    source: str


def read_structures(path: Path | str) -> list[NamedStructure]:
    """Read every structure of a file; what cannot be read becomes an entry with an error, in its place.

    Parameters
    ----------
    path
        ``.cif`` (all data blocks), POSCAR/CONTCAR/``.vasp``, pymatgen ``.json`` (one structure or entry, or a list), or
        JSON lines ``.jsonl`` with rows ``material_id, formula, cell [a, b, c, alpha, beta, gamma], species,
        frac_coords``; each also gzipped (``.gz``).

    Returns
    -------
    list of NamedStructure
        In the file's order; never empty.
    """
    file = Path(path)
    stem = _stem(file)
    try:
        data = _read_bytes(file)
    except FileNotFoundError:
        return [_failed(stem, f"There is no file {file}; check the path.", str(file))]
    except (OSError, EOFError) as error:
        return [_failed(stem, f"The file {file} cannot be read ({error}).", str(file))]
    if not data.strip():
        message = f"The file {file.name} is empty; it holds no structure."
        return [_failed(stem, message, str(file), Reason.EMPTY_STRUCTURE)]
    plain = file.name.lower().removesuffix(".gz")
    if plain.endswith((".jsonl", ".ndjson")):
        return [_from_line(line, number, stem, file) for number, line in _lines(data)]
    if plain.endswith(".json"):
        return _read_json(data, stem, file)
    if plain.endswith(".cif"):
        return _read_cif(_text(data), stem, file)
    if plain.endswith((".vasp", ".poscar", ".contcar")) or re.match(r"(poscar|contcar)", plain):
        return [_read_poscar(_text(data), stem, file)]
    return [
        _failed(
            stem,
            f"The kind of file {file.name} is not known; use .cif, POSCAR, CONTCAR, .vasp, pymatgen .json, or .jsonl.",
            str(file),
        )
    ]


def iterate_jsonl(path: Path | str) -> Iterator[dict[str, Any]]:
    """Rows of a (gzipped) JSON-lines file, one at a time.

    Raises
    ------
    StructureError
        A line is not a JSON object; the message names the line.
    """
    file = Path(path)
    with gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _row(line, f"Line {number} of {file.name}")


def jsonl_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Lines of a (gzipped) JSON-lines file that are not blank, with their numbers, for :func:`structure_from_line`.

    A gzip file that was torn ends with a line that is no JSON.

    Raises
    ------
    OSError, EOFError
        The file cannot be read at all.
    """
    return _lines(_read_bytes(Path(path)))


def structure_from_line(line: bytes, number: int, path: Path | str) -> NamedStructure:
    """The crystal of one line of a JSON-lines file, or why it cannot be read, as :func:`read_structures` gives it."""
    return _from_line(line, number, _stem(Path(path)), Path(path))


def structure_from_row(row: dict[str, Any]) -> Structure:
    """Build a structure from a row of a snapshot.

    Parameters
    ----------
    row
        Keys ``cell`` (a, b, c in Angstrom, alpha, beta, gamma in degrees), ``species``, ``frac_coords``; or a pymatgen
        structure as a dictionary, alone or under ``structure``.

    Raises
    ------
    StructureError
        Keys are missing, lengths differ, a number is not finite, an element is unknown, or the cell has no volume.
    """
    from pymatgen.core import Lattice, Structure

    if not isinstance(row, dict):
        raise StructureError(
            f"A row must be a JSON object with cell, species and frac_coords, not {type(row).__name__}."
        )
    if isinstance(row.get("structure"), dict):
        return structure_from_row(row["structure"])
    try:
        if "lattice" in row and "sites" in row:
            return _plausible(Structure.from_dict(row))
        missing = [key for key in ("cell", "species", "frac_coords") if key not in row]
        if missing:
            raise StructureError(f"The row lacks {', '.join(missing)}; rows need cell, species and frac_coords.")
        cell = np.asarray(row["cell"], dtype=float)
        coords = np.asarray(row["frac_coords"], dtype=float).reshape(-1, 3)
        species = list(row["species"])
        if cell.shape != (6,) or not np.isfinite(cell).all() or (cell <= 0).any():
            raise StructureError("The row's cell must be six positive numbers: a, b, c, alpha, beta, gamma.")
        if not species:
            raise StructureError("The row holds no atoms.", Reason.EMPTY_STRUCTURE)
        if len(species) != len(coords):
            raise StructureError(f"The row has {len(species)} species but {len(coords)} positions; correct the row.")
        if not np.isfinite(coords).all():
            raise StructureError("A fractional coordinate of the row is not a finite number (NaN); correct the row.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _plausible(Structure(Lattice.from_parameters(*cell), species, coords))
    except _PARSER_ERRORS as error:
        raise StructureError(f"The row is not a structure ({_short(error)}); correct the row.") from error


def _read_bytes(file: Path) -> bytes:
    if not file.name.lower().endswith(".gz"):
        return file.read_bytes()
    with gzip.open(file, "rb") as stream:
        if not file.name.lower().endswith((".jsonl.gz", ".ndjson.gz")):
            return stream.read()
        # A download that broke off still has good lines at its beginning; the torn last one is reported on its own.
        chunks = []
        try:
            while chunk := stream.read1(1 << 20):
                chunks.append(chunk)
        except EOFError:
            if not chunks:
                raise
            chunks.append(b"\n{the gzip file ends before its end}")
        return b"".join(chunks)


def _text(data: bytes) -> str:
    """UTF-8, else Latin-1: older CIFs write authors' names so, and the numbers are ASCII in both."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _stem(file: Path) -> str:
    name = re.sub(r"\.gz$", "", file.name, flags=re.IGNORECASE)
    return re.sub(r"\.(cif|json|jsonl|ndjson|vasp|poscar|contcar)$", "", name, flags=re.IGNORECASE) or file.name


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StructureError(f"{where} is not valid JSON ({_short(error)}); correct or remove it.") from error
    if not isinstance(row, dict):
        raise StructureError(f"{where} must be a JSON object, not {type(row).__name__}; correct or remove it.")
    return row


def _from_line(line: bytes, number: int, stem: str, file: Path) -> NamedStructure:
    source = f"{file}:{number}"
    name = f"{stem}:{number}"
    try:
        row = _row(line, f"Line {number} of {file.name}")
        name = str(row.get("material_id") or name)
        return NamedStructure(name, structure_from_row(row), None, source)
    except CandidateError as error:
        return NamedStructure(name, None, error, source)


def _read_json(data: bytes, stem: str, file: Path) -> list[NamedStructure]:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return [_failed(stem, f"The file {file.name} is not valid JSON ({_short(error)}).", str(file))]
    rows = content if isinstance(content, list) else [content]
    if not rows:
        return [_failed(stem, f"The file {file.name} holds no structure.", str(file), Reason.EMPTY_STRUCTURE)]
    entries = []
    for number, row in enumerate(rows, 1):
        alone = len(rows) == 1
        found = (row.get("material_id") or row.get("entry_id")) if isinstance(row, dict) else None
        name = str(found or (stem if alone else f"{stem}:{number}"))
        source = str(file) if alone else f"{file}:{number}"
        try:
            entries.append(NamedStructure(name, structure_from_row(row), None, source))
        except CandidateError as error:
            entries.append(NamedStructure(name, None, error, source))
    return entries


def _read_cif(text: str, stem: str, file: Path) -> list[NamedStructure]:
    from pymatgen.io.cif import CifFile, CifParser

    # Blocks go to the parser one at a time: one that is broken must not take the others with it.
    try:
        blocks = list(CifFile.from_str(text).data.items())
    except ZeroDivisionError:
        message = f"The file {file.name} is not a CIF that can be read: a table (loop_) has no columns or no rows."
        return [_failed(stem, message, str(file))]
    except _PARSER_ERRORS as error:
        return [_failed(stem, f"The file {file.name} is not a CIF that can be read ({_short(error)}).", str(file))]
    crystals = [
        (name, block) for name, block in blocks if "_cell_length_a" in block.data or "_atom_site_label" in block.data
    ]
    if not crystals:
        message = f"The file {file.name} holds no crystal structure: no data block has a unit cell."
        return [_failed(stem, message, str(file))]
    entries = []
    for header, block in crystals:
        alone = len(crystals) == 1
        name = stem if alone else f"{stem}:{header}"
        source = str(file) if alone else f"{file}:{header}"
        if not any(key.startswith(("_atom_site_fract_x", "_atom_site_cartn_x")) for key in map(str.lower, block.data)):
            message = f"The CIF {name} holds no atoms (no atom positions are listed)."
            entries.append(_failed(name, message, source, Reason.EMPTY_STRUCTURE))
            continue
        try:
            _check_cell(block.data)
            # A point stands for the default, which is 1 for occupancies; pymatgen takes it for 0 and drops the atom.
            occupancies = block.data.get("_atom_site_occupancy", [])
            block.data["_atom_site_occupancy"] = ["1" if text == "." else text for text in occupancies]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = CifParser.from_str(str(block), occupancy_tolerance=FULL_OCCUPANCY).parse_structures(
                    primitive=False, on_error="raise"
                )
            structure = _without_isotopes(_plausible(parsed[0]))
            if missing := _missing_elements(structure, block.data):
                structure.properties["reading_warnings"] = missing
            entries.append(NamedStructure(name, structure, None, source))
        except CandidateError as error:
            entries.append(NamedStructure(name, None, error, source))
        except _PARSER_ERRORS as error:
            if overfull := re.search(r"Occupancy ([\d.]+) exceeded", str(error)):
                message = (
                    f"The occupancies of a site of the CIF {name} add up to {float(overfull[1]):.3g}, more than one; "
                    "correct them."
                )
                entries.append(_failed(name, message, source, Reason.OCCUPANCY_ABOVE_ONE))
                continue
            entries.append(_failed(name, f"The CIF {name} cannot be read ({_short(error)}).", source))
    return entries


def _check_cell(data: Mapping[str, Any]) -> None:
    from pymatgen.io.cif import str2float

    lengths = [str2float(data[f"_cell_length_{axis}"]) for axis in "abc"]
    angles = [str2float(data[f"_cell_angle_{angle}"]) for angle in ("alpha", "beta", "gamma")]
    if not (min(lengths) > 0 and min(angles) > 0 and max(angles) < 180):
        raise StructureError("The cell needs three lengths above 0 and three angles between 0 and 180 degrees.")


def _missing_elements(structure: Structure, data: Mapping[str, Any]) -> list[str]:
    """A sentence where the file's own formula names elements that its atoms lack, hydrogen most often."""
    from pymatgen.core import Composition

    formula = str(data.get("_chemical_formula_sum") or "")
    try:
        named = {_as_hydrogen(element).symbol for element in Composition(formula).elements} if formula else set()
    except _PARSER_ERRORS:
        return []  # a formula that is no formula says nothing
    missing = sorted(named - {element.symbol for element in structure.elements})
    if not missing:
        return []
    return [
        f"The file's formula ({' '.join(formula.split())}) names {', '.join(missing)}, but none of its atoms is; what "
        "follows is for the atoms that it lists."
    ]


def _read_poscar(text: str, stem: str, file: Path) -> NamedStructure:
    from pymatgen.io.vasp import Poscar

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            poscar = Poscar.from_str(text)
        if not poscar.true_names:
            return _failed(
                stem, f"{file.name} does not name its elements (VASP 4 format); add the line of symbols.", str(file)
            )
        return NamedStructure(stem, _plausible(poscar.structure), None, str(file))
    except CandidateError as error:
        return NamedStructure(stem, None, error, str(file))
    except _PARSER_ERRORS as error:
        return _failed(stem, f"{file.name} is not a POSCAR that can be read ({_short(error)}).", str(file))


def _plausible(structure: Structure) -> Structure:
    if len(structure) == 0:
        raise StructureError("The structure holds no atoms.", Reason.EMPTY_STRUCTURE)
    if not (np.isfinite(structure.lattice.matrix).all() and structure.lattice.volume > 1e-3):
        raise StructureError("The cell has no volume; check its lengths and angles.")
    if not np.isfinite(structure.frac_coords).all():
        raise StructureError("An atom's position is not a finite number (NaN); correct the file.")
    dummies = sorted({str(s) for site in structure for s in site.species if type(s).__name__ == "DummySpecies"})
    if dummies:
        raise StructureError(f"The structure holds atoms that are no element ({', '.join(dummies)}); correct the file.")
    return structure


def _without_isotopes(structure: Structure) -> Structure:
    """Deuterium and tritium as hydrogen: their chemistry is the same, and no table or potential knows them."""
    if any(species.symbol in ("D", "T") for species in structure.elements):
        from pymatgen.core import Composition

        for site in structure:
            content: dict[Any, float] = {}
            for species, occupancy in site.species.items():
                key = _as_hydrogen(species)
                content[key] = content.get(key, 0.0) + occupancy
            site.species = Composition(content)
    return structure


def _as_hydrogen(species: Any) -> Any:
    from pymatgen.core import Element, Species

    if species.symbol not in ("D", "T"):
        return species
    charge = getattr(species, "oxi_state", None) if isinstance(species, Species) else None
    return Element("H") if charge is None else Species("H", charge)


def _failed(name: str, message: str, source: str, reason: Reason | None = None) -> NamedStructure:
    return NamedStructure(name, None, StructureError(message, reason), source)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
