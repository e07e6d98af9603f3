"""The softBV parameter table, typed and read once.

Numerical facts from the published softBV tables: H. Chen and S. Adams, IUCrJ 4 (2017) 614; H. Chen, L. L. Wong and
S. Adams, Acta Cryst. B 75 (2019) 18; L. L. Wong et al., Chem. Mater. 33 (2021) 625.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

from .errors import MissingParametersError

#: The radii of Cordero et al. end with curium.
LAST_CORDERO_NUMBER = 96

RadiusTable = Literal["cordero", "softbv"]


@dataclass(frozen=True)
class PairParameters:
    """Morse parameters of a cation-anion pair: (D0/2) [(exp(alpha (Rmin - R)) - 1)^2 - 1].

    34 pairs of the table (Mg-Se, Ca-Br, Ba-I, Cr6+-S ...) have a negative alpha, with which the energy grows with
    distance and Rmin is no bond length; they stay in the table as they are, and :meth:`BondValenceParameters.pair`
    refuses them.
    """

    R0_A: float
    D0_eV: float
    Rmin_A: float
    alpha_per_A: float


@dataclass(frozen=True)
class BondValenceParameters:
    """The whole table.

    Attributes
    ----------
    pairs
        Parameters by (cation, cation charge, anion, anion charge), for instance ``("Li", 1, "O", -2)``.
    softbv_radii_A
        softBV's covalent radii in Angstrom by (element, charge).
    """

    pairs: Mapping[tuple[str, int, str, int], PairParameters]
    softbv_radii_A: Mapping[tuple[str, int], float]

    @property
    def cations(self) -> frozenset[tuple[str, int]]:
        """(element, charge) of every cation."""
        return frozenset((cation, charge) for cation, charge, _, _ in self.pairs)

    @property
    def anions(self) -> frozenset[tuple[str, int]]:
        """(element, charge) of every anion."""
        return frozenset((anion, charge) for _, _, anion, charge in self.pairs)

    def pair(self, element: str, charge: float, other: str, other_charge: float) -> PairParameters:
        """Parameters of a cation and an anion, in either order.

        Raises
        ------
        MissingParametersError
            The table has no such pair, or its parameters are no attraction (alpha below zero).
        """
        cation, anion = (
            ((element, charge), (other, other_charge)) if charge > 0 else ((other, other_charge), (element, charge))
        )
        found = self.pairs.get((*cation, *anion))  # type: ignore[arg-type]
        if found is None:
            raise MissingParametersError(
                f"The bond-valence table has no parameters for the pair {ion_name(*cation)} and {ion_name(*anion)}; "
                "give other oxidation states if these are wrong, or send this crystal to the stages that use a "
                "potential instead of bond valences (pes, neb)."
            )
        if found.alpha_per_A <= 0:
            raise MissingParametersError(
                f"The tabulated bond-valence parameters of {ion_name(*cation)} and {ion_name(*anion)} are unphysical "
                f"(alpha = {found.alpha_per_A:g} per Angstrom is negative); send this crystal to the stages that use a "
                "potential instead of bond valences (pes, neb)."
            )
        return found

    def covalent_radius_A(self, element: str, charge: float, table: RadiusTable = "cordero") -> float:
        """Covalent radius that sets the range of the screened Coulomb term.

        Parameters
        ----------
        element, charge
            The ion. softBV's radii depend on the charge; an ion that they lack takes the one of nearest charge and same
            sign.
        table
            ``cordero`` (Cordero et al., Dalton Trans. 2008, 2832, as in ASE; the choice of BVlain and of the LiTraj
            labels) or ``softbv``.

        Raises
        ------
        MissingParametersError
            The table has no radius for the element.
        """
        if table == "softbv":
            charges = [q for symbol, q in self.softbv_radii_A if symbol == element and q * charge > 0]
            if charges:
                return self.softbv_radii_A[element, min(charges, key=lambda q: (abs(q - charge), q))]
        else:
            from ase.data import atomic_numbers, covalent_radii

            # ASE fills its list up with 2.00, which is also the tabulated radius of protactinium.
            if atomic_numbers[element] <= LAST_CORDERO_NUMBER:
                return float(covalent_radii[atomic_numbers[element]])
        raise MissingParametersError(
            f"The table of covalent radii '{table}' has no entry for {ion_name(element, charge)}; "
            "send this crystal to the stages that use a potential instead of bond valences (pes, neb)."
        )


def principal_quantum_number(element: str) -> int:
    """Principal quantum number of the valence shell: the element's period, as in every row of the softBV table."""
    from pymatgen.core import Element

    return int(Element(element).row)


def ion_name(element: str, charge: float) -> str:
    """An ion as people write it: ``Li1+``, ``O2-``, ``Mn3.5+``."""
    return f"{element}{abs(charge):.3g}{'+' if charge > 0 else '-'}"


@lru_cache(maxsize=1)
def load_parameters() -> BondValenceParameters:
    """Read the table that ships with the package (591 pairs); later calls return the same object."""
    pairs = {
        (row["cation"], int(row["cation_charge"]), row["anion"], int(row["anion_charge"])): PairParameters(
            float(row["R0_A"]), float(row["D0_eV"]), float(row["Rmin_A"]), float(row["alpha_per_A"])
        )
        for row in read_table("bond_valence_parameters.csv")
    }
    radii = {
        (row["element"], int(row["charge"])): float(row["covalent_radius_A"])
        for row in read_table("bond_valence_ions.csv")
    }
    return BondValenceParameters(MappingProxyType(pairs), MappingProxyType(radii))


@lru_cache(maxsize=1)
def mobile_ions() -> list[str]:
    """Element symbols of every ion that the table can move, by atomic number; anions (O, F, ...) are among them."""
    from ase.data import atomic_numbers

    parameters = load_parameters()
    return sorted({element for element, _ in parameters.cations | parameters.anions}, key=lambda e: atomic_numbers[e])


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of a table of the package's ``data`` folder; lines that begin with # are comments."""
    text = (files(__package__) / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
