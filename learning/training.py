"""Training the path network: members from host-grouped folds, out-of-fold predictions, calibrated uncertainty."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..transport.errors import WeightsError
from ..transport.paths import MigrationPath
from .elements import DESCRIPTORS, element_table
from .evaluation import compare_predictors, grouped_folds, host_groups, sigma_scale
from .path_graphs import IMAGE_FEATURES, PATH_FEATURES, GraphSettings, PathGraph, build_path_graph
from .path_network import NetworkSettings, PathBatch, PathNetwork

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How the ensemble is trained.

    Attributes
    ----------
    graph, network
        Graph and network settings.
    folds
        Host-grouped folds; each leaves its hosts out of its members' training entirely.
    members_per_fold
        Networks a fold, which differ in their random start and order.
    epochs, batch_size, learning_rate, weight_decay
        One-cycle AdamW of a fixed length: no epoch is picked by its score on held-out paths.
    offset_eV
        The target is log(barrier + offset).
    distance_noise_A
        Random change of every distance, drawn anew each time a path is shown.
    auxiliary_weight
        Weight of the second head, which learns the published MACE-NEB barrier of the same path (a label of the
        training rows alone; it is never an input).
    outlier_eV
        Rows above this are trained on at the value itself and reported apart.
    """

    graph: GraphSettings = field(default_factory=GraphSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    folds: int = 5
    members_per_fold: int = 3
    epochs: int = 30
    batch_size: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 3e-2
    offset_eV: float = 0.5
    distance_noise_A: float = 0.03
    auxiliary_weight: float = 0.5
    outlier_eV: float = 4.0


@dataclass
class Ensemble:
    """Trained members with what is needed to use them.

    Attributes
    ----------
    settings
        Settings that the members were trained with.
    members
        State of each network.
    fold_of_member
        The fold that each member did not see.
    sigma_scale
        Factor on the total uncertainty that makes 68.3 % of the out-of-fold barriers lie within one sigma.
    losses
        Mean loss of each member in each epoch, those of members kept from an earlier call included.
    """

    settings: TrainingSettings
    members: list[dict[str, torch.Tensor]]
    fold_of_member: list[int]
    sigma_scale: float
    losses: list[list[float]] = field(default_factory=list)


@dataclass
class CrossValidation:
    """Out-of-fold predictions of every row, each by the members that never saw its host.

    Attributes
    ----------
    true_eV, predicted_eV, sigma_eV
        Shape (rows,).
    groups, fold
        Host group and fold of each row.
    z
        Residual of the transformed barrier over its calibrated sigma.
    """

    true_eV: np.ndarray
    predicted_eV: np.ndarray
    sigma_eV: np.ndarray
    groups: list[int]
    fold: np.ndarray
    z: np.ndarray

    def coverage(self, level: float) -> float:
        """Fraction of rows inside the central interval of a nominal level."""
        from scipy.stats import norm

        return float((np.abs(self.z) <= norm.ppf(0.5 + level / 2.0)).mean())


def standardised_descriptors() -> torch.Tensor:
    """Element descriptors with zero mean and unit deviation over the table, float32, shape (elements, descriptors)."""
    values = element_table().values
    return torch.as_tensor((values - values.mean(axis=0)) / values.std(axis=0), dtype=torch.float32)


def feature_scale(graphs: Sequence[PathGraph]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of image and path features over the graphs."""
    image = np.concatenate([graph.image_features for graph in graphs])
    path = np.stack([graph.path_features for graph in graphs])
    return tuple(  # type: ignore[return-value]
        torch.as_tensor(np.stack([values.mean(axis=0), values.std(axis=0) + 1e-3]), dtype=torch.float32)
        for values in (image, path)
    )


def train_member(
    graphs: Sequence[PathGraph],
    targets: np.ndarray,
    settings: TrainingSettings,
    seed: int,
    after_epoch: Callable[[int, float], None] | None = None,
) -> tuple[PathNetwork, list[float]]:
    """Train one network.

    Parameters
    ----------
    graphs
        Paths to learn.
    targets
        Transformed barriers, NaN where unknown, shape (paths, settings.network.targets).
    after_epoch
        Called with the number of epochs done and the mean loss of the last one.

    Returns
    -------
    The network in evaluation mode (its weights are the average over the last quarter of the epochs' steps) and the
    mean loss of each epoch.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = PathNetwork(settings.network, settings.graph, standardised_descriptors(), feature_scale(graphs))
    goal = torch.as_tensor(targets, dtype=torch.float32)
    centre, spread = _column_statistics(goal)
    steps = max(1, round(len(graphs) / settings.batch_size))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps * settings.epochs, pct_start=0.2
    )
    weight = torch.tensor([1.0] + [settings.auxiliary_weight] * (settings.network.targets - 1))
    average = torch.optim.swa_utils.AveragedModel(network)
    history: list[float] = []
    for epoch in range(settings.epochs):
        network.train()
        losses = []
        for members in np.array_split(generator.permutation(len(graphs)), steps):
            batch = PathBatch.from_graphs([graphs[i] for i in members])
            _shake(batch, settings.distance_noise_A)
            mean, log_variance = network(batch)
            loss = _loss(mean, log_variance, (goal[members] - centre) / spread, weight)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if epoch >= 0.75 * settings.epochs:
                average.update_parameters(network)
        history.append(float(np.mean(losses)))
        if after_epoch is not None:
            after_epoch(epoch + 1, history[-1])
    if int(average.n_averaged) > 0:
        network.load_state_dict(average.module.state_dict())
    network.target_scale.copy_(torch.stack([centre, spread]))
    # checkpoints hold half precision; the numbers that are published shall be those of the stored weights
    return network.half().float().eval(), history


def _column_statistics(goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the known targets of each column."""
    columns = [column[~torch.isnan(column)] for column in goal.T]
    centre = torch.stack([column.mean() if len(column) else torch.tensor(0.0) for column in columns])
    spread = torch.stack([column.std() if len(column) > 1 else torch.tensor(1.0) for column in columns])
    return centre, spread.clamp(min=1e-3)


def _shake(batch: PathBatch, noise_A: float) -> None:
    """Change distances and features a little, so that the network cannot learn them by heart."""
    if noise_A <= 0:
        return
    batch.image_edge_A = batch.image_edge_A + noise_A * torch.randn_like(batch.image_edge_A)
    batch.bond_edge_A = batch.bond_edge_A + noise_A * torch.randn_like(batch.bond_edge_A)
    batch.image_features = batch.image_features + noise_A * torch.randn_like(batch.image_features)


def _loss(mean: torch.Tensor, log_variance: torch.Tensor, goal: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of a Laplace distribution, whose median a few odd labels cannot drag away."""
    known = ~torch.isnan(goal)
    scale = torch.exp(0.5 * log_variance)
    likelihood = (torch.where(known, goal, mean) - mean).abs() / scale + 0.5 * log_variance
    return (likelihood * weight * known).sum() / (known * weight).sum()


def predict_targets(
    networks: Sequence[PathNetwork], graphs: Sequence[PathGraph], batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the transformed barrier by each network, each of shape (networks, paths)."""
    means, variances = np.zeros((len(networks), len(graphs))), np.zeros((len(networks), len(graphs)))
    with torch.no_grad():
        for start in range(0, len(graphs), batch_size):
            batch = PathBatch.from_graphs(graphs[start : start + batch_size])
            for number, network in enumerate(networks):
                mean, log_variance = network.answer(batch)
                means[number, start : start + batch_size] = mean[:, 0].numpy()
                # a Laplace distribution of scale b has the variance 2 b^2
                variances[number, start : start + batch_size] = 2.0 * np.exp(log_variance[:, 0].numpy())
    return means, variances


def combine(means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and total sigma of an ensemble: what the members expect of the noise, and how far they disagree."""
    return means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))


def to_barrier(mean: np.ndarray, sigma: np.ndarray, offset_eV: float) -> tuple[np.ndarray, np.ndarray]:
    """Barrier and its one-sigma half-width in eV from the logarithmic scale, barriers not below zero."""
    barrier = np.maximum(np.exp(mean) - offset_eV, 0.0)
    return barrier, np.exp(mean) * np.sinh(np.minimum(sigma, 3.0))


def target_columns(rows: Sequence[dict[str, Any]], settings: TrainingSettings) -> np.ndarray:
    """log(barrier + offset) of the DFT and MACE barriers, NaN where a row has none, shape (rows, targets)."""
    keys = ("barrier_dft_eV", "barrier_mace_relax_eV")[: settings.network.targets]
    values = np.array([[np.nan if row.get(key) is None else row[key] for key in keys] for row in rows], dtype=float)
    return np.log(np.maximum(values, 0.0) + settings.offset_eV)


def train_path_network(
    rows: Sequence[dict[str, Any]],
    settings: TrainingSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> tuple[Ensemble, CrossValidation]:
    """Train the ensemble by host-grouped cross-validation and judge each row by the members that did not see it.

    Parameters
    ----------
    rows
        Path rows with ``barrier_dft_eV`` (and, if known, ``barrier_mace_relax_eV``).
    settings
        Settings; defaults are those of the shipped checkpoint.
    seed
        Seed of the folds and, with the member's number, of each network.
    progress
        Called with one line after each epoch.
    resume
        Folder where finished members are kept; a second call with the same rows, settings and seed goes on there.
    """
    settings = settings or TrainingSettings()
    say = progress or (lambda _: None)
    graphs = [build_path_graph(MigrationPath.from_row(row), settings.graph) for row in rows]
    targets = target_columns(rows, settings)
    groups = host_groups(rows)
    folds = grouped_folds(groups, settings.folds, seed)
    key = _training_key(rows, settings, seed)
    members: list[dict[str, torch.Tensor]] = []
    fold_of_member: list[int] = []
    losses: list[list[float]] = []
    total = settings.folds * settings.members_per_fold
    mean, sigma = np.zeros(len(rows)), np.zeros(len(rows))
    for fold in range(settings.folds):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        networks = []
        for member in range(settings.members_per_fold):
            number = fold * settings.members_per_fold + member
            place = f"member {number + 1} of {total}"
            file = resume / f"{key}-member-{number}.pt" if resume else None
            if file is not None and file.exists():
                kept = torch.load(file, weights_only=True)
                network, history = empty_network(settings), kept["losses"]
                network.load_state_dict(kept["weights"])
                network.eval()
                say(f"{place}, epoch {len(history)} of {settings.epochs}: kept from before")
            else:
                network, history = train_member(
                    [graphs[i] for i in inside],
                    targets[inside],
                    settings,
                    seed=1000 * seed + number,
                    after_epoch=lambda epoch, loss, place=place: say(  # type: ignore[misc]
                        f"{place}, epoch {epoch} of {settings.epochs}: loss {loss:.3f}"
                    ),
                )
                if file is not None:
                    write_atomically({"weights": network.state_dict(), "losses": history}, file)
            losses.append(history)
            networks.append(network)
            members.append(network.state_dict())
            fold_of_member.append(fold)
        mean[outside], sigma[outside] = combine(*predict_targets(networks, [graphs[i] for i in outside]))
    residual = targets[:, 0] - mean
    scale = sigma_scale(targets[:, 0], mean, sigma)
    predicted_eV, sigma_eV = to_barrier(mean, scale * sigma, settings.offset_eV)
    true_eV = np.array([row["barrier_dft_eV"] for row in rows], dtype=float)
    validation = CrossValidation(true_eV, predicted_eV, sigma_eV, groups, folds, residual / (scale * sigma))
    return Ensemble(settings, members, fold_of_member, scale, losses), validation


def metrics_table(
    rows: Sequence[dict[str, Any]], validation: CrossValidation, outlier_eV: float
) -> dict[str, dict[str, float]]:
    """Metrics of the network beside the median of the training folds and the published MACE-NEB column.

    ``all`` holds every row, ``common`` those that have a MACE barrier, with and without rows above ``outlier_eV``.
    """
    table = compare_predictors(rows, validation.predicted_eV[None, :], validation.fold[None, :], outlier_eV)
    return {f"{entry['predictor']}/{entry['rows_of']}": entry["metrics"] for entry in table}


def empty_network(settings: TrainingSettings, elements: int | None = None) -> PathNetwork:
    """A network of the right shape for a table of so many elements (default: the current one), to load weights into."""
    rows = len(element_table().symbols) if elements is None else elements
    scale = torch.ones(2, len(IMAGE_FEATURES)), torch.ones(2, len(PATH_FEATURES))
    return PathNetwork(settings.network, settings.graph, torch.zeros(rows, len(DESCRIPTORS)), scale)


def _training_key(rows: Sequence[dict[str, Any]], settings: TrainingSettings, seed: int) -> str:
    """A hash of everything that a member depends on."""
    text = json.dumps(["weights and losses", list(rows), asdict(settings), seed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(content: Any, file: Path) -> None:
    """Save through a neighbouring file, so that a killed run leaves no half-written one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    torch.save(content, partial)
    partial.replace(file)


def read_checkpoint(file: Path, name: str) -> Any:
    """Content of a file that was saved with torch; nothing but tensors and plain values is accepted from it.

    Parameters
    ----------
    file
        The file.
    name
        What it holds, in a person's words.

    Raises
    ------
    WeightsError
        It is missing or damaged.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"The {name} {file} is damaged; restore the file or train anew.") from error


def half_precision(value: torch.Tensor) -> torch.Tensor:
    """Half precision for weights, as checkpoints hold them; whole numbers as they are."""
    return value.half() if value.is_floating_point() else value
