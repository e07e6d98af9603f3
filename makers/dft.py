"""The dft stage: hand the machine-learned band over to a DFT-NEB."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..transport.errors import CandidateError, Reason
from .documents import BandDocument, BandRecord, HandoffDocument, StageDocument
from .folders import MANIFEST, hop_folder_name, written_whole
from .settings import HandoffStageSettings
from .stage import StageMaker

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


METHODS = {"neb": "NEB", "approx_neb": "ApproxNEB"}


@dataclass
class HandoffMaker(StageMaker):
    """Inputs of a VASP NEB that starts from the band of the neb stage."""

    name: str = "dft"
    settings: HandoffStageSettings = field(default_factory=HandoffStageSettings)

    stage: ClassVar[str] = "dft"
    document: ClassVar[type[StageDocument]] = HandoffDocument
    packages: ClassVar[tuple[str, ...]] = ("atomate2", "pymatgen", "ase")
    category: ClassVar[str] = "cpu"
    fan_out: ClassVar[bool] = True
    # The answer is a folder; another campaign's folder is no answer to this one.
    reusable: ClassVar[bool] = False

    def needs(self) -> tuple[str, ...]:
        """The band comes from the neb stage."""
        return ("neb",)

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Write the inputs and say where they are.

        Raises
        ------
        CandidateError
            There is no band to start from.
        """
        from ..transport.structures import structure_hash
        from .vasp_handoff import HandoffSettings, refuse_to_overwrite, write_handoff

        settings = self.settings
        band, handed = handed_bands(prior, settings.hops)
        name = f"{structure.composition.reduced_formula}-{structure_hash(structure)[:8]}"
        home = Path(settings.folder) / name
        facts = {"formula": structure.composition.reduced_formula, **facts_of_band(band)}
        inputs = HandoffSettings(
            method=settings.method,
            functional=settings.functional,
            vacancy_charge=settings.vacancy_charge,
            ion=self.ion,
            vtst=settings.vtst,
        )
        if settings.hops == "limiting":
            results = [write_handoff(handed[0].images, home, inputs, {**facts, **handed[0].facts()})]
            files = sorted([*results[0].hashes, MANIFEST])
        else:
            refuse_to_overwrite(home)
            every = [each.hop_id for each in handed]
            with written_whole(home) as staging:
                results, files = [], []
                for each in handed:
                    about = {**facts, **each.facts(), "hops_of_path": every, "hops_without_band": hops_left_out(band)}
                    place = hop_folder_name(each.hop_id)
                    results.append(write_handoff(each.images, staging / place, inputs, about))
                    files += [f"{place}/{file}" for file in sorted([*results[-1].hashes, MANIFEST])]
        notes = dict.fromkeys(note for result in results for note in result.notes)
        reasons = dict.fromkeys(result.potcar_reason for result in results if result.potcar == "spec")
        return {
            "method": f"VASP {METHODS[settings.method]} inputs ({settings.functional}) from a {band.potential} band",
            "folder": str(home.resolve()),
            "files": files,
            "functional": settings.functional,
            "potcar": results[0].potcar,
            "images_written": sum(result.images + 2 for result in results),
            "barrier_machine_learned_eV": band.barrier_1d_eV,
            "hop_id": handed[0].hop_id,
            "hop_ids": [each.hop_id for each in handed] if settings.hops == "all" else [],
            "warnings": [*notes, *reasons, *missing_bands(band, settings.hops)],
        }


@dataclass(frozen=True)
class HandedBand:
    """A band that the neb stage hands over to DFT.

    Attributes
    ----------
    images
        The band, end points included.
    hop_id
        Its hop.
    record
        What the neb stage says of the band; None where it says nothing.
    barrier_eV
        Machine-learned barrier, highest less lowest image.
    """

    images: list[Atoms]
    hop_id: str
    record: BandRecord | None
    barrier_eV: float | None

    def facts(self) -> dict[str, Any]:
        """What whoever brings results back must know of the hop."""
        return {
            "barrier_machine_learned_eV": self.barrier_eV,
            "hop_id": self.hop_id or None,
            "hop_distance_A": None if self.record is None else self.record.distance_A,
            "hop_multiplicity": None if self.record is None else self.record.multiplicity,
        }


def handed_bands(
    prior: Mapping[str, StageDocument], hops: Literal["limiting", "all"]
) -> tuple[BandDocument, list[HandedBand]]:
    """Return the document of the neb stage and its bands that DFT begins from, that of the limiting hop first.

    Parameters
    ----------
    prior
        Documents of earlier stages.
    hops
        ``limiting`` or ``all``.

    Raises
    ------
    CandidateError
        There is no band.
    """
    from ase.io import read

    band = prior.get("neb")
    if not isinstance(band, BandDocument) or band.images_extxyz is None:
        raise CandidateError("A DFT band needs the band of the neb stage; run neb first.")
    if band.mechanism != "vacancy":
        raise CandidateError(
            "DFT begins from bands of vacancy hops; run the neb stage with `mechanism: vacancy`, or leave dft out.",
            Reason.INCONSISTENT_BAND,
        )
    texts = [band.images_extxyz, *(band.other_bands_extxyz.values() if hops == "all" else ())]
    found = []
    for number, text in enumerate(texts):
        images: Any = read(io.StringIO(text), index=":", format="extxyz")
        hop_id = images[0].info.get("path_id") or ""
        record = next((record for record in band.bands if record.hop_id == hop_id), None)
        barrier_eV = band.barrier_1d_eV if number == 0 or record is None else record.barrier_span_eV
        found.append(HandedBand(images, hop_id, record, barrier_eV))
    return band, found


def facts_of_band(band: BandDocument) -> dict[str, Any]:
    """What a folder says of the machine-learned bands, for whoever brings results back."""
    names = ("structure_hash", "potential", "weights_sha256")
    return {"content_key_neb": band.content_key, **{name: getattr(band, name) for name in names}}


def hops_left_out(band: BandDocument) -> list[str]:
    """Hops of the path that the neb stage has no band of."""
    known = {record.hop_id for record in band.bands}
    return [hop_id for hop_id in band.hops_on_path if hop_id not in known]


def missing_bands(band: BandDocument, hops: Literal["limiting", "all"]) -> list[str]:
    """Say which hops of the path DFT does not begin, because the neb stage has no band of them."""
    left = hops_left_out(band)
    if hops == "limiting" or not left:
        return []
    return [
        f"The neb stage had no band of {len(left)} of the path's hops ({', '.join(left)}), so DFT has none either; "
        "raise its max_hops."
    ]
