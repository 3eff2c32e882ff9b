"""Adapters around linear layers with curves: an adapter changes the weights, and the curves stay as they are.

With an adapter around it a layer's output is y = W'·a + s. W' are the adapted weights, a = σ(x) + ψ(x) is what the
weights are applied to, and s = Σ_i s_oi(x_i) are the curves on edges. So the adapter's own forward runs on a and on the
linear part alone. Merged into the weight it gives the same function, whatever kind of adapter it is.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from kansformer.errors import ConversionStateError
from kansformer.nn.curves import CurvedLinear, CurveSpec, add_edges
from kansformer.nn.eval_mode import eval_mode

PROBED = 1024
"""Unit vectors that an adapter is called with at once."""


class Adapter(Protocol):
    """What is used of PEFT's `BaseTunerLayer`: a module with the adapted layer, or another adapter, as its child
    `base_layer`."""

    def get_base_layer(self) -> nn.Module: ...


@dataclass(frozen=True)
class AdaptedForward:
    """The forward of an adapter around a layer with curves, kept as its instance attribute `forward`."""

    adapter: nn.Module

    def __call__(self, x: Tensor, *args: object, linear_part: bool = False, **kwargs: object) -> Tensor:
        """What the adapter's own forward would return; `args` and `kwargs` are that method's, as PEFT's layers have."""
        forward = type(self.adapter).forward
        layer = cast(Adapter, self.adapter).get_base_layer()
        if not has_curves(layer):  # they were removed
            return forward(self.adapter, x, *args, **kwargs)
        if linear_part:  # inside another adapter
            return forward(self.adapter, x, *args, linear_part=True, **kwargs)
        curved = cast(CurvedLinear, layer)
        activated = _in_memory(layer, curved.activate, x)
        output = forward(self.adapter, activated, *args, linear_part=True, **kwargs)
        return output if curved.curves.is_per_channel else _in_memory(layer, partial(add_edges, curved), x, output)

    @property
    def __code__(self) -> CodeType:
        """Of the adapter's own forward: `torch.export` asks a root for it."""
        return inspect.unwrap(type(self.adapter).forward).__code__


def adapt_curves(adapter: nn.Module) -> None:
    """Have an adapter act on the linear part of its layer, which may not have been assigned yet."""
    adapter.__dict__["forward"] = AdaptedForward(adapter)
    adapter.__dict__["_replicate_for_data_parallel"] = partial(_replicate, adapter)


def has_curves(layer: nn.Module) -> bool:
    """Whether a layer has curves and weights."""
    return isinstance(vars(layer).get("curves"), CurveSpec) and "weight" in layer._parameters


def module_called_at(model: nn.Module, path: str) -> nn.Module:
    """The module whose inputs and outputs are those of the layer with curves at a path: the outermost adapter around
    it, or the layer itself. Inside an adapter the layer is called with what the weights see."""
    module = model.get_submodule(path)
    while path.endswith("base_layer"):
        path = path.removesuffix("base_layer").removesuffix(".")
        owner = model.get_submodule(path)
        if not isinstance(vars(owner).get("forward"), AdaptedForward):
            break
        module = owner
    return module


def adapted_weight(layer: nn.Module, called: nn.Module, inputs_I: Tensor) -> Tensor | None:
    """Rows of the weight (I, O) that the adapter around a layer makes of it, for these inputs; None without one.

    Adapters of a linear layer are linear, but for a few, so the rows are what the adapter does to unit vectors.

    Args:
        layer: with curves and weights.
        called: of `module_called_at`.
        inputs_I: numbers of the inputs, none twice.

    Raises:
        ConversionStateError: the adapter is not linear, or cannot be called on its own.
    """
    if called is layer or not isinstance(vars(called).get("forward"), AdaptedForward):
        return None
    probed = _without_bias(called, layer)
    weight, inputs = layer.get_parameter("weight"), cast(CurvedLinear, layer).in_features
    rows = []
    with eval_mode(called):  # without dropout
        for part_I in inputs_I.to(weight.device).split(PROBED):
            units = torch.zeros(len(part_I) + 2, inputs, dtype=weight.dtype, device=weight.device)
            units[torch.arange(len(part_I)), part_I] = 1
            units[-2, part_I] = 0.5  # the last row stays zero: the adapter's own bias
            try:
                outputs = AdaptedForward(probed)(units, linear_part=True)
            except Exception as error:  # adapters may need anything
                raise ConversionStateError(f"{_name_of(called)} cannot be read: {error}. Merge it first.") from error
            outputs = outputs[:-1] - outputs[-1]
            rows.append(outputs[:-1])
            expected = outputs[:-1].sum(dim=0) / 2
            tolerance = torch.finfo(outputs.dtype).eps ** 0.5 * len(outputs) ** 0.5 * float(outputs.abs().max())
            if (outputs[-1] - expected).abs().max() > tolerance:
                raise ConversionStateError(f"{_name_of(called)} is not linear, so the layer has no edges with it.")
    return torch.cat(rows)


def _name_of(adapter: nn.Module) -> str:
    return f"The adapter {type(adapter).__module__.rpartition('.')[0]}.{type(adapter).__name__} around curves"


def _without_bias(module: nn.Module, layer: nn.Module) -> nn.Module:
    """A copy of an adapter that shares everything but its hooks, and the bias of the layer in it, which is zero: in 16
    bits, small weights would be lost beside it."""
    clone = copy.copy(module)
    for name, table in vars(module).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(clone)[name] = type(table)()
    vars(clone)["_modules"], vars(clone)["_parameters"] = dict(module._modules), dict(module._parameters)
    if module is layer:
        bias = module._parameters.get("bias")
        clone._parameters["bias"] = None if bias is None else torch.zeros_like(bias)  # type: ignore[assignment]
    else:
        clone._modules["base_layer"] = _without_bias(cast(nn.Module, module._modules["base_layer"]), layer)
        vars(clone)["forward"] = AdaptedForward(clone)
    return clone


def _in_memory(layer: nn.Module, function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """function(*args), which uses a layer's tensors, between the steps by which accelerate brings offloaded ones."""
    hook = vars(layer).get("_hf_hook")
    if hook is None:
        return function(*args)
    args, _ = hook.pre_forward(layer, *args)
    return hook.post_forward(layer, function(*args))


def _replicate(adapter: nn.Module) -> nn.Module:
    """`_replicate_for_data_parallel` of an adapter: the replica's forward runs on the replica."""
    replica = type(adapter)._replicate_for_data_parallel(adapter)
    adapt_curves(replica)
    return replica
