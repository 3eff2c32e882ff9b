"""B-spline curves as one polynomial per grid interval: the CPU's way to `reference.apply_curves`.

On an interval a curve of degree K is Σ_p f_p t^p, t the position in it, so

    ∂s/∂x = rate · Σ_p p f_p t^(p-1)        ∂s/∂f_p = t^p        rate = intervals per unit of x

The factors f of all intervals are made once per call, by one matrix product with the coefficients; a token then costs
K + 1 look-ups and a Horner scheme, whatever the grid size, instead of all C basis values. Outside the domain the curve
is a polynomial as well: two more intervals stand for it.

Shape letters: N tokens, I inputs, G grid intervals, K order, C = G + K coefficients, P = K + 1 powers of t,
J = G + 2 intervals.
"""

from functools import lru_cache

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.basis.basis import MAX_DISTANCE
from kansformer.basis.bspline import SEGMENT_POLYNOMIALS
from kansformer.ops.curves import Curves
from kansformer.ops.gradients import gradients_of_definition

# The matrix that makes the factors grows with the square of the grid; beyond this it costs more than it saves.
MAX_GRID = 64

# Curve values per chunk of tokens, of which about eight temporaries live at a time: 2 MiB of float32.
CHUNK = 2**15

# Tokens per chunk at most: gradients are summed one after the other within a chunk, and longer sums lose digits.
MAX_SUM = 1024


def serves(basis: Basis) -> bool:
    """Whether this file can evaluate the basis."""
    return basis.name == "bspline" and basis.grid_size <= MAX_GRID


def apply_curves(x_NI: Tensor, curves: Curves) -> Tensor:
    """One B-spline curve per input, (N, I)."""
    coefficients_IC, domain_I2, _, basis = curves
    matrix_CPJ = _factor_matrix(basis, coefficients_IC.dtype)
    factors_IPJ = (coefficients_IC @ matrix_CPJ.flatten(1)).unflatten(1, matrix_CPJ.shape[1:])
    return _LookUp.apply(x_NI, factors_IPJ, domain_I2, basis)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_NI, factors_IPJ, domain_I2, basis):
        ctx.basis = basis
        ctx.save_for_backward(x_NI, factors_IPJ, domain_I2)
        pieces = [_evaluate(piece, factors_IPJ, domain_I2, basis) for piece in _split(x_NI)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    @staticmethod
    def backward(ctx, gradient_NI):
        x_NI, factors_IPJ, domain_I2 = ctx.saved_tensors
        x_needs_grad, factors_needs_grad = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # double backward: the graph of the evaluation itself

            def definition(x_NI: Tensor, factors_IPJ: Tensor) -> Tensor:
                return _evaluate(x_NI, factors_IPJ, domain_I2, ctx.basis)

            needs_grad = (x_needs_grad, factors_needs_grad)
            return *gradients_of_definition(definition, (x_NI, factors_IPJ), needs_grad, gradient_NI), None, None

        powers = factors_IPJ.shape[1]
        rate_I = ctx.basis.grid_size / (domain_I2[:, 1] - domain_I2[:, 0])
        slope_factors_IPJ = factors_IPJ * torch.arange(powers, dtype=x_NI.dtype, device=x_NI.device).unsqueeze(-1)
        factors_gradient = torch.zeros_like(factors_IPJ) if factors_needs_grad else None
        x_pieces = []
        for piece, gradient in zip(_split(x_NI), _split(gradient_NI), strict=True):
            unit, position, index = _locate(piece, domain_I2, ctx.basis)
            if x_needs_grad:
                slope = _horner(_look_up(slope_factors_IPJ, index)[1:], position)
                # The definition holds inputs further away than MAX_DISTANCE there, so they have no slope.
                x_pieces.append(slope.mul_(rate_I).mul_(unit.abs() < MAX_DISTANCE).mul_(gradient))
            if factors_gradient is not None:
                # Outside, where there are no higher powers, a far input's would be infinite.
                inside = (unit >= 0) & (unit <= 1) | unit.isnan()
                factors_gradient += _factors_gradient(
                    factors_IPJ, gradient.flatten(), position.flatten(), index, inside.flatten(), ctx.basis
                )
        return torch.cat(x_pieces) if x_needs_grad else None, factors_gradient, None, None


def _factors_gradient(
    factors_IPJ: Tensor, gradient: Tensor, position: Tensor, index: Tensor, inside: Tensor, basis: Basis
) -> Tensor:
    total_IPJ = torch.zeros_like(factors_IPJ)
    highest_outside = 1 if basis.extrapolation == "linear" else 0
    for power, row in enumerate(_rows(total_IPJ)):
        if power:
            gradient = gradient * position
        if power == highest_outside + 1:
            gradient = gradient.where(inside, 0.0)
        row.scatter_add_(0, index, gradient)
    return total_IPJ


def _evaluate(x_NI: Tensor, factors_IPJ: Tensor, domain_I2: Tensor, basis: Basis) -> Tensor:
    _, position_NI, index = _locate(x_NI, domain_I2, basis)
    return _horner(_look_up(factors_IPJ, index), position_NI)


def _split(x_NI: Tensor) -> tuple[Tensor, ...]:
    return x_NI.split(min(MAX_SUM, max(1, CHUNK // max(1, x_NI.shape[1]))))


def _locate(x_NI: Tensor, domain_I2: Tensor, basis: Basis) -> tuple[Tensor, Tensor, Tensor]:
    """x in units of the domain, (N, I); t, (N, I); and where in a row of `_rows` its factors stand, (N·I,)."""
    last = basis.grid_size
    unit_NI = basis.unit_coordinates(x_NI, domain_I2)
    scaled_NI = unit_NI * last
    interval_NI = scaled_NI.detach().floor().nan_to_num_(nan=0.0).clamp_(-1, last)
    if basis.extrapolation != "linear":
        interval_NI.add_(scaled_NI == last, alpha=-1)  # the end belongs to the domain
    stride = (basis.order + 1) * (last + 2)
    index_NI = interval_NI.long().add_(torch.arange(1, 1 + x_NI.shape[1] * stride, stride, device=x_NI.device))
    return unit_NI, scaled_NI - interval_NI, index_NI.flatten()


def _rows(factors_IPJ: Tensor) -> list[Tensor]:
    """One flat view per power, in all of which the same index stands for the same input and interval."""
    flat = factors_IPJ.flatten()
    return [flat[power * factors_IPJ.shape[2] :] for power in range(factors_IPJ.shape[1])]


def _look_up(factors_IPJ: Tensor, index: Tensor) -> list[Tensor]:
    return [row.index_select(0, index) for row in _rows(factors_IPJ)]


def _horner(factors: list[Tensor], position_NI: Tensor) -> Tensor:
    total = factors[-1].view_as(position_NI)
    for factor in reversed(factors[:-1]):
        total = torch.addcmul(factor.view_as(position_NI), total, position_NI)
    return total


@lru_cache
def _factor_matrix(basis: Basis, dtype: torch.dtype) -> Tensor:
    """From a curve's coefficients to its factors, (C, P, J). The first and the last interval lie outside the domain."""
    with torch.inference_mode(False):  # it is kept, and may serve training later
        segment = torch.tensor(SEGMENT_POLYNOMIALS[basis.order], dtype=torch.float64, device="cpu")
        alive, powers = segment.shape
        matrix = torch.zeros(basis.num_coefficients, powers, basis.grid_size + 2, dtype=torch.float64, device="cpu")
        for interval in range(basis.grid_size):
            matrix[interval : interval + alive, :, interval + 1] = segment
        if basis.extrapolation != "zero":  # the values at the ends, t = 0 and t = 1
            matrix[:alive, 0, 0] = segment[:, 0]
            matrix[-alive:, 0, -1] = segment.sum(1)
        if basis.extrapolation == "linear":  # and the slopes; the left interval's t is 1 where the domain begins
            matrix[:alive, 1, 0] = segment[:, 1]
            matrix[:alive, 0, 0] -= segment[:, 1]
            matrix[-alive:, 1, -1] = segment @ torch.arange(powers, dtype=torch.float64, device="cpu")
        return matrix.to(dtype)
