"""The value that every operator works on: the tensors of a set of curves and the basis that they belong to.

Shape letters: `...` any, I inputs, O outputs, C coefficients, D denominator parameters, P curves.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

from kansformer.basis import Basis


class Curves(NamedTuple):
    """Curves of one basis.

    Args:
        coefficients: (P, C) for one curve per channel or group of neighbouring channels, (I, C, O) for one per edge.
        domain: (P, 2) or (I, 2), lower and upper end per curve input.
        denominator: (P, D) or (I, D) for rational curves, else None; the edges of one input share it.
        basis: the family of curves.

    Examples:
        >>> from kansformer.basis import Basis
        >>> from kansformer.ops import Curves
        >>> basis = Basis(name="chebyshev", order=2)
        >>> curves = Curves(torch.eye(3), torch.tensor([[-1.0, 1.0]] * 3), None, basis)  # T_0, T_1 and T_2
        >>> curves.to(torch.float64).have_dtype(torch.float64)
        True
    """

    coefficients: Tensor
    domain: Tensor
    denominator: Tensor | None
    basis: Basis

    def map(self, function: Callable[[Tensor], Tensor]) -> "Curves":
        """The curves of the same basis whose tensors are a function of these."""
        denominator = None if self.denominator is None else function(self.denominator)
        return Curves(function(self.coefficients), function(self.domain), denominator, self.basis)

    def to(self, dtype: torch.dtype) -> "Curves":
        """The same numbers in a dtype."""
        return self.map(lambda tensor: tensor.to(dtype))

    def have_dtype(self, dtype: torch.dtype) -> bool:
        """Whether all tensors have this dtype."""
        narrow = self.denominator is not None and self.denominator.dtype != dtype
        return self.coefficients.dtype == self.domain.dtype == dtype and not narrow

    def learn_domains(self) -> bool:
        """Whether the domain wants gradients, which only the definition gives."""
        return self.domain.requires_grad and torch.is_grad_enabled()

    def per_channel(self, channels: int) -> "Curves":
        """One curve per channel, instead of one per group of neighbouring channels."""
        size = channels // max(1, self.coefficients.shape[0])
        return self if size <= 1 else self.map(lambda tensor: repeat(tensor, "p c -> (p size) c", size=size))


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "zero": torch.zeros_like,
}
"""The fixed functions σ that a backend may compute, or differentiate, along with the curves."""


def flat(tensor: Tensor) -> Tensor:
    """(..., I) to (N, I)."""
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])
