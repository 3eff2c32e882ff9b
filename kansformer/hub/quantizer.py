"""The hook that transformers calls while it loads a model. It quantises nothing; it joins in the loading."""

from collections.abc import Sequence
from typing import Any

from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from kansformer.config import QUANT_METHOD, KANConfig
from kansformer.conversion import ConversionRecord, convert
from kansformer.conversion.checkpoint import record_of, remove_tripwire
from kansformer.conversion.convert import rebuild
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.hub import quantization_conflicts
from kansformer.hub.shapes import Shapes, report_other_shapes, shapes_of
from kansformer.hub.weights import (
    refuse_impossible_config,
    refuse_oversized,
    refuse_skipped_action,
    refuse_wrong_curves,
    run_after_loading,
)
from kansformer.safe_io import count_numbers


class RecordReader(QuantizationConfigMixin):
    """What transformers asks to read a config's `quantization_config`; it makes a `ConversionRecord`, never itself."""

    @classmethod
    def from_dict(cls, config_dict: dict, return_unused_kwargs: bool = False, **kwargs) -> Any:
        """The checked record.

        Raises:
            CheckpointError: the format is newer than this package, or an entry is impossible.
        """
        return ConversionRecord.from_dict(config_dict)


class CurveLoader(HfQuantizer):
    """Rebuilds a converted model before its weights are loaded, or converts a plain one after its weights were.

    What comes out is an ordinary float model: nothing of the quantizer stays on it.

    Args:
        quantization_config: the record of a converted checkpoint, or the `KANConfig` passed to `from_pretrained`.
        pre_quantized: whether the checkpoint is converted.

    Raises:
        ConfigError: a plain checkpoint, and what was passed is no `KANConfig`.
    """

    requires_calibration = False

    quantization_config: Any

    def __init__(self, quantization_config: Any, **kwargs) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized and not isinstance(quantization_config, KANConfig):
            raise ConfigError(
                f"To convert a model while loading pass quantization_config=KANConfig(...), got "
                f"{type(quantization_config).__name__}."
            )

    def update_attn_implementation(self, config):
        """Takes the tripwire away, since kansformer is here. Called before fusions are looked up; so is the next."""
        refuse_impossible_config(config)
        remove_tripwire(config)
        return config

    update_tp_plan = update_attn_implementation  # transformers 5.17 has this place only

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **kwargs
    ) -> Any:
        if self.pre_quantized:
            files = [str(file) for file in checkpoint_files or ()]
            readable = bool(files) and all(file.endswith(".safetensors") for file in files)
            tensors, numbers = count_numbers(files) if readable else (None, None)
            refuse_oversized(model, tensors, numbers)
            rebuild(model, self.quantization_config, most=numbers)
        shapes = shapes_of(model)
        run_after_loading(model, lambda loading_info: self._finish(model, shapes, loading_info))
        return model

    def _finish(self, model: Any, shapes: Shapes, loading_info: Any) -> None:
        if self.pre_quantized:
            refuse_wrong_curves(model, loading_info)
        report_other_shapes(model, shapes, loading_info)
        if not self.pre_quantized:
            self._convert(model)

    def _convert(self, model: Any) -> None:
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ConversionStateError(
                "A model whose weights stay on disk cannot be converted while loading. Convert it in memory, save it, "
                "and load the converted checkpoint with device_map and offload_folder."
            )
        del model.config.quantization_config
        convert(model, self.quantization_config)
        self.quantization_config = record_of(model)

    def _process_model_after_weight_loading(self, model: Any, **kwargs) -> Any:
        refuse_skipped_action(model)
        for name in ("hf_quantizer", "is_quantized", "quantization_method"):
            vars(model).pop(name, None)
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None and hasattr(config, "_is_quantized"):
                del config._is_quantized
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def register() -> None:
    """Enter both classes into transformers' tables, in the place of those of an earlier import of this package."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.pop(QUANT_METHOD, None)
    AUTO_QUANTIZER_MAPPING.pop(QUANT_METHOD, None)
    register_quantization_config(QUANT_METHOD)(RecordReader)
    register_quantizer(QUANT_METHOD)(CurveLoader)
    quantization_conflicts.install()
