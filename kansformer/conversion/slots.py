"""The curve slots of a converted model: which modules have curves, under the names of site and slot."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from kansformer.conversion.record import ConversionRecord, get_setting, record_of, rooted_slot, uncompiled
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError, SlotError
from kansformer.nn.adapted import module_called_at
from kansformer.nn.curve_checks import check_own_parameters
from kansformer.nn.curves import CURVE_PARAMETERS, CurvedModule, curved_modules, has_curves
from kansformer.nn.sharing import check_alike, find_difference, tie_curves
from kansformer.sites.site import INPUT_CURVE, Slot, join_path, parent_of

COPY_FOR_ADAPTER = re.compile(r"\.(original_module|modules_to_save\.(?P<adapter>[^.]+))(?=\.|$)")
"""In the paths of what PEFT's `modules_to_save` keeps of a module: the original, or the copy of an adapter."""


@dataclass(frozen=True)
class EdgeRef:
    """One edge of a model.

    Args:
        site: path of the module that owns the slot, or whose input goes through curves.
        slot: `input`, `up`, `gate`, `act` or `down`; in a model that was not converted, the attribute's name.
        input: number of the input channel.
        output: number of the output channel; that of the input for the slots without weights.

    Examples:
        >>> from kansformer.interp import EdgeRef
        >>> edge = EdgeRef("model.layers.3.mlp", "act", input=17, output=17)
        >>> str(edge)
        'model.layers.3.mlp/act[17->17]'
    """

    site: str
    slot: str
    input: int
    output: int

    def __str__(self) -> str:
        return f"{self.site}/{self.slot}[{self.input}->{self.output}]"


@dataclass(frozen=True)
class CurveSlot:
    """A slot that has curves.

    Args:
        site: path of the module that owns the slot, or whose input goes through curves.
        name: `input`, `up`, `gate`, `act` or `down`; in a model that was not converted, the attribute's name.
        path: of the module with the curves.
        module: that module.
        called: the module whose inputs and outputs are the slot's: that module, or the adapter around it.
    """

    site: str
    name: str
    path: str
    module: CurvedModule
    called: nn.Module

    @property
    def has_weights(self) -> bool:
        """Whether every input has an edge to every output; else it has one, to the output of its own number."""
        return hasattr(self.module, "out_features")

    @property
    def num_outputs(self) -> int:
        """Edges of every input: the layer's outputs, or 1 where there are no weights."""
        return cast(int, self.module.out_features) if self.has_weights else 1

    @property
    def num_edges(self) -> int:
        """Edges of the slot."""
        return self.module.in_features * self.num_outputs

    def edges(self) -> list[EdgeRef]:
        """All edges, inputs first, then outputs."""
        return [
            EdgeRef(self.site, self.name, i, o)
            for i in range(self.module.in_features)
            for o in (range(self.num_outputs) if self.has_weights else (i,))
        ]

    def edge_numbers(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Places in `edges` of the edges from these inputs to these outputs."""
        return inputs * self.num_outputs + outputs if self.has_weights else inputs


def find_curve_slots(model: nn.Module) -> list[CurveSlot]:
    """All slots with curves, in the model's order; of a compiled model by the names of the one inside.

    Raises:
        ConversionStateError: the model has none.
    """
    model = uncompiled(model)
    inner = without_adapters(model)
    outer = next(path for path, module in model.named_modules() if module is inner)
    record = record_of(inner)
    recorded = [rooted_slot(inner, slot) for slot in record.slots] if record is not None else []
    names = {join_path(outer, slot.curve_path): slot.name for slot in recorded}
    slots = []
    for path, module in curved_modules(model):
        if not _is_in_use(model, path):
            continue
        adapted = _path_without_adapters(path)
        owner, attribute = parent_of(adapted)
        name = names.get(adapted, "input" if attribute == INPUT_CURVE else attribute)
        slots.append(CurveSlot(owner, name, path, module, module_called_at(model, path)))
    if not slots:
        raise ConversionStateError(
            "The model has no curves to read. Convert it first, by kansformer.convert(model), or load a converted one."
        )
    return slots


def find_curve_slot(model: nn.Module, site: str, slot: str) -> CurveSlot:
    """The slot of that name.

    Raises:
        SlotError: there is no such site, or it has no curves in that slot.
    """
    slots = find_curve_slots(model)
    by_name = {other.name: other for other in slots if other.site == site}
    if not by_name:
        sites = list(dict.fromkeys(other.site for other in slots))
        shown = ", ".join(map(repr, sites[:4])) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")
        raise SlotError(f"No site with curves is at {site!r}. Choose from: {shown}.")
    if slot not in by_name:
        raise SlotError(f"{site} has no curves in {slot!r}. Choose from: {', '.join(by_name)}.")
    check_in_memory([by_name[slot]])
    return by_name[slot]


def choose_curve_slots(
    model: nn.Module, names: Collection[tuple[str, str]] | None = None
) -> dict[tuple[str, str], CurveSlot]:
    """Slots by (site, slot), in the model's order.

    Args:
        model: with curves.
        names: of the slots that are wanted; None is all.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: one of the slots does not exist.
    """
    slots = {(slot.site, slot.name): slot for slot in find_curve_slots(model)}
    for key in names or ():
        if key not in slots:
            raise ConfigError(f"{key!r} has no curves. Choose from {len(slots)}, such as {next(iter(slots))}.")
    chosen = {key: slot for key, slot in slots.items() if names is None or key in names}
    check_in_memory(chosen.values())
    return chosen


def _path_without_adapters(path: str) -> str:
    return ".".join(part for part in COPY_FOR_ADAPTER.sub("", path).split(".") if part != "base_layer")


def _is_in_use(model: nn.Module, path: str) -> bool:
    """Whether a module is called, as far as PEFT decides: it keeps copies for adapters beside the original."""
    for match in COPY_FOR_ADAPTER.finditer(path):
        owner: Any = model.get_submodule(path[: match.start()])
        if not hasattr(owner, "active_adapters"):
            continue
        active = [name for name in owner.active_adapters if name in owner.modules_to_save]
        if (match["adapter"] or None) != (None if owner.disable_adapters or not active else active[0]):
            return False
    return True


def check_in_memory(slots: Iterable[CurveSlot]) -> None:
    """Check that the curves of slots can be read.

    Raises:
        ConversionStateError: accelerate keeps their values elsewhere while they are not used.
    """
    for slot in slots:
        if slot.module.coefficients.is_meta and any(hasattr(m, "_hf_hook") for m in (slot.module, slot.called)):
            raise ConversionStateError(
                f"accelerate keeps the curves of {slot.path} elsewhere while they are not used, so they cannot be "
                "read. Load the model without offloading."
            )


def check_not_dispatched(model: nn.Module, otherwise: str) -> None:
    """Raise a ConversionStateError if accelerate moves the weights of a model; `otherwise` ends the sentence."""
    for path, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            raise ConversionStateError(
                f"accelerate moves the weights of {path or 'the model'} between devices, so {otherwise}"
            )


def recorded_modules(model: nn.Module, record: ConversionRecord) -> list[tuple[Slot, Any]]:
    """The slots of a converted model's record, with paths from its root, and their modules with curves."""
    slots = [rooted_slot(model, slot) for slot in record.slots]
    # An adapter takes the path of the module that it is around; layers that are shared have one path of several here.
    curved = {_path_without_adapters(path): module for path, module in curved_modules(model)}
    return [(slot, curved.get(slot.curve_path) or model.get_submodule(slot.curve_path)) for slot in slots]


def check_places(model: nn.Module, record: ConversionRecord) -> None:
    """Check that a model's curves are at the places of its record.

    Raises:
        CheckpointError: curves are missing, or there are more.
    """
    otherwise = (
        ", so a checkpoint of it could not be loaded. Change the layers of the plain model, and convert it then."
    )
    recorded = recorded_modules(model, record)
    for slot, module in recorded:
        if not has_curves(module):
            raise CheckpointError(f"{slot.curve_path} has lost the curves that the model's config speaks of{otherwise}")
    known = {id(module) for _, module in recorded}
    for path, module in curved_modules(model):
        if id(module) not in known:
            raise CheckpointError(f"{path} has curves that the model's config does not speak of{otherwise}")


def tie_and_freeze(model: nn.Module, record: ConversionRecord) -> None:
    """Have layers share the curves that the record says they share, and freeze curves that are not trained.

    Raises:
        ConfigError: curves that are trained together differ in shape, dtype or device.
        CheckpointError: they have different values.
    """
    if record.is_fixed:
        for _, module in recorded_modules(model, record):
            for name in CURVE_PARAMETERS:
                if name in module._parameters:
                    module._parameters[name].requires_grad_(False)
    for modules in shared_modules(model, record):
        try:
            check_alike(modules)
        except ConfigError:
            if not record.is_fixed:
                raise
            continue  # a fixed function may be there several times
        check_equal(modules)
        tie_curves(modules)


def shared_modules(model: nn.Module, record: ConversionRecord) -> list[dict[str, CurvedModule]]:
    """The modules, by path, that are to have one set of curves, slot by slot; none for share='slot'."""
    if record.config.share != "model":
        return []
    recorded = recorded_modules(model, record)
    return [{slot.curve_path: module for slot, module in recorded if slot.name == name} for name in record.config.slots]


def check_equal_copies(model: nn.Module, record: ConversionRecord) -> None:
    """Check that modules that share their curves have equal ones, also where they have copies of them.

    Raises:
        CheckpointError: they differ.
    """
    for modules in shared_modules(model, record):
        check_equal(modules)


def check_equal(modules: Mapping[str, CurvedModule]) -> None:
    """Check that the curves of modules, by path, have the same values.

    Raises:
        CheckpointError: they differ.
    """
    if (path := find_difference(modules)) is not None:
        raise CheckpointError(
            f"The layers share their curves (share='model'), and those at {next(iter(modules))} and {path} are "
            "different. The checkpoint was changed after it was saved, or copies were trained apart, for instance "
            "by PEFT's modules_to_save."
        )


def without_adapters(model: nn.Module) -> nn.Module:
    """The model that peft's adapters were put around; the model itself where there are none."""
    get_base_model = get_setting(model, "get_base_model")
    return model if get_base_model is None else get_base_model()


def check_no_adapters(model: nn.Module) -> None:
    """Refuse a model with curves that has an adapter around it or any of its layers, or computes their parameters.

    Raises:
        ConversionStateError: there is one.
    """
    check_own_parameters(model, "Curves cannot be taken out or read")
    if find_adapter(model) is not None:
        raise ConversionStateError("The model has adapters around its layers. Merge them first, by merge_and_unload().")


def check_no_adapters_before_curves(model: nn.Module) -> None:
    """Refuse curves for a model that has an adapter around it or around any of its layers.

    Its layers are not where a feed-forward network has them, and what PEFT saves of it would have no curves.

    Raises:
        ConversionStateError: there is one.
    """
    path = find_adapter(model)
    if path is not None:
        where = f", for instance at {path}" if path else " around it"
        raise ConversionStateError(
            f"The model has adapters of PEFT{where}. Convert first, then add the adapter. "
            "What can be converted is the plain model, or what merge_and_unload() returns."
        )


def find_adapter(model: nn.Module) -> str | None:
    """Path of the first of PEFT's modules in a model, empty for the model itself; None where there is none."""
    if without_adapters(model) is not model:
        return ""
    if "peft.tuners.tuners_utils" not in sys.modules:
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    kinds = (BaseTunerLayer, ModulesToSaveWrapper)
    return next((path for path, module in model.named_modules() if isinstance(module, kinds)), None)
