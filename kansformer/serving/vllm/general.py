"""Any architecture: vLLM's Transformers modelling backend, with curves.

vLLM makes transformers' model on the meta device, replaces its layers by parallel ones of its own, and loads the
weights. Curves of activations, input curves and those of GPT-2's transposed layers are put in before the replacement;
`quantization.py` gives vLLM's linear layers theirs.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import RowParallelLinear
from vllm.model_executor.models import transformers as backend
from vllm.model_executor.models.utils import PPMissingLayer

from kansformer.conversion.rebuild import narrow_as_recorded
from kansformer.nn.fused_gate import GatedNames, fuse_gate, gated_names
from kansformer.serving.backbone import place_slot, plain_config
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.serving.modules import MergedGate, serve_module
from kansformer.serving.vllm.quantization import CurveConfig
from kansformer.serving.vllm.selection import GENERAL_CLASSES
from kansformer.sites import find_sites
from kansformer.sites.site import Slot, parent_of


class CurvesMixin:
    """Before one of the backend's classes: the same model with a checkpoint's curves, or unchanged without them."""

    model: Any
    quant_config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        with plain_config(vllm_config.model_config.hf_config):
            super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]

    @property
    def curves(self) -> ServedCurves | None:
        """The checkpoint's curves; None of a plain one."""
        return self.quant_config.curves if isinstance(self.quant_config, CurveConfig) else None

    def recursive_replace(self) -> None:
        """vLLM's replacement of layers, with curves before it and their split after it."""
        if self.curves is None:
            return super().recursive_replace()  # type: ignore[misc]
        narrow_as_recorded(self.model, self.curves.record)
        sites = [site.slots for site in find_sites(self.model)]
        downs = {slots["act"].path: slots.get("down") for slots in sites if "act" in slots}
        placed = [
            slot for slot in self.curves.record.slots if place_slot(self.model, slot, self.curves, PPMissingLayer)
        ]
        gates = [gate for slot in placed if (gate := _fused_gate(self.model, slot)) is not None]
        super().recursive_replace()  # type: ignore[misc]
        for slot in placed:
            down = downs.get(slot.path)
            is_split = down is not None and _is_split(self.model.get_submodule(down.path))
            self._serve(slot, is_split=is_split)
        for block, names in gates:
            _restore_gate(block, names)
        return None

    def _serve(self, slot: Slot, *, is_split: bool) -> None:
        assert self.curves is not None
        ranks = Rank(get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size())
        serve_module(
            self.model.get_submodule(slot.curve_path),
            slot,
            self.curves,
            by="inputs" if is_split else None,
            rank=ranks if is_split else Rank(),
            dtype=self.model_config.dtype,  # type: ignore[attr-defined]
            device=self.device_config.device,  # type: ignore[attr-defined]
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """vLLM's loading, with curves checked and stored on the way."""
        if self.curves is None:
            return super().load_weights(weights)  # type: ignore[misc]
        rename = self.hf_to_vllm_mapper.get_rename_mapper().map_name  # type: ignore[attr-defined]
        loaded = super().load_weights(self.curves.loading(weights, rename))  # type: ignore[misc]
        return loaded | self.curves.names_of(self)  # type: ignore[arg-type]


def _is_split(layer: nn.Module) -> bool:
    """Whether what goes into a layer is split among the ranks."""
    return isinstance(layer, RowParallelLinear) and layer.input_is_parallel and layer.tp_size > 1


def _fused_gate(model: nn.Module, slot: Slot) -> tuple[nn.Module, GatedNames] | None:
    """The gated block around a learned activation, whose forward is fused now, and the names of its children."""
    owner, name = parent_of(slot.path)
    block = model.get_submodule(owner)
    names = gated_names(block) if slot.name == "act" and fuse_gate(block, name) else None
    return None if names is None else (block, names)


def _restore_gate(block: nn.Module, names: GatedNames) -> None:
    """Have a gated block compute activation, curve and product in one pass, also where vLLM has merged two layers."""
    if gated_names(block) is None:
        merged = next(name for name, child in block.named_children() if hasattr(child, "output_sizes"))
        block.__dict__["forward"] = MergedGate(block, merged=merged, act=names.act, down=names.down)


def _with_curves(name: str) -> type[nn.Module]:
    """A class of the backend, under the same name, with the mixin in front."""
    base = getattr(backend, name)
    return type(name, (CurvesMixin, base), {"__module__": __name__, "__doc__": base.__doc__})


globals().update({name: _with_curves(name) for name in GENERAL_CLASSES})
