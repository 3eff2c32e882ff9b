"""The outputs of a model's feed-forward networks, to be recorded or replaced while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from kansformer.conversion.channels import converted_sites
from kansformer.conversion.record import record_of, uncompiled
from kansformer.conversion.slots import find_adapter, find_curve_slots
from kansformer.errors import DataError
from kansformer.nn.adapted import module_called_at
from kansformer.nn.curves import curved_modules
from kansformer.nn.transaction import undone_afterwards
from kansformer.sites import Site, find_sites

Intervention = Callable[[str, Tensor], Tensor | None]


@dataclass(frozen=True)
class Layer:
    """A feed-forward network; in a model of one's own, or with adapters around its layers, a module with curves.

    Args:
        path: of the network or module.
        output: the module whose output is the network's: its last linear layer, so before any dropout, norm or
            residual; of a stack of experts the stack.
        curve_paths: of the places in it that can have curves.
    """

    path: str
    output: nn.Module
    curve_paths: frozenset[str]


def find_layers(model: nn.Module) -> dict[str, Layer]:
    """The layers of a model by path, in the model's order; of a compiled model by the paths of the one inside.

    Raises:
        NoSiteError: the model has neither feed-forward networks nor curves.
    """
    model = uncompiled(model)
    if any(True for _ in curved_modules(model)) and (record_of(model) is None or find_adapter(model) is not None):
        slots = find_curve_slots(model)
        return {slot.path: Layer(slot.path, slot.called, frozenset({slot.path})) for slot in slots}
    sites = find_sites(model) if record_of(model) is None else converted_sites(model)
    return {site.path: _layer(model, site) for site in sites}


def _layer(model: nn.Module, site: Site) -> Layer:
    output = site.slots["down"].path if "down" in site.slots else site.path
    curve_paths = frozenset(slot.curve_path for slot in site.slots.values())
    return Layer(site.path, module_called_at(model, output), curve_paths)


@contextmanager
def intervene(layers: Mapping[str, Layer], function: Intervention) -> Iterator[None]:
    """Call a function with the path and the output of each layer, (..., O), whenever one has run.

    Args:
        layers: by path.
        function: gives the output that takes the place of the layer's, or None to leave it.

    Raises:
        DataError: in the model's forward, a layer returns something other than a tensor.
    """

    def hook_of(path: str) -> Callable[[nn.Module, tuple, object], Tensor | None]:
        def hook(module: nn.Module, args: tuple, output: object) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise DataError(f"The layer at {path!r} returns a {type(output).__name__}, not a tensor.")
            return function(path, output)

        return hook

    with undone_afterwards() as undo:
        for path, layer in layers.items():
            undo.callback(layer.output.register_forward_hook(hook_of(path)).remove)
        yield
