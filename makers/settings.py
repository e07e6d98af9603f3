"""The settings of every stage: what a campaign file may say, with defaults, units and limits.

These models are the single source of the specification reference; a Maker holds one of them and nothing else.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..transport.band_result import BandSettings


class StageSettings(BaseModel):
    """Settings of one stage; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_atoms: int = Field(
        1000, gt=0, description="Crystals with more atoms in the primitive cell fail with `too_many_atoms`."
    )


class BondValenceStageSettings(StageSettings):
    """Settings of the bvse stage: the bond-valence site energy field and its exact percolation."""

    spacing_A: float = Field(
        0.25, gt=0.03, le=1.0, description="Largest spacing of the energy grid, in Å; above 0.4 Å bottlenecks get lost."
    )
    refine: bool = Field(
        True, description="Move bottlenecks and minima from the grid to the saddle points of the continuous field."
    )
    path: bool = Field(True, description="Keep the path that crosses the crystal in one direction, and its sites.")
    cutoff_A: float = Field(10.0, gt=2.0, le=20.0, description="Range of the pair terms, in Å.")
    screening: float = Field(
        0.74, gt=0, description="Screening factor f of the Coulomb repulsion, erfc(R / (f (r1 + r2)))."
    )
    balance_charges: bool = Field(
        False, description="Scale the repulsion by the ratio of the anions' to the cations' charges V / sqrt(n)."
    )
    radii: Literal["cordero", "softbv"] = Field("cordero", description="Covalent radii r1, r2 of the repulsion.")
    energy_ceiling_eV: float = Field(
        10.0, gt=0, description="Space higher than this above the lowest energy is closed to the ion, in eV."
    )
    threads: int = Field(1, gt=0, description="Threads that share one crystal; campaigns use one for each worker.")
    oxidation_states: dict[str, float] | None = Field(
        None, description="Oxidation state of each element, for instance `{Li: 1, P: 5, O: -2}`; guessed when absent."
    )
    interstitial_network: Literal["never", "missing_parameters", "always"] = Field(
        "missing_parameters",
        description="When the interstitial network predicts the barrier: `never`, where the table has no parameters, "
        "or `always`, which is a cross-check where the table has them. It knows Li only.",
    )


class HopBarrierStageSettings(StageSettings):
    """Settings of the gnn stage: hops of the mobile ion and the model that predicts their barriers."""

    model: str = Field("fast", description="Model that predicts the hops, as `hopflow predict-paths --model` names it.")
    min_length_A: float = Field(8.0, ge=4.0, description="Least perpendicular width of the hop's supercell, in Å.")
    clearance_A: float = Field(
        0.5, ge=0, description="Hops whose straight line comes closer to a framework atom are dropped, in Å."
    )
    max_distance_A: float = Field(8.0, gt=1.0, le=15.0, description="Longest hop that is looked at, in Å.")
    max_hops: int = Field(500, gt=0, description="More symmetry-unique hops than this fail the candidate.")
    max_probed_hops: int = Field(
        20,
        ge=0,
        description="Of more unique hops than this, only so many are probed by the model's potential: the likeliest to "
        "limit the crystal. The others are predicted by their geometry.",
    )
    common_error_share: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="Share of the variance of the hops' errors that all hops of one crystal have in common.",
    )

    @field_validator("model")
    @classmethod
    def _answers_from_the_path_alone(cls, model: str) -> str:
        # the registry's imports are not needed to read the other stages' settings
        from ..learning.barrier_models import BARRIER_MODELS

        able = [name for name, each in BARRIER_MODELS.items() if not each.extra_columns]
        if model not in able:
            allowed = f"allowed: {', '.join(able)}"
            if model not in BARRIER_MODELS:
                raise ValueError(f"There is no barrier model called {model!r}; {allowed}.")
            needed = ", ".join(BARRIER_MODELS[model].extra_columns)
            raise ValueError(
                f"The model {model!r} needs {needed} of each path, which the gnn stage has not; {allowed}."
            )
        return model


class ScanStageSettings(StageSettings):
    """Settings of the pes stage: the energy landscape of a single ion in a frozen crystal."""

    potential: str = Field(
        "m3gnet-mp-2021.2.8-direct", description="Name of the potential; `hopflow models list` shows them."
    )
    spacing_A: float = Field(0.35, ge=0.1, le=0.8, description="Spacing of the scan's grid, in Å.")
    max_evaluations: int = Field(
        1500,
        gt=0,
        description="Coarsen the grid, to 0.8 Å at most, until no more energies than this are likely to be needed.",
    )
    refine: bool = Field(True, description="Evaluate only the points that decide the answer, not every one.")
    exclusion_radius_A: float = Field(
        1.2, ge=0.5, le=2.0, description="Grid points closer to another atom are left out, in Å."
    )
    min_length_A: float = Field(5.5, ge=0.0, description="Least perpendicular width of the scanned cell, in Å.")
    max_ions: int = Field(1, gt=0, description="Scan at most this many symmetry-unique mobile ions.")
    free_volume_threshold_eV: float = Field(
        0.5, gt=0.04, description="Energy above the minimum below which space counts as free, in eV."
    )
    max_atoms: int = Field(
        300, gt=0, description="Crystals with more atoms in the primitive cell fail with `too_many_atoms`."
    )


class BandStageSettings(StageSettings):
    """Settings of the neb stage: climbing-image nudged elastic bands of vacancy hops."""

    potential: str = Field("mace-mp-0-small", description="Name of the potential; `hopflow models list` shows them.")
    mechanism: Literal["vacancy", "interstitial"] = Field(
        "vacancy",
        description="Hops of an ion into a vacancy, or of one ion more from void to void; the latter also in crystals "
        "without the ion.",
    )
    dtype: Literal["float32", "float64"] = Field("float64", description="Precision of the potential.")
    images: int = Field(5, ge=1, le=25, description="Images between the end points.")
    interpolation: Literal["idpp", "path", "bond_valence"] = Field(
        BandSettings.interpolation,
        description="First band: improved by pair distances, a straight line (`path`), or along the valley of the "
        "bond-valence site energy.",
    )
    max_force_eV_per_A: float = Field(0.1, gt=0, description="Convergence limit of the band's forces, in eV/Å.")
    max_steps: int = Field(200, gt=0, description="Steps after which a band counts as not converged.")
    min_length_A: float = Field(8.0, ge=4.0, description="Least perpendicular width of the supercell, in Å.")
    max_hops: int = Field(
        1, gt=0, le=20, description="Bands for at most this many hops of the cheapest percolating path."
    )
    max_atoms: int = Field(
        300, gt=0, description="Crystals with more atoms in the primitive cell fail with `too_many_atoms`."
    )


class PathBandSettings(BaseModel):
    """Settings of nudged elastic bands on a table of paths, as `hopflow neb --paths` and the benchmark run them.

    What is not named here is as in :class:`..transport.band_result.BandSettings`, whose defaults these are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    potential: str = Field("mace-mp-0-small", description="Name of the potential; `hopflow models list` shows them.")
    dtype: Literal["float32", "float64"] = Field("float64", description="Precision of the potential.")
    images: int = Field(BandSettings.images, ge=1, le=25, description="Images between the end points.")
    spring_eV_per_A2: float = Field(BandSettings.spring_eV_per_A2, gt=0, description="Spring constant, in eV/Å².")
    climb: bool = Field(BandSettings.climb, description="Let the highest image climb to the saddle.")
    climb_below_eV_per_A: float = Field(
        BandSettings.climb_below_eV_per_A, gt=0, description="Largest force at which climbing starts, in eV/Å."
    )
    max_force_eV_per_A: float = Field(
        BandSettings.max_force_eV_per_A, gt=0, description="Convergence limit of the band's forces, in eV/Å."
    )
    max_steps: int = Field(
        BandSettings.max_steps, gt=0, description="Steps after which a band counts as not converged."
    )
    relax_endpoints: bool = Field(BandSettings.relax_endpoints, description="Relax the end points first.")
    endpoint_max_force_eV_per_A: float = Field(
        BandSettings.endpoint_max_force_eV_per_A, gt=0, description="Convergence limit of the end points, in eV/Å."
    )
    endpoint_max_steps: int = Field(
        BandSettings.endpoint_max_steps, gt=0, description="Steps after which an end point counts as not relaxed."
    )
    interpolation: Literal["idpp", "path", "bond_valence"] = Field(
        BandSettings.interpolation,
        description="First band: improved by pair distances, the path as it is given, or along the valley of the "
        "bond-valence site energy.",
    )
    run_away_A: float = Field(
        BandSettings.run_away_A, gt=0, description="An end point whose ion relaxes farther than this ran away, in Å."
    )
    max_framework_move_A: float = Field(
        BandSettings.max_framework_move_A,
        gt=0,
        description="A framework atom that leaves its site by more than this has collapsed, in Å.",
    )
    max_barrier_eV: float = Field(BandSettings.max_barrier_eV, gt=0, description="Larger barriers are refused, in eV.")
    split: bool = Field(BandSettings.split, description="Run a band that passes a minimum as several hops.")
    upper_bound_eV: float | None = Field(
        BandSettings.upper_bound_eV,
        gt=0,
        description="End a band once its highest point lies less than this above the lower end point, in eV: an early "
        "verdict, marked as such and without a barrier.",
    )

    def band(self) -> BandSettings:
        """The same for :func:`..transport.neb.run_band`."""
        return BandSettings(**self.model_dump(exclude={"potential", "dtype"}))


class EspressoBandSettings(BaseModel):
    """How Quantum ESPRESSO computes the band of the dft stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pseudopotentials: str | None = Field(
        None,
        description="Set of pseudopotentials (`hopflow dft pseudopotentials` lists them), or a folder with one UPF "
        "file for each element; PseudoDojo's for the functional when absent.",
    )
    cutoff_eV: float = Field(1090.0, gt=100, description="Kinetic energy cutoff of the wavefunctions, in eV.")
    kpoint_spacing_per_A: float = Field(
        0.5, gt=0.05, description="Largest distance of k-points, in 1/Å, 2π included; even meshes are shifted."
    )
    occupations: Literal["auto", "fixed", "smearing"] = Field(
        "auto",
        description="Fixed for cells with paired electrons whose vacancy is compensated, else with Gaussian smearing.",
    )
    smearing_eV: float = Field(0.1, gt=0, description="Width of the smearing, in eV.")
    spin: Literal["auto", "on", "off"] = Field(
        "auto", description="Spin polarisation; by itself for open d and f shells and odd numbers of electrons."
    )
    energy_tolerance_eV_per_atom: float = Field(
        1e-6, gt=0, description="Error of the energy at which the electrons count as converged, in eV an atom."
    )
    images: int | None = Field(
        None, ge=1, le=25, description="Images between the end points; as many as the neb stage had when absent."
    )
    climb: bool = Field(True, description="Let the highest image climb to the saddle.")
    max_force_eV_per_A: float = Field(0.05, gt=0, le=0.1, description="Convergence limit of the band, in eV/Å.")
    endpoint_max_force_eV_per_A: float = Field(
        0.05, gt=0, le=0.1, description="Convergence limit of the end points, in eV/Å."
    )
    max_steps: int = Field(60, gt=0, description="Steps of band and of end points before a restart.")
    restarts: int = Field(
        1, ge=0, le=10, description="How often a band that used up its steps goes on from its last images."
    )


class HandoffStageSettings(StageSettings):
    """Settings of the dft stage: a DFT-NEB started from the machine-learned band.

    With `engine: vasp` its inputs are written for a cluster; `engine: espresso` computes it.
    """

    engine: Literal["vasp", "espresso"] = Field(
        "vasp", description="`vasp` writes inputs; `espresso` runs Quantum ESPRESSO's pw.x and gives a barrier."
    )
    method: Literal["neb", "approx_neb"] = Field(
        "neb",
        description="A nudged elastic band of the crystal with a vacancy, or ApproxNEB: a single ion in the host "
        "without the others, for electrodes, with `engine: vasp`.",
    )
    hops: Literal["limiting", "all"] = Field(
        "limiting",
        description="The hop that limits the machine-learned barrier alone, or all hops of its path that have a band "
        "(`max_hops` of the neb stage).",
    )
    functional: Literal["pbe", "pbe+u", "pbesol"] = Field("pbe", description="Exchange-correlation functional.")
    vtst: bool = Field(False, description="Write the INCAR keys that need a VTST build of VASP.")
    vacancy_charge: Literal["neutral", "compensated"] = Field(
        "neutral", description="Remove a neutral atom, or keep the ion's charge as a compensating background."
    )
    folder: str = Field("handoff", description="Folder, relative to the campaign's home, that receives the files.")
    espresso: EspressoBandSettings = Field(
        default_factory=EspressoBandSettings, description="How Quantum ESPRESSO computes the band."
    )

    @model_validator(mode="after")
    def _engine_can(self) -> HandoffStageSettings:
        if self.engine == "espresso" and self.functional == "pbe+u":
            raise ValueError("engine: espresso computes pbe and pbesol; pbe+u needs engine: vasp")
        if self.engine == "espresso" and self.vtst:
            raise ValueError("vtst is a build of VASP; leave it out with engine: espresso")
        if self.method == "approx_neb":
            if self.engine != "vasp":
                raise ValueError("engine: espresso computes bands; method: approx_neb needs engine: vasp")
            if self.vtst:
                raise ValueError("vtst is for nudged elastic bands; leave it out with method: approx_neb")
            if self.vacancy_charge == "compensated":
                raise ValueError("method: approx_neb inserts the ion with its electron; leave vacancy_charge out")
        return self
