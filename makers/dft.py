"""The dft stage: hand the machine-learned band over to a DFT-NEB."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..transport.errors import CandidateError
from .documents import BandDocument, HandoffDocument, StageDocument
from .settings import HandoffStageSettings
from .stage import StageMaker

if TYPE_CHECKING:
    from pymatgen.core import Structure


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
        from ase.io import read

        from ..transport.structures import structure_hash
        from .vasp_handoff import HandoffSettings, write_handoff

        band = prior.get("neb")
        if not isinstance(band, BandDocument) or band.images_extxyz is None:
            raise CandidateError("The hand-off needs the band of the neb stage; run neb first.")
        images: Any = read(io.StringIO(band.images_extxyz), index=":", format="extxyz")
        name = f"{structure.composition.reduced_formula}-{structure_hash(structure)[:8]}"
        settings = self.settings
        hop = hop_of_band(band, images[0].info.get("path_id"))
        result = write_handoff(
            images,
            Path(settings.folder) / name,
            HandoffSettings(
                functional=settings.functional,
                vacancy_charge=settings.vacancy_charge,
                ion=self.ion,
                vtst=settings.vtst,
            ),
            metadata={
                "formula": structure.composition.reduced_formula,
                "barrier_machine_learned_eV": band.barrier_1d_eV,
                "potential": band.potential,
                "weights_sha256": band.weights_sha256,
                "content_key_neb": band.content_key,
                "structure_hash": band.structure_hash,
                **hop,
            },
        )
        return {
            "method": f"VASP NEB inputs ({settings.functional}) from a {band.potential} band",
            "folder": str(result.folder.resolve()),
            "files": sorted([*result.hashes, "handoff.json"]),
            "functional": settings.functional,
            "potcar": result.potcar,
            "images_written": result.images + 2,
            "barrier_machine_learned_eV": band.barrier_1d_eV,
            "hop_id": hop["hop_id"],
            "warnings": [*result.notes, result.potcar_reason] if result.potcar == "spec" else [*result.notes],
        }


def hop_of_band(band: BandDocument, hop_id: str | None) -> dict[str, Any]:
    """What the neb stage says of the hop that the images belong to, for whoever brings results back."""
    record = next((record for record in band.bands if record.hop_id == hop_id), None)
    return {
        "hop_id": hop_id,
        "hop_distance_A": None if record is None else record.distance_A,
        "hop_multiplicity": None if record is None else record.multiplicity,
    }
