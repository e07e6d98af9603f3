"""Checks, oxidation states that are right or refused, and the hash."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from crystals import iron_phosphate, lithium_nitride, rock_salt
from hopflow.transport.errors import NoMobileIonError, OxidationStateError, Reason, StructureError
from hopflow.transport.structures import (
    assign_oxidation_states,
    check_structure,
    read_structures,
    structure_hash,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, PeriodicSite, Structure


def charges(structure: Structure) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for site in structure:
        found.setdefault(site.specie.symbol, set()).add(round(site.specie.oxi_state, 6))
    return found


# ---------------------------------------------------------------- checks


def test_check_structure_names_each_fault() -> None:
    good = rock_salt()
    check_structure(good, "Li", max_atoms=8)
    with pytest.raises(NoMobileIonError, match="no Na"):
        check_structure(good, "Na")
    with pytest.raises(StructureError, match="limit of 7") as caught:
        check_structure(good, "Li", max_atoms=7)
    assert caught.value.reason is Reason.TOO_MANY_ATOMS
    partial = good.copy()
    partial[0] = {"Li": 0.5}
    with pytest.raises(StructureError, match="1 of 8 sites") as caught:
        check_structure(partial, "Li")
    assert caught.value.reason is Reason.PARTIAL_OCCUPANCY
    close = good.copy()
    close.append("Li", [0.02, 0, 0])
    with pytest.raises(StructureError, match=r"0\.08 Angstrom apart") as caught:
        check_structure(close, "Li")
    assert caught.value.reason is Reason.CLOSE_CONTACT
    with pytest.raises(StructureError) as caught:
        check_structure(Structure(Lattice.cubic(4), [], []), "Li")
    assert caught.value.reason is Reason.EMPTY_STRUCTURE


def split_garnet_site(first: float, second: float, distance_A: float = 0.4) -> Structure:
    """A full oxide cell with one lithium on two positions along x."""
    shift = distance_A / 6
    return Structure(
        Lattice.cubic(6),
        ["O", {"Li": first}, {"Li": second}, "F"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5 + shift, 0.5, 0.5], [0.5, 0, 0]],
    )


@settings(max_examples=40, deadline=None)
@given(first=st.floats(0.05, 1), second=st.floats(0.05, 1))
def test_close_sites_pass_only_where_they_cannot_both_be_full(first: float, second: float) -> None:
    crystal = split_garnet_site(first, second)
    if first + second <= 1.1:
        check_structure(crystal, "Li", partial_occupancies=True)
    else:
        with pytest.raises(StructureError, match=r"0\.40 Angstrom apart") as caught:
            check_structure(crystal, "Li", partial_occupancies=True)
        assert caught.value.reason is Reason.CLOSE_CONTACT


def test_check_of_disordered_crystals_names_each_fault() -> None:
    check_structure(split_garnet_site(0.5, 0.5), "Li", partial_occupancies=True)
    with pytest.raises(StructureError) as caught:
        check_structure(split_garnet_site(0.5, 0.5), "Li")
    assert caught.value.reason is Reason.PARTIAL_OCCUPANCY
    with pytest.raises(StructureError, match=r"could be full at once \(Li:0.8 and Li:0.8\).*wrong occupancies"):
        check_structure(split_garnet_site(0.8, 0.8), "Li", partial_occupancies=True)
    with pytest.raises(StructureError, match="the site is listed twice; remove one"):
        check_structure(split_garnet_site(0.8, 0.8, distance_A=0.001), "Li", partial_occupancies=True)
    twice = rock_salt()
    twice.append("Li", [0.001, 0, 0])
    with pytest.raises(StructureError, match="the site is listed twice; remove one"):
        check_structure(twice, "Li", partial_occupancies=True)
    full = rock_salt()
    species = Composition({"Li": 0.7, "Na": 0.7})
    first = PeriodicSite(species, full[0].frac_coords, full.lattice, skip_checks=True)
    overfull = full.copy()
    overfull._sites[0] = first
    with pytest.raises(StructureError, match=r"add up to 1\.4, more than one") as caught:
        check_structure(overfull, "Li", partial_occupancies=True)
    assert caught.value.reason is Reason.OCCUPANCY_ABOVE_ONE
    mixed = rock_salt()
    for index in range(4):
        mixed.replace(index, {"Li": 0.2, "Mg": 0.4})
    check_structure(mixed, "Li", partial_occupancies=True)
    with pytest.raises(NoMobileIonError):
        check_structure(mixed, "Na", partial_occupancies=True)


# ---------------------------------------------------------------- oxidation states


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (rock_salt(), {"Li": {1}, "F": {-1}}),
        (iron_phosphate(), {"Li": {1}, "Fe": {2}, "P": {5}, "O": {-2}}),
        (
            lithium_nitride(),
            {"Li": {1}, "N": {-3}},
        ),
    ],
)  # fmt: skip
def test_known_charges(structure: Structure, expected: dict[str, set[float]]) -> None:
    decorated = assign_oxidation_states(structure, "Li")
    assert charges(decorated) == expected
    assert sum(site.specie.oxi_state for site in decorated) == 0
    assert decorated.properties["oxidation_states_from"]
    assert not any(hasattr(site.specie, "oxi_state") and site.specie.oxi_state for site in structure)


def spinel(lithium: bool) -> Structure:
    """LiMn2O4, Fd-3m; M. M. Thackeray et al., Mater. Res. Bull. 18 (1983) 461."""
    species, coords = (["Li"], [[0, 0, 0]]) if lithium else ([], [])
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(8.248), [*species, "Mn", "O"], [*coords, [0.625, 0.625, 0.625], [0.3882, 0.3882, 0.3882]]
    ).get_primitive_structure()


def test_mixed_valence_takes_the_average_and_says_so() -> None:
    decorated = assign_oxidation_states(spinel(lithium=True), "Li")
    assert sum(site.specie.oxi_state for site in decorated) == pytest.approx(0)
    assert charges(decorated)["Mn"] == {3.5}
    assert "average Mn3.5+" in decorated.properties["oxidation_states_from"]


def test_states_of_the_structure_win_when_they_balance_and_are_not_believed_when_they_do_not() -> None:
    structure = iron_phosphate()
    structure.add_oxidation_state_by_element({"Li": 1, "Fe": 3, "P": 4, "O": -2})
    assert charges(assign_oxidation_states(structure, "Li"))["Fe"] == {3}
    assert assign_oxidation_states(structure, "Li").properties["oxidation_states_from"] == "structure"
    structure.add_oxidation_state_by_element({"Li": 1, "Fe": 3, "P": 5, "O": -2})
    corrected = assign_oxidation_states(structure, "Li")
    assert charges(corrected)["Fe"] == {2}
    assert corrected.properties["oxidation_states_from"] != "structure"


def test_given_states_win_are_completed_and_must_balance() -> None:
    assert charges(assign_oxidation_states(iron_phosphate(), "Li", {"Fe": 3}))["P"] == {4}
    everything = {"Li": 1, "Fe": 3, "P": 4, "O": -2}
    assert assign_oxidation_states(iron_phosphate(), "Li", everything).properties["oxidation_states_from"] == "given"
    with pytest.raises(OxidationStateError, match=r"add up to \+1"):
        assign_oxidation_states(iron_phosphate(), "Li", {**everything, "P": 5})
    with pytest.raises(OxidationStateError, match="does not contain"):
        assign_oxidation_states(iron_phosphate(), "Li", {"Co": 2})
    with pytest.raises(OxidationStateError, match="give those of all elements"):
        assign_oxidation_states(iron_phosphate(), "Li", {"O": 2})


def test_metals_and_peroxides_are_refused_with_what_was_tried() -> None:
    with pytest.raises(OxidationStateError, match=r"formula.*metals and metalloids only") as caught:
        assign_oxidation_states(rock_salt(5.6, "Li", "Ag"), "Li")
    assert caught.value.reason is Reason.METALLIC
    # Li2O2, P6_3/mmc; L. G. Cota and P. de la Mora, Acta Cryst. B 61 (2005) 133: O-O 1.5 Angstrom.
    peroxide = Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(3.183, 7.726),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.649]],
    )
    assert charges(assign_oxidation_states(peroxide, "Li")) == {"Li": {1}, "O": {-1}}
    stretched = peroxide.copy()
    stretched.scale_lattice(peroxide.volume * 2)
    with pytest.raises(OxidationStateError, match=r"without an O-O bond|no assignment|cannot be assigned"):
        assign_oxidation_states(stretched, "Li")


def test_oxide_with_oxygen_pairs_never_gets_two_minus() -> None:
    structure = Structure(
        Lattice.cubic(5),
        ["Li", "Li", "Mg", "O", "O"],
        [[0, 0, 0.5], [0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0, 0], [0.28, 0, 0]],
    )
    with pytest.raises(OxidationStateError, match=r"O-O bond of 1\.40"):
        assign_oxidation_states(structure, "Li")


def test_a_structure_of_many_distinct_sites_and_mixed_valence_is_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from hopflow.transport import charge_balance

    crystal = spinel(lithium=True) * (2, 2, 2)
    crystal.perturb(0.05)  # no symmetry: every site is its own orbit
    crystal.replace(0, "Na")
    sizes = []
    original = charge_balance._grid

    def counted(*args: object) -> tuple:
        found = original(*args)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(charge_balance, "_grid", counted)
    decorated = assign_oxidation_states(crystal, "Li")
    assert sum(site.specie.oxi_state for site in decorated) == pytest.approx(0, abs=1e-6)
    elements = ["Li", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W", "Re", "Ru", "O"]
    many = Structure(Lattice.cubic(16), elements, [[0, 0, i / 12] for i in range(12)])
    with pytest.raises(OxidationStateError):  # forty million assignments without the bound
        assign_oxidation_states(many, "Li")
    assert 1000 < max(sizes) <= charge_balance.MAX_ASSIGNMENTS


# ---------------------------------------------------------------- hash


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 5e-5))
def test_hash_ignores_site_order_orientation_translations_and_noise(seed: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    crystal = Structure.from_spacegroup(
        "P4/mmm", Lattice.tetragonal(4.0, 6.0), ["Li", "O", "S"], [[0, 0, 0], [0.5, 0.5, 1 / 3], [0.125, 0.25, 0.0625]]
    )
    expected = structure_hash(crystal)
    order = random.permutation(len(crystal))
    coords = crystal.frac_coords[order] + random.uniform(-noise, noise, (len(crystal), 3))
    coords += random.integers(-1, 2, coords.shape)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    moved = Structure(crystal.lattice.matrix @ turn, [crystal[int(i)].specie for i in order], coords)
    assert structure_hash(moved) == expected


def test_hash_sees_species_lattice_coordinates_occupancy_and_charge() -> None:
    crystal = rock_salt()
    changes = {structure_hash(crystal)}
    for change in (
        lambda s: s.replace(0, "Na"),
        lambda s: s.replace(0, {"Li": 0.9}),
        lambda s: s.scale_lattice(s.volume * 1.002),
        lambda s: s.translate_sites([0], [0.004, 0, 0]),
        lambda s: s.add_oxidation_state_by_element({"Li": 1, "F": -1}),
        lambda s: s.remove_sites([0]),
    ):
        copy = crystal.copy()
        change(copy)
        changes.add(structure_hash(copy))
    assert len(changes) == 7


def test_hash_survives_a_cif_round_trip(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iron_phosphate().to(filename=str(tmp_path / "a.cif"), symprec=0.01)
        (entry,) = read_structures(tmp_path / "a.cif")
    assert len(structure_hash(entry.structure)) == 64
    assert structure_hash(entry.structure) == structure_hash(iron_phosphate())
