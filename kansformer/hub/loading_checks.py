"""What is checked while a converted checkpoint is loaded: the config, the size, every curve, the shapes of the rest."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from kansformer.conversion.digest import curve_keys
from kansformer.conversion.record import get_setting, narrowed_paths
from kansformer.conversion.tensor_check import check_values
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curve_tensors, curved_modules
from kansformer.nn.parallel import local_part

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.loading_report import LoadStateDictInfo

LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
MAX_LAYERS = 1000
SPARE_NUMBERS = 2**24
"""Numbers that a model may have beyond twice those of its checkpoint, for a new head."""
MAX_TENSOR_RATIO, SPARE_TENSORS = 4, 1000
"""Tensors that it may have for each of the checkpoint's, some of which stand for several layers, and beyond that."""

Shapes = Mapping[str, tuple[int, ...]]


def check_config(config: object) -> None:
    """Check that a config does not ask for more layers than a model can be made of in reasonable time.

    Raises:
        CheckpointError: it does, or has another value where a table is expected.
    """
    for owner in (config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))):
        for name in ("auto_map", "fusion_config"):
            table = get_setting(owner, name)
            if table is not None and not isinstance(table, dict):
                raise CheckpointError(f"{name} in the checkpoint's config must be a table, got {table!r:.80}.")
        for name in LAYER_COUNTS:
            count = vars(owner).get(name)
            if isinstance(count, (int, float)) and count > MAX_LAYERS:
                raise CheckpointError(
                    f"The checkpoint's config asks for {name}={count!r:.40}; {MAX_LAYERS} is the maximum."
                )


def check_size(model: nn.Module, tensors: int | None, numbers: int | None) -> None:
    """Check that a plain model, still on the meta device, is about as large as its checkpoint, if that is known.

    Raises:
        CheckpointError: it is far larger; transformers would fill the rest at random.
    """
    if tensors is None or numbers is None:
        return
    sizes = [parameter.numel() for parameter in model.parameters()]
    too_many = len(sizes) > MAX_TENSOR_RATIO * tensors + SPARE_TENSORS
    if too_many or sum(sizes) > 2 * numbers + SPARE_NUMBERS:
        raise CheckpointError(
            f"The checkpoint's config asks for a model of {sum(sizes):,} numbers in {len(sizes):,} tensors, and its "
            f"files hold {numbers:,} in {tensors:,}. It was changed after it was saved, or saved incompletely; save "
            "the converted model again."
        )


def check_curves(model: nn.Module, expected: Shapes, loading_info: "LoadStateDictInfo") -> None:
    """Check that the model and the checkpoint have the same curve tensors and tensors of narrowed layers.

    Other weights that a checkpoint of this very class lacks are refused, too: transformers would only report them, and
    initialise them at random.

    Args:
        model: rebuilt, its weights loaded.
        expected: shapes before the loading. transformers 5.17 loads any shape where a quantizer is at work.
        loading_info: transformers' lists of missing, mismatched and unexpected keys.

    Raises:
        CheckpointError: such a tensor is missing in the checkpoint, has another shape or unusable values, or a curve
            tensor does not belong to any slot of the model.
    """
    shapes = shapes_of(model)
    keys = set(shapes)
    own = curve_keys(keys) | narrowed_keys(model, keys)
    unexpected = curve_keys(set(loading_info.unexpected_keys) | own) - own
    reported = {entry for entry in loading_info.mismatched_keys if entry[0] in own}
    mismatched = {(key, tuple(own_shape), tuple(shape)) for key, own_shape, shape in reported}
    mismatched |= {(key, shapes[key], expected[key]) for key in own & set(expected) if shapes[key] != expected[key]}
    missing = (own & set(loading_info.missing_keys)) | missing_weights(model, set(loading_info.missing_keys))
    problems = [f"{key} is missing" for key in sorted(missing, key=lambda key: (key not in own, key))]
    problems += [f"{key} has shape {own_shape} instead of {shape}" for key, own_shape, shape in sorted(mismatched)]
    problems += [f"{key} does not belong to a slot of the config" for key in sorted(unexpected)]
    if problems:
        # transformers' report of them, an error too, would otherwise take the place of this one
        loading_info.mismatched_keys -= reported
        raise CheckpointError(
            f"The checkpoint's weights do not fit its config: {problems[0]:.600}"
            + (f" (and {len(problems) - 1} more)." if len(problems) > 1 else ".")
            + " It was changed after it was saved, or saved incompletely; save the converted model again."
        )
    for path, module in curved_modules(model):
        for name, tensor in curve_tensors(module).items():
            check_values(f"{path}.{name}", local_part(tensor))


def missing_weights(model: nn.Module, missing: set[str]) -> set[str]:
    """The missing keys that belong to the model that was saved, and not to a new head.

    In a checkpoint of another class of the same family, heads and poolers may be missing, and layers may not.
    """
    config = get_setting(model, "config")
    if get_setting(config, "add_cross_attention"):  # new in a decoder that is made from a plain one
        missing = {key for key in missing if "cross" not in key}
    for pattern in get_setting(model, "_keys_to_ignore_on_load_missing") or ():
        missing = {key for key in missing if not re.search(pattern, key)}
    architectures = get_setting(config, "architectures")
    names = architectures if isinstance(architectures, list) else []
    if not names or type(model).__name__ in names:
        return missing
    stacks = tuple({f"{match[0]}" for path, _ in curved_modules(model) if (match := re.match(r"\D+\.(?=\d)", path))})
    return {key for key in missing if key.startswith(stacks)} if stacks else set()


def narrowed_keys(model: nn.Module, keys: set[str]) -> set[str]:
    """The keys of linear layers in feed-forward networks that are narrower than the model's config says."""
    layers = {
        path
        for owner in narrowed_paths(model)
        for path, module in model.get_submodule(owner).named_modules(prefix=owner)
        if isinstance(module, nn.Linear) or "nx" in vars(module)  # transformers' Conv1D, with curves or without
    }
    return {f"{path}.{name}" for path in layers for name in ("weight", "bias")} & keys


def shapes_of(model: nn.Module) -> Shapes:
    """Shapes of all weights and saved buffers."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def report_other_shapes(model: "PreTrainedModel", expected: Shapes, loading_info: "LoadStateDictInfo") -> None:
    """Report weights of other shapes to transformers, which before 5.21 takes any where a quantizer is at work.

    Its report is an error where sizes must match. Where they need not, such weights are initialised here, as
    transformers does by itself from 5.21 on.
    """
    shapes = shapes_of(model)
    other = [name for name in shapes if name in expected and shapes[name] != expected[name]]
    for name in other:
        loading_info.mismatched_keys.add((name, shapes[name], expected[name]))  # type: ignore[arg-type]
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        # transformers passes over modules that are marked as initialised.
        module._is_hf_initialized = False  # type: ignore[assignment]
        old = getattr(module, last)
        new = torch.empty(expected[name], dtype=old.dtype, device=old.device)
        setattr(module, last, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    if other:
        model._initialize_missing_keys(True)
        model.tie_weights()
