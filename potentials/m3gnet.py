"""M3GNet potentials (Chen and Ong, Nat. Comput. Sci. 2, 718, 2022) with matgl's weights of before 3.0.

matgl 3.0 turned the direction in which a graph convolution collects its messages, and re-released every model. Older
weights still load in it without an error and give wrong numbers (LiFePO4: -50 eV instead of -190 eV a cell), so they
are run here with the direction that they were trained with.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..transport.errors import StructureError
from .entries import PotentialEntry, Precision
from .runtime import batches, check_finite, check_images, default_dtype, torch_dtype
from .weights import WrongWeightsError


def restore_message_direction(model: torch.nn.Module) -> int:
    """Make the graph convolutions of a model collect messages as matgl did before 3.0.

    A convolution's node update (eq. 5 of the paper) sums the messages of an atom's edges. matgl >= 3 sums them at the
    edge's first atom, earlier versions at the second.

    Parameters
    ----------
    model
        The M3GNet network; changed in place.

    Returns
    -------
    int
        How many convolutions were changed.
    """
    from matgl.layers._graph_convolution import M3GNetGraphConv
    from matgl.utils.maths import scatter_add

    class SecondAtomGraphConv(M3GNetGraphConv):
        """Graph convolution that sums messages at the second atom of an edge."""

        def node_update_(
            self,
            edge_index: torch.Tensor,
            edge_feat: torch.Tensor,
            node_feat: torch.Tensor,
            rbf: torch.Tensor,
            u_per_edge: torch.Tensor | None,
            num_nodes: int,
        ) -> torch.Tensor:
            first, second = edge_index[0], edge_index[1]
            parts = [node_feat[first], node_feat[second], edge_feat]
            if self.include_state and u_per_edge is not None:
                parts.append(u_per_edge)
            messages = self.node_update_func(torch.hstack(parts)) * self.node_weight_func(rbf)
            return scatter_add(messages, second, dim_size=num_nodes, dim=0)

    convolutions = [module for module in model.modules() if type(module) is M3GNetGraphConv]
    for convolution in convolutions:
        convolution.__class__ = SecondAtomGraphConv
    return len(convolutions)


class M3GNetPotential:
    """An M3GNet model behind the :class:`hopflow.transport.energies.Potential` protocol.

    Parameters
    ----------
    entry
        The registry's entry.
    weights
        Folder with ``model.json``, ``model.pt`` and ``state.pt``.
    device
        ``cpu`` or ``cuda``.
    dtype
        ``float32`` or ``float64``. The weights were trained in float32; float64 takes out the rounding of sums.

    Raises
    ------
    WrongWeightsError
        The folder does not hold an M3GNet potential.
    """

    def __init__(self, entry: PotentialEntry, weights: Path, device: str, dtype: Precision) -> None:
        from matgl.apps.pes import Potential as MatglPotential
        from matgl.ext.ase import Atoms2Graph
        from torch_geometric.data import Batch

        self.name = entry.name
        self.weights_sha256 = entry.sha256
        self.method = f"{entry.method}, {dtype}"
        self.device = device
        self.dtype = dtype
        self._join = Batch.from_data_list
        with default_dtype("float32"), warnings.catch_warnings():
            # matgl warns of every model that is not in its newest format; the reference energy decides instead.
            warnings.simplefilter("ignore")
            model = MatglPotential.load({file.name: weights / file.name for file in entry.files})
        if restore_message_direction(model.model) == 0:
            raise WrongWeightsError(
                f"{weights} holds no M3GNet graph convolutions; choose another potential or reinstall matgl."
            )
        self._model = model.to(device=device, dtype=torch_dtype(dtype)).eval()
        self._model.calc_stresses = False
        for parameter in self._model.parameters():
            parameter.requires_grad = False
        self._converter = Atoms2Graph(tuple(model.model.element_types), float(model.model.cutoff))
        self.elements = frozenset(model.model.element_types)

    def _graph(self, image: Atoms) -> tuple[Any, torch.Tensor]:
        """Graph of one image, and its cell of shape (1, 3, 3)."""
        if not image.pbc.all():
            raise StructureError(
                f"{self.name} takes crystals that are periodic in three directions; give the structure a cell."
            )
        graph, _, _ = self._converter.get_graph(image)
        # The converter rounds to float32, which would make float64 energies step-like.
        kind = torch_dtype(self.dtype)
        graph.frac_coords = torch.as_tensor(image.get_scaled_positions(wrap=False), dtype=kind)
        return graph, torch.as_tensor(np.array(image.cell.array), dtype=kind).unsqueeze(0)

    def _evaluate(self, images: Sequence[Atoms], forces: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        check_images(images, self.elements, self.name)
        energies: list[np.ndarray] = []
        split: list[np.ndarray] = []
        with default_dtype("float32"):  # matgl builds its tensors in float32 whatever the model's precision
            self._model.calc_forces = forces
            for batch in batches(images, self.device):
                graphs, cells = zip(*(self._graph(image) for image in batch), strict=True)
                graph = self._join(list(graphs)).to(self.device)
                output = self._model(graph, torch.cat(cells).to(self.device))
                energies.append(output[0].detach().cpu().numpy().astype(np.float64).reshape(-1))
                if forces:
                    flat = output[1].detach().cpu().numpy().astype(np.float64)
                    split.extend(np.split(flat, np.cumsum([len(image) for image in batch])[:-1]))
        joined = np.concatenate(energies) if energies else np.zeros(0)
        check_finite(joined, split, self.name)
        return joined, split

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        """Energies in eV, shape (images,); about three times cheaper than with forces.

        Raises
        ------
        CandidateError
            An element outside the model, no atoms, or not periodic.
        NonFiniteEnergyError
            An energy is NaN or infinite.
        """
        return self._evaluate(images, forces=False)[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV, shape (images,), and forces in eV/Angstrom, one (atoms, 3) array an image.

        Raises
        ------
        CandidateError
            An element outside the model, no atoms, or not periodic.
        NonFiniteEnergyError
            An energy or force is NaN or infinite.
        """
        return self._evaluate(images, forces=True)
