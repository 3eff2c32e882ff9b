"""The C++ kernels as functions of tensors, without a graph: of float32 tensors, but for what `edges_bf16` computes, and
for x, base, factor and result of curves and their gradients, which may be bfloat16.

Shape letters: `...` any, N tokens, I inputs, O outputs, C coefficients, D denominator parameters, P curves: one per
input, or per group of neighbouring inputs.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.basis.bspline import SEGMENT_POLYNOMIALS
from kansformer.ops.curves import ACTIVATIONS
from kansformer.ops.gradients import is_watched
from kansformer.ops.native.library import Arguments, check_status, library

FAMILIES = {"bspline": 0, "chebyshev": 1, "rational": 2}

SLOPES = {"zero": 0, "identity": 1, "relu": 2, "silu": 3, "gelu_tanh": 4, "tanh": 5}
"""Numbers of the activation functions whose slope the kernels compute."""

MAX_GRID = 64
"""The kernels make a table of every interval of the grid for each channel; a finer grid's would not fit a cache."""

Settings = tuple[str, int, int, str]
"""Name, grid size, order and extrapolation of a basis: values that an operator of PyTorch takes."""


def settings_of(basis: Basis) -> Settings:
    """A basis as an operator takes it."""
    return basis.name, basis.grid_size, basis.order, basis.extrapolation


def basis_of(name: str, grid_size: int, order: int, extrapolation: str) -> Basis:
    """The inverse of `settings_of`."""
    return Basis(name=name, grid_size=grid_size, order=order, extrapolation=extrapolation)


def knows_curves(basis: Basis) -> bool:
    """Whether there is a kernel for one such curve per channel."""
    return basis.name in FAMILIES and (basis.name != "bspline" or basis.grid_size <= MAX_GRID)


def call(
    kernel: Callable[..., int],
    settings: Settings,
    sizes: tuple[int, int, int, int],
    tensors: Mapping[str, Tensor | None],
    activation: int = 0,
) -> None:
    """Run a kernel.

    Args:
        kernel: a function of the library.
        settings: of the basis.
        sizes: tokens, inputs, outputs and curves; 0 for what the kernel does not read.
        tensors: by the names of their fields in `Arguments`. Those to be written must be contiguous.
        activation: its number in `SLOPES`.
    """
    tokens, inputs, outputs, curves = sizes
    arguments = Arguments(
        tokens=tokens,
        inputs=inputs,
        outputs=outputs,
        curves=curves,
        activation=activation,
        threads=torch.get_num_threads(),
        **argument_fields(*settings),
    )
    held = []  # copies live until the kernel is done
    for name, tensor in tensors.items():
        if tensor is not None:
            held.append(tensor.contiguous())
            setattr(arguments, name, held[-1].data_ptr())
            if name == "x":
                arguments.bfloat16 = tensor.dtype == torch.bfloat16
    check_status(kernel(ctypes.byref(arguments)))


@lru_cache
def argument_fields(name: str, grid_size: int, order: int, extrapolation: str) -> dict[str, int]:
    """The fields of `Arguments` that the settings of a basis decide, and its size."""
    basis = basis_of(name, grid_size, order, extrapolation)
    return dict(
        size=ctypes.sizeof(Arguments),
        family=FAMILIES[name],
        grid=grid_size,
        order=order,
        extrapolation=EXTRAPOLATIONS.index(extrapolation),
        num_coefficients=basis.num_coefficients,
        num_denominator=basis.num_denominator,
        table=ctypes.addressof(_segments(order)) if name == "bspline" else 0,
    )


@cache
def _segments(order: int) -> ctypes.Array[ctypes.c_float]:
    """The polynomials of a B-spline's pieces, (K + 1, K + 1); no tensor, which torch could make a fake one."""
    numbers = [number for row in SEGMENT_POLYNOMIALS[order] for number in row]
    return (ctypes.c_float * len(numbers))(*numbers)


def evaluate_curves(
    settings: Settings,
    activation: str,
    x: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain_P2: Tensor,
) -> Tensor:
    """(base + s(x)) · factor, all (..., I); with an activation the base is that function of x.

    x, base, factor, the result and their gradients are all float32 or all bfloat16.
    """
    x = x.contiguous()
    activated = ACTIVATIONS[activation](x) if activation else None
    # In the memory of σ(x), unless that is x itself or is kept.
    y = torch.empty_like(x) if activated is None or activated.data_ptr() == x.data_ptr() or is_watched() else activated
    tensors = dict(y=y, x=x, base=base if activated is None else activated, factor=factor)
    tensors.update(coefficients=coefficients_PC, denominator=denominator_PD, domain=domain_P2)
    call(library().curves_forward, settings, _sizes_of_curves(x, coefficients_PC), tensors)
    return y


def differentiate_curves(
    settings: Settings,
    activation: str,
    needs_grad: Sequence[bool],
    gradient: Tensor,
    x: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain_P2: Tensor,
) -> list[Tensor | None]:
    """Gradients of x, coefficients, denominator, base and factor, those that are wanted.

    Without a factor the base's gradient is the output's, and is not made here. An activation has none of its own.
    """
    x = x.contiguous()
    places = (x, coefficients_PC, denominator_PD, factor, factor)
    gradients = [empty_like(t) if need and t is not None else None for t, need in zip(places, needs_grad, strict=True)]
    dx, dcoefficients, ddenominator, dbase, dfactor = gradients
    tensors = dict(dx=dx, dcoefficients=dcoefficients, ddenominator=ddenominator, dbase=dbase, dfactor=dfactor)
    tensors.update(gradient=gradient, x=x, base=base, factor=factor)
    tensors.update(coefficients=coefficients_PC, denominator=denominator_PD, domain=domain_P2)
    sizes = _sizes_of_curves(x, coefficients_PC)
    call(library().curves_backward, settings, sizes, tensors, SLOPES[activation or "zero"])
    return gradients


def evaluate_edges(
    settings: Settings, x_NI: Tensor, coefficients_ICO: Tensor, base_NO: Tensor | None, domain_I2: Tensor
) -> Tensor:
    """base + Σ_i s_oi(x_i), (N, O)."""
    sizes = sizes_of_edges(x_NI, coefficients_ICO)
    y_NO = torch.empty(sizes[0], sizes[2], dtype=x_NI.dtype, device="cpu")
    tensors = dict(y=y_NO, base=base_NO, x=x_NI, coefficients=coefficients_ICO, domain=domain_I2)
    call(library().edges_forward, settings, sizes, tensors)
    return y_NO


def differentiate_edges(
    settings: Settings,
    needs_grad: Sequence[bool],
    gradient_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    sizes = sizes_of_edges(x_NI, coefficients_ICO)
    dx, da = (empty_like(t) if need else None for t, need in zip((x_NI, coefficients_ICO), needs_grad, strict=True))
    tensors = dict(gradient=gradient_NO, x=x_NI, coefficients=coefficients_ICO, domain=domain_I2)
    if dx is not None:
        call(library().edges_input_gradient, settings, sizes, {"dx": dx, **tensors})
    if da is not None:
        call(library().edges_weight_gradient, settings, sizes, {"dcoefficients": da, **tensors})
    return [dx, da]


def sizes_of_edges(x_NI: Tensor, coefficients_ICO: Tensor) -> tuple[int, int, int, int]:
    """Tokens, inputs, outputs, and the curves of the input axis."""
    inputs, _, outputs = coefficients_ICO.shape
    return x_NI.shape[0], inputs, outputs, inputs


def _sizes_of_curves(x: Tensor, coefficients_PC: Tensor) -> tuple[int, int, int, int]:
    inputs = x.shape[-1]
    return x.numel() // inputs, inputs, inputs, coefficients_PC.shape[0]


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous tensor of the same shape, dtype and device."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
