"""Which hops of a crystal a potential is asked about, and what the others are given."""

from __future__ import annotations

import numpy as np
import pytest
from hopflow.learning.material_barriers import material_barriers
from hopflow.makers import neb, probing
from hopflow.makers.gnn import HopBarrierMaker
from hopflow.makers.hop_predictions import (
    NEGLIGIBLE_PROBABILITY,
    PROBED_TOGETHER,
    deciding_hops,
    predict_hop_barriers,
)
from hopflow.makers.settings import HopBarrierStageSettings
from hopflow.transport.hops import HopNetwork, enumerate_hops
from pair_potential import PairPotential
from pymatgen.core import Lattice, Structure

SHORT_A = 5.0
"""Small supercells: what is probed counts here, not how well."""


@pytest.fixture(scope="module")
def network() -> HopNetwork:
    """Hops of a triclinic chloride; no two of them are equal."""
    sites = [[0.02, 0.03, 0.01], [0.51, 0.48, 0.04], [0.47, 0.03, 0.52], [0.04, 0.55, 0.49]]
    between = [[0.5, 0.02, 0.03], [0.03, 0.52, 0.02], [0.02, 0.04, 0.53], [0.52, 0.49, 0.51]]
    lattice = Lattice.from_parameters(5.1, 5.3, 5.6, 86, 93, 97)
    return enumerate_hops(Structure(lattice, ["Li"] * 4 + ["Cl"] * 4, sites + between), "Li")


@pytest.fixture
def potential(monkeypatch: pytest.MonkeyPatch) -> PairPotential:
    pairs = PairPotential()
    monkeypatch.setattr(probing, "probing_potential", lambda _: pairs)
    return pairs


def test_a_crystal_of_few_hops_has_all_of_them_probed(network: HopNetwork, potential: PairPotential) -> None:
    count = len(network.hops)
    assert count > 2 * PROBED_TOGETHER
    found = predict_hop_barriers(network, SHORT_A, "fast", max_probed_hops=count)
    assert found.probed.all()
    assert potential.asked
    assert (found.notes, found.potential) == ({}, "pairs")


def test_what_is_probed_has_its_own_answer_and_the_rest_that_of_the_geometry(
    network: HopNetwork, potential: PairPotential
) -> None:
    count = len(network.hops)
    everything = predict_hop_barriers(network, SHORT_A, "fast", max_probed_hops=count)
    geometry = predict_hop_barriers(network, SHORT_A, "geometry")
    assert not geometry.probed.any()
    for most in (1, PROBED_TOGETHER + 1, count - 1):
        found = predict_hop_barriers(network, SHORT_A, "fast", max_probed_hops=most)
        assert 1 <= found.probed.sum() <= most
        for name in ("barriers_eV", "sigmas_eV"):
            mixed = np.where(found.probed, getattr(everything, name), getattr(geometry, name))
            assert getattr(found, name) == pytest.approx(mixed, rel=1e-9)
    asked = len(potential.asked)
    none = predict_hop_barriers(network, SHORT_A, "fast", max_probed_hops=0)
    assert len(potential.asked) == asked
    assert none.barriers_eV == pytest.approx(geometry.barriers_eV, rel=1e-9)


def test_asking_stops_at_the_budget_or_when_the_others_cannot_matter(
    network: HopNetwork, potential: PairPotential
) -> None:
    assert potential.elements
    count = len(network.hops)
    for most in range(1, count):
        found = predict_hop_barriers(network, SHORT_A, "fast", max_probed_hops=most)
        crystal = material_barriers(network, found.barriers_eV, found.sigmas_eV, samples=200)
        if found.probed.sum() < most:
            assert all(hop is None or found.probed[hop] for hop in crystal.limiting_hops)
            assert crystal.limiting_probabilities[~found.probed].sum(axis=0).max() < NEGLIGIBLE_PROBABILITY


def test_limiting_hops_are_asked_about_first_and_then_the_likeliest(network: HopNetwork) -> None:
    count = len(network.hops)
    generator = np.random.default_rng(3)
    barriers, sigmas = generator.uniform(0.2, 0.9, count), np.full(count, 0.3)
    crystal = material_barriers(network, barriers, sigmas, samples=200)
    nothing = np.zeros(count, dtype=bool)
    limiting = list(dict.fromkeys(crystal.limiting_hops))
    chosen = deciding_hops(crystal, nothing, count)
    assert chosen[: len(limiting)] == limiting
    likely = crystal.limiting_probabilities.max(axis=1)
    rest = chosen[len(limiting) :]
    assert rest == sorted(rest, key=lambda hop: -likely[hop])
    assert all(likely[hop] > 0 for hop in rest)
    assert deciding_hops(crystal, nothing, 2) == chosen[:2]
    some = nothing.copy()
    some[chosen[0]] = True
    assert chosen[0] not in deciding_hops(crystal, some, count)
    assert deciding_hops(crystal, ~nothing, count) == []


def test_a_certain_crystal_asks_for_its_limiting_hops_alone(network: HopNetwork) -> None:
    count = len(network.hops)
    crystal = material_barriers(network, np.linspace(0.2, 2.0, count), np.full(count, 1e-6), samples=200)
    limiting = [hop for hop in dict.fromkeys(crystal.limiting_hops) if hop is not None]
    asked = np.zeros(count, dtype=bool)
    asked[limiting] = True
    assert deciding_hops(crystal, asked, count) == []


def test_the_document_says_what_was_not_probed(network: HopNetwork, potential: PairPotential) -> None:
    settings = HopBarrierStageSettings(model="fast", min_length_A=SHORT_A, max_probed_hops=3)
    document = HopBarrierMaker(settings=settings).evaluate(network.structure)
    assert potential.asked
    assert sum(hop.probed for hop in document.hops) <= 3 < len(document.hops)
    (sentence,) = document.warnings
    assert sentence.startswith(f"pairs probed {sum(hop.probed for hop in document.hops)} of {len(document.hops)} ")
    plain = HopBarrierStageSettings(model="geometry", min_length_A=SHORT_A, max_probed_hops=3)
    without = HopBarrierMaker(settings=plain).evaluate(network.structure)
    assert (without.warnings, any(hop.probed for hop in without.hops)) == ([], False)


def test_the_neb_stage_takes_over_what_the_gnn_stage_has_just_answered(
    network: HopNetwork, potential: PairPotential
) -> None:
    settings = HopBarrierStageSettings(model="fast", min_length_A=SHORT_A)
    document = HopBarrierMaker(settings=settings).evaluate(network.structure)
    asked = len(potential.asked)
    taken = neb._predicted_barriers(network, SHORT_A, document)
    assert len(potential.asked) == asked
    computed = neb._predicted_barriers(network, SHORT_A, None)
    assert len(potential.asked) > asked
    assert taken == pytest.approx(computed, rel=1e-6)
    asked = len(potential.asked)
    others = [
        HopBarrierMaker(settings=settings.model_copy(update={"max_probed_hops": 2})).evaluate(network.structure),
        document.model_copy(update={"hops": document.hops[1:]}),
        document.model_copy(update={"weights_sha256": "0" * 64}),
    ]
    for other in others:
        before = len(potential.asked)
        assert neb._predicted_barriers(network, SHORT_A, other) == pytest.approx(computed, rel=1e-6)
        assert len(potential.asked) > before
