"""Learn from the predictions of a teacher.

Shape letters: N tokens with a label, T tokens of a block, B blocks of a batch, V words.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kansformer.checks import check_number
from kansformer.errors import ShapeError
from kansformer.training.recipe import DistillRecipe
from kansformer.training.trainer import KANTrainer

IGNORED = -100
"""The label of a token that no loss counts, as in torch and transformers."""


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0, alpha: float = 0.5
) -> Tensor:
    """α·t²·KL(teacher ‖ student) + (1 - α)·cross-entropy, for next-token prediction (Hinton et al., 2015).

    Both are means over the tokens that have a label, in nats, computed in float32 or better. As in transformers, the
    logits at one token predict the label of the next, and t² keeps the size of gradients at every temperature t.

    Args:
        student_logits: (B, T, V).
        teacher_logits: (B, T, V); no gradient goes into them.
        labels: (B, T), token numbers; -100 is not counted.
        temperature: t > 0, by which both logits are divided in the divergence.
        alpha: share of the divergence, in [0, 1].

    Returns:
        A scalar; 0 where no token has a label.

    Raises:
        ConfigError: a setting is out of range.
        ShapeError: the shapes do not belong together.
    """
    check_number("temperature", temperature, above=0)
    check_number("alpha", alpha, 0, 1)
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:-1] != labels.shape or labels.ndim != 2:
        raise ShapeError(
            f"Logits must be (B, T, V) for student and teacher and labels (B, T), got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {tuple(labels.shape)}."
        )
    targets_BT = labels[:, 1:].to(student_logits.device)
    counted = targets_BT != IGNORED
    precise = torch.promote_types(student_logits.dtype, torch.float32)
    student_NV = student_logits[:, :-1][counted].to(precise)
    teacher_NV = teacher_logits.detach()[:, :-1].to(student_logits.device)[counted].to(precise)
    tokens = max(1, len(student_NV))
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_NV, teacher_NV))
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / tokens
    cross_entropy = F.cross_entropy(student_NV, targets_BT[counted], reduction="sum") / tokens
    return alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy


class DistillationTrainer(KANTrainer):
    """A Trainer whose loss is partly the divergence from a teacher's predictions (Hinton et al., 2015).

    Args:
        teacher: a frozen model that takes the student's inputs.
        distill: share and temperature.
        args, kwargs: as in `KANTrainer`.
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
            target = self.teacher(**features, use_cache=False).logits
        loss = distillation_loss(
            outputs.logits,
            target,
            inputs["labels"],
            temperature=self.distill.temperature,
            alpha=self.distill.logits,
        )
        return (loss, outputs) if return_outputs else loss
