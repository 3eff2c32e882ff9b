"""vLLM's own model classes, with curves: `LlamaForCausalLM` and the others of `selection.OWN_CLASSES`.

Their modules have transformers' names, except that gate and up layers are merged, and that the activation behind them
takes both and multiplies. `quantization.py` gives the linear layers their curves.
"""

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers import activation as activations
from vllm.model_executor.layers.linear import LinearBase, RowParallelLinear
from vllm.model_executor.models.utils import PPMissingLayer

from kansformer.errors import CheckpointError
from kansformer.nn import LearnedActivation
from kansformer.ops.curves import ACTIVATIONS
from kansformer.serving.backbone import is_elsewhere
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.serving.modules import GatedActivation, make_input_curve, serve_module
from kansformer.serving.vllm.quantization import CurveConfig
from kansformer.serving.vllm.selection import OWN_CLASSES, OwnClass
from kansformer.sites.site import Slot, parent_of
from kansformer.sites.surgery import fill_slot


class OwnCurvesMixin:
    """Before a model class of vLLM's: the same model with a checkpoint's curves, or unchanged without them."""

    own_class: OwnClass
    curves: ServedCurves | None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        config = vllm_config.quant_config
        self.curves = config.curves if isinstance(config, CurveConfig) else None
        if self.curves is not None:
            base = getattr(self, self.own_class.base)
            for slot in self.curves.record.slots:
                place_slot(base, slot, self.curves, vllm_config.model_config.dtype, self.own_class.activation)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """vLLM's loading, with curves checked and stored on the way."""
        if self.curves is None:
            return super().load_weights(weights)  # type: ignore[misc]
        loaded = super().load_weights(self.curves.loading(weights))  # type: ignore[misc]
        return loaded | self.curves.names_of(self)  # type: ignore[arg-type]


def place_slot(
    base: nn.Module, slot: Slot, curves: ServedCurves, dtype: torch.dtype, activation: str | None = None
) -> None:
    """Fill a recorded slot of vLLM's model, if that is not for one of its linear layers to do.

    Args:
        base: vLLM's base model.
        slot: of the checkpoint's record.
        curves: of the model.
        dtype: of the model.
        activation: name of activations in the model; None is the recorded one.

    Raises:
        CheckpointError: the model has no such path, or something there that cannot take the recorded curves.
    """
    if is_elsewhere(base, slot.path, PPMissingLayer):
        curves.skip(slot)
        return
    path = slot.path if slot.name == "input" else parent_of(slot.path)[0]
    try:
        host = base.get_submodule(path)
    except AttributeError:
        raise CheckpointError(
            f"The checkpoint has curves at {slot.path}, and vLLM's {type(base).__name__} has no module {path}. Serve "
            "it with --model-impl transformers."
        ) from None
    if slot.name == "act":
        _place_activation(host, activation or parent_of(slot.path)[1], slot, curves, dtype)
    elif slot.name == "input" and not isinstance(host, LinearBase):
        fill_slot(base, slot, make_input_curve(slot, slot.features, curves, by=None, rank=Rank(), dtype=dtype))


def _place_activation(block: nn.Module, name: str, slot: Slot, curves: ServedCurves, dtype: torch.dtype) -> None:
    kind, function = _read_activation(slot, getattr(block, name, None))
    down = next((child for child in block.children() if isinstance(child, RowParallelLinear)), None)
    features = slot.features if down is None else down.input_size
    act = kind.from_activation(function, features, curves.spec_of(slot), device="meta", dtype=dtype)
    is_split = down is not None and down.tp_size > 1
    rank = Rank(get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()) if is_split else Rank()
    serve_module(act, slot, curves, by="inputs" if is_split else None, rank=rank, dtype=dtype)
    setattr(block, name, act)


def _read_activation(slot: Slot, module: object) -> tuple[type[LearnedActivation], Callable[[Tensor], Tensor]]:
    """The module that takes an activation's place, and the function of one number that curves are added to.

    Raises:
        CheckpointError: it is an activation with a product that is not known here.
    """
    if isinstance(module, activations.SiluAndMul):
        return GatedActivation, ACTIVATIONS["silu"]
    if isinstance(module, activations.GeluAndMul):
        return GatedActivation, ACTIVATIONS["gelu_tanh" if module.approximate == "tanh" else "gelu"]
    if isinstance(module, nn.Module) and not type(module).__name__.endswith("AndMul"):
        return LearnedActivation, module
    raise CheckpointError(
        f"The checkpoint has an activation at {slot.path}, where vLLM has {type(module).__name__}, which cannot take "
        "curves. Serve it with --model-impl transformers."
    )


@cache
def _with_curves(name: str) -> type[nn.Module]:
    own = OWN_CLASSES[name]
    base = getattr(importlib.import_module(f"vllm.model_executor.models.{own.module}"), name)
    return type(name, (OwnCurvesMixin, base), {"__module__": __name__, "__doc__": base.__doc__, "own_class": own})


def __getattr__(name: str) -> type[nn.Module]:
    """A class of `OWN_CLASSES` by name, with curves; vLLM's module is imported when it is asked for."""
    if name not in OWN_CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_curves(name)
