"""transformers' Trainer gives curves their own learning rate, without its user doing anything.

`Trainer.create_optimizer` is wrapped once, when transformers' trainer is imported. Models without curves, and
optimizers that the user made, are left alone. It has to be there and not in a callback: an optimizer is loaded again,
group by group, before the first callback of a resumed run.
"""

from typing import Any

import torch
from torch import nn

from kansformer.importing import after_import
from kansformer.nn.curves import curved_modules
from kansformer.nn.optim import split_curves

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
        if not given and not self.is_deepspeed_enabled:
            model: nn.Module = kwargs.get("model", args[0] if args else None) or self.model
            if next(curved_modules(model), None) is not None:
                split_curves(optimizer, model, getattr(self, MULTIPLIER, None))
        return optimizer

    create_optimizer.kansformer_original = original  # type: ignore[attr-defined]
    create_optimizer.__doc__ = original.__doc__
    Trainer.create_optimizer = create_optimizer  # type: ignore[method-assign]
