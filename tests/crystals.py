"""Crystals that several tests use, from their published parameters."""

from pymatgen.core import Lattice, Structure


def lithium_phosphate() -> Structure:
    """gamma-Li3PO4, Materials Project mp-2878 (CC BY 4.0)."""
    return Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(10.41629663, 6.07079561, 4.89264480),
        ["Li", "Li", "P", "O", "O", "O"],
        [
            [0.16431139, 0.50153938, 0.30465491],
            [0.07624687, 0.25, 0.70278272],
            [0.08814555, 0.75, 0.80932757],
            [0.15858046, 0.54268818, 0.70565345],
            [0.05116622, 0.25, 0.29484118],
            [0.08918165, 0.75, 0.12473411],
        ],
    )


def lithium_nitride() -> Structure:
    """alpha-Li3N, P6/mmm; A. Rabenau and H. Schulz, J. Less-Common Met. 50 (1976) 155."""
    return Structure.from_spacegroup(
        "P6/mmm", Lattice.hexagonal(3.648, 3.875), ["N", "Li", "Li"], [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0]]
    )


def iron_phosphate() -> Structure:
    """LiFePO4, Pnma; V. A. Streltsov et al., Acta Cryst. B 49 (1993) 147."""
    return Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(10.332, 6.010, 4.692),
        ["Li", "Fe", "P", "O", "O", "O"],
        [
            [0, 0, 0],
            [0.2822, 0.25, 0.9747],
            [0.0950, 0.25, 0.4179],
            [0.0973, 0.25, 0.7428],
            [0.4573, 0.25, 0.2060],
            [0.1656, 0.0465, 0.2848],
        ],
    )


def antiperovskite() -> Structure:
    """Li3OCl, Pm-3m; Y. Zhao and L. L. Daemen, JACS 134 (2012) 15042."""
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.907), ["Li", "O", "Cl"], [[0.5, 0.5, 0], [0.5, 0.5, 0.5], [0, 0, 0]]
    )


def argyrodite() -> Structure:
    """Li6PS5Cl with lithium on 24g, F-43m, Materials Project mp-985592 (CC BY 4.0)."""
    return Structure.from_spacegroup(
        "F-43m",
        Lattice.cubic(10.279498),
        ["Li", "P", "S", "S", "Cl"],
        [
            [0.023113, 0.25, 0.25],
            [0, 0, 0.5],
            [0.11552233, 0.11552233, 0.61552233],
            [0.25, 0.25, 0.25],
            [0, 0, 0],
        ],
    )


def rock_salt(a: float = 4.03, cation: str = "Li", anion: str = "F") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
