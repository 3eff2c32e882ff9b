"""Everything that kansformer changes in transformers, at import and at run time. Nothing else of it is touched.

| what | why | when it can go |
|---|---|---|
| a finder in `sys.meta_path` until `transformers.quantizers.auto` is imported (`register_when_ready`) | importing that module costs a second, which `import kansformer` must not | transformers reads entry points of packages that load models |
| entries of two tables there (`register_quantizer`) | the quantizer is the only object that `from_pretrained` calls between making a model and loading its weights | transformers lets a package change a model's modules while it loads |
| `AutoHfQuantizer.merge_quantization_configs` (`register_quantizer`) | it compares class names only, so a second `quantization_config` gives an error that does not say what to do | it asks the configs themselves |
| `_adjust_missing_and_unexpected_keys` of one model while it loads (`run_after_loading`) | a quantizer is asked only when the lists of missing keys are gone and accelerate's hooks are on the modules | a quantizer gets `loading_info` |
| `PreTrainedModel._from_config` (`patch_from_config`) | `from_config` asks no quantizer: the config of a converted model would give a plain one, which saves what cannot be loaded | `from_config` calls quantizers too |
| `_resolve_parallel_plans` of one model while it loads (`change_parallel_plans`) | weights are split by fixed rules, which curves would not follow | a quantizer is asked for the rules of an instance |
| the quantizer's traces on a loaded model (`remove_quantizer`) | with them Trainer and `.half()` refuse, and `save_pretrained` drops a given state dict | the loader is not a quantizer |
| `config.fusion_config` (`attach_record`) | without kansformer, transformers would load random feed-forward networks with a warning only | transformers refuses unknown values of `quant_method` |
| `save_pretrained`, `model_tags` and `config` of one converted model, and `save_pretrained` of those inside it (`attach_record`) | the modelling file for `trust_remote_code=True`; the tag on the Hub; a config that no other model shares | transformers writes `auto_map` for modules of other packages |
"""  # noqa: E501

import copy
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.config import QUANT_METHOD
from kansformer.conversion.digest import weight_files, write_digest
from kansformer.conversion.record import (
    CURVE_SETS,
    ConversionRecord,
    base_prefix,
    check_record,
    config_of,
    get_setting,
    present_record,
    record_of,
    record_of_part,
)
from kansformer.conversion.remote_code import auto_map_of, is_ours, write_modeling_file
from kansformer.conversion.slots import check_equal_copies, check_places
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import atomic_write_text, updated_folder
from kansformer.import_hooks import after_import
from kansformer.nn.curves import CURVE_PARAMETERS, curved_modules
from kansformer.nn.transaction import snapshot, transaction, undone_afterwards
from kansformer.safe_io import read_json

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.utils.loading_report import LoadStateDictInfo

TRIPWIRE = (
    "kansformer (this checkpoint has KAN layers: pip install kansformer, then import kansformer before from_pretrained)"
)
"""Key of an entry in `config.fusion_config`. A transformers without kansformer refuses unknown fusions by name, and so
says this sentence instead of loading the feed-forward networks with random weights and a warning."""

PART_TRIPWIRE = "kansformer (the curves are those of the whole model: load that, and take this part of it)"
"""The same in the configs of parts, such as a text model, which transformers loads from a checkpoint of the whole."""

TAG = "kansformer"
"""What transformers' own `push_to_hub` tags the repository with."""

PUSH_OPTIONS = ("repo_id", "commit_message", "commit_description", "create_pr", "private", "revision", "tags")

LOADING_STEP = "_adjust_missing_and_unexpected_keys"
"""Last step of transformers' loading before the report and the dispatch; it gets the lists of wrong keys."""

PLANS_STEP = "_resolve_parallel_plans"
"""Says by which rules the weights of a model are split among processes, before any is loaded."""

QUANTIZER_TRACES = ("hf_quantizer", "is_quantized", "quantization_method", PLANS_STEP)


def register_when_ready(register: Callable[[], None]) -> None:
    """Call `register` as soon as transformers' quantizers are imported, now if they are."""
    after_import("transformers.quantizers.auto", register)


def register_quantizer(config_class: type, quantizer_class: type, merge: Callable) -> None:
    """Enter our classes into transformers' tables, in the place of those of an earlier import of this package.

    `merge` answers `merge_quantization_configs`, with transformers' own function as its first argument.
    """
    from transformers.quantizers import auto

    auto.AUTO_QUANTIZATION_CONFIG_MAPPING.pop(QUANT_METHOD, None)
    auto.AUTO_QUANTIZER_MAPPING.pop(QUANT_METHOD, None)
    auto.register_quantization_config(QUANT_METHOD)(config_class)
    auto.register_quantizer(QUANT_METHOD)(quantizer_class)
    current = auto.AutoHfQuantizer.merge_quantization_configs
    original = current.args[0] if isinstance(current, functools.partial) else current
    ours = staticmethod(functools.partial(merge, original))
    auto.AutoHfQuantizer.merge_quantization_configs = ours  # type: ignore[method-assign, assignment]


def patch_from_config(from_config: Callable) -> None:
    """Replace `PreTrainedModel._from_config` as soon as transformers' models are imported, now if they are.

    `from_config(original, cls, config, **kwargs)` is called instead, with transformers' own function first.
    """

    def patch_class() -> None:
        from transformers import PreTrainedModel

        original = vars(PreTrainedModel)["_from_config"].__func__
        if isinstance(original, functools.partial):  # by an earlier import of this package
            original = original.args[0]
        PreTrainedModel._from_config = classmethod(functools.partial(from_config, original))  # type: ignore[method-assign, assignment]

    after_import("transformers.modeling_utils", patch_class)


def run_after_loading(model: nn.Module, action: "Callable[[LoadStateDictInfo], None]") -> None:
    """Have `action(loading_info)` called once, when the weights of this one model are in place."""
    original = getattr(model, LOADING_STEP)

    def act(loading_info: "LoadStateDictInfo") -> None:
        delattr(model, LOADING_STEP)
        action(loading_info)
        original(loading_info)

    setattr(model, LOADING_STEP, act)


def change_parallel_plans(
    model: nn.Module, change: Callable[[dict[str, str], "DeviceMesh | None"], dict[str, str]]
) -> None:
    """Have this one model's rules of tensor and expert parallelism changed while it is loaded and split.

    `change` gets the rules, and for tensor parallelism the mesh of the processes.
    """
    original = get_setting(model, PLANS_STEP)
    if original is not None:

        def resolve(distributed_config: object) -> tuple[dict[str, str], ...]:
            tensor_plan, expert_plan, *rest = original(distributed_config)
            mesh = model._mesh_manager.get_mesh("tp") if tensor_plan else None  # type: ignore[union-attr, operator]
            return change(tensor_plan, mesh), change(expert_plan, None), *rest

        setattr(model, PLANS_STEP, resolve)


def can_change_parallel_plans(model: nn.Module) -> bool:
    """Whether this transformers lets `change_parallel_plans` do anything."""
    return hasattr(model, PLANS_STEP)


def check_action_ran(model: nn.Module) -> None:
    """Check that transformers called the action of `run_after_loading`.

    Raises:
        CheckpointError: the model was loaded in a way that skips it, such as from a distributed checkpoint.
    """
    if LOADING_STEP in vars(model):
        delattr(model, LOADING_STEP)
        raise CheckpointError(
            f"{type(model).__name__} was loaded in a way in which its curves cannot be checked (a distributed "
            "checkpoint?). Save it with save_pretrained and load that."
        )


def remove_quantizer(model: nn.Module) -> None:
    """Remove what transformers writes on a model that was loaded by a quantizer."""
    for name in QUANTIZER_TRACES:
        vars(model).pop(name, None)
    for config in filter(None, map(config_of, model.modules())):
        vars(config).pop("_is_quantized", None)


def attach_record(model: nn.Module, record: ConversionRecord) -> None:
    """Write the record and the tripwire into the model's config, and complete its `save_pretrained`.

    A model gets a config of its own, since others may be made from the same object. A base model keeps it: it may stand
    inside a model with a head, which transformers names `...For...`, and which saves the same curves.
    """
    config = config_of(model)
    if config is None:
        vars(model)["conversion_record"] = record
        _complete_parts(model, record)
        return
    is_head = base_prefix(model) or re.search("For[A-Z]", type(model).__name__)
    is_base_model = get_setting(model, "base_model_prefix") and not is_head
    if get_setting(config, "quantization_config") is not record and not is_base_model:
        config = _give_own_config(model, config)
    config.quantization_config = record
    config.fusion_config = {**(get_setting(config, "fusion_config") or {}), TRIPWIRE: False}
    if hasattr(type(model), "save_pretrained"):
        # Not by add_model_tags, which would append to the list that some classes share among their models.
        vars(model)["model_tags"] = [*dict.fromkeys((*(get_setting(model, "model_tags") or ()), TAG))]
        remove_auto_map(config)  # of a loaded checkpoint; it goes with the modelling file, when both are written
        # On this one model, not on its class. A deep copy of the model gets a partial of its own. The price is a
        # reference cycle: the memory of a deleted model comes back with the next gc.collect().
        vars(model)["save_pretrained"] = functools.partial(save_converted, model)  # type: ignore[arg-type]
    _complete_parts(model, record)


def _complete_parts(model: nn.Module, record: ConversionRecord) -> None:
    """Complete `save_pretrained` of those models inside one that have curves, and a config without the record."""
    _detach_parts(model)
    for place, part in model.named_modules():
        if config_of(part) is None or config_of(part) is config_of(model) or not hasattr(type(part), "save_pretrained"):
            continue
        of_part = record_of_part(model, record, f"{place}.", base_prefix(part))
        if of_part is not None:
            vars(part)["save_pretrained"] = functools.partial(save_part, part, of_part)  # type: ignore[arg-type]


def _detach_parts(model: nn.Module) -> None:
    for part in model.modules():
        if get_setting(vars(part).get("save_pretrained"), "func") is save_part:
            del vars(part)["save_pretrained"]


def detach_record(model: nn.Module) -> None:
    """Remove everything that `attach_record` wrote, and the sets of curves that the record described one of."""
    vars(model).pop(CURVE_SETS, None)
    _detach_parts(model)
    config = config_of(model)
    if config is None:
        del vars(model)["conversion_record"]
        return
    del config.quantization_config
    remove_tripwire(config)
    remove_auto_map(config)
    vars(model).pop("save_pretrained", None)
    tags = [tag for tag in vars(model).pop("model_tags", ()) if tag != TAG]
    if tags and tags != get_setting(type(model), "model_tags"):
        vars(model)["model_tags"] = tags


def has_tripwire(config: object) -> bool:
    """Whether a transformers config has the tripwire: it is not one from which a checkpoint is being loaded."""
    return TRIPWIRE in (get_setting(config, "fusion_config") or {})


def remove_tripwire(config: object) -> None:
    """Take the tripwires out of a transformers config and those of its parts; other fusions stay."""
    _keep_entries(config, "fusion_config", lambda name, _: name not in (TRIPWIRE, PART_TRIPWIRE))
    for _, part in _parts_of(config):
        remove_tripwire(part)


def remove_auto_map(config: object) -> None:
    """Take the entries for our modelling file out of a transformers config; other custom code stays."""
    _keep_entries(config, "auto_map", lambda _, target: not is_ours(target))


def save_converted(
    model: "PreTrainedModel",
    save_directory: str | Path,
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs,
) -> None:
    """`save_pretrained` of a converted model: transformers' own, and the modelling file for `trust_remote_code=True`.

    `kwargs` are the other arguments of transformers' method. A model that stands in the folder is replaced as a whole,
    by `updated_folder`; where each process writes a part of it (`distributed_checkpoint`), by transformers.

    Raises:
        ConfigError: `push_to_hub` together with `state_dict` or `variant`.
        CheckpointError: curves are not what the config says, so the checkpoint could not be loaded; or copies of shared
            ones differ. Nothing is written.
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
    update_record(model)
    push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
    with_adapters = get_setting(model, "_hf_peft_config_loaded")  # then only those are saved
    variant, is_distributed = kwargs.get("variant"), bool(kwargs.get("distributed_checkpoint"))
    is_weights = weight_files(variant).fullmatch
    target: AbstractContextManager[Path] = nullcontext(Path(save_directory))
    writes = is_main_process and _is_first_process()  # as transformers, which all processes of a split model call
    names = os.listdir(save_directory) if writes and Path(save_directory).is_dir() else []
    if not is_distributed and any(name == "config.json" or is_weights(name) for name in names):
        target = updated_folder(Path(save_directory), lambda name: not with_adapters and is_weights(name) is not None)
    record = record_of(model)
    if record is not None and not with_adapters and record.config.share == "model":
        check_equal_copies(model, record)
        # safetensors has no tensor twice
        state_dict = _with_own_curves(model.state_dict() if state_dict is None else state_dict)
    with transaction(model), target as folder:
        if entries := auto_map_of(model):
            model.config.auto_map = {**(get_setting(model.config, "auto_map") or {}), **entries}
        type(model).save_pretrained(model, folder, is_main_process, state_dict, **kwargs)
        if writes and not with_adapters:
            write_modeling_file(model, folder)
            _mark_parts(model, folder / "config.json")
            files = [file for file in folder.glob("*.safetensors") if is_weights(file.name)]
            if files and not variant:  # variants share a config, and have curves of their own
                write_digest(folder / "config.json", files)
    if is_main_process and push_to_hub:  # not by transformers in the call above, which would leave the new file out
        push |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
        model.push_to_hub(push.pop("repo_id", Path(save_directory).name), **push)


def save_part(part: "PreTrainedModel", record: ConversionRecord, *args: Any, **kwargs: Any) -> None:
    """`save_pretrained` of a model inside a converted one, with its own part of the record: as if it alone had been
    converted. The arguments are those of `save_converted`, and so are the errors."""
    with undone_afterwards() as undo:
        undo.callback(snapshot(part))
        attach_record(part, record)
        save_converted(part, *args, **kwargs)


def update_record(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model, without places that are gone, such as those in layers that were removed.

    Raises:
        CheckpointError: other curves are not where, or not what, the record says, so a checkpoint could not be loaded.
    """
    record = record_of(model)
    if record is None:
        return None
    present = present_record(model, record)
    if present != record:
        attach_record(model, present)
    check_record(model)
    check_places(model, present)
    return present


def _mark_parts(model: "PreTrainedModel", file: Path) -> None:
    """Write a tripwire into the saved configs of those parts of a model that have curves."""
    paths = [path for path, _ in curved_modules(model)]
    kinds = {
        type(vars(module).get("config"))
        for place, module in model.named_modules()
        if any(path.startswith(f"{place}.") for path in paths)
    }
    settings = read_json(file)

    def mark(config: object, table: dict) -> None:
        for name, part in _parts_of(config):
            if type(part) in kinds:
                table[name]["fusion_config"] = {**(table[name].get("fusion_config") or {}), PART_TRIPWIRE: False}
            mark(part, table[name])

    if any(True for _ in _parts_of(model.config)):
        mark(model.config, settings)
        atomic_write_text(file, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _parts_of(config: object) -> Iterator[tuple[str, object]]:
    """Names and configs of the parts of a model."""
    names = getattr(config, "sub_configs", None) or {}
    return ((name, part) for name in names if hasattr(part := get_setting(config, name), "to_dict"))


def _with_own_curves(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which layers that share their curves have copies of them."""
    return {
        name: tensor.clone() if name.rpartition(".")[2] in CURVE_PARAMETERS else tensor
        for name, tensor in state_dict.items()
    }


def _is_first_process() -> bool:
    """Whether this process writes what transformers gathers from all."""
    group = torch.distributed
    return not group.is_available() or not group.is_initialized() or group.get_rank() == 0


def _give_own_config(model: nn.Module, config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Replace a model's config by a copy, in all its modules: other models may be made from the same object."""
    copies: dict[int, Any] = {}
    own = copy.deepcopy(config, copies)
    for module in model.modules():
        old = vars(module).get("config")
        if id(old) in copies:
            module.config = copies[id(old)]
    return own


def _keep_entries(config: object, name: str, keep: Callable[[str, object], bool]) -> None:
    """Drop the other entries of a table that a config may have, and the table with its last entry."""
    kept = {key: value for key, value in (get_setting(config, name) or {}).items() if keep(key, value)}
    if kept:
        setattr(config, name, kept)
    elif hasattr(config, name):
        delattr(config, name)
