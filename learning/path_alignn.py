"""The systems of Devi et al. (npj Comput. Mater. 2026, arXiv 2508.06436) that read a migration path with ALIGNN.

MODEL-1 reads a path as the crystals at its two ends, MODEL-2 as the first and what changes on the way to the last,
MODEL-3 as one crystal with all images of the ion, MODEL-4 as that and its part around the images, both with
self-attention. SCRATCH is MODEL-3 without pretraining and with squared errors. Written from the paper's description;
where that leaves something open, the choice stands in the docstring of :class:`PathAlignn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.utils import to_dense_batch

from .alignn import Alignn, AlignnSize, regression_head
from .alignn_batches import GraphBatch, pool
from .alignn_graphs import PathStructures

System = Literal["MODEL-1-CC", "MODEL-1-ADD", "MODEL-1-SUB", "MODEL-2", "MODEL-3", "MODEL-4", "SCRATCH"]

SYSTEMS: dict[System, str] = {
    "MODEL-1-CC": "ALIGNN on the two ends of the path, pooled features side by side",
    "MODEL-1-ADD": "ALIGNN on the two ends of the path, pooled features added",
    "MODEL-1-SUB": "ALIGNN on the two ends of the path, pooled features subtracted",
    "MODEL-2": "ALIGNN on the first end of the path and its difference to the last after one convolution",
    "MODEL-3": "ALIGNN on one crystal that holds five images of the ion",
    "MODEL-4": "ALIGNN on the crystal with five images and its part within 3 Angstrom of them, with self-attention",
    "SCRATCH": "ALIGNN on one crystal that holds five images of the ion, without pretraining",
}
"""The systems, each in a phrase."""

Thing = TypeVar("Thing")


class PathAlignn(nn.Module):
    """One ALIGNN that reads each graph of a path, and a head that makes a barrier of what it read.

    What the source's description leaves open: MODEL-2's difference is that of the pooled features; MODEL-4 reads both
    its graphs with the same weights, and pools X'' over the atoms.

    Parameters
    ----------
    system, size
        Which system, of which size.
    """

    scale: Tensor

    def __init__(self, system: System, size: AlignnSize) -> None:
        super().__init__()
        self.system = system
        self.encoder = Alignn(size)
        hidden = size.hidden
        if system == "MODEL-4":
            self.attention = nn.Linear(hidden, 3 * hidden, bias=False)
        features = 2 * hidden if system in ("MODEL-1-CC", "MODEL-2", "MODEL-4") else hidden
        self.register_buffer("scale", torch.tensor([[0.0], [1.0]]).repeat(1, features))
        self.head = regression_head(features, hidden // 2)

    def fit_scale(self, paths: Sequence[PathStructures], at_once: int) -> None:
        """Let the head see features of zero mean and unit deviation over the training paths as they are now.

        The mean over a cell changes little from path to path, and without batch normalisation nothing else makes what
        does change as large as what does not.
        """
        with torch.no_grad():
            parts = [self.features(paths[start : start + at_once]) for start in range(0, len(paths), at_once)]
            features = torch.cat(parts)
            spread = features.std(dim=0, correction=0)
            spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
            self.scale.copy_(torch.stack([features.mean(dim=0), spread]))

    def forward(self, paths: Sequence[PathStructures]) -> Tensor:
        """Scaled targets, shape (paths,)."""
        return self.head((self.features(paths) - self.scale[0]) / self.scale[1])[:, 0]

    def features(self, paths: Sequence[PathStructures]) -> Tensor:
        """What is made of the paths' pooled features, shape (paths, features)."""
        device = self.encoder.categories.device
        if self.system in ("MODEL-3", "SCRATCH"):
            vector = self.encoder.pooled(GraphBatch.from_graphs([_given(path.band) for path in paths], device))
        elif self.system == "MODEL-4":
            graphs = [_given(path.band) for path in paths] + [_given(path.surroundings) for path in paths]
            batch = GraphBatch.from_graphs(graphs, device)
            vector = torch.cat(self._attended(self.encoder(batch), batch).split(len(paths)), dim=1)
        elif self.system == "MODEL-2":
            ends = [_given(path.ends) for path in paths]
            first = GraphBatch.from_graphs([end[0] for end in ends], device)
            last = GraphBatch.from_graphs([end[1] for end in ends], device)
            change = self.encoder.pooled(last, 1) - self.encoder.pooled(first, 1)
            vector = torch.cat([self.encoder.pooled(first), change], dim=1)
        else:
            ends = [_given(path.ends) for path in paths]
            both = GraphBatch.from_graphs([end[0] for end in ends] + [end[1] for end in ends], device)
            initial, final = self.encoder.pooled(both).split(len(paths))
            if self.system == "MODEL-1-CC":
                vector = torch.cat([initial, final], dim=1)
            else:
                vector = initial + final if self.system == "MODEL-1-ADD" else final - initial
        return vector

    def _attended(self, atoms: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the atoms of X'' = mean(X) + softmax(tanh(Q K^T)) V, shape (graphs, hidden)."""
        order = torch.argsort(batch.graph, stable=True)
        values, there = to_dense_batch(self.attention(atoms)[order], batch.graph[order], batch_size=len(batch.sizes))
        query, key, value = values.chunk(3, dim=2)
        score = torch.tanh(query @ key.transpose(1, 2)).masked_fill(~there[:, None, :], -torch.inf)
        mixed = (torch.softmax(score, dim=2) @ value) * there[:, :, None]
        return pool(atoms, batch) + mixed.sum(dim=1) / batch.sizes[:, None]


def _given(value: Thing | None) -> Thing:
    if value is None:
        raise ValueError("The path was prepared for another system.")
    return value
