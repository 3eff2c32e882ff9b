"""How much every edge matters: how it varies, its share of its node, and what the loss would do without it.

Shape letters: N tokens, I inputs, O outputs, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError, DataError
from kansformer.interp.functions import edge_features, edge_weights
from kansformer.interp.places import Place, find_places
from kansformer.interp.recording import EdgeRecords, record_edges
from kansformer.nn.modes import evaluating

if TYPE_CHECKING:
    import pandas

SCORES = ("variance", "share", "learned_variance", "attribution", "learned_attribution")
# Inputs whose features and edges are held at once.
INPUT_CHUNK = 64


@dataclass(frozen=True)
class EdgeScores:
    """Scores of all edges of one slot, each (I, O); O is 1 in slots without weights.

    Args:
        place: the slot.
        variance: of φ_oi(x_i) over the tokens.
        share: that variance as a share of the sum at the edge's node.
        learned_variance: of the learned curve s_oi alone, without the base.
        attribution: first-order estimate of the loss's change if φ_oi were replaced by its mean, per token, absolute.
            None where it was not asked for.
        learned_attribution: the same if the edge became its base alone, as `prune` makes it.
    """

    place: Place
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
        columns: dict[str, Any] = {"site": self.place.site, "slot": self.place.slot, "input": numbers.numpy()}
        columns["output"] = torch.arange(outputs).repeat(inputs).numpy() if self.place.num_outputs > 1 else numbers
        scores = {name: getattr(self, name) for name in SCORES}
        columns |= {name: values.flatten().numpy() for name, values in scores.items() if values is not None}
        return pandas.DataFrame(columns)


def edge_scores(
    model: nn.Module, batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]], *, attribution: bool = True
) -> dict[tuple[str, str], EdgeScores]:
    """Run batches through a model and score every edge.

    Args:
        model: converted, or with KAN modules; its mode and gradients are left as they were.
        batches: what the model is called with: one batch, or several that can be read twice.
        attribution: also the loss-gradient attribution; the batches then need labels, and run backward once.

    Returns:
        Scores by (site, slot).

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: the attribution was asked for and the model gives no loss.
        DataError: no token reaches a slot, or an input of a curve is not finite.
    """
    batches = [batches] if isinstance(batches, Mapping) else list(batches)
    with evaluating(model), record_edges(model, sample=1) as records, torch.no_grad():
        for batch in batches:
            model(**batch)
    if records.unreached:
        site, slot = records.unreached[0]
        raise DataError(f"No token of these batches reached {len(records.unreached)} slots, such as {site}/{slot}.")
    attributions = _attributions(model, batches, records) if attribution else {}
    return {
        key: EdgeScores(
            slot.place,
            slot.variances(),
            slot.shares(),
            slot.variances(learned_only=True),
            *attributions.get(key, (None, None)),
        )
        for key, slot in records.items()
    }


def _attributions(model: nn.Module, batches: list, records: EdgeRecords) -> dict[tuple[str, str], tuple]:
    """With g = ∂loss/∂output: |Σ_n g_no (φ_oi(x_ni) - mean φ_oi)| / N and |Σ_n g_no s_oi| / N."""
    sums = {key: torch.zeros(2, *slot.variances().shape, dtype=torch.float64) for key, slot in records.items()}
    places = {(p.site, p.slot): p for p in find_places(model)}
    means = {key: slot.means() for key, slot in records.items()}

    def watch(key: tuple[str, str]):
        def hook(module: Any, args: tuple, kwargs: dict, output: Tensor) -> None:
            x_NI = args[0].detach().reshape(-1, args[0].shape[-1])
            # In a gated block activation and product may be one call.
            factor = args[1] if len(args) > 1 else kwargs.get("factor")

            def add(gradient: Tensor) -> None:
                gradient = gradient if factor is None else gradient * factor.detach()
                g_NO = gradient.reshape(-1, gradient.shape[-1]).float()
                sums[key] += _gradient_sums(module, x_NI, g_NO, means[key])

            if output.requires_grad:
                output.register_hook(add)

        return hook

    handles = [place.module.register_forward_hook(watch(key), with_kwargs=True) for key, place in places.items()]
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                loss = getattr(model(**batch), "loss", None)
                if loss is None:
                    raise ConfigError(
                        "Attributions need a loss, and the model gave none. Put labels into the batches and use a "
                        "model with a head, or pass attribution=False."
                    )
                if not loss.requires_grad:
                    raise ConfigError("Attributions need a gradient, and all parameters of the model are frozen.")
                outputs = [p for p in model.parameters() if p.requires_grad]
                torch.autograd.grad(loss, outputs, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return {key: tuple(total.abs() / records[key].tokens) for key, total in sums.items()}


@torch.no_grad()
def _gradient_sums(module: Any, x_NI: Tensor, g_NO: Tensor, mean_IO: Tensor) -> Tensor:
    """Σ_n g_no (φ_oi(x_ni) - mean φ_oi) and Σ_n g_no s_oi(x_ni), (2, I, O), float64 on the CPU."""
    parts = []
    diagonal = not hasattr(module, "out_features")
    for start in range(0, module.in_features, INPUT_CHUNK):
        chunk = slice(start, start + INPUT_CHUNK)
        features_NIF = edge_features(module, x_NI[:, chunk], chunk)
        weights_IOF = edge_weights(module, chunk)
        if diagonal:
            products_IOF = (features_NIF * g_NO[:, chunk].unsqueeze(-1)).sum(dim=0).unsqueeze(1)
        else:
            products_IOF = torch.einsum("nif,no->iof", features_NIF, g_NO.to(features_NIF))
        terms_IOF = (products_IOF * weights_IOF).cpu().double()
        parts.append(torch.stack([terms_IOF.sum(-1), terms_IOF[..., 1:].sum(-1)]))
    total_O = g_NO.sum(dim=0).cpu().double()
    sums = torch.cat(parts, dim=1)
    sums[0] -= mean_IO * (total_O.unsqueeze(1) if diagonal else total_O)
    return sums
