"""Training of the networks that predict the barrier of a crystal: one loop and one budget for all of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from ..transport.checkpoints import content_key
from .barrier_regression import LEAST_BARRIER_EV, barriers_from, joined
from .crystal_graph_model import CONFIGURATIONS as CRYSTAL_CONFIGURATIONS
from .crystal_graph_model import CgcnnSettings, crystal_graph_data, crystal_graph_model
from .interstitial_network_model import CONFIGURATIONS as INTERSTITIAL_CONFIGURATIONS
from .interstitial_network_model import GcnSettings, InterstitialGcn, graph_data
from .interstitial_storage import LabelledCrystal
from .percolating_network import PercolatingNetwork, PercolatingSettings, percolating_data
from .training import write_atomically

Progress = Callable[[str], None]
Settings = GcnSettings | CgcnnSettings | PercolatingSettings

#: Named networks with their settings; each has its own module.
NETWORKS: dict[str, Settings] = {
    **INTERSTITIAL_CONFIGURATIONS,
    **CRYSTAL_CONFIGURATIONS,
    "percolating": PercolatingSettings(),
    "percolating-surfaces": PercolatingSettings(distances="surfaces"),
    "percolating-energies": PercolatingSettings(energies=True),
    "percolating-energies-minima": PercolatingSettings(energies=True, both_minima=True),
}

#: Gradients longer than this are shortened.
_LONGEST_GRADIENT = 5.0


@dataclass(frozen=True)
class TrainingBudget:
    """How long a network learns, and how.

    Attributes
    ----------
    epochs
        How often the training crystals are shown; None takes what the network's settings say.
    one_cycle
        Raise the learning rate over the first fifth of the steps and let it fall to nothing over the rest, which
        needs fewer epochs; otherwise it stays as it is.
    """

    epochs: int | None = None
    one_cycle: bool = True


@dataclass(frozen=True)
class NetworkRecipe:
    """A named network with its settings.

    Attributes
    ----------
    name
        One of :data:`NETWORKS`.
    settings
        Its settings.
    """

    name: str
    settings: Settings

    @classmethod
    def named(cls, name: str, **changes: Any) -> NetworkRecipe:
        """The network of that name with some settings changed.

        Raises
        ------
        ValueError
            There is none of that name, or it has no such setting.
        """
        if name not in NETWORKS:
            raise ValueError(f"There is no network called {name!r}; allowed: {', '.join(NETWORKS)}.")
        settings = NETWORKS[name]
        unknown = sorted(set(changes) - set(asdict(settings)))
        if unknown:
            raise ValueError(f"{name} has no setting {unknown[0]!r}; allowed: {', '.join(asdict(settings))}.")
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
        values: dict[str, Any] = {**vars(settings), **lists}
        return cls(name, type(settings)(**values))

    def data(self, crystal: LabelledCrystal) -> Data:
        """What the network reads of a crystal, with its label."""
        if isinstance(self.settings, PercolatingSettings):
            return percolating_data(crystal.graph, self.settings, crystal.barriers_eV)
        if self.name in CRYSTAL_CONFIGURATIONS:
            return crystal_graph_data(crystal.crystal_graph, self.settings, crystal.barriers_eV[0])
        assert isinstance(self.settings, GcnSettings)
        return graph_data(crystal.graph, self.settings, crystal.barriers_eV[0])

    def network(self) -> Any:
        """A network that has learned nothing yet."""
        if isinstance(self.settings, PercolatingSettings):
            return PercolatingNetwork(self.settings)
        if self.name in CRYSTAL_CONFIGURATIONS:
            return crystal_graph_model(self.settings)
        assert isinstance(self.settings, GcnSettings)
        return InterstitialGcn(self.settings)


def train_network(
    recipe: NetworkRecipe,
    data: Sequence[Data],
    budget: TrainingBudget | None = None,
    seed: int = 0,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> Any:
    """Train one network from a random start.

    Parameters
    ----------
    recipe
        The network.
    data
        Training crystals as ``recipe.data`` gives them; those without a label help with site energies only.
    budget
        Defaults to ``TrainingBudget()``.
    seed
        Of the start and of the order of the crystals; on the same machine the same seed gives the same network.
    resume
        File that is written after every epoch and from which an interrupted training goes on.
    progress
        Called with one line after each epoch.

    Returns
    -------
    torch.nn.Module
        The network in evaluation mode, with the weights of the last step: no epoch is picked by its score.
    """
    budget = budget or TrainingBudget()
    say = progress or (lambda _: None)
    settings = recipe.settings
    epochs = settings.epochs if budget.epochs is None else budget.epochs
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = recipe.network()
    network.fit_scales(data)
    steps = max(1, round(len(data) / settings.batch_size))
    decay = getattr(settings, "weight_decay", 0.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=decay)
    schedule: Any = (
        torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=steps * epochs, pct_start=0.2
        )
        if budget.one_cycle
        else torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    )
    key = training_key(recipe, budget, seed, data)
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    done = _load_state(resume, key, parts, generator)
    for epoch in range(done, epochs):
        network.train()
        total = 0.0
        for members in np.array_split(generator.permutation(len(data)), steps):
            optimiser.zero_grad()
            loss = network.loss(joined([data[i] for i in members]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _LONGEST_GRADIENT)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        say(f"epoch {epoch + 1} of {epochs}: loss {total / steps:.4f}")
        if resume is not None:
            _save_state(resume, key, epoch + 1, parts, generator)
    return network.eval()


def predicted_logarithms(
    recipe: NetworkRecipe, networks: Sequence[Any], data: Sequence[Data], batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of barriers in eV, and their standard deviations, as an ensemble gives them.

    Returns
    -------
    tuple of numpy.ndarray
        Shape (crystals, dimensions) each, where a network that knows one barrier only has one dimension. The variance
        is what the members expect on average, and how far they disagree; NaN where the networks expect none and are
        fewer than two.
    """
    means, variances = [], []
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            batch = joined(data[start : start + batch_size])
            answers = [_distribution(recipe, network, batch) for network in networks]
            means.append(np.stack([mean for mean, _ in answers]))
            variances.append(np.stack([sigma**2 for _, sigma in answers]))
    mean, variance = np.concatenate(means, axis=1), np.concatenate(variances, axis=1)
    spread = mean.var(axis=0)
    expected = variance.mean(axis=0)
    if len(networks) > 1:
        expected = np.nan_to_num(expected)
    return mean.mean(axis=0), np.sqrt(expected + spread)


def _distribution(recipe: NetworkRecipe, network: Any, batch: Data) -> tuple[np.ndarray, np.ndarray]:
    settings = recipe.settings
    if isinstance(settings, PercolatingSettings):
        mean, sigma = network.distribution(batch)
        return mean.double().numpy(), sigma.double().numpy()
    barriers_eV = barriers_from(network.answer(batch).double().numpy(), settings)
    logarithms = np.log(np.maximum(barriers_eV, LEAST_BARRIER_EV))[:, None]
    return logarithms, np.full_like(logarithms, np.nan)


def training_key(recipe: NetworkRecipe, budget: TrainingBudget, seed: int, data: Sequence[Data]) -> str:
    """A hash of everything that a training depends on, of the crystals their number and labels."""
    labels = np.concatenate([np.asarray(crystal.y).reshape(-1) for crystal in data]).astype(np.float64)
    return content_key(
        name=recipe.name, settings=asdict(recipe.settings), budget=asdict(budget), seed=seed, labels=labels
    )


def _save_state(file: Path, key: str, epoch: int, parts: dict[str, Any], generator: np.random.Generator) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    order = generator.bit_generator.state
    write_atomically({"key": key, "epoch": epoch, "order": order, "noise": torch.get_rng_state(), **states}, file)


def _load_state(file: Path | None, key: str, parts: dict[str, Any], generator: np.random.Generator) -> int:
    """Go on from a file where it belongs to this training; how many epochs it has behind it."""
    if file is None or not file.is_file():
        return 0
    try:
        content = torch.load(file, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError):
        return 0
    if content.get("key") != key:
        return 0
    for name, part in parts.items():
        part.load_state_dict(content[name])
    generator.bit_generator.state = content["order"]
    torch.set_rng_state(content["noise"])
    return int(content["epoch"])
