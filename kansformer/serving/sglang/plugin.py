"""What SGLang calls, by the entry point `sglang.srt.plugins`, in each of its processes before any model is made."""

from collections.abc import Callable
from typing import Any

from sglang.srt.layers.quantization import CPU_QUANTIZATION_METHODS, QUANTIZATION_METHODS
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from torch import nn

from kansformer.config import QUANT_METHOD
from kansformer.conversion.record import quantization_method
from kansformer.errors import ConfigError
from kansformer.serving.sglang.quantization import CurveConfig

TARGET = "sglang.srt.model_loader.utils.get_model_architecture"
"""SGLang's function from a model's config to its class, which every loader calls."""

Choice = tuple[type[nn.Module], str]


def register() -> None:
    """Make SGLang recognise converted checkpoints; plain models are served as before.

    Where SGLang cannot apply the hook, it logs that and goes on; `CurveConfig` refuses the checkpoint then.
    """
    QUANTIZATION_METHODS[QUANT_METHOD] = CurveConfig
    CPU_QUANTIZATION_METHODS[QUANT_METHOD] = CurveConfig
    HookRegistry.register(TARGET, choose_class, HookType.AROUND)


def choose_class(original: Callable[[Any], Choice], model_config: Any) -> Choice:
    """`get_model_architecture`, which gives converted checkpoints a class of the Transformers backend with curves.

    Args:
        original: SGLang's function.
        model_config: SGLang's config of a model; of a converted one, its `model_impl` becomes "transformers".

    Returns:
        Class and name of the architecture.

    Raises:
        ConfigError: another `model_impl` was asked for.
    """
    settings = getattr(model_config.hf_config, "quantization_config", None)
    if quantization_method(settings) != QUANT_METHOD:
        return original(model_config)
    from kansformer.serving.sglang.general import with_curves  # the backend is heavy, and plain models need none of it

    if model_config.model_impl not in ("auto", "transformers"):
        raise ConfigError(
            f"SGLang's model_impl {str(getattr(model_config.model_impl, 'value', model_config.model_impl))!r} cannot "
            "serve a converted checkpoint with its curves; choices: auto, transformers."
        )
    model_config.model_impl = type(model_config.model_impl)("transformers")
    model_class, architecture = original(model_config)
    return with_curves(model_class), architecture  # type: ignore[arg-type]  # mypy takes classes for unhashable
