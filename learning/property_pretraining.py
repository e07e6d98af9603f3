"""Pretraining ALIGNN on several properties of crystals at once, as Devi et al. (arXiv 2508.06436) do.

One network with a head for each property learns from crystals of which some properties are unknown: the loss is the
mean absolute error over those that are known. What it has learned of crystals starts the barrier networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..transport.errors import WeightsError
from .alignn import Alignn, AlignnSize, decay_groups, regression_head
from .alignn_batches import GraphBatch
from .alignn_graphs import AtomGraph
from .barrier_learners import Progress
from .property_tables import PropertyTable
from .training import read_checkpoint, write_atomically

_FORMAT = "hopflow pretrained alignn 1"


@dataclass(frozen=True)
class PretrainingSettings:
    """How it is done.

    Attributes
    ----------
    size
        Size of the network.
    epochs, batch_size, learning_rate, weight_decay
        AdamW under a one-cycle schedule with this highest learning rate.
    held_out_share
        Share of the formulas that is kept to judge by; the last epoch's weights are kept whatever that says.
    crystals_at_once
        Crystals that are in memory together.
    """

    size: AlignnSize = field(default_factory=AlignnSize)
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    held_out_share: float = 0.1
    crystals_at_once: int = 32


class PropertyNetwork(nn.Module):
    """An ALIGNN and a head for each property.

    Parameters
    ----------
    size
        Size of the ALIGNN.
    properties
        How many heads.
    """

    def __init__(self, size: AlignnSize, properties: int) -> None:
        super().__init__()
        self.encoder = Alignn(size)
        self.heads = nn.ModuleList(regression_head(size.hidden, size.hidden // 2) for _ in range(properties))

    def forward(self, graphs: Sequence[AtomGraph]) -> Tensor:
        """Scaled properties, shape (graphs, properties)."""
        pooled = self.encoder.pooled(GraphBatch.from_graphs(graphs, self.encoder.categories.device))
        return torch.cat([head(pooled) for head in self.heads], dim=1)


def masked_absolute_error(answer: Tensor, goal: Tensor) -> Tensor:
    """(1/N) sum |answer - goal| over the N properties that are known; zero where none is.

    Parameters
    ----------
    answer, goal
        Shape (crystals, properties); the goal is NaN where unknown.
    """
    known = ~torch.isnan(goal)
    # not where(known, |answer - goal|, 0): its gradient would be NaN
    error = (answer - torch.where(known, goal, answer.detach())).abs() * known
    return error.sum() / known.sum().clamp(min=1)


def pretrain(
    table: PropertyTable,
    settings: PretrainingSettings,
    file: Path,
    seed: int = 0,
    progress: Progress | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Pretrain and write a checkpoint.

    After each epoch the state is kept beside the checkpoint; a second call with the same crystals, settings and seed
    goes on there and ends with the same weights. Where the checkpoint itself is of the same, nothing is done.

    Parameters
    ----------
    table
        Crystals and properties.
    settings
        How.
    file
        The checkpoint to write.
    seed
        Of weights, order and the formulas to judge by.
    progress
        Called with one line after each epoch.
    device
        Where to train.

    Returns
    -------
    dict
        ``crystals``, ``held_out``, the training ``losses``, and for each property (``properties``) the number of
        ``known`` values among those held out, their mean absolute error ``mae``, and ``mae_of_mean`` and
        ``mae_of_median``, those of answering with mean or median of the training crystals.

    Raises
    ------
    ValueError
        The table has a property that no training crystal has.
    """
    key = _key(table, settings, seed)
    if file.exists() and (kept := read_checkpoint(file, "pretrained network")).get("key") == key:
        return json.loads(kept["metrics"])
    training, held_out = _split(table.formulas, settings.held_out_share, seed)
    known = np.isfinite(table.values)
    if not known[training].any(axis=0).all():
        lacking = [
            name for name, any_known in zip(table.properties, known[training].any(axis=0), strict=True) if not any_known
        ]
        raise ValueError(f"No training crystal has {', '.join(lacking)}; leave the property out or add crystals.")
    # scaled by what the loss measures: a property with a few huge values would otherwise count for nothing
    centre = np.nanmedian(table.values[training], axis=0)
    spread = np.maximum(np.nanmean(np.abs(table.values[training] - centre), axis=0), 1e-6)
    goals = torch.as_tensor((table.values - centre) / spread, dtype=torch.float32, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PropertyNetwork(settings.size, len(table.properties)).to(device)
    batches = max(1, round(len(training) / settings.batch_size))
    optimiser = torch.optim.AdamW(decay_groups(network, settings.weight_decay), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=batches * settings.epochs, pct_start=0.3
    )
    state_file = file.with_name(f"{file.name}.unfinished")
    losses: list[float] = []
    if state_file.exists() and (state := read_checkpoint(state_file, "unfinished pretraining")).get("key") == key:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        losses = state["losses"]
    for epoch in range(len(losses), settings.epochs):
        network.train()
        # the order depends on the epoch alone, so that a run that was killed goes on as if it had not been
        order = np.random.default_rng([seed, epoch]).permutation(training)
        total = 0.0
        for batch in np.array_split(order, batches):
            of_batch = max(1, int(known[batch].sum()))
            optimiser.zero_grad()
            for start in range(0, len(batch), settings.crystals_at_once):
                members = batch[start : start + settings.crystals_at_once]
                share = int(known[members].sum()) / of_batch
                loss = share * masked_absolute_error(network([table.graphs[i] for i in members]), goals[members])
                loss.backward()
                total += float(loss.detach()) / batches
            optimiser.step()
            schedule.step()
        losses.append(total)
        write_atomically(
            {
                "key": key,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "losses": losses,
            },
            state_file,
        )
        if progress is not None:
            progress(f"epoch {epoch + 1} of {settings.epochs}: loss {total:.4f}")
    answers = centre + spread * predict_properties(network, [table.graphs[i] for i in held_out], settings)
    metrics: dict[str, Any] = {
        "crystals": len(training),
        "held_out": len(held_out),
        "losses": losses,
        "properties": _judged(table, training, held_out, answers),
    }
    content = {
        "format": _FORMAT,
        "key": key,
        "size": asdict(settings.size),
        "properties": list(table.properties),
        "centre": centre.tolist(),
        "spread": spread.tolist(),
        "weights": {name: value.cpu() for name, value in network.state_dict().items()},
        "metrics": json.dumps(metrics),
    }
    write_atomically(content, file)
    state_file.unlink(missing_ok=True)
    return metrics


def predict_properties(
    network: PropertyNetwork, graphs: Sequence[AtomGraph], settings: PretrainingSettings
) -> np.ndarray:
    """Scaled properties, shape (graphs, properties)."""
    network.eval()
    with torch.no_grad():
        answers = [
            network(graphs[start : start + settings.crystals_at_once]).cpu().double().numpy()
            for start in range(0, len(graphs), settings.crystals_at_once)
        ]
    return np.concatenate([np.zeros((0, len(network.heads))), *answers])


def pretrained_encoder(file: Path, size: AlignnSize) -> dict[str, Tensor]:
    """Weights of embeddings and convolutions of a checkpoint of :func:`pretrain`.

    Parameters
    ----------
    file
        The checkpoint.
    size
        The size that is wanted.

    Raises
    ------
    WeightsError
        The file is missing, damaged, of another kind or of another size.
    """
    content = read_checkpoint(file, "pretrained network")
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise WeightsError(f"{file} is no pretrained ALIGNN of this version; pretrain one.")
    if content["size"] != asdict(size):
        raise WeightsError(f"The pretrained network {file} has the size {content['size']}, not {asdict(size)}.")
    start = "encoder."
    return {name.removeprefix(start): value for name, value in content["weights"].items() if name.startswith(start)}


def _split(formulas: Sequence[str], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Crystals to train on and to judge by, whole formulas."""
    names, number = np.unique(np.asarray(formulas), return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    # at least one formula is left to train on
    apart = shuffled[: min(round(share * len(names)), len(names) - 1)]
    held = np.isin(number, apart)
    return np.flatnonzero(~held), np.flatnonzero(held)


def _judged(
    table: PropertyTable, training: np.ndarray, held_out: np.ndarray, answers: np.ndarray
) -> dict[str, dict[str, float]]:
    judged = {}
    for column, name in enumerate(table.properties):
        seen, true = table.values[training, column], table.values[held_out, column]
        known = np.isfinite(true)
        entry: dict[str, float] = {"known": int(known.sum())}
        if known.any():
            entry["mae"] = float(np.abs(answers[known, column] - true[known]).mean())
            entry["mae_of_mean"] = float(np.abs(np.nanmean(seen) - true[known]).mean())
            entry["mae_of_median"] = float(np.abs(np.nanmedian(seen) - true[known]).mean())
        judged[name] = entry
    return judged


def _key(table: PropertyTable, settings: PretrainingSettings, seed: int) -> str:
    """A hash of everything that the weights depend on."""
    digest = hashlib.sha256(json.dumps([_FORMAT, asdict(settings), seed, table.properties, table.formulas]).encode())
    digest.update(np.ascontiguousarray(table.values).tobytes())
    for graph in table.graphs:
        digest.update(graph.atom_rows.tobytes() + graph.neighbours.tobytes() + graph.vectors_A.tobytes())
    return digest.hexdigest()[:32]
