"""Networks on the graph of a crystal's atoms, which the interstitial network is compared with.

``crystal-gcn`` is the network of :mod:`.interstitial_network_model` as it is, with atoms for interstices and pairs of
neighbours for bottlenecks. ``cgcnn`` has the gated convolution of T. Xie and J. C. Grossman, Phys. Rev. Lett. 120
(2018) 145301, Eq. 5. Unlike the source's atoms, these are told apart by descriptors of the element and not by its
name, carry their charge, and know whether they are the mobile ion.

No answer depends on the cell or on the order of the atoms, with one exception: top-k pooling in ``crystal-gcn`` may
keep some of several equivalent atoms, which have equal scores, and which of them is then a matter of rounding. In the
interstitial network equivalents are one node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Data
from torch_geometric.nn import global_add_pool

from .barrier_regression import BarrierRegression, Target, check_target, real, scaled, transformed_barriers
from .crystal_graphs import NEIGHBOURS, CrystalGraph
from .elements import DESCRIPTORS, element_table
from .interstitial_network_model import CONFIGURATIONS as INTERSTITIAL_CONFIGURATIONS
from .interstitial_network_model import Columns, GcnSettings, InterstitialGcn

#: Centres of the Gaussians that a distance is written as, and the farthest of them (Angstrom).
GAUSSIANS = 40
REACH_A = 8.0


@dataclass(frozen=True)
class CgcnnSettings:
    """Shape and training of the gated network.

    Attributes
    ----------
    hidden
        Channels of each atom.
    convolutions
        How many there are.
    perceptron
        Channels of the hidden layers behind the mean over the atoms.
    gaussians, reach_A
        Gaussians that a distance is written as, with their centres from zero to the reach in Angstrom.
    batch_norm
        Normalise the sum of each atom's messages over the batch, as in the source.
    neighbours
        Nearest atoms of each atom that are used.
    target
        Learn the barrier in eV or its natural logarithm.
    epochs, learning_rate, batch_size
        Of Adam, with the mean squared error.
    """

    hidden: int = 64
    convolutions: int = 3
    perceptron: tuple[int, ...] = (128,)
    gaussians: int = GAUSSIANS
    reach_A: float = REACH_A
    batch_norm: bool = True
    neighbours: int = NEIGHBOURS
    target: Target = "log_barrier"
    epochs: int = 150
    learning_rate: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if self.hidden < 1 or self.convolutions < 1:
            raise ValueError("the network must have at least one channel and one convolution")
        if self.gaussians < 2 or not self.reach_A > 0:
            raise ValueError("distances must be written as two Gaussians or more, over a reach above zero")
        check_target(self.target)


CrystalSettings = GcnSettings | CgcnnSettings

#: The interstitial network of the paper, ``shi-gcn``, on the crystal graph.
CRYSTAL_GCN = INTERSTITIAL_CONFIGURATIONS["shi-gcn"]
CGCNN = CgcnnSettings()
#: Named configurations.
CONFIGURATIONS: dict[str, CrystalSettings] = {"crystal-gcn": CRYSTAL_GCN, "cgcnn": CGCNN}


def atom_feature_names() -> tuple[str, ...]:
    """Columns of :func:`atom_features`."""
    return (*DESCRIPTORS, "charge", "charge_known", "is_mobile")


def atom_features(graph: CrystalGraph) -> np.ndarray:
    """Descriptors of the atoms in their own units, shape (atoms, len(atom_feature_names())).

    Where a charge is not known, its column and the column ``charge_known`` are 0.
    """
    known = np.isfinite(graph.atom_charges)
    charges = np.where(known, graph.atom_charges, 0.0)
    return np.column_stack([element_table().values[graph.atom_rows], charges, known, graph.mobile])


def distance_gaussians(distances_A: np.ndarray, gaussians: int = GAUSSIANS, reach_A: float = REACH_A) -> np.ndarray:
    """Distances as Gaussians, shape (..., gaussians): centres from zero to the reach, as wide as they are apart."""
    centres_A, spacing_A = np.linspace(0.0, reach_A, gaussians, retstep=True)
    return np.exp(-(((np.asarray(distances_A)[..., None] - centres_A) / spacing_A) ** 2))


def crystal_graph_data(crystal_graph: CrystalGraph, settings: CrystalSettings, barrier_eV: float = np.nan) -> Data:
    """A crystal graph and its label as tensors, with the fields of :func:`.interstitial_network_model.graph_data`.

    Parameters
    ----------
    crystal_graph
        Of the primitive cell.
    settings
        Which neighbours, Gaussians and target to take.
    barrier_eV
        Label; NaN or ``inf`` (no path) for none, which the loss leaves out.

    Returns
    -------
    Data
        ``x`` (atoms, columns); ``edge_index`` (2, atoms * neighbours) from neighbour to atom, those of one atom after
        those of the other and nearest first; ``edge_weight`` (edges,), ones; ``edge_attr`` (edges, gaussians);
        ``node_weight`` (atoms,), which adds up to one; ``global_values`` (1, 0); ``y`` (1,), the transformed barrier.

    Raises
    ------
    ValueError
        The graph has fewer neighbours, or the settings ask for energies or global features, which it has not.
    """
    wanted = settings.neighbours
    atoms, there = crystal_graph.neighbours.shape
    if not 1 <= wanted <= there:
        raise ValueError(f"the crystal graph has {there} neighbours an atom, so {wanted} cannot be taken")
    if isinstance(settings, GcnSettings) and (settings.energies or settings.globals):
        raise ValueError("the crystal graph has neither energies nor global features")
    gaussians, reach_A = (
        (settings.gaussians, settings.reach_A) if isinstance(settings, CgcnnSettings) else (GAUSSIANS, REACH_A)
    )
    sources = crystal_graph.neighbours[:, :wanted].reshape(-1)
    distances_A = crystal_graph.neighbour_A[:, :wanted].reshape(-1)
    return Data(
        x=real(atom_features(crystal_graph)),
        edge_index=torch.as_tensor(np.stack([sources, np.repeat(np.arange(atoms), wanted)]), dtype=torch.long),
        edge_weight=real(np.ones(atoms * wanted)),
        edge_attr=real(distance_gaussians(distances_A, gaussians, reach_A)),
        node_weight=real(np.full(atoms, 1.0 / atoms)),
        global_values=real(np.zeros((1, 0))),
        y=real(transformed_barriers(np.array([barrier_eV]), settings)),
    )


def crystal_gcn(settings: GcnSettings = CRYSTAL_GCN) -> InterstitialGcn:
    """The interstitial network, for what :func:`crystal_graph_data` makes with its settings."""
    return InterstitialGcn(settings, Columns(len(atom_feature_names()), GAUSSIANS, 0))


def crystal_graph_model(settings: CrystalSettings) -> InterstitialGcn | CrystalGraphNetwork:
    """The network of these settings, for what :func:`crystal_graph_data` makes with them."""
    return CrystalGraphNetwork(settings) if isinstance(settings, CgcnnSettings) else crystal_gcn(settings)


class GatedConvolution(nn.Module):
    """Xie and Grossman's convolution, on a graph in which every atom has equally many neighbours.

    One linear layer takes atom, neighbour and distance. Its columns for the two atoms are applied to the atoms and
    not to the pairs, of which there are twelve times as many; the sum is the same. torch-geometric's ``CGConv`` with
    the same weights, those of its ``lin_f`` above those of its ``lin_s``, gives the same answer.

    Parameters
    ----------
    hidden
        Channels of each atom.
    distances
        Columns of the distances.
    batch_norm
        Normalise the sums of the messages over the batch.
    """

    def __init__(self, hidden: int, distances: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear = nn.Linear(2 * hidden + distances, 2 * hidden)
        self.norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()

    def forward(self, x: Tensor, neighbours: Tensor, distances: Tensor) -> Tensor:
        """Atoms after the convolution.

        Parameters
        ----------
        x
            Atoms, shape (atoms, hidden).
        neighbours
            Of each atom, shape (atoms, neighbours).
        distances
            Of the pairs in the same order, shape (atoms * neighbours, columns).
        """
        halves = zip(self.linear.weight.chunk(2), self.linear.bias.chunk(2), strict=True)
        gates, values = (self._pairs(x, neighbours, distances, weight, bias) for weight, bias in halves)
        return x + self.norm((torch.sigmoid(gates) * functional.softplus(values)).sum(dim=1))

    def _pairs(self, x: Tensor, neighbours: Tensor, distances: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One half of the linear layer on all pairs, shape (atoms, neighbours, hidden)."""
        of_target, of_source, of_distance = weight.split([self.hidden, self.hidden, distances.shape[1]], dim=1)
        others = functional.linear(x, of_source).index_select(0, neighbours.reshape(-1))
        pairs = torch.addmm(others, distances, of_distance.T).view(*neighbours.shape, self.hidden)
        return pairs + functional.linear(x, of_target, bias)[:, None]


class CrystalGraphNetwork(BarrierRegression):
    """Gated convolutions over the atoms of a crystal, their mean, and a perceptron.

    Call :meth:`fit_scales` with the training crystals before training. The scales are kept with the weights.
    """

    settings: CgcnnSettings
    node_scale: Tensor

    def __init__(self, settings: CgcnnSettings) -> None:
        columns = len(atom_feature_names())
        super().__init__(settings, {"node": columns})
        self.embedding = nn.Linear(columns, settings.hidden)
        self.convolutions = nn.ModuleList(
            [
                GatedConvolution(settings.hidden, settings.gaussians, settings.batch_norm)
                for _ in range(settings.convolutions)
            ]
        )
        parts: list[nn.Module] = []
        before = settings.hidden
        for width in settings.perceptron:
            parts += [nn.Linear(before, width), nn.Softplus()]
            before = width
        self.perceptron = nn.Sequential(nn.Softplus(), *parts, nn.Linear(before, 1))

    def forward(self, batch: Data) -> Tensor:
        """Standardised targets, shape (crystals,).

        Raises
        ------
        ValueError
            The edges are not those of :func:`crystal_graph_data`.
        """
        x = self.embedding(scaled(batch.x, self.node_scale))
        neighbours = _neighbour_table(batch.edge_index, len(x))
        for convolution in self.convolutions:
            x = convolution(x, neighbours, batch.edge_attr)
        mean = global_add_pool(batch.node_weight[:, None] * x, batch.batch, int(batch.num_graphs))
        return self.perceptron(mean)[:, 0]


def _neighbour_table(edges: Tensor, atoms: int) -> Tensor:
    """Neighbours of each atom, shape (atoms, neighbours), from edges in the order of the atoms they lead to."""
    each = edges.shape[1] // atoms
    if not torch.equal(edges[1], torch.arange(atoms, device=edges.device).repeat_interleave(each)):
        raise ValueError("every atom must have equally many neighbours, and these must follow one another")
    return edges[0].view(atoms, each)
