"""MACE potentials (Batatia et al., arXiv 2401.00096): energies, and energies with forces, from a local model file."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from ..transport.energies import SiteEvaluation
from ..transport.environment import FULL_UNPICKLING, variable_kept
from ..transport.errors import Reason
from .entries import PotentialEntry, Precision
from .mace_fusion import fuse
from .runtime import batches, check_finite, check_images, default_dtype, torch_dtype
from .weights import WrongWeightsError


def _import_mace() -> tuple[Any, Any, Any]:
    """``mace.data``, ``mace.tools.torch_geometric`` and ``mace.tools.utils``.

    mace comes before e3nn, because it switches torch.load to full unpickling, which e3nn 0.4 needs while it is
    imported. The switch would hold for every later torch.load of the process; it is put back here. mace also prints
    about accelerators that are not installed, which must not get into output that programs read.
    """
    with variable_kept(FULL_UNPICKLING):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mace.calculators  # noqa: F401  (imports e3nn after mace)
        from mace import data
        from mace.tools import torch_geometric, utils
    return data, torch_geometric, utils


class MacePotential:
    """A MACE model behind the :class:`hopflow.transport.energies.Potential` protocol.

    Parameters
    ----------
    entry
        The registry's entry.
    weights
        Model file. Unpickling it can run code, so its SHA-256 must have been checked.
    device
        ``cpu`` or ``cuda``.
    dtype
        ``float32`` or ``float64``.

    Raises
    ------
    WrongWeightsError
        The file does not hold a MACE model.
    """

    def __init__(self, entry: PotentialEntry, weights: Path, device: str, dtype: Precision) -> None:
        self.name = entry.name
        self.weights_sha256 = entry.sha256
        self.method = f"{entry.method}, {dtype}"
        self.device = device
        self.dtype = dtype
        self._data, self._graphs, utils = _import_mace()
        with default_dtype(dtype):
            model = torch.load(weights, map_location=device, weights_only=False)
            if not hasattr(model, "atomic_numbers") or not hasattr(model, "r_max"):
                raise WrongWeightsError(f"{weights} does not hold a MACE model ({Reason.WEIGHTS_WRONG.sentence})")
            self._model = model.to(device=device, dtype=torch_dtype(dtype)).eval()
        for parameter in self._model.parameters():
            parameter.requires_grad = False
        if device == "cpu":
            fuse(self._model)
        self._numbers = utils.AtomicNumberTable([int(z) for z in self._model.atomic_numbers])
        self._cutoff_A = float(self._model.r_max)
        self._heads = list(getattr(self._model, "heads", ["Default"]))
        self.elements = frozenset(chemical_symbols[z] for z in self._numbers.zs)

    def _graph(self, image: Atoms) -> Any:
        """Neighbour list and inputs of one image; only species, positions and cell are read."""
        bare = Atoms(numbers=image.numbers, positions=image.positions, cell=image.cell, pbc=image.pbc)
        configuration = self._data.config_from_atoms(bare, head_name=self._heads[-1])
        return self._data.AtomicData.from_config(
            configuration, z_table=self._numbers, cutoff=self._cutoff_A, heads=self._heads
        )

    def _evaluate(self, images: Sequence[Atoms], forces: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        check_images(images, self.elements, self.name)
        energies: list[np.ndarray] = []
        split: list[np.ndarray] = []
        with default_dtype(self.dtype), torch.set_grad_enabled(forces):
            for batch in batches(images, self.device):
                graphs = self._graphs.Batch.from_data_list([self._graph(image) for image in batch]).to(self.device)
                output = self._model(graphs.to_dict(), compute_force=forces, compute_stress=False)
                energies.append(output["energy"].detach().cpu().numpy().astype(np.float64).reshape(-1))
                if forces:
                    flat = output["forces"].detach().cpu().numpy().astype(np.float64)
                    split.extend(np.split(flat, np.cumsum([len(image) for image in batch])[:-1]))
        joined = np.concatenate(energies) if energies else np.zeros(0)
        check_finite(joined, split, self.name)
        return joined, split

    def evaluate_sites(self, image: Atoms, forces: bool = True) -> SiteEvaluation:
        """Energy of one image with the share and the description of each atom.

        Raises
        ------
        CandidateError
            An element outside the model, or no atoms.
        NonFiniteEnergyError
            An energy or force is NaN or infinite.
        """
        check_images([image], self.elements, self.name)
        with default_dtype(self.dtype), torch.set_grad_enabled(forces):
            graph = self._graphs.Batch.from_data_list([self._graph(image)]).to(self.device)
            output = self._model(graph.to_dict(), compute_force=forces, compute_stress=False)
        energy, shares, described = (
            output[name].detach().cpu().numpy().astype(np.float64) for name in ("energy", "node_energy", "node_feats")
        )
        found = output["forces"].detach().cpu().numpy().astype(np.float64) if forces else None
        check_finite(energy.reshape(-1), [] if found is None else [found], self.name)
        return SiteEvaluation(float(energy.reshape(-1)[0]), found, shares.reshape(-1), self._invariants(described))

    def _invariants(self, described: np.ndarray) -> np.ndarray:
        """The channels that turn with nothing; models of scalars hold no others."""
        from mace.modules.utils import extract_invariant

        irreps = self._model.products[0].linear.irreps_out
        channels = irreps.dim // (irreps.lmax + 1) ** 2
        layers = int(self._model.num_interactions)
        found: np.ndarray = extract_invariant(torch.as_tensor(described), layers, channels, irreps.lmax).numpy()
        return found

    def energies(self, images: Sequence[Atoms]) -> np.ndarray:
        """Energies in eV, shape (images,); two to four times cheaper than with forces.

        Raises
        ------
        CandidateError
            An element outside the model, or no atoms.
        NonFiniteEnergyError
            An energy is NaN or infinite.
        """
        return self._evaluate(images, forces=False)[0]

    def energies_and_forces(self, images: Sequence[Atoms]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV, shape (images,), and forces in eV/Angstrom, one (atoms, 3) array an image.

        Raises
        ------
        CandidateError
            An element outside the model, or no atoms.
        NonFiniteEnergyError
            An energy or force is NaN or infinite.
        """
        return self._evaluate(images, forces=True)
