"""The input and output of one feed-forward network, to be recorded or replaced while its model runs.

Shape letters: d model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from kansformer.errors import SlotError
from kansformer.nn.hooks import forget_compiled
from kansformer.nn.transaction import undone_afterwards
from kansformer.sites.find import find_sites
from kansformer.sites.site import Site

Interception = Callable[[Tensor, Tensor], Tensor | None]


def site_of_layer(model: nn.Module, layer: int) -> Site:
    """The feed-forward network of a layer.

    Raises:
        SlotError: the layer does not exist, has several networks, or one without linear layers of its own.
    """
    sites = find_sites(model)
    here = [site for site in sites if site.layer == layer]
    if not here:
        numbers = sorted({site.layer for site in sites})
        choices = (
            f"Choose from {numbers[0]} to {numbers[-1]}"
            if numbers
            else "None was found in the model; revert it first if it is converted"
        )
        raise SlotError(f"Layer {layer} has no feed-forward network. {choices}.")
    if len(here) > 1 or not {"up", "down"} <= here[0].slots.keys():
        paths = ", ".join(site.name for site in here)
        raise SlotError(
            f"Layer {layer} is {paths}: the input and output of one dense network are needed, not of experts."
        )
    return here[0]


@contextmanager
def intercept(model: nn.Module, site: Site, function: Interception) -> Iterator[nn.Module]:
    """Call a function with the input and the output (..., d) of a network, whenever it has run.

    The output is that of its last linear layer, before any dropout, norm or residual.

    Args:
        model: that the site is of.
        site: with the slots `up` and `down`.
        function: gives the output that takes the place of the network's, or None to leave it.

    Yields:
        The same model.
    """
    inputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple) -> None:
        inputs[:] = args[:1]

    def call(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        return function(inputs.pop(), output)

    forget_compiled()
    with undone_afterwards() as hooks:
        hooks.callback(model.get_submodule(site.slots["up"].path).register_forward_pre_hook(keep).remove)
        hooks.callback(model.get_submodule(site.slots["down"].path).register_forward_hook(call).remove)
        yield model
