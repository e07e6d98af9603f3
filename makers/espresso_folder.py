"""What the dft stage leaves of a band that Quantum ESPRESSO has computed: records of its images, and its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..potentials.espresso import INPUT, OUTPUT, EspressoPotential, kpoint_mesh
from ..transport.bands import band_forces, largest_force
from ..transport.errors import HopflowError
from .documents import ImageRecord
from .folders import MANIFEST, hop_folders, written_whole

if TYPE_CHECKING:
    from ase import Atoms

    from ..transport.neb import BandResult
    from .settings import EspressoBandSettings


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
    check_replaceable(folder)
    with written_whole(folder) as staging:
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


def check_replaceable(folder: Path) -> None:
    """Make sure that a folder may be replaced.

    Raises
    ------
    HopflowError
        It is there, and no earlier band.
    """
    if folder.exists() and not all((place / MANIFEST).is_file() for place in hop_folders(folder)):
        raise HopflowError(f"{folder} exists and is no earlier band; name another folder.")
