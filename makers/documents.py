"""What a stage returns for one candidate: documents whose every number names its unit, method and convergence."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .quantities import BarrierSource, Quantity


class StageDocument(BaseModel):
    """What every stage's document says.

    ``None`` as a barrier means that no path was found in that many directions; it is never a missing convergence.
    """

    model_config = ConfigDict(extra="forbid")

    default_quantity: ClassVar[Quantity] = Quantity.BARRIER_1D

    stage: str
    formula: str
    ion: str
    atoms: int = Field(description="Atoms in the structure as given.")
    structure_hash: str
    content_key: str = Field(description="SHA-256 of structure, ion, stage, settings and model weights.")
    method: str = Field(description="How the numbers were made, in one line.")
    settings: dict[str, Any]
    versions: dict[str, str]
    weights_sha256: str | None = Field(None, description="Hash of the model's weights, where a model speaks.")
    seconds: float = Field(description="Wall time of the evaluation, in s.")
    converged: bool = True
    warnings: list[str] = Field(default_factory=list)

    def quantity(self, quantity: Quantity) -> float | None:
        """The value of one quantity; ``None`` where the document has none."""
        return getattr(self, quantity.value, None)

    def uncertainty(self, quantity: Quantity) -> float | None:
        """One standard deviation of the quantity, in its unit, where the method knows it."""
        name = quantity.value.replace("_eV", "_sigma_eV")
        return getattr(self, name, None) if name != quantity.value else None

    def interval_90(self, quantity: Quantity) -> tuple[float, float] | None:
        """Where the quantity lies with a probability of 90 %, in its unit, where the method knows it."""
        name = quantity.value.replace("_eV", "_interval_90_eV")
        return getattr(self, name, None) if name != quantity.value else None

    def value_source(self) -> BarrierSource | None:
        """Which of the stage's ways led to the values; ``None`` where it has only one."""
        return None

    @classmethod
    def quantities(cls) -> list[Quantity]:
        """The quantities that this document carries, the default first."""
        found = [q for q in Quantity if q.value in cls.model_fields]
        return sorted(found, key=lambda q: q != cls.default_quantity)


class BarrierDocument(StageDocument):
    """A document with migration barriers in one, two and three directions."""

    barrier_1d_eV: float | None
    barrier_2d_eV: float | None
    barrier_3d_eV: float | None
    dimension: int = Field(ge=0, le=3, description="Number of independent directions in which the ion percolates.")


class PathStopRecord(BaseModel):
    """A place where the ion rests on its way."""

    site: str = Field(description="Label of the mobile-ion site, or `interstice`.")
    site_index: int | None = Field(description="Its index in the primitive cell; `null` for an interstice.")
    frac: list[float] = Field(description="Fractional position, unwrapped along the path.")
    energy_eV: float = Field(description="Energy above the lowest point of the path.")
    rise_eV: float = Field(description="From here up to the pass before the next stop.")


class PathRecord(BaseModel):
    """The way along which the ion crosses the crystal in one direction, on the grid."""

    translation: list[int] = Field(description="Cells between its beginning and its end.")
    length_A: float
    stops: list[PathStopRecord]


class BondValenceDocument(BarrierDocument):
    """Exact percolation of the bond-valence site energy. Barriers count from the percolating component's minimum.

    Lists of three stand for one, two and three directions. Where the table lacks parameters, ``barrier_source`` is
    ``interstitial_network``: barriers and their sigmas are predictions, and whatever only a field has is empty.
    """

    barrier_source: BarrierSource = Field(
        BarrierSource.BOND_VALENCE, description="Whether the field gave the barriers or the interstitial network."
    )
    barrier_1d_sigma_eV: float | None = Field(None, description="Standard deviation of a predicted barrier.")
    barrier_2d_sigma_eV: float | None = None
    barrier_3d_sigma_eV: float | None = None
    interstitial_network_barriers_eV: list[float] = Field(
        default_factory=list, description="What the interstitial network predicts, where it was asked."
    )
    interstitial_network_sigmas_eV: list[float] = Field(default_factory=list)
    interstitial_network_sigmas_log: list[float] = Field(
        default_factory=list, description="Standard deviations of the natural logarithms of its barriers."
    )
    unfamiliar_species: list[str] = Field(
        default_factory=list,
        description="Species such as `H-` that no crystal had that the network learned from; its sigmas are widened.",
    )
    barrier_1d_from_global_minimum_eV: float | None
    barrier_2d_from_global_minimum_eV: float | None
    barrier_3d_from_global_minimum_eV: float | None
    barrier_1d_dft_like_eV: float | None = Field(
        None, description="The 1D barrier on the scale of DFT bands, by a fit to published ones; None without a fit."
    )
    barrier_1d_dft_like_sigma_eV: float | None = Field(None, description="Half width that holds 68 % of crystals.")
    barrier_2d_dft_like_eV: float | None = None
    barrier_2d_dft_like_sigma_eV: float | None = None
    barrier_3d_dft_like_eV: float | None = None
    barrier_3d_dft_like_sigma_eV: float | None = None
    dft_like_extrapolated: list[bool] = Field(
        default_factory=list, description="Whether the raw barrier lies outside the range of the fit."
    )
    grid_shape: tuple[int, int, int] | None
    spacing_A: float | None
    oxidation_states: dict[str, list[float]] = Field(description="Charges in use for each element.")
    oxidation_states_from: str = Field(description="How the charges were found.")
    symmetry_operations: int | None = Field(1, description="Operations of the framework that the grid has.")
    at_saddle: list[bool] = Field(
        default_factory=list,
        description="Whether the bottleneck is a saddle point of the continuous field, not a point of the grid.",
    )
    grid_barriers_eV: list[float | None] = Field(default_factory=list, description="The barriers of the grid alone.")
    bottlenecks_frac: list[list[float] | None] = Field(
        default_factory=list,
        description="Fractional positions of the bottlenecks, in the primitive cell that was computed.",
    )
    path_1d: PathRecord | None = None
    minima_frac: list[list[float] | None] = Field(
        default_factory=list,
        description="Fractional positions of the lowest point of what percolates, in the same cell.",
    )

    def value_source(self) -> BarrierSource:
        """Field or network."""
        return self.barrier_source


class HopRecord(BaseModel):
    """One symmetry-unique hop."""

    hop_id: str
    distance_A: float
    multiplicity: int = Field(description="Symmetry-equivalent hops in the unit cell.")
    barrier_eV: float
    barrier_sigma_eV: float | None = None
    probed: bool = Field(
        False, description="Whether a potential was asked about this hop; otherwise its geometry alone has the answer."
    )
    limiting_probabilities: list[float] = Field(
        default_factory=list,
        description="How probable it is that this hop limits the barrier in one, two and three directions.",
    )


class HopBarrierDocument(BarrierDocument):
    """Barriers that a model predicts for every unique hop, percolated over the hop graph.

    Sigmas and intervals hold the errors of all hops, percolated draw by draw.
    """

    barrier_1d_sigma_eV: float | None = None
    barrier_2d_sigma_eV: float | None = None
    barrier_3d_sigma_eV: float | None = None
    barrier_1d_interval_90_eV: tuple[float, float] | None = Field(
        None, description="The barrier lies between these with a probability of 90 %."
    )
    barrier_2d_interval_90_eV: tuple[float, float] | None = None
    barrier_3d_interval_90_eV: tuple[float, float] | None = None
    limiting_hop_ids: list[str | None] = Field(
        default_factory=list,
        description="The hop whose barrier is the barrier in one, two and three directions; None where no path leads.",
    )
    model: str | None = Field(None, description="Name of the model that predicted the hops.")
    potential: str | None = Field(None, description="Registry name of the potential that the model asked.")
    hops: list[HopRecord]
    hop_cutoff_A: float


class FreeVolume(BaseModel):
    """Share of the cell's volume below an energy."""

    threshold_eV: float
    connected_fraction: float
    disconnected_fraction: float


class LandscapeDocument(BarrierDocument):
    """Energy landscape of one mobile ion in the frozen crystal."""

    minimal_percolation_energy_eV: float | None
    connected_free_volume_fraction: float
    disconnected_free_volume_fraction: float
    free_volume_threshold_eV: float
    connected_free_volume_smeared_fraction: float | None = Field(
        None, description="Mean over five thresholds around the threshold, 0.08 eV from first to last."
    )
    disconnected_free_volume_smeared_fraction: float | None = Field(None, description="The same, connected or not.")
    free_volume_score: float | None = Field(
        None, description="Combined score of the smeared free volumes at 0.5 eV, from 0 to 1 (arXiv 2411.06804)."
    )
    free_volumes: list[FreeVolume]
    potential: str
    grid_shape: tuple[int, int, int]
    spacing_A: float
    atoms_in_scanned_cell: int
    ions_scanned: int
    points: int | None = Field(None, description="Points of the full grids of all scanned ions.")
    evaluations: int = Field(description="Energies evaluated, those that chose the ions included.")
    points_saved_by_symmetry: int
    points_excluded: int = Field(description="Points not evaluated because they lie within the exclusion radius.")
    points_saved_by_refinement: int = Field(0, description="Points not evaluated because they do not decide anything.")
    percolation_error_eV: tuple[float | None, float | None, float | None] = Field(
        (0.0, 0.0, 0.0),
        description="How far the barriers may be off where max_evaluations ended the scan early; None if unknown.",
    )
    free_volume_error: float = Field(0.0, description="Expected error of the free volume as a share of itself.")
    slice_eV: list[list[float | None]] | None = Field(
        None, description="Energies above the minimum in the plane through it, rows along b, columns along a."
    )
    level_slice_eV: list[list[float | None]] | None = Field(None, description="The minimal energy level there.")


class BandRecord(BaseModel):
    """One converged or unconverged band."""

    hop_id: str
    distance_A: float
    multiplicity: int | None
    converged: bool
    reason: str | None = Field(None, description="Why there is no barrier.")
    message: str | None = None
    barrier_forward_eV: float | None
    barrier_reverse_eV: float | None
    barrier_span_eV: float | None = Field(description="Highest minus lowest image.")
    splined_forward_eV: float | None
    splined_reverse_eV: float | None
    splined_span_eV: float | None
    energies_eV: list[float] = Field(description="Energies of the images above the first end point.")
    lengths_A: list[float] = Field(description="Distance along the band.")
    max_force_eV_per_A: float | None
    intermediate_minimum: bool = Field(description="The band dips between two maxima: two hops in one.")
    steps: int
    evaluations: int
    seconds: float
    atoms: int


class BandDocument(BarrierDocument):
    """Climbing-image bands of the hops on the cheapest percolating path."""

    potential: str
    mechanism: str = Field("vacancy", description="Hops into a vacancy, or `interstitial`: of one ion more.")
    bands: list[BandRecord]
    images_extxyz: str | None = Field(None, description="The band that limits the barrier, as extended XYZ.")
    hops_on_path: list[str] = Field(
        default_factory=list, description="Unique hops that the cheapest path needs, whether a band was run or not."
    )
    other_bands_extxyz: dict[str, str] = Field(
        default_factory=dict, description="The other converged bands of the path by hop, as extended XYZ."
    )


class PathBandDocument(StageDocument):
    """The converged band of a given path with one potential, of a benchmark campaign."""

    default_quantity: ClassVar[Quantity] = Quantity.BARRIER_SPAN

    path_id: str
    potential: str
    barrier_span_eV: float = Field(description="Highest minus lowest image.")
    barrier_forward_eV: float
    barrier_reverse_eV: float
    splined_span_eV: float | None
    max_force_eV_per_A: float
    evaluations: int = Field(description="Energies with forces, of killed and resumed runs together.")
    endpoint_steps: int
    steps: int
    hops: int = Field(description="Hops that the path consists of.")
    band_seconds: float = Field(description="Wall time of killed and resumed runs together.")
    images_extxyz: str = Field(description="The band, as extended XYZ.")


class HandoffDocument(StageDocument):
    """Inputs of a DFT-NEB, ready to be carried to a cluster."""

    default_quantity: ClassVar[Quantity] = Quantity.IMAGES_WRITTEN

    folder: str
    files: list[str]
    functional: str
    potcar: str = Field(description="Whether POTCAR files or only their specification were written.")
    images_written: int
    barrier_machine_learned_eV: float | None
    hop_id: str | None = Field(None, description="The hop of the neb stage that the band is of.")
    hop_ids: list[str] = Field(
        default_factory=list, description="All hops that have a folder in this one, where each has one of its own."
    )


class ImageRecord(BaseModel):
    """What a DFT calculation says of one image, at its last complete ionic step."""

    image: int
    energy_eV: float | None = Field(description="Total energy with the smearing extrapolated to zero.")
    steps: int = Field(description="Complete ionic steps.")
    max_force_eV_per_A: float | None = Field(
        description="Largest force that must vanish: across the band, or all of it on end points and climbing image."
    )
    electronically_converged: bool | None
    ionically_converged: bool | None = Field(description="Whether that force lies within the limit.")
    finished: bool = Field(description="Whether the output file is whole.")
    read_from: str | None = Field(description="The output file, relative to the folder.")
    problem: str | None = None


class DftHopRecord(BaseModel):
    """The DFT band of one more hop of a path."""

    hop_id: str | None
    folder: str = Field(description="Relative to the document's.")
    reason: str | None
    message: str | None
    climbing_image: int | None
    images_expected: int = Field(description="End points included.")
    images: list[ImageRecord]
    images_extxyz: str | None
    barrier_machine_learned_eV: float | None


class DftBandDocument(StageDocument):
    """A DFT-NEB, computed by this stage or elsewhere.

    ``None`` as a barrier means that the band did not converge or is not complete; ``reason`` and ``message`` say why.
    Where a path has more than one hop, the barriers are those of the hop with the highest, and there are none
    unless all of them have one.
    """

    default_quantity: ClassVar[Quantity] = Quantity.BARRIER_SPAN

    engine: str = "vasp"
    approx_neb: bool = Field(
        False, description="ApproxNEB: a single ion in the host without the others, held in each image; else a band."
    )
    folder: str
    functional: str | None
    hubbard_u_eV: dict[str, float]
    cutoff_eV: float | None
    kpoints: str | None
    force_limit_eV_per_A: float = Field(description="Largest force of a converged image.")
    barrier_forward_eV: float | None
    barrier_reverse_eV: float | None
    barrier_span_eV: float | None
    splined_forward_eV: float | None
    splined_reverse_eV: float | None
    splined_span_eV: float | None
    reason: str | None
    message: str | None
    climbing_image: int | None
    images_expected: int = Field(description="End points included.")
    images: list[ImageRecord]
    bands: list[BandRecord] = Field(
        description="Bands whose images all have an energy, that of the hop that limits first."
    )
    images_extxyz: str | None
    hop_id: str | None = Field(description="The hop that limits the barrier, or the one that has none.")
    barrier_machine_learned_eV: float | None = Field(description="Of the same hop.")
    other_hops: list[DftHopRecord] = Field(default_factory=list, description="The other hops of the path.")
    handoff: HandoffDocument | None = Field(None, description="The inputs that this stage wrote for the material.")
