"""What curves cost beside the loss: how large they are, and how rough.

Shape letters: S sample points, C coefficients, P curves of inputs, O outputs, R rank.
"""

import torch
from torch import Tensor, nn

from kansformer.basis import Basis
from kansformer.nn.curves import CurvedModule, require_curves
from kansformer.ops.gradients import without_autocast

# Points on the domain at which the roughness of a curve is read; a cubic piece of a grid of 10 has six of them.
SAMPLES = 65
# A square root has no slope at zero, where straight curves start.
MIN_SQUARE = 1e-12


def sparsity_penalty(model: nn.Module) -> Tensor:
    """The mean size of a curve: the root mean square of its coefficients, averaged over all curves of the model.

    It is a group lasso (Yuan & Lin, 2006) with a curve as the group: it pulls whole curves to zero, which then can be
    pruned, rather than single coefficients. Helps when curves are to be read or taken out; it costs loss.

    Args:
        model: any model with curves.

    Returns:
        A scalar in float32 that can be differentiated, in units of the curves' output.

    Raises:
        ConfigError: the model has no curves.
    """
    sizes = []
    for module, coefficients in _curves_of(model):
        mix_RO = _mix_of(module)
        with without_autocast(coefficients):
            if mix_RO is None:
                squares = coefficients.square().mean(dim=1)
            else:
                products_PRR = torch.einsum("pcr,pcq->prq", coefficients, coefficients) / coefficients.shape[1]
                squares = torch.einsum("prq,ro,qo->po", products_PRR, mix_RO, mix_RO).clamp(min=0)
            sizes.append(squares.add(MIN_SQUARE).sqrt().flatten())
    return torch.cat(sizes).mean()


def smoothness_penalty(model: nn.Module) -> Tensor:
    """The mean roughness of a curve: ∫ s''(u)² du over its domain mapped to [0, 1], averaged over all curves.

    The penalty of smoothing splines (Eilers & Marx, 1996), read from second differences at 65 points, so that it means
    the same for every basis. Helps where grids are fine and data is little. The denominator of a rational curve is
    taken as it is.

    Args:
        model: any model with curves.

    Returns:
        A scalar in float32 that can be differentiated, in units of the curves' output squared.

    Raises:
        ConfigError: the model has no curves.
    """
    sums, count = [], 0
    for module, coefficients in _curves_of(model):
        mix_RO = _mix_of(module)
        with without_autocast(coefficients):
            bends = _bends(module, coefficients)
            if mix_RO is None:
                sums.append(bends.square().mean(dim=0).sum())
                count += bends[0].numel()
            else:
                products_RR = torch.einsum("spr,spq->rq", bends, bends) / len(bends)
                sums.append(torch.einsum("rq,ro,qo->", products_RR, mix_RO, mix_RO))
                count += bends.shape[1] * mix_RO.shape[1]
    return torch.stack(sums).sum() / count


def _bends(module: CurvedModule, coefficients: Tensor) -> Tensor:
    """Second derivatives of curves by the unit coordinate, (S - 2, P, ...)."""
    second = _second_differences(module.curves.basis, coefficients, module.denominator)
    axes = "sc" if module.denominator is None else "spc"
    return torch.einsum(f"{axes},pc...->sp...", second, coefficients)


def _curves_of(model: nn.Module) -> list[tuple[CurvedModule, Tensor]]:
    """Modules with curves and their coefficients, (P, C), (P, C, O) or (P, C, R), in float32."""
    modules = require_curves(model, ", so nothing can be penalised. Call kansformer.convert(model) first.")
    return [(module, module.coefficients.float()) for module in modules.values()]


def _mix_of(module: CurvedModule) -> Tensor | None:
    """What makes the curves of edges from R of each input, (R, O), in float32; None where edges are not of low rank."""
    mix = getattr(module, "mix", None)
    return None if mix is None else mix.float()


def _second_differences(basis: Basis, like: Tensor, denominator: Tensor | None) -> Tensor:
    """Second derivatives of basis functions by the unit coordinate: (S - 2, C), or (S - 2, P, C) with denominators."""
    points = torch.linspace(0, 1, SAMPLES, device=like.device)
    if denominator is not None:
        points, denominator = points.unsqueeze(1), denominator.float().unsqueeze(0)
    values = basis.values(points, torch.tensor([0.0, 1.0], device=like.device), denominator)
    return values.diff(n=2, dim=0) * (SAMPLES - 1) ** 2
