"""Adapters around linear layers with curves: an adapter changes the weights, and the curves stay as they are.

With an adapter around it a layer's output is y = W'·a + s. W' are the adapted weights, a = σ(x) + ψ(x) is what the
weights are applied to, and s = Σ_i s_oi(x_i) are the curves on edges. So the adapter's own forward runs on a and on the
linear part alone. Merged into the weight it gives the same function, whatever kind of adapter it is.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Protocol, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from kansformer.nn.curves import CurvedLinear, CurveSpec, add_edges
from kansformer.nn.eval_mode import eval_mode


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


_adapters: "WeakKeyDictionary[nn.Module, ref[nn.Module]]" = WeakKeyDictionary()
"""The outermost adapter around a layer, as `module_called_at` has seen it last."""


def module_called_at(model: nn.Module, path: str) -> nn.Module:
    """The module whose inputs and outputs are those of the layer with curves at a path: the outermost adapter around
    it, or the layer itself. Inside an adapter the layer is called with what the weights see."""
    layer = module = model.get_submodule(path)
    while path.endswith("base_layer"):
        path = path.removesuffix("base_layer").removesuffix(".")
        owner = model.get_submodule(path)
        if not isinstance(vars(owner).get("forward"), AdaptedForward):
            break
        module = owner
    _adapters.pop(layer, None)
    if module is not layer:
        _adapters[layer] = ref(module)
    return module


def adapted_weight(layer: nn.Module, inputs_E: Tensor) -> Tensor | None:
    """Rows of the weight (E, O) that the adapter around a layer makes of it, for these inputs; None without one.

    Every adapter of a linear layer is linear, so the rows are what it does to unit vectors.
    """
    reference = _adapters.get(layer)
    adapter = None if reference is None else reference()
    if adapter is None:
        return None
    forward = cast(AdaptedForward, vars(adapter)["forward"])
    weight = layer.get_parameter("weight")
    units_EI = weight.new_zeros(len(inputs_E) + 1, cast(CurvedLinear, layer).in_features)
    units_EI[torch.arange(len(inputs_E)), inputs_E.to(units_EI.device)] = 1
    with eval_mode(adapter):  # without dropout
        rows_EO = forward(units_EI, linear_part=True)
    return rows_EO[:-1] - rows_EO[-1]


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
