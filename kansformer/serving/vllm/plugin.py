"""What vLLM calls, by the entry point `vllm.general_plugins`, in each of its processes before any model is made."""

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.config import ModelConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.transformers_utils.repo_utils import try_get_local_file

from kansformer.config import QUANT_METHOD
from kansformer.conversion.record import ConversionRecord, quantization_method
from kansformer.serving.vllm.quantization import CurveConfig
from kansformer.serving.vllm.selection import check_adapters, has_curved_experts, select_classes

logger = logging.getLogger(__name__)


def register() -> None:
    """Make vLLM recognise converted checkpoints; plain models are served as before. May be called several times.

    vLLM asks a quantisation about the layers of a model, and nobody about its class, so that
    `EngineArgs.create_model_config` is wrapped.
    """
    register_quantization_config(QUANT_METHOD)(CurveConfig)
    original = EngineArgs.create_model_config
    if not hasattr(original, "__wrapped__"):
        EngineArgs.create_model_config = select_model_class(original)


def select_model_class(original: Callable[[EngineArgs], ModelConfig]) -> Callable[[EngineArgs], ModelConfig]:
    """`EngineArgs.create_model_config`, which gives converted checkpoints a model class with curves.

    Raises:
        CheckpointError: the settings are newer than this package, or were changed, or do not go with LoRA adapters.
        ConfigError: `model_impl` is "vllm", and none of vLLM's own classes can serve the checkpoint.
    """

    @functools.wraps(original)
    def create_model_config(args: EngineArgs) -> ModelConfig:
        config = read_local_config(args)
        if config is None:  # not downloaded yet
            config = original(args).hf_config.to_dict()
        settings = config.get("quantization_config")
        if not isinstance(settings, dict) or quantization_method(settings) != QUANT_METHOD:
            return original(args)
        record = ConversionRecord.from_dict(settings)
        CurveConfig(record)  # refuses changed settings here, before other processes are started
        if args.enable_lora:
            check_adapters(record)
        selection = select_classes(record, config.get("architectures") or [], args.model_impl)
        if has_curved_experts(record) and not args.enforce_eager:
            logger.warning("Experts with curves run without CUDA graphs, as with --enforce-eager.")
            args.enforce_eager = True
        args.model_impl = selection.model_impl
        args.model_class_overrides = selection.classes | args.model_class_overrides
        return original(args)

    return create_model_config


def read_local_config(args: EngineArgs) -> dict[str, Any] | None:
    """The model's `config.json`, if it is on this machine. vLLM's own config inspects the model's class, which takes
    seconds, and here that class is not known yet."""
    file = try_get_local_file(args.hf_config_path or args.model, "config.json", args.revision)
    config = json.loads(file.read_text(encoding="utf-8")) if isinstance(file, Path) else None
    return config if isinstance(config, dict) else None
