"""Bands of pair energies as the neb stage would leave them, and the program that stands in for pw.x with the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hopflow.makers.band_records import band_extxyz, band_record
from hopflow.makers.documents import BandDocument
from hopflow.makers.settings import HandoffStageSettings
from hopflow.potentials.espresso import COMMAND
from hopflow.transport.band_result import BandResult, BandSettings
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.neb import run_band
from hopflow.transport.structures import structure_hash
from pair_potential import PairPotential
from pymatgen.core import Lattice, Structure

STAND_IN = Path(__file__).parent / "pair_pw.py"
IMAGES = 3


def rock_salt(height_A: float = 5.1) -> Structure:
    """LiCl; with another height its hops along the axis and in the plane differ."""
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Structure(Lattice.tetragonal(5.1, height_A), cubic.species, cubic.frac_coords)


def learned_band(crystal: Structure, number: int) -> BandResult:
    """A band of one of the crystal's hops, not quite at rest."""
    network = enumerate_hops(crystal, "Li")
    path = hop_path(network, network.hops[number], images=IMAGES + 2, min_length_A=6.0)
    settings = BandSettings(images=IMAGES, max_force_eV_per_A=0.3, endpoint_max_force_eV_per_A=0.2, split=False)
    result = run_band(path, PairPotential(), settings)
    assert result.converged
    return result


def band_document(crystal: Structure, bands: Sequence[BandResult]) -> BandDocument:
    """What the neb stage leaves of bands, that of the limiting hop first."""
    barrier_eV = bands[0].barrier_span_eV
    return BandDocument(
        stage="neb", formula="LiCl", ion="Li", atoms=8, structure_hash=structure_hash(crystal), method="pairs",
        content_key="k" * 64, settings={}, versions={}, seconds=1.0, barrier_1d_eV=barrier_eV,
        barrier_2d_eV=barrier_eV, barrier_3d_eV=barrier_eV, dimension=3, potential="pairs",
        bands=[band_record(band, band.path_id, 3.6, 12) for band in bands], images_extxyz=band_extxyz(bands[0]),
        hops_on_path=[band.path_id for band in bands],
        other_bands_extxyz={band.path_id: band_extxyz(band) for band in bands[1:]},
    )  # fmt: skip


def settings_in(place: Path, **changes: Any) -> HandoffStageSettings:
    """Settings of the stage with pseudopotentials and folder in a place; changes are those of the program."""
    own = {"pseudopotentials": str(place / "upf"), "max_force_eV_per_A": 0.05, **changes}
    return HandoffStageSettings(
        engine="espresso", vacancy_charge="compensated", folder=str(place / "handoff"), espresso=own
    )  # type: ignore[arg-type]


def stand_in(monkeypatch: pytest.MonkeyPatch, place: Path, *faults: str) -> None:
    """Put the stand-in into the program's place; it counts its runs there."""
    monkeypatch.setenv(COMMAND, " ".join([sys.executable, str(STAND_IN), "--count", str(place), *faults]))
    monkeypatch.setenv("HOPFLOW_PW_PROCESSES", "2")


def program_runs(place: Path) -> int:
    """How often it ran."""
    return len((place / "runs").read_bytes()) if (place / "runs").is_file() else 0
