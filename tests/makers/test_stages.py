"""Each stage as a Maker: what its document says, the same through a job, and keys that tell results apart."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crystals
import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.io import read
from hopflow.learning.barrier_models import BARRIER_MODELS, BarrierModel, answer_rows, barrier_model
from hopflow.learning.evidence_checkpoints import SHIPPED_CHECKPOINT
from hopflow.learning.material_barriers import material_barriers
from hopflow.learning.path_rows import PathRow
from hopflow.learning.prediction import checkpoint_info
from hopflow.makers import probing
from hopflow.makers.bvse import BondValenceMaker
from hopflow.makers.dft import HandoffMaker
from hopflow.makers.documents import BandDocument, HopBarrierDocument, StageDocument
from hopflow.makers.gnn import HopBarrierMaker
from hopflow.makers.hop_predictions import path_row, predict_hop_barriers
from hopflow.makers.neb import BandMaker
from hopflow.makers.pes import LandscapeMaker
from hopflow.makers.quantities import Quantity
from hopflow.makers.settings import (
    BandStageSettings,
    BondValenceStageSettings,
    HandoffStageSettings,
    HopBarrierStageSettings,
    ScanStageSettings,
)
from hopflow.makers.stage import StageMaker, primitive_cell
from hopflow.transport.errors import CandidateError, NoMobileIonError, Reason, StructureError, WeightsError
from hopflow.transport.hops import enumerate_hops, hop_path, network_barriers
from hopflow.transport.paths import PATH_COLUMNS
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pair_potential import PairPotential
from places import DEMO
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure


@pytest.fixture(scope="module")
def lithia() -> Structure:
    return Structure.from_file(DEMO / "Li2O.cif")


COARSE = BondValenceStageSettings(spacing_A=0.4)
QUICK_BAND = BandStageSettings(images=1, dtype="float32", min_length_A=5.0, max_force_eV_per_A=0.2)
QUICK_SCAN = ScanStageSettings(spacing_A=0.5, max_evaluations=200, min_length_A=4.0)


def test_bvse_document(lithia: Structure) -> None:
    document = BondValenceMaker(settings=COARSE).evaluate(lithia)
    assert document.barrier_1d_eV == document.quantity(Quantity.BARRIER_1D)
    assert 0 < document.barrier_1d_eV <= document.barrier_2d_eV <= document.barrier_3d_eV < 1
    assert document.dimension == 3
    assert document.oxidation_states == {"Li": [1.0], "O": [-2.0]}
    assert document.atoms == 12
    assert document.uncertainty(Quantity.BARRIER_1D) is None
    assert document.versions["hopflow"]


def test_bvse_document_names_the_path_and_its_sites(lithia: Structure) -> None:
    document = BondValenceMaker(settings=BondValenceStageSettings(spacing_A=0.25)).evaluate(lithia)
    assert document.at_saddle == [True, True, True]
    assert document.path_1d is not None
    assert any(document.path_1d.translation)
    # Lithium goes from one tetrahedral site of the antifluorite straight to the next.
    assert {stop.site for stop in document.path_1d.stops} <= {"Li1", "Li2", "Li", "interstice"}
    assert all(stop.energy_eV >= 0 and stop.rise_eV > 0 for stop in document.path_1d.stops)
    assert 0 < document.barrier_1d_dft_like_eV < document.barrier_1d_eV + 0.3
    assert document.dft_like_extrapolated == [False, False, False]
    assert BondValenceMaker(settings=BondValenceStageSettings(path=False)).evaluate(lithia).path_1d is None


def test_only_bvse_takes_partly_occupied_crystals_and_passes_on_what_the_reader_saw(lithia: Structure) -> None:
    disordered = lithia.copy()
    disordered[next(i for i, s in enumerate(lithia) if s.specie.symbol == "O")] = {"O": 0.5, "S": 0.5}
    disordered.properties["reading_warnings"] = ["A sentence of the reader."]
    document = BondValenceMaker(settings=COARSE).evaluate(disordered)
    assert document.barrier_1d_eV > 0
    assert document.warnings[0] == "A sentence of the reader."
    with pytest.raises(StructureError) as caught:
        HopBarrierMaker().evaluate(disordered)
    assert caught.value.reason is Reason.PARTIAL_OCCUPANCY


def test_threads_do_not_make_another_result(lithia: Structure) -> None:
    one, two = (BondValenceMaker(settings=BondValenceStageSettings(threads=n)) for n in (1, 2))
    assert one.content_key(lithia) == two.content_key(lithia)
    plain = BondValenceMaker(settings=BondValenceStageSettings(refine=False))
    assert plain.content_key(lithia) != one.content_key(lithia)


def test_conventional_and_primitive_cell_give_one_answer(lithia: Structure) -> None:
    primitive = primitive_cell(lithia)
    assert len(primitive) == 3
    assert primitive_cell(primitive) is primitive
    maker = BondValenceMaker(settings=COARSE)
    assert maker.evaluate(lithia).barrier_3d_eV == pytest.approx(maker.evaluate(primitive).barrier_3d_eV, abs=1e-6)


def test_gnn_document_is_the_hop_graphs_minimax_with_the_errors_of_all_hops() -> None:
    maker, crystal = HopBarrierMaker(settings=HopBarrierStageSettings(model="geometry")), crystals.lithium_phosphate()
    document = maker.evaluate(crystal)
    network = enumerate_hops(primitive_cell(crystal), "Li")
    barriers = [hop.barrier_eV for hop in document.hops]
    sigmas = [hop.barrier_sigma_eV for hop in document.hops]
    found = material_barriers(network, barriers, sigmas, maker.settings.common_error_share)
    assert found.barriers_eV == network_barriers(network, barriers).thresholds_eV
    for k, quantity in enumerate((Quantity.BARRIER_1D, Quantity.BARRIER_2D, Quantity.BARRIER_3D)):
        assert document.quantity(quantity) == found.barriers_eV[k]
        assert document.uncertainty(quantity) == found.sigmas_eV[k] > 0
        assert document.interval_90(quantity) == found.intervals_90_eV[k]
        hop = next(hop for hop in document.hops if hop.hop_id == document.limiting_hop_ids[k])
        assert hop.barrier_eV == document.quantity(quantity)
        assert sum(hop.limiting_probabilities[k] for hop in document.hops) == pytest.approx(1.0)
    assert document.interval_90(Quantity.CONNECTED_FREE_VOLUME) is None
    assert document.weights_sha256 == maker.weights_sha256() == checkpoint_info(SHIPPED_CHECKPOINT)["sha256"]
    assert document.model == "geometry"
    assert HopBarrierDocument.model_validate_json(document.model_dump_json()) == document


def test_gnn_answers_as_predict_paths_does(lithia: Structure) -> None:
    network = enumerate_hops(lithia, "Li")
    rows = [path_row(hop_path(network, hop, images=5)) for hop in network.hops]
    answers = next(answer_rows((PathRow(row["path_id"], row, None) for row in rows), barrier_model("geometry")))
    predicted = predict_hop_barriers(network, 8.0, "geometry")
    barriers, sigmas = predicted.barriers_eV, predicted.sigmas_eV
    assert barriers == pytest.approx([answer.barrier_eV for answer in answers], abs=2e-4)
    assert sigmas == pytest.approx([answer.sigma_eV for answer in answers], abs=2e-4)


@pytest.mark.weights
def test_gnn_has_the_potential_probe_every_hop(lithia: Structure) -> None:
    document = HopBarrierMaker().evaluate(lithia)
    assert document.model == "fast"
    network = enumerate_hops(primitive_cell(lithia), "Li")
    without = predict_hop_barriers(network, 8.0, "geometry").barriers_eV
    assert len(document.hops) == len(without)
    for hop, barrier in zip(document.hops, without, strict=True):
        assert hop.barrier_eV != pytest.approx(barrier, abs=1e-3)
    # Li2O hops by vacancies at 0.25 to 0.35 eV in calculations
    assert 0.1 < document.barrier_3d_eV < 0.6


class EveryElementButOne(PairPotential):
    """Pair terms for all elements but one, which it does not know."""

    def __init__(self, unknown: str) -> None:
        super().__init__()
        self.elements = frozenset(chemical_symbols) - {unknown}


def test_gnn_with_a_potential_that_does_not_know_an_element_says_so(
    lithia: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "probing_potential", lambda _: EveryElementButOne("O"))
    document = HopBarrierMaker().evaluate(lithia)
    assert (document.model, document.potential) == ("fast", "pairs")
    geometry = HopBarrierMaker(settings=HopBarrierStageSettings(model="geometry")).evaluate(lithia)
    assert [hop.barrier_eV for hop in document.hops] == [hop.barrier_eV for hop in geometry.hops]
    assert [f"{hop.hop_id}: Answered by the geometry alone: pairs does not know ['O']." for hop in document.hops] == (
        document.warnings
    )
    assert (geometry.potential, geometry.warnings) == (None, [])
    monkeypatch.setattr(probing, "probing_potential", lambda _: EveryElementButOne("Xe"))
    known = HopBarrierMaker().evaluate(lithia)
    assert known.warnings == []
    assert [hop.barrier_eV for hop in known.hops] != [hop.barrier_eV for hop in geometry.hops]


def test_gnn_stops_where_the_weights_of_its_potential_are_not_to_be_had(
    lithia: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: Any) -> Any:
        raise WeightsError("The weights are on the moon.")

    monkeypatch.setattr(probing, "probing_potential", nothing)
    with pytest.raises(WeightsError, match="on the moon"):
        HopBarrierMaker().evaluate(lithia)


class GivenBarriers:
    """A predictor that knows one barrier and refuses what it is told to."""

    def __init__(self, refused: Exception | None = None, barrier_eV: float = 0.4) -> None:
        self.refused, self.barrier_eV = refused, barrier_eV
        self.seen: list[dict[str, Any]] = []

    def prepare(self, row: dict[str, Any]) -> float:
        self.seen.append(row)
        if self.refused is not None and len(self.seen) == 2:
            raise self.refused
        return self.barrier_eV

    def predict(self, prepared: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(prepared), np.full(len(prepared), 0.1)


def registered(monkeypatch: pytest.MonkeyPatch, predictor: GivenBarriers, extra_columns: tuple[str, ...] = ()) -> None:
    """Put a model called ``given`` into the registry."""
    model = BarrierModel("given", "Given.", SHIPPED_CHECKPOINT, lambda *_: predictor, extra_columns)
    monkeypatch.setitem(BARRIER_MODELS, "given", model)


def test_gnn_asks_the_model_that_is_set_and_names_the_hop_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = crystals.lithium_phosphate()
    predictor = GivenBarriers()
    registered(monkeypatch, predictor)
    maker = HopBarrierMaker(settings=HopBarrierStageSettings(model="given"))
    document = maker.evaluate(crystal)
    assert (document.model, document.barrier_3d_eV) == ("given", 0.4)
    assert len(document.hops) == len(predictor.seen) > 1
    assert {key for row in predictor.seen for key in row} == {"path_id", *PATH_COLUMNS}
    assert maker.content_key(crystal) != HopBarrierMaker().content_key(crystal)

    refusal = StructureError("It will not do.", Reason.UNSUPPORTED_ELEMENT)
    registered(monkeypatch, GivenBarriers(refusal))
    with pytest.raises(StructureError, match=r"given.*refuses the hop") as caught:
        maker.evaluate(crystal)
    assert document.hops[1].hop_id in str(caught.value)
    assert caught.value.reason is Reason.UNSUPPORTED_ELEMENT

    registered(monkeypatch, GivenBarriers(barrier_eV=float("nan")))
    with pytest.raises(CandidateError, match="no finite barrier for the hop") as caught:
        maker.evaluate(crystal)
    assert caught.value.reason is Reason.NON_FINITE_ENERGY


def test_gnn_refuses_models_that_do_not_exist_or_need_more_than_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="no barrier model called 'slow'; allowed: fast"):
        HopBarrierStageSettings(model="slow")
    registered(monkeypatch, GivenBarriers(), extra_columns=("barrier_mace_relax_eV",))
    with pytest.raises(ValidationError, match=r"needs barrier_mace_relax_eV .*; allowed: fast"):
        HopBarrierStageSettings(model="given")


def test_settings_of_gnn_are_read_without_torch() -> None:
    code = (
        "import sys; from hopflow.makers.settings import HopBarrierStageSettings; "
        "HopBarrierStageSettings(model='fast'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.weights
def test_pes_document(lithia: Structure) -> None:
    document = LandscapeMaker(settings=QUICK_SCAN).evaluate(lithia)
    assert document.evaluations <= 200
    assert 0 <= document.connected_free_volume_fraction <= document.disconnected_free_volume_fraction <= 1
    shares = [volume.disconnected_fraction for volume in document.free_volumes]
    assert shares == sorted(shares)
    assert document.uncertainty(Quantity.CONNECTED_FREE_VOLUME) is None
    values = [value for row in document.slice_eV for value in row if value is not None]
    assert min(values) == 0
    assert document.potential == "m3gnet-mp-2021.2.8-direct"


@pytest.fixture(scope="module")
def band(lithia: Structure) -> BandDocument:
    document = BandMaker(settings=QUICK_BAND).evaluate(lithia)
    assert isinstance(document, BandDocument)
    return document


@pytest.mark.weights
def test_neb_document(band: BandDocument) -> None:
    (record,) = band.bands
    assert record.converged
    assert band.barrier_1d_eV == record.barrier_span_eV
    assert 0.1 < band.barrier_1d_eV < 0.6
    assert record.energies_eV[0] == 0
    images = read(io.StringIO(band.images_extxyz), index=":", format="extxyz")
    assert len(images) == 3
    counts = images[0].get_chemical_symbols().count
    assert counts("Li") == 2 * counts("O") - 1, "one lithium is missing: the vacancy"


@pytest.mark.weights
def test_neb_keeps_the_band_of_every_hop_of_the_path(tmp_path: Path) -> None:
    """The lithium of argyrodite needs a hop within its cage and one to the next."""
    crystal = Structure.from_file(DEMO / "Li6PS5Cl.cif")
    document = BandMaker(settings=QUICK_BAND.model_copy(update={"max_hops": 2})).evaluate(crystal)
    assert isinstance(document, BandDocument)
    assert sorted(document.hops_on_path) == sorted(record.hop_id for record in document.bands)
    assert len(document.bands) == 2
    (hop_id,) = document.other_bands_extxyz
    limiting = read(io.StringIO(document.images_extxyz), index=0, format="extxyz").info["path_id"]
    assert {limiting, hop_id} == set(document.hops_on_path)
    barriers = {record.hop_id: record.barrier_span_eV for record in document.bands}
    assert barriers[limiting] == document.barrier_1d_eV > barriers[hop_id]
    images = read(io.StringIO(document.other_bands_extxyz[hop_id]), index=":", format="extxyz")
    span = max(image.get_potential_energy() for image in images) - min(image.get_potential_energy() for image in images)
    assert span == pytest.approx(barriers[hop_id], abs=1e-4)
    settings = HandoffStageSettings(folder=str(tmp_path), hops="all")
    written = HandoffMaker(settings=settings).evaluate(crystal, {"neb": document})
    assert written.hop_ids == [limiting, hop_id]


@pytest.mark.weights
def test_neb_of_one_ion_more(tmp_path: Path) -> None:
    """Interstitial hops, in a salt and in a host that holds no lithium; DFT does not begin from them."""
    maker = BandMaker(settings=QUICK_BAND.model_copy(update={"mechanism": "interstitial"}))
    salt = Structure.from_file(DEMO / "LiCl.cif")
    document = maker.evaluate(salt)
    assert isinstance(document, BandDocument)
    assert document.mechanism == "interstitial"
    assert "of interstitial hops" in document.method
    images = read(io.StringIO(document.images_extxyz), index=":", format="extxyz")
    assert {image.symbols.count("Li") - image.symbols.count("Cl") for image in images} == {1}
    assert document.bands[0].hop_id.startswith("void")
    assert document.content_key != BandMaker(settings=QUICK_BAND).content_key(salt)
    with pytest.raises(CandidateError, match="begins from bands of vacancy hops"):
        HandoffMaker(settings=HandoffStageSettings(folder=str(tmp_path))).evaluate(salt, {"neb": document})
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    host = maker.evaluate(rutile)
    assert host.formula == "TiO2"
    assert 0.0 < host.barrier_1d_eV < 0.4
    with pytest.raises(NoMobileIonError):
        BandMaker(settings=QUICK_BAND).evaluate(rutile)


@pytest.mark.weights
def test_dft_takes_the_band(lithia: Structure, band: BandDocument, tmp_path: Path) -> None:
    maker = HandoffMaker(settings=HandoffStageSettings(folder=str(tmp_path)))
    document = maker.evaluate(lithia, {"neb": band})
    assert document.images_written == 3
    assert (Path(document.folder) / "01" / "POSCAR").exists()
    assert document.uncertainty(Quantity.IMAGES_WRITTEN) is None
    record = json.loads((Path(document.folder) / "handoff.json").read_text())["metadata"]
    hop = band.bands[0]
    assert document.hop_id == record["hop_id"] == hop.hop_id
    assert (record["hop_distance_A"], record["hop_multiplicity"]) == (hop.distance_A, hop.multiplicity)
    assert (record["structure_hash"], record["content_key_neb"]) == (document.structure_hash, band.content_key)
    with pytest.raises(CandidateError, match="run neb first"):
        maker.evaluate(lithia)
    other = maker.content_key(lithia, {"neb": band.model_copy(update={"content_key": "another"})})
    assert other != document.content_key


@pytest.mark.weights
def test_a_hop_that_does_not_converge_has_no_barrier(lithia: Structure) -> None:
    settings = QUICK_BAND.model_copy(update={"max_steps": 1, "max_force_eV_per_A": 1e-7})
    with pytest.raises(CandidateError) as caught:
        BandMaker(settings=settings).evaluate(lithia)
    assert caught.value.reason is Reason.NOT_CONVERGED


def test_a_job_gives_the_same_document(lithia: Structure) -> None:
    maker = BondValenceMaker(settings=COARSE)
    job = maker.make(lithia)
    store = JobStore(MemoryStore())
    output = run_locally(job, store=store, ensure_success=True)[job.uuid][1].output
    assert isinstance(output, StageDocument)
    direct = maker.evaluate(lithia)
    assert output.model_dump(exclude={"seconds"}) == direct.model_dump(exclude={"seconds"})


def test_content_key_tells_apart_what_matters(lithia: Structure) -> None:
    maker = BondValenceMaker(settings=COARSE)
    shuffled = Structure.from_sites(list(np.random.default_rng(0).permutation(np.array(lithia.sites, dtype=object))))
    assert maker.content_key(shuffled) == maker.content_key(lithia)
    stretched = lithia.copy()
    stretched.scale_lattice(lithia.volume * 1.01)
    keys = [
        maker.content_key(lithia),
        maker.content_key(stretched),
        BondValenceMaker(settings=BondValenceStageSettings(spacing_A=0.3)).content_key(lithia),
        BondValenceMaker(ion="Na", settings=COARSE).content_key(lithia),
        HopBarrierMaker().content_key(lithia),
        LandscapeMaker(settings=QUICK_SCAN).content_key(lithia),
        LandscapeMaker(settings=QUICK_SCAN.model_copy(update={"potential": "mace-mp-0-small"})).content_key(lithia),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("maker", [BondValenceMaker(), HopBarrierMaker(), LandscapeMaker(), BandMaker()])
def test_every_stage_refuses_what_it_cannot_answer(maker: StageMaker, lithia: Structure) -> None:
    with pytest.raises(NoMobileIonError):
        maker.evaluate(lithia.copy().replace_species({"Li": "Na"}))
    few = type(maker)(settings=maker.settings.model_copy(update={"max_atoms": 2}))
    with pytest.raises(StructureError) as caught:
        few.evaluate(lithia)
    assert caught.value.reason is Reason.TOO_MANY_ATOMS
