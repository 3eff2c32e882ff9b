"""How much every edge matters: how it varies, its share of its node, and what the loss would do without it.

Shape letters: N tokens, I inputs, O outputs, T terms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, choose_curve_slots
from kansformer.errors import ConfigError, DataError
from kansformer.interp.batches import batch_loss, num_labels
from kansformer.interp.edge_features import ALL, edge_terms, num_terms, term_weights
from kansformer.interp.recording import EdgeRecords, RecordedSlot, record_slots
from kansformer.nn.eval_mode import eval_mode, run_batches
from kansformer.nn.hooks import input_of, run_eagerly
from kansformer.nn.transaction import undone_afterwards

if TYPE_CHECKING:
    import pandas

# Terms of a token that are held at once, (I, T).
TERM_CHUNK = 1024


@dataclass(frozen=True)
class EdgeScores:
    """Scores of all edges of one slot, each (I, O); O is 1 in slots without weights.

    Args:
        slot: the slot.
        variance: of φ_oi(x_i) over the tokens.
        share: that variance as a share of the sum at the edge's node.
        learned_variance: of the learned curve s_oi alone, without the base.
        attribution: first-order estimate of the change of the mean loss of the labels if φ_oi were held at its mean
            (attribution patching; Syed et al., 2023), in units of the loss, absolute. None where it was not asked for.
        learned_attribution: the same if the edge became its base alone, as `prune` makes it.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_scores
        >>> model = torch.nn.Sequential(KANLinear(4, 3))
        >>> scores = edge_scores(model, {"input": torch.randn(64, 4)}, attribution=False)["", "0"]
        >>> scores.variance.shape, scores.share.sum(dim=0).round(decimals=3).tolist()
        (torch.Size([4, 3]), [1.0, 1.0, 1.0])
        >>> len(scores.to_pandas())
        12
    """

    slot: CurveSlot
    variance: Tensor
    share: Tensor
    learned_variance: Tensor
    attribution: Tensor | None = None
    learned_attribution: Tensor | None = None

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge: site, slot, input, output, and a column per score."""
        import pandas

        inputs, outputs = self.variance.shape
        numbers = torch.arange(inputs).repeat_interleave(outputs)
        columns: dict[str, object] = {"site": self.slot.site, "slot": self.slot.name, "input": numbers.numpy()}
        columns["output"] = torch.arange(outputs).repeat(inputs).numpy() if self.slot.has_weights else numbers
        columns |= {name: values.flatten().numpy() for name, values in self.columns().items()}
        return pandas.DataFrame(columns)

    def columns(self) -> dict[str, Tensor]:
        """The scores by name."""
        return {name: values for name, values in vars(self).items() if isinstance(values, Tensor)}


def edge_scores(
    model: nn.Module,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    attribution: bool = True,
    slots: Collection[tuple[str, str]] | None = None,
    records: EdgeRecords | None = None,
) -> dict[tuple[str, str], EdgeScores]:
    """Run batches through a model and score every edge.

    Args:
        model: converted, or with KAN modules; its mode and gradients are left as they were.
        batches: what the model is called with, one batch or several. They are read once.
        attribution: also the loss-gradient attribution; the batches then need labels, and run backward once. Frozen
            weights do not matter.
        slots: (site, slot) pairs to score; None is all.
        records: of `record_edges` on the same batches; None records in the same run.

    Returns:
        Scores by (site, slot).

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: a slot does not exist, or the attribution was asked for and the model gives no loss.
        DataError: no token reaches a slot, or an input of a curve is not finite.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from kansformer import convert
        >>> from kansformer.interp import edge_scores
        >>> model = convert(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2)))
        >>> tokens = torch.randint(1000, (2, 16))
        >>> scores = edge_scores(model, {"input_ids": tokens, "labels": tokens})
        >>> {place: tuple(score.attribution.shape) for place, score in scores.items()}
        {('transformer.h.0.mlp', 'act'): (32, 1), ('transformer.h.1.mlp', 'act'): (32, 1)}
    """
    batches = [batches] if isinstance(batches, Mapping) else batches
    curve_slots = choose_curve_slots(model, slots)
    if records is None:
        with record_slots(curve_slots.values(), sample=1) as records:
            if attribution:
                return edge_scores(model, batches, slots=slots, records=records)  # recorded as it runs them
            run_batches(model, batches)
    chosen = {key: recorded for key, recorded in records.items() if key in curve_slots}
    inputs = {key: slice(0, recorded.slot.module.in_features) for key, recorded in chosen.items()}
    attributions = attribute(model, batches, chosen, inputs)[0] if attribution else {}
    check_reached(chosen)
    return {
        key: score_inputs(recorded, inputs[key], recorded.node_variances(), attributions.get(key))
        for key, recorded in chosen.items()
    }


def check_reached(records: Mapping[tuple[str, str], RecordedSlot]) -> None:
    """Raise a `DataError` if no token reached one of the slots."""
    unreached = [key for key, recorded in records.items() if not recorded.tokens]
    if unreached:
        site, slot = unreached[0]
        raise DataError(f"No token of these batches reached {len(unreached)} slots, such as {site}/{slot}.")


def score_inputs(
    recorded: RecordedSlot, inputs: slice, node_variance_O: Tensor, attributions_2IO: Tensor | None
) -> EdgeScores:
    """The scores of the edges from some inputs of a slot.

    Args:
        recorded: the slot's inputs.
        inputs: which of them.
        node_variance_O: of `RecordedSlot.node_variances`.
        attributions_2IO: of `attribute`, for these inputs; None leaves them out.
    """
    variance_IO = recorded.variances(inputs=inputs)
    learned_variance_IO = recorded.variances(learned_only=True, inputs=inputs)
    attribution, learned_attribution = (None, None) if attributions_2IO is None else attributions_2IO
    share_IO = recorded.shares_of(variance_IO, node_variance_O)
    return EdgeScores(recorded.slot, variance_IO, share_IO, learned_variance_IO, attribution, learned_attribution)


def attribute(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    records: Mapping[tuple[str, str], RecordedSlot],
    inputs: Mapping[tuple[str, str], slice],
) -> tuple[dict[tuple[str, str], Tensor], float]:
    """|Σ_n g_no (φ_oi(x_ni) - mean φ_oi)| and |Σ_n g_no s_oi|, with g the slope of the mean loss by the output.

    Args:
        model: with curves.
        batches: with labels.
        records: of the slots, by site and slot, of the same batches; they may be made while these run.
        inputs: of each slot the inputs whose edges are scored.

    Returns:
        (2, I, O) for each slot, float64, and the mean loss over the labels of all batches.

    Raises:
        ConfigError: the model gives no loss, or `torch.inference_mode()` is on.
        DataError: no token reaches a slot.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError("Attributions need gradients, and torch.inference_mode() records none. Call it outside.")
    sums, nodes = {}, {}
    for key, recorded in records.items():
        chosen, outputs_O = inputs[key], recorded.slot.num_outputs
        sums[key] = torch.zeros(2, chosen.stop - chosen.start, outputs_O, dtype=torch.float64)
        nodes[key] = torch.zeros(outputs_O if recorded.slot.has_weights else len(sums[key][0]), dtype=torch.float64)
    outputs: list[Tensor] = []
    total, labels = 0.0, 0

    def watch(key: tuple[str, str], slot: CurveSlot):
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            x = input_of(args, kwargs).detach()
            x_NI = x.reshape(-1, x.shape[-1])

            def add(gradient: Tensor) -> None:
                g_NO = gradient.reshape(-1, gradient.shape[-1]).float()
                _add_gradients(sums[key], slot, x_NI, g_NO, inputs[key])
                nodes[key] += g_NO[:, ALL if slot.has_weights else inputs[key]].sum(dim=0).cpu().double()

            if not output.requires_grad:  # nothing before it is trained
                output.requires_grad_()
            output.register_hook(add)
            outputs.append(output)
            return output.clone()  # what follows may work in place

        return slot.called.register_forward_hook(hook, with_kwargs=True)

    with undone_afterwards() as hooks, run_eagerly(), eval_mode(model), torch.enable_grad():
        for key, recorded in records.items():
            hooks.callback(watch(key, recorded.slot).remove)
        for batch in batches:
            loss = batch_loss(model, batch)
            if loss is None:
                raise ConfigError(
                    "Attributions need a loss, and the model gave none. Put labels into the batches and use a "
                    "model with a head, or pass attribution=False."
                )
            count = num_labels(model, batch)
            if count:  # without, the loss is no number
                if outputs:
                    torch.autograd.grad(count * loss, outputs, allow_unused=True)
                total, labels = total + count * float(loss.detach()), labels + count
            outputs.clear()
    check_reached(records)
    for key, recorded in records.items():
        total_O = nodes[key] if recorded.slot.has_weights else nodes[key].unsqueeze(1)
        sums[key][0] -= recorded.means(inputs=inputs[key]) * total_O
        sums[key].abs_().div_(max(1, labels))
    return sums, total / labels if labels else math.nan


@torch.no_grad()
def _add_gradients(sums_2IO: Tensor, slot: CurveSlot, x_NI: Tensor, g_NO: Tensor, inputs: slice) -> None:
    """Add Σ_n g_no φ_oi(x_ni) and Σ_n g_no s_oi(x_ni) of these inputs."""
    module, diagonal = slot.module, not slot.has_weights
    step = max(1, TERM_CHUNK // num_terms(module))
    for start in range(inputs.start, inputs.stop, step):
        chunk = slice(start, min(start + step, inputs.stop))
        terms_NIT = edge_terms(module, x_NI[:, chunk], chunk)
        if diagonal:
            products_IOT = (terms_NIT * g_NO[:, chunk].unsqueeze(-1)).sum(dim=0).unsqueeze(1)
        else:
            products_IOT = torch.einsum("nit,no->iot", terms_NIT, g_NO.to(terms_NIT))
        products_IOT = (products_IOT * term_weights(slot, chunk)).cpu().double()
        rows = slice(chunk.start - inputs.start, chunk.stop - inputs.start)
        sums_2IO[0, rows] += products_IOT.sum(-1)
        sums_2IO[1, rows] += products_IOT[..., 1:].sum(-1)
