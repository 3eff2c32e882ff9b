"""transformers' Trainer with a teacher beside the student. Everything else about curves is a callback."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from kansformer.training.distill import distillation_loss
from kansformer.training.recipe import DistillRecipe


class DistillationTrainer(Trainer):
    """A Trainer whose loss is partly the divergence from a teacher's predictions (Hinton et al., 2015).

    Args:
        teacher: a frozen model that takes the student's inputs.
        distill: share and temperature.
        kwargs: as in transformers' Trainer.
    """

    def __init__(self, *args: Any, teacher: nn.Module, distill: DistillRecipe, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        self.distill = distill
        self.model_accepts_loss_kwargs = False  # the loss is a mean per batch, which the Trainer then scales

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mixed loss in training; in evaluation the ordinary one, to be compared with other models'."""
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        features = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**features, use_cache=False)
        with torch.no_grad(), self.accelerator.autocast():
            wanted = self.teacher(**features, use_cache=False).logits
        loss = distillation_loss(
            outputs.logits,
            wanted,
            inputs["labels"],
            temperature=self.distill.temperature,
            alpha=self.distill.logits,
        )
        return (loss, outputs) if return_outputs else loss
