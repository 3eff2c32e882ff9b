"""`save_pretrained` of models with curves: what it writes loads by plain `from_pretrained`, or nothing is written."""

import inspect
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.conversion.digest import weight_files, write_digest
from kansformer.conversion.record import (
    IN_PLACE,
    ConversionRecord,
    check_compiled_in_place,
    check_record,
    get_setting,
    placed_record,
    present_record,
    record_of_whole,
)
from kansformer.conversion.remote_code import auto_map_of, write_modeling_file
from kansformer.conversion.slots import check_equal_copies, check_places
from kansformer.conversion.transformers_patches import (
    PART_TRIPWIRE,
    attach_record,
    has_record,
    parts_of,
    remove_record,
)
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_write_text, updated_folder
from kansformer.nn.curve_checks import PART_RECORD, check_own_parameters
from kansformer.nn.curves import CURVE_PARAMETERS, INSTALLED, curved_modules
from kansformer.nn.optim import curve_parameters
from kansformer.nn.transaction import snapshot, transaction, undone_afterwards
from kansformer.safe_io import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PUSH_OPTIONS = ("repo_id", "commit_message", "commit_description", "create_pr", "private", "revision", "tags")


def save_with_curves(original: Callable, model: "PreTrainedModel", *args, **kwargs) -> None:
    """transformers' `PreTrainedModel.save_pretrained`, and whatever a model with curves needs beside it.

    A model inside a converted one is saved as if it alone had been converted; one of which a part was converted, as if
    it had been as a whole. `args` and `kwargs` are those of transformers' method.

    Raises:
        ConfigError: as `save_converted`.
        CheckpointError: as there; or curves stand where no record says.
    """
    own = vars(model).get(PART_RECORD) or placed_record(model)
    if own is None and get_setting(model, "_hf_peft_config_loaded"):  # adapters alone are saved
        original(model, *args, **kwargs)
        return
    if next(curved_modules(model), None) is None:
        with undone_afterwards() as undo:
            if has_record(model):  # made from the config of a converted model, or all its curves were taken out
                undo.callback(snapshot(model))
                remove_record(model)
            original(model, *args, **kwargs)
        return
    record = own or record_of_whole(model)
    if record is None:
        for path, module in curved_modules(model):
            if INSTALLED in vars(module):
                raise CheckpointError(
                    f"{path} has curves, and the config of {type(model).__name__} does not speak of them, so a "
                    "checkpoint could not be loaded: something beside the model was converted, such as a slice of its "
                    "layers. Convert the model itself, with KANConfig(layers=...)."
                )
        original(model, *args, **kwargs)
        return
    with undone_afterwards() as undo:
        if record is not placed_record(model):
            undo.callback(snapshot(model))
            vars(model).pop(PART_RECORD, None)
            for part in model.modules():
                remove_record(part)
            attach_record(model, record)
        given = inspect.signature(original).bind(model, *args, **kwargs).arguments
        _, *names = given
        further = given.get("kwargs", {})
        save_converted(original, model, **{name: given[name] for name in names if name != "kwargs"}, **further)


def save_converted(
    original: Callable,
    model: "PreTrainedModel",
    save_directory: str | Path,
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs,
) -> None:
    """`save_pretrained` of a converted model: `original` is transformers' own, and the modelling file for
    `trust_remote_code=True` comes to it.

    `kwargs` are the other arguments of transformers' method. A model that stands in the folder is replaced as a whole,
    by `updated_folder`; where each process writes a part of it (`distributed_checkpoint`), by transformers.

    Raises:
        ConfigError: `push_to_hub` together with `state_dict` or `variant`.
        CheckpointError: curves are not what the config says, or tensors have other names, so that the checkpoint could
            not be loaded; or copies of shared curves differ. Nothing is written.
    """
    if push_to_hub and state_dict is not None:
        raise ConfigError(
            "A converted model cannot take state_dict and push_to_hub in one call. Save it with state_dict first, "
            "then upload the folder with huggingface_hub.upload_folder."
        )
    if push_to_hub and kwargs.get("variant"):
        raise ConfigError(
            "A converted model cannot take variant and push_to_hub in one call. Save it with variant first, then "
            "upload the folder with huggingface_hub.upload_folder."
        )
    modules = (path for path, _ in model.named_modules())
    check_compiled_in_place(modules if state_dict is None else state_dict, CheckpointError)
    check_own_parameters(model, "The model cannot be saved", CheckpointError)
    record = update_record(model)
    if record is not None and record.is_fixed and any(p.requires_grad for _, p in curve_parameters(model)):
        # They may have been trained since, so they are no file's.
        record = replace(record, config=replace(record.config, curves=IN_PLACE))
        attach_record(model, record)
    push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
    with_adapters = get_setting(model, "_hf_peft_config_loaded")  # then only those are saved
    variant, is_distributed = kwargs.get("variant"), bool(kwargs.get("distributed_checkpoint"))
    is_weights = weight_files(variant).fullmatch
    target: AbstractContextManager[Path] = nullcontext(Path(save_directory))
    writes = is_main_process and _is_first_process()  # as transformers, which all processes of a split model call
    names = os.listdir(save_directory) if writes and Path(save_directory).is_dir() else []
    if not is_distributed and any(name == "config.json" or is_weights(name) for name in names):
        target = updated_folder(Path(save_directory), lambda name: not with_adapters and is_weights(name) is not None)
    if record is not None and not with_adapters and record.config.share == "model":
        check_equal_copies(model, record)
        # safetensors has no tensor twice
        state_dict = _with_own_curves(model, model.state_dict() if state_dict is None else state_dict)
    with transaction(model), target as folder:
        if entries := auto_map_of(model):
            model.config.auto_map = {**(get_setting(model.config, "auto_map") or {}), **entries}
        original(model, folder, is_main_process, state_dict, **kwargs)
        if writes and not with_adapters:
            write_modeling_file(model, folder)
            _mark_configs(model, folder / "config.json")
            files = [file for file in folder.glob("*.safetensors") if is_weights(file.name)]
            if files and not variant:  # variants share a config, and have curves of their own
                write_digest(folder / "config.json", files)
    if is_main_process and push_to_hub:  # not by transformers in the call above, which would leave the new file out
        push |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
        model.push_to_hub(push.pop("repo_id", Path(save_directory).name), **push)


def update_record(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model, without places that are gone, such as those in layers that were removed.

    Raises:
        CheckpointError: other curves are not where, or not what, the record says, so a checkpoint could not be loaded.
    """
    record = placed_record(model)
    if record is None:
        return None
    present = present_record(model, record)
    if present != record:
        attach_record(model, present)
    check_record(model)
    check_places(model, present)
    return present


def _mark_configs(model: "PreTrainedModel", file: Path) -> None:
    """Write a tripwire into the saved configs of those parts of a model that have curves."""
    paths = [path for path, _ in curved_modules(model)]
    kinds = {
        type(vars(module).get("config"))
        for place, module in model.named_modules()
        if any(path.startswith(f"{place}.") for path in paths)
    }
    settings = read_json(file)

    def mark(config: object, table: dict) -> None:
        for name, part in parts_of(config):
            if type(part) in kinds:
                table[name]["fusion_config"] = {**(table[name].get("fusion_config") or {}), PART_TRIPWIRE: False}
            mark(part, table[name])

    if any(True for _ in parts_of(model.config)):
        mark(model.config, settings)
        atomic_write_text(file, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _with_own_curves(model: "PreTrainedModel", state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which layers that share their curves have copies of them, also where accelerate keeps the values
    elsewhere."""
    from transformers.integrations.accelerate import load_offloaded_parameter

    copies = {
        name: (load_offloaded_parameter(model, name) if tensor.is_meta else tensor).clone()
        for name, tensor in state_dict.items()
        if name.rpartition(".")[2] in CURVE_PARAMETERS
    }
    return state_dict | copies


def _is_first_process() -> bool:
    """Whether this process writes what transformers gathers from all."""
    group = torch.distributed
    return not group.is_available() or not group.is_initialized() or group.get_rank() == 0
