"""One run of a model on a batch, and sums over runs: loss, divergence from the original, error of layers' outputs.

Shape letters: N tokens, V vocabulary, O outputs of a layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kansformer.interp.activity import Activity
from kansformer.interp.batches import Batch, Padding, num_labels, rows
from kansformer.interp.effects import Effect
from kansformer.interp.layers import Layer, intervene

# Logits that are compared at once.
CHUNK = 2**23


class Run:
    """One run of a model on a batch: its logits and loss, and the outputs of layers, which may run several times."""

    def __init__(self, model: nn.Module, batch: Batch, layers: Mapping[str, Layer] | None = None) -> None:
        self.padding, self.num_labels = Padding(model, batch), num_labels(model, batch)
        self.layers = layers or {}
        self.outputs: dict[str, list[Tensor]] = {}
        with intervene(self.layers, self._keep):
            result = model(**batch)
        self.logits: Tensor | None = getattr(result, "logits", None)
        self.loss: Tensor | None = getattr(result, "loss", None)

    def _keep(self, path: str, y: Tensor) -> None:
        self.outputs.setdefault(path, []).append(y.clone())  # what follows may work in place

    def mask(self, path: str) -> Tensor | None:
        """The mask of padding of a layer's output."""
        return self.padding.mask(self.layers[path].output)

    def rows_of_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """Paths and outputs of the layers, (N, O), without padding."""
        for path, several in self.outputs.items():
            for y in several:
                yield path, rows(y, self.mask(path))

    def num_tokens(self) -> int:
        """Without padding: those that have logits; where logits are of whole texts or images, those of a layer."""
        if self.logits is not None and self.logits.ndim > 2:
            return len(rows(self.logits, self.padding.mask()))
        return max((len(rows(several[0], self.mask(path))) for path, several in self.outputs.items()), default=0)


class RunSums:
    """Sums over batches of one way to run the model."""

    def __init__(self, activities: list[Activity]) -> None:
        self.activities = activities
        self.loss, self.labels = 0.0, 0
        self.divergence, self.num_logits = 0.0, 0
        self.residual: dict[str, float] = defaultdict(float)

    def add_run(self, run: Run, original: Run) -> None:
        """Add the loss, and the divergence from the original."""
        if run.loss is not None and run.num_labels:
            self.loss += float(run.loss) * run.num_labels
            self.labels += run.num_labels
        if run.logits is not None and original.logits is not None:
            mask = run.padding.mask()
            logits_NV = rows(run.logits, mask)
            if run is not original:
                self.divergence += float(wide(divergences(rows(original.logits, mask), logits_NV)).sum())
            self.num_logits += len(logits_NV)

    def add_residual(self, path: str, edited: Tensor, y: Tensor, mask: Tensor | None) -> None:
        """Add the squared difference between a layer's output and the original's."""
        self.residual[path] += float((wide(rows(edited, mask)) - wide(rows(y, mask))).square().sum())

    def effect(self, spread: Mapping[str, float]) -> Effect:
        """The means."""
        return Effect(
            ce_loss=self.loss / self.labels if self.labels else None,
            kl_div=self.divergence / self.num_logits if self.num_logits else None,
            fvu={path: self.residual[path] / total if total else math.nan for path, total in spread.items()},
            l0={activity.slot.path: activity.l0 for activity in self.activities},
            alive={activity.slot.path: activity.num_alive for activity in self.activities},
        )


def divergences(original_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """KL(original ‖ other) of every token in nats, (N,).

    With d = log p - log q it is Σ p·(d + e^-d - 1), since Σ q = Σ p: no term is negative, and where the two hardly
    differ rounding of the logarithms does not matter as it does in Σ p·d.
    """
    parts = []
    size = max(1, CHUNK // original_NV.shape[-1])
    for p_NV, q_NV in zip(original_NV.split(size), logits_NV.split(size), strict=True):
        log_p_NV, log_q_NV = (part.float().log_softmax(-1) for part in (p_NV, q_NV))
        d_NV = log_p_NV - log_q_NV
        parts.append((log_p_NV.exp() * (d_NV + torch.expm1(-d_NV))).sum(-1))
    return torch.cat(parts)


def wide(values: Tensor) -> Tensor:
    """In float64, which Apple's GPUs do not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()
