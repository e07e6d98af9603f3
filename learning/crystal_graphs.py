"""From a crystal to the graph of its atoms: what the interstitial network is compared with.

Every atom of the primitive cell, mobile ions included, is a node with its nearest atoms as neighbours, as in the
crystal graph of T. Xie and J. C. Grossman, Phys. Rev. Lett. 120 (2018) 145301.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .elements import element_table
from .interstitial_graphs import nearest_atoms

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Atoms around each atom, as in the source.
NEIGHBOURS = 12


@dataclass(frozen=True)
class CrystalGraph:
    """Atoms of the primitive cell and their nearest neighbours.

    Attributes
    ----------
    atom_rows
        Rows of the atoms in the element table, shape (atoms,).
    atom_charges
        Their oxidation states, NaN where unknown, shape (atoms,).
    mobile
        Which atoms are mobile ions, bool, shape (atoms,).
    neighbours, neighbour_A
        Nearest atoms, images of the atom itself among them, and their distances, nearest first, shape
        (atoms, ``NEIGHBOURS``).
    """

    atom_rows: np.ndarray
    atom_charges: np.ndarray
    mobile: np.ndarray
    neighbours: np.ndarray
    neighbour_A: np.ndarray


def build_crystal_graph(primitive: Structure, ion: str = "Li", neighbours: int = NEIGHBOURS) -> CrystalGraph:
    """The graph of a crystal in its primitive cell; a site that several elements share counts as the most frequent.

    Raises
    ------
    CandidateError
        With reason ``unsupported_element`` for an element without descriptors.
    """
    species = [max(site.species.items(), key=lambda pair: pair[1])[0] for site in primitive]
    symbols = [str(each.symbol) for each in species]
    rows = element_table().rows(symbols)
    charges = np.array([np.nan if (q := getattr(each, "oxi_state", None)) is None else float(q) for each in species])
    lattice, frac = primitive.lattice.matrix, primitive.frac_coords
    # The nearest atom of all is the atom itself.
    near, distances_A = nearest_atoms(lattice, frac, frac, rows, charges, neighbours + 1)
    return CrystalGraph(rows, charges, np.array([symbol == ion for symbol in symbols]), near[:, 1:], distances_A[:, 1:])
