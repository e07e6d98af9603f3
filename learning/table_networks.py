"""Small networks on the columns that forests see: smoother than trees, so that both together err less than either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

_CLIP = 3.0
"""Standardised columns end here: no path of another kind may drive a network farther than its training did."""

_LEAST_SCALE = 1e-5


@dataclass(frozen=True)
class TableNetworkSettings:
    """How the networks are built and trained.

    Attributes
    ----------
    networks
        How many; they differ in their random start and order.
    hidden
        Width of both hidden layers.
    epochs, batch_size, learning_rate, weight_decay
        One-cycle AdamW of a fixed length.
    input_dropout, dropout
        Share of the columns, and of the hidden values, that each step does without.
    noise
        Random change of the standardised columns, drawn anew each time a row is shown.
    turn
        Residual, in deviations of the target, at which the squared error turns into an absolute one.
    """

    networks: int = 5
    hidden: int = 64
    epochs: int = 100
    batch_size: int = 56
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.2
    dropout: float = 0.4
    noise: float = 0.1
    turn: float = 0.3


@dataclass(frozen=True)
class TableNetworks:
    """Trained networks of two hidden layers with SiLU in between, as plain arrays.

    Attributes
    ----------
    centre, scale
        Of each column, shape (columns,).
    target_centre, target_scale
        Of the target, shape ().
    weights_1, weights_2, weights_3
        Shape (networks, columns, hidden), (networks, hidden, hidden), (networks, hidden, 1).
    biases_1, biases_2, biases_3
        Shape (networks, 1, hidden), (networks, 1, hidden), (networks, 1, 1).
    """

    centre: np.ndarray
    scale: np.ndarray
    target_centre: np.ndarray
    target_scale: np.ndarray
    weights_1: np.ndarray
    biases_1: np.ndarray
    weights_2: np.ndarray
    biases_2: np.ndarray
    weights_3: np.ndarray
    biases_3: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> TableNetworks:
        """What :meth:`arrays` gave; a missing one is a KeyError."""
        return cls(**{each.name: arrays[prefix + each.name] for each in fields(cls)})

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything that makes the networks, by name."""
        return {prefix + each.name: getattr(self, each.name) for each in fields(self)}

    def predict_each(self, table: np.ndarray) -> np.ndarray:
        """The answer of every network.

        Parameters
        ----------
        table
            Shape (rows, columns).

        Returns
        -------
        numpy.ndarray
            Float64, shape (networks, rows).
        """
        hidden = np.clip((np.asarray(table, dtype=float) - self.centre) / self.scale, -_CLIP, _CLIP)
        for weights, biases in ((self.weights_1, self.biases_1), (self.weights_2, self.biases_2)):
            summed = hidden @ weights + biases
            hidden = summed / (1.0 + np.exp(-np.clip(summed, -60.0, 60.0)))
        answers = (hidden @ self.weights_3 + self.biases_3)[..., 0]
        return self.target_centre + self.target_scale * answers


def train_networks(table: np.ndarray, target: np.ndarray, settings: TableNetworkSettings, seed: int) -> TableNetworks:
    """Train the networks.

    Parameters
    ----------
    table
        Shape (rows, columns).
    target
        Shape (rows,).
    settings
        How.
    seed
        Of start, order, dropout and noise.
    """
    import torch
    from torch import nn

    centre, spread = table.mean(axis=0), table.std(axis=0)
    # a column that is the same in all rows says nothing of a row where it is not
    scale = np.where(spread > _LEAST_SCALE * (1.0 + np.abs(centre)), spread, np.inf)
    target_centre, target_scale = float(target.mean()), max(float(target.std()), _LEAST_SCALE)
    columns = torch.as_tensor(np.clip((table - centre) / scale, -_CLIP, _CLIP), dtype=torch.float32)
    goal = torch.as_tensor((target - target_centre) / target_scale, dtype=torch.float32)
    steps = max(1, len(table) // settings.batch_size)
    trained: list[list[np.ndarray]] = []
    threads = torch.get_num_threads()
    # matrices of this size are slower on several threads, much slower where cores are shared
    torch.set_num_threads(1)
    for number in range(settings.networks):
        torch.manual_seed(1000 * seed + number)
        generator = np.random.default_rng([seed, number])
        network = nn.Sequential(
            nn.Dropout(settings.input_dropout),
            nn.Linear(table.shape[1], settings.hidden),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, 1),
        )
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=steps * settings.epochs
        )
        for _ in range(settings.epochs):
            for rows in np.array_split(generator.permutation(len(table)), steps):
                shown = columns[rows]
                answer = network(shown + settings.noise * torch.randn_like(shown)).squeeze(1)
                loss = nn.functional.smooth_l1_loss(answer, goal[rows], beta=settings.turn)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        # checkpoints hold half precision; the published numbers shall be those of the stored weights
        trained.append([value.detach().half().numpy() for value in network.parameters()])
    torch.set_num_threads(threads)
    weights_1, biases_1, weights_2, biases_2, weights_3, biases_3 = (
        np.stack(each).astype(np.float32) for each in zip(*trained, strict=True)
    )
    return TableNetworks(
        centre.astype(np.float32),
        scale.astype(np.float32),
        np.array(target_centre, dtype=np.float32),
        np.array(target_scale, dtype=np.float32),
        weights_1.transpose(0, 2, 1),
        biases_1[:, None, :],
        weights_2.transpose(0, 2, 1),
        biases_2[:, None, :],
        weights_3.transpose(0, 2, 1),
        biases_3[:, None, :],
    )
