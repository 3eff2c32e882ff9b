"""How good a transcoder is in the place of a feed-forward network: the loss, the sparsity, and the curves' formulas.

L0 is the mean number of latents that are not zero at a token, and a latent is alive where it was active at one token
or more. A curve counts as a named function where a formula has R² ≥ 0.99 on what was learned, ψ_m, at its own recorded
inputs; the control is the same count for random curves of equal size at the same inputs.

Shape letters: N tokens, M latents, E latents with curves to name, S points, P pairs of a token and an active latent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.conversion.record import uncompiled
from kansformer.conversion.slots import find_curve_slot
from kansformer.errors import DataError, ShapeError
from kansformer.interp.batches import BatchReader, Padding, replayable, rows
from kansformer.interp.curves import pair_curves
from kansformer.interp.edge_features import random_coefficients
from kansformer.interp.effects import Faithfulness, json_number
from kansformer.interp.fidelity import SEED, Fidelity, fidelity
from kansformer.interp.recovery import faithfulness
from kansformer.interp.wording import GOOD
from kansformer.nn.activation import LearnedActivation
from kansformer.nn.eval_mode import eval_mode
from kansformer.nn.transcoder import Transcoder
from kansformer.progress import Progress
from kansformer.sites import Site
from kansformer.sites.intercept import intercept, site_of_layer
from kansformer.symbolic import fit_symbolic
from kansformer.wording import counted

# Points of a fit and of its judgement; a latent that was active at fewer tokens is not named.
POINTS = 64
# Pairs of a token and an active latent that curves are judged on.
MAX_PAIRS = 2**24


@dataclass(frozen=True)
class NamedCurves:
    """How many curves are named functions on what was learned.

    Args:
        curves: latents that were active at 64 tokens or more, and whose learned curve bends there.
        named: those with a formula of R² ≥ 0.99.
        random_curves, random_named: the same of random curves of equal size at the same inputs.
        functions: how often each function is the formula of a named curve.
    """

    curves: int
    named: int
    random_curves: int
    random_named: int
    functions: Mapping[str, int]


@dataclass(frozen=True)
class TranscoderFigures:
    """What a transcoder does in the place of a network; `str(result)` is a table.

    Args:
        path: of the network.
        tokens: that were read.
        parameters: numbers of the transcoder.
        latents: of the transcoder.
        l0: mean number of active latents at a token.
        alive: latents that were active at one token or more.
        faithfulness: of the model with the transcoder in the network's place, and FVU.
        names: of the curves; None without curves.

    Examples:
        >>> from kansformer.interp import Faithfulness, TranscoderFigures
        >>> from kansformer.interp.effects import Effect
        >>> effect = Effect(2.0, None, {"mlp": 0.2}, {}, {})
        >>> result = Faithfulness(("mlp",), 64, {}, effect, effect, effect, effect)
        >>> figures = TranscoderFigures("mlp", 64, 1000, latents=40, l0=3.5, alive=30, faithfulness=result, names=None)
        >>> figures.fvu, figures.share_alive
        (0.2, 0.75)
    """

    path: str
    tokens: int
    parameters: int
    latents: int
    l0: float
    alive: int
    faithfulness: Faithfulness
    names: NamedCurves | None

    @property
    def fvu(self) -> float:
        """Σ(ŷ - y)² / Σ(y - ȳ)² of the network's output."""
        return self.faithfulness.fvu

    @property
    def share_alive(self) -> float:
        """Share of the latents that were active at one token or more."""
        return self.alive / self.latents

    def to_dict(self) -> dict[str, object]:
        """JSON-ready figures; a number that is not known is None."""
        names = None if self.names is None else {**vars(self.names), "functions": dict(self.names.functions)}
        return {
            "path": self.path,
            "tokens": self.tokens,
            "parameters": self.parameters,
            "latents": self.latents,
            "fvu": json_number(self.fvu),
            "l0": self.l0,
            "share_alive": self.share_alive,
            "ce_loss_score": json_number(self.faithfulness.ce_loss_score),
            "kl_div_score": json_number(self.faithfulness.kl_div_score),
            "delta_ce": json_number(self.faithfulness.delta_ce),
            "names": names,
        }

    def __str__(self) -> str:
        lines = {
            "network": f"{self.path}, {counted(self.tokens, 'token')}",
            "transcoder": f"{self.parameters:,} numbers, {counted(self.latents, 'latent')}",
            "FVU": f"{self.fvu:.4f}",
            "L0": f"{self.l0:.1f}, {self.share_alive:.1%} of the latents alive",
        }
        result = self.faithfulness
        if result.ce_loss_score is not None:
            lines["loss recovered"] = f"{result.ce_loss_score:.4f}, {result.delta_ce:+.4f} nats"
        if result.kl_div_score is not None:
            lines["KL recovered"] = f"{result.kl_div_score:.4f}"
        if self.names is not None:
            n = self.names
            shares = f"{n.named} of {n.curves} curves; random ones {n.random_named} of {n.random_curves}"
            lines["named functions"] = shares
        return "\n".join(f"{name:16} {text}" for name, text in lines.items())


@contextmanager
def replace_network(model: nn.Module, layer: int, transcoder: Transcoder) -> Iterator[nn.Module]:
    """The model with a transcoder in the place of a layer's feed-forward network, for the length of the context.

    Raises:
        SlotError: the layer has no such network.
        ShapeError: the transcoder has another width.
    """
    site = site_of_layer(uncompiled(model), layer)
    _check_width(site, transcoder)
    with intercept(uncompiled(model), site, lambda x, y: transcoder(x.to(transcoder.encoder.weight)).to(y)):
        yield model


def measure_transcoder(
    model: nn.Module,
    layer: int,
    transcoder: Transcoder,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    names: bool = True,
    progress: Progress | None = None,
) -> TranscoderFigures:
    """Measure a transcoder in the place of a layer's feed-forward network.

    Args:
        model: a plain transformers model; in evaluation mode while it is measured, and left as it was.
        layer: number of the layer.
        transcoder: of the network's width.
        batches: what the model is called with, one batch or several; with labels for the loss.
        names: whether formulas are fitted to the curves.
        progress: called after every batch.

    Returns:
        The figures.

    Raises:
        SlotError: the layer has no such network.
        ShapeError: the transcoder has another width.
        DataError: the batches are empty.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from kansformer.interp import Transcoder, measure_transcoder
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> model, tokens = LlamaForCausalLM(LlamaConfig(**sizes)), torch.randint(50, (2, 16))
        >>> batch = {"input_ids": tokens, "labels": tokens}
        >>> figures = measure_transcoder(model, 0, Transcoder(8, latents=32, k=4), batch)
        >>> figures.path, figures.l0 <= 4, figures.share_alive <= 1
        ('model.layers.0.mlp', True, True)
    """
    model = uncompiled(model)
    site = site_of_layer(model, layer)
    _check_width(site, transcoder)
    with replayable(batches) as again:
        activity = LatentActivity(transcoder)
        with eval_mode(model), torch.no_grad():
            for batch in BatchReader(again, progress).read("latents"):
                mask = Padding(model, batch).mask(model.get_submodule(site.path))
                with intercept(model, site, lambda x, y, mask=mask: activity.add(rows(x, mask))):  # type: ignore[misc]
                    model(**batch)
        if not activity.tokens:
            raise DataError(f"There are no batches, or no token of theirs reaches {site.name}.")
        edit = lambda: replace_network(model, layer, transcoder)  # noqa: E731
        result = faithfulness(model, edit, again, layers=[site.path], progress=progress)
    return TranscoderFigures(
        path=site.path,
        tokens=activity.tokens,
        parameters=sum(parameter.numel() for parameter in transcoder.parameters()),
        latents=transcoder.latents,
        l0=activity.active / activity.tokens,
        alive=int((activity.counts_M > 0).sum()),
        faithfulness=result,
        names=name_curves(transcoder.act, *activity.pairs()) if names and transcoder.act is not None else None,
    )


def name_curves(act: LearnedActivation, latents_P: Tensor, z_P: Tensor) -> NamedCurves:
    """Fit formulas to the learned curves of latents, and judge them at recorded inputs.

    Args:
        act: the curves.
        latents_P: numbers of active latents.
        z_P: their positive pre-activations.
    """
    chosen_E, recorded_ES = _recorded_points(latents_P, z_P.double(), act.in_features)
    if not len(chosen_E):
        return NamedCurves(0, 0, 0, 0, {})
    random = copy.deepcopy(act)
    with torch.no_grad():
        random.coefficients.copy_(random_coefficients(act.coefficients, torch.Generator().manual_seed(SEED)))
    judged, functions = _judge(act, chosen_E, recorded_ES)
    control, _ = _judge(random, chosen_E, recorded_ES)
    named_E = judged.bends & (judged.r2_learned >= GOOD)
    counts: dict[str, int] = {}
    for number in named_E.nonzero()[:, 0].tolist():
        counts[functions[number]] = counts.get(functions[number], 0) + 1
    return NamedCurves(
        curves=int(judged.bends.sum()),
        named=int(named_E.sum()),
        random_curves=int(control.bends.sum()),
        random_named=int((control.bends & (control.r2_learned >= GOOD)).sum()),
        functions=dict(sorted(counts.items(), key=lambda pair: -pair[1])),
    )


class LatentActivity:
    """Counts the active latents of a transcoder, and keeps their pre-activations."""

    def __init__(self, transcoder: Transcoder) -> None:
        self.transcoder = transcoder
        self.tokens = self.active = self._kept = 0
        self.counts_M = torch.zeros(transcoder.latents, dtype=torch.long)
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def add(self, x_NI: Tensor) -> None:
        """Of the inputs of the network."""
        z_NM = self.transcoder.select(x_NI.to(self.transcoder.encoder.weight))
        _, latents_P = (z_NM > 0).nonzero(as_tuple=True)
        self.tokens += len(x_NI)
        self.active += len(latents_P)
        self.counts_M += torch.bincount(latents_P.cpu(), minlength=len(self.counts_M))
        if self._kept < MAX_PAIRS:
            self._kept += len(latents_P)
            self._pairs.append((latents_P.cpu(), z_NM[z_NM > 0].float().cpu()))

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Latents and pre-activations, (P,) each."""
        latents, values = zip(*self._pairs, strict=True)
        return torch.cat(latents), torch.cat(values)


def _recorded_points(latents_P: Tensor, z_P: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Latents with enough recorded values, (E,), and their values at even ranks, ascending, (E, S)."""
    order_P = z_P.argsort(stable=True)
    order_P = order_P[latents_P[order_P].argsort(stable=True)]
    sorted_P = z_P[order_P]
    counts_M = torch.bincount(latents_P, minlength=count)
    ends_M = counts_M.cumsum(0)
    often_E = (counts_M >= POINTS).nonzero()[:, 0]
    first_E, last_E = (ends_M - counts_M)[often_E], ends_M[often_E] - 1
    varies_E = sorted_P[first_E] < sorted_P[last_E]
    chosen_E, first_E = often_E[varies_E], first_E[varies_E]
    shares_S = (torch.arange(POINTS) + 0.5) / POINTS
    places_ES = first_E[:, None] + (counts_M[chosen_E, None] * shares_S).long()
    return chosen_E, sorted_P[places_ES]


def _judge(act: LearnedActivation, chosen_E: Tensor, recorded_ES: Tensor) -> tuple[Fidelity, list[str]]:
    """Fit formulas on the range of the recorded inputs, and judge them at these; with the functions' names."""
    slot = find_curve_slot(nn.ModuleDict({"act": act}), "", "act")
    unit_S = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    lower_E1, upper_E1 = recorded_ES[:, :1], recorded_ES[:, -1:]
    even = pair_curves(slot, chosen_E, chosen_E, at=lower_E1 + (upper_E1 - lower_E1) * unit_S)
    fits = fit_symbolic(even.x, even.learned.double())
    curves = pair_curves(slot, chosen_E, chosen_E, at=recorded_ES)
    return fidelity(fits, curves.x, curves.y, curves.learned, part="learned"), fits.names


def _check_width(site: Site, transcoder: Transcoder) -> None:
    widths = (transcoder.encoder.in_features, transcoder.decoder.out_features)
    if widths != (site.width, site.width):
        raise ShapeError(f"{site.name} has the width {site.width}, and the transcoder maps {widths[0]} to {widths[1]}.")
