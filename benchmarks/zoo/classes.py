"""Which configuration and which model class stand for a model type."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from zoo.overrides import MODEL_CLASSES

# Where a type has no base model: the most natural head first.
HEADS = (
    "Model",
    "Backbone",
    "ForConditionalGeneration",
    "ForCausalLM",
    "Encoder",
    "Decoder",
    "ForMaskedLM",
    "ForObjectDetection",
    "ForImageClassification",
)


class NoModelClassError(LookupError):
    """No model class of transformers is built from this configuration."""


def model_types() -> list[str]:
    """Every model type of the installed transformers, in its own order."""
    return list(CONFIG_MAPPING_NAMES)


def config_class(model_type: str) -> type[PreTrainedConfig]:
    return CONFIG_MAPPING[model_type]


def model_class(model_type: str) -> type[PreTrainedModel]:
    """The base model of a type, or where there is none, the most natural class that takes its configuration."""
    config = config_class(model_type)
    name = MODEL_CLASSES.get(model_type) or modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    if name is not None:
        name = name if isinstance(name, str) else name[0]
        if hasattr(transformers, name):
            return getattr(transformers, name)
    package = importlib.import_module(config.__module__.rpartition(".")[0])
    candidates = _classes_taking(config, package)
    if not candidates:
        raise NoModelClassError(f"no model class of transformers with a forward takes {config.__name__}")
    return min(candidates, key=_head_rank)


def modality(cls: type[PreTrainedModel]) -> str:
    """`text`, `image`, `audio`, … or several joined by +, as the class itself declares."""
    declared = getattr(cls, "input_modalities", None) or "text"
    return declared if isinstance(declared, str) else "+".join(sorted(declared))


def _classes_taking(config: type[PreTrainedConfig], package: types.ModuleType) -> list[type[PreTrainedModel]]:
    members = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("modeling_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, member in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(member, PreTrainedModel)
                and getattr(member, "config_class", None) is config
                and not name.endswith("PreTrainedModel")
                and member.forward is not PreTrainedModel.forward
            ):
                members[name] = member
    return list(members.values())


def _head_rank(cls: type) -> tuple[int, int]:
    ranks = [rank for rank, suffix in enumerate(HEADS) if cls.__name__.endswith(suffix)]
    return min(ranks, default=len(HEADS)), len(cls.__name__)
