"""The bvse stage where the table has no parameters: who answers, and what the document says about it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from crystals import rock_salt
from hopflow.learning import interstitial_prediction
from hopflow.learning.interstitial_prediction import CHECKPOINT, CrystalPrediction, checkpoint_info, predict_crystal
from hopflow.makers.bvse import BondValenceMaker
from hopflow.makers.documents import BondValenceDocument
from hopflow.makers.interstitial_answers import far_apart
from hopflow.makers.quantities import BarrierSource, Quantity
from hopflow.makers.settings import BondValenceStageSettings
from hopflow.transport.errors import CandidateError, MissingParametersError, Reason
from places import DEMO
from pymatgen.core import Structure


def maker(when: str = "missing_parameters", ion: str = "Li", **changes) -> BondValenceMaker:
    settings = BondValenceStageSettings(spacing_A=0.4, interstitial_network=when, **changes)
    return BondValenceMaker(ion=ion, settings=settings)


def demo(name: str) -> Structure:
    return Structure.from_file(DEMO / f"{name}.cif")


@pytest.fixture(scope="module")
def hydride() -> Structure:
    return rock_salt(4.084, "Li", "H")


@pytest.mark.parametrize("when", ["missing_parameters", "always"])
def test_the_network_answers_for_a_hydride_and_says_so(hydride: Structure, when: str) -> None:
    document = maker(when).evaluate(hydride)
    expected = predict_crystal(hydride)
    assert document.barrier_source is document.value_source() is BarrierSource.INTERSTITIAL_NETWORK
    assert "interstitial network" in document.method
    for k, quantity in enumerate((Quantity.BARRIER_1D, Quantity.BARRIER_2D, Quantity.BARRIER_3D)):
        assert document.quantity(quantity) == pytest.approx(expected.barriers_eV[k], rel=1e-3)
        assert document.uncertainty(quantity) == pytest.approx(expected.sigmas_eV[k], rel=1e-3)
    assert document.unfamiliar_species == ["H-"]
    assert document.interstitial_network_sigmas_log == pytest.approx(expected.sigmas_log, rel=1e-3)
    assert document.weights_sha256 == checkpoint_info()["sha256"]
    assert "torch" in document.versions
    assert document.oxidation_states == {"H": [-1.0], "Li": [1.0]}
    assert document.warnings == [
        "The bond-valence table has no parameters for the pair Li1+ and H1-; the barrier is predicted by the "
        "interstitial network, which has never seen H-: sigma is widened."
    ]
    # Whatever only a field has.
    assert (document.grid_shape, document.spacing_A, document.symmetry_operations, document.path_1d) == (None,) * 4
    assert document.at_saddle == document.bottlenecks_frac == document.grid_barriers_eV == []
    assert document.barrier_1d_dft_like_eV is document.barrier_1d_from_global_minimum_eV is None
    stored = json.loads(json.dumps(document.model_dump(mode="json")))
    assert stored["barrier_source"] == "interstitial_network"
    assert BondValenceDocument.model_validate(stored) == document


def test_without_the_network_the_candidate_fails_as_the_table_says(hydride: Structure) -> None:
    with pytest.raises(MissingParametersError, match=r"Li1\+ and H1-.*\(pes, neb\)\.$"):
        maker("never").evaluate(hydride)


def test_another_ion_fails_with_both_reasons() -> None:
    sodium = rock_salt(4.88, "Na", "H")
    with pytest.raises(MissingParametersError) as alone:
        maker("never", "Na").evaluate(sodium)
    with pytest.raises(MissingParametersError) as both:
        maker(ion="Na").evaluate(sodium)
    assert both.value.reason is Reason.MISSING_PARAMETERS
    assert str(both.value).startswith(str(alone.value).rstrip("."))
    assert "learned barriers of Li only; it cannot speak of Na" in str(both.value)


def test_other_failures_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(interstitial_prediction, "predict_crystal", asked)
    metal = Structure([[3.2, 0, 0], [0, 3.2, 0], [0, 0, 3.2]], ["Li", "Mg"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(CandidateError) as caught:
        maker("always").evaluate(metal)
    assert caught.value.reason is Reason.METALLIC


def test_where_the_table_has_parameters_nothing_changes() -> None:
    crystal = demo("Li2O")
    alone, default = (maker(when).evaluate(crystal) for when in ("never", "missing_parameters"))
    signature = {"settings", "content_key", "seconds"}
    assert alone.model_dump(exclude=signature) == default.model_dump(exclude=signature)
    assert default.barrier_source is BarrierSource.BOND_VALENCE
    assert default.weights_sha256 is None
    assert default.uncertainty(Quantity.BARRIER_1D) is None
    assert "torch" not in default.versions


def test_always_puts_a_prediction_beside_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = demo("Li2O")
    expected = maker("never").evaluate(crystal)
    document = maker("always").evaluate(crystal)
    assert document.barrier_source is BarrierSource.BOND_VALENCE
    assert document.barrier_1d_eV == expected.barrier_1d_eV
    assert document.barrier_1d_sigma_eV is None
    assert document.interstitial_network_barriers_eV == pytest.approx(predict_crystal(crystal).barriers_eV, rel=1e-3)
    assert len(document.interstitial_network_sigmas_eV) == len(document.interstitial_network_sigmas_log) == 3
    assert document.weights_sha256 == checkpoint_info()["sha256"]

    sure = CrystalPrediction((5.0, 5.0, 5.0), (0.5,) * 3, (0.1,) * 3, (), 3)
    monkeypatch.setattr(interstitial_prediction, "predict_crystal", lambda *_: sure)
    *others, last = maker("always").evaluate(crystal).warnings
    assert others == expected.warnings
    assert "more than 3 sigma" in last
    assert "1D 5.00 against 0." in last


def test_a_cross_check_that_cannot_be_costs_nothing_but_a_sentence() -> None:
    document = maker("always", "Na").evaluate(rock_salt(5.64, "Na", "Cl"))
    assert document.barrier_source is BarrierSource.BOND_VALENCE
    assert document.interstitial_network_barriers_eV == []
    assert document.weights_sha256 is None
    assert document.warnings[-1].startswith("There is no cross-check by the interstitial network: ")


def test_settings_that_the_network_has_not_learned_are_named(hydride: Structure) -> None:
    document = maker(screening=0.7, radii="softbv").evaluate(hydride)
    assert "learned barriers with radii: cordero, screening: 0.74" in document.warnings[-1]


def test_logarithms_decide_what_is_far_apart() -> None:
    prediction = CrystalPrediction((0.2, 0.2, 0.2), (0.02,) * 3, (0.1,) * 3, (), 3)
    assert far_apart((0.2 * math.exp(0.29), 0.2 * math.exp(0.31), math.inf), prediction) == ["2D 0.20 against 0.27 eV"]
    assert far_apart((0.2 * math.exp(-0.31), 0.2, 0.2), prediction) == ["1D 0.20 against 0.15 eV"]


def test_the_network_names_the_result_where_it_may_speak(
    hydride: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        made = [maker(), maker("always"), maker("never"), maker(ion="Na")]
        return [each.content_key(hydride) for each in made]

    before = keys()
    assert len(set(before)) == 4
    other = tmp_path / CHECKPOINT.name
    shutil.copy(CHECKPOINT, other)
    # A zip archive may have more behind its end, so the weights are another file and the same network.
    other.write_bytes(other.read_bytes() + b"0")
    sha256 = interstitial_prediction_sha256(other)
    other.with_suffix(".json").write_text(json.dumps({**checkpoint_info(), "sha256": sha256}))
    monkeypatch.setattr(interstitial_prediction, "CHECKPOINT", other)
    after = keys()
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, True]


def interstitial_prediction_sha256(file: Path) -> str:
    from hopflow.learning.prediction import file_sha256

    return file_sha256(file)
