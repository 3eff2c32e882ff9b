"""vLLM's idea of a converted checkpoint: a quantisation that quantises nothing, and gives layers their curves."""

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase

from kansformer.config import QUANT_METHOD
from kansformer.conversion.record import ConversionRecord
from kansformer.serving.checkpoint import ServedCurves
from kansformer.sites.site import INPUT_CURVE, Slot, join_path, parent_of


class CurveConfig(QuantizationConfig):
    """The curves of one model in this process.

    Args:
        record: the checkpoint's settings.

    Raises:
        CheckpointError: as `ServedCurves`.
    """

    def __init__(self, record: ConversionRecord) -> None:
        super().__init__()
        self.curves = ServedCurves(record)

    def get_name(self) -> str:
        return QUANT_METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CurveConfig":
        """From the checkpoint's `quantization_config`.

        Raises:
            CheckpointError: the format is newer than this package, or an entry is impossible.
        """
        return cls(ConversionRecord.from_dict(config))

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """What computes a layer, by its path in the model; None means as vLLM does."""
        # Not at the top of the file, which is imported in all processes, also for plain models.
        from vllm.model_executor.layers.fused_moe import RoutedExperts
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        from kansformer.serving.vllm.experts import CurvedExpertsMethod
        from kansformer.serving.vllm.linear import CurvedLinearMethod

        if isinstance(layer, RoutedExperts):
            slot = self._experts_slot(prefix)
            return None if slot is None else CurvedExpertsMethod(layer.moe_config, self.curves, slot)
        if not isinstance(layer, LinearBase):
            return None
        owner, name = parent_of(prefix)
        parts = [join_path(owner, part) for part in self.packed_modules_mapping.get(name, [name])]
        slots = [self.curves.slot_at(path) for path in parts]
        input_slot = self.curves.slot_at(join_path(parts[0], INPUT_CURVE))
        if input_slot is None and not any(slots):
            return UnquantizedLinearMethod()
        return CurvedLinearMethod(self.curves, slots, input_slot)

    def _experts_slot(self, prefix: str) -> Slot | None:
        """The slot of the activation of the experts at a path."""
        owners = (prefix, prefix.partition(".")[2])
        return next((s for s in self.curves.record.slots if s.name == "act" and parent_of(s.path)[0] in owners), None)
