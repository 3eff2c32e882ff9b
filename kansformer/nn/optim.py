"""Optimizer groups: curves need a learning rate of their own and no weight decay."""

from collections.abc import Iterator

import torch
from torch import nn

from kansformer.errors import ConfigError
from kansformer.nn.curve_checks import find_record
from kansformer.nn.curves import CURVE_PARAMETERS, curved_modules
from kansformer.nn.optim_check import CURVE_GROUP

CURVE_LR_MULTIPLIER = {"bspline": 30.0, "rational": 3.0, "chebyshev": 3.0, "rbf": 30.0, "fourier": 3.0}
"""Of curves that many numbers go through, `channel` and `group`. Measured for `bspline` (1 gains nothing, 10 to 30 is
right, 100 is too much) and `rational` on small language models; the global polynomials follow `rational` and the local
bumps follow `bspline`."""

EDGE_LR_MULTIPLIER = {"full": 1.0, "low_rank": 0.3}
"""Of curves per edge, which are matrices and learn like matrices, whatever their basis. Measured for `low_rank` on
one seed of a small language model: 3 lost 0.06 nats against 1, and 0.3 gained 0.005. `full` follows the base weights,
and has not been measured apart."""


def curve_parameters_of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of one module's own curves."""
    for name, parameter in module.named_parameters(recurse=False):
        if name in CURVE_PARAMETERS:
            yield name, parameter


def curve_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of all curves in a model, shared ones once; everything else are base weights."""
    seen: set[int] = set()
    for path, module in curved_modules(model):
        for name, parameter in curve_parameters_of(module):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{name}" if path else name, parameter


def optimizer_groups(
    model: nn.Module, lr: float, *, weight_decay: float = 0.01, curve_lr_multiplier: float | None = None
) -> list[dict]:
    """Parameter groups for any torch optimizer: base weights, base weights without decay, and curves.

    At the learning rate of the weights, spline curves per channel or group gain a quarter of what they can (two seeds,
    `benchmarks/results/optimizer_groups.md`), and weight decay on them halves the gain.

    Args:
        model: any model; parameters that do not require a gradient are left out, and so are curves that are a fixed
            function (`trainable=False`), whatever they require.
        lr: learning rate of the base weights.
        weight_decay: of the base matrices; biases, norms and curves get none.
        curve_lr_multiplier: the curves' learning rate divided by `lr`; None takes `EDGE_LR_MULTIPLIER` for
            curves per edge and `CURVE_LR_MULTIPLIER` of the basis for others.

    Returns:
        Groups with the keys `name`, `params`, `lr` and `weight_decay`; empty groups are left out.

    Raises:
        ConfigError: nothing in the model requires a gradient, or the multiplier is not positive.

    Examples:
        >>> from kansformer import LearnedActivation, optimizer_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), LearnedActivation(8))
        >>> groups = optimizer_groups(model, lr=1e-3)
        >>> [(group["name"], round(group["lr"], 4), group["weight_decay"]) for group in groups]
        [('base', 0.001, 0.01), ('base without decay', 0.001, 0.0), ('curves x30', 0.03, 0.0)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    multipliers, fixed = _multipliers(model, curve_lr_multiplier), _fixed_curves(model)
    groups: dict[str, dict] = {}
    for _, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) in fixed:
            continue
        if id(parameter) in multipliers:
            multiplier = multipliers[id(parameter)]
            name, rate, decay = f"{CURVE_GROUP}{multiplier:g}", lr * multiplier, 0.0
        elif parameter.ndim >= 2:
            name, rate, decay = "base", lr, weight_decay
        else:
            name, rate, decay = "base without decay", lr, 0.0
        group = groups.setdefault(name, {"name": name, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("No parameter of the model requires a gradient, so there is nothing to optimise.")
    return list(groups.values())


def split_curves(optimizer: torch.optim.Optimizer, model: nn.Module, curve_lr_multiplier: float | None = None) -> None:
    """Move a model's curves out of an optimizer's groups into groups of their own, in place, before its first step.

    Curves that are a fixed function are in none afterwards.

    The multiplier, as in `optimizer_groups`, is of the learning rate of the group a curve stood in.

    Raises:
        ConfigError: the multiplier is not positive.
    """
    multipliers, fixed = _multipliers(model, curve_lr_multiplier), _fixed_curves(model)
    for group in list(optimizer.param_groups):
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in fixed]
        moved: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if id(parameter) in multipliers:
                moved.setdefault(multipliers[id(parameter)], []).append(parameter)
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in multipliers]
        for multiplier, parameters in moved.items():
            settings = {name: value for name, value in group.items() if name != "params"}
            rate, name = group["lr"] * multiplier, f"{CURVE_GROUP}{multiplier:g}"
            optimizer.add_param_group({**settings, "name": name, "params": parameters, "lr": rate, "weight_decay": 0.0})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _fixed_curves(model: nn.Module) -> set[int]:
    """The ids of curve parameters that are a fixed function."""
    records = ((module, find_record(module)) for module in model.modules())
    fixed = (module for module, record in records if record is not None and record.is_fixed)
    return {id(parameter) for module in fixed for _, parameter in curve_parameters(module)}


def _multipliers(model: nn.Module, curve_lr_multiplier: float | None) -> dict[int, float]:
    """The multiplier of every curve parameter, by its id."""
    if curve_lr_multiplier is not None and not curve_lr_multiplier > 0:
        raise ConfigError(f"curve_lr_multiplier must be above 0, got {curve_lr_multiplier!r}.")
    multipliers: dict[int, float] = {}
    for _, module in curved_modules(model):
        measured = EDGE_LR_MULTIPLIER.get(module.curves.edges, CURVE_LR_MULTIPLIER[module.curves.basis.name])
        multiplier = curve_lr_multiplier or measured
        multipliers.update({id(p): multiplier for _, p in curve_parameters_of(module)})
    return multipliers
