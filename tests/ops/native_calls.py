"""Both operations by the C++ kernels and by the definition, with the gradients of everything trainable."""

import torch
from numerics import assert_close_to_float64

from kansformer.ops import Curves
from kansformer.ops.backend import BACKENDS

NATIVE = {"apply_curves": BACKENDS["native"].apply_curves, "sum_edges": BACKENDS["native"].sum_edges}


REFERENCE = {"apply_curves": BACKENDS["reference"].apply_curves, "sum_edges": BACKENDS["reference"].sum_edges}


NAMES = ("x", "coefficients", "denominator")


ADDED = [
    ("apply_curves", ("base",)),
    ("apply_curves", ("factor",)),
    ("apply_curves", ("base", "factor")),
    ("sum_edges", ("base",)),
]


def run(function, operation, case, added=(), gradient=None):
    """Output and the gradients of everything trainable, by name; `added` names what is added or multiplied."""
    tensors = {n: getattr(case, n).detach().requires_grad_() for n in NAMES if getattr(case, n) is not None}
    outputs = case.x.shape[1] if operation == "apply_curves" else case.coefficients.shape[2]
    generator = torch.Generator().manual_seed(7)
    for name in added:
        extra = torch.randn(case.x.shape[0], outputs, generator=generator, dtype=torch.float32)
        tensors[name] = extra.to(case.x.dtype).requires_grad_()
    curves = Curves(tensors["coefficients"], case.domain, tensors.get("denominator"), case.basis)
    extras = {name if operation == "apply_curves" else f"{name}_NO": tensors[name] for name in added}
    output = function(tensors["x"], curves, **extras)
    if gradient is None:
        gradient = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
    found = torch.autograd.grad(output, list(tensors.values()), gradient.to(output))
    return output, dict(zip(tensors, found, strict=True))


def assert_native_is_right(operation, case, added=(), looser=1.0):
    case = case.to(torch.float32)
    actual, gradients = run(NATIVE[operation], operation, case, added)
    expected, expected_gradients = run(REFERENCE[operation], operation, case.to(torch.float64), added)
    # A rational curve's Q loses digits where it crosses zero, and the slope of |Q| multiplies what is left.
    looser *= 2.0 if case.basis.name == "rational" else 1.0
    assert_close_to_float64(actual, expected, torch.float32, looser=looser)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=looser)
