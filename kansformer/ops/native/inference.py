"""Curves without gradients, in the fewest steps: for one token of a generating model Python costs more than the kernel.

What depends on shapes only is worked out once per combination of them; what may differ from call to call is looked at
in one loop. `serve` returns None wherever the usual way through `operators.py` has anything to decide.

Shape letters: `...` any, I inputs, P curves, C coefficients, D denominator parameters.
"""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor
from torch._C import _functorch

from kansformer.basis import Basis
from kansformer.ops.curves import ACTIVATIONS, Curves
from kansformer.ops.gradients import PLAIN_TENSORS
from kansformer.ops.native.kernels import argument_fields, knows_curves, settings_of
from kansformer.ops.native.library import Arguments, check_status, library


def serve(x: Tensor, curves: Curves, base: Tensor | str | None, factor: Tensor | None) -> Tensor | None:
    """(base + s(x)) · factor of contiguous float32 tensors where no graph is recorded; None for anything else.

    The bits are those of `operators.apply_curves`.
    """
    if torch.is_grad_enabled() or torch.compiler.is_dynamo_compiling() or torch._C._are_functorch_transforms_active():
        return None
    activation = None
    if isinstance(base, str):
        activation, base = ACTIVATIONS[base], None
    coefficients, domain, denominator, basis = curves
    given = (x, coefficients, domain, denominator, base, factor)
    for t in given:
        if t is not None and (
            type(t) not in PLAIN_TENSORS
            or t.dtype is not torch.float32
            or not (t.is_cpu and t.is_contiguous())
            or _functorch.is_legacy_batchedtensor(t)
            or _functorch.is_batchedtensor(t)
        ):
            return None
    shape = x.shape
    denominator_shape = None if denominator is None else denominator.shape
    template = _template(shape[-1:], coefficients.shape, domain.shape, denominator_shape, basis)
    if template is None or not x.numel():
        return None
    if (base is not None and base.shape != shape) or (factor is not None and factor.shape != shape):
        return None
    activated = None if activation is None else activation(x)
    # In the memory of σ(x), unless that is x itself.
    y = torch.empty_like(x) if activated is None or activated is x else activated
    base = base if activated is None else activated
    call = Arguments.from_buffer_copy(template)  # of its own: other threads may run the same curves
    call.tokens = x.numel() // shape[-1]
    call.threads = torch.get_num_threads()
    call.y, call.x = y.data_ptr(), x.data_ptr()
    call.coefficients, call.domain = coefficients.data_ptr(), domain.data_ptr()
    if base is not None:
        call.base = base.data_ptr()
    if factor is not None:
        call.factor = factor.data_ptr()
    if denominator is not None:
        call.denominator = denominator.data_ptr()
    if status := library().curves_forward(ctypes.byref(call)):
        check_status(status)
    return y


@lru_cache(maxsize=1024)
def _template(
    channels: tuple[int, ...],
    coefficients_shape: tuple[int, ...],
    domain_shape: tuple[int, ...],
    denominator_shape: tuple[int, ...] | None,
    basis: Basis,
) -> Arguments | None:
    """The arguments without pointers; None for shapes that do not belong together, whose error others raise.

    Args:
        channels: (I,).
        coefficients_shape: (P, C).
        domain_shape: (P, 2).
        denominator_shape: (P, D); None without a denominator.
        basis: of the curves.
    """
    if len(coefficients_shape) != 2 or not channels:
        return None
    curves, width = coefficients_shape
    expected = (curves, basis.num_denominator) if basis.num_denominator else None
    if not curves or channels[0] % curves or width != basis.num_coefficients or domain_shape != (curves, 2):
        return None
    if denominator_shape != expected or not knows_curves(basis):
        return None
    return Arguments(inputs=channels[0], outputs=channels[0], curves=curves, **argument_fields(*settings_of(basis)))
