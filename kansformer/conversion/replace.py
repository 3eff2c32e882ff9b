"""Replace feed-forward networks by narrower ones with curves: other functions, to be trained or distilled.

Shape letters: d model width, m hidden channels before, H hidden channels kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kansformer.checks import check_choice, check_seed
from kansformer.config import KANConfig
from kansformer.conversion.convert import execute_plan
from kansformer.conversion.narrow import linear_layers, narrow_site
from kansformer.conversion.plan import check_model, plan_conversion
from kansformer.conversion.record import uncompiled
from kansformer.errors import ConfigError, DataError
from kansformer.nn.eval_mode import run_batches
from kansformer.nn.transaction import transaction, undone_afterwards
from kansformer.sites import Site
from kansformer.sites.parts import is_conv1d

Start = Literal["channels", "random"]


def replace_feed_forwards(
    model: nn.Module,
    config: KANConfig,
    *,
    hidden: int,
    inputs: Tensor | Mapping[str, Tensor] | Iterable | None = None,
    start: Start = "channels",
    seed: int = 0,
) -> nn.Module:
    """Replace feed-forward networks by narrower ones with curves, in place.

    Unlike `convert` this changes what the model computes: the new networks are to be trained, for instance by
    `kansformer.training.distill.distill_feed_forwards`. Their curves start straight. It cannot be reverted.

    Args:
        model: a transformer with feed-forward networks of two or three linear layers.
        config: which curves, in which slots, and in which layers the networks are replaced.
        hidden: their new hidden width H, at most the old one.
        inputs: a batch for the model, or an iterable of batches, by which the hidden channels are compared.
        start: `channels` keeps the hidden channels that add most to the output: with `inputs` by the root mean square
            of the channel times the norm of its weights in the last layer (by far the better start), else by the
            product of its weights' norms in all layers. `random` draws all weights as `nn.Linear` does.
        seed: of random weights.

    Returns:
        The same model. `plan_conversion(model, config, hidden=hidden)` says what it will cost.

    Raises:
        ConversionStateError: it is converted already, has adapters, or is quantised.
        NoSiteError: it has no feed-forward network.
        SlotError: a network in these layers is of another kind, or none has one of the slots.
        ConfigError: the config asks for a layer or group that is not there, or a setting is out of range.
        DataError: the inputs do not reach a network, or are not finite there.
        ProofError: a block does not run with that width. The model is left as it was after any error.
    """
    given, model = model, uncompiled(model)
    check_model(model)
    check_choice("start", start, get_args(Start))
    if inputs is not None and start == "random":
        raise ConfigError("inputs say which hidden channels to keep, and start='random' keeps none. Leave one out.")
    with transaction(model):
        plan = plan_conversion(model, config, hidden=hidden)
        sites = plan.sites
        scores = weigh_channels(model, sites) if inputs is None else measure_channels(model, sites, inputs)
        generator = torch.Generator().manual_seed(check_seed(seed))
        for site in sites:
            narrow_site(model, site, largest(scores[site.path], hidden))
            if start == "random":
                _draw_weights(model, site, generator)
        execute_plan(model, plan, verify=True, widths={site.path: site.hidden for site in sites})
        return given


def largest(score_m: Tensor, hidden: int) -> Tensor:
    """Numbers of the H hidden channels with the largest scores, in the order in which they stand there."""
    return torch.arange(hidden) if score_m.is_meta else score_m.topk(hidden).indices.sort().values


def weigh_channels(model: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Scores (m) of the hidden channels, by path of the site: the product of their weights' norms in all layers."""
    norms = {site.path: _weight_norms(model, site) for site in sites}
    return {path: torch.stack([*norms_m.values()]).prod(dim=0) for path, norms_m in norms.items()}


def measure_channels(
    model: nn.Module, sites: Sequence[Site], inputs: Tensor | Mapping[str, Tensor] | Iterable
) -> dict[str, Tensor]:
    """Scores (m) of the hidden channels by path of the site: their root mean square in the last layer's input, times
    the norm of their weights there: what each adds to the network's output.

    Raises:
        DataError: no input reaches a site, or one is not finite.
    """
    sums: dict[str, Tensor] = {}

    def add(path: str, args: tuple) -> None:
        squares_m = args[0].detach().reshape(-1, args[0].shape[-1]).float().square().sum(dim=0)
        sums[path] = sums[path] + squares_m if path in sums else squares_m

    with undone_afterwards() as hooks:
        for site in sites:
            layer = linear_layers(model, site)["down"]
            handle = layer.register_forward_pre_hook(lambda module, args, path=site.path: add(path, args))
            hooks.callback(handle.remove)
        run_batches(model, inputs)
    for site in sites:
        if site.path not in sums:
            raise DataError(f"No input reached {site.name}, so its channels cannot be compared.")
        if not sums[site.path].isfinite().all():
            raise DataError(f"The hidden channels of {site.name} are not finite on these inputs.")
    return {site.path: sums[site.path].sqrt() * _weight_norms(model, site)["down"] for site in sites}


def _weight_norms(model: nn.Module, site: Site) -> dict[str, Tensor]:
    """Norms (m) of each hidden channel's weights in float32, by slot name of the linear layers."""
    return {
        name: torch.linalg.vector_norm(layer.weight.detach().float(), dim=int((name == "down") == is_conv1d(layer)))
        for name, layer in linear_layers(model, site).items()
    }


@torch.no_grad()
def _draw_weights(model: nn.Module, site: Site, generator: torch.Generator) -> None:
    for name, layer in linear_layers(model, site).items():
        bound = site.slots[name].features ** -0.5
        for parameter in filter(lambda parameter: parameter is not None, (layer.weight, layer.bias)):
            drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            parameter.copy_(drawn)
