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
| `PreTrainedModel.save_pretrained` (`patch_save_pretrained`) | the modelling file for `trust_remote_code=True`; a part of a converted model, and a model of which a part was converted, need a record of their own; curves that no config speaks of would be lost without a word | transformers asks modules what a checkpoint needs |
| `model_tags` and `config` of one converted model (`attach_record`) | the tag on the Hub; a config that no other model shares | transformers tags models by their config |
"""  # noqa: E501

import copy
import functools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from kansformer.config import QUANT_METHOD
from kansformer.conversion.record import (
    CURVE_SETS,
    ConversionRecord,
    base_prefix,
    config_of,
    get_setting,
    record_of_part,
)
from kansformer.conversion.remote_code import is_ours
from kansformer.errors import CheckpointError
from kansformer.import_hooks import after_import
from kansformer.nn.curve_checks import PART_RECORD

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedConfig
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


def patch_save_pretrained(save: Callable) -> None:
    """Replace `PreTrainedModel.save_pretrained` as soon as transformers' models are imported, now if they are.

    `save(original, model, *args, **kwargs)` is called instead, with transformers' own method first.
    """

    def patch_class() -> None:
        from transformers import PreTrainedModel

        current = PreTrainedModel.save_pretrained
        original = get_setting(current, "original") or current  # of an earlier import of this package

        @functools.wraps(original)
        def save_pretrained(self, *args, **kwargs):
            return save(original, self, *args, **kwargs)

        save_pretrained.original = original  # type: ignore[attr-defined]
        PreTrainedModel.save_pretrained = save_pretrained  # type: ignore[method-assign]

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
    """Write the record and the tripwire into the model's config, and their records on the models inside it.

    A model gets a config of its own, since others may be made from the same object. A base model keeps it: it may stand
    inside a model with a head, which transformers names `...For...`, and which saves the same curves; not so encoders
    and decoders, which are parts of a base model.
    """
    _mark_parts(model, record)
    config = config_of(model)
    if config is None:
        vars(model)["conversion_record"] = record
        return
    is_head = base_prefix(model) or re.search("For[A-Z]", type(model).__name__)
    is_stack = type(model).__name__.endswith(("Encoder", "Decoder", "Stack"))
    is_base_model = get_setting(model, "base_model_prefix") and not is_head and not is_stack
    if get_setting(config, "quantization_config") is not record and not is_base_model:
        config = _give_own_config(model, config)
    config.quantization_config = record
    config.fusion_config = {**(get_setting(config, "fusion_config") or {}), TRIPWIRE: False}
    if hasattr(type(model), "save_pretrained"):
        # Not by add_model_tags, which would append to the list that some classes share among their models.
        vars(model)["model_tags"] = [*dict.fromkeys((*(get_setting(model, "model_tags") or ()), TAG))]
        remove_auto_map(config)  # of a loaded checkpoint; it goes with the modelling file, when both are written


def _mark_parts(model: nn.Module, record: ConversionRecord) -> None:
    """Give those models inside one that have curves the record that is theirs; the base model has the whole's."""
    _unmark_parts(model)
    for place, part in model.named_modules():
        if part is model or config_of(part) is None or not hasattr(type(part), "save_pretrained"):
            continue
        if config_of(part) is config_of(model) and f"{place}." == base_prefix(model):
            continue
        if (of_part := record_of_part(model, record, f"{place}.", base_prefix(part))) is not None:
            vars(part)[PART_RECORD] = of_part


def _unmark_parts(model: nn.Module) -> None:
    for part in model.modules():
        vars(part).pop(PART_RECORD, None)


def detach_record(model: nn.Module) -> None:
    """Remove everything that `attach_record` wrote, and the sets of curves that the record described one of."""
    vars(model).pop(CURVE_SETS, None)
    _unmark_parts(model)
    remove_record(model)
    tags = [tag for tag in vars(model).pop("model_tags", ()) if tag != TAG]
    if tags and tags != get_setting(type(model), "model_tags"):
        vars(model)["model_tags"] = tags


def has_record(model: nn.Module) -> bool:
    """Whether a model's config has a record, of this or another model."""
    return isinstance(get_setting(config_of(model), "quantization_config"), ConversionRecord)


def remove_record(model: nn.Module) -> None:
    """Remove a model's record, if it has one, and what stands beside it in its config."""
    vars(model).pop("conversion_record", None)
    config = config_of(model)
    if has_record(model):
        del config.quantization_config
        remove_tripwire(config)
        remove_auto_map(config)


def has_tripwire(config: object) -> bool:
    """Whether a transformers config has the tripwire: it is not one from which a checkpoint is being loaded."""
    return TRIPWIRE in (get_setting(config, "fusion_config") or {})


def remove_tripwire(config: object) -> None:
    """Take the tripwires out of a transformers config and those of its parts; other fusions stay."""
    _keep_entries(config, "fusion_config", lambda name, _: name not in (TRIPWIRE, PART_TRIPWIRE))
    for _, part in parts_of(config):
        remove_tripwire(part)


def remove_auto_map(config: object) -> None:
    """Take the entries for our modelling file out of a transformers config; other custom code stays."""
    _keep_entries(config, "auto_map", lambda _, target: not is_ours(target))


def parts_of(config: object) -> Iterator[tuple[str, object]]:
    """Names and configs of the parts of a model."""
    names = getattr(config, "sub_configs", None) or {}
    return ((name, part) for name in names if hasattr(part := get_setting(config, name), "to_dict"))


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
