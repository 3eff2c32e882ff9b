"""Linear layers of SGLang with curves.

SGLang's layers call a method for their product before they add up what their ranks computed. The Transformers backend
merges no layers, so that each layer has the curves of one slot at most.

Shape letters: `...` any, I inputs, O outputs.
"""

from typing import Any, cast

import torch
from sglang.srt.distributed.utils import get_group_rank_size
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.base_config import LinearMethodBase
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from torch import Tensor

from kansformer.nn.curves import CURVE_TENSORS, Curved, add_edges, apply_curve
from kansformer.serving.checkpoint import Rank, ServedCurves, split_of
from kansformer.serving.modules import CurveView, make_input_curve
from kansformer.sites.site import INPUT_CURVE, Slot


class CurvedLinearMethod(LinearMethodBase):
    """The product of a linear layer with its curves.

    It has an unquantised method and is none: SGLang's shortcuts past `apply` ask for one, and would leave curves out.

    Args:
        curves: of the model.
        slot: whose curves the layer has; None for an input curve only.
        input_slot: whose curves the layer's input goes through first.
    """

    def __init__(self, curves: ServedCurves, slot: Slot | None, input_slot: Slot | None) -> None:
        super().__init__()
        self.curves, self.slot, self.input_slot = curves, slot, input_slot
        self.spec = None if slot is None else curves.spec_of(slot)
        self._product = UnquantizedLinearMethod()

    def create_weights(
        self,
        layer: LinearBase,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """The weight as SGLang makes it, and this rank's curves.

        Raises:
            CheckpointError: as `ServedCurves.make_parameters`.
        """
        self._product.create_weights(
            layer,
            input_size_per_partition,
            output_partition_sizes,
            input_size,
            output_size,
            params_dtype,
            **extra_weight_attrs,
        )
        sizes = (input_size_per_partition, sum(output_partition_sizes))
        by = split_of(sizes, (input_size, output_size))
        rank = Rank(*get_group_rank_size(layer.tp_group)) if by else Rank()
        self.input_size = input_size_per_partition
        if self.spec is not None:
            parameters = self.curves.make_parameters(
                [self.slot], self.spec, input_size, output_size, by=by, rank=rank, dtype=params_dtype
            )
            for name, parameter in parameters.items():
                layer.register_parameter(name, parameter)
        if self.input_slot is not None:
            curve = make_input_curve(self.input_slot, input_size, self.curves, by=by, rank=rank, dtype=params_dtype)
            setattr(layer, INPUT_CURVE, curve)

    def process_weights_after_loading(self, layer: LinearBase) -> None:
        """Pack the weight as SGLang does."""
        self._product.process_weights_after_loading(layer)

    def apply(self, layer: LinearBase, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., I) to (..., O), this rank's part of both."""
        if self.input_slot is not None:
            x = layer.get_submodule(INPUT_CURVE)(x)
        if self.spec is None:
            return self._product.apply(layer, x, bias)
        view = self._view(layer)
        if self.spec.is_per_channel:
            return self._product.apply(layer, apply_curve(view, x, x), bias)
        return add_edges(view, x, self._product.apply(layer, x, bias))

    def _view(self, layer: LinearBase) -> Curved:
        """The layer's curves."""
        tensors: dict[str, Any] = {name: layer._parameters.get(name) for name in CURVE_TENSORS}
        assert self.spec is not None
        return cast(Curved, CurveView(in_features=self.input_size, curves=self.spec, **tensors))
