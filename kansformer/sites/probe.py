"""Random arguments that a block or a layer can be called with on its own."""

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kansformer.sites.parts import stacks_of
from kansformer.sites.site import Site

BATCH, TOKENS = 2, 3


def probes(block: nn.Module, site: Site, like: Tensor, generator: torch.Generator) -> Iterator[tuple]:
    """Candidate argument tuples for a site or a layer around it, the likeliest first, with dtype and device of `like`.

    The caller takes the first that the block accepts. The generator is on the CPU.
    """

    def tokens(*shape: int) -> Tensor:
        return torch.randn(*shape, site.width, generator=generator, device="cpu").to(like)

    if site.kind == "experts":
        yield from _routed(block, tokens(BATCH * TOKENS), generator)
    x = tokens(BATCH, TOKENS)
    required = _required_arguments(block)
    yield (x,) + (None,) * (required - 1)
    yield (x,) + (tokens(BATCH, TOKENS),) * max(1, required - 1)  # residual added inside the block (BLOOM, MPT)
    yield (tokens(BATCH * TOKENS),)


def _routed(block: nn.Module, x_ND: Tensor, generator: torch.Generator) -> Iterator[tuple]:
    experts = next((p.shape[0] for p in block.parameters() if p.ndim == 3), 0) if stacks_of(block) else 0
    if experts:
        chosen = min(2, experts)
        index = torch.randint(experts, (x_ND.shape[0], chosen), generator=generator, device="cpu").to(x_ND.device)
        weights = torch.rand(x_ND.shape[0], chosen, generator=generator, device="cpu").to(x_ND)
        yield x_ND, index, weights
        yield x_ND, weights, index
    yield (x_ND,)


def _required_arguments(block: nn.Module) -> int:
    """Number of positional arguments without a default in a block's forward; 1 where it has no signature."""
    try:
        parameters = list(inspect.signature(block.forward).parameters.values())
    except (TypeError, ValueError):
        return 1
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return max(1, sum(p.default is p.empty for p in plain))
