"""One description for all bases: which family, how many coefficients, and what happens outside the domain.

Shape letters: `...` any, C coefficients per curve, D parameters of a rational denominator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
from torch import Tensor

from kansformer.basis import bspline, chebyshev, fourier, rational, rbf
from kansformer.checks import check_choice, check_integer

BASES = {"bspline": bspline, "chebyshev": chebyshev, "rbf": rbf, "fourier": fourier, "rational": rational}
EXTRAPOLATIONS = ("linear", "clamp", "zero")
MAX_GRID_SIZE = 10_000

# Inputs further away than this many domain widths count as this far: zero coefficients times infinity would be NaN.
MAX_DISTANCE = 1e18


def _held(unit: Tensor) -> Tensor:
    """Unit coordinates held at the ends of the domain, whose derivative there is that inside: clamp's is 0 since
    torch 2.15."""
    return torch.where(unit < 0, 0.0, torch.where(unit > 1, 1.0, unit))


@dataclass(frozen=True, kw_only=True)
class Basis:
    """A family of curves that are linear in their coefficients.

    Args:
        name: `bspline`, `chebyshev`, `rbf`, `fourier` or `rational`.
        grid_size: G ≥ 1, intervals of a B-spline, gaps between RBF centres, frequencies of a Fourier series.
        order: polynomial degree: B-splines 1–5, Chebyshev 1–16, the numerator of a rational curve 1–9.
        extrapolation: outside the domain the curve goes on as its tangent (`linear`), keeps its last value (`clamp`)
            or is `zero`.

    Raises:
        ConfigError: a value is not among the choices.
    """

    name: str = "bspline"
    grid_size: int = 5
    order: int = 3
    extrapolation: str = "linear"

    def __post_init__(self) -> None:
        check_choice("basis", self.name, BASES)
        check_choice("extrapolation", self.extrapolation, EXTRAPOLATIONS)
        grid_size = check_integer("grid_size", self.grid_size, 1, MAX_GRID_SIZE)
        order = check_integer(f"order of the basis {self.name!r}", self.order, 1, BASES[self.name].MAX_ORDER)
        object.__setattr__(self, "grid_size", grid_size)
        object.__setattr__(self, "order", order)

    @cached_property
    def num_coefficients(self) -> int:
        """C, coefficients per curve."""
        return BASES[self.name].num_coefficients(self.grid_size, self.order)

    @cached_property
    def num_denominator(self) -> int:
        """D, further parameters per curve; 0 for every basis but `rational`."""
        return rational.num_denominator(self.order) if self.name == "rational" else 0

    def values(self, x: Tensor, domain: Tensor, denominator: Tensor | None = None) -> Tensor:
        """Values of all basis functions.

        Args:
            x: (...), float32 or float64.
            domain: (..., 2), lower and upper end, broadcasting over the leading axes of x.
            denominator: (..., D) for `rational`, else None.

        Returns:
            (..., C). NaN where x is NaN; finite everywhere else.
        """
        unit = self.unit_coordinates(x, domain)
        inside = _held(unit)
        family, extra = self._family(denominator)
        result = family.values(inside, self.grid_size, self.order, *extra)
        if self.extrapolation == "linear":
            slopes = family.derivatives(inside, self.grid_size, self.order, *extra)
            result = result + slopes * (unit - inside).unsqueeze(-1)
        elif self.extrapolation == "zero":
            result = result * (unit == inside).unsqueeze(-1)
        return result

    def derivatives(self, x: Tensor, domain: Tensor, denominator: Tensor | None = None) -> Tensor:
        """Derivatives by x of all basis functions, (..., C); arguments as in `values`."""
        return self.values_and_derivatives(x, domain, denominator)[1]

    def values_and_derivatives(
        self, x: Tensor, domain: Tensor, denominator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `values` and `derivatives` give, in the time of one."""
        unit = self.unit_coordinates(x, domain)
        inside = _held(unit)
        if self.name == "bspline":
            values, derivatives = bspline.values_and_higher_derivatives(inside, self.grid_size, self.order, 1)
        else:
            family, extra = self._family(denominator)
            values = family.values(inside, self.grid_size, self.order, *extra)
            derivatives = family.derivatives(inside, self.grid_size, self.order, *extra)
        if self.extrapolation == "linear":
            values = values + derivatives * (unit - inside).unsqueeze(-1)
        else:
            reached = (unit == inside).unsqueeze(-1)
            derivatives = derivatives * reached
            values = values * reached if self.extrapolation == "zero" else values
        return values, derivatives / (domain[..., 1] - domain[..., 0]).unsqueeze(-1)

    @torch.no_grad()
    def values_and_higher_derivatives(
        self, x: Tensor, domain: Tensor, highest: int, denominator: Tensor | None = None
    ) -> Tensor:
        """`values` and their derivatives by x up to the `highest`, (highest + 1, ..., C), without gradients."""
        if self.name != "bspline":
            return elementwise_derivatives(lambda x: self.values(x, domain, denominator), x, highest)
        unit = self.unit_coordinates(x, domain)
        inside = _held(unit)
        result = bspline.values_and_higher_derivatives(inside, self.grid_size, self.order, max(highest, 1))
        reached = (unit == inside).unsqueeze(-1)
        if self.extrapolation == "linear":
            result[0] += result[1] * (unit - inside).unsqueeze(-1)
            result[2:] *= reached
        else:
            result[0 if self.extrapolation == "zero" else 1 :] *= reached
        width = (domain[..., 1] - domain[..., 0]).unsqueeze(-1)
        for n in range(1, highest + 1):
            result[n] /= width**n
        return result[: highest + 1]

    @staticmethod
    def unit_coordinates(x: Tensor, domain: Tensor) -> Tensor:
        """x in units of the domain: 0 at its lower end, 1 at its upper end, and never infinite."""
        lower, upper = domain.unbind(-1)
        return ((x - lower) / (upper - lower)).clamp(-MAX_DISTANCE, MAX_DISTANCE)

    def _family(self, denominator: Tensor | None) -> tuple[ModuleType, tuple[Tensor, ...]]:
        """The module of this basis, and what its functions take beside grid size and order."""
        return BASES[self.name], () if denominator is None else (denominator,)


def elementwise_derivatives(function: Callable[[Tensor], Tensor], x: Tensor, highest: int) -> Tensor:
    """A function of each number of x and its derivatives up to the `highest`, (highest + 1, ...), without gradients.

    Where the function gives several numbers for each, forward mode by two backward passes: the first one's result is
    linear in what it is weighted with, and its derivative by the weights is what was asked for.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        results = [function(x)]
        for _ in range(highest):
            last = results[-1]
            slopes = torch.zeros_like(last)  # of a constant function
            if last.requires_grad and last.shape == x.shape:
                (slopes,) = torch.autograd.grad(last.sum(), x, create_graph=highest > 1, materialize_grads=True)
            elif last.requires_grad:
                weights = torch.zeros_like(last, requires_grad=True)
                (pulled,) = torch.autograd.grad(last, x, weights, create_graph=True, materialize_grads=True)
                if pulled.requires_grad:
                    (slopes,) = torch.autograd.grad(pulled.sum(), weights, create_graph=True, materialize_grads=True)
            results.append(slopes)
    return torch.stack(results).detach()
