"""Files that show where an ion goes: volumetric data, figures and the path itself.

They are written in the cell that the stage works on, the primitive one, and every file holds that cell. Volumes have
the grid of the stage's settings; paths and figures are made on a finer one, so that their levels are close to the
saddle points that the stage reports.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .landscape_views import Landscape, bond_valence_landscape

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..makers.settings import BondValenceStageSettings
    from ..transport.percolation_paths import PercolationPath

FIGURE_SPACING_A = 0.1
"""Spacing of the grid of paths and figures, in Angstrom; coarser where the cell would need more points than these:"""

MAX_FIGURE_POINTS = 2_000_000

PATH_SUFFIXES = (".json", ".xyz")
FIGURE_SUFFIXES = (".html",)


@dataclass(frozen=True)
class OutputFiles:
    """What to write, and for how many independent directions the figures and an ``.xyz`` path are drawn."""

    volume: Path | None = None
    figure: Path | None = None
    slice: Path | None = None
    path: Path | None = None
    levels: Path | None = None
    dimension: int = 1

    def named(self) -> dict[str, Path]:
        """The files that are wanted, by what they are."""
        chosen = {"volume": self.volume, "figure": self.figure, "slice": self.slice, "path": self.path,
                  "levels": self.levels}  # fmt: skip
        return {name: path for name, path in chosen.items() if path is not None}

    @property
    def draws(self) -> bool:
        """Whether anything is drawn, for which the ion must percolate."""
        return {self.figure, self.slice, self.path} != {None}

    def check(self) -> None:
        """Refuse file names whose suffix names no format.

        Raises
        ------
        ValueError
            With the formats that there are.
        """
        from ..transport.volumetric import check_volume_suffix

        for volume in (self.volume, self.levels):
            if volume is not None:
                check_volume_suffix(volume)
        for path, what, suffixes in (
            (self.figure, "figure", FIGURE_SUFFIXES),
            (self.slice, "slice", FIGURE_SUFFIXES),
            (self.path, "path", PATH_SUFFIXES),
        ):
            if path is not None and path.suffix.lower() not in suffixes:
                raise ValueError(f"{path.name} does not say its format; end the name of a {what} on "
                                 f"{' or '.join(suffixes)}.")  # fmt: skip
        if len({path.absolute() for path in self.named().values()}) < len(self.named()):
            raise ValueError("Two outputs have the same file name; give each its own.")


def write_outputs(
    files: OutputFiles,
    structure: Structure,
    ion: str,
    settings: BondValenceStageSettings,
    barriers_eV: dict[int, float | None] | None = None,
) -> dict[str, str]:
    """Write what was asked for about the bond-valence landscape of one crystal.

    Parameters
    ----------
    files
        Where.
    structure
        The crystal as it was given.
    ion
        Element symbol of the mobile ion.
    settings
        Settings of the stage.
    barriers_eV
        What the stage reported for 1, 2 and 3 dimensions.

    Returns
    -------
    dict
        One line for a person about every file, by what it is.

    Raises
    ------
    CandidateError
        The crystal cannot be answered for, or does not percolate in so many directions.
    """
    fine = landscape = None
    if files.draws:
        # Before anything is written: where nothing percolates, there shall be no file either.
        volume_A3 = _primitive_volume_A3(structure)
        spacing = max(min(FIGURE_SPACING_A, settings.spacing_A), (volume_A3 / MAX_FIGURE_POINTS) ** (1 / 3))
        fine = bond_valence_landscape(structure, ion, settings, spacing, barriers_eV)
        fine.paths(files.dimension)
    if files.volume is not None:
        landscape = bond_valence_landscape(structure, ion, settings, barriers_eV=barriers_eV)
    return write_landscape(files, landscape, fine)


def write_landscape(files: OutputFiles, coarse: Landscape | None, fine: Landscape | None) -> dict[str, str]:
    """Write what was asked for about one landscape.

    Parameters
    ----------
    files
        Where.
    coarse
        What volumes are written of; None where there are none.
    fine
        What figures and paths are drawn of; None where there are none.

    Returns
    -------
    dict
        One line for a person about every file, by what it is.

    Raises
    ------
    CandidateError
        The ion does not percolate in so many directions; then nothing was written.
    """
    said = {}
    paths = fine.paths(files.dimension) if fine is not None else []
    for path in files.named().values():
        path.parent.mkdir(parents=True, exist_ok=True)
    if files.volume is not None and coarse is not None:
        said["volume"] = _write_volume(files.volume, coarse)
    if files.levels is not None and coarse is not None and coarse.levels is not None:
        levels = dataclasses.replace(coarse, values=coarse.levels, method="lowest level at which it gets there")
        said["levels"] = _write_volume(files.levels, levels)
    if fine is None:
        return said
    if files.path is not None:
        said["path"] = write_path(files.path, fine, files.dimension)
    level, lowest = fine.percolation.thresholds_eV, fine.percolation.component_minimum_eV
    k = files.dimension - 1
    shown = (fine.structure, fine.values, paths, level[k], fine.ion, fine.title(files.dimension), lowest[k])
    if files.figure is not None:
        from .landscape_figures import landscape_figure

        figure = landscape_figure(*shown)
        figure.write_html(files.figure)
        said["figure"] = f"{files.figure} ({files.dimension}D)"
    if files.slice is not None:
        from .landscape_slices import slice_figure

        figure = slice_figure(*shown, levels=fine.levels)
        figure.write_html(files.slice)
        said["slice"] = f"{files.slice} ({files.dimension}D)"
    return said


def _primitive_volume_A3(structure: Structure) -> float:
    from ..makers.stage import primitive_cell

    return float(primitive_cell(structure).volume)


def _write_volume(path: Path, landscape: Landscape) -> str:
    from ..transport.volumetric import write_volume

    formula = landscape.structure.composition.reduced_formula
    title = f"{formula}: {landscape.method} of {landscape.ion}"
    ceiling = write_volume(path, landscape.values, landscape.structure, title)
    shape = " x ".join(str(n) for n in landscape.values.shape)
    return f"{path} ({shape} points, cell of {len(landscape.structure)} sites, cut off at {ceiling:.2f} eV)"


def write_path(path: Path, landscape: Landscape, dimension: int) -> str:
    """Write percolating paths: as JSON for every number of directions, or as extended XYZ for one of them.

    The XYZ file has a frame for every point of every path: the crystal without its mobile ions, and one ion there.

    Returns
    -------
    str
        One line for a person.
    """
    if path.suffix.lower() == ".json":
        document = path_document(landscape)
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        return f"{path} (up to {len(document['dimensions'])}D)"
    from ase.io import write

    frames = _frames(landscape, landscape.paths(dimension))
    write(path, frames, format="extxyz")
    return f"{path} ({len(frames)} frames, {dimension}D)"


def path_document(landscape: Landscape) -> dict[str, Any]:
    """Cell, levels, paths and stops of a landscape as plain data; units stand in the names."""
    from ..transport.path_stops import name_stops

    percolation = landscape.percolation
    dimensions = []
    for dimension in range(1, percolation.dimension + 1):
        k = dimension - 1
        reported = landscape.barriers_eV.get(dimension)
        paths = []
        for path in landscape.paths(dimension):
            steps = np.linalg.norm(np.diff(path.frac_coords, axis=0) @ landscape.lattice, axis=1)
            stops = name_stops(path, landscape.structure, landscape.ion)
            paths.append(
                {
                    "translation": list(path.translation),
                    "length_A": path.length_A,
                    "level_eV": path.level_eV,
                    "bottleneck_index": path.bottleneck_index,
                    "stops": [
                        {
                            "index": named.stop.index,
                            "frac_coords": list(named.frac_coords),
                            "energy_eV": named.stop.energy_eV,
                            "barrier_to_next_eV": named.stop.barrier_eV,
                            "site_index": named.site_index,
                            "site_members": list(named.members),
                            "label": named.label,
                            "image": None if named.image is None else list(named.image),
                            "distance_to_site_A": named.distance_A if np.isfinite(named.distance_A) else None,
                        }
                        for named in stops
                    ],
                    "frac_coords": np.round(path.frac_coords, 10).tolist(),
                    "energies_eV": path.energies_eV.tolist(),
                    "distances_A": np.append(0.0, steps.cumsum()).tolist(),
                }
            )
        dimensions.append(
            {
                "dimension": dimension,
                "threshold_eV": percolation.thresholds_eV[k],
                "component_minimum_eV": percolation.component_minimum_eV[k],
                "component_minimum_frac_coords": _position(percolation.component_minimum_node[k], landscape),
                "bottleneck_frac_coords": _position(percolation.bottleneck[k], landscape),
                "barrier_on_this_grid_eV": percolation.barriers_eV[k],
                "barrier_of_the_stage_eV": reported,
                "paths": paths,
            }
        )
    return {
        "formula": landscape.structure.composition.reduced_formula,
        "ion": landscape.ion,
        "method": landscape.method,
        "grid_shape": list(landscape.values.shape),
        "spacing_A": landscape.spacing_A,
        "structure": landscape.structure.as_dict(),
        "dimensions": dimensions,
    }


def _position(voxel: int | None, landscape: Landscape) -> list[float] | None:
    if voxel is None:
        return None
    shape = landscape.values.shape
    return [float(i) / n for i, n in zip(np.unravel_index(voxel, shape), shape, strict=True)]


def _frames(landscape: Landscape, paths: list[PercolationPath]) -> list[Any]:
    from ..transport.volumetric import majority_structure

    crystal = majority_structure(landscape.structure)
    crystal.remove_species([landscape.ion])
    framework = crystal.to_ase_atoms()
    frames = []
    for number, path in enumerate(paths, 1):
        for point, energy in zip(path.frac_coords, path.energies_eV, strict=True):
            atoms = framework.copy()
            atoms.append(landscape.ion)
            atoms.positions[-1] = point @ landscape.lattice
            atoms.info = {"path": number, "site_energy_eV": float(energy)}
            frames.append(atoms)
    return frames
