"""The tensors of a model's curves by the names that files have for them, and their exchange."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kansformer.conversion import ConversionRecord
from kansformer.conversion.convert import remove_curves
from kansformer.conversion.rebuild import rebuild
from kansformer.conversion.record import base_prefix, record_of
from kansformer.conversion.slots import check_not_dispatched
from kansformer.conversion.tensor_check import check_values
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curve_tensors, curved_modules


def curve_values(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers of curves, by name, which counts from the base model."""
    prefix = base_prefix(model)
    return {
        f"{path}.{name}".removeprefix(prefix): tensor
        for path, module in curved_modules(model)
        for name, tensor in curve_tensors(module).items()
    }


def put_curves(
    model: nn.Module,
    record: ConversionRecord,
    tensors: Mapping[str, Tensor],
    *,
    further: Mapping[str, Tensor] | None = None,
    keep_dtype: bool = True,
) -> None:
    """Give a model these curves; to be called in a `transaction` that knows its tensors of curves as replaced.

    A model with curves of the same record keeps its parameters, with new values; one with other curves loses these.

    Args:
        model: plain or converted, without narrowed layers.
        record: where the curves are.
        tensors: their values, by the names of `curve_values`.
        further: other tensors of the model that take values too.
        keep_dtype: whether the model's tensors take the dtype of the given ones, instead of keeping theirs.

    Raises:
        CheckpointError: they do not fit the model.
        ConversionStateError: its layers would have to be exchanged, and accelerate moves their weights.
    """
    own = record_of(model)
    if own is None or own.to_dict() != record.to_dict():
        check_not_dispatched(model, "curves cannot be put into it. Load it without device_map first.")
        if own is not None:
            remove_curves(model)
        rebuild(model, record, max_numbers=sum(tensor.numel() for tensor in tensors.values()))
    targets = curve_values(model) | dict(further or {})
    check_fit(tensors, targets)
    _check_shared(tensors, targets)
    new = {
        name: tensors[name].to(device=target.device, dtype=tensors[name].dtype if keep_dtype else target.dtype)
        for name, target in targets.items()
    }
    for name, target in targets.items():
        target.data = new[name]
        torch.autograd.graph.increment_version(target)  # a backward pass of what was computed before would be wrong


def _check_shared(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Check that layers which share their curves are given equal ones.

    Raises:
        CheckpointError: they are not.
    """
    first: dict[int, str] = {}
    for name, target in targets.items():
        owner = first.setdefault(id(target), name)
        if not torch.equal(tensors[owner], tensors[name]):
            raise CheckpointError(f"The layers share their curves, and the file has different ones: {owner}, {name}.")


def check_fit(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Check that given tensors have the names, shapes and kinds of a model's, and usable values.

    Raises:
        CheckpointError: the first of them that does not.
    """
    for name in sorted({*tensors, *targets}):
        tensor, target = tensors.get(name), targets.get(name)
        if tensor is None:
            fault = f"{name} is missing in the file"
        elif target is None:
            fault = f"it has no place for {name}"
        elif tensor.shape != target.shape:
            fault = f"{name} has shape {tuple(tensor.shape)} instead of {tuple(target.shape)}"
        elif tensor.is_floating_point() != target.is_floating_point():
            fault = f"{name} has the dtype {str(tensor.dtype).removeprefix('torch.')}"
        else:
            check_values(name, tensor)
            continue
        raise CheckpointError(f"The curves do not fit the model: {fault}.")
