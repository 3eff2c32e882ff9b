"""Hold single curves to shapes: rising or falling, convex or concave, within bounds, through a point.

`hold_curves` imposes a shape; call it after every step of the optimizer to keep the shape in training. A network as
a whole is held by `kansformer.kan.KAN.fit(constraints=)`.

Shape letters: I inputs, O outputs, C coefficients, P curves of the input axis.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kansformer.basis.basis import EXTRAPOLATIONS
from kansformer.basis.shapes import nearest_of_shape
from kansformer.checks import check_number
from kansformer.errors import ConfigError
from kansformer.nn.activation import LearnedActivation
from kansformer.nn.base import kernel_name
from kansformer.nn.curve_checks import check_not_fixed
from kansformer.nn.curves import CurvedModule, require_curves
from kansformer.nn.linear import KANLinear

DIRECTIONS = (-1, 0, 1)
BASES = ("identity", "zero")
HeldModule: TypeAlias = KANLinear | LearnedActivation


@dataclass(frozen=True, kw_only=True)
class CurveShape:
    """What curves are held to, each with its base: W·x + s(x), or s(x) where the base is `zero`.

    Args:
        monotone: 1 where a curve never falls, -1 where it never rises, 0 for either.
        curvature: 1 for convex, -1 for concave, 0 for either.
        lower, upper: bounds of a curve's values, in units of its output; None for no bound.
        through: the point (x, y) that a curve passes through; None for any.

    Raises:
        ConfigError: a value is not among the choices, nothing is asked for, or bounds come with a curvature or a point.

    Examples:
        >>> from kansformer.training import CurveShape
        >>> CurveShape(monotone=1, through=(0.0, 1.0)).is_bounded
        False
    """

    monotone: int = 0
    curvature: int = 0
    lower: float | None = None
    upper: float | None = None
    through: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("monotone", "curvature"):
            if (value := getattr(self, name)) not in DIRECTIONS:
                raise ConfigError(f"{name} must be -1, 0 or 1, got {value!r:.80}.")
        if self.through is not None:
            if not isinstance(self.through, (tuple, list)) or len(self.through) != 2:
                raise ConfigError(f"through must be a point (x, y), got {self.through!r:.80}.")
            for name, value in zip("xy", self.through, strict=True):
                check_number(f"{name} of through", value)
        for name in ("lower", "upper"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if None not in (self.lower, self.upper) and not self.lower < self.upper:  # type: ignore[operator]
            raise ConfigError(f"lower must be below upper, got {self.lower!r} and {self.upper!r}.")
        if self.is_bounded and (self.curvature or self.through is not None):
            raise ConfigError("Bounds go with monotone only: leave out curvature and through, or the bounds.")
        if not (self.monotone or self.curvature or self.is_bounded or self.through is not None):
            raise ConfigError("The shape asks for nothing. Give monotone, curvature, lower, upper or through.")

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound."""
        return self.lower is not None or self.upper is not None

    def extrapolations(self, base: str) -> tuple[str, ...]:
        """Those with which curves on one of `BASES` keep the shape outside of their domains."""
        if self.is_bounded:
            return ("clamp",) if base == "zero" else ()
        if self.curvature or (self.monotone and base == "identity"):
            return ("linear",)
        return ("linear", "clamp") if self.monotone else EXTRAPOLATIONS


@torch.no_grad()
def hold_curves(model: nn.Module, shape: CurveShape) -> nn.Module:
    """Replace every curve of a model by a nearby curve of the given shape, in place.

    Exact for B-splines everywhere, outside their domains as well: with the base `zero` to the last bit of a
    comparison, with `identity` to rounding. A curve within its shape stays as it is, to rounding. Conditions on
    coefficients imply those on curves, not the reverse, so a few curves that obey are changed, too.

    To keep the shape in training: `optimizer.register_step_post_hook(lambda *_: hold_curves(model, shape))`, or the
    callback `HoldCurves(shape)` of a Trainer.

    Args:
        model: a `LearnedActivation`, a `KANLinear`, or any model with such modules and no other curves.
        shape: what they are held to.

    Returns:
        The model.

    Raises:
        ConfigError: the model has no curves or fixed ones, or a module's curves cannot be held to this shape, because
            of their basis, base, extrapolation, edges or domain. Nothing is changed then.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> from kansformer.training import CurveShape, hold_curves
        >>> curve = LearnedActivation(1, base="zero", grid_size=8)
        >>> _ = torch.nn.init.normal_(curve.coefficients)
        >>> _ = hold_curves(curve, CurveShape(monotone=1, through=(0.0, 2.0)))
        >>> x = torch.linspace(-3, 3, 100).unsqueeze(-1)
        >>> bool((curve(x).diff(dim=0) > -1e-6).all()), round(curve(torch.zeros(1, 1)).item(), 4)
        (True, 2.0)
    """
    modules = require_curves(model, ", so none can be held to a shape.")
    check_not_fixed(model, "hold_curves")
    for module in [_checked(path or "the model", module, shape) for path, module in modules.items()]:
        _hold(module, shape)
    return model


def _hold(module: HeldModule, shape: CurveShape) -> None:
    own = module.coefficients if module.coefficients.dim() == 3 else module.coefficients.unsqueeze(-1)
    straight = _straight(module).to(own)
    whole = nearest_of_shape((own + straight).movedim(1, -1), shape.monotone, shape.curvature)  # (P, O, C)
    if shape.is_bounded:
        whole = whole.clamp(shape.lower, shape.upper)
    if shape.through is not None:
        x, y = shape.through
        place = torch.full(module.domain.shape[:1], x).to(module.domain)
        values_PC = module.curves.basis.values(place, module.domain).to(whole)
        whole = whole + (y - (whole * values_PC.unsqueeze(1)).sum(-1, keepdim=True))  # B-splines add up to 1
    held = whole.movedim(-1, 1) - straight
    module.coefficients.copy_(held.reshape(module.coefficients.shape))


def _straight(module: HeldModule) -> Tensor:
    """Coefficients of a base, (P, C, O) or (P, C, 1): those of the identity are the Greville abscissae."""
    basis, (lower_P, upper_P) = module.curves.basis, module.domain.unbind(-1)
    step_P = (upper_P - lower_P) / basis.grid_size
    places_C = torch.arange(basis.num_coefficients).to(step_P) - (basis.order - 1) / 2
    abscissae = (lower_P.unsqueeze(-1) + places_C * step_P.unsqueeze(-1)).unsqueeze(-1)
    if _base_of(module) == "zero":
        return torch.zeros_like(abscissae)
    if isinstance(module, KANLinear) and module.curves.edges == "full":
        return abscissae * module.weight.mT.unsqueeze(1)
    return abscissae


def _base_of(module: HeldModule) -> str | None:
    return module.base if isinstance(module, KANLinear) else kernel_name(module.activation)


def _checked(name: str, module: CurvedModule, shape: CurveShape) -> HeldModule:
    basis = module.curves.basis
    if not isinstance(module, (KANLinear, LearnedActivation)) or module.curves.edges == "low_rank":
        raise ConfigError(f"The edges of {name} have no coefficients of their own, so they cannot be held to a shape.")
    if basis.name != "bspline":
        raise ConfigError(f"Shapes are of B-splines; the curves of {name} are of the basis {basis.name!r}.")
    base = _base_of(module)
    if base not in BASES:
        raise ConfigError(
            f"The curves of {name} are added to {base or 'a function of its own'}, which has another shape. Choose a "
            f"base among {', '.join(BASES)}."
        )
    fitting = shape.extrapolations(base)
    if not fitting:
        raise ConfigError(f"The curves of {name} are added to x, which has no bounds. Choose base='zero'.")
    if basis.extrapolation not in fitting:
        raise ConfigError(
            f"The curves of {name} on base={base!r} have extrapolation={basis.extrapolation!r}, which breaks the "
            f"shape outside of their domains. Choose {' or '.join(fitting)}."
        )
    if shape.through is not None:
        x, (lower_P, upper_P) = shape.through[0], module.domain.unbind(-1)
        if not bool(((lower_P <= x) & (x <= upper_P)).all()):
            raise ConfigError(f"through has x = {x:g}, which is outside of a domain of {name}.")
    return module
