"""The curves that one activation is looked for in, with how often their inputs occur.

Shape letters: E curves, S points, I channels, N recorded tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.checks import check_choice, check_integer
from kansformer.conversion.slots import CurveSlot, find_curve_slots
from kansformer.discover.functions import BASES
from kansformer.errors import DataError, ShapeError, SlotError
from kansformer.interp.curves import Records
from kansformer.interp.edge_features import edge_terms
from kansformer.nn.activation import LearnedActivation
from kansformer.nn.base import kernel_name

MIN_POINTS = 16
# Ends of the points, as quantiles of all recorded inputs; and the number of those that the quantiles are taken of, half
# of what `torch.quantile` takes at most.
TAIL, MAX_QUANTILE = 0.001, 2**23


@dataclass(frozen=True)
class ActivationCurves:
    """Curves of one slot as tables; one's own tables do as well as those of `activation_curves`.

    Args:
        x: points, the same for all curves, ascending, (S,).
        y: values of the curves there, with their base, (E, S).
        weights: how often inputs near each point occur, at least 0, (E, S); None weighs all alike.
        base: the fixed activation below the curves: `silu`, `gelu`, `gelu_tanh`, `relu`, `tanh`, `identity` or `zero`.

    Raises:
        ShapeError: the tables do not belong together, or there are fewer than 16 points.
        DataError: a number is not finite, points do not ascend, a weight is negative, or too few points have weight.
        ConfigError: the base is not one of these.

    Examples:
        >>> from kansformer.discover import ActivationCurves
        >>> x = torch.linspace(-4, 4, 50)
        >>> y = torch.stack([torch.relu(x) + scale * torch.cos(x) for scale in (0.5, 1.5)])
        >>> curves = ActivationCurves(x, y, base="relu")
        >>> curves.learned.shape, round(curves.spread, 3)
        (torch.Size([2, 50]), 0.212)
    """

    x: Tensor
    y: Tensor
    weights: Tensor = None  # type: ignore[assignment]  # is filled on construction
    base: str = "silu"

    def __post_init__(self) -> None:
        check_choice("base", self.base, BASES)
        x, y = (torch.as_tensor(values).detach().cpu().double() for values in (self.x, self.y))
        weights = torch.ones_like(y) if self.weights is None else torch.as_tensor(self.weights).detach().cpu().double()
        if x.ndim != 1 or y.ndim != 2 or y.shape != weights.shape or y.shape[1] != len(x):
            raise ShapeError(
                f"Curves are points (S,), values (curves, S) and weights (curves, S); got {tuple(x.shape)}, "
                f"{tuple(y.shape)} and {tuple(weights.shape)}."
            )
        if len(x) < MIN_POINTS or len(y) < 1:
            raise ShapeError(f"A closed form needs a curve and {MIN_POINTS} points, got {tuple(y.shape)}.")
        for name, values in (("x", x), ("y", y), ("weights", weights)):
            if not values.isfinite().all():
                raise DataError(f"{name} has a value that is not finite.")
            object.__setattr__(self, name, values)
        if not (x.diff() > 0).all():
            raise DataError("The points x must ascend.")
        if (weights < 0).any():
            raise DataError(f"Weights must be at least 0, got {float(weights.min()):g}.")
        if (count := int((weights.sum(dim=0) > 0).sum())) < MIN_POINTS:
            raise DataError(f"Only {count} points have weight; a closed form is judged on {MIN_POINTS} or more.")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def learned(self) -> Tensor:
        """The curves without their base, (E, S)."""
        return self.y - BASES[self.base].function(self.x)

    @property
    def spread(self) -> float:
        """Share of the variance of the learned curves, without the base, that is not in their mean curve; weighted.

        0 if all curves are the same, 1 if they have nothing in common. One function for all explains at most the rest.
        """
        mean_S, weight_S = weighted_mean(self.learned, self.weights)
        centre = (mean_S * weight_S).sum() / weight_S.sum()
        varied, differs = ((self.weights * (self.learned - part).square()).sum() for part in (centre, mean_S))
        return float(differs / varied) if varied > 0 else 0.0


def weighted_mean(values_ES: Tensor, weights_ES: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over curves, 0 where nothing has weight, and the weight of each point, (S,) each."""
    weight_S = weights_ES.sum(dim=0)
    return (weights_ES * values_ES).sum(dim=0) / weight_S.clamp(min=torch.finfo(torch.float64).tiny), weight_S


@torch.no_grad()
def activation_curves(model: nn.Module, records: Records, *, slot: str = "act", points: int = 200) -> ActivationCurves:
    """The curves of one slot of all layers, weighted by how often their recorded inputs occur.

    Args:
        model: converted, or with KAN modules.
        records: of `record_edges`; their samples of tokens give the weights.
        slot: `act`, or another with curves per channel or group.
        points: equally spaced between the 0.1 % and 99.9 % quantiles of all inputs.

    Returns:
        A row for every distinct curve: one per channel, or per group of channels, of every layer that does not share
        its curves with an earlier one.

    Raises:
        SlotError: no layer has curves in this slot, or a curve per edge, or their bases differ or have no name.
        DataError: the records hold no token for a layer.
        ConfigError: fewer than 16 points.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert
        >>> from kansformer.discover import activation_curves
        >>> from kansformer.interp import record_edges
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> with record_edges(model) as records:
        ...     output = model(torch.randn(64, 4))
        >>> curves = activation_curves(model, records, points=50)
        >>> curves.y.shape, curves.base
        (torch.Size([8, 50]), 'silu')
    """
    points = check_integer("points", points, MIN_POINTS)
    every = find_curve_slots(model)
    slots = [other for other in every if other.name == slot]
    if not slots:
        choices = ", ".join(dict.fromkeys(other.name for other in every))
        raise SlotError(f"No layer has curves in {slot!r}. Choose from: {choices}.")
    bases = {_base_of(other) for other in slots}
    if len(bases) > 1:
        raise SlotError(f"The layers have different bases in {slot!r}: {', '.join(sorted(bases))}.")
    inputs = []
    for other in slots:
        recorded = records[other.site, other.name]
        recorded.check_tokens()
        inputs.append(recorded.sample)
    step = 1 + sum(x_NI.numel() for x_NI in inputs) // MAX_QUANTILE
    pooled = torch.cat([x_NI.flatten()[::step].double() for x_NI in inputs])
    lower, upper = pooled.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)).tolist()
    if not lower < upper:
        raise DataError(f"All recorded inputs of {slot!r} are {lower:g}, so that no curve can be seen.")
    x_S = torch.linspace(lower, upper, points, dtype=torch.float64)
    values: dict[int, Tensor] = {}  # by coefficients, which layers may share
    weights: dict[int, Tensor] = {}
    for other, x_NI in zip(slots, inputs, strict=True):
        shared = id(other.module.coefficients)
        values[shared], weights_ES = _rows(other, x_NI, x_S)
        weights[shared] = weights[shared] + weights_ES if shared in weights else weights_ES
    return ActivationCurves(x_S, torch.cat([*values.values()]), torch.cat([*weights.values()]), bases.pop())


def _base_of(slot: CurveSlot) -> str:
    module = slot.module
    if not module.curves.is_per_channel:
        raise SlotError(
            f"{slot.path} has a curve per edge ({module.curves.edges!r}); an activation has one per channel or group."
        )
    if not isinstance(module, LearnedActivation):
        return str(getattr(module, "base", "identity"))
    name = kernel_name(module.activation)
    if name is None:
        raise SlotError(
            f"The base of {slot.path}, {type(module.activation).__name__}, is not among {', '.join(BASES)}. "
            "Sample its curves with edge_curves and give ActivationCurves the learned part, with base='zero'."
        )
    return name


def _rows(slot: CurveSlot, x_NI: Tensor, x_S: Tensor) -> tuple[Tensor, Tensor]:
    """Values and weights of a layer's distinct curves, (E, S) each."""
    module = slot.module
    curves = len(module.coefficients)
    size = module.in_features // curves
    first_E = torch.arange(0, module.in_features, size, device=module.coefficients.device)
    x_SE = x_S.to(module.coefficients.device).unsqueeze(-1).expand(-1, curves)
    y_ES = edge_terms(module, x_SE, first_E).sum(dim=-1).mT.double().cpu()
    width = x_S[1] - x_S[0]
    position_NI = ((x_NI.double() - x_S[0]) / width).round().long()
    inside_NI = (position_NI >= 0) & (position_NI < len(x_S))
    curve_I = torch.arange(module.in_features) // size
    places = (curve_I * len(x_S) + position_NI)[inside_NI]
    return y_ES, torch.bincount(places, minlength=curves * len(x_S)).double().reshape(curves, len(x_S))
