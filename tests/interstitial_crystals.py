"""A small data set for the networks that predict barriers: known structure types with other elements, some strained."""

from functools import cache
from pathlib import Path
from typing import Any

from crystals import antiperovskite, argyrodite, lithium_nitride, lithium_phosphate, rock_salt
from pymatgen.core import Lattice, Structure

SPACING_A = 0.35
STRAINS = (0.0, 0.02)


def antifluorite(a: float, anion: str) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", anion], [[0.25] * 3, [0, 0, 0]])


def substituted(structure: Structure, strain: float, **elements: str) -> Structure:
    structure.replace_species(elements)
    structure.apply_strain(strain, inplace=True)
    return structure


@cache
def unstrained() -> dict[str, Structure]:
    """Thirteen lithium compounds in as many chemical systems and six structure types."""
    return {
        "fluoride": rock_salt(4.03, "Li", "F"),
        "chloride": rock_salt(5.13, "Li", "Cl"),
        "bromide": rock_salt(5.50, "Li", "Br"),
        "iodide": rock_salt(6.00, "Li", "I"),
        "oxide": antifluorite(4.62, "O"),
        "sulphide": antifluorite(5.71, "S"),
        "selenide": antifluorite(6.00, "Se"),
        "nitride": lithium_nitride(),
        "oxychloride": antiperovskite(),
        "oxybromide": substituted(antiperovskite(), 0.03, Cl="Br"),
        "chlorargyrodite": argyrodite(),
        "bromargyrodite": substituted(argyrodite(), 0.01, Cl="Br"),
        "phosphate": lithium_phosphate(),
    }


def crystals() -> dict[str, Structure]:
    """Twenty-six crystals: each compound as it is and stretched."""
    return {
        f"{name}-{100 * strain:.0f}": structure.copy().apply_strain(strain, inplace=False)
        for strain in STRAINS
        for name, structure in unstrained().items()
    }


def build(folder: Path) -> Path:
    """Build the data set of all of them."""
    from hopflow.learning.interstitial_dataset import DatasetSettings, build_dataset
    from hopflow.transport.bvse import BondValenceSettings

    settings: Any = DatasetSettings(bond_valence=BondValenceSettings(spacing_A=SPACING_A))
    build_dataset(crystals().items(), folder, settings, shard_size=10)
    return folder
