"""The inputs of curves, recorded by ordinary module hooks: ranges, histograms, samples and moments of every edge.

Shape letters: N tokens, S sampled tokens, I inputs, O outputs, T terms, H bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer, check_seed
from kansformer.conversion.slots import CurveSlot, check_in_memory, find_curve_slots
from kansformer.errors import DataError, SlotError
from kansformer.interp.edge_features import ALL, edge_terms, num_terms, per_input, term_weights
from kansformer.nn.curves import Curved, CurveSpec
from kansformer.nn.hooks import forget_compiled, input_of, outside_graphs
from kansformer.nn.transaction import undone_afterwards

# Terms of tokens that are held at once, (N, I, T).
BUDGET = 2**18
# Inputs whose edges are held at once, (I, O, T).
INPUT_CHUNK = 64


@contextmanager
def record_edges(model: nn.Module, *, bins: int = 32, sample: int = 1024, seed: int = 0) -> Iterator[EdgeRecords]:
    """Record the inputs of every curve of a model while it runs.

    The memory does not grow with the number of tokens. All tokens that pass count, padding included. The hooks are
    ordinary forward pre-hooks, and are gone afterwards, also after an error.

    Args:
        model: converted, or with KAN modules.
        bins: of the histogram of every input over the domain of its curve.
        sample: tokens that are kept whole, drawn at random from all that passed (reservoir sampling; Vitter, 1985).
        seed: of the sample; torch's global random state is left alone.

    Yields:
        The records, by site and slot. They stay readable afterwards.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: `bins` or `sample` is below 1.
        DataError: in the model's forward, an input of a curve is not finite.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import record_edges
        >>> model = torch.nn.Sequential(KANLinear(2, 3))
        >>> with record_edges(model) as records:
        ...     output = model(torch.tensor([[0.0, 0.5], [0.5, 7.0]]))
        >>> records["", "0"].outside  # share of tokens outside of [-1, 1]
        tensor([0.0000, 0.5000])
    """
    check_integer("bins", bins, 1)
    check_integer("sample", sample, 1)
    with record_slots(find_curve_slots(model), bins=bins, sample=sample, seed=seed) as records:
        yield records


@contextmanager
def record_slots(
    slots: Iterable[CurveSlot], *, bins: int = 32, sample: int = 1024, seed: int = 0
) -> Iterator[EdgeRecords]:
    """`record_edges` of these slots only."""
    slots = list(slots)
    check_in_memory(slots)
    records = EdgeRecords({(slot.site, slot.name): RecordedSlot(slot, bins, sample, seed) for slot in slots})
    forget_compiled()
    with undone_afterwards() as hooks:
        for recorded in records.values():
            hook = outside_graphs(recorded._hook)
            hooks.callback(recorded.slot.called.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield records


@dataclass
class RecordedSlot:
    """The inputs of the curves of one slot.

    Args:
        slot: the slot.
        bins: H.
        sample_size: the number of tokens that are kept, at most.
        seed: of the sample.

    Attributes:
        tokens: number of tokens that passed.
        lower, upper: range of every input, (I,).
        histogram: counts of every input below the domain, in H equal bins of it, and above, (I, H + 2).
        sample: tokens drawn at random, (S, I).

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import record_edges
        >>> model = torch.nn.Sequential(KANLinear(2, 3))
        >>> with record_edges(model) as records:
        ...     output = model(torch.tensor([[0.0, 0.5], [0.5, 7.0]]))
        >>> slot = records["", "0"]
        >>> slot.tokens, slot.upper.tolist(), slot.variances().shape
        (2, [0.5, 7.0], torch.Size([2, 3]))
    """

    slot: CurveSlot
    bins: int
    sample_size: int
    seed: int
    tokens: int = field(default=0, init=False)

    @torch.inference_mode(False)
    def __post_init__(self) -> None:
        module = self.slot.module
        inputs, width = module.in_features, num_terms(module)
        self.lower = torch.full((inputs,), math.inf)
        self.upper = torch.full((inputs,), -math.inf)
        self.histogram = torch.zeros(inputs, self.bins + 2, dtype=torch.long)
        self.sample = torch.zeros(0, inputs)
        self._sums_IT = torch.zeros(inputs, width, dtype=torch.float64)
        self._products_ITT = torch.zeros(inputs, width, width, dtype=torch.float64)  # its upper triangles
        self._generator = torch.Generator().manual_seed(check_seed(self.seed))
        self._before = _curves_of(module)

    @property
    def outside(self) -> Tensor:
        """Share of every input that lies outside its curve's domain, (I,)."""
        self.check_tokens()
        return (self.histogram[:, 0] + self.histogram[:, -1]) / self.tokens

    def quantiles(self, levels: tuple[float, ...] = (0.01, 0.25, 0.5, 0.75, 0.99)) -> Tensor:
        """Quantiles of every input, (levels, I), from the sample."""
        self.check_tokens()
        parts = self.sample.split(INPUT_CHUNK, dim=1)  # `quantile` takes 16 million numbers at most
        return torch.cat([torch.quantile(part, torch.tensor(levels), dim=0) for part in parts], dim=1)

    def means(self, *, learned_only: bool = False, inputs: slice = ALL) -> Tensor:
        """Mean of every edge, or of its learned curve alone, (I, O), float64; O is 1 where there are no weights.

        Of these inputs, and of the model as it is now. Where edges of an input share a curve (`channel`, `group`) and
        it was changed since, the mean is that of the sample, else that of all tokens; so are variances and shares.
        """
        return torch.cat([mean_IO for mean_IO, _ in self._moments(learned_only, inputs)])

    def variances(self, *, learned_only: bool = False, inputs: slice = ALL) -> Tensor:
        """Variance of every edge from these inputs, or of its learned curve alone, (I, O), float64."""
        return torch.cat([variance_IO for _, variance_IO in self._moments(learned_only, inputs)])

    def node_variances(self) -> Tensor:
        """The sum of the variances of all edges at every node, (O,), float64; (1,) where there are no weights."""
        return torch.stack([variance_IO.sum(dim=0) for _, variance_IO in self._moments(False, ALL)]).sum(dim=0)

    def shares(self) -> Tensor:
        """Variance of every edge as a share of the sum at its node, (I, O); 1 where there are no weights.

        A node at which no edge varies has shares of 0.
        """
        return self.shares_of(self.variances(), self.node_variances())

    def shares_of(self, variance_IO: Tensor, node_variance_O: Tensor) -> Tensor:
        """Variances of edges as shares of the sums at their nodes, (I, O); 1 where there are no weights."""
        if not self.slot.has_weights:
            return (variance_IO > 0).double()
        return torch.where(node_variance_O > 0, variance_IO / node_variance_O, 0.0)

    @torch.no_grad()
    def _moments(self, learned_only: bool, inputs: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Means and variances, a few inputs at a time."""
        self.check_tokens()
        mean_IT, covariance_ITT = self._term_moments()
        first = 1 if learned_only else 0
        begin, end, _ = inputs.indices(len(mean_IT))
        for start in range(begin, end, INPUT_CHUNK):
            chunk = slice(start, min(start + INPUT_CHUNK, end))
            weights_IOT = term_weights(self.slot, chunk)[..., first:].cpu().double()
            mean_iT, covariance_iTT = mean_IT[chunk, first:], covariance_ITT[chunk, first:, first:]
            variance_iO = ((weights_IOT @ covariance_iTT) * weights_IOT).sum(-1).clamp(min=0)
            yield (weights_IOT @ mean_iT.unsqueeze(-1)).squeeze(-1), variance_iO

    def _term_moments(self) -> tuple[Tensor, Tensor]:
        """Means (I, T) and covariances (I, T, T) of the terms."""
        module = self.slot.module
        (spec, grid, shared), (spec_before, grid_before, shared_before) = _curves_of(module), self._before
        if spec != spec_before or not all(map(torch.equal, grid, grid_before)):
            raise DataError(f"The grid of {self.slot.path} was changed after its inputs were recorded. Record again.")
        if shared is None or shared_before is None or torch.equal(shared, shared_before):
            mean_IT = self._sums_IT / self.tokens
            products_ITT = self._products_ITT + self._products_ITT.triu(1).mT
            return mean_IT, products_ITT / self.tokens - mean_IT.unsqueeze(-1) * mean_IT.unsqueeze(-2)
        device = module.coefficients.device  # shared curves that were changed since: from the sample
        terms_NIT = edge_terms(module, self.sample.to(device)).double().cpu()
        centred = terms_NIT - terms_NIT.mean(dim=0)
        return terms_NIT.mean(dim=0), torch.einsum("nit,nis->its", centred, centred) / len(centred)

    @torch.inference_mode(False)  # what is kept is changed in place later, and inference tensors cannot be
    @torch.no_grad()
    def _hook(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = input_of(args, kwargs).detach()
        x = x.clone() if x.is_inference() else x
        x_NI = x.reshape(-1, x.shape[-1])
        if not x_NI.isfinite().all():
            raise DataError(f"The input of {self.slot.path} is not finite, so it cannot be recorded.")
        for part in x_NI.split(max(1, BUDGET // self._sums_IT.numel())):
            terms = edge_terms(self.slot.module, part)
            terms = terms.cpu() if terms.device.type == "mps" else terms  # which has no float64
            terms_TNI = terms.movedim(-1, 0).double()  # variances are differences
            self._sums_IT += terms_TNI.sum(1).mT.cpu()
            for term, values_NI in enumerate(terms_TNI):  # tiny matrix products would take longer
                self._products_ITT[:, term, term:] += (terms_TNI[term:] * values_NI).sum(1).mT.cpu()
        x_NI = x_NI.cpu().float()
        if len(x_NI):
            self.lower = torch.minimum(self.lower, x_NI.amin(dim=0))
            self.upper = torch.maximum(self.upper, x_NI.amax(dim=0))
            self._count(x_NI)
            self._draw(x_NI)
        self.tokens += len(x_NI)

    def _count(self, x_NI: Tensor) -> None:
        domain = per_input(self.slot.module, self.slot.module.domain.cpu().float())
        position_NI = (x_NI - domain[:, 0]).div_(domain[:, 1] - domain[:, 0]).mul_(self.bins)
        at_end = position_NI == self.bins  # which is within the domain
        bin_NI = position_NI.floor_().clamp_(-1, self.bins).masked_fill_(at_end, self.bins - 1).int()
        bin_NI += 1 + torch.arange(len(domain), dtype=torch.int32) * (self.bins + 2)
        counts = torch.bincount(bin_NI.flatten(), minlength=self.histogram.numel())
        self.histogram += counts.reshape(self.histogram.shape)

    def _draw(self, x_NI: Tensor) -> None:
        """Vitter's algorithm R on whole tokens: every token that passed is kept with the same probability."""
        free = self.sample_size - len(self.sample)
        self.sample = torch.cat([self.sample, x_NI[:free]]) if free > 0 else self.sample
        rest = x_NI[max(free, 0) :]
        seen = self.tokens + len(x_NI) - len(rest) + torch.arange(1, len(rest) + 1)
        drawn = (torch.rand(len(rest), generator=self._generator, dtype=torch.float64) * seen).long()
        kept = (drawn < self.sample_size).nonzero()[:, 0]
        last = dict(zip(drawn[kept].tolist(), kept.tolist(), strict=True))  # of several for one place the latest stays
        self.sample[list(last)] = rest[list(last.values())]

    def check_tokens(self) -> None:
        """Raise a `DataError` if no token reached the slot."""
        if not self.tokens:
            raise DataError(f"No token reached {self.slot.path}, so nothing is known about its inputs.")


class EdgeRecords(dict[tuple[str, str], RecordedSlot]):
    """Recorded slots by (site, slot), a dictionary; every slot of the model has a place from the start.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import record_edges
        >>> model = torch.nn.Sequential(KANLinear(2, 3), KANLinear(3, 1))
        >>> with record_edges(model) as records:
        ...     output = model[0](torch.randn(10, 2))
        >>> list(records), records.unreached
        ([('', '0'), ('', '1')], [('', '1')])
    """

    def __missing__(self, key: tuple[str, str]) -> RecordedSlot:
        shown = ", ".join(map(str, list(self)[:4]))
        raise SlotError(f"Nothing was recorded at {key!r}. Choose from {len(self)}, such as: {shown}.")

    @property
    def unreached(self) -> list[tuple[str, str]]:
        """Slots that no token has reached so far."""
        return [key for key, recorded in self.items() if not recorded.tokens]


def _curves_of(module: Curved) -> tuple[CurveSpec, list[Tensor], Tensor | None]:
    """Copies of what terms are computed with: the spec, domains and denominators, and the curves that edges share."""
    grid = (module.domain, module.denominator)
    shared = module.coefficients.detach().cpu().clone() if module.curves.is_per_channel else None
    return module.curves, [tensor.detach().cpu().clone() for tensor in grid if tensor is not None], shared
