"""Mark a model as converted, so that plain `save_pretrained` and `push_to_hub` write a checkpoint that loads again."""

import copy
import functools
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kansformer.conversion.record import ConversionRecord, base_prefix
from kansformer.conversion.remote_code import auto_map_of, is_ours, write_modeling_file
from kansformer.errors import CheckpointError, ConfigError
from kansformer.nn.curves import CurveSpec, curved_modules
from kansformer.nn.transaction import transaction

TRIPWIRE = (
    "kansformer (this checkpoint has KAN layers: pip install kansformer, then import kansformer before from_pretrained)"
)
"""Key of an entry in `config.fusion_config`. A transformers without kansformer refuses unknown fusions by name, and so
says this sentence instead of loading the feed-forward networks with random weights and a warning."""

TAG = "kansformer"
"""What transformers' own `push_to_hub` tags the repository with."""

PUSH_OPTIONS = ("repo_id", "commit_message", "create_pr", "private")


def attach_record(model: Any, record: ConversionRecord) -> None:
    """Write the record and the tripwire into the model's config, and complete its `save_pretrained`.

    A model gets a config of its own, since others may be made from the same object. A base model keeps it: it may stand
    inside a model with a head, which saves the same curves.
    """
    config = config_of(model)
    if config is None:
        object.__setattr__(model, "conversion_record", record)
        return
    if getattr(config, "quantization_config", None) is not record and not is_base_model(model):
        config = give_own_config(model)
    config.quantization_config = record
    config.fusion_config = {**(getattr(config, "fusion_config", None) or {}), TRIPWIRE: False}
    if hasattr(type(model), "save_pretrained"):
        # Not by add_model_tags, which would append to the list that some classes share among their models.
        model.model_tags = [*dict.fromkeys((*(getattr(model, "model_tags", None) or ()), TAG))]
        remove_auto_map(config)  # of a loaded checkpoint; it goes with the modelling file, when both are written
        # On this one model, not on its class. A deep copy of the model gets a partial of its own. The price is a
        # reference cycle: the memory of a deleted model comes back with the next gc.collect().
        model.save_pretrained = functools.partial(save_converted, model)


def detach_record(model: Any) -> None:
    """Take away all that `attach_record` wrote."""
    config = config_of(model)
    if config is None:
        del model.conversion_record
        return
    del config.quantization_config
    remove_tripwire(config)
    remove_auto_map(config)
    vars(model).pop("save_pretrained", None)
    tags = [tag for tag in vars(model).pop("model_tags", ()) if tag != TAG]
    if tags and tags != getattr(type(model), "model_tags", None):
        model.model_tags = tags


def give_own_config(model: nn.Module) -> object:
    """Replace the model's config by a copy, in all its modules: other models may be made from the same object."""
    copies: dict = {}
    config = copy.deepcopy(model.config, copies)
    for module in model.modules():
        old = vars(module).get("config")
        if id(old) in copies:
            module.config = copies[id(old)]
    return config


def remove_tripwire(config: object) -> None:
    """Take the tripwire out of a transformers config; other fusions stay."""
    fusions = {k: v for k, v in (getattr(config, "fusion_config", None) or {}).items() if k != TRIPWIRE}
    _set_or_delete(config, "fusion_config", fusions)


def remove_auto_map(config: object) -> None:
    """Take the entries for our modelling file out of a transformers config; other custom code stays."""
    entries = {k: v for k, v in (getattr(config, "auto_map", None) or {}).items() if not is_ours(v)}
    _set_or_delete(config, "auto_map", entries)


def record_of(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model, None of any other, such as a plain one made with a converted one's config."""
    if next(curved_modules(model), None) is None:
        return None
    config = config_of(model)
    holder, name = (model, "conversion_record") if config is None else (config, "quantization_config")
    record = getattr(holder, name, None)
    return record if isinstance(record, ConversionRecord) else None


def narrowed_paths(model: nn.Module) -> list[str]:
    """Paths, from the model's root, of the feed-forward networks that are narrower than the model's config says."""
    record = record_of(model)
    return [base_prefix(model) + path for path in record.widths] if record is not None else []


def save_converted(
    model: Any,
    save_directory: str | Path,
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs,
) -> None:
    """`save_pretrained` of a converted model: transformers' own, and the modelling file for `trust_remote_code=True`.

    Args:
        save_directory, is_main_process, state_dict, push_to_hub, kwargs: as in transformers.

    Raises:
        ConfigError: `state_dict` and `push_to_hub` together.
        CheckpointError: curves are not what the config says, so the checkpoint could not be loaded. Nothing is written.
    """
    if push_to_hub and state_dict is not None:
        raise ConfigError(
            "A converted model cannot take state_dict and push_to_hub in one call. Save it with state_dict first, "
            "then upload the folder with huggingface_hub.upload_folder."
        )
    check_record(model)
    push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
    config = model.config
    with transaction(model):
        if entries := auto_map_of(model):
            config.auto_map = {**(getattr(config, "auto_map", None) or {}), **entries}
        type(model).save_pretrained(model, save_directory, is_main_process, state_dict, **kwargs)
        with_adapters = getattr(model, "_hf_peft_config_loaded", False)  # then only those are saved
        if is_main_process and not with_adapters:
            write_modeling_file(model, save_directory)
    if is_main_process and push_to_hub:  # not by transformers in the call above, which would leave the new file out
        push |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
        model.push_to_hub(push.pop("repo_id", Path(save_directory).name), **push)


def check_record(model: nn.Module) -> None:
    """See that the model's curves are those that its config describes.

    Raises:
        CheckpointError: some are not, for instance because the grid of a part of the model was refined.
    """
    record = record_of(model)
    if record is None:
        return
    specs = [record.config.curve_spec(slot) for slot in record.config.slots]
    kinds = list(dict.fromkeys(_kind(spec) for spec in specs))
    for path, module in curved_modules(model):
        if _kind(module.curves) not in kinds:
            raise CheckpointError(
                f"{path} has {_kind(module.curves)}, but the config says {' and '.join(kinds)}, and a checkpoint is "
                "what its config says. Change the whole model, for instance by refine_grid(model, grid_size)."
            )


def _kind(spec: CurveSpec) -> str:
    rank = f" of rank {spec.rank}" if spec.edges == "low_rank" else ""
    return f"{spec.edges} curves{rank} with {spec.basis}"


def config_of(model: nn.Module) -> Any:
    """A model's transformers config; None for a model without one, whatever else it calls its config."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "to_dict") else None


def is_base_model(model: nn.Module) -> bool:
    """Whether this is a transformers model without a head."""
    prefix = getattr(model, "base_model_prefix", "")
    return bool(prefix) and not isinstance(getattr(model, prefix, None), nn.Module)


def _set_or_delete(config: object, name: str, values: dict) -> None:
    if values:
        setattr(config, name, values)
    elif hasattr(config, name):
        delattr(config, name)
