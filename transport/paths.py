"""A migration path: the positions that one ion takes between two sites of a crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import StructureError

PATH_COLUMNS: tuple[str, ...] = (
    "migrating_ion",
    "lattice",
    "path_frac_coords",
    "framework_species",
    "framework_frac_coords",
)
"""Columns of a path table that describe the path itself."""


@dataclass(frozen=True)
class MigrationPath:
    """One ion's way from one site to another through a framework that stays where it is.

    Attributes
    ----------
    ion
        Element symbol of the migrating ion.
    lattice
        Cell vectors as rows in Angstrom, shape (3, 3).
    framework_species
        Element symbols of every other atom, other ions of the mobile species included.
    framework_frac_coords
        Their fractional coordinates, shape (atoms, 3).
    path_frac_coords
        Fractional coordinates of the migrating ion along the path, unwrapped (neighbouring images are continuous),
        shape (images, 3); first and last are the end points.
    path_id
        A name for people and tables.
    """

    ion: str
    lattice: np.ndarray
    framework_species: tuple[str, ...]
    framework_frac_coords: np.ndarray
    path_frac_coords: np.ndarray
    path_id: str = ""

    @property
    def length_A(self) -> float:
        """Length of the polyline through the images, in Angstrom."""
        steps = np.diff(self.path_frac_coords, axis=0) @ self.lattice
        return float(np.linalg.norm(steps, axis=1).sum())

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> MigrationPath:
        """Read one row of a path table.

        Parameters
        ----------
        row
            Keys ``path_id, migrating_ion, lattice, path_frac_coords, framework_species, framework_frac_coords``
            (the layout of the migration-barrier set of Devi et al., arXiv 2508.06459); others are not looked at.

        Raises
        ------
        StructureError
            A key is missing, or what stands there has not the shape that it needs.
        """
        label = row.get("path_id") or "without a name"
        if missing := [key for key in PATH_COLUMNS if row.get(key) is None]:
            raise StructureError(f"The path {label} lacks {', '.join(missing)}; complete its row.")
        ion, species = row["migrating_ion"], row["framework_species"]
        if not isinstance(ion, str):
            raise StructureError(f"The path {label} needs an element symbol as migrating_ion, not {ion!r:.40}.")
        if not isinstance(species, list | tuple) or not all(isinstance(symbol, str) for symbol in species):
            raise StructureError(f"The path {label} needs a list of element symbols as framework_species.")
        lattice, path, framework = (
            _numbers(row, key, label) for key in ("lattice", "path_frac_coords", "framework_frac_coords")
        )
        if lattice.shape != (3, 3):
            raise StructureError(f"The path {label} needs three lattice vectors of three numbers each.")
        if path.ndim != 2 or path.shape[1] != 3 or len(path) < 2:
            raise StructureError(f"The path {label} needs at least two images with three coordinates each.")
        if framework.size and (framework.ndim != 2 or framework.shape[1] != 3):
            raise StructureError(f"The path {label} needs three coordinates for each atom of its framework.")
        if framework.size != 3 * len(species):
            raise StructureError(f"The path {label} has {framework.size // 3} positions for {len(species)} atoms.")
        return cls(ion, lattice, tuple(species), framework.reshape(-1, 3), path, str(row.get("path_id", "")))


def _numbers(row: dict[str, Any], key: str, label: Any) -> np.ndarray:
    try:
        return np.asarray(row[key], dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError(f"The path {label} has a {key} that is no regular table of numbers.") from error
