"""A small configuration for any model type: the default one, rebuilt with every size cut by rules on field names.

Rebuilding through the constructor (and not setting attributes) lets a configuration derive its dependent fields again.
Sub-configurations are shrunk the same way, with one table of token ids for the whole tree, so that the image token of
a vision-language model and its text vocabulary stay in step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from transformers import PreTrainedConfig

from zoo import layers, rules
from zoo.classes import config_class
from zoo.overrides import CONFIG_FIELDS, UNCHANGED


def small_config(model_type: str) -> PreTrainedConfig:
    """The configuration of `model_type` at the sizes of `zoo.rules`."""
    return _shrink(config_class(model_type)(), rules.TokenIds())


def _shrink(config: PreTrainedConfig, token_ids: rules.TokenIds) -> PreTrainedConfig:
    if config.model_type in UNCHANGED:
        return config
    overrides = {**_backbone_stages(config), **CONFIG_FIELDS.get(config.model_type, {})}
    fields, defaults = _fields(config), _fields(type(config)())
    kept = layers.kept_layers(fields)
    ignored = getattr(type(config), "ignore_keys_at_rope_validation", None) or set()
    changed = {}
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            changed[name] = _shrink(value, token_ids)
        elif name not in overrides:
            smaller = layers.cut(name, value, kept)
            smaller = rules.shrink_field(name, smaller, fields, token_ids, ignored)
            # What the parent set in this part must be passed on too.
            if smaller != value or value != defaults.get(name):
                changed[name] = smaller
    changed.update(overrides)
    return _rebuild(type(config), changed)


def _fields(config: PreTrainedConfig) -> dict[str, object]:
    """Constructor arguments and their values. Not by getattr: some configurations refuse to tell a value that has
    become one per layer."""
    values, aliases = vars(config), type(config).attribute_map
    keys = {
        name: name if name in values else aliases.get(name)
        for name in inspect.signature(type(config).__init__).parameters
    }
    return {name: values[key] for name, key in keys.items() if key in values}


def _backbone_stages(config: PreTrainedConfig) -> dict:
    """A backbone keeps giving as many feature maps as before: a plain one needs that many layers."""
    outputs = getattr(config, "_out_indices", None)
    if not outputs:
        return {}
    extra = {"return_class_token": True} if getattr(config, "return_class_token", False) else {}
    if hasattr(config, "depths") or len(outputs) == 1:
        return {**extra, "out_indices": list(outputs)} if hasattr(config, "depths") else extra
    return {**extra, "num_hidden_layers": len(outputs), "out_indices": list(range(1, 1 + len(outputs)))}


def _rebuild(cls: Callable[..., PreTrainedConfig], changed: dict) -> PreTrainedConfig:
    try:
        return cls(**changed)
    except (TypeError, AttributeError, ValueError):
        # Older configurations take their parts as dictionaries only.
        as_dicts = {k: v.to_dict() if isinstance(v, PreTrainedConfig) else v for k, v in changed.items()}
        if as_dicts == changed:
            raise
        return cls(**as_dicts)
