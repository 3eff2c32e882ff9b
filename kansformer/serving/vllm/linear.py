"""Linear layers of vLLM with curves.

vLLM's layers call a method for their product before they add up what their ranks computed, and LoRA layers call the
same method of the layer inside. So a method with curves is all that a layer needs, whichever class it has.

Shape letters: `...` any, I inputs, O outputs, M layers that vLLM has merged into one.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_TENSORS, Curved, add_edges, apply_curve
from kansformer.serving.checkpoint import Rank, ServedCurves, split_of
from kansformer.serving.modules import CurveView, make_input_curve
from kansformer.sites.site import INPUT_CURVE, Slot


class CurvedLinearMethod(UnquantizedLinearMethod):
    """The product of a linear layer with its curves.

    Args:
        curves: of the model.
        slots: of the M layers that were merged into this one, None for those without curves; one of a simple layer.
        input_slot: whose curves the layer's input goes through first.
    """

    def __init__(self, curves: ServedCurves, slots: Sequence[Slot | None], input_slot: Slot | None) -> None:
        super().__init__()
        self.curves, self.slots, self.input_slot = curves, list(slots), input_slot
        first = next(filter(None, slots), None)
        self.spec = None if first is None else curves.spec_of(first)

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
        """The weight as vLLM makes it, and this rank's curves, which each have the M layers on a first axis.

        Raises:
            CheckpointError: as `ServedCurves.make_parameters`; or the layer is to take LoRA adapters, which vLLM would
                give its input as it was before the input curve.
        """
        if self.input_slot is not None and get_current_vllm_config().lora_config is not None:
            raise CheckpointError(
                f"The checkpoint bends the input of the layer {self.input_slot.path}, and vLLM would give LoRA "
                "adapters the straight one. Serve it without --enable-lora."
            )
        super().create_weights(
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
        rank = Rank(layer.tp_rank, layer.tp_size) if by else Rank()
        if len(self.slots) != len(output_partition_sizes):  # one layer in the file, several to vLLM
            output_partition_sizes = [sum(output_partition_sizes)]
        self.input_size, self.output_sizes = input_size_per_partition, output_partition_sizes
        if self.spec is not None:
            outputs = output_partition_sizes[0] * (rank.count if by == "outputs" else 1)
            parameters = self.curves.make_parameters(
                self.slots, self.spec, input_size, outputs, by=by, rank=rank, dtype=params_dtype, stacked=True
            )
            for name, parameter in parameters.items():
                layer.register_parameter(name, parameter)
        if self.input_slot is not None:
            curve = make_input_curve(self.input_slot, input_size, self.curves, by=by, rank=rank, dtype=params_dtype)
            setattr(layer, INPUT_CURVE, curve)

    @property
    def bends_each(self) -> bool:
        """Whether the merged layers have inputs of their own, so that one product cannot compute them all."""
        return self.spec is not None and self.spec.is_per_channel and len(self.slots) > 1

    def process_weights_after_loading(self, layer: LinearBase) -> None:
        """Pack the weight as vLLM does, unless rows of it are needed one layer at a time."""
        if self.bends_each:
            # A plain parameter: torch.compile does not trace the split of vLLM's class of parameters.
            layer.weight = nn.Parameter(layer.weight.data, requires_grad=False)
        else:
            super().process_weights_after_loading(layer)

    def apply(self, layer: LinearBase, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., I) to (..., O), this rank's part of both."""
        if self.input_slot is not None:
            x = layer.get_submodule(INPUT_CURVE)(x)
        if self.spec is None:
            return super().apply(layer, x, bias)
        if self.bends_each:
            return self._apply_each(layer, x, bias)
        if self.spec.is_per_channel:
            return super().apply(layer, apply_curve(self._view(layer, 0), x, x), bias)
        y = super().apply(layer, x, bias)
        if len(self.slots) == 1:
            return add_edges(self._view(layer, 0), x, y)
        parts = y.split(self.output_sizes, dim=-1)
        return torch.cat(
            [
                part if slot is None else add_edges(self._view(layer, number), x, part)
                for number, (slot, part) in enumerate(zip(self.slots, parts, strict=True))
            ],
            dim=-1,
        )

    def _apply_each(self, layer: LinearBase, x: Tensor, bias: Tensor | None) -> Tensor:
        weights = layer.weight.split(self.output_sizes)
        biases = [None] * len(weights) if bias is None else bias.split(self.output_sizes)
        outputs = []
        for number, slot in enumerate(self.slots):
            bent = x if slot is None else apply_curve(self._view(layer, number), x, x)
            outputs.append(F.linear(bent, weights[number], biases[number]))
        return torch.cat(outputs, dim=-1)

    def _view(self, layer: LinearBase, number: int) -> Curved:
        """The curves of one of the merged layers."""
        tensors = {name: layer._parameters.get(name) for name in CURVE_TENSORS}
        own: dict[str, Any] = {name: None if tensor is None else tensor[number] for name, tensor in tensors.items()}
        assert self.spec is not None
        return cast(Curved, CurveView(in_features=self.input_size, curves=self.spec, **own))
