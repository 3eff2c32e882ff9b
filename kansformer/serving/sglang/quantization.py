"""SGLang's idea of a converted checkpoint: a quantisation that quantises nothing, and gives layers their curves."""

from typing import Any

import torch
from sglang.srt.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from torch import nn

from kansformer.config import QUANT_METHOD
from kansformer.conversion.record import ConversionRecord
from kansformer.errors import CheckpointError
from kansformer.serving.checkpoint import ServedCurves
from kansformer.sites.site import INPUT_CURVE, Slot, join_path

ADDED_BY_SGLANG = ("packed_modules_mapping", "hf_config")
"""What SGLang puts among a checkpoint's settings before it hands them over."""


class CurveConfig(QuantizationConfig):
    """The curves of one model in this process.

    Args:
        record: the checkpoint's settings.

    Attributes:
        has_model: whether a model class with curves is being made; SGLang's other classes would leave curves out.

    Raises:
        CheckpointError: as `ServedCurves`.
    """

    def __init__(self, record: ConversionRecord) -> None:
        super().__init__()
        self.curves = ServedCurves(record)
        self.has_model = False

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

    def get_scaled_act_names(self) -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CurveConfig":
        """From the checkpoint's `quantization_config`.

        Raises:
            CheckpointError: the format is newer than this package, or an entry is impossible.
        """
        settings = {name: value for name, value in config.items() if name not in ADDED_BY_SGLANG}
        return cls(ConversionRecord.from_dict(settings))

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """What computes a layer, by its path in the model; None means as SGLang does.

        Raises:
            CheckpointError: the layer belongs to a class that knows no curves, or has experts with curves.
        """
        # Not at the top of the file: SGLang's plug-ins are loaded before its layers.
        from sglang.srt.layers.linear import LinearBase
        from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
        from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

        from kansformer.serving.sglang.linear import CurvedLinearMethod

        if not self.has_model:
            raise CheckpointError(
                "SGLang serves this converted checkpoint by a model class that would leave its curves out. Its log "
                "says why the plug-in was not applied; kansformer knows SGLang 0.5.23."
            )
        if isinstance(layer, FusedMoE) and (slot := self._slot_inside(prefix)) is not None:
            raise CheckpointError(
                f"The checkpoint has curves at {slot.path}, inside a mixture of experts, which SGLang cannot serve. "
                "Serve it with vLLM."
            )
        if not isinstance(layer, LinearBase):
            return None
        slot = self.curves.slot_at(prefix)
        input_slot = self.curves.slot_at(join_path(prefix, INPUT_CURVE))
        if slot is None and input_slot is None:
            return UnquantizedLinearMethod()
        return CurvedLinearMethod(self.curves, slot, input_slot)

    def _slot_inside(self, path: str) -> Slot | None:
        """A slot of a module at a path, which may have the base model's name in front."""
        owners = tuple(f"{owner}." for owner in (path, path.partition(".")[2]) if owner)
        return next((slot for slot in self.curves.record.slots if slot.path.startswith(owners)), None)
