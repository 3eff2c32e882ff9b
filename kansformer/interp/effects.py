"""The results of `faithfulness`: what replaced layers keep of a model, as numbers, text and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kansformer.wording import counted

METRICS = ("ce_loss", "kl_div")
ABLATIONS = ("zero", "mean")
OWN_ROWS = ("original", "replaced", "zero ablation", "mean ablation")


@dataclass(frozen=True)
class Effect:
    """What a model does when its layers are computed in one way.

    Args:
        ce_loss: mean loss over the labels, in nats; None without labels.
        kl_div: mean KL(original ‖ this) over the tokens, in nats; None for a model without logits.
        fvu: share of the variance of each layer's output that is not explained, by path of the layer; NaN where the
            output does not vary.
        l0: mean number of learned curves alive at a token, by path of the slot; empty for ablations.
        alive: number of learned curves alive at one token or more, by path of the slot; empty for ablations.
    """

    ce_loss: float | None
    kl_div: float | None
    fvu: Mapping[str, float]
    l0: Mapping[str, float]
    alive: Mapping[str, float]

    @property
    def mean_fvu(self) -> float:
        """The mean of the layers' FVU."""
        return sum(self.fvu.values()) / len(self.fvu) if self.fvu else math.nan


@dataclass(frozen=True)
class Faithfulness:
    """What an edit of a model's layers keeps, beside ablations and controls.

    Args:
        layers: paths of the feed-forward networks that count as replaced.
        tokens: number of tokens that were read, without padding.
        curves: number of learned curves, by path of the slot.
        original: the model as it is.
        replaced: with the edit.
        zero, mean: with the layers' outputs at zero, and at their mean over all tokens.
        controls: other edits, by name.

    Examples:
        >>> from kansformer.interp import Faithfulness
        >>> from kansformer.interp.effects import Effect
        >>> losses = {"original": 2.0, "replaced": 2.1, "zero": 4.0, "mean": 3.0}
        >>> effects = {name: Effect(loss, None, {}, {}, {}) for name, loss in losses.items()}
        >>> result = Faithfulness(layers=("mlp",), tokens=64, curves={}, **effects)
        >>> round(result.ce_loss_score, 2), round(result.delta_ce, 2)
        (0.95, 0.1)
    """

    layers: tuple[str, ...]
    tokens: int
    curves: Mapping[str, int]
    original: Effect
    replaced: Effect
    zero: Effect
    mean: Effect
    controls: Mapping[str, Effect] = field(default_factory=dict)

    @property
    def ce_loss_score(self) -> float | None:
        """The share of the loss that the edit keeps, 1 the whole model and 0 the layers at zero; None without loss."""
        return self.score(self.replaced, "ce_loss")

    @property
    def kl_div_score(self) -> float | None:
        """The same share of KL(original ‖ edited); None without logits."""
        return self.score(self.replaced, "kl_div")

    @property
    def delta_ce(self) -> float | None:
        """How much higher the loss is with the edit, in nats; None without labels."""
        return self.added_loss(self.replaced)

    @property
    def fvu(self) -> float:
        """The mean of the layers' FVU with the edit."""
        return self.replaced.mean_fvu

    def score(self, effect: Effect, metric: str, ablation: str = "zero") -> float | None:
        """(ablated - this) / (ablated - original), of `ce_loss` or `kl_div` and the `zero` or `mean` ablation.

        None where the metric is unknown; NaN where the ablation changes nothing.
        """
        ablated = getattr(self.zero if ablation == "zero" else self.mean, metric)
        original, value = getattr(self.original, metric), getattr(effect, metric)
        if ablated is None or original is None or value is None:
            return None
        return (ablated - value) / (ablated - original) + 0.0 if ablated != original else math.nan

    def added_loss(self, effect: Effect) -> float | None:
        """How much higher the loss is than the original's, in nats."""
        if effect.ce_loss is None or self.original.ce_loss is None:
            return None
        return effect.ce_loss - self.original.ce_loss

    def l0(self, effect: Effect) -> float | None:
        """Mean number of curves alive at a token, in all layers together; None where curves are not counted."""
        return sum(effect.l0.values()) if effect.l0 else None

    def alive(self, effect: Effect) -> float | None:
        """Share of the curves alive at one token or more; None where curves are not counted."""
        return sum(effect.alive.values()) / sum(self.curves.values()) if effect.alive else None

    def rows(self) -> dict[str, Effect]:
        """All effects by name, in the order of the tables."""
        original, replaced, zero, mean = OWN_ROWS
        rows = {original: self.original, replaced: self.replaced, **self.controls}
        return rows | {zero: self.zero, mean: self.mean}

    def table(self) -> list[list[str]]:
        """Rows of text under `HEADINGS`."""
        return [[name, *self._cells(effect)] for name, effect in self.rows().items()]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready figures; a number that is not known is None."""
        return {
            "layers": list(self.layers),
            "tokens": self.tokens,
            "curves": sum(self.curves.values()),
            **{name.replace(" ", "_"): self._figures(effect) for name, effect in self.rows().items()},
        }

    def __str__(self) -> str:
        rows = [list(HEADINGS), *self.table()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = [f"{counted(len(self.layers), 'layer')} replaced, {counted(self.tokens, 'token')}"]
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        return "\n".join(lines)

    def _figures(self, effect: Effect) -> dict[str, object]:
        scores = {
            f"{metric}_score{'' if ablation == 'zero' else '_mean_ablation'}": json_number(
                self.score(effect, metric, ablation)
            )
            for metric in METRICS
            for ablation in ABLATIONS
        }
        return {
            "ce_loss": json_number(effect.ce_loss),
            "delta_ce": json_number(self.added_loss(effect)),
            "kl_div": json_number(effect.kl_div),
            **scores,
            "fvu": json_number(effect.mean_fvu),
            "fvu_of_layers": {path: json_number(value) for path, value in effect.fvu.items()},
            "l0": json_number(self.l0(effect)),
            "share_alive": json_number(self.alive(effect)),
        }

    def _cells(self, effect: Effect) -> list[str]:
        return [
            number_text(effect.ce_loss, ".4f"),
            number_text(self.added_loss(effect), "+.4f"),
            *(number_text(self.score(effect, "ce_loss", ablation), ".4f") for ablation in ABLATIONS),
            number_text(effect.kl_div, ".5f"),
            *(number_text(self.score(effect, "kl_div", ablation), ".4f") for ablation in ABLATIONS),
            number_text(effect.mean_fvu, ".5f"),
            number_text(self.l0(effect), ",.1f"),
            number_text(self.alive(effect), ".1%"),
        ]


HEADINGS = (
    "",
    "CE, nats",
    "ΔCE",
    "CE score",
    "mean abl.",
    "KL, nats",
    "KL score",
    "mean abl.",
    "FVU",
    "L0",
    "alive",
)
"""Of `Faithfulness.table`; scores are by the zero ablation, and by the mean ablation where the column says so."""


def json_number(value: float | None) -> float | None:
    """The number, or None where it is not finite, which JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def number_text(value: float | None, form: str) -> str:
    """The number in a format, or a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)
