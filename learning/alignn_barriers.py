"""Learning migration barriers with the ALIGNN systems of Devi et al.: settings, training, named configurations.

Training is theirs (npj Comput. Mater. 2026, arXiv 2508.06436), but for the paths that choose the best epoch: those are
whole hosts out of the training paths, never paths that the network is judged by.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..transport.errors import WeightsError
from ..transport.paths import MigrationPath
from .alignn import AlignnSize, decay_groups
from .alignn_graphs import NEIGHBOURS, PathStructures, path_structures
from .barrier_learners import NamedLearner, Progress, to_barrier, to_target
from .evaluation import grouped_folds
from .path_alignn import SYSTEMS, PathAlignn, System
from .property_pretraining import pretrained_encoder


@dataclass(frozen=True)
class AlignnSettings:
    """How a system is built and trained; the defaults are those of the source for MODEL-3.

    Attributes
    ----------
    system
        Which one.
    size
        Size of the network; the head has half as many features as ``size.hidden``.
    epochs, batch_size, learning_rate, weight_decay
        AdamW under a one-cycle schedule with this highest learning rate, 30 % of it rising.
    loss
        ``l1`` or ``mse`` of targets that are scaled to 0..1 over the training paths. (The source standardises them
        before, which changes nothing.)
    target
        ``barrier`` in eV as in the source, or ``log_barrier``, the logarithm of barrier and offset.
    validation_folds
        One in so many training paths, whole hosts, is kept to choose the epoch whose weights are kept.
    patience
        Stop after so many epochs without a better one; None goes on to the end.
    pretrained
        Checkpoint of :func:`~hopflow.learning.property_pretraining.pretrain` to start from, or None.
    framework_cutoff_A, neighbours
        As for :func:`~hopflow.learning.alignn_graphs.path_structures`.
    surroundings_A
        Reach of the part around the images that MODEL-4 reads.
    paths_at_once
        Paths that are in memory together; gradients of a batch are gathered over several rounds, to the same effect.
    """

    system: System = "MODEL-3"
    size: AlignnSize = field(default_factory=AlignnSize)
    epochs: int = 500
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    loss: Literal["l1", "mse"] = "l1"
    target: Literal["barrier", "log_barrier"] = "barrier"
    validation_folds: int = 10
    patience: int | None = None
    pretrained: Path | None = None
    framework_cutoff_A: float | None = None
    neighbours: int = NEIGHBOURS
    surroundings_A: float = 3.0
    paths_at_once: int = 16

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise ValueError(f"There is no system {self.system!r}; allowed: {', '.join(SYSTEMS)}.")
        if self.system == "SCRATCH" and self.pretrained is not None:
            raise ValueError("SCRATCH starts from nothing; take MODEL-3 to start from a pretrained network.")


@dataclass
class FittedAlignn:
    """A trained system.

    Attributes
    ----------
    network
        With the weights of the best epoch.
    settings
        How it was trained.
    low, high
        Least and highest training target: what 0 and 1 stand for.
    train_loss, validation_eV
        Mean loss, and mean absolute error of the inner validation paths in eV, of each epoch; the latter is empty
        where there were too few hosts to keep some apart.
    best_epoch
        The epoch, from one, whose weights were kept.
    """

    network: PathAlignn
    settings: AlignnSettings
    low: float
    high: float
    train_loss: list[float]
    validation_eV: list[float]
    best_epoch: int

    def predict(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sigma on the learned scale; the network knows no sigma, so that is one."""
        mean = to_target(self.predict_eV(items))
        return mean, np.ones(len(mean))

    def predict_eV(self, items: Sequence[PathStructures]) -> np.ndarray:
        """Barriers in eV, shape (items,)."""
        return _predict_eV(self.network, items, self.settings, self.low, self.high)


class AlignnLearner:
    """Learns barriers of paths with one of the systems.

    Parameters
    ----------
    alignn_settings
        Which system, how big, how trained.
    device
        Where it is trained; the fitted network stays there.
    """

    extra_columns: tuple[str, ...] = ()

    def __init__(self, alignn_settings: AlignnSettings, device: str = "cpu") -> None:
        self.alignn_settings = alignn_settings
        self.device = device

    def settings(self) -> dict[str, Any]:
        """All settings; a pretrained network counts by its content and not by its name."""
        given = asdict(self.alignn_settings)
        file = self.alignn_settings.pretrained
        if file is not None:
            try:
                given["pretrained"] = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise WeightsError(f"The pretrained network {file} cannot be read; pretrain one first.") from error
        return {"learner": "alignn", **given}

    def prepare(
        self,
        rows: Sequence[dict[str, Any]],
        folder: Path | None = None,  # noqa: ARG002  part of what all learners share
        progress: Progress | None = None,
    ) -> Sequence[PathStructures]:
        """Graphs of each path, in order; they take milliseconds, so none is kept under ``folder``.

        Raises
        ------
        CandidateError
            A row is no path, or has an element without descriptors.
        """
        settings, items = self.alignn_settings, []
        band = settings.system in ("MODEL-3", "MODEL-4", "SCRATCH")
        for number, row in enumerate(rows, 1):
            items.append(
                path_structures(
                    MigrationPath.from_row(row),
                    band=band,
                    ends=not band,
                    surroundings_A=settings.surroundings_A if settings.system == "MODEL-4" else None,
                    framework_cutoff_A=settings.framework_cutoff_A,
                    neighbours=settings.neighbours,
                )
            )
            if progress is not None and number % 100 == 0:
                progress(f"graphs of {number} of {len(rows)} paths")
        return items

    def fit(
        self,
        items: Sequence[Any],
        barrier_eV: np.ndarray,
        groups: Sequence[int],
        seed: int,
        progress: Progress | None = None,
    ) -> FittedAlignn:
        """Train; some hosts are kept apart to choose the best epoch.

        Raises
        ------
        WeightsError
            The pretrained network is missing, damaged or of another size.
        """
        settings = self.alignn_settings
        training, validation = _inner_split(groups, settings.validation_folds, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PathAlignn(settings.system, settings.size)
        if settings.pretrained is not None:
            network.encoder.load_state_dict(pretrained_encoder(settings.pretrained, settings.size))
        barrier_eV = np.asarray(barrier_eV, dtype=float)
        goals = _goals(barrier_eV, settings)
        low, high = float(goals[training].min()), float(goals[training].max())
        high = high if high > low else low + 1.0
        scaled = torch.as_tensor((goals - low) / (high - low), dtype=torch.float32)
        with torch.no_grad():
            # from the first step on, the answer is about right for a usual path
            network.head[-1].bias.fill_(float(scaled[training].median()))  # type: ignore[operator]
        network.to(self.device)
        network.fit_scale([items[i] for i in training], settings.paths_at_once)
        fitted = FittedAlignn(network, settings, low, high, [], [], 0)
        best, best_weights = np.inf, None
        for epoch, loss in _epochs(network, [items[i] for i in training], scaled[training], settings, seed):
            fitted.train_loss.append(loss)
            text = f"epoch {epoch} of {settings.epochs}: loss {loss:.4f}"
            if len(validation):
                predicted_eV = fitted.predict_eV([items[i] for i in validation])
                error_eV = float(np.abs(predicted_eV - barrier_eV[validation]).mean())
                fitted.validation_eV.append(error_eV)
                text += f", validation {error_eV:.3f} eV"
                if error_eV < best:
                    best, best_weights, fitted.best_epoch = error_eV, copy.deepcopy(network.state_dict()), epoch
            else:
                fitted.best_epoch = epoch
            if progress is not None:
                progress(text)
            if settings.patience is not None and epoch - fitted.best_epoch >= settings.patience:
                break
        if best_weights is not None:
            network.load_state_dict(best_weights)
        network.eval()
        return fitted


def _goals(barrier_eV: np.ndarray, settings: AlignnSettings) -> np.ndarray:
    return to_target(barrier_eV) if settings.target == "log_barrier" else barrier_eV


def _inner_split(groups: Sequence[int], folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paths to train on and paths to choose the epoch with; the latter are none where there is only one host."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    hosts = int(group.max()) + 1
    if hosts < 2:
        return np.arange(len(group)), np.arange(0)
    fold = grouped_folds(group.tolist(), min(folds, hosts), seed)
    return np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)


def _epochs(
    network: PathAlignn, items: Sequence[PathStructures], scaled: Tensor, settings: AlignnSettings, seed: int
) -> Iterator[tuple[int, float]]:
    """Train epoch by epoch; yields the number of epochs done and the mean loss of the last one."""
    device = network.encoder.categories.device
    generator = np.random.default_rng(seed)
    batches = max(1, round(len(items) / settings.batch_size))
    optimiser = torch.optim.AdamW(decay_groups(network, settings.weight_decay), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=batches * settings.epochs, pct_start=0.3
    )
    loss_of = functional.l1_loss if settings.loss == "l1" else functional.mse_loss
    for epoch in range(1, settings.epochs + 1):
        network.train()
        total = 0.0
        for batch in np.array_split(generator.permutation(len(items)), batches):
            optimiser.zero_grad()
            for start in range(0, len(batch), settings.paths_at_once):
                members = batch[start : start + settings.paths_at_once]
                answer = network([items[i] for i in members])
                loss = loss_of(answer, scaled[members].to(device), reduction="sum")
                (loss / len(batch)).backward()
                total += float(loss.detach())
            optimiser.step()
            schedule.step()
        yield epoch, total / len(items)


def _predict_eV(
    network: PathAlignn, items: Sequence[PathStructures], settings: AlignnSettings, low: float, high: float
) -> np.ndarray:
    network.eval()
    answers = [np.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(items), settings.paths_at_once):
            answer = network(items[start : start + settings.paths_at_once])
            answers.append(low + (high - low) * answer.cpu().double().numpy())
    goal = np.concatenate(answers)
    if settings.target == "log_barrier":
        return to_barrier(goal, np.ones(len(goal)))[0]
    return np.maximum(goal, 0.0)


SMALL_SIZE = AlignnSize(alignn_layers=2, gcn_layers=2, hidden=32, embedding=32)
"""What a processor trains in minutes."""

PRETRAINED_SMALL = Path(__file__).parent / "checkpoints" / "alignn_pretrained.pt"
"""A network of :data:`SMALL_SIZE`, pretrained on properties of the Materials Project."""

SMALL = AlignnSettings(
    size=SMALL_SIZE, epochs=12, batch_size=8, learning_rate=2e-3, weight_decay=1e-5, framework_cutoff_A=4.0
)
"""The budget of the small configurations, the same for all. In so few epochs the number of steps counts: with batches
of 16 the same time taught a band of five images next to nothing."""


def alignn_settings(system: System, full: bool, pretrained: Path | None = None) -> AlignnSettings:
    """Settings of a system.

    Parameters
    ----------
    system
        Which one.
    full
        As in the source, for a graphics processor; or the small ones. The batch size of MODEL-2 is not published and
        taken to be that of MODEL-1.
    pretrained
        Checkpoint to start from; not for SCRATCH.
    """
    scratch = system == "SCRATCH"
    given: dict[str, Any] = {"system": system, "pretrained": pretrained, "loss": "mse" if scratch else "l1"}
    if not full:
        return replace(SMALL, **given)
    if scratch:
        given |= {"learning_rate": 1e-4, "weight_decay": 1e-5, "patience": 50}
    return AlignnSettings(**given, batch_size={"MODEL-3": 128, "MODEL-4": 64}.get(system, 16))


def _named(system: System, full: bool) -> NamedLearner:
    def create() -> AlignnLearner:
        pretrained = None if full or system == "SCRATCH" else PRETRAINED_SMALL
        device = "cuda" if full and torch.cuda.is_available() else "cpu"
        return AlignnLearner(alignn_settings(system, full, pretrained), device)

    size = "as large as in the source, not pretrained" if full else "small"
    name = "alignn-scratch" if system == "SCRATCH" else system.lower()
    return NamedLearner(f"{name}-full" if full else name, f"{SYSTEMS[system]}; {size}.", create)


NAMED_ALIGNN: dict[str, NamedLearner] = {
    learner.name: learner for learner in (_named(system, full) for full in (False, True) for system in SYSTEMS)
}
"""Each system small and, with the ending ``-full``, as in the source."""
