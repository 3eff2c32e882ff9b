"""Shapes that a network is held to: rising or falling with an input, convex or concave in it.

The network keeps its constraints: every step of a fit and every change of a grid is followed by `hold`, which puts the
curves onto the nearest ones that obey, exactly, inside and outside of their domains (`kansformer.basis.shapes`).

With hidden layers a network rises with an input if the input's curves all rise or all fall, and so do the later ones
all the way: the input's own curves take its direction, all curves of later layers rise, those of the last one in the
direction of their output. Other inputs keep free curves in the first layer. This is sufficient, not necessary.

Shape letters: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.basis.shapes import nearest_of_shape
from kansformer.errors import ConfigError

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

DIRECTIONS = (-1, 0, 1)
RISING_BASES = ("identity", "relu", "tanh")


@dataclass(frozen=True)
class Constraints:
    """Directions, each -1, 0 (free) or 1.

    Args:
        monotone: of the outputs by each input, I.
        curvature: 1 where the outputs are convex in an input, -1 where they are concave, I.
        outputs: by which the directions of `monotone` are multiplied for each output, O, without zeros.
    """

    monotone: tuple[int, ...]
    curvature: tuple[int, ...]
    outputs: tuple[int, ...]

    def to_dict(self) -> dict[str, list[int]]:
        """JSON-ready; `checked_constraints` is the inverse."""
        return {name: list(values) for name, values in vars(self).items()}


def checked_constraints(values: Mapping[str, object], model: KAN) -> Constraints | None:
    """Constraints for a network; None for an empty mapping, or if all inputs are free.

    Args:
        values: by name, as of `Constraints`: a sequence with a direction for every input or output, or a mapping of
            their numbers from 0.
        model: the network.

    Raises:
        ConfigError: a name or a direction is unknown, or the network cannot be held to it.
    """
    inputs, outputs = sum(model.width[0]), sum(model.width[-1])
    lengths = {"monotone": inputs, "curvature": inputs, "outputs": outputs}
    if not isinstance(values, Mapping) or not set(values) <= set(lengths):
        raise ConfigError(f"constraints must be a mapping with the keys {', '.join(lengths)}, got {values!r:.120}.")
    given = {name: _directions(name, values.get(name, ()), length) for name, length in lengths.items()}
    given["outputs"] = given["outputs"] if "outputs" in values else (1,) * outputs
    result = Constraints(**given)
    if 0 in result.outputs:
        raise ConfigError(f"The directions of outputs are -1 or 1, got {list(result.outputs)}.")
    if not any(result.monotone + result.curvature):
        return None
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


def _directions(name: str, values: object, length: int) -> tuple[int, ...]:
    if isinstance(values, Mapping):
        unknown = [key for key in values if not isinstance(key, Integral) or not 0 <= int(key) < length]
        if unknown:
            raise ConfigError(f"{name} of constraints names {unknown[0]!r:.80}; numbers are 0 to {length - 1}.")
        values = [values.get(index, 0) for index in range(length)]
    if isinstance(values, (Sequence, Tensor)) and not isinstance(values, str):
        plain = list(values) or [0] * length
        if len(plain) == length and all(isinstance(v, (Integral, Tensor)) and v in DIRECTIONS for v in plain):
            return tuple(int(v) for v in plain)
    raise ConfigError(f"{name} of constraints must be {length} numbers of -1, 0 and 1, got {values!r:.120}.")


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
    rising_IO, bent_IO = edge_directions(model, index)
    breaks_rising, breaks_bend = layer.base not in RISING_BASES, layer.base != "identity"
    return (rising_IO != 0) & breaks_rising | (bent_IO != 0) & breaks_bend


@torch.no_grad()
def hold(model: KAN) -> bool:
    """Put the curves of a network onto the nearest ones that obey its constraints, in place; whether it has any."""
    if model.constraints is None:
        return False
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
    return True


@torch.no_grad()
def turn_towards(model: KAN) -> None:
    """Negate the curves that run against their direction as a whole, so that a fit does not begin with flat ones."""
    if model.constraints is None:
        return
    for index, layer in enumerate(model.layers):
        rising_IO, _ = edge_directions(model, index)
        against_IO = (layer.coefficients[:, -1] - layer.coefficients[:, 0]) * rising_IO < 0
        layer.coefficients.copy_(torch.where(against_IO.unsqueeze(1), -layer.coefficients, layer.coefficients))
