"""The dft stage with an engine that runs here: a DFT-NEB from the machine-learned band, converged and judged."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from ..potentials.espresso import INPUT, OUTPUT, EspressoPotential, EspressoSettings, kpoint_mesh
from ..potentials.pseudopotentials import find_pseudopotentials
from ..transport.band_result import BandSettings
from ..transport.bands import band_forces, largest_force
from ..transport.errors import CandidateError, HopflowError, Reason
from .band_records import band_barrier, band_extxyz, band_record
from .dft import hop_of_band
from .documents import BandDocument, DftBandDocument, ImageRecord, StageDocument
from .settings import EspressoBandSettings, HandoffStageSettings
from .stage import StageMaker, package_versions
from .vasp_results import MANIFEST

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.neb import BandResult
    from ..transport.paths import MigrationPath

_SAME_EV = 0.005
_MAX_STEP_A = 0.1
"""Longest step of an atom: half of what bands of a potential take, since a step in vain costs minutes here."""


@dataclass
class DftBandMaker(StageMaker):
    """Climbing-image NEB by Quantum ESPRESSO, started from the band of the neb stage."""

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
        """Run the band and say what came out; its files go into the stage's folder.

        Every evaluation is kept below the checkpoints, whatever becomes of the band: one that stopped, for whatever
        reason, goes on and computes nothing again.

        Raises
        ------
        CandidateError
            There is no band to start from, the program or a pseudopotential is missing, or the program failed.
        NotConvergedError
            The band has no barrier.
        """
        from ase.io import read

        from ..transport.structures import structure_hash

        band = prior.get("neb")
        if not isinstance(band, BandDocument) or band.images_extxyz is None:
            raise CandidateError("A DFT band needs the band of the neb stage; run neb first.")
        images: Any = read(io.StringIO(band.images_extxyz), index=":", format="extxyz")
        hop = hop_of_band(band, images[0].info.get("path_id"))
        name = f"{structure.composition.reduced_formula}-{structure_hash(structure)[:8]}"
        home = Path(self.settings.folder) / name if checkpoint is None else checkpoint
        engine = EspressoPotential(
            set(images[0].get_chemical_symbols()),
            engine_settings(self.settings, self.ion, images[0]),
            # one place for all bands and settings: an answer's key says what it is of
            home.parent / "espresso",
        )
        path, start = path_from_images(images, hop["hop_id"] or "", self.settings.espresso.images)
        result = run_to_rest(path, engine, self.settings.espresso, start, home)
        barrier_eV = band_barrier(result, path.path_id)
        # an end point that only an isometry gave is computed once: for its files, and for what the isometry claims
        apart_eV = float(np.abs(engine.energies(result.images) - result.energies_eV).max())
        folder = Path(self.settings.folder) / name
        facts = {
            "formula": structure.composition.reduced_formula,
            "structure_hash": band.structure_hash,
            "content_key_neb": band.content_key,
            "potential": band.potential,
            "weights_sha256": band.weights_sha256,
            "barrier_machine_learned_eV": band.barrier_1d_eV,
            **hop,
        }
        limit = max(self.settings.espresso.max_force_eV_per_A, self.settings.espresso.endpoint_max_force_eV_per_A)
        write_band_folder(folder, result, engine, facts, limit)
        functional = self.settings.functional.upper()
        warnings = [] if result.climbing_image is not None else ["No image climbed: the barrier is a lower bound."]
        if apart_eV > _SAME_EV:
            warnings.append(
                f"End points that are alike by symmetry differ by {apart_eV:.3f} eV: their electrons may have come to "
                "different states."
            )
        if self.settings.vacancy_charge == "compensated":
            warnings.append(
                "The cell is charged against a uniform background, whose interaction with the cell's images is not "
                "corrected; end points and images have the same shift to leading order."
            )
        return {
            "method": f"climbing-image NEB from a {band.potential} band, {engine.method}, pw.x {engine.version}",
            "versions": {**package_versions(*self.packages), "quantum-espresso": engine.version},
            "weights_sha256": engine.weights_sha256,
            "converged": True,
            "engine": "espresso",
            "folder": str(folder.resolve()),
            "functional": functional.replace("SOL", "sol"),
            "hubbard_u_eV": {},
            "cutoff_eV": self.settings.espresso.cutoff_eV,
            "kpoints": kpoints_text(engine, images[0]),
            "force_limit_eV_per_A": limit,
            **{key: getattr(result, key) for key in _BARRIERS},
            "barrier_span_eV": barrier_eV,
            "reason": None,
            "message": None,
            "climbing_image": result.climbing_image,
            "images_expected": len(result.images),
            "images": [record.model_dump(mode="json") for record in image_records(result, self.settings.espresso)],
            "bands": [
                band_record(result, path.path_id, hop["hop_distance_A"] or path.length_A, hop["hop_multiplicity"])
            ],
            "images_extxyz": band_extxyz(result),
            "hop_id": hop["hop_id"],
            "barrier_machine_learned_eV": band.barrier_1d_eV,
            "warnings": warnings,
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


def image_records(result: BandResult, settings: EspressoBandSettings) -> list[ImageRecord]:
    """What the document says of each image of a band that has come to rest."""
    _, residual = band_forces(
        np.stack([image.positions for image in result.images]),
        result.energies_eV,
        result.forces_eV_per_A,
        0.0,
        result.climbing_image,
    )
    last = len(result.images) - 1
    records = []
    for number in range(last + 1):
        end = number in (0, last)
        force = largest_force(result.forces_eV_per_A[number] if end else residual[number - 1])
        limit = settings.endpoint_max_force_eV_per_A if end else settings.max_force_eV_per_A
        records.append(
            ImageRecord(
                image=number,
                energy_eV=float(result.energies_eV[number]),
                steps=result.endpoint_steps if end else result.steps,
                max_force_eV_per_A=force,
                electronically_converged=True,
                ionically_converged=force <= limit,
                finished=True,
                read_from=f"{number:02d}/{OUTPUT}",
            )
        )
    return records


def kpoints_text(engine: EspressoPotential, image: Atoms) -> str:
    """Mesh of k-points in words."""
    mesh = kpoint_mesh(image, engine.settings.kpoint_spacing_per_A)
    shifted = [axis for axis, number in zip("abc", mesh, strict=True) if number % 2 == 0]
    return "x".join(map(str, mesh)) + (f", shifted along {', '.join(shifted)}" if shifted else "")


def write_band_folder(
    folder: Path,
    result: BandResult,
    engine: EspressoPotential,
    metadata: Mapping[str, Any],
    force_limit_eV_per_A: float,
) -> None:
    """Leave the band for people: input and output of every image, the images, and what it is.

    The folder appears whole or not at all, in the place of an earlier one.

    Parameters
    ----------
    folder
        Where it goes.
    result
        The band.
    engine
        Has run its images.
    metadata
        What is known of the hop; kept in ``handoff.json``.
    force_limit_eV_per_A
        Largest force that may be left; kept there, too.
    """
    staging = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        for number, image in enumerate(result.images):
            place = staging / f"{number:02d}"
            place.mkdir()
            for name in (INPUT, OUTPUT):
                shutil.copyfile(engine.place(image) / name, place / name)
        result.to_extxyz(staging / "band.extxyz")
        document = {
            "engine": "espresso",
            "settings": asdict(engine.settings),
            "pseudopotentials": {element: each.sha256 for element, each in engine.pseudopotentials.items()},
            "result": {
                "images": len(result.images) - 2,
                "climbing_image": result.climbing_image,
                "hop_length_A": metadata.get("hop_distance_A"),
            },
            "force_limit_eV_per_A": force_limit_eV_per_A,
            "metadata": dict(metadata),
        }
        (staging / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            if not (folder / MANIFEST).is_file():
                raise HopflowError(f"{folder} exists and is no earlier band; name another folder.")
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
