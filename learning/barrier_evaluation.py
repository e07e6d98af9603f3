"""Judging the path network: repeated cross-validation by hosts, intervals, references, and a learning curve."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import content_key
from ..transport.paths import MigrationPath
from .ensembles import CARD_COLUMNS, number_text, without_nan
from .evaluation import (
    bootstrap_intervals,
    compare_predictors,
    grouped_folds,
    host_groups,
    interval_coverage,
    repeated_metrics,
    sigma_scale,
)
from .path_graphs import PathGraph, build_path_graph
from .training import TrainingSettings, combine, predict_targets, target_columns, to_barrier, train_member

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BarrierEvaluationSettings:
    """What is judged, and how often.

    Attributes
    ----------
    training
        How each ensemble is trained, and the number of folds.
    repeats
        Cross-validations, each with other folds and networks.
    sizes
        Numbers of training paths of the learning curve, all below what a fold leaves to train on.
    samples
        Draws of hosts behind each interval.
    seed
        Of folds, networks and subsets.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    repeats: int = 3
    sizes: tuple[int, ...] = ()
    samples: int = 500
    seed: int = 0


@dataclass(frozen=True)
class FoldTask:
    """One fold of one repeat, trained on all other folds or on so many of their paths."""

    repeat: int
    fold: int
    size: int | None = None

    @property
    def file(self) -> str:
        """Name of the file that the result is kept in."""
        return f"repeat-{self.repeat:02d}-fold-{self.fold:02d}" + (f"-size-{self.size}.json" if self.size else ".json")

    def __str__(self) -> str:
        of_size = f" with {self.size} training paths" if self.size else ""
        return f"repeat {self.repeat + 1}, fold {self.fold + 1}{of_size}"


def evaluation_tasks(settings: BarrierEvaluationSettings) -> list[FoldTask]:
    """All folds of the first repeat, then of the next one; those of the learning curve come last."""
    return [
        FoldTask(repeat, fold, size)
        for size in (None, *settings.sizes)
        for repeat in range(settings.repeats)
        for fold in range(settings.training.folds)
    ]


def least_training_paths(rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings) -> int:
    """Training paths that even the largest fold leaves.

    Raises
    ------
    ValueError
        There are fewer hosts than folds.
    """
    groups = host_groups(rows)
    largest = 0
    for repeat in range(settings.repeats):
        largest = max(largest, int(np.bincount(_folds(groups, settings, repeat)).max()))
    return len(rows) - largest


def evaluate_barrier_model(
    rows: Sequence[dict[str, Any]],
    settings: BarrierEvaluationSettings,
    results: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cross-validate the path network, or go on with what was interrupted.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV`` (and, if known, ``barrier_mace_relax_eV``).
    settings
        What is judged.
    results
        Folder with one JSON file a fold, kept from call to call.
    workers
        Processes; each holds all graphs.
    progress
        Called with one line after each fold.

    Returns
    -------
    dict
        ``table`` (see :func:`.evaluation.compare_predictors`), ``coverage`` of the central intervals on the scale
        that the network learns on (``log``) and in eV as ``sigma_eV`` gives them (``eV``), ``rows_above``,
        ``learning_curve``, ``predictions`` of each row, ``protocol`` and counts.
    """
    say = progress or (lambda _: None)
    shared = _key(rows, settings)
    tasks = evaluation_tasks(settings)
    missing = [task for task in tasks if _kept(results / task.file, shared, task) is None]
    say(f"{len(tasks)} folds wanted, {len(tasks) - len(missing)} kept from before")
    for done, (task, result) in enumerate(_computed(rows, settings, missing, workers), 1):
        _write(results / task.file, {"key": shared, "task": asdict(task), **result})
        say(f"{done} of {len(missing)}: {task}: {result['train']} paths learned, {result['seconds']:.0f} s")
    kept = {task: _kept(results / task.file, shared, task) or {} for task in tasks}
    return without_nan(_document(rows, settings, kept))


def table_markdown(document: dict[str, Any]) -> str:
    """The comparison in Markdown: each metric with its 90 % interval over hosts, then coverage and learning curve."""
    head = ["predictor", "rows of", *CARD_COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for entry in document["table"]:
        cells = [entry["predictor"], entry["rows_of"]]
        cells += [_with_interval(entry, name) for name in CARD_COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| intervals | 50 % | 80 % | 90 % |", "|---|---|---|---|"]
    for scale, seen in document["coverage"].items():
        lines.append("| " + " | ".join([scale, *(f"{share:.1%}" for share in seen.values())]) + " |")
    if document["learning_curve"]:
        head = ["training paths", "mae_eV", "r2", "spearman"]
        lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for entry in document["learning_curve"]:
            cells = [f"{entry['training_paths']:.0f}", *(_with_interval(entry, name) for name in head[1:])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_interval(entry: dict[str, Any], name: str) -> str:
    value = entry["metrics"][name]
    if name == "rows":
        return f"{value:.0f}"
    if value is None:
        return "-"
    return number_text(value) + " (" + " to ".join(number_text(end) for end in entry["interval_90"][name]) + ")"


def _document(
    rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings, kept: dict[FoldTask, dict[str, Any]]
) -> dict[str, Any]:
    training = settings.training
    groups = host_groups(rows)
    true_eV = np.array([row["barrier_dft_eV"] for row in rows], dtype=float)
    usual = true_eV <= training.outlier_eV
    target = target_columns(rows, training)[:, 0]
    folds = np.stack([_folds(groups, settings, repeat) for repeat in range(settings.repeats)])

    def gathered(size: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, calibrated sigma and barrier of each row in each repeat, each of shape (repeats, rows)."""
        mean, sigma = np.zeros(folds.shape), np.zeros(folds.shape)
        for task, result in kept.items():
            if task.size == size:
                mean[task.repeat, result["held_out"]] = result["mean"]
                sigma[task.repeat, result["held_out"]] = result["sigma"]
        for repeat, fold in enumerate(folds):
            raw = sigma[repeat].copy()
            for own in range(training.folds):
                # the width is set by the other folds' residuals, so that the coverage is judged on rows unseen by it
                others = fold != own
                scale = sigma_scale(target[others], mean[repeat, others], raw[others])
                sigma[repeat, fold == own] = scale * raw[fold == own]
        return mean, sigma, to_barrier(mean, sigma, training.offset_eV)[0]

    mean, sigma, barrier_eV = gathered(None)
    sigma_eV = to_barrier(mean, sigma, training.offset_eV)[1]
    repeated = (settings.repeats, 1)
    predictions = [
        {"path_id": row["path_id"], "true_eV": float(true), "predicted_eV": found.tolist(), "sigma_eV": wide.tolist()}
        for row, true, found, wide in zip(rows, true_eV, barrier_eV.T, sigma_eV.T, strict=True)
    ]
    curve = []
    for size in (*settings.sizes, None) if settings.sizes else ():
        found_eV = gathered(size)[2][:, usual]
        learned = [result["train"] for task, result in kept.items() if task.size == size]
        of_usual = np.asarray(groups)[usual].tolist()
        curve.append(
            {
                "training_paths": float(np.mean(learned)),
                "metrics": repeated_metrics(true_eV[usual], found_eV),
                "interval_90": bootstrap_intervals(true_eV[usual], found_eV, of_usual, samples=settings.samples),
            }
        )
    return {
        "protocol": (
            f"{training.folds}-fold cross-validation grouped by host compound, {settings.repeats} times with other "
            f"folds, {training.members_per_fold} networks a fold; metrics are means over the repeats, intervals hold "
            "90 % of resampled sets of hosts; sigma of a fold is scaled by the residuals of the other folds"
        ),
        "rows": len(rows),
        "hosts": len(set(groups)),
        "outlier_eV": training.outlier_eV,
        "table": compare_predictors(rows, barrier_eV, folds, training.outlier_eV, groups, settings.samples),
        "coverage": {
            "log": interval_coverage(np.tile(target, repeated)[:, usual], mean[:, usual], sigma[:, usual]),
            "eV": interval_coverage(np.tile(true_eV, repeated)[:, usual], barrier_eV[:, usual], sigma_eV[:, usual]),
        },
        "rows_above": [each for each in predictions if each["true_eV"] > training.outlier_eV],
        "learning_curve": curve,
        "seconds": float(sum(result["seconds"] for result in kept.values())),
        "predictions": predictions,
    }


def _folds(groups: Sequence[int], settings: BarrierEvaluationSettings, repeat: int) -> np.ndarray:
    return grouped_folds(groups, settings.training.folds, settings.seed + repeat)


def _fold_result(rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings, task: FoldTask) -> dict[str, Any]:
    """Train the members of one fold and predict the paths that it holds out, on the transformed scale."""
    training, started = settings.training, time.perf_counter()
    graphs = _graphs(rows, training)
    groups = host_groups(rows)
    fold = _folds(groups, settings, task.repeat)
    targets = target_columns(rows, training)
    inside, outside = np.flatnonzero(fold != task.fold), np.flatnonzero(fold == task.fold)
    if task.size:
        inside = _some_hosts(inside, groups, task, settings.seed)
    networks = []
    for member in range(training.members_per_fold):
        number = task.fold * training.members_per_fold + member
        seed = 1000 * (settings.seed + task.repeat) + number
        networks.append(train_member([graphs[i] for i in inside], targets[inside], training, seed)[0])
    mean, sigma = combine(*predict_targets(networks, [graphs[i] for i in outside]))
    return {
        "train": len(inside),
        "held_out": outside.tolist(),
        "mean": mean.tolist(),
        "sigma": sigma.tolist(),
        "seconds": time.perf_counter() - started,
    }


def _some_hosts(inside: np.ndarray, groups: Sequence[int], task: FoldTask, seed: int) -> np.ndarray:
    """So many training paths, host after host in an order drawn by repeat and fold; larger sizes hold smaller ones."""
    labels = np.asarray(groups)[inside]
    order = np.random.default_rng([seed, task.repeat, task.fold]).permutation(np.unique(labels))
    taken = np.concatenate([inside[labels == group] for group in order])
    return np.sort(taken[: task.size])


_GRAPHS: dict[str, list[PathGraph]] = {}


def _graphs(rows: Sequence[dict[str, Any]], training: TrainingSettings) -> list[PathGraph]:
    """The graphs of all rows, built once a process for the same rows and settings."""
    key = content_key(rows=list(rows), graph=asdict(training.graph))
    if key not in _GRAPHS:
        _GRAPHS.clear()
        _GRAPHS[key] = [build_path_graph(MigrationPath.from_row(row), training.graph) for row in rows]
    return _GRAPHS[key]


def _computed(
    rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings, tasks: Sequence[FoldTask], workers: int
) -> Iterator[tuple[FoldTask, dict[str, Any]]]:
    if workers == 1:
        for task in tasks:
            yield task, _fold_result(rows, settings, task)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh, initializer=_start, initargs=(rows, settings)) as pool:
        waiting = {pool.submit(_task_result, task): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


_WORK: list[tuple[Sequence[dict[str, Any]], BarrierEvaluationSettings]] = []


def _start(rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings) -> None:
    """What a worker process needs for all of its tasks."""
    import torch

    torch.set_num_threads(1)
    _WORK[:] = [(rows, settings)]


def _task_result(task: FoldTask) -> dict[str, Any]:
    return _fold_result(*_WORK[0], task)


def _key(rows: Sequence[dict[str, Any]], settings: BarrierEvaluationSettings) -> str:
    """What makes a stored fold another one; neither how many repeats nor which sizes there are."""
    return content_key(rows=list(rows), training=asdict(settings.training), seed=settings.seed)


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
