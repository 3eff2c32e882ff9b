"""Modules of a served model that hold curves: activations and input curves, split as the layer after them."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kansformer.nn import LearnedActivation
from kansformer.nn.base import identity
from kansformer.nn.curves import CurvedModule, CurveSpec
from kansformer.nn.fused_gate import gated_product
from kansformer.nn.parallel import SplitBy
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.sites.site import Slot


class CurveView(NamedTuple):
    """The curves of one of several layers that a server has merged, as `nn.curves.Curved` describes a module."""

    in_features: int
    curves: CurveSpec
    coefficients: Tensor
    domain: Tensor
    denominator: Tensor | None
    mix: Tensor | None


class GatedActivation(LearnedActivation):
    """A learned activation on a gate, in place of a server's `SiluAndMul` and the like: (..., 2 I) to (..., I)."""

    def forward(self, x: Tensor) -> Tensor:
        """(σ(gate) + ψ(gate)) · up, where x is gate and up side by side."""
        gate, up = x.chunk(2, dim=-1)
        return self.gated(gate, up)


class MergedGate:
    """The forward of a gated block whose gate and up layers a server has merged into one; set on the instance.

    Args:
        block: its children have the other arguments' names.
    """

    def __init__(self, block: nn.Module, *, merged: str, act: str, down: str) -> None:
        self._block, self._names = block, (merged, act, down)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., d) to (..., d)."""
        merged, act, down = (self._block._modules[name] for name in self._names)
        gate, up = merged(x).chunk(2, dim=-1)  # type: ignore[misc]
        return down(gated_product(act, gate, up))  # type: ignore[misc, arg-type]


def serve_module(
    module: nn.Module,
    slot: Slot,
    curves: ServedCurves,
    *,
    by: SplitBy | None,
    rank: Rank,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> None:
    """Replace the curve tensors of a module, which may be on the meta device, by this process's part of them.

    Raises:
        CheckpointError: as `ServedCurves.make_parameters`.
    """
    curved = cast(CurvedModule, module)
    features, outputs = curved.in_features, getattr(module, "out_features", None)
    parameters = curves.make_parameters(
        [slot], curved.curves, features, outputs, by=by, rank=rank, dtype=dtype, device=device
    )
    del curved.domain  # a buffer; servers look for parameters
    for name, parameter in parameters.items():
        module.register_parameter(name, parameter)
    if by == "inputs":
        curved.in_features = features // rank.count


def make_input_curve(
    slot: Slot, features: int, curves: ServedCurves, *, by: SplitBy | None, rank: Rank, dtype: torch.dtype
) -> LearnedActivation:
    """The module that a layer's input goes through first, with this process's part of its curves.

    Args:
        slot: an input slot.
        features: of the layer's whole input.
        curves: of the model.
        by: how the layer is split among processes; only "inputs" splits the curves.
        rank: this process among those that share the layer.
        dtype: of the model.

    Raises:
        CheckpointError: as `ServedCurves.make_parameters`.
    """
    curve = LearnedActivation.from_activation(identity, features, curves.spec_of(slot), device="meta", dtype=dtype)
    is_split = by == "inputs"
    serve_module(curve, slot, curves, by="inputs" if is_split else None, rank=rank if is_split else Rank(), dtype=dtype)
    return curve
