"""The section `transcoder` of a recipe: which layers, how wide and how sparse, with which curves, and how long."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kansformer.basis.basis import BASES
from kansformer.errors import ConfigError
from kansformer.training.field_errors import Count, Number, PositiveInteger, PositiveNumber, section

Share = Annotated[float, Field(strict=True, ge=0, lt=1)]


def _as_layers(value: object) -> object:
    return (value,) if isinstance(value, int) else value


@section
class TranscoderCurves:
    """The curves on the latents, as in `LearnedActivation`.

    Args:
        basis, grid_size, order: their family.
        edges: `channel` gives every latent its own curve, `group` one to neighbouring latents.
        groups: number of curves of `group`.
        lr_multiplier: their learning rate over that of the weights.
        begin: share of the steps before the curves are trained. Then each gets its domain, the range of its latent.
    """

    basis: str = "bspline"
    grid_size: PositiveInteger = 5
    order: PositiveInteger = 3
    edges: Literal["channel", "group"] = "channel"
    groups: PositiveInteger = 8
    lr_multiplier: PositiveNumber = 5.0
    begin: Share = 0.5

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ConfigError(f"basis is {self.basis!r}. Choose one of: {', '.join(BASES)}.")


@section
class TranscoderRecipe:
    """Transcoders of a model's feed-forward networks, one after another.

    Args:
        layers: numbers of the layers.
        latents: of each transcoder.
        k: latents that are active at a token; null for all positive ones, whose number an L1 penalty keeps small.
        l1: weight of that penalty, of Σ_m |a_m|·r_m with r_m the root mean square of W_dec,m in units of the output's;
            with k=null only.
        curves: on the latents; null trains the plain transcoder, which is the twin.
        skip: add a linear map of the input.
        steps: optimizer steps of Adam, with a linear warm-up and half a cosine down to zero.
        batch_tokens: tokens of a step. The recorded tokens are read again in a new order where the steps need more.
        lr: learning rate of the weights.
        names: whether formulas are fitted to the curves when a transcoder is trained.

    Raises:
        ConfigError: a value is impossible, or two contradict each other.
    """

    layers: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_as_layers)]
    latents: PositiveInteger
    k: PositiveInteger | None = 32
    l1: Number = 0.0
    curves: TranscoderCurves | None = Field(default_factory=TranscoderCurves)
    skip: Annotated[bool, Field(strict=True)] = False
    steps: PositiveInteger = 1000
    batch_tokens: PositiveInteger = 512
    lr: PositiveNumber = 8e-3
    names: Annotated[bool, Field(strict=True)] = True

    def __post_init__(self) -> None:
        if self.k is not None and self.k > self.latents:
            raise ConfigError(f"k={self.k} is more than the {self.latents} latents.")
        if (self.k is None) != (self.l1 > 0):
            raise ConfigError(
                f"k={'null' if self.k is None else self.k} and l1={self.l1:g} do not go together: sparsity comes from "
                "k, or with k=null from an l1 above 0."
            )
        if len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"layers={list(self.layers)} names a layer twice.")
