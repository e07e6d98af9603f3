"""The graph convolutional network of the interstitial network: S. Shi and co-workers' model as a named baseline.

Three graph convolutions of 128 channels (T. N. Kipf and M. Welling, ICLR 2017), each followed by top-k pooling
(C. Cangea et al., arXiv 1811.01287; H. Gao and S. Ji, ICML 2019) that keeps 0.9, 0.8 and 0.9 of the interstices, and a
perceptron. What the paper leaves open is decided here: an interstice gets the mean features of its bottlenecks beside
its own, because the convolution itself knows no edge features; after each pooling the mean over the interstices of the
crystal and their maximum are read out, each through a linear layer, and the three are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, TopKPooling, global_add_pool, global_max_pool
from torch_geometric.utils import scatter

from .barrier_regression import (
    LEAST_BARRIER_EV,
    BarrierRegression,
    Target,
    barriers_from,
    check_target,
    joined,
    optimiser_of,
    real,
    scaled,
    training_step,
    transformed_barriers,
)
from .interstitial_features import edge_feature_names, edge_features, node_feature_names, node_features
from .interstitial_graphs import GLOBAL_FEATURES, InterstitialGraph, directed_edges

__all__ = [
    "CONFIGURATIONS",
    "LEAST_BARRIER_EV",
    "Columns",
    "GcnSettings",
    "InterstitialGcn",
    "barriers_from",
    "graph_data",
    "interstitial_columns",
    "joined",
    "normalised",
    "optimiser_of",
    "training_step",
    "transformed_barriers",
]


@dataclass(frozen=True)
class GcnSettings:
    """Shape and training of the network.

    Attributes
    ----------
    hidden
        Channels of each convolution.
    pooling
        Share of the interstices that is kept after each convolution; 1 keeps all.
    perceptron
        Channels of the hidden layers behind the readout.
    activation
        ``sigmoid`` (the paper's equation) or ``relu``.
    bottlenecks
        Add the mean features of its bottlenecks to each interstice.
    energies
        Use bond-valence energies where they are known.
    globals
        Give the connection values and the other global features to the perceptron; barriers only with ``energies``.
    multiplicities
        Weigh messages and means with the numbers of equivalent interstices and segments. The answer without pooling
        is then that of the unfiltered graph.
    neighbours
        Atoms around each interstice in the graphs.
    target
        Learn the barrier in eV or its natural logarithm.
    epochs, learning_rate, batch_size
        Of Adam, with the mean squared error.
    """

    hidden: tuple[int, ...] = (128, 128, 128)
    pooling: tuple[float, ...] = (0.9, 0.8, 0.9)
    perceptron: tuple[int, ...] = (128, 64)
    activation: Literal["sigmoid", "relu"] = "relu"
    bottlenecks: bool = True
    energies: bool = False
    globals: bool = False
    multiplicities: bool = True
    neighbours: int = 12
    target: Target = "log_barrier"
    epochs: int = 150
    learning_rate: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if len(self.hidden) != len(self.pooling) or not self.hidden:
            raise ValueError(f"{len(self.hidden)} convolutions need as many pooling ratios, not {len(self.pooling)}")
        if not all(0 < ratio <= 1 for ratio in self.pooling):
            raise ValueError(f"pooling ratios must lie above 0 and not above 1, not {self.pooling}")
        if self.activation not in ("sigmoid", "relu"):
            raise ValueError(f"activation must be 'sigmoid' or 'relu', not {self.activation!r}")
        check_target(self.target)


#: Named configurations. ``shi-gcn`` is the paper's: no energies, the filtered graph as it is, barriers in eV.
CONFIGURATIONS: dict[str, GcnSettings] = {
    "shi-gcn": GcnSettings(multiplicities=False, target="barrier"),
    "shi-gcn-sigmoid": GcnSettings(multiplicities=False, target="barrier", activation="sigmoid"),
    "weighted-gcn": GcnSettings(),
    "weighted-gcn-energies": GcnSettings(energies=True, globals=True),
}


def graph_data(graph: InterstitialGraph, settings: GcnSettings, barrier_eV: float = np.nan) -> Data:
    """A graph and its label as tensors.

    Parameters
    ----------
    graph
        Filtered or not.
    settings
        Which features to take.
    barrier_eV
        Label; NaN or ``inf`` (no path) for none, which the loss leaves out.

    Returns
    -------
    Data
        ``x`` (nodes, columns); ``edge_index`` (2, directed), ``edge_weight`` (directed,) and ``edge_attr``
        (directed, columns); ``node_weight`` (nodes,), which adds up to one; ``global_values`` (1, 2 * globals), zeros
        where they are not finite, followed by one column each that is 1 where they are; ``y`` (1,), the
        transformed barrier.
    """
    links, which, counts = directed_edges(graph)
    shares = graph.node_counts if settings.multiplicities else np.ones(len(graph.node_counts))
    values = graph.global_features[_global_columns(settings)]
    finite = np.isfinite(values)
    return Data(
        x=real(node_features(graph, settings.energies)),
        edge_index=torch.as_tensor(links, dtype=torch.long),
        edge_weight=real(counts if settings.multiplicities else np.ones(len(which))),
        edge_attr=real(edge_features(graph, settings.energies)[which]),
        node_weight=real(shares / shares.sum()),
        global_values=real(np.concatenate([np.where(finite, values, 0.0), finite.astype(float)])[None, :]),
        y=real(transformed_barriers(np.array([barrier_eV]), settings)),
    )


class Columns(NamedTuple):
    """How many columns the features of nodes, edges and the whole crystal have."""

    nodes: int
    edges: int
    globals: int


def interstitial_columns(settings: GcnSettings) -> Columns:
    """Columns of what :func:`graph_data` makes."""
    return Columns(
        len(node_feature_names(settings.neighbours, settings.energies)),
        len(edge_feature_names(settings.neighbours, settings.energies)),
        2 * int(_global_columns(settings).sum()),
    )


class InterstitialGcn(BarrierRegression):
    """Convolutions with top-k pooling over the interstices of a crystal, and a perceptron.

    Call :meth:`fit_scales` with the training crystals before training. The scales are kept with the weights.

    Parameters
    ----------
    settings
        Shape and training.
    columns
        Of the graphs, where they are not those of :func:`graph_data`.
    """

    settings: GcnSettings
    node_scale: Tensor
    edge_scale: Tensor
    global_scale: Tensor

    def __init__(self, settings: GcnSettings, columns: Columns | None = None) -> None:
        nodes, edges, more = columns or interstitial_columns(settings)
        super().__init__(settings, {"node": nodes, "edge": edges, "global": more})
        widths = [nodes + edges * settings.bottlenecks, *settings.hidden]
        self.convolutions = nn.ModuleList([GCNConv(a, b, normalize=False) for a, b in pairwise(widths)])
        self.poolings = nn.ModuleList(
            [TopKPooling(width, ratio=float(r)) for width, r in zip(settings.hidden, settings.pooling, strict=True)]
        )
        self.levels = nn.ModuleList([nn.Linear(2 * width, 2 * settings.hidden[-1]) for width in settings.hidden])
        parts: list[nn.Module] = []
        before = 2 * settings.hidden[-1] + more
        for width in settings.perceptron:
            parts += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.perceptron = nn.Sequential(*parts, nn.Linear(before, 1))
        self.activation = torch.sigmoid if settings.activation == "sigmoid" else torch.relu

    def forward(self, batch: Data) -> Tensor:
        """Standardised targets, shape (crystals,)."""
        x = scaled(batch.x, self.node_scale)
        edges, weights, crystal = batch.edge_index, batch.edge_weight, batch.batch
        shares = batch.node_weight
        crystals = int(batch.num_graphs)
        if self.settings.bottlenecks:
            gathered = weights[:, None] * scaled(batch.edge_attr, self.edge_scale)
            total = scatter(weights, edges[1], dim=0, dim_size=len(x), reduce="sum").clamp(min=1e-9)
            bottlenecks = scatter(gathered, edges[1], dim=0, dim_size=len(x), reduce="sum") / total[:, None]
            x = torch.cat([x, bottlenecks], dim=1)
        summary = x.new_zeros(crystals, 2 * self.settings.hidden[-1])
        for convolution, pooling, level in zip(self.convolutions, self.poolings, self.levels, strict=True):
            x = self.activation(convolution(x, *normalised(edges, weights, len(x))))
            x, edges, weights, crystal, kept, _ = pooling(x, edges, weights, crystal)
            shares = shares[kept]
            total = global_add_pool(shares[:, None], crystal, crystals)
            mean = global_add_pool(shares[:, None] * x, crystal, crystals) / total
            summary = summary + level(torch.cat([mean, global_max_pool(x, crystal, crystals)], dim=1))
        described = scaled(batch.global_values, self.global_scale)
        return self.perceptron(torch.cat([torch.relu(summary), described], dim=1))[:, 0]


def normalised(edges: Tensor, weights: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Edges with one loop at each node, and the weights of Kipf and Welling's symmetric normalisation.

    torch-geometric's own would put the new loop in the place of those that a filtered graph has already.
    """
    loops = torch.arange(nodes, device=edges.device)
    edges = torch.cat([edges, loops.repeat(2, 1)], dim=1)
    weights = torch.cat([weights, weights.new_ones(nodes)])
    degree = scatter(weights, edges[1], dim=0, dim_size=nodes, reduce="sum")
    scale = degree.rsqrt()
    return edges, scale[edges[0]] * weights * scale[edges[1]]


def _global_columns(settings: GcnSettings) -> np.ndarray:
    """Which global features are used, bool, shape (len(GLOBAL_FEATURES),)."""
    return np.array([settings.globals and (settings.energies or not n.endswith("_eV")) for n in GLOBAL_FEATURES])
