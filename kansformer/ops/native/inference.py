"""Curves without gradients, in the fewest steps: for one token of a generating model Python costs more than the kernel.

Between two tokens the other layers push a layer's code and data out of the caches, so each line here costs several
times what it does in a loop. What depends on shapes only is worked out once; what may differ from call to call is
looked at in one loop.

Shape letters: `...` any, I inputs, P curves, C coefficients, D denominator parameters.
"""

import ctypes
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, float32
from torch._C._functorch import is_legacy_batchedtensor

from kansformer.basis import Basis
from kansformer.ops.curves import ACTIVATIONS, Curves
from kansformer.ops.gradients import PLAIN_TENSORS, is_watched
from kansformer.ops.native.kernels import argument_fields, knows_curves, settings_of
from kansformer.ops.native.library import Arguments, check_status, library

FUNCTIONS = {**ACTIVATIONS, "silu": torch._C._nn.silu, "relu": torch.relu}
"""Where torch has them, the functions behind those of `torch.nn.functional`."""


class Inference:
    """Curves of one basis and shape for I channels. It holds no tensor, and threads can share it.

    Args:
        channels: I.
        curves: whose shapes and basis are taken.
    """

    kernel: ClassVar[Callable[..., int] | None] = None
    """Of all instances, looked up by the first call."""

    def __init__(self, channels: int, curves: Curves) -> None:
        coefficients, domain, denominator, basis = curves
        self.channels = channels
        self.coefficients, self.domain = coefficients.shape, domain.shape
        self.denominator = None if denominator is None else denominator.shape
        self.template = _template(channels, self.coefficients, self.domain, self.denominator, basis)

    def __call__(
        self,
        x: Tensor,
        coefficients: Tensor,
        domain: Tensor,
        denominator: Tensor | None,
        base: Tensor | str | None,
        factor: Tensor | None,
    ) -> Tensor | None:
        """(base + s(x)) · factor of contiguous float32 tensors where no graph is recorded; None for anything else.

        The bits are those of `operators.apply_curves`.
        """
        if self.template is None or is_watched():
            return None
        activation = None
        if isinstance(base, str):
            activation, base = FUNCTIONS[base], None
        for t in (x, factor, base, coefficients, domain, denominator):
            if t is not None and (
                type(t) not in PLAIN_TENSORS
                or t.dtype is not float32
                or not (t.is_cpu and t.is_contiguous())
                or is_legacy_batchedtensor(t)
            ):
                return None
        shape, tokens = x.shape, x.numel() // self.channels
        if (
            not tokens
            or shape[-1:] != (self.channels,)
            or (factor is not None and factor.shape != shape)
            or (base is not None and base.shape != shape)
            or coefficients.shape != self.coefficients
            or domain.shape != self.domain
            or (denominator.shape if denominator is not None else None) != self.denominator
        ):
            return None
        activated = None if activation is None else activation(x)
        # In the memory of σ(x), unless that is x itself.
        y = torch.empty_like(x) if activated is None or activated is x else activated
        base = base if activated is None else activated
        call = Arguments.from_buffer_copy(self.template)  # of its own: other threads may run the same curves
        call.tokens, call.threads = tokens, torch.get_num_threads()
        call.y, call.x = y.data_ptr(), x.data_ptr()
        call.coefficients, call.domain = coefficients.data_ptr(), domain.data_ptr()
        if base is not None:
            call.base = base.data_ptr()
        if factor is not None:
            call.factor = factor.data_ptr()
        if denominator is not None:
            call.denominator = denominator.data_ptr()
        kernel = Inference.kernel
        if kernel is None:
            kernel = Inference.kernel = library().curves_forward
        if status := kernel(ctypes.byref(call)):
            check_status(status)
        return y


def _template(
    channels: int,
    coefficients_shape: tuple[int, ...],
    domain_shape: tuple[int, ...],
    denominator_shape: tuple[int, ...] | None,
    basis: Basis,
) -> bytes | None:
    """The arguments without pointers; None for shapes that do not belong together, whose error others raise.

    Args:
        channels: I.
        coefficients_shape: (P, C).
        domain_shape: (P, 2).
        denominator_shape: (P, D); None without a denominator.
        basis: of the curves.
    """
    if len(coefficients_shape) != 2 or not channels:
        return None
    curves, width = coefficients_shape
    expected = (curves, basis.num_denominator) if basis.num_denominator else None
    if not curves or channels % curves or width != basis.num_coefficients or domain_shape != (curves, 2):
        return None
    if denominator_shape != expected or not knows_curves(basis):
        return None
    return bytes(Arguments(inputs=channels, outputs=channels, curves=curves, **argument_fields(*settings_of(basis))))
