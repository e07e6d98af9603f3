"""The document of a DFT-NEB that was computed elsewhere, and the check that it belongs to its material."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Any

from ..transport.errors import CandidateError, Reason
from .band_records import band_extxyz, band_record
from .documents import DftBandDocument, HandoffDocument, ImageRecord
from .espresso_results import EspressoBand, is_espresso, read_espresso_band
from .stage import package_versions, primitive_cell
from .vasp_results import VaspBand, read_band

if TYPE_CHECKING:
    from pathlib import Path

    from pymatgen.core import Structure

UNNAMED_HOP = "unnamed"
_PROGRAMS = {"vasp": "VASP", "espresso": "Quantum ESPRESSO"}


def check_host(structure: Structure, host: Structure, ion: str) -> None:
    """Make sure that the cell of a band is a supercell of the host that lacks some of the mobile ions.

    Cells may differ by 5 % in length and 3 degrees, and atoms may have relaxed.

    Parameters
    ----------
    structure
        An image of the band.
    host
        The material.
    ion
        Element symbol of the mobile ion.

    Raises
    ------
    CandidateError
        It is not (reason ``OTHER_MATERIAL``).
    """
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    cell = primitive_cell(host).copy()
    cell.remove_oxidation_states()
    theirs, ours = structure.composition.element_composition, cell.composition.element_composition
    what = f"The band is one of {structure.composition.reduced_formula} ({theirs.formula})"
    copies = {
        element: theirs[element] / amount for element, amount in ours.items() if element.symbol != ion and amount > 0
    }
    number = round(next(iter(copies.values()))) if copies else math.ceil(len(structure) / len(cell))
    fits = set(theirs) == set(ours) and number > 0 and all(abs(n - number) < 1e-6 for n in copies.values())
    if not fits:
        raise CandidateError(
            f"{what}, not of {ours.reduced_formula}; name the material that it belongs to.", Reason.OTHER_MATERIAL
        )
    missing = round(number * ours[ion] - theirs[ion])
    if missing < 1:
        raise CandidateError(
            f"{what} and has no {ion} vacancy against {ours.reduced_formula}; only vacancy hops can be taken in.",
            Reason.OTHER_MATERIAL,
        )
    counted: Any = next(iter(copies)).symbol if copies else "volume"  # its annotation forgets that elements may count
    matcher = StructureMatcher(
        ltol=0.05,
        angle_tol=3,
        primitive_cell=False,
        scale=False,
        attempt_supercell=True,
        allow_subset=True,
        supercell_size=counted,
        comparator=ElementComparator(),
    )
    try:
        same = matcher.fit(cell, structure)
    except ValueError:  # what the matcher raises where no supercell has the band's number of atoms
        same = False
    if not same:
        raise CandidateError(
            f"{what}, but its crystal is not that of the material: no supercell of the host has this cell with its "
            "atoms in these places; name the material that it belongs to.",
            Reason.OTHER_MATERIAL,
        )


def read_document(folder: Path, host: Structure, ion: str, handoff: HandoffDocument | None = None) -> DftBandDocument:
    """Read the folder of a DFT-NEB as the result of a material.

    Parameters
    ----------
    folder
        Folder in which VASP or Quantum ESPRESSO ran.
    host
        The material.
    ion
        Element symbol of the mobile ion.
    handoff
        What the dft stage wrote for the material, if it did.

    Returns
    -------
    DftBandDocument
        Barriers, or the reason why there are none with everything that could be read.

    Raises
    ------
    CandidateError
        The folder holds no results, or those of another material.
    HopflowError
        Its record of the hand-off cannot be read.
    """
    from ..transport.structures import structure_hash

    started = time.perf_counter()
    found: VaspBand | EspressoBand = read_espresso_band(folder, ion) if is_espresso(folder) else read_band(folder, ion)
    if found.structure is not None:
        check_host(found.structure, host, ion)
    metadata = found.manifest.get("metadata", {})
    hop_id = metadata.get("hop_id")
    records = image_records(found)
    band = found.band
    species = [] if found.structure is None else list(dict.fromkeys(s.specie.symbol for s in found.structure))
    functional = found.functional
    warnings = list(found.warnings)
    if handoff is not None and handoff.hop_id is not None and hop_id is not None and handoff.hop_id != hop_id:
        warnings.append(f"The results are of hop {hop_id}, the inputs that the stage wrote of hop {handoff.hop_id}.")
    machine_learned = metadata.get("barrier_machine_learned_eV")
    if machine_learned is None and handoff is not None:
        machine_learned = handoff.barrier_machine_learned_eV
    barriers = {
        name: None if band is None else getattr(band, name)
        for name in DftBandDocument.model_fields
        if name.startswith(("barrier_", "splined_")) and name != "barrier_machine_learned_eV"
    }
    facts: dict[str, Any] = {
        "functional": functional,
        "hubbard_u_eV": found.hubbard_u_eV(species),
        "cutoff_eV": found.cutoff_eV,
        "kpoints": found.kpoints,
        "force_limit_eV_per_A": found.force_limit_eV_per_A,
        **barriers,
        "reason": None if found.reason is None else str(found.reason),
        "message": found.message,
        "climbing_image": None if band is None else band.climbing_image,
        "images_expected": len(found.outputs),
        "images": [record.model_dump(mode="json") for record in records],
        "hop_id": hop_id,
    }
    distance = metadata.get("hop_distance_A") or found.manifest.get("result", {}).get("hop_length_A")
    bands = []
    if band is not None:
        length = distance if distance is not None else _hop_length_A(band.images)
        bands.append(band_record(band, hop_id or UNNAMED_HOP, length, metadata.get("hop_multiplicity")))
    host_hash = structure_hash(host)
    return DftBandDocument(
        stage="dft",
        formula=host.composition.reduced_formula,
        ion=ion,
        atoms=len(host),
        structure_hash=host_hash,
        content_key=_content_key(host_hash, ion, facts, band),
        method=f"{_PROGRAMS[found.engine]} NEB ({functional or 'functional of the potentials'}), computed elsewhere",
        settings={key: value for key, value in found.tags.items() if key != "MAGMOM" and _is_plain(value)},
        versions=package_versions("pymatgen", "ase"),
        weights_sha256=None,
        seconds=time.perf_counter() - started,
        converged=band is not None and band.converged,
        warnings=warnings,
        engine=found.engine,
        folder=str(folder.resolve()),
        bands=bands,
        images_extxyz=None if band is None else band_extxyz(band),
        barrier_machine_learned_eV=machine_learned,
        handoff=handoff,
        **facts,
    )


def image_records(found: VaspBand | EspressoBand) -> list[ImageRecord]:
    """What the document says of each image."""
    records = []
    for number, (output, force) in enumerate(zip(found.outputs, found.image_forces_eV_per_A, strict=True)):
        within = None if force is None else force <= found.force_limit_eV_per_A
        file = None if output.file is None else output.file
        inside = file is not None and file.is_relative_to(found.folder)
        records.append(
            ImageRecord(
                image=number,
                energy_eV=output.energy_eV,
                steps=output.steps,
                max_force_eV_per_A=force,
                electronically_converged=output.electronically_converged,
                ionically_converged=within,
                finished=output.finished,
                read_from=str(file.relative_to(found.folder)) if file is not None and inside else None,
                problem=output.problem,
            )
        )
    return records


def standing(document: DftBandDocument) -> tuple[bool, int, int, float]:
    """How far a calculation came; of two of one material the one that sorts higher counts.

    Returns
    -------
    tuple
        Whether the band converged, images within the force limit, images with an energy, less the largest force.
    """
    forces = [image.max_force_eV_per_A for image in document.images if image.max_force_eV_per_A is not None]
    return (
        document.converged,
        sum(bool(image.ionically_converged) for image in document.images),
        sum(image.energy_eV is not None for image in document.images),
        -max(forces, default=math.inf),
    )


def replaces(new: DftBandDocument, old: DftBandDocument) -> bool:
    """Whether a later result counts instead of an earlier one: it came farther, or converged with other settings."""
    other_settings = any(
        getattr(new, name) != getattr(old, name) for name in ("functional", "hubbard_u_eV", "cutoff_eV", "kpoints")
    )
    return new.converged if old.converged and other_settings else standing(new) >= standing(old)


def _content_key(host_hash: str, ion: str, facts: dict[str, Any], band: Any) -> str:
    """SHA-256 of what was read; the folder's place does not enter."""
    positions = None if band is None else [image.get_positions().round(5).tolist() for image in band.images]
    text = json.dumps([host_hash, ion, "dft", facts, positions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _hop_length_A(images: list[Any]) -> float:
    """How far the atom that moves most goes between the end points, in Angstrom."""
    import numpy as np

    return float(np.linalg.norm(images[-1].get_positions() - images[0].get_positions(), axis=1).max())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
