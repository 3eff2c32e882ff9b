"""transformers' Trainer gives curves their own learning rate, without its user doing anything.

`Trainer.create_optimizer` is wrapped once, when transformers' trainer is imported. Models without curves, and
optimizers that the user made, are left alone. It has to be there and not in a callback: an optimizer is loaded again,
group by group, before the first callback of a resumed run.
"""

import warnings
from typing import Any

import torch
from torch import nn

from kansformer.import_hooks import after_import
from kansformer.nn.optim import CURVE_GROUP, curve_parameters, split_curves

MULTIPLIER = "curve_lr_multiplier"
"""Attribute of a Trainer that overrides the measured multipliers; `train` sets it from the recipe."""


def register_groups() -> None:
    """Have every Trainer split its optimizer: now, or as soon as transformers' trainer is imported."""
    after_import("transformers.trainer", wrap_trainer)


def wrap_trainer() -> None:
    """Put `create_optimizer` of this module around transformers' own."""
    from transformers import Trainer

    original = Trainer.create_optimizer
    original = getattr(original, "kansformer_original", original)  # an earlier import of this package

    def create_optimizer(self: Any, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        given = self.optimizer is not None
        optimizer = original(self, *args, **kwargs)
        model: nn.Module = kwargs.get("model", args[0] if args else None) or self.model
        if not given and any(parameter.requires_grad for _, parameter in curve_parameters(model)):
            if isinstance(optimizer, torch.optim.Optimizer):  # a placeholder of DeepSpeed's has no groups
                split_curves(optimizer, model, getattr(self, MULTIPLIER, None))
            _warn_of_missing_groups(optimizer)
        return optimizer

    create_optimizer.kansformer_original = original  # type: ignore[attr-defined]
    create_optimizer.__doc__ = original.__doc__
    Trainer.create_optimizer = create_optimizer  # type: ignore[method-assign]


def _warn_of_missing_groups(optimizer: Any) -> None:
    groups = getattr(optimizer, "param_groups", [])
    if not any(str(group.get("name", "")).startswith(CURVE_GROUP) for group in groups):
        warnings.warn(
            "The model's curves get no learning rate of their own, and so learn next to nothing: its parameters were "
            "flattened, or the optimizer is DeepSpeed's own. Use FSDP2 (fsdp_version 2), or leave the optimizer out of "
            "DeepSpeed's config.",
            stacklevel=3,
        )
