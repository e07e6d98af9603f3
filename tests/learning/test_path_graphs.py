"""The graph of a path: what it holds, what it is blind to, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hopflow.learning.elements import DESCRIPTORS, element_table
from hopflow.learning.path_graphs import (
    IMAGE_FEATURES,
    GraphSettings,
    build_path_graph,
    give_way,
    resample,
    smooth_cutoff,
)
from hopflow.transport.errors import CandidateError, Reason, StructureError
from hopflow.transport.paths import MigrationPath


def rocksalt_vacancy_hop(edge_A: float = 5.13, repeat: int = 2, jitter_A: float = 0.0) -> MigrationPath:
    """A nearest-neighbour vacancy hop of Li in rock-salt LiCl (cubic cell edge 5.13 Angstrom)."""
    from ase.build import bulk

    atoms = bulk("LiCl", "rocksalt", a=edge_A, cubic=True).repeat(repeat)
    if jitter_A:
        atoms.rattle(jitter_A, seed=3)
    positions, symbols = atoms.get_scaled_positions(), atoms.get_chemical_symbols()
    lithium = [i for i, symbol in enumerate(symbols) if symbol == "Li"]
    start = lithium[0]
    distances = atoms.get_distances(start, lithium[1:], mic=True)
    end = lithium[1:][int(np.argmin(distances))]
    step = positions[end] - positions[start]
    step -= np.round(step)
    keep = [i for i in range(len(atoms)) if i not in (start, end)]
    return MigrationPath(
        ion="Li",
        lattice=np.array(atoms.cell),
        framework_species=tuple(symbols[i] for i in keep),
        framework_frac_coords=positions[keep],
        path_frac_coords=positions[start] + np.linspace(0, 1, 5)[:, None] * step,
        path_id="LiCl vacancy hop",
    )


def test_clearance_is_the_gap_between_ionic_spheres():
    path = rocksalt_vacancy_hop()
    graph = build_path_graph(path, GraphSettings(relaxation_steps=0))
    table = element_table()
    lithium, chlorine = table.rows(["Li", "Cl"])
    anion = 0.5 * (1.0 + graph.atom_anion_character[graph.atom_rows == chlorine].mean())
    assert anion > 0.85
    contact_A = table.column("cation_radius_A")[lithium] + (
        anion * table.column("anion_radius_A")[chlorine] + (1 - anion) * table.column("cation_radius_A")[chlorine]
    )
    column = IMAGE_FEATURES.index("anion_clearance_A")
    # an octahedral site: Cl at half the cubic edge; half way the hop crosses the middle of a Cl-Cl edge (Cl beside
    # the vacancy has one bond less than the average, hence the tolerance)
    assert graph.image_features[0, column] == pytest.approx(5.13 / 2 - contact_A, abs=0.1)
    assert graph.image_features[2, column] == pytest.approx(5.13 / (2 * np.sqrt(2)) - contact_A, abs=0.1)


def test_graph_holds_every_atom_in_reach_and_none_beyond():
    from pymatgen.core import Lattice

    path, settings = rocksalt_vacancy_hop(jitter_A=0.05), GraphSettings(relaxation_steps=0)
    graph = build_path_graph(path, settings)
    lattice = Lattice(path.lattice)
    found = set()
    counts = []
    for image in path.path_frac_coords:
        near = lattice.get_points_in_sphere(path.framework_frac_coords, image @ path.lattice, settings.path_cutoff_A)
        counts.append(len(near))
        found |= {(int(index), *np.asarray(cell).astype(int)) for _, _, index, cell in near}
    assert len(graph.atom_rows) == len(found)
    assert np.bincount(graph.image_edges[0], minlength=5).tolist() == counts


def test_signs_of_charge_follow_the_bonds():
    """Sulphur is an anion in Li2S and a cation in a sulphate."""
    table = element_table()
    sulphur = table.rows(["S"])[0]

    def character(species: tuple[str, ...], coordinates_A: list[list[float]]) -> float:
        path = MigrationPath(
            ion="Na",
            lattice=np.eye(3) * 30.0,
            framework_species=species,
            framework_frac_coords=np.array(coordinates_A) / 30.0,
            path_frac_coords=np.linspace([0.1, 0.1, 0.0], [0.1, 0.1, 0.1], 5),
        )
        graph = build_path_graph(path)
        return float(graph.atom_anion_character[list(graph.atom_rows).index(sulphur)])

    bond_A = 1.47 / np.sqrt(3)
    signs = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    assert character(("S", "O", "O", "O", "O"), [[0, 0, 0], *(np.array(signs) * bond_A).tolist()]) < -0.9
    bond_A = 2.47 / np.sqrt(3)
    assert character(("S", "Li", "Li", "Li", "Li"), [[0, 0, 0], *(np.array(signs) * bond_A).tolist()]) > 0.5


def test_resampling_keeps_a_line_and_spaces_evenly():
    line = np.linspace([0.0, 0, 0], [3.0, 4.0, 0], 9)
    assert np.allclose(resample(line, 5), np.linspace([0.0, 0, 0], [3.0, 4.0, 0], 5))
    corner = np.array([[0.0, 0, 0], [3.0, 0, 0], [3.0, 1.0, 0]])
    assert np.allclose(resample(corner, 5), [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [3, 1, 0]])


@pytest.mark.parametrize("images", [2, 3, 7, 11])
def test_a_straight_path_of_any_number_of_images_is_the_same_graph(images: int):
    path = rocksalt_vacancy_hop(jitter_A=0.05)
    other = replace(path, path_frac_coords=np.linspace(path.path_frac_coords[0], path.path_frac_coords[-1], images))
    assert np.allclose(build_path_graph(path).image_features, build_path_graph(other).image_features, atol=1e-8)


def test_band_goes_round_an_atom_beside_the_line_but_not_off_a_symmetry_element():
    straight = np.linspace([0.0, 0, 0], [4.0, 0, 0], 5)
    contact = np.array([2.0])
    beside = give_way(straight, np.array([[2.0, 0.4, 0.0]]), contact, steps=60)
    assert np.linalg.norm(beside[2] - [2.0, 0.4, 0.0]) > 1.0
    assert beside[2, 1] < 0.0
    assert np.array_equal(beside[[0, -1]], straight[[0, -1]])
    head_on = give_way(straight, np.array([[2.0, 1e-13, 0.0]]), contact, steps=60)
    assert np.allclose(head_on[2], straight[2], atol=1e-9)


def test_cutoff_is_one_at_zero_and_vanishes_smoothly():
    distances = np.array([0.0, 2.5, 4.999999, 5.0, 7.0])
    assert np.allclose(smooth_cutoff(distances, 5.0), [1.0, 0.5, 0.0, 0.0, 0.0], atol=1e-6)


def test_every_descriptor_is_known_and_elements_differ():
    table = element_table()
    assert table.values.shape == (len(table.symbols), len(DESCRIPTORS))
    assert np.isfinite(table.values).all()
    assert len(np.unique(table.values, axis=0)) == len(table.symbols)
    assert {"H", "Li", "Cs", "Ba", "La", "U", "I", "Bi"} <= set(table.symbols)
    assert table.column("pauling_electronegativity")[table.rows(["F"])[0]] == pytest.approx(3.98)


def _with(path: MigrationPath, **changes: object) -> MigrationPath:
    return replace(path, **changes)  # type: ignore[arg-type]


def test_unknown_element_is_refused_by_name():
    path = rocksalt_vacancy_hop()
    species = ("He", *path.framework_species[1:])
    with pytest.raises(CandidateError, match="He") as caught:
        build_path_graph(_with(path, framework_species=species))
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path_frac_coords": np.full((5, 3), 0.2)}, "no length"),
        ({"path_frac_coords": np.array([[0.1, 0.1, 0.1]])}, "at least two images"),
        ({"path_frac_coords": np.array([[0.1, 0.1, np.nan], [0.1, 0.2, 0.3]])}, "finite"),
        ({"lattice": np.array([[5.0, 0, 0], [5.0, 0, 0], [0, 0, 5.0]])}, "volume"),
        ({"framework_species": ("Cl",)}, "positions for 1 atoms"),
        ({"framework_species": (), "framework_frac_coords": np.zeros((0, 3))}, "No atom"),
    ],
)
def test_what_is_no_path_is_refused_in_one_sentence(changes: dict, message: str):
    with pytest.raises(StructureError, match=message):
        build_path_graph(_with(rocksalt_vacancy_hop(), **changes))


def test_an_end_on_another_atom_is_refused_but_the_ion_written_twice_is_dropped():
    path = rocksalt_vacancy_hop()
    doubled = _with(
        path,
        framework_species=("Li", *path.framework_species),
        framework_frac_coords=np.vstack([path.path_frac_coords[:1], path.framework_frac_coords]),
    )
    assert np.allclose(build_path_graph(doubled).image_features, build_path_graph(path).image_features)
    with pytest.raises(StructureError, match="lies on an atom") as caught:
        build_path_graph(_with(doubled, framework_species=("Cl", *path.framework_species)))
    assert caught.value.reason is Reason.CLOSE_CONTACT


def test_what_is_no_single_hop_of_a_crystal_is_refused():
    path = rocksalt_vacancy_hop()
    jump = path.path_frac_coords + np.array([[0, 0, 0]] * 4 + [[2, 0, 0]])
    with pytest.raises(StructureError, match="more than any single hop"):
        build_path_graph(replace(path, path_frac_coords=jump))
    thin = np.diag([0.5, 10.0, 10.0])
    with pytest.raises(StructureError, match="narrower than 1 Angstrom"):
        build_path_graph(replace(path, lattice=thin))
