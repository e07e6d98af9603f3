"""Hop networks: brute force, symmetry, published numbers, supercells."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hopflow.transport.errors import NoHopsError, NoMobileIonError, Reason, StructureError
from hopflow.transport.hops import HopNetwork, enumerate_hops, hop_path, limiting_hops, network_barriers
from hopflow.transport.supercells import compact_supercell, diagonal_supercell, perpendicular_widths_A
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

CONDUCTORS = Path(os.environ.get("HOPFLOW_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "known_conductors"


def conductor(material_id: str) -> Structure:
    if not CONDUCTORS.is_dir():
        pytest.skip("the folder of known conductors is absent (HOPFLOW_SHARED)")
    return Structure.from_file(CONDUCTORS / f"{material_id}.cif")


@pytest.fixture(scope="module")
def olivine() -> Structure:
    """LiFePO4, Streltsov et al., Acta Cryst. B49 (1993) 147."""
    coordinates = {
        "Li": [(0, 0, 0)],
        "Fe": [(0.28222, 0.25, 0.97472)],
        "P": [(0.09486, 0.25, 0.41820)],
        "O": [(0.09678, 0.25, 0.74279), (0.45710, 0.25, 0.20602), (0.16558, 0.04646, 0.28478)],
    }
    species, positions = zip(*((s, x) for s, points in coordinates.items() for x in points), strict=True)
    return Structure.from_spacegroup("Pnma", Lattice.orthorhombic(10.332, 6.010, 4.692), species, positions)


@pytest.fixture(scope="module")
def antiperovskite() -> Structure:
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.91), ["Li", "O", "Cl"], [(0.5, 0, 0), (0, 0, 0), (0.5,) * 3]
    )


def random_crystal(seed: int, ions: int, others: int) -> Structure:
    """A triclinic cell of sites that keep 1.5 Angstrom from each other."""
    rng = np.random.default_rng(seed)
    length = (14.0 * (ions + others)) ** (1 / 3)
    lattice = Lattice.from_parameters(*(length * rng.uniform(0.85, 1.2, 3)), *rng.uniform(70, 110, 3))
    points: list[np.ndarray] = []
    while len(points) < ions + others:
        trial = rng.random(3)
        if not points or lattice.get_all_distances([trial], points).min() > 1.5:
            points.append(trial)
    return Structure(lattice, ["Li"] * ions + ["O"] * others, points)


def edges_by_hand(structure: Structure, cutoff_A: float, clearance_A: float = 0.5) -> dict[tuple[int, ...], float]:
    """Every straight hop up to a cutoff, by plain loops over cells and atoms; both directions."""
    matrix = structure.lattice.matrix
    cells = [np.array(t) for t in product(range(-4, 5), repeat=3)]
    atoms = np.vstack([(structure.frac_coords + t) @ matrix for t in cells])
    lithium = [i for i, site in enumerate(structure) if site.specie.symbol == "Li"]
    found = {}
    for i, j, t in product(lithium, lithium, cells):
        begin = structure.frac_coords[i] @ matrix
        end = (structure.frac_coords[j] + t) @ matrix
        length = np.linalg.norm(end - begin)
        if length > cutoff_A or length < 1e-6:
            continue
        along = np.clip((atoms - begin) @ (end - begin) / length**2, 0, 1)
        gap = np.linalg.norm(atoms - begin - along[:, None] * (end - begin), axis=1)
        others = (np.linalg.norm(atoms - begin, axis=1) > 1e-4) & (np.linalg.norm(atoms - end, axis=1) > 1e-4)
        if gap[others].min() >= clearance_A:
            found[(i, j, *t.tolist())] = float(length)
    return found


def both_directions(network: HopNetwork) -> dict[tuple[int, ...], int]:
    pairs = zip(network.edges.tolist(), network.images.tolist(), network.edge_to_unique.tolist(), strict=True)
    found = {}
    for (i, j), t, unique in pairs:
        found[(i, j, *t)] = unique
        found[(j, i, *(-x for x in t))] = unique
    return found


def translations_of_loops(edges: list[tuple[int, ...]]) -> int:
    """Largest rank of closed walks' translations over the components, by walking each component once."""
    neighbours = defaultdict(list)
    for i, j, *t in edges:
        neighbours[i].append((j, np.array(t)))
    lift: dict[int, np.ndarray] = {}
    best = 0
    for start in neighbours:
        if start in lift:
            continue
        lift[start], stack, loops = np.zeros(3), [start], [np.zeros(3)]
        while stack:
            i = stack.pop()
            for j, t in neighbours[i]:
                if j in lift:
                    loops.append(lift[i] + t - lift[j])
                else:
                    lift[j] = lift[i] + t
                    stack.append(j)
        best = max(best, int(np.linalg.matrix_rank(np.array(loops))))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_edges_and_cutoff_against_brute_force(seed: int) -> None:
    structure = random_crystal(seed, ions=4, others=5)
    network = enumerate_hops(structure, "Li", max_distance_A=7.0)
    everything = edges_by_hand(structure, 7.0)
    expected = {e for e, length in everything.items() if length <= network.cutoff_A + 0.01}
    assert set(both_directions(network)) == expected
    assert translations_of_loops(list(everything)) == network.dimension
    shorter = [e for e, length in everything.items() if length < network.cutoff_A - 1e-6]
    assert translations_of_loops(shorter) < network.dimension
    # A triclinic crystal of random sites has no symmetry: every hop is its own.
    assert [hop.multiplicity for hop in network.hops] == [1] * len(network.edges)


@pytest.mark.parametrize("name", ["olivine", "antiperovskite"])
def test_symmetric_crystals_against_brute_force(name: str, request: pytest.FixtureRequest) -> None:
    structure = request.getfixturevalue(name)
    network = enumerate_hops(structure, "Li")
    everything = edges_by_hand(structure, network.cutoff_A + 0.005)
    found = both_directions(network)
    assert set(found) == set(everything)
    assert sum(hop.multiplicity for hop in network.hops) == len(network.edges) == len(everything) // 2
    # Alike hops have alike surroundings: the sorted distances of their midpoint to every kind of atom.
    matrix = structure.lattice.matrix
    prints: dict[int, set[tuple[float, ...]]] = defaultdict(set)
    for (i, j, *t), unique in found.items():
        middle = (structure.frac_coords[i] + structure.frac_coords[j] + t) / 2 @ matrix
        near = structure.get_sites_in_sphere(middle, 4.4567)
        order = sorted((site.specie.Z, round(float(site.nn_distance), 2)) for site in near)
        prints[unique].add(tuple(x for pair in order for x in pair))
    assert all(len(found) == 1 for found in prints.values())
    assert len({next(iter(p)) for p in prints.values()}) == len(network.hops)


def test_antiperovskite_has_one_hop(antiperovskite: Structure) -> None:
    """Li sits at edge centres: one hop of a / sqrt(2), twelve to a formula unit, in three dimensions."""
    network = enumerate_hops(antiperovskite, "Li")
    (hop,) = network.hops
    assert hop.distance_A == pytest.approx(3.91 / np.sqrt(2))
    assert (hop.multiplicity, network.dimension) == (12, 3)


def test_olivine_conducts_along_b_first(olivine: Structure) -> None:
    network = enumerate_hops(olivine, "Li")
    first = network.hops[0]
    assert first.distance_A == pytest.approx(6.010 / 2, abs=1e-3)
    assert first.multiplicity == 4
    assert limiting_hops(network, [hop.distance_A for hop in network.hops]) == [0]
    assert enumerate_hops(olivine, "Li", max_distance_A=4.0).dimension == 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("material_id", "lengths_A"),
    [
        ("mp-19017", [2.985]),
        ("mp-942733", [2.556, 2.613, 2.667]),
        ("mp-2251", [2.084, 2.839]),
        ("mp-2878", [2.64, 2.925, 3.017, 3.028]),
        ("mp-985585", [2.764]),
        ("mp-696128", [2.917, 3.095, 3.273, 3.525]),
        ("mp-985583", [3.257, 3.472, 3.8]),
    ],
)
def test_unique_hops_agree_with_another_program(material_id: str, lengths_A: list[float]) -> None:
    """The lengths are those of DistinctPathFinder in pymatgen-analysis-diffusion 2026.9.23."""
    hops = enumerate_hops(conductor(material_id), "Li").hops
    ours = [round(hop.distance_A, 3) for hop in hops if hop.distance_A < lengths_A[-1] + 0.1]
    assert ours == pytest.approx(lengths_A, abs=0.0011)


@pytest.mark.shared
def test_lithium_phosphate_as_published() -> None:
    """Dembitskiy et al. (npj Comput. Mater. 11, 131): gamma-Li3PO4 has four unique hops up to 3.03 Angstrom."""
    network = enumerate_hops(conductor("mp-2878"), "Li")
    assert (len(network.hops), network.dimension) == (4, 3)
    assert network.cutoff_A == pytest.approx(3.03, abs=0.005)


@given(shift=st.tuples(*[st.floats(0, 1)] * 3), order=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_origin_and_site_order_change_nothing(
    shift: tuple[float, float, float], order: object, olivine: Structure
) -> None:
    sites = list(range(len(olivine)))
    order.shuffle(sites)  # type: ignore[attr-defined]
    moved = Structure(olivine.lattice, [olivine[k].specie for k in sites], olivine.frac_coords[sites] + shift)
    ours, theirs = enumerate_hops(olivine, "Li"), enumerate_hops(moved, "Li")
    assert [(round(h.distance_A, 6), h.multiplicity) for h in ours.hops] == [
        (round(h.distance_A, 6), h.multiplicity) for h in theirs.hops
    ]


def test_larger_cell_has_the_same_hops(antiperovskite: Structure) -> None:
    larger = antiperovskite.copy()
    larger.make_supercell([[2, 0, 0], [0, 1, 0], [0, 1, 1]])
    network = enumerate_hops(larger, "Li")
    assert [hop.multiplicity for hop in network.hops] == [24]
    path = hop_path(network, network.hops[0])
    small = enumerate_hops(antiperovskite, "Li")
    assert len(path.framework_species) == len(hop_path(small, small.hops[0]).framework_species)


@pytest.mark.parametrize("name", ["olivine", "antiperovskite"])
@pytest.mark.parametrize("min_length_A", [5.0, 8.0, 10.0])
def test_supercell_of_a_hop(name: str, min_length_A: float, request: pytest.FixtureRequest) -> None:
    structure = request.getfixturevalue(name)
    network = enumerate_hops(structure, "Li")
    for hop in network.hops:
        path = hop_path(network, hop, images=7, min_length_A=min_length_A)
        assert perpendicular_widths_A(path.lattice).min() >= min_length_A - 1e-6
        assert path.path_frac_coords.shape == (7, 3)
        assert path.length_A == pytest.approx(hop.distance_A)
        species = [*path.framework_species, "Li", "Li"]
        full = Structure(path.lattice, species, np.vstack([path.framework_frac_coords, path.path_frac_coords[[0, -1]]]))
        # With both ends filled the supercell is the crystal again.
        assert full.composition.reduced_formula == structure.composition.reduced_formula
        assert full.density == pytest.approx(structure.density)
        assert full.get_primitive_structure().matches(structure.get_primitive_structure())


def test_supercell_is_compact() -> None:
    fcc = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 4.0
    found = compact_supercell(fcc, 8.0)
    assert np.linalg.det(found) > 0
    assert perpendicular_widths_A(found @ fcc).min() >= 8.0 - 1e-6
    # 2 x 2 x 2 cubic cells hold 32 primitive ones; the reduced cell of fcc alone would need 4 x 4 x 4.
    assert np.linalg.det(found) <= 32 < np.linalg.det(diagonal_supercell(fcc, 8.0))


@given(st.integers(0, 10**6), st.floats(3.0, 9.0))
@settings(max_examples=25, deadline=None)
def test_compact_supercells_are_wide_and_not_larger_than_multiples(seed: int, min_length_A: float) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(2.8, 7, 3), *rng.uniform(65, 115, 3)).matrix
    found = compact_supercell(lattice, min_length_A)
    assert perpendicular_widths_A(found @ lattice).min() >= min_length_A - 1e-5
    assert np.linalg.det(lattice) * np.linalg.det(found) > 0
    cells = round(abs(np.linalg.det(found)))
    assert 1 <= cells <= round(np.linalg.det(diagonal_supercell(lattice, min_length_A)))
    assert cells * abs(np.linalg.det(lattice)) >= min_length_A**3 - 1e-3


def test_network_barriers(olivine: Structure) -> None:
    network = enumerate_hops(olivine, "Li")
    barriers = [0.3 if hop.index == 0 else 2.0 + hop.index for hop in network.hops]
    thresholds = network_barriers(network, barriers).thresholds_eV
    assert thresholds[0] == pytest.approx(0.3)
    assert thresholds[1] >= 3.0
    assert np.isinf(network_barriers(network, [np.inf] * len(network.hops)).thresholds_eV[0])
    with pytest.raises(ValueError, match="as many barriers"):
        network_barriers(network, [0.3])
    with pytest.raises(ValueError, match="not a number"):
        network_barriers(network, [np.nan] * len(network.hops))


@pytest.mark.parametrize("seed", range(12))
def test_limiting_hops_are_what_the_barrier_needs(seed: int) -> None:
    network = enumerate_hops(random_crystal(seed, ions=6, others=4), "Li", max_distance_A=6.0)
    rng = np.random.default_rng(seed)
    barriers = rng.uniform(0.1, 1.0, len(network.hops))
    needed = limiting_hops(network, barriers.tolist())
    threshold = network_barriers(network, barriers.tolist()).thresholds_eV[0]
    assert barriers[needed[0]] == pytest.approx(threshold)
    assert list(barriers[needed]) == sorted(barriers[needed], reverse=True)
    only = np.full(len(barriers), np.inf)
    only[needed] = barriers[needed]
    assert network_barriers(network, only.tolist()).thresholds_eV[0] == pytest.approx(threshold)
    # None of them is idle: without any one, the rest of them no longer crosses the crystal.
    for k in needed:
        fewer = only.copy()
        fewer[k] = np.inf
        assert np.isinf(network_barriers(network, fewer.tolist()).thresholds_eV[0])


def test_limiting_hops_of_a_network_without_way_out(olivine: Structure) -> None:
    network = enumerate_hops(olivine, "Li")
    assert limiting_hops(network, [np.inf] * len(network.hops)) == []


def test_fifty_ions_without_symmetry() -> None:
    structure = random_crystal(99, ions=50, others=60)
    network = enumerate_hops(structure, "Li")
    assert len(network.hops) == len(network.edges)
    path = hop_path(network, network.hops[-1])
    assert path.framework_species.count("Li") == 48


def test_what_cannot_hop() -> None:
    lonely = Structure(Lattice.cubic(9.0), ["Li", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    with pytest.raises(NoHopsError, match="raise max_distance_A") as no_hops:
        enumerate_hops(lonely, "Li")
    assert no_hops.value.reason is Reason.NO_HOPS
    with pytest.raises(NoMobileIonError, match="holds no Na"):
        enumerate_hops(lonely, "Na")
    pair = Structure(Lattice.cubic(12.0), ["Li", "Li"], [(0, 0, 0), (0.2, 0, 0)])
    with pytest.raises(NoHopsError):
        enumerate_hops(pair, "Li")
    disordered = Structure(Lattice.cubic(4.0), [{"Li": 0.5}, "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    with pytest.raises(StructureError, match="partly occupied") as partial:
        enumerate_hops(disordered, "Li")
    assert partial.value.reason is Reason.PARTIAL_OCCUPANCY


def test_hop_over_another_ion_is_two_hops() -> None:
    chain = Structure(Lattice.orthorhombic(6.0, 9.0, 9.0), ["Li", "Li", "O"], [(0, 0, 0), (0.5, 0, 0), (0.3, 0.5, 0.5)])
    network = enumerate_hops(chain, "Li")
    assert (len(network.edges), network.dimension) == (2, 1)
    assert network.cutoff_A == pytest.approx(3.0)
