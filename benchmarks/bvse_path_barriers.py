"""Bond-valence barriers of migration paths whose DFT-NEB barrier is known, the rows of the calibration.

Imported by ``fit_bvse_calibration.py``. For every path the framework without any ion of the migrating element gives one
site energy field, and from that field:

``percolation``
    1D percolation barrier of the whole crystal as the stage reports it by default.
``route_span``, ``route_forward``
    Lowest ceiling of any route from the start's basin to the end's, less the lower of the two basins (the label's
    definition: highest minus lowest energy of the band) or less the start's basin.
``hop_span``, ``hop_forward``
    The same for routes that stay within ``CORRIDOR_A`` of the straight line: the hop itself, without detours.
``straight_span``
    Highest minus lowest energy along the straight line.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Routes of one hop stay this close (Angstrom) to the straight line between its ends; wide enough for a curved band,
#: narrower than the way to the next site.
CORRIDOR_A = 2.0

#: A basin further than this (Angstrom) from the end point is another site than the one meant.
FARTHEST_BASIN_A = 1.5

KINDS = ("percolation", "route_span", "route_forward", "hop_span", "hop_forward", "straight_span")


def path_barriers(row: dict[str, Any], spacing_A: float) -> dict[str, Any]:
    """Barriers of one path in eV by kind, or ``{"refused": reason code, "message": sentence}``."""
    from hopflow.transport.bond_valence_paths import decorated_path_host
    from hopflow.transport.bvse import BondValenceSettings, bond_valence_field, bond_valence_percolation
    from hopflow.transport.errors import CandidateError
    from hopflow.transport.paths import MigrationPath
    from hopflow.transport.percolation import level_map

    ion = row["migrating_ion"]
    path = np.asarray(row["path_frac_coords"], dtype=float)
    lattice = np.asarray(row["lattice"], dtype=float)
    settings = BondValenceSettings(spacing_A=spacing_A)
    try:
        decorated = decorated_path_host(MigrationPath.from_row(row))
        result = bond_valence_percolation(decorated, ion, settings)
        values = bond_valence_field(decorated, ion, settings).values
    except CandidateError as error:
        return {"refused": error.reason.value, "message": str(error)}
    ends = [basin(values, lattice, end) for end in (path[0], path[-1])]
    (start, start_off), (end, end_off) = ends
    bottoms = values.flat[start], values.flat[end]
    line = straight_line(values, path)
    found: dict[str, Any] = {
        "percolation": result.barriers_eV[0],
        "percolation_2d": result.barriers_eV[1],
        "percolation_3d": result.barriers_eV[2],
        "straight_span": float(line.max() - line.min()),
        "basin_off_A": [start_off, end_off],
        "same_basin": start == end,
        "oxidation_states_from": result.oxidation_states_from,
    }
    corridor = near_line(values.shape, lattice, path[0], path[-1], CORRIDOR_A)
    corridor.flat[[start, end]] = True
    for kind, open_values in (("route", values), ("hop", np.where(corridor, values, np.inf))):
        level = level_map(open_values, seed=start, lattice=lattice).flat[end]
        found[f"{kind}_span"] = float(level - min(bottoms))
        found[f"{kind}_forward"] = float(level - bottoms[0])
    return found


def basin(values: np.ndarray, lattice: np.ndarray, frac: np.ndarray) -> tuple[int, float]:
    """Flat index of the local minimum downhill of a point, and its distance from the point in Angstrom."""
    shape = np.array(values.shape)
    at = np.rint(np.asarray(frac) * shape).astype(int)
    offsets = np.array(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij")).reshape(3, -1).T
    while True:
        around = at + offsets
        lowest = around[int(np.argmin(values[tuple((around % shape).T)]))]
        if values[tuple(lowest % shape)] >= values[tuple(at % shape)]:
            break
        at = lowest
    distance = float(np.linalg.norm((at / shape - frac) @ lattice))
    return int(np.ravel_multi_index(tuple(at % shape), values.shape)), distance


def straight_line(values: np.ndarray, path: np.ndarray, points: int = 61) -> np.ndarray:
    """Energies in eV along the polyline through the images, interpolated on the periodic grid, shape (points,)."""
    from scipy.ndimage import map_coordinates

    t = np.linspace(0, len(path) - 1, points)
    frac = np.stack([np.interp(t, np.arange(len(path)), path[:, k]) for k in range(3)])
    return map_coordinates(values, frac * np.array(values.shape)[:, None], order=1, mode="grid-wrap")


def near_line(
    shape: tuple[int, ...], lattice: np.ndarray, start: np.ndarray, end: np.ndarray, radius_A: float
) -> np.ndarray:
    """Which grid points lie within the radius of a straight line or of its periodic images, bool array."""
    near = np.zeros(shape, dtype=bool)
    divisions = np.array(shape)
    steps = lattice / divisions[:, None]
    volume = abs(np.linalg.det(steps))
    heights = np.array([volume / np.linalg.norm(np.cross(steps[(k + 1) % 3], steps[(k + 2) % 3])) for k in range(3)])
    reach = np.ceil(radius_A / heights)
    low = np.floor(np.minimum(start, end) * divisions - reach).astype(int)
    high = np.ceil(np.maximum(start, end) * divisions + reach).astype(int)
    box = np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(low, high, strict=True)], indexing="ij"), axis=-1)
    points = (box / divisions - start) @ lattice
    line = (end - start) @ lattice
    along = np.clip(points @ line / (line @ line), 0.0, 1.0)
    inside = np.linalg.norm(points - along[..., None] * line, axis=-1) <= radius_A
    near[tuple((box[inside] % divisions).T)] = True
    return near


def all_path_barriers(rows: list[dict[str, Any]], spacing_A: float, cache: Path) -> list[dict[str, Any]]:
    """Barriers of all rows; those that this version of the method computed before are read from ``cache``."""
    from hopflow.makers.stage import METHOD_VERSION

    known: dict[str, dict[str, Any]] = {}
    if cache.exists():
        known = {entry["key"]: entry for entry in map(json.loads, cache.read_text().splitlines())}
    cache.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = []
    with cache.open("a") as stream:
        for number, row in enumerate(rows, 1):
            key = f"{row['path_id']} {spacing_A} method {METHOD_VERSION}"
            if key not in known:
                known[key] = {"key": key, **path_barriers(row, spacing_A)}
                stream.write(json.dumps(known[key]) + "\n")
                stream.flush()
            results.append(known[key])
            if number % 50 == 0:
                print(f"[{time.perf_counter() - started:5.0f} s] {number} of {len(rows)} paths", flush=True)
    return results
