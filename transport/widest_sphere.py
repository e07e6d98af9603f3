"""The largest sphere that crosses a crystal in one, two and three directions, exact also for atoms of different radii.

The edges of a radical Voronoi diagram are the widest paths only between spheres of one size. For a probe of radius rho,
though, whether it percolates is exactly told by the diagram of the spheres with radii r + rho: what is left of space
outside the spheres has the connectivity of the vertices and edges of that diagram that lie outside (H. Edelsbrunner,
Discrete Comput. Geom. 13 (1995) 415). So the value of one diagram, which never exceeds the truth, is the rho of the
next, until it grows no more.
"""

from __future__ import annotations

import numpy as np

from .percolation import percolate_graph
from .power_diagram import PowerDiagram, power_diagram
from .sphere_clearance import SphereClearance

#: Values that grow by less than this (Angstrom) have been reached.
REACHED_A = 1e-4
#: The values of a diagram are those of the one before to a few steps; this many are never needed.
MOST_DIAGRAMS = 60


def percolating_radii_A(diagram: PowerDiagram, clearance: SphereClearance) -> np.ndarray:
    """Largest sphere that percolates along the edges of a diagram in 1, 2 and 3 directions, shape (3,)."""
    starts = diagram.vertices[diagram.edges[:, 0]]
    ends = diagram.vertices[diagram.edges[:, 1]] + diagram.images
    widths = clearance.narrowest(starts, ends)[0]
    nodes = np.full(len(diagram.vertices), -np.inf)
    np.maximum.at(nodes, diagram.edges.ravel(), np.repeat(widths, 2))  # a node is at least as wide as its segments
    found = percolate_graph(-nodes, diagram.edges, diagram.images, -widths)
    return -np.array(found.thresholds_eV)


def widest_percolating_radii_A(
    clearance: SphereClearance, along_edges_A: tuple[float, float, float]
) -> tuple[tuple[float, float, float], int]:
    """Largest sphere that percolates by any path in 1, 2 and 3 directions.

    Parameters
    ----------
    clearance
        The spheres.
    along_edges_A
        What percolates along the edges of the radical diagram of the spheres themselves, a lower bound.

    Returns
    -------
    tuple
        Radii in Angstrom, and the number of diagrams that it took.
    """
    values = np.array(along_edges_A, dtype=float)
    if np.ptp(clearance.radii_A) == 0:
        return along_edges_A, 0
    tried: list[float] = []
    while len(tried) < MOST_DIAGRAMS:
        open_ones = [v for v in values if all(abs(v - rho) > REACHED_A for rho in tried)]
        if not open_ones:
            break
        probe = max(open_ones)
        # Negative values mean that only overlapping spheres leave no way; radii cannot be negative.
        inflated = np.maximum(clearance.radii_A + probe, 0.0)
        diagram = power_diagram(clearance.lattice, clearance.frac_coords, inflated)
        values = np.maximum(values, percolating_radii_A(diagram, clearance))
        tried.append(float(probe))
    one, two, three = values.tolist()
    return (one, two, three), len(tried)
