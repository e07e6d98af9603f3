"""What every network that answers with one barrier a crystal shares: scales, target, loss and a training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

#: The logarithm is taken of barriers of at least this (eV).
LEAST_BARRIER_EV = 0.01
#: Standardised features count up to so many deviations.
_FEATURE_LIMIT = 5.0
#: Tensors of a crystal that can be standardised, by the name of their scale.
_TENSORS = {"node": "x", "edge": "edge_attr", "global": "global_values"}

Target = Literal["barrier", "log_barrier"]


class TargetSettings(Protocol):
    """What the settings of such a network say about its target and its training."""

    @property
    def target(self) -> Target:
        """Learn the barrier in eV or its natural logarithm."""
        ...

    @property
    def epochs(self) -> int:
        """How often the training crystals are shown."""
        ...

    @property
    def learning_rate(self) -> float:
        """Learning rate of Adam."""
        ...

    @property
    def batch_size(self) -> int:
        """Crystals of a step."""
        ...


def check_target(target: str) -> None:
    """Raise ``ValueError`` for a target that there is not."""
    if target not in ("barrier", "log_barrier"):
        raise ValueError(f"target must be 'barrier' or 'log_barrier', not {target!r}")


def transformed_barriers(barriers_eV: np.ndarray, settings: TargetSettings) -> np.ndarray:
    """Barriers as the network learns them; NaN for those that are unknown or infinite."""
    values = np.where(np.isfinite(barriers_eV), np.asarray(barriers_eV, dtype=float), np.nan)
    return np.log(np.maximum(values, LEAST_BARRIER_EV)) if settings.target == "log_barrier" else values


def barriers_from(transformed: np.ndarray, settings: TargetSettings) -> np.ndarray:
    """Barriers in eV from what the network answers."""
    return np.exp(transformed) if settings.target == "log_barrier" else np.asarray(transformed)


class BarrierRegression(nn.Module):
    """A network whose ``forward`` gives standardised targets, shape (crystals,).

    Call :meth:`fit_scales` with the training crystals before training. The scales are kept with the weights.

    Parameters
    ----------
    settings
        Target and training.
    columns
        Columns of the features that are standardised: ``node`` for ``x``, ``edge`` for ``edge_attr`` and ``global``
        for ``global_values``. Each gets a buffer ``<name>_scale`` of mean and deviation, shape (2, columns).
    """

    settings: TargetSettings
    target_scale: Tensor

    def __init__(self, settings: TargetSettings, columns: dict[str, int]) -> None:
        super().__init__()
        self.settings = settings
        self._scales = {name: _TENSORS[name] for name in columns}
        for name, number in {**columns, "target": 1}.items():
            self.register_buffer(f"{name}_scale", torch.tensor([[0.0], [1.0]]).repeat(1, number))

    def fit_scales(self, crystals: Sequence[Data]) -> None:
        """Set mean and deviation of features and targets to those of the training crystals."""
        for name, key in self._scales.items():
            values = torch.cat([crystal[key] for crystal in crystals])
            if values.shape[1] > 0:
                self._set_scale(name, values.mean(dim=0), values.std(dim=0, correction=0))
        labels = torch.cat([crystal.y for crystal in crystals])
        labels = labels[~torch.isnan(labels)]
        if len(labels) == 0:
            raise ValueError("none of the training crystals has a barrier")
        self._set_scale("target", labels.mean()[None], labels.std(correction=0)[None])

    def _set_scale(self, name: str, centre: Tensor, spread: Tensor) -> None:
        # A column that never changes says nothing, and must not blow up in a crystal where it does.
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        getattr(self, f"{name}_scale").copy_(torch.stack([centre, spread]))

    def answer(self, batch: Data) -> Tensor:
        """Transformed barriers, shape (crystals,); :func:`barriers_from` turns them into eV."""
        centre, spread = self.target_scale[:, 0]
        return centre + spread * self(batch)

    def loss(self, batch: Data) -> Tensor:
        """Mean squared error of the standardised target over the crystals that have one.

        Raises
        ------
        ValueError
            None of them has.
        """
        labelled = ~torch.isnan(batch.y)
        if not bool(labelled.any()):
            raise ValueError("no crystal of the batch has a barrier")
        centre, spread = self.target_scale[:, 0]
        goal = (batch.y[labelled] - centre) / spread
        return ((self(batch)[labelled] - goal) ** 2).mean()


def optimiser_of(model: BarrierRegression) -> torch.optim.Adam:
    """Adam at the configuration's learning rate."""
    return torch.optim.Adam(model.parameters(), lr=model.settings.learning_rate)


def training_step(model: BarrierRegression, batch: Data, optimiser: torch.optim.Optimizer) -> float:
    """One step of the optimiser; the loss before it."""
    model.train()
    optimiser.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def joined(crystals: Sequence[Data]) -> Data:
    """Crystals as one batch."""
    batch: Any = Batch.from_data_list(list(crystals))
    return batch


def scaled(values: Tensor, scale: Tensor) -> Tensor:
    """Standardised features, none farther than a few deviations from the mean."""
    return ((values - scale[0]) / scale[1]).clamp(-_FEATURE_LIMIT, _FEATURE_LIMIT)


def real(values: np.ndarray) -> Tensor:
    """Features as the networks take them, in single precision."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)
