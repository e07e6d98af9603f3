"""Nudged elastic bands of a whole table of paths: one answer a row, in the order of the rows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..learning.worker_pools import worker_pool
from ..makers.path_band import path_band
from ..transport.errors import CandidateError, Reason, WeightsError

if TYPE_CHECKING:
    from ..learning.path_rows import PathRow
    from ..makers.documents import PathBandDocument
    from ..makers.settings import PathBandSettings
    from ..transport.energies import Potential

_DECIMALS = 5
_ROWS_A_WORKER = 2
"""How many rows are handed out ahead of the answer that is waited for: enough to keep every process at work."""


@dataclass(frozen=True)
class BandJob:
    """What every row of a table is run with; it is sent to worker processes.

    Attributes
    ----------
    settings
        Potential and settings of the bands.
    checkpoints
        Folder that keeps each band after every step, under its content key.
    bands
        Folder that receives each band as extended XYZ, or None.
    load
        Gives the potential; the registry's of that name unless told else.
    """

    settings: PathBandSettings
    checkpoints: Path
    bands: Path | None = None
    load: Callable[[], Potential] | None = None

    def potential(self) -> Potential:
        """Load the potential; a process keeps one.

        Raises
        ------
        WeightsError
            Its weights are not to be had, or wrong.
        HopflowError
            There is none of that name.
        """
        if self.load is not None:
            return self.load()
        from ..potentials.registry import load_potential

        return load_potential(self.settings.potential, dtype=self.settings.dtype)


@dataclass(frozen=True)
class BandAnswer:
    """What the band of one row gave. Barriers are None unless the band converged to something sensible.

    Attributes
    ----------
    path_id
        The row's name.
    barrier_eV
        Highest less lowest image of the band, as the published column ``barrier_mace_relax_eV`` is defined.
    barrier_forward_eV, barrier_reverse_eV
        Highest image less first, and less last end point.
    splined_span_eV
        Highest less lowest point of the force-informed spline through the images.
    converged
        Whether end points and band reached their force limits and the result is one hop.
    reason, error
        Why there is no barrier, as code and sentence; None where there is one.
    max_force_eV_per_A
        Largest force that is left.
    evaluations
        Energies with forces, of killed and resumed runs together.
    endpoint_steps, steps
        Steps of the end points and of the band.
    seconds
        Wall time, of killed and resumed runs together.
    hops
        Hops that the path consists of; more than one where its band passes minima and was split.
    barrier_upper_bound_eV
        Of a band that was ended early, as ``upper_bound_eV`` asks for: what its barrier lies below.
    potential, weights_sha256, method
        Who gave the energies.
    """

    path_id: str | int
    barrier_eV: float | None = None
    barrier_forward_eV: float | None = None
    barrier_reverse_eV: float | None = None
    splined_span_eV: float | None = None
    converged: bool = False
    reason: str | None = None
    error: str | None = None
    max_force_eV_per_A: float | None = None
    evaluations: int = 0
    endpoint_steps: int = 0
    steps: int = 0
    seconds: float = 0.0
    hops: int | None = None
    barrier_upper_bound_eV: float | None = None
    potential: str = ""
    weights_sha256: str = ""
    method: str = ""

    def document(self) -> dict[str, Any]:
        """The answer as a JSON object; every key is always there."""
        return {
            key: round(value, _DECIMALS) if isinstance(value, float) else value for key, value in asdict(self).items()
        }

    def of_document(self, document: PathBandDocument) -> BandAnswer:
        """The same row with what a campaign's job found."""
        barriers = ("barrier_forward_eV", "barrier_reverse_eV", "splined_span_eV", "max_force_eV_per_A")
        names = (*barriers, "evaluations", "endpoint_steps", "steps", "hops", "potential", "method")
        return replace(
            self,
            converged=True,
            barrier_eV=document.barrier_span_eV,
            seconds=document.band_seconds,
            weights_sha256=document.weights_sha256 or "",
            **{name: getattr(document, name) for name in names},
        )

    def without_barrier(self, reason: str, error: str, seconds: float = 0.0) -> BandAnswer:
        """The same row without a barrier, and why."""
        return replace(self, reason=reason, error=error, seconds=seconds)

    def refused(self, error: Exception) -> BandAnswer:
        """The same row without a barrier, and why."""
        if isinstance(error, CandidateError):
            return replace(self, reason=str(error.reason), error=str(error))
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return replace(
            self,
            reason=str(Reason.UNEXPECTED_ERROR),
            error=f"The path {self.path_id} failed unexpectedly ({text}).",
        )


def answer_band(entry: PathRow, job: BandJob, file_name: str | None = None) -> BandAnswer:
    """Run the band of one row, or take it from its checkpoint; whatever happens is an answer.

    Parameters
    ----------
    entry
        The row, or why there is none.
    job
        What it is run with.
    file_name
        Of the band's file in ``job.bands``.

    Raises
    ------
    HopflowError
        The potential cannot be had: that is no row's fault.
    """
    potential = job.potential()
    answer = BandAnswer(
        entry.path_id,
        potential=potential.name,
        weights_sha256=potential.weights_sha256,
        method=f"climbing-image NEB, {potential.method}",
    )
    try:
        if entry.row is None:
            raise entry.error or CandidateError(f"{entry.path_id} holds no path.", Reason.UNREADABLE_STRUCTURE)
        result = path_band(entry.row, job.settings, potential, job.checkpoints)
        if job.bands is not None and file_name is not None:
            job.bands.mkdir(parents=True, exist_ok=True)
            result.to_extxyz(job.bands / file_name)
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001  an answer of its own: the rows behind it are answered, too
        return answer.refused(error)
    return replace(
        answer,
        barrier_eV=result.barrier_span_eV,
        barrier_forward_eV=result.barrier_forward_eV,
        barrier_reverse_eV=result.barrier_reverse_eV,
        splined_span_eV=result.splined_span_eV,
        converged=result.converged,
        reason=None if result.reason is None else str(result.reason),
        error=result.message,
        max_force_eV_per_A=result.max_force_eV_per_A,
        evaluations=result.evaluations,
        endpoint_steps=result.endpoint_steps,
        steps=result.steps,
        seconds=result.seconds,
        hops=result.hops,
        barrier_upper_bound_eV=result.barrier_upper_bound_eV,
    )


def answer_bands(rows: Iterable[PathRow], job: BandJob, workers: int = 1) -> Iterator[BandAnswer]:
    """Run the bands of a table of paths; answers come in the order of the rows, one a row.

    Parameters
    ----------
    rows
        Rows of a path table; not more are read ahead than the processes need.
    job
        What they are run with. A row whose checkpoint is there goes on from it, or is answered from it.
    workers
        Processes, one thread each; 1 works in this one.

    Raises
    ------
    HopflowError
        The potential cannot be had.
    """
    named = _with_file_names(rows)
    if workers == 1:
        yield from (answer_band(entry, job, name) for entry, name in named)
        return
    # the weights are fetched and checked here, so that the processes need not wait for one another
    job.potential()
    waiting: deque[tuple[PathRow, str]] = deque()
    while True:
        waiting.extend(islice(named, max(0, workers * _ROWS_A_WORKER - len(waiting))))
        if not waiting:
            return
        try:
            yield from _answered_together(waiting, named, job, workers)
        except BrokenProcessPool:
            # one of the rows in work has killed its process: each of them runs alone, which tells which one it was
            while waiting:
                yield _answered_alone(*waiting.popleft(), job)


def _answered_together(
    waiting: deque[tuple[PathRow, str]], more: Iterator[tuple[PathRow, str]], job: BandJob, workers: int
) -> Iterator[BandAnswer]:
    """Answers of the rows that wait and of those that follow; rows leave the queue when they are answered."""
    with worker_pool(workers, _start, (job,)) as pool:
        futures: deque[Future[BandAnswer]] = deque(pool.submit(_answer_in_worker, *each) for each in waiting)
        while futures:
            answer = futures[0].result()
            futures.popleft()
            waiting.popleft()
            for each in islice(more, 1):
                waiting.append(each)
                futures.append(pool.submit(_answer_in_worker, *each))
            yield answer


def _answered_alone(entry: PathRow, file_name: str, job: BandJob) -> BandAnswer:
    with worker_pool(1, _start, (job,)) as pool:
        try:
            return pool.submit(_answer_in_worker, entry, file_name).result()
        except BrokenProcessPool:
            error = CandidateError(
                f"The process that ran the path {entry.path_id} died; it may need more memory than there is.",
                Reason.WORKER_DIED,
            )
            return BandAnswer(entry.path_id, potential=job.settings.potential).refused(error)


def band_file_names(path_ids: Iterable[str | int]) -> Iterator[str]:
    """A file name for the band of each path, no two alike: a table may have two rows of one name."""
    taken: set[str] = set()
    for number, path_id in enumerate(path_ids, 1):
        name = re.sub(r"[^\w.+-]+", "_", str(path_id))[:100] or "path"
        if name in taken:
            name = f"{name}-row{number}"
        taken.add(name)
        yield f"{name}.extxyz"


def _with_file_names(rows: Iterable[PathRow]) -> Iterator[tuple[PathRow, str]]:
    entries, others = tee(rows)
    # lazily: a table may be large, and its rows are read as they are needed
    return zip(entries, band_file_names(entry.path_id for entry in others), strict=True)


_WORK: list[BandJob] = []


def _start(job: BandJob) -> None:
    _WORK[:] = [job]


def _answer_in_worker(entry: PathRow, file_name: str) -> BandAnswer:
    return answer_band(entry, _WORK[0], file_name)
