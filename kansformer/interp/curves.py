"""Edges as curves: sampled for fits and plots, and exact for SciPy and pandas.

Shape letters: E edges, S sample points, I inputs, O outputs, C coefficients, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot
from kansformer.errors import ConfigError, ShapeError, SlotError
from kansformer.interp.edge_features import (
    ALL,
    edge_features,
    edge_weights,
    pair_weights,
    per_input,
    values_and_learned,
)
from kansformer.interp.recording import RecordedSlot

if TYPE_CHECKING:
    import pandas
    import scipy.interpolate

Records = Mapping[tuple[str, str], RecordedSlot]

# Inputs whose edges are evaluated at once.
INPUT_CHUNK = 64
# A channel that never varied is shown around its value, on this share of its domain, or of the value if that is more.
MIN_SHARE, MIN_RELATIVE = 0.01, 1e-3


@dataclass(frozen=True)
class EdgeCurves:
    """Sampled edges of one slot, in the order of inputs, then outputs.

    Args:
        slot: the slot.
        inputs, outputs: channel numbers of every edge, (E,).
        x: points, equally spaced on the range of each edge's input unless given, (E, S), float64.
        y: φ_oi there, the base and the learned curve, (E, S), float32.
        learned: the learned curve alone, (E, S), float32.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_curves
        >>> curves = edge_curves(torch.nn.Sequential(KANLinear(4, 3)), "", "0", inputs=[0, 1], points=16)
        >>> curves.x.shape, str(curves.refs[0])
        (torch.Size([6, 16]), '/0[0->0]')
        >>> list(curves.to_pandas().columns)
        ['site', 'slot', 'input', 'output', 'x', 'y', 'learned']
    """

    slot: CurveSlot
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
        return [EdgeRef(self.slot.site, self.slot.name, i, o) for i, o in pairs]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge and point: site, slot, input, output, x, y, learned."""
        import pandas

        columns = {"input": self.inputs[:, None], "output": self.outputs[:, None]}
        columns |= {"x": self.x, "y": self.y, "learned": self.learned}
        flat = {name: values.expand_as(self.x).flatten().numpy() for name, values in columns.items()}
        return pandas.DataFrame({"site": self.slot.site, "slot": self.slot.name} | flat, index=range(self.x.numel()))

    def to_scipy(self, index: int) -> scipy.interpolate.BSpline:
        """The learned curve of one edge, exact within its domain; beyond it SciPy continues the outermost pieces.

        Raises:
            ConfigError: its basis is not `bspline`.
        """
        module, basis = self.slot.module, self.slot.module.curves.basis
        if basis.name != "bspline":
            raise ConfigError(f"Only B-splines become a SciPy BSpline, and {self.slot.path} has {basis.name} curves.")
        from scipy.interpolate import BSpline

        input_1, output_1 = self.inputs[index].reshape(1), self.outputs[index].reshape(1)
        coefficients_C = pair_weights(self.slot, input_1, output_1)[0, 1:].detach().double().cpu()
        lower, upper = per_input(module, module.domain)[input_1].double().flatten().tolist()
        steps = torch.arange(-basis.order, basis.grid_size + basis.order + 1, dtype=torch.float64)
        knots = lower + (upper - lower) / basis.grid_size * steps
        return BSpline(knots.numpy(), coefficients_C.numpy(), basis.order)


@torch.no_grad()
def edge_curves(
    model: nn.Module,
    site: str,
    slot: str,
    *,
    records: Records | None = None,
    inputs: Sequence[int] | slice | None = None,
    outputs: Sequence[int] | slice | None = None,
    points: int = 64,
    at: Tensor | None = None,
) -> EdgeCurves:
    """Sample edges.

    Args:
        model: converted, or with KAN modules.
        site, slot: which layer.
        records: of `record_edges`; each edge is then sampled on the recorded range of its input, else on its domain.
        inputs, outputs: channel numbers, a slice or a Boolean mask; None is all. Outputs are not used in slots without
            weights.
        points: on each edge.
        at: the points themselves, a row for each of the inputs; then records and `points` are not used.

    Returns:
        The edges, inputs × outputs.

    Raises:
        SlotError: the site, slot or channel does not exist.
        ConfigError: fewer than 2 points.
        ShapeError: `at` does not have one row for each input, or a mask has another length.
        DataError: the records hold no token for this slot.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> from kansformer.interp import edge_curves
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), LearnedActivation(8, base="relu"))
        >>> curves = edge_curves(model, "", "1", inputs=slice(0, 3), points=5)
        >>> curves.x[0].tolist(), curves.y[0].tolist()  # straight, so the base alone
        ([-1.0, -0.5, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.5, 1.0])
    """
    if points < 2:
        raise ConfigError(f"A curve needs 2 points or more, got {points}.")
    where = find_curve_slot(model, site, slot)
    module, device = where.module, where.module.coefficients.device
    inputs_I = _channels(inputs, module.in_features, where, "input")
    outputs_O = _channels(outputs, where.num_outputs, where, "output") if where.has_weights else torch.zeros(1).long()
    x_IS = sample_points(where, records, points)[inputs_I] if at is None else at.detach().cpu().double()
    if x_IS.ndim != 2 or len(x_IS) != len(inputs_I):
        raise ShapeError(f"at must be ({len(inputs_I)}, points), a row for each input, got {tuple(x_IS.shape)}.")
    parts = []
    for chunk_I, x_chunk in zip(inputs_I.to(device).split(INPUT_CHUNK), x_IS.split(INPUT_CHUNK), strict=True):
        features_ISF = edge_features(module, x_chunk.mT.to(device), chunk_I).transpose(0, 1)
        weights_IOF = edge_weights(where, chunk_I, outputs_O.to(device)).to(features_ISF)
        values = values_and_learned(weights_IOF, features_ISF)
        parts.append([value_IOS.flatten(0, 1).cpu().float() for value_IOS in values])
    y_ES, learned_ES = map(torch.cat, zip(*parts, strict=True))
    width = len(outputs_O)
    inputs_E = inputs_I.repeat_interleave(width)
    outputs_E = outputs_O.repeat(len(inputs_I)) if where.has_weights else inputs_I
    return EdgeCurves(where, inputs_E, outputs_E, x_IS.repeat_interleave(width, dim=0), y_ES, learned_ES)


@torch.no_grad()
def pair_curves(slot: CurveSlot, inputs: Tensor, outputs: Tensor, *, at: Tensor) -> EdgeCurves:
    """Sample single edges of a slot, in the order given, each at its own points, (E, S)."""
    module, device = slot.module, slot.module.coefficients.device
    weights_EF = pair_weights(slot, inputs.to(device), outputs.to(device)).cpu().double()
    features_ESF = edge_features(module, at.mT.to(device), inputs.to(device)).transpose(0, 1).cpu()
    learned = torch.einsum("esf,ef->es", features_ESF[..., 1:], weights_EF[:, 1:])
    whole = features_ESF[..., 0] * weights_EF[:, :1] + learned
    return EdgeCurves(slot, inputs, outputs, at, whole.float(), learned.float())


def sample_points(slot: CurveSlot, records: Records | None, points: int) -> Tensor:
    """Equally spaced points on the recorded range of every input, or on its domain; (I, S), float64.

    Raises:
        DataError: the records hold no token for this slot.
    """
    if records is None:
        lower, upper = per_input(slot.module, slot.module.domain.double().cpu()).unbind(-1)
        return _spaced(lower, upper, points)
    recorded = records[slot.site, slot.name]
    recorded.check_tokens()
    return spread_points(slot, recorded.lower, recorded.upper, points)


def spread_points(slot: CurveSlot, lower: Tensor, upper: Tensor, points: int, inputs: Tensor | slice = ALL) -> Tensor:
    """Equally spaced points on the ranges of inputs, which are widened where they are very narrow; (I, S), float64."""
    domain_I2 = per_input(slot.module, slot.module.domain.double().cpu())[inputs]
    lower, upper = lower.double(), upper.double()
    min_width = MIN_SHARE * (domain_I2[:, 1] - domain_I2[:, 0])
    min_width = torch.maximum(min_width, MIN_RELATIVE * torch.maximum(lower.abs(), upper.abs()))
    margin = (min_width - (upper - lower)).clamp(min=0) / 2
    return _spaced(lower - margin, upper + margin, points)


def _spaced(lower: Tensor, upper: Tensor, points: int) -> Tensor:
    unit_S = torch.linspace(0, 1, points, dtype=torch.float64)
    return lower[:, None] + (upper - lower)[:, None] * unit_S


def _channels(chosen: Sequence[int] | slice | None, count: int, slot: CurveSlot, axis: str) -> Tensor:
    if chosen is None or isinstance(chosen, slice):
        return torch.arange(count)[chosen or slice(None)]
    mask = chosen if isinstance(chosen, Tensor) else torch.tensor(list(chosen))
    if mask.dtype == torch.bool:
        if mask.shape != (count,):
            raise ShapeError(
                f"A mask of the {axis}s of {slot.site}/{slot.name} must be ({count},), got {tuple(mask.shape)}."
            )
        return mask.cpu().nonzero().squeeze(1)
    for channel in chosen:
        if not 0 <= channel < count:
            raise SlotError(f"{slot.site}/{slot.name} has no {axis} {channel}: choose from 0 to {count - 1}.")
    return torch.as_tensor(list(chosen), dtype=torch.long)
