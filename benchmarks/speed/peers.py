"""Other packages' KAN layers, imported only when they are measured, and what is wrong with their numbers.

Every fault was measured with the version named, torch 2.13 on a CPU, against the Cox–de Boor recursion in float64 on
4,001 points of the grid (relative L2 error of all basis values); `tests/benchmarks/speed/test_peers.py` repeats it
where the package is installed. All of them take input of two axes only, (N, I), FlashKAT of three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from torch import nn

from speed.blocks import WIDE, GatedMLP, Variant
from speed.sizes import Size

# Floats of one of the N × d × hidden tensors that pykan keeps, about ten at a time: 64 MiB.
MAX_EDGE_VALUES = 2**24


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A package.

    Args:
        name: of its row.
        distribution: what to install; None for one that no registry has.
        module: what to import.
        licence: its own.
        fault: what we measured.
        build: see `Variant`.
        refuses: see `Variant`; only asked when the package is there.
        gated: whether it stands for the activations of a gated block rather than for edges.
        devices: device types that it runs on.
    """

    name: str
    distribution: str | None
    module: str
    licence: str
    fault: str
    build: Callable[[Size], nn.Module]
    refuses: Callable[[Size], str | None] = lambda size: None
    gated: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")

    def variant(self) -> Variant:
        """The row of this package, which refuses to run where the package is missing."""
        return Variant(
            name=self.name, build=self.build, refuses=lambda size: self._missing() or self.refuses(size), note=self.note
        )

    @property
    def note(self) -> str:
        """Version, licence and fault."""
        return f"{self._version()}, {self.licence}; {self.fault}"

    def _version(self) -> str:
        try:
            return version(self.distribution) if self.distribution else "no version"
        except PackageNotFoundError:
            return "no version"

    def _missing(self) -> str | None:
        if find_spec(self.module) is not None:
            return None
        if self.distribution is None:
            return "not installed, and no registry has it; put its repository on PYTHONPATH"
        return f"not installed; pip install {self.distribution}, or 'kansformer[bench]'"


def _inkan(size: Size) -> nn.Module:
    from inkan import KANNetwork

    return KANNetwork([size.features, size.hidden, size.features], grid_size=size.grid_size, grid_range=WIDE)


def _flashkan(size: Size) -> nn.Module:
    from flashkan import KANLayer

    widths = (size.features, size.hidden), (size.hidden, size.features)
    return nn.Sequential(*(KANLayer(*pair, grid_size=size.grid_size, grid_range=WIDE) for pair in widths))


def _pykan(size: Size) -> nn.Module:
    from kan.MultKAN import MultKAN

    width = [size.features, size.hidden, size.features]
    model = MultKAN(
        width, grid=size.grid_size, k=size.order, grid_range=list(WIDE), auto_save=False, symbolic_enabled=False
    )
    return nn.Sequential(model.speed())  # whose own `to` takes no dtype


class _Grouped(nn.Module):
    """An activation that wants (batch, length, channels)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x_ND):
        return self.activation(x_ND.unsqueeze(0)).squeeze(0)


def _flashkat(size: Size) -> nn.Module:
    from rational_kat import FlashKAT_Group

    def curve(channels: int) -> nn.Module:
        return _Grouped(FlashKAT_Group(channels, num_groups=1, den_groups=8, m=6, n=4, mode="swish"))

    return GatedMLP(size.features, size.hidden, curve(size.hidden), curve(size.features))


def _cubic_only(size: Size) -> str | None:
    return None if size.order == 3 else f"it has cubic splines only, and {size.name} asks for order {size.order}"


def _few_edges(size: Size) -> str | None:
    values = size.tokens * size.features * size.hidden
    if values <= MAX_EDGE_VALUES:
        return None
    return f"it keeps about ten tensors of N·d·hidden numbers, here {values * 4 / 2**30:.1f} GiB each; see S-64"


PEERS = (
    Peer(
        name="inkan",
        distribution="inkan",
        module="inkan",
        licence="MIT",
        fault="inputs outside the grid silently lose the spline; it computes the basis in the input's dtype, and in "
        "bfloat16 it is wrong by 1.8 % (G=5, eager; compiled 0.9 %); cubic only",
        build=_inkan,
        refuses=_cubic_only,
    ),
    Peer(
        name="flashkan",
        distribution="flashkan",
        module="flashkan",
        licence="MIT",
        fault="its sum of truncated powers cancels: the basis is wrong by 1e-5 at G=5, 3e-4 at G=16 and 12 % at G=100 "
        "in float32, and in bfloat16 by 64 % at G=5 where nothing compiles it (0.5 % compiled); right of the grid it "
        "grows instead of vanishing (13 at x=1e3); cubic only, whatever spline_order says",
        build=_flashkan,
        refuses=_cubic_only,
    ),
    Peer(
        name="pykan",
        distribution="pykan",
        module="kan",
        licence="MIT",
        fault="inputs outside the grid silently lose the spline; building a model reseeds torch, numpy and random",
        build=_pykan,
        refuses=_few_edges,
        devices=("cpu",),
    ),
    Peer(
        name="FlashKAT",
        distribution=None,
        module="rational_kat",
        licence="no licence found in OSU-STARLAB/FlashKAT",
        fault="rational curves of 8 groups; its numbers we have not checked",
        build=_flashkat,
        gated=True,
        devices=("cuda",),
    ),
)
