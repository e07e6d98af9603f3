"""The band of one path of a table, as a job: what a benchmark campaign runs for each path and potential."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..transport.errors import CandidateError, NotConvergedError, Reason
from .band_records import band_extxyz
from .documents import PathBandDocument, StageDocument
from .settings import PathBandSettings
from .stage import METHOD_VERSION, StageMaker, package_versions

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..transport.energies import Potential
    from ..transport.neb import BandResult

PATH_ROW = "path_row"
"""Property of a structure: the row of a path table that it was made from."""

CHECKPOINTS = "path-bands"
"""Folder, among the checkpoints, that keeps bands of paths by what they depend on."""


def path_band(
    row: dict[str, Any], settings: PathBandSettings, potential: Potential, checkpoints: Path | None
) -> BandResult:
    """Run the band of a row of a path table, go on with it, or take it from its checkpoint.

    Parameters
    ----------
    row
        The row.
    settings
        Of the band.
    potential
        Gives energies and forces.
    checkpoints
        Folder that keeps each band after every step, under its content key; nothing is kept when None.

    Raises
    ------
    CandidateError
        The row is no path that a band can start from, or the potential cannot answer for it.
    """
    from ..transport.neb import band_key, run_band
    from ..transport.path_checks import check_band_path
    from ..transport.paths import MigrationPath

    path = MigrationPath.from_row(row)
    check_band_path(path)
    chosen = settings.band()
    place = None if checkpoints is None else checkpoints / f"{band_key(path, potential, chosen)[:32]}.npz"
    return run_band(path, potential, chosen, place)


def path_structure(row: dict[str, Any]) -> Structure:
    """The path with its ion at the start, which carries the row along.

    Parameters
    ----------
    row
        A row of a path table.

    Raises
    ------
    CandidateError
        The row is no path.
    """
    from monty.json import jsanitize
    from pymatgen.core import Structure

    from ..transport.paths import MigrationPath

    path = MigrationPath.from_row(row)
    species = [*path.framework_species, path.ion]
    coords = [*path.framework_frac_coords, path.path_frac_coords[0]]
    structure = Structure(path.lattice, species, coords)
    structure.properties[PATH_ROW] = jsanitize(dict(row))
    return structure


@dataclass
class PathBandMaker(StageMaker):
    """Climbing-image NEB of a given path with one potential."""

    name: str = "path_band"
    settings: PathBandSettings = field(default_factory=PathBandSettings)  # type: ignore[assignment]

    document: ClassVar[type[StageDocument]] = PathBandDocument
    packages: ClassVar[tuple[str, ...]] = ("numpy", "torch", "mace-torch", "matgl", "ase", "pymatgen")
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True

    @property
    def stage(self) -> str:  # type: ignore[override]
        """The potential: a benchmark campaign has a stage for each."""
        return potential_stage(self.settings.potential)

    def content_key(self, structure: Structure, prior: Mapping[str, StageDocument] | None = None) -> str:
        """SHA-256 of the path, settings, method version and model weights."""
        facts = {
            "row": structure.properties.get(PATH_ROW),
            "settings": self.settings.model_dump(mode="json"),
            "method_version": METHOD_VERSION,
            "weights": self.weights_sha256(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def evaluate(
        self,
        structure: Structure,
        prior: Mapping[str, StageDocument] | None = None,
        checkpoint_folder: Path | None = None,
    ) -> StageDocument:
        """Run the band; the structure carries its path, see :func:`path_structure`.

        Raises
        ------
        CandidateError
            The band has no barrier, or cannot be run.
        """
        from ..potentials.registry import load_potential
        from ..transport.structures import structure_hash

        started = time.perf_counter()
        row = structure.properties.get(PATH_ROW)
        if row is None:
            raise CandidateError("The structure carries no path.", Reason.UNREADABLE_STRUCTURE)
        potential = load_potential(self.settings.potential, dtype=self.settings.dtype)
        checkpoints = None if checkpoint_folder is None else Path(checkpoint_folder) / CHECKPOINTS
        result = path_band(row, self.settings, potential, checkpoints)
        if not result.converged:
            cost = f"({result.evaluations} energies with forces)"
            raise NotConvergedError(f"{result.message} {cost}", result.reason or Reason.NOT_CONVERGED)
        names = [name for name in PathBandDocument.model_fields if hasattr(result, name)]
        facts = {name: getattr(result, name) for name in names if name not in ("converged", "seconds")}
        return PathBandDocument(
            stage=self.stage,
            formula=structure.composition.reduced_formula,
            ion=row["migrating_ion"],
            atoms=len(structure),
            structure_hash=structure_hash(structure),
            content_key=self.content_key(structure),
            method=f"climbing-image NEB, {potential.method}",
            settings=self.settings.model_dump(mode="json"),
            versions=package_versions(*self.packages),
            weights_sha256=potential.weights_sha256,
            seconds=time.perf_counter() - started,
            potential=potential.name,
            band_seconds=result.seconds,
            images_extxyz=band_extxyz(result),
            **{**facts, "path_id": str(row["path_id"])},
        )


def potential_stage(potential: str) -> str:
    """Name of the stage of a potential: names of fields in a database hold no dots."""
    return re.sub(r"[^\w-]+", "_", potential).strip("_")
