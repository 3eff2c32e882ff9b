"""Models that are made from the config of a converted model: `AutoModelForCausalLM.from_config(config)`."""

import copy
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

from kansformer.config import QUANT_METHOD
from kansformer.conversion.rebuild import rebuild
from kansformer.conversion.record import ConversionRecord, get_setting, quantization_method
from kansformer.conversion.remote_code import MODULE_NAME
from kansformer.conversion.transformers_patches import has_tripwire
from kansformer.errors import ConversionStateError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_BUILDING = ContextVar("building", default=False)
"""Whether a model is being made from a config: models in it, as below the head of a classifier, get curves with it.

While a checkpoint is loaded, models are made on the meta device, and the loader has taken the tripwire out of configs.
"""


def from_config_with_curves(
    original: Callable, model_class: "type[PreTrainedModel]", config: "PreTrainedConfig", **kwargs
) -> "PreTrainedModel":
    """transformers' `PreTrainedModel._from_config`, followed by the curves that the config asks for.

    `kwargs` are those of transformers' function. The curves are as `convert` makes them: straight, on the domain of the
    config's `KANConfig`. A model with such a config gets one of its own.

    Raises:
        ConversionStateError: the curves were found before; a config does not have their values.
        CheckpointError: the settings are newer than this package, have an impossible value, or do not fit the model.
    """
    settings = get_setting(config, "quantization_config")
    is_part = _BUILDING.get() or (torch.get_default_device().type == "meta" and not has_tripwire(config))
    if quantization_method(settings) != QUANT_METHOD or is_part:  # of a model that gets its curves as a whole
        return original(model_class, config, **kwargs)
    record = settings if isinstance(settings, ConversionRecord) else ConversionRecord.from_dict(settings)
    if record.config.curves is not None:
        raise ConversionStateError(
            f"The config says that the curves were found before ({str(record.config.curves)!r:.100}), and it does not "
            "have their values. Load the checkpoint with from_pretrained; or make a plain model, without "
            "quantization_config in its config, and convert it with KANConfig(curves=FILE)."
        )
    if model_class.__module__.rpartition(".")[2] == MODULE_NAME:  # the checkpoint's own code, of trust_remote_code
        model_class = model_class.__bases__[0]
    token = _BUILDING.set(True)
    try:
        model = original(model_class, copy.deepcopy(config), **kwargs)
    finally:
        _BUILDING.reset(token)
    rebuild(model, record)
    return model
