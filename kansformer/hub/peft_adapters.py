"""PEFT's adapters around layers whose input goes through curves: they see what the weights see.

PEFT has a table of layer types for one `LoraConfig` object at a time, which users would have to fill again for every
config and for every adapter they load. torch reports every module that is assigned to another one, so each adapter is
prepared here at the moment it takes a layer in, whichever of PEFT's methods and functions makes it.
"""

from functools import cache
from typing import cast

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from kansformer.import_hooks import after_import
from kansformer.nn.adapted import Adapter, adapt_curves, has_curves
from kansformer.sites.surgery import INPUT_IS_BENT, apply_input_curve, has_input_curve


def prepare_adapters() -> None:
    """Prepare every adapter that is put around a layer from now on, once PEFT has been imported."""
    after_import("peft.tuners.tuners_utils", _watch_modules)


@cache
def _watch_modules() -> None:
    """Once in a process."""
    register_module_module_registration_hook(prepare_adapter)


def prepare_adapter(adapter: nn.Module, name: str, child: nn.Module | None) -> None:
    """torch's hook for an assigned child: where an adapter takes in a layer with curves, or the host of an input curve.

    Adapters of single parameters (`target_parameters`) are left alone: they call the layer with changed parameters.
    """
    if name != "base_layer" or child is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
    if not isinstance(adapter, BaseTunerLayer) or not (has_curves(layer) or has_input_curve(layer)):
        return
    from peft.tuners.lora.layer import ParamWrapper

    if isinstance(adapter, ParamWrapper):
        return
    if has_curves(layer):
        adapt_curves(adapter)
    if has_input_curve(layer):
        adapter.register_forward_pre_hook(bend_input, with_kwargs=True)


def bend_input(adapter: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of an adapter around the host of an input curve: the adapter's input goes through the curve."""
    host = cast(Adapter, adapter).get_base_layer()
    if INPUT_IS_BENT in kwargs or not has_input_curve(host):
        return None
    args, kwargs = apply_input_curve(host, args, kwargs)
    return args, kwargs | {INPUT_IS_BENT: True}
