"""The curve slots of a converted model: which modules have curves, under the names of site and slot."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kansformer.conversion.checkpoint import record_of
from kansformer.conversion.record import base_prefix
from kansformer.errors import ConversionStateError, SlotError
from kansformer.nn.curves import CurvedModule, curved_modules
from kansformer.sites.surgery import INPUT_CURVE


@dataclass(frozen=True)
class EdgeRef:
    """One edge of a model.

    Args:
        site: path of the module that owns the slot, or whose input is bent.
        slot: `input`, `up`, `gate`, `act` or `down`; in a model that was not converted, the attribute's name.
        input: number of the input channel.
        output: number of the output channel; that of the input for the slots without weights.
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
        site: path of the module that owns the slot, or whose input is bent.
        name: `input`, `up`, `gate`, `act` or `down`; in a model that was not converted, the attribute's name.
        path: of the module with the curves.
        module: that module.
    """

    site: str
    name: str
    path: str
    module: CurvedModule

    @property
    def has_weights(self) -> bool:
        """Whether every input has an edge to every output; else it has one, to the output of its own number."""
        return hasattr(self.module, "out_features")

    @property
    def num_outputs(self) -> int:
        """Edges of every input: the layer's outputs, or 1 where there are no weights."""
        return getattr(self.module, "out_features", 1)

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


def without_adapters(model: nn.Module) -> nn.Module:
    """The model beneath peft's adapters, or the model itself."""
    get_base_model: Any = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def find_curve_slots(model: nn.Module) -> list[CurveSlot]:
    """All slots with curves, in the model's order.

    Raises:
        ConversionStateError: the model has none.
    """
    inner = without_adapters(model)
    record = record_of(inner)
    names = {}
    if record is not None:
        outer = next(path for path, module in model.named_modules() if module is inner)
        prefix = (f"{outer}." if outer else "") + base_prefix(inner)
        for recorded in record.slots:
            path = prefix + recorded.path
            names[f"{path}.{INPUT_CURVE}" if recorded.name == "input" else path] = recorded.name
    places = []
    for path, module in curved_modules(model):
        adapted = path.removesuffix(".base_layer")  # where an adapter stands around it
        owner, _, attribute = adapted.rpartition(".")
        slot = "input" if attribute == INPUT_CURVE else names.get(adapted, attribute)
        places.append(CurveSlot(owner, slot, path, module))
    if not places:
        raise ConversionStateError(
            "The model has no curves to read. Convert it first, by kansformer.convert(model), or load a converted one."
        )
    return places


def find_curve_slot(model: nn.Module, site: str, slot: str) -> CurveSlot:
    """The slot of that name.

    Raises:
        SlotError: there is no such site, or it has no curves in that slot.
    """
    places = find_curve_slots(model)
    at_site = [place for place in places if place.site == site]
    if not at_site:
        sites = list(dict.fromkeys(place.site for place in places))
        shown = ", ".join(map(repr, sites[:4])) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")
        raise SlotError(f"No site with curves is at {site!r}. Choose from: {shown}.")
    for place in at_site:
        if place.name == slot:
            return place
    raise SlotError(f"{site} has no curves in {slot!r}. Choose from: {', '.join(place.name for place in at_site)}.")
