"""The jobs of the funnel in one process: numbers that are none, results that are found again, jobs that go on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from crashes import InstantMaker, InstantNeb, InstantPes, NumberDocument
from hopflow.flows.funnel import Candidate, Funnel, FunnelStage, level_flow
from hopflow.flows.gate import Gate, Status
from hopflow.flows.screening import JobProgress, StoredDocuments, diary_path, enter_next_level, screen_candidate
from hopflow.transport.errors import HopflowError, NonFiniteEnergyError
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure


class SigmaDocument(NumberDocument):
    barrier_1d_sigma_eV: float | None = None


class FixedMaker(InstantMaker):
    """Answers with a number that the test gives."""

    stage = "bvse"
    document = SigmaDocument
    value: float | None = 0.3
    sigma: float | None = 0.1

    def compute(self, *_: Any) -> dict[str, Any]:
        return {"method": "given", "barrier_1d_eV": self.value, "barrier_1d_sigma_eV": self.sigma}


class RaisingMaker(InstantMaker):
    stage = "bvse"

    def compute(self, *_: Any) -> dict[str, Any]:
        raise NonFiniteEnergyError("The potential returned no number.")


def crystal(edge_A: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(edge_A), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def funnel_of(*levels: list[InstantMaker], gate: Gate | None = None, **changes: Any) -> Funnel:
    chosen = gate or Gate("barrier_1d_eV")
    return Funnel("c", [[FunnelStage(maker, chosen) for maker in level] for level in levels], **changes)


def answer(maker: InstantMaker, gate: Gate) -> Any:
    funnel = funnel_of([maker], gate=gate)
    return screen_candidate(funnel, funnel.stage("bvse"), Candidate("a", crystal()), StoredDocuments())


GATES = [Gate("barrier_1d_eV"), Gate("barrier_1d_eV", maximum=1.0), Gate("barrier_1d_eV", top=3)]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_fails(gate: Gate, value: float) -> None:
    maker = FixedMaker()
    maker.value = value
    result = answer(maker, gate)
    assert (result.status, result.reason, result.value) == (Status.FAILED, "non_finite_energy", None)
    assert result.message.endswith(".")
    assert result.document is None


@pytest.mark.parametrize("gate", GATES)
def test_an_error_of_the_potential_fails(gate: Gate) -> None:
    result = answer(RaisingMaker(), gate)
    assert (result.status, result.reason) == (Status.FAILED, "non_finite_energy")
    assert result.error_class == "NonFiniteEnergyError"


def test_an_uncertainty_that_is_no_number_is_unknown() -> None:
    maker = FixedMaker()
    maker.sigma = math.nan
    result = answer(maker, GATES[1])
    assert (result.status, result.value, result.uncertainty) == (Status.PASSED, 0.3, None)


def run(flow: Any, store: JobStore) -> list[Any]:
    found = run_locally(flow, store=store, log=False, ensure_success=True)
    return [response.output for by_index in found.values() for response in by_index.values()]


@pytest.fixture
def store() -> JobStore:
    made = JobStore(MemoryStore())
    made.connect()
    return made


def test_one_stage_beside_another_leads_on_when_both_pass(store: JobStore) -> None:
    funnel = funnel_of([InstantPes(), InstantNeb()], [FixedMaker()])
    outputs = run(level_flow(funnel, 0, [Candidate("a", crystal())]), store)
    assert [output.get("stage", output.get("passed")) for output in outputs] == ["pes", "neb", True, "bvse"]


def result_of(stage: str, status: str) -> dict[str, Any]:
    row = {"material_id": "a", "stage": stage, "status": status, "reason": "no_gate", "message": "."}
    return {"results": [row]}


@pytest.mark.parametrize(
    ("outputs", "passed"),
    [
        ([result_of("pes", "passed"), result_of("neb", "passed")], True),
        ([result_of("pes", "passed"), None], False),
        ([None, None], False),
        ([result_of("pes", "passed"), result_of("neb", "failed")], False),
        ([result_of("pes", "rejected"), result_of("neb", "passed")], False),
    ],
)
def test_the_join_needs_every_stage(outputs: list[Any], passed: bool) -> None:
    funnel = funnel_of([InstantPes(), InstantNeb()], [FixedMaker()])
    response = enter_next_level.original(funnel, 0, Candidate("a", crystal()), outputs)
    assert response.output["passed"] is passed
    assert (response.addition is not None) is passed


def test_a_copy_speaks_when_the_first_result_is_gone(store: JobStore) -> None:
    """A campaign that reused a document keeps it, so that the third finds it though the first was deleted."""
    uuids = {}
    for name in ("first", "second", "third"):
        funnel = funnel_of([FixedMaker()])
        funnel.campaign = name
        flow = level_flow(funnel, 0, [Candidate("a", crystal())])
        uuids[name] = flow.jobs[0].uuid
        (output,) = run(flow, store)
        expected = {"first": None, "second": uuids["first"], "third": uuids["first"]}[name]
        assert output["results"][0]["reused_from"] == expected
        assert output["results"][0]["value"] == 0.3
        if name == "second":
            store.remove_docs({"uuid": uuids["first"]})


def test_a_job_goes_on_where_it_was_killed(store: JobStore, tmp_path: Path) -> None:
    funnel = funnel_of([FixedMaker()], diary_folder=str(tmp_path))
    candidates = [Candidate(name, crystal(4 + 0.1 * n)) for n, name in enumerate("abc")]
    flow = level_flow(funnel, 0, candidates)
    run(flow, store)
    path = diary_path(tmp_path, flow.jobs[0].uuid)
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    # Killed in the middle of writing b's result: a is kept, b and c are computed.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    store.remove_docs({})
    run(level_flow(funnel, 0, candidates), store)
    begun = [json.loads(line).get("started") for line in path.read_text().splitlines() if line.startswith('{"started')]
    assert begun == ["a", "b", "b", "c"]
    assert list(JobProgress(path).finished()) == ["a", "b", "c"]


def test_a_diary_that_cannot_be_written_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HopflowError, match="cannot be written"):
        JobProgress(tmp_path / "file" / "diary.jsonl").started("a")


class SilentStore(MemoryStore):
    """A store behind a pipe whose other end was killed."""

    def query(self, *_: Any, **__: Any) -> Any:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_store_that_does_not_answer_is_no_candidates_failure(tmp_path: Path) -> None:
    """A kill of the launcher must not be written down as what became of the candidate."""
    silent = JobStore(SilentStore())
    silent.connect()
    funnel = funnel_of([FixedMaker()], diary_folder=str(tmp_path))
    flow = level_flow(funnel, 0, [Candidate("a", crystal())])
    run_locally(flow, store=silent, log=False)
    diary = JobProgress(diary_path(tmp_path, flow.jobs[0].uuid))
    assert diary.begun() == "a"
    assert diary.finished() == {}
