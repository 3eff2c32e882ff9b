"""Models that are made from the config of a converted model: `AutoModelForCausalLM.from_config(config)`."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from kansformer.config import QUANT_METHOD
from kansformer.conversion.rebuild import rebuild
from kansformer.conversion.record import ConversionRecord, get_setting, quantization_method
from kansformer.conversion.remote_code import MODULE_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def from_config_with_curves(
    original: Callable, model_class: "type[PreTrainedModel]", config: "PreTrainedConfig", **kwargs
) -> "PreTrainedModel":
    """transformers' `PreTrainedModel._from_config`, followed by the curves that the config asks for.

    They are as `convert` makes them: straight, on the domain of the config's `KANConfig`. A model with such a config
    gets one of its own.

    Raises:
        CheckpointError: the settings are newer than this package, have an impossible value, or do not fit the model.
    """
    settings = get_setting(config, "quantization_config")
    if quantization_method(settings) != QUANT_METHOD:
        return original(model_class, config, **kwargs)
    record = settings if isinstance(settings, ConversionRecord) else ConversionRecord.from_dict(settings)
    if model_class.__module__.rpartition(".")[2] == MODULE_NAME:  # the checkpoint's own code, of trust_remote_code
        model_class = model_class.__bases__[0]
    model = original(model_class, copy.deepcopy(config), **kwargs)
    rebuild(model, record)
    return model
