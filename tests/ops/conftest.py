"""Inputs that every test of the two operations shares."""

from dataclasses import dataclass

import pytest
import torch
from torch.utils._device import _device_constructors

from kansformer.basis import BASES, Basis
from kansformer.ops import Curves


@dataclass(frozen=True)
class Case:
    """Arguments of one operation, in float64; the domains differ from input to input and x leaves all of them."""

    basis: Basis
    x: torch.Tensor
    coefficients: torch.Tensor
    denominator: torch.Tensor | None
    domain: torch.Tensor

    @property
    def curves(self) -> Curves:
        return Curves(self.coefficients, self.domain, self.denominator, self.basis)

    def to(self, dtype: torch.dtype) -> "Case":
        """The same numbers stored in a dtype."""
        tensors = (self.x, self.coefficients, self.denominator, self.domain)
        return Case(self.basis, *(None if t is None else t.to(dtype) for t in tensors))

    @property
    def bytes_of_curves(self) -> int:
        tensors = (self.coefficients, self.denominator, self.domain)
        return sum(t.nbytes for t in tensors if t is not None)

    def saved_bytes(self, function) -> int:
        """What a call of function(x, curves) keeps in memory until backward; a memory counts once."""
        saved = {}

        def pack(tensor):
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        for tensor in (self.x, self.coefficients, self.denominator):
            if tensor is not None:
                tensor.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function(self.x, self.curves)
        return sum(saved.values())


@pytest.fixture
def make_case():
    def make(basis: Basis, operation: str, tokens: int = 9, inputs: int = 5, outputs: int = 4, seed: int = 0) -> Case:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        per_edge = (outputs,) if operation == "sum_edges" else ()
        lower = -1 - normal(inputs).abs()
        return Case(
            basis=basis,
            x=1.5 * normal(tokens, inputs),
            coefficients=normal(inputs, basis.num_coefficients, *per_edge),
            denominator=normal(inputs, basis.num_denominator) if basis.num_denominator else None,
            domain=torch.stack([lower, lower + 2 + normal(inputs).abs()], dim=-1),
        )

    return make


@pytest.fixture(params=BASES)
def basis(request) -> Basis:
    return Basis(name=request.param, grid_size=4, order=3)


@pytest.fixture(params=["apply_curves", "sum_edges"])
def operation(request) -> str:
    return request.param


@pytest.fixture(params=["bspline", "chebyshev", "rational"])
def known_basis(request) -> Basis:
    return Basis(name=request.param, grid_size=4, order=3)


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that nobody wrote holds NaN."""
    _device_constructors()  # remembers the functions it finds, once: let it find the real ones
    for name in ("empty_like", "empty"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, original=original, **k: original(*a, **k).fill_(torch.nan))
