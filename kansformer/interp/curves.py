"""Edges as curves: sampled for fits and plots, and exact for SciPy and pandas.

Shape letters: E edges, S sample points, I inputs, O outputs, C coefficients, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot
from kansformer.errors import ConfigError, ShapeError, SlotError
from kansformer.interp.edge_features import edge_features, edge_weights, pair_weights
from kansformer.interp.recording import EdgeRecords

if TYPE_CHECKING:
    import pandas
    import scipy.interpolate

# Inputs whose edges are evaluated at once.
INPUT_CHUNK = 64
# A channel that never varied is shown around its value, on this share of its domain, or of the value if that is more.
NARROWEST_SHARE, NARROWEST_RELATIVE = 0.01, 1e-3


@dataclass(frozen=True)
class EdgeCurves:
    """Sampled edges of one slot, in the order of inputs, then outputs.

    Args:
        place: the slot.
        inputs, outputs: channel numbers of every edge, (E,).
        x: points, equally spaced on the range of each edge's input unless given, (E, S), float64.
        y: φ_oi there, the base and the learned curve, (E, S), float32.
        learned: the learned curve alone, (E, S), float32.
    """

    place: CurveSlot
    inputs: Tensor
    outputs: Tensor
    x: Tensor
    y: Tensor
    learned: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def refs(self) -> list[EdgeRef]:
        """The edges' names."""
        pairs = zip(self.inputs.tolist(), self.outputs.tolist(), strict=True)
        return [EdgeRef(self.place.site, self.place.name, i, o) for i, o in pairs]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge and point: site, slot, input, output, x, y, learned."""
        import pandas

        edges, points = self.x.shape
        repeated = {"input": self.inputs, "output": self.outputs}
        columns = {"x": self.x, "y": self.y, "learned": self.learned}
        return pandas.DataFrame(
            {"site": self.place.site, "slot": self.place.name}
            | {name: values.repeat_interleave(points).numpy() for name, values in repeated.items()}
            | {name: values.reshape(-1).numpy() for name, values in columns.items()},
            index=range(edges * points),
        )

    def to_scipy(self, index: int) -> scipy.interpolate.BSpline:
        """The learned curve of one edge, exact within its domain; beyond it SciPy goes on with the outermost pieces.

        Raises:
            ConfigError: its basis is not `bspline`.
        """
        module, basis = self.place.module, self.place.module.curves.basis
        if basis.name != "bspline":
            raise ConfigError(f"Only B-splines become a SciPy BSpline, and {self.place.path} has {basis.name} curves.")
        from scipy.interpolate import BSpline

        i, o = int(self.inputs[index]), int(self.outputs[index])
        coefficients_C = pair_weights(module, torch.tensor([i]), torch.tensor([o]))[0, 1:].detach().double().cpu()
        lower, upper = module.domain[i * len(module.domain) // module.in_features].double().tolist()
        steps = torch.arange(-basis.order, basis.grid_size + basis.order + 1, dtype=torch.float64)
        knots = lower + (upper - lower) / basis.grid_size * steps
        return BSpline(knots.numpy(), coefficients_C.numpy(), basis.order)


@torch.no_grad()
def edge_curves(
    model: nn.Module,
    site: str,
    slot: str,
    *,
    records: EdgeRecords | None = None,
    inputs: Sequence[int] | slice | None = None,
    outputs: Sequence[int] | slice | None = None,
    points: int = 64,
    at: Tensor | None = None,
) -> EdgeCurves:
    """Sample edges.

    Args:
        model: converted, or with KAN modules.
        site, slot: which layer.
        records: of `record_edges`; each edge is then sampled on the range that its input had, else on its domain.
        inputs, outputs: channel numbers; None is all. Outputs mean nothing in slots without weights.
        points: on each edge.
        at: the points themselves, a row for each of the inputs; then records and `points` mean nothing.

    Returns:
        The edges, inputs × outputs.

    Raises:
        SlotError: there is no such site, slot or channel.
        ConfigError: fewer than 2 points.
        ShapeError: `at` has not one row for each input.
        DataError: the records hold no token for this slot.
    """
    if points < 2:
        raise ConfigError(f"A curve needs 2 points or more, got {points}.")
    place = find_curve_slot(model, site, slot)
    module = place.module
    chosen_inputs = _channels(inputs, module.in_features, place, "input")
    chosen_outputs = _channels(outputs, place.num_outputs, place, "output") if place.has_weights else None
    x_IS = sample_points(place, records, points)[chosen_inputs] if at is None else at.detach().cpu().double()
    if x_IS.ndim != 2 or len(x_IS) != len(chosen_inputs):
        raise ShapeError(f"at must be ({len(chosen_inputs)}, points), a row for each input, got {tuple(x_IS.shape)}.")
    y, learned = [], []
    for part, x_iS in zip(chosen_inputs.split(INPUT_CHUNK), x_IS.split(INPUT_CHUNK), strict=True):
        whole, bent = _evaluate(module, part, chosen_outputs, x_iS)
        y.append(whole)
        learned.append(bent)
    width = 1 if chosen_outputs is None else len(chosen_outputs)
    edge_inputs = chosen_inputs.repeat_interleave(width)
    edge_outputs = chosen_inputs if chosen_outputs is None else chosen_outputs.repeat(len(chosen_inputs))
    x_ES = x_IS.repeat_interleave(width, dim=0)
    return EdgeCurves(place, edge_inputs, edge_outputs, x_ES, torch.cat(y), torch.cat(learned))


@torch.no_grad()
def pair_curves(
    place: CurveSlot, inputs: Tensor, outputs: Tensor, *, records: Mapping | None = None, points: int = 64
) -> EdgeCurves:
    """Sample single edges of a slot, in the order given; arguments as in `edge_curves`."""
    module = place.module
    x_ES = sample_points(place, records, points)[inputs]
    device = module.coefficients.device
    weights_EF = pair_weights(module, inputs.to(device), outputs.to(device)).cpu().double()
    features_ESF = edge_features(module, x_ES.mT.to(device), inputs.to(device)).transpose(0, 1).cpu()
    base = features_ESF[..., 0] * weights_EF[:, :1]
    learned = torch.einsum("esf,ef->es", features_ESF[..., 1:], weights_EF[:, 1:])
    return EdgeCurves(place, inputs, outputs, x_ES, (base + learned).float(), learned.float())


def _evaluate(module: Any, inputs_i: Tensor, outputs: Tensor | None, x_iS: Tensor) -> tuple[Tensor, Tensor]:
    """Edges and their learned parts, each (i·o, S)."""
    inputs_i = inputs_i.to(module.coefficients.device)
    features_iSF = edge_features(module, x_iS.mT.to(inputs_i.device), inputs_i).transpose(0, 1)
    weights_ioF = edge_weights(module, inputs_i, slice(None) if outputs is None else outputs).to(features_iSF)
    learned = weights_ioF[..., 1:] @ features_iSF[..., 1:].mT
    whole = learned + weights_ioF[..., :1] @ features_iSF[..., :1].mT
    return whole.flatten(0, 1).cpu().float(), learned.flatten(0, 1).cpu().float()


def sample_points(place: CurveSlot, records: Mapping | None, points: int) -> Tensor:
    """Equally spaced points on the recorded range of every input, or on its domain; (I, S), float64.

    Raises:
        DataError: the records hold no token for this slot.
    """
    lower, upper = _ranges(place, records)
    unit_S = torch.linspace(0, 1, points, dtype=torch.float64)
    return lower[:, None] + (upper - lower)[:, None] * unit_S


def _ranges(place: CurveSlot, records: Mapping | None) -> tuple[Tensor, Tensor]:
    """Lower and upper end for every input, float64."""
    module = place.module
    domain = module.domain.double().cpu().repeat_interleave(module.in_features // len(module.domain), dim=0)
    if records is None:
        return domain[:, 0], domain[:, 1]
    recorded = records[place.site, place.name]
    recorded.outside  # noqa: B018 - raises where no token came by
    lower, upper = recorded.lower.double(), recorded.upper.double()
    largest = torch.maximum(lower.abs(), upper.abs())
    narrowest = torch.maximum(NARROWEST_SHARE * (domain[:, 1] - domain[:, 0]), NARROWEST_RELATIVE * largest)
    room = (narrowest - (upper - lower)).clamp(min=0) / 2
    return lower - room, upper + room


def _channels(chosen: Sequence[int] | slice | None, count: int, place: CurveSlot, axis: str) -> Tensor:
    if chosen is None:
        return torch.arange(count)
    if isinstance(chosen, slice):
        return torch.arange(count)[chosen]
    for channel in chosen:
        if not 0 <= channel < count:
            raise SlotError(f"{place.site}/{place.name} has no {axis} {channel}: choose from 0 to {count - 1}.")
    return torch.as_tensor(list(chosen), dtype=torch.long)
