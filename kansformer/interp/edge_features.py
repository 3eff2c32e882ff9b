"""Every edge as a sum of features: φ_oi(x_i) = Σ_f a_iof F_f(x_i), with F_0 = σ, the base, and then the basis.

Means, variances and values of all edges of a layer follow from the features of its inputs alone, which are I·F numbers
a token where the edges are I·O. Where all edges of an input share a curve s_i, even two numbers will do: φ_oi is
w_oi·(σ + s_i). So sums over tokens take *terms*: σ and s_i there, the features elsewhere.

Shape letters: N tokens, I inputs, O outputs, E single edges, C coefficients, F = 1 + C features, T terms, P curves of
the input axis.
"""

from typing import Any

import torch
from torch import Tensor

from kansformer.nn.base import base_function
from kansformer.ops import Curves, apply_curves

ALL = slice(None)


def edge_features(module: Any, x_NI: Tensor, inputs: slice | Tensor = ALL) -> Tensor:
    """Features of inputs, (N, I, F), in float32, or float64 for float64 inputs.

    Args:
        module: with curves.
        x_NI: values of these inputs.
        inputs: which channels of the module they are.
    """
    x_NI = x_NI.to(torch.promote_types(x_NI.dtype, torch.float32))
    domain = _per_input(module, module.domain)[inputs].to(x_NI)
    denominator = getattr(module, "denominator", None)
    if denominator is not None:
        denominator = _per_input(module, denominator)[inputs].to(x_NI)
    values_NIC = module.curves.basis.values(x_NI, domain, denominator)
    return torch.cat([base_values(module, x_NI).unsqueeze(-1), values_NIC], dim=-1)


def num_terms(module: Any) -> int:
    """T."""
    return 2 if module.curves.is_per_channel else module.curves.basis.num_coefficients + 1


def edge_terms(module: Any, x_NI: Tensor, inputs: slice | Tensor = ALL) -> Tensor:
    """Terms of inputs, (N, I, T), in float32, or float64 for float64 inputs; arguments as in `edge_features`."""
    if not module.curves.is_per_channel:
        return edge_features(module, x_NI, inputs)
    x_NI = x_NI.to(torch.promote_types(x_NI.dtype, torch.float32))
    return torch.stack([base_values(module, x_NI), _shared_curves(module, x_NI, inputs)]).movedim(0, -1)


def term_weights(module: Any, inputs: slice | Tensor = ALL) -> Tensor:
    """a_iot with φ_oi = Σ_t a_iot T_it for these inputs, (I, O, T); O is 1 where the module has no weights."""
    if not module.curves.is_per_channel:
        return edge_weights(module, inputs)
    dtype = torch.promote_types(module.coefficients.dtype, torch.float32)
    if not hasattr(module, "out_features"):
        count = len(torch.arange(module.in_features)[inputs])
        return torch.ones(count, 1, 2, device=module.domain.device, dtype=dtype)
    return weight_IO(module)[inputs].to(dtype).unsqueeze(-1).expand(-1, -1, 2)


def edge_values(module: Any, x_NE: Tensor, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """φ of single edges, each at its own points, (N, E), in float32, or float64 for float64 inputs."""
    if not module.curves.is_per_channel:
        features_NEF = edge_features(module, x_NE, inputs_E)
        return torch.einsum("nef,ef->ne", features_NEF, pair_weights(module, inputs_E, outputs_E).to(features_NEF))
    values_NE = edge_terms(module, x_NE, inputs_E).sum(-1)
    return values_NE * weight_IO(module)[inputs_E, outputs_E] if hasattr(module, "out_features") else values_NE


def edge_bases(module: Any, x_NE: Tensor, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """The base of single edges, without their learned curves, (N, E); points and dtype as in `edge_values`."""
    base_NE = base_values(module, x_NE.to(torch.promote_types(x_NE.dtype, torch.float32)))
    return base_NE * weight_IO(module)[inputs_E, outputs_E] if hasattr(module, "out_features") else base_NE


def _shared_curves(module: Any, x_NI: Tensor, inputs: slice | Tensor) -> Tensor:
    tensors = (
        None if tensor is None else _per_input(module, tensor)[inputs].to(x_NI)
        for tensor in (module.coefficients, module.domain, module.denominator)
    )
    return apply_curves(x_NI, Curves(*tensors, module.curves.basis))


def base_values(module: Any, x: Tensor) -> Tensor:
    """σ(x), elementwise."""
    base = getattr(module, "base", "identity")
    return base_function(base)(x) if isinstance(base, str) else base(x)


def edge_weights(module: Any, inputs: slice | Tensor = ALL, outputs: slice | Tensor = ALL) -> Tensor:
    """a_iof of these inputs and outputs, (I, O, F); O is 1 where the module has no weights. In float32 or float64."""
    dtype = torch.promote_types(module.coefficients.dtype, torch.float32)
    if module.curves.is_per_channel:
        shape_IF = torch.nn.functional.pad(_per_input(module, module.coefficients)[inputs].to(dtype), (1, 0), value=1.0)
        if not hasattr(module, "out_features"):
            return shape_IF.unsqueeze(1)
        return weight_IO(module)[inputs][:, outputs].to(dtype).unsqueeze(-1) * shape_IF.unsqueeze(1)
    coefficients_ICO = module.coefficients[inputs].to(dtype)
    if module.curves.edges == "low_rank":
        coefficients_ICO = coefficients_ICO @ module.mix[:, outputs].to(dtype)
    else:
        coefficients_ICO = coefficients_ICO[..., outputs]
    base_IO = weight_IO(module)[inputs][:, outputs].to(dtype)
    return torch.cat([base_IO.unsqueeze(1), coefficients_ICO], dim=1).mT


def pair_weights(module: Any, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """a_iof of single edges, (E, F); outputs mean nothing where the module has no weights."""
    dtype = torch.promote_types(module.coefficients.dtype, torch.float32)
    if module.curves.is_per_channel:
        shape_EF = torch.nn.functional.pad(
            _per_input(module, module.coefficients)[inputs_E].to(dtype), (1, 0), value=1.0
        )
        if not hasattr(module, "out_features"):
            return shape_EF
        return weight_IO(module)[inputs_E, outputs_E].to(dtype).unsqueeze(-1) * shape_EF
    if module.curves.edges == "low_rank":
        mix_ER = module.mix[:, outputs_E].mT.to(dtype)
        coefficients_EC = torch.einsum("ecr,er->ec", module.coefficients[inputs_E].to(dtype), mix_ER)
    else:
        coefficients_EC = module.coefficients[inputs_E, :, outputs_E].to(dtype)
    return torch.cat([weight_IO(module)[inputs_E, outputs_E].to(dtype).unsqueeze(-1), coefficients_EC], dim=-1)


def weight_IO(module: Any) -> Tensor:  # noqa: N802 - the shape letters
    """The base weights, inputs first, whichever way the layer keeps them."""
    return module.weight.mT if isinstance(module, torch.nn.Linear) else module.weight


def _per_input(module: Any, values_P: Tensor) -> Tensor:
    """One row per input, from one per curve: neighbouring inputs share curves."""
    return values_P.repeat_interleave(module.in_features // len(values_P), dim=0)
