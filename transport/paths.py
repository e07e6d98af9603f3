"""A migration path: the positions that one ion takes between two sites of a crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


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
            (the layout of the migration-barrier set of Devi et al., arXiv 2508.06459).
        """
        return cls(
            ion=row["migrating_ion"],
            lattice=np.asarray(row["lattice"], dtype=float),
            framework_species=tuple(row["framework_species"]),
            framework_frac_coords=np.asarray(row["framework_frac_coords"], dtype=float).reshape(-1, 3),
            path_frac_coords=np.asarray(row["path_frac_coords"], dtype=float),
            path_id=row.get("path_id", ""),
        )
