"""Write a function into a model's coefficients, where it stays and is saved, until it is undone.

Shape letters: I inputs, S sample points, C coefficients, O outputs, P curves, D denominator parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.basis.fit import fit_curves
from kansformer.conversion.slots import EdgeRef, find_curve_slot
from kansformer.errors import ConfigError, DataError
from kansformer.interp.edge_features import base_values, base_weights
from kansformer.interp.edits import check_edges
from kansformer.nn.curves import Curved

# Points per coefficient that the function is sampled at.
OVERSAMPLING = 8


@dataclass
class CurveEdit:
    """The result of `edit_curve`; `undo()` reverts it.

    Args:
        error: root mean square difference between the function and the new curve, on its domain.
    """

    error: float
    _module: Curved
    _index: tuple[int | slice, ...]
    _parameter: nn.Parameter
    _before: Tensor

    @torch.no_grad()
    def undo(self) -> None:
        """Put the curve's coefficients back, to the bit; other edits stay.

        Raises:
            DataError: the layer has another grid now, so the old coefficients mean nothing there.
        """
        if self._module.coefficients is not self._parameter:
            raise DataError("The grid of the layer was changed after the edit, so it cannot be undone any more.")
        self._parameter[self._index] = self._before


@torch.no_grad()
def edit_curve(model: nn.Module, edge: EdgeRef, function: Callable[[Tensor], Tensor]) -> CurveEdit:
    """Make an edge's curve follow a function on its domain, in place, as closely as its basis can.

    `edit_edge` shows exactly what a function would do, within a context; this one lasts and is saved with the model.

    Args:
        model: converted, or with KAN modules.
        edge: the edge. Of `full` edges only this one changes. Where the curves act on the inputs before the weights
            (`channel` and `group`) the function is that of the input's curve, and all edges that share it follow.
        function: elementwise, of the inputs: the whole edge, its base included.

    Returns:
        How close the curve came, with `undo`.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: the slot has `low_rank` edges, none of which has coefficients of its own.
        DataError: the function is not finite on the domain. The model is left as it was.
    """
    slot = find_curve_slot(model, edge.site, edge.slot)
    check_edges(slot, [(edge.input, edge.output)])
    module = slot.module
    curves, basis = module.curves, module.curves.basis
    if curves.edges == "low_rank":
        raise ConfigError(f"{slot.path} has low_rank edges, which share their coefficients. Use edit_edge there.")
    curve = edge.input * len(module.domain) // module.in_features
    domain_12 = module.domain[curve : curve + 1].double().cpu()
    unit_S = torch.linspace(0, 1, OVERSAMPLING * basis.num_coefficients, dtype=torch.float64)
    x_1S = domain_12[:, :1] + (domain_12[:, 1:] - domain_12[:, :1]) * unit_S
    y_1S, base_1S = function(x_1S).double(), base_values(module, x_1S).double()
    if y_1S.shape != x_1S.shape or not y_1S.isfinite().all():
        lower, upper = domain_12[0].tolist()
        raise DataError(f"The function has no finite value everywhere from {lower:g} to {upper:g}, {edge}'s domain.")
    index: tuple[int | slice, ...] = (curve,)
    weight_IO = base_weights(module)
    if curves.edges == "full" and weight_IO is not None:
        base_1S = base_1S * weight_IO[edge.input, edge.output].double().cpu()
        index = (curve, slice(None), edge.output)
    denominator_1D = None if module.denominator is None else module.denominator[curve : curve + 1]
    target_1S = y_1S - base_1S
    fit_1C1 = fit_curves(x_1S, target_1S.unsqueeze(-1), basis, domain_12, denominator_ID=denominator_1D, ridge=0.0)
    before = module.coefficients[index].detach().clone()
    new_C = fit_1C1[0, :, 0].to(before)
    denominator_11D = None if denominator_1D is None else denominator_1D.double().cpu().unsqueeze(1)
    values_1SC = basis.values(x_1S, domain_12.unsqueeze(1), denominator_11D)
    error = (values_1SC @ new_C.double().cpu() - target_1S).square().mean().sqrt().item()
    module.coefficients[index] = new_C
    return CurveEdit(error, module, index, module.coefficients, before)
