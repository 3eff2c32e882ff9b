"""The native backend: what it serves, and its kernels as differentiable operations.

Each operation has one definition of its gradients, registered twice: as an autograd function, which costs least on
small tensors, and as an operator of PyTorch, which compilers keep whole in their graphs.

Shape letters: `...` any, N tokens, I inputs, O outputs, P curves, C coefficients, D denominator parameters.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from kansformer.ops import reference
from kansformer.ops.curves import ACTIVATIONS, Curves
from kansformer.ops.gradients import gradients_of_definition, needs_definition
from kansformer.ops.native import edges_bf16, kernels
from kansformer.ops.native.kernels import MAX_GRID, SLOPES, basis_of, empty_like, knows_curves, settings_of


def serves_curves(x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None) -> bool:
    """Whether the kernels know the basis and can read the tensors."""
    coefficients, domain, denominator, basis = curves
    if not knows_curves(basis) or x.dtype == torch.float64 or not x.numel() or not coefficients.numel():
        return False
    if curves.learn_domains():
        return False
    return not needs_definition(x, coefficients, denominator, domain, base, factor, has_operator=True)


def serves_edges(x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> bool:
    """Whether the kernels know the basis and can read the tensors."""
    coefficients, domain, _, basis = curves
    if basis.name != "bspline" or basis.grid_size > MAX_GRID or not x_NI.numel() or not coefficients.numel():
        return False
    onto_bfloat16 = base_NO is not None and base_NO.dtype == torch.bfloat16 and multiplies_bfloat16()
    if x_NI.dtype == torch.float64 and not onto_bfloat16:
        return False
    if curves.learn_domains():
        return False
    return not needs_definition(x_NI, coefficients, domain, base_NO, has_operator=True)


def computes(activation: str, x: Tensor, curves: Curves, factor: Tensor | None) -> bool:
    """Whether `apply_curves` takes the activation by name. Forward asks PyTorch for it all the same, so every bit is
    its; backward then needs neither its output nor another pass."""
    # The last bit of PyTorch's own function may depend on how its input lies in memory.
    if activation not in SLOPES or not x.is_contiguous() or (factor is not None and factor.dtype != x.dtype):
        return False
    return x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and curves.have_dtype(torch.float32))


def multiplies_bfloat16() -> bool:
    """Whether edges onto a bfloat16 base are multiplied in bfloat16."""
    return bool(edges_bf16.forms())


def apply_curves(x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None) -> Tensor:
    """`reference.apply_curves` in one pass over memory. x, base and factor are float32, or bfloat16 with a base."""
    coefficients, domain, denominator, basis = curves
    activation = ""
    if isinstance(base, str):
        activation, base = base, None
    settings = settings_of(basis)
    if torch.compiler.is_compiling():
        return _curves(x, coefficients, denominator, base, factor, domain, *settings, activation)
    if torch.is_grad_enabled():
        return _Curves.apply(x, coefficients, denominator, base, factor, domain, *settings, activation)
    return kernels.evaluate_curves(settings, activation, x, coefficients, denominator, base, factor, domain)


def sum_edges(x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> Tensor:
    """`reference.sum_edges` by kernels that touch only the coefficients that are alive at an input."""
    coefficients, domain, _, basis = curves
    if base_NO is not None and base_NO.dtype == torch.bfloat16:
        coefficients, domain = coefficients.to(torch.bfloat16), domain.float()
    run = _edges if torch.compiler.is_compiling() else _Edges.apply
    return run(x_NI, coefficients, base_NO, domain, *settings_of(basis))


@torch.library.custom_op("kansformer::curves", mutates_args=(), device_types="cpu")
def _curves(
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    activation: str,
) -> Tensor:
    settings = (name, grid_size, order, extrapolation)
    return kernels.evaluate_curves(settings, activation, x, coefficients, denominator, base, factor, domain)


@_curves.register_fake
def _(x, coefficients, denominator, base, factor, domain, *settings):
    return empty_like(x)


@torch.library.custom_op("kansformer::curves_backward", mutates_args=(), device_types="cpu")
def _curves_backward(
    gradient: Tensor,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    activation: str,
    needs_grad: list[bool],
) -> list[Tensor]:
    settings = (name, grid_size, order, extrapolation)
    tensors = (gradient, x, coefficients, denominator, base, factor, domain)
    return _or_empty(x, kernels.differentiate_curves(settings, activation, needs_grad, *tensors))


@_curves_backward.register_fake
def _(gradient, x, coefficients, denominator, base, factor, domain, *settings_and_needs_grad):
    needs_grad = zip((x, coefficients, denominator, factor, factor), settings_and_needs_grad[-1], strict=True)
    return _or_empty(x, [empty_like(t) if need and t is not None else None for t, need in needs_grad])


def _save_curves(ctx, inputs, output=None):
    x, coefficients, denominator, base, factor, domain, *settings = inputs
    *ctx.settings, ctx.activation = settings
    # Only the gradient of the factor asks for the base.
    ctx.save_for_backward(x, coefficients, denominator, None if factor is None else base, factor, domain)


def _differentiate_curves(ctx, gradient: Tensor, compiled: bool = True) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # may be unpacked once only
    tensors, domain = saved[:5], saved[5]
    rest = (None,) * (len(ctx.needs_input_grad) - 5)
    needs_grad = list(ctx.needs_input_grad[:5])
    # Without a factor the base's gradient is the output's.
    has_factor = tensors[4] is not None
    dbase = gradient if needs_grad[3] and not has_factor else None
    needs_grad[3] = needs_grad[3] and has_factor
    if compiled:
        results = _curves_backward(gradient, *saved, *ctx.settings, ctx.activation, needs_grad)
    elif torch.is_grad_enabled() or needs_definition(gradient):

        def definition(x, coefficients, denominator, base, factor):
            x, base, factor = (None if t is None else t.to(domain.dtype) for t in (x, base, factor))
            base = ACTIVATIONS[ctx.activation](x) if ctx.activation else base
            curves = Curves(coefficients, domain, denominator, basis_of(*ctx.settings))
            return reference.apply_curves(x, curves, base, factor).to(gradient.dtype)

        results = gradients_of_definition(definition, tensors, needs_grad, gradient)
    else:
        results = kernels.differentiate_curves(ctx.settings, ctx.activation, needs_grad, gradient, *saved)
    gradients = [t if need else None for t, need in zip(results, needs_grad, strict=True)]
    return *gradients[:3], gradients[3] if dbase is None else dbase, gradients[4], *rest


_curves.register_autograd(_differentiate_curves, setup_context=_save_curves)


class _Curves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _save_curves(ctx, inputs)
        return kernels.evaluate_curves(ctx.settings, ctx.activation, *inputs[:6])

    @staticmethod
    def backward(ctx, gradient):
        return _differentiate_curves(ctx, gradient, compiled=False)


@torch.library.custom_op("kansformer::edges", mutates_args=(), device_types="cpu")
def _edges(
    x: Tensor,
    coefficients: Tensor,
    base: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> Tensor:
    settings = (name, grid_size, order, extrapolation)
    return _kernels_of(coefficients).evaluate_edges(settings, x, coefficients, base, domain)


@_edges.register_fake
def _(x, coefficients, base, domain, *settings):
    return coefficients.new_empty(x.shape[0], coefficients.shape[2])


@torch.library.custom_op("kansformer::edges_backward", mutates_args=(), device_types="cpu")
def _edges_backward(
    gradient: Tensor,
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    needs_grad: list[bool],
) -> list[Tensor]:
    settings = (name, grid_size, order, extrapolation)
    tensors = (gradient, x, coefficients, domain)
    return _or_empty(x, _kernels_of(coefficients).differentiate_edges(settings, needs_grad, *tensors))


@_edges_backward.register_fake
def _(gradient, x, coefficients, domain, *settings_and_needs_grad):
    needs_grad = zip((x, coefficients), settings_and_needs_grad[-1], strict=True)
    return _or_empty(x, [empty_like(t) if need else None for t, need in needs_grad])


def _save_edges(ctx, inputs, output=None):
    x, coefficients, _, domain, *settings = inputs
    ctx.settings = tuple(settings)
    ctx.save_for_backward(x, coefficients, domain)


def _differentiate_edges(ctx, gradient: Tensor, compiled: bool = True) -> tuple[Tensor | None, ...]:
    x, coefficients, domain = ctx.saved_tensors
    *needs_grad, base_needs_grad = ctx.needs_input_grad[:3]
    if compiled:
        results = _edges_backward(gradient, x, coefficients, domain, *ctx.settings, needs_grad)
    elif torch.is_grad_enabled() or needs_definition(gradient):

        def definition(x, coefficients):
            curves = Curves(coefficients.to(domain.dtype), domain, None, basis_of(*ctx.settings))
            return reference.sum_edges(x.to(domain.dtype), curves).to(gradient.dtype)

        results = gradients_of_definition(definition, (x, coefficients), needs_grad, gradient)
    else:
        differentiate = _kernels_of(coefficients).differentiate_edges
        results = differentiate(ctx.settings, needs_grad, gradient, x, coefficients, domain)
    gradients = [t if need else None for t, need in zip(results, needs_grad, strict=True)]
    return *gradients, gradient if base_needs_grad else None, *(None,) * 5


_edges.register_autograd(_differentiate_edges, setup_context=_save_edges)


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _save_edges(ctx, inputs)
        x, coefficients, base, domain = inputs[:4]
        return _kernels_of(coefficients).evaluate_edges(ctx.settings, x, coefficients, base, domain)

    @staticmethod
    def backward(ctx, gradient):
        return _differentiate_edges(ctx, gradient, compiled=False)


def _kernels_of(coefficients: Tensor) -> ModuleType:
    """The module with `evaluate_edges` and `differentiate_edges` for coefficients of this dtype."""
    return edges_bf16 if coefficients.dtype == torch.bfloat16 else kernels


def _or_empty(x: Tensor, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """An operator returns tensors only, and none of its inputs."""
    return [x.new_empty(0) if t is None else t for t in gradients]
