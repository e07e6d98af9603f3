"""ALIGNN, the atomistic line graph network, in plain PyTorch.

K. Choudhary and B. DeCost, npj Comput. Mater. 7 (2021) 185: edge-gated graph convolutions in turn on the graph of the
atoms and on its line graph, whose nodes are the edges and whose edges are the angles. Written from the paper.

Two things differ from it and are meant to. Normalisation is over the features of a node (layer normalisation, as in
later versions of the authors) instead of over the batch, so that the answer for a crystal does not depend on its
company. And cosines are rounded to a grid some eighty times finer than their Gaussians are wide, so that the angles'
embedding is computed once for each point of the grid and not for each of some ten thousand angles of a crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .alignn_batches import EPSILON, GraphBatch, at_beginning, gated_mean, of_reverse, pool, sum_at_beginning
from .alignn_graphs import element_categories

_GRID = 1025
"""Points between -1 and 1 that cosines are rounded to; the cosines of the common angles are among them."""


@dataclass(frozen=True)
class AlignnSize:
    """Size of the network; the defaults are those of the source.

    Attributes
    ----------
    alignn_layers
        Layers that update atoms, edges and angles.
    gcn_layers
        Layers after them that update atoms and edges.
    hidden
        Features of atoms, edges and angles.
    embedding
        Features halfway between expansion and hidden features of edges and angles.
    distance_bins, distance_cutoff_A
        Gaussians that distances are expanded in, from zero to the cutoff.
    angle_bins
        Gaussians that cosines are expanded in.
    """

    alignn_layers: int = 4
    gcn_layers: int = 4
    hidden: int = 256
    embedding: int = 64
    distance_bins: int = 80
    distance_cutoff_A: float = 8.0
    angle_bins: int = 40


class Alignn(nn.Module):
    """Features of atoms from graphs.

    Parameters
    ----------
    size
        Its size.
    """

    categories: Tensor
    distance_centres: Tensor
    angle_grid: Tensor

    def __init__(self, size: AlignnSize) -> None:
        super().__init__()
        self.size = size
        categories = torch.as_tensor(element_categories())
        self.register_buffer("categories", categories, persistent=False)
        self.register_buffer(
            "distance_centres", torch.linspace(0.0, size.distance_cutoff_A, size.distance_bins), persistent=False
        )
        grid = torch.linspace(-1.0, 1.0, _GRID)
        self.register_buffer(
            "angle_grid", _gaussians(grid, torch.linspace(-1.0, 1.0, size.angle_bins)), persistent=False
        )
        hidden = size.hidden
        self.atom_embedding = _dense(categories.shape[1], hidden)
        self.edge_embedding = nn.Sequential(_dense(size.distance_bins, size.embedding), _dense(size.embedding, hidden))
        self.angle_embedding = nn.Sequential(_dense(size.angle_bins, size.embedding), _dense(size.embedding, hidden))
        self.alignn_layers = nn.ModuleList(
            nn.ModuleDict({"atoms": GatedConvolution(hidden), "edges": GatedConvolution(hidden)})
            for _ in range(size.alignn_layers)
        )
        self.gcn_layers = nn.ModuleList(GatedConvolution(hidden) for _ in range(size.gcn_layers))

    def forward(self, batch: GraphBatch, layers: int | None = None) -> Tensor:
        """Features of the atoms after all layers, or after the first so many; shape (atoms, hidden)."""
        atoms = self.atom_embedding(self.categories)[batch.atom_rows]
        lengths_A = torch.linalg.vector_norm(batch.vectors_A, dim=1)
        edges = self.edge_embedding(_gaussians(lengths_A, self.distance_centres))
        layers = self.size.alignn_layers + self.size.gcn_layers if layers is None else layers
        alignn_layers: Sequence[Any] = list(self.alignn_layers)[:layers]
        gcn_layers: Sequence[Any] = list(self.gcn_layers)[: layers - len(alignn_layers)]
        # what the very last layers would make of edges and angles, nobody reads
        angles = _Angles(batch, lengths_A, self.angle_embedding(self.angle_grid)) if layers > 1 else None
        for number, layer in enumerate(alignn_layers, 1):
            last = number == layers
            atoms, edges = layer["atoms"].on_atoms(batch, atoms, edges, last)
            if angles is not None and not last:
                edges = layer["edges"].on_edges(batch, edges, angles, number == len(alignn_layers))
        for number, convolution in enumerate(gcn_layers, len(alignn_layers) + 1):
            atoms, edges = convolution.on_atoms(batch, atoms, edges, number == layers)
        return atoms

    def pooled(self, batch: GraphBatch, layers: int | None = None) -> Tensor:
        """Mean over the atoms of each graph, shape (graphs, hidden)."""
        return pool(self(batch, layers), batch)


class GatedConvolution(nn.Module):
    """Edge-gated graph convolution with residual connections, on atoms and edges or on edges and angles.

    The gate of the edge from j to i is sigmoid(A x_i + B x_j + C e_ij), normalised by the sum over the neighbours j;
    it weighs the messages V x_j. Equations 1 and 2 of the source.

    Parameters
    ----------
    hidden
        Features of nodes and edges.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        # of the node itself: its update and its part of the gate; of its neighbour: message and part of the gate
        self.own = nn.Linear(hidden, 2 * hidden)
        self.neighbour = nn.Linear(hidden, 2 * hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.node_norm = nn.LayerNorm(hidden)
        self.edge_norm = nn.LayerNorm(hidden)

    def on_atoms(self, batch: GraphBatch, atoms: Tensor, edges: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Update atoms and edges; with ``last``, the edges stay as they are."""
        update, own_gate = self.own(atoms).chunk(2, dim=1)
        from_atoms = at_beginning(torch.cat([self.neighbour(atoms), own_gate], dim=1), batch)
        message, gate, of_beginning = from_atoms.split(self.hidden, dim=1)
        # an edge carries its message from its beginning to its end, where its reverse begins
        gate = gate + of_reverse(of_beginning, batch) + self.gate(edges)
        weight = torch.sigmoid(gate)
        arriving = of_reverse(torch.cat([weight * message, weight], dim=1), batch)
        numerator, denominator = sum_at_beginning(arriving, batch).chunk(2, dim=1)
        atoms = atoms + functional.silu(self.node_norm(update + numerator / (denominator + EPSILON)))
        return atoms, edges if last else edges + functional.silu(self.edge_norm(gate))

    def on_edges(self, batch: GraphBatch, edges: Tensor, angles: _Angles, last: bool) -> Tensor:
        """Update edges and, unless this is the ``last`` layer that reads them, angles."""
        update, own_gate = self.own(edges).chunk(2, dim=1)
        # messages arrive by the edges that end where an edge begins: by the reverse of those that begin there
        message, gate = of_reverse(self.neighbour(edges), batch).chunk(2, dim=1)
        # parts by split: the gradient of a slice would be a whole tensor of zeros for each block
        parts = [block.count * block.degree for block in batch.angle_blocks]
        table = functional.embedding(angles.bins, self.gate(angles.table)).split(angles.parts)
        of_edges = zip(own_gate.split(parts), gate.split(parts), message.split(parts), strict=True)
        received, beyond = [], []
        for number, (block, each) in enumerate(zip(batch.angle_blocks, of_edges, strict=True)):
            shape = (block.count, block.degree, self.hidden)
            of_angles = table[number]
            if angles.beyond:
                of_angles = of_angles + functional.linear(angles.beyond[number], self.gate.weight)
            angle_gate, mean = gated_mean(
                of_angles.view(block.count, block.degree, block.degree, self.hidden), *(one.view(shape) for one in each)
            )
            received.append(mean.view(-1, self.hidden))
            if not last:
                changed = functional.silu(self.edge_norm(angle_gate.view(-1, self.hidden)))
                beyond.append(angles.beyond[number] + changed if angles.beyond else changed)
        angles.beyond = beyond
        return edges + functional.silu(self.node_norm(update + torch.cat([update[:0], *received])))


class _Angles:
    """Features of all angles: a row of a table by the cosine, and block by block what layers have added to it."""

    def __init__(self, batch: GraphBatch, lengths_A: Tensor, table: Tensor) -> None:
        self.table = table
        self.beyond: list[Tensor] = []
        self.parts = [block.count * block.degree**2 for block in batch.angle_blocks]
        unit = batch.vectors_A / lengths_A.clamp(min=EPSILON)[:, None]
        cosines = []
        for block in batch.angle_blocks:
            directions = unit[block.edges].view(block.count, block.degree, 3)
            cosines.append(torch.bmm(directions, directions.transpose(1, 2)).view(-1))
        grid = (torch.cat([lengths_A[:0], *cosines]) + 1.0) * (0.5 * (_GRID - 1))
        self.bins = grid.round().long().clamp(0, _GRID - 1)


def regression_head(inputs: int, width: int) -> nn.Sequential:
    """Two hidden layers and one answer, as in Devi et al.: activation, then three linear layers with two between."""
    return nn.Sequential(
        nn.SiLU(), nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
    )


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser: weight decay on matrices, none on biases and normalisations."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU())


def _gaussians(values: Tensor, centres: Tensor) -> Tensor:
    """Gaussians around the centres; exponent over the spacing and not its square, as in the source."""
    return torch.exp(-((values[:, None] - centres) ** 2) / (centres[1] - centres[0]))
