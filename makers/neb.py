"""The neb stage: climbing-image bands of the hops that a material's cheapest path needs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..transport.errors import NotConvergedError, Reason
from .documents import BandDocument, BandRecord, StageDocument
from .settings import BandStageSettings
from .stage import StageMaker, finite_or_none

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.hops import Hop
    from ..transport.neb import BandResult


LOWER_SITE_EV = 0.1
"""A band that dips farther than this below both end points joins sites that are none."""


@dataclass
class BandMaker(StageMaker):
    """Climbing-image NEB of vacancy hops with relaxed end points."""

    name: str = "neb"
    settings: BandStageSettings = field(default_factory=BandStageSettings)

    stage: ClassVar[str] = "neb"
    document: ClassVar[type[StageDocument]] = BandDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "mace-torch", "matgl", "ase", "pymatgen")
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return the bands and the barriers that they make.

        The path network ranks the hops; bands are run for those on the path that it finds cheapest, the limiting hop
        first. The material's barrier is the highest of them; directions that only further hops open stay unknown.

        Raises
        ------
        NotConvergedError
            A band that the path needs has no barrier; the message names the reason.
        """
        from ..potentials.registry import load_potential
        from ..transport.hops import enumerate_hops, hop_path, limiting_hops, network_barriers
        from ..transport.neb import BandSettings, run_band
        from .gnn import predict_hop_barriers

        settings = self.settings
        network = enumerate_hops(structure, self.ion)
        prior_barriers, _ = predict_hop_barriers(network, settings.min_length_A)
        needed = limiting_hops(network, prior_barriers.tolist())
        potential = load_potential(settings.potential, dtype=settings.dtype)
        band_settings = BandSettings(
            images=settings.images,
            max_force_eV_per_A=settings.max_force_eV_per_A,
            max_steps=settings.max_steps,
            min_length_A=settings.min_length_A,
        )
        warnings: list[str] = []
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
            barriers[index] = _barrier(hop, results[index])
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
            "method": f"climbing-image NEB of vacancy hops, relaxed end points, {potential.method}",
            "barrier_1d_eV": values[0],
            "barrier_2d_eV": values[1],
            "barrier_3d_eV": values[2],
            "dimension": sum(value is not None for value in values),
            "potential": potential.name,
            "bands": [_record(network.hops[index], result) for index, result in results.items()],
            "images_extxyz": _extxyz(results[limiting]),
            "warnings": warnings,
        }


def _barrier(hop: Hop, result: BandResult) -> float:
    """Return the barrier of a band, in eV, or say why it has none."""
    if not result.converged or result.barrier_span_eV is None:
        raise NotConvergedError(
            f"The band of hop {hop.hop_id} has no barrier: {result.message}", result.reason or Reason.NOT_CONVERGED
        )
    depth = float(min(result.energies_eV[0], result.energies_eV[-1]) - result.energies_eV.min())
    if depth > LOWER_SITE_EV:
        raise NotConvergedError(
            f"The band of hop {hop.hop_id} passes a site {depth:.2f} eV below its end points, so the ion does not rest "
            "where the structure says; relax the structure and run it again.",
            Reason.LOWER_SITE_ON_PATH,
        )
    return result.barrier_span_eV


def _extxyz(result: BandResult) -> str:
    """Return the band as extended XYZ text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "band.extxyz"
        result.to_extxyz(file)
        return file.read_text()


def _record(hop: Hop, result: BandResult) -> BandRecord:
    from_start = result.energies_eV - result.energies_eV[0]
    return BandRecord(
        hop_id=hop.hop_id,
        distance_A=hop.distance_A,
        multiplicity=hop.multiplicity,
        converged=result.converged,
        reason=None if result.reason is None else str(result.reason),
        message=result.message,
        barrier_forward_eV=result.barrier_forward_eV,
        barrier_reverse_eV=result.barrier_reverse_eV,
        barrier_span_eV=result.barrier_span_eV,
        splined_forward_eV=result.splined_forward_eV,
        splined_reverse_eV=result.splined_reverse_eV,
        splined_span_eV=result.splined_span_eV,
        energies_eV=[float(e) for e in from_start],
        lengths_A=[float(x) for x in result.path_lengths_A],
        max_force_eV_per_A=float(result.max_force_eV_per_A),
        intermediate_minimum=result.intermediate_minimum,
        steps=result.steps,
        evaluations=result.evaluations,
        seconds=result.seconds,
        atoms=len(result.images[0]),
    )
