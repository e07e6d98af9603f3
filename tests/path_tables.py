"""Path tables that several tests use: vacancy hops of small crystals, with made-up barriers."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import crystals
import numpy as np
from hopflow.transport.hops import enumerate_hops, hop_path
from hopflow.transport.paths import MigrationPath
from pymatgen.core import Structure


def path_row(path_id: str, path: MigrationPath, **more: Any) -> dict[str, Any]:
    """A path as a row of a path table, with further columns."""
    return {
        "path_id": path_id,
        "migrating_ion": path.ion,
        **more,
        "lattice": path.lattice.tolist(),
        "path_frac_coords": path.path_frac_coords.tolist(),
        "framework_species": list(path.framework_species),
        "framework_frac_coords": path.framework_frac_coords.tolist(),
    }


def hop_rows(name: str, structure: Structure, ion: str) -> list[dict[str, Any]]:
    """A row for each unique hop; the barrier is a made-up function of how tightly the middle is held."""
    rows = []
    network = enumerate_hops(structure, ion)
    for number, hop in enumerate(network.hops, 1):
        path = hop_path(network, hop, images=5)
        away = path.framework_frac_coords - path.path_frac_coords[2]
        nearest_A = np.linalg.norm((away - np.round(away)) @ path.lattice, axis=1).min()
        barrier_eV = float(0.12 * np.exp(2.0 * (2.0 - nearest_A)) * path.length_A)
        rows.append(
            path_row(
                f"{name}_{number}",
                path,
                structure_class="MADE UP",
                barrier_dft_eV=barrier_eV,
                barrier_mace_relax_eV=None if number == 2 else 0.9 * barrier_eV + 0.02,
            )
        )
    return rows


@cache
def _text() -> str:
    rows = []
    for anion, a_A in (("F", 4.2), ("Cl", 5.1), ("Br", 5.5), ("I", 6.1), ("H", 4.1)):
        for cation, more_A in (("Li", 0.0), ("Na", 0.5), ("K", 1.0)):
            structure = crystals.rock_salt(a_A + more_A, cation, anion)
            rows += hop_rows(f"{cation}{anion}", structure, cation)[:2]
    rows += hop_rows("Li3N", crystals.lithium_nitride(), "Li")
    rows += hop_rows("Li3OCl", crystals.antiperovskite(), "Li")[:3]
    rows += hop_rows("LiFePO4", crystals.iron_phosphate(), "Li")[:3]
    return json.dumps(rows)


def path_table() -> list[dict[str, Any]]:
    """Some two dozen rows of eight host compounds; every call gives new ones, which may be changed."""
    return json.loads(_text())


def write_table(rows: Sequence[dict[str, Any] | str], file: Path) -> Path:
    """Rows, and texts that stand for broken ones, as JSON lines; packed where the name says so."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.name.endswith(".gz") else text.encode())
    return file
