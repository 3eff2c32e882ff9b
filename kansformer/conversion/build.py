"""Build the module that goes into a slot."""

import torch
from torch import Tensor, nn

from kansformer.config import WEIGHTLESS_SLOTS
from kansformer.errors import SlotError
from kansformer.nn import KANLinear, LearnedActivation
from kansformer.nn.base import identity
from kansformer.nn.curves import CurveSpec, curve_dtype, reset_curves
from kansformer.sites.parts import is_conv1d
from kansformer.sites.site import Slot, get_slot_target, parent_of

# The mixing matrices of low-rank edges are random; their own generator leaves the global random state alone.
SEED = 0


def build_slot(model: nn.Module, slot: Slot, spec: CurveSpec) -> nn.Module:
    """The new module of a slot with straight curves, sharing the original's weights. Nothing is replaced yet.

    Activation curves get the device and dtype of the first weight of the module that they stand in.

    Raises:
        SlotError: the layer in the slot cannot take curves.
    """
    module = _with_curves(model, slot, spec)
    if not module.coefficients.is_meta:
        reset_curves(module, generator=torch.Generator(module.coefficients.device).manual_seed(SEED))
    return module


def _with_curves(model: nn.Module, slot: Slot, spec: CurveSpec):
    if slot.name in WEIGHTLESS_SLOTS:
        like = _first_weight(model, slot.path if slot.name == "input" else parent_of(slot.path)[0])
        function = identity if slot.name == "input" else get_slot_target(model, slot.path)
        return LearnedActivation.from_activation(
            function, slot.features, spec, device=like.device, dtype=curve_dtype(like)
        )
    layer = get_slot_target(model, slot.path)
    if is_conv1d(layer):
        from kansformer.conversion.conv1d import KANConv1D  # imports transformers' half second of helpers

        return KANConv1D.from_conv1d(layer, spec)
    if isinstance(layer, nn.Linear):
        return KANLinear.from_linear(layer, spec)
    raise SlotError(f"{slot.path} is a {type(layer).__name__}, which cannot take curves; a linear layer can.")


def _first_weight(model: nn.Module, path: str) -> Tensor:
    tensors = [*model.get_submodule(path).parameters(), *model.parameters()]
    return next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0])
