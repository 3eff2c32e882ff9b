"""A row of the library of functions, and the library: what a curve may be named after."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.symbolic.candidates import mirrored_bends

if TYPE_CHECKING:
    import sympy

CONSTANT = "constant"
"""Name of the fit of a curve that does not vary. No function of the library, so that none can be fitted to nothing."""

# Step of central differences, relative to z: the cube root of float64's rounding.
DIFFERENCE = 6e-6
# Letters of an unknown name that are compared with the known ones.
MAX_COMPARED = 40


@dataclass(frozen=True, kw_only=True)
class Partner:
    """A second function that, with f, spans every shift of f, so that a shift is found by linear least squares.

    Args:
        function: g, with f(a·u + b) = p·f(a·u) + q·g(a·u) + a constant.
        shift: b from p and q.

    Examples:
        >>> from kansformer.symbolic import Partner
        >>> partner = Partner(function=torch.cos, shift=lambda p, q: torch.atan2(q, p))  # of the sine
        >>> partner.shift(torch.tensor(0.0), torch.tensor(1.0))  # cos(u) = sin(u + π/2)
        tensor(1.5708)
    """

    function: Callable[[Tensor], Tensor]
    shift: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """A function f of one variable, fitted as c·f(a·x + b) + d.

    Args:
        name: how a fit is labelled and saved.
        function: f on tensors, elementwise.
        sympy: f of a sympy expression.
        complexity: its cost in the choice between fits, 1 for a line.
        domain: open interval that a·x + b must stay in, in a fit.
        branches: whether f goes on outside of it, beyond a pole.
        derivative: f' from z and f(z); None differentiates `function`, by central differences if torch cannot (it calls
            NumPy, say).
        candidates: pairs (a, b), shape (A, 2), where the search begins on the interval [-1, 1].
        fit_scale: whether a is fitted; not where c takes its part, as in (a·x)² = a²·x².
        fit_shift: whether b is fitted; not where c or d take its part, as in exp(x + b) = exp(b)·exp(x).
        partner: for functions whose shifts are a linear space.

    Raises:
        ConfigError: it has no name, no positive complexity or no domain.

    Examples:
        >>> import sympy
        >>> from kansformer.symbolic import LIBRARY, Symbol, fit_symbolic
        >>> sinc = Symbol(name="sinc", function=torch.sinc, sympy=lambda z: sympy.sinc(sympy.pi * z), complexity=4)
        >>> x = torch.linspace(-2, 2, 64).unsqueeze(0)
        >>> fit_symbolic(x, torch.sinc(x), library=LIBRARY.with_symbol(sinc)).names
        ['sinc']
    """

    name: str
    function: Callable[[Tensor], Tensor]
    sympy: Callable[[sympy.Expr], sympy.Expr]
    complexity: float
    domain: tuple[float, float] = (-math.inf, math.inf)
    branches: bool = False
    derivative: Callable[[Tensor, Tensor], Tensor] | None = None
    candidates: Callable[[], Tensor] = mirrored_bends
    fit_scale: bool = True
    fit_shift: bool = True
    partner: Partner | None = None

    def __reduce_ex__(self, protocol):
        """By name for the package's own functions, which are lambdas; one's own must be ones that pickle can name."""
        from kansformer.symbolic.library import ALL_SYMBOLS
        from kansformer.symbolic.names import exponent_of, power

        exponent = exponent_of(self.name)
        is_power = exponent is not None and power(exponent) is self
        if is_power or any(own is self for own in ALL_SYMBOLS):
            return _packaged_symbol, (self.name,)
        return super().__reduce_ex__(protocol)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or self.name == CONSTANT:
            raise ConfigError(f"A function needs a name, and not {CONSTANT!r}; got {self.name!r}.")
        if not (isinstance(self.complexity, (int, float)) and 0 < self.complexity < math.inf):
            raise ConfigError(f"{self.name}: complexity must be a positive number, got {self.complexity!r}.")
        if not self.domain[0] < self.domain[1]:
            raise ConfigError(f"{self.name}: domain must run from a lower to a higher number, got {self.domain}.")

    def slope(self, z: Tensor, f: Tensor) -> Tensor:
        """f' at z, where the function is f."""
        if self.derivative is not None:
            return self.derivative(z, f)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = _with_graph(self, z)
            if values is not None:
                with suppress(RuntimeError):  # not all of torch's functions have derivatives
                    (slope,) = torch.autograd.grad(values.sum(), z, allow_unused=True)
                    return torch.zeros_like(z) if slope is None else slope
        return self._central_difference(z.detach())

    @torch.no_grad()
    def _central_difference(self, z: Tensor) -> Tensor:
        z, dtype = z.double(), z.dtype
        step = DIFFERENCE * z.abs().clamp(min=1.0)
        lower, upper = (torch.as_tensor(self.function(point)).to(z) for point in (z - step, z + step))
        return ((upper - lower) / (2 * step)).to(dtype)


def symbol_values(symbol: Symbol, z: Tensor) -> Tensor:
    """A function at z, differentiable by z also where torch cannot differentiate it."""
    if not (torch.is_grad_enabled() and z.requires_grad):
        version = None if z.is_inference() else z._version
        values = torch.as_tensor(symbol.function(z)).to(z)
        if version is not None and version != z._version:
            raise ConfigError(f"The function {symbol.name!r} works in place. Write it so that it leaves its argument.")
        return values
    with_graph = _with_graph(symbol, z)
    return _Opaque.apply(z, symbol) if with_graph is None else with_graph.to(z)


def _with_graph(symbol: Symbol, z: Tensor) -> Tensor | None:
    """A function at z as autograd records it; None if it does not."""
    try:
        values = symbol.function(z)
    except RuntimeError:  # NumPy refuses tensors that require gradients
        return None
    return values if isinstance(values, Tensor) and values.requires_grad else None


class _Opaque(torch.autograd.Function):
    """A function that torch cannot differentiate, with its numerical derivative."""

    @staticmethod
    def forward(ctx, z: Tensor, symbol: Symbol) -> Tensor:
        ctx.symbol = symbol
        values = torch.as_tensor(symbol.function(z.detach())).to(z)
        ctx.save_for_backward(z, values)
        return values

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise ConfigError(
                f"The second derivative of {ctx.symbol.name!r} is needed, and torch cannot differentiate its function. "
                "Write it with operations of torch."
            )
        z, values = ctx.saved_tensors
        return grad * ctx.symbol.slope(z, values), None


def _packaged_symbol(name: str) -> Symbol:
    from kansformer.symbolic.library import ALL_SYMBOLS

    return ALL_SYMBOLS.named(name)


class SymbolLibrary(Sequence[Symbol]):
    """Functions by name, in their order.

    Args:
        symbols: the rows.

    Raises:
        ConfigError: there are none, or two have one name.

    Examples:
        >>> from kansformer.symbolic import LIBRARY, SymbolLibrary
        >>> LIBRARY.subset(["x", "exp", "sin"]).names
        ('x', 'exp', 'sin')
        >>> SymbolLibrary([LIBRARY.named("tanh")]).names
        ('tanh',)
    """

    def __init__(self, symbols: Sequence[Symbol]) -> None:
        if not symbols:
            raise ConfigError("The library has no functions, so no curve could be named.")
        self._rows: dict[str, Symbol] = {}
        for symbol in symbols:
            if symbol.name in self._rows:
                raise ConfigError(f"The library has two functions named {symbol.name!r}.")
            self._rows[symbol.name] = symbol
        self._order = tuple(symbols)

    def __getitem__(self, index):
        return self._order[index]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def named(self, name: str) -> Symbol:
        """The function of this name, in any spelling that `kansformer.symbolic.names` knows.

        Powers of x, such as `x^2.5`, `x^(1/3)` or `1/x^5`, are made if they are not here.

        Raises:
            ConfigError: there is none.
        """
        from kansformer.symbolic.names import exponent_of, plain_name, power

        plain = name if name in self._rows else plain_name(str(name))
        if plain in self._rows:
            return self._rows[plain]
        exponent = exponent_of(plain)
        if exponent is not None:
            return power(exponent)
        near = ", ".join(difflib.get_close_matches(plain[:MAX_COMPARED], self._rows, n=3))
        near = near and f"Close to it: {near}. "
        raise ConfigError(
            f"No function is named {name!r:.120}. {near}Add it by library.with_symbol(Symbol(...)), "
            f"or choose from: {', '.join(self._rows)}, and powers such as x^2.5 and 1/x^3."
        )

    def subset(self, names: Sequence[str]) -> SymbolLibrary:
        """The library of these functions only, found as by `named`; one that has two names is there once.

        Raises:
            ConfigError: one is not here.
        """
        return SymbolLibrary(list({symbol.name: symbol for symbol in map(self.named, names)}.values()))

    def with_symbol(self, symbol: Symbol) -> SymbolLibrary:
        """The library with one more function; one of the same name is replaced."""
        return SymbolLibrary([*(row for row in self._order if row.name != symbol.name), symbol])
