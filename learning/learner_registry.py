"""The learners of barriers that can be judged, by name; a learner's own module is imported when it is created."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from .barrier_learners import BarrierLearner, NamedLearner
from .classical_baselines import NAMED_CLASSICAL

_FROM_OTHER_MODULES: tuple[tuple[str, str, str, str], ...] = (
    # name, description, module of this folder, its dictionary of learners by name
    (
        "path-network",
        "Three path networks on five images of the ion and the framework around them.",
        "path_network_learner",
        "NAMED_PATH_NETWORK",
    ),
)
"""Learners whose modules import torch or a potential: said here once more, so that names can be listed without."""


def _created(module: str, dictionary: str, name: str) -> BarrierLearner:
    named: dict[str, NamedLearner] = getattr(import_module(f".{module}", __package__), dictionary)
    return named[name].create()


BARRIER_LEARNERS: dict[str, NamedLearner] = {
    **{
        name: NamedLearner(name, description, partial(_created, module, dictionary, name))
        for name, description, module, dictionary in _FROM_OTHER_MODULES
    },
    **NAMED_CLASSICAL,
}
"""Names that ``hopflow evaluate barrier`` takes under ``learners``."""


def barrier_learner(name: str) -> NamedLearner:
    """The learner of a name.

    Raises
    ------
    ValueError
        There is none; the text lists those that there are.
    """
    if name not in BARRIER_LEARNERS:
        raise ValueError(f"There is no barrier learner called {name!r}; allowed: {', '.join(BARRIER_LEARNERS)}.")
    return BARRIER_LEARNERS[name]
