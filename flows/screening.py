"""The jobs of the funnel: run a stage on its candidates one by one, and lead on those that passed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobflow import CURRENT_JOB, Response, job
from pydantic import BaseModel, ConfigDict

from ..makers.documents import StageDocument
from ..makers.quantities import BarrierSource, Quantity
from ..transport.errors import CandidateError, HopflowError, NonFiniteEnergyError, Reason
from .funnel import Candidate, Funnel, FunnelStage, level_flow
from .gate import Status, judge

MAX_DEATHS = 3
"""A candidate that took a worker down so often fails with ``worker_died``."""


class CandidateResult(BaseModel):
    """What one stage found for one candidate."""

    model_config = ConfigDict(extra="forbid")

    material_id: str
    stage: str
    status: Status
    reason: Reason
    message: str
    error_class: str | None = None
    quantity: str | None = None
    value: float | None = None
    uncertainty: float | None = None
    interval_90_low: float | None = None
    interval_90_high: float | None = None
    threshold: float | None = None
    source: BarrierSource | None = None
    seconds: float = 0.0
    content_key: str | None = None
    reused_from: str | None = None
    attempt: int = 0
    ingested_from: str | None = None
    document: dict[str, Any] | None = None


@job
def screen(funnel: Funnel, stage: str, candidates: list[Candidate]) -> Response:
    """Run one stage on some candidates.

    A candidate's error is its own: it becomes a result with status ``failed``. A fault of the stage itself (weights
    that cannot be had, say) stops the job, because it would hit every candidate alike.

    Parameters
    ----------
    funnel
        The campaign's funnel.
    stage
        Name of the stage.
    candidates
        The candidates.

    Returns
    -------
    Response
        One result a candidate, and the next level's jobs for those that passed a gate that needs no waiting.
    """
    results = screen_candidates(funnel, stage, candidates)
    return Response(
        output={"campaign": funnel.campaign, "stage": stage, "results": [r.model_dump(mode="json") for r in results]},
        stored_data={
            "campaign": funnel.campaign,
            "stage": stage,
            "verdicts": [{"material_id": r.material_id, "verdict": str(r.status)} for r in results],
        },
        addition=_next_level(funnel, stage, candidates, results),
    )


@job
def enter_next_level(funnel: Funnel, level: int, candidate: Candidate, outputs: list[dict | None]) -> Response:
    """Lead a candidate on when every stage of its level let it pass.

    Parameters
    ----------
    funnel
        The campaign's funnel.
    level
        Number of the level that the candidate leaves.
    candidate
        The candidate.
    outputs
        Outputs of the level's jobs; ``None`` for a job that was lost.
    """
    results = [
        CandidateResult.model_validate(row)
        for output in outputs
        if output is not None
        for row in output["results"]
        if row["material_id"] == candidate.material_id
    ]
    passed = len(results) == len(funnel.levels[level]) and all(r.status is Status.PASSED for r in results)
    addition: Any = level_flow(funnel, level + 1, [with_results(candidate, results)]) if passed else None
    return Response(output={"campaign": funnel.campaign, "passed": passed}, addition=addition)


def with_results(candidate: Candidate, results: Iterable[CandidateResult]) -> Candidate:
    """Return the candidate as it enters the next level, with the content keys of what it passed."""
    keys = dict(candidate.content_keys)
    keys.update({r.stage: r.content_key for r in results if r.content_key is not None})
    return Candidate(candidate.material_id, candidate.structure, keys)


def _next_level(funnel: Funnel, stage: str, candidates: Sequence[Candidate], results: Sequence[CandidateResult]) -> Any:
    level = funnel.level_of(stage)
    last = level == len(funnel.levels) - 1
    if last or len(funnel.levels[level]) > 1 or funnel.has_budget(level):
        return None
    found = {r.material_id: r for r in results}
    passed = [
        with_results(c, [found[c.material_id]]) for c in candidates if found[c.material_id].status is Status.PASSED
    ]
    return level_flow(funnel, level + 1, passed) if passed else None


def screen_candidates(funnel: Funnel, stage_name: str, candidates: Sequence[Candidate]) -> list[CandidateResult]:
    """Evaluate and judge candidates in their order; what is stored already is not computed again."""
    stage = funnel.stage(stage_name)
    progress = JobProgress.of_current_job(funnel)
    finished = progress.finished()
    results: list[CandidateResult] = []
    stored = StoredDocuments()
    for candidate in candidates:
        result = finished.get(candidate.material_id)
        if result is None:
            if progress.deaths(candidate.material_id) >= MAX_DEATHS:
                result = _worker_died(stage, candidate)
            else:
                progress.started(candidate.material_id)
                result = screen_candidate(funnel, stage, candidate, stored)
            progress.done(result)
        results.append(result)
    return results


def screen_candidate(
    funnel: Funnel, stage: FunnelStage, candidate: Candidate, stored: StoredDocuments
) -> CandidateResult:
    """Evaluate and judge one candidate, or find its stored result."""
    started = time.perf_counter()
    facts = {"material_id": candidate.material_id, "stage": stage.name, "attempt": candidate.attempt}
    document: StageDocument
    reused_from = None
    try:
        structure = candidate.structure
        needed = {name: candidate.content_keys[name] for name in stage.maker.needs() if name in candidate.content_keys}
        found = {name: stored.find(key) for name, key in needed.items()}
        prior = {
            name: funnel.stage(name).maker.document.model_validate(row[0])
            for name, row in found.items()
            if row is not None
        }
        key = stage.maker.content_key(structure, prior)
        earlier = stored.find(key) if stage.maker.reusable else None
        if earlier is not None:
            document = stage.maker.document.model_validate(earlier[0])
            current = CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else None
            reused_from = earlier[1] if earlier[1] != current else None
        else:
            folder = Path(funnel.checkpoint_folder) if funnel.checkpoint_folder else None
            document = stage.maker.evaluate(structure, prior, folder)
    except CandidateError as error:
        seconds = time.perf_counter() - started
        return failure(error.reason, type(error).__name__, str(error), seconds=seconds, **facts)
    except HopflowError:
        raise
    except Exception as error:  # noqa: BLE001  whatever one candidate does to a stage, its neighbours get their answer
        seconds = time.perf_counter() - started
        message = f"{type(error).__name__}: {error}".strip()[:500]
        return failure(Reason.UNEXPECTED_ERROR, type(error).__name__, message, seconds=seconds, **facts)
    quantity = Quantity(stage.gate.quantity)
    value, uncertainty = document.quantity(quantity), document.uncertainty(quantity)
    if value is not None and not math.isfinite(value):
        # Infinity would be "no path", which documents write as None: no number that is not finite is an answer.
        return failure(
            Reason.NON_FINITE_ENERGY,
            NonFiniteEnergyError.__name__,
            f"The stage answered with a {quantity.label} of {value}, which is no number; look at the structure and "
            "the potential, then resume with --retry-failed.",
            seconds=document.seconds,
            **facts,
        )
    low, high = document.interval_90(quantity) or (None, None)
    verdict = judge(value, stage.gate)
    return CandidateResult(
        **facts,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.reason.sentence,
        quantity=quantity.value,
        value=value,
        uncertainty=uncertainty if uncertainty is not None and math.isfinite(uncertainty) else None,
        interval_90_low=low,
        interval_90_high=high,
        threshold=verdict.threshold,
        source=document.value_source(),
        seconds=0.0 if reused_from else document.seconds,
        content_key=document.content_key,
        reused_from=reused_from,
        document=document.model_dump(mode="json"),
    )


def failure(reason: Reason, error_class: str, message: str, **facts: Any) -> CandidateResult:
    """Return the result of a candidate that got no answer."""
    return CandidateResult(status=Status.FAILED, reason=reason, error_class=error_class, message=message, **facts)


def _worker_died(stage: FunnelStage, candidate: Candidate) -> CandidateResult:
    return failure(
        Reason.WORKER_DIED,
        "WorkerDied",
        f"The worker process died {MAX_DEATHS} times on this candidate, perhaps for lack of memory; "
        "give the stage a smaller max_atoms or the worker more memory and resume with --retry-failed.",
        material_id=candidate.material_id,
        stage=stage.name,
        attempt=candidate.attempt,
    )


class StoredDocuments:
    """Documents in the current job's store, by content key.

    A stored job holds the documents of a whole chunk; what came along with one candidate's is kept for the next.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[dict[str, Any], str]] = {}

    def find(self, content_key: str) -> tuple[dict[str, Any], str] | None:
        """Return a document and the uuid of the job that made it; nothing where there is none, or outside a job.

        Raises
        ------
        HopflowError
            The store does not answer (its launcher was killed, say), which is no candidate's failure.
        """
        if content_key not in self._known and CURRENT_JOB.store is not None:
            try:
                rows = list(
                    CURRENT_JOB.store.docs_store.query(
                        {"output.results.content_key": content_key}, properties=["output.results", "uuid"]
                    )
                )
            except Exception as error:
                raise HopflowError(
                    f"The job store does not answer ({type(error).__name__}: {error}); resume when it does."
                ) from error
            for row in rows:
                for result in row["output"]["results"]:
                    if result["content_key"] is not None and result["document"] is not None:
                        # A campaign that reused a document keeps a copy, which speaks when the first one is gone.
                        source = (result["document"], result["reused_from"] or row["uuid"])
                        if result["reused_from"] is None:
                            self._known[result["content_key"]] = source
                        else:
                            self._known.setdefault(result["content_key"], source)
        return self._known.get(content_key)


class JobProgress:
    """The diary of one job: a line for each candidate begun, finished, or found to have killed the worker.

    It lets a job that was killed go on where it stood. A torn last line is what a kill leaves; it is ignored.

    Parameters
    ----------
    path
        File of the diary, or nothing to keep none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._torn = False
        if path is not None and path.exists():
            text = path.read_text(errors="replace")
            self._torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    self.rows.append(json.loads(line))
                except json.JSONDecodeError:
                    continue

    @classmethod
    def of_current_job(cls, funnel: Funnel) -> JobProgress:
        """Open the diary of the running job."""
        if not funnel.diary_folder or CURRENT_JOB.job is None:
            return cls(None)
        return cls(diary_path(Path(funnel.diary_folder), CURRENT_JOB.job.uuid))

    def finished(self) -> dict[str, CandidateResult]:
        """Results that are already there, by material id."""
        rows = [row["result"] for row in self.rows if "result" in row]
        return {row["material_id"]: CandidateResult.model_validate(row) for row in rows}

    def deaths(self, material_id: str) -> int:
        """How many times a worker died on a candidate."""
        return sum(row.get("died") == material_id for row in self.rows)

    def begun(self) -> str | None:
        """The candidate that was begun last and is not finished."""
        for row in reversed(self.rows):
            if "started" in row:
                return row["started"]
            if "result" in row:
                return None
        return None

    def started(self, material_id: str) -> None:
        """Note that a candidate is begun."""
        self._write({"started": material_id})

    def died(self, material_id: str) -> None:
        """Note that the worker died on a candidate."""
        self._write({"died": material_id})

    def done(self, result: CandidateResult) -> None:
        """Note a result."""
        self._write({"result": result.model_dump(mode="json")})

    def _write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(("\n" if self._torn else "") + json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise HopflowError(
                f"The campaign's folder {self.path.parent} cannot be written ({error.strerror}); make it writable on "
                "this machine, or launch the campaign from a folder that every worker shares."
            ) from error
        self._torn = False


def diary_path(diary_folder: Path, job_uuid: str) -> Path:
    """Where the diary of a job lies."""
    return diary_folder / f"{job_uuid}.jsonl"
