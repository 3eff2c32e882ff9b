"""Warn, at an optimizer's first step, about curves that its settings leave untrained.

Adam moves every number by about its learning rate. That suits weights, which are small; coefficients of curves per
channel or group grow to about 1, and at the weights' rate they gain a quarter of what they could (two runs of a small
language model), without any error. torch calls `check_optimizer` before every optimizer step, from the moment the
first such curves exist.
"""

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
"""For an optimizer of curves alone. Of 1.5e-3 to 6e-2, curves of a pretrained model learned best at 4.5e-3."""

_curved: WeakSet[nn.Module] = WeakSet()
_checked: WeakSet[Optimizer] = WeakSet()


def watch_curves(module: Any) -> None:
    """Include a module's curves in the check of all optimizers, if they are per channel or group.

    Modules are remembered, by weak references, and not parameters, which loaders, FSDP2 and finer grids replace.
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

    Groups made by `optimizer_groups` are not checked, nor are LBFGS, which takes one group only, and optimizers that
    choose the rate themselves.
    """
    if torch.compiler.is_compiling() or optimizer in _checked:
        return
    _checked.add(optimizer)
    names = ("coefficients", "denominator")
    curves = {id(module._parameters[name]) for module in _curved for name in names if name in module._parameters}
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
        faults = [f"a learning rate of {rate:g}, at which they learn little"] * slow
        faults += [f"a weight decay of {decay:g}, which takes away what they learn"] * bool(decay)
        if faults:
            warn(
                f"{type(optimizer).__name__} trains curves with {' and '.join(faults)}. Give it "
                f"kansformer.optimizer_groups(model, lr={limit or rate:g}), or train with KANTrainer, or "
                "kan_trainer(SFTTrainer) for another Trainer class, of kansformer.training.trainer.",
                stacklevel=3,  # whoever called `step`, behind torch's own wrapper
            )
            return
