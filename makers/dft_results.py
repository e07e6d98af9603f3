"""The document of a DFT-NEB that was computed elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Any

from .band_records import band_extxyz
from .dft import METHODS
from .dft_hops import ReadHop, read_hops, why_no_barrier
from .documents import DftBandDocument, DftHopRecord, HandoffDocument
from .folders import is_approx_neb
from .stage import package_versions

if TYPE_CHECKING:
    from pathlib import Path

    from pymatgen.core import Structure

    from ..transport.band_result import BandResult

_PROGRAMS = {"vasp": "VASP", "espresso": "Quantum ESPRESSO"}


def read_document(folder: Path, host: Structure, ion: str, handoff: HandoffDocument | None = None) -> DftBandDocument:
    """Read the folder of a DFT-NEB as the result of a material.

    Parameters
    ----------
    folder
        Folder in which VASP or Quantum ESPRESSO ran a band, or that holds such folders of the hops of a path.
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
    hops = read_hops(folder, host, ion)
    lost = why_no_barrier(folder, hops)
    # the hop that limits stands first; where there is no barrier, the one that says why
    hops.sort(key=lambda hop: (hop.reason is None, -(hop.barrier_eV or 0.0)))
    first, *others = hops
    found, species = next((hop.found, hop.species) for hop in hops if hop.found is not None)
    barriers = {name: None if lost or first.band is None else getattr(first.band, name) for name in _BARRIERS}
    approx = is_approx_neb(found.manifest)
    facts: dict[str, Any] = {
        "approx_neb": approx,
        "functional": found.functional,
        "hubbard_u_eV": found.hubbard_u_eV(species),
        "cutoff_eV": found.cutoff_eV,
        "kpoints": found.kpoints,
        "force_limit_eV_per_A": found.force_limit_eV_per_A,
        **barriers,
        **first.fields(),
        **({} if lost is None else {"reason": str(lost.reason), "message": str(lost)}),
    }
    below = [hop.fields() for hop in others]
    host_hash = structure_hash(host)
    warnings = [each for hop in hops for each in hop.warnings()] + _other_hops_than_written(hops, handoff)
    left_out = list(dict.fromkeys(name for hop in hops for name in hop.metadata.get("hops_without_band", ())))
    if left_out:
        warnings.append(f"The path needs further hops, of which there is no band: {', '.join(left_out)}.")
    machine_learned = first.metadata.get("barrier_machine_learned_eV")
    if machine_learned is None and handoff is not None:
        machine_learned = handoff.barrier_machine_learned_eV
    how = f"{_PROGRAMS[found.engine]} {METHODS['approx_neb' if approx else 'neb']}"
    return DftBandDocument(
        stage="dft",
        formula=host.composition.reduced_formula,
        ion=ion,
        atoms=len(host),
        structure_hash=host_hash,
        content_key=_content_key(host_hash, ion, [facts, *below], [hop.band for hop in hops]),
        method=f"{how} ({found.functional or 'functional of the potentials'}), computed elsewhere",
        settings={key: value for key, value in found.tags.items() if key != "MAGMOM" and _is_plain(value)},
        versions=package_versions("pymatgen", "ase"),
        weights_sha256=None,
        seconds=time.perf_counter() - started,
        converged=lost is None,
        warnings=list(dict.fromkeys(warnings)),
        engine=found.engine,
        folder=str(folder.resolve()),
        bands=[record for hop in hops if (record := hop.record()) is not None],
        images_extxyz=None if first.band is None else band_extxyz(first.band),
        barrier_machine_learned_eV=machine_learned,
        other_hops=[
            DftHopRecord(
                **fields,
                folder=str(hop.folder.relative_to(folder)),
                images_extxyz=None if hop.band is None else band_extxyz(hop.band),
                barrier_machine_learned_eV=hop.metadata.get("barrier_machine_learned_eV"),
            )
            for hop, fields in zip(others, below, strict=True)
        ],
        handoff=handoff,
        **facts,
    )


_BARRIERS = tuple(
    name
    for name in DftBandDocument.model_fields
    if name.startswith(("barrier_", "splined_")) and name != "barrier_machine_learned_eV"
)


def _other_hops_than_written(hops: list[ReadHop], handoff: HandoffDocument | None) -> list[str]:
    """Say where results are of other hops than the inputs that the stage wrote."""
    if handoff is None:
        return []
    written = {hop_id for hop_id in (*handoff.hop_ids, handoff.hop_id) if hop_id is not None}
    read = {hop.hop_id for hop in hops if hop.hop_id is not None}
    if not written or not read or read <= written:
        return []
    return [
        f"The results are of hop {', '.join(sorted(read))}, the inputs that the stage wrote of hop "
        f"{', '.join(sorted(written))}."
    ]


def standing(document: DftBandDocument) -> tuple[bool, int, int, float]:
    """How far a calculation came; of two of one material the one that sorts higher counts.

    Returns
    -------
    tuple
        Whether the band converged, images within the force limit, images with an energy, less the largest force.
    """
    images = [*document.images, *(image for hop in document.other_hops for image in hop.images)]
    forces = [image.max_force_eV_per_A for image in images if image.max_force_eV_per_A is not None]
    return (
        document.converged,
        sum(bool(image.ionically_converged) for image in images),
        sum(image.energy_eV is not None for image in images),
        -max(forces, default=math.inf),
    )


def replaces(new: DftBandDocument, old: DftBandDocument) -> bool:
    """Whether a later result counts instead of an earlier one: it came farther, or converged with other settings."""
    other_settings = any(
        getattr(new, name) != getattr(old, name)
        for name in ("approx_neb", "functional", "hubbard_u_eV", "cutoff_eV", "kpoints")
    )
    return new.converged if old.converged and other_settings else standing(new) >= standing(old)


def _content_key(host_hash: str, ion: str, facts: list[dict[str, Any]], bands: list[BandResult | None]) -> str:
    """SHA-256 of what was read; the folder's place does not enter."""
    positions = [band and [image.get_positions().round(5).tolist() for image in band.images] for band in bands]
    # sentences name the folder
    told = [{key: value for key, value in each.items() if key != "message"} for each in facts]
    text = json.dumps([host_hash, ion, "dft", told, positions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
