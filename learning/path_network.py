"""The path network: messages between the framework's atoms and the images of the migrating ion.

Atoms exchange messages along bonds, images gather messages from the atoms around them and from their neighbours along
the path, and a readout that treats both ends alike turns the images into a mean and a variance of the transformed
barrier. SchNet-like continuous filters (Schütt et al., J. Chem. Phys. 148, 241722, 2018) on a band of images in one
graph (the idea of Devi et al., arXiv 2508.06436).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .elements import DESCRIPTORS
from .path_graphs import IMAGE_FEATURES, PATH_FEATURES, GraphSettings, PathGraph


@dataclass(frozen=True)
class NetworkSettings:
    """Size of the network."""

    hidden: int = 48
    layers: int = 2
    radial_functions: int = 16
    dropout: float = 0.15
    targets: int = 2


@dataclass
class PathBatch:
    """Several path graphs as one, in tensors.

    Attributes
    ----------
    ion_rows
        Shape (paths,).
    atom_rows, atom_character, atom_weights, atom_path
        Element row, anion character, smooth cutoff and path of each atom, shape (atoms,).
    image_edges, image_edge_A
        Image (numbered through the batch) and atom of each edge (2, edges), and its length.
    bond_edges, bond_edge_A
        Source and target atom of each bond (2, bonds), and its length.
    middle_distance
        Shape (paths, images).
    image_features
        Shape (paths, images, len(IMAGE_FEATURES)).
    path_features
        Shape (paths, len(PATH_FEATURES)).
    """

    ion_rows: Tensor
    atom_rows: Tensor
    atom_character: Tensor
    atom_weights: Tensor
    atom_path: Tensor
    image_edges: Tensor
    image_edge_A: Tensor
    bond_edges: Tensor
    bond_edge_A: Tensor
    middle_distance: Tensor
    image_features: Tensor
    path_features: Tensor

    @classmethod
    def from_graphs(cls, graphs: Sequence[PathGraph]) -> PathBatch:
        """Join graphs; atoms and images are numbered through."""
        atoms = np.array([len(graph.atom_rows) for graph in graphs])
        images = np.array([len(graph.middle_distance) for graph in graphs])
        first_atom = np.concatenate([[0], np.cumsum(atoms)[:-1]])
        first_image = np.concatenate([[0], np.cumsum(images)[:-1]])
        image_edges = [
            graph.image_edges + np.array([[image], [atom]])
            for graph, image, atom in zip(graphs, first_image, first_atom, strict=True)
        ]
        bonds = [graph.bond_edges + atom for graph, atom in zip(graphs, first_atom, strict=True)]

        def real(arrays: list[np.ndarray]) -> Tensor:
            return torch.as_tensor(np.concatenate(arrays), dtype=torch.float32)

        def stack(arrays: list[np.ndarray]) -> Tensor:
            return torch.as_tensor(np.stack(arrays), dtype=torch.float32)

        return cls(
            ion_rows=torch.tensor([graph.ion_row for graph in graphs]),
            atom_rows=torch.as_tensor(np.concatenate([graph.atom_rows for graph in graphs])),
            atom_character=real([graph.atom_anion_character for graph in graphs]),
            atom_weights=real([graph.atom_weights for graph in graphs]),
            atom_path=torch.as_tensor(np.repeat(np.arange(len(graphs)), atoms)),
            image_edges=torch.as_tensor(np.concatenate(image_edges, axis=1)),
            image_edge_A=real([graph.image_edge_A for graph in graphs]),
            bond_edges=torch.as_tensor(np.concatenate(bonds, axis=1)),
            bond_edge_A=real([graph.bond_edge_A for graph in graphs]),
            middle_distance=stack([graph.middle_distance for graph in graphs]),
            image_features=stack([graph.image_features for graph in graphs]),
            path_features=stack([graph.path_features for graph in graphs]),
        )


class RadialFilter(nn.Module):
    """Gaussians of a distance, under a smooth cutoff, turned into one factor a channel for each layer."""

    centres: Tensor

    def __init__(self, functions: int, cutoff_A: float, channels: int, layers: int) -> None:
        super().__init__()
        self.cutoff_A = cutoff_A
        self.width_A = cutoff_A / functions
        self.layers = layers
        self.register_buffer("centres", torch.linspace(0.8, cutoff_A, functions))
        self.mix = nn.Linear(functions, channels * layers)

    def forward(self, distances_A: Tensor, weights: Tensor | None = None) -> tuple[Tensor, ...]:
        """Factors of each layer, shape (edges, channels), times the weight of each edge where given."""
        gaussians = torch.exp(-0.5 * ((distances_A[:, None] - self.centres) / self.width_A) ** 2)
        reach = 0.5 * (torch.cos(torch.pi * torch.clamp(distances_A / self.cutoff_A, max=1.0)) + 1.0)
        if weights is not None:
            reach = reach * weights
        return torch.chunk(self.mix(gaussians) * reach[:, None], self.layers, dim=1)


class BandLayer(nn.Module):
    """One round: atom to atom, atom to image, image to the images before and after."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        hidden = settings.hidden
        self.bond_source = nn.Linear(hidden, hidden)
        self.image_source = nn.Linear(hidden, hidden)
        self.atom_update = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.image_update = nn.Sequential(
            nn.Linear(3 * hidden, hidden), nn.SiLU(), nn.Dropout(settings.dropout), nn.Linear(hidden, hidden)
        )
        self.atom_norm, self.image_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(
        self, atoms: Tensor, images: Tensor, batch: PathBatch, bond_factors: Tensor, image_factors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New states of atoms (atoms, hidden) and images (paths, images, hidden)."""
        source, target = batch.bond_edges
        message = self.bond_source(atoms)[source] * bond_factors
        gathered = torch.zeros_like(atoms).index_add_(0, target, message)
        atoms = self.atom_norm(atoms + self.atom_update(torch.cat([atoms, gathered], dim=1)))

        image, atom = batch.image_edges
        message = self.image_source(atoms)[atom] * image_factors
        seen = torch.zeros_like(images.reshape(-1, images.shape[-1])).index_add_(0, image, message).view_as(images)
        beside = torch.cat([images[:, 1:2], 0.5 * (images[:, :-2] + images[:, 2:]), images[:, -2:-1]], dim=1)
        images = self.image_norm(images + self.image_update(torch.cat([images, seen, beside], dim=2)))
        return atoms, images


class PathNetwork(nn.Module):
    """Mean and logarithm of the squared scale (Laplace) of the transformed barrier of each path, standardised.

    Parameters
    ----------
    settings
        Size.
    graph_settings
        Cutoffs that the graphs were built with.
    descriptors
        Standardised element descriptors, shape (elements, len(DESCRIPTORS)); kept with the weights.
    feature_scale
        Mean and standard deviation of image features (2, len(IMAGE_FEATURES)) and path features
        (2, len(PATH_FEATURES)) over the training paths.
    """

    descriptors: Tensor
    image_scale: Tensor
    path_scale: Tensor
    target_scale: Tensor

    def __init__(
        self,
        settings: NetworkSettings,
        graph_settings: GraphSettings,
        descriptors: Tensor,
        feature_scale: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__()
        hidden, width = settings.hidden, len(DESCRIPTORS)
        self.register_buffer("descriptors", descriptors.float())
        self.register_buffer("image_scale", feature_scale[0].float())
        self.register_buffer("path_scale", feature_scale[1].float())
        self.register_buffer("target_scale", torch.tensor([[0.0], [1.0]]).repeat(1, settings.targets))
        self.atom_embedding = nn.Sequential(nn.Linear(width + 1, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.image_embedding = nn.Sequential(
            nn.Linear(width + len(IMAGE_FEATURES) + 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.layers = nn.ModuleList([BandLayer(settings) for _ in range(settings.layers)])
        functions = settings.radial_functions
        self.bond_filter = RadialFilter(functions, graph_settings.bond_cutoff_A, hidden, settings.layers)
        self.image_filter = RadialFilter(functions, graph_settings.path_cutoff_A, hidden, settings.layers)
        known = 4 * len(IMAGE_FEATURES) + len(PATH_FEATURES) + width + 2 * (width + 1)
        self.readout = nn.Sequential(
            nn.Linear(6 * hidden + known, 2 * hidden),
            nn.SiLU(),
            nn.Dropout(2.0 * settings.dropout),
            nn.Linear(2 * hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * settings.targets),
        )
        self.targets = settings.targets

    def forward(self, batch: PathBatch) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variance of the transformed targets, each of shape (paths, targets)."""
        paths, count = batch.middle_distance.shape
        ion = self.descriptors[batch.ion_rows]
        described = torch.cat([self.descriptors[batch.atom_rows], batch.atom_character[:, None]], dim=1)
        features = (batch.image_features - self.image_scale[0]) / self.image_scale[1]
        features = features.clamp(-4.0, 4.0)
        place = torch.stack([batch.middle_distance, batch.middle_distance**2], dim=2)
        atoms = self.atom_embedding(described)
        images = self.image_embedding(torch.cat([features, ion[:, None, :].expand(-1, count, -1), place], dim=2))
        # an atom that leaves the graph at its rim fades out instead of vanishing
        bonds = self.bond_filter(batch.bond_edge_A, batch.atom_weights[batch.bond_edges[0]])
        seen = self.image_filter(batch.image_edge_A)
        for layer, bond_factors, image_factors in zip(self.layers, bonds, seen, strict=True):
            atoms, images = layer(atoms, images, batch, bond_factors, image_factors)

        path_features = ((batch.path_features - self.path_scale[0]) / self.path_scale[1]).clamp(-4.0, 4.0)
        summary = [
            _both_ends_alike(images),
            _weighted_mean(atoms, batch.atom_weights, batch.atom_path, paths),
            _both_ends_alike(features)[:, : 4 * features.shape[2]],
            path_features,
            ion,
            _weighted_mean(described, batch.atom_weights * (1.0 + batch.atom_character), batch.atom_path, paths),
            _weighted_mean(described, batch.atom_weights * (1.0 - batch.atom_character), batch.atom_path, paths),
        ]
        output = self.readout(torch.cat(summary, dim=1))
        return output[:, : self.targets], output[:, self.targets :].clamp(-7.0, 3.0)

    def answer(self, batch: PathBatch) -> tuple[Tensor, Tensor]:
        """As ``forward``, but in the targets' own scale instead of the standardised one."""
        mean, log_variance = self(batch)
        centre, spread = self.target_scale
        return centre + spread * mean, log_variance + 2.0 * torch.log(spread)


def _both_ends_alike(images: Tensor) -> Tensor:
    """Mean and difference of the ends, middle less ends, highest and mean of the images, (paths, 5 * channels)."""
    first, last, middle = images[:, 0], images[:, -1], images[:, images.shape[1] // 2]
    ends = 0.5 * (first + last)
    return torch.cat([ends, (first - last).abs(), middle - ends, images.amax(dim=1), images.mean(dim=1)], dim=1)


def _weighted_mean(values: Tensor, weights: Tensor, path: Tensor, paths: int) -> Tensor:
    """Mean over the atoms of each path, zero where all weights are zero, (paths, channels)."""
    total = torch.zeros(paths, values.shape[1]).index_add_(0, path, values * weights[:, None])
    weight = torch.zeros(paths).index_add_(0, path, weights)
    return total / weight.clamp(min=1e-6)[:, None]
