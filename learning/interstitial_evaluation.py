"""Judging networks that predict the barrier of a crystal: repeated splits, the metrics of the field, one table."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..transport.checkpoints import content_key
from .barrier_regression import LEAST_BARRIER_EV
from .elements import element_table
from .evaluation import barrier_metrics, gate_metrics, interval_coverage, sigma_scale
from .interstitial_dataset import Split, repeated_splits
from .interstitial_graphs import GLOBAL_FEATURES
from .interstitial_storage import InterstitialDataset, LabelledCrystal, load_dataset
from .worker_pools import worker_pool

Progress = Callable[[str], None]

#: What answers without having learned anything: the median of the training crystals, and the percolation of the
#: bond-valence energies over interstices and bottlenecks.
REFERENCES: tuple[str, ...] = ("median", "network-barrier")
#: Ways to deal crystals to training, validation and test.
SPLITS: tuple[str, ...] = ("random", "chemical_system", "prototype", "anion")
#: An anion is held out on its own where so many crystals or more have it.
_LEAST_ANION = 40


@dataclass(frozen=True)
class EvaluationSettings:
    """What is compared.

    Attributes
    ----------
    networks
        Names of :data:`.interstitial_training.NETWORKS` and of :data:`REFERENCES`.
    splits
        Of :data:`SPLITS`. ``random``, ``chemical_system`` and ``prototype`` are 8:1:1, the latter two with whole
        groups; ``anion`` holds out all crystals whose most electronegative element is a given one, oxygen excepted.
    repeats
        Splits of each kind; those by anion are as many as there are anions.
    epochs
        Training of every network; None takes each one's own.
    one_cycle
        See :class:`.interstitial_training.TrainingBudget`.
    members
        Networks of an ensemble.
    threshold_eV
        Gate that precision and recall are meant for: a crystal passes with a barrier of at most this.
    seed
        Of splits and networks.
    """

    networks: tuple[str, ...]
    splits: tuple[str, ...] = ("random", "chemical_system", "prototype")
    repeats: int = 10
    epochs: int | None = None
    one_cycle: bool = True
    members: int = 1
    threshold_eV: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        from .interstitial_training import NETWORKS

        allowed = (*NETWORKS, *REFERENCES)
        for name in self.networks:
            if name not in allowed:
                raise ValueError(f"There is no network called {name!r}; allowed: {', '.join(allowed)}.")
        for name in self.splits:
            if name not in SPLITS:
                raise ValueError(f"There is no split called {name!r}; allowed: {', '.join(SPLITS)}.")
        if self.repeats < 1 or self.members < 1:
            raise ValueError("repeats and members must be at least 1.")


@dataclass(frozen=True)
class Task:
    """One network on one split."""

    network: str
    split: str
    repeat: int

    @property
    def file(self) -> str:
        """Name of the file that the result is kept in."""
        return f"{self.split}-{self.repeat:02d}-{self.network}.json"


def barrier_scores(true_eV: np.ndarray, predicted_eV: np.ndarray, threshold_eV: float) -> dict[str, float]:
    """Metrics of predicted barriers.

    Returns
    -------
    dict
        ``r2`` and ``mae_eV`` of the barriers, ``r2_log`` of their logarithms, ``spearman``, and ``precision`` and
        ``recall`` of "at most the threshold"; precision is NaN where nothing is predicted to pass.
    """
    found = barrier_metrics(true_eV, predicted_eV, ())
    logarithms = [np.log(np.maximum(values, LEAST_BARRIER_EV)) for values in (true_eV, predicted_eV)]
    gate = gate_metrics(true_eV, predicted_eV, threshold_eV)
    return {
        "crystals": float(len(true_eV)),
        "r2": found["r2"],
        "r2_log": barrier_metrics(logarithms[0], logarithms[1], ())["r2"],
        "mae_eV": found["mae_eV"],
        "median_error_eV": found["median_error_eV"],
        "spearman": found["spearman"],
        "precision": gate["precision"],
        "recall": gate["recall"],
    }


def labelled_only(dataset: InterstitialDataset) -> InterstitialDataset:
    """The crystals that have a barrier in one dimension."""
    return InterstitialDataset(
        tuple(crystal for crystal in dataset.crystals if np.isfinite(crystal.barriers_eV[0])), dataset.manifest
    )


def splits_of(dataset: InterstitialDataset, kind: str, repeats: int, seed: int) -> list[tuple[str, Split]]:
    """Splits of a kind with a name for each: its number, or the anion that is held out.

    Raises
    ------
    ValueError
        There are too few crystals, groups or anions.
    """
    if kind == "anion":
        return _anion_splits(dataset, seed)
    groups: Sequence[Any] = range(len(dataset.crystals)) if kind == "random" else dataset.groups(kind)
    return [(str(number), split) for number, split in enumerate(repeated_splits(groups, repeats, seed))]


def anions_of(crystal: LabelledCrystal) -> set[str]:
    """Elements with a negative charge in a crystal."""
    symbols, graph = element_table().symbols, crystal.graph
    return {symbols[row] for row, charge in zip(graph.atom_rows, graph.atom_charges, strict=True) if charge < 0}


def _anion_splits(dataset: InterstitialDataset, seed: int) -> list[tuple[str, Split]]:
    """Splits whose training and validation have not one crystal with the anion, be there others beside it or not."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, crystal in enumerate(dataset.crystals):
        for anion in anions_of(crystal):
            members[anion].append(number)
    splits = []
    for anion, held_out in sorted(members.items()):
        if anion == "O" or len(held_out) < _LEAST_ANION:
            continue
        others = np.setdiff1d(np.arange(len(dataset.crystals)), held_out)
        drawn = np.random.default_rng(seed).permutation(others)
        ninth = len(others) // 9
        splits.append((anion, Split(np.sort(drawn[ninth:]), np.sort(drawn[:ninth]), np.array(held_out))))
    if not splits:
        raise ValueError(
            f"No anion but oxygen is that of {_LEAST_ANION} crystals or more, so that none can be held out; a larger "
            "data set is needed."
        )
    return splits


def evaluate_networks(
    folder: Path, settings: EvaluationSettings, results: Path, workers: int = 1, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Train and judge every network on every split, or go on with what was interrupted.

    Parameters
    ----------
    folder
        The data set.
    settings
        What is compared.
    results
        Folder with one JSON file for each network and split, kept from call to call.
    workers
        Processes; each holds the data set.
    progress
        Called with one line after each result.

    Returns
    -------
    list of dict
        Results with ``network``, ``split``, ``held_out``, ``scores``, ``coverage``, ``seconds``, and the names and
        barriers of the test part, first repeats first.
    """
    dataset = _dataset(str(folder))
    say = progress or (lambda _: None)
    tasks = list(_tasks(dataset, settings))
    key = _key(dataset, settings)
    missing = [task for task in tasks if _kept(results / task.file, key, task, settings) is None]
    say(f"{len(tasks)} results wanted, {len(tasks) - len(missing)} kept from before")
    for done, (task, result) in enumerate(_computed(folder, settings, missing, workers), start=1):
        _write(results / task.file, {"key": key, "members": _members(task, settings), **result})
        scores = result["scores"]
        say(
            f"{done} of {len(missing)}: {task.network} on {task.split} {result['held_out']}: R2 {scores['r2']:.3f}, "
            f"MAE {scores['mae_eV']:.3f} eV, {result['seconds']:.0f} s"
        )
    kept = [_kept(results / task.file, key, task, settings) for task in tasks]
    return [result for result in kept if result is not None]


def _computed(
    folder: Path, settings: EvaluationSettings, tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, dict[str, Any]]]:
    if workers == 1:
        for task in tasks:
            yield task, _result(str(folder), settings, task)
        return
    with worker_pool(workers) as pool:
        waiting = {pool.submit(_result, str(folder), settings, task): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _tasks(dataset: InterstitialDataset, settings: EvaluationSettings) -> Iterable[Task]:
    """Every network meets a split before the next one comes, so that an interrupted table compares like with like."""
    numbers = {kind: len(splits_of(dataset, kind, settings.repeats, settings.seed)) for kind in settings.splits}
    for repeat in range(max(numbers.values())):
        for kind in settings.splits:
            if repeat < numbers[kind]:
                for network in settings.networks:
                    yield Task(network, kind, repeat)


def _members(task: Task, settings: EvaluationSettings) -> int:
    return 0 if task.network in REFERENCES else settings.members


def _key(dataset: InterstitialDataset, settings: EvaluationSettings) -> str:
    """What makes a stored result another one; neither which networks are compared nor how many splits there are."""
    shared = {k: v for k, v in asdict(settings).items() if k not in ("networks", "splits", "repeats", "members")}
    names = [crystal.material_id for crystal in dataset.crystals]
    return content_key(settings=shared, names=names, labels=dataset.labels())


def _kept(file: Path, key: str, task: Task, settings: EvaluationSettings) -> dict[str, Any] | None:
    """A stored result, unless it belongs to other data or settings."""
    from .interstitial_training import NETWORKS

    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    own = json.loads(json.dumps(asdict(NETWORKS[task.network]))) if task.network in NETWORKS else None
    same = found["key"] == key and found["members"] == _members(task, settings) and found["settings"] == own
    return found if same else None


@lru_cache(maxsize=1)
def _dataset(folder: str) -> InterstitialDataset:
    return labelled_only(load_dataset(Path(folder)))


@lru_cache(maxsize=8)
def _data(folder: str, network: str) -> list[Any]:
    from .interstitial_training import NetworkRecipe

    recipe = NetworkRecipe.named(network)
    return [recipe.data(crystal) for crystal in _dataset(folder).crystals]


def _result(folder: str, settings: EvaluationSettings, task: Task) -> dict[str, Any]:
    """Train on the split's training part, set the width of the uncertainty on its validation, judge on its test."""
    from .interstitial_training import NETWORKS, NetworkRecipe, TrainingBudget, predicted_logarithms, train_network

    dataset = _dataset(folder)
    held_out, split = splits_of(dataset, task.split, settings.repeats, settings.seed)[task.repeat]
    true_eV = dataset.labels()[:, 0]
    started = time.perf_counter()
    coverage: dict[str, float] = {}
    sigma_log: list[float] = []
    own: dict[str, Any] | None = None
    if task.network == "median":
        predicted_eV = np.full(len(split.test), np.median(true_eV[split.train]))
    elif task.network == "network-barrier":
        column = GLOBAL_FEATURES.index("network_barrier_1d_eV")
        estimates_eV = np.array([crystal.graph.global_features[column] for crystal in dataset.crystals])
        known = np.isfinite(estimates_eV)
        estimates_eV[~known] = np.median(true_eV[split.train])
        predicted_eV = estimates_eV[split.test]
    else:
        recipe = NetworkRecipe.named(task.network)
        own = asdict(NETWORKS[task.network])
        data = _data(folder, task.network)
        budget = TrainingBudget(settings.epochs, settings.one_cycle)
        networks = [
            train_network(
                recipe,
                [data[i] for i in split.train],
                budget,
                seed=1000 * settings.seed + 100 * task.repeat + member,
            )
            for member in range(settings.members)
        ]
        answers = {
            part: predicted_logarithms(recipe, networks, [data[i] for i in getattr(split, part)])
            for part in ("validation", "test")
        }
        mean, sigma = (values[:, 0] for values in answers["test"])
        predicted_eV = np.exp(mean)
        if np.isfinite(sigma).all():
            logarithms = np.log(np.maximum(true_eV, LEAST_BARRIER_EV))
            chosen = [values[:, 0] for values in answers["validation"]]
            scale = sigma_scale(logarithms[split.validation], *chosen)
            coverage = interval_coverage(logarithms[split.test], mean, scale * sigma)
            sigma_log = (scale * sigma).tolist()
    return {
        **asdict(task),
        "held_out": held_out,
        "settings": own,
        "train": len(split.train),
        "scores": barrier_scores(true_eV[split.test], predicted_eV, settings.threshold_eV),
        "coverage": coverage,
        "seconds": time.perf_counter() - started,
        "test": [dataset.crystals[i].material_id for i in split.test],
        "true_eV": true_eV[split.test].tolist(),
        "predicted_eV": predicted_eV.tolist(),
        "sigma_log": sigma_log,
    }


def score_table(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the splits: one row for each kind of split and network, in the order of the results."""
    together: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        split = f"without {result['held_out']}" if result["split"] == "anion" else result["split"]
        together[split, result["network"]].append(result)
    rows = []
    for (split, network), members in together.items():
        scores = {name: [each["scores"][name] for each in members] for name in members[0]["scores"]}
        rows.append(
            {
                "split": split,
                "network": network,
                "repeats": len(members),
                "crystals": float(np.mean(scores.pop("crystals"))),
                **{name: _mean_and_spread(values) for name, values in scores.items()},
                "coverage": {
                    level: float(np.mean([each["coverage"][level] for each in members]))
                    for level in members[0]["coverage"]
                },
                "seconds": float(np.mean([each["seconds"] for each in members])),
            }
        )
    return rows


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Over the splits that have a value."""
    known = np.array([value for value in values if np.isfinite(value)])
    return (float(known.mean()), float(known.std())) if len(known) else (float("nan"), float("nan"))


def markdown_table(results: Sequence[dict[str, Any]]) -> str:
    """The table of :func:`score_table` in Markdown, mean ± standard deviation over the splits."""
    columns = ("r2", "r2_log", "mae_eV", "spearman", "precision", "recall")
    head = ("split", "network", "splits", *columns, "interval 50/80/90 %")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in score_table(results):
        cells = [f"{row[name][0]:.3f} ± {row[name][1]:.3f}" for name in columns]
        coverage = "/".join(f"{100 * value:.0f}" for value in row["coverage"].values())
        lines.append("| " + " | ".join([row["split"], row["network"], str(row["repeats"]), *cells, coverage]) + " |")
    return "\n".join(lines)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(file)
