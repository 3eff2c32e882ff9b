"""What is measured: the blocks of this package, and the plain blocks that they are compared with.

Shape letters: N tokens, D model width, M hidden width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kansformer.errors import ConfigError
from kansformer.nn import GatedKANFeedForward, KANFeedForward
from speed.sizes import Size

WIDE, CLOSE = (-4.0, 4.0), (-2.0, 2.0)
# Tokens. Of 64 to 1024, 512 was fastest at S and L in forward, and as fast as 1024 in backward; 64 takes 3 to 5 times
# as long there, because every chunk adds to the whole gradient of the weights.
CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One thing to measure.

    Args:
        name: of the row.
        build: makes the block on the CPU in float32, with curves that are not straight.
        backend: that its curves use; None for the choice of `auto`.
        compiled: whether it runs under `torch.compile`.
        note: what a reader has to know about the row.
        refuses: why it cannot run at a size; None where it can.
    """

    name: str
    build: Callable[[Size], nn.Module]
    backend: str | None = None
    compiled: bool = False
    note: str = ""
    refuses: Callable[[Size], str | None] = lambda size: None


class MLP(nn.Module):
    """D → M → D with SiLU, without biases.

    Args:
        chunk: tokens to send through at a time and to recompute in backward, so that only the input is kept;
            None for the usual block.
    """

    def __init__(self, features: int, hidden: int, chunk: int | None = None) -> None:
        super().__init__()
        self.up_proj = nn.Linear(features, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, features, bias=False)
        self.chunk = chunk

    def forward(self, x_ND: Tensor) -> Tensor:
        if self.chunk is None:
            return self._run(x_ND)
        pieces = x_ND.split(self.chunk)
        if not torch.is_grad_enabled():
            return torch.cat([self._run(piece) for piece in pieces])
        return torch.cat([checkpoint(self._run, p, use_reentrant=False, preserve_rng_state=False) for p in pieces])

    def _run(self, x_ND: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.up_proj(x_ND)))


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer, 2020) without biases.

    Args:
        activation: on the gate; None is SiLU.
        input_curve: on the block's input; None is nothing.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: nn.Module | None = None,
        input_curve: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.input_curve = input_curve if input_curve is not None else nn.Identity()
        self.gate_proj = nn.Linear(features, hidden, bias=False)
        self.up_proj = nn.Linear(features, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, features, bias=False)
        self.act_fn = activation if activation is not None else nn.SiLU()

    def forward(self, x_ND: Tensor) -> Tensor:
        x_ND = self.input_curve(x_ND)
        return self.down_proj(self.act_fn(self.gate_proj(x_ND)) * self.up_proj(x_ND))


def bend_curves(module: nn.Module, noise: float = 0.05) -> nn.Module:
    """Give every curve random coefficients, so that no measurement is of straight ones."""
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] == "coefficients":
            nn.init.normal_(parameter, std=noise)
    return module


def edge_kan(size: Size, domain: tuple[float, float] = WIDE) -> nn.Module:
    """`KANFeedForward` with a curve on every edge."""
    return KANFeedForward(
        size.features, size.hidden, grid_size=size.grid_size, order=size.order, edges="full", domain=domain, bias=False
    )


def gated_kan(size: Size) -> nn.Module:
    """`GatedKANFeedForward` with a curve per channel on the gate and the input."""
    block = GatedKANFeedForward(size.features, size.hidden, grid_size=size.grid_size, order=size.order)
    return bend_curves(block)


def _mlp(size: Size) -> nn.Module:
    return MLP(size.features, size.equal_hidden)


def _same_shape(size: Size) -> nn.Module:
    return MLP(size.features, size.hidden)


def _chunked(size: Size) -> nn.Module:
    return MLP(size.features, size.equal_hidden, chunk=CHUNK)


def _gated_mlp(size: Size) -> nn.Module:
    return GatedMLP(size.features, size.hidden)


def _close_kan(size: Size) -> nn.Module:
    return edge_kan(size, CLOSE)


# The first row of each table is the baseline of all ratios.
EDGE_VARIANTS = (
    Variant(name="MLP", build=_mlp, note="as many parameters as the KAN; the baseline"),
    Variant(name="MLP, chunked", build=_chunked, note="that MLP in chunks of tokens, recomputed in backward"),
    Variant(name="MLP, compiled", build=_mlp, compiled=True, note="that MLP under torch.compile"),
    Variant(name="MLP, same shape", build=_same_shape, note="hidden width of the KAN: far fewer parameters"),
    Variant(name="kansformer", build=edge_kan, note="domain (-4, 4)"),
    Variant(name="kansformer (-2, 2)", build=_close_kan, note="domain (-2, 2): 5 % of the block's inputs lie outside"),
    Variant(name="kansformer, compiled", build=edge_kan, compiled=True, note="under torch.compile"),
)
GATED_VARIANTS = (
    Variant(name="SwiGLU", build=_gated_mlp, note="the same shape; the baseline"),
    Variant(name="SwiGLU, compiled", build=_gated_mlp, compiled=True, note="under torch.compile"),
    Variant(name="kansformer", build=gated_kan, note="a curve per channel on gate and input, domain (-4, 4)"),
    Variant(name="kansformer, compiled", build=gated_kan, compiled=True, note="under torch.compile"),
)


def reference_variants(size: Size) -> tuple[Variant, ...]:
    """The plain definition, eager and compiled: what a kernel has to beat."""
    build = gated_kan if size.gated else edge_kan
    return (
        Variant(name="reference", build=build, backend="reference", note="the plain definition"),
        Variant(
            name="reference, compiled", build=build, backend="reference", compiled=True, note="it under torch.compile"
        ),
    )


def prepare(variant: Variant, size: Size, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The block, an input (N, D) that wants a gradient, and a random gradient of the output, ready to run.

    Raises:
        ConfigError: the dtype of the size does not exist.
    """
    dtype = getattr(torch, size.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"Shape {size.name!r} has an unknown dtype {size.dtype!r}. Choose float32 or bfloat16.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = variant.build(size).to(device=device, dtype=dtype)
        x_ND, gradient_ND = (torch.randn(size.tokens, size.features).to(device, dtype) for _ in range(2))
    if variant.compiled:
        block.compile()
    return block, x_ND.requires_grad_(), gradient_ND
