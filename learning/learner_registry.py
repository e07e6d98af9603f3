"""The learners of barriers that can be judged, by name; a learner's own module is imported when it is created."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from .barrier_learners import BarrierLearner, NamedLearner
from .classical_baselines import NAMED_CLASSICAL
from .forest_barriers import NAMED_FORESTS

_ALIGNN = {
    "model-1-cc": "MODEL-1 of Devi et al.: ALIGNN on the two ends of the path, pooled features side by side",
    "model-1-add": "MODEL-1 of Devi et al., pooled features added",
    "model-1-sub": "MODEL-1 of Devi et al., pooled features subtracted",
    "model-2": "MODEL-2 of Devi et al.: ALIGNN on the first end and its difference to the last after one convolution",
    "model-3": "MODEL-3 of Devi et al.: ALIGNN on one crystal that holds five images of the ion",
    "model-4": "MODEL-4 of Devi et al.: MODEL-3 with its part within 3 Angstrom of the images, with self-attention",
    "alignn-scratch": "MODEL-3 of Devi et al. without pretraining and with squared errors",
}

_FROM_OTHER_MODULES: tuple[tuple[str, str, str, str], ...] = (
    # name, description, module of this folder, its dictionary of learners by name
    (
        "path-network",
        "Three path networks on five images of the ion and the framework around them.",
        "path_network_learner",
        "NAMED_PATH_NETWORK",
    ),
    *(
        (
            f"{name}{'-full' if full else ''}",
            f"{text}; {'full size of the source' if full else 'small size'}.",
            "alignn_barriers",
            "NAMED_ALIGNN",
        )
        for full in (False, True)
        for name, text in _ALIGNN.items()
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
    **NAMED_FORESTS,
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
