"""Every edge as a sum of features: φ_oi(x_i) = Σ_f a_iof F_f(x_i), with F_0 = σ, the base, and then the basis.

Means, variances and values of all edges of a layer follow from the features of its inputs alone, which are I·F numbers
a token where the edges are I·O. Where all edges of an input share a curve s_i, two numbers are enough: φ_oi is
w_oi·(σ + s_i). So sums over tokens take *terms*: σ and s_i there, the features elsewhere.

Shape letters: N tokens, I inputs, O outputs, E single edges, C coefficients, F = 1 + C features, T terms, S points,
P curves of the input axis.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot
from kansformer.nn.activation import LearnedActivation
from kansformer.nn.adapted import adapted_weight
from kansformer.nn.base import base_function
from kansformer.nn.curves import Curved, curves_of
from kansformer.nn.linear import KANLinear
from kansformer.ops import Curves, apply_curves

ALL = slice(None)


class _Weighted(Curved, Protocol):
    weight: Tensor


def edge_features(module: Curved, x_NI: Tensor, inputs: slice | Tensor = ALL) -> Tensor:
    """Features of inputs, (N, I, F), in float32, or float64 for float64 inputs.

    Args:
        module: with curves.
        x_NI: values of these inputs.
        inputs: which channels of the module they are.
    """
    x_NI = _as_float(x_NI)
    values_NIC = module.curves.basis.values(x_NI, *_grid(module, x_NI, inputs))
    return torch.cat([base_values(module, x_NI, inputs).unsqueeze(-1), values_NIC], dim=-1)


def num_terms(module: Curved) -> int:
    """T."""
    return 2 if module.curves.is_per_channel else module.curves.basis.num_coefficients + 1


def edge_terms(module: Curved, x_NI: Tensor, inputs: slice | Tensor = ALL) -> Tensor:
    """Terms of inputs, (N, I, T), in float32, or float64 for float64 inputs; arguments as in `edge_features`."""
    if not module.curves.is_per_channel:
        return edge_features(module, x_NI, inputs)
    x_NI = _as_float(x_NI)
    return torch.stack([base_values(module, x_NI, inputs), _shared_curves(module, x_NI, inputs)]).movedim(0, -1)


def term_weights(slot: CurveSlot, inputs: slice | Tensor = ALL) -> Tensor:
    """a_iot with φ_oi = Σ_t a_iot T_it for these inputs, (I, O, T); O is 1 where the module has no weights."""
    module = slot.module
    if not module.curves.is_per_channel:
        return edge_weights(slot, inputs)
    weight_IO = base_weights(slot, inputs)
    if weight_IO is None:
        weight_IO = torch.ones_like(module.coefficients[:1, :1]).expand(module.in_features, 1)[inputs]
    return _as_float(weight_IO).unsqueeze(-1).expand(-1, -1, 2)


def edge_values(slot: CurveSlot, x_NE: Tensor, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """φ of single edges, each at its own points, (N, E), in float32, or float64 for float64 inputs."""
    return edge_function(slot, inputs_E, outputs_E)(x_NE)


def edge_function(slot: CurveSlot, inputs_E: Tensor, outputs_E: Tensor) -> Callable[[Tensor], Tensor]:
    """`edge_values` as a function of the points, with the weights as they are now."""
    module = slot.module
    if not module.curves.is_per_channel:
        weights_EF = pair_weights(slot, inputs_E, outputs_E)
        return lambda x_NE: weighted_values(module, x_NE, inputs_E, weights_EF)
    weight_E = pair_base_weights(slot, inputs_E, outputs_E)
    return lambda x_NE: _times(edge_terms(module, x_NE, inputs_E).sum(-1), weight_E)


def weighted_values(module: Curved, x_NE: Tensor, inputs_E: Tensor, weights_EF: Tensor) -> Tensor:
    """Σ_f a_ef F_f of single edges with weights of any origin, (N, E); points and dtype as in `edge_values`."""
    x_NE = _as_float(x_NE)
    base_E, coefficients_EC = weights_EF[:, 0].to(x_NE), weights_EF[:, 1:].to(x_NE)
    curves = Curves(coefficients_EC, *_grid(module, x_NE, inputs_E), module.curves.basis)
    return base_E * base_values(module, x_NE, inputs_E) + apply_curves(x_NE, curves)


def edge_bases(slot: CurveSlot, x_NE: Tensor, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """The base of single edges, without their learned curves, (N, E); points and dtype as in `edge_values`."""
    base_NE = base_values(slot.module, _as_float(x_NE), inputs_E)
    return _times(base_NE, pair_base_weights(slot, inputs_E, outputs_E))


def edge_weights(slot: CurveSlot, inputs: slice | Tensor = ALL, outputs: slice | Tensor = ALL) -> Tensor:
    """a_iof of these inputs and outputs, (I, O, F); O is 1 where the module has no weights. In float32 or float64."""
    module, weight_IO = slot.module, base_weights(slot, inputs)
    if weight_IO is None:
        return _curve_weights(module, inputs).unsqueeze(1)
    weight_IO = _as_float(weight_IO[:, outputs])
    if module.curves.is_per_channel:
        return weight_IO.unsqueeze(-1) * _curve_weights(module, inputs).unsqueeze(1)
    coefficients_ICO = _as_float(module.coefficients[inputs])
    if module.mix is not None:
        coefficients_ICO = coefficients_ICO @ _as_float(module.mix[:, outputs])
    else:
        coefficients_ICO = coefficients_ICO[..., outputs]
    return torch.cat([weight_IO.unsqueeze(1), coefficients_ICO], dim=1).mT


def pair_weights(slot: CurveSlot, inputs_E: Tensor, outputs_E: Tensor) -> Tensor:
    """a_iof of single edges, (E, F); the outputs are not used where the module has no weights."""
    module, weight_E = slot.module, pair_base_weights(slot, inputs_E, outputs_E)
    if weight_E is None:
        return _curve_weights(module, inputs_E)
    weight_E1 = _as_float(weight_E).unsqueeze(-1)
    if module.curves.is_per_channel:
        return weight_E1 * _curve_weights(module, inputs_E)
    if module.mix is not None:
        mix_ER = _as_float(module.mix[:, outputs_E].mT)
        coefficients_EC = torch.einsum("ecr,er->ec", _as_float(module.coefficients[inputs_E]), mix_ER)
    else:
        coefficients_EC = _as_float(module.coefficients[inputs_E, :, outputs_E])
    return torch.cat([weight_E1, coefficients_EC], dim=-1)


def values_and_learned(weights_IOF: Tensor, features_ISF: Tensor) -> tuple[Tensor, Tensor]:
    """φ and the learned curves of all edges, (I, O, S) each."""
    learned_IOS = weights_IOF[..., 1:] @ features_ISF[..., 1:].mT
    return weights_IOF[..., :1] @ features_ISF[..., :1].mT + learned_IOS, learned_IOS


def random_coefficients(coefficients: Tensor, generator: torch.Generator) -> Tensor:
    """Coefficients (..., C) of random curves: normal, scaled to the root mean square of each curve's own."""
    own = _as_float(coefficients)
    drawn = torch.randn(own.shape, generator=generator, dtype=own.dtype, device="cpu").to(own.device)
    return drawn * own.square().mean(-1, keepdim=True).sqrt()


def base_weights(slot: CurveSlot, inputs: slice | Tensor = ALL) -> Tensor | None:
    """The base weights (I, O) of these inputs, whichever way the layer stores them, and as an adapter around it changes
    them; None where a module has none."""
    if isinstance(slot.module, LearnedActivation):
        return None
    inputs_I = torch.arange(slot.module.in_features, device=slot.module.coefficients.device)[inputs]
    adapted = adapted_weight(cast(nn.Module, slot.module), slot.called, inputs_I)
    return _stored_weights(slot.module)[inputs] if adapted is None else adapted


def pair_base_weights(slot: CurveSlot, inputs_E: Tensor, outputs_E: Tensor) -> Tensor | None:
    """The base weights of single edges, (E,), as `base_weights` gives them."""
    if isinstance(slot.module, LearnedActivation):
        return None
    unique_U, places_E = inputs_E.unique(return_inverse=True)
    adapted = adapted_weight(cast(nn.Module, slot.module), slot.called, unique_U)
    if adapted is not None:
        return adapted[places_E.to(adapted.device), outputs_E.to(adapted.device)]
    return _stored_weights(slot.module)[inputs_E, outputs_E]


def _stored_weights(module: Curved) -> Tensor:
    return module.weight.mT if isinstance(module, nn.Linear) else cast(_Weighted, module).weight


def base_values(module: Curved, x_NI: Tensor, inputs: slice | Tensor = ALL) -> Tensor:
    """σ of these inputs, (N, I), elementwise."""
    if not isinstance(module, LearnedActivation):
        return base_function(module.base)(x_NI) if isinstance(module, KANLinear) else x_NI
    if all(tensor.numel() <= 1 for tensor in module.own_tensors().values()):
        return module.base(x_NI, wide=True)
    all_NI = x_NI.new_zeros(len(x_NI), module.in_features)  # each channel may have numbers of its own, as in a PReLU
    all_NI[:, inputs] = x_NI
    return module.base(all_NI, wide=True)[:, inputs]


def per_input(module: Curved, values_P: Tensor) -> Tensor:
    """One row per input, from one per curve: neighbouring inputs share curves."""
    return values_P.repeat_interleave(module.in_features // len(values_P), dim=0)


def _curve_weights(module: Curved, inputs: slice | Tensor) -> Tensor:
    """1 for the base, and the coefficients of the curve that all edges of an input share; (I, F)."""
    return nn.functional.pad(_as_float(per_input(module, module.coefficients)[inputs]), (1, 0), value=1.0)


def _shared_curves(module: Curved, x_NI: Tensor, inputs: slice | Tensor) -> Tensor:
    return apply_curves(x_NI, curves_of(module).map(lambda tensor: per_input(module, tensor)[inputs].to(x_NI)))


def _grid(module: Curved, x_NI: Tensor, inputs: slice | Tensor) -> tuple[Tensor, Tensor | None]:
    """Domain and denominator of inputs, in the dtype of x."""
    domain = per_input(module, module.domain)[inputs].to(x_NI)
    return domain, None if module.denominator is None else per_input(module, module.denominator)[inputs].to(x_NI)


def _times(values_NE: Tensor, weight_E: Tensor | None) -> Tensor:
    return values_NE if weight_E is None else values_NE * weight_E


def _as_float(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
