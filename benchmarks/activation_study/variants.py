"""Who takes part: what stands where a SwiGLU block has SiLU(gate) · up; everything else is the same model.

The weights are drawn before a function is put in, so that gated networks of one seed begin with the same ones.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from transformers import LlamaForCausalLM

from activation_study import functions, given_curves
from kansformer import KANConfig, convert
from kansformer.discover import KNOWN_ACTIVATIONS, NamedActivation
from kansformer.nn import spread_curves

GROUPS = KANConfig.from_scratch()
GATE = KANConfig(slots=("act",), edges="group", groups=8, grid_size=8)
ONE = KANConfig(slots=("up", "act"), edges="group", groups=1, grid_size=8, share="model")
CHEBYSHEV = KANConfig(
    slots=("gate", "up"), edges="full", basis="chebyshev", order=2, domain=(-1.67, 1.67), extrapolation="clamp"
)
LOW_RANK = KANConfig(slots=("gate", "up", "act"), edges="low_rank", rank=4, groups=8, grid_size=6)
COSINE, GAUSSIAN = KNOWN_ACTIVATIONS["silu-cosine"], KNOWN_ACTIVATIONS["silu-gaussian"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network.

    Args:
        title: for the report.
        function: makes the module in place of SiLU, from the layer's index and the number of layers.
        config: curves instead.
        gated: a block with a gate, or a plain one.
        width: hidden width where the model is 128 wide; all blocks have as many weights, within 0.3 %.
        given: the curves of another run, changed by this, instead.
        trained: the given curves are learned on.
        gate_scale: of the gate's initial weights.
        spread: standard deviation of the curves at the start, as in `spread_curves`.
        lr_multiplier: learning rate of a function's own numbers, over the base rate.
    """

    title: str
    function: Callable[[int, int], nn.Module] | None = None
    config: KANConfig | None = None
    gated: bool = True
    width: int = 344
    given: given_curves.Change | None = None
    trained: bool = False
    gate_scale: float = 1.0
    spread: float | None = None
    lr_multiplier: float = 1.0

    def equip(self, model: LlamaForCausalLM, given: Path | None, seed: int) -> list[nn.Parameter]:
        """Make this network of a fresh model, in place.

        Args:
            model: with SwiGLU blocks, or plain ones.
            given: file of another run's curves.
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
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "given.safetensors"
                given_curves.write_changed(given, file, self.given, seed)
                convert(model, KANConfig(curves=file, trainable=self.trained), verify=False)
        return own


def _form(activation: NamedActivation, strength: float = 1.0) -> nn.Module:
    """SiLU and this part of what an activation adds to it."""
    terms = tuple(replace(term, factor=strength * term.factor) for term in activation.terms)
    slope, constant = strength * activation.slope, strength * activation.constant
    return replace(activation, terms=terms, slope=slope, constant=constant).module()


def _line(slope: float, constant: float) -> nn.Module:
    return NamedActivation(name="silu-line", slope=slope, constant=constant).module()


def _deeper(layer: int, layers: int) -> nn.Module:
    return _form(COSINE, 0.5 + layer / max(1, layers - 1))


def _shallower(layer: int, layers: int) -> nn.Module:
    return _form(COSINE, 1.5 - layer / max(1, layers - 1))


def _one_sided(low: float = -math.inf, high: float = math.inf) -> Callable[[int, int], nn.Module]:
    return lambda layer, layers: functions.OneSided(_form(COSINE), low, high)


def _plain(make: Callable[..., nn.Module], *arguments: object) -> Callable[[int, int], nn.Module]:
    """The same function in every layer."""
    return lambda layer, layers: make(*arguments)


VARIANTS = {
    "swiglu": Variant(title="SwiGLU"),
    # gates without learned functions
    "geglu": Variant(title="GEGLU", function=_plain(nn.GELU)),
    "bilinear": Variant(title="bilinear", function=_plain(nn.Identity)),
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
    "curves-tied": Variant(title="one pair of curves for the model, learned", config=ONE),
    "frozen": Variant(title="64 curves of another run, frozen", given=given_curves.same),
    "frozen-layer": Variant(
        title="means by layer of another run's curves, frozen", given=given_curves.mean_of_layer
    ),
    "frozen-one": Variant(
        title="mean of another run's curves, frozen", given=given_curves.mean_of_all
    ),
    "frozen-start": Variant(title="64 curves of another run, learned on", given=given_curves.same, trained=True),
    "frozen-permuted": Variant(title="64 curves permuted, frozen", given=given_curves.permuted),
    "frozen-random": Variant(
        title="random curves of the same spectrum, frozen", given=given_curves.random_phases
    ),
    # closed forms and their parts
    "silu-cosine": Variant(title="SiLU - .643 cos(1.249x + .75) - .167x", function=_plain(_form, COSINE)),
    "silu-cosine-half": Variant(title="half of what is added", function=_plain(_form, COSINE, 0.5)),
    "silu-cosine-double": Variant(title="twice what is added", function=_plain(_form, COSINE, 2.0)),
    "silu-cosine-left": Variant(title="added to the left of 0 only", function=_one_sided(high=0.0)),
    "silu-cosine-right": Variant(title="added to the right of 0 only", function=_one_sided(low=0.0)),
    "silu-cosine-deeper": Variant(title="silu-cosine, ½ to 1½ of it by layer", function=_deeper),
    "silu-cosine-shallower": Variant(title="silu-cosine, 1½ to ½ of it by layer", function=_shallower),
    "silu-gaussian": Variant(title="SiLU - .635 exp(-(x + .432)²/.592)", function=_plain(_form, GAUSSIAN)),
    "silu-line": Variant(title="SiLU - .167x", function=_plain(_line, -0.167, 0.0)),
    "silu-offset": Variant(title="SiLU - .47, the value added at 0", function=_plain(_line, 0.0, -0.47)),
    # initial weights
    "swiglu-gates-1.5": Variant(title="SwiGLU, gate weights × 1.5 at the start", gate_scale=1.5),
    "swiglu-gates-2": Variant(title="SwiGLU, gate weights × 2 at the start", gate_scale=2.0),
    "swiglu-gates-3": Variant(title="SwiGLU, gate weights × 3 at the start", gate_scale=3.0),
    # a curve per edge
    "edges-chebyshev": Variant(
        title="Chebyshev 2 per edge, gate and up", config=CHEBYSHEV, function=_plain(nn.Identity), width=115,
        spread=0.5,
    ),
    "edges-low-rank": Variant(title="low-rank per edge, gate, up and act", config=LOW_RANK, width=312),
}  # fmt: skip
