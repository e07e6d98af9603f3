"""Small paths that the tests of ALIGNN use: vacancy hops in rock salts of sixteen sites, with made-up barriers."""

from __future__ import annotations

from typing import Any

import numpy as np
from hopflow.transport.paths import MigrationPath
from pymatgen.core import Lattice, Structure

HOSTS = (("Li", "Cl", 5.13), ("Na", "Cl", 5.64), ("Li", "Br", 5.50), ("K", "F", 5.34), ("Na", "F", 4.63))


def rock_salt(edge_A: float = 4.03, cation: str = "Li", anion: str = "F") -> Structure:
    """The cubic cell, without going through the group's many operations."""
    cations = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
    anions = cations + np.array([0.5, 0.0, 0.0])
    return Structure(Lattice.cubic(edge_A), [cation] * 4 + [anion] * 4, np.concatenate([cations, anions]))


def vacancy_row(cation: str, anion: str, edge_A: float, number: int = 0, shake_A: float = 0.1) -> dict[str, Any]:
    """A hop of a cation to a neighbouring cation site, atoms shaken a little, as a row of a path table."""
    structure = rock_salt(edge_A, cation, anion)
    structure.make_supercell((2, 1, 1), to_unit_cell=True)
    structure.perturb(shake_A, seed=number)
    lattice, frac = structure.lattice.matrix, structure.frac_coords
    cations = [i for i, site in enumerate(structure) if site.specie.symbol == cation]
    start = cations[0]
    steps = frac[cations[1:]] - frac[start]
    steps -= np.round(steps)
    order = np.argsort(np.linalg.norm(steps @ lattice, axis=1))
    end, step = cations[1:][order[number]], steps[order[number]]
    keep = [i for i in range(len(structure)) if i not in (start, end)]
    return {
        "path_id": f"{cation}{anion}_{number + 1}",
        "migrating_ion": cation,
        "barrier_dft_eV": 0.2 + 0.1 * len(cation + anion) + 0.3 * number,
        "lattice": lattice.tolist(),
        "path_frac_coords": (frac[start] + np.linspace(0.0, 1.0, 5)[:, None] * step).tolist(),
        "framework_species": [structure[i].specie.symbol for i in keep],
        "framework_frac_coords": frac[keep].tolist(),
    }


def vacancy_rows() -> list[dict[str, Any]]:
    """Two hops of each of five hosts."""
    return [vacancy_row(*host, number) for host in HOSTS for number in (0, 1)]


def vacancy_path(number: int = 0) -> MigrationPath:
    """One of the hops in LiCl."""
    return MigrationPath.from_row(vacancy_row(*HOSTS[0], number))
