"""Who takes part: what stands where a SwiGLU block has SiLU(gate) · up; everything else is the same model.

The weights are drawn before a function is put in, so that gated networks of one seed begin with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import LlamaForCausalLM

from activation_study import functions
from activation_study.curve_sets import CurveSet
from kansformer import KANConfig, convert
from kansformer.nn import spread_curves
from kansformer.nn.curves import curved_modules

GROUPS = KANConfig.from_scratch()
GATE = KANConfig(slots=("act",), edges="group", groups=8, grid_size=8)
ONE = KANConfig(slots=("up", "act"), edges="group", groups=1, grid_size=8)
CHEBYSHEV = KANConfig(
    slots=("gate", "up"), edges="full", basis="chebyshev", order=2, domain=(-1.67, 1.67), extrapolation="clamp"
)
LOW_RANK = KANConfig(slots=("gate", "up", "act"), edges="low_rank", rank=4, groups=8, grid_size=6)
Change = Callable[[CurveSet, int], CurveSet]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network.

    Args:
        title: for the report.
        function: makes the module in place of SiLU, from the layer's index and the number of layers.
        config: curves instead.
        gated: a block with a gate, or a plain one.
        width: hidden width where the model is 128 wide; all blocks have as many weights, within 0.3 %.
        given: curves of another run, changed by this, with the run's seed.
        trained: the given curves are learned on.
        tied: all layers have the same curves.
        gate_scale: of the gate's initial weights.
        spread: standard deviation of the curves at the start, as in `spread_curves`.
        lr_multiplier: learning rate of a function's own numbers, over the base rate.
    """

    title: str
    function: Callable[[int, int], nn.Module] | None = None
    config: KANConfig | None = None
    gated: bool = True
    width: int = 344
    given: Change | None = None
    trained: bool = False
    tied: bool = False
    gate_scale: float = 1.0
    spread: float | None = None
    lr_multiplier: float = 1.0

    def equip(self, model: LlamaForCausalLM, given: CurveSet | None, seed: int) -> list[nn.Parameter]:
        """Make this network of a fresh model, in place.

        Args:
            model: with SwiGLU blocks, or plain ones.
            given: curves of another run.
            seed: of curves that are drawn.

        Returns:
            The function's own learned numbers, which get `lr_multiplier`; curves are not among them.
        """
        blocks = [layer.mlp for layer in model.model.layers]
        own: list[nn.Parameter] = []
        if self.function is not None:
            for number, block in enumerate(blocks):
                block.act_fn = self.function(number, len(blocks))
                own += block.act_fn.parameters()
        if self.gate_scale != 1:
            for block in blocks:
                block.gate_proj.weight.data *= self.gate_scale
        if self.config is not None:
            convert(model, self.config, verify=False)
        if self.spread is not None:
            spread_curves(model, self.spread)
        if self.given is not None:
            if given is None:
                raise ValueError(f"{self.title!r} needs the curves of another run.")
            self.given(given, seed).put_into(model, frozen=not self.trained)
        if self.tied:
            _tie(model)
        return own


def _tie(model: nn.Module) -> None:
    first: dict[str, nn.Parameter] = {}
    for path, module in curved_modules(model):
        module.coefficients = first.setdefault(path.rpartition(".")[2], module.coefficients)


def _cosine(strength: float = 1.0, side: str | None = None) -> Callable[[int, int], nn.Module]:
    return lambda layer, layers: functions.AddedCosine(strength, side)


def _deeper(layer: int, layers: int) -> nn.Module:
    return functions.AddedCosine(0.5 + layer / max(1, layers - 1))


def _shallower(layer: int, layers: int) -> nn.Module:
    return functions.AddedCosine(1.5 - layer / max(1, layers - 1))


def _plain(kind: Callable[..., nn.Module], *arguments: float) -> Callable[[int, int], nn.Module]:
    return lambda layer, layers: kind(*arguments)


def _same(curves: CurveSet, seed: int) -> CurveSet:
    return curves


VARIANTS = {
    "swiglu": Variant(title="SwiGLU"),
    # gates without learned functions
    "geglu": Variant(title="GEGLU", function=_plain(functions.GELU)),
    "bilinear": Variant(title="bilinear", function=_plain(functions.Bilinear)),
    "relu2-glu": Variant(title="ReLU² gate", function=_plain(functions.SquaredReLU)),
    "leaky-relu2-glu": Variant(title="leaky ReLU² gate (½)", function=_plain(functions.SquaredReLU, 0.5)),
    "gcu-glu": Variant(title="GCU gate, x cos x", function=_plain(functions.GrowingCosine)),
    "relu2": Variant(title="ReLU² MLP", gated=False, width=516, function=_plain(functions.SquaredReLU)),
    "leaky-relu2": Variant(
        title="leaky ReLU² MLP (½)", gated=False, width=516, function=_plain(functions.SquaredReLU, 0.5)
    ),
    # a handful of learned numbers a layer
    "xielu": Variant(title="xIELU MLP", gated=False, width=516, function=_plain(functions.XIELU)),
    "xielu-glu": Variant(title="xIELU gate", function=_plain(functions.XIELU)),
    "polynorm": Variant(title="PolyNorm MLP", gated=False, width=516, function=_plain(functions.PolyNorm)),
    "polynorm-glu": Variant(title="PolyNorm gate", function=_plain(functions.PolyNorm)),
    "la-glu": Variant(title="LA gate, rate × 1", function=_plain(functions.LearnedMix)),
    "la-glu-x30": Variant(title="LA gate, rate × 30", function=_plain(functions.LearnedMix), lr_multiplier=30),
    "snake-glu": Variant(title="Snake gate", function=_plain(functions.Snake)),
    "swish-beta": Variant(title="scale and shift of SiLU, rate × 1", function=_plain(functions.ScaleShift)),
    "swish-beta-x3": Variant(
        title="scale and shift of SiLU, rate × 3", function=_plain(functions.ScaleShift), lr_multiplier=3
    ),
    # curves
    "curves": Variant(title="curves of 8 groups on gate and up, learned", config=GROUPS),
    "curves-gate": Variant(title="curves of 8 groups on the gate, learned", config=GATE),
    "curves-tied": Variant(title="one pair of curves for the model, learned", config=ONE, tied=True),
    "frozen": Variant(title="64 curves of another run, frozen", config=GROUPS, given=_same),
    "frozen-layer": Variant(
        title="their means by layer, frozen", config=GROUPS, given=lambda curves, seed: curves.mean(over_layers=False)
    ),
    "frozen-one": Variant(
        title="their mean, frozen", config=GROUPS, given=lambda curves, seed: curves.mean(over_layers=True)
    ),
    "frozen-start": Variant(title="64 curves of another run, learned on", config=GROUPS, given=_same, trained=True),
    "frozen-permuted": Variant(title="64 curves permuted, frozen", config=GROUPS, given=CurveSet.permuted),
    "frozen-random": Variant(
        title="random curves of the same spectrum, frozen", config=GROUPS, given=CurveSet.random_like
    ),
    # closed forms and their parts
    "silu-cosine": Variant(title="SiLU - .643 cos(1.249x + .75) - .167x", function=_cosine()),
    "silu-cosine-half": Variant(title="half of what is added", function=_cosine(0.5)),
    "silu-cosine-double": Variant(title="twice what is added", function=_cosine(2.0)),
    "silu-cosine-left": Variant(title="added to the left of 0 only", function=_cosine(side="left")),
    "silu-cosine-right": Variant(title="added to the right of 0 only", function=_cosine(side="right")),
    "silu-cosine-deeper": Variant(title="½ to 1½ of it, first to last layer", function=_deeper),
    "silu-cosine-shallower": Variant(title="1½ to ½ of it, first to last layer", function=_shallower),
    "silu-gaussian": Variant(title="SiLU - .635 exp(-(x + .432)²/.592)", function=_plain(functions.AddedGaussian)),
    "silu-line": Variant(title="SiLU - .167x", function=_plain(functions.AddedLine, -0.167, 0.0)),
    "silu-offset": Variant(title="SiLU - .47, the value added at 0", function=_plain(functions.AddedLine, 0.0, -0.47)),
    # initial weights
    "swiglu-gates-1.5": Variant(title="SwiGLU, gate weights × 1.5 at the start", gate_scale=1.5),
    "swiglu-gates-2": Variant(title="SwiGLU, gate weights × 2 at the start", gate_scale=2.0),
    "swiglu-gates-3": Variant(title="SwiGLU, gate weights × 3 at the start", gate_scale=3.0),
    # a curve per edge
    "edges-chebyshev": Variant(
        title="Chebyshev 2 per edge, gate and up", config=CHEBYSHEV, function=_plain(functions.Bilinear), width=115,
        spread=0.5,
    ),
    "edges-low-rank": Variant(title="low-rank per edge, gate, up and act", config=LOW_RANK, width=312),
}  # fmt: skip
