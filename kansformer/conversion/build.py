"""Build the module that goes into a slot."""

from typing import Any

import torch
from torch import Tensor, nn

from kansformer.errors import SlotError
from kansformer.nn import KANLinear, LearnedActivation
from kansformer.nn.base import identity
from kansformer.nn.curves import CurveSpec, curve_dtype, reset_curves
from kansformer.sites import Site
from kansformer.sites.parts import is_conv1d
from kansformer.sites.site import Slot, get_slot_target

# The mixing matrices of low-rank edges are random; their own generator leaves the global random state alone.
SEED = 0


def build_slot(model: nn.Module, site: Site, slot: Slot, spec: CurveSpec) -> nn.Module:
    """The new module of a slot with straight curves, sharing the original's weights. Nothing is replaced yet.

    Raises:
        SlotError: what stands in the slot is not a layer that can take curves.
    """
    if slot.name in ("input", "act"):
        like = reference_tensor(model, site)
        function = identity if slot.name == "input" else get_slot_target(model, slot.path)
        module: Any = LearnedActivation.from_activation(
            function, slot.features, spec, device=like.device, dtype=curve_dtype(like)
        )
    else:
        layer = get_slot_target(model, slot.path)
        if is_conv1d(layer):
            from kansformer.conversion.conv1d import KANConv1D  # imports transformers' half second of helpers

            module = KANConv1D.from_conv1d(layer, spec)
        elif isinstance(layer, nn.Linear):
            module = KANLinear.from_linear(layer, spec)
        else:
            raise SlotError(f"{slot.path} is a {type(layer).__name__}, which cannot take curves; a linear layer can.")
    if not module.coefficients.is_meta:
        reset_curves(module, generator=torch.Generator(module.coefficients.device).manual_seed(SEED))
    return module


def reference_tensor(model: nn.Module, site: Site) -> Tensor:
    """A weight of the site, whose device and dtype its activation curves take."""
    slot = site.slots.get("down")
    owner = model.get_submodule(slot.path if slot else site.path)
    tensors = [*owner.parameters(), *model.parameters()]
    return next((t for t in tensors if t.is_floating_point()), tensors[0])
