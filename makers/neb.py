"""The neb stage: climbing-image bands of the hops that a material's cheapest path needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..transport.errors import NotConvergedError, Reason
from .band_records import LOWER_SITE_EV, band_barrier, band_extxyz, band_record, site_below_ends_eV
from .documents import BandDocument, BandRecord, HopBarrierDocument, StageDocument
from .settings import BandStageSettings, HopBarrierStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.hops import Hop, HopNetwork
    from ..transport.neb import BandResult


@dataclass
class BandMaker(StageMaker):
    """Climbing-image NEB of hops with relaxed end points."""

    name: str = "neb"
    settings: BandStageSettings = field(default_factory=BandStageSettings)

    stage: ClassVar[str] = "neb"
    document: ClassVar[type[StageDocument]] = BandDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "mace-torch", "matgl", "ase", "pymatgen")
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True

    def needs_the_ion(self) -> bool:
        """One ion more may be inserted into a crystal without any."""
        return self.settings.mechanism == "vacancy"

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return the bands and the barriers that they make.

        The barrier model ``fast`` ranks the hops; bands are run for those on the path that it finds cheapest, the
        limiting hop first. The material's barrier is the highest of them; directions that only further hops open stay
        unknown.

        Raises
        ------
        NotConvergedError
            A band that the path needs has no barrier; the message names the reason.
        """
        from ..potentials.registry import load_potential
        from ..transport.hops import enumerate_hops, hop_path, limiting_hops, network_barriers
        from ..transport.interstitial_hops import enumerate_interstitial_hops
        from ..transport.neb import BandSettings, run_band

        settings = self.settings
        interstitial = settings.mechanism == "interstitial"
        network = (enumerate_interstitial_hops if interstitial else enumerate_hops)(structure, self.ion)
        needed = limiting_hops(network, _predicted_barriers(network, settings.min_length_A, prior.get("gnn")))
        potential = load_potential(settings.potential, dtype=settings.dtype)
        band_settings = BandSettings(
            images=settings.images,
            interpolation=settings.interpolation,
            max_force_eV_per_A=settings.max_force_eV_per_A,
            max_steps=settings.max_steps,
            min_length_A=settings.min_length_A,
        )
        warnings: list[str] = []
        if interstitial and len(network.hops) > 1:
            warnings.append("The hops of the path were chosen by a barrier model that learned from vacancy hops.")
        results: dict[int, BandResult] = {}
        barriers = np.full(len(network.hops), np.inf)
        for index in needed:
            if sum(result.converged for result in results.values()) == settings.max_hops:
                break
            hop = network.hops[index]
            path = hop_path(network, hop, images=settings.images + 2, min_length_A=settings.min_length_A)
            place = None if checkpoint is None else checkpoint / hop.hop_id
            results[index] = run_band(path, potential, band_settings, checkpoint=place)
            if results[index].endpoints_merged:
                # Nothing lies between two sites that relax into one, so that the path is open there.
                barriers[index] = 0.0
                warnings.append(f"The sites of hop {hop.hop_id} relax into one; the path is taken to be open there.")
                continue
            barriers[index] = band_barrier(results[index], hop.hop_id, ends_are_sites=not interstitial)
            depth = site_below_ends_eV(results[index])
            if depth > LOWER_SITE_EV:
                warnings.append(f"On hop {hop.hop_id} the ion rests between the voids, {depth:.2f} eV lower.")
        banded = {index: result for index, result in results.items() if result.converged}
        if not banded:
            raise NotConvergedError(
                "The sites of every hop that the path needs relax into one, so there is no band; relax the structure "
                "and run it again.",
                Reason.ENDPOINT_RAN_AWAY,
            )
        left = [index for index in needed if index not in results]
        if left:
            barriers[left] = max(barriers[index] for index in banded)
            warnings.append(
                f"The cheapest path needs {len(needed)} unique hops; bands were run for {len(results)}, and the others "
                "are taken to be no higher (max_hops)."
            )
        percolation = network_barriers(network, barriers.tolist())
        values = [finite_or_none(barrier) for barrier in percolation.thresholds_eV]
        limiting = max(banded, key=lambda index: barriers[index])
        return {
            "method": f"climbing-image NEB of {settings.mechanism} hops, relaxed end points, {potential.method}",
            "barrier_1d_eV": values[0],
            "barrier_2d_eV": values[1],
            "barrier_3d_eV": values[2],
            "dimension": sum(value is not None for value in values),
            "potential": potential.name,
            "mechanism": settings.mechanism,
            "bands": [_record(network.hops[index], result) for index, result in results.items()],
            "images_extxyz": band_extxyz(results[limiting]),
            "hops_on_path": [network.hops[index].hop_id for index in needed],
            "other_bands_extxyz": {
                network.hops[index].hop_id: band_extxyz(result) for index, result in banded.items() if index != limiting
            },
            "warnings": warnings,
        }


def _record(hop: Hop, result: BandResult) -> BandRecord:
    return band_record(result, hop.hop_id, hop.distance_A, hop.multiplicity)


def _predicted_barriers(network: HopNetwork, min_length_A: float, known: StageDocument | None) -> list[float]:
    """Barriers of the hops by the model ``fast``, in eV; from the gnn stage's document where it holds just these."""
    from .gnn import HopBarrierMaker
    from .hop_predictions import predict_hop_barriers

    asked = HopBarrierStageSettings(min_length_A=min_length_A)
    if isinstance(known, HopBarrierDocument):
        same = known.settings == asked.model_dump(mode="json") and known.ion == network.ion
        if same and known.weights_sha256 == HopBarrierMaker(settings=asked).weights_sha256():
            barriers = {hop.hop_id: hop.barrier_eV for hop in known.hops}
            if set(barriers) == {hop.hop_id for hop in network.hops}:
                return [barriers[hop.hop_id] for hop in network.hops]
    predicted = predict_hop_barriers(
        network, min_length_A, asked.model, asked.max_probed_hops, asked.common_error_share
    )
    return [float(barrier) for barrier in predicted.barriers_eV]
