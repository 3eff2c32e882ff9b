"""A warning, at an optimizer's first step, about curves that its settings leave untrained.

Adam moves every number by about its learning rate. That suits weights, which are small; curves per channel or group
are of the size of their inputs, and at the weights' rate they learn next to nothing. Nothing fails then, so it has to
be said. torch calls `check_optimizer` before the steps of all optimizers, once the first such curves exist.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any
from warnings import warn
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

CURVE_GROUP = "curves x"
"""How the names of the curves' parameter groups begin; the multiplier follows."""

MIN_LR = 1e-3
"""Of an optimizer for curves alone. Curves of a pretrained model learned best at 4.5e-3, of 1.5e-3 to 6e-2 tried."""

_curved: WeakSet[nn.Module] = WeakSet()
_checked: WeakSet[Optimizer] = WeakSet()


def watch_curves(module: Any) -> None:
    """Have optimizers checked for a module's curves, if they are per channel or group.

    Modules are kept, by weak references, and not parameters: loaders, FSDP2 and finer grids put other ones in place.
    """
    if module.curves.is_per_channel:
        _curved.add(module)
        _register()


@cache
def _register() -> None:
    """Once in a process."""
    register_optimizer_step_pre_hook(check_optimizer)


def check_optimizer(optimizer: Optimizer, *_: object) -> None:
    """Warn, at an optimizer's first step, about curves that it trains at the rate of weights or with weight decay.

    Groups that `optimizer_groups` named are taken as they are. LBFGS, which takes one group only, and optimizers that
    choose the rate themselves are not checked.
    """
    if torch.compiler.is_compiling() or optimizer in _checked:
        return
    _checked.add(optimizer)
    curves = {id(parameter) for parameter in _curve_parameters()}
    if not curves or isinstance(optimizer, LBFGS):
        return
    weight_rates: list[float] = []
    curve_settings: list[tuple[float, float, bool]] = []  # learning rate, weight decay, whether weights share them
    for group in optimizer.param_groups:
        kinds = {id(parameter) in curves for parameter in group["params"] if parameter.requires_grad}
        rate = group.get("initial_lr", group.get("lr"))  # a scheduler's warm-up begins near 0
        if rate is None or str(group.get("name", "")).startswith(CURVE_GROUP):
            continue
        if False in kinds:
            weight_rates.append(float(rate))
        if True in kinds:
            curve_settings.append((float(rate), float(group.get("weight_decay", 0.0)), False in kinds))
    limit = min(weight_rates, default=None)
    for rate, decay, shared in curve_settings:
        slow = rate < MIN_LR if limit is None else shared or rate <= limit
        faults = [f"a learning rate of {rate:g}, at which they learn next to nothing"] * slow
        faults += [f"a weight decay of {decay:g}, which takes away what they learn"] * bool(decay)
        if faults:
            warn(
                f"{type(optimizer).__name__} trains curves with {' and '.join(faults)}. Give it "
                f"kansformer.optimizer_groups(model, lr={limit or rate:g}), or train with KANTrainer, or "
                "kan_trainer(SFTTrainer) for another Trainer class, of kansformer.training.trainer.",
                stacklevel=3,  # whoever called `step`, behind torch's own wrapper
            )
            return


def _curve_parameters() -> Iterator[nn.Parameter]:
    for module in _curved:
        for name in ("coefficients", "denominator"):
            parameter = module._parameters.get(name)
            if parameter is not None:
                yield parameter
