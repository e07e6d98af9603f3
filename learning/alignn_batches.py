"""Several crystal graphs as one, laid out so that ALIGNN is fast on them, and what it does along their edges.

Angles far outnumber all else. Edges are therefore kept sorted by the number of edges of the atom that they begin at:
all angles of the atoms of one kind then form a dense block, and no angle is ever gathered or scattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .alignn_graphs import AtomGraph

EPSILON = 1e-6
"""Keeps quotients finite where there are no edges."""

_LARGEST_BLOCK = 16384
"""Angles that are worked on together; more do not fit into a processor's cache."""


@dataclass(frozen=True)
class Block:
    """Atoms with the same number of edges, side by side in a batch.

    Attributes
    ----------
    atoms, edges
        Where they and the edges that begin at them are.
    count, degree
        How many atoms, and how many edges each has.
    """

    atoms: slice
    edges: slice
    count: int
    degree: int


@dataclass
class GraphBatch:
    """Several graphs as one, atoms sorted by their number of edges.

    Attributes
    ----------
    atom_rows, graph
        Element table row and graph of each atom, shape (atoms,).
    centres, reverse
        Atom at the beginning of each edge, and the edge that leads back, shape (edges,).
    vectors_A
        Shape (edges, 3).
    sizes
        Atoms of each graph, shape (graphs,).
    blocks
        All atoms, those with the same number of edges together.
    angle_blocks
        The same cut into parts of limited size.
    """

    atom_rows: Tensor
    graph: Tensor
    centres: Tensor
    reverse: Tensor
    vectors_A: Tensor
    sizes: Tensor
    blocks: list[Block]
    angle_blocks: list[Block]

    @classmethod
    def from_graphs(cls, graphs: Sequence[AtomGraph], device: torch.device | str = "cpu") -> GraphBatch:
        """Join graphs."""
        sizes = np.array([len(graph.atom_rows) for graph in graphs])
        edges = np.array([len(graph.neighbours) for graph in graphs])
        degree = np.concatenate([graph.degree for graph in graphs])
        first_edge = np.repeat(np.cumsum(edges) - edges, edges)
        reverse = np.concatenate([graph.reverse for graph in graphs]) + first_edge
        order = np.argsort(degree, kind="stable")
        old_start = (np.cumsum(degree) - degree)[order]
        degree = degree[order]
        new_start = np.cumsum(degree) - degree
        edge_order = np.repeat(old_start - new_start, degree) + np.arange(len(reverse))
        place = np.empty_like(edge_order)
        place[edge_order] = np.arange(len(edge_order))
        blocks = _blocks(degree, new_start, None)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, device=device)

        return cls(
            atom_rows=tensor(np.concatenate([graph.atom_rows for graph in graphs])[order]),
            graph=tensor(np.repeat(np.arange(len(graphs)), sizes)[order]),
            centres=tensor(np.repeat(np.arange(len(degree)), degree)),
            reverse=tensor(place[reverse[edge_order]]),
            vectors_A=tensor(np.concatenate([graph.vectors_A for graph in graphs])[edge_order]),
            sizes=tensor(sizes),
            blocks=blocks,
            angle_blocks=_blocks(degree, new_start, _LARGEST_BLOCK) if str(device) == "cpu" else blocks,
        )


def pool(atoms: Tensor, batch: GraphBatch) -> Tensor:
    """Mean over the atoms of each graph, shape (graphs, features)."""
    total = atoms.new_zeros(len(batch.sizes), atoms.shape[1]).index_add(0, batch.graph, atoms)
    return total / batch.sizes[:, None]


def at_beginning(atoms: Tensor, batch: GraphBatch) -> Tensor:
    """Features of the atom that each edge begins at, shape (edges, features)."""
    found: Tensor = _AtBeginning.apply(atoms, batch)
    return found


def sum_at_beginning(edges: Tensor, batch: GraphBatch) -> Tensor:
    """Sum over the edges that begin at each atom, shape (atoms, features)."""
    found: Tensor = _SumAtBeginning.apply(edges, batch)
    return found


def of_reverse(edges: Tensor, batch: GraphBatch) -> Tensor:
    """Features of the reverse of each edge, shape (edges, features)."""
    found: Tensor = _Reversed.apply(edges, batch.reverse)
    return found


def gated_mean(of_angles: Tensor, own: Tensor, other: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
    """Gates of all pairs of edges that begin at an atom, and the mean of the messages weighted by them.

    Parameters
    ----------
    of_angles
        The angle's part of each gate, shape (atoms, degree, degree, features): second index the edge by whose reverse
        a message arrives, third the edge that receives it.
    own
        The receiving edge's part, shape (atoms, degree, features).
    other, message
        The arriving edge's part, and its message, shape (atoms, degree, features).

    Returns
    -------
    The gates before the sigmoid, shaped as ``of_angles``, and the means of the receiving edges, shaped as ``own``.
    """
    gate, mean = _GatedMean.apply(of_angles, own, other, message)
    return gate, mean


def _blocks(degree: np.ndarray, first_edge: np.ndarray, largest: int | None) -> list[Block]:
    """Runs of atoms of equal degree, of at most so many angles each; atoms without edges are in none."""
    blocks = []
    values, starts, counts = np.unique(degree, return_index=True, return_counts=True)
    for value, start, count in zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if value == 0:
            continue
        step = count if largest is None else max(1, largest // value**2)
        for begin in range(start, start + count, step):
            number = min(step, start + count - begin)
            edge = int(first_edge[begin])
            blocks.append(Block(slice(begin, begin + number), slice(edge, edge + number * value), number, value))
    return blocks


def _sum_of_edges(edges: Tensor, batch: GraphBatch) -> Tensor:
    """Sum over the edges that begin at each atom; atoms without edges come first and have zero."""
    features = edges.shape[1]
    sums = [edges[block.edges].view(block.count, block.degree, features).sum(dim=1) for block in batch.blocks]
    alone = len(batch.atom_rows) - sum(block.count for block in batch.blocks)
    return torch.cat([edges.new_zeros(alone, features), *sums])


class _AtBeginning(torch.autograd.Function):
    """Features of the atom that each edge begins at."""

    @staticmethod
    def forward(ctx: Any, atoms: Tensor, batch: GraphBatch) -> Tensor:
        ctx.batch = batch
        return atoms.index_select(0, batch.centres)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum_of_edges(gradients[0].contiguous(), ctx.batch), None


class _SumAtBeginning(torch.autograd.Function):
    """Sum over the edges that begin at each atom."""

    @staticmethod
    def forward(ctx: Any, edges: Tensor, batch: GraphBatch) -> Tensor:
        ctx.batch = batch
        return _sum_of_edges(edges, batch)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.batch.centres), None


class _Reversed(torch.autograd.Function):
    """Features of the reverse of each edge; its own inverse, so the gradient needs no scattering."""

    @staticmethod
    def forward(ctx: Any, edges: Tensor, reverse: Tensor) -> Tensor:
        ctx.reverse = reverse
        return edges.index_select(0, reverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.reverse), None


class _GatedMean(torch.autograd.Function):
    """Of :func:`gated_mean`; written out, because what autograd would keep and compute takes twice as long."""

    @staticmethod
    def forward(ctx: Any, of_angles: Tensor, own: Tensor, other: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        gate = of_angles + other[:, :, None]
        gate += own[:, None]
        weight = torch.sigmoid(gate)
        total = weight.sum(dim=1).add_(EPSILON)
        mean = (weight * message[:, :, None]).sum(dim=1).div_(total)
        ctx.save_for_backward(weight, message, mean, total)
        return gate, mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, message, mean, total = ctx.saved_tensors
        of_gate, of_mean = gradients
        each = torch.zeros_like(total) if of_mean is None else of_mean / total
        of_message = (weight * each[:, None]).sum(dim=2)
        of_angles = message[:, :, None] - mean[:, None]
        of_angles *= each[:, None]
        of_angles *= weight
        of_angles *= 1.0 - weight
        if of_gate is not None:
            of_angles += of_gate
        return of_angles, of_angles.sum(dim=1), of_angles.sum(dim=2), of_message
