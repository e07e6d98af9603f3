"""A potential that needs no weights: smooth pair terms, with the share and the neighbours of each atom."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from hopflow.transport.energies import SiteEvaluation
from hopflow.transport.errors import CandidateError, Reason

REACH_A = 4.2


class PairPotential:
    """Attraction of unlike and repulsion of like atoms, both gone smoothly at 4.2 Å."""

    name = "pairs"
    weights_sha256 = "0" * 64
    method = "analytic"
    elements = frozenset({"Li", "Na", "Cl", "Br"})

    def __init__(self) -> None:
        self.asked: list[Atoms] = []

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        if foreign := set(image.get_chemical_symbols()) - self.elements:
            raise CandidateError(f"{self.name} does not know {sorted(foreign)}.", Reason.UNSUPPORTED_ELEMENT)
        self.asked.append(image.copy())
        first, second, length, vector = neighbor_list("ijdD", image, REACH_A)
        cation = np.isin(image.numbers, [3, 11])
        sign = np.where(cation[first] == cation[second], 1.0, -1.0)
        core, screen = 30.0 * np.exp(-2.0 * length), (1.0 - (length / REACH_A) ** 2) ** 3
        slope = -6.0 * length / REACH_A**2 * (1.0 - (length / REACH_A) ** 2) ** 2
        pair = (core + 0.8 * sign) * screen
        steepness = -2.0 * core * screen + (core + 0.8 * sign) * slope
        count, force = len(image), np.zeros((len(image), 3))
        np.add.at(force, first, (steepness / length)[:, None] * vector)
        shares = 0.5 * np.bincount(first, pair, count)
        near = np.stack([np.bincount(first, screen * cation[second], count), np.bincount(first, screen, count)], axis=1)
        return SiteEvaluation(float(shares.sum()), force if forces else None, shares, near)

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        return np.array([self.evaluate_sites(image, forces=False).energy_eV for image in images])

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        found = [self.evaluate_sites(image) for image in images]
        return np.array([each.energy_eV for each in found]), [np.asarray(each.forces_eV_per_A) for each in found]


class DeadlyPotential(PairPotential):
    """Ends its process on bromine, as a machine without memory would."""

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        if any("Br" in image.get_chemical_symbols() for image in images):
            os._exit(1)
        return super().energies_and_forces(images)
