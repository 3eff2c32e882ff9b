"""Act between the loading of the weights and their dispatch to devices, and see that every curve was loaded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

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
    """See that the curve tensors of the model and of the checkpoint are the same ones.

    Args:
        model: rebuilt, its weights loaded.
        loading_info: transformers' lists of missing, mismatched and unexpected keys.

    Raises:
        CheckpointError: a curve tensor is missing in the checkpoint, has another shape, or has no place in the model.
    """
    own = curve_keys(set(model.state_dict()))
    unexpected = curve_keys(set(loading_info.unexpected_keys) | own) - own
    reported = {entry for entry in loading_info.mismatched_keys if entry[0] in own}
    mismatched = {(key, tuple(found), tuple(wanted)) for key, found, wanted in reported} | misshapen_curves(model)
    problems = [f"{key} is missing" for key in sorted(own & set(loading_info.missing_keys))]
    problems += [f"{key} has shape {found} instead of {wanted}" for key, found, wanted in sorted(mismatched)]
    problems += [f"{key} belongs to no slot that the config names" for key in sorted(unexpected)]
    if problems:
        # transformers' report of them, an error too, would otherwise take the place of this one
        loading_info.mismatched_keys -= reported
        raise CheckpointError(
            f"The checkpoint's curve weights do not fit its config: {problems[0]}"
            + (f" (and {len(problems) - 1} more)." if len(problems) > 1 else ".")
            + " It was changed after it was saved, or saved incompletely; save the converted model again."
        )


def misshapen_curves(model: nn.Module) -> set[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Key, found and wanted shape of curve tensors; transformers 5.17 loads any shape where a quantizer is at work."""
    wrong = set()
    for path, module in curved_modules(model):
        shapes = module.curves.shapes(module.in_features, getattr(module, "out_features", None))
        found = {name: tuple(getattr(module, name).shape) for name in shapes}
        wrong |= {(f"{path}.{name}", found[name], shapes[name]) for name in shapes if found[name] != shapes[name]}
    return wrong


def curve_keys(keys: set[str]) -> set[str]:
    """Those of a state dict's keys that belong to curves: `coefficients`, and what stands beside them."""
    owners = {key.removesuffix("coefficients") for key in keys if key.rpartition(".")[2] == "coefficients"}
    return {owner + name for owner in owners for name in CURVE_TENSORS} & keys
