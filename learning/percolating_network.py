"""A graph network that learns site energies of voids and bottlenecks and lets the ion percolate through them.

The barrier of a crystal is decided by one bottleneck: the one that closes the first path through the crystal as the
energy rises. A network that averages or adds up what it knows about all voids cannot know which one that is. This one
computes a site energy for every interstice and every bottleneck from the atoms around it and from its neighbours in the
network, finds the bottleneck and the lowest interstice of the percolating component with the exact percolation routine,
and answers with their difference and a correction. The derivative of a minimax value is that of the one bottleneck and
the one interstice that decide it, so the whole is trained from barriers; where site energies are known, they teach the
intermediate result as well.

Interactions with the atoms around are sums over atoms of a filter of the distance times a vector of the atom, as in the
continuous-filter convolution of K. T. Schütt et al., J. Chem. Phys. 148 (2018) 241722.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from .barrier_regression import LEAST_BARRIER_EV, real, scaled
from .elements import DESCRIPTORS, ElementTable, element_table
from .interstitial_graphs import GLOBAL_FEATURES, InterstitialGraph, directed_edges

#: Site energies teach up to so far above the lowest interstice (eV); an ion never goes higher.
TAUGHT_UP_TO_EV = 6.0
#: First and last centre (Angstrom) of the Gaussians that a distance is expanded in.
_CENTRES_A = {"centres": (0.8, 6.0), "surfaces": (-0.5, 4.5)}
DIMENSIONS = 3


@dataclass(frozen=True)
class PercolatingSettings:
    """Shape and training of the network.

    Attributes
    ----------
    channels
        Width of the vectors of atoms, interstices and bottlenecks.
    rounds
        Rounds of messages between interstices and bottlenecks.
    gaussians
        Number of functions that a distance is expanded in.
    distances
        ``centres`` measures to the centres of the atoms around, ``surfaces`` to their surfaces, that is less their
        radii. The former is a little better for chemistry that the training knows, the latter much better for an
        anion that it does not: what an ion feels at a surface changes less from one element to the next.
    energies
        Start from bond-valence site energies where they are known; otherwise all energies are learned.
    both_minima
        Tell the correction how far the bottleneck lies above the lowest interstice of all, beside how far above that of
        its own component. Where a site joins the path only just below the bottleneck, the two differ and either may
        be what the exact field counts from.
    site_energy_weight
        Weight of the error of the site energies beside that of the barriers.
    epochs, learning_rate, batch_size, weight_decay
        Of AdamW with one cycle of the learning rate.
    """

    channels: int = 32
    rounds: int = 2
    gaussians: int = 20
    distances: Literal["centres", "surfaces"] = "centres"
    energies: bool = False
    both_minima: bool = False
    site_energy_weight: float = 1.0
    epochs: int = 20
    learning_rate: float = 4e-3
    batch_size: int = 32
    weight_decay: float = 1e-2
    target: Literal["log_barrier"] = "log_barrier"

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning."""
        if self.channels < 1 or self.rounds < 0 or self.gaussians < 2:
            raise ValueError("the network must have a channel, two Gaussians and no negative number of rounds")
        if self.distances not in _CENTRES_A:
            raise ValueError(f"distances must be 'centres' or 'surfaces', not {self.distances!r}")


class PercolatingData(Data):
    """A crystal as tensors: its interstices come first, then its bottlenecks, and both are sites.

    Attributes
    ----------
    atom_features
        Shape (atoms, columns).
    site_atoms, site_distances_A
        Nearest atoms of each site and their distances, shape (sites, neighbours).
    site_features, site_shares
        Shape (sites, columns), and the share of each site in the interstices or the bottlenecks of the crystal.
    site_heights_eV
        Bond-valence energy above the lowest interstice, NaN where it is not known, shape (sites,).
    edge_sites
        Site of each bottleneck and of the interstices at both ends, shape (3, edges).
    link_sites, link_weights
        Site of the bottleneck and of the interstice of each connection, shape (2, links), and how many of them one
        interstice has, shape (links,).
    global_values
        Shape (1, 2 * globals).
    y
        Logarithms of the barriers in 1, 2 and 3 dimensions, NaN where unknown, shape (1, 3).
    graph
        The graph itself, whose topology the percolation needs.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Number that is added to indices of the next crystal of a batch."""
        if key == "site_atoms":
            return len(self.atom_features)
        if key in ("edge_sites", "link_sites"):
            return self.num_nodes
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Dimension along which crystals are joined."""
        if key in ("edge_sites", "link_sites"):
            return 1
        return super().__cat_dim__(key, value, *args, **kwargs)


def percolating_data(
    graph: InterstitialGraph,
    settings: PercolatingSettings,
    barriers_eV: np.ndarray | None = None,
    table: ElementTable | None = None,
) -> PercolatingData:
    """A graph and its labels as tensors; barriers of NaN or ``inf`` (no path) teach nothing.

    Parameters
    ----------
    graph
        Filtered or not.
    settings
        Which features to take.
    barriers_eV
        In 1, 2 and 3 dimensions, shape (3,).
    table
        Descriptors of the elements.
    """
    nodes, edges = len(graph.node_radii_A), len(graph.edges)
    charges = graph.atom_charges
    described = (table or element_table()).values[graph.atom_rows]
    known_charge = np.isfinite(charges)
    atoms = np.column_stack([described, np.nan_to_num(charges), known_charge, graph.atom_radii_A])
    radii = np.concatenate([graph.node_radii_A, graph.edge_radii_A])
    lengths = np.concatenate([np.zeros(nodes), graph.edge_lengths_A])
    kind = np.repeat([0.0, 1.0], [nodes, edges])
    neighbours = np.concatenate([graph.node_neighbours, graph.edge_neighbours])
    distances_A = np.concatenate([graph.node_neighbour_A, graph.edge_neighbour_A])
    if settings.distances == "surfaces":
        distances_A = distances_A - graph.atom_radii_A[neighbours]
    energies = np.concatenate([graph.node_energies_eV, graph.edge_energies_eV])
    heights = energies - graph.node_energies_eV.min() if graph.has_energies else np.full(nodes + edges, np.nan)
    _, which, counts = (links := directed_edges(graph))
    targets = links[0][1]
    values = graph.global_features[_global_columns(settings)]
    finite = np.isfinite(values)
    labels = np.full(DIMENSIONS, np.nan) if barriers_eV is None else np.asarray(barriers_eV, dtype=float)
    shares = np.concatenate([graph.node_counts / graph.node_counts.sum(), graph.edge_counts / graph.edge_counts.sum()])
    return PercolatingData(
        num_nodes=nodes + edges,
        atom_features=real(atoms),
        site_atoms=torch.as_tensor(neighbours, dtype=torch.long),
        site_distances_A=real(distances_A),
        site_features=real(np.column_stack([radii, lengths, kind, distances_A])),
        site_shares=real(shares),
        site_heights_eV=real(heights),
        edge_sites=torch.as_tensor(np.stack([nodes + np.arange(edges), *graph.edges.T]), dtype=torch.long),
        link_sites=torch.as_tensor(np.stack([nodes + which, targets]), dtype=torch.long),
        link_weights=real(counts),
        global_values=real(np.concatenate([np.where(finite, values, 0.0), finite.astype(float)])[None, :]),
        y=real(np.log(np.maximum(np.where(np.isfinite(labels), labels, np.nan), LEAST_BARRIER_EV))[None, :]),
        graph=graph,
    )


class PercolatingNetwork(nn.Module):
    """Site energies from atoms and messages, exact percolation, and a correction with an uncertainty.

    Call :meth:`fit_scales` with the training crystals before training. The scales are kept with the weights.
    """

    atom_scale: Tensor
    site_scale: Tensor
    global_scale: Tensor
    target_scale: Tensor
    centres_A: Tensor

    def __init__(self, settings: PercolatingSettings, neighbours: int = 12) -> None:
        super().__init__()
        self.settings = settings
        width = settings.channels
        atoms, sites = len(DESCRIPTORS) + 3, 3 + neighbours
        more = 2 * int(_global_columns(settings).sum())
        for name, columns in (("atom", atoms), ("site", sites), ("global", more), ("target", DIMENSIONS)):
            self.register_buffer(f"{name}_scale", torch.tensor([[0.0], [1.0]]).repeat(1, columns))
        self.register_buffer("centres_A", torch.linspace(*_CENTRES_A[settings.distances], settings.gaussians))
        known = 2 if settings.energies else 0
        self.atom_vector = _perceptron(atoms, 2 * width, width)
        self.filter = nn.Linear(settings.gaussians, width)
        self.start = _perceptron(width + sites + known, 2 * width, width)
        self.crystal = _perceptron(width + more, 2 * width, width)
        self.to_bottleneck = nn.ModuleList([_perceptron(3 * width, width, width) for _ in range(settings.rounds)])
        self.to_interstice = nn.ModuleList([_perceptron(2 * width, width, width) for _ in range(settings.rounds)])
        self.energy = _perceptron(width, width, 1)
        heights = (3 + settings.both_minima) * DIMENSIONS
        self.correction = _perceptron(3 * width + heights, 2 * width, 2)

    def fit_scales(self, crystals: Sequence[PercolatingData]) -> None:
        """Set mean and deviation of features and targets to those of the training crystals."""
        columns = {
            "atom": torch.cat([crystal.atom_features for crystal in crystals]),
            "site": torch.cat([crystal.site_features for crystal in crystals]),
            "global": torch.cat([crystal.global_values for crystal in crystals]),
            "target": torch.cat([crystal.y for crystal in crystals]),
        }
        for name, values in columns.items():
            centre = torch.nan_to_num(torch.nanmean(values, dim=0))
            spread = torch.nanmean((values - centre) ** 2, dim=0).sqrt()
            spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
            getattr(self, f"{name}_scale").copy_(torch.stack([centre, spread]))

    def site_energies(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of interstices and bottlenecks in eV, their vectors, and that of each crystal.

        Returns
        -------
        tuple
            Shapes (sites,), (sites, channels) and (crystals, channels).
        """
        crystals, crystal = int(batch.num_graphs), batch.batch
        atoms = self.atom_vector(scaled(batch.atom_features, self.atom_scale))
        width_A = float(self.centres_A[1] - self.centres_A[0])
        expanded = torch.exp(-0.5 * ((batch.site_distances_A[..., None] - self.centres_A) / width_A) ** 2)
        near = atoms.index_select(0, batch.site_atoms.reshape(-1)).view(*batch.site_atoms.shape, -1)
        around = (self.filter(expanded) * near).sum(dim=1)
        described = [around, scaled(batch.site_features, self.site_scale)]
        heights = batch.site_heights_eV
        if self.settings.energies:
            known = torch.isfinite(heights)
            height = torch.where(known, heights.clamp(max=TAUGHT_UP_TO_EV), torch.zeros_like(heights))
            described += [height[:, None], known[:, None].to(height.dtype)]
        x = self.start(torch.cat(described, dim=1))
        mean = scatter(batch.site_shares[:, None] * x, crystal, dim=0, dim_size=crystals, reduce="sum")
        summary = self.crystal(torch.cat([mean, scaled(batch.global_values, self.global_scale)], dim=1))
        x = x + summary.index_select(0, crystal)
        own, first, second = batch.edge_sites
        bottlenecks, interstices = batch.link_sites
        voids = torch.nonzero(batch.site_features[:, 2] == 0)[:, 0]
        links = scatter(batch.link_weights, interstices, dim=0, dim_size=len(x), reduce="sum").clamp(min=1e-9)
        for to_bottleneck, to_interstice in zip(self.to_bottleneck, self.to_interstice, strict=True):
            one, other = x.index_select(0, first), x.index_select(0, second)
            ends = torch.cat([x.index_select(0, own), one + other, (one - other).abs()], dim=1)
            x = x.index_add(0, own, to_bottleneck(ends))
            gathered = batch.link_weights[:, None] * x.index_select(0, bottlenecks)
            heard = torch.zeros_like(x).index_add(0, interstices, gathered) / links[:, None]
            here = torch.cat([x.index_select(0, voids), heard.index_select(0, voids)], dim=1)
            x = x.index_add(0, voids, to_interstice(here))
        energy = self.energy(x)[:, 0]
        if self.settings.energies:
            energy = energy + height
        return energy, x, summary

    def forward(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the barriers in 1, 2 and 3 dimensions, of their widths, and the site energies.

        Returns
        -------
        tuple
            Shapes (crystals, 3), (crystals, 3) and (sites,). The width is that of a Laplace distribution.
        """
        energy, x, summary = self.site_energies(batch)
        top, bottom, open_ = percolating_sites(batch, energy.detach().double().numpy())
        height = (energy[top] - energy[bottom]).clamp(min=0.0) * open_
        logarithm = torch.log(height + LEAST_BARRIER_EV)
        every = torch.cat([logarithm, open_], dim=1)
        if self.settings.both_minima:
            void = batch.site_features[:, 2] == 0
            least = scatter(energy[void], batch.batch[void], dim=0, dim_size=len(summary), reduce="min")
            from_least = (energy[top] - least[:, None]).clamp(min=0.0) * open_
            every = torch.cat([every, torch.log(from_least + LEAST_BARRIER_EV)], dim=1)
        centre, spread = self.target_scale
        answers = []
        for d in range(DIMENSIONS):
            chosen = torch.zeros_like(every[:, :DIMENSIONS])
            chosen[:, d] = 1.0
            answers.append(self.correction(torch.cat([x[top[:, d]], x[bottom[:, d]], summary, every, chosen], dim=1)))
        answer = torch.stack(answers, dim=1)
        base = torch.where(open_ > 0, logarithm, centre + spread)
        return base + answer[..., 0], answer[..., 1].clamp(-6.0, 3.0), energy

    def distribution(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Logarithms of the barriers and their standard deviations, shape (crystals, 3) each.

        A barrier in more dimensions is never the lower one.
        """
        mean, width, _ = self(batch)
        return torch.cummax(mean, dim=1).values, math.sqrt(2.0) * torch.exp(width)

    def loss(self, batch: Any) -> Tensor:
        """Negative logarithm of the likelihood of the barriers, and the error of the site energies.

        Raises
        ------
        ValueError
            No crystal of the batch has a barrier.
        """
        mean, width, energy = self(batch)
        labelled = torch.isfinite(batch.y)
        if not bool(labelled.any()):
            raise ValueError("no crystal of the batch has a barrier")
        error = (mean - batch.y)[labelled].abs()
        total = (error * torch.exp(-width[labelled]) + width[labelled]).mean()
        return total + self.settings.site_energy_weight * self._site_energy_loss(batch, energy)

    def _site_energy_loss(self, batch: Any, energy: Tensor) -> Tensor:
        """Huber error of known energies above the interstice that is lowest in truth, near it more than far above."""
        goal = batch.site_heights_eV
        known = torch.isfinite(goal)
        if not bool(known.any()):
            return energy.sum() * 0.0
        goal = torch.where(known, goal.clamp(max=TAUGHT_UP_TO_EV), torch.zeros_like(goal))
        weight = torch.where(known, 1.0 / (0.5 + goal.clamp(min=0.0)), torch.zeros_like(goal))
        crystals = int(batch.num_graphs)
        # What all energies of a crystal have in common has no meaning.
        total = scatter(weight, batch.batch, dim=0, dim_size=crystals, reduce="sum").clamp(min=1e-9)
        difference = energy.clamp(max=TAUGHT_UP_TO_EV + 1.0) - goal
        offset = scatter(weight * difference, batch.batch, dim=0, dim_size=crystals, reduce="sum") / total
        error = nn.functional.smooth_l1_loss(
            difference - offset[batch.batch], torch.zeros_like(difference), reduction="none", beta=0.1
        )
        return (weight * error).sum() / weight.sum()


def percolating_sites(batch: Any, energies_eV: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Sites that decide the barriers of each crystal of a batch at the given energies.

    Returns
    -------
    tuple
        The highest site of the percolating path and the lowest interstice of its component, int64, shape
        (crystals, 3), and 1 where the network percolates at all; otherwise 0 and the crystal's first site.
    """
    starts = batch.ptr.tolist()
    top, bottom = np.zeros((2, len(batch.graph), DIMENSIONS), dtype=np.int64)
    open_ = np.zeros((len(batch.graph), DIMENSIONS), dtype=np.float32)
    for k, graph in enumerate(batch.graph):
        nodes = len(graph.node_radii_A)
        energies = energies_eV[starts[k] : starts[k + 1]]
        found = graph.percolation(energies[:nodes], energies[nodes:])
        top[k] = bottom[k] = starts[k]
        for d, (segment, lowest) in enumerate(zip(found.bottleneck, found.component_minimum_node, strict=True)):
            if segment is None or lowest is None:
                continue
            # A bottleneck that is predicted below one of its interstices is no bottleneck: the interstice is.
            ends = graph.interstice_nodes[graph.segment_ends[segment]]
            sites = np.array([nodes + graph.segment_edges[segment], *ends])
            top[k, d] = starts[k] + sites[np.argmax(energies[sites])]
            bottom[k, d] = starts[k] + graph.interstice_nodes[lowest]
            open_[k, d] = 1.0
    return torch.as_tensor(top), torch.as_tensor(bottom), torch.as_tensor(open_)


def _perceptron(columns: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(columns, hidden), nn.SiLU(), nn.Linear(hidden, out))


def _global_columns(settings: PercolatingSettings) -> np.ndarray:
    return np.array([settings.energies or not name.endswith("_eV") for name in GLOBAL_FEATURES])
