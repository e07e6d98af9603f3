"""The dft stage with an engine that runs here: a DFT-NEB from the machine-learned band, converged and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from ..potentials.espresso import EspressoPotential, EspressoSettings
from ..potentials.pseudopotentials import find_pseudopotentials
from ..transport.band_result import BandSettings
from ..transport.errors import CandidateError, Reason
from .band_records import band_barrier, band_extxyz, band_record
from .dft import HandedBand, facts_of_band, handed_bands, hops_left_out, missing_bands
from .documents import BandRecord, DftBandDocument, StageDocument
from .espresso_folder import check_replaceable, image_records, kpoints_text, write_band_folder
from .folders import hop_folder_name, written_whole
from .settings import EspressoBandSettings, HandoffStageSettings
from .stage import StageMaker, package_versions

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.neb import BandResult
    from ..transport.paths import MigrationPath

_SAME_EV = 0.005
_MAX_STEP_A = 0.1
"""Longest step of an atom: half of what bands of a potential take, since a step in vain costs minutes here."""


@dataclass
class DftBandMaker(StageMaker):
    """Climbing-image NEB by Quantum ESPRESSO, started from the bands of the neb stage."""

    name: str = "dft"
    settings: HandoffStageSettings = field(default_factory=lambda: HandoffStageSettings(engine="espresso"))

    stage: ClassVar[str] = "dft"
    document: ClassVar[type[StageDocument]] = DftBandDocument
    packages: ClassVar[tuple[str, ...]] = ("ase", "pymatgen", "numpy")
    category: ClassVar[str] = "dft"
    fan_out: ClassVar[bool] = True
    without_effect: ClassVar[frozenset[str]] = frozenset({"folder", "vtst"})

    def needs(self) -> tuple[str, ...]:
        """The band comes from the neb stage."""
        return ("neb",)

    def compute(
        self, structure: Structure, prior: Mapping[str, StageDocument], checkpoint: Path | None
    ) -> dict[str, Any]:
        """Run the bands and say what came out; their files go into the stage's folder.

        Every evaluation is kept below the checkpoints, whatever becomes of the band: one that stopped, for whatever
        reason, goes on and computes nothing again.

        Raises
        ------
        CandidateError
            There is no band to start from, the program or a pseudopotential is missing, or the program failed.
        NotConvergedError
            The band has no barrier.
        """
        from ..transport.structures import structure_hash

        settings = self.settings
        band, handed = handed_bands(prior, settings.hops)
        name = f"{structure.composition.reduced_formula}-{structure_hash(structure)[:8]}"
        folder = Path(settings.folder) / name
        check_replaceable(folder)
        home = folder if checkpoint is None else checkpoint
        computed = [self._run(each, home / hop_folder_name(each.hop_id), home.parent / "espresso") for each in handed]
        facts = {"formula": structure.composition.reduced_formula, **facts_of_band(band)}
        limit = max(settings.espresso.max_force_eV_per_A, settings.espresso.endpoint_max_force_eV_per_A)
        if settings.hops == "limiting":
            computed[0].write(folder, facts, limit)
        else:
            facts |= {"hops_of_path": [each.hop_id for each in handed], "hops_without_band": hops_left_out(band)}
            with written_whole(folder) as staging:
                for each in computed:
                    each.write(staging / hop_folder_name(each.handed.hop_id), facts, limit)
        # the hop that limits the path is found anew: DFT may rank the hops otherwise than the potential did
        first, *others = sorted(computed, key=lambda each: -each.barrier_eV)
        engine, result = first.engine, first.result
        functional = settings.functional.upper()
        return {
            "method": f"climbing-image NEB from a {band.potential} band, {engine.method}, pw.x {engine.version}",
            "versions": {**package_versions(*self.packages), "quantum-espresso": engine.version},
            "weights_sha256": engine.weights_sha256,
            "converged": True,
            "engine": "espresso",
            "folder": str(folder.resolve()),
            "functional": functional.replace("SOL", "sol"),
            "hubbard_u_eV": {},
            "cutoff_eV": settings.espresso.cutoff_eV,
            "kpoints": kpoints_text(engine, result.images[0]),
            "force_limit_eV_per_A": limit,
            **{key: getattr(result, key) for key in _BARRIERS},
            "barrier_span_eV": first.barrier_eV,
            "bands": [each.record() for each in (first, *others)],
            **first.fields(settings.espresso),
            "other_hops": [
                {**each.fields(settings.espresso), "folder": hop_folder_name(each.handed.hop_id)} for each in others
            ],
            "warnings": [*self._warnings(computed), *missing_bands(band, settings.hops)],
        }

    def _run(self, handed: HandedBand, home: Path, kept: Path) -> _ComputedHop:
        """Bring the band of one hop to rest."""
        settings = self.settings
        image = handed.images[0]
        engine = EspressoPotential(
            set(image.get_chemical_symbols()),
            engine_settings(settings, self.ion, image),
            # one place for all bands and settings: an answer's key says what it is of
            kept,
        )
        path, start = path_from_images(handed.images, handed.hop_id, settings.espresso.images)
        result = run_to_rest(path, engine, settings.espresso, start, home)
        barrier_eV = band_barrier(result, path.path_id)
        # an end point that only an isometry gave is computed once: for its files, and for what the isometry claims
        apart_eV = float(np.abs(engine.energies(result.images) - result.energies_eV).max())
        return _ComputedHop(handed, engine, result, barrier_eV, apart_eV, path.length_A)

    def _warnings(self, computed: Sequence[_ComputedHop]) -> list[str]:
        """What a reader must know of the bands."""
        found = []
        if any(each.result.climbing_image is None for each in computed):
            found.append("No image climbed: the barrier is a lower bound.")
        apart_eV = max(each.apart_eV for each in computed)
        if apart_eV > _SAME_EV:
            found.append(
                f"End points that are alike by symmetry differ by {apart_eV:.3f} eV: their electrons may have come to "
                "different states."
            )
        if self.settings.vacancy_charge == "compensated":
            found.append(
                "The cell is charged against a uniform background, whose interaction with the cell's images is not "
                "corrected; end points and images have the same shift to leading order."
            )
        return found


@dataclass(frozen=True)
class _ComputedHop:
    """A band that has come to rest.

    Attributes
    ----------
    handed
        What it began from.
    engine
        Has computed it.
    result
        The band.
    barrier_eV
        Highest less lowest image.
    apart_eV
        Largest difference between an image's energy in the band and the program's own.
    length_A
        Of the ion's path.
    """

    handed: HandedBand
    engine: EspressoPotential
    result: BandResult
    barrier_eV: float
    apart_eV: float
    length_A: float

    def write(self, folder: Path, facts: Mapping[str, Any], limit_eV_per_A: float) -> None:
        """Leave it for people."""
        write_band_folder(folder, self.result, self.engine, {**facts, **self.handed.facts()}, limit_eV_per_A)

    def record(self) -> BandRecord:
        """What documents keep of it."""
        known = self.handed.record
        distance_A = self.length_A if known is None else known.distance_A
        return band_record(self.result, self.handed.hop_id, distance_A, None if known is None else known.multiplicity)

    def fields(self, settings: EspressoBandSettings) -> dict[str, Any]:
        """What a document says of each hop of a path."""
        return {
            "reason": None,
            "message": None,
            "climbing_image": self.result.climbing_image,
            "images_expected": len(self.result.images),
            "images": [record.model_dump(mode="json") for record in image_records(self.result, settings)],
            "images_extxyz": band_extxyz(self.result),
            "hop_id": self.handed.hop_id or None,
            "barrier_machine_learned_eV": self.handed.barrier_eV,
        }


_BARRIERS = tuple(
    name for name in DftBandDocument.model_fields if name.startswith(("barrier_f", "barrier_r", "splined"))
)


def engine_settings(settings: HandoffStageSettings, ion: str, image: Atoms) -> EspressoSettings:
    """What the program computes for the cell of a band.

    Parameters
    ----------
    settings
        Of the stage.
    ion
        Element symbol of the mobile ion.
    image
        An image of the band.

    Raises
    ------
    CandidateError
        The charge of the ion is not known, or an element has no pseudopotential.
    """
    from .vasp_inputs import HandoffSettings, has_open_shell

    chosen = settings.espresso
    charge_e = 0
    if settings.vacancy_charge == "compensated":
        try:
            charge_e = -HandoffSettings(ion=ion, vacancy_charge="compensated").charge_of_ion()
        except ValueError as error:
            raise CandidateError(f"{error} `vacancy_charge: neutral` needs no charge.") from error
    pseudopotentials = chosen.pseudopotentials or f"pseudodojo-{settings.functional}"
    symbols = image.get_chemical_symbols()
    found = find_pseudopotentials(pseudopotentials, symbols, settings.functional)
    electrons = sum(found[symbol].valence for symbol in symbols) - charge_e
    open_shell = has_open_shell(symbols) or round(electrons) % 2 == 1 or image.get_initial_magnetic_moments().any()
    spin_polarised = chosen.spin == "on" or (chosen.spin == "auto" and bool(open_shell))
    fixed = chosen.occupations == "fixed" or (
        chosen.occupations == "auto" and charge_e != 0 and not spin_polarised and round(electrons) % 2 == 0
    )
    return EspressoSettings(
        functional="pbesol" if settings.functional == "pbesol" else "pbe",
        pseudopotentials=pseudopotentials,
        cutoff_eV=chosen.cutoff_eV,
        kpoint_spacing_per_A=chosen.kpoint_spacing_per_A,
        energy_tolerance_eV_per_atom=chosen.energy_tolerance_eV_per_atom,
        charge_e=charge_e,
        spin_polarised=spin_polarised,
        smearing_eV=None if fixed else chosen.smearing_eV,
    )


def path_from_images(
    images: Sequence[Atoms], path_id: str, number: int | None = None
) -> tuple[MigrationPath, np.ndarray]:
    """The path of a band's ion, and the band as the start of another.

    Parameters
    ----------
    images
        The band, end points included, the migrating ion last.
    path_id
        Name of the path.
    number
        Images between the end points of the new band, spread over the old one; as many as that has when None.

    Returns
    -------
    tuple
        The path, and positions in Angstrom, shape (images, atoms, 3).
    """
    from ..transport.neb import spread
    from ..transport.paths import MigrationPath

    band = np.stack([image.positions for image in images])
    if number is not None and number + 2 != len(band):
        band = spread(band, number + 2)
    inverse = np.linalg.inv(images[0].cell.array)
    symbols = images[0].get_chemical_symbols()
    path = MigrationPath(
        ion=symbols[-1],
        lattice=images[0].cell.array,
        framework_species=tuple(symbols[:-1]),
        framework_frac_coords=band[0, :-1] @ inverse,
        path_frac_coords=band[:, -1] @ inverse,
        path_id=path_id,
    )
    return path, band


def run_to_rest(
    path: MigrationPath, engine: Any, settings: EspressoBandSettings, start: np.ndarray | None, folder: Path
) -> BandResult:
    """Run a band, and go on from its last images where its steps were not enough.

    Parameters
    ----------
    path
        The path.
    engine
        Gives energies and forces; any :class:`hopflow.transport.energies.Potential`.
    settings
        Limits, steps and restarts. A band that an earlier call left without steps is gone on with, however many
        restarts that one had.
    start
        First band, as for :func:`hopflow.transport.neb.run_band`; interpolated when None.
    folder
        Keeps the bands.
    """
    from ..transport.neb import run_band

    images = len(start) - 2 if start is not None else settings.images or BandSettings.images
    band_settings = BandSettings(
        images=images,
        climb=settings.climb,
        max_force_eV_per_A=settings.max_force_eV_per_A,
        endpoint_max_force_eV_per_A=settings.endpoint_max_force_eV_per_A,
        max_steps=settings.max_steps,
        endpoint_max_steps=settings.max_steps,
        max_step_A=_MAX_STEP_A,
        split=False,
    )
    number, left = 0, settings.restarts
    costs: dict[str, Any] = {"steps": 0, "endpoint_steps": 0, "evaluations": 0, "seconds": 0.0}
    told: list[str] = []

    def note(phase: str, step: int, force_eV_per_A: float) -> None:
        told.append(f"{phase} {step}: {force_eV_per_A:.3f} eV/Å")

    while True:
        told.clear()
        result = run_band(path, engine, band_settings, folder / f"band{number}.npz", note, start)
        costs = {name: costs[name] + getattr(result, name) for name in costs}
        out_of_steps = result.reason in (Reason.NOT_CONVERGED, Reason.ENDPOINT_NOT_RELAXED)
        # a band that was answered from its file is one that an earlier call has left; going on from it is no restart
        if not out_of_steps or (told and left == 0):
            return replace(result, **costs)
        left -= bool(told)
        start = next_start(result, start, images)
        number += 1


def next_start(result: BandResult, start: np.ndarray | None, images: int) -> np.ndarray | None:
    """First band of a restart: the last one; where only the end points were moved, the first one carried along."""
    positions = np.stack([image.positions for image in result.images])
    if len(positions) == images + 2:
        return positions
    if start is None:
        share = np.linspace(0.0, 1.0, images + 2)[:, None, None]
        return positions[0] + share * (positions[-1] - positions[0])
    share = np.linspace(0.0, 1.0, len(start))[:, None, None]
    return start + (1.0 - share) * (positions[0] - start[0]) + share * (positions[-1] - start[-1])
