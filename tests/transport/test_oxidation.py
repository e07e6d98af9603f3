"""Oxidation states as a solid-state chemist gives them: disordered crystals, molecular anions, redox, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hopflow.transport.bond_valence_parameters import load_parameters
from hopflow.transport.errors import MissingParametersError, OxidationStateError, Reason
from hopflow.transport.structures import assign_oxidation_states
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Species, Structure


def found(structure: Structure, **options: object) -> dict[str, list[float]]:
    """Charges by element, ascending, after the assignment."""
    decorated = assign_oxidation_states(structure, "Li", **options)
    charges: dict[str, set[float]] = {}
    for site in decorated:
        for species in site.species:
            charges.setdefault(species.symbol, set()).add(round(float(species.oxi_state), 4))
    return {element: sorted(values) for element, values in sorted(charges.items())}


def total(structure: Structure) -> float:
    return sum(float(species.oxi_state) * amount for site in structure for species, amount in site.species.items())


def warnings_of(structure: Structure, **options: object) -> list[str]:
    return assign_oxidation_states(structure, "Li", **options).properties["oxidation_states_warnings"]


# ---------------------------------------------------------------- disordered crystals


def garnet(lithium: float = 7.0, tantalum: float = 0.0) -> Structure:
    """Li7La3Zr2O12, Ia-3d; J. Awaka et al., Chem. Lett. 40 (2011) 60: lithium over 24d and 96h."""
    per_site = lithium * 8 / 120
    zirconium = {"Zr": 1 - tantalum, "Ta": tantalum} if tantalum else {"Zr": 1.0}
    return Structure.from_spacegroup(
        "Ia-3d",
        Lattice.cubic(12.9827),
        [{"Li": per_site}, {"Li": per_site}, "La", zirconium, "O"],
        [[0.375, 0, 0.25], [0.0980, 0.6869, 0.5773], [0.125, 0, 0.25], [0, 0, 0], [0.28178, 0.10078, 0.19467]],
    )


def argyrodite(lithium: float = 0.5, sulfur: float = 4.0) -> Structure:
    """Li6PS5Cl, F-43m; H.-J. Deiseroth et al., Angew. Chem. 47 (2008) 755: Li 48h half full, S and Cl mixed."""
    return Structure.from_spacegroup(
        "F-43m",
        Lattice.cubic(9.859),
        [{"Li": lithium}, "P", {"S": sulfur / 4}, {"S": 0.385, "Cl": 0.615}, {"S": 0.615, "Cl": 0.385}],
        [[0.3133, 0.0275, 0.6867], [0, 0, 0.5], [0.1193, 0.8807, 0.6193], [0, 0, 0], [0.25, 0.25, 0.75]],
    )


def perovskite(lithium: float = 0.3, lanthanum: float = 0.5667) -> Structure:
    """LLTO, averaged to Pm-3m; Y. Inaguma et al., Solid State Commun. 86 (1993) 689."""
    return Structure.from_spacegroup(
        "Pm-3m",
        Lattice.cubic(3.87),
        [{"Li": lithium, "La": lanthanum}, "Ti", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    )


def test_partly_occupied_lithium_weighs_with_its_occupancy() -> None:
    assert found(garnet()) == {"La": [3], "Li": [1], "O": [-2], "Zr": [4]}
    assert warnings_of(garnet()) == []
    assert total(assign_oxidation_states(garnet(), "Li")) == pytest.approx(0, abs=1e-6)


def test_mixed_sites_of_framework_and_of_anions() -> None:
    assert found(garnet(6.5, 0.25)) == {"La": [3], "Li": [1], "O": [-2], "Ta": [5], "Zr": [4]}
    assert found(argyrodite()) == {"Cl": [-1], "Li": [1], "P": [5], "S": [-2]}


def test_mobile_ion_on_a_site_with_the_framework() -> None:
    decorated = assign_oxidation_states(perovskite(), "Li")
    assert decorated[0].species[Species("Li", 1)] == pytest.approx(0.3)
    assert decorated[0].species[Species("La", 3)] == pytest.approx(0.5667)
    assert found(perovskite())["Ti"] == [4]
    spinel = Structure.from_spacegroup(  # (Li0.74 Mg0.26)(Ti0.76 ...)O2-like: rock salt with Li and Mg mixed
        "Fm-3m",
        Lattice.cubic(4.15),
        [{"Li": 0.4, "Mg": 0.2, "Ti": 0.4}, "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )
    assert found(spinel) == {"Li": [1], "Mg": [2], "O": [-2], "Ti": [3]}


def test_thiophosphate_of_two_metalloids_on_one_site() -> None:
    # LGPS-like: GeS4 and PS4 tetrahedra share a site; lithium partly occupied. Li10GeP2S12 has 1/3 Ge, 2/3 P.
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 2.1 / np.sqrt(3) / 7
    crystal = Structure(
        Lattice.cubic(7),
        [{"Ge": 0.3333, "P": 0.6667}, "S", "S", "S", "S", {"Li": 0.6667}, {"Li": 0.6667}, {"Li": 1}, {"Li": 1}],
        [[0, 0, 0], *tetrahedron, [0.5, 0.5, 0.45], [0.5, 0.5, 0.56], [0.5, 0, 0], [0, 0.5, 0]],
    )
    assert found(crystal) == {"Ge": [4], "Li": [1], "P": [5], "S": [-2]}
    assert warnings_of(crystal) == []


def test_small_imbalance_is_accepted_with_a_warning_and_a_large_one_is_refused() -> None:
    assert warnings_of(garnet(7.01)) == []  # 0.04 % of the positive charge is rounding
    (warning,) = warnings_of(garnet(6.5))  # 0.5 of 23.5
    assert "Li13La6Zr4O24 add up to -1" in warning
    assert "2.1%" in warning
    assert found(garnet(6.5)) == {"La": [3], "Li": [1], "O": [-2], "Zr": [4]}
    with pytest.raises(OxidationStateError, match="electrons a formula unit are missing") as caught:
        assign_oxidation_states(garnet(5.5), "Li")
    assert caught.value.reason is Reason.OXIDATION_STATES_UNKNOWN
    with pytest.raises(OxidationStateError, match="electrons a formula unit are left over") as caught:
        assign_oxidation_states(argyrodite(lithium=0.98), "Li")
    assert caught.value.reason is Reason.METALLIC


@settings(max_examples=20, deadline=None)
@given(lithium=st.floats(5.0, 9.0))
def test_tolerance_has_two_sides(lithium: float) -> None:
    positive = lithium + 17
    imbalance = abs(lithium - 7) / min(positive, 24)
    try:
        decorated = assign_oxidation_states(garnet(lithium), "Li")
    except OxidationStateError:
        assert imbalance > 0.035
        return
    charges = {str(species): species for site in decorated for species in site.species}
    if set(charges) == {"Li+", "La3+", "Zr4+", "O2-"}:
        assert abs(total(decorated)) / (8 * positive) <= 0.05 + 1e-9
        assert bool(decorated.properties["oxidation_states_warnings"]) == (abs(lithium - 7) > 0.002 * positive)
    else:  # lanthanum or zirconium reduced: balanced, or nearly so
        assert abs(total(decorated)) / (8 * positive) <= 0.05 + 1e-9


def test_given_states_on_a_disordered_crystal() -> None:
    states = {"Li": 1, "La": 3, "Zr": 4, "O": -2}
    decorated = assign_oxidation_states(garnet(6.5), "Li", states)
    assert decorated.properties["oxidation_states_from"] == "given"
    assert len(decorated.properties["oxidation_states_warnings"]) == 1
    assert found(garnet(6.5), given={"Zr": 4})["La"] == [3]
    with pytest.raises(OxidationStateError, match=r"add up to -6 a formula unit"):
        assign_oxidation_states(garnet(), "Li", {**states, "La": 1})


def test_labels_of_a_disordered_file_are_used_when_they_balance_and_else_not() -> None:
    labelled = argyrodite()
    labelled.add_oxidation_state_by_element({"Li": 1, "P": 5, "S": -2, "Cl": -1})
    assert assign_oxidation_states(labelled, "Li").properties["oxidation_states_from"] == "structure"
    labelled.add_oxidation_state_by_element({"Li": 1, "P": 3, "S": -2, "Cl": -1})
    decorated = assign_oxidation_states(labelled, "Li")
    assert decorated.properties["oxidation_states_from"].startswith("formula")
    assert found(labelled)["P"] == [5]
    labelled.add_oxidation_state_by_element({"Li": 0, "P": 0, "S": 0, "Cl": 0})
    assert found(labelled)["P"] == [5]


def test_two_charges_of_one_element_on_one_site_stay() -> None:
    crystal = Structure.from_spacegroup(
        "Fm-3m",
        Lattice.cubic(4.2),
        [
            {Species("Li", 1): 0.5, Species("Mn", 2): 0.25, Species("Mn", 3): 0.25},
            {Species("O", -2): 0.75, Species("F", -1): 0.25},
        ],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )
    decorated = assign_oxidation_states(crystal, "Li")
    assert decorated.properties["oxidation_states_from"] == "structure"
    assert decorated[0].species == crystal[0].species


def test_split_oxygen_is_no_peroxide() -> None:
    crystal = Structure(
        Lattice.cubic(4.2),
        ["Li", "Li", {"O": 0.5}, {"O": 0.5}],
        [[0, 0, 0.5], [0, 0.5, 0], [0.5, 0.5, 0.35], [0.5, 0.5, 0.65]],
    )
    assert found(crystal) == {"Li": [1], "O": [-2]}


@pytest.mark.parametrize("charge", [float("nan"), float("inf")])
def test_given_states_that_are_no_numbers_are_refused(charge: float) -> None:
    with pytest.raises(OxidationStateError, match="given for Li is not a number; correct it"):
        assign_oxidation_states(garnet(6.5), "Li", {"Li": charge})


def test_deuterium_becomes_hydrogen_also_in_given_states() -> None:
    hydroxide = molecule(["O", "D"], [[0, 0, 0], [0, 0, 0.97]], lithium=1)
    assert found(hydroxide) == {"H": [1], "Li": [1], "O": [-2]}
    assert found(hydroxide, given={"D": 1, "O": -2, "Li": 1}) == {"H": [1], "Li": [1], "O": [-2]}


# ---------------------------------------------------------------- molecular ions


def molecule(elements: list[str], coords_A: list, lithium: int, others: tuple[str, ...] = ()) -> Structure:
    """A molecular ion in a wide cell with lithium and other cations far from it."""
    cell = Lattice.cubic(14)
    ions = ["Li"] * lithium + list(others)
    far = [[0.5, 0.5, 0.12 * i + 0.1] for i in range(len(ions))]
    return Structure(cell, [*elements, *ions], [*(np.array(coords_A) / 14), *far])


def corners(count: int, length_A: float) -> list[list[float]]:
    """Directions to partners: a tetrahedron's first ``count`` corners, or a triangle for three flat ones."""
    directions = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    return (directions[:count] * length_A).tolist()


@pytest.mark.parametrize(
    ("elements", "coords", "lithium", "expected"),
    [
        (["S", *"OOOO"], [[0, 0, 0], *corners(4, 1.48)], 2, {"O": [-2], "S": [6]}),
        (["S", *"OOO"], [[0, 0, 0], *corners(3, 1.52)], 2, {"O": [-2], "S": [4]}),
        (["P", *"OOOH"], [[0, 0, 0], *corners(3, 1.52), [-0.82, -0.82, 0.82]], 2, {"H": [1], "O": [-2], "P": [3]}),
        (["P", *"SSSS"], [[0, 0, 0], *corners(4, 2.05)], 3, {"P": [5], "S": [-2]}),
        (["Cl", *"OOOO"], [[0, 0, 0], *corners(4, 1.44)], 1, {"Cl": [7], "O": [-2]}),
        (["N", *"OO"], [[0, 0, 0], [1.08, 0.62, 0], [-1.08, 0.62, 0]], 1, {"N": [3], "O": [-2]}),
        (["N", *"OOO"], [[0, 0, 0], [1.24, 0, 0], [-0.62, 1.07, 0], [-0.62, -1.07, 0]], 1, {"N": [5], "O": [-2]}),
        (["C", *"OOO"], [[0, 0, 0], [1.29, 0, 0], [-0.645, 1.117, 0], [-0.645, -1.117, 0]], 2, {"C": [4], "O": [-2]}),
        (["C", "N"], [[0, 0, 0], [0, 0, 1.16]], 1, {"C": [2], "N": [-3]}),
        (["S", "C", "N"], [[0, 0, -1.65], [0, 0, 0], [0, 0, 1.16]], 1, {"C": [4], "N": [-3], "S": [-2]}),
        (["O", "H"], [[0, 0, 0], [0, 0, 0.97]], 1, {"H": [1], "O": [-2]}),
        (["N", "H", "H"], [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]], 1, {"H": [1], "N": [-3]}),
        (["S", "S", *"OOO"], [[0, 0, 0], [-1.16, -1.16, 1.16], *corners(3, 1.47)], 2, {"O": [-2], "S": [-2, 6]}),
        (["B", *"FFFF"], [[0, 0, 0], *corners(4, 1.4)], 1, {"B": [3], "F": [-1]}),
    ],
)  # fmt: skip
def test_molecular_anions(elements: list[str], coords: list, lithium: int, expected: dict[str, list[float]]) -> None:
    assert found(molecule(elements, coords, lithium)) == dict(sorted({"Li": [1], **expected}.items()))


def test_ammonium_and_nitrate_in_one_crystal() -> None:
    nitrate = [[0, 0, 0], [1.24, 0, 0], [-0.62, 1.07, 0], [-0.62, -1.07, 0]]
    ammonium = [[0, 7, 0], *np.add(corners(4, 1.03), [0, 7, 0]).tolist()]
    chloride = [[7, 0, 7]]
    crystal = molecule([*"NOOO", *"NHHHH", "Cl"], [*nitrate, *ammonium, *chloride], 1)
    assert found(crystal) == {"Cl": [-1], "H": [1], "Li": [1], "N": [-3, 5], "O": [-2]}


def test_hypodiphosphate_and_oxalate() -> None:
    p2s6 = [[0, 0, 1.1], [0, 0, -1.1]]
    for z, sign in ((1.1, 1), (-1.1, -1)):
        p2s6 += [[1.9 * np.cos(a), 1.9 * np.sin(a), z + 0.7 * sign] for a in np.arange(3) * 2 * np.pi / 3]
    assert found(molecule([*"PP", *"SSSSSS"], p2s6, 4))["P"] == [4]
    oxalate = [[0.78, 0, 0], [-0.78, 0, 0]]
    oxalate += [[1.4, 1.09, 0], [1.4, -1.09, 0], [-1.4, 1.09, 0], [-1.4, -1.09, 0]]
    assert found(molecule([*"CC", *"OOOO"], oxalate, 2)) == {"C": [3], "Li": [1], "O": [-2]}


def test_an_organic_group_shares_its_charge_and_a_carbanion_is_named() -> None:
    # Acetate: CH3 is -3 and COO +3; the group C2H3 has +3 to give to two oxygens and takes -1 from lithium.
    methyl = (np.array([[-1, 0.94, 0.94], [-1, -0.94, 0.94], [-1, 0, -0.94]]) * [0.36, 0.95, 0.95]).tolist()
    acetate = [[0, 0, 0], [1.52, 0, 0], *methyl, [2.14, 1.08, 0], [2.14, -1.08, 0]]
    decorated = assign_oxidation_states(molecule(["C", "C", *"HHHOO"], acetate, 1), "Li")
    group = [site.specie.oxi_state for site in decorated if site.specie.symbol in ("C", "H")]
    assert group == pytest.approx([0.6] * 5)
    assert "organic groups share their charge" in decorated.properties["oxidation_states_from"]
    methyllithium = assign_oxidation_states(molecule(["C", *"HHH"], [[0, 0, 0], *methyl], 1), "Li")
    (carbon,) = {site.specie for site in methyllithium if site.specie.symbol == "C"}
    assert carbon.oxi_state == -4
    with pytest.raises(MissingParametersError, match=r"Li1\+ and C4-"):
        load_parameters().pair("Li", 1, "C", carbon.oxi_state)


def test_hydride_on_boron_is_negative_and_named_by_the_table() -> None:
    assert found(molecule(["B", *"HHHH"], [[0, 0, 0], *corners(4, 1.21)], 1)) == {"B": [3], "H": [-1], "Li": [1]}
    with pytest.raises(MissingParametersError, match=r"Li1\+ and H1-"):
        load_parameters().pair("Li", 1, "H", -1)


@pytest.mark.parametrize(
    ("elements", "coords", "lithium", "charge"),
    [
        (["O", "O"], [[0, 0, 0], [0, 0, 1.5]], 2, -1),
        (["O", "O"], [[0, 0, 0], [0, 0, 1.34]], 1, -0.5),
        (["S", "S"], [[0, 0, 0], [0, 0, 2.1]], 2, -1),
        (["N", "N", "N"], [[0, 0, 0], [0, 0, 1.18], [0, 0, -1.18]], 1, -1 / 3),
        (["I", "I", "I"], [[0, 0, 0], [0, 0, 2.9], [0, 0, -2.9]], 1, -1 / 3),
    ],
)
def test_chains_of_one_element_share_their_charge(
    elements: list[str], coords: list, lithium: int, charge: float
) -> None:
    decorated = assign_oxidation_states(molecule(elements, coords, lithium), "Li")
    charges = [site.specie.oxi_state for site in decorated if site.specie.symbol != "Li"]
    assert charges == pytest.approx([charge] * len(elements))


# ---------------------------------------------------------------- which metal is reduced


def rock_salt_of(metals: dict[str, int], a: float, anion: str = "O") -> Structure:
    """Rock salt with the metals in turn on the cation sites of a supercell."""
    count = sum(metals.values())
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cell = cell * (1, 1, count // 4)
    order = [metal for metal, number in metals.items() for _ in range(number)]
    cations = [i for i, site in enumerate(cell) if site.specie.symbol == "Li"]
    for index, metal in zip(cations, order, strict=True):
        cell.replace(index, metal)
    return cell


def test_the_metal_of_lower_potential_gives_up_its_electrons() -> None:
    # Li2TiMnO4 could be Ti4+ Mn2+ or Ti3+ Mn3+ or Ti2+ Mn4+.
    assert found(rock_salt_of({"Li": 2, "Ti": 1, "Mn": 1}, 4.2)) == {"Li": [1], "Mn": [2], "O": [-2], "Ti": [4]}
    # Li2MnNiO4: Mn4+ Ni2+, as in every nickel-manganese cathode.


def test_an_alloy_is_metallic_and_electrons_left_over_are_counted() -> None:
    alloy = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Li", "Mg"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(OxidationStateError, match="metals and metalloids only") as caught:
        assign_oxidation_states(alloy, "Li")
    assert caught.value.reason is Reason.METALLIC
    suboxide = rock_salt_of({"Li": 4}, 4.6)
    suboxide.remove_sites([i for i, site in enumerate(suboxide) if site.specie.symbol == "O"][1:])
    with pytest.raises(OxidationStateError, match="2 electrons a formula unit are left over") as caught:
        assign_oxidation_states(suboxide, "Li")
    assert caught.value.reason is Reason.METALLIC


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_charges_go_with_the_atoms_whatever_their_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    crystal = perovskite() if seed % 2 else molecule(["S", *"OOOO"], [[0, 0, 0], *corners(4, 1.48)], 2)
    order = [int(i) for i in random.permutation(len(crystal))]
    shuffled = Structure.from_sites([crystal[i] for i in order])
    one, other = (assign_oxidation_states(structure, "Li") for structure in (crystal, shuffled))
    assert [one[i].species for i in order] == [site.species for site in other]
    assert one.composition.element_composition == crystal.composition.element_composition
