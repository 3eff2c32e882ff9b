"""Act between the loading of the weights and their dispatch to devices, and see that every curve was loaded."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from kansformer.conversion.checkpoint import narrowed_paths
from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_PARAMETERS, curved_modules

if TYPE_CHECKING:
    from transformers.utils.loading_report import LoadStateDictInfo

CURVE_TENSORS = (*CURVE_PARAMETERS, "domain")

STEP = "_adjust_missing_and_unexpected_keys"
"""Last step of transformers' loading before the report and the dispatch; it gets the lists of wrong keys."""


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

    Args:
        model: rebuilt, its weights loaded.
        loading_info: transformers' lists of missing, mismatched and unexpected keys.

    Raises:
        CheckpointError: such a tensor is missing in the checkpoint or has another shape, or a curve tensor has no place
            in the model.
    """
    keys = set(model.state_dict())
    own = curve_keys(keys) | narrowed_keys(model, keys)
    unexpected = curve_keys(set(loading_info.unexpected_keys) | own) - own
    reported = {entry for entry in loading_info.mismatched_keys if entry[0] in own}
    mismatched = {(key, tuple(found), tuple(wanted)) for key, found, wanted in reported} | misshapen_tensors(model)
    problems = [f"{key} is missing" for key in sorted(own & set(loading_info.missing_keys))]
    problems += [f"{key} has shape {found} instead of {wanted}" for key, found, wanted in sorted(mismatched)]
    problems += [f"{key} belongs to no slot that the config names" for key in sorted(unexpected)]
    if problems:
        # transformers' report of them, an error too, would otherwise take the place of this one
        loading_info.mismatched_keys -= reported
        raise CheckpointError(
            f"The checkpoint's weights do not fit its config: {problems[0]}"
            + (f" (and {len(problems) - 1} more)." if len(problems) > 1 else ".")
            + " It was changed after it was saved, or saved incompletely; save the converted model again."
        )


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
        found = {name: tuple(getattr(module, name).shape) for name in shapes}
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
