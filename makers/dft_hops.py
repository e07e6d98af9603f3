"""The hops whose DFT bands a folder holds: read, found to be of the material, and judged together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..transport.errors import CandidateError, Reason
from .band_records import band_record
from .documents import BandRecord, ImageRecord
from .espresso_results import EspressoBand, is_espresso, read_espresso_band
from .folders import hop_folders, read_manifest
from .stage import primitive_cell
from .vasp_results import VaspBand, read_band

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.band_result import BandResult
    from .vasp_checks import ComputedBand

UNNAMED_HOP = "unnamed"


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


@dataclass(frozen=True)
class ReadHop:
    """What the folder of one hop tells.

    Attributes
    ----------
    folder
        The folder.
    found
        Its results; None where it has none.
    missing
        Why it has none.
    several
        Whether it is one of several hops of a path, so that messages must name it.
    """

    folder: Path
    found: VaspBand | EspressoBand | None
    missing: CandidateError | None
    several: bool

    @property
    def manifest(self) -> dict[str, Any]:
        """What the dft stage wrote into the folder."""
        return read_manifest(self.folder) if self.found is None else self.found.manifest

    @property
    def metadata(self) -> dict[str, Any]:
        """What that says of the hop."""
        return self.manifest.get("metadata", {})

    @property
    def hop_id(self) -> str | None:
        """Name of the hop; None for a folder from elsewhere."""
        return self.metadata.get("hop_id")

    @property
    def band(self) -> BandResult | None:
        """The band; None where an image has no energy."""
        return None if self.found is None else self.found.band

    @property
    def species(self) -> list[str]:
        """Elements in the order of the files."""
        structure = None if self.found is None else self.found.structure
        return [] if structure is None else list(dict.fromkeys(site.specie.symbol for site in structure))

    @property
    def reason(self) -> Reason | None:
        """Why the hop has no barrier."""
        if self.found is not None:
            return self.found.reason
        return None if self.missing is None else self.missing.reason

    @property
    def message(self) -> str | None:
        """The same as a sentence."""
        message = str(self.missing) if self.found is None else self.found.message
        return f"Hop {self.hop_id}: {message}" if self.several and message is not None else message

    @property
    def barrier_eV(self) -> float | None:
        """Highest less lowest image."""
        return None if self.band is None else self.band.barrier_span_eV

    def warnings(self) -> list[str]:
        """What a reader must know."""
        return [] if self.found is None else list(self.found.warnings)

    def fields(self) -> dict[str, Any]:
        """What a document says of each hop of a path."""
        expected = int(self.manifest.get("result", {}).get("images", -2)) + 2
        return {
            "reason": None if self.reason is None else str(self.reason),
            "message": self.message,
            "climbing_image": None if self.band is None else self.band.climbing_image,
            "images_expected": expected if self.found is None else len(self.found.outputs),
            "images": [] if self.found is None else [r.model_dump(mode="json") for r in image_records(self.found)],
            "hop_id": self.hop_id,
        }

    def record(self) -> BandRecord | None:
        """Its band; None where an image has no energy."""
        if self.band is None:
            return None
        length = self.metadata.get("hop_distance_A") or self.manifest.get("result", {}).get("hop_length_A")
        if length is None:
            length = _hop_length_A(self.band.images)
        return band_record(self.band, self.hop_id or UNNAMED_HOP, length, self.metadata.get("hop_multiplicity"))


def read_hops(folder: Path, host: Structure, ion: str) -> list[ReadHop]:
    """Read the bands of a folder; one at least has results, and all are of the host."""
    places = hop_folders(folder)
    hops = []
    for place in places:
        found: VaspBand | EspressoBand
        try:
            found = read_espresso_band(place, ion) if is_espresso(place) else read_band(place, ion)
        except CandidateError as error:
            if len(places) == 1:
                raise
            hops.append(ReadHop(place, None, error, True))
            continue
        if found.structure is not None:
            check_host(found.structure, host, ion)
        hops.append(ReadHop(place, found, None, len(places) > 1))
    if all(hop.found is None for hop in hops):
        raise CandidateError(
            f"{folder} holds no results of any of its {len(hops)} hops; run their bands, then bring it back.",
            Reason.NO_RESULTS,
        )
    return hops


def why_no_barrier(folder: Path, hops: list[ReadHop]) -> CandidateError | None:
    """Why the path has no barrier; None where it has one."""
    for hop in hops:
        if hop.reason is not None:
            return CandidateError(hop.message or hop.reason.sentence, hop.reason)
    asked = dict.fromkeys(name for hop in hops for name in hop.metadata.get("hops_of_path", ()))
    absent = [name for name in asked if name not in {hop.hop_id for hop in hops}]
    if absent:
        return CandidateError(
            f"{folder} holds {len(hops)} of the {len(asked)} hops of the path and not {', '.join(absent)}; name the "
            "folder that holds all of them.",
            Reason.INCOMPLETE_RESULTS,
        )
    known = [(hop, hop.found) for hop in hops if hop.found is not None]
    settings = [
        f"{found.functional}, {found.cutoff_eV} eV, U {found.hubbard_u_eV(hop.species)}" for hop, found in known
    ]
    for (hop, _), its in zip(known, settings, strict=True):
        if its != settings[0]:
            return CandidateError(
                f"Hops {known[0][0].hop_id} and {hop.hop_id} were computed with different settings ({settings[0]}; "
                f"{its}), so that their barriers cannot be compared; compute all alike.",
                Reason.INCONSISTENT_BAND,
            )
    return None


def image_records(found: ComputedBand) -> list[ImageRecord]:
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


def _hop_length_A(images: list[Any]) -> float:
    """How far the atom that moves most goes between the end points, in Angstrom."""
    import numpy as np

    return float(np.linalg.norm(images[-1].get_positions() - images[0].get_positions(), axis=1).max())
