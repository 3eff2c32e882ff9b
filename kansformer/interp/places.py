"""Where a model's curves are, by site and slot: the names under which people read them."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from kansformer.conversion.checkpoint import record_of
from kansformer.conversion.record import base_prefix
from kansformer.errors import ConversionStateError, SlotError
from kansformer.nn.curves import curved_modules
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
class Place:
    """A slot that has curves.

    Args:
        site: path of the module that owns the slot, or whose input is bent.
        slot: its name.
        path: of the module with the curves.
        module: that module (`Curved`).
    """

    site: str
    slot: str
    path: str
    module: Any

    @property
    def num_outputs(self) -> int:
        """Edges of every input: the layer's outputs, or 1 where there are no weights."""
        return getattr(self.module, "out_features", 1)


def find_places(model: nn.Module) -> list[Place]:
    """All slots with curves, in the model's order.

    Raises:
        ConversionStateError: the model has none.
    """
    record = record_of(model)
    names = {}
    if record is not None:
        prefix = base_prefix(model)
        for recorded in record.slots:
            path = prefix + recorded.path
            names[f"{path}.{INPUT_CURVE}" if recorded.name == "input" else path] = recorded.name
    places = []
    for path, module in curved_modules(model):
        owner, _, attribute = path.rpartition(".")
        slot = "input" if attribute == INPUT_CURVE else names.get(path, attribute)
        places.append(Place(owner, slot, path, module))
    if not places:
        raise ConversionStateError(
            "The model has no curves to read. Convert it first, by kansformer.convert(model), or load a converted one."
        )
    return places


def find_place(model: nn.Module, site: str, slot: str) -> Place:
    """The slot of that name.

    Raises:
        SlotError: there is no such site, or it has no curves in that slot.
    """
    places = find_places(model)
    at_site = [place for place in places if place.site == site]
    if not at_site:
        sites = list(dict.fromkeys(place.site for place in places))
        shown = ", ".join(sites[:4]) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")
        raise SlotError(f"No site with curves is at {site!r}. Choose from: {shown}.")
    for place in at_site:
        if place.slot == slot:
            return place
    raise SlotError(f"{site} has no curves in {slot!r}. Choose from: {', '.join(place.slot for place in at_site)}.")
