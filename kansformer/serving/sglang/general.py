"""Any architecture: SGLang's Transformers modelling backend, with curves.

SGLang makes transformers' model on the meta device, replaces its linear layers and norms by its own, and loads the
weights. Curves of activations, input curves and those of GPT-2's transposed layers are put in before the replacement;
`quantization.py` gives SGLang's linear layers theirs.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from sglang.srt.distributed.utils import get_group_rank_size
from sglang.srt.layers.linear import RowParallelLinear
from sglang.srt.layers.utils import PPMissingLayer
from sglang.srt.models.transformers import TransformersBase
from torch import Tensor, nn

from kansformer.conversion.rebuild import narrow_as_recorded
from kansformer.errors import CheckpointError, ConfigError
from kansformer.nn.fused_gate import fuse_gate
from kansformer.serving.backbone import place_slot, plain_config
from kansformer.serving.checkpoint import Rank, ServedCurves
from kansformer.serving.modules import serve_module
from kansformer.serving.sglang.quantization import CurveConfig
from kansformer.sites import find_sites
from kansformer.sites.site import Slot, parent_of


class CurvesMixin:
    """Before one of the backend's classes: the same model with a checkpoint's curves."""

    model: Any
    quant_config: CurveConfig
    weight_mapper: Any

    def __init__(self, *, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        if not isinstance(quant_config, CurveConfig):
            raise ConfigError(
                f"A converted checkpoint is served with its own quantization, not with {quant_config!r:.80}. Leave "
                "--quantization out."
            )
        quant_config.has_model = True
        with plain_config(config):
            super().__init__(config=config, quant_config=quant_config, prefix=prefix)  # type: ignore[call-arg]

    @property
    def curves(self) -> ServedCurves:
        """The checkpoint's curves."""
        return self.quant_config.curves

    def recursive_replace(self) -> None:
        """SGLang's replacement of layers, with curves before it and their split after it."""
        narrow_as_recorded(self.model, self.curves.record)
        sites = [site.slots for site in find_sites(self.model)]
        downs = {slots["act"].path: slots.get("down") for slots in sites if "act" in slots}
        slots = self.curves.record.slots
        placed = [slot for slot in slots if place_slot(self.model, slot, self.curves, PPMissingLayer)]
        for slot in placed:
            if slot.name == "act":
                owner, name = parent_of(slot.path)
                fuse_gate(self.model.get_submodule(owner), name)
        super().recursive_replace()  # type: ignore[misc]
        for slot in placed:
            down = downs.get(slot.path)
            self._serve(slot, None if down is None else self.model.get_submodule(down.path))

    def _serve(self, slot: Slot, down: nn.Module | None) -> None:
        """Give a placed module this rank's curves; `down` is the layer after an activation."""
        is_parallel = isinstance(down, RowParallelLinear) and down.input_is_parallel
        rank = Rank(*get_group_rank_size(down.tp_group)) if is_parallel else Rank()  # type: ignore[union-attr]
        serve_module(
            self.model.get_submodule(slot.curve_path),
            slot,
            self.curves,
            by="inputs" if rank.count > 1 else None,
            rank=rank,
            dtype=torch.get_default_dtype(),  # SGLang sets it, and the default device, while it makes a model
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """SGLang's loading, with curves checked and stored on the way."""
        loaded = super().load_weights(self.curves.loading(weights, self._rename))  # type: ignore[misc]
        return loaded | self.curves.names_of(self)  # type: ignore[arg-type]

    def _rename(self, name: str) -> str | None:
        """The model's name of a weight in the files; None of a weight that SGLang leaves out."""
        return next(iter(self.weight_mapper.apply_list([name])), None)

    def should_apply_lora(self, module_name: str) -> bool:
        """SGLang's question about each module when it is to take adapters.

        Raises:
            CheckpointError: always; adapters beside curves were never tried.
        """
        raise CheckpointError(
            "SGLang does not serve LoRA adapters on a converted checkpoint. Leave --enable-lora and --lora-paths out, "
            "merge the adapter into the checkpoint, or serve both with vLLM."
        )


@cache
def with_curves(base: type[nn.Module]) -> type[nn.Module]:
    """A class of the backend, under the same name, with curves; a class that has them stays as it is.

    Raises:
        CheckpointError: SGLang chose a class that does not belong to the backend.
    """
    if issubclass(base, CurvesMixin):
        return base
    if not issubclass(base, TransformersBase):
        raise CheckpointError(
            f"SGLang serves this converted checkpoint by {base.__name__}, which cannot take curves; only its "
            "Transformers backend can."
        )
    return type(base.__name__, (CurvesMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
