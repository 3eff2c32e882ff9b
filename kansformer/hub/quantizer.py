"""The object that transformers calls while it loads a model. It quantises nothing; it takes part in the loading.

The signatures with `kwargs` are those of transformers' `QuantizationConfigMixin` and `HfQuantizer`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from kansformer.config import QUANT_METHOD, KANConfig
from kansformer.conversion import ConversionRecord, convert
from kansformer.conversion.digest import weight_files
from kansformer.conversion.found_curves import digest_in, find_curves
from kansformer.conversion.rebuild import from_part, rebuild
from kansformer.conversion.record import quantization_method, record_of
from kansformer.conversion.slots import tie_and_freeze
from kansformer.conversion.transformers_patches import (
    can_change_parallel_plans,
    change_parallel_plans,
    check_action_ran,
    register_quantizer,
    remove_quantizer,
    remove_tripwire,
    run_after_loading,
)
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.hub.loading_checks import (
    Shapes,
    check_config,
    check_curves,
    check_size,
    report_other_shapes,
    shapes_of,
)
from kansformer.hub.tensor_parallel import check_not_split, is_one_of_several, split_networks
from kansformer.safe_io import count_numbers
from kansformer.sites import find_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.loading_report import LoadStateDictInfo


class RecordReader(QuantizationConfigMixin):
    """What transformers asks to read a config's `quantization_config`; it makes a `ConversionRecord`, never itself."""

    @classmethod
    def from_dict(cls, config_dict: dict, return_unused_kwargs: bool = False, **kwargs) -> ConversionRecord:  # type: ignore[override]
        """The checked record.

        Raises:
            CheckpointError: the format is newer than this package, or an entry is impossible.
        """
        return ConversionRecord.from_dict(config_dict)


class CurveLoader(HfQuantizer):
    """Rebuilds a converted model before its weights are loaded, or converts a plain one after its weights were.

    The result is an ordinary float model: nothing of the quantizer stays on it.

    Args:
        quantization_config: the record of a converted checkpoint, or the `KANConfig` passed to `from_pretrained`.
        pre_quantized: whether the checkpoint is converted.

    Raises:
        ConfigError: a plain checkpoint, and what was passed is not a `KANConfig`.
    """

    requires_calibration = False

    quantization_config: Any

    def __init__(self, quantization_config: Any, **kwargs) -> None:
        super().__init__(quantization_config, **kwargs)
        self._files: list[str] = []
        if not self.pre_quantized and not isinstance(quantization_config, KANConfig):
            raise ConfigError(
                f"To convert a model while loading pass quantization_config=KANConfig(...), got "
                f"{type(quantization_config).__name__}."
            )

    def update_attn_implementation(self, config):
        """Remove the tripwire, since kansformer is here. Called before fusions are looked up; so is the next."""
        check_config(config)
        remove_tripwire(config)
        return config

    update_tp_plan = update_attn_implementation  # the only one that transformers 5.17 calls

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", checkpoint_files: Sequence[str] | None = None, **kwargs
    ) -> "PreTrainedModel":
        if self.pre_quantized:
            files = [str(file) for file in checkpoint_files or ()]
            readable = bool(files) and all(file.endswith(".safetensors") for file in files)
            tensors, numbers = count_numbers(files) if readable else (None, None)
            check_size(model, tensors, numbers)
            if is_one_of_several():
                sites = find_sites(model)
                change_parallel_plans(model, lambda plan, mesh: split_networks(model, sites, plan, mesh))
            self.quantization_config = from_part(model, self.quantization_config)
            rebuild(model, self.quantization_config, max_numbers=numbers)
            self._files = files if readable else []
        shapes = shapes_of(model)
        run_after_loading(model, lambda loading_info: self._finish(model, shapes, loading_info))
        return model

    def _finish(self, model: "PreTrainedModel", shapes: Shapes, loading_info: "LoadStateDictInfo") -> None:
        check_not_split(model, has_curves=self.pre_quantized and can_change_parallel_plans(model))
        if self.pre_quantized:
            check_curves(model, shapes, loading_info)
            if digest := self.quantization_config.digest:
                # Of variants, which share the config and have curves of their own, the settings alone.
                is_variant = any(not weight_files(None).fullmatch(Path(file).name) for file in self._files)
                digest.check([] if is_variant else self._files)
            self._tie(model)
        report_other_shapes(model, shapes, loading_info)
        if self.pre_quantized:
            return
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ConversionStateError(
                "A model whose weights stay on disk cannot be converted while loading. Convert it in memory, save it, "
                "and load the converted checkpoint with device_map and offload_folder."
            )
        del model.config.quantization_config
        convert(model, self.quantization_config)
        self.quantization_config = record_of(model)

    def _tie(self, model: "PreTrainedModel") -> None:
        try:
            tie_and_freeze(model, self.quantization_config)
        except ConfigError as error:  # which matters to training only
            warnings.warn(
                f"Every layer has a copy of the curves that it shares, so do not train them: {error}", stacklevel=2
            )

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **kwargs) -> "PreTrainedModel":
        check_action_ran(model)
        remove_quantizer(model)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def merge_quantization_configs(original_merge: Callable, saved: Any, passed: Any = None) -> Any:
    """transformers' merge of two configs, which compares class names only, with answers where one of both is ours.

    Raises:
        ConversionStateError: they contradict each other; the message says how to combine them.
    """
    methods = quantization_method(saved), quantization_method(passed)
    if passed is None or QUANT_METHOD not in methods:
        return original_merge(saved, passed)
    if methods[1] != QUANT_METHOD:
        raise ConversionStateError(
            f"The checkpoint has KAN curves, and quantization_config={type(passed).__name__} would quantise it while "
            "loading, which is one at a time. Load it without quantization_config and quantise the loaded model in "
            "place, for instance with torchao's quantize_; or revert(model), save the plain model and quantise that."
        )
    if methods[0] != QUANT_METHOD:
        raise ConversionStateError(
            f"The checkpoint is quantised with {methods[0]!r}, so quantization_config=KANConfig(...) cannot convert "
            "it. Load it dequantised, convert(model, config), save it, and quantise the result."
        )
    record = original_merge(saved, None)
    if passed.curves not in (None, record.config.curves):  # their file says what they are
        passed = find_curves(passed.curves).config_for(passed)
        if digest_in(passed.curves) == digest_in(record.config.curves):  # the same ones, in a file of another name
            passed = replace(passed, curves=record.config.curves)
    for field in fields(passed):
        saved_value, asked = getattr(record.config, field.name), getattr(passed, field.name)
        if saved_value != asked:
            raise ConversionStateError(
                f"The checkpoint is converted already, with {field.name}={saved_value!r}, and quantization_config "
                f"asks for {field.name}={asked!r}. Load it without quantization_config; for other curves "
                "revert(model) and convert(model, config)."
            )
    return record


# At the end of this module's import, which may be what imports transformers' quantizers; see `autoload`.
register_quantizer(RecordReader, CurveLoader, merge_quantization_configs)
