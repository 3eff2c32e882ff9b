"""Shapes that a network is held to: rising or falling, convex or concave, within bounds, through a point.

The network keeps its constraints: every step of a fit and every change of a grid is followed by `hold`, which puts the
curves onto near ones that obey, exactly, inside and outside of their domains (`kansformer.basis.shapes`).

With hidden layers a network rises with an input if the input's curves all rise or all fall, and so do the later ones
all the way: the input's own curves take its direction, all curves of later layers rise, those of the last one in the
direction of their output. Other inputs keep free curves in the first layer. An output is within bounds if the lowest
and highest coefficients of its curves add up to values within them, since B-splines are weights that add up to 1;
outside of their domains these curves keep their last values. All this is sufficient, not necessary.

Shape letters: I inputs, O outputs, C coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kansformer.basis.shapes import nearest_of_shape
from kansformer.checks import check_number
from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

DIRECTIONS = (-1, 0, 1)
RISING_BASES = ("identity", "relu", "tanh")


@dataclass(frozen=True)
class Constraints:
    """What a network is held to. Directions are -1, 0 (free) or 1.

    Args:
        monotone: of the outputs by each input, I.
        curvature: 1 where the outputs are convex in an input, -1 where they are concave, I.
        outputs: by which the directions of `monotone` are multiplied for each output, O, without zeros.
        lower, upper: bounds of each output, O; infinite where there is none.
        through: a point, its inputs (I) and outputs (O), or None.
    """

    monotone: tuple[int, ...]
    curvature: tuple[int, ...]
    outputs: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    through: tuple[tuple[float, ...], tuple[float, ...]] | None

    @property
    def has_directions(self) -> bool:
        """Whether it asks for a direction or a curvature."""
        return any(self.monotone + self.curvature)

    @property
    def is_bounded(self) -> bool:
        """Whether an output has a bound."""
        return any(map(math.isfinite, self.lower + self.upper))

    @property
    def holds_curves(self) -> bool:
        """Whether it asks anything of curves, and not of the last constants alone."""
        return self.has_directions or self.is_bounded

    def to_dict(self) -> dict[str, list]:
        """JSON-ready; `checked_constraints` is the inverse."""
        result: dict[str, list] = {name: list(getattr(self, name)) for name in ("monotone", "curvature", "outputs")}
        if self.is_bounded:
            for name in ("lower", "upper"):
                result[name] = [bound if math.isfinite(bound) else None for bound in getattr(self, name)]
        if self.through is not None:
            result["through"] = [list(numbers) for numbers in self.through]
        return result


def checked_constraints(values: Mapping[str, object], model: KAN) -> Constraints | None:
    """Constraints for a network; None if the mapping asks for nothing.

    Args:
        values: by name, as of `Constraints`: directions are a sequence with one for every input or output, or a mapping
            of their numbers from 0; bounds a number for all outputs, or a sequence with a number or None for each;
            `through` a pair of inputs and outputs, each a number or a sequence.
        model: the network.

    Raises:
        ConfigError: a name or a value is not possible, or the network cannot be held to it.
    """
    inputs, outputs = sum(model.width[0]), sum(model.width[-1])
    names = list(Constraints.__annotations__)
    if not isinstance(values, Mapping) or not set(values) <= set(names):
        raise ConfigError(f"constraints must be a mapping with the keys {', '.join(names)}, got {values!r:.120}.")
    result = Constraints(
        monotone=_directions("monotone", values.get("monotone", ()), inputs),
        curvature=_directions("curvature", values.get("curvature", ()), inputs),
        outputs=_directions("outputs", values["outputs"], outputs) if "outputs" in values else (1,) * outputs,
        lower=_bounds("lower", values.get("lower"), outputs, -math.inf),
        upper=_bounds("upper", values.get("upper"), outputs, math.inf),
        through=_point(values.get("through"), inputs, outputs),
    )
    if 0 in result.outputs:
        raise ConfigError(f"The directions of outputs are -1 or 1, got {list(result.outputs)}.")
    if not (result.holds_curves or result.through is not None):
        return None
    if not all(low < high for low, high in zip(result.lower, result.upper, strict=True)):
        raise ConfigError(f"lower must be below upper, got {list(result.lower)} and {list(result.upper)}.")
    if result.is_bounded and (any(result.curvature) or result.through is not None):
        raise ConfigError("Bounds go with monotone only: leave out curvature and through, or the bounds.")
    if result.through is not None and not model.has_bias:
        raise ConfigError("A network with bias=False has no constants by which it could be led through a point.")
    basis = model.layers[0].curves.basis.name
    if basis != "bspline":
        raise ConfigError(f"Constraints are of B-splines; the curves of this network are of the basis {basis!r}.")
    if len(model.layers) > 1 and any(result.curvature):
        raise ConfigError("Only a network without hidden layers, such as KAN([2, 1]), can be held convex or concave.")
    if any(products for _, products in model.width):
        raise ConfigError("A network with product nodes cannot be held to constraints: a product may change direction.")
    if any(map(len, model.formulas)):
        raise ConfigError("A network with formulas cannot be held to constraints. Call unfix_symbol first.")
    return result


def constrain(model: KAN, constraints: Constraints | None) -> None:
    """Begin to hold a network to constraints, or end it, without a change of its numbers.

    Where its outputs have bounds, the last curves keep their last values outside of their domains.
    """
    model.constraints = constraints
    last = model.layers[-1]
    extrapolation = "clamp" if constraints is not None and constraints.is_bounded else "linear"
    last.curves = replace(last.curves, basis=replace(last.curves.basis, extrapolation=extrapolation))


def _directions(name: str, values: object, length: int) -> tuple[int, ...]:
    if isinstance(values, Mapping):
        unknown = [key for key in values if not isinstance(key, Integral) or not 0 <= int(key) < length]
        if unknown:
            raise ConfigError(f"{name} of constraints names {unknown[0]!r:.80}; numbers are 0 to {length - 1}.")
        values = [values.get(index, 0) for index in range(length)]
    values = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values
    if isinstance(values, Sequence) and not isinstance(values, str):
        plain = list(values) or [0] * length
        if len(plain) == length and all(isinstance(v, Real) and v in DIRECTIONS for v in plain):
            return tuple(int(v) for v in plain)
    raise ConfigError(f"{name} of constraints must be {length} numbers of -1, 0 and 1, got {values!r:.120}.")


def _bounds(name: str, values: object, length: int, free: float) -> tuple[float, ...]:
    values = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values
    plain = [values] * length if values is None or isinstance(values, Real) else values
    plain = list(plain) if isinstance(plain, Sequence) and not isinstance(plain, str) else []
    if len(plain) != length or not all(bound is None or isinstance(bound, Real) for bound in plain):
        raise ConfigError(
            f"{name} of constraints must be a number, or a number or None for each of {length} outputs, got "
            f"{values!r:.80}."
        )
    return tuple(free if bound is None else check_number(f"{name} of constraints", bound) for bound in plain)


def _point(values: object, inputs: int, outputs: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if values is None:
        return None
    message = f"through of constraints must be a pair of {inputs} inputs and {outputs} outputs, got {values!r:.120}."
    try:
        x, y = (torch.as_tensor(part, dtype=torch.float64).flatten() for part in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigError(message) from None
    if (len(x), len(y)) != (inputs, outputs) or not torch.cat([x, y]).isfinite().all():
        raise ConfigError(message)
    return tuple(x.tolist()), tuple(y.tolist())


def edge_directions(model: KAN, index: int) -> tuple[Tensor, Tensor]:
    """Of the curves of a layer, rising or falling, and convex or concave, both (I, O)."""
    layer, constraints = model.layers[index], model.constraints
    assert constraints is not None
    device = layer.weight.device
    if index:
        rising_I = torch.full((layer.in_features,), int(any(constraints.monotone)), device=device)
    else:
        rising_I = torch.tensor(constraints.monotone, device=device)
    is_last = index == len(model.layers) - 1
    ends = constraints.outputs if is_last else (1,) * layer.out_features
    rising_IO = rising_I.unsqueeze(-1) * torch.tensor(ends, device=device)
    bent_I = torch.tensor((0,) * layer.in_features if index else constraints.curvature, device=device)
    return rising_IO, bent_I.unsqueeze(-1).expand_as(rising_IO)


def check_not_held(model: KAN, change: str) -> None:
    """Refuse to make edges of a network formulas, which would not keep its constraints.

    Args:
        model: the network.
        change: the function that was called.

    Raises:
        ConfigError: it has constraints.
    """
    if model.constraints is not None:
        raise ConfigError(
            f"{change} makes edges formulas, and this network is held to constraints, which formulas do not keep. End "
            "them first: model.fit(data, steps=0, constraints={})."
        )


def without_base(model: KAN, index: int) -> Tensor:
    """Mask of a layer's edges whose base weight stays 0, (I, O): the base would break their shape, as silu's dip."""
    layer = model.layers[index]
    if model.constraints is None:
        return torch.zeros_like(layer.weight.mT, dtype=torch.bool)
    if model.constraints.is_bounded and layer is model.layers[-1]:
        return torch.ones_like(layer.weight.mT, dtype=torch.bool)
    rising_IO, bent_IO = edge_directions(model, index)
    breaks_rising, breaks_bend = layer.base not in RISING_BASES, layer.base != "identity"
    return (rising_IO != 0) & breaks_rising | (bent_IO != 0) & breaks_bend


@torch.no_grad()
def hold(model: KAN) -> bool:
    """Put the curves of a network onto near ones that obey its constraints, in place; whether it has any."""
    if model.constraints is None:
        return False
    _hold_directions(model)
    if model.constraints.is_bounded:
        _hold_bounds(model, model.constraints)
    model.layers[-1].bias.add_(missing_at_point(model))
    return True


def missing_at_point(model: KAN) -> Tensor:
    """What the outputs have to rise by to pass the point that they are held to, (O,), differentiable; 0 without one.

    Added to all outputs it makes the constants of the last layer follow from the other parameters.
    """
    bias_O = model.layers[-1].bias
    if model.constraints is None or model.constraints.through is None:
        return torch.zeros_like(bias_O)
    point_I, value_O = (bias_O.new_tensor(numbers) for numbers in model.constraints.through)
    return value_O - model(point_I)


def _hold_directions(model: KAN) -> None:
    for index, layer in enumerate(model.layers):
        rising_IO, bent_IO = edge_directions(model, index)
        if not (rising_IO.any() or bent_IO.any()):
            continue
        curves_IOC = layer.coefficients.movedim(1, -1)
        held_IOC = curves_IOC.clone()
        for rising in DIRECTIONS:
            for bent in DIRECTIONS:
                chosen_IO = (rising_IO == rising) & (bent_IO == bent)
                if (rising or bent) and chosen_IO.any():
                    held_IOC[chosen_IO] = nearest_of_shape(curves_IOC[chosen_IO], rising, bent)
        layer.coefficients.copy_(held_IOC.movedim(-1, 1))
        weight_IO = layer.weight.mT
        weight_IO[without_base(model, index)] = 0
        weight_IO[weight_IO * rising_IO < 0] = 0


def _hold_bounds(model: KAN, constraints: Constraints) -> None:
    layer, alive_IO = model.layers[-1], model.alive[-1]
    lower_O, upper_O = (layer.bias.new_tensor(bounds) for bounds in (constraints.lower, constraints.upper))
    layer.bias.copy_(torch.where(alive_IO.any(dim=0), layer.bias, layer.bias.clamp(lower_O, upper_O)))
    layer.weight.zero_()
    curves_IOC = layer.coefficients.movedim(1, -1)
    highest_IO = _summing_to(upper_O - layer.bias, curves_IOC, alive_IO)
    curves_IOC = torch.minimum(curves_IOC, highest_IO.unsqueeze(-1))
    lowest_IO = -_summing_to(layer.bias - lower_O, -curves_IOC, alive_IO)
    layer.coefficients.copy_(torch.maximum(curves_IOC, lowest_IO.unsqueeze(-1)).movedim(-1, 1))


def _summing_to(upper_O: Tensor, curves_IOC: Tensor, alive_IO: Tensor) -> Tensor:
    """The highest coefficients of curves, lowered until they add up to bounds or less, (I, O).

    All curves of an output lose the same share of their ranges. Where even their lowest coefficients add up to more,
    they are to become constants.
    """
    high_IO = curves_IOC.amax(-1)
    range_IO = high_IO - curves_IOC.amin(-1)
    range_O, excess_O = range_IO.sum(dim=0), (high_IO.sum(dim=0) - upper_O).clamp(min=0)
    share_O = (excess_O / range_O).nan_to_num(nan=0.0, posinf=1.0).clamp(max=1)
    rest_O = (excess_O - range_O).clamp(min=0) / alive_IO.sum(dim=0).clamp(min=1)
    return high_IO - share_O * range_IO - rest_O * alive_IO


@torch.no_grad()
def turn_towards(model: KAN) -> None:
    """Negate the curves that run against their direction as a whole, so that a fit does not begin with flat ones."""
    if model.constraints is None:
        return
    for index, layer in enumerate(model.layers):
        rising_IO, _ = edge_directions(model, index)
        against_IO = (layer.coefficients[:, -1] - layer.coefficients[:, 0]) * rising_IO < 0
        layer.coefficients.copy_(torch.where(against_IO.unsqueeze(1), -layer.coefficients, layer.coefficients))
