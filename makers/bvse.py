"""The bvse stage: bond-valence site energy and its percolation in one, two and three directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..transport.errors import CandidateError, Reason
from .documents import BondValenceDocument, PathRecord, PathStopRecord, StageDocument
from .interstitial_answers import cross_check, network_sha256, predicted_answer
from .settings import BondValenceStageSettings
from .stage import StageMaker, finite_or_none, package_versions

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.bvse import BondValenceResult, BondValenceSettings


@dataclass
class BondValenceMaker(StageMaker):
    """Bond-valence barriers of the mobile ion in the frozen framework."""

    name: str = "bvse"
    settings: BondValenceStageSettings = field(default_factory=BondValenceStageSettings)

    stage: ClassVar[str] = "bvse"
    document: ClassVar[type[StageDocument]] = BondValenceDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "numba", "pymatgen", "spglib")
    network_packages: ClassVar[tuple[str, ...]] = ("torch", "torch-geometric")
    partial_occupancies: ClassVar[bool] = True
    without_effect: ClassVar[frozenset[str]] = frozenset({"threads"})

    def weights_sha256(self) -> str | None:
        """SHA-256 of the interstitial network, which may have to answer; nothing where it never does.

        Whether the table has all parameters shows only when the charges are known, so a result of the field alone is
        computed again, too, when the network changes.
        """
        return network_sha256(self.ion, self.settings)

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Return barriers, dimension and grid of the site energy field, or the network's barriers in its place."""
        from ..transport.bvse import bond_valence_percolation

        versions = package_versions(*self.packages, *self.network_packages)
        try:
            result = bond_valence_percolation(
                structure, self.ion, field_settings(self.settings), oxidation_states=self.settings.oxidation_states
            )
        except CandidateError as error:
            if error.reason is not Reason.MISSING_PARAMETERS or self.settings.interstitial_network == "never":
                raise
            return {**predicted_answer(structure, self.ion, self.settings, error), "versions": versions}
        fields = _fields_of(result)
        if self.settings.interstitial_network == "always":
            check = cross_check(structure, self.ion, self.settings, result.barriers_eV)
            check["warnings"] = [*fields["warnings"], *check["warnings"]]
            fields.update(check, versions=versions)
        return fields


def _fields_of(result: BondValenceResult) -> dict[str, Any]:
    own = [finite_or_none(barrier) for barrier in result.barriers_eV]
    from_global = [finite_or_none(barrier) for barrier in result.barriers_from_global_minimum_eV]
    return {
        "method": "bond-valence site energy (softBV parameters), exact percolation"
        + (", saddle points of the continuous field" if result.settings.refine else " on a periodic grid"),
        "barrier_1d_eV": own[0],
        "barrier_2d_eV": own[1],
        "barrier_3d_eV": own[2],
        "barrier_1d_from_global_minimum_eV": from_global[0],
        "barrier_2d_from_global_minimum_eV": from_global[1],
        "barrier_3d_from_global_minimum_eV": from_global[2],
        **_on_the_scale_of_dft(result),
        "dimension": result.dimension,
        "grid_shape": result.grid_shape,
        "spacing_A": result.spacing_A,
        "symmetry_operations": result.operations,
        "at_saddle": list(result.at_saddle),
        "grid_barriers_eV": [finite_or_none(barrier) for barrier in result.grid_barriers_eV],
        "bottlenecks_frac": [None if point is None else list(point) for point in result.bottleneck_frac_coords],
        "minima_frac": [None if point is None else list(point) for point in result.minimum_frac_coords],
        "path_1d": _path_record(result),
        "oxidation_states": result.oxidation_states,
        "oxidation_states_from": result.oxidation_states_from,
        "weights_sha256": None,
        "warnings": list(result.warnings),
    }


def field_settings(chosen: BondValenceStageSettings) -> BondValenceSettings:
    """What the stage's settings mean for the field and its percolation."""
    from ..transport.bvse import BondValenceSettings

    return BondValenceSettings(
        spacing_A=chosen.spacing_A,
        refine=chosen.refine,
        path=chosen.path,
        cutoff_A=chosen.cutoff_A,
        screening=chosen.screening,
        balance_charges=chosen.balance_charges,
        radii=chosen.radii,
        energy_ceiling_eV=chosen.energy_ceiling_eV,
        workers=chosen.threads,
    )


def _path_record(result: BondValenceResult) -> PathRecord | None:
    if result.path is None:
        return None
    lowest_eV = float(result.path.energies_eV.min())
    return PathRecord(
        translation=list(result.path.translation),
        length_A=result.path.length_A,
        stops=[
            PathStopRecord(
                site=named.label,
                site_index=named.site_index,
                frac=list(named.frac_coords),
                energy_eV=named.stop.energy_eV - lowest_eV,
                rise_eV=named.stop.barrier_eV,
            )
            for named in result.stops
        ],
    )


def _on_the_scale_of_dft(result: BondValenceResult) -> dict[str, Any]:
    """The document's DFT-like barriers; None for ions and settings that the fit does not cover."""
    from ..transport.calibration import calibration_covers, dft_like_barrier

    fields: dict[str, Any] = {}
    if calibration_covers(result.settings):
        fields["dft_like_extrapolated"] = []
        for name, barrier_eV in zip(("1d", "2d", "3d"), result.barriers_eV, strict=True):
            estimate = dft_like_barrier(barrier_eV, result.ion)
            value_eV = estimate.barrier_eV
            fields[f"barrier_{name}_dft_like_eV"] = None if value_eV is None else finite_or_none(value_eV)
            fields[f"barrier_{name}_dft_like_sigma_eV"] = estimate.sigma_eV
            fields["dft_like_extrapolated"].append(estimate.extrapolated)
    return fields
