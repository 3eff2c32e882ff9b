"""Act between the loading of the weights and their dispatch to devices, and see that every curve was loaded."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kansformer.conversion.checkpoint import narrowed_paths
from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_PARAMETERS, curve_tensors, curved_modules

if TYPE_CHECKING:
    from transformers.utils.loading_report import LoadStateDictInfo

CURVE_TENSORS = (*CURVE_PARAMETERS, "domain")

STEP = "_adjust_missing_and_unexpected_keys"
"""Last step of transformers' loading before the report and the dispatch; it gets the lists of wrong keys."""


LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
MOST_LAYERS = 1000
ROOM = 2**24
"""Numbers that a model may have beyond twice those of its checkpoint, for a new head."""
MOST_TENSORS = 4, 1000
"""Tensors that it may have for each of the checkpoint's, where those are of several layers each, and on top of that."""


def refuse_impossible_config(config: Any) -> None:
    """See that a config does not ask for so many layers that making the empty model would never end.

    Raises:
        CheckpointError: it does, or what should be a table is none.
    """
    for name in ("auto_map", "fusion_config"):
        table = getattr(config, name, None)
        if table is not None and not isinstance(table, dict):
            raise CheckpointError(f"{name} in the checkpoint's config must be a table, got {table!r:.80}.")
    for owner in (config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))):
        for name in LAYER_COUNTS:
            count = vars(owner).get(name)
            if isinstance(count, (int, float)) and count > MOST_LAYERS:
                raise CheckpointError(
                    f"The checkpoint's config asks for {name}={count!r:.40}; {MOST_LAYERS} is the most."
                )


def refuse_oversized(model: nn.Module, tensors: int | None, numbers: int | None) -> None:
    """See that a model, still without memory, is about as large as its checkpoint.

    Args:
        model: plain, on the meta device.
        tensors, numbers: in the checkpoint's files; None where it is not known.

    Raises:
        CheckpointError: it has far more, which transformers would make at random.
    """
    if tensors is None or numbers is None:
        return
    sizes = [parameter.numel() for parameter in model.parameters()]
    most = MOST_TENSORS[0] * tensors + MOST_TENSORS[1]
    if len(sizes) > most or sum(sizes) > 2 * numbers + ROOM:
        raise CheckpointError(
            f"The checkpoint's config asks for a model of {sum(sizes):,} numbers in {len(sizes):,} tensors, and its "
            f"files hold {numbers:,} in {tensors:,}. It was changed after it was saved, or saved incompletely; save "
            "the converted model again."
        )


def run_after_loading(model: nn.Module, action: "Callable[[LoadStateDictInfo], None]") -> None:
    """Have `action(loading_info)` called once, when the weights of this one model are in place.

    A quantizer is asked only later, when accelerate has put its hooks on the modules and the lists are gone.
    """
    original = getattr(model, STEP)

    def act(loading_info: "LoadStateDictInfo") -> None:
        delattr(model, STEP)
        action(loading_info)
        original(loading_info)

    setattr(model, STEP, act)


def refuse_skipped_action(model: nn.Module) -> None:
    """See that the action ran.

    Raises:
        CheckpointError: transformers loaded the model in a way that passes it by, such as a distributed checkpoint.
    """
    if STEP in vars(model):
        delattr(model, STEP)
        raise CheckpointError(
            f"{type(model).__name__} was loaded in a way in which its curves cannot be checked (a distributed "
            "checkpoint?). Save it with save_pretrained and load that."
        )


def refuse_wrong_curves(model: nn.Module, loading_info: "LoadStateDictInfo") -> None:
    """See that the curve tensors, and those of narrowed layers, are the same ones in the model and in the checkpoint.

    Other weights that a checkpoint of this very class lacks are refused, too: transformers would only report them, and
    make them anew at random.

    Args:
        model: rebuilt, its weights loaded.
        loading_info: transformers' lists of missing, mismatched and unexpected keys.

    Raises:
        CheckpointError: such a tensor is missing in the checkpoint or has another shape, or a curve tensor has no place
            in the model; or its numbers are of no use.
    """
    keys = set(model.state_dict())
    own = curve_keys(keys) | narrowed_keys(model, keys)
    unexpected = curve_keys(set(loading_info.unexpected_keys) | own) - own
    reported = {entry for entry in loading_info.mismatched_keys if entry[0] in own}
    mismatched = {(key, tuple(found), tuple(wanted)) for key, found, wanted in reported} | misshapen_tensors(model)
    missing = (own & set(loading_info.missing_keys)) | missing_weights(model, set(loading_info.missing_keys))
    problems = [f"{key} is missing" for key in sorted(missing, key=lambda key: (key not in own, key))]
    problems += [f"{key} has shape {found} instead of {wanted}" for key, found, wanted in sorted(mismatched)]
    problems += [f"{key} belongs to no slot that the config names" for key in sorted(unexpected)]
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
            refuse_unusable(f"{path}.{name}", tensor)


def refuse_unusable(name: str, tensor: Tensor) -> None:
    """See that a tensor of curves is finite, and a domain has a width; one that is on the disk is not looked at.

    Raises:
        CheckpointError: it is not.
    """
    last = name.rpartition(".")[2]
    if tensor.is_meta or not tensor.numel() or (last not in CURVE_TENSORS and not tensor.is_floating_point()):
        return
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{name} has numbers of the kind {kind}, so no model can use these curves.")
    if not all(end.isfinite() for end in tensor.aminmax()):  # without a mask as large as the tensor
        raise CheckpointError(f"{name} has numbers that are not finite, so no model can use these curves.")
    if last == "domain" and not (tensor[..., 0] < tensor[..., 1]).all():
        raise CheckpointError(f"{name} has intervals without a width, so no model can use these curves.")


def missing_weights(model: nn.Module, missing: set[str]) -> set[str]:
    """Those of the missing keys that belong to what the checkpoint is of, and not to a new head.

    In a checkpoint of another class of the same family, heads and poolers may be missing, and layers may not.
    """
    config: Any = model.config
    if getattr(config, "add_cross_attention", False):  # new in a decoder that is made from a plain one
        missing = {key for key in missing if "cross" not in key}
    for pattern in getattr(model, "_keys_to_ignore_on_load_missing", None) or ():
        missing = {key for key in missing if not re.search(pattern, key)}
    family = vars(sys.modules[type(model).__module__])
    saved = [name for name in _names_in(getattr(config, "architectures", None)) if isinstance(family.get(name), type)]
    if not saved or type(model).__name__ in saved:
        return missing
    stacks = tuple({f"{match[0]}" for path, _ in curved_modules(model) if (match := re.match(r"\D+\.(?=\d)", path))})
    return {key for key in missing if key.startswith(stacks)} if stacks else set()


def misshapen_tensors(model: nn.Module) -> set[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Key, found and wanted shape of these tensors; transformers 5.17 loads any shape where a quantizer is at work."""
    wrong = set()
    for path, module in narrowed_layers(model):
        wanted: dict[str, tuple[int, ...]]
        if isinstance(module, nn.Linear):
            wanted = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
        else:  # transformers' Conv1D, with curves or without
            wanted = {"weight": (module.nx, module.nf), "bias": (module.nf,)}
        found = {name: tuple(p.shape) for name, p in module.named_parameters(recurse=False) if name in wanted}
        wrong |= {(f"{path}.{name}", found[name], wanted[name]) for name in found if found[name] != wanted[name]}
    for path, module in curved_modules(model):
        shapes = module.curves.shapes(module.in_features, getattr(module, "out_features", None))
        found = {name: tuple(tensor.shape) for name, tensor in curve_tensors(module).items()}
        wrong |= {(f"{path}.{name}", found[name], shapes[name]) for name in shapes if found[name] != shapes[name]}
    return wrong


def narrowed_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and module of the linear layers in feed-forward networks that are narrower than the model's config says."""
    for owner in narrowed_paths(model):
        for path, module in model.get_submodule(owner).named_modules(prefix=owner):
            if isinstance(module, nn.Linear) or hasattr(module, "nx"):
                yield path, module


def narrowed_keys(model: nn.Module, keys: set[str]) -> set[str]:
    """Those of a state dict's keys that belong to such layers: their weights and biases."""
    return {f"{path}.{name}" for path, _ in narrowed_layers(model) for name in ("weight", "bias")} & keys


def curve_keys(keys: set[str]) -> set[str]:
    """Those of a state dict's keys that belong to curves: `coefficients`, and what stands beside them."""
    owners = {key.removesuffix("coefficients") for key in keys if key.rpartition(".")[2] == "coefficients"}
    return {owner + name for owner in owners for name in CURVE_TENSORS} & keys


def _names_in(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
