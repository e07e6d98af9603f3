"""What the network says about the sites of the mobile ion: whether it finds them, and how much room they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .framework_radii import FrameworkRadii, shannon_radius_A
from .sphere_clearance import SphereClearance
from .void_graph import VoidGraph

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Radii (Angstrom) between which 90 % of the mobile ions' sites lie, of B. He et al., Sci. Data 7 (2020) 153.
STANDARD_RADII_A = {
    "Li": (0.5327, 0.9693),
    "Na": (0.9196, 1.3153),
    "Mg": (0.5680, 0.9901),
    "Al": (0.3666, 0.7628),
}
#: Share of the lower standard radius at which the same work calls a bottleneck passable.
PASSABLE_SHARE = 0.85
#: A site of the mobile ion is recovered by a point of the network that is no farther (Angstrom).
RECOVERED_A = 0.5


@dataclass(frozen=True)
class RecoveredSite:
    """Where the network has a site of the mobile ion.

    Attributes
    ----------
    site
        Index of the site in the structure.
    interstice_A, bottleneck_A, face_centre_A
        Distance to the nearest point of each kind in Angstrom.
    """

    site: int
    interstice_A: float
    bottleneck_A: float
    face_centre_A: float

    @property
    def nearest_A(self) -> float:
        """Distance to the nearest of them."""
        return min(self.interstice_A, self.bottleneck_A, self.face_centre_A)

    @property
    def recovered(self) -> bool:
        """Whether that is within ``RECOVERED_A``."""
        return self.nearest_A <= RECOVERED_A


def mobile_site_indices(structure: Structure, ion: str) -> list[int]:
    """Sites that the mobile ion occupies, alone or not."""
    return [k for k, site in enumerate(structure) if ion in {element.symbol for element in site.species.elements}]


def migrant_alpha(
    structure: Structure, ion: str, framework: FrameworkRadii, clearance: SphereClearance
) -> float | None:
    """How well the ion fits its sites, with the radius of its charge at six neighbours; see ``STANDARD_RADII_A``."""
    sites = [k for k in mobile_site_indices(structure, ion) if k not in set(framework.sites.tolist())]
    if not sites:
        return None
    species = next(s for s in structure[sites[0]].species if s.symbol == ion)
    radius = shannon_radius_A(ion, float(getattr(species, "oxi_state", None) or 0.0), 6.0)
    if radius is None:
        return None
    return min(1.0, float(clearance.at(structure.frac_coords[sites])[0].mean()) / radius)


def recovered_sites(
    structure: Structure,
    ion: str,
    graph: VoidGraph,
    faces: tuple[np.ndarray, ...],
    lattice: np.ndarray,
    with_centres: bool,
) -> tuple[RecoveredSite, ...]:
    """Distances of the mobile ion's sites from the points of the unmerged network."""
    from pymatgen.core import Lattice

    sites = mobile_site_indices(structure, ion)
    vertices = graph.frac_coords[graph.vertices]
    if with_centres:
        centres = graph.frac_coords[~graph.vertices]
        segments = graph.vertices[graph.edges].all(axis=1)
    else:
        centres = np.array([(vertices[ring[:, 0]] + ring[:, 1:]).mean(axis=0) for ring in faces])
        segments = np.ones(len(graph.edges), dtype=bool)
    cell = Lattice(lattice)
    distances = [
        cell.get_all_distances(structure.frac_coords[sites], points % 1.0).min(axis=1)
        for points in (vertices, graph.bottleneck_frac_coords[segments], centres)
    ]
    return tuple(
        RecoveredSite(site, float(a), float(b), float(c)) for site, a, b, c in zip(sites, *distances, strict=True)
    )
