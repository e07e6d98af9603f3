"""Judging learners of barriers alike: the same rows, the same repeated folds, each fold kept once it is computed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import content_key
from ..transport.paths import PATH_COLUMNS
from .barrier_learners import BarrierLearner
from .barrier_scenarios import SCENARIOS, crystal_groups, dealt_folds
from .evaluation import host_groups
from .learner_registry import barrier_learner
from .worker_pools import worker_pool

Progress = Callable[[str], None]

DEFAULT_LEARNERS: tuple[str, ...] = ("fast", "fused", "geometry", "random-forest", "gradient-boosting")
"""What is compared when nothing else is said."""


@dataclass(frozen=True)
class BarrierEvaluationSettings:
    """What is judged, and how often.

    Attributes
    ----------
    learners
        Names of :data:`.learner_registry.BARRIER_LEARNERS`, in the order of the table.
    folds
        Parts that the rows are dealt to; each is held out once.
    repeats
        Cross-validations, each with other folds and seeds.
    sizes
        Numbers of training paths of the learning curve, all below what a fold leaves to train on.
    curve_learners
        Learners of the curve; without any, all.
    scenarios
        Also deal the rows by crystals and by paths, see :mod:`.barrier_scenarios`; triples the work.
    only_judged
        Names of paths that are judged and never learned from.
    outlier_eV
        Rows above this are reported apart.
    samples
        Draws of hosts behind each interval.
    seed
        Of folds, learners and subsets.
    """

    learners: tuple[str, ...] = DEFAULT_LEARNERS
    folds: int = 5
    repeats: int = 3
    sizes: tuple[int, ...] = ()
    curve_learners: tuple[str, ...] = ()
    scenarios: bool = False
    only_judged: tuple[str, ...] = ()
    outlier_eV: float = 4.0
    samples: int = 500
    seed: int = 0

    @property
    def learners_of_curve(self) -> tuple[str, ...]:
        """Learners that have a learning curve."""
        return (self.curve_learners or self.learners) if self.sizes else ()


@dataclass(frozen=True)
class FoldTask:
    """One fold of one repeat for one learner, which learns from all other folds or from so many of their paths.

    Attributes
    ----------
    learner
        Its name.
    dealt
        How the rows are dealt: ``hosts``, ``crystals`` or ``paths``.
    repeat, fold
        From zero.
    size
        Number of training paths; None takes all.
    """

    learner: str
    dealt: str
    repeat: int
    fold: int
    size: int | None = None

    @property
    def file(self) -> Path:
        """File that the result is kept in, from the folder of the results."""
        size = f"-size-{self.size}" if self.size else ""
        return Path(self.learner) / f"{self.dealt}-repeat-{self.repeat:02d}-fold-{self.fold:02d}{size}.json"

    def __str__(self) -> str:
        of_size = f" with {self.size} training paths" if self.size else ""
        dealt = "" if self.dealt == "hosts" else f" of {self.dealt}"
        return f"{self.learner}, repeat {self.repeat + 1}, fold {self.fold + 1}{dealt}{of_size}"


@dataclass(frozen=True)
class DealtRows:
    """Rows with what the folds depend on.

    Attributes
    ----------
    rows
        Path rows with ``barrier_dft_eV``.
    settings
        What is judged.
    barrier_eV
        Labels, shape (rows,).
    hosts, crystals
        Numbers of host and crystal of each row.
    learned
        Rows that may be learned from, boolean, shape (rows,).
    """

    rows: Sequence[dict[str, Any]]
    settings: BarrierEvaluationSettings
    barrier_eV: np.ndarray
    hosts: list[int]
    crystals: list[int]
    learned: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings) -> DealtRows:
        """Find hosts and crystals.

        Raises
        ------
        ValueError
            A name of ``only_judged`` is that of no row.
        """
        names = [str(row["path_id"]) for row in rows]
        if unknown := sorted(set(settings.only_judged) - set(names)):
            raise ValueError(f"No path is called {', '.join(unknown)}.")
        hosts = host_groups(rows)
        barrier_eV = np.array([row["barrier_dft_eV"] for row in rows], dtype=float)
        learned = np.array([name not in settings.only_judged for name in names])
        return cls(rows, settings, barrier_eV, hosts, crystal_groups(rows, hosts), learned)

    def folds(self, dealt: str, repeat: int) -> np.ndarray:
        """Fold of each row, int64, shape (rows,)."""
        settings = self.settings
        return dealt_folds(dealt, self.hosts, self.crystals, settings.folds, settings.seed + repeat)

    def split(self, task: FoldTask) -> tuple[np.ndarray, np.ndarray]:
        """Rows to learn from and rows held out."""
        fold = self.folds(task.dealt, task.repeat)
        inside, outside = np.flatnonzero((fold != task.fold) & self.learned), np.flatnonzero(fold == task.fold)
        return (self._some_hosts(inside, task) if task.size else inside), outside

    def _some_hosts(self, inside: np.ndarray, task: FoldTask) -> np.ndarray:
        """So many training paths, host after host in a drawn order; larger sizes hold smaller ones."""
        labels = np.asarray(self.hosts)[inside]
        order = np.random.default_rng([self.settings.seed, task.repeat, task.fold]).permutation(np.unique(labels))
        taken = np.concatenate([inside[labels == host] for host in order])
        return np.sort(taken[: task.size])

    def shown(self, learner: BarrierLearner) -> list[dict[str, Any]]:
        """The part of each row that a learner may read; never its label."""
        columns = ("path_id", *PATH_COLUMNS, *learner.extra_columns)
        return [{name: row[name] for name in columns if name in row} for row in self.rows]

    def key(self, learner: BarrierLearner) -> str:
        """What makes a stored fold of a learner another one; neither repeats nor sizes nor the other learners."""
        settings = self.settings
        return content_key(
            rows=self.shown(learner),
            labels=self.barrier_eV,
            learner=learner.settings(),
            only_judged=sorted(settings.only_judged),
            folds=settings.folds,
            seed=settings.seed,
        )


def evaluation_tasks(settings: BarrierEvaluationSettings) -> list[FoldTask]:
    """All folds of the first learner, then of the next one; scenarios come after those, the learning curve last."""
    parts: list[tuple[tuple[str, ...], str, int | None]] = [(settings.learners, "hosts", None)]
    if settings.scenarios:
        parts += [(settings.learners, dealt, None) for dealt in SCENARIOS.values() if dealt != "hosts"]
    extra = tuple(name for name in settings.learners_of_curve if name not in settings.learners)
    parts += [(extra, "hosts", None)]
    parts += [(settings.learners_of_curve, "hosts", size) for size in settings.sizes]
    return [
        FoldTask(learner, dealt, repeat, fold, size)
        for learners, dealt, size in parts
        for learner in learners
        for repeat in range(settings.repeats)
        for fold in range(settings.folds)
    ]


def least_training_paths(rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings) -> int:
    """Training paths that even the largest fold leaves.

    Raises
    ------
    ValueError
        There are fewer hosts than folds, or a name of ``only_judged`` is unknown.
    """
    dealt = DealtRows.of(rows, settings)
    least = len(rows)
    for repeat in range(settings.repeats):
        fold = dealt.folds("hosts", repeat)
        least = min(least, *(int(((fold != own) & dealt.learned).sum()) for own in range(settings.folds)))
    return least


def evaluate_barrier_learners(
    rows: Sequence[dict[str, Any]],
    settings: BarrierEvaluationSettings,
    output: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cross-validate every learner, or go on with what was interrupted.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV`` (and, if known, ``barrier_mace_relax_eV``).
    settings
        What is judged.
    output
        Folder; under ``results`` it has one JSON file a fold and learner, kept from call to call, and under
        ``features`` what learners keep of their dear features.
    workers
        Processes; each holds the items of one learner at a time.
    progress
        Called with one line after each fold.

    Returns
    -------
    dict
        See :func:`.barrier_report.report`.
    """
    from .barrier_report import report

    dealt, results = computed_folds(rows, settings, output, workers, progress)
    if progress:
        progress("drawing hosts for the intervals")
    return report(dealt, results)


def computed_folds(
    rows: Sequence[dict[str, Any]],
    settings: BarrierEvaluationSettings,
    output: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[DealtRows, dict[FoldTask, dict[str, Any]]]:
    """The stored result of every fold, computed where it is missing; takes what the function above takes."""
    say = progress or (lambda _: None)
    dealt = DealtRows.of(rows, settings)
    tasks = evaluation_tasks(settings)
    names = dict.fromkeys(task.learner for task in tasks)
    keys = {name: dealt.key(barrier_learner(name).create()) for name in names}
    results = output / "results"
    missing = [task for task in tasks if _kept(results / task.file, keys[task.learner], task) is None]
    say(f"{len(tasks)} folds wanted, {len(tasks) - len(missing)} kept from before")
    for done, (task, result) in enumerate(_computed(dealt, output / "features", missing, workers, say), 1):
        _write(results / task.file, {"key": keys[task.learner], "task": asdict(task), **result})
        say(f"{done} of {len(missing)}: {task}: {result['train']} paths learned, {result['seconds']:.1f} s")
    _ITEMS.clear()
    return dealt, {task: _kept(results / task.file, keys[task.learner], task) or {} for task in tasks}


_ITEMS: list[tuple[DealtRows, str, BarrierLearner, Sequence[Any]]] = []
"""The learner that a process is at, with its items of the rows; one at a time, since items may be large."""


def _prepared(
    dealt: DealtRows, features: Path, name: str, say: Progress | None
) -> tuple[BarrierLearner, Sequence[Any]]:
    if not (_ITEMS and _ITEMS[0][0] is dealt and _ITEMS[0][1] == name):
        _ITEMS.clear()
        learner = barrier_learner(name).create()
        _ITEMS.append((dealt, name, learner, learner.prepare(dealt.shown(learner), features, say)))
    return _ITEMS[0][2:]


def _fold_result(dealt: DealtRows, features: Path, task: FoldTask, say: Progress | None = None) -> dict[str, Any]:
    """Fit the learner to the other folds and let it answer for the paths that it has not seen."""
    learner, items = _prepared(dealt, features, task.learner, say)
    started = time.perf_counter()
    inside, outside = dealt.split(task)
    hosts = [dealt.hosts[i] for i in inside]
    seed = 100 * (dealt.settings.seed + task.repeat) + task.fold
    fitted = learner.fit([items[i] for i in inside], dealt.barrier_eV[inside], hosts, seed)
    mean, sigma = fitted.predict([items[i] for i in outside])
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{task}: the learner answers with numbers that are not finite.")
    return {
        "train": len(inside),
        "held_out": outside.tolist(),
        "mean": np.asarray(mean, dtype=float).tolist(),
        "sigma": np.asarray(sigma, dtype=float).tolist(),
        "seconds": time.perf_counter() - started,
    }


def _computed(
    dealt: DealtRows, features: Path, tasks: Sequence[FoldTask], workers: int, say: Progress
) -> Iterator[tuple[FoldTask, dict[str, Any]]]:
    if workers == 1:
        for task in tasks:
            yield task, _fold_result(dealt, features, task, say)
        return
    with worker_pool(workers, _start, (dealt, features)) as pool:
        waiting = {pool.submit(_task_result, task): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


_WORK: list[tuple[DealtRows, Path]] = []


def _start(dealt: DealtRows, features: Path) -> None:
    """What a worker process needs for all of its tasks."""
    _WORK[:] = [(dealt, features)]


def _task_result(task: FoldTask) -> dict[str, Any]:
    return _fold_result(*_WORK[0], task)


def _kept(file: Path, key: str, task: FoldTask) -> dict[str, Any] | None:
    """A stored result, unless it belongs to other rows or settings."""
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    return found if (found["key"], found["task"]) == (key, asdict(task)) else None


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(file)
