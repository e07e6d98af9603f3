"""MACE models of scalars on the processor, several times faster: the same sums without the arrays in between.

The general code of a convolution writes bonds x channels x components numbers several times over (60 MB for 100 atoms)
and reads them back, and so do its many-body products; memory is what such an evaluation waits for. Models whose
messages are scalars (MACE-MP-0 small and others of ``max_L=0``) need only sums that fit a loop. Numbers are those of
the general code to rounding; there are no second derivatives, so models that are trained further must stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .mace_kernels import convolve, convolve_back, sum_monomials

_WITH_FUSION = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
"""Interactions of mace-torch that hand atoms and bonds to ``conv_tp`` where they have a ``conv_fusion``."""


def fuse(model: nn.Module) -> int:
    """Replace convolutions and many-body products of a model by fused ones, where they are of the known kinds.

    Parameters
    ----------
    model
        A MACE model on the processor whose parameters are frozen; changed in place.

    Returns
    -------
    int
        How many parts were replaced; 0 for models that pass vectors on, which stay as they are.
    """
    replaced = 0
    for interaction in model.interactions:  # type: ignore[union-attr]
        if type(interaction).__name__ in _WITH_FUSION and _is_scalar_convolution(interaction.conv_tp):
            interaction.conv_tp = ScalarConvolution(interaction.conv_tp)
            interaction.conv_fusion = True
            replaced += 1
    for product in model.products:  # type: ignore[union-attr]
        contractions = list(getattr(product.symmetric_contractions, "contractions", ()))
        first, *others = contractions or (None,)
        if not others and _is_scalar_contraction(first):
            product.symmetric_contractions = ScalarContraction(first)
            replaced += 1
    return replaced


def _is_scalar_convolution(product: Any) -> bool:
    """Whether scalars of the atoms meet one harmonic of each degree, with a weight for every degree and channel."""
    instructions = getattr(product, "instructions", ())
    return (
        len(instructions) == len(product.irreps_in2) == len(product.irreps_out)
        and len(product.irreps_in1) == 1
        and product.irreps_in1.lmax == 0
        and not product.internal_weights
        and all(harmonic.mul == 1 and harmonic.ir.l == degree for degree, harmonic in enumerate(product.irreps_in2))
        and all(
            (each.i_in1, each.i_in2, each.i_out, each.connection_mode, each.has_weight)
            == (0, place, place, "uvu", True)
            for place, each in enumerate(instructions)
        )
    )


def _is_scalar_contraction(contraction: Any) -> bool:
    """Whether a many-body product makes one scalar a channel, of three components at most."""
    if not hasattr(contraction, "U_tensors") or contraction.correlation > 3:
        return False
    return all(contraction.U_tensors(order).dim() == order + 1 for order in range(1, contraction.correlation + 1))


class ScalarConvolution(nn.Module):
    """Sum over bonds of scalars times weights times harmonics, in place of e3nn's product of every bond.

    Parameters
    ----------
    product
        The e3nn tensor product that it stands for.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        degrees = [harmonic.ir.l for harmonic in product.irreps_in2]
        self.starts = np.cumsum([0, *(2 * degree + 1 for degree in degrees)])
        # e3nn: Wigner's coefficient of scalar times harmonic is one over the root of 2 l + 1
        scale = [
            each.path_weight / (2 * degree + 1) ** 0.5
            for each, degree in zip(product.instructions, degrees, strict=True)
        ]
        self.register_buffer("scale", torch.tensor(np.repeat(scale, np.diff(self.starts)), dtype=torch.float64))

    def forward(self, features: Tensor, harmonics: Tensor, weights: Tensor, edges: Tensor) -> Tensor:
        """Messages in e3nn's layout.

        Parameters
        ----------
        features
            Shape (atoms, channels).
        harmonics
            Shape (bonds, components).
        weights
            Shape (bonds, degrees * channels).
        edges
            Senders and receivers, shape (2, bonds).

        Returns
        -------
        torch.Tensor
            Shape (atoms, channels * components), degree by degree, components of a channel together.
        """
        scaled = harmonics * self.scale.to(harmonics.dtype)  # type: ignore[operator]
        by_degree = weights.reshape(len(weights), len(self.starts) - 1, features.shape[1])
        summed = _Convolution.apply(features, by_degree, scaled, edges, self.starts)
        parts = [
            summed[:, first:last].transpose(1, 2).reshape(len(summed), -1)
            for first, last in zip(self.starts[:-1], self.starts[1:], strict=True)
        ]
        return torch.cat(parts, dim=1)


class _Convolution(torch.autograd.Function):
    """:func:`.mace_kernels.convolve` with its derivatives."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weights: Tensor, harmonics: Tensor, edges: Tensor, starts: np.ndarray
    ) -> Tensor:
        ctx.save_for_backward(features, weights, harmonics, edges)
        ctx.starts = starts
        summed = torch.zeros(len(features), int(starts[-1]), features.shape[1], dtype=features.dtype)
        convolve(*_arrays(features, weights, harmonics, *edges), starts, summed.numpy())
        return summed

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        features, weights, harmonics, edges = ctx.saved_tensors
        back = torch.zeros_like(features), torch.empty_like(weights), torch.empty_like(harmonics)
        (pull,) = _arrays(slope)
        convolve_back(
            *_arrays(features, weights, harmonics, *edges), ctx.starts, pull, *(each.numpy() for each in back)
        )
        return *back, None, None


class ScalarContraction(nn.Module):
    """Products of up to three components, contracted to one scalar a channel, as one polynomial an element.

    Parameters
    ----------
    contraction
        The contraction of mace-torch that it stands for (symmetric contraction of Batatia et al., NeurIPS 2022).
    """

    def __init__(self, contraction: Any) -> None:
        super().__init__()
        order = int(contraction.correlation)
        tensors = {each: contraction.U_tensors(each).double().numpy() for each in range(1, order + 1)}
        one = tensors[1].shape[0]
        weights = [contraction.weights_max, *contraction.weights]
        terms: dict[tuple[int, ...], np.ndarray] = {}
        for each, own in zip(range(order, 0, -1), weights, strict=True):
            by_path = own.detach().double().numpy()
            for place in zip(*np.nonzero(np.abs(tensors[each]).max(axis=-1)), strict=True):
                # the components of a product commute: all orders of the same ones are one monomial
                key = (*sorted(map(int, place)), *[one] * (3 - each))
                terms[key] = terms.get(key, 0.0) + np.einsum("p,epc->ec", tensors[each][place], by_path)
        dtype = contraction.weights_max.dtype
        self.factors = np.array(list(terms), dtype=np.int64)
        self.register_buffer("coefficients", torch.tensor(np.stack(list(terms.values()), axis=1), dtype=dtype))

    def forward(self, features: Tensor, elements: Tensor) -> Tensor:
        """One number an atom and channel.

        Parameters
        ----------
        features
            Shape (atoms, channels, components).
        elements
            One-hot, shape (atoms, elements).

        Returns
        -------
        torch.Tensor
            Shape (atoms, channels).
        """
        found: Tensor = _Monomials.apply(
            features.transpose(1, 2), elements.argmax(dim=1), self.coefficients, self.factors
        )
        return found


class _Monomials(torch.autograd.Function):
    """:func:`.mace_kernels.sum_monomials` with its derivatives."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kinds: Tensor, coefficients: Tensor, factors: np.ndarray) -> Tensor:
        atoms, components, channels = features.shape
        wanted = ctx.needs_input_grad[0]
        values = torch.empty(atoms, channels, dtype=features.dtype)
        slopes = torch.empty(atoms if wanted else 0, components, channels, dtype=features.dtype)
        sum_monomials(*_arrays(features, kinds, coefficients), factors, values.numpy(), slopes.numpy())
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * slope[:, None], None, None, None


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(each.detach().contiguous().numpy() for each in tensors)
