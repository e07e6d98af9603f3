"""Each stage as a Maker: what its document says, the same through a job, and keys that tell results apart."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from hopflow.makers.bvse import BondValenceMaker
from hopflow.makers.dft import HandoffMaker
from hopflow.makers.documents import BandDocument, StageDocument
from hopflow.makers.gnn import HopBarrierMaker
from hopflow.makers.neb import BandMaker
from hopflow.makers.pes import LandscapeMaker
from hopflow.makers.quantities import Quantity
from hopflow.makers.settings import (
    BandStageSettings,
    BondValenceStageSettings,
    HandoffStageSettings,
    ScanStageSettings,
)
from hopflow.makers.stage import StageMaker, primitive_cell
from hopflow.transport.errors import CandidateError, NoMobileIonError, Reason, StructureError
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from places import DEMO
from pymatgen.core import Structure


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


def test_gnn_document_is_the_hop_graphs_minimax(lithia: Structure) -> None:
    document = HopBarrierMaker().evaluate(lithia)
    barriers = [hop.barrier_eV for hop in document.hops]
    assert document.barrier_1d_eV in barriers
    sigma = document.hops[barriers.index(document.barrier_1d_eV)].barrier_sigma_eV
    assert document.uncertainty(Quantity.BARRIER_1D) == sigma > 0
    assert document.weights_sha256 == HopBarrierMaker().weights_sha256()


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
